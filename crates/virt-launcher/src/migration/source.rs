//! The source's part of a migration: does what [`super::handover`] says, and tells it what happens.
//!
//! Owns the connections to the target. QEMU's process and the guest's state are the guest's.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use handler_launcher_com::launcher::MigrationPhase;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Order;
use super::channel::{self, Channel, Message, Purpose};
use super::handover::{Source, SourceAction, SourceEvent};
use super::identity::{Fingerprint, Identity, IdentityError};
use super::progress::{Hush, Limits, Pace, Stage};
use super::qemu::{self, Manner};
use super::report::Report;
use super::transport::{self, TransportError};
use crate::console::{Console, Unheard};
use crate::domain::Event;
use crate::guest::Guest;
use crate::qmp::{Qmp, QmpError};

/// How often QEMU is asked when it says nothing by itself.
const LOOK: Duration = Duration::from_millis(250);
/// QEMU connects to our socket within its answer to `migrate`.
const QEMU_TIMEOUT: Duration = Duration::from_secs(10);
/// How long QEMU has to stop a migration.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two questions to a target that doesn't answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Questions within which QEMU has certainly looked at its serial line; a FIFO that is almost full takes a byte at a time.
const LOOKS: usize = 4;
/// No more is waited for what somebody pastes at the screen, a second for fifty letters.
const SEEN_LIMIT: Duration = Duration::from_secs(2);
/// Output of the console that is sent at once.
const CHUNK: usize = 32 * 1024;

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// Which migration.
    pub uid: String,
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Who the target is.
    pub peer: Fingerprint,
    /// Where it is.
    pub target: SocketAddr,
    /// How QEMU does it.
    pub manner: Manner,
    /// How long it may take.
    pub limits: Limits,
    /// A socket for QEMU's stream.
    pub socket: PathBuf,
}

/// A migration that doesn't begin.
#[derive(Debug, Error)]
enum ConnectError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("QEMU's migration socket {}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
}

/// What connects us to the target.
struct Links {
    control: Channel,
    memory: JoinHandle<io::Result<()>>,
    console: JoinHandle<()>,
    /// The end of the console's output, once the guest stands.
    console_end: watch::Sender<Option<u64>>,
}

/// One migration.
struct Run<'a> {
    guest: Guest,
    qmp: Qmp,
    plan: &'a Plan,
    report: Report,
    state: Source,
    /// Whether the guest was paused when QEMU stopped it.
    paused: Option<bool>,
    /// Whether what is done at the screen waits.
    hush: Hush,
    /// Why it ends without success.
    why: Option<(MigrationPhase, String)>,
}

/// Moves the guest.
pub async fn drive(
    guest: Guest,
    qmp: Qmp,
    plan: Plan,
    report: Report,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let hush = Hush::begin(Instant::now());
    let mut run =
        Run { guest, qmp, plan: &plan, report, state: Source::START, paused: None, hush, why: None };
    run.report.enter(MigrationPhase::Connecting);
    let guest = run.guest.clone();
    let connected = tokio::select! {
        connected = connect(&guest, &run.qmp, &plan) => connected.map_err(|err| err.to_string()),
        order = orders.recv() => {
            run.obey(order);
            Err(String::new())
        }
        () = guest.to_end() => Err("the guest is being ended".into()),
    };
    match connected {
        Ok(links) => {
            run.report.enter(MigrationPhase::PreCopy);
            run.attend(links, &mut orders).await;
        }
        Err(why) => {
            run.give_up(MigrationPhase::Failed, why);
            run.keep().await;
        }
    }
}

fn hello(guest: &Guest, plan: &Plan, purpose: Purpose) -> Message {
    let state = guest.state();
    Message::Hello {
        version: channel::VERSION,
        purpose,
        migration_uid: plan.uid.clone(),
        machine: state.machine_type,
        emulated: state.emulated,
    }
}

