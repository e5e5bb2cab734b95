//! The virtual machine as the launcher's servers see it: state to read, wishes to express.
//!
//! Owns the state and hands it to everybody who watches. Never touches QEMU's process:
//! that is [`life`]'s alone.

pub mod intent;
pub mod life;
mod moving;
mod screenshot;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handler_launcher_com::launcher::{DomainPhase, DomainState};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::console::{Carrier, Console};
use crate::domain::{Domain, Event};
use crate::migration::Migrations;
use crate::paths::Paths;
use crate::process::Processes;
use crate::qemu::NoAccel;
use crate::qemu::spec::{GuestSpec, SpecError};
use crate::qmp::{Qmp, QmpError};
use crate::vnc::Screen;
use intent::{Intent, Reboot};
pub use screenshot::ScreenshotError;

/// QEMU's answer to `stop` and `cont` comes before the event does; the event is never far.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A year: a longer grace only serves to overflow the clock.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A wish that can't be fulfilled.
#[derive(Debug, Error)]
pub enum GuestError {
    /// What came can't be run.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Nothing may run it.
    #[error(transparent)]
    Accel(#[from] NoAccel),
    /// It isn't in the right phase.
    #[error("the virtual machine can't be {wish}: it is {phase:?}")]
    Phase {
        /// What was wished.
        wish: &'static str,
        /// The phase.
        phase: DomainPhase,
    },
    /// QEMU doesn't do it.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// It is between two nodes.
    #[error("the virtual machine can't be {wish}: it is being moved to another node")]
    Moving {
        /// What was wished.
        wish: &'static str,
    },
    /// QEMU says that it has, but hasn't.
    #[error("QEMU has agreed, but the virtual machine isn't {wish} after {EVENT_TIMEOUT:?}")]
    NoEvent {
        /// What was wished.
        wish: &'static str,
    },
}

/// How a life begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The guest boots.
    Fresh,
    /// It comes from another launcher.
    Incoming,
}

/// What a launcher is told at its start.
#[derive(Debug)]
pub struct Settings {
    /// The one instance that it may run.
    pub uid: String,
    /// How long its guest has to shut down, where nobody says otherwise.
    pub grace: Duration,
    /// Whether it may run without KVM.
    pub allow_emulation: bool,
    /// Where everything is.
    pub paths: Paths,
}

/// The virtual machine.
#[derive(Debug, Clone)]
pub struct Guest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    processes: Processes,
    domain: watch::Sender<Domain>,
    intent: watch::Sender<Intent>,
    /// QEMU's control, while there is one.
    qmp: watch::Sender<Option<Qmp>>,
    console: Console,
    screen: Screen,
    /// Taken by the one life of this guest.
    carrier: Mutex<Option<Carrier>>,
    /// Whether the CPUs may be let run here. Held while QEMU is told to.
    may_run: tokio::sync::Mutex<bool>,
    /// The reboot that somebody wants, while QEMU waits for the guest to power itself off.
    reboot: watch::Sender<Option<Reboot>>,
    /// Whether it has a screen, once it is known what it is.
    graphics: OnceLock<bool>,
    /// Held while a picture of the screen is taken.
    screenshots: Arc<tokio::sync::Mutex<()>>,
    migration_news: Notify,
    migrations: Migrations,
}

impl Guest {
    /// A guest that waits to be told what it is.
    pub fn new(settings: Settings, processes: Processes, console: Console, carrier: Carrier) -> Self {
        Self(Arc::new(Inner {
            screen: Screen::new(settings.paths.vnc()),
            settings,
            processes,
            domain: watch::Sender::new(Domain::new(now_ms())),
            intent: watch::Sender::new(Intent::Live),
            qmp: watch::Sender::new(None),
            console,
            carrier: Mutex::new(Some(carrier)),
            may_run: tokio::sync::Mutex::new(false),
            reboot: watch::Sender::new(None),
            graphics: OnceLock::new(),
            screenshots: Arc::default(),
            migration_news: Notify::new(),
            migrations: Migrations::default(),
        }))
    }

    /// The state now.
    pub fn state(&self) -> DomainState {
        self.0.domain.borrow().to_wire()
    }

    /// The state now and after every change.
    pub fn watch(&self) -> watch::Receiver<Domain> {
        self.0.domain.subscribe()
    }

