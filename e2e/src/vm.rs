//! Tick VMs: made, started, looked at, and asked who they really are.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{VirtualMachine, VirtualMachineInstance, VmiPhase, labels};
use serde_json::{Value, json};

use crate::cluster::{Cluster, registry};
use crate::console;
use crate::wait;

/// A guest boots within seconds; a loaded machine without KVM takes longer.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// The spec of an instance that prints a tick every 100 ms.
pub fn tick_spec(node: Option<&str>) -> Value {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 5,
        "domain": {
            "cpu": {"cores": 1},
            "memory": {"guest": "96Mi"},
            "firmware": {"kernelBoot": {
                "kernelArgs": "console=ttyS0 quiet",
                "container": {
                    "image": format!("{}/tick-guest:v0.17.0", registry()),
                    "imagePullPolicy": "IfNotPresent",
                    "kernelPath": "/boot/vmlinuz",
                    "initrdPath": "/boot/initramfs.img",
                },
            }},
            "devices": {},
        },
    });
    if let Some(node) = node {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    spec
}

/// A VirtualMachine around [`tick_spec`].
pub fn tick_vm(name: &str, run_strategy: &str, node: Option<&str>) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {
            "runStrategy": run_strategy,
            "template": {"metadata": {"labels": {"app": name}}, "spec": tick_spec(node)},
        },
    })
}

/// Who runs a VM: nothing of this may change while an update goes on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Incarnation {
    pub vmi_uid: String,
    pub pod: String,
    pub pod_uid: String,
    pub node: String,
    pub restarts: i32,
    /// The QEMU process's id in its pod and when it was started, as its launcher says.
    pub qemu: String,
}

/// The VMs of one namespace.
#[derive(Clone)]
pub struct Vms {
    pub client: Client,
    pub namespace: String,
    pub vms: Api<VirtualMachine>,
    pub vmis: Api<VirtualMachineInstance>,
    pub pods: Api<Pod>,
}

impl Vms {
    /// The VMs of one namespace.
    pub fn of(cluster: &Cluster, namespace: &str) -> Self {
        let client = cluster.client.clone();
        Self {
            namespace: namespace.to_owned(),
            vms: Api::namespaced(client.clone(), namespace),
            vmis: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            client,
        }
    }

    /// Creates a tick VM that runs always, on a node if one is named.
    pub async fn create(&self, name: &str, run_strategy: &str, node: Option<&str>) -> anyhow::Result<()> {
        self.create_from(tick_vm(name, run_strategy, node)).await
    }

    async fn create_from(&self, vm: Value) -> anyhow::Result<()> {
        let vm: VirtualMachine = serde_json::from_value(vm)?;
        let created = self.vms.create(&PostParams::default(), &vm).await;
        created.map(drop).with_context(|| format!("creating VM {}", vm.name_any()))
    }

    /// Creates a tick VM of other than the usual memory that runs always.
    pub async fn create_with_memory(&self, name: &str, memory: &str) -> anyhow::Result<()> {
        let mut vm = tick_vm(name, "Always", None);
        vm["spec"]["template"]["spec"]["domain"]["memory"]["guest"] = json!(memory);
        self.create_from(vm).await
    }

