//! The target's part of a migration: does what [`super::handover`] says, and tells it what happens.
//!
//! Owns the listener. It stays open behind the guest's arrival until the source has heard of
//! that, so a source that was cut off can ask. QEMU's process and the guest's state are the
//! guest's.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use handler_launcher_com::launcher::MigrationPhase;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_rustls::server::TlsStream;

use super::Order;
use super::channel::{self, Channel, Message, Purpose};
use super::handover::{Target, TargetAction, TargetEvent};
use super::progress::Stage;
use super::qemu;
use super::report::Report;
use super::transport;
use crate::console::Unheard;
use crate::domain::Event;
use crate::guest::Guest;
use crate::qmp::{Qmp, QmpError};

/// How often QEMU is asked when it says nothing by itself.
const LOOK: Duration = Duration::from_millis(250);
/// A source that hasn't come by then doesn't come.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a source that was cut off may ask where the guest is.
const OWNER_LISTENS: Duration = Duration::from_secs(600);
/// The same, where the guest isn't: then our own end says it, too.
const NEVER_LISTENS: Duration = Duration::from_secs(30);
/// How long QEMU's end is waited for.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// A launcher keeps no more of what is typed, and its serial line holds less.
const MOST_TYPED: usize = 4 * 1024 * 1024;
/// Connections that wait to be looked at.
const ARRIVALS: usize = 4;

/// What is expected.
#[derive(Debug)]
pub struct Expected {
    /// Which migration.
    pub uid: String,
    /// Who may connect.
    pub tls: Arc<ServerConfig>,
    /// Where.
    pub listener: TcpListener,
    /// Where QEMU waits.
    pub socket: PathBuf,
}

type Arrival = (TlsStream<TcpStream>, Message);

/// One migration.
struct Run {
    guest: Guest,
    qmp: Qmp,
    uid: String,
    socket: PathBuf,
    report: Report,
    state: Target,
    control: Option<Channel>,
    memory: Option<JoinHandle<io::Result<()>>>,
    /// The guest shall stay paused.
    paused: bool,
    /// What it hasn't heard yet.
    typed: Vec<u8>,
    /// The source may have handed over, so it may come back and ask.
    was_loaded: bool,
    /// The source has said that it knows.
    done: mpsc::Sender<()>,
    why: Option<(MigrationPhase, String)>,
}

/// Takes the guest in. Ends when the source knows where the guest is, or asks no more.
pub async fn drive(
    guest: Guest,
    qmp: Qmp,
    expected: Expected,
    report: Report,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let (arrived, mut arrivals) = mpsc::channel(ARRIVALS);
    let listening = tokio::spawn(accept(expected.listener, expected.tls, arrived)).abort_handle();
    let _closed_at_the_end = Closed(listening);
    let (done, mut knows) = mpsc::channel(1);
    let mut run = Run {
        guest,
        qmp,
        uid: expected.uid,
        socket: expected.socket,
        report,
        state: Target::Loading,
        control: None,
        memory: None,
        paused: false,
        typed: Vec::new(),
        was_loaded: false,
        done,
        why: None,
    };
    run.attend(&mut arrivals, &mut orders).await;
    let linger = match run.state {
        Target::Owner => OWNER_LISTENS,
        _ if run.was_loaded => NEVER_LISTENS,
        _ => Duration::ZERO,
    };
    run.answer(&mut arrivals, &mut knows, Instant::now() + linger).await;
}

