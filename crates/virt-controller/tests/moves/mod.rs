//! Guests that move, with two virt-handlers that do what their launchers say: the straight road and
//! what goes wrong, with a leader that dies at every write and with one that sees late.

use serde_json::{Value, json};

use super::cluster::api::{Api, Crash};
use super::cluster::{
    Controller, MIGRATIONS, PODS, VMIS, VMS, change, check, count, create, log, read, settle, surroundings,
    vm,
};

/// How a migration ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// The guest runs at the target.
    Completes,
    /// The source's launcher gives up, and keeps the guest.
    SourceFails,
    /// The target's pod dies while memory is copied.
    TargetDies,
    /// It never ends by itself, and can be aborted.
    Endless,
}

/// Two minutes ago: what waits for a minute after an end needn't wait.
fn long_ago() -> String {
    (jiff::Timestamp::now() - std::time::Duration::from_secs(120)).to_string()
}

/// The two virt-handlers, one step.
fn handlers(api: &Api, plan: Plan) {
    let mut state = api.lock();
    let crash = state.crash.take();
    let vmis: Vec<Value> = state.of(VMIS).cloned().collect();
    for vmi in vmis {
        let key = (VMIS.to_owned(), vmi["metadata"]["name"].as_str().unwrap().to_owned());
        let moving = &vmi["status"]["migrationState"];
        let ended = moving["endTimestamp"].as_str().and_then(|end| end.parse::<jiff::Timestamp>().ok());
        if ended.is_some_and(|end| jiff::Timestamp::now().duration_since(end).as_secs() < 60) {
            // Time passes: virt-controller ended this one a moment ago.
            let passed = json!({"status": {"migrationState": {"endTimestamp": long_ago()}}});
            state.patch(&key, &passed, true);
        }
        if moving["targetPodMissingTimestamp"].is_string() && moving["failed"] != true {
            // What ran there has had its grace.
            let passed = json!({"status": {"migrationState": {"targetPodMissingTimestamp": long_ago()}}});
            state.patch(&key, &passed, true);
        }
        if moving.is_null() || moving["completed"] == true || moving["failed"] == true {
            continue;
        }
        let end = |what: &str| json!({what: true, "endTimestamp": long_ago(), "failureReason": what});
        let mut node = vmi["status"]["nodeName"].clone();
        let next = if moving["abortRequested"] == true {
            end("failed")
        } else if moving["sourceCertificateSha256"].is_null() {
            json!({"sourceCertificateSha256": "s"})
        } else if moving["targetNodeAddress"].is_null() {
            json!({"targetNodeAddress": "10.0.0.2", "targetPort": 49152, "targetCertificateSha256": "t"})
        } else if moving["startTimestamp"].is_null() {
            json!({"startTimestamp": long_ago(), "mode": "PreCopy"})
        } else {
            match plan {
                Plan::Completes => {
                    node = moving["targetNode"].clone();
                    let source = (PODS.to_owned(), moving["sourcePod"].as_str().unwrap().to_owned());
                    let message = json!({"reason": "Migrated"}).to_string();
                    let ended = json!({"status": {"phase": "Succeeded", "containerStatuses": [{
                        "name": "compute", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                        "state": {"terminated": {"exitCode": 0, "message": message, "finishedAt": long_ago()}},
                    }]}});
                    state.patch(&source, &ended, true);
                    end("completed")
                }
                Plan::SourceFails => end("failed"),
                Plan::TargetDies => {
                    let target = (PODS.to_owned(), moving["targetPod"].as_str().unwrap().to_owned());
                    state.objects.remove(&target);
                    continue;
                }
                Plan::Endless => continue,
            }
        };
        let patch = json!({"status": {"migrationState": next, "nodeName": node}});
        state.patch(&key, &patch, true);
    }
    state.crash = crash;
}

/// Rounds until nothing is written any more, virt-handlers and all.
async fn run(api: &Api, plan: Plan) {
    let mut controller = Controller::start(api);
    for _ in 0..200 {
        let before = api.lock().objects.clone();
        let died = controller.act().await.is_err();
        if died {
            controller = Controller::start(api);
        }
        check(api);
        limited(api);
        surroundings(api);
        handlers(api, plan);
        controller.look();
        if !died && api.lock().objects == before {
            return;
        }
    }
    panic!("never quiet: {:?}", log(api));
}

/// No more guests leave a node at a time than may: two, when nobody says.
fn limited(api: &Api) {
    let state = api.lock();
    let moving = state.of(MIGRATIONS).filter(|migration| {
        let uid = &migration["metadata"]["uid"];
        let over = matches!(migration["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        !over && state.of(PODS).any(|pod| pod["metadata"]["labels"]["kubevirt.io/migrationJobUID"] == *uid)
    });
    assert!(moving.count() <= 2);
}

fn migration(name: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": name}, "spec": {"vmiName": "vm1"},
    })
}

fn phase(api: &Api, name: &str) -> Value {
    read(api, MIGRATIONS, name).map_or(Value::Null, |migration| migration["status"]["phase"].clone())
}

