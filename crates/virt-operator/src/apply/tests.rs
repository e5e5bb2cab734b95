//! The executor against an API server that answers from a list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use kubevirt_manifests::Manifest;
use kubevirt_rollout::step::Usage;
use serde_json::json;

use super::*;

/// What was asked, as `METHOD path`, with the body.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// An executor whose requests are answered in turn.
fn executor(answers: Vec<(u16, Value)>) -> (Executor, Asked) {
    let asked = Asked::default();
    let (answers, log) = (Arc::new(Mutex::new(VecDeque::from(answers))), Arc::clone(&asked));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
        async move {
            let what = format!("{} {}", request.method(), request.uri().path());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            log.lock().unwrap().push((what, serde_json::from_slice(&body).unwrap_or_default()));
            let (code, answer) = answers.lock().unwrap().pop_front().expect("a request that nobody expects");
            let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, std::convert::Infallible>(response.unwrap())
        }
    });
    let client = Client::new(service, "kubevirt");
    (Executor::new(client, "kubevirt", SignedDuration::from_mins(5)), asked)
}

fn paths(asked: &Asked) -> Vec<String> {
    asked.lock().unwrap().iter().map(|(what, _)| what.clone()).collect()
}

fn stored(kind: &str, name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": {"name": name, "namespace": "kubevirt", "uid": "u", "resourceVersion": version},
    })
}

fn refusal(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "x"})
}

fn create(name: &str) -> Step {
    let body = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "kubevirt"},
    });
    Step::Apply { manifest: Manifest::plain(body), precondition: Precondition::Absent }
}

fn delete(name: &str) -> Step {
    Step::Delete {
        key: ObjectKey::namespaced("v1", "Service", "kubevirt", name),
        uid: "u".into(),
        resource_version: "1".into(),
    }
}

#[tokio::test]
async fn steps_are_carried_out_in_order_and_what_changed_is_told() {
    let (executor, asked) = executor(vec![(201, stored("Service", "a", "5")), (404, refusal(404))]);
    let applied = executor.apply(&[create("a"), delete("b")], Instant::now()).await;
    assert!(applied.stopped.is_none());
    let url = "/api/v1/namespaces/kubevirt/services";
    assert_eq!(paths(&asked), [format!("PATCH {url}/a"), format!("DELETE {url}/b")]);
    let key = |name| ObjectKey::namespaced("v1", "Service", "kubevirt", name);
    assert_eq!(
        applied.written,
        [
            Written { key: key("a"), resource_version: Some("5".into()) },
            Written { key: key("b"), resource_version: None },
        ]
    );
}

#[tokio::test]
async fn a_conflict_stops_and_names_what_was_not_absent() {
    let (executor, asked) = executor(vec![(409, refusal(409))]);
    let applied = executor.apply(&[create("a"), create("b")], Instant::now()).await;
    assert!(applied.stopped.unwrap().is_stale());
    assert_eq!(asked.lock().unwrap().len(), 1, "nothing after it");
    assert_eq!(applied.found.into_iter().next().unwrap().name, "a");
}

#[tokio::test]
async fn a_refusal_stops_and_is_an_error() {
    let (executor, _) = executor(vec![(403, refusal(403))]);
    let stopped = executor.apply(&[create("a"), create("b")], Instant::now()).await.stopped.unwrap();
    assert!(!stopped.is_stale());
    assert_eq!(stopped.to_string(), "create Service kubevirt/a: no");
}

#[tokio::test]
async fn an_apply_that_changes_nothing_is_not_waited_for() {
    let (executor, _) = executor(vec![(200, stored("Service", "a", "7"))]);
    let Step::Apply { manifest, .. } = create("a") else { unreachable!() };
    let precondition = Precondition::Unchanged { uid: "u".into(), resource_version: "7".into() };
    let applied = executor.apply(&[Step::Apply { manifest, precondition }], Instant::now()).await;
    assert_eq!(applied.written, []);
}

