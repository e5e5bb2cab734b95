//! The guest's serial console.
//!
//! Owns the serial device from the guest's first byte to its last: reads it all the time,
//! whoever listens, and keeps the last MiB. Readers take from there at their own pace, so
//! none of them can hold up the guest. What they type is counted for each session, so that whoever lost a connection
//! knows what to send again. Never logs what passes through.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kubevirt_stream::attach::{self, AttachError, AttachReply, AttachRequest};
use kubevirt_stream::ring::RingBuffer;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, ReadHalf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::sessions::{Sessions, Sitting};
use crate::typed::Typed;

/// What is read or written at once.
const CHUNK: usize = 32 * 1024;

/// The console.
#[derive(Debug, Clone)]
pub struct Console {
    ring: Arc<Mutex<RingBuffer>>,
    /// How far the guest has come.
    progress: watch::Sender<Progress>,
    typed: Arc<Typed>,
    catch_up: mpsc::Sender<oneshot::Sender<u64>>,
    serving: watch::Sender<Serving>,
    /// A duplicate of QEMU's end of the serial line, as long as QEMU lives.
    far_end: Arc<Mutex<Option<OwnedFd>>>,
    sessions: Arc<Sessions>,
}

/// Whoever has it may carry the guest's serial line.
#[derive(Debug)]
pub struct Carrier {
    /// Those who want to know where the output ends, once all is read.
    catch_up: mpsc::Receiver<oneshot::Sender<u64>>,
}

/// Whether somebody who comes is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serving {
    /// He is.
    Here,
    /// When what the guest has said and heard elsewhere is here.
    Coming,
    /// Elsewhere: the guest is given away.
    Given,
}

/// What a guest that is given away hasn't heard yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unheard {
    /// What is to be typed first.
    pub typed: Vec<u8>,
    /// How many bytes each session has typed.
    pub sessions: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    end: u64,
    over: bool,
}

impl Console {
    /// A console that waits for its guest.
    pub fn new() -> (Self, Carrier) {
        let (catch_up, asked) = mpsc::channel(1);
        let console = Self {
            ring: Arc::default(),
            progress: watch::Sender::default(),
            typed: Arc::default(),
            catch_up,
            serving: watch::Sender::new(Serving::Here),
            far_end: Arc::default(),
            sessions: Sessions::new("console"),
        };
        (console, Carrier { catch_up: asked })
    }

    /// Carries the guest's serial line until it ends. `far_end` is a duplicate of QEMU's end, which would keep the line
    /// from ending: [`Console::qemu_ended`] is to be told.
    pub async fn carry(&self, serial: UnixStream, far_end: Option<OwnedFd>, carrier: Carrier) {
        *self.far_end() = far_end;
        let (read, write) = serial.into_split();
        let typed = Arc::clone(&self.typed);
        let typing = tokio::spawn(async move { typed.write_to(write).await });
        if let Err(err) = self.listen(read, carrier.catch_up).await {
            tracing::warn!(error = %err, "the serial device can't be read any more");
        }
        typing.abort();
        self.close();
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.serve_if(Serving::Coming);
        self.progress.send_modify(|progress| progress.over = true);
    }

    /// QEMU has ended: its serial line does, when all is read that is in it.
    pub async fn qemu_ended(&self) {
        if self.far_end().take().is_some() {
            // The sender is the console's own; it outlives this.
            drop(self.progress.subscribe().wait_for(|progress| progress.over).await);
        }
    }

    /// Writes nothing more to the guest, until it is known where it will run.
    pub fn hold_typing(&self) {
        self.typed.hold();
    }

    /// How many bytes QEMU hasn't read of what was written to it.
    pub fn unread(&self) -> u64 {
        // Of a line that is broken nothing is left.
        self.far_end().as_ref().and_then(|end| rustix::io::ioctl_fionread(end).ok()).unwrap_or(0)
    }

