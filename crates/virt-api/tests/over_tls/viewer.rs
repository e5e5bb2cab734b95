//! A viewer without any logic of its own, through virt-api: what becomes of its screen when virt-handler is lost behind it.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::HeaderMap;
use kubevirt_stream::attach::RECEIVED_HEADER;
use kubevirt_stream::websocket::WebSocket;
use kubevirt_types::Release;
use tokio_tungstenite::tungstenite::Message;

use crate::world::guest::Guest;
use crate::world::handler::Handler;
use crate::world::screen::INIT;
use crate::world::{HANDLERS, World};

const VNC: &str = "/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/a/vnc";
const LIMIT: Duration = Duration::from_secs(20);
const FULL: &[u8] = b"\x03\0\0\0\0\0\0\x04\0\x02";
const MORE: &[u8] = b"\x03\x01\0\0\0\0\0\x04\0\x02";

/// ZRLE, which is more than virt-api can promise behind another virt-handler, and raw.
const ENCODINGS: &[u8] = b"\x02\0\0\x02\0\0\0\x10\0\0\0\0";

struct Viewer {
    websocket: WebSocket,
    heard: Vec<u8>,
    said: u64,
}

impl Viewer {
    /// Connects, shakes hands and asks for the screen.
    async fn open(world: &World) -> Self {
        Self::open_at(world, VNC).await.0
    }

    /// The same, at a path; and what was said of the stream.
    async fn open_at(world: &World, path: &str) -> (Self, HeaderMap) {
        let (websocket, headers) = world.dial("jane", path).await.unwrap();
        let mut viewer = Self { websocket, heard: Vec::new(), said: 0 };
        assert_eq!(viewer.hear(12).await, b"RFB 003.008\n");
        viewer.say(b"RFB 003.008\n").await;
        assert_eq!(viewer.hear(2).await, [1, 1]);
        viewer.say(&[1]).await;
        assert_eq!(viewer.hear(4).await, [0; 4]);
        viewer.say(&[1]).await;
        assert_eq!(viewer.hear(INIT.len()).await, INIT);
        viewer.say(ENCODINGS).await;
        viewer.say(FULL).await;
        (viewer, headers)
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.said += bytes.len() as u64;
        self.websocket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// How its connection is closed.
    async fn closed(&mut self) -> u16 {
        let close = async {
            loop {
                match self.websocket.next().await.unwrap().unwrap() {
                    Message::Close(frame) => return frame.unwrap().code.into(),
                    Message::Binary(_)
                    | Message::Ping(_)
                    | Message::Pong(_)
                    | Message::Text(_)
                    | Message::Frame(_) => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, close).await.expect("it is closed in time")
    }

    async fn hear(&mut self, count: usize) -> Vec<u8> {
        let hear = async {
            while self.heard.len() < count {
                match self.websocket.next().await.unwrap().unwrap() {
                    Message::Binary(data) => self.heard.extend_from_slice(&data),
                    Message::Close(frame) => panic!("closed: {frame:?}"),
                    Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_) => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, hear).await.unwrap_or_else(|_| panic!("no {count} bytes in time"));
        self.heard.drain(..count).collect()
    }

    /// The colour of a whole screen, in a well-formed update.
    async fn see(&mut self) -> u8 {
        assert_eq!(self.hear(16).await, b"\0\0\0\x01\0\0\0\0\0\x04\0\x02\0\0\0\0");
        let pixels = self.hear(32).await;
        assert!(pixels.iter().all(|byte| *byte == pixels[0]));
        pixels[0]
    }

    /// Looks until the screen has this colour.
    async fn watch_for(&mut self, colour: u8) {
        while self.see().await != colour {
            self.say(MORE).await;
        }
    }
}

async fn world() -> (World, Guest, Handler, Handler) {
    let port = std::net::TcpListener::bind((HANDLERS[0], 0)).unwrap().local_addr().unwrap().port();
    let world = World::start(Release::V0_18_0, port).await;
    let guest = Guest::new();
    let older = Handler::start(HANDLERS[0], port, &world.own_ca, guest.clone()).await;
    let newer = Handler::start(HANDLERS[1], port, &world.own_ca, guest.clone()).await;
    (world, guest, older, newer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_outlives_its_virt_handler() {
    let (world, guest, older, newer) = world().await;
    let mut viewer = Viewer::open(&world).await;
    viewer.watch_for(1).await;
    viewer.say(MORE).await;
    viewer.say(b"\x04\x01\0\0\0\0\0a").await;
    // The newest virt-handler carries it.
    newer.kill();
    guest.screen.paint(2);
    viewer.watch_for(2).await;
    viewer.say(b"\x04\x01\0\0\0\0\0b").await;
    let pressed = async {
        while !guest.screen.pressed().ends_with(b"b") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, pressed).await.unwrap();
    // What was taken without a word of it is said again, in its order; nothing is missing.
    let pressed = guest.screen.pressed();
    assert!(pressed.starts_with(b"a") && pressed.len() <= 4, "{pressed:?}");
    // It came back as itself, and would not have driven anybody out.
    let sessions = guest.screen.take_sessions();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions[0].session, sessions[1].session);
    assert_eq!((sessions[0].preserve_session, sessions[1].preserve_session), (false, true));
    older.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_outlives_a_cut_at_any_byte() {
    let (world, guest, older, newer) = world().await;
    let all = 12 + 2 + 4 + INIT.len() + 2 * 48;
    for cut in 1..all {
        guest.screen.paint(1);
        guest.screen.break_after(cut);
        let mut viewer = Viewer::open(&world).await;
        viewer.watch_for(1).await;
        guest.screen.paint(2);
        viewer.say(MORE).await;
        viewer.watch_for(2).await;
        assert_eq!(guest.screen.take_sessions().len(), 2, "cut at {cut}");
    }
    older.kill();
    newer.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_counts_is_told_what_of_its_own_was_taken() {
    let (world, guest, older, newer) = world().await;
    guest.screen.count();
    let (_, headers) = Viewer::open_at(&world, VNC).await;
    assert!(!headers.contains_key(RECEIVED_HEADER), "what is counted is virt-api's");
    let path = format!("{VNC}?session=s&counts=true");
    let (mut viewer, headers) = Viewer::open_at(&world, &path).await;
    assert_eq!(headers[RECEIVED_HEADER], "0");
    viewer.watch_for(1).await;
    viewer.say(b"\x04\x01\0\0\0\0\0a").await;
    let pressed = async {
        while guest.screen.pressed() != b"a" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, pressed).await.unwrap();
    assert_eq!(
        guest.screen.taken("s"),
        viewer.said,
        "as it was said: no handshake, and no choice, of virt-api's own"
    );
    newer.kill();
    assert_eq!(viewer.closed().await, 1001, "it goes on by itself");
    let said = viewer.said.to_string();
    let (mut viewer, headers) =
        Viewer::open_at(&world, &format!("{path}&resumeFrom=0&preserveSession=true")).await;
    assert_eq!(headers[RECEIVED_HEADER], said.as_str());
    viewer.watch_for(1).await;
    older.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_that_does_not_count_leaves_it_to_virt_api() {
    let (world, guest, older, newer) = world().await;
    let (mut viewer, headers) = Viewer::open_at(&world, &format!("{VNC}?session=s&counts=true")).await;
    assert!(!headers.contains_key(RECEIVED_HEADER));
    viewer.watch_for(1).await;
    newer.kill();
    guest.screen.paint(2);
    viewer.say(MORE).await;
    viewer.watch_for(2).await;
    older.kill();
}
