//! One connection of a console: keys one way, output the other, until it ends.

use std::io::ErrorKind;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Ctrl+] and Ctrl+5.
const ESCAPE: u8 = 29;
/// A close frame that says that all is well.
const NORMAL: u16 = 1000;
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

/// Carries keys and output. The end of the input isn't the end of the console: a script reads on. An error is one of
/// the output. `received` counts the bytes that were written to it.
pub(super) async fn talk<S, I, O>(
    websocket: WebSocketStream<S>,
    mut input: I,
    mut output: O,
    received: &mut u64,
) -> Result<End, std::io::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
{
    let (mut sink, mut source) = websocket.split();
    let typed = async {
        let mut buffer = vec![0; 4096];
        loop {
            match input.read(&mut buffer).await {
                Ok(n @ 1..) if buffer[0] != ESCAPE => {
                    // A connection that takes nothing is found dead by its reader.
                    if sink.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                Ok(1..) => {
                    // The far end learns that we leave; whether it does isn't ours to wait for.
                    let _ = sink.send(Message::Close(None)).await;
                    return;
                }
                Ok(0) | Err(_) => std::future::pending::<()>().await,
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
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => (),
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
        let (mut output, mut received) = (Vec::new(), 0);
        let remote = async {
            far.send(Message::binary(b"login: ".to_vec())).await.unwrap();
            far.send(Message::text("not data")).await.unwrap();
            far.send(Message::binary(b"tick".to_vec())).await.unwrap();
            far.send(close(CloseCode::Normal)).await.unwrap();
        };
        let (end, ()) = tokio::join!(talk(near, tokio::io::empty(), &mut output, &mut received), remote);
        assert_eq!(end.unwrap(), End::Over);
        assert_eq!((output.as_slice(), received), (&b"login: tick"[..], 11));
    }

    #[tokio::test]
    async fn the_escape_key_leaves_and_other_keys_are_sent() {
        let (near, mut far) = pair().await;
        let (mut keys, input) = tokio::io::duplex(64);
        let talking = tokio::spawn(async move { talk(near, input, tokio::io::sink(), &mut 0).await });
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
        let talking = talk(near, tokio::io::empty(), tokio::io::sink(), &mut received);
        let (end, ()) = tokio::join!(talking, remote);
        assert_eq!(end.unwrap(), End::Cut("websocket: close 1001".into()));
        let (near, far) = pair().await;
        drop(far);
        let end = talk(near, tokio::io::empty(), tokio::io::sink(), &mut 0).await.unwrap();
        assert!(
            matches!(&end, End::Cut(cause) if cause.contains("close 1006 (abnormal closure)")),
            "{end:?}"
        );
    }
}
