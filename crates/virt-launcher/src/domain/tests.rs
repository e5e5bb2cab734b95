//! Lives of virtual machines, as tables.

use super::*;

fn asked() -> Event {
    begins(false)
}

fn begins(incoming: bool) -> Event {
    Event::Asked {
        interfaces: Vec::new(),
        emulated: true,
        incoming,
        memory_mib: 96,
        not_migratable: String::new(),
    }
}

fn resumed() -> Event {
    Event::Qemu(qmp::Event::Resume)
}

fn stopped() -> Event {
    Event::Qemu(qmp::Event::Stop)
}

fn shutdown(guest: bool, reason: &str) -> Event {
    Event::Qemu(qmp::Event::Shutdown { guest, reason: reason.into() })
}

fn exited(exit: Exit) -> Event {
    Event::Exited { exit, stderr: String::new() }
}

fn killed() -> Event {
    Event::KillAsked { detail: "killed on request".into() }
}

/// One line per event that readers hear of.
fn life(events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let mut domain = Domain::new(0);
    let mut lines = Vec::new();
    for (i, event) in events.into_iter().enumerate() {
        if domain.apply(event, i as i64 + 1) {
            let state = domain.to_wire();
            lines.push(format!(
                "{} {}",
                state.phase().as_str_name().trim_start_matches("DOMAIN_PHASE_"),
                state.reason
            ));
        }
    }
    lines
}

fn started(then: impl IntoIterator<Item = Event>) -> Vec<String> {
    let lines = life([asked(), Event::Spawned { pid: 7 }, resumed()].into_iter().chain(then));
    assert_eq!(lines[..3], ["STARTING Starting", "STARTING Starting", "RUNNING Running"]);
    lines[3..].to_vec()
}

#[test]
fn a_guest_that_is_held_back_is_paused_until_it_runs() {
    let begin = [asked(), Event::Spawned { pid: 7 }, Event::HeldBack, resumed()];
    assert_eq!(
        life(begin),
        ["STARTING Starting", "STARTING Starting", "PAUSED PausedByUser", "RUNNING Running"]
    );
    // Somebody wanted its end before QEMU was up.
    assert_eq!(
        life([asked(), killed(), Event::HeldBack, exited(Exit::Code(0))]),
        ["STARTING Starting", "SHUTTING_DOWN Killed", "SHUTOFF Killed"]
    );
}

#[test]
fn ends_that_somebody_wanted() {
    assert_eq!(
        started([shutdown(true, "guest-shutdown"), stopped(), exited(Exit::Code(0))]),
        ["SHUTTING_DOWN GuestShutdown", "SHUTOFF GuestShutdown"]
    );
    assert_eq!(
        started([
            Event::ShutdownAsked,
            Event::Qemu(qmp::Event::Powerdown),
            shutdown(true, "guest-shutdown"),
            exited(Exit::Code(0))
        ]),
        ["SHUTTING_DOWN ShutdownAsked", "SHUTOFF Shutdown"]
    );
    assert_eq!(
        started([Event::ShutdownAsked, killed(), shutdown(false, "host-qmp-quit"), exited(Exit::Code(0))]),
        ["SHUTTING_DOWN ShutdownAsked", "SHUTTING_DOWN Killed", "SHUTOFF Killed"]
    );
    assert_eq!(started([killed(), exited(Exit::Signal(9))]), ["SHUTTING_DOWN Killed", "SHUTOFF Killed"]);
}

#[test]
fn ends_that_nobody_wanted() {
    assert_eq!(started([exited(Exit::Signal(9))]), ["CRASHED QemuCrashed"]);
    assert_eq!(started([exited(Exit::Code(1))]), ["CRASHED QemuCrashed"]);
    assert_eq!(
        started([shutdown(false, "host-signal"), exited(Exit::Code(0))]),
        ["SHUTTING_DOWN QemuShutdown", "CRASHED QemuShutdown"]
    );
    assert_eq!(
        started([
            Event::Qemu(qmp::Event::GuestPanicked),
            shutdown(true, "guest-panic"),
            exited(Exit::Code(0))
        ]),
        ["SHUTTING_DOWN GuestShutdown", "CRASHED GuestPanicked"]
    );
    // Killed from outside while it was asked to shut down: the guest had no say in it.
    assert_eq!(
        started([Event::ShutdownAsked, exited(Exit::Signal(9))]),
        ["SHUTTING_DOWN ShutdownAsked", "CRASHED QemuCrashed"]
    );
    assert_eq!(
        life([asked(), Event::Spawned { pid: 7 }, exited(Exit::Code(1))]),
        ["STARTING Starting", "STARTING Starting", "CRASHED StartFailed"]
    );
    assert_eq!(
        life([asked(), Event::StartFailed { detail: "no disk".into() }]),
        ["STARTING Starting", "CRASHED StartFailed"]
    );
}

#[test]
fn a_reboot_on_request_is_no_end_and_no_pause() {
    assert_eq!(started([Event::Rebooting, stopped(), resumed()]), [""; 0]);
    assert_eq!(started([Event::Rebooting, stopped(), exited(Exit::Signal(9))]), ["CRASHED QemuCrashed"]);
    // Off for good though QEMU had been told to wait: it is told to quit.
    assert_eq!(
        started([
            Event::ShutdownAsked,
            shutdown(true, "guest-shutdown"),
            shutdown(false, "host-qmp-quit"),
            exited(Exit::Code(0)),
        ]),
        ["SHUTTING_DOWN ShutdownAsked", "SHUTOFF Shutdown"]
    );
}

#[test]
fn pauses() {
    assert_eq!(
        started([Event::PauseAsked, stopped(), resumed(), stopped(), resumed()]),
        ["PAUSED PausedByUser", "RUNNING Running", "PAUSED PausedByQemu", "RUNNING Running"]
    );
    // A paused guest is let run so that it can shut down; that doesn't make it run again.
    assert_eq!(
        started([
            Event::PauseAsked,
            stopped(),
            Event::ShutdownAsked,
            resumed(),
            shutdown(true, "guest-shutdown")
        ]),
        ["PAUSED PausedByUser", "SHUTTING_DOWN ShutdownAsked"]
    );
}

#[test]
fn what_never_started() {
    assert_eq!(life([Event::ShutdownAsked, asked()]), ["SHUTOFF NeverStarted"]);
    assert_eq!(life([killed(), asked()]), ["SHUTOFF NeverStarted"]);
    assert_eq!(life([asked(), asked()]), ["STARTING Starting"]);
}

#[test]
fn the_end_is_final_and_tells_the_detail() {
    let mut domain = Domain::new(5);
    domain.apply(asked(), 10);
    domain.apply(Event::Spawned { pid: 7 }, 11);
    domain.apply(resumed(), 12);
    let running = domain.to_wire();
    assert_eq!((running.qemu_pid, running.since_unix_ms, running.qemu_started_unix_ms), (7, 12, 11));
    assert!(domain.apply(Event::Exited { exit: Exit::Signal(9), stderr: "oops".into() }, 20));
    assert!(!domain.apply(resumed(), 30));
    let over = domain.to_wire();
    assert_eq!(over.exit_detail, "QEMU was killed by signal 9: oops");
    assert_eq!((over.qemu_pid, over.since_unix_ms), (0, 20));
    assert!(over.generation > running.generation && domain.is_over());
}

#[test]
fn events_without_news_are_not_told() {
    let quiet = [resumed(), Event::Qemu(qmp::Event::Reset), Event::Qemu(qmp::Event::Other("X".into()))];
    assert_eq!(started(quiet), Vec::<String>::new());
}
