//! The guest's serial console.
//!
//! Owns the serial device from the guest's first byte to its last: reads it all the time,
//! whoever listens, and keeps the last MiB. Readers take from there at their own pace, so
//! none of them can hold up the guest. Never logs what passes through.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kubevirt_stream::attach::{self, AttachError, AttachReply, AttachRequest};
use kubevirt_stream::ring::RingBuffer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use crate::sessions::{Sessions, Sitting};

/// What is read or written at once.
const CHUNK: usize = 32 * 1024;
/// Chunks of typed bytes that wait for a guest that doesn't read.
const TYPED_AHEAD: usize = 16;

/// The console.
#[derive(Debug, Clone)]
pub struct Console {
    ring: Arc<Mutex<RingBuffer>>,
    /// How far the guest has come.
    progress: watch::Sender<Progress>,
    typed: mpsc::Sender<Vec<u8>>,
    sessions: Arc<Sessions>,
}

/// What is typed, on its way to the guest.
pub type Typed = mpsc::Receiver<Vec<u8>>;

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    end: u64,
    over: bool,
}

impl Console {
    /// A console that waits for its guest.
    pub fn new() -> (Self, Typed) {
        let (typed, to_guest) = mpsc::channel(TYPED_AHEAD);
        let console = Self {
            ring: Arc::default(),
            progress: watch::Sender::default(),
            typed,
            sessions: Sessions::new("console"),
        };
        (console, to_guest)
    }

