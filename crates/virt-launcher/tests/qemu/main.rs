//! Launchers with real QEMUs and the tick guest: it moves, and no tick is lost or said twice; it reboots;
//! its screen is seen.
//!
//! Needs `KUBEVIRT_TEST_QEMU` and `KUBEVIRT_TEST_QEMU_IMG` (programs that run those of the launcher's image) and
//! `KUBEVIRT_TEST_GUEST` (the tick guest's `boot` directory): `scripts/qemu-test.sh` sets all.

#![allow(clippy::unwrap_used)]

mod disks;
mod launcher;
mod network;
#[path = "../process/mod.rs"]
mod process;
mod screen;
mod typist;

use std::time::Duration;

use handler_launcher_com::launcher::{DomainPhase, MigrationOptions, MigrationPhase};
use launcher::{Launcher, Reader, ticks};
use typist::Typist;

const MOVES: usize = 4;
/// How long no virt-handler comes where `KUBEVIRT_TEST_ABSENCE` doesn't say otherwise, in seconds.
const ABSENCE: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn it_moves_there_and_back_and_no_tick_is_lost() {
    let mut at = Launcher::start("m0").await;
    at.boot().await;
    let mut reader = Reader::default();
    reader.read_until(&at, |text| text.contains("tick 3 ")).await;
    for i in 1..=MOVES {
        let mut to = Launcher::start(&format!("m{i}")).await;
        let uid = format!("move-{i}");
        at.begin(&mut to, &uid, MigrationOptions::default()).await;
        let moved = at.until(|state| state.phase() == DomainPhase::Shutoff).await;
        assert_eq!(moved.reason, "Migrated", "{moved:?}");
        let migration = moved.migration.unwrap();
        assert_eq!(migration.phase(), MigrationPhase::Completed);
        to.until(|state| state.phase() == DomainPhase::Running).await;
        // All that it said is at the target, from the same offset on.
        let next = ticks(&reader.text).len() + 5;
        reader.read_until(&to, |text| ticks(text).len() > next).await;
        eprintln!("    {uid}: downtime {} ms, {} ticks", migration.downtime_ms, ticks(&reader.text).len());
        assert_eq!(at.ended().await, Some(0));
        at = to;
    }
    let ticks = ticks(&reader.text);
    let want: Vec<u64> = (0..ticks.len() as u64).collect();
    assert_eq!(ticks, want);
    at.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn what_is_typed_while_it_moves_is_heard_once_and_in_order() {
    let mut at = Launcher::start("t0").await;
    at.boot().await;
    Reader::default().read_until(&at, |text| text.contains("guest: ready")).await;
    let mut typist = Typist::new();
    for i in 1..=MOVES {
        let mut to = Launcher::start(&format!("t{i}")).await;
        let typing = tokio::spawn(typist.talk(at.dir.clone(), false));
        if i == 1 {
            // A migration that comes to nothing.
            let slow =
                MigrationOptions { bandwidth_bytes_per_second: 1 << 20, ..MigrationOptions::default() };
            let mut nobody = Launcher::start("t-nobody").await;
            at.begin(&mut nobody, "nothing", slow).await;
            at.until(|state| state.migration.as_ref().is_some_and(|m| m.memory_transferred_bytes > 0)).await;
            at.cancel("nothing").await;
            at.until(|state| {
                state.migration.as_ref().is_some_and(|m| m.phase() == MigrationPhase::Cancelled)
            })
            .await;
        }
        at.begin(&mut to, &format!("typed-{i}"), MigrationOptions::default()).await;
        let moved = at.until(|state| state.phase() == DomainPhase::Shutoff).await;
        assert_eq!(moved.reason, "Migrated", "{moved:?}");
        typist = typing.await.unwrap();
        let log = std::fs::read_to_string(at.dir.join("log")).unwrap();
        let unheard = log.lines().find(|line| line.contains("not heard by the guest")).unwrap();
        let unheard: serde_json::Value = serde_json::from_str(unheard).unwrap();
        let (heard, again) = (typist.heard().len(), typist.again);
        eprintln!(
            "    typed-{i}: {heard} lines heard, {} bytes went along, {again} typed again",
            unheard["bytes"]
        );
        assert_eq!(at.ended().await, Some(0));
        at = to;
    }
    let typist = tokio::time::timeout(Duration::from_secs(120), typist.talk(at.dir.clone(), true)).await;
    let heard = typist.expect("the last line is heard").heard();
    assert_eq!(heard, (0..heard.len()).collect::<Vec<_>>());
    assert!(heard.len() > 100, "{} lines", heard.len());
    at.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn cancelled_or_without_its_target_it_stays() {
    let mut at = Launcher::start("c0").await;
    at.boot().await;
    let mut reader = Reader::default();
    reader.read_until(&at, |text| text.contains("tick 3 ")).await;
    // Slow enough to be caught in pre-copy.
    let slow = MigrationOptions { bandwidth_bytes_per_second: 1 << 20, ..MigrationOptions::default() };
    for (uid, kill) in [("cancel", false), ("kill", true)] {
        let mut to = Launcher::start(uid).await;
        at.begin(&mut to, uid, slow).await;
        at.until(|state| state.migration.as_ref().is_some_and(|m| m.memory_transferred_bytes > 0)).await;
        let want = if kill {
            to.kill_qemu().await;
            MigrationPhase::Failed
        } else {
            at.cancel(uid).await;
            MigrationPhase::Cancelled
        };
        let state = at.until(|state| state.migration.as_ref().is_some_and(|m| m.phase() == want)).await;
        assert_eq!(state.phase(), DomainPhase::Running, "{state:?}");
        to.until(|state| state.phase() == DomainPhase::Shutoff).await;
        let next = ticks(&reader.text).len() + 5;
        reader.read_until(&at, |text| ticks(text).len() > next).await;
    }
    let ticks = ticks(&reader.text);
    assert_eq!(ticks, (0..ticks.len() as u64).collect::<Vec<_>>());
    at.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn softly_rebooted_it_starts_again_in_the_same_qemu() {
    let mut at = Launcher::start("r0").await;
    at.boot().await;
    let mut reader = Reader::default();
    let pid = at.until(|state| state.qemu_pid != 0).await.qemu_pid;
    for round in 1..=2 {
        // It doesn't hear the button before it is up.
        reader.read_until(&at, |text| text.matches("tick 9 ").count() == round).await;
        at.soft_reboot(60).await;
        reader.read_until(&at, |text| text.matches("guest: powering off").count() == round).await;
    }
    reader.read_until(&at, |text| text.matches("tick 9 ").count() == 3).await;
    let state = at.until(|state| state.phase() == DomainPhase::Running).await;
    assert_eq!(state.qemu_pid, pid, "{state:?}");
    // Somebody wants it off for good: the reboot that was asked for before doesn't bring it back.
    at.soft_reboot(60).await;
    at.shut_down().await;
    let state = at.until(|state| state.phase() == DomainPhase::Shutoff).await;
    assert_eq!(state.reason, "Shutdown", "{state:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn asked_to_reboot_before_it_listens_it_reboots_all_the_same() {
    let mut at = Launcher::start("r1").await;
    at.boot().await;
    // Its firmware has hardly begun.
    at.soft_reboot(110).await;
    let mut reader = Reader::default();
    let again =
        |text: &str| text.split_once("guest: powering off").is_some_and(|(_, new)| new.contains("tick 3 "));
    reader.read_until(&at, again).await;
    let state = at.until(|state| state.phase() == DomainPhase::Running).await;
    assert_eq!(reader.text.matches("guest: powering off").count(), 1, "{state:?}");
    at.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
async fn it_needs_no_virt_handler_to_go_on() {
    let absence = std::env::var("KUBEVIRT_TEST_ABSENCE").ok().and_then(|text| text.parse().ok());
    let absence = Duration::from_secs(absence.unwrap_or(ABSENCE));
    let mut at = Launcher::start("a0").await;
    at.boot().await;
    let mut reader = Reader::default();
    reader.read_until(&at, |text| text.contains("tick 3 ")).await;
    let before = at.until(|state| state.qemu_pid != 0).await;
    at.left_alone(absence).await;
    let after = at.until(|state| state.phase() == DomainPhase::Running).await;
    assert_eq!((after.qemu_pid, after.reason), (before.qemu_pid, before.reason));
    let tick = Reader::newest_tick(&at).await;
    eprintln!("    nobody came for {} s: tick {tick}", absence.as_secs());
    // Ten a second, on a machine that may have other work to do.
    assert!(tick > absence.as_secs(), "tick {tick}");
    at.kill().await;
}
