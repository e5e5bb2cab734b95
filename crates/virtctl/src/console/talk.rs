//! One connection of a console: keys one way, output the other, until it ends.

use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};

use futures::{SinkExt, StreamExt};
use kubevirt_stream::relay::Hearing;
use kubevirt_stream::resend::{Resend, position};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Ctrl+] and Ctrl+5.
const ESCAPE: u8 = 29;
/// A close frame that says that all is well.
const NORMAL: u16 = 1000;
/// What is sent in one message.
const CHUNK: usize = 4096;
/// Stands for a close frame without a code.
const NO_CODE: u16 = 1005;

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The user left, or the console is over.
    Over,
    /// Something on the way broke or went away.
    Cut(String),
}

/// What the user has typed, over all connections of a console.
pub(super) struct Keys {
    resend: Resend,
    /// Whether the server says what the guest's launcher has taken.
    told: bool,
}

impl Keys {
    /// `received` is what the server says of the session that it has opened.
    pub(super) fn new(received: Option<u64>) -> Self {
        Self { resend: Resend::new(received), told: received.is_some() }
    }

    /// The session goes on over another connection. Returns how many bytes may be lost.
    pub(super) fn resume(&mut self, received: Option<u64>) -> u64 {
        self.told = received.is_some();
        self.resend.resume(received)
    }
}

/// Carries keys and output. The end of the input isn't the end of the console: a script reads on. An error is one of
/// the output. `received` counts the bytes that were written to it. Keys are kept until the server says in a pong that
/// they are taken; with too many of them kept, the input isn't read. A server that is silent is lost: it has to ping.
pub(super) async fn talk<S, I, O>(
    websocket: WebSocketStream<S>,
    mut input: I,
    mut output: O,
    received: &mut u64,
    keys: &mut Keys,
) -> Result<End, std::io::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    let (mut sink, source) = websocket.split();
    let mut source = Hearing::new(source);
    let (keys, taken) = (Mutex::new(keys), Notify::new());
    let lock = || keys.lock().unwrap_or_else(PoisonError::into_inner);
    let typed = async {
        let mut buffer = vec![0; CHUNK];
        let mut over = false;
        loop {
            while let Some(bytes) = { lock().resend.next(CHUNK) } {
                // A connection that takes nothing is found dead by its reader.
                if sink.send(Message::binary(bytes)).await.is_err() {
                    std::future::pending::<()>().await;
                }
                let mut keys = lock();
                if !keys.told {
                    keys.resend.acknowledge(u64::MAX);
                }
            }
            let has_room = lock().resend.has_room();
            tokio::select! {
                read = input.read(&mut buffer), if has_room && !over => match read {
                    Ok(n @ 1..) if buffer[0] != ESCAPE => lock().resend.push(&buffer[..n]),
                    Ok(1..) => {
                        // The far end learns that we leave; whether it does isn't ours to wait for.
                        let _ = sink.send(Message::Close(None)).await;
                        return;
                    }
                    Ok(0) | Err(_) => over = true,
                },
                () = taken.notified() => {}
            }
        }
    };
    let said = async {
        loop {
            match source.next().await {
                Some(Ok(Message::Binary(data))) => {
                    output.write_all(&data).await?;
                    output.flush().await?;
                    *received += data.len() as u64;
                }
                Some(Ok(Message::Close(frame))) => return Ok(closed(frame)),
                Some(Ok(Message::Pong(data))) => {
                    if let Some(position) = position(&data) {
                        lock().resend.acknowledge(position);
                        taken.notify_one();
                    }
                }
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Frame(_))) => (),
                Some(Err(Error::Io(error))) if error.kind() != ErrorKind::UnexpectedEof => {
                    return Ok(abnormal(&error.to_string()));
                }
                // However TLS and tungstenite word it, the far end went without a close frame.
                Some(Err(_)) | None => return Ok(abnormal("unexpected EOF")),
            }
        }
    };
    tokio::select! {
        end = said => end,
        () = typed => Ok(End::Over),
    }
}

fn closed(frame: Option<CloseFrame>) -> End {
    let (code, reason) =
        frame.map_or((NO_CODE, String::new()), |f| (u16::from(f.code), f.reason.to_string()));
    match (code, reason.as_str()) {
        (NORMAL, _) => End::Over,
        (code, "") => End::Cut(format!("websocket: close {code}")),
        (code, reason) => End::Cut(format!("websocket: close {code}: {reason}")),
    }
}