async fn connect(guest: &Guest, qmp: &Qmp, plan: &Plan) -> Result<Links, ConnectError> {
    let dial = async |purpose| {
        let config = plan.identity.client(plan.peer)?;
        let stream = transport::dial_welcome(config, plan.target, &hello(guest, plan, purpose)).await?;
        Ok::<_, ConnectError>(stream)
    };
    let control = Channel::start(dial(Purpose::Control).await?);
    let network = dial(Purpose::Data).await?;
    let socket = |source| ConnectError::Socket { path: plan.socket.clone(), source };
    let listener = crate::guest::life::listen(&plan.socket).map_err(socket)?;
    rest_the_screen(guest, qmp).await?;
    let accept = |listener: UnixListener| async move {
        let accepted = tokio::time::timeout(QEMU_TIMEOUT, listener.accept()).await;
        accepted.unwrap_or_else(|late| Err(late.into())).map(|(stream, _)| stream)
    };
    let (begun, stream) = tokio::join!(qemu::begin(qmp, plan.manner, &plan.socket), accept(listener));
    begun?;
    let memory = tokio::spawn(transport::relay(network, stream.map_err(socket)?));
    let (console_end, until) = watch::channel(None);
    let console = tokio::spawn(send_console(guest.console().clone(), control.outgoing.clone(), until));
    Ok(Links { control, memory, console, console_end })
}

/// A small guest may stand a moment after QEMU begins, and doesn't see what is done at its screen then: QEMU gets nothing more of
/// it, and what it has got is the guest's.
async fn rest_the_screen(guest: &Guest, qmp: &Qmp) -> Result<(), QmpError> {
    let seen_in = guest.screen().hold();
    // QEMU has looked at the screen's connection before it answers.
    for _ in 0..LOOKS {
        qmp.runs().await?;
    }
    tokio::time::sleep(seen_in.min(SEEN_LIMIT)).await;
    Ok(())
}

