//! Whole reviews: objects in, answers out.

use super::*;
use kubevirt_types::gate::{Reporter, floor};
use serde_json::json;

const PLAIN_USER: &str = "jane";
const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";

fn ask(hook: Hook, user: &str, object: Value, old: Value) -> Verdict {
    ask_as(hook, user, (object, old), Release::V0_17_0, Release::V0_17_0)
}

fn ask_as(hook: Hook, user: &str, (object, old): (Value, Value), own: Release, reported: Release) -> Verdict {
    let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
    let request = json!({"uid": "u", "operation": operation, "namespace": "ns", "userInfo": {"username": user},
        "object": object, "oldObject": old});
    let request: Request = serde_json::from_value(request).unwrap();
    let floor = floor(&[Reporter { name: "virt-handler on node a".into(), release: Some(reported) }]);
    let context = Context {
        own: &own,
        floor: &floor,
        by_component: is_component(user, "kubevirt"),
        machine_type: defaults::MACHINE_TYPE,
        migration_subject: migration::Subject::Ready,
    };
    decide(hook, &request, &context, &mut |bytes| bytes.fill(7))
}

fn refused(verdict: Verdict) -> String {
    match verdict {
        Verdict::Refuse(refusal) => format!("{} {}", refusal.code.as_u16(), refusal.message),
        Verdict::Admit | Verdict::Patch(_) => "admitted".to_owned(),
    }
}

fn vm(run: Value, spec: Value) -> Value {
    let mut vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "a", "namespace": "ns"}, "spec": {"template": {"spec": spec}}});
    for (key, value) in run.as_object().unwrap() {
        vm["spec"][key] = value.clone();
    }
    vm
}

fn vmi(spec: Value, labels: Value) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "a", "namespace": "ns", "labels": labels}, "spec": spec})
}

fn works() -> Value {
    json!({"domain": {"memory": {"guest": "96Mi"}}})
}

#[test]
fn a_vm_says_once_when_it_runs() {
    let both = "422 spec.running: Forbidden: running and runstrategy are mutually exclusive";
    let neither = "422 spec.runStrategy: Required value: one of running or runStrategy: allowed are Always, Halted, Manual, RerunOnFailure, Once";
    for (run, expected) in [
        (json!({"running": true}), "admitted"),
        (json!({"runStrategy": "Manual"}), "admitted"),
        (json!({"running": true, "runStrategy": "Always"}), both),
        (json!({}), neither),
    ] {
        assert_eq!(refused(ask(Hook::VmValidate, PLAIN_USER, vm(run, works()), Value::Null)), expected);
    }
}

#[test]
fn once_is_for_clusters_whose_controllers_know_it() {
    let once = || vm(json!({"runStrategy": "Once"}), works());
    let manual = || vm(json!({"runStrategy": "Manual"}), works());
    let (old, new) = (Release::V0_17_0, Release::V0_18_0);
    let unknown =
        "422 spec.runStrategy: Forbidden: runStrategy Once is unknown in v0.17.0 (it exists since v0.18.0)";
    let closed = "422 spec.runStrategy: Forbidden: runStrategy Once is new in v0.18.0 and the version gate is \
                  closed: waiting for virt-handler on node a (v0.17.0)";
    for (before, own, reported, expected) in [
        (Value::Null, &new, &new, "admitted"),
        (manual(), &new, &new, "admitted"),
        (Value::Null, &new, &old, closed),
        (manual(), &new, &old, closed),
        (once(), &new, &old, "admitted"),
        (Value::Null, &old, &old, unknown),
    ] {
        let verdict =
            ask_as(Hook::VmValidate, PLAIN_USER, (once(), before.clone()), own.clone(), reported.clone());
        assert_eq!(refused(verdict), expected, "{own} {reported} {before}");
    }
    let receiver = vm(json!({"runStrategy": "WaitAsReceiver"}), works());
    let message = refused(ask_as(Hook::VmValidate, PLAIN_USER, (receiver, Value::Null), new.clone(), new));
    assert!(message.starts_with("400 unknown variant `WaitAsReceiver`"), "{message}");
}

