//! The guest's screen. QEMU speaks RFB; this carries one session at a time to it.
//!
//! Never looks into RFB: a session that comes back begins with a full frame. What is done at the screen is counted as QEMU takes it,
//! so that whoever lost a connection knows what to do again: a QEMU that sees a connection closed at both ends forgets what it
//! hasn't read, so each is ended in order.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kubevirt_stream::attach::{self, AttachError, AttachReply};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::counts::Counts;
use crate::sessions::{Sessions, Sitting};

/// What is read or written at once.
const CHUNK: usize = 32 * 1024;
/// QEMU reads what it was given, and hangs up, within milliseconds; a machine under load takes longer.
const END_LIMIT: Duration = Duration::from_secs(2);
/// RFB's shortest message that presses a key, in bytes.
const KEY: usize = 8;
/// QEMU lets the guest see a key this long after the one before (its `key-delay-ms`).
const KEY_DELAY: Duration = Duration::from_millis(10);

/// The screen.
#[derive(Debug, Clone)]
pub struct Screen {
    socket: PathBuf,
    sessions: Arc<Sessions>,
    input: Arc<Input>,
}

/// What is done at the screen, on its way to QEMU.
#[derive(Debug, Default)]
struct Input {
    state: Mutex<State>,
    /// Wakes who waits to be let go on.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// How many bytes QEMU has taken of each session.
    counts: Counts,
    /// QEMU gets nothing.
    held: bool,
    /// The guest is given away: nobody is served.
    given: bool,
    /// By then the guest has seen all that QEMU was given.
    seen_by: Option<Instant>,
}

impl Screen {
    /// The screen behind QEMU's socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, sessions: Sessions::new("VNC"), input: Arc::default() }
    }

    /// Gives QEMU nothing more of what is done at the screen: a guest that stands doesn't see it. What was given is, when this
    /// returns. Returns how long QEMU may keep it from the guest.
    pub fn hold(&self) -> Duration {
        let mut state = self.input.state();
        state.held = true;
        state.seen_by.map_or(Duration::ZERO, |seen| seen.saturating_duration_since(Instant::now()))
    }

    /// Goes on.
    pub fn release(&self) {
        let mut state = self.input.state();
        (state.held, state.given) = (false, false);
        drop(state);
        self.input.changed.send_replace(());
    }

    /// The guest is given away. Whoever is attached is cut: he finds it where it is, with how much of each session was taken.
    pub async fn give_away(&self) -> Vec<(String, u64)> {
        {
            let mut state = self.input.state();
            (state.held, state.given) = (true, true);
        }
        self.sessions.clear().await;
        self.input.state().counts.all()
    }

    /// Goes on where another launcher has counted.
    pub fn adopt(&self, sessions: Vec<(String, u64)>) {
        self.input.state().counts.adopt(sessions);
    }

    /// Serves one connection to `vnc-sock`.
    pub async fn serve(self, mut stream: UnixStream) -> Result<(), AttachError> {
        let request = attach::accept(&mut stream).await?;
        // QEMU first: a screen that isn't there takes no one's seat.
        let qemu = match UnixStream::connect(&self.socket).await {
            Ok(qemu) => qemu,
            Err(err) => {
                tracing::info!(error = %err, "no screen to attach to");
                let error = "the virtual machine has no screen: it isn't running, or \
                             autoattachGraphicsDevice is false"
                    .to_owned();
                return attach::reply(&mut stream, &AttachReply::Refused { error }).await;
            }
        };
        let sitting = match self.sessions.sit(&request) {
            Ok(sitting) => sitting,
            Err(busy) => {
                return attach::reply(&mut stream, &AttachReply::Refused { error: busy.to_string() }).await;
            }
        };
        // QEMU has what its connection held, and it is counted.
        sitting.alone().await;
        let received = {
            let mut state = self.input.state();
            // A screen has no offsets: that one is named says that the session was here before.
            (!state.given).then(|| state.counts.begin(&request.session, request.resume_from.is_some()))
        };
        let Some(received) = received else {
            let error = "the virtual machine moves to another node".to_owned();
            return attach::reply(&mut stream, &AttachReply::Refused { error }).await;
        };
        attach::reply(&mut stream, &AttachReply::Attached { offset: 0, received }).await?;
        tracing::info!(session = request.session, received, "screen attached");
        let end = self.session(stream, qemu, &request.session, &sitting).await;
        tracing::info!(session = request.session, end, "screen detached");
        Ok(())
    }

    async fn session(
        &self,
        viewer: UnixStream,
        mut qemu: UnixStream,
        session: &str,
        sitting: &Sitting,
    ) -> &'static str {
        let mut waiting = Vec::new();
        let end = tokio::select! {
            () = sitting.replaced.cancelled() => "replaced",
            end = show(&qemu, &viewer) => end,
            end = self.input.pass(&viewer, &qemu, &mut waiting, session) => end,
        };
        // From here on nothing can be written to it, so what is read now is all.
        if let Err(error) = rustix::net::shutdown(&viewer, rustix::net::Shutdown::Read) {
            tracing::debug!(%error, "shutting a screen's connection down");
        }
        let last = async {
            if self.input.pass_rest(&viewer, &qemu, &mut waiting, session).await? {
                // It reads to the end of what it was given, and hangs up.
                qemu.shutdown().await?;
                discard(&qemu).await?;
            }
            Ok::<_, io::Error>(())
        };
        match timeout(END_LIMIT, last).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, session, "QEMU has ended the screen's connection"),
            Err(_) => tracing::warn!(session, "QEMU doesn't read: what was done last at the screen is lost"),
        }
        end
    }
}

