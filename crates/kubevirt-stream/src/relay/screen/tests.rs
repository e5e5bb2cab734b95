//! Screens over websockets in memory, on a paused clock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::{Close, LegEnd, ScreenEnd, Server, Servers, carry_screen, viewer};
use crate::rfb::Unfollowed;
use crate::websocket::config;

type Socket = WebSocketStream<DuplexStream>;

const INIT: &[u8] = &[0, 1, 0, 1, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0, 0, 0, 0, 0];
const GREETING: &[u8] = b"RFB 003.008\n\x01\x01\0\0\0\0";
const KEY: &[u8] = &[4, 1, 0, 0, 0, 0, 0, 97];

async fn sockets() -> (Socket, Socket) {
    let (near, far) = tokio::io::duplex(1 << 20);
    (
        WebSocketStream::from_raw_socket(near, Role::Client, Some(config())).await,
        WebSocketStream::from_raw_socket(far, Role::Server, Some(config())).await,
    )
}

/// Servers to come, and what was heard of them.
#[derive(Default, Clone)]
struct Next {
    servers: Arc<Mutex<VecDeque<Socket>>>,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Next {
    fn note(&self, note: impl Into<String>) {
        self.notes.lock().unwrap().push(note.into());
    }
}

impl Servers for Next {
    type Io = DuplexStream;

    fn verdict(&mut self, end: &LegEnd) -> Option<Close> {
        match end {
            LegEnd::Closed(close) if close.code == 1000 => Some(close.clone()),
            LegEnd::Closed(_) | LegEnd::Lost(_) => None,
        }
    }

    async fn find(&mut self, lost_for: Duration) -> Result<Server<DuplexStream>, Close> {
        self.note("find");
        let next = self.servers.lock().unwrap().pop_front();
        match next {
            Some(websocket) => Ok(Server { websocket, received: None }),
            // Nobody will come, which the viewer doesn't wait for.
            None if lost_for.is_zero() => std::future::pending().await,
            None => Err(Close::internal_error("no server")),
        }
    }

    fn resumed(&mut self) {
        self.note("resumed");
    }

    fn unfollowed(&mut self, why: &Unfollowed) {
        self.note(why.to_string());
    }
}

/// A viewer that has shaken hands, its server, and the splice between them.
async fn world(next: &Next) -> (DuplexStream, Socket, JoinHandle<ScreenEnd>) {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (ours, mut server) = sockets().await;
    let mut servers = next.clone();
    let carrying = tokio::spawn(async move {
        let first = Server { websocket: ours, received: None };
        carry_screen(viewer(near), first, &mut servers, &CancellationToken::new()).await
    });
    serve(&mut server).await;
    far.write_all(b"RFB 003.008\n\x01\x01").await.unwrap();
    let mut hello = vec![0; GREETING.len() + INIT.len()];
    far.read_exact(&mut hello).await.unwrap();
    assert_eq!(hello, [GREETING, INIT].concat());
    (far, server, carrying)
}

/// The server's handshake.
async fn serve(server: &mut Socket) {
    server.send(Message::binary([GREETING, INIT].concat())).await.unwrap();
    assert_eq!(hear(server, 14).await, b"RFB 003.008\n\x01\x01");
}

/// The next bytes that come.
async fn hear(socket: &mut Socket, length: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < length {
        if let Message::Binary(data) = socket.next().await.unwrap().unwrap() {
            heard.extend_from_slice(&data);
        }
    }
    heard
}

#[tokio::test(start_paused = true)]
async fn a_viewer_goes_on_with_the_next_server() {
    let next = Next::default();
    let (mut far, mut server, carrying) = world(&next).await;
    // Taken, and said so: an answer to the ping comes by itself with the next look.
    far.write_all(KEY).await.unwrap();
    assert_eq!(hear(&mut server, 8).await, KEY);
    assert!(matches!(server.next().await, Some(Ok(Message::Ping(_)))));
    server.send(Message::binary(vec![2])).await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), 2);
    // Half a message is none.
    server.send(Message::binary(vec![3, 0, 0, 0, 0, 0, 0, 2, b'n'])).await.unwrap();
    let (ours, mut second) = sockets().await;
    next.servers.lock().unwrap().push_back(ours);
    drop(server);

    serve(&mut second).await;
    let format = hear(&mut second, 20).await;
    assert_eq!((format[0], &format[4..]), (0, &INIT[4..20]));
    second.send(Message::binary(vec![3, 0, 0, 0, 0, 0, 0, 2, b'h', b'i'])).await.unwrap();
    let mut text = [0; 10];
    far.read_exact(&mut text).await.unwrap();
    assert_eq!(&text[8..], b"hi");
    far.write_all(KEY).await.unwrap();
    assert_eq!(hear(&mut second, 8).await, KEY, "the first was not said again");

    second.close(None).await.unwrap();
    drop(second);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(*next.notes.lock().unwrap(), ["find", "resumed", "find"]);
    drop(far);
    assert!(matches!(carrying.await.unwrap(), ScreenEnd::Viewer(_)));
}

#[tokio::test(start_paused = true)]
async fn an_end_is_an_end_and_what_was_said_before_it_is_given() {
    let next = Next::default();
    let (mut far, mut server, carrying) = world(&next).await;
    server.send(Message::binary(vec![2])).await.unwrap();
    server
        .send(Message::Close(Some(tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: 1000.into(),
            reason: "replaced".into(),
        })))
        .await
        .unwrap();
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [2]);
    drop((far, server));
    let end = carrying.await.unwrap();
    assert!(matches!(&end, ScreenEnd::Told(close) if close.reason == "replaced"), "{end:?}");
    assert!(next.notes.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_viewer_may_go_while_nobody_serves_it() {
    let next = Next::default();
    let (far, server, carrying) = world(&next).await;
    drop(server);
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(far);
    assert!(matches!(carrying.await.unwrap(), ScreenEnd::Viewer(_)));
}

#[tokio::test(start_paused = true)]
async fn servers_that_end_at_once_are_not_asked_without_end() {
    let next = Next::default();
    let (far, server, carrying) = world(&next).await;
    for _ in 0..3 {
        let (ours, theirs) = sockets().await;
        next.servers.lock().unwrap().push_back(ours);
        drop(theirs);
    }
    drop(server);
    let end = carrying.await.unwrap();
    assert!(matches!(&end, ScreenEnd::Told(close) if close.reason == "no server"), "{end:?}");
    assert_eq!(*next.notes.lock().unwrap(), ["find"; 4]);
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn what_cant_be_followed_ends_with_its_server() {
    let next = Next::default();
    let (mut far, mut server, carrying) = world(&next).await;
    far.write_all(&[77]).await.unwrap();
    assert_eq!(hear(&mut server, 1).await, [77]);
    server.send(Message::binary(b"as it comes".to_vec())).await.unwrap();
    let mut said = [0; 11];
    far.read_exact(&mut said).await.unwrap();
    drop(server);
    let end = carrying.await.unwrap();
    assert!(matches!(&end, ScreenEnd::Told(close) if *close == Close::going_away()), "{end:?}");
    assert_eq!(*next.notes.lock().unwrap(), ["the viewer sends a message of type 77"]);
}
