//! A look at an API server in memory, as somebody who may do much, and as somebody who may not.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::client::Body;
use kubevirt_observe::kinds::KINDS;
use kubevirt_observe::strategy::{DATA_KEY, ENCODING};
use kubevirt_rollout::explain::overview;
use kubevirt_rollout::{Direction, Stage, WaitingOn};
use kubevirt_types::labels;
use serde_json::json;

use super::*;

/// What was asked, as `METHOD path?query`.
type Log = Arc<Mutex<Vec<String>>>;

/// What there is, and which requests are refused: those that begin so.
#[derive(Default)]
struct World {
    objects: Vec<Value>,
    refused: Vec<&'static str>,
    /// One that no list shows, because it has no label of ours.
    unlabelled: Option<ObjectKey>,
}

impl World {
    /// An operator of v0.18.0, and a KubeVirt object that nobody has looked at yet.
    fn new() -> Self {
        let container = json!({"name": "o", "image": "r/virt-operator:v0.18.0"});
        let mut world = Self::default();
        world.add("KubeVirt", "kubevirt", json!({"spec": {}}));
        world.objects[0]["metadata"]["finalizers"] = json!([labels::FINALIZER_KUBEVIRT]);
        world.add(
            "Deployment",
            "virt-operator",
            json!({"spec": {"template": {"spec": {"containers": [container]}}}}),
        );
        world
    }

    /// With the operator's manifests as it stores them.
    fn store_manifests(&mut self) {
        let config = InstallConfig {
            registry: "r".into(),
            namespace: "kv".into(),
            ..InstallConfig::of(Release::V0_18_0)
        };
        self.add("ConfigMap", "strategy", json!({"data": {DATA_KEY: manifests(&config).encode()}}));
        let metadata = &mut self.objects.last_mut().unwrap()["metadata"];
        metadata["labels"] = json!({labels::INSTALL_STRATEGY: ""});
        metadata["annotations"] = json!({labels::INSTALL_ENCODING: ENCODING});
    }

    fn add(&mut self, kind: &str, name: &str, content: Value) {
        let row = KINDS.iter().find(|row| row.kind == kind).unwrap();
        let mut object = content;
        object["apiVersion"] = json!(row.api_version);
        object["kind"] = json!(kind);
        object["metadata"] = json!({
            "name": name, "uid": name, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
        });
        if row.scope != kubevirt_observe::kinds::Scope::Cluster {
            object["metadata"]["namespace"] = json!("kv");
        }
        self.objects.push(object);
    }

