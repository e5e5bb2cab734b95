//! Somebody at a screen all the time: a plain VNC client (RFC 6143) that asks for a part of the picture again and again,
//! types numbered lines, and takes every byte that isn't well-formed for the end of the session.
//!
//! Once at virt-api itself, and once at the port that `virtctl vnc --proxy-only` opens.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::{SinkExt, StreamExt};
use kube::Client;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::console::{self, Socket};
use crate::talk::{Place, With};
use crate::virtctl;

/// Between two looks.
const PACE: Duration = Duration::from_millis(500);
/// A picture that hasn't come after this time doesn't come.
const PICTURE_LIMIT: Duration = Duration::from_secs(90);
/// The corner that is looked at, in pixels.
const CORNER: (u16, u16) = (160, 64);
/// The key that ends a line.
const RETURN: u32 = 0xff0d;
/// What was typed is answered within this time, or never. A keyboard keeps a few keys for a guest that doesn't read them, so the
/// next line waits for the answer to the last.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Encodings that it knows: raw, and a new size of the screen.
const ENCODINGS: [i32; 2] = [0, -223];

/// What became of a screen.
#[derive(Debug, Clone, Default)]
pub struct Viewed {
    pub pictures: u64,
    /// The longest time between two pictures.
    pub longest_gap_ms: u64,
    /// Connections that ended before they were told to; an attempt that fails isn't one.
    pub cut: u32,
    /// Why they did, and why attempts failed.
    pub causes: Vec<String>,
    /// How often virtctl resumed by itself.
    pub resumed: u32,
    /// Lines that were typed: 1, 2, 3...
    pub typed: u64,
}

/// What is typed at a screen.
pub fn typed_line(number: u64) -> String {
    format!("{number}\n")
}

/// One that looks until it is finished.
pub struct Viewer {
    pub vmi: String,
    stop: watch::Sender<bool>,
    seen: watch::Receiver<u64>,
    task: JoinHandle<Viewed>,
}

impl Viewer {
    /// Sits down at a screen. `answered` is the last line that the guest got from its keyboard, as it says on its console.
    pub fn start(
        client: &Client,
        namespace: &str,
        vmi: &str,
        with: With,
        answered: watch::Receiver<u64>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (sees, seen) = watch::channel(0);
        let place = Place { client: client.clone(), namespace: namespace.into(), vmi: vmi.into(), with };
        let keyboard = Keyboard { typed: 0, at: Instant::now(), answered };
        let task = tokio::spawn(view(place, stopped, sees, keyboard));
        Self { vmi: vmi.to_owned(), stop, seen, task }
    }

    /// Waits for so many pictures more.
    ///
    /// # Errors
    /// When they don't come.
    pub async fn sees(&mut self, more: u64) -> anyhow::Result<()> {
        let wanted = *self.seen.borrow() + more;
        let seen = timeout(PICTURE_LIMIT, self.seen.wait_for(|seen| *seen >= wanted)).await;
        seen.with_context(|| format!("no picture of {}", self.vmi))?
            .map(drop)
            .context("nobody looks any more")
    }

    /// Types no more, waits for the last answer, and returns what it saw.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<Viewed> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

/// What was typed, in all sessions.
struct Keyboard {
    typed: u64,
    /// When the last line was.
    at: Instant,
    answered: watch::Receiver<u64>,
}

impl Keyboard {
    /// Whether the last line may still be answered.
    fn waits(&self) -> bool {
        *self.answered.borrow() < self.typed && self.at.elapsed() < ANSWER_LIMIT
    }

