//! What goes on while an update does: guests, people at consoles and screens, requests, VMs that come and go, guests on the
//! move, and those who watch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kube::api::DeleteParams;
use kubevirt_types::migration::MigrationPhase;
use serde_json::json;

use super::lives::Lives;
use super::row::{Row, Sessions};
use crate::clock::MachineClock;
use crate::console;
use crate::coverage::{Coverage, fewest_nodes};
use crate::devices::Devices;
use crate::leaders::Leaders;
use crate::migration::Migrations;
use crate::probe::{Pace, Probes};
use crate::suite::Context;
use crate::talk::{self, Talk, With};
use crate::ticks::{in_order, summarize};
use crate::viewer::Viewer;
use crate::vm::{Incarnation, Vms, schedulable_nodes};
use crate::wait::{self, Look};

/// The VM to whose console the probes attach.
const ATTACHED: &str = "attached";
/// The memory of a guest that moves: what it fills has room in it.
const MOVERS_MEMORY: &str = "384Mi";
/// An emulated guest makes some megabytes of random numbers a second.
const FILL_LIMIT: Duration = Duration::from_secs(180);
/// Of each move: slow enough to outlast an update, and more than the 1.2 MiB a second that a guest at work writes.
const BANDWIDTH: &str = "2Mi";
/// A move may take so long, in seconds for each GiB of memory.
const PATIENCE: u32 = 900;
/// Longer than a slow move takes behind the update's end.
const MOVED_LIMIT: Duration = Duration::from_secs(400);

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub vms: usize,
    pub consoles: usize,
    /// Of those, by `virtctl console`.
    pub virtctls: usize,
    pub screens: usize,
    pub moves: usize,
    /// Of requests.
    pub pace: Pace,
}

impl Size {
    /// What a test among others takes.
    pub const CORE: Self =
        Self { vms: 4, consoles: 4, virtctls: 1, screens: 1, moves: 2, pace: Pace::People };

    /// 30 VMs, or what the machine holds: an emulated guest that ticks takes a fifteenth of a processor, and half of each is for
    /// the pods that start beside it. No fewer than the consoles need, which have one seat each.
    pub fn whole() -> anyhow::Result<Self> {
        let processors = std::thread::available_parallelism()?.get();
        Ok(Self {
            vms: (5 * processors).clamp(10, 30),
            consoles: 10,
            virtctls: 2,
            screens: 3,
            moves: 2,
            pace: Pace::Fifty,
        })
    }
}

/// The guests, which stay from one scenario to the next.
pub struct Guests {
    context: Context,
    vms: Vms,
    size: Size,
    names: Vec<String>,
}

impl Guests {
    /// Starts them.
    pub async fn start(context: &Context, size: Size) -> anyhow::Result<Self> {
        let vms = Vms::of(&context.cluster, &context.namespace);
        let names: Vec<String> = (0..size.vms).map(|index| format!("guest-{index}")).collect();
        println!(
            "  {} guests, {} consoles ({} by virtctl), {} screens",
            size.vms, size.consoles, size.virtctls, size.screens
        );
        let (movers, stayers) = names.split_at(size.moves.min(names.len()));
        for name in movers {
            vms.create_with_memory(name, MOVERS_MEMORY).await?;
        }
        for name in stayers.iter().map(String::as_str).chain([ATTACHED]) {
            vms.create(name, "Always", None).await?;
        }
        for name in names.iter().map(String::as_str).chain([ATTACHED]) {
            vms.wait_running(name).await?;
            crate::demo::first_tick(&context.cluster, &vms, name).await?;
        }
        for name in movers {
            let mut console = console::attach(&context.cluster.client, &context.namespace, name).await?;
            console::type_line(&mut console, "fill").await?;
            console::until(&mut console, "guest: filled", FILL_LIMIT).await?;
        }
        Ok(Self { context: context.clone(), vms, size, names })
    }

    /// Removes them.
    pub async fn remove(self) -> anyhow::Result<()> {
        for name in self.names.iter().map(String::as_str).chain([ATTACHED]) {
            self.vms.vms.delete(name, &DeleteParams::default()).await?;
        }
        for name in self.names.iter().map(String::as_str).chain([ATTACHED]) {
            self.vms.wait_gone(name).await?;
        }
        Ok(())
    }

