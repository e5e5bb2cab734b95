//! One line for every thing that can be waited for, and for every way to fail. The beginning, `at(0)`, is 22:13:20Z.

use jiff::Timestamp;
use kubevirt_manifests::InstallConfig;
use kubevirt_types::kubevirt::{FailedUpdate, OnFailure};
use kubevirt_types::{ObjectKey, Release};
use serde_json::{Value, json};

use super::{StageState, State, explain, overview};
use crate::fixture::{at, node, observed, pod};
use crate::observed::{Handle, Observed, Pod, StoredStrategy, StrategyJob, StrategyJobState, Trouble};
use crate::plan::{Direction, Plan, Stage};
use crate::policy::Policy;
use crate::stage::guard::GUARD;
use crate::step::{Precondition, Step};
use crate::waiting::{Cause, WaitingOn};

fn config(release: Release) -> InstallConfig {
    InstallConfig { registry: "r".into(), ..InstallConfig::of(release) }
}

fn handle(kind: &str, name: &str) -> Handle {
    let key = ObjectKey::namespaced("v1", kind, "kubevirt", name);
    Handle { key, uid: "u".into(), resource_version: "1".into() }
}

/// v0.17.0 runs, v0.18.0 is wanted, and the manifests of v0.17.0 are there to come back to.
fn world() -> Observed {
    let mut observed = observed();
    let old = config(Release::V0_17_0);
    let status = json!({
        "observedKubeVirtVersion": "v0.17.0", "observedDeploymentID": old.id(),
        "targetKubeVirtVersion": "v0.18.0", "targetDeploymentID": config(Release::V0_18_0).id(),
        "history": [{"from": "v0.17.0", "to": "v0.18.0", "started": at(0)}],
    });
    set_status(&mut observed, status);
    let set = kubevirt_manifests::manifests(&old).into();
    observed.strategies.insert(old.id(), StoredStrategy { handle: handle("ConfigMap", "old"), set });
    observed.nodes = ["a", "b", "c"].map(node).into();
    // The live workloads make pods of the template "new".
    for (kind, name) in
        [("DaemonSet", "virt-handler"), ("Deployment", "virt-controller"), ("Deployment", "virt-api")]
    {
        let key = ObjectKey::namespaced("apps/v1", kind, "kubevirt", name);
        let annotations = json!({"kubevirt.io/template-hash": "new"});
        observed
            .objects
            .insert(key, json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}));
    }
    observed
}

fn set_status(observed: &mut Observed, status: Value) {
    let kubevirt = observed.kubevirt.as_mut().unwrap();
    kubevirt.status = Some(serde_json::from_value(status).unwrap());
}

fn an_update(stage: Stage, waiting_on: Vec<WaitingOn>) -> Plan {
    let target = Some(config(Release::V0_18_0));
    Plan { direction: Direction::Update, stage, steps: vec![], waiting_on, target, failed: None }
}

fn line(observed: &Observed, plan: &Plan) -> String {
    explain(observed, plan, &Policy::default(), at(41)).line
}

