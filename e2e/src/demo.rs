//! The main job, as a story: install v0.17.0, run guests, put people to work, patch one field, watch, report.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use kubevirt_types::Release;
use serde_json::json;

use crate::clock::MachineClock;
use crate::cluster::Cluster;
use crate::observer::{Observer, UPDATE_ORDER, order, order_complaint};
use crate::probe::{Pace, Probes, Tally};
use crate::product::{Product, UPDATE_LIMIT, how_it_stands, is_of};
use crate::report::{Demand, Guest, Report};
use crate::ticks::{Recorder, summarize};
use crate::vm::{Vms, schedulable_nodes, tick_spec};
use crate::wait::{self, Look};
use crate::{audit, console};

/// How long everything runs before the update begins, as the measure of the machine.
const BASELINE: Duration = Duration::from_secs(30);
/// How long everything goes on after the update, so that a late cut is seen.
const AFTERMATH: Duration = Duration::from_secs(10);

/// A kind of request that has had no success for so long before the end has stopped working, in milliseconds.
const LAST_SUCCESS_MS: u64 = 15_000;

/// VMs whose ticks are recorded, and one whose console the probes attach to.
const RECORDED: [&str; 2] = ["tick-a", "tick-b"];
const ATTACHED: &str = "attached";

/// Rules that v0.17.0 has and v0.18.0 doesn't, and the other way round.
const OLD_RULE: &str = r#"{"apiGroups":[""],"resources":["nodes"],"verbs":["patch","update"]}"#;
const NEW_RULE: &str = "virtualmachineinstancereplicasets/status";

/// Runs the demo and writes its report.
///
/// # Errors
/// When something that was demanded didn't hold, or the story can't go on.
pub async fn run(report_file: &Path) -> anyhow::Result<()> {
    let cluster = Cluster::connect().await?;
    let product = Product::on(&cluster);
    let (from, to) = (Release::V0_17_0, Release::V0_18_0);
    println!("==> KubeVirt {from}");
    cluster.remove_namespaces().await?;
    product.install_from_nothing(&from).await?;

    let namespace = cluster.namespace("demo").await?;
    let vms = Vms::of(&cluster, &namespace);
    start_guests(&cluster, &vms).await?;
    let report = update(&cluster, &product, &vms, (&from, &to)).await?;
    report.print();
    std::fs::write(report_file, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("writing {}", report_file.display()))?;
    println!("\n  the whole report: {}", report_file.display());
    cluster.remove_namespaces().await?;
    ensure!(report.passed(), "the update did not keep its promise");
    println!("==> the update kept its promise");
    Ok(())
}

async fn start_guests(cluster: &Cluster, vms: &Vms) -> anyhow::Result<()> {
    println!("==> guests");
    let nodes = wait::until("a node on which VMs can run", Duration::from_secs(60), async || {
        let nodes = schedulable_nodes(cluster).await?;
        Ok(if nodes.is_empty() { Look::NotYet("none".into()) } else { Look::Done(nodes) })
    })
    .await?;
    for (index, name) in RECORDED.iter().chain([&ATTACHED]).enumerate() {
        let node = &nodes[index % nodes.len()];
        println!("  VM {name} on {node}");
        vms.create(name, "Always", Some(node)).await?;
    }
    for name in RECORDED.iter().chain([&ATTACHED]) {
        vms.wait_running(name).await?;
        first_tick(cluster, vms, name).await?;
    }
    Ok(())
}

/// Waits until a guest has booted: its first tick on the console.
pub async fn first_tick(cluster: &Cluster, vms: &Vms, name: &str) -> anyhow::Result<()> {
    wait::until(format!("the first tick of {name}"), Duration::from_secs(120), async || {
        let mut socket = console::attach(&cluster.client, &vms.namespace, name).await?;
        let mut parser = crate::ticks::Parser::default();
        let limit = Instant::now() + Duration::from_secs(20);
        while Instant::now() < limit {
            let message =
                tokio::time::timeout(Duration::from_secs(20), futures::StreamExt::next(&mut socket));
            let Ok(Some(message)) = message.await else { break };
            if !parser.feed(&console::said(message?)).is_empty() {
                return Ok(Look::Done(()));
            }
        }
        Ok(Look::NotYet("nothing on the console".into()))
    })
    .await
}

