//! People at work: requests of several kinds all the time, each counted, each failure kept.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use kubevirt_types::{VirtualMachine, VirtualMachineInstance};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::Cluster;
use crate::console;
use crate::vm::{Vms, tick_spec, tick_vm};

/// A request that takes longer has failed: nobody waits longer at a terminal.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// A probe that broke breaks all: what it didn't ask it can't have found to fail.
const UNBROKEN: &str = "a probe doesn't panic";
/// So many requests of a kind in flight don't disturb each other.
const MANY: usize = 64;
/// A console has one seat: who comes second sends the first away.
const ONE: usize = 1;

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
    /// When it began.
    pub longest_gap_from: Option<Timestamp>,
    pub slowest_ms: u64,
    /// How long before the end the last success was.
    pub last_success_ago_ms: Option<u64>,
    /// The first failures, word for word.
    pub failures: Vec<String>,
    #[serde(skip)]
    last_success: Option<Instant>,
}

impl Tally {
    fn add(&mut self, begun: Instant, requests: u64, outcome: Result<(), Failure>) {
        let now = Instant::now();
        self.requests += outcome.as_ref().map_or_else(|failure| failure.asked, |()| requests);
        self.slowest_ms = self.slowest_ms.max(now.duration_since(begun).as_millis() as u64);
        match outcome {
            Ok(()) => {
                let gap = self.last_success.map_or(Duration::ZERO, |last| now.duration_since(last));
                if gap.as_millis() as u64 > self.longest_gap_ms {
                    self.longest_gap_ms = gap.as_millis() as u64;
                    self.longest_gap_from = Timestamp::now().checked_sub(gap).ok();
                }
                self.last_success = Some(now);
            }
            Err(failure) => {
                self.failed += 1;
                if self.failures.len() < 20 {
                    self.failures.push(format!("{}: {}", Timestamp::now(), failure.why));
                }
            }
        }
    }
}

/// Why a turn failed, and how many of its requests had been asked by then.
struct Failure {
    asked: u64,
    why: String,
}

impl Failure {
    fn at(asked: u64, why: impl Display) -> Self {
        Self { asked, why: why.to_string() }
    }
}

/// A kind of request.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    /// Between two of them.
    period: Duration,
    /// How many requests one of them is.
    requests: u64,
    /// So many wait for their answers; the next is asked when one of them has it.
    in_flight: usize,
}

type Tallies = Arc<Mutex<BTreeMap<&'static str, Tally>>>;

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As some people do: about thirty requests a second.
    People,
    /// Fifty requests a second.
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
        let life =
            Kind { name: "create, patch, delete VM", period: every(250, 500), requests: 3, in_flight: MANY };
        probes.spawn(&stopped, life, move |turn| {
            let vms = worker.clone();
            async move { work_on_a_vm(&vms, turn).await }
        });
        let worker = vms.clone();
        let admission =
            Kind { name: "create VMI (dry run)", period: every(250, 100), requests: 1, in_flight: MANY };
        probes.spawn(&stopped, admission, move |_| {
            let vms = worker.clone();
            async move { dry_run_vmi(&vms).await }
        });
        let (worker, evicted) = (vms, vmi.to_owned());
        let eviction =
            Kind { name: "evict launcher (dry run)", period: every(1000, 500), requests: 2, in_flight: MANY };
        probes.spawn(&stopped, eviction, move |_| {
            let (vms, vmi) = (worker.clone(), evicted.clone());
            async move { dry_run_eviction(&vms, &vmi).await }
        });
        let client = cluster.client.clone();
        let subresource =
            Kind { name: "GET subresource version", period: every(100, 50), requests: 1, in_flight: MANY };
        probes.spawn(&stopped, subresource, move |_| {
            let client = client.clone();
            async move { get(&client, "/apis/subresources.kubevirt.io/v1/version").await }
        });
        let client = cluster.client.clone();
        let discovery = Kind { name: "GET discovery", period: every(500, 112), requests: 1, in_flight: MANY };
        probes.spawn(&stopped, discovery, move |_| {
            let client = client.clone();
            async move { get(&client, "/apis/subresources.kubevirt.io/v1").await }
        });
        let (client, namespace, vmi) = (cluster.client.clone(), namespace.to_owned(), vmi.to_owned());
        let attach = Kind { name: ATTACH, period: every(1000, 1000), requests: 1, in_flight: ONE };
        probes.spawn(&stopped, attach, move |_| {
            let (client, namespace, vmi) = (client.clone(), namespace.clone(), vmi.clone());
            async move {
                let attached = console::attach(&client, &namespace, &vmi).await;
                let mut socket = attached.map_err(|error| Failure::at(1, format!("{error:#}")))?;
                match futures::StreamExt::next(&mut socket).await {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => Err(Failure::at(1, format!("attached, then {error}"))),
                    None => Err(Failure::at(1, "attached, then ended before a byte")),
                }
            }
        });
        probes
    }

    /// Asks at a steady pace, whether or not the answer to what was asked before is there: who waits for each answer asks
    /// less the slower they come, and would see less of a gap.
    fn spawn<F, R>(&mut self, stopped: &watch::Receiver<bool>, kind: Kind, work: F)
    where
        F: Fn(u64) -> R + Send + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let mut stopped = stopped.clone();
        let tallies = self.tallies.clone();
        tallies.lock().expect("no probe panics while it counts").insert(kind.name, Tally::default());
        self.tasks.spawn(async move {
            let mut pace = interval(kind.period);
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut asked = JoinSet::new();
            for turn in 0.. {
                tokio::select! {
                    _ = pace.tick() => {}
                    _ = stopped.changed() => break,
                }
                while let Some(over) = asked.try_join_next() {
                    over.expect(UNBROKEN);
                }
                if asked.len() >= kind.in_flight
                    && let Some(over) = asked.join_next().await
                {
                    over.expect(UNBROKEN);
                }
                let (answer, tallies) = (work(turn), tallies.clone());
                asked.spawn(async move {
                    let begun = Instant::now();
                    // How many of a turn were asked by then isn't known.
                    let late =
                        |_| Err(Failure::at(1, format!("no answer within {} s", REQUEST_LIMIT.as_secs())));
                    let outcome = tokio::time::timeout(REQUEST_LIMIT, answer).await.unwrap_or_else(late);
                    let mut tallies = tallies.lock().expect("no probe panics while it counts");
                    if let Some(tally) = tallies.get_mut(kind.name) {
                        tally.add(begun, kind.requests, outcome);
                    }
                });
            }
            asked.join_all().await;
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
            // A gap that hadn't ended is one, too.
            tally.longest_gap_ms = tally.longest_gap_ms.max(tally.last_success_ago_ms.unwrap_or_default());
        }
        Ok(tallies)
    }
}