/// Aborts a task when dropped.
struct Closed(AbortHandle);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets in whoever shows the source's certificate.
async fn accept(listener: TcpListener, tls: Arc<ServerConfig>, arrived: mpsc::Sender<Arrival>) {
    loop {
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(err) => {
                tracing::warn!(error = %err, "a connection can't be accepted");
                // Too many open files pass; asking again at once would only burn the processor.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, arrived) = (Arc::clone(&tls), arrived.clone());
        tokio::spawn(async move {
            match transport::meet(tls, tcp).await {
                // The migration may be over.
                Ok(arrival) => drop(arrived.send(arrival).await),
                Err(err) => tracing::info!(%from, error = %err, "not the migration's source"),
            }
        });
    }
}

/// The next message, if there is a channel.
async fn next(control: &mut Option<Channel>) -> Option<Message> {
    match control {
        Some(channel) => channel.incoming.recv().await,
        None => std::future::pending().await,
    }
}

async fn carried(memory: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let Some(carrying) = memory else { return std::future::pending().await };
    let carried = carrying.await;
    *memory = None;
    carried.unwrap_or_else(|err| Err(io::Error::other(err)))
}

impl Run {
    async fn attend(
        &mut self,
        arrivals: &mut mpsc::Receiver<Arrival>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) {
        let guest = self.guest.clone();
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let late = Instant::now() + SOURCE_TIMEOUT;
        let (mut lives, mut wanted) = (true, true);
        while !self.state.is_final() {
            let event = tokio::select! {
                Some(arrival) = arrivals.recv() => self.greet(arrival).await,
                message = next(&mut self.control) => self.hear(message),
                carried = carried(&mut self.memory) => self.carried(carried),
                Some(order) = orders.recv() => self.obey(order),
                () = guest.migration_news() => self.look().await,
                _ = tick.tick() => self.look().await,
                () = guest.qemu_ended(), if lives => {
                    lives = false;
                    self.give_up(MigrationPhase::Failed, "QEMU has ended");
                    Some(TargetEvent::QemuEnded)
                }
                () = guest.to_end(), if wanted => {
                    wanted = false;
                    self.give_up(MigrationPhase::Cancelled, "ended on request")
                }
                () = sleep_until(late), if self.control.is_none() => {
                    self.give_up(MigrationPhase::Failed, format!("the source hasn't come within {SOURCE_TIMEOUT:?}"))
                }
            };
            let mut event = event;
            while let Some(happened) = event.take() {
                event = self.on(happened).await;
            }
        }
    }

    /// One step; a step of QEMU's may follow at once.
    async fn on(&mut self, event: TargetEvent) -> Option<TargetEvent> {
        let (next, action) = self.state.on(event);
        self.state = next;
        match action? {
            TargetAction::SayLoaded => {
                self.was_loaded = true;
                self.report.enter(MigrationPhase::Switchover);
                self.say(Message::Loaded).await;
                None
            }
            TargetAction::Resume => self.resume().await,
            TargetAction::SayRuns => {
                self.report.end(MigrationPhase::Completed, "");
                self.say(Message::Runs).await;
                None
            }
            TargetAction::Discard => {
                self.discard().await;
                None
            }
        }
    }

    async fn say(&mut self, word: Message) {
        if let Some(control) = &self.control {
            // A lost connection is an event of its own.
            drop(control.outgoing.send(word).await);
        }
    }

    async fn resume(&mut self) -> Option<TargetEvent> {
        self.guest.release().await;
        if self.paused {
            self.guest.note(Event::HeldBack);
            return Some(TargetEvent::Resumed);
        }
        match self.guest.cont(&self.qmp).await {
            Ok(()) => Some(TargetEvent::Resumed),
            Err(err @ QmpError::Refused { .. }) => {
                self.guest.hold().await;
                self.give_up(MigrationPhase::Failed, err.to_string());
                Some(TargetEvent::ResumeRefused)
            }
            Err(err) => {
                // It may run, or not: QEMU says so when it is asked again, or ends.
                tracing::warn!(error = %err, "letting the guest run");
                None
            }
        }
    }

    /// Ends QEMU, and says that the guest never ran in it.
    async fn discard(&mut self) {
        let (phase, reason) = self
            .why
            .clone()
            .unwrap_or((MigrationPhase::Failed, "the connection to the source was lost".into()));
        self.report.end(phase, &reason);
        self.guest.discard(phase == MigrationPhase::Cancelled, &reason);
        if tokio::time::timeout(END_TIMEOUT, self.guest.qemu_ended()).await.is_err() {
            tracing::warn!("QEMU doesn't end; it isn't let run either");
        }
        self.say(Message::Never { reason }).await;
    }

    /// The first reason is the reason.
    fn give_up(&mut self, phase: MigrationPhase, why: impl Into<String>) -> Option<TargetEvent> {
        self.why.get_or_insert_with(|| (phase, why.into()));
        Some(TargetEvent::GiveUp)
    }

    fn obey(&mut self, order: Order) -> Option<TargetEvent> {
        match order {
            Order::Cancel => self.give_up(MigrationPhase::Cancelled, "cancelled"),
            // Said to sources only.
            Order::TargetGone | Order::TargetRuns => None,
        }
    }

    fn carried(&mut self, carried: io::Result<()>) -> Option<TargetEvent> {
        let err = carried.err()?;
        // Behind its end QEMU doesn't care how the connection was closed.
        if self.state != Target::Loading {
            return None;
        }
        self.give_up(MigrationPhase::Failed, format!("the connection for the guest's memory was lost: {err}"))
    }

    fn hear(&mut self, message: Option<Message>) -> Option<TargetEvent> {
        match message {
            None => {
                self.control = None;
                (!self.state.is_final()).then(|| {
                    self.give_up(MigrationPhase::Failed, "the connection to the source was lost");
                    TargetEvent::Lost
                })
            }
            // What comes later isn't about this guest's time here.
            Some(Message::Console { .. }) if self.state.is_final() => None,
            Some(Message::Console { offset, bytes }) => match STANDARD.decode(bytes) {
                Ok(bytes) => {
                    self.guest.console().adopt(offset, &bytes);
                    None
                }
                Err(err) => self.give_up(MigrationPhase::Failed, format!("the console's output: {err}")),
            },
            Some(Message::Typed { .. }) if self.state.is_final() => None,
            Some(Message::Typed { bytes }) => match STANDARD.decode(bytes) {
                Ok(bytes) if self.typed.len() + bytes.len() <= MOST_TYPED => {
                    self.typed.extend(bytes);
                    None
                }
                Ok(_) => self.give_up(MigrationPhase::Failed, "more was typed than can be"),
                Err(err) => self.give_up(MigrationPhase::Failed, format!("what was typed: {err}")),
            },
            Some(Message::HandedOver { paused, console_end, sessions, screens }) => {
                self.guest.screen().adopt(screens);
                self.paused = paused;
                let typed = std::mem::take(&mut self.typed);
                self.guest.console().adopted(console_end, Unheard { typed, sessions });
                Some(TargetEvent::HandedOver)
            }
            Some(Message::Kept { reason }) => {
                self.give_up(MigrationPhase::Failed, format!("the source keeps the guest: {reason}"));
                Some(TargetEvent::Kept)
            }
            Some(Message::Done) => {
                // Somebody is told already.
                let _ = self.done.try_send(());
                None
            }
            Some(_) => None,
        }
    }

    async fn look(&mut self) -> Option<TargetEvent> {
        match self.state {
            Target::Loading => match qemu::progress(&self.qmp).await.map(|progress| progress.stage) {
                Ok(Stage::Completed) => Some(TargetEvent::Loaded),
                Ok(Stage::Failed) => self.give_up(MigrationPhase::Failed, "QEMU can't take the guest in"),
                // What it has to say about its end is another event.
                Ok(_) | Err(_) => None,
            },
            Target::Resuming => self.qmp.runs().await.is_ok_and(|runs| runs).then_some(TargetEvent::Resumed),
            Target::Loaded | Target::Owner | Target::Never => None,
        }
    }

    /// Somebody with the source's certificate.
    async fn greet(&mut self, (mut stream, hello): Arrival) -> Option<TargetEvent> {
        let (refusal, purpose) = self.judge(&hello);
        let mut event = None;
        let answer = match (refusal, purpose) {
            (Some(reason), _) => Message::Refused { reason },
            (None, Purpose::Control | Purpose::Data) => Message::Welcome,
            (None, Purpose::Ask) => {
                // It wouldn't ask if it had the other connection.
                Box::pin(self.on(TargetEvent::Lost)).await;
                self.whereabouts()
            }
        };
        if let (Message::Refused { reason }, Purpose::Control) = (&answer, purpose) {
            event = self.give_up(MigrationPhase::Failed, reason.clone()).filter(|_| self.control.is_none());
        }
        let said = tokio::time::timeout(END_TIMEOUT, channel::write(&mut stream, &answer)).await;
        if !matches!(said, Ok(Ok(()))) || matches!(answer, Message::Refused { .. }) {
            return event;
        }
        match purpose {
            Purpose::Control => {
                self.control = Some(Channel::start(stream));
                self.report.enter(MigrationPhase::PreCopy);
            }
            Purpose::Data => match UnixStream::connect(&self.socket).await {
                Ok(qemu) => self.memory = Some(tokio::spawn(transport::relay(stream, qemu))),
                Err(err) => return self.give_up(MigrationPhase::Failed, format!("reaching QEMU: {err}")),
            },
            Purpose::Ask => {
                let done = self.done.clone();
                tokio::spawn(async move {
                    if let Ok(Ok(Message::Done)) =
                        tokio::time::timeout(END_TIMEOUT, channel::read(&mut stream)).await
                    {
                        // Somebody is told already.
                        let _ = done.try_send(());
                    }
                });
            }
        }
        event
    }

    /// Why somebody isn't welcome, and what for.
    fn judge(&self, hello: &Message) -> (Option<String>, Purpose) {
        let Message::Hello { version, purpose, migration_uid, machine, emulated } = hello else {
            return (Some("a connection begins with hello".into()), Purpose::Ask);
        };
        let ours = self.guest.state();
        let refusal = if *version != channel::VERSION {
            Some(format!(
                "version {version} of the migration's messages; version {} is spoken here",
                channel::VERSION
            ))
        } else if *migration_uid != self.uid {
            Some(format!("this is migration {}", self.uid))
        } else {
            match purpose {
                Purpose::Ask => None,
                Purpose::Control | Purpose::Data if self.state.is_final() => {
                    Some("the migration is over".into())
                }
                Purpose::Control if self.control.is_some() => Some("there is a connection already".into()),
                Purpose::Data if self.memory.is_some() => Some("there is a connection already".into()),
                Purpose::Control | Purpose::Data if *machine != ours.machine_type => {
                    Some(format!("the machine is {machine}, here it is {}", ours.machine_type))
                }
                Purpose::Control | Purpose::Data if *emulated != ours.emulated => {
                    let which = |emulated| if emulated { "emulated" } else { "KVM's" };
                    Some(format!(
                        "the processor is {}, here it is {}",
                        which(*emulated),
                        which(ours.emulated)
                    ))
                }
                Purpose::Control | Purpose::Data => None,
            }
        };
        (refusal, *purpose)
    }

    fn whereabouts(&self) -> Message {
        match self.state {
            Target::Owner => Message::Runs,
            Target::Never => {
                let reason = self.why.as_ref().map_or_else(String::new, |(_, why)| why.clone());
                Message::Never { reason }
            }
            Target::Loading | Target::Loaded | Target::Resuming => {
                Message::Refused { reason: "the guest is being let run".into() }
            }
        }
    }

    /// Answers a source that was cut off, until it knows or is late.
    async fn answer(
        mut self,
        arrivals: &mut mpsc::Receiver<Arrival>,
        knows: &mut mpsc::Receiver<()>,
        late: Instant,
    ) {
        loop {
            tokio::select! {
                _ = knows.recv() => break,
                () = sleep_until(late) => break,
                Some(arrival) = arrivals.recv() => {
                    // All that could happen has happened.
                    self.greet(arrival).await;
                }
                message = next(&mut self.control) => {
                    self.hear(message);
                }
            }
        }
        if let Some(control) = self.control {
            control.close(None).await;
        }
    }
}