#[test]
fn a_refused_volume_is_named_with_its_path_in_the_vm() {
    let mut object = vm(json!({"running": true}), works());
    object["spec"]["template"]["spec"]["domain"]["devices"] =
        json!({"disks": [{"name": "a"}, {"name": "b"}]});
    object["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "a", "emptyDisk": {"capacity": "1Gi"}}, {"name": "b", "hostDisk": {"path": "/x"}}]);
    let verdict = ask(Hook::VmValidate, PLAIN_USER, object, Value::Null);
    assert_eq!(
        refused(verdict),
        "422 spec.template.spec.volumes[1].hostDisk: Forbidden: volume source not supported by v0.17.0: allowed are emptyDisk, containerDisk, cloudInitNoCloud"
    );
}

#[test]
fn what_was_admitted_once_stays_changeable_and_deletable() {
    let broken = json!({"domain": {}});
    let old = vm(json!({"running": true}), broken.clone());
    let stopped = vm(json!({"running": false}), broken.clone());
    assert_eq!(refused(ask(Hook::VmValidate, PLAIN_USER, stopped, old.clone())), "admitted");
    let changed = vm(json!({"running": true}), json!({"domain": {"cpu": {"cores": 1}}}));
    assert!(refused(ask(Hook::VmValidate, PLAIN_USER, changed.clone(), old.clone())).starts_with("422"));
    let mut going = changed;
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(refused(ask(Hook::VmValidate, PLAIN_USER, going, old)), "admitted");
}

#[test]
fn names_and_labels_of_the_control_plane_are_its_own() {
    let mut object = vm(json!({"running": true}), works());
    object["metadata"]["name"] = json!("x".repeat(64));
    object["spec"]["template"]["metadata"] = json!({"labels": {"kubevirt.io": "virt-api"}});
    let message = refused(ask(Hook::VmValidate, PLAIN_USER, object, Value::Null));
    assert!(message.contains("metadata.name: Invalid value"), "{message}");
    assert!(message.contains("spec.template.metadata.labels[kubevirt.io]: Forbidden"), "{message}");
}

#[test]
fn an_instance_is_what_it_was_started_with() {
    let old = vmi(works(), json!({"kubevirt.io/nodeName": "n"}));
    let more = vmi(json!({"domain": {"memory": {"guest": "1Gi"}}}), json!({"kubevirt.io/nodeName": "n"}));
    let moved = vmi(works(), json!({"kubevirt.io/nodeName": "m"}));
    let labelled = vmi(works(), json!({"kubevirt.io/nodeName": "n", "mine": "1"}));
    for (object, user, expected) in [
        (
            &more,
            PLAIN_USER,
            "422 spec: Forbidden: update of VMI object is restricted: its spec can't be changed",
        ),
        (&more, CONTROLLER, "admitted"),
        (
            &moved,
            PLAIN_USER,
            "422 metadata.labels[kubevirt.io/nodeName]: Forbidden: this label is KubeVirt's own",
        ),
        (&moved, CONTROLLER, "admitted"),
        (&labelled, PLAIN_USER, "admitted"),
    ] {
        assert_eq!(refused(ask(Hook::VmiValidateUpdate, user, object.clone(), old.clone())), expected);
    }
}

#[test]
fn a_created_instance_is_judged_and_filled_in() {
    let verdict =
        ask(Hook::VmiValidateCreate, PLAIN_USER, vmi(json!({"domain": {}}), json!({})), Value::Null);
    assert!(refused(verdict).starts_with("422 spec.domain.memory.guest: Required value"));
    let object = vmi(works(), json!({}));
    let Verdict::Patch(patch) = ask(Hook::VmiMutate, PLAIN_USER, object.clone(), Value::Null) else {
        panic!()
    };
    let mut filled = object;
    json_patch::patch(&mut filled, &patch).unwrap();
    assert_eq!(filled["spec"]["domain"]["machine"]["type"], "q35");
    assert_eq!(filled["spec"]["domain"]["devices"]["interfaces"][0]["macAddress"], "06:07:07:07:07:07");
    assert_eq!(ask(Hook::VmiMutate, PLAIN_USER, filled.clone(), Value::Null), Verdict::Admit);
    assert_eq!(refused(ask(Hook::VmiValidateCreate, PLAIN_USER, filled, Value::Null)), "admitted");
}

#[test]
fn a_filled_in_vm_is_valid() {
    let object = vm(json!({"running": true}), works());
    let Verdict::Patch(patch) = ask(Hook::VmMutate, PLAIN_USER, object.clone(), Value::Null) else {
        panic!()
    };
    let mut filled = object;
    json_patch::patch(&mut filled, &patch).unwrap();
    assert_eq!(refused(ask(Hook::VmValidate, PLAIN_USER, filled, Value::Null)), "admitted");
}

#[test]
fn no_migration_is_admitted_that_could_not_be_carried_out() {
    let migration = |name: &str| json!({"metadata": {"name": "m"}, "spec": {"vmiName": name}});
    let verdict = ask(Hook::MigrationValidateCreate, PLAIN_USER, migration("a"), Value::Null);
    assert_eq!(refused(verdict), "admitted");
    for (user, expected) in [
        (PLAIN_USER, "422 spec: Forbidden: update of Migration object's spec is restricted"),
        (CONTROLLER, "admitted"),
    ] {
        let verdict = ask(Hook::MigrationValidateUpdate, user, migration("b"), migration("a"));
        assert_eq!(refused(verdict), expected);
    }
    let verdict = ask(Hook::MigrationValidateCreate, PLAIN_USER, migration(""), Value::Null);
    assert_eq!(refused(verdict), "422 spec.vmiName: Required value: the instance to move");
}

fn replica_set(replicas: i32, label: &str) -> Value {
    json!({"metadata": {"name": "r"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]},
        "template": {"metadata": {"labels": {"app": label}}, "spec": works()}}})
}