    /// The guest is given away, with what it hasn't heard. Whoever is attached is cut: he finds it where it is.
    pub async fn give_away(&self) -> Unheard {
        self.serving.send_replace(Serving::Given);
        self.sessions.clear().await;
        let mut unread = Vec::new();
        if let Some(end) = self.far_end().as_ref() {
            let mut chunk = vec![0; CHUNK];
            // Not even the standing guest's QEMU wants it: its device has no place for it.
            while let Ok(count @ 1..) = rustix::io::read(end, &mut chunk) {
                unread.extend_from_slice(&chunk[..count]);
            }
        }
        let (typed, sessions) = self.typed.give(&unread);
        Unheard { typed, sessions }
    }

    /// The guest stays here after all.
    pub fn keep(&self) {
        self.typed.release();
        self.serve_if(Serving::Given);
    }

    fn serve_if(&self, now: Serving) {
        self.serving.send_if_modified(|serving| {
            let changes = *serving == now;
            if changes {
                *serving = Serving::Here;
            }
            changes
        });
    }

    /// The guest comes from another launcher: nobody is served before its output is here, or
    /// offsets would mean something else than there.
    pub fn await_history(&self) {
        self.serving.send_replace(Serving::Coming);
    }

    /// Takes output that the guest has made elsewhere.
    pub fn adopt(&self, offset: u64, bytes: &[u8]) {
        let mut ring = self.ring();
        if ring.end() != offset {
            // The beginning of what is kept there, or behind a gap.
            *ring = RingBuffer::starting_at(offset);
        }
        ring.push(bytes);
        let end = ring.end();
        drop(ring);
        self.progress.send_modify(|progress| progress.end = end);
    }

    /// All of it is here, up to this offset, and so is what the guest hasn't heard yet.
    pub fn adopted(&self, end: u64, unheard: Unheard) {
        self.adopt(end, &[]);
        self.typed.adopt(&unheard.typed, unheard.sessions);
        self.serve_if(Serving::Coming);
    }

    /// The end of the output, when all is read that QEMU has written. Only for a guest that
    /// stands is it the end for longer.
    pub async fn caught_up(&self) -> u64 {
        let (tell, end) = oneshot::channel();
        if self.catch_up.send(tell).await.is_ok()
            && let Ok(end) = end.await
        {
            return end;
        }
        // There is no serial line.
        self.ring().end()
    }

    /// Up to `limit` bytes of output from `offset` on, or from the oldest that is kept, and the
    /// offset of the first. Waits for them; nothing when no more will come.
    pub async fn next(&self, offset: u64, limit: usize) -> Option<(u64, Vec<u8>)> {
        let mut progress = self.progress.subscribe();
        loop {
            // Looked at before the ring, so that the last bytes are read before the end is believed.
            let over = progress.borrow_and_update().over;
            let (bytes, end) = self.ring().read(offset, limit);
            if !bytes.is_empty() {
                return Some((end - bytes.len() as u64, bytes));
            }
            if over || progress.changed().await.is_err() {
                return None;
            }
        }
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
        // What its connection held is typed before ours, and counted.
        sitting.alone().await;
        let mut serving = self.serving.subscribe();
        let here = tokio::select! {
            // The sender is the console's own; it outlives this.
            here = serving.wait_for(|serving| *serving != Serving::Coming) => {
                here.is_ok_and(|serving| *serving == Serving::Here)
            }
            () = sitting.replaced.cancelled() => return Ok(()),
        };
        if !here {
            let error = "the virtual machine moves to another node".to_owned();
            return attach::reply(&mut stream, &AttachReply::Refused { error }).await;
        }
        let offset = self.offset_for(&request);
        let received = self.typed.begin(&request.session, request.resume_from.is_some());
        attach::reply(&mut stream, &AttachReply::Attached { offset, received }).await?;
        tracing::info!(session = request.session, offset, received, "console attached");
        let end = self.session(stream, &request.session, offset, &sitting).await;
        tracing::info!(session = request.session, end, "console detached");
        Ok(())
    }

    /// Where a session begins. One that comes back sees by the offset whether it has lost
    /// bytes that are no longer kept.
    fn offset_for(&self, request: &AttachRequest) -> u64 {
        let ring = self.ring();
        request.resume_from.map_or(ring.end(), |offset| ring.clamp(offset))
    }