    /// Puts everybody to work; returns when all are.
    pub async fn at_work(&self) -> anyhow::Result<Load<'_>> {
        let (client, namespace) = (&self.context.cluster.client, &self.context.namespace);
        let mut before = Vec::new();
        for name in &self.names {
            // The source of a move that is over ends by itself.
            let incarnation = wait::until(format!("one launcher of {name}"), MOVED_LIMIT, async || {
                self.vms.incarnation(name).await.map(Look::Done)
            });
            before.push(incarnation.await?);
        }
        let talks: Vec<Talk> = self.names[..self.size.consoles.min(self.names.len())]
            .iter()
            .enumerate()
            .map(|(index, name)| {
                // The guests that move have consoles of plain clients.
                let plain = index + self.size.virtctls < self.size.consoles.min(self.names.len());
                let with = if plain { With::PlainClient } else { With::Virtctl };
                Talk::start(client, namespace, name, with)
            })
            .collect();
        // One of several screens is virtctl's, and so is that guest's console, which says what came of what is typed.
        let by_virtctl = usize::from(self.size.screens > 1 && self.size.virtctls > 0);
        let plain = talks.iter().take(self.size.screens - by_virtctl);
        let mut viewers: Vec<Viewer> = plain
            .chain(talks.iter().rev().take(by_virtctl))
            .map(|talk| Viewer::start(client, namespace, &talk.vmi, talk.with, talk.on_screen()))
            .collect();
        for talk in &talks {
            talk.hears(10).await?;
        }
        for viewer in &mut viewers {
            viewer.sees(2).await?;
        }
        let limits = json!({"configuration": {"migrations": {
            "bandwidthPerMigration": BANDWIDTH, "completionTimeoutPerGiB": PATIENCE, "progressTimeout": PATIENCE,
        }}});
        self.context.product.patch_spec(limits).await?;
        let migrations = Migrations::of(client, namespace);
        let mut moves = Vec::new();
        for name in &self.names[..self.size.moves] {
            let migration = migrations.begin(name).await?;
            wait::until(format!("{name} to move"), MOVED_LIMIT, async || {
                let status = migrations.api.get(&migration).await?.status.unwrap_or_default();
                ensure!(!status.phase.is_final(), "it is over already");
                let vmi = self.vms.vmis.get(name).await?;
                let state = vmi.status.and_then(|status| status.migration_state).unwrap_or_default();
                wait::when(
                    status.phase == MigrationPhase::Running && state.start_timestamp.is_some(),
                    format!("{:?}", status.phase),
                )
            })
            .await?;
            moves.push((name.clone(), migration));
        }
        let mut lives = Vec::new();
        for node in schedulable_nodes(&self.context.cluster).await? {
            lives.push(Lives::start(&self.vms, node));
        }
        let coverage = Coverage::start(client);
        let nodes = schedulable_nodes(&self.context.cluster).await?;
        wait::until("a first look at the pods", Duration::from_secs(30), async || {
            wait::when(coverage.is_complete(), "none yet")
        })
        .await?;
        Ok(Load {
            guests: self,
            begun: Instant::now(),
            before,
            talks,
            viewers,
            migrations,
            moves,
            lives,
            probes: Probes::start(&self.context.cluster, namespace, ATTACHED, self.size.pace),
            coverage,
            devices: Devices::start(client, &nodes),
            leaders: Leaders::start(client),
            clock: MachineClock::start(),
            nodes,
        })
    }
}

/// Everything that goes on.
pub struct Load<'a> {
    guests: &'a Guests,
    nodes: Vec<String>,
    /// When the last of it had begun.
    begun: Instant,
    before: Vec<Incarnation>,
    talks: Vec<Talk>,
    viewers: Vec<Viewer>,
    migrations: Migrations,
    moves: Vec<(String, String)>,
    lives: Vec<Lives>,
    probes: Probes,
    coverage: Coverage,
    leaders: Leaders,
    devices: Devices,
    clock: MachineClock,
}

