//! Goldens of the pod, and the arithmetic of what it asks for.

use kubevirt_types::VirtualMachineInstance;
use serde_json::{Value, json};

use super::*;

fn config(use_emulation: bool) -> LauncherConfig {
    LauncherConfig {
        image: "registry:5000/kubevirt/virt-launcher:v0.18.0".into(),
        use_emulation,
        image_pull_policy: "IfNotPresent".into(),
        guest_image_pull_policy: "Always".into(),
    }
}

fn vmi(spec: Value) -> VirtualMachineInstance {
    serde_json::from_value(json!({
        "metadata": {
            "name": "tick", "namespace": "ns", "uid": "7c2f7d5e-0000-4000-8000-000000000001",
            "labels": {"app": "tick", "kubevirt.io/nodeName": "worker-1"},
        },
        "spec": spec,
    }))
    .unwrap()
}

#[test]
fn golden_tick_with_emulation() {
    let pod = launcher_pod(
        &vmi(json!({
            "terminationGracePeriodSeconds": 5,
            "domain": {
                "memory": {"guest": "96Mi"},
                "firmware": {"kernelBoot": {"kernelArgs": "console=ttyS0", "container": {
                    "image": "kubevirt/tick-guest:v1", "imagePullPolicy": "IfNotPresent",
                    "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd",
                }}},
                "devices": {},
            },
        })),
        &config(true),
    )
    .unwrap();
    insta::assert_yaml_snapshot!(pod);
}

#[test]
fn golden_everything_with_kvm() {
    let pod = launcher_pod(
        &vmi(json!({
            "hostname": "guest", "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "vms", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
                "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "tick"}},
            }]}},
            "domain": {
                "cpu": {"cores": 2, "sockets": 2},
                "memory": {"guest": "1Gi"},
                "resources": {"requests": {"memory": "512Mi"}, "limits": {"memory": "1Gi", "cpu": "2"}},
                "firmware": {"kernelBoot": {"container": {
                    "image": "guest:1", "imagePullSecret": "pull", "kernelPath": "/k",
                }}},
                "devices": {"autoattachGraphicsDevice": false},
            },
        })),
        &config(false),
    )
    .unwrap();
    insta::assert_yaml_snapshot!(pod);
}

#[test]
fn golden_disks_of_images_and_a_seed_of_secrets() {
    let object = vmi(json!({
        "domain": {
            "memory": {"guest": "512Mi"},
            "devices": {"interfaces": [{"name": "default", "masquerade": {}, "ports": [
                {"port": 22}, {"name": "www", "port": 8080}, {"name": "dns", "protocol": "UDP", "port": 8053}]}]},
        },
        "volumes": [
            {"name": "data", "emptyDisk": {"capacity": "1Gi"}},
            {"name": "root", "containerDisk": {"image": "debian:12", "imagePullSecret": "pull"}},
            {"name": "tools", "containerDisk": {
                "image": "tools:1", "imagePullSecret": "pull", "imagePullPolicy": "Never", "path": "/tools.iso"}},
            {"name": "init", "cloudInitNoCloud": {
                "secretRef": {"name": "users"}, "networkDataSecretRef": {"name": "networks"}}},
            {"name": "plain", "cloudInitNoCloud": {"userData": "#cloud-config"}},
        ],
    }));
    let pod = launcher_pod(&object, &config(true)).unwrap();
    insta::assert_yaml_snapshot!(pod.spec);
}

#[test]
fn high_ports_need_no_sysctl() {
    let interfaces = json!([{"name": "default", "masquerade": {}, "ports": [{"port": 1024}]}]);
    let devices = json!({ "interfaces": interfaces });
    let object = vmi(json!({"domain": {"memory": {"guest": "64Mi"}, "devices": devices}}));
    let spec = launcher_pod(&object, &config(true)).unwrap().spec.unwrap();
    assert_eq!(spec.security_context.unwrap().sysctls, None);
}