/// Sends the console's output, from the oldest that is kept to the end that is named in time.
async fn send_console(
    console: Console,
    outgoing: mpsc::Sender<Message>,
    mut until: watch::Receiver<Option<u64>>,
) {
    let mut next = 0;
    loop {
        if until.borrow_and_update().is_some_and(|end| next >= end) {
            return;
        }
        tokio::select! {
            chunk = console.next(next, CHUNK) => {
                let Some((offset, bytes)) = chunk else { return };
                next = offset + bytes.len() as u64;
                let bytes = STANDARD.encode(bytes);
                if outgoing.send(Message::Console { offset, bytes }).await.is_err() {
                    return;
                }
            }
            changed = until.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

impl Run<'_> {
    async fn attend(&mut self, mut links: Links, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let guest = self.guest.clone();
        let mut pace = Pace::new(self.plan.limits, Instant::now());
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut carries, mut lives, mut wanted) = (true, true, true);
        while !self.state.is_final() {
            let Links { control, memory, .. } = &mut links;
            let event = tokio::select! {
                message = control.incoming.recv() => self.hear(message),
                order = orders.recv() => self.obey(order),
                () = guest.migration_news() => self.look(&mut pace, &mut links).await,
                _ = tick.tick() => self.look(&mut pace, &mut links).await,
                carried = memory, if carries => {
                    carries = false;
                    self.carried(carried)
                }
                () = guest.qemu_ended(), if lives => {
                    lives = false;
                    Some(SourceEvent::QemuEnded)
                }
                () = guest.to_end(), if wanted => {
                    wanted = false;
                    self.give_up(MigrationPhase::Failed, "the guest is being ended")
                }
            };
            let Some(event) = event else { continue };
            let action;
            (self.state, action) = self.state.on(event);
            match action {
                Some(SourceAction::HandOver) => self.hand_over(&links.control).await,
                Some(SourceAction::Ask) => {
                    links.let_go();
                    return self.ask(orders).await;
                }
                Some(SourceAction::Keep | SourceAction::End) | None => {}
            }
        }
        links.let_go();
        let reason =
            self.why.as_ref().map_or_else(|| "the guest has ended".to_owned(), |(_, why)| why.clone());
        let word = match self.state {
            Source::Left => Message::Done,
            _ => Message::Kept { reason },
        };
        tokio::join!(links.control.close(Some(word)), self.finish());
    }

    fn hear(&mut self, message: Option<Message>) -> Option<SourceEvent> {
        match message {
            None => {
                self.give_up(MigrationPhase::Failed, "the connection to the target was lost");
                Some(SourceEvent::Lost)
            }
            Some(Message::Loaded) => Some(SourceEvent::TargetLoaded),
            Some(Message::Runs) => Some(SourceEvent::TargetRuns),
            Some(Message::Never { reason }) => {
                self.give_up(MigrationPhase::Failed, format!("the target has ended: {reason}"));
                Some(SourceEvent::TargetGone)
            }
            Some(_) => None,
        }
    }

    fn obey(&mut self, order: Option<Order>) -> Option<SourceEvent> {
        match order? {
            Order::Cancel => self.give_up(MigrationPhase::Cancelled, "cancelled"),
            Order::TargetGone => {
                self.give_up(MigrationPhase::Failed, "the target is gone");
                Some(SourceEvent::TargetGone)
            }
            Order::TargetRuns => Some(SourceEvent::TargetRuns),
        }
    }

    fn carried(&mut self, carried: Result<io::Result<()>, tokio::task::JoinError>) -> Option<SourceEvent> {
        let err = match carried {
            Ok(Ok(())) => return None,
            Ok(Err(err)) => err.to_string(),
            Err(err) => err.to_string(),
        };
        let holds = matches!(self.state, Source::Holding { sent: false, .. });
        // Behind its end QEMU doesn't care how the connection was closed.
        if !holds {
            return None;
        }
        self.give_up(MigrationPhase::Failed, format!("the connection for the guest's memory was lost: {err}"))
    }

    /// The first reason is the reason.
    fn give_up(&mut self, phase: MigrationPhase, why: impl Into<String>) -> Option<SourceEvent> {
        self.why.get_or_insert_with(|| (phase, why.into()));
        Some(SourceEvent::GiveUp)
    }

    async fn look(&mut self, pace: &mut Pace, links: &mut Links) -> Option<SourceEvent> {
        let Source::Holding { sent, .. } = self.state else { return None };
        let progress = match qemu::progress(&self.qmp).await {
            Ok(progress) => progress,
            // Its end is another event.
            Err(QmpError::Closed) => return None,
            Err(err) => return self.give_up(MigrationPhase::Failed, err.to_string()),
        };
        self.report.progress(&progress);
        if self.hush.check(&progress, Instant::now()) {
            self.guest.screen().hold();
        } else {
            self.guest.screen().release();
        }
        match progress.stage {
            Stage::PreSwitchover if self.paused.is_none() => {
                if let Err(err) = self.switch_over(links).await {
                    return self.give_up(MigrationPhase::Failed, err.to_string());
                }
            }
            Stage::Completed if !sent => match self.qmp.runs().await {
                Ok(false) => return Some(SourceEvent::Sent),
                Ok(true) => {
                    return self.give_up(MigrationPhase::Failed, "the guest was let run while it moved");
                }
                Err(err) => return self.give_up(MigrationPhase::Failed, err.to_string()),
            },
            Stage::Failed | Stage::Cancelled => {
                let why = progress.failure.unwrap_or_else(|| "QEMU has stopped the migration".into());
                return self.give_up(MigrationPhase::Failed, why);
            }
            Stage::None
            | Stage::Active
            | Stage::PreSwitchover
            | Stage::Device
            | Stage::Completed
            | Stage::Cancelling => {}
        }
        let slow = pace.check(progress.remaining, Instant::now()).err()?;
        self.give_up(MigrationPhase::Failed, slow.to_string())
    }

    /// The guest stands. Nobody lets it run from here on but this migration; its last words
    /// are sent, then its last state.
    async fn switch_over(&mut self, links: &mut Links) -> Result<(), QmpError> {
        self.guest.hold().await;
        self.paused = Some(self.guest.is_paused());
        self.report.enter(MigrationPhase::Switchover);
        let end = self.guest.console().caught_up().await;
        links.console_end.send_replace(Some(end));
        // It ends with the connection at the latest.
        drop((&mut links.console).await);
        self.stop_typing().await?;
        qemu::go_on(&self.qmp).await
    }

    /// QEMU gets nothing more to read, and has read what it can: a byte that it read behind the serial device's last state
    /// would be lost.
    async fn stop_typing(&self) -> Result<(), QmpError> {
        let console = self.guest.console();
        console.hold_typing();
        let mut before = None;
        loop {
            let unread = console.unread();
            // The standing guest's device takes some bytes, then none.
            if unread == 0 || before == Some(unread) {
                return Ok(());
            }
            before = Some(unread);
            // QEMU looks at its serial line before it answers.
            for _ in 0..LOOKS {
                self.qmp.runs().await?;
            }
        }
    }

    /// From here on the guest doesn't run on this side, unless the target is known to be gone.
    async fn hand_over(&mut self, control: &Channel) {
        self.guest.note(Event::HandedOver);
        self.report.enter(MigrationPhase::HandedOverUnconfirmed);
        let paused = self.paused.unwrap_or_default();
        let console_end = self.guest.console().caught_up().await;
        let Unheard { typed, sessions } = self.guest.console().give_away().await;
        let screens = self.guest.screen().give_away().await;
        tracing::info!(
            migration = self.plan.uid,
            bytes = typed.len(),
            "typed, and not heard by the guest yet"
        );
        let typed = typed.chunks(CHUNK).map(|bytes| Message::Typed { bytes: STANDARD.encode(bytes) });
        for message in typed.chain([Message::HandedOver { paused, console_end, sessions, screens }]) {
            // If the connection is lost, that is the next event.
            drop(control.outgoing.send(message).await);
        }
    }

    /// Asks the target, and listens to those who know, until it is clear where the guest is.
    async fn ask(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let guest = self.guest.clone();
        tracing::warn!(migration = self.plan.uid, "handed over, but not confirmed: asking the target");
        self.guest.note(Event::Unconfirmed);
        self.report.unreachable(true);
        let plan = self.plan;
        let mut inquiry = std::pin::pin!(inquire(&guest, plan));
        while !self.state.is_final() {
            let event = tokio::select! {
                answer = &mut inquiry => self.hear(Some(answer)),
                order = orders.recv() => self.obey(order),
                // Whoever ends it knows what it does.
                () = guest.over() => return,
            };
            if let Some(event) = event {
                (self.state, _) = self.state.on(event);
            }
        }
        self.finish().await;
    }

    async fn finish(&mut self) {
        match self.state {
            Source::Left => {
                // QEMU counts the time that the guest stood behind its "completed".
                if let Ok(progress) = qemu::progress(&self.qmp).await {
                    self.report.progress(&progress);
                }
                self.report.end(MigrationPhase::Completed, "");
                self.guest.leave();
            }
            Source::Kept => self.keep().await,
            // The guest's own end has said so.
            Source::Ended | Source::Holding { .. } | Source::HandedOver => {}
        }
    }

    /// Lets the guest run on here.
    async fn keep(&mut self) {
        if let Err(err) = self.let_run().await {
            tracing::warn!(error = %err, "the guest doesn't run on after its migration");
        }
        self.guest.console().keep();
        self.guest.screen().release();
        let (phase, why) = self.why.take().unwrap_or((MigrationPhase::Failed, "the target is gone".into()));
        self.report.end(phase, &why);
    }

    async fn let_run(&mut self) -> Result<(), QmpError> {
        let paused = self.paused.unwrap_or_else(|| self.guest.is_paused());
        self.guest.note(Event::KeptHere { paused });
        self.qmp.execute("migrate_cancel").await?;
        let stopped = async {
            loop {
                let stage = qemu::progress(&self.qmp).await?.stage;
                match stage {
                    Stage::None | Stage::Completed | Stage::Cancelled | Stage::Failed => return Ok(()),
                    Stage::Active | Stage::PreSwitchover | Stage::Device | Stage::Cancelling => {}
                }
                // QEMU says so, or is asked again.
                drop(tokio::time::timeout(LOOK, self.guest.migration_news()).await);
            }
        };
        let late = Err(QmpError::Timeout { name: "migrate_cancel" });
        let stopped: Result<(), QmpError> =
            tokio::time::timeout(CANCEL_TIMEOUT, stopped).await.unwrap_or(late);
        self.guest.release().await;
        stopped?;
        if !paused && !self.qmp.runs().await? {
            self.guest.cont(&self.qmp).await?;
        }
        Ok(())
    }
}

impl Links {
    /// Nothing more is carried but last words.
    fn let_go(&self) {
        self.memory.abort();
        self.console.abort();
    }
}

/// Asks until the target knows.
async fn inquire(guest: &Guest, plan: &Plan) -> Message {
    loop {
        match question(guest, plan).await {
            Ok(answer @ (Message::Runs | Message::Never { .. })) => return answer,
            Ok(other) => tracing::info!(answer = ?other, "the target doesn't know yet"),
            Err(err) => tracing::info!(error = %err, "the target doesn't answer"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn question(guest: &Guest, plan: &Plan) -> Result<Message, ConnectError> {
    let config = plan.identity.client(plan.peer)?;
    let (mut stream, answer) =
        transport::dial(config, plan.target, &hello(guest, plan, Purpose::Ask)).await?;
    if matches!(answer, Message::Runs | Message::Never { .. }) {
        // A courtesy: without it the target listens for some minutes more.
        let thanks = async {
            channel::write(&mut stream, &Message::Done).await?;
            stream.shutdown().await
        };
        if let Err(err) = thanks.await {
            tracing::debug!(error = %err, "the target listens on");
        }
    }
    Ok(answer)
}
