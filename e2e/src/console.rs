//! Websockets through the API server: a VM's console, and a command in a pod.

use std::time::Duration;

use anyhow::Context;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// An upgraded connection through the API server.
pub type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Opens a websocket at a path of the API server.
///
/// # Errors
/// With the answer's status and text when it doesn't upgrade.
pub async fn open(client: &Client, path: &str, subprotocol: &str) -> anyhow::Result<Socket> {
    let request = Request::get(path)
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "websocket")
        .header(http::header::SEC_WEBSOCKET_VERSION, "13")
        .header(http::header::SEC_WEBSOCKET_KEY, generate_key())
        .header(http::header::SEC_WEBSOCKET_PROTOCOL, subprotocol)
        .body(Body::empty())?;
    let response = client.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let text = response.into_body().collect().await?.to_bytes();
        anyhow::bail!("{path}: {status}: {}", String::from_utf8_lossy(&text));
    }
    let upgraded = hyper::upgrade::on(response).await.context("upgrading")?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

/// Opens the serial console of an instance, as a plain client without resume does.
pub async fn attach(client: &Client, namespace: &str, vmi: &str) -> anyhow::Result<Socket> {
    let path = format!(
        "/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{vmi}/console"
    );
    open(client, &path, kubevirt_types::labels::PLAIN_SUBPROTOCOL).await
}

/// Types something on a console.
pub async fn type_line(socket: &mut Socket, line: &str) -> anyhow::Result<()> {
    socket.send(Message::binary(format!("{line}\n").into_bytes())).await?;
    Ok(())
}

/// What the guest says in a message; a ping has words, too, and they aren't the guest's.
pub fn said(message: Message) -> Bytes {
    match message {
        Message::Binary(data) => data,
        Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
            Bytes::new()
        }
    }
}

/// Reads a console until it has said something; returns all that it has said.
///
/// # Errors
/// When it ends or `limit` is over before.
pub async fn until(socket: &mut Socket, what: &str, limit: Duration) -> anyhow::Result<String> {
    let mut heard = String::new();
    let give_up = tokio::time::Instant::now() + limit;
    while !heard.contains(what) {
        let message = tokio::time::timeout_at(give_up, socket.next()).await;
        let message = message.with_context(|| format!("{what:?} was not said, only {heard:?}"))?;
        let message = message.with_context(|| format!("the console ended after {heard:?}"))??;
        heard.push_str(&String::from_utf8_lossy(&said(message)));
    }
    Ok(heard)
}

/// Reads a console as long as what it has said so far asks for more, until `limit` is over or it ends; returns all of it.
///
/// # Errors
/// When the connection breaks.
pub async fn while_heard(
    socket: &mut Socket,
    limit: Duration,
    more: impl Fn(&str) -> bool,
) -> anyhow::Result<String> {
    let mut heard = String::new();
    let give_up = tokio::time::Instant::now() + limit;
    while more(&heard) {
        let Ok(Some(message)) = tokio::time::timeout_at(give_up, socket.next()).await else { break };
        heard.push_str(&String::from_utf8_lossy(&said(message?)));
    }
    Ok(heard)
}

/// Runs a command in a pod and returns what it printed (protocol `v5.channel.k8s.io`: the first byte of
/// a message names its channel, 1 is stdout, 2 stderr, 3 the final status).
pub async fn exec(client: &Client, namespace: &str, pod: &str, command: &[&str]) -> anyhow::Result<String> {
    let command: Vec<String> = command.iter().map(|word| format!("command={word}")).collect();
    let path = format!(
        "/api/v1/namespaces/{namespace}/pods/{pod}/exec?stdout=true&stderr=true&{}",
        command.join("&")
    );
    let mut socket = open(client, &path, "v5.channel.k8s.io").await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(message) = socket.next().await {
        match message? {
            Message::Binary(data) => match data.split_first() {
                Some((1, text)) => stdout.extend_from_slice(text),
                Some((2, text)) => stderr.extend_from_slice(text),
                Some((3, status)) => {
                    let status: serde_json::Value = serde_json::from_slice(status)?;
                    anyhow::ensure!(
                        status["status"] == "Success",
                        "{command:?} in pod {pod}: {} {}",
                        status["message"],
                        String::from_utf8_lossy(&stderr)
                    );
                }
                Some(_) | None => {}
            },
            Message::Close(_) => break,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
