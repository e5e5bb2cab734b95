//! The life of one virtual machine, from its disks to QEMU's last word.
//!
//! Owns QEMU's process and its control connection. Decides nothing about the state: it
//! tells [`crate::domain`] what happens, and does what [`super::intent`] says.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::intent::{Act, AtPoweroff, Ending, Intent, Reboot, Urge, at_poweroff};
use super::{Guest, Start};
use crate::console::Carrier;
use crate::disks::{self, DiskError, Images};
use crate::domain::Event;
use crate::migration;
use crate::process::{Exit, ProcessError};
use crate::qemu::spec::GuestSpec;
use crate::qemu::{Accel, Surroundings, command_line, resolv};
use crate::qmp::{self, Qmp, QmpError};

/// QEMU connects before it makes the machine; this is for nodes on their knees.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// What is in flight when QEMU has ended: its last events and words.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);
/// How many of QEMU's last lines are part of a crash's detail.
const LAST_WORDS: usize = 5;

/// A start that failed.
#[derive(Debug, Error)]
enum StartError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("making the serial line: {0}")]
    Serial(#[source] io::Error),
    #[error("binding {}: {source}", path.display())]
    Bind { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("QEMU has not connected to {} within {CONNECT_TIMEOUT:?}", path.display())]
    NotConnected { path: PathBuf },
    #[error("accepting QEMU's connection to {}: {source}", path.display())]
    Accept { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("{words} ({source})")]
    Said { source: Box<StartError>, words: String },
}

/// QEMU's process.
struct Process {
    pid: u32,
    exit: oneshot::Receiver<Exit>,
    words: JoinHandle<String>,
}

/// Lives it.
pub async fn live(guest: Guest, spec: GuestSpec, accel: Accel, carrier: Carrier, start: Start) {
    if let Err(err) = try_live(&guest, &spec, accel, carrier, start).await {
        guest.note(Event::StartFailed { detail: err.to_string() });
    }
    guest.0.qmp.send_replace(None);
}

async fn try_live(
    guest: &Guest,
    spec: &GuestSpec,
    accel: Accel,
    carrier: Carrier,
    start: Start,
) -> Result<(), StartError> {
    let paths = &guest.0.settings.paths;
    let images = tokio::select! {
        images = disks::create(&spec.disks, paths, &guest.0.processes) => images?,
        () = guest.to_end() => {
            // An image may be long in coming, and there is no QEMU to end.
            guest.note(Event::KillAsked { detail: "ended before QEMU was started".into() });
            guest.note(Event::Exited { exit: Exit::Unknown, stderr: String::new() });
            return Ok(());
        }
    };
    let serial = spec.console.then(SerialLine::new).transpose().map_err(StartError::Serial)?;
    let control = bind(&paths.qmp())?;
    let mut process = spawn(guest, spec, (images, serial.as_ref()), accel, start)?;
    let connected = tokio::select! {
        connected = connect(guest, serial, control, carrier) => connected,
        exit = &mut process.exit => {
            end(guest, process.words, exit.unwrap_or(Exit::Unknown), None).await;
            return Ok(());
        }
    };
    let begun = match connected {
        Ok((qmp, events)) => {
            begin(guest, spec, &qmp, start).await.map(|()| (qmp, events)).map_err(Into::into)
        }
        Err(err) => Err(err),
    };
    match begun {
        Ok((qmp, events)) => {
            attend(guest, process, &qmp, events).await;
            Ok(())
        }
        Err(err) => {
            guest.0.processes.kill(process.pid);
            // Its end is certain now; that it has one is all that matters.
            drop(process.exit.await);
            let words = last_words(process.words).await;
            if words.is_empty() { Err(err) } else { Err(StartError::Said { source: Box::new(err), words }) }
        }
    }
}

fn spawn(
    guest: &Guest,
    spec: &GuestSpec,
    (images, serial): (Images, Option<&SerialLine>),
    accel: Accel,
    start: Start,
) -> Result<Process, StartError> {
    let paths = &guest.0.settings.paths;
    let search = resolv::search_domains(Path::new(resolv::RESOLV_CONF));
    // It is closed here when QEMU has it.
    let qemus = serial.map(SerialLine::for_qemu).transpose().map_err(StartError::Serial)?;
    let number = qemus.as_ref().map(AsRawFd::as_raw_fd);
    let around = Surroundings { paths, accel, images: images.inherited(), serial: number, search };
    let args = command_line(spec, &around, start == Start::Incoming);
    tracing::info!(qemu = %paths.qemu.display(), args = ?args, "starting QEMU");
    let mut command = Command::new(&paths.qemu);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    images.let_inherit()?;
    let child = guest.0.processes.spawn(&mut command)?;
    drop((images, qemus));
    guest.note(Event::Spawned { pid: child.pid });
    let words = tokio::spawn(async move {
        let mut lines = BufReader::new(child.stderr).lines();
        let mut last = Vec::new();
        // A line that isn't text ends what we can know.
        while let Ok(Some(line)) = lines.next_line().await {
            tracing::warn!(line, "QEMU says");
            last.push(line);
            last.drain(..last.len().saturating_sub(LAST_WORDS));
        }
        last.join("; ")
    });
    Ok(Process { pid: child.pid, exit: child.exit, words })
}