fn waiting(observed: &Observed, stage: Stage, waiting: WaitingOn) -> String {
    let line = line(observed, &an_update(stage, vec![waiting]));
    line.strip_prefix("update v0.17.0 -> v0.18.0: ").unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn old(component: &str, name: &str, node: &str) -> Pod {
    Pod { template_hash: Some("old".into()), ready_since: Some(at(-900)), ..pod(component, name, node) }
}

fn ready(component: &str, name: &str, node: &str, since: Timestamp) -> Pod {
    Pod { ready_since: Some(since), ..pod(component, name, node) }
}

fn handlers(canary: Option<&str>, cause: Option<Cause>) -> WaitingOn {
    WaitingOn::HandlersNotReady { ready: 0, of: 3, canary: canary.map(str::to_owned), cause }
}

fn image_missing() -> Cause {
    Cause {
        pod: "h".into(),
        node: Some("a".into()),
        message: "pod h on node a: container virt-handler: ErrImagePull: image i can't be pulled".into(),
        since: at(0),
        fails_at: at(60),
    }
}

#[test]
fn the_canary_says_where_it_is_and_when_the_others_follow() {
    let mut world = world();
    let tried = || handlers(Some("a"), None);
    world.pods =
        vec![old("virt-handler", "o", "a"), old("virt-handler", "o2", "b"), pod("virt-handler", "h", "a")];
    assert_eq!(
        waiting(&world, Stage::Handlers, tried()),
        "virt-handler: 0 of 3 ready, trying node a first (since 22:13:20Z, 41 s); when it is ready it stands by for \
         40 s beside the old one"
    );
    world.pods[2] = ready("virt-handler", "h", "a", at(11));
    assert_eq!(
        waiting(&world, Stage::Handlers, tried()),
        "virt-handler: 0 of 3 ready, trying node a first (since 22:13:31Z, 30 s); it stands by; at 22:14:11Z it takes \
         the node over from the old one"
    );
    world.pods[0].deleting_since = Some(at(20));
    assert_eq!(
        waiting(&world, Stage::Handlers, tried()),
        "virt-handler: 0 of 3 ready, trying node a first (since 22:13:40Z, 21 s); it is in charge of its node; if \
         nothing happens the other nodes follow at 22:14:20Z"
    );
    assert_eq!(
        waiting(&world, Stage::Handlers, handlers(None, None)),
        "virt-handler: 0 of 3 ready (node b); then virt-controller"
    );
}

#[test]
fn a_pod_that_is_not_well_says_when_it_is_given_up_and_what_comes_then() {
    let mut world = world();
    let trouble = "virt-handler: 0 of 3 ready, trying node a first: pod h on node a: container virt-handler: \
                   ErrImagePull: image i can't be pulled (since 22:13:20Z, 41 s)";
    let told = |world: &Observed| waiting(world, Stage::Handlers, handlers(Some("a"), Some(image_missing())));
    let given_up = "at 22:14:20Z the update is given up and v0.17.0 comes back";
    assert_eq!(told(&world), format!("{trouble}; {given_up}"));

    let paused = "at 22:14:20Z the update is paused";
    let kubevirt = world.kubevirt.as_mut().unwrap();
    kubevirt.spec = serde_json::from_value(json!({"updateStrategy": {"onFailure": "Pause"}})).unwrap();
    assert_eq!(told(&world), format!("{trouble}; {paused}"));
    world.kubevirt.as_mut().unwrap().spec = Default::default();
    world.strategies.clear();
    assert_eq!(told(&world), format!("{trouble}; {paused}"), "there are no manifests to come back to");

    let mut installing = an_update(Stage::Workloads, vec![handlers(None, Some(image_missing()))]);
    installing.direction = Direction::Install;
    set_status(&mut world, json!({}));
    let line = line(&world, &installing);
    assert!(line.starts_with("installation of v0.18.0: virt-handler: 0 of 3 ready"), "{line}");
    assert!(line.ends_with("; it is waited for without end: there is no version to come back to"), "{line}");
}

#[test]
fn after_the_canary_a_few_nodes_may_fail() {
    let cause = Cause { fails_at: at(40), ..image_missing() };
    let told = waiting(&world(), Stage::Handlers, handlers(None, Some(cause)));
    assert!(told.ends_with("; 5 % of the nodes may fail: the others go on"), "{told}");
}

#[test]
fn deployments_say_when_the_next_one_is_replaced() {
    let mut world = world();
    let api = WaitingOn::ApiNotReady { ready: 1, of: 2, cause: None };
    world.pods = vec![old("virt-api", "o", "b"), ready("virt-api", "n", "a", at(21))];
    assert_eq!(
        waiting(&world, Stage::Api, api.clone()),
        "virt-api: 1 of 2 ready (node b) (since 22:13:41Z, 20 s); at 22:14:21Z the next old one goes"
    );
    world.pods.push(pod("virt-api", "n2", "c"));
    assert_eq!(
        waiting(&world, Stage::Api, api),
        "virt-api: 1 of 2 ready (node c) (since 22:13:20Z, 41 s); then webhooks and APIServices of the target"
    );
    let cause = Cause { message: "pod n2 on node c: not Ready".into(), ..image_missing() };
    let controllers = WaitingOn::ControllersNotReady { ready: 1, of: 2, cause: Some(cause) };
    assert_eq!(
        waiting(&world, Stage::Controllers, controllers),
        "virt-controller: 1 of 2 ready: pod n2 on node c: not Ready (since 22:13:20Z, 41 s); at 22:14:20Z the update \
         is given up and v0.17.0 comes back"
    );
}

#[test]
fn every_other_wait_says_since_when_and_what_comes_then() {
    let mut world = world();
    world.nodes[1].not_ready_since = Some(at(1));
    world.pods = vec![
        Pod { deleting_since: Some(at(30)), ..old("virt-api", "o", "c") },
        old("virt-controller", "s", "b"),
    ];
    let object = |kind: &str, name: &str, field: &str, time: i64| {
        let key = ObjectKey::cluster("x/v1", kind, name);
        (key, json!({"metadata": {field: at(time)}}))
    };
    world.objects.extend([
        object("ValidatingAdmissionPolicy", GUARD, "creationTimestamp", 40),
        object("CustomResourceDefinition", "vms", "creationTimestamp", 39),
        object("ClusterRole", "gone", "deletionTimestamp", 38),
    ]);
    let cases = [
        (
            Stage::Guard,
            WaitingOn::GuardNotActive,
            "the guard against new kinds to be enforced (since 22:14:00Z, 1 s); the API server enforces it within \
             seconds; then CustomResourceDefinitions of both releases",
        ),
        (
            Stage::Crds,
            WaitingOn::CrdNotEstablished { name: "vms".into() },
            "CustomResourceDefinition vms to be established (since 22:13:59Z, 2 s); the API server serves it within \
             seconds; then access rules of both releases",
        ),
        (
            Stage::Certificates,
            WaitingOn::CaNotSpread { until: at(150) },
            "the new CA to reach every pod (by 2023-11-14T22:15:50Z) (since 22:13:20Z, 41 s); then certificates of \
             the new CA are issued; nothing else waits for that",
        ),
        (
            Stage::Handlers,
            WaitingOn::HandlersSettling { node: "b".into(), until: at(50) },
            "the virt-handler on node b to have been ready for a while (2023-11-14T22:14:10Z); at 22:14:10Z \
             virt-handler begins to be replaced, one node first",
        ),
        (
            Stage::Handlers,
            WaitingOn::nodes(&[("b", at(1))].into()).unwrap(),
            "NotReady: b since 2023-11-14T22:13:21Z: what runs there follows when the node is back (since 22:13:21Z, \
             40 s); at 22:14:21Z nobody waits for them any more",
        ),
        (
            Stage::Reports,
            WaitingOn::Reports {
                missing: vec!["s (v0.17.0)".into(), "virt-handler on node a (silent)".into()],
            },
            "reports of s (v0.17.0), virt-handler on node a (silent) (nodes a, b); each of them reports when it has \
             started; then webhooks and APIServices that every virt-api can answer",
        ),
        (
            Stage::ExactRbac,
            WaitingOn::OldPods { pods: vec!["o".into()] },
            "old pods to hand over: o (node c) (since 22:13:50Z, 11 s); then access rules of the target only",
        ),
        (
            Stage::Orphans,
            WaitingOn::Leftovers {
                kind: "X".into(),
                target: "v0.17.0".into(),
                count: 1,
                some: vec!["n/x".into()],
            },
            "1 X to be deleted by their owners, because v0.17.0 doesn't have the kind: n/x; nothing more until \
             somebody deletes them, or spec.imageTag names a release that has them: v0.17.0 doesn't",
        ),
        (
            Stage::ExactRbac,
            WaitingOn::Deletion { what: "ClusterRole gone".into(), left: 1 },
            "deletion of ClusterRole gone, 1 left (since 22:13:58Z, 3 s); then deletion of what the target doesn't \
             have",
        ),
    ];
    for (stage, waits, expected) in cases {
        assert_eq!(waiting(&world, stage, waits), expected);
    }
}

#[test]
fn a_lost_node_is_waited_for_by_nobody() {
    let mut world = world();
    world.nodes[1].not_ready_since = Some(at(-60));
    let told = waiting(&world, Stage::Handlers, WaitingOn::nodes(&[("b", at(-60))].into()).unwrap());
    assert!(told.ends_with("(since 22:12:20Z, 101 s); nobody waits for them"));
}

#[test]
fn what_has_no_time_of_its_own_is_since_the_status_says_so() {
    let mut world = world();
    let leftovers = || WaitingOn::Leftovers { kind: "X".into(), target: "t".into(), count: 1, some: vec![] };
    let said = json!({
        "type": "Progressing", "status": "True", "lastProbeTime": at(31),
        "message": format!("Transitioning: waiting for {}", leftovers()),
    });
    let mut status = serde_json::to_value(world.kubevirt.as_ref().unwrap().status.as_ref().unwrap()).unwrap();
    status["conditions"] = json!([said]);
    set_status(&mut world, status);
    let told = waiting(&world, Stage::Orphans, leftovers());
    assert!(told.contains(" (since 22:13:51Z, 10 s); "), "{told}");
}

#[test]
fn manifests_that_are_not_there_yet_are_an_update_all_the_same() {
    let mut world = world();
    let waits =
        |cause: Option<&str>| WaitingOn::StrategyJob { image: "i".into(), cause: cause.map(str::to_owned) };
    let plan =
        |cause| Plan { direction: Direction::Nothing, ..an_update(Stage::Blocked, vec![waits(cause)]) };
    let told = |world: &Observed, cause| line(world, &plan(cause));
    let update = "update v0.17.0 -> v0.18.0: the manifests from image i";
    assert_eq!(told(&world, None), format!("{update}; a Job that runs that image fetches them"));
    let mut job = |state| {
        let deployment_id = config(Release::V0_18_0).id();
        let job = StrategyJob {
            handle: handle("Job", "j"),
            deployment_id,
            image: "i".into(),
            state,
            deleting: false,
        };
        world.strategy_jobs = vec![job];
        world.clone()
    };
    let running = job(StrategyJobState::Running);
    assert_eq!(told(&running, None), format!("{update}; the Job that fetches them runs"));
    let stuck = Trouble { container: None, reason: "ErrImagePull".into(), message: "m".into(), image: None };
    let stuck = told(&job(StrategyJobState::Stuck(stuck)), Some("ErrImagePull: m"));
    assert!(stuck.starts_with(&format!("{update}: ErrImagePull: m; the kubelet tries again")), "{stuck}");
    let failed = job(StrategyJobState::Failed { at: at(31), message: "m".into() });
    assert_eq!(
        told(&failed, Some("the Job failed: m")),
        format!("{update}: the Job failed: m (since 22:13:51Z, 10 s); at 22:14:21Z the Job runs again")
    );
    let succeeded = job(StrategyJobState::Succeeded { at: at(31) });
    assert!(told(&succeeded, None).ends_with("if they don't appear the Job runs again at 22:14:21Z"));

    let overview = overview(&failed, &plan(None), &Policy::default(), at(41));
    assert_eq!((overview.direction, overview.stage.as_str()), ("Update", "Strategy"));
    assert_eq!(overview.stages.len(), crate::order::UPDATE.len());
}

fn failure(action: OnFailure) -> FailedUpdate {
    FailedUpdate {
        deployment_id: config(Release::V0_18_0).id(),
        version: "v0.18.0".into(),
        component: "virt-controller".into(),
        node: None,
        cause: "pod c: container virt-controller crashes: exit code 1".into(),
        at: at(10),
        action,
        retry: None,
    }
}

#[test]
fn a_failure_says_what_failed_what_came_of_it_and_what_can_be_done() {
    let mut observed = world();
    let failed = failure(OnFailure::Rollback);
    let said =
        || WaitingOn::UpdateFailed { failed: failure(OnFailure::Rollback), previous: "v0.17.0".into() };
    let mut plan = an_update(Stage::Controllers, vec![said()]);
    plan.failed = Some(failed.clone());
    let told = |observed: &Observed, plan: &Plan| {
        let explanation = explain(observed, plan, &Policy::default(), at(41));
        (explanation.state, explanation.line)
    };
    let cause = "pod c: container virt-controller crashes: exit code 1";
    assert_eq!(
        told(&observed, &plan),
        (
            State::Returning,
            format!(
                "update v0.17.0 -> v0.18.0 failed ({cause}); v0.18.0 is given up now and v0.17.0 comes back"
            )
        ),
        "found a moment ago"
    );

    let mut status = observed.kubevirt.as_ref().unwrap().status.clone().unwrap();
    status.failed_update = Some(failed.clone());
    set_status(&mut observed, serde_json::to_value(&status).unwrap());
    plan.direction = Direction::Rollback;
    plan.stage = Stage::Controllers;
    plan.target = Some(config(Release::V0_17_0));
    plan.waiting_on.push(WaitingOn::ControllersNotReady { ready: 1, of: 2, cause: None });
    let failed_at = format!("v0.18.0 failed at 22:13:30Z ({cause}) and v0.17.0");
    assert_eq!(
        told(&observed, &plan),
        (
            State::Returning,
            format!(
                "{failed_at} comes back: virt-controller: 1 of 2 ready; then virt-handler, one node first"
            )
        )
    );

    plan.direction = Direction::Steady;
    plan.stage = Stage::Settled;
    plan.waiting_on.truncate(1);
    let back = (State::Returned, format!("{failed_at} is back; virtctl update retry tries again"));
    assert_eq!(told(&observed, &plan), back);

    plan.failed = Some(failure(OnFailure::Pause));
    plan.direction = Direction::Update;
    plan.stage = Stage::Controllers;
    plan.target = Some(config(Release::V0_18_0));
    assert_eq!(
        told(&observed, &plan),
        (
            State::Paused,
            format!(
                "paused at virt-controller: v0.18.0 failed at 22:13:30Z ({cause}); nothing happens until \
                 spec.imageTag changes or virtctl update retry"
            )
        )
    );
}

#[test]
fn settings_that_fail_are_no_version_that_does() {
    let mut observed = world();
    let failed = FailedUpdate { version: "v0.17.0".into(), ..failure(OnFailure::Rollback) };
    let mut status = observed.kubevirt.as_ref().unwrap().status.clone().unwrap();
    status.failed_update = Some(failed.clone());
    set_status(&mut observed, serde_json::to_value(&status).unwrap());
    let mut plan = an_update(Stage::Settled, vec![]);
    (plan.target, plan.failed) = (Some(config(Release::V0_17_0)), Some(failed));
    let told = line(&observed, &plan);
    assert!(told.starts_with("the change of v0.17.0 failed at 22:13:30Z (pod c"), "{told}");
    assert!(told.ends_with(") and what ran before is back; virtctl update retry tries again"), "{told}");
}

#[test]
fn what_is_refused_names_what_stays() {
    let mut plan = an_update(Stage::Blocked, vec![WaitingOn::Refused { cause: "spec.imageTag: no".into() }]);
    plan.direction = Direction::Nothing;
    let mut world = world();
    let told = |world: &Observed, plan: &Plan| {
        let explanation = explain(world, plan, &Policy::default(), at(41));
        (explanation.state, explanation.line)
    };
    let refused = "spec.imageTag: no; nothing happens until the spec changes";
    let expected = format!("update v0.17.0 -> v0.18.0: {refused}");
    assert_eq!(told(&world, &plan), (State::Refused, expected));
    plan.target = None;
    let still = format!("the change that was on its way stands still: {refused}");
    assert_eq!(told(&world, &plan), (State::Refused, still));
    set_status(&mut world, json!({"observedKubeVirtVersion": "v0.17.0"}));
    assert_eq!(told(&world, &plan), (State::Refused, format!("v0.17.0 stays: {refused}")));
    set_status(&mut world, json!({}));
    assert_eq!(told(&world, &plan), (State::Refused, format!("nothing is installed: {refused}")));
    assert!(overview(&world, &plan, &Policy::default(), at(41)).stages.is_empty());
}

#[test]
fn at_rest_before_and_after() {
    let mut world = world();
    let mut plan = an_update(Stage::Settled, vec![]);
    plan.direction = Direction::Steady;
    let told = |world: &Observed, plan: &Plan| {
        let explanation = explain(world, plan, &Policy::default(), at(41));
        (explanation.state, explanation.line)
    };
    assert_eq!(told(&world, &plan), (State::Settled, "settled at v0.18.0".to_owned()));
    let key = ObjectKey::namespaced("v1", "Service", "kubevirt", "virt-api");
    let manifest = kubevirt_manifests::Manifest::plain(json!({
        "apiVersion": key.api_version, "kind": key.kind, "metadata": {"name": key.name, "namespace": "kubevirt"},
    }));
    plan.steps = vec![Step::Apply { manifest, precondition: Precondition::Absent }; 2];
    let drift = "settled at v0.18.0; next virt-operator will create Service kubevirt/virt-api and 1 more";
    assert_eq!(told(&world, &plan), (State::Settled, drift.to_owned()));
    let overview = overview(&world, &plan, &Policy::default(), at(41));
    assert_eq!((overview.steps[0].action, overview.steps[0].object.as_ref()), ("create", Some(&key)));
    plan.direction = Direction::Uninstall;
    plan.steps.clear();
    plan.waiting_on = vec![WaitingOn::Deletion { what: "VirtualMachine objects".into(), left: 2 }];
    plan.stage = Stage::Instances;
    let uninstall =
        "uninstall: deletion of VirtualMachine objects, 2 left; then deletion of CustomResourceDefinitions";
    assert_eq!(told(&world, &plan), (State::Uninstalling, uninstall.to_owned()));
    world.kubevirt = None;
    let nothing = "there is no KubeVirt object; nothing happens until somebody creates one";
    assert_eq!(told(&world, &plan), (State::NotInstalled, nothing.to_owned()));
}

#[test]
fn a_target_that_was_given_up_on_the_way_is_what_is_left() {
    let observed = world();
    let mut plan = an_update(Stage::Api, vec![WaitingOn::ApiNotReady { ready: 0, of: 2, cause: None }]);
    (plan.direction, plan.target) = (Direction::Rollback, Some(config(Release::V0_17_0)));
    let told = line(&observed, &plan);
    assert!(told.starts_with("rollback v0.18.0 -> v0.17.0: virt-api: 0 of 2 ready"), "{told}");
    let cause = Some(image_missing());
    plan.waiting_on = vec![WaitingOn::ApiNotReady { ready: 0, of: 2, cause }];
    let told = line(&observed, &plan);
    assert!(told.ends_with("; it is waited for without end: v0.17.0 is what ran before"), "{told}");
}

#[test]
fn what_fails_first_is_said_before_what_takes_time() {
    let mut world = world();
    world.nodes[1].not_ready_since = Some(at(1));
    let waits = vec![
        WaitingOn::nodes(&[("b", at(1))].into()).unwrap(),
        WaitingOn::CaNotSpread { until: at(3) },
        handlers(Some("a"), Some(image_missing())),
        WaitingOn::ApiNotReady {
            ready: 0,
            of: 2,
            cause: Some(Cause { fails_at: at(50), ..image_missing() }),
        },
    ];
    let plan = an_update(Stage::Handlers, waits);
    let explanation = explain(&world, &plan, &Policy::default(), at(41));
    assert!(explanation.what.unwrap().starts_with("virt-api: 0 of 2 ready"));
    let away = format!("; beside that {}", WaitingOn::nodes(&[("b", at(1))].into()).unwrap());
    assert!(explanation.line.ends_with(&away), "{}", explanation.line);
    assert_eq!((explanation.state, explanation.until), (State::InTrouble, Some(at(50))));
    assert_eq!(overview(&world, &plan, &Policy::default(), at(41)).waiting_for.len(), 4);
}

#[test]
fn stages_are_done_now_or_to_come_and_the_document_is_stable() {
    let plan = an_update(Stage::Handlers, vec![handlers(Some("a"), Some(image_missing()))]);
    let document = overview(&world(), &plan, &Policy::default(), at(41));
    let of = |state| {
        document
            .stages
            .iter()
            .filter(|row| row.state == state)
            .map(|row| row.stage.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(StageState::Now), ["Handlers"]);
    assert_eq!(of(StageState::Done).last(), Some(&"Services"));
    assert_eq!(of(StageState::ToCome).first(), Some(&"Controllers"));
    let written = serde_json::to_value(&document).unwrap();
    let fields: Vec<&String> = written.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["direction", "from", "to", "stage", "stages", "steps", "waitingFor", "explanation"]);
    assert_eq!(written["stages"][0]["state"], "Done");
    assert_eq!(
        written["waitingFor"][0],
        json!({
            "reason": "HandlersNotReady",
            "message": document.waiting_for[0].message,
            "cause": image_missing().message,
            "nodes": ["a"], "since": "2023-11-14T22:13:20Z", "until": "2023-11-14T22:14:20Z",
            "next": "at 22:14:20Z the update is given up and v0.17.0 comes back",
        })
    );
    assert_eq!(written["explanation"]["state"], "InTrouble");
}