/// As gorilla's websockets say it, which scripts know.
fn abnormal(cause: &str) -> End {
    End::Cut(format!("websocket: close 1006 (abnormal closure): {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    async fn pair() -> (WebSocketStream<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        (
            WebSocketStream::from_raw_socket(near, Role::Client, None).await,
            WebSocketStream::from_raw_socket(far, Role::Server, None).await,
        )
    }

    fn close(code: CloseCode) -> Message {
        Message::Close(Some(CloseFrame { code, reason: "".into() }))
    }

    #[tokio::test]
    async fn a_script_without_input_reads_to_the_normal_end() {
        let (near, mut far) = pair().await;
        let (mut output, mut received, mut keys) = (Vec::new(), 0, Keys::new(None));
        let remote = async {
            far.send(Message::binary(b"login: ".to_vec())).await.unwrap();
            far.send(Message::text("not data")).await.unwrap();
            far.send(Message::binary(b"tick".to_vec())).await.unwrap();
            far.send(close(CloseCode::Normal)).await.unwrap();
        };
        let (end, ()) =
            tokio::join!(talk(near, tokio::io::empty(), &mut output, &mut received, &mut keys), remote);
        assert_eq!(end.unwrap(), End::Over);
        assert_eq!((output.as_slice(), received), (&b"login: tick"[..], 11));
    }

    #[tokio::test]
    async fn the_escape_key_leaves_and_other_keys_are_sent() {
        let (near, mut far) = pair().await;
        let (mut keys, input) = tokio::io::duplex(64);
        let talking =
            tokio::spawn(
                async move { talk(near, input, tokio::io::sink(), &mut 0, &mut Keys::new(None)).await },
            );
        keys.write_all(b"ls\r").await.unwrap();
        assert_eq!(far.next().await.unwrap().unwrap(), Message::binary(b"ls\r".to_vec()));
        keys.write_all(&[ESCAPE]).await.unwrap();
        assert_eq!(talking.await.unwrap().unwrap(), End::Over);
        assert!(matches!(far.next().await, Some(Ok(Message::Close(_)))));
    }

    #[tokio::test]
    async fn any_other_end_is_a_cut_with_its_code() {
        let (near, mut far) = pair().await;
        let remote = async { far.send(close(CloseCode::Away)).await.unwrap() };
        let mut received = 0;
        let mut keys = Keys::new(Some(0));
        let talking = talk(near, tokio::io::empty(), tokio::io::sink(), &mut received, &mut keys);
        let (end, ()) = tokio::join!(talking, remote);
        assert_eq!(end.unwrap(), End::Cut("websocket: close 1001".into()));
        let (near, far) = pair().await;
        drop(far);
        let end = talk(near, tokio::io::empty(), tokio::io::sink(), &mut 0, &mut keys).await.unwrap();
        assert!(
            matches!(&end, End::Cut(cause) if cause.contains("close 1006 (abnormal closure)")),
            "{end:?}"
        );
    }

    /// Each server takes some of what it reads, tells of some of that, and goes.
    #[tokio::test]
    async fn every_key_is_taken_once_over_connections_that_are_cut() {
        let script: Vec<u8> = (0..60_000_u32).flat_map(u32::to_be_bytes).collect();
        let mut input = script.as_slice();
        let (mut keys, mut taken) = (Keys::new(Some(0)), Vec::new());
        for cut in 0..400_usize {
            let mut received = 0;
            let (near, mut far) = pair().await;
            let server = async {
                for message in 0..cut % 7 {
                    let next = tokio::time::timeout(std::time::Duration::from_millis(20), far.next()).await;
                    let Ok(Some(Ok(Message::Binary(data)))) = next else { break };
                    taken.extend_from_slice(&data);
                    if (cut + message).is_multiple_of(3) {
                        let told = kubevirt_stream::resend::payload(taken.len() as u64);
                        far.send(Message::Pong(told.into())).await.unwrap();
                    }
                }
                drop(far);
            };
            let talking = talk(near, &mut input, tokio::io::sink(), &mut received, &mut keys);
            let (end, ()) = tokio::join!(talking, server);
            assert!(matches!(end.unwrap(), End::Cut(_)));
            assert_eq!(keys.resume(Some(taken.len() as u64)), 0);
            if taken.len() == script.len() {
                assert!(keys.resend.is_empty());
                return assert!(taken == script, "in order, and nothing twice");
            }
        }
        panic!("{} of {} bytes", taken.len(), script.len());
    }

    #[tokio::test]
    async fn input_that_nobody_takes_is_not_read_for_ever() {
        let (near, mut far) = pair().await;
        let server = async {
            for _ in 0..100 {
                if tokio::time::timeout(std::time::Duration::from_millis(50), far.next()).await.is_err() {
                    break;
                }
            }
            drop(far);
        };
        let (mut keys, mut received) = (Keys::new(Some(0)), 0);
        let talking = talk(near, tokio::io::repeat(b'x'), tokio::io::sink(), &mut received, &mut keys);
        let (end, ()) = tokio::join!(talking, server);
        assert!(matches!(end.unwrap(), End::Cut(_)));
        assert!(!keys.resend.has_room(), "it was read until there was no room");
        assert_eq!(keys.resume(None), kubevirt_stream::resend::WINDOW as u64);
    }
}