/// What holds when all is over: one launcher, where the status and the label say.
fn at_rest(api: &Api, node: &str) {
    let vmi = read(api, VMIS, "vm1").expect("the instance survives");
    assert_eq!(vmi["status"]["phase"], "Running");
    assert_eq!(vmi["status"]["nodeName"], node);
    assert_eq!(vmi["metadata"]["labels"]["kubevirt.io/nodeName"], node);
    assert_eq!(vmi["metadata"]["labels"].get("kubevirt.io/migrationTargetNodeName"), None);
    let state = api.lock();
    let alive: Vec<&Value> = state.of(PODS).filter(|pod| pod["status"]["phase"] == "Running").collect();
    assert_eq!(alive.len(), 1);
    assert_eq!(alive[0]["spec"]["nodeName"], node);
    for migration in state.of(MIGRATIONS) {
        assert!(migration["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty), "{migration}");
    }
}

/// A VM starts, its guest is asked to move, and it does or doesn't.
async fn journey(api: &Api, plan: Plan) -> Vec<String> {
    create(api, VMS, vm("Always"));
    settle(api).await;
    create(api, MIGRATIONS, migration("m1"));
    run(api, plan).await;
    let (expected, node) = match plan {
        Plan::Completes => ("Succeeded", "n2"),
        Plan::SourceFails | Plan::TargetDies => ("Failed", "n1"),
        Plan::Endless => {
            assert_eq!(phase(api, "m1"), "Running");
            assert_eq!(read(api, VMS, "vm1").unwrap()["status"]["printableStatus"], "Migrating");
            api.lock().delete(&(MIGRATIONS.into(), "m1".into()), &json!({}));
            run(api, plan).await;
            assert_eq!(count(api, MIGRATIONS), 0, "the finalizer goes with the end");
            at_rest(api, "n1");
            return log(api).to_vec();
        }
    };
    assert_eq!(phase(api, "m1"), expected, "{:?}", log(api));
    let kept = &read(api, MIGRATIONS, "m1").unwrap()["status"]["migrationState"];
    assert_eq!(kept["completed"] == true, plan == Plan::Completes, "{kept}");
    at_rest(api, node);
    log(api).to_vec()
}

#[tokio::test]
async fn a_leader_may_die_at_every_write_of_a_journey() {
    for plan in [Plan::Completes, Plan::SourceFails, Plan::TargetDies, Plan::Endless] {
        let undisturbed = Api::default();
        let mut expected = journey(&undisturbed, plan).await;
        expected.sort();
        let writes = undisturbed.lock().writes;
        assert!(writes > 15, "{plan:?}: {writes}");
        for n in 0..writes {
            for crash in [Crash::Before(n), Crash::After(n)] {
                let api = Api::default();
                api.lock().crash = Some(crash);
                let mut happened = journey(&api, plan).await;
                happened.sort();
                assert_eq!(happened, expected, "{plan:?} with {crash:?}");
            }
        }
    }
}

/// There and back: the second journey begins where the first has ended.
#[tokio::test]
async fn a_guest_moves_on_from_where_it_is() {
    let api = Api::default();
    journey(&api, Plan::Completes).await;
    let gone = api.lock().of(PODS).find(|pod| pod["spec"]["nodeName"] == "n1").cloned().unwrap();
    let name = gone["metadata"]["name"].as_str().unwrap().to_owned();
    api.lock().objects.remove(&(PODS.to_owned(), name));
    create(&api, MIGRATIONS, migration("m2"));
    run(&api, Plan::Completes).await;
    assert_eq!(phase(&api, "m2"), "Succeeded");
    at_rest(&api, "n1");
}

/// At each moment of a journey a second controller with the view of an earlier moment thinks that
/// it leads, and does what it thinks right.
#[tokio::test]
async fn a_second_leader_with_an_old_view_moves_nothing_twice() {
    for plan in [Plan::Completes, Plan::SourceFails, Plan::TargetDies] {
        for age in 1..8 {
            let api = Api::default();
            create(&api, VMS, vm("Always"));
            settle(&api).await;
            create(&api, MIGRATIONS, migration("m1"));
            let mut leader = Controller::start(&api);
            let mut views = vec![Controller::start(&api)];
            for _ in 0..40 {
                // Either may find the other's write in its way; both decide again.
                let _ = leader.act().await;
                if views.len() > age {
                    let _ = views[views.len() - 1 - age].act().await;
                }
                check(&api);
                surroundings(&api);
                handlers(&api, plan);
                leader.look();
                views.push(Controller::start(&api));
            }
            let made = log(&api).iter().filter(|line| line.starts_with("create pods")).count();
            assert_eq!(made, 2, "{plan:?}, {age} old: {:?}", log(&api));
            let (expected, node) =
                if plan == Plan::Completes { ("Succeeded", "n2") } else { ("Failed", "n1") };
            assert_eq!(phase(&api, "m1"), expected, "{plan:?}, {age} old");
            at_rest(&api, node);
        }
    }
}

/// A VM is halted while its guest moves.
async fn halted_on_the_way(api: &Api) -> usize {
    create(api, VMS, vm("Always"));
    settle(api).await;
    create(api, MIGRATIONS, migration("m1"));
    run(api, Plan::Endless).await;
    change(api, VMS, "vm1", json!({"spec": {"runStrategy": "Halted"}}));
    run(api, Plan::Endless).await;
    assert_eq!([VMIS, PODS].map(|plural| count(api, plural)), [0, 0], "{:?}", log(api));
    assert_eq!(phase(api, "m1"), "Failed");
    api.lock().writes
}

/// A VM that wants to be moved by a drain, and a drain.
async fn drained(api: &Api) {
    let mut wanted = vm("Always");
    wanted["spec"]["template"]["spec"]["evictionStrategy"] = json!("LiveMigrate");
    create(api, VMS, wanted);
    settle(api).await;
    change(api, VMIS, "vm1", json!({"status": {"evacuationNodeName": "n1"}}));
}

async fn drained_and_moved(api: &Api) -> usize {
    drained(api).await;
    run(api, Plan::Completes).await;
    at_rest(api, "n2");
    assert!(read(api, VMIS, "vm1").unwrap()["status"].get("evacuationNodeName").is_none());
    assert_eq!(count(api, MIGRATIONS), 1);
    api.lock().writes
}

#[tokio::test]
async fn an_instance_that_is_deleted_while_it_moves_takes_all_with_it() {
    let writes = halted_on_the_way(&Api::default()).await;
    for n in 0..writes {
        let api = Api::default();
        api.lock().crash = Some(Crash::After(n));
        halted_on_the_way(&api).await;
    }
}

#[tokio::test]
async fn a_leader_may_die_at_every_write_of_a_drain() {
    let writes = drained_and_moved(&Api::default()).await;
    for n in 0..writes {
        let api = Api::default();
        api.lock().crash = Some(Crash::After(n));
        drained_and_moved(&api).await;
    }
}

/// A drain makes one migration, whoever leads, and another when that has failed.
#[tokio::test]
async fn a_drain_moves_the_guest_once() {
    let api = Api::default();
    drained(&api).await;
    let (one, other) = (Controller::start(&api), Controller::start(&api));
    one.act().await.unwrap();
    let _ = other.act().await;
    assert_eq!(count(&api, MIGRATIONS), 1);
    run(&api, Plan::SourceFails).await;
    // The first has failed, the second waits a while.
    let state = api.lock().objects.clone();
    let mut phases: Vec<_> = state
        .iter()
        .filter(|((plural, _), _)| plural == MIGRATIONS)
        .map(|(_, migration)| migration["status"]["phase"].as_str().unwrap().to_owned())
        .collect();
    phases.sort();
    assert_eq!(phases, ["Failed", "Pending"]);
    let waiting = state.values().find(|object| object["status"]["phase"] == "Pending").unwrap();
    assert_eq!(waiting["status"]["conditions"][0]["reason"], "Backoff", "{waiting}");
    assert_eq!(waiting["metadata"]["annotations"]["kubevirt.io/evacuationMigration"], "n1");
    // Time passes.
    let failed = state.values().find(|object| object["status"]["phase"] == "Failed").unwrap();
    let name = failed["metadata"]["name"].as_str().unwrap();
    let long_since = json!([{"phase": "Failed", "phaseTransitionTimestamp": long_ago()}]);
    change(&api, MIGRATIONS, name, json!({"status": {"phaseTransitionTimestamps": long_since}}));
    run(&api, Plan::Completes).await;
    at_rest(&api, "n2");
    assert!(read(&api, VMIS, "vm1").unwrap()["status"].get("evacuationNodeName").is_none());
    assert_eq!(count(&api, MIGRATIONS), 2);
}

/// Four guests leave a node, two at a time.
async fn crowd(api: &Api) -> usize {
    for n in 1..=4 {
        let mut one = vm("Always");
        one["metadata"]["name"] = json!(format!("vm{n}"));
        create(api, VMS, one);
    }
    settle(api).await;
    for n in 1..=4 {
        let mut one = migration(&format!("m{n}"));
        one["spec"]["vmiName"] = json!(format!("vm{n}"));
        create(api, MIGRATIONS, one);
    }
    run(api, Plan::Completes).await;
    for n in 1..=4 {
        assert_eq!(phase(api, &format!("m{n}")), "Succeeded", "{n}: {:?}", log(api));
    }
    api.lock().writes
}

#[tokio::test]
async fn the_limits_hold_when_a_leader_dies() {
    let writes = crowd(&Api::default()).await;
    let first = writes / 3;
    for n in (first..writes).step_by(3) {
        let api = Api::default();
        api.lock().crash = Some(Crash::After(n));
        crowd(&api).await;
    }
}

#[tokio::test]
async fn only_the_last_five_are_kept() {
    let api = Api::default();
    create(&api, VMS, vm("Always"));
    settle(&api).await;
    for n in 1..=7 {
        create(&api, MIGRATIONS, migration(&format!("m{n}")));
        run(&api, Plan::SourceFails).await;
    }
    let left: Vec<_> = (1..=7).filter(|n| read(&api, MIGRATIONS, &format!("m{n}")).is_some()).collect();
    assert_eq!(left, [3, 4, 5, 6, 7]);
}