    /// The keys of the next line, if it is time for it.
    fn next(&mut self) -> Vec<u8> {
        if self.waits() {
            return Vec::new();
        }
        self.typed += 1;
        self.at = Instant::now();
        let keys = typed_line(self.typed);
        let keys = keys.chars().map(|key| if key == '\n' { RETURN } else { u32::from(key) });
        keys.flat_map(|key| [1, 0].map(|down| (down, key)))
            .flat_map(|(down, key)| [[4, down, 0, 0], key.to_be_bytes()].concat())
            .collect()
    }
}

async fn view(
    place: Place,
    mut stopped: watch::Receiver<bool>,
    sees: watch::Sender<u64>,
    mut keyboard: Keyboard,
) -> Viewed {
    let mut viewed = Viewed::default();
    let resumed = Arc::default();
    while !*stopped.borrow() {
        let line = tokio::select! {
            line = Line::open(&place, &resumed) => line,
            _ = stopped.changed() => break,
        };
        let cause = match line {
            Ok(line) => match look(line, &mut viewed, &sees, &mut keyboard, &stopped).await {
                Ok(()) => break,
                Err(error) => {
                    viewed.cut += 1;
                    error
                }
            },
            Err(error) => error.context("attach"),
        };
        viewed.causes.push(format!("{}: {cause:#}", jiff::Timestamp::now()));
        tokio::time::sleep(PACE).await;
    }
    viewed.resumed = resumed.load(Ordering::Relaxed);
    viewed.typed = keyboard.typed;
    viewed
}

/// One session until it was told to stop; its end is an error.
async fn look(
    line: Line,
    viewed: &mut Viewed,
    sees: &watch::Sender<u64>,
    keyboard: &mut Keyboard,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut screen = Screen { line, bytes: Vec::new(), size: (0, 0) };
    screen.shake_hands().await?;
    let mut last: Option<Instant> = None;
    loop {
        if *stopped.borrow() && !keyboard.waits() {
            return Ok(());
        }
        let keys = if *stopped.borrow() { Vec::new() } else { keyboard.next() };
        timeout(PICTURE_LIMIT, screen.corner(keys)).await.context("no picture")??;
        let now = Instant::now();
        if let Some(last) = last {
            viewed.longest_gap_ms = viewed.longest_gap_ms.max(now.duration_since(last).as_millis() as u64);
        }
        last = Some(now);
        viewed.pictures += 1;
        sees.send_replace(viewed.pictures);
        tokio::time::sleep(PACE).await;
    }
}

/// What carries the bytes of a session.
enum Line {
    Plain(Box<Socket>),
    /// Its process ends with it.
    Virtctl(TcpStream, Box<Child>),
}

impl Line {
    async fn open(place: &Place, resumed: &Arc<AtomicU32>) -> anyhow::Result<Self> {
        match place.with {
            With::PlainClient => Self::plain(place).await,
            With::Virtctl => Self::virtctl(place, resumed).await,
        }
    }

    async fn plain(place: &Place) -> anyhow::Result<Self> {
        let path = format!(
            "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}/vnc",
            place.namespace, place.vmi
        );
        let socket = console::open(&place.client, &path, kubevirt_types::labels::PLAIN_SUBPROTOCOL).await?;
        Ok(Self::Plain(Box::new(socket)))
    }

