//! Tables of what is admitted and what is refused in the spec of an instance.

use super::*;
use serde_json::{Value, json};

fn found(spec: Value) -> Vec<String> {
    let spec: VirtualMachineInstanceSpec = serde_json::from_value(spec).unwrap();
    let mut findings = Findings::default();
    validate(&spec, &Path::root("spec"), &Release::V0_17_0, &mut findings);
    findings.lines()
}

/// A spec that works, with one thing put in at `pointer`.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = json!({
        "domain": {
            "cpu": {"cores": 1},
            "memory": {"guest": "96Mi"},
            "resources": {"requests": {"memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "machine": {"type": "q35"},
            "firmware": {"uuid": "6a1a24a1-4061-4607-8bf4-a3963d0c5895", "kernelBoot": {
                "kernelArgs": "console=ttyS0",
                "container": {"image": "tick:v1", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"}}},
            "devices": {
                "disks": [{"name": "scratch", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "default", "masquerade": {}, "macAddress": "02:00:00:00:00:01"}]},
        },
        "terminationGracePeriodSeconds": 30,
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "scratch", "emptyDisk": {"capacity": "1Gi"}}],
    });
    if pointer.is_empty() {
        return spec;
    }
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match spec.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.insert(key.into(), value)),
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        other => panic!("{other}"),
    }
    spec
}

#[test]
fn what_works_is_admitted() {
    assert!(found(with("", json!(null))).is_empty());
    assert!(found(json!({"domain": {"resources": {"requests": {"memory": "64Mi"}}}})).is_empty());
    assert!(found(with("/domain/devices/disks/0/disk/bus", json!("sata"))).is_empty());
    for machine in ["pc", "pc-q35-7.2", "pc-i440fx-7.2"] {
        assert!(found(with("/domain/machine/type", json!(machine))).is_empty(), "{machine}");
    }
    assert!(found(json!({"domain": {"resources": {"limits": {"memory": "64Mi"}}}})).is_empty());
    assert!(found(with("/domain/cpu/cores", json!(4))).is_empty());
}