impl Input {
    /// Gives QEMU what the viewer does, until one of them ends. What was read and QEMU hasn't got is in `waiting`.
    async fn pass(
        &self,
        viewer: &UnixStream,
        qemu: &UnixStream,
        waiting: &mut Vec<u8>,
        session: &str,
    ) -> &'static str {
        loop {
            self.unheld().await;
            if waiting.is_empty() {
                match read(viewer, waiting).await {
                    Ok(0) | Err(_) => return "the viewer has gone",
                    Ok(_) => {}
                }
            } else if qemu.writable().await.is_err() || self.write(qemu, waiting, session).is_err() {
                return "QEMU has ended it";
            }
        }
    }

    /// Gives QEMU what is left of what the viewer did. False, and nothing more is given, while it is held.
    async fn pass_rest(
        &self,
        viewer: &UnixStream,
        qemu: &UnixStream,
        waiting: &mut Vec<u8>,
        session: &str,
    ) -> io::Result<bool> {
        loop {
            if waiting.is_empty() {
                waiting.resize(CHUNK, 0);
                // The kernel knows better than a reader that has been told to wait.
                let count = rustix::io::read(viewer, &mut *waiting).unwrap_or(0);
                waiting.truncate(count);
            }
            if self.state().held {
                return Ok(false);
            }
            if waiting.is_empty() {
                return Ok(true);
            }
            qemu.writable().await?;
            self.write(qemu, waiting, session)?;
        }
    }

    /// Gives QEMU what it takes just now, unless it is held. Given and counted in one step: nobody sees it half done.
    fn write(&self, qemu: &UnixStream, waiting: &mut Vec<u8>, session: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.held {
            return Ok(());
        }
        match qemu.try_write(waiting) {
            Ok(count) => {
                waiting.drain(..count);
                state.counts.add(session, count);
                let now = Instant::now();
                let keys = u32::try_from(count.div_ceil(KEY)).unwrap_or(u32::MAX);
                state.seen_by = Some(state.seen_by.map_or(now, |seen| seen.max(now)) + KEY_DELAY * keys);
                Ok(())
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(err) => Err(err),
        }
    }

    async fn unheld(&self) {
        let mut changed = self.changed.subscribe();
        // The sender is our own; it outlives this.
        while self.state().held && changed.changed().await.is_ok() {}
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the viewer what QEMU says, until one of them ends.
async fn show(qemu: &UnixStream, viewer: &UnixStream) -> &'static str {
    let mut waiting = Vec::new();
    loop {
        if waiting.is_empty() {
            match read(qemu, &mut waiting).await {
                Ok(0) | Err(_) => return "QEMU has ended it",
                Ok(_) => {}
            }
        } else {
            let written = match viewer.writable().await {
                Ok(()) => viewer.try_write(&waiting),
                Err(err) => Err(err),
            };
            match written {
                Ok(count) => drop(waiting.drain(..count)),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return "the viewer has gone",
            }
        }
    }
}

/// Reads what there is, and waits for it; nothing at the end.
async fn read(stream: &UnixStream, into: &mut Vec<u8>) -> io::Result<usize> {
    into.reserve(CHUNK);
    loop {
        stream.readable().await?;
        match stream.try_read_buf(into) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Reads to the end.
async fn discard(stream: &UnixStream) -> io::Result<()> {
    let mut nothing = Vec::new();
    while read(stream, &mut nothing).await? > 0 {
        nothing.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kubevirt_stream::attach::AttachRequest;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;

    async fn attach_as(
        screen: &Screen,
        session: &str,
        preserve: bool,
    ) -> (UnixStream, Result<u64, AttachError>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        tokio::spawn(screen.clone().serve(server));
        let request =
            AttachRequest { session: session.into(), resume_from: None, preserve_session: preserve };
        let answer = attach::attach(&mut client, &request).await;
        (client, answer.map(|attached| attached.offset))
    }

    #[tokio::test]
    async fn sessions_reach_qemu_one_at_a_time() {
        let path = std::env::temp_dir().join(format!("virt-launcher-vnc-{}", std::process::id()));
        let screen = Screen::new(path.clone());
        let (_, refused) = attach_as(&screen, "a", false).await;
        assert!(refused.unwrap_err().to_string().starts_with("the virtual machine has no screen"));

        let qemu = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = qemu.accept().await {
                tokio::spawn(async move {
                    stream.write_all(b"RFB 003.008\n").await.unwrap();
                    // Open until the other side goes.
                    drop(stream.read(&mut [0]).await);
                });
            }
        });
        let mut greeting = [0; 12];
        let (mut first, answer) = attach_as(&screen, "a", false).await;
        answer.unwrap();
        first.read_exact(&mut greeting).await.unwrap();
        let (_, refused) = attach_as(&screen, "b", true).await;
        assert_eq!(refused.unwrap_err().to_string(), "Active VNC connection. Request denied.");

        let (mut second, answer) = attach_as(&screen, "b", false).await;
        answer.unwrap();
        second.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"RFB 003.008\n");
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        std::fs::remove_file(&path).unwrap();
    }

    /// A QEMU that shows pictures all the time, whoever looks, and keeps what it was told.
    fn qemu(name: &str) -> (Screen, mpsc::UnboundedReceiver<u8>) {
        let path = std::env::temp_dir().join(format!("virt-launcher-vnc-{name}-{}", std::process::id()));
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let shows =
                        tokio::spawn(async move { while write.write_all(&[0; 4096]).await.is_ok() {} });
                    while let Ok(byte) = read.read_u8().await {
                        tell.send(byte).unwrap();
                    }
                    // As QEMU does at the end of what it reads.
                    shows.abort();
                });
            }
        });
        (Screen::new(path), told)
    }

    async fn attach_again(screen: &Screen, back: bool) -> (UnixStream, Option<u64>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        tokio::spawn(screen.clone().serve(server));
        let resume_from = back.then_some(0);
        let request = AttachRequest { session: "a".into(), resume_from, preserve_session: back };
        let attached = attach::attach(&mut client, &request).await.unwrap();
        (client, attached.received)
    }

    #[tokio::test]
    async fn what_a_lost_connection_held_reaches_qemu_and_is_counted() {
        let (screen, mut told) = qemu("lost");
        let mut typed = 0;
        for lost in 0..10 {
            let (mut client, received) = attach_again(&screen, lost > 0).await;
            // All of it, unless the machine stood still: then less, and that much is said again.
            let received = received.unwrap();
            assert!(received <= typed, "after {lost} connections {received} of {typed}");
            typed = received + 3000;
            let more: Vec<u8> = (received..typed).map(|number| number as u8).collect();
            client.write_all(&more).await.unwrap();
            // A virt-handler that is killed just goes, under a picture; one that is cut off still has its end.
            if lost % 2 == 0 {
                drop(client);
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    drop(client);
                });
            }
        }
        let (_client, received) = attach_again(&screen, true).await;
        let received = received.unwrap();
        assert!(received > 3000, "nothing of a lost connection was taken");
        for number in 0..received {
            assert_eq!(told.recv().await, Some(number as u8), "byte {number}");
        }
    }

    #[tokio::test]
    async fn what_waits_for_a_move_is_not_counted_and_done_elsewhere_or_here() {
        let (screen, mut told) = qemu("moves");
        let (mut client, received) = attach_again(&screen, false).await;
        assert_eq!(received, Some(0));
        client.write_all(b"ab").await.unwrap();
        assert_eq!((told.recv().await, told.recv().await), (Some(b'a'), Some(b'b')));
        screen.hold();
        client.write_all(b"cd").await.unwrap();
        let counts = screen.give_away().await;
        assert_eq!(counts, [("a".to_owned(), 2)]);
        let (mut late, server) = UnixStream::pair().unwrap();
        tokio::spawn(screen.clone().serve(server));
        let request = AttachRequest { session: "a".into(), ..AttachRequest::default() };
        let refused = attach::attach(&mut late, &request).await.unwrap_err();
        assert_eq!(refused.to_string(), "the virtual machine moves to another node");

        let (there, _told) = qemu("there");
        there.adopt(counts);
        assert_eq!(attach_again(&there, true).await.1, Some(2));
        // A launcher that never heard of it can't tell.
        let (elsewhere, _told) = qemu("elsewhere");
        assert_eq!(attach_again(&elsewhere, true).await.1, None);

        // It stays here after all.
        screen.release();
        let (mut client, received) = attach_again(&screen, true).await;
        assert_eq!(received, Some(2));
        client.write_all(b"cd").await.unwrap();
        assert_eq!((told.recv().await, told.recv().await), (Some(b'c'), Some(b'd')));
    }
}