    async fn session(
        &self,
        mut stream: UnixStream,
        session: &str,
        offset: u64,
        sitting: &Sitting,
    ) -> &'static str {
        let end = {
            let (read, write) = stream.split();
            tokio::select! {
                () = sitting.replaced.cancelled() => "replaced",
                end = self.play(write, offset) => end,
                end = self.type_from(read, session) => end,
            }
        };
        self.take_rest(&stream, session);
        end
    }

    /// Takes what a connection that ends still holds: virt-handler may have told its client that it is written here, or
    /// may have died behind it.
    fn take_rest(&self, stream: &UnixStream, session: &str) {
        // From here on nothing can be written, so what is read now is all.
        if let Err(error) = rustix::net::shutdown(stream, rustix::net::Shutdown::Read) {
            tracing::debug!(%error, "shutting a console's connection down");
        }
        let mut chunk = vec![0; CHUNK];
        // The kernel knows better than a reader that has been told to wait.
        while let Ok(count @ 1..) = rustix::io::read(stream, &mut chunk) {
            if !self.typed.take(session, &chunk[..count]) {
                tracing::warn!(session, "the guest doesn't read: what was typed last is lost");
                return;
            }
        }
    }

    async fn listen(
        &self,
        mut read: OwnedReadHalf,
        mut catch_up: mpsc::Receiver<oneshot::Sender<u64>>,
    ) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            tokio::select! {
                count = read.read(&mut chunk) => {
                    let count = count?;
                    if count == 0 {
                        return Ok(());
                    }
                    self.hear(&chunk[..count]);
                }
                Some(tell) = catch_up.recv() => {
                    // The kernel knows better than a reader that has been told to wait.
                    while rustix::io::ioctl_fionread(read.as_ref())? > 0 {
                        let count = read.read(&mut chunk).await?;
                        self.hear(&chunk[..count]);
                    }
                    // Whoever asked may have gone.
                    let _ = tell.send(self.ring().end());
                }
            }
        }
    }

    fn hear(&self, bytes: &[u8]) {
        let mut ring = self.ring();
        ring.push(bytes);
        let end = ring.end();
        drop(ring);
        self.progress.send_modify(|progress| progress.end = end);
    }

    /// Writes everything from `offset` on to a reader. One that falls further behind than
    /// what is kept is cut, so that it learns of its loss when it comes back.
    async fn play(&self, mut write: impl AsyncWrite + Unpin, mut offset: u64) -> &'static str {
        while let Some((first, bytes)) = self.next(offset, CHUNK).await {
            if first > offset {
                return "too slow";
            }
            if write.write_all(&bytes).await.is_err() {
                return "gone";
            }
            offset += bytes.len() as u64;
        }
        "the guest has ended"
    }

    /// Whoever stops this loses no byte: between reading and taking nothing is waited for.
    async fn type_from(&self, read: ReadHalf<'_>, session: &str) -> &'static str {
        let mut chunk = vec![0; CHUNK];
        loop {
            self.typed.room().await;
            if read.readable().await.is_err() {
                return "gone";
            }
            match read.try_read(&mut chunk) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return "gone",
                Ok(count) => {
                    let taken = self.typed.take(session, &chunk[..count]);
                    debug_assert!(taken, "there was room");
                }
            }
        }
    }

    fn far_end(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.far_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) -> MutexGuard<'_, RingBuffer> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        (client, answer.map(|attached| attached.offset))
    }

    fn carried() -> (Console, UnixStream) {
        let (console, carrier) = Console::new();
        let (guest, serial) = UnixStream::pair().unwrap();
        let carrying = console.clone();
        tokio::spawn(async move { carrying.carry(serial, None, carrier).await });
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

    /// The numbers from `first` on, in four bytes each.
    fn numbers(first: u32, count: u32) -> Vec<u8> {
        (first..first + count).flat_map(u32::to_be_bytes).collect()
    }

    #[tokio::test]
    async fn what_a_lost_connection_held_is_typed_once_and_counted() {
        // The guest reads nothing yet, so that the sockets between hold as much as they can.
        let (console, mut guest) = carried();
        let (mut typed, mut session) = (0_u32, None);
        for lost in 0..12 {
            let mut client = attached(&console);
            let request =
                AttachRequest { session: "a".into(), resume_from: session, ..AttachRequest::default() };
            let attached = attach::attach(&mut client, &request).await.unwrap();
            session = Some(attached.offset);
            let received = attached.received.unwrap();
            assert_eq!(received, u64::from(typed) * 4, "after {lost} connections");
            let more = numbers(typed, lost * 700);
            client.write_all(&more).await.unwrap();
            typed += lost * 700;
            // A virt-handler that is killed just goes; one that is cut off still has its end.
            if lost % 2 == 0 {
                drop(client);
            } else {
                tokio::spawn(async move { client.read(&mut [0]).await });
            }
        }
        let mut read = vec![0; typed as usize * 4];
        guest.read_exact(&mut read).await.unwrap();
        assert!(read == numbers(0, typed), "in order, and nothing twice");
    }

    #[tokio::test]
    async fn a_guest_that_does_not_read_bounds_what_is_typed() {
        let (console, _guest) = carried();
        let mut received = 0;
        for _ in 0..20 {
            let mut client = attached(&console);
            let request =
                AttachRequest { session: "a".into(), resume_from: Some(0), ..AttachRequest::default() };
            let first = AttachRequest { resume_from: None, ..request };
            received = attach::attach(&mut client, &first).await.unwrap().received.unwrap();
            let flood = vec![b'x'; 1 << 20];
            let written = tokio::time::timeout(Duration::from_millis(50), client.write_all(&flood)).await;
            assert!(written.is_err(), "somebody took it all");
        }
        assert!(received < 2 << 20, "{received} bytes");
    }

    #[tokio::test]
    async fn what_a_guest_has_not_heard_goes_with_it() {
        let (console, carrier) = Console::new();
        let (qemu, serial) = UnixStream::pair().unwrap();
        let qemu = qemu.into_std().unwrap();
        let far_end = OwnedFd::from(qemu.try_clone().unwrap());
        let mut qemu = UnixStream::from_std(qemu).unwrap();
        let carrying = console.clone();
        tokio::spawn(async move { carrying.carry(serial, Some(far_end), carrier).await });
        let mut client = attached(&console);
        let request = AttachRequest { session: "a".into(), ..AttachRequest::default() };
        attach::attach(&mut client, &request).await.unwrap();
        client.write_all(b"abc").await.unwrap();
        qemu.read_exact(&mut [0; 1]).await.unwrap();
        while console.unread() != 2 {
            tokio::task::yield_now().await;
        }
        console.hold_typing();
        client.write_all(b"def").await.unwrap();
        let unheard = console.give_away().await;
        let expected = Unheard { typed: b"bcdef".to_vec(), sessions: vec![("a".into(), 6)] };
        assert_eq!(unheard, expected);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let back = AttachRequest { resume_from: Some(0), ..request };
        let refused = attach::attach(&mut attached(&console), &back).await.unwrap_err();
        assert_eq!(refused.to_string(), "the virtual machine moves to another node");

        // At the target it waits for the history, and is typed first.
        let (there, typed_there) = Console::new();
        there.await_history();
        let waiting = tokio::spawn({
            let (mut client, back) = (attached(&there), back.clone());
            async move { (attach::attach(&mut client, &back).await, client) }
        });
        there.adopted(0, unheard);
        let (answer, mut client) = waiting.await.unwrap();
        assert_eq!(answer.unwrap().received, Some(6));
        let (mut guest, serial) = UnixStream::pair().unwrap();
        tokio::spawn(async move { there.carry(serial, None, typed_there).await });
        client.write_all(b"g").await.unwrap();
        assert_eq!(take(&mut guest, 6).await, "bcdefg");

        // And if the target never was: here.
        console.keep();
        let mut client = attached(&console);
        assert_eq!(attach::attach(&mut client, &back).await.unwrap().received, Some(6));
        assert_eq!(take(&mut qemu, 5).await, "bcdef");

        // The duplicate doesn't keep the line alive.
        qemu.write_all(b"bye").await.unwrap();
        drop(qemu);
        console.qemu_ended().await;
        assert_eq!(take(&mut client, 3).await, "bye");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
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