    /// Creates a tick VM that begins on a node, where there is room, and may go elsewhere when it is evicted.
    pub async fn create_near(&self, name: &str, node: &str) -> anyhow::Result<()> {
        let mut vm = tick_vm(name, "Always", None);
        vm["spec"]["template"]["spec"]["evictionStrategy"] = json!("LiveMigrate");
        vm["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": {
                "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}],
            }}],
        }});
        self.create_from(vm).await
    }

    /// Waits until an instance runs and is ready.
    pub async fn wait_running(&self, name: &str) -> anyhow::Result<()> {
        wait::until(format!("VMI {name} to run"), BOOT_LIMIT, async || {
            let vmi = self.vmis.get_opt(name).await?;
            let status = vmi.and_then(|vmi| vmi.status).unwrap_or_default();
            let ready = kubevirt_types::condition::is_true(&status.conditions, "Ready");
            wait::when(
                status.phase == VmiPhase::Running && ready,
                format!("phase {:?}, conditions {:?}", status.phase, status.conditions),
            )
        })
        .await
    }

    /// Waits for what `kubectl get vm` shows.
    pub async fn wait_printable(&self, name: &str, wanted: PrintableStatus) -> anyhow::Result<()> {
        wait::until(format!("VM {name} to be {wanted:?}"), BOOT_LIMIT, async || {
            let status = self.vms.get(name).await?.status.unwrap_or_default();
            wait::when(status.printable_status == Some(wanted), format!("{:?}", status.printable_status))
        })
        .await
    }

    /// Waits until a VM, its instance and its pods are gone.
    pub async fn wait_gone(&self, name: &str) -> anyhow::Result<()> {
        wait::until(format!("VM {name} to be gone"), BOOT_LIMIT, async || {
            let vm = self.vms.get_opt(name).await?.is_some();
            let vmi = self.vmis.get_opt(name).await?.is_some();
            let pods = self.launcher_pods(name).await?.len();
            wait::when(!vm && !vmi && pods == 0, format!("VM {vm}, VMI {vmi}, {pods} pods"))
        })
        .await
    }

    /// Deletes a VM and waits until nothing of it is left.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.vms.delete(name, &DeleteParams::default()).await?;
        self.wait_gone(name).await
    }

    /// The launcher pods of a VM.
    pub async fn launcher_pods(&self, name: &str) -> anyhow::Result<Vec<Pod>> {
        let launchers = ListParams::default().labels(&format!("{}=virt-launcher", labels::APP));
        let mut pods = self.pods.list(&launchers).await?.items;
        pods.retain(|pod| pod.annotations().get(labels::DOMAIN).is_some_and(|domain| domain == name));
        Ok(pods)
    }

    /// Who runs a VM.
    pub async fn incarnation(&self, name: &str) -> anyhow::Result<Incarnation> {
        let vmi = self.vmis.get(name).await?;
        let mut pods = self.launcher_pods(name).await?;
        // The source of a move stays, finished, as long as its instance.
        pods.retain(|pod| !is_finished(pod));
        let [pod] = pods.as_slice() else { anyhow::bail!("VM {name} has {} launcher pods", pods.len()) };
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let pod_name = pod.name_any();
        let qemu =
            console::exec(&self.client, &self.namespace, &pod_name, &["/usr/bin/virt-launcher", "probe"])
                .await?;
        let qemu: Value =
            serde_json::from_str(qemu.trim()).with_context(|| format!("probe said {qemu:?}"))?;
        Ok(Incarnation {
            vmi_uid: vmi.uid().to_owned(),
            pod: pod_name,
            pod_uid: pod.uid().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            restarts: statuses.map(|all| all.iter().map(|s| s.restart_count).sum()).unwrap_or_default(),
            qemu: format!("pid {} since {} ms", qemu["qemuPid"], qemu["qemuStartedUnixMs"]),
        })
    }

    /// A subresource request of a VM or VMI, as virtctl makes it.
    pub async fn subresource(&self, resource: &str, name: &str, action: &str) -> Result<String, kube::Error> {
        let path = format!(
            "/apis/subresources.kubevirt.io/v1/namespaces/{}/{resource}/{name}/{action}",
            self.namespace
        );
        let request = http::Request::put(path)
            .header("Content-Type", "application/json")
            .body(b"{}".to_vec())
            .expect("a path of names is a URI");
        self.client.request_text(request).await
    }
}

/// Whether all its containers have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Names of the nodes on which VMs can run.
pub async fn schedulable_nodes(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client.clone());
    let schedulable = ListParams::default().labels(&format!("{}=true", labels::SCHEDULABLE));
    Ok(nodes.list(&schedulable).await?.iter().map(ResourceExt::name_any).collect())
}