#[tokio::test]
async fn what_others_have_added_is_taken_out_or_said() {
    let ports = |ports: Value| {
        let mut object = stored("Service", "a", "7");
        object["spec"] = json!({"ports": ports});
        object
    };
    let step = || Step::Apply {
        manifest: Manifest::plain(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "kubevirt"},
            "spec": {"ports": [1]},
        })),
        precondition: Precondition::Absent,
    };
    let (taken, asked) = executor(vec![(200, ports(json!([1, 2]))), (200, ports(json!([1])))]);
    assert!(taken.apply(&[step()], Instant::now()).await.stopped.is_none());
    assert_eq!(asked.lock().unwrap()[1].1[1], json!({"op": "add", "path": "/spec", "value": {"ports": [1]}}));

    let (kept, _) = executor(vec![(200, ports(json!([1, 2]))), (200, ports(json!([1, 2])))]);
    assert_eq!(
        kept.apply(&[step()], Instant::now()).await.stopped.unwrap().to_string(),
        "create Service kubevirt/a: the API server keeps /spec/ports different from the manifest"
    );
}

#[tokio::test]
async fn a_leaf_is_signed_only_by_the_ca_of_the_plan() {
    let now = Timestamp::now();
    let valid = Validity { not_before: now, not_after: now + SignedDuration::from_hours(1) };
    let ca = certificates::issue_ca("kubevirt.io", valid).unwrap();
    let fingerprint = facts(&ca.certificate).unwrap().fingerprint;
    let key = ObjectKey::namespaced("v1", SECRET, "kubevirt", labels::SECRET_CA);
    let ca_secret = secret::secret(&key, &ca, SignedDuration::from_hours(1));
    let leaf = |ca_fingerprint: &str| Step::IssueLeaf {
        secret: ObjectKey::namespaced("v1", SECRET, "kubevirt", "leaf"),
        common_name: "l".into(),
        dns_names: vec![],
        usage: Usage::Client,
        duration: SignedDuration::from_hours(1),
        ca_fingerprint: ca_fingerprint.into(),
        precondition: Precondition::Absent,
    };

    let (executor, asked) =
        self::executor(vec![(200, ca_secret.clone()), (201, stored(SECRET, "leaf", "2")), (200, ca_secret)]);
    assert!(executor.apply(&[leaf(&fingerprint)], Instant::now()).await.stopped.is_none());
    let body = asked.lock().unwrap()[1].1.clone();
    let issued = facts(&pair(&body).unwrap().certificate).unwrap();
    assert_eq!(issued.signer_key_id, facts(&ca.certificate).unwrap().key_id);
    assert_eq!(body["metadata"]["resourceVersion"], "1", "only where there is none");

    assert!(executor.apply(&[leaf("another")], Instant::now()).await.stopped.unwrap().is_stale());
}

#[tokio::test]
async fn the_finalizer_is_removed_and_the_others_stay() {
    let kubevirt = json!({"metadata": {
        "name": "kv", "namespace": "kubevirt", "uid": "u", "resourceVersion": "9", "finalizers": ["ours", "theirs"],
    }});
    let (executor, asked) =
        executor(vec![(200, json!({"items": [kubevirt]})), (200, stored(KUBEVIRT, "kv", "10"))]);
    let step =
        Step::RemoveFinalizer { finalizer: "ours".into(), uid: "u".into(), resource_version: "3".into() };
    assert!(executor.apply(&[step], Instant::now()).await.stopped.is_none());
    let (what, body) = asked.lock().unwrap()[1].clone();
    assert_eq!(what, "PATCH /apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kv");
    assert_eq!(
        body["metadata"],
        json!({"uid": "u", "resourceVersion": "9", "finalizers": ["theirs"]}),
        "the status was written in between, so the version is the one of now"
    );
}

#[tokio::test]
async fn instances_are_deleted_in_every_namespace_that_has_some() {
    let item = |namespace: &str, name: &str| json!({"metadata": {"namespace": namespace, "name": name}});
    let list = json!({"items": [item("b", "x"), item("a", "y"), item("b", "z")]});
    let (executor, asked) = executor(vec![(200, list), (200, json!({})), (200, json!({}))]);
    let step = Step::DeleteInstances {
        kind: "VirtualMachine".into(),
        plural: "virtualmachines".into(),
        version: "v1".into(),
    };
    assert!(executor.apply(&[step], Instant::now()).await.stopped.is_none());
    let url = "/apis/kubevirt.io/v1";
    assert_eq!(
        paths(&asked),
        [
            format!("GET {url}/virtualmachines"),
            format!("DELETE {url}/namespaces/a/virtualmachines"),
            format!("DELETE {url}/namespaces/b/virtualmachines"),
        ]
    );
}

