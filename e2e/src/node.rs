//! What can be done to a node itself: its kubelet stopped, a process in it killed or paused, the node cordoned.
//!
//! Nodes of kind are containers of this machine's Docker. On a cluster of one's own only cordoning is possible.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::process::Command;

use crate::cluster::Cluster;

/// Whether this machine reaches into the nodes.
pub fn is_ours() -> bool {
    std::env::var("CLUSTER_KIND").is_ok_and(|kind| kind == "kind")
}

/// All that passes between a node of kind and the others.
const ISOLATION: [[&str; 3]; 4] =
    [["INPUT", "-i", "eth0"], ["OUTPUT", "-o", "eth0"], ["FORWARD", "-i", "eth0"], ["FORWARD", "-o", "eth0"]];

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(pub String);

/// What is sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Kill,
    Stop,
    Continue,
}

impl Node {
    /// Runs a command in the node.
    async fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("docker").arg("exec").arg(&self.0).args(command).output().await?;
        ensure!(
            output.status.success(),
            "{command:?} in node {}: {}",
            self.0,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops the kubelet; its containers go on.
    pub async fn stop_kubelet(&self) -> anyhow::Result<()> {
        self.run(&["systemctl", "stop", "kubelet"]).await.map(drop)
    }

    /// Starts the kubelet, where it doesn't run.
    pub async fn start_kubelet(&self) -> anyhow::Result<()> {
        self.run(&["systemctl", "start", "kubelet"]).await.map(drop)
    }

    /// Sends a signal to all processes of a pod of the control plane, which have its name in their environment.
    pub async fn signal(&self, pod: &str, signal: Signal) -> anyhow::Result<()> {
        let name = match signal {
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let script = format!(
            "found=$(grep -lzx 'POD_NAME={pod}' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); \
             test -n \"$found\" && kill -{name} $found && echo $found"
        );
        let found = self.run(&["sh", "-c", &script]).await.with_context(|| format!("signal {name}"))?;
        ensure!(!found.trim().is_empty(), "pod {pod} has no process on node {}", self.0);
        Ok(())
    }

    /// The resident memory of all processes of a pod of the control plane, in bytes.
    pub async fn resident(&self, pod: &str) -> anyhow::Result<u64> {
        let script = format!(
            "for p in $(grep -lzx 'POD_NAME={pod}' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do \
             grep ^VmRSS: /proc/$p/status; done"
        );
        let lines = self.run(&["sh", "-c", &script]).await.context("resident memory")?;
        let kibibytes = lines.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        let resident = 1024 * kibibytes.sum::<u64>();
        ensure!(resident > 0, "pod {pod} has no process on node {}", self.0);
        Ok(resident)
    }

    /// Kills QEMU of a launcher pod, and nothing else in it.
    pub async fn kill_qemu(&self, pod: &str) -> anyhow::Result<()> {
        let script = format!(
            "for p in $(grep -lzx 'POD_NAME={pod}' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do \
             grep -q ^qemu /proc/$p/comm && kill -KILL $p && echo $p; done"
        );
        let found = self.run(&["sh", "-c", &script]).await.context("kill QEMU")?;
        ensure!(!found.trim().is_empty(), "pod {pod} has no QEMU on node {}", self.0);
        Ok(())
    }

    /// Lets nothing through to a pod of the node any more, nor from it, but what the node itself says to it.
    pub async fn cut_off(&self, pod_ip: &str) -> anyhow::Result<()> {
        for side in ["-s", "-d"] {
            self.run(&["iptables", "-w", "-I", "FORWARD", side, pod_ip, "-j", "DROP"]).await?;
        }
        Ok(())
    }

    /// Undoes [`Self::cut_off`].
    pub async fn mend(&self, pod_ip: &str) -> anyhow::Result<()> {
        for side in ["-s", "-d"] {
            self.run(&["iptables", "-w", "-D", "FORWARD", side, pod_ip, "-j", "DROP"]).await?;
        }
        Ok(())
    }

    /// Kills a process of the node by its name.
    pub async fn kill(&self, process: &str) -> anyhow::Result<()> {
        self.run(&["pkill", "-KILL", "-x", process]).await.map(drop)
    }

    /// Lets nothing into the node and nothing out of it any more, neither its own nor its pods'.
    pub async fn isolate(&self) -> anyhow::Result<()> {
        for rule in ISOLATION {
            self.run(&[&["iptables", "-w", "-I"], rule.as_slice(), &["-j", "DROP"]].concat()).await?;
        }
        Ok(())
    }

    /// Undoes [`Self::isolate`].
    pub async fn rejoin(&self) -> anyhow::Result<()> {
        for rule in ISOLATION {
            self.run(&[&["iptables", "-w", "-D"], rule.as_slice(), &["-j", "DROP"]].concat()).await?;
        }
        Ok(())
    }

    /// Freezes the node: nothing in it runs, nothing of it is heard, and nothing of it is lost.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.docker("pause").await
    }

    /// Lets a frozen node go on where it stood.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.docker("unpause").await
    }

    async fn docker(&self, action: &str) -> anyhow::Result<()> {
        let output = Command::new("docker").arg(action).arg(&self.0).output().await?;
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "docker {action} {}: {complaint}", self.0);
        Ok(())
    }

    /// Whether a process of a pod runs, whatever the API server knows of the pod.
    pub async fn runs(&self, pod: &str) -> anyhow::Result<bool> {
        let script = format!("grep -lzx 'POD_NAME={pod}' /proc/[0-9]*/environ 2>/dev/null; true");
        Ok(!self.run(&["sh", "-c", &script]).await?.trim().is_empty())
    }

    /// Says whether new pods may come to the node.
    pub async fn cordon(&self, client: &Client, cordoned: bool) -> anyhow::Result<()> {
        let nodes: Api<ApiNode> = Api::all(client.clone());
        let value = cordoned.then_some(true);
        let patch = json!({"spec": {"unschedulable": value}});
        nodes.patch(&self.0, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Gives a node of ours back as a new cluster has it: its kubelet runs, and pods may come.
    pub async fn restore(&self, cluster: &Cluster) -> anyhow::Result<()> {
        if is_ours() {
            self.start_kubelet().await?;
            self.cordon(&cluster.client, false).await?;
        }
        Ok(())
    }
}
