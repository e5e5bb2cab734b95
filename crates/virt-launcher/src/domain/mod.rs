//! What is known of the virtual machine, and how it changes. Pure: events in, state out.
//!
//! Never acts. A state holds everything a reader needs, so it doesn't matter which of the
//! earlier ones the reader has seen.

use handler_launcher_com::launcher::{
    DomainInterface, DomainPhase, DomainState, MigrationPhase, MigrationRole, MigrationState,
};

use crate::process::Exit;
use crate::qemu::spec::InterfaceSpec;
use crate::qmp;

/// What happens to a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// virt-handler has sent it.
    Asked {
        /// Its interfaces.
        interfaces: Vec<InterfaceSpec>,
        /// Whether its processor is emulated.
        emulated: bool,
        /// Whether it comes from another launcher.
        incoming: bool,
        /// Its memory in MiB.
        memory_mib: u64,
        /// Why it can't be moved, for people; empty if it can.
        not_migratable: String,
    },
    /// QEMU says which machine it runs.
    Machine {
        /// Its type, without aliases.
        machine_type: String,
    },
    /// QEMU was started.
    Spawned {
        /// Its process number.
        pid: u32,
    },
    /// Something before or in QEMU's start went wrong.
    StartFailed {
        /// What.
        detail: String,
    },
    /// QEMU is up, and the guest is to wait until somebody lets it run.
    HeldBack,
    /// Somebody wants the CPUs to stand.
    PauseAsked,
    /// The guest has powered itself off because somebody wants it to reboot: it is started again.
    Rebooting,
    /// Somebody wants it shut down.
    ShutdownAsked,
    /// Somebody wants it ended, or the guest took too long to shut down.
    KillAsked {
        /// Why.
        detail: String,
    },
    /// A migration has come further.
    Migration(MigrationState),
    /// The guest is given to another launcher.
    HandedOver,
    /// Whether it runs there isn't known.
    Unconfirmed,
    /// It stays here after all.
    KeptHere {
        /// As it was: paused, or not.
        paused: bool,
    },
    /// It runs at the other launcher.
    MigratedAway,
    /// It should have come from another launcher, and doesn't.
    Discarded {
        /// Whether somebody wanted so.
        cancelled: bool,
        /// Why.
        detail: String,
    },
    /// QEMU says something.
    Qemu(qmp::Event),
    /// QEMU's process has ended.
    Exited {
        /// How.
        exit: Exit,
        /// Its last words.
        stderr: String,
    },
}

/// All that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    phase: DomainPhase,
    reason: &'static str,
    pid: u32,
    since_ms: i64,
    started_ms: i64,
    detail: String,
    interfaces: Vec<InterfaceSpec>,
    emulated: bool,
    generation: u64,
    pause_asked: bool,
    rebooting: bool,
    shutdown_asked: bool,
    killed: Option<String>,
    panicked: bool,
    /// QEMU's SHUTDOWN: by the guest or not, and why.
    shutdown: Option<(bool, String)>,
    machine_type: String,
    memory_mib: u64,
    not_migratable: String,
    migration: Option<MigrationState>,
    whereabouts: Whereabouts,
    /// Why it hasn't come: whether somebody wanted so, and what happened.
    discarded: Option<(bool, String)>,
    /// QEMU has ended, when it wasn't known whose the guest was.
    ended: Option<(Exit, String)>,
}

/// Whose the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// This launcher's.
    Here,
    /// Another's, from which it may come.
    Coming,
    /// Given to another.
    HandedOver,
    /// Another's, where it runs.
    Away,
}

impl Domain {
    /// Nothing has happened yet.
    pub fn new(now_ms: i64) -> Self {
        Self {
            phase: DomainPhase::NotStarted,
            reason: "WaitingForSync",
            pid: 0,
            since_ms: now_ms,
            started_ms: 0,
            detail: String::new(),
            interfaces: Vec::new(),
            emulated: false,
            generation: 1,
            pause_asked: false,
            rebooting: false,
            shutdown_asked: false,
            killed: None,
            panicked: false,
            shutdown: None,
            machine_type: String::new(),
            memory_mib: 0,
            not_migratable: String::new(),
            migration: None,
            whereabouts: Whereabouts::Here,
            discarded: None,
            ended: None,
        }
    }

    /// Its memory in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    /// Whether it must not run here, or may run elsewhere.
    pub fn is_elsewhere(&self) -> bool {
        match self.whereabouts {
            Whereabouts::Here => false,
            Whereabouts::Coming | Whereabouts::HandedOver | Whereabouts::Away => true,
        }
    }

    /// Whether it runs, and is here to stay.
    pub fn hears_the_power_button(&self) -> bool {
        self.phase == DomainPhase::Running && !self.rebooting && !self.moves_away() && !self.is_elsewhere()
    }

