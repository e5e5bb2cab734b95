//! What every fault happens to: a guest with ticks on each node, people at work, and somebody who watches the pods.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use kubevirt_types::{Release, labels};

use crate::clock::MachineClock;
use crate::cluster::Cluster;
use crate::coverage::{Change, Coverage};
use crate::demo::first_tick;
use crate::node::Node;
use crate::observer::UPDATE_ORDER;
use crate::probe::{ATTACH, Pace, Probes};
use crate::product::{Product, is_ready};
use crate::suite::Context;
use crate::ticks::{Recorder, summarize};
use crate::vm::{Incarnation, Vms, schedulable_nodes};
use crate::wait::{self, Look};

/// Where every fault begins.
pub const OLD: Release = Release::V0_17_0;
/// Where every update goes.
pub const NEW: Release = Release::V0_18_0;

/// The guest to whose console people attach. Whoever attaches takes the console from the one before, so it is not one
/// whose ticks are recorded.
const ATTACHED: &str = "attached";
/// A recorder that has heard so many ticks is at work.
const WARM_TICKS: u64 = 5;
/// The emulated guest shares few cores with pods that come and go: by its own clock a tick may come so late, in
/// milliseconds, and later by what this machine's timer was late, twice over.
const GUEST_GAP_MS: u64 = 2_000;
/// A kind of request without success for so long before the end has stopped working, in milliseconds.
const LAST_SUCCESS_MS: u64 = 15_000;

/// The cluster with the product and its guests.
pub struct World {
    pub cluster: Cluster,
    pub product: Product,
    pub vms: Vms,
    /// Nodes that run VMs.
    pub nodes: Vec<Node>,
}

impl World {
    /// v0.17.0, and a guest on each node.
    pub async fn start(context: &Context) -> anyhow::Result<Self> {
        let cluster = context.cluster.clone();
        let product = context.product.clone();
        let vms = Vms::of(&cluster, &context.namespace);
        let mut world = Self { cluster, product, vms, nodes: vec![] };
        for node in all_nodes(&world.cluster).await? {
            node.restore(&world.cluster).await?;
        }
        world.bring_back().await?;
        let nodes = wait::until("two nodes on which VMs can run", Duration::from_secs(60), async || {
            let nodes = schedulable_nodes(&world.cluster).await?;
            Ok(if nodes.len() < 2 { Look::NotYet(nodes.join(", ")) } else { Look::Done(nodes) })
        });
        world.nodes = nodes.await?.into_iter().map(Node).collect();
        world.start_guests().await?;
        Ok(world)
    }

    /// The guests whose ticks are recorded, one on each node.
    fn recorded(&self) -> impl Iterator<Item = (String, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (format!("guest-{index}"), node))
    }

    /// All guests with their nodes.
    fn guests(&self) -> impl Iterator<Item = (String, &Node)> {
        self.recorded().chain(self.nodes.first().map(|node| (ATTACHED.to_owned(), node)))
    }

    /// Starts the guests that don't run.
    async fn start_guests(&self) -> anyhow::Result<()> {
        let mut started = Vec::new();
        for (name, node) in self.guests() {
            if self.vms.incarnation(&name).await.is_err() {
                if self.vms.vms.get_opt(&name).await?.is_some() {
                    self.vms.delete(&name).await?;
                }
                self.vms.create(&name, "Always", Some(&node.0)).await?;
                started.push(name);
            }
        }
        for name in started {
            self.vms.wait_running(&name).await?;
            first_tick(&self.cluster, &self.vms, &name).await?;
        }
        Ok(())
    }

    /// v0.17.0 with nothing set and nothing going on, unless it is that already.
    pub async fn bring_back(&self) -> anyhow::Result<()> {
        if self.product.object().await.is_ok_and(|object| object.is_some()) {
            self.product.unset_all().await?;
        }
        if self.product.settled().await? == Some(OLD) { Ok(()) } else { self.product.bring_to(&OLD).await }
    }

    /// After a fault that didn't end well: nodes, product and guests as at the start.
    pub async fn repair(&self) -> anyhow::Result<()> {
        for node in all_nodes(&self.cluster).await? {
            node.restore(&self.cluster).await?;
        }
        self.bring_back().await?;
        self.start_guests().await
    }

    /// The names of the nodes that run VMs.
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.0.clone()).collect()
    }

    /// The template's hashes of each component's pods.
    pub async fn templates(&self) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let mut templates = BTreeMap::new();
        for component in UPDATE_ORDER {
            let pods = self.product.pods(component).await?;
            let live = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let hashes =
                live.filter_map(|pod| pod.annotations().get(labels::TEMPLATE_HASH).cloned()).collect();
            templates.insert(component.to_owned(), hashes);
        }
        Ok(templates)
    }

    /// Why the pods are not those of these templates, all Ready; none when they are.
    pub async fn differs(
        &self,
        templates: &BTreeMap<String, BTreeSet<String>>,
    ) -> anyhow::Result<Option<String>> {
        for component in UPDATE_ORDER {
            let wanted = if component == "virt-handler" { self.nodes.len() } else { 2 };
            let pods = self.product.pods(component).await?;
            let live: Vec<_> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            let known = |hash: &String| templates.get(component).is_some_and(|known| known.contains(hash));
            let good = live
                .iter()
                .filter(|pod| {
                    is_ready(pod) && pod.annotations().get(labels::TEMPLATE_HASH).is_some_and(known)
                })
                .count();
            if good != wanted || live.len() != wanted {
                return Ok(Some(format!("{component}: {good} of {} pods are the old ones", live.len())));
            }
        }
        Ok(None)
    }

    /// Begins to measure.
    pub async fn measure(&self) -> anyhow::Result<Measure> {
        let mut guests = Vec::new();
        for (name, _) in self.recorded() {
            let before = self.vms.incarnation(&name).await.with_context(|| format!("guest {name}"))?;
            let recorder = Recorder::start(&self.cluster.client, &self.vms.namespace, &name);
            guests.push((name, before, recorder));
        }
        let coverage = Coverage::start(&self.cluster.client);
        let probes = Probes::start(&self.cluster, &self.vms.namespace, ATTACHED, Pace::People);
        wait::until("ticks of every guest", Duration::from_secs(60), async || {
            let heard: Vec<u64> = guests.iter().map(|(_, _, recorder)| recorder.heard()).collect();
            let watched = coverage.is_complete();
            wait::when(
                heard.iter().all(|n| *n >= WARM_TICKS) && watched,
                format!("{heard:?}, pods: {watched}"),
            )
        })
        .await?;
        Ok(Measure {
            begun: Instant::now(),
            at: Timestamp::now(),
            guests,
            probes,
            coverage,
            clock: MachineClock::start(),
        })
    }
}

