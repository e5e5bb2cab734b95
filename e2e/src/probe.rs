//! People at work: requests of several kinds all the time, each counted, each failure kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use kubevirt_types::{VirtualMachine, VirtualMachineInstance};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::console;
use crate::vm::{Vms, tick_spec, tick_vm};

/// A request that takes longer has failed: nobody waits longer at a terminal.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The kind of request that attaches to a console.
pub const ATTACH: &str = "attach console";

/// What became of one kind of request.
#[derive(Debug, Clone, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    pub requests: u64,
    pub failed: u64,
    /// The longest time between two successes.
    pub longest_gap_ms: u64,
    pub slowest_ms: u64,
    /// How long before the end the last success was.
    pub last_success_ago_ms: Option<u64>,
    /// The first failures, word for word.
    pub failures: Vec<String>,
    #[serde(skip)]
    last_success: Option<Instant>,
}

impl Tally {
    fn add(&mut self, begun: Instant, outcome: Result<(), String>) {
        let now = Instant::now();
        self.requests += 1;
        self.slowest_ms = self.slowest_ms.max(now.duration_since(begun).as_millis() as u64);
        match outcome {
            Ok(()) => {
                if let Some(last) = self.last_success {
                    self.longest_gap_ms =
                        self.longest_gap_ms.max(now.duration_since(last).as_millis() as u64);
                }
                self.last_success = Some(now);
            }
            Err(failure) => {
                self.failed += 1;
                if self.failures.len() < 20 {
                    self.failures.push(failure);
                }
            }
        }
    }
}

type Tallies = Arc<Mutex<BTreeMap<&'static str, Tally>>>;

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As some people do, about twenty requests a second.
    People,
    /// About fifty.
    Fifty,
}

/// Probes that run until they are stopped.
pub struct Probes {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    tallies: Tallies,
}

impl Probes {
    /// Starts all of them in a namespace: VMs created, patched and deleted; instances created with dry-run;
    /// subresources read; the console of `vmi` attached and detached again.
    pub fn start(cluster: &Cluster, namespace: &str, vmi: &str, pace: Pace) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut probes = Self { stop, tasks: JoinSet::new(), tallies: Arc::default() };
        let vms = Vms::of(cluster, namespace);
        let every = |people: u64, fifty: u64| match pace {
            Pace::People => Duration::from_millis(people),
            Pace::Fifty => Duration::from_millis(fifty),
        };

