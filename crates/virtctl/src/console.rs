//! `console`: the serial console of an instance on this terminal, or in a script's pipe.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::StatusCode;
use kubevirt_stream::websocket::WebSocket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::cluster::Cluster;
use crate::stream::{OpenError, open};
use crate::terminal::Raw;

/// An instance that doesn't run yet is asked for again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Ctrl+] and Ctrl+5.
const ESCAPE: u8 = 29;
/// A close frame that says that all is well.
const NORMAL: u16 = 1000;

/// A console that can't be opened, or was cut.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error(transparent)]
    Open(OpenError),
    #[error("Timeout trying to connect to the virtual machine instance")]
    Timeout,
    #[error("can't set the terminal up")]
    Terminal(#[from] rustix::io::Errno),
    #[error("can't write what the console says")]
    Output(#[source] std::io::Error),
    #[error(
        "\nYou were disconnected from the console. This could be caused by one of the following:\n \
         - the target VM was powered off\n - another user connected to the console of the target VM\n \
         - network issues\n{0}"
    )]
    Disconnected(String),
}

pub(crate) async fn run(cluster: &Cluster, name: &str, timeout_minutes: u64) -> Result<(), ConsoleError> {
    let websocket = connect(cluster, name, Duration::from_secs(timeout_minutes.saturating_mul(60))).await?;
    eprint!("Successfully connected to {name} console. Press Ctrl+] or Ctrl+5 to exit console.\r\n");
    let terminal = Raw::enter()?;
    let result = talk(websocket, tokio::io::stdin(), tokio::io::stdout()).await;
    drop(terminal);
    result
}

/// 400 is what virt-api answers for an instance that doesn't run (yet). All else is final.
async fn connect(cluster: &Cluster, name: &str, limit: Duration) -> Result<WebSocket, ConsoleError> {
    let deadline = Instant::now() + limit;
    loop {
        match open(cluster, name, "console").await {
            Ok(websocket) => return Ok(websocket),
            Err(OpenError::Refused { status: StatusCode::BAD_REQUEST, .. }) => (),
            Err(error) => return Err(ConsoleError::Open(error)),
        }
        if Instant::now() + RETRY > deadline {
            return Err(ConsoleError::Timeout);
        }
        sleep(RETRY).await;
    }
}

/// Carries keys and output until the console ends or the user leaves it. The end of the input isn't the end of
/// the console: a script reads on.
async fn talk<S, I, O>(websocket: WebSocketStream<S>, mut input: I, mut output: O) -> Result<(), ConsoleError>
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
                    // The far end sees 1000 as we leave; whether it does isn't ours to wait for.
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
                    output.write_all(&data).await.map_err(ConsoleError::Output)?;
                    output.flush().await.map_err(ConsoleError::Output)?;
                }
                Some(Ok(Message::Close(frame))) => return ended(frame),
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => (),
                Some(Err(error)) => return Err(abnormal(&error.to_string())),
                None => return Err(abnormal("unexpected EOF")),
            }
        }
    };
    tokio::select! {
        end = said => end,
        () = typed => Ok(()),
    }
}

fn ended(frame: Option<tungstenite::protocol::CloseFrame>) -> Result<(), ConsoleError> {
    let (code, reason) = frame.map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.to_string()));
    if code == NORMAL {
        return Ok(());
    }
    let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
    Err(ConsoleError::Disconnected(format!("websocket: close {code}{reason}")))
}

fn abnormal(cause: &str) -> ConsoleError {
    ConsoleError::Disconnected(format!("websocket: close 1006 (abnormal closure): {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

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
        let mut output = Vec::new();
        let remote = async {
            far.send(Message::binary(b"login: ".to_vec())).await.unwrap();
            far.send(Message::text("not data")).await.unwrap();
            far.send(Message::binary(b"tick".to_vec())).await.unwrap();
            far.send(close(CloseCode::Normal)).await.unwrap();
        };
        let (result, ()) = tokio::join!(talk(near, tokio::io::empty(), &mut output), remote);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(output, b"login: tick");
    }

    #[tokio::test]
    async fn the_escape_key_leaves_and_other_keys_are_sent() {
        let (near, mut far) = pair().await;
        let (mut keys, input) = tokio::io::duplex(64);
        let talking = tokio::spawn(talk(near, input, tokio::io::sink()));
        keys.write_all(b"ls\r").await.unwrap();
        assert_eq!(far.next().await.unwrap().unwrap(), Message::binary(b"ls\r".to_vec()));
        keys.write_all(&[ESCAPE]).await.unwrap();
        assert!(talking.await.unwrap().is_ok());
        assert!(matches!(far.next().await, Some(Ok(Message::Close(_)))));
    }

    #[tokio::test]
    async fn any_other_end_is_an_error_with_its_code() {
        let (near, mut far) = pair().await;
        let remote = async { far.send(close(CloseCode::Away)).await.unwrap() };
        let (result, ()) = tokio::join!(talk(near, tokio::io::empty(), tokio::io::sink()), remote);
        assert!(result.unwrap_err().to_string().ends_with("websocket: close 1001"));
        let (near, far) = pair().await;
        drop(far);
        let cut = talk(near, tokio::io::empty(), tokio::io::sink()).await.unwrap_err().to_string();
        assert!(cut.contains("close 1006 (abnormal closure)"), "{cut}");
    }
}