    /// Whether it is off for a moment, to be started again.
    pub fn is_rebooting(&self) -> bool {
        self.rebooting
    }

    /// Whether QEMU has ended.
    pub fn has_no_qemu(&self) -> bool {
        self.is_over() || self.ended.is_some()
    }

    /// Where it is in its life.
    pub fn phase(&self) -> DomainPhase {
        self.phase
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        match self.phase {
            DomainPhase::Shutoff | DomainPhase::Crashed => true,
            DomainPhase::Unknown
            | DomainPhase::NotStarted
            | DomainPhase::Starting
            | DomainPhase::Running
            | DomainPhase::Paused
            | DomainPhase::ShuttingDown => false,
        }
    }

    /// Takes note of an event. True when readers should hear of it.
    pub fn apply(&mut self, event: Event, now_ms: i64) -> bool {
        if self.is_over() {
            return false;
        }
        let before = self.clone();
        self.note(event, now_ms);
        if self.visible() == before.visible() {
            return false;
        }
        if self.phase != before.phase {
            self.since_ms = now_ms;
        }
        self.generation += 1;
        true
    }

    fn note(&mut self, event: Event, now_ms: i64) {
        self.take_in(event, now_ms);
        // Handed over, its end here says nothing of its end: unless somebody wanted it.
        let unclear = self.whereabouts == Whereabouts::HandedOver && self.killed.is_none();
        if let Some((exit, stderr)) = self.ended.take_if(|_| !unclear) {
            self.end(exit, &stderr);
            self.end_migration(now_ms);
        }
    }

    fn take_in(&mut self, event: Event, now_ms: i64) {
        use DomainPhase::{Crashed, NotStarted, Paused, Shutoff, ShuttingDown, Starting};
        match event {
            Event::Asked { interfaces, emulated, incoming, memory_mib, not_migratable } => {
                if self.phase == NotStarted {
                    self.interfaces = interfaces;
                    self.emulated = emulated;
                    self.memory_mib = memory_mib;
                    self.not_migratable = not_migratable;
                    if incoming {
                        self.whereabouts = Whereabouts::Coming;
                    }
                    self.enter(Starting, if incoming { "IncomingMigration" } else { "Starting" });
                }
            }
            Event::Machine { machine_type } => self.machine_type = machine_type,
            Event::Spawned { pid } => {
                self.pid = pid;
                self.started_ms = now_ms;
            }
            Event::StartFailed { detail } => {
                self.detail = detail;
                self.enter(Crashed, "StartFailed");
            }
            Event::HeldBack => {
                self.whereabouts = Whereabouts::Here;
                if self.phase == Starting {
                    self.enter(Paused, "PausedByUser");
                }
            }
            Event::PauseAsked => self.pause_asked = true,
            Event::Rebooting => self.rebooting = true,
            Event::ShutdownAsked => {
                self.shutdown_asked = true;
                match self.phase {
                    NotStarted => self.enter(Shutoff, "NeverStarted"),
                    _ => self.enter(ShuttingDown, "ShutdownAsked"),
                }
            }
            Event::KillAsked { detail } => {
                self.killed.get_or_insert(detail);
                match self.phase {
                    NotStarted => self.enter(Shutoff, "NeverStarted"),
                    _ => self.enter(ShuttingDown, "Killed"),
                }
            }
            Event::Migration(migration) => self.migration = Some(migration),
            Event::HandedOver
            | Event::Unconfirmed
            | Event::KeptHere { .. }
            | Event::MigratedAway
            | Event::Discarded { .. } => self.move_on(event),
            Event::Qemu(event) => self.hear(event),
            Event::Exited { exit, stderr } => {
                self.pid = 0;
                self.ended = Some((exit, stderr));
            }
        }
    }

    fn hear(&mut self, event: qmp::Event) {
        match event {
            qmp::Event::Resume => {
                self.whereabouts = Whereabouts::Here;
                self.pause_asked = false;
                self.rebooting = false;
                if self.phase != DomainPhase::ShuttingDown {
                    self.enter(DomainPhase::Running, "Running");
                }
            }
            qmp::Event::Stop => {
                // QEMU stops the CPUs in every shutdown, too.
                let moves = self.moves_away() && !self.pause_asked;
                let over = self.shutdown.is_some() || self.rebooting;
                if self.phase == DomainPhase::Running && !over && !moves {
                    let reason = if self.pause_asked { "PausedByUser" } else { "PausedByQemu" };
                    self.enter(DomainPhase::Paused, reason);
                }
            }
            qmp::Event::Shutdown { guest, reason } => {
                // A QEMU that is told to quit behind the guest's own poweroff says so, too.
                if self.shutdown.as_ref().is_none_or(|(by_guest, _)| !by_guest) {
                    self.shutdown = Some((guest, reason));
                }
                if self.phase != DomainPhase::ShuttingDown {
                    self.enter(
                        DomainPhase::ShuttingDown,
                        if guest { "GuestShutdown" } else { "QemuShutdown" },
                    );
                }
            }
            qmp::Event::GuestPanicked => self.panicked = true,
            qmp::Event::Reset | qmp::Event::Powerdown | qmp::Event::Migration | qmp::Event::Other(_) => {}
        }
    }