        let worker = vms.clone();
        probes.spawn(&stopped, every(250, 250), "create, patch, delete VM", move |turn| {
            let vms = worker.clone();
            async move { work_on_a_vm(&vms, turn).await }
        });
        let worker = vms.clone();
        probes.spawn(&stopped, every(250, 100), "create VMI (dry run)", move |_| {
            let vms = worker.clone();
            async move { dry_run_vmi(&vms).await }
        });
        let (worker, evicted) = (vms, vmi.to_owned());
        probes.spawn(&stopped, every(1000, 500), "evict launcher (dry run)", move |_| {
            let (vms, vmi) = (worker.clone(), evicted.clone());
            async move { dry_run_eviction(&vms, &vmi).await }
        });
        let client = cluster.client.clone();
        probes.spawn(&stopped, every(100, 50), "GET subresource version", move |_| {
            let client = client.clone();
            async move { get(&client, "/apis/subresources.kubevirt.io/v1/version").await }
        });
        let client = cluster.client.clone();
        probes.spawn(&stopped, every(500, 150), "GET discovery", move |_| {
            let client = client.clone();
            async move { get(&client, "/apis/subresources.kubevirt.io/v1").await }
        });
        let (client, namespace, vmi) = (cluster.client.clone(), namespace.to_owned(), vmi.to_owned());
        probes.spawn(&stopped, every(1000, 1000), ATTACH, move |_| {
            let (client, namespace, vmi) = (client.clone(), namespace.clone(), vmi.clone());
            async move {
                let mut socket =
                    console::attach(&client, &namespace, &vmi).await.map_err(|e| format!("{e:#}"))?;
                match futures::StreamExt::next(&mut socket).await {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => Err(format!("attached, then {error}")),
                    None => Err("attached, then ended before a byte".to_owned()),
                }
            }
        });
        probes
    }

    fn spawn<F, R>(&mut self, stopped: &watch::Receiver<bool>, period: Duration, name: &'static str, work: F)
    where
        F: Fn(u64) -> R + Send + 'static,
        R: Future<Output = Result<(), String>> + Send,
    {
        let stopped = stopped.clone();
        let tallies = self.tallies.clone();
        tallies.lock().expect("no probe panics while it counts").insert(name, Tally::default());
        self.tasks.spawn(async move {
            let mut turn = 0;
            while !*stopped.borrow() {
                let begun = Instant::now();
                let outcome = tokio::time::timeout(REQUEST_LIMIT, work(turn))
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {} s", REQUEST_LIMIT.as_secs())));
                if let Some(tally) = tallies.lock().expect("no probe panics while it counts").get_mut(name) {
                    let at = jiff::Timestamp::now();
                    tally.add(begun, outcome.map_err(|failure| format!("{at}: {failure}")));
                }
                turn += 1;
                tokio::time::sleep(period.saturating_sub(begun.elapsed())).await;
            }
        });
    }

    /// Stops all and returns what became of each kind of request.
    ///
    /// # Errors
    /// When a probe broke: what it didn't ask it can't have found to fail.
    pub async fn finish(mut self) -> anyhow::Result<BTreeMap<&'static str, Tally>> {
        let ended = Instant::now();
        self.stop.send_replace(true);
        while let Some(outcome) = self.tasks.join_next().await {
            outcome?;
        }
        let mut tallies = self.tallies.lock().expect("no probe panics while it counts").clone();
        for tally in tallies.values_mut() {
            tally.last_success_ago_ms =
                tally.last_success.map(|last| ended.saturating_duration_since(last).as_millis() as u64);
        }
        Ok(tallies)
    }
}

/// One VM's life without an instance: created, patched, deleted.
async fn work_on_a_vm(vms: &Vms, turn: u64) -> Result<(), String> {
    let said = |what: &'static str| move |error: kube::Error| format!("{what}: {error}");
    let name = format!("probe-{turn}");
    let vm: VirtualMachine =
        serde_json::from_value(tick_vm(&name, "Halted", None)).map_err(|error| error.to_string())?;
    vms.vms.create(&PostParams::default(), &vm).await.map_err(said("create VM"))?;
    let patch =
        json!({"metadata": {"labels": {"turn": turn.to_string()}}, "spec": {"runStrategy": "Manual"}});
    vms.vms.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(said("patch VM"))?;
    vms.vms.delete(&name, &DeleteParams::default()).await.map_err(said("delete VM"))?;
    Ok(())
}

async fn dry_run_vmi(vms: &Vms) -> Result<(), String> {
    let vmi: VirtualMachineInstance = serde_json::from_value(json!({
        "metadata": {"name": "dry-run"}, "spec": tick_spec(None),
    }))
    .map_err(|error| error.to_string())?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    vms.vmis.create(&dry_run, &vmi).await.map(|_| ()).map_err(|error| format!("create VMI: {error}"))
}

/// What `kubectl drain --dry-run=server` asks: from v0.18.0 on a webhook has a say in it.
async fn dry_run_eviction(vms: &Vms, vmi: &str) -> Result<(), String> {
    let pods = vms.launcher_pods(vmi).await.map_err(|error| format!("{error:#}"))?;
    let pod = pods.first().ok_or("there is no launcher pod")?.name_any();
    let dry_run = EvictParams {
        post_options: PostParams { dry_run: true, ..PostParams::default() },
        ..EvictParams::default()
    };
    vms.pods.evict(&pod, &dry_run).await.map(|_| ()).map_err(|error| format!("evict {pod}: {error}"))
}

async fn get(client: &Client, path: &str) -> Result<(), String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map(|_| ()).map_err(|error| format!("GET {path}: {error}"))
}
