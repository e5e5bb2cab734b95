//! What is known of the virtual machine, and how it changes. Pure: events in, state out.
//!
//! Never acts. A state holds everything a reader needs, so it doesn't matter which of the
//! earlier ones the reader has seen.

use handler_launcher_com::launcher::{DomainInterface, DomainPhase, DomainState};

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
    /// Somebody wants it shut down.
    ShutdownAsked,
    /// Somebody wants it ended, or the guest took too long to shut down.
    KillAsked {
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
    shutdown_asked: bool,
    killed: Option<String>,
    panicked: bool,
    /// QEMU's SHUTDOWN: by the guest or not, and why.
    shutdown: Option<(bool, String)>,
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
            shutdown_asked: false,
            killed: None,
            panicked: false,
            shutdown: None,
        }
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
        use DomainPhase::{Crashed, NotStarted, Paused, Shutoff, ShuttingDown, Starting};
        match event {
            Event::Asked { interfaces, emulated } => {
                if self.phase == NotStarted {
                    self.interfaces = interfaces;
                    self.emulated = emulated;
                    self.enter(Starting, "Starting");
                }
            }
            Event::Spawned { pid } => {
                self.pid = pid;
                self.started_ms = now_ms;
            }
            Event::StartFailed { detail } => {
                self.detail = detail;
                self.enter(Crashed, "StartFailed");
            }
            Event::HeldBack => {
                if self.phase == Starting {
                    self.enter(Paused, "PausedByUser");
                }
            }
            Event::PauseAsked => self.pause_asked = true,
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
            Event::Qemu(event) => self.hear(event),
            Event::Exited { exit, stderr } => self.end(exit, &stderr),
        }
    }

    fn hear(&mut self, event: qmp::Event) {
        match event {
            qmp::Event::Resume => {
                self.pause_asked = false;
                if self.phase != DomainPhase::ShuttingDown {
                    self.enter(DomainPhase::Running, "Running");
                }
            }
            qmp::Event::Stop => {
                // QEMU stops the CPUs in every shutdown, too.
                if self.phase == DomainPhase::Running && self.shutdown.is_none() {
                    let reason = if self.pause_asked { "PausedByUser" } else { "PausedByQemu" };
                    self.enter(DomainPhase::Paused, reason);
                }
            }
            qmp::Event::Shutdown { guest, reason } => {
                self.shutdown = Some((guest, reason));
                if self.phase != DomainPhase::ShuttingDown {
                    self.enter(
                        DomainPhase::ShuttingDown,
                        if guest { "GuestShutdown" } else { "QemuShutdown" },
                    );
                }
            }
            qmp::Event::GuestPanicked => self.panicked = true,
            qmp::Event::Reset | qmp::Event::Powerdown | qmp::Event::Other(_) => {}
        }
    }

    /// What a process's end means: good is only what the guest or somebody in charge wanted.
    fn end(&mut self, exit: Exit, stderr: &str) {
        let (guest, why) = self.shutdown.clone().unwrap_or_default();
        let last_words = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
        let (phase, reason, detail) = if self.panicked {
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
        self.pid = 0;
        self.detail = detail;
        self.enter(phase, reason);
    }

    fn enter(&mut self, phase: DomainPhase, reason: &'static str) {
        (self.phase, self.reason) = (phase, reason);
    }

    fn visible(&self) -> (DomainPhase, &'static str, u32, &str) {
        (self.phase, self.reason, self.pid, &self.detail)
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
        }
    }
}

#[cfg(test)]
mod tests;