    /// Starts it, unless it has been started already.
    pub fn start(&self, vmi_json: &[u8], allow_emulation: bool) -> Result<DomainState, GuestError> {
        let settings = &self.0.settings;
        // Before it is read: what a newer release has written into the object since is no
        // reason to complain about a guest that runs.
        if self.0.domain.borrow().phase() != DomainPhase::NotStarted {
            return Ok(self.state());
        }
        let spec = GuestSpec::parse(vmi_json, &settings.uid)?;
        self.begin(spec, allow_emulation, Start::Fresh)?;
        Ok(self.state())
    }

    /// Asks it to shut down, and ends it after the grace period.
    pub fn shutdown(&self, grace: Option<Duration>) -> DomainState {
        // It doesn't run here, and must not be let run to hear of it.
        if self.0.domain.borrow().is_elsewhere() {
            return self.kill();
        }
        let deadline = Instant::now() + grace.unwrap_or(self.0.settings.grace).min(LONGEST_GRACE);
        self.note(Event::ShutdownAsked);
        self.wish(Intent::Shutdown { deadline });
        self.state()
    }

    /// Ends it.
    pub fn kill(&self) -> DomainState {
        self.note(Event::KillAsked { detail: "killed on request".into() });
        self.wish(Intent::Kill);
        self.state()
    }

    /// Stops its CPUs; done when they stand.
    pub async fn pause(&self) -> Result<DomainState, GuestError> {
        self.set_running("paused", "stop", DomainPhase::Running, DomainPhase::Paused).await
    }

    /// Lets its CPUs run; done when they do.
    pub async fn unpause(&self) -> Result<DomainState, GuestError> {
        self.set_running("unpaused", "cont", DomainPhase::Paused, DomainPhase::Running).await
    }

    /// Presses the power button, again and again until the guest reacts, and starts it again in the same QEMU once it has
    /// powered itself off, if that is within the grace.
    pub async fn soft_reboot(&self, grace: Option<Duration>) -> Result<DomainState, GuestError> {
        let wish = "rebooted";
        let (phase, moves) = {
            let domain = self.0.domain.borrow();
            (domain.phase(), domain.moves_away() || domain.is_elsewhere())
        };
        if phase != DomainPhase::Running {
            return Err(GuestError::Phase { wish, phase });
        }
        if moves {
            return Err(GuestError::Moving { wish });
        }
        let qmp = self.qmp()?;
        life::wait_for_poweroff(&qmp, true).await?;
        let grace = grace.unwrap_or(self.0.settings.grace).min(LONGEST_GRACE);
        self.0.reboot.send_replace(Some(Reboot::asked(Instant::now(), grace)));
        qmp.execute("system_powerdown").await?;
        Ok(self.state())
    }

    async fn set_running(
        &self,
        wish: &'static str,
        command: &'static str,
        from: DomainPhase,
        to: DomainPhase,
    ) -> Result<DomainState, GuestError> {
        let phase = self.0.domain.borrow().phase();
        if phase == to {
            return Ok(self.state());
        }
        if phase != from {
            return Err(GuestError::Phase { wish, phase });
        }
        let qmp = self.qmp()?;
        {
            let may_run = self.0.may_run.lock().await;
            if !*may_run {
                return Err(GuestError::Moving { wish });
            }
            if to == DomainPhase::Paused {
                self.note(Event::PauseAsked);
            }
            qmp.execute(command).await?;
        }
        let mut domain = self.watch();
        let done = domain.wait_for(|domain| domain.phase() == to || domain.is_over());
        match tokio::time::timeout(EVENT_TIMEOUT, done).await {
            Ok(Ok(domain)) if domain.phase() == to => Ok(domain.to_wire()),
            Ok(Ok(domain)) => Err(GuestError::Phase { wish, phase: domain.phase() }),
            Ok(Err(_)) | Err(_) => Err(GuestError::NoEvent { wish }),
        }
    }

    fn take_carrier(&self) -> Option<Carrier> {
        self.0.carrier.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn wish(&self, wish: Intent) {
        self.0.intent.send_modify(|intent| *intent = intent.and(wish));
    }

    /// Takes note of an event, and tells everybody who watches.
    pub(crate) fn note(&self, event: Event) {
        // Numbers of a migration's progress are for readers; the log has its phases.
        let loud = !matches!(event, Event::Migration(_));
        let changed = self.0.domain.send_if_modified(|domain| domain.apply(event, now_ms()));
        if changed && loud {
            let state = self.state();
            tracing::info!(
                phase = state.phase().as_str_name(),
                reason = state.reason,
                qemu_pid = u64::from(state.qemu_pid),
                detail = state.exit_detail,
                "the virtual machine's state has changed"
            );
        }
        if self.0.domain.borrow().is_over() {
            self.0.console.close();
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