/// One VM's life without an instance: created, patched, deleted.
async fn work_on_a_vm(vms: &Vms, turn: u64) -> Result<(), Failure> {
    let said = |asked: u64, what: &'static str| {
        move |error: kube::Error| Failure::at(asked, format!("{what}: {error}"))
    };
    let name = format!("probe-{turn}");
    let vm: VirtualMachine =
        serde_json::from_value(tick_vm(&name, "Halted", None)).map_err(|error| Failure::at(0, error))?;
    vms.vms.create(&PostParams::default(), &vm).await.map_err(said(1, "create VM"))?;
    let patch =
        json!({"metadata": {"labels": {"turn": turn.to_string()}}, "spec": {"runStrategy": "Manual"}});
    vms.vms.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(said(2, "patch VM"))?;
    vms.vms.delete(&name, &DeleteParams::default()).await.map_err(said(3, "delete VM"))?;
    Ok(())
}

async fn dry_run_vmi(vms: &Vms) -> Result<(), Failure> {
    let vmi: VirtualMachineInstance = serde_json::from_value(json!({
        "metadata": {"name": "dry-run"}, "spec": tick_spec(None),
    }))
    .map_err(|error| Failure::at(0, error))?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    vms.vmis
        .create(&dry_run, &vmi)
        .await
        .map(|_| ())
        .map_err(|error| Failure::at(1, format!("create VMI: {error}")))
}

/// What `kubectl drain --dry-run=server` asks: from v0.18.0 on a webhook has a say in it.
async fn dry_run_eviction(vms: &Vms, vmi: &str) -> Result<(), Failure> {
    let pods = vms.launcher_pods(vmi).await.map_err(|error| Failure::at(1, format!("{error:#}")))?;
    let pod = pods.first().ok_or_else(|| Failure::at(1, "there is no launcher pod"))?.name_any();
    let dry_run = EvictParams {
        post_options: PostParams { dry_run: true, ..PostParams::default() },
        ..EvictParams::default()
    };
    vms.pods
        .evict(&pod, &dry_run)
        .await
        .map(|_| ())
        .map_err(|error| Failure::at(2, format!("evict {pod}: {error}")))
}

async fn get(client: &Client, path: &str) -> Result<(), Failure> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| Failure::at(0, error))?;
    let answer = client.request_text(request).await;
    answer.map(|_| ()).map_err(|error| Failure::at(1, format!("GET {path}: {error}")))
}
