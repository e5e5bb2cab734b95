//! What if the leader dies at this very line, if there is a second leader, if the cache lags?
//! Played on an API server in memory, through the same code that runs in a cluster.
#![allow(clippy::unwrap_used, reason = "what a test didn't expect ends it")]

mod cluster;
mod moves;

use cluster::api::{Api, Crash};
use cluster::{
    Controller, NODES, PODS, SETS, VMIS, VMS, change, check, count, create, log, read, settle, surroundings,
    vm,
};
use serde_json::json;

/// A VM's life: started, restarted on request, deleted. Returns what was created and deleted.
async fn life(api: &Api, strategy: &str) -> Vec<String> {
    create(api, VMS, vm(strategy));
    if strategy == "Manual" {
        change(api, VMS, "vm1", json!({"status": {"stateChangeRequests": [{"action": "Start"}]}}));
    }
    settle(api).await;
    let running = read(api, VMIS, "vm1").expect("it was started");
    assert_eq!(running["status"]["phase"], "Running");
    assert_eq!(read(api, VMS, "vm1").unwrap()["status"]["printableStatus"], "Running");

    let restart = json!([{"action": "Stop", "uid": running["metadata"]["uid"]}, {"action": "Start"}]);
    change(api, VMS, "vm1", json!({"status": {"stateChangeRequests": restart}}));
    settle(api).await;
    let again = read(api, VMIS, "vm1").expect("it was started again");
    assert_ne!(again["metadata"]["uid"], running["metadata"]["uid"]);
    assert_eq!(again["status"]["phase"], "Running");
    assert!(read(api, VMS, "vm1").unwrap()["status"].get("stateChangeRequests").is_none_or(|r| r.is_null()));

    api.lock().delete(&(VMS.into(), "vm1".into()), &json!({}));
    settle(api).await;
    assert_eq!([VMS, VMIS, PODS].map(|plural| count(api, plural)), [0, 0, 0], "{:?}", log(api));
    log(api).to_vec()
}

#[tokio::test]
async fn a_leader_may_die_at_every_write() {
    for strategy in ["Always", "Manual", "RerunOnFailure"] {
        let undisturbed = Api::default();
        let expected = life(&undisturbed, strategy).await;
        let writes = undisturbed.lock().writes;
        assert!(writes > 10, "{strategy}: {writes}");
        for n in 0..writes {
            for crash in [Crash::Before(n), Crash::After(n)] {
                let api = Api::default();
                api.lock().crash = Some(crash);
                let what_happened = life(&api, strategy).await;
                assert_eq!(what_happened, expected, "{strategy} with {crash:?}");
            }
        }
    }
}

/// A VM of strategy Once: started, ended, its instance deleted, halted, and Once again. Returns what was created and deleted.
async fn once(api: &Api) -> Vec<String> {
    create(api, VMS, vm("Once"));
    settle(api).await;
    assert_eq!(read(api, VMIS, "vm1").expect("it was started")["status"]["phase"], "Running");
    change(api, VMIS, "vm1", json!({"status": {"phase": "Failed"}}));
    settle(api).await;
    let ended = read(api, VMIS, "vm1").expect("what has ended stays");
    assert_eq!(ended["status"]["phase"], "Failed");
    api.lock().delete(&(VMIS.into(), "vm1".into()), &json!({}));
    settle(api).await;
    assert_eq!(read(api, VMIS, "vm1"), None, "started again");
    assert_eq!(read(api, VMS, "vm1").unwrap()["status"]["printableStatus"], "Stopped");
    change(api, VMS, "vm1", json!({"spec": {"runStrategy": "Halted"}}));
    settle(api).await;
    change(api, VMS, "vm1", json!({"spec": {"runStrategy": "Once"}}));
    settle(api).await;
    assert_eq!(read(api, VMIS, "vm1").expect("it is new again")["status"]["phase"], "Running");
    log(api).to_vec()
}

#[tokio::test]
async fn once_is_once_whatever_write_a_leader_dies_at() {
    let undisturbed = Api::default();
    let expected = once(&undisturbed).await;
    let made = expected.iter().filter(|line| line.starts_with("create virtualmachineinstances")).count();
    assert_eq!(made, 2, "{expected:?}");
    let writes = undisturbed.lock().writes;
    for n in 0..writes {
        for crash in [Crash::Before(n), Crash::After(n)] {
            let api = Api::default();
            api.lock().crash = Some(crash);
            assert_eq!(once(&api).await, expected, "{crash:?}");
        }
    }
}

