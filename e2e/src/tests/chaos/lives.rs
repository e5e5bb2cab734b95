//! VMs that come and go, on every node and all along: there is no moment in which a node can't start one, give its console to
//! somebody, or stop it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use kube::api::PostParams;
use kubevirt_types::VirtualMachine;
use kubevirt_types::vm::PrintableStatus;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::console;
use crate::vm::{Vms, tick_vm};

/// VMs that are made, started, attached to, stopped and deleted on a node, one after the other.
pub struct Lives {
    stop: watch::Sender<bool>,
    task: JoinHandle<Lived>,
}

/// What became of them.
pub struct Lived {
    pub node: String,
    pub lives: u64,
    /// The slowest start.
    pub slowest: Duration,
    /// Why one didn't live as it should.
    pub failures: Vec<String>,
}

impl Lives {
    /// Inside of a [`tokio::task::LocalSet`]: waiting is not for other threads.
    pub fn start(vms: &Vms, node: String) -> Self {
        let (stop, stopped) = watch::channel(false);
        let vms = vms.clone();
        let task = tokio::task::spawn_local(async move {
            let mut lived = Lived { node, lives: 0, slowest: Duration::ZERO, failures: Vec::new() };
            while !*stopped.borrow() {
                let name = format!("life-{}-{}", lived.node, lived.lives);
                match live(&vms, &name, &lived.node).await {
                    Ok(start) => lived.slowest = lived.slowest.max(start),
                    Err(error) => lived.failures.push(format!("{}: {name}: {error:#}", Timestamp::now())),
                }
                lived.lives += 1;
            }
            lived
        });
        Self { stop, task }
    }

    /// Lets the last of them end.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<Lived> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

/// One VM's life; returns how long its start took.
async fn live(vms: &Vms, name: &str, node: &str) -> anyhow::Result<Duration> {
    let vm: VirtualMachine = serde_json::from_value(tick_vm(name, "Manual", Some(node)))?;
    vms.vms.create(&PostParams::default(), &vm).await.context("create")?;
    let begun = Instant::now();
    vms.subresource("virtualmachines", name, "start").await.context("start")?;
    vms.wait_running(name).await?;
    let took = begun.elapsed();
    // To hear it would be to let it boot, and two guests that boot all along leave no processor for the others.
    drop(console::attach(&vms.client, &vms.namespace, name).await.context("attach")?);
    vms.subresource("virtualmachines", name, "stop").await.context("stop")?;
    vms.wait_printable(name, PrintableStatus::Stopped).await?;
    vms.delete(name).await.context("delete")?;
    Ok(took)
}
