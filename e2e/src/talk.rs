//! Somebody at a console all the time: hears every tick, types a numbered line twice a second, and hears its echo.
//! Also hears what the guest says of lines that somebody else types at its screen.
//!
//! Once with a plain client, which knows nothing of resuming, and once with virtctl.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{SinkExt, StreamExt};
use kube::Client;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_tungstenite::tungstenite::Message;

use crate::ticks::{Lines, Tick, tick};
use crate::{console, virtctl, wait};

/// Between two lines that are typed.
const PACE: Duration = Duration::from_millis(500);
/// Before a console that was cut is opened again.
const AGAIN: Duration = Duration::from_millis(200);
/// The guest answers what was typed last within this time, or never.
const LAST_ECHO: Duration = Duration::from_secs(30);
/// A guest ticks ten times a second; one on a machine under load may stand for a while.
const HEARS_LIMIT: Duration = Duration::from_secs(180);
/// How the guest's answer to a line begins.
const ECHO: &str = "echo: line ";
/// How its answer to a line typed at its screen begins.
const ON_SCREEN: &str = "screen: ";

/// With what one sits at the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// A websocket, and nothing that resumes.
    PlainClient,
    /// `virtctl console` in a pipe.
    Virtctl,
}

/// What was said at a console, both ways.
#[derive(Debug, Clone, Default)]
pub struct Talked {
    pub ticks: Vec<Tick>,
    /// Lines that were typed: 1, 2, 3...
    pub typed: u64,
    /// How often each was echoed, and whether one came before its turn.
    pub echoes: Echoes,
    /// The same of what somebody typed at the screen.
    pub on_screen: Echoes,
    /// Connections that ended before they were told to; an attempt that fails isn't one.
    pub cut: u32,
    /// Why they did, and why attempts failed, in this order.
    pub causes: Vec<String>,
    /// How often virtctl resumed by itself.
    pub resumed: u32,
}

/// The guest's answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Echoes {
    heard: BTreeMap<u64, u64>,
    last: u64,
    disordered: u64,
}

impl Echoes {
    fn hear(&mut self, line: u64) {
        *self.heard.entry(line).or_default() += 1;
        self.disordered += u64::from(line < self.last);
        self.last = self.last.max(line);
    }

    /// Bytes of the lines up to `typed` that never came, and of those that came again or out of order.
    pub fn amiss(&self, typed: u64, line: impl Fn(u64) -> String) -> (u64, u64) {
        let bytes = |number: u64| line(number).len() as u64;
        let lost = (1..=typed).filter(|line| !self.heard.contains_key(line)).map(bytes).sum();
        let again: u64 = self.heard.iter().map(|(line, times)| (times - 1) * bytes(*line)).sum();
        (lost, again + self.disordered)
    }
}

/// What is typed at a console.
pub fn typed_line(number: u64) -> String {
    format!("line {number}\n")
}

/// One that goes on until it is finished.
pub struct Talk {
    pub vmi: String,
    pub with: With,
    stop: watch::Sender<bool>,
    heard: watch::Receiver<u64>,
    on_screen: watch::Receiver<u64>,
    task: JoinHandle<Talked>,
}

/// What those who wait are told.
struct Tell {
    /// How many ticks were heard.
    ticks: watch::Sender<u64>,
    /// The last line that the guest got from its screen's keyboard.
    on_screen: watch::Sender<u64>,
}

impl Talk {
    /// Sits down at a console.
    pub fn start(client: &Client, namespace: &str, vmi: &str, with: With) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (ticks, heard) = watch::channel(0);
        let (tell_screen, on_screen) = watch::channel(0);
        let place = Place { client: client.clone(), namespace: namespace.into(), vmi: vmi.into(), with };
        let task = tokio::spawn(talk(place, stopped, Tell { ticks, on_screen: tell_screen }));
        Self { vmi: vmi.to_owned(), with, stop, heard, on_screen, task }
    }

    /// The last line that the guest got from its screen's keyboard: for who types there.
    pub fn on_screen(&self) -> watch::Receiver<u64> {
        self.on_screen.clone()
    }

    /// Waits until so many ticks more are heard.
    ///
    /// # Errors
    /// When they don't come.
    pub async fn hears(&self, more: u64) -> anyhow::Result<()> {
        let wanted = *self.heard.borrow() + more;
        wait::until(format!("ticks of {}", self.vmi), HEARS_LIMIT, async || {
            let heard = *self.heard.borrow();
            wait::when(heard >= wanted, format!("{heard} of {wanted}"))
        })
        .await
    }

    /// Types no more, waits for the last answer, and returns all that was said.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<Talked> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

/// At which instance one sits, and with what.
pub struct Place {
    pub client: Client,
    pub namespace: String,
    pub vmi: String,
    pub with: With,
}

/// What comes from a console.
enum Heard {
    Bytes(Vec<u8>),
    /// virtctl says that it resumes.
    Resumed,
    Ended(String),
}

/// An open console: what is put in is typed, what comes out was said.
struct Seat {
    input: mpsc::Sender<Vec<u8>>,
    output: mpsc::Receiver<Heard>,
    /// Ends with the seat.
    _tasks: JoinSet<()>,
}

impl Seat {
    async fn take(place: &Place) -> anyhow::Result<Self> {
        match place.with {
            With::PlainClient => Self::plain(place).await,
            With::Virtctl => Self::virtctl(place),
        }
    }