    async fn virtctl(place: &Place, resumed: &Arc<AtomicU32>) -> anyhow::Result<Self> {
        let mut virtctl = virtctl::command(&["vnc", &place.vmi, "-n", &place.namespace, "--proxy-only"])?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("running virtctl vnc")?;
        let stdout = virtctl.stdout.take().context("its output is ours")?;
        let mut complaints =
            BufReader::new(virtctl.stderr.take().context("its complaints are ours")?).lines();
        let resumed = Arc::clone(resumed);
        tokio::spawn(async move {
            while let Ok(Some(line)) = complaints.next_line().await {
                if line.contains("resuming") {
                    resumed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let said = BufReader::new(stdout).lines().next_line().await?.context("virtctl vnc said no port")?;
        let said: Value = serde_json::from_str(&said).with_context(|| format!("virtctl vnc said {said}"))?;
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).context("no port")?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(Self::Virtctl(stream, Box::new(virtctl)))
    }

    /// The next bytes that come.
    async fn hear(&mut self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Plain(socket) => match socket.next().await {
                Some(Ok(Message::Close(frame))) => bail!("closed by the server: {frame:?}"),
                Some(Ok(message)) => Ok(console::said(message).to_vec()),
                Some(Err(error)) => bail!("{error}"),
                None => bail!("ended without a close frame"),
            },
            Self::Virtctl(stream, virtctl) => {
                let mut chunk = vec![0; 32 * 1024];
                let count = stream.read(&mut chunk).await?;
                if count == 0 {
                    bail!("virtctl vnc ended: {:?}", virtctl.wait().await);
                }
                chunk.truncate(count);
                Ok(chunk)
            }
        }
    }

    async fn say(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        match self {
            Self::Plain(socket) => Ok(socket.send(Message::binary(bytes)).await?),
            Self::Virtctl(stream, _) => Ok(stream.write_all(&bytes).await?),
        }
    }
}

struct Screen {
    line: Line,
    bytes: Vec<u8>,
    size: (u16, u16),
}

impl Screen {
    async fn take(&mut self, count: usize) -> anyhow::Result<Vec<u8>> {
        while self.bytes.len() < count {
            self.bytes.extend(self.line.hear().await?);
        }
        Ok(self.bytes.drain(..count).collect())
    }

    async fn number(&mut self) -> anyhow::Result<u32> {
        let bytes = self.take(4).await?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    async fn short(&mut self) -> anyhow::Result<u16> {
        let bytes = self.take(2).await?;
        Ok(u16::from(bytes[0]) << 8 | u16::from(bytes[1]))
    }

    async fn say(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.line.say(bytes).await
    }

    async fn shake_hands(&mut self) -> anyhow::Result<()> {
        let greeting = self.take(12).await?;
        ensure!(greeting == b"RFB 003.008\n", "it greets with {greeting:?}");
        self.say(greeting).await?;
        let kinds = self.take(1).await?[0];
        let kinds = self.take(kinds.into()).await?;
        ensure!(kinds.contains(&1), "it wants one of {kinds:?}");
        self.say(vec![1]).await?;
        ensure!(self.number().await? == 0, "it refuses");
        self.say(vec![1]).await?;
        self.size = (self.short().await?, self.short().await?);
        let format = self.take(16).await?;
        ensure!(format[0] == 32, "{} bits per pixel", format[0]);
        let name = self.number().await?;
        self.take(name as usize).await?;
        let mut encodings = vec![2, 0, 0, ENCODINGS.len() as u8];
        encodings.extend(ENCODINGS.iter().flat_map(|encoding| encoding.to_be_bytes()));
        self.say(encodings).await
    }

    /// Presses keys, asks for the corner, and reads until a picture has come that shows any of it.
    async fn corner(&mut self, keys: Vec<u8>) -> anyhow::Result<()> {
        if !keys.is_empty() {
            self.say(keys).await?;
        }
        let mut request = vec![3, 0, 0, 0, 0, 0];
        request.extend(CORNER.0.to_be_bytes());
        request.extend(CORNER.1.to_be_bytes());
        self.say(request).await?;
        loop {
            match self.take(1).await?[0] {
                0 => {
                    if self.picture().await? {
                        return Ok(());
                    }
                }
                2 => {}
                3 => {
                    self.take(3).await?;
                    let length = self.number().await?;
                    self.take(length as usize).await?;
                }
                other => bail!("a message of type {other}"),
            }
        }
    }

    /// Whether it showed something.
    async fn picture(&mut self) -> anyhow::Result<bool> {
        self.take(1).await?;
        let rectangles = self.short().await?;
        let mut shown = false;
        for _ in 0..rectangles {
            let (x, y) = (self.short().await?, self.short().await?);
            let (width, height) = (self.short().await?, self.short().await?);
            match self.number().await?.cast_signed() {
                0 => {
                    let fits =
                        |at: u16, length: u16, size: u16| u32::from(at) + u32::from(length) <= size.into();
                    ensure!(
                        fits(x, width, self.size.0) && fits(y, height, self.size.1),
                        "{width}x{height} at {x},{y} of a screen of {:?}",
                        self.size
                    );
                    self.take(usize::from(width) * usize::from(height) * 4).await?;
                    shown |= width > 0 && height > 0;
                }
                -223 => self.size = (width, height),
                other => bail!("encoding {other}, which was not asked for"),
            }
        }
        Ok(shown)
    }
}