#[test]
fn a_guest_that_is_guaranteed_has_a_pod_that_is() {
    let pod = |resources| {
        let object = vmi(json!({
            "domain": {"memory": {"guest": "96Mi"}, "resources": resources, "devices": {}},
            "volumes": [{"name": "root", "containerDisk": {"image": "debian:12"}}],
        }));
        let spec = launcher_pod(&object, &config(true)).unwrap().spec.unwrap();
        spec.init_containers.unwrap().into_iter().chain(spec.containers)
    };
    let same = json!({"cpu": "1", "memory": "96Mi"});
    for container in pod(json!({"requests": same, "limits": same})) {
        let resources = container.resources.unwrap();
        let (requests, limits) = (resources.requests.unwrap(), resources.limits.unwrap());
        for name in ["cpu", "memory"] {
            assert_eq!(requests[name], limits[name], "{}: {name}", container.name);
        }
    }
    for container in pod(json!({"requests": same})) {
        assert_eq!(container.resources.unwrap().limits, None, "{}", container.name);
    }
}

#[test]
fn without_a_kernel_there_are_no_init_containers() {
    let pod =
        launcher_pod(&vmi(json!({"domain": {"memory": {"guest": "64Mi"}, "devices": {}}})), &config(true));
    let spec = pod.unwrap().spec.unwrap();
    assert_eq!(spec.init_containers, None);
    assert!(spec.volumes.unwrap().iter().all(|volume| volume.name != "kernel-boot"));
}

#[test]
fn names_are_the_same_for_the_same_uid_and_fit() {
    let mut object = vmi(json!({"domain": {"devices": {}}}));
    let name = pod_name(&object);
    assert_eq!(name, pod_name(&object));
    object.metadata.uid = Some("another".into());
    assert_ne!(name, pod_name(&object));
    object.metadata.name = Some(format!("{}.b", "a".repeat(100)));
    assert!(pod_name(&object).len() <= 63);
    object.metadata.name = Some(format!("{}-b", "a".repeat(42)));
    assert!(!pod_name(&object).contains("--"), "{}", pod_name(&object));
}

#[test]
fn memory_comes_from_the_first_that_says_it() {
    let memory = |domain: Value| {
        let pod = launcher_pod(&vmi(json!({ "domain": domain })), &config(false))?;
        let requests = pod.spec.unwrap().containers[0].resources.clone().unwrap().requests.unwrap();
        Ok::<i64, ResourcesError>(requests["memory"].0.parse().unwrap())
    };
    let mib = 1 << 20;
    let overhead = memory_overhead(64 * mib, 1, true, false);
    assert_eq!(overhead, 64 * mib / 512 + (112 + 8 + 32) * mib);
    assert_eq!(memory(json!({"memory": {"guest": "64Mi"}, "devices": {}})), Ok(64 * mib + overhead));
    let requested = json!({"resources": {"requests": {"memory": "64Mi"}}, "devices": {}});
    assert_eq!(memory(requested), Ok(64 * mib + overhead));
    assert_eq!(memory(json!({"devices": {}})), Err(ResourcesError::NoMemory));
    let error = memory(json!({"memory": {"guest": "much"}, "devices": {}})).unwrap_err().to_string();
    assert!(error.starts_with("spec.domain.memory.guest: \"much\""), "{error}");
}

#[test]
fn golden_target_of_a_migration() {
    let object = vmi(json!({
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "tick"}},
        }]}},
        "domain": {"memory": {"guest": "96Mi"}, "devices": {}},
    }));
    let migration = |uid: &str| {
        serde_json::from_value(json!({"metadata": {"name": "move", "uid": uid}, "spec": {"vmiName": "tick"}}))
            .unwrap()
    };
    let own = launcher_pod(&object, &config(true)).unwrap();
    let target = target_pod(&object, &migration("m1"), &config(true)).unwrap();
    assert_eq!(target, target_pod(&object, &migration("m1"), &config(true)).unwrap());
    assert_ne!(target.metadata.name, own.metadata.name);
    assert_ne!(target.metadata.name, Some(target_pod_name(&object, &migration("m2"))));
    // What QEMU is made from is the same.
    assert_eq!(target.spec.as_ref().unwrap().containers, own.spec.unwrap().containers);
    let affinity = target.spec.unwrap().affinity;
    insta::assert_yaml_snapshot!((target.metadata, affinity));
}