impl Load<'_> {
    /// Waits for the moves to be over, ends everything and counts.
    pub async fn finish(mut self, scenario: &str, seconds: f64) -> anyhow::Result<Row> {
        let mut row = Row::new(scenario, seconds);
        for (name, migration) in &self.moves {
            row.migrations += 1;
            if let Err(error) = self.has_moved(name, migration).await {
                row.migrations_failed += 1;
                row.notes.push(format!("{error:#}"));
            }
        }
        self.guests.context.product.patch_spec(json!({"configuration": {"migrations": null}})).await?;
        for talk in &self.talks {
            // A guest that says nothing any more is found below, by what its console was told.
            if let Err(error) = talk.hears(5).await {
                row.complaints.push(format!("{}: {error:#}", talk.vmi));
            }
        }
        for viewer in &mut self.viewers {
            if let Err(error) = viewer.sees(1).await {
                row.complaints.push(format!("{error:#}"));
            }
        }
        let ended = Instant::now();
        let late = self.clock.finish().await?;
        for (name, tally) in self.probes.finish().await? {
            row.requests += tally.requests;
            row.failed += tally.failed;
            row.longest_api_gap_ms = row.longest_api_gap_ms.max(tally.longest_gap_ms);
            let from = tally.longest_gap_from.map_or(String::new(), |from| format!(" from {from:.1}"));
            row.notes.push(format!(
                "{name}: {} requests, longest gap {} ms{from}",
                tally.requests, tally.longest_gap_ms
            ));
            row.notes.extend(tally.failures.iter().take(3).map(|failure| format!("{name}: {failure}")));
        }
        let watched = ended.duration_since(self.begun).as_secs_f64();
        row.notes.push(format!("{:.0} requests a second for {watched:.0} s", row.requests as f64 / watched));
        for life in self.lives {
            let lived = life.finish().await?;
            row.lives += lived.lives;
            row.failed += lived.failures.len() as u64;
            row.notes.extend(lived.failures);
            row.notes.push(format!(
                "{} VMs came and went on {}, the slowest start took {:.1} s",
                lived.lives,
                lived.node,
                lived.slowest.as_secs_f64()
            ));
        }
        // Before the consoles, which hear what came of the last line that was typed at a screen.
        let mut screens = BTreeMap::new();
        for viewer in self.viewers {
            screens.insert(viewer.vmi.clone(), viewer.finish().await?);
        }
        for talk in self.talks {
            let (vmi, with) = (talk.vmi.clone(), talk.with);
            let talked = talk.finish().await?;
            if let Some(viewed) = screens.get(&vmi) {
                row.add_screen(&vmi, with, viewed, &talked.on_screen);
            }
            let ticks = summarize(&talked.ticks, self.begun, ended);
            let (lost, again) = talked.echoes.amiss(talked.typed, talk::typed_line);
            row.ticks += ticks.ticks;
            row.ticks_lost += ticks.missing + ticks.disordered;
            row.longest_tick_gap_ms = row.longest_tick_gap_ms.max(ticks.longest_guest_gap_ms);
            let sessions = match with {
                With::PlainClient => &mut row.plain,
                With::Virtctl => &mut row.virtctl,
            };
            *sessions +=
                Sessions { open: 1, cut: talked.cut, resumed: talked.resumed, typed_lost: lost + again };
            row.notes.extend(
                talked.causes.iter().map(|cause| format!("console of {vmi} ({with:?}) cut: {cause}")),
            );
            if let Err(error) = in_order(&talked.ticks) {
                row.complaints.push(format!("{vmi} ({with:?}): {error:#}"));
            }
            if lost + again > 0 {
                row.notes.push(format!(
                    "{vmi} ({with:?}): of {} lines typed {lost} bytes never came, {again} again or late",
                    talked.typed
                ));
            }
        }
        for (name, before) in self.guests.names.iter().zip(&self.before) {
            if self.moves.iter().any(|(moved, _)| moved == name) {
                let uid = self.guests.vms.vmis.get(name).await?.uid().to_owned();
                if uid != before.vmi_uid {
                    row.complaints.push(format!("{name} was {} and is {uid}", before.vmi_uid));
                }
                continue;
            }
            match self.guests.vms.incarnation(name).await {
                Ok(after) if after == *before => {}
                Ok(after) => row.complaints.push(format!("{name} was {before:?} and is {after:?}")),
                Err(error) => row.complaints.push(format!("{name}: {error:#}")),
            }
        }
        row.longest_node_gap = self.coverage.longest_gap(&self.nodes);
        row.api_nodes = fewest_nodes(&self.coverage.finish().await?, "virt-api");
        row.without_devices = self.devices.finish().await?;
        for (lease, reign) in self.leaders.finish().await? {
            row.longest_leader_gap_ms =
                row.longest_leader_gap_ms.max(u64::try_from(reign.longest_gap.as_millis()).unwrap_or(0));
            row.notes
                .push(format!("{lease}: {} changes, longest gap {:?}", reign.changes, reign.longest_gap));
            if lease == "virt-controller" {
                row.controller = Some(reign);
            }
        }
        row.notes.push(format!("a timer of 100 ms was late by at most {late} ms"));
        Ok(row)
    }

    /// How many of the moves aren't over.
    pub async fn in_flight(&self) -> anyhow::Result<usize> {
        let mut in_flight = 0;
        for (_, migration) in &self.moves {
            let status = self.migrations.api.get(migration).await?.status.unwrap_or_default();
            in_flight += usize::from(!status.phase.is_final());
        }
        Ok(in_flight)
    }

    async fn has_moved(&self, name: &str, migration: &str) -> anyhow::Result<()> {
        let status = wait::until(format!("{name} to have moved"), MOVED_LIMIT, async || {
            let status = self.migrations.api.get(migration).await?.status.unwrap_or_default();
            let phase = format!("{:?}", status.phase);
            Ok(if status.phase.is_final() { Look::Done(status) } else { Look::NotYet(phase) })
        })
        .await?;
        let state = status.migration_state.unwrap_or_default();
        ensure!(status.phase == MigrationPhase::Succeeded, "{name} did not move: {:?}", state.failure_reason);
        let at = self.guests.vms.vmis.get(name).await?.status.unwrap_or_default().node_name;
        ensure!(at.as_ref() == Some(&state.target_node), "{name} is at {at:?}: {state:?}");
        Ok(())
    }
}
