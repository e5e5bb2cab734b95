//! A guest that talks: what a launcher keeps of its serial console.

use std::sync::{Arc, Mutex};

use kubevirt_stream::ring::RingBuffer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::screen::Screen;

#[derive(Clone)]
pub struct Guest {
    said: Arc<Mutex<RingBuffer>>,
    typed: Arc<Mutex<Vec<u8>>>,
    changed: watch::Sender<bool>,
    pub screen: Screen,
}

impl Guest {
    pub fn new() -> Self {
        Self {
            said: Arc::default(),
            typed: Arc::default(),
            changed: watch::Sender::new(false),
            screen: Screen::new(),
        }
    }

    pub fn say(&self, text: &str) {
        self.said.lock().unwrap().push(text.as_bytes());
        self.changed.send_replace(false);
    }

    pub fn power_off(&self) {
        self.changed.send_replace(true);
    }

    pub fn is_off(&self) -> bool {
        *self.changed.borrow()
    }

    pub fn typed(&self) -> Vec<u8> {
        self.typed.lock().unwrap().clone()
    }

    /// Where a reader who wants to go on at `offset` does.
    pub fn position(&self, offset: Option<u64>) -> u64 {
        let said = self.said.lock().unwrap();
        offset.map_or(said.end(), |offset| said.clamp(offset))
    }

    /// A stream from `position` on, to its end.
    pub fn attach(&self, mut position: u64) -> DuplexStream {
        let (mut launcher, handler) = tokio::io::duplex(64);
        let guest = self.clone();
        tokio::spawn(async move {
            let mut changed = guest.changed.subscribe();
            let mut typed = [0; 64];
            loop {
                let off = *changed.borrow_and_update();
                let (bytes, next) = guest.said.lock().unwrap().read(position, 48);
                if !bytes.is_empty() {
                    if launcher.write_all(&bytes).await.is_err() {
                        return;
                    }
                    position = next;
                    continue;
                }
                if off {
                    return;
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    read = launcher.read(&mut typed) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(count) => guest.typed.lock().unwrap().extend_from_slice(&typed[..count]),
                    },
                }
            }
        });
        handler
    }
}