/// A VM whose node falls silent, then goes and takes its pods with it.
async fn node_lost(api: &Api) -> Vec<String> {
    create(api, VMS, vm("Always"));
    settle(api).await;
    let before = read(api, VMIS, "vm1").expect("it was started");
    assert_eq!(before["status"]["nodeName"], "n1");
    let silent = json!({"status": {"conditions": [
        {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-11-23T00:00:00Z"},
    ]}});
    change(api, NODES, "n1", silent);
    settle(api).await;
    let unheard = read(api, VMIS, "vm1").expect("nothing ends it");
    assert_eq!(
        (&unheard["metadata"]["uid"], &unheard["status"]["phase"]),
        (&before["metadata"]["uid"], &json!("Running"))
    );
    let conditions = unheard["status"]["conditions"].to_string();
    assert!(conditions.contains("NodeUnresponsive"), "{conditions}");
    assert_eq!(read(api, VMS, "vm1").unwrap()["status"]["printableStatus"], "Running");

    let pod = api.lock().of(PODS).next().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    api.lock().objects.remove(&(NODES.into(), "n1".into()));
    settle(api).await;
    assert_eq!(
        read(api, VMIS, "vm1").unwrap()["metadata"]["uid"],
        before["metadata"]["uid"],
        "its pod is there"
    );
    api.lock().objects.remove(&(PODS.into(), pod));
    settle(api).await;
    let after = read(api, VMIS, "vm1").expect("it was started again");
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!((&after["status"]["phase"], &after["status"]["nodeName"]), (&json!("Running"), &json!("n2")));
    assert_eq!(count(api, PODS), 1);
    log(api).to_vec()
}

#[tokio::test]
async fn a_lost_node_costs_one_start_whatever_write_a_leader_dies_at() {
    let undisturbed = Api::default();
    let expected = node_lost(&undisturbed).await;
    let writes = undisturbed.lock().writes;
    for n in 0..writes {
        for crash in [Crash::Before(n), Crash::After(n)] {
            let api = Api::default();
            api.lock().crash = Some(crash);
            assert_eq!(node_lost(&api).await, expected, "{crash:?}");
        }
    }
}

/// At each moment of a VM's life a second controller with the view of an earlier moment thinks that
/// it leads, and does what it thinks right.
#[tokio::test]
async fn a_second_leader_with_an_old_view_changes_nothing() {
    for age in 1..8 {
        let api = Api::default();
        create(&api, VMS, vm("Always"));
        let mut leader = Controller::start(&api);
        let mut views = vec![Controller::start(&api)];
        for step in 0..40 {
            if step == 15 {
                change(&api, VMS, "vm1", json!({"spec": {"runStrategy": "Halted"}}));
            }
            if step == 25 {
                change(&api, VMS, "vm1", json!({"spec": {"runStrategy": "Always"}}));
            }
            // Either may find the other's write in its way; both decide again.
            let _ = leader.act().await;
            if views.len() > age {
                let _ = views[views.len() - 1 - age].act().await;
            }
            check(&api);
            surroundings(&api);
            leader.look();
            views.push(Controller::start(&api));
            let instances =
                log(&api).iter().filter(|line| line.starts_with("create virtualmachineinstances")).count();
            assert!(instances <= if step < 25 { 1 } else { 2 }, "step {step}, {age} old: {:?}", log(&api));
        }
        let vmi = read(&api, VMIS, "vm1").expect("it runs in the end");
        assert_eq!(vmi["status"]["phase"], "Running", "{age} old");
        assert_eq!(count(&api, PODS), 1);
    }
}

#[tokio::test]
async fn a_cache_that_misses_a_pod_doesnt_fail_its_guest() {
    let api = Api::default();
    create(&api, VMS, vm("Always"));
    // This view knows neither instance nor pod, then the instance alone.
    settle(&api).await;
    let pod = api.lock().of(PODS).next().cloned().unwrap();
    let key = (PODS.to_owned(), pod["metadata"]["name"].as_str().unwrap().to_owned());
    api.lock().objects.remove(&key);
    let blind = Controller::start(&api);
    api.lock().objects.insert(key, pod);
    blind.act().await.unwrap();
    assert_eq!(read(&api, VMIS, "vm1").unwrap()["status"]["phase"], "Running");
    assert_eq!(count(&api, PODS), 1);
}

#[tokio::test]
async fn a_launcher_that_is_really_gone_is_noticed_and_the_vm_runs_again() {
    let api = Api::default();
    create(&api, VMS, vm("Always"));
    settle(&api).await;
    let name = api.lock().of(PODS).next().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    api.lock().delete(&(PODS.into(), name.clone()), &json!({}));
    settle(&api).await;
    assert_eq!(read(&api, VMIS, "vm1").unwrap()["status"]["phase"], "Running");
    assert_ne!(api.lock().of(PODS).next().unwrap()["metadata"]["name"], name.as_str());
}

#[tokio::test]
async fn two_leaders_make_no_replica_too_many() {
    let api = Api::default();
    create(
        &api,
        SETS,
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet",
            "metadata": {"name": "set"},
            "spec": {
                "replicas": 3, "selector": {"matchLabels": {"app": "x"}},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}},
                },
            },
        }),
    );
    let (one, other) = (Controller::start(&api), Controller::start(&api));
    one.act().await.unwrap();
    let _ = other.act().await;
    assert_eq!(count(&api, VMIS), 3);
    settle(&api).await;
    let set = read(&api, SETS, "set").unwrap();
    assert_eq!((&set["status"]["replicas"], &set["status"]["readyReplicas"]), (&json!(3), &json!(3)));

    change(&api, SETS, "set", json!({"spec": {"replicas": 1}}));
    settle(&api).await;
    assert_eq!((count(&api, VMIS), count(&api, PODS)), (1, 1));
}

#[tokio::test]
async fn an_instance_in_the_way_is_told_of_in_the_status() {
    let api = Api::default();
    create(
        &api,
        VMIS,
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "vm1"},
            "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}},
        }),
    );
    create(&api, VMS, vm("Always"));
    settle(&api).await;
    let conditions = read(&api, VMS, "vm1").unwrap()["status"]["conditions"].clone();
    assert!(conditions.to_string().contains("FailedCreate"), "{conditions}");
    assert_eq!(read(&api, VMIS, "vm1").unwrap()["metadata"].get("ownerReferences"), None);
}