/// All nodes of the cluster.
async fn all_nodes(cluster: &Cluster) -> anyhow::Result<Vec<Node>> {
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(cluster.client.clone());
    let listed = nodes.list(&kube::api::ListParams::default()).await?;
    ensure!(!listed.items.is_empty(), "the cluster has no nodes");
    Ok(listed.iter().map(|node| Node(node.name_any())).collect())
}

/// What goes on while a fault does.
pub struct Measure {
    pub begun: Instant,
    pub at: Timestamp,
    pub coverage: Coverage,
    guests: Vec<(String, Incarnation, Recorder)>,
    probes: Probes,
    clock: MachineClock,
}

/// What was found.
pub struct Measured {
    pub changes: Vec<Change>,
    complaints: Vec<String>,
    /// What went wrong with people who attach to a console, and its guest's node.
    unattached: Option<(String, String)>,
    /// A line with numbers.
    pub summary: String,
}

impl Measured {
    /// What nobody may suffer. On a node that has no good virt-handler no console can be attached.
    pub fn complaints(&self, without_handler: &BTreeSet<String>) -> Vec<String> {
        let unattached = self.unattached.iter().filter(|(_, node)| !without_handler.contains(node));
        self.complaints.iter().cloned().chain(unattached.map(|(complaint, _)| complaint.clone())).collect()
    }
}

impl Measure {
    /// Seconds since it began.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Ends it: every guest is who it was and lost no tick, no request failed.
    pub async fn finish(self, world: &World) -> anyhow::Result<Measured> {
        let ended = Instant::now();
        let late = self.clock.finish().await?;
        let (mut complaints, mut unattached) = (Vec::new(), None);
        let attached_on = world.nodes.first().map(|node| node.0.clone()).unwrap_or_default();
        let (mut sent, mut heard, mut longest) = (0, 0, 0);
        for (name, tally) in self.probes.finish().await? {
            sent += tally.requests;
            if tally.failed > 0 {
                let first = tally.failures.first().cloned().unwrap_or_default();
                let complaint = format!("{} of {} {name} failed: {first}", tally.failed, tally.requests);
                if name == ATTACH {
                    unattached = Some((complaint, attached_on.clone()));
                } else {
                    complaints.push(complaint);
                }
            }
            if tally.last_success_ago_ms.is_none_or(|ago| ago > LAST_SUCCESS_MS) {
                complaints
                    .push(format!("{name}: the last success was {:?} ms ago", tally.last_success_ago_ms));
            }
        }
        for (name, before, recorder) in self.guests {
            let record = recorder.finish().await?;
            let ticks = summarize(&record.ticks, self.begun, ended);
            let allowed = GUEST_GAP_MS + 2 * late;
            heard += ticks.ticks;
            longest = longest.max(ticks.longest_guest_gap_ms);
            if ticks.ticks == 0
                || ticks.missing + ticks.disordered > 0
                || ticks.longest_guest_gap_ms > allowed
            {
                complaints.push(format!("{name}: {ticks:?}, allowed is a gap of {allowed} ms"));
            }
            if record.dropped > 0 {
                complaints.push(format!("{name}: console dropped: {}", record.causes.join("; ")));
            }
            match world.vms.incarnation(&name).await {
                Ok(after) if after == before => {}
                Ok(after) => complaints.push(format!("{name} was {before:?} and is {after:?}")),
                Err(error) => complaints.push(format!("{name}: {error:#}")),
            }
        }
        let changes = self.coverage.finish().await?;
        let summary = format!("{sent} requests, {heard} ticks, guest's longest gap {longest} ms");
        Ok(Measured { changes, complaints, unattached, summary })
    }
}