#[test]
fn a_replica_set_waits_for_every_controller() {
    let new = Release::V0_18_0;
    let create = |set: Value, reported| {
        refused(ask_as(Hook::ReplicaSetValidate, PLAIN_USER, (set, Value::Null), new.clone(), reported))
    };
    assert_eq!(
        create(replica_set(1, "a"), Release::V0_17_0),
        "403 VirtualMachineInstanceReplicaSet is new in v0.18.0 and the version gate is closed: waiting for virt-handler on node a (v0.17.0)"
    );
    assert_eq!(create(replica_set(1, "a"), Release::V0_18_0), "admitted");
    let message = create(replica_set(-1, "b"), Release::V0_18_0);
    assert!(message.contains("spec.replicas: Invalid value: -1"), "{message}");
    assert!(
        message.contains("spec.selector: Invalid value: {\"app\": \"b\"}: must match the labels"),
        "{message}"
    );
}

#[test]
fn a_replica_set_that_exists_stays_changeable_behind_a_closed_gate() {
    let change = (replica_set(2, "a"), replica_set(1, "a"));
    let verdict = ask_as(Hook::ReplicaSetValidate, PLAIN_USER, change, Release::V0_18_0, Release::V0_17_0);
    assert_eq!(refused(verdict), "admitted");
}

#[test]
fn a_gate_that_closed_again_keeps_no_vm_from_starting() {
    let mut spec = works();
    spec["evictionStrategy"] = json!("LiveMigrate");
    let create = |user| {
        let object = (vmi(spec.clone(), json!({})), Value::Null);
        refused(ask_as(Hook::VmiValidateCreate, user, object, Release::V0_18_0, Release::V0_17_0))
    };
    assert!(create(PLAIN_USER).starts_with("422 spec.evictionStrategy: Forbidden: evictionStrategy is new"));
    assert_eq!(create(CONTROLLER), "admitted");
}

#[test]
fn what_virtctl_creates_is_admitted_by_every_release() {
    for manifest in [
        include_str!("../../../virtctl/goldens/vm-plain.yaml"),
        include_str!("../../../virtctl/goldens/vm-everything.yaml"),
        include_str!("../../../virtctl/goldens/vm-cloud.yaml"),
        include_str!("../../../virtctl/goldens/vm-base64.yaml"),
    ] {
        let object: Value = serde_saphyr::from_str(manifest).unwrap();
        for own in Release::ALL {
            let ask =
                |hook, object| ask_as(hook, PLAIN_USER, (object, Value::Null), own.clone(), own.clone());
            let Verdict::Patch(patch) = ask(Hook::VmMutate, object.clone()) else { panic!("{manifest}") };
            let mut filled = object.clone();
            json_patch::patch(&mut filled, &patch).unwrap();
            assert_eq!(refused(ask(Hook::VmValidate, filled)), "admitted", "{own}: {manifest}");
        }
    }
}
