//! A handler meets launchers over real sockets: it starts guests, survives its own death, and
//! takes silence for silence.

use std::time::Duration;

use crate::fake::{Dir, FakeCluster, FakeLauncher, Handler, POD, vmi};
use handler_launcher_com::launcher::DomainPhase;
use kubevirt_types::VmiPhase;
use virt_handler::vmi::knowledge::Knowledge;

/// Long enough for a wrong decision to show.
const A_WHILE: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_vmi_goes_from_scheduled_to_its_end() {
    let dir = Dir::new();
    let launcher = FakeLauncher::new(DomainPhase::NotStarted);
    let _server = launcher.serve(&dir.0);
    let (cluster, wakes) = FakeCluster::new(vmi(VmiPhase::Scheduled));
    let _handler = Handler::start(&cluster, &dir.0, wakes);
    cluster.until(VmiPhase::Running).await;
    assert_eq!(launcher.calls(), ["sync tick emulation=true"]);
    let last = cluster.patches().pop().unwrap();
    assert_eq!(last["status"]["interfaces"][0]["ipAddress"], "10.0.0.7");
    launcher.set(DomainPhase::Crashed);
    cluster.until(VmiPhase::Failed).await;
    while cluster.events().len() < 3 {
        tokio::task::yield_now().await;
    }
    let mut events = cluster.events();
    events.sort();
    assert_eq!(events, ["Created", "Started", "Stopped"]);
}

#[tokio::test]
async fn a_running_vm_stays_running_when_its_handler_is_killed_and_comes_back() {
    let dir = Dir::new();
    let launcher = FakeLauncher::new(DomainPhase::NotStarted);
    let _server = launcher.serve(&dir.0);
    let (mut cluster, wakes) = FakeCluster::new(vmi(VmiPhase::Scheduled));
    let first = Handler::start(&cluster, &dir.0, wakes);
    cluster.until(VmiPhase::Running).await;
    first.kill();
    let before = cluster.patches().len();
    let wakes = cluster.reconnect();
    let second = Handler::start(&cluster, &dir.0, wakes);
    assert_eq!(second.links.adopt(Duration::from_secs(10)).await, (1, 1));
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(cluster.patches().len(), before, "there was nothing to write");
    assert_eq!(launcher.calls().len(), 1, "and nothing to start");
    // It is in control: an end is seen.
    launcher.set(DomainPhase::Shutoff);
    cluster.until(VmiPhase::Succeeded).await;
}

#[tokio::test]
async fn a_launcher_that_is_silent_is_unknown_and_not_dead() {
    let dir = Dir::new();
    let launcher = FakeLauncher::new(DomainPhase::Running);
    let server = launcher.serve(&dir.0);
    let (cluster, wakes) = FakeCluster::new(vmi(VmiPhase::Running));
    let handler = Handler::start(&cluster, &dir.0, wakes);
    assert_eq!(handler.links.adopt(Duration::from_secs(10)).await, (1, 1));
    cluster.until(VmiPhase::Running).await;
    drop(server);
    while !matches!(handler.links.knowledge(POD), Knowledge::Unreachable { .. }) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(cluster.phase(), VmiPhase::Running);
    // It was only away.
    let _server = launcher.serve(&dir.0);
    while handler.links.knowledge(POD) == Knowledge::Unasked || handler.links.session(POD).is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    launcher.set(DomainPhase::Shutoff);
    cluster.until(VmiPhase::Succeeded).await;
}

#[tokio::test]
async fn a_deleted_vmi_is_asked_and_then_killed() {
    let dir = Dir::new();
    let launcher = FakeLauncher::new(DomainPhase::Running);
    let _server = launcher.serve(&dir.0);
    let (cluster, wakes) = FakeCluster::new(vmi(VmiPhase::Running));
    let _handler = Handler::start(&cluster, &dir.0, wakes);
    cluster.edit(|vmi| {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now());
        vmi.metadata.deletion_timestamp = Some(now);
        vmi.spec.termination_grace_period_seconds = Some(2);
    });
    cluster.until(VmiPhase::Succeeded).await;
    assert_eq!(launcher.calls(), ["shutdown", "kill"]);
}

#[tokio::test]
async fn what_somebody_else_wrote_is_never_overwritten() {
    let dir = Dir::new();
    let launcher = FakeLauncher::new(DomainPhase::NotStarted);
    let (cluster, wakes) = FakeCluster::new(vmi(VmiPhase::Scheduled));
    let _handler = Handler::start(&cluster, &dir.0, wakes);
    let _server = launcher.serve(&dir.0);
    for n in 0..20 {
        cluster.edit(|vmi| vmi.status.as_mut().unwrap().qos_class = Some(format!("class-{n}")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.until(VmiPhase::Running).await;
    assert!(cluster.patches().iter().all(|patch| patch["status"].get("qosClass").is_none()));
}
