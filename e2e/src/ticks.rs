//! What a guest says on its console: `tick N S`, N counting from 0 every 100 ms and S the guest's
//! uptime in seconds. Kept with the time of arrival, so that gaps of the guest, of the stream and of this
//! machine can be told apart.

use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::console::{self, Socket};
use crate::wait;

/// A guest ticks ten times a second; one on a machine under load may stand for a while.
const HEARS_LIMIT: Duration = Duration::from_secs(180);

/// One tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    pub number: u64,
    /// The guest's uptime in seconds.
    pub uptime: f64,
    pub arrived: Instant,
    /// Which connection brought it; a gap across connections is the stream's, not the guest's.
    pub connection: u32,
}

/// Reads complete lines out of a byte stream.
#[derive(Default)]
pub struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// Feeds bytes; returns each line that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                complete.push(std::mem::take(&mut self.line));
            } else {
                self.line.push(*byte);
            }
        }
        complete
    }
}

/// Reads the ticks out of a byte stream.
#[derive(Default)]
pub struct Parser {
    lines: Lines,
}

impl Parser {
    /// Feeds bytes; returns number and uptime of each tick that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<(u64, f64)> {
        self.lines.feed(bytes).iter().filter_map(|line| tick(line)).collect()
    }
}

/// Number and uptime of a tick, where a line is one.
pub fn tick(line: &[u8]) -> Option<(u64, f64)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.trim().split(' ');
    (words.next()? == "tick").then_some(())?;
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// What a recorder saw.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub ticks: Vec<Tick>,
    /// Connections that ended before the recorder was stopped.
    pub dropped: u32,
    /// Why, in the order in which they did.
    pub causes: Vec<String>,
}

/// Keeps a console open and records every tick; opens it again when it drops, and counts that.
pub struct Recorder {
    stop: watch::Sender<bool>,
    heard: watch::Receiver<u64>,
    task: JoinHandle<Record>,
}

impl Recorder {
    /// Starts to record a guest's ticks.
    pub fn start(client: &Client, namespace: &str, vmi: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (hears, heard) = watch::channel(0);
        let task = tokio::spawn(record(client.clone(), namespace.to_owned(), vmi.to_owned(), stopped, hears));
        Self { stop, heard, task }
    }

    /// How many ticks it has heard.
    pub fn heard(&self) -> u64 {
        *self.heard.borrow()
    }

    /// Waits until it has heard so many ticks more.
    pub async fn hears(&self, more: u64) -> anyhow::Result<()> {
        let wanted = self.heard() + more;
        wait::until("the guest's ticks", HEARS_LIMIT, async || {
            wait::when(self.heard() >= wanted, format!("{} of {wanted}", self.heard()))
        })
        .await
    }

    /// Ends it and returns what it saw.
    pub async fn finish(self) -> anyhow::Result<Record> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

async fn record(
    client: Client,
    namespace: String,
    vmi: String,
    mut stopped: watch::Receiver<bool>,
    hears: watch::Sender<u64>,
) -> Record {
    let mut record = Record::default();
    while !*stopped.borrow() {
        let opened = tokio::select! {
            opened = console::attach(&client, &namespace, &vmi) => opened,
            _ = stopped.changed() => break,
        };
        let cause = match opened {
            Ok(socket) => match read(socket, &mut record, &mut stopped, &hears).await {
                Some(cause) => cause,
                None => break,
            },
            Err(error) => format!("attach: {error:#}"),
        };
        record.dropped += 1;
        record.causes.push(cause);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    record
}

/// Reads one connection to its end; none when the recorder was stopped, else why it ended.
async fn read(
    mut socket: Socket,
    record: &mut Record,
    stopped: &mut watch::Receiver<bool>,
    hears: &watch::Sender<u64>,
) -> Option<String> {
    let mut parser = Parser::default();
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = stopped.changed() => return None,
        };
        match message {
            Some(Ok(Message::Binary(bytes))) => {
                let arrived = Instant::now();
                let connection = record.dropped;
                record.ticks.extend(parser.feed(&bytes).into_iter().map(|(number, uptime)| Tick {
                    number,
                    uptime,
                    arrived,
                    connection,
                }));
                hears.send_replace(record.ticks.len() as u64);
            }
            Some(Ok(Message::Close(frame))) => return Some(format!("closed by the server: {frame:?}")),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(format!("{error}")),
            None => return Some("ended without a close frame".to_owned()),
        }
    }
}