async fn update(
    cluster: &Cluster,
    product: &Product,
    vms: &Vms,
    (from, to): (&Release, &Release),
) -> anyhow::Result<Report> {
    let mut before = Vec::new();
    let mut recorders = Vec::new();
    for name in RECORDED {
        before.push(vms.incarnation(name).await?);
        recorders.push(Recorder::start(&cluster.client, &vms.namespace, name));
    }
    let observer = Observer::start(&cluster.client);
    let probes = Probes::start(cluster, &vms.namespace, ATTACHED, Pace::People);
    let clock = MachineClock::start();
    let baseline = Instant::now();
    println!("==> people at work; {} s before the update are its measure", BASELINE.as_secs());
    tokio::time::sleep(BASELINE).await;

    println!("==> kubectl patch kv kubevirt: spec.imageTag = {to}");
    let (begun, begun_at) = (Instant::now(), Timestamp::now());
    product.set_tag(&to.to_string()).await?;
    let tried = watch_update(product, vms, to).await?;
    let updated = begun.elapsed();
    println!("==> KubeVirt {to} after {:.0} s", updated.as_secs_f64());
    let accepted = replica_set_is_accepted(product, vms).await;
    tokio::time::sleep(AFTERMATH).await;

    let ended = Instant::now();
    let machine_delay_ms = clock.finish().await?;
    let requests = probes.finish().await?;
    let mut guests = Vec::new();
    for ((name, before), recorder) in RECORDED.into_iter().zip(before).zip(recorders) {
        let record = recorder.finish().await?;
        guests.push(Guest {
            name: name.to_owned(),
            before,
            after: vms.incarnation(name).await?,
            ticks_before: summarize(&record.ticks, baseline, begun),
            ticks_during: summarize(&record.ticks, begun, ended),
            consoles_dropped: record.dropped,
            causes: record.causes,
        });
    }
    let pods = observer.finish().await?;
    let mut report = Report {
        from: from.to_string(),
        to: to.to_string(),
        begun: begun_at,
        seconds: updated.as_secs_f64(),
        order: order(&pods, to, begun_at),
        audit_order: audit::writes(audit::OPERATOR, begun_at)?.map(|writes| audit::first_writes(&writes)),
        requests,
        guests,
        machine_delay_ms,
        pods,
        demands: Vec::new(),
    };
    report.demands = demands(&report, product, &tried, accepted).await?;
    Ok(report)
}

/// What became of the tries to use the new kind while the update went on.
#[derive(Default)]
struct Tried {
    /// The last refusal that named the version gate.
    refusal: Option<String>,
    /// Pods of the old release that were still at work when it was accepted.
    accepted_too_early: Option<String>,
}

/// Follows the update to its end, trying all the time to use the kind that is new in the target.
async fn watch_update(product: &Product, vms: &Vms, to: &Release) -> anyhow::Result<Tried> {
    let mut tried = Tried::default();
    let mut shown = String::new();
    wait::until(format!("KubeVirt {to}"), UPDATE_LIMIT, async || {
        let old = old_pods(product, to).await?;
        match create_replica_set(product, vms, true).await {
            // these pods were seen before the try, so they were there when it was accepted
            Ok(()) if !old_pods(product, to).await?.is_empty() && !old.is_empty() => {
                tried.accepted_too_early = Some(old);
            }
            Err(error) if error.contains("version gate") => tried.refusal = Some(error),
            Ok(()) | Err(_) => {}
        }
        let stands = product.object().await?.as_ref().map(how_it_stands).unwrap_or_default();
        if stands != shown {
            println!("  {stands}");
            shown.clone_from(&stands);
        }
        Ok(if product.settled().await?.as_ref() == Some(to) { Look::Done(()) } else { Look::NotYet(stands) })
    })
    .await?;
    Ok(tried)
}

/// The pods of the control plane that are not of a release and not on their way out.
async fn old_pods(product: &Product, to: &Release) -> anyhow::Result<String> {
    let mut old = Vec::new();
    for component in UPDATE_ORDER {
        let pods = product.pods(component).await?;
        let at_work = pods.iter().filter(|pod| !is_of(pod, to) && pod.metadata.deletion_timestamp.is_none());
        old.extend(at_work.map(ResourceExt::name_any));
    }
    Ok(old.join(", "))
}

async fn create_replica_set(product: &Product, vms: &Vms, dry_run: bool) -> Result<(), String> {
    let object = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet",
        "metadata": {"name": "new-kind"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "new-kind"}},
            "template": {"metadata": {"labels": {"app": "new-kind"}}, "spec": tick_spec(None)},
        },
    }))
    .map_err(|error| error.to_string())?;
    let how = PostParams { dry_run, ..PostParams::default() };
    let created = product.replica_sets(&vms.namespace).create(&how, &object).await;
    created.map(|_| ()).map_err(|error| error.to_string())
}