fn migrate() -> Step {
    Step::MigrateStorage {
        crd: ObjectKey::cluster(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "virtualmachines.kubevirt.io",
        ),
        kind: "VirtualMachine".into(),
        plural: "virtualmachines".into(),
        version: "v1".into(),
        uid: "u".into(),
        resource_version: "7".into(),
    }
}

fn page(names: &[&str], next: &str) -> Value {
    let items: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({"metadata": {"namespace": "ns", "name": name, "uid": format!("u-{name}"), "resourceVersion": "3"}})
        })
        .collect();
    json!({"metadata": {"continue": next}, "items": items})
}

const VMS: &str = "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines";
const CRD: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/virtualmachines.kubevirt.io/status";

/// Pages are read through; what has gone or was written by somebody else is left; then other versions are forgotten.
#[tokio::test]
async fn objects_are_rewritten_as_they_are_and_then_other_versions_forgotten() {
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "virtualmachines.kubevirt.io", "uid": "u", "resourceVersion": "8"},
    });
    let (executor, asked) = executor(vec![
        (200, page(&["a", "b"], "more")),
        (200, page(&["c"], "")),
        (200, json!({})),
        (409, refusal(409)),
        (404, refusal(404)),
        (200, crd),
    ]);
    let applied = executor.apply(&[migrate()], Instant::now()).await;
    assert!(applied.stopped.is_none(), "{:?}", applied.stopped);
    let list = "GET /apis/kubevirt.io/v1/virtualmachines".to_owned();
    let rewrite = |name: &str| format!("PATCH {VMS}/{name}/status");
    assert_eq!(
        paths(&asked),
        [list.clone(), list, rewrite("a"), rewrite("b"), rewrite("c"), format!("PATCH {CRD}")]
    );
    let bodies: Vec<Value> = asked.lock().unwrap().iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(bodies[2], json!({"metadata": {"uid": "u-a", "resourceVersion": "3"}}), "nothing is changed");
    assert_eq!(
        bodies[5],
        json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {"storedVersions": ["v1"]}})
    );
    assert_eq!(applied.written[0].resource_version.as_deref(), Some("8"), "the CRD is waited for");
}

/// Cut off after any of its requests, or refused at any: the CRD forgets nothing before every object is rewritten.
#[tokio::test]
async fn nothing_is_forgotten_before_every_object_is_rewritten() {
    let right = [(200, page(&["a", "b"], "")), (200, json!({})), (200, json!({})), (409, refusal(409))];
    for fails in 0..right.len() {
        let mut answers = right.to_vec();
        answers[fails] = (500, refusal(500));
        let (executor, asked) = executor(answers);
        let stopped = executor.apply(&[migrate()], Instant::now()).await.stopped.expect("it was refused");
        assert!(!stopped.is_stale(), "{stopped}");
        let forgotten = paths(&asked).contains(&format!("PATCH {CRD}"));
        assert_eq!(forgotten, fails == 3, "refused at {fails}");
    }
    let (executor, _) = executor(right.to_vec());
    let stopped = executor.apply(&[migrate()], Instant::now()).await.stopped.expect("the CRD has changed");
    assert!(stopped.is_stale(), "somebody has changed the CRD: plan again");
}

#[tokio::test]
async fn a_plan_from_long_ago_is_not_carried_out() {
    let (executor, asked) = executor(vec![]);
    let seen = Instant::now().checked_sub(PLAN_LIMIT + Duration::from_secs(1)).unwrap();
    let stopped = executor.apply(&[create("a")], seen).await.stopped.unwrap();
    assert!(stopped.is_stale());
    assert_eq!(paths(&asked), Vec::<String>::new());
}