/// What ticks say about a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub ticks: u64,
    /// Numbers missing between two ticks of the same connection: bytes lost.
    pub missing: u64,
    /// Numbers that came twice or out of order in the same connection.
    pub disordered: u64,
    /// The longest time without an arrival on an open connection, the span's begin and end included: a guest that
    /// falls silent has a gap up to the end.
    pub longest_arrival_gap_ms: u64,
    /// The longest time without an arrival while the console was opened again.
    pub longest_reconnect_ms: u64,
    /// The longest time between two consecutive ticks by the guest's own clock; across connections the mean.
    pub longest_guest_gap_ms: u64,
}

/// Sums ticks up that arrived in a span.
pub fn summarize(ticks: &[Tick], from: Instant, to: Instant) -> Summary {
    let within: Vec<&Tick> = ticks.iter().filter(|t| t.arrived >= from && t.arrived <= to).collect();
    let mut summary = Summary { ticks: within.len() as u64, ..Summary::default() };
    let millis = |before: Instant, after: Instant| after.saturating_duration_since(before).as_millis() as u64;
    for pair in within.windows(2) {
        let [before, after] = pair else { continue };
        let same = before.connection == after.connection;
        match after.number.checked_sub(before.number) {
            Some(0) | None => summary.disordered += u64::from(same),
            Some(step) => {
                summary.missing += if same { step - 1 } else { 0 };
                let guest_ms = ((after.uptime - before.uptime) * 1000.0 / step as f64).max(0.0) as u64;
                summary.longest_guest_gap_ms = summary.longest_guest_gap_ms.max(guest_ms);
            }
        }
        let longest =
            if same { &mut summary.longest_arrival_gap_ms } else { &mut summary.longest_reconnect_ms };
        *longest = (*longest).max(millis(before.arrived, after.arrived));
    }
    let first = within.first().map_or(to, |tick| tick.arrived);
    let last = within.last().map_or(from, |tick| tick.arrived);
    for edge in [millis(from, first), millis(last, to)] {
        summary.longest_arrival_gap_ms = summary.longest_arrival_gap_ms.max(edge);
    }
    summary
}

/// Complains when a guest's ticks weren't one after the other in each connection, and shows where.
///
/// # Errors
/// With number and uptime of the first ticks that aren't followed by the next.
pub fn in_order(ticks: &[Tick]) -> anyhow::Result<()> {
    let odd = ticks
        .windows(2)
        .filter(|pair| pair[0].connection == pair[1].connection && pair[1].number != pair[0].number + 1);
    let odd: Vec<String> = odd
        .take(3)
        .map(|pair| {
            let said = |tick: &Tick| format!("tick {} at {} s", tick.number, tick.uptime);
            let between = pair[1].arrived.saturating_duration_since(pair[0].arrived).as_millis();
            format!("{}, {between} ms later {}", said(&pair[0]), said(&pair[1]))
        })
        .collect();
    anyhow::ensure!(odd.is_empty(), "the guest's ticks: {}", odd.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_across_messages_and_among_other_lines() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"boot\r\ntick 1 0.50\r\nti"), [(1, 0.5)]);
        assert_eq!(parser.feed(b"ck 2 0.60\r\necho: tick\r\n"), [(2, 0.6)]);
    }

    #[test]
    fn lost_and_late_ticks_are_seen() {
        let begun = Instant::now();
        let tick = |number, ms: u64, connection| Tick {
            number,
            uptime: ms as f64 / 1000.0,
            arrived: begun + Duration::from_millis(ms),
            connection,
        };
        let ticks = [tick(1, 0, 0), tick(2, 100, 0), tick(4, 900, 0), tick(30, 3000, 1), tick(30, 3100, 1)];
        let summary = summarize(&ticks, begun, begun + Duration::from_millis(3200));
        assert_eq!((summary.missing, summary.disordered), (1, 1));
        assert_eq!((summary.longest_arrival_gap_ms, summary.longest_guest_gap_ms), (800, 400));
        assert_eq!(summary.longest_reconnect_ms, 2100);
        let complaint = in_order(&ticks).unwrap_err().to_string();
        assert!(complaint.starts_with("the guest's ticks: tick 2 at 0.1 s, 800 ms later tick 4 at 0.9 s; "));
        assert!(in_order(&ticks[..2]).is_ok());
        let silent = summarize(&ticks, begun, begun + Duration::from_secs(9));
        assert_eq!(silent.longest_arrival_gap_ms, 5900, "a guest that falls silent has a gap up to the end");
        assert_eq!(summarize(&[], begun, begun + Duration::from_secs(9)).longest_arrival_gap_ms, 9000);
    }
}
