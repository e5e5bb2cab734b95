//! A guest that talks and listens: what a launcher keeps of its serial console.

use std::collections::HashMap;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use kubevirt_stream::ring::RingBuffer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::screen::Screen;

#[derive(Clone)]
pub struct Guest {
    said: Arc<Mutex<RingBuffer>>,
    typed: Arc<Mutex<Vec<u8>>>,
    received: Arc<Mutex<HashMap<String, u64>>>,
    former: Arc<tokio::sync::Mutex<Option<Former>>>,
    changed: watch::Sender<bool>,
    deaf: watch::Sender<bool>,
    /// A launcher's process: no virt-handler's end is its own.
    runtime: Handle,
    pub screen: Screen,
}

/// Its session, what tells it to leave, and what ends when it has.
type Former = (String, CancellationToken, JoinHandle<()>);

/// What a launcher answers to somebody who attaches.
pub struct Attached {
    pub stream: UnixStream,
    pub offset: u64,
    pub received: u64,
}

impl Guest {
    pub fn new() -> Self {
        Self {
            said: Arc::default(),
            typed: Arc::default(),
            received: Arc::default(),
            former: Arc::default(),
            changed: watch::Sender::new(false),
            screen: Screen::new(),
            deaf: watch::Sender::new(false),
            runtime: Handle::current(),
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

    /// Whether it reads nothing of what is typed: its connections fill up.
    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.send_replace(deaf);
    }

    pub fn typed(&self) -> Vec<u8> {
        self.typed.lock().unwrap().clone()
    }

    /// Whether somebody else than this session sits here.
    pub async fn is_taken(&self, session: &str) -> bool {
        let former = self.former.lock().await;
        former.as_ref().is_some_and(|(sitting, _, left)| sitting != session && !left.is_finished())
    }

    /// A session's stream. Whoever is attached leaves first, and all that its connection holds is typed.
    pub async fn attach(&self, session: &str, resume_from: Option<u64>) -> Attached {
        let mut former = self.former.lock().await;
        if let Some((_, leave, left)) = former.take() {
            leave.cancel();
            left.await.unwrap();
        }
        let offset = {
            let said = self.said.lock().unwrap();
            resume_from.map_or(said.end(), |offset| said.clamp(offset))
        };
        let received = *self.received.lock().unwrap().entry(session.to_owned()).or_default();
        let (launcher, stream) = UnixStream::pair().unwrap();
        for end in [&launcher, &stream] {
            end.set_nonblocking(true).unwrap();
        }
        let leave = CancellationToken::new();
        let (guest, session, told) = (self.clone(), session.to_owned(), leave.clone());
        let by = session.clone();
        let task = self.runtime.spawn(async move {
            let mut held = launcher.try_clone().unwrap();
            tokio::select! {
                () = guest.carry(launcher, offset, &session) => {}
                () = told.cancelled() => {}
            }
            // Nobody may be listening.
            let _ = held.shutdown(Shutdown::Read);
            let mut rest = [0; 4096];
            while let Ok(count @ 1..) = held.read(&mut rest) {
                guest.hear(&session, &rest[..count]);
            }
            let _ = held.shutdown(Shutdown::Both);
        });
        *former = Some((by, leave, task));
        Attached { stream, offset, received }
    }

    fn hear(&self, session: &str, bytes: &[u8]) {
        self.typed.lock().unwrap().extend_from_slice(bytes);
        *self.received.lock().unwrap().get_mut(session).unwrap() += bytes.len() as u64;
    }

    async fn carry(&self, launcher: UnixStream, mut position: u64, session: &str) {
        let mut launcher = tokio::net::UnixStream::from_std(launcher).unwrap();
        let mut changed = self.changed.subscribe();
        let mut deaf = self.deaf.subscribe();
        let mut typed = [0; 64];
        loop {
            let off = *changed.borrow_and_update();
            let is_deaf = *deaf.borrow_and_update();
            let (bytes, next) = self.said.lock().unwrap().read(position, 48);
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
                _ = deaf.changed() => {}
                read = launcher.read(&mut typed), if !is_deaf => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => self.hear(session, &typed[..count]),
                },
            }
        }
    }
}