    async fn plain(place: &Place) -> anyhow::Result<Self> {
        let socket = console::attach(&place.client, &place.namespace, &place.vmi).await?;
        let (mut sink, mut source) = socket.split();
        let (input, mut typed) = mpsc::channel::<Vec<u8>>(64);
        let (say, output) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(line) = typed.recv().await {
                if sink.send(Message::binary(line)).await.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            loop {
                let heard = match source.next().await {
                    Some(Ok(Message::Close(frame))) => {
                        Heard::Ended(format!("closed by the server: {frame:?}"))
                    }
                    Some(Ok(message)) => Heard::Bytes(console::said(message).to_vec()),
                    Some(Err(error)) => Heard::Ended(error.to_string()),
                    None => Heard::Ended("ended without a close frame".to_owned()),
                };
                let over = matches!(heard, Heard::Ended(_));
                if say.send(heard).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Self { input, output, _tasks: tasks })
    }

    fn virtctl(place: &Place) -> anyhow::Result<Self> {
        let args = ["console", &place.vmi, "-n", &place.namespace];
        let mut virtctl = virtctl::command(&args)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("running virtctl console")?;
        let mut stdin = virtctl.stdin.take().context("its input is ours")?;
        let mut stdout = virtctl.stdout.take().context("its output is ours")?;
        let stderr = virtctl.stderr.take().context("its complaints are ours")?;
        let (input, mut typed) = mpsc::channel::<Vec<u8>>(64);
        let (say, output) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(line) = typed.recv().await {
                if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
                    return;
                }
            }
        });
        let complains = say.clone();
        tasks.spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("resuming") && complains.send(Heard::Resumed).await.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            let mut chunk = vec![0; 32 * 1024];
            loop {
                match stdout.read(&mut chunk).await {
                    Ok(count) if count > 0 => {
                        if say.send(Heard::Bytes(chunk[..count].to_vec())).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) | Err(_) => break,
                }
            }
            let status = virtctl.wait().await;
            // Nobody listens any more when the seat is given up.
            drop(say.send(Heard::Ended(format!("virtctl console ended: {status:?}"))).await);
        });
        Ok(Self { input, output, _tasks: tasks })
    }
}

async fn talk(place: Place, mut stopped: watch::Receiver<bool>, tell: Tell) -> Talked {
    let mut talked = Talked::default();
    while !*stopped.borrow() {
        let seat = tokio::select! {
            seat = Seat::take(&place) => seat,
            _ = stopped.changed() => break,
        };
        let cause = match seat {
            Ok(seat) => match sit(seat, &mut talked, &mut stopped, &tell).await {
                Some(cause) => {
                    talked.cut += 1;
                    cause
                }
                None => break,
            },
            Err(error) => format!("attach: {error:#}"),
        };
        talked.causes.push(format!("{}: {cause}", jiff::Timestamp::now()));
        tokio::time::sleep(AGAIN).await;
    }
    talked
}

/// One connection to its end; none when it was told to stop, else why it ended.
async fn sit(
    mut seat: Seat,
    talked: &mut Talked,
    stopped: &mut watch::Receiver<bool>,
    tell: &Tell,
) -> Option<String> {
    let mut lines = Lines::default();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut give_up = None;
    loop {
        if give_up.is_some() && talked.echoes.last >= talked.typed {
            return None;
        }
        let until = give_up.unwrap_or_else(|| tokio::time::Instant::now() + LAST_ECHO);
        tokio::select! {
            heard = seat.output.recv() => match heard {
                Some(Heard::Bytes(bytes)) => {
                    for line in lines.feed(&bytes) {
                        talked.hear(&line);
                    }
                    tell.ticks.send_replace(talked.ticks.len() as u64);
                    tell.on_screen.send_replace(talked.on_screen.last);
                }
                Some(Heard::Resumed) => talked.resumed += 1,
                Some(Heard::Ended(cause)) => return Some(cause),
                None => return Some("it ended".to_owned()),
            },
            _ = pace.tick(), if give_up.is_none() => {
                // What a console doesn't take is not typed.
                if seat.input.try_send(typed_line(talked.typed + 1).into_bytes()).is_ok() {
                    talked.typed += 1;
                }
            }
            _ = stopped.changed(), if give_up.is_none() => {
                give_up = Some(tokio::time::Instant::now() + LAST_ECHO);
            }
            () = tokio::time::sleep_until(until), if give_up.is_some() => return None,
        }
    }
}

impl Talked {
    fn hear(&mut self, line: &[u8]) {
        if let Some((number, uptime)) = tick(line) {
            let (arrived, connection) = (Instant::now(), self.cut);
            self.ticks.push(Tick { number, uptime, arrived, connection });
        } else if let Some(echo) = echo(line, ECHO) {
            self.echoes.hear(echo);
        } else if let Some(echo) = echo(line, ON_SCREEN) {
            self.on_screen.hear(echo);
        }
    }
}

fn echo(line: &[u8], beginning: &str) -> Option<u64> {
    std::str::from_utf8(line).ok()?.trim().strip_prefix(beginning)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_comes_back_once_and_in_order() {
        let mut talked = Talked { typed: 3, ..Talked::default() };
        for line in ["tick 1 0.50\r", "echo: line 1\r", "echo: line x\r", "echo: line 3\r"] {
            talked.hear(line.as_bytes());
        }
        let amiss = |talked: &Talked| talked.echoes.amiss(3, typed_line);
        assert_eq!((talked.ticks.len(), amiss(&talked)), (1, (7, 0)), "line 2 is lost");
        talked.hear(b"echo: line 2\r");
        assert_eq!(amiss(&talked), (0, 1), "and came late");
        talked.hear(b"echo: line 3\r");
        assert_eq!(amiss(&talked), (0, 8), "and another came twice");
        talked.hear(b"screen: 2\r");
        assert_eq!(
            talked.on_screen.amiss(2, |line| format!("{line}\n")),
            (2, 0),
            "at the screen the first is lost"
        );
    }
}
