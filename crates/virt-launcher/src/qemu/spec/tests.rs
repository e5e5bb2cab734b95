//! Objects in, guests or refusals out.

use serde_json::{Value, json};

use super::devices::mac_of;
use super::*;

const UID: &str = "6fe59d2c-9c0b-4f0e-8a80-0123456789ab";

fn parse(spec: Value) -> Result<GuestSpec, SpecError> {
    let vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "tick", "namespace": "default", "uid": UID}, "spec": spec,
    });
    GuestSpec::parse(vmi.to_string().as_bytes(), UID)
}

#[test]
fn what_is_absent_gets_its_default() {
    let guest = parse(json!({"domain": {"memory": {"guest": "96Mi"}, "devices": {}}})).unwrap();
    assert_eq!(guest.machine, "q35");
    assert_eq!(guest.uuid, UID);
    assert_eq!(guest.topology, (1, 1, 1));
    assert_eq!(guest.memory_mib, 96);
    assert!(guest.console && guest.graphics && !guest.rng && !guest.start_paused);
    let default = InterfaceSpec { name: "default".into(), mac: "02:6f:e5:9d:2c:9c".into(), nic: Nic::Virtio };
    assert_eq!(guest.interfaces, [default]);
}

#[test]
fn a_guest_can_begin_paused() {
    let domain = json!({"memory": {"guest": "96Mi"}});
    assert!(parse(json!({"startStrategy": "Paused", "domain": domain})).unwrap().start_paused);
}

#[test]
fn memory_comes_from_where_the_user_wrote_it() {
    for (domain, want) in [
        (json!({"memory": {"guest": "1G"}}), 954),
        (json!({"resources": {"requests": {"memory": "64Mi"}}}), 64),
        (json!({"resources": {"limits": {"memory": "65Mi"}}}), 65),
        (json!({"memory": {"guest": "32Mi"}, "resources": {"requests": {"memory": "64Mi"}}}), 32),
    ] {
        assert_eq!(parse(json!({ "domain": domain })).unwrap().memory_mib, want);
    }
}

#[test]
fn refusals_name_the_field() {
    let with = |devices: Value, volumes: Value| {
        parse(json!({
            "domain": {"memory": {"guest": "96Mi"}, "devices": devices}, "volumes": volumes,
        }))
    };
    let disk = |disk: Value| json!({"disks": [disk]});
    let empty = json!([{"name": "a", "emptyDisk": {"capacity": "1Gi"}}]);
    let refusals = [
        parse(json!({"domain": {}})),
        parse(json!({"domain": {"memory": {"guest": "-1"}}})),
        parse(json!({"domain": {"memory": {"guest": "1Gi"}, "machine": {"type": "q35,smm=on"}}})),
        parse(json!({"domain": {"memory": {"guest": "1Gi"}, "cpu": {"cores": 0}}})),
        parse(json!({"domain": {"memory": {"guest": "1Gi"}, "firmware": {"uuid": "x"}}})),
        with(disk(json!({"name": "b"})), empty.clone()),
        with(disk(json!({"name": "../a"})), empty.clone()),
        with(disk(json!({"name": "a", "disk": {"bus": "scsi"}})), empty.clone()),
        with(disk(json!({"name": "a", "disk": {"bus": "sata", "readonly": true}})), empty),
        with(disk(json!({"name": "a"})), json!([{"name": "a", "containerDisk": {"image": "x"}}])),
        with(json!({"interfaces": [{"name": "n", "macAddress": "1:2"}]}), json!([])),
        with(json!({"interfaces": [{"name": "n", "model": "ne2k"}]}), json!([])),
    ];
    let texts: Vec<String> = refusals.into_iter().map(|refusal| refusal.unwrap_err().to_string()).collect();
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn another_instance_is_refused() {
    let vmi = json!({"metadata": {"name": "a", "namespace": "b", "uid": "other"}, "spec": {"domain": {}}});
    let refusal = GuestSpec::parse(vmi.to_string().as_bytes(), UID).unwrap_err();
    assert!(matches!(refusal, SpecError::OtherInstance { .. }), "{refusal}");
    assert!(matches!(GuestSpec::parse(b"{", UID), Err(SpecError::Unreadable(_))));
}

#[test]
fn every_interface_has_its_own_address() {
    assert_eq!(mac_of(UID, 0), "02:6f:e5:9d:2c:9c");
    assert_eq!(mac_of(UID, 1), "02:6f:e5:9d:2c:9d");
    assert_eq!(mac_of("", 0), "02:00:00:00:00:00");
}