/// Takes QEMU's connections: from here on nothing of the guest can be missed.
async fn connect(
    guest: &Guest,
    serial: Option<SerialLine>,
    control: (UnixListener, PathBuf),
    carrier: Carrier,
) -> Result<(Qmp, mpsc::UnboundedReceiver<qmp::Event>), StartError> {
    let (qmp, events) = Qmp::open(accept(control).await?).await?;
    match serial {
        Some(SerialLine { ours, qemus }) => {
            let ours = UnixStream::from_std(ours).map_err(StartError::Serial)?;
            let console = guest.0.console.clone();
            tokio::spawn(async move { console.carry(ours, Some(qemus), carrier).await });
        }
        None => guest.0.console.close(),
    }
    Ok((qmp, events))
}

/// Both ends of the guest's serial line. QEMU inherits its own; our duplicate of that tells what QEMU hasn't read.
struct SerialLine {
    ours: std::os::unix::net::UnixStream,
    qemus: OwnedFd,
}

impl SerialLine {
    fn new() -> io::Result<Self> {
        let (ours, qemus) = std::os::unix::net::UnixStream::pair()?;
        for end in [&ours, &qemus] {
            end.set_nonblocking(true)?;
        }
        Ok(Self { ours, qemus: qemus.into() })
    }

    /// QEMU's end, for the next program that is started.
    fn for_qemu(&self) -> io::Result<OwnedFd> {
        let end = self.qemus.try_clone()?;
        rustix::io::fcntl_setfd(&end, rustix::io::FdFlags::empty())?;
        Ok(end)
    }
}

/// Lets the guest run. One that is to begin paused stays as QEMU was started; whether one from elsewhere may run is its
/// migration's to say.
async fn begin(guest: &Guest, spec: &GuestSpec, qmp: &Qmp, start: Start) -> Result<(), QmpError> {
    guest.note(Event::Machine { machine_type: migration::qemu::machine_type(qmp).await? });
    match start {
        Start::Fresh => {
            guest.release().await;
            if spec.start_paused {
                guest.note(Event::HeldBack);
            } else {
                guest.cont(qmp).await?;
            }
        }
        Start::Incoming => {}
    }
    guest.0.qmp.send_replace(Some(qmp.clone()));
    Ok(())
}

/// Listens; QEMU is the only one that can reach this directory.
fn bind(path: &Path) -> Result<(UnixListener, PathBuf), StartError> {
    let listener = listen(path).map_err(|source| StartError::Bind { path: path.to_owned(), source })?;
    Ok((listener, path.to_owned()))
}

/// A socket for QEMU, in place of one that may be left there.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(path)
}

/// Takes one connection, and closes the door.
async fn accept((listener, path): (UnixListener, PathBuf)) -> Result<UnixStream, StartError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, listener.accept()).await {
        Err(_) => Err(StartError::NotConnected { path }),
        Ok(Err(source)) => Err(StartError::Accept { path, source }),
        Ok(Ok((stream, _))) => Ok(stream),
    }
}

