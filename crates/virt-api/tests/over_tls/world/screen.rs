//! A guest's screen: four pixels by two, in one colour. Each connection is a new session of RFB, as QEMU's are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use kubevirt_runtime::serve::StreamTracker;
use kubevirt_stream::attach::{OFFSET_HEADER, RECEIVED_HEADER};
use kubevirt_stream::websocket::{Upgrade, WebSocket};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use super::guest::Guest;

pub const INIT: &[u8] = b"\0\x04\0\x02\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\0\0\0\x02vm";

#[derive(Clone)]
pub struct Screen {
    colour: watch::Sender<u8>,
    /// Bytes that the next connection says before it breaks.
    breaks_after: Arc<Mutex<Option<usize>>>,
    sessions: Arc<Mutex<Vec<Asked>>>,
    counts: Arc<AtomicBool>,
    taken: Arc<Mutex<HashMap<String, u64>>>,
    pressed: Arc<Mutex<Vec<u8>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    pub session: String,
    pub preserve_session: bool,
}

impl Screen {
    pub fn new() -> Self {
        Self {
            colour: watch::Sender::new(1),
            breaks_after: Arc::default(),
            sessions: Arc::default(),
            counts: Arc::default(),
            taken: Arc::default(),
            pressed: Arc::default(),
        }
    }

    pub fn paint(&self, colour: u8) {
        self.colour.send_replace(colour);
    }

    pub fn break_after(&self, bytes: usize) {
        *self.breaks_after.lock().unwrap() = Some(bytes);
    }

    /// Who has connected since this was last asked.
    pub fn take_sessions(&self) -> Vec<Asked> {
        std::mem::take(&mut self.sessions.lock().unwrap())
    }

    /// From now on it says what it has taken, as launchers since v0.18.0 do.
    pub fn count(&self) {
        self.counts.store(true, Ordering::Relaxed);
    }

    /// How many bytes of a session it has taken.
    pub fn taken(&self, session: &str) -> u64 {
        self.taken.lock().unwrap().get(session).copied().unwrap_or_default()
    }

    /// Keys that went down.
    pub fn pressed(&self) -> Vec<u8> {
        self.pressed.lock().unwrap().clone()
    }

    fn update(&self) -> Vec<u8> {
        let mut update = b"\0\0\0\x01\0\0\0\0\0\x04\0\x02\0\0\0\0".to_vec();
        update.extend([*self.colour.borrow(); 32]);
        update
    }
}

/// virt-handler's route.
pub async fn vnc(
    State(guest): State<Guest>,
    Query(asked): Query<Asked>,
    Extension(streams): Extension<StreamTracker>,
    mut request: Request,
) -> Response {
    let id = asked.session.clone();
    guest.screen.sessions.lock().unwrap().push(asked);
    let upgrade = Upgrade::from_request(&mut request).unwrap();
    let mut response: Response = upgrade.response();
    response.headers_mut().insert(OFFSET_HEADER, HeaderValue::from(0));
    if guest.screen.counts.load(Ordering::Relaxed) {
        response.headers_mut().insert(RECEIVED_HEADER, HeaderValue::from(guest.screen.taken(&id)));
    }
    streams.spawn(async move {
        let websocket = upgrade.websocket().await.unwrap();
        let limit = guest.screen.breaks_after.lock().unwrap().take();
        let screen = &guest.screen;
        // However it breaks: nobody says goodbye.
        Session { websocket, left: limit, heard: Vec::new(), id, screen }.serve().await;
    });
    response
}

struct Session<'a> {
    websocket: WebSocket,
    left: Option<usize>,
    heard: Vec<u8>,
    id: String,
    screen: &'a Screen,
}

impl Session<'_> {
    async fn serve(&mut self) -> Option<()> {
        let screen = self.screen;
        for (says, hears) in [(&b"RFB 003.008\n"[..], 12), (b"\x01\x01", 1), (b"\0\0\0\0", 1), (INIT, 0)] {
            self.say(says).await?;
            self.hear(hears).await?;
        }
        let mut colour = screen.colour.subscribe();
        let (mut shown, mut asked) = (None, false);
        loop {
            let now = *colour.borrow_and_update();
            if asked && shown != Some(now) {
                (shown, asked) = (Some(now), false);
                self.say(&screen.update()).await?;
            }
            // Keys are heard while nothing changes.
            let kind = tokio::select! {
                kind = self.hear(1) => kind?[0],
                changed = colour.changed() => {
                    changed.ok()?;
                    continue;
                }
            };
            match kind {
                0 => drop(self.hear(19).await?),
                2 => {
                    let count = self.hear(3).await?[2];
                    self.hear(usize::from(count) * 4).await?;
                }
                3 => {
                    if self.hear(9).await?[0] == 0 {
                        shown = None;
                    }
                    asked = true;
                }
                4 => {
                    let key = self.hear(7).await?;
                    if key[0] == 1 {
                        screen.pressed.lock().unwrap().push(key[6]);
                    }
                }
                other => panic!("a message of type {other}"),
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Option<()> {
        let count = self.left.unwrap_or(usize::MAX).min(bytes.len());
        self.left = self.left.map(|left| left - count);
        if count > 0 {
            self.websocket.send(Message::binary(bytes[..count].to_vec())).await.ok()?;
        }
        (self.left != Some(0)).then_some(())
    }

    async fn hear(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.heard.len() < count {
            match self.websocket.next().await?.ok()? {
                Message::Binary(data) => {
                    *self.screen.taken.lock().unwrap().entry(self.id.clone()).or_default() +=
                        data.len() as u64;
                    self.heard.extend_from_slice(&data);
                }
                Message::Close(_) => return None,
                Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_) => {}
            }
        }
        Some(self.heard.drain(..count).collect())
    }
}
