//! What the two launchers of a migration say to each other, and how it is carried.
//!
//! A message is four bytes of length and JSON. The channel is a connection of its own: what
//! decides over the guest must not wait behind its memory, and it goes on when that has all
//! been sent. A silent peer is a lost one: both sides speak every second.
//!
//! Never decides what a message means.

use std::io;
use std::pin::pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The version of these messages.
pub const VERSION: u32 = 1;

/// The longest message: a chunk of the console's output.
const LONGEST: usize = 256 * 1024;
/// How often something is said.
const SPEAK: Duration = Duration::from_secs(1);
/// After so long a silence the peer is lost.
const SILENCE: Duration = Duration::from_secs(15);
/// How long the peer's end is waited for behind our own.
const FAREWELL: Duration = Duration::from_secs(5);
/// Messages that wait for the network.
const AHEAD: usize = 16;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Purpose {
    /// Messages.
    Control,
    /// The guest's memory: raw bytes behind `Welcome`.
    Data,
    /// One question: what has become of the guest?
    Ask,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Message {
    /// The source's first, on every connection.
    Hello {
        /// The version of these messages.
        version: u32,
        /// What the connection is for.
        purpose: Purpose,
        /// Which migration.
        migration_uid: String,
        /// The machine that the source's QEMU runs.
        machine: String,
        /// Whether its processor is emulated.
        emulated: bool,
    },
    /// The target's answer.
    Welcome,
    /// Or this.
    Refused {
        /// Why.
        reason: String,
    },
    /// Output of the guest's console.
    Console {
        /// Offset of the first byte.
        offset: u64,
        /// The bytes, base64.
        bytes: String,
    },
    /// What was typed, and the guest hasn't heard: it comes between `Loaded` and `HandedOver`.
    Typed {
        /// The bytes, base64.
        bytes: String,
    },
    /// We are there.
    Ping,
    /// The target's QEMU has taken everything.
    Loaded,
    /// The source will not let the guest run again.
    HandedOver {
        /// The guest shall stay paused.
        paused: bool,
        /// Offset behind the last byte of the console.
        console_end: u64,
        /// How many bytes each of the console's sessions has typed. Sources of releases that don't count say nothing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sessions: Vec<(String, u64)>,
        /// The same of the screen's.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        screens: Vec<(String, u64)>,
    },
    /// The guest runs at the target.
    Runs,
    /// It hasn't run at the target, and never will.
    Never {
        /// Why.
        reason: String,
    },
    /// It stays at the source.
    Kept {
        /// Why.
        reason: String,
    },
    /// The source has heard what has become of the guest, and needs the target's ear no more.
    Done,
    /// Something of a later release.
    #[serde(other)]
    Unknown,
}

/// Sends a message.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &Message) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(text);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Waits for a message.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let length = usize::try_from(stream.read_u32().await?).map_err(io::Error::other)?;
    if length > LONGEST {
        return Err(io::Error::other(format!("a message of {length} bytes, at most {LONGEST} are possible")));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

/// A connection that carries messages both ways.
#[derive(Debug)]
pub struct Channel {
    /// What we say.
    pub outgoing: mpsc::Sender<Message>,
    /// What the peer says, until it is lost.
    pub incoming: mpsc::Receiver<Message>,
    task: JoinHandle<()>,
}

impl Channel {
    /// Carries from now on.
    pub fn start<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S) -> Self {
        let (outgoing, to_send) = mpsc::channel(AHEAD);
        let (heard, incoming) = mpsc::channel(AHEAD);
        Self { outgoing, incoming, task: tokio::spawn(carry(stream, to_send, heard)) }
    }

    /// Says a last word, and ends when the peer has it or is lost.
    pub async fn close(self, word: Option<Message>) {
        let Self { outgoing, incoming, task } = self;
        if let Some(word) = word {
            // The peer may be lost already.
            drop(outgoing.send(word).await);
        }
        drop((outgoing, incoming));
        // It ends by itself, and has no result.
        drop(task.await);
    }
}

async fn carry<S>(stream: S, to_send: mpsc::Receiver<Message>, heard: mpsc::Sender<Message>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let mut listening = pin!(listen(read, heard));
    let said_all = tokio::select! {
        () = &mut listening => return,
        said = speak(write, to_send) => said,
    };
    if said_all.is_ok() {
        // Closed over unread bytes a socket takes its last words back.
        drop(tokio::time::timeout(FAREWELL, listening).await);
    }
}

async fn listen(mut read: impl AsyncRead + Unpin, heard: mpsc::Sender<Message>) {
    loop {
        match tokio::time::timeout(SILENCE, self::read(&mut read)).await {
            Ok(Ok(Message::Ping)) => {}
            Ok(Ok(message)) => {
                // Nobody may be interested any more; the end still is to be seen.
                drop(heard.send(message).await);
            }
            Ok(Err(err)) => {
                tracing::debug!(error = %err, "the other launcher's connection has ended");
                return;
            }
            Err(_) => {
                tracing::info!(silence = ?SILENCE, "the other launcher says nothing");
                return;
            }
        }
    }
}

async fn speak<S>(mut write: WriteHalf<S>, mut to_send: mpsc::Receiver<Message>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite,
{
    loop {
        let message = match tokio::time::timeout(SPEAK, to_send.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => return write.shutdown().await,
            Err(_) => Message::Ping,
        };
        tokio::time::timeout(SILENCE, self::write(&mut write, &message)).await??;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_in_order_and_the_last_word_too() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (near, mut far) = (Channel::start(ours), Channel::start(theirs));
        let words = [
            Message::Console { offset: 7, bytes: "eA==".repeat(1000) },
            Message::HandedOver {
                paused: true,
                console_end: 8,
                sessions: vec![("a".into(), 7)],
                screens: vec![],
            },
        ];
        for word in words.clone() {
            near.outgoing.send(word).await.unwrap();
        }
        let closed = tokio::spawn(near.close(Some(Message::Done)));
        for word in words {
            assert_eq!(far.incoming.recv().await, Some(word));
        }
        assert_eq!(far.incoming.recv().await, Some(Message::Done));
        assert_eq!(far.incoming.recv().await, None);
        far.close(None).await;
        closed.await.unwrap();
    }

    #[test]
    fn a_source_that_does_not_count_is_understood() {
        let old = r#"{"type":"handedOver","paused":false,"consoleEnd":8}"#;
        let handed = Message::HandedOver { paused: false, console_end: 8, sessions: vec![], screens: vec![] };
        assert_eq!(serde_json::from_str::<Message>(old).unwrap(), handed);
        assert_eq!(serde_json::to_string(&handed).unwrap(), old);
    }

    #[tokio::test]
    async fn nonsense_ends_the_connection_and_news_of_a_later_release_do_not() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let mut far = Channel::start(theirs);
        for text in [r#"{"type":"later","x":1}"#, r#"{"type":"loaded"}"#] {
            let length = u32::try_from(text.len()).unwrap();
            ours.write_u32(length).await.unwrap();
            ours.write_all(text.as_bytes()).await.unwrap();
        }
        assert_eq!(far.incoming.recv().await, Some(Message::Unknown));
        assert_eq!(far.incoming.recv().await, Some(Message::Loaded));
        ours.write_u32(u32::MAX).await.unwrap();
        assert_eq!(far.incoming.recv().await, None);
    }
}