    fn move_on(&mut self, event: Event) {
        match event {
            Event::HandedOver => self.whereabouts = Whereabouts::HandedOver,
            Event::Unconfirmed if self.phase == DomainPhase::Running => {
                self.enter(DomainPhase::Paused, "MigrationUnconfirmed");
            }
            Event::KeptHere { paused } => {
                self.whereabouts = Whereabouts::Here;
                if paused && self.phase == DomainPhase::Paused {
                    self.enter(DomainPhase::Paused, "PausedByUser");
                }
            }
            Event::MigratedAway => self.whereabouts = Whereabouts::Away,
            Event::Discarded { cancelled, detail } => self.discarded = Some((cancelled, detail)),
            _ => {}
        }
    }

    /// Whether the guest is on its way to another launcher.
    pub fn moves_away(&self) -> bool {
        self.migration.as_ref().is_some_and(|migration| {
            let going = matches!(
                migration.phase(),
                MigrationPhase::PreCopy | MigrationPhase::Switchover | MigrationPhase::HandedOverUnconfirmed
            );
            migration.role() == MigrationRole::Source && going
        })
    }

    /// A migration doesn't outlive its guest.
    fn end_migration(&mut self, now_ms: i64) {
        if let Some(migration) = self.migration.as_mut().filter(|migration| migration.ended_unix_ms == 0) {
            migration.set_phase(MigrationPhase::Failed);
            migration.ended_unix_ms = now_ms;
            migration.failure = format!("the guest has ended: {}", self.detail);
        }
    }

    /// What a process's end means: good is only what the guest or somebody in charge wanted.
    fn end(&mut self, exit: Exit, stderr: &str) {
        let (guest, why) = self.shutdown.clone().unwrap_or_default();
        let last_words = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
        let (phase, reason, detail) = if self.whereabouts == Whereabouts::Away {
            (DomainPhase::Shutoff, "Migrated", "the guest runs at the migration's target".to_owned())
        } else if self.whereabouts == Whereabouts::Coming {
            let ended = format!("QEMU {exit} while taking the guest in{last_words}");
            let killed = self.killed.clone().map(|detail| (true, detail));
            let (cancelled, detail) = self.discarded.clone().or(killed).unwrap_or((false, ended));
            (DomainPhase::Shutoff, if cancelled { "MigrationCancelled" } else { "MigrationFailed" }, detail)
        } else if self.panicked {
            (DomainPhase::Crashed, "GuestPanicked", "the guest's kernel panicked".to_owned())
        } else if let Some(detail) = self.killed.clone() {
            (DomainPhase::Shutoff, "Killed", detail)
        } else if guest {
            let reason = if self.shutdown_asked { "Shutdown" } else { "GuestShutdown" };
            (DomainPhase::Shutoff, reason, format!("the guest shut down ({why})"))
        } else if self.shutdown.is_some() {
            (
                DomainPhase::Crashed,
                "QemuShutdown",
                format!("QEMU was told to end ({why}), not by us{last_words}"),
            )
        } else if self.phase == DomainPhase::Starting {
            (DomainPhase::Crashed, "StartFailed", format!("QEMU {exit} while starting{last_words}"))
        } else {
            (DomainPhase::Crashed, "QemuCrashed", format!("QEMU {exit}{last_words}"))
        };
        self.detail = detail;
        self.enter(phase, reason);
    }

    fn enter(&mut self, phase: DomainPhase, reason: &'static str) {
        (self.phase, self.reason) = (phase, reason);
    }

    fn visible(&self) -> (DomainPhase, &'static str, u32, &str, &str, Option<&MigrationState>) {
        (self.phase, self.reason, self.pid, &self.detail, &self.machine_type, self.migration.as_ref())
    }

    /// As readers get it.
    pub fn to_wire(&self) -> DomainState {
        DomainState {
            phase: self.phase.into(),
            reason: self.reason.to_owned(),
            qemu_pid: self.pid,
            since_unix_ms: self.since_ms,
            exit_detail: self.detail.clone(),
            interfaces: self
                .interfaces
                .iter()
                .map(|interface| DomainInterface {
                    name: interface.name.clone(),
                    mac: interface.mac.clone(),
                    ip_addresses: Vec::new(),
                })
                .collect(),
            generation: self.generation,
            qemu_started_unix_ms: self.started_ms,
            emulated: self.emulated,
            migration: self.migration.clone(),
            machine_type: self.machine_type.clone(),
            not_migratable: self.not_migratable.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