/// Makes a replica set of one, and waits until its instance is ready.
async fn replica_set_is_accepted(product: &Product, vms: &Vms) -> Result<(), String> {
    let created = wait::until("the new kind to be accepted", Duration::from_secs(30), async || {
        create_replica_set(product, vms, false).await.map(Look::Done).map_err(anyhow::Error::msg)
    });
    created.await.map_err(|error| format!("{error:#}"))?;
    let api = product.replica_sets(&vms.namespace);
    let ready = wait::until("its instance to be ready", Duration::from_secs(120), async || {
        let status = api.get("new-kind").await?.data["status"].clone();
        wait::when(status["readyReplicas"] == 1, status)
    });
    ready.await.map_err(|error| format!("{error:#}"))?;
    api.delete("new-kind", &DeleteParams::default()).await.map(|_| ()).map_err(|error| error.to_string())
}

/// What the demo exits 0 for.
async fn demands(
    report: &Report,
    product: &Product,
    tried: &Tried,
    accepted: Result<(), String>,
) -> anyhow::Result<Vec<Demand>> {
    let demand = |what: &str, held: bool, seen: String| Demand { what: what.to_owned(), held, seen };
    let mut demands = Vec::new();
    for guest in &report.guests {
        demands.push(demand(
            &format!("{} kept its pod and its QEMU process", guest.name),
            guest.before == guest.after,
            format!("pod {}, {}", guest.after.pod, guest.after.qemu),
        ));
        // The emulated guest shares few cores with every pod that is being started: its gap may be twice as long
        // as before (a second at least, ten ticks), and longer by what this machine's own timer was late, twice over.
        let before = 2 * guest.ticks_before.longest_arrival_gap_ms;
        let allowed = before.max(1000) + 2 * report.machine_delay_ms;
        let during = &guest.ticks_during;
        demands.push(demand(
            &format!("{}'s ticks have no gap beyond {allowed} ms and none is lost", guest.name),
            during.ticks > 0
                && during.missing == 0
                && during.disordered == 0
                && during.longest_arrival_gap_ms <= allowed
                && during.longest_guest_gap_ms <= allowed,
            format!(
                "{} ticks, longest gap {} ms, {} missing",
                during.ticks, during.longest_arrival_gap_ms, during.missing
            ),
        ));
    }
    let cut: u32 = report.guests.iter().map(|guest| guest.consoles_dropped).sum();
    let causes: Vec<&str> =
        report.guests.iter().flat_map(|guest| guest.causes.iter().map(String::as_str)).collect();
    demands.push(demand(
        "the consoles of a plain client are the same connections as before",
        cut == 0,
        if cut == 0 { format!("0 of {} cut", report.guests.len()) } else { causes.join("; ") },
    ));
    let (sent, failed) = report
        .requests
        .values()
        .fold((0, 0), |(sent, failed), tally| (sent + tally.requests, failed + tally.failed));
    let to_the_end = |tally: &Tally| tally.last_success_ago_ms.is_some_and(|ago| ago <= LAST_SUCCESS_MS);
    demands.push(demand(
        "no API request failed, and every kind of it was made up to the end",
        failed == 0 && report.requests.values().all(to_the_end),
        format!("{failed} of {sent} failed"),
    ));
    let complaint = order_complaint(&report.order);
    demands.push(demand(
        "handlers, then controllers, then api (from pods)",
        complaint.is_none(),
        complaint.unwrap_or_else(|| "kept".into()),
    ));
    if let Some(written) = &report.audit_order {
        demands.push(demand(
            "handlers, then controllers, then api (from the audit log)",
            written == &UPDATE_ORDER,
            written.join(", "),
        ));
    }
    let rules = product.cluster_rules("kubevirt-controller").await?.unwrap_or_default().to_string();
    demands.push(demand(
        "old RBAC rules are gone, new ones there",
        !rules.contains(OLD_RULE) && rules.contains(NEW_RULE),
        format!("old gone: {}, new there: {}", !rules.contains(OLD_RULE), rules.contains(NEW_RULE)),
    ));
    demands.push(demand(
        "the new kind was refused before the end, naming the version gate",
        tried.refusal.is_some(),
        tried.refusal.clone().unwrap_or_else(|| "never refused".into()),
    ));
    demands.push(demand(
        "the new kind was not accepted while an old component was at work",
        tried.accepted_too_early.is_none(),
        tried.accepted_too_early.clone().map_or("never".into(), |old| format!("with {old}")),
    ));
    demands.push(demand(
        "the new kind is accepted after the end",
        accepted.is_ok(),
        accepted.err().unwrap_or_else(|| "accepted".into()),
    ));
    Ok(demands)
}
