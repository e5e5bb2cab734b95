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
            json!({"name": "root", "containerDisk": {"image": "x"}}),
            vec![
                "spec.volumes[1].containerDisk: Forbidden: volume source not supported by v0.17.0: allowed are emptyDisk"
                    .into(),
                format!(r#"spec.volumes[1].name: Not found: "root": {disks}"#),
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
            json!({"name": "scratch", "disk": {"bus": "ide"}, "bootOrder": 1}),
            vec![
                "spec.domain.devices.disks[1].bootOrder: Forbidden: field of a disk not supported by v0.17.0: allowed are name, disk, serial"
                    .into(),
                r#"spec.domain.devices.disks[1].disk.bus: Unsupported value: "ide": supported values: "virtio", "sata""#
                    .into(),
                r#"spec.domain.devices.disks[1].name: Duplicate value: "scratch""#.into(),
            ],
        ),
        (
            "/domain/devices/interfaces/0",
            json!({"name": "default", "bridge": {}, "model": "rtl8139", "macAddress": "01:00:00:00:00:01"}),
            vec![
                "spec.domain.devices.interfaces[0].bridge: Forbidden: field of an interface not supported by v0.17.0: allowed are name, masquerade, model, macAddress"
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