    /// Carries the guest's serial line until it ends.
    pub async fn carry<S: AsyncRead + AsyncWrite + Send + 'static>(&self, serial: S, typed: Typed) {
        let (read, write) = tokio::io::split(serial);
        let typing = tokio::spawn(type_to(write, typed));
        if let Err(err) = self.listen(read).await {
            tracing::warn!(error = %err, "the serial device can't be read any more");
        }
        typing.abort();
        self.close();
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.progress.send_modify(|progress| progress.over = true);
    }

    /// Waits until nobody is attached.
    pub async fn vacant(&self) {
        self.sessions.vacant().await;
    }

    /// Serves one connection to `console-sock`.
    pub async fn serve(self, mut stream: UnixStream) -> Result<(), AttachError> {
        let request = attach::accept(&mut stream).await?;
        let sitting = match self.sessions.sit(&request) {
            Ok(sitting) => sitting,
            Err(busy) => {
                return attach::reply(&mut stream, &AttachReply::Refused { error: busy.to_string() }).await;
            }
        };
        let offset = self.offset_for(&request);
        attach::reply(&mut stream, &AttachReply::Attached { offset }).await?;
        tracing::info!(session = request.session, offset, "console attached");
        let end = self.session(stream, offset, &sitting).await;
        tracing::info!(session = request.session, end, "console detached");
        Ok(())
    }

    /// Where a session begins. One that comes back sees by the offset whether it has lost
    /// bytes that are no longer kept.
    fn offset_for(&self, request: &AttachRequest) -> u64 {
        let ring = self.ring();
        request.resume_from.map_or(ring.end(), |offset| ring.clamp(offset))
    }

    async fn session(&self, stream: UnixStream, offset: u64, sitting: &Sitting) -> &'static str {
        let (read, write) = stream.into_split();
        tokio::select! {
            () = sitting.replaced.cancelled() => "replaced",
            end = self.play(write, offset) => end,
            end = self.type_from(read) => end,
        }
    }

    async fn listen(&self, mut read: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = read.read(&mut chunk).await?;
            if count == 0 {
                return Ok(());
            }
            let mut ring = self.ring();
            ring.push(&chunk[..count]);
            let end = ring.end();
            drop(ring);
            self.progress.send_modify(|progress| progress.end = end);
        }
    }

    /// Writes everything from `offset` on to a reader. One that falls further behind than
    /// what is kept is cut, so that it learns of its loss when it comes back.
    async fn play(&self, mut write: impl AsyncWrite + Unpin, mut offset: u64) -> &'static str {
        let mut progress = self.progress.subscribe();
        loop {
            // Looked at before the ring, so that the last bytes are read before the end is believed.
            let over = progress.borrow_and_update().over;
            let (oldest, (bytes, next)) = {
                let ring = self.ring();
                (ring.start(), ring.read(offset, CHUNK))
            };
            if oldest > offset {
                return "too slow";
            }
            if !bytes.is_empty() {
                if write.write_all(&bytes).await.is_err() {
                    return "gone";
                }
                offset = next;
                continue;
            }
            if over || progress.changed().await.is_err() {
                return "the guest has ended";
            }
        }
    }

    async fn type_from(&self, mut read: impl AsyncRead + Unpin) -> &'static str {
        let mut chunk = vec![0; CHUNK];
        loop {
            match read.read(&mut chunk).await {
                Ok(0) | Err(_) => return "gone",
                Ok(count) if self.typed.send(chunk[..count].to_vec()).await.is_err() => {
                    // The guest has ended; what it said last is still being read.
                    return std::future::pending().await;
                }
                Ok(_) => {}
            }
        }
    }

    fn ring(&self) -> MutexGuard<'_, RingBuffer> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn type_to(mut write: impl AsyncWrite + Unpin, mut typed: Typed) {
    while let Some(bytes) = typed.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    fn attached(console: &Console) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        tokio::spawn(console.clone().serve(server));
        client
    }

    async fn attach_as(
        console: &Console,
        session: &str,
        resume_from: Option<u64>,
    ) -> (UnixStream, Result<u64, AttachError>) {
        let mut client = attached(console);
        let request = AttachRequest { session: session.into(), resume_from, ..AttachRequest::default() };
        let answer = attach::attach(&mut client, &request).await;
        (client, answer)
    }

    fn carried() -> (Console, DuplexStream) {
        let (console, typed) = Console::new();
        let (guest, serial) = tokio::io::duplex(CHUNK);
        let carrier = console.clone();
        tokio::spawn(async move { carrier.carry(serial, typed).await });
        (console, guest)
    }

    async fn until(console: &Console, end: u64) {
        console.progress.subscribe().wait_for(|progress| progress.end >= end).await.unwrap();
    }

    async fn take(client: &mut UnixStream, count: usize) -> String {
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_session_that_comes_back_misses_nothing() {
        let (console, mut guest) = carried();
        let (mut first, offset) = attach_as(&console, "a", None).await;
        assert_eq!(offset.unwrap(), 0);
        guest.write_all(b"tick 0\n").await.unwrap();
        assert_eq!(take(&mut first, 7).await, "tick 0\n");
        drop(first);
        guest.write_all(b"tick 1\n").await.unwrap();
        until(&console, 14).await;

        let (mut again, offset) = attach_as(&console, "a", Some(7)).await;
        assert_eq!(offset.unwrap(), 7);
        guest.write_all(b"tick 2\n").await.unwrap();
        assert_eq!(take(&mut again, 14).await, "tick 1\ntick 2\n");

        // Somebody new begins at the live end, and takes the seat.
        let (mut new, offset) = attach_as(&console, "b", None).await;
        assert_eq!(offset.unwrap(), 21);
        assert_eq!(again.read(&mut [0]).await.unwrap(), 0);
        guest.write_all(b"tick 3\n").await.unwrap();
        assert_eq!(take(&mut new, 7).await, "tick 3\n");

        new.write_all(b"ls\n").await.unwrap();
        let mut typed = [0; 3];
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"ls\n");

        // The end of the guest is the end of the session, after its last byte.
        guest.write_all(b"bye").await.unwrap();
        drop(guest);
        assert_eq!(take(&mut new, 3).await, "bye");
        assert_eq!(new.read(&mut [0]).await.unwrap(), 0);
        let (mut late, offset) = attach_as(&console, "c", Some(28)).await;
        assert_eq!(offset.unwrap(), 28);
        assert_eq!(take(&mut late, 3).await, "bye");
    }

    #[tokio::test]
    async fn a_slow_reader_is_cut_and_the_guest_never_waits() {
        let (console, mut guest) = carried();
        let (mut slow, _) = attach_as(&console, "slow", None).await;
        let flood = vec![b'x'; 4 << 20];
        guest.write_all(&flood).await.unwrap();
        until(&console, flood.len() as u64).await;
        let mut got = Vec::new();
        slow.read_to_end(&mut got).await.unwrap();
        assert!(got.len() < flood.len(), "the reader was cut");

        // It learns of its loss from the offset.
        let (_, offset) = attach_as(&console, "slow", Some(got.len() as u64)).await;
        assert_eq!(offset.unwrap(), (3 << 20) as u64);
        // Nobody waits for what never was.
        let (_, offset) = attach_as(&console, "slow", Some(u64::MAX)).await;
        assert_eq!(offset.unwrap(), flood.len() as u64);
    }
}