    fn answer(&self, what: &str) -> (u16, Value) {
        let status = |code: u16, message: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "code": code, "message": message, "reason": "x"}),
            )
        };
        if let Some(prefix) = self.refused.iter().find(|prefix| what.starts_with(**prefix)) {
            return status(403, &format!("User \"u\" may not: {prefix}"));
        }
        let (_, url) = what.split_once(' ').unwrap();
        let path = url.split('?').next().unwrap();
        for row in KINDS {
            let all = || self.objects.iter().filter(|object| object["kind"] == row.kind).cloned();
            let lists = [row.url(None), row.url(Some("kv"))];
            if lists.iter().any(|list| list == path) {
                let shown = |object: &Value| ObjectKey::of(object) != self.unlabelled;
                let items: Vec<Value> = all().filter(shown).collect();
                return (
                    200,
                    json!({"kind": "List", "apiVersion": row.api_version, "metadata": {}, "items": items}),
                );
            }
            let named = |list: &String| path.strip_prefix(&format!("{list}/")).map(str::to_owned);
            if let Some(name) = lists.iter().find_map(named) {
                let found = all().find(|object| object["metadata"]["name"] == *name);
                return found.map_or_else(|| status(404, "not found"), |object| (200, object));
            }
        }
        status(404, "no such path")
    }

    fn client(self) -> (Client, Log) {
        let log = Log::default();
        let (world, told) = (Arc::new(self), Arc::clone(&log));
        let service = tower::service_fn(move |request: Request<Body>| {
            let what = format!("{} {}", request.method(), request.uri());
            told.lock().unwrap().push(what.clone());
            let (code, body) = world.answer(&what);
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        (Client::new(service, "default"), log)
    }
}

#[tokio::test]
async fn a_look_changes_nothing_and_sees_what_the_operator_sees() {
    let mut world = World::new();
    world.add("ValidatingAdmissionPolicy", GUARD, json!({}));
    let (client, log) = world.client();
    let look = look(&client, None).await.unwrap();
    assert_eq!((look.plan.direction, look.observed.synced), (Direction::Install, true));
    assert_eq!(look.observed.operator.namespace, "kv");
    assert_eq!(look.plan.target.as_ref().unwrap().release, Release::V0_18_0);
    assert!(look.notes.is_empty(), "{:?}", look.notes);
    let log = log.lock().unwrap();
    for row in KINDS {
        let listed = log.iter().any(|what| what.contains(&format!("/{}?", row.plural)));
        assert!(listed, "{} is not listed", row.kind);
    }
    for what in log.iter() {
        let dry = what.starts_with("POST /api/v1/namespaces/kv/configmaps?") && what.contains("dryRun=All");
        assert!(what.starts_with("GET ") || dry, "{what}");
    }
}

#[tokio::test]
async fn a_tag_is_planned_for_and_not_written() {
    let (client, _) = World::new().client();
    let look = look(&client, Some("v0.17.0")).await.unwrap();
    assert_eq!(look.stored.spec.image_tag, None);
    let waits = look.plan.waiting_on.iter().any(|waiting| matches!(waiting, WaitingOn::StrategyJob { .. }));
    assert!(waits, "the manifests of another release are not stored: {:?}", look.plan.waiting_on);
    let document = overview(&look.observed, &look.plan, &look.policy, look.now);
    assert_eq!(
        document.explanation.line,
        "installation of v0.17.0: the manifests from image r/virt-operator:v0.17.0; a Job that runs that image \
         fetches them"
    );
}

#[tokio::test]
async fn who_may_not_read_secrets_gets_a_plan_without_certificates() {
    let (client, _) = World::new().client();
    let all = look(&client, None).await.unwrap().plan;
    assert_eq!(all.stage, Stage::Certificates, "there are none");
    assert!(matches!(all.steps[..], [Step::IssueCa { .. }]), "{:?}", all.steps);

    let mut world = World::new();
    world.refused.push("GET /api/v1/namespaces/kv/secrets?");
    let (client, _) = world.client();
    let look = look(&client, None).await.unwrap();
    assert_eq!(look.plan.stage, Stage::Strategy, "the next one that has something to do");
    assert_eq!(
        look.notes,
        ["you may not list secrets in namespace kv: certificates are left out of the plan"]
    );
}

#[tokio::test]
async fn who_may_not_try_a_config_map_takes_the_guard_for_enforced() {
    let mut world = World::new();
    world.add("ValidatingAdmissionPolicy", GUARD, json!({}));
    world.refused.push("POST /api/v1/namespaces/kv/configmaps?");
    let (client, _) = world.client();
    let look = look(&client, None).await.unwrap();
    assert!(look.observed.guard_active);
    assert!(look.notes[0].starts_with("you may not create configmaps in namespace kv"), "{:?}", look.notes);
}

#[tokio::test]
async fn a_read_that_the_plan_needs_is_named_when_it_is_refused() {
    let mut world = World::new();
    world.refused.push("GET /apis/apps/v1/namespaces/kv/daemonsets?");
    let (client, _) = world.client();
    let error = look(&client, None).await.err().unwrap().to_string();
    assert_eq!(
        error,
        "listing daemonsets in namespace kv: User \"u\" may not: GET /apis/apps/v1/namespaces/kv/daemonsets?"
    );
}

#[tokio::test]
async fn what_nobody_labelled_is_found_before_it_is_planned_to_be_created() {
    let world = || {
        let mut world = World::new();
        world.refused.push("GET /api/v1/namespaces/kv/secrets?");
        world.store_manifests();
        world
    };
    let (client, _) = world().client();
    let before = look(&client, None).await.unwrap().plan;
    assert_eq!(before.stage, Stage::Crds);
    let keys = to_be_created(&before);
    let (crd, others) = keys.split_first().expect("an installation creates objects");

    let mut found = world();
    found.add(&crd.kind, &crd.name, json!({"spec": {}}));
    found.unlabelled = Some(crd.clone());
    let (client, _) = found.client();
    let after = look(&client, None).await.unwrap().plan;
    assert_eq!(to_be_created(&after), others);
    assert_eq!(after.steps[0].to_string(), format!("apply {crd}"));
}

#[tokio::test]
async fn without_an_installation_or_its_operator_that_is_said() {
    let (client, _) = World::default().client();
    assert_eq!(
        look(&client, None).await.err().unwrap().to_string(),
        "there is no KubeVirt object in this cluster"
    );
    let mut world = World::new();
    world.objects.retain(|object| object["kind"] != "Deployment");
    let (client, _) = world.client();
    let error = look(&client, None).await.err().unwrap().to_string();
    assert!(error.starts_with("there is no virt-operator in namespace kv"), "{error}");
}

#[test]
fn an_operator_that_is_another_is_noted() {
    let operator = |release: &str| Operator {
        release: release.parse().unwrap(),
        registry: "r".into(),
        namespace: "kv".into(),
    };
    assert!(unlike(&operator("v0.18.0"), Some("v0.18.0")).is_empty());
    assert_eq!(
        unlike(&operator("v0.18.0"), Some("v0.17.0")),
        ["virt-operator v0.18.0 takes over from v0.17.0; this is its plan"]
    );
    let newer = unlike(&operator("v99.0.0"), None);
    assert!(newer[0].ends_with("virt-operator v99.0.0 is newer and may plan otherwise"), "{newer:?}");
}