async fn attend(
    guest: &Guest,
    mut process: Process,
    qmp: &Qmp,
    mut events: mpsc::UnboundedReceiver<qmp::Event>,
) {
    let mut intent = guest.0.intent.subscribe();
    let mut reboot = guest.0.reboot.subscribe();
    let mut ending = Ending::default();
    loop {
        let wish = *intent.borrow_and_update();
        if let Some(act) = ending.act(wish, Instant::now()) {
            self::act(guest, process.pid, qmp, act);
        }
        urge(guest, qmp, wish);
        let again = reboot.borrow_and_update().and_then(|reboot| reboot.wake(wish));
        let wake = ending.wake(wish).into_iter().chain(again).min();
        tokio::select! {
            exit = &mut process.exit => {
                end(guest, process.words, exit.unwrap_or(Exit::Unknown), Some(events)).await;
                return;
            }
            Some(event) = events.recv() => hear(guest, qmp, wish, event),
            // The senders are the guest's own; they outlive this.
            _ = intent.changed() => {}
            _ = reboot.changed() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

/// Asks a guest again that is to reboot and doesn't react. Never waits.
fn urge(guest: &Guest, qmp: &Qmp, wish: Intent) {
    let hears = guest.watch().borrow().hears_the_power_button();
    let mut urge = None;
    guest.0.reboot.send_if_modified(|reboot| {
        urge = reboot.as_mut().and_then(|reboot: &mut Reboot| reboot.act(wish, hears, Instant::now()));
        // The one who is told is the one who asks.
        false
    });
    match urge {
        None => {}
        Some(Urge::GiveUp) => {
            tracing::warn!("the guest hasn't rebooted within its grace period: asked no more")
        }
        Some(Urge::Powerdown) => {
            tracing::info!("the guest hasn't reacted to the power button: pressed again");
            let qmp = qmp.clone();
            tokio::spawn(async move {
                if let Err(err) = qmp.execute("system_powerdown").await {
                    tracing::warn!(error = %err, "QEMU doesn't press the power button");
                }
            });
        }
    }
}

/// Takes note of what QEMU says, and does what follows. Never waits.
fn hear(guest: &Guest, qmp: &Qmp, wish: Intent, event: qmp::Event) {
    let told = match &event {
        qmp::Event::Migration => {
            guest.tell_migration_news();
            None
        }
        qmp::Event::Shutdown { guest: true, .. } => {
            let reboot = guest.0.reboot.send_replace(None);
            reboot.map(|reboot| match at_poweroff(wish, reboot.until(), Instant::now()) {
                AtPoweroff::Reset => Told::Reset,
                AtPoweroff::Quit => Told::Quit,
            })
        }
        qmp::Event::Reset if guest.watch().borrow().is_rebooting() => Some(Told::Go),
        // It reboots by itself.
        qmp::Event::Reset => guest.0.reboot.send_replace(None).map(|_| Told::Forget),
        _ => None,
    };
    guest.note(if told == Some(Told::Reset) { Event::Rebooting } else { Event::Qemu(event) });
    let Some(told) = told else { return };
    tracing::info!(?told, "somebody wants a reboot");
    let (guest, qmp) = (guest.clone(), qmp.clone());
    tokio::spawn(async move {
        let done = match told {
            Told::Reset => qmp.execute("system_reset").await.map(drop),
            Told::Quit => qmp.execute("quit").await.map(drop),
            Told::Forget => wait_for_poweroff(&qmp, false).await,
            Told::Go => match wait_for_poweroff(&qmp, false).await {
                Ok(()) => guest.cont(&qmp).await,
                Err(err) => Err(err),
            },
        };
        if let Err(err) = done {
            tracing::warn!(error = %err, ?told, "QEMU doesn't do as told");
        }
    });
}

/// The steps of a reboot that somebody has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The guest is off: reset the machine.
    Reset,
    /// The machine is reset: let it run.
    Go,
    /// The guest is off, and nobody wants it back any more.
    Quit,
    /// The guest has rebooted by itself: its next poweroff is one.
    Forget,
}

/// Whether QEMU stays, with the guest's CPUs standing, when the guest powers itself off.
pub(super) async fn wait_for_poweroff(qmp: &Qmp, wait: bool) -> Result<(), QmpError> {
    let action = if wait { "pause" } else { "poweroff" };
    qmp.execute_with("set-action", json!({ "shutdown": action })).await.map(drop)
}

/// Never waits: a QEMU that hangs must not put off its own end.
fn act(guest: &Guest, pid: u32, qmp: &Qmp, act: Act) {
    tracing::info!(?act, "ending the virtual machine");
    let command = match act {
        Act::Powerdown => "system_powerdown",
        Act::Quit => "quit",
        Act::QuitLate => {
            let detail = "the guest didn't shut down within its grace period".into();
            guest.note(Event::KillAsked { detail });
            "quit"
        }
        Act::Kill => return guest.0.processes.kill(pid),
    };
    let (guest, qmp) = (guest.clone(), qmp.clone());
    tokio::spawn(async move {
        let told = async {
            if act == Act::Powerdown {
                // A paused guest couldn't hear the power button.
                guest.cont(&qmp).await?;
            }
            qmp.execute(command).await
        };
        if let Err(err) = told.await {
            tracing::info!(error = %err, "QEMU doesn't do as told");
        }
    });
}

/// Takes note of QEMU's end, after everything that it has said before.
async fn end(
    guest: &Guest,
    words: JoinHandle<String>,
    exit: Exit,
    events: Option<mpsc::UnboundedReceiver<qmp::Event>>,
) {
    if let Some(mut events) = events {
        let rest = async {
            while let Some(event) = events.recv().await {
                guest.note(Event::Qemu(event));
            }
        };
        if tokio::time::timeout(LAST_WORDS_TIMEOUT, rest).await.is_err() {
            tracing::warn!("QEMU's control connection has outlived QEMU");
        }
    }
    let stderr = last_words(words).await;
    if tokio::time::timeout(LAST_WORDS_TIMEOUT, guest.0.console.qemu_ended()).await.is_err() {
        tracing::warn!("QEMU's serial line has outlived QEMU");
    }
    guest.note(Event::Exited { exit, stderr });
}

/// What a QEMU that has ended said at last.
async fn last_words(words: JoinHandle<String>) -> String {
    match tokio::time::timeout(LAST_WORDS_TIMEOUT, words).await {
        Ok(Ok(stderr)) => stderr,
        // A child of QEMU's holds its stderr: there is nothing more to wait for.
        Ok(Err(_)) | Err(_) => String::new(),
    }
}
