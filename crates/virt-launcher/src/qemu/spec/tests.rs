//! Objects in, guests or refusals out.

use serde_json::{Value, json};

use super::network::mac_of;
use super::*;
use crate::seed::Document;

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
    let default = InterfaceSpec {
        name: "default".into(),
        mac: "02:6f:e5:9d:2c:9c".into(),
        nic: Nic::Virtio,
        network: Masquerade::of("10.0.2.0/24").unwrap(),
        ports: Vec::new(),
    };
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
        with(disk(json!({"name": "a", "disk": {"bus": "sata", "readonly": true}})), empty.clone()),
        with(disk(json!({"name": "a", "cdrom": {"bus": "ide"}})), empty),
        with(disk(json!({"name": "a"})), json!([{"name": "a", "hostDisk": {"path": "x"}}])),
        with(disk(json!({"name": "a"})), json!([{"name": "a", "cloudInitNoCloud": {}}])),
        with(
            disk(json!({"name": "a", "disk": {"bus": "sata"}})),
            json!([{"name": "a", "cloudInitNoCloud": {"userData": "x"}}]),
        ),
        with(
            disk(json!({"name": "a"})),
            json!([{"name": "a", "cloudInitNoCloud": {"userDataBase64": "hidden!"}}]),
        ),
        with(json!({"interfaces": [{"name": "n", "ports": [{"port": 0}]}]}), json!([])),
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

#[test]
fn a_disk_is_what_its_volume_says() {
    let disks = parse(json!({
        "hostname": "front",
        "domain": {"memory": {"guest": "96Mi"}, "devices": {"disks": [
            {"name": "root", "bootOrder": 1}, {"name": "cd", "cdrom": {}}, {"name": "seed"}, {"name": "old", "disk": {"bus": "sata"}},
        ]}},
        "volumes": [
            {"name": "seed", "cloudInitNoCloud": {"userDataBase64": "aG\r\nk=\n", "networkDataSecretRef": {"name": "n"}}},
            {"name": "root", "containerDisk": {"image": "debian"}},
            {"name": "cd", "containerDisk": {"image": "tools@sha256:0123"}},
            {"name": "old", "emptyDisk": {"capacity": "1Ki"}},
        ],
    }))
    .unwrap()
    .disks;
    let seed = SeedSpec {
        instance_id: "tick.default".into(),
        hostname: "front".into(),
        user_data: Document::Inline(b"hi".to_vec()),
        network_data: Some(Document::Secret),
    };
    let disk = |name: &str, source, bus, readonly| DiskSpec {
        name: name.into(),
        volume: name.into(),
        source,
        bus,
        readonly,
        boot_order: (name == "root").then_some(1),
        serial: None,
    };
    let want = [
        disk("root", Source::Container { pinned: false }, Bus::Virtio, false),
        disk("cd", Source::Container { pinned: true }, Bus::SataCdrom, true),
        disk("seed", Source::Seed(seed), Bus::Virtio, true),
        disk("old", Source::Empty { bytes: 1024 }, Bus::Sata, false),
    ];
    assert_eq!(disks, want);
}

#[test]
fn what_is_on_one_node_only_keeps_a_guest_there() {
    let why = |volume: Value, disk: Value| {
        let named = |mut value: Value, name: &str| {
            value["name"] = json!(name);
            value
        };
        let seed = json!({"cloudInitNoCloud": {"userData": "x"}});
        let disks = [named(json!({}), "seed"), named(disk, "a")];
        let spec = parse(json!({
            "domain": {"memory": {"guest": "96Mi"}, "devices": {"disks": disks}},
            "volumes": [named(seed, "seed"), named(volume, "a")],
        }));
        spec.unwrap().not_migratable().unwrap_or_default()
    };
    let (empty, image) =
        (json!({"emptyDisk": {"capacity": "1Gi"}}), json!({"containerDisk": {"image": "x"}}));
    let pinned = json!({"containerDisk": {"image": "x@sha256:0"}});
    let readonly = json!({"disk": {"readonly": true}});
    for (volume, disk, want) in [
        (&empty, json!({}), r#"volume "a" is an emptyDisk: its content is on this node only"#),
        (&empty, readonly.clone(), ""),
        (
            &image,
            json!({}),
            r#"volume "a" is a containerDisk: what the guest writes to it is on this node only"#,
        ),
        (
            &pinned,
            json!({}),
            r#"volume "a" is a containerDisk: what the guest writes to it is on this node only"#,
        ),
        (
            &image,
            json!({"cdrom": {}}),
            r#"volume "a" is a containerDisk: its image isn't named by its digest, so another node may have another one"#,
        ),
        (&pinned, json!({"cdrom": {}}), ""),
        (&pinned, readonly, ""),
    ] {
        assert_eq!(why(volume.clone(), disk.clone()), want, "{volume} {disk}");
    }
}

#[test]
fn a_network_has_kubevirts_addresses() {
    let text = |cidr| {
        Masquerade::of(cidr)
            .map(|m| format!("{}/{} {} {} {}", m.network, m.prefix, m.gateway, m.guest, m.dns))
    };
    for (cidr, want) in [
        ("10.0.2.0/24", Some("10.0.2.0/24 10.0.2.1 10.0.2.2 10.0.2.254")),
        ("192.168.8.8/29", Some("192.168.8.8/29 192.168.8.9 192.168.8.10 192.168.8.14")),
        ("10.0.0.0/8", Some("10.0.0.0/8 10.0.0.1 10.0.0.2 10.255.255.254")),
        ("10.0.2.0/30", None),
        ("10.0.2.4/24", None),
        ("10.0.2.0/0", None),
        ("10.0.2.0/33", None),
        ("10.0.2.0", None),
        ("fd00::/64", None),
    ] {
        assert_eq!(text(cidr).as_deref(), want, "{cidr}");
    }
}