#[test]
fn what_does_not_is_named_with_what_is_allowed() {
    let disks = "no disk in domain.devices.disks has this name";
    let label =
        "must be at most 63 lower case letters, digits and '-', and start and end with a letter or digit";
    let absolute = "must be an absolute path of a file in the image, without '..'";
    let port_name = "must be at most 15 lower case letters, digits and '-', with a letter, and no '-' at its start, at its end or beside another";
    let cases: Vec<(&str, Value, Vec<String>)> = vec![
        (
            "/domain/memory/guest",
            json!("0"),
            vec![r#"spec.domain.memory.guest: Invalid value: "0": must be greater than 0"#.into()],
        ),
        (
            "/domain/memory/guest",
            json!("lots"),
            vec![
                r#"spec.domain.memory.guest: Invalid value: "lots": "lots" is not a quantity: expected a number with an optional suffix such as 500m, 2, 96Mi or 1G"#
                    .into(),
            ],
        ),
        (
            "/domain/memory/guest",
            json!("2Gi"),
            vec![
                r#"spec.domain.memory.guest: Invalid value: "2Gi": must be less than or equal to the memory limit 1Gi"#
                    .into(),
            ],
        ),
        (
            "/domain/resources",
            json!({"requests": {"memory": "2Gi", "gpu": "1"}, "limits": {"memory": "1Gi"}}),
            vec![
                r#"spec.domain.resources.requests: Unsupported value: "gpu": supported values: "cpu", "memory""#.into(),
                r#"spec.domain.resources.requests[memory]: Invalid value: "2Gi": must be less than or equal to the memory limit 1Gi"#
                    .into(),
            ],
        ),
        (
            "/domain/cpu",
            json!({"cores": 0, "sockets": 17, "threads": 17}),
            vec![
                "spec.domain.cpu.cores: Invalid value: 0: must be greater than 0".into(),
                "spec.domain.cpu: Invalid value: 289: cores x sockets x threads must be at most 288".into(),
            ],
        ),
        (
            "/domain/cpu/model",
            json!("max,+vmx"),
            vec![
                r#"spec.domain.cpu.model: Invalid value: "max,+vmx": must be at most 64 letters, digits, '-', '_' and '.', and start with none of '-' and '.'"#
                    .into(),
            ],
        ),
        (
            "/domain/machine/type",
            json!("virt"),
            vec![r#"spec.domain.machine.type: Unsupported value: "virt": supported values: "q35", "pc", "pc-q35-<version>", "pc-i440fx-<version>""#.into()],
        ),
        (
            "/domain/firmware/uuid",
            json!("x"),
            vec![
                r#"spec.domain.firmware.uuid: Invalid value: "x": must be a uuid such as 6a1a24a1-4061-4607-8bf4-a3963d0c5895"#
                    .into(),
            ],
        ),
        (
            "/domain/firmware/kernelBoot",
            json!({"kernelArgs": "quiet"}),
            vec![
                "spec.domain.firmware.kernelBoot.container: Required value: kernelArgs need a kernel: name an image that holds one"
                    .into(),
            ],
        ),
        (
            "/domain/firmware/kernelBoot/container",
            json!({"image": "", "kernelPath": "boot/k", "initrdPath": "/../i", "imagePullPolicy": "Never "}),
            vec![
                "spec.domain.firmware.kernelBoot.container.image: Required value: the image that holds kernel and initrd"
                    .into(),
                r#"spec.domain.firmware.kernelBoot.container.imagePullPolicy: Unsupported value: "Never ": supported values: "Always", "IfNotPresent", "Never""#
                    .into(),
                format!(
                    r#"spec.domain.firmware.kernelBoot.container.kernelPath: Invalid value: "boot/k": {absolute}"#
                ),
                format!(
                    r#"spec.domain.firmware.kernelBoot.container.initrdPath: Invalid value: "/../i": {absolute}"#
                ),
            ],
        ),
        (
            "/volumes/-",
            json!({"name": "root", "persistentVolumeClaim": {"claimName": "x"}}),
            vec![
                "spec.volumes[1].persistentVolumeClaim: Forbidden: volume source not supported by v0.17.0: allowed are emptyDisk, containerDisk, cloudInitNoCloud"
                    .into(),
                format!(r#"spec.volumes[1].name: Not found: "root": {disks}"#),
            ],
        ),
        (
            "/volumes/0",
            json!({"name": "scratch", "emptyDisk": {"capacity": "1Gi"}, "containerDisk": {
                "image": " ", "imagePullPolicy": "Sometimes", "path": "disk/../x"}}),
            vec![
                "spec.volumes[0].containerDisk: Forbidden: a volume has one source".into(),
                "spec.volumes[0].containerDisk.image: Required value: the container image that holds the disk's image"
                    .into(),
                r#"spec.volumes[0].containerDisk.imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never""#
                    .into(),
                format!(r#"spec.volumes[0].containerDisk.path: Invalid value: "disk/../x": {absolute}"#),
            ],
        ),
        (
            "/volumes/0",
            json!({"name": "scratch"}),
            vec![
                "spec.volumes[0]: Required value: a volume source: allowed are emptyDisk, containerDisk, cloudInitNoCloud"
                    .into(),
            ],
        ),
        (
            "/volumes/0",
            json!({"name": "Root", "emptyDisk": {"capacity": "0"}}),
            vec![
                format!(r#"spec.volumes[0].name: Invalid value: "Root": {label}"#),
                r#"spec.volumes[0].emptyDisk.capacity: Invalid value: "0": must be greater than 0"#.into(),
                format!(r#"spec.volumes[0].name: Not found: "Root": {disks}"#),
                r#"spec.domain.devices.disks[0].name: Not found: "scratch": no volume in volumes has this name"#
                    .into(),
            ],
        ),
        (
            "/domain/devices/disks/-",
            json!({"name": "scratch", "disk": {"bus": "ide"}, "bootOrder": 0, "lun": {}}),
            vec![
                "spec.domain.devices.disks[1].lun: Forbidden: field of a disk not supported by v0.17.0: allowed are name, disk, cdrom, serial, bootOrder"
                    .into(),
                r#"spec.domain.devices.disks[1].disk.bus: Unsupported value: "ide": supported values: "virtio", "sata""#
                    .into(),
                "spec.domain.devices.disks[1].bootOrder: Invalid value: 0: must be greater than 0".into(),
                r#"spec.domain.devices.disks[1].name: Duplicate value: "scratch""#.into(),
            ],
        ),
        (
            "/domain/devices/disks/0",
            json!({"name": "scratch", "disk": {}, "cdrom": {"bus": "usb", "readonly": false}}),
            vec![
                "spec.domain.devices.disks[0].cdrom: Forbidden: it is a disk or a cdrom, not both".into(),
                r#"spec.domain.devices.disks[0].cdrom.bus: Unsupported value: "usb": supported values: "sata""#
                    .into(),
                "spec.domain.devices.disks[0].cdrom.readonly: Invalid value: false: a cdrom can't be written"
                    .into(),
            ],
        ),
        (
            "/domain/devices/disks",
            json!([{"name": "scratch", "bootOrder": 1}, {"name": "scratch", "bootOrder": 1}]),
            vec![
                r#"spec.domain.devices.disks[1].bootOrder: Duplicate value: "1""#.into(),
                r#"spec.domain.devices.disks[1].name: Duplicate value: "scratch""#.into(),
            ],
        ),
        (
            "/domain/devices/interfaces/0/ports",
            json!([{"port": 0, "name": "a.b"}, {"port": 80, "name": "www"}, {"port": 80, "protocol": "UDP", "name": "www"},
                {"port": 80, "protocol": "TCP"}]),
            vec![
                "spec.domain.devices.interfaces[0].ports[0].port: Invalid value: 0: must be between 1 and 65535"
                    .into(),
                format!(r#"spec.domain.devices.interfaces[0].ports[0].name: Invalid value: "a.b": {port_name}"#),
                r#"spec.domain.devices.interfaces[0].ports[2].name: Duplicate value: "www""#.into(),
                r#"spec.domain.devices.interfaces[0].ports[3].port: Duplicate value: "TCP 80""#.into(),
            ],
        ),
        (
            "/domain/devices/interfaces/0",
            json!({"name": "default", "bridge": {}, "model": "rtl8139", "macAddress": "01:00:00:00:00:01"}),
            vec![
                "spec.domain.devices.interfaces[0].bridge: Forbidden: field of an interface not supported by v0.17.0: allowed are name, masquerade, model, macAddress, ports"
                    .into(),
                r#"spec.domain.devices.interfaces[0].model: Unsupported value: "rtl8139": supported values: "virtio", "e1000""#
                    .into(),
                r#"spec.domain.devices.interfaces[0].macAddress: Invalid value: "01:00:00:00:00:01": must be a unicast MAC address such as 02:00:5e:10:00:01"#
                    .into(),
            ],
        ),
        (
            "/networks/0",
            json!({"name": "default", "multus": {"networkName": "x"}}),
            vec!["spec.networks[0].multus: Forbidden: network not supported by v0.17.0: allowed are pod".into()],
        ),
        (
            "/terminationGracePeriodSeconds",
            json!(-1),
            vec![
                "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0, and at most 31536000".into(),
            ],
        ),
        ("/hostname", json!("a.b"), vec![format!(r#"spec.hostname: Invalid value: "a.b": {label}"#)]),
    ];
    for (pointer, value, expected) in cases {
        assert_eq!(found(with(pointer, value.clone())), expected, "{pointer} = {value}");
    }
}

#[test]
fn memory_must_be_said_somewhere() {
    assert_eq!(
        found(json!({"domain": {}})),
        [
            "spec.domain.memory.guest: Required value: the guest's memory, such as 96Mi (or resources.requests.memory)"
        ]
    );
}

#[test]
fn disks_with_an_image_or_a_seed_are_admitted() {
    let root = json!({"image": "r/debian:12@sha256:00", "imagePullSecret": "p", "imagePullPolicy": "Always",
        "path": "/disk/debian.qcow2"});
    let seed = json!({"userDataBase64": "I2Nsb3Vk\nLWNvbmZpZwo=\r\n", "networkData": "version: 2"});
    for (volume, disk) in [
        (json!({"containerDisk": {"image": "r/debian"}}), json!({"disk": {"bus": "virtio"}, "bootOrder": 2})),
        (json!({"containerDisk": root}), json!({"disk": {"bus": "sata"}})),
        (json!({"containerDisk": {"image": "r/cd"}}), json!({"cdrom": {"bus": "sata", "readonly": true}})),
        (json!({"cloudInitNoCloud": seed}), json!({"cdrom": {}})),
        (json!({"cloudInitNoCloud": {"userData": ""}}), json!({"disk": {"readonly": false}})),
        (
            json!({"cloudInitNoCloud": {"secretRef": {"name": "s"}, "networkDataSecretRef": {"name": "n"}}}),
            json!({}),
        ),
    ] {
        let named = |mut value: Value| {
            value["name"] = json!("scratch");
            json!([value])
        };
        let mut spec = with("/domain/devices/disks", named(disk.clone()));
        spec["volumes"] = named(volume.clone());
        assert_eq!(found(spec), Vec::<String>::new(), "{volume} {disk}");
    }
}

#[test]
fn cloud_init_is_told_in_one_form_and_never_repeated() {
    let seed =
        |source: Value| found(with("/volumes/0", json!({"name": "scratch", "cloudInitNoCloud": source})));
    let at = "spec.volumes[0].cloudInitNoCloud";
    assert_eq!(
        seed(json!({})),
        [format!("{at}: Required value: user data: one of userData, userDataBase64, secretRef")]
    );
    assert_eq!(
        seed(json!({"userData": "x", "secretRef": {"name": ""}, "networkData": "", "networkDataBase64": ""})),
        [
            format!("{at}.secretRef: Forbidden: user data is given already, as userData"),
            format!("{at}.secretRef.name: Required value: the name of a Secret"),
            format!("{at}.networkDataBase64: Forbidden: network data is given already, as networkData"),
        ]
    );
    let found = seed(json!({"userData": "p".repeat(2049), "networkDataBase64": "!hidden!"}));
    assert_eq!(
        found,
        [
            format!(
                "{at}.userData: Invalid value: 2049 bytes: user data exceeds 2048 byte limit: put it into a Secret and name that as secretRef"
            ),
            format!("{at}.networkDataBase64: Invalid value: (not shown): is not base64"),
        ]
    );
    assert!(seed(json!({"userData": "p".repeat(2048)})).is_empty());
}

#[test]
fn a_seed_on_sata_is_a_cdrom() {
    let mut spec = with("/volumes/0", json!({"name": "scratch", "cloudInitNoCloud": {"userData": ""}}));
    spec["domain"]["devices"]["disks"][0]["disk"]["bus"] = json!("sata");
    assert_eq!(
        found(spec),
        [
            r#"spec.domain.devices.disks[0].disk.bus: Invalid value: "sata": cloudInitNoCloud is read-only, and a sata disk can't be: use cdrom, or bus virtio"#
        ]
    );
}

#[test]
fn the_guests_network_has_room_for_three() {
    for (cidr, fits) in [
        ("10.0.2.0/24", true),
        ("192.168.0.0/29", true),
        ("10.0.0.0/8", true),
        ("192.168.0.0/30", false),
        ("10.0.2.1/24", false),
        ("10.0.2.0", false),
        ("127.0.0.0/8", false),
        ("224.0.0.0/8", false),
        ("0.0.0.0/1", false),
        ("10.0.2.0/0", false),
        ("fd00::/64", false),
    ] {
        let found = found(with("/networks/0/pod", json!({ "vmNetworkCIDR": cidr })));
        let refusal = format!(
            "spec.networks[0].pod.vmNetworkCIDR: Invalid value: {cidr:?}: must be an IPv4 network of at most 29 bits, such as 10.0.2.0/24"
        );
        assert_eq!(found, if fits { vec![] } else { vec![refusal] }, "{cidr}");
    }
}

#[test]
fn a_ports_name_is_one_that_a_container_may_have() {
    for (name, fits) in [
        ("www", true),
        ("a-1", true),
        ("123456789012345", false),
        ("12345678901234a", true),
        ("123456789012345a", false),
        ("", false),
        ("-a", false),
        ("a-", false),
        ("a--b", false),
        ("Www", false),
    ] {
        let found = found(with("/domain/devices/interfaces/0/ports", json!([{"port": 80, "name": name}])));
        assert_eq!(found.is_empty(), fits, "{name}: {found:?}");
    }
}
