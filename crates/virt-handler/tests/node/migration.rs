//! A handler's part in a live migration, over real sockets.

use std::time::Duration;

use crate::fake::{Dir, FakeCluster, FakeLauncher, Handler, NODE, vmi};
use handler_launcher_com::launcher::{DomainPhase, MigrationPhase, MigrationRole};
use kubevirt_types::migration::MigrationState;
use kubevirt_types::vmi::VirtualMachineInstanceStatus;
use kubevirt_types::{VirtualMachineInstance, VmiPhase};
use serde_json::json;

const UID: &str = "m-1";
/// The launcher pod of this node.
const HERE: &str = "virt-launcher-tick";
const ELSEWHERE: &str = "worker-2";

fn launcher(phase: DomainPhase) -> FakeLauncher {
    let launcher = FakeLauncher { capabilities: vec!["live-migration".into()], ..FakeLauncher::new(phase) };
    launcher.domain.send_modify(|domain| domain.machine_type = "pc-q35-7.2".into());
    launcher
}

/// A running VMI that is to move.
fn moving((from, source): (&str, &str), (to, target): (&str, &str)) -> VirtualMachineInstance {
    let mut vmi = vmi(VmiPhase::Running);
    let status = vmi.status.as_mut().unwrap();
    status.node_name = Some(from.into());
    let state = json!({"migrationUid": UID, "sourceNode": from, "sourcePod": source, "targetNode": to,
        "targetPod": target, "migrationConfiguration": {"bandwidthPerMigration": "1Ki"}});
    status.migration_state = Some(serde_json::from_value(state).unwrap());
    status.machine = Some(serde_json::from_value(json!({"type": "pc-q35-7.2"})).unwrap());
    vmi
}

fn state(status: &VirtualMachineInstanceStatus) -> &MigrationState {
    status.migration_state.as_ref().unwrap()
}

fn edit(cluster: &FakeCluster, change: impl FnOnce(&mut MigrationState)) {
    cluster.edit(|vmi| change(vmi.status.as_mut().unwrap().migration_state.as_mut().unwrap()));
}

#[tokio::test]
async fn a_guest_leaves() {
    let dir = Dir::new();
    let source = launcher(DomainPhase::Running);
    let _server = source.serve(&dir.0);
    let (mut cluster, wakes) = FakeCluster::new(moving((NODE, HERE), (ELSEWHERE, "to")));
    let first = Handler::start(&cluster, &dir.0, wakes);
    cluster.until_status(|status| state(status).source_certificate_sha256.as_deref() == Some("aa")).await;
    first.kill();
    let wakes = cluster.reconnect();
    let _second = Handler::start(&cluster, &dir.0, wakes);
    edit(&cluster, |state| {
        state.target_node_address = Some("10.0.1.9".into());
        state.target_port = Some(4444);
        state.target_certificate_sha256 = Some("bb".into());
    });
    cluster.until_status(|status| state(status).start_timestamp.is_some()).await;
    assert_eq!(source.calls(), ["prepare source", r#"migrate to ("10.0.1.9", 4444, "bb") with 1024"#]);
    // Given away: what is left to say here is nothing.
    source.come(UID, MigrationRole::Source, MigrationPhase::Completed);
    source.domain.send_modify(|domain| domain.reason = "Migrated".into());
    let before = cluster.patches().len();
    source.set(DomainPhase::Shutoff);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!((cluster.patches().len(), cluster.phase()), (before, VmiPhase::Running));
    assert!(cluster.events().contains(&"Migrating".to_owned()));
}

#[tokio::test]
async fn a_guest_arrives_and_is_this_nodes_from_then_on() {
    let dir = Dir::new();
    let target = launcher(DomainPhase::NotStarted);
    let _server = target.serve(&dir.0);
    let (cluster, wakes) = FakeCluster::new(moving((ELSEWHERE, "from"), (NODE, HERE)));
    let _handler = Handler::start(&cluster, &dir.0, wakes);
    edit(&cluster, |state| state.source_certificate_sha256 = Some("aa".into()));
    cluster.until_status(|status| state(status).target_port == Some(4444)).await;
    let written = cluster.patches();
    assert_eq!(
        (written.len(), &written[0]["status"]["migrationState"]),
        (1, &json!({"targetNodeAddress": "10.0.0.7", "targetPort": 4444, "targetCertificateSha256": "bb"}))
    );
    assert_eq!(target.calls(), ["prepare target pc-q35-7.2 for aa"]);
    target.come(UID, MigrationRole::Target, MigrationPhase::Completed);
    assert!(!state(&cluster.status()).completed);
    target.set(DomainPhase::Running);
    cluster.until_status(|status| state(status).completed).await;
    let status = cluster.status();
    assert_eq!(status.node_name.as_deref(), Some(NODE));
    assert_eq!(status.interfaces[0].ip_address.as_deref(), Some("10.0.0.7"));
    // Its end is this handler's to say.
    target.set(DomainPhase::Shutoff);
    cluster.until(VmiPhase::Succeeded).await;
}

#[tokio::test]
async fn a_migration_that_nobody_wants_is_cancelled() {
    let dir = Dir::new();
    let source = launcher(DomainPhase::Running);
    source.come(UID, MigrationRole::Source, MigrationPhase::PreCopy);
    let _server = source.serve(&dir.0);
    let (cluster, wakes) = FakeCluster::new(moving((NODE, HERE), (ELSEWHERE, "to")));
    let _handler = Handler::start(&cluster, &dir.0, wakes);
    edit(&cluster, |state| state.abort_requested = true);
    cluster.until_status(|status| state(status).failed).await;
    assert_eq!(source.calls(), ["cancel"]);
    assert_eq!(state(&cluster.status()).failure_reason.as_deref(), Some("cancelled"));
}

#[tokio::test]
async fn launchers_of_the_old_release_stay_where_they_are() {
    let dir = Dir::new();
    let source = FakeLauncher::new(DomainPhase::Running);
    let _server = source.serve(&dir.0);
    let (cluster, wakes) = FakeCluster::new(moving((NODE, HERE), (ELSEWHERE, "to")));
    let _handler = Handler::start(&cluster, &dir.0, wakes);
    cluster.until_status(|status| state(status).failed).await;
    assert!(source.calls().is_empty());
    assert_eq!(cluster.phase(), VmiPhase::Running);
}

#[tokio::test]
async fn a_target_that_cannot_take_the_guest_ends() {
    let dir = Dir::new();
    let target = FakeLauncher::new(DomainPhase::NotStarted);
    let _server = target.serve(&dir.0);
    let (cluster, wakes) = FakeCluster::new(moving((ELSEWHERE, "from"), (NODE, HERE)));
    let _handler = Handler::start(&cluster, &dir.0, wakes);
    let ended = async {
        while target.calls() != ["kill"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert!(!state(&cluster.status()).failed, "virt-controller sees that its pod has ended");
}
