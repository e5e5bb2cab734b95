//! A viewer behind a splice, and real QEMUs' VNC servers that are lost again and again.
//!
//! Needs `KUBEVIRT_TEST_QEMU`, a program that runs QEMU: `scripts/qemu-test.sh` sets it.

#![allow(clippy::unwrap_used)]

mod viewer;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kubevirt_stream::rfb::Splice;
use viewer::Viewer;

const LIMIT: Duration = Duration::from_secs(60);
/// A long picture comes in few pieces.
const READ: usize = 256 * 1024;
/// Every pseudo-encoding that a splice passes on and QEMU knows.
const NEWS: [i32; 8] = [-223, -239, -257, -258, -261, -307, -309, 0x574D_5669];

struct Qemu {
    process: Child,
    socket: PathBuf,
}

impl Qemu {
    /// A machine without a disk, whose BIOS says so on its screen.
    fn start() -> Self {
        let program = std::env::var_os("KUBEVIRT_TEST_QEMU").expect("KUBEVIRT_TEST_QEMU is set");
        let socket = std::env::temp_dir().join(format!("splice-vnc-{}", std::process::id()));
        let process = Command::new(program)
            .args(["-M", "q35", "-m", "64", "-accel", "tcg", "-vga", "std", "-nic", "none"])
            .args(["-usb", "-device", "usb-tablet", "-serial", "none", "-monitor", "none"])
            .arg("-vnc")
            .arg(format!("share=ignore,vnc=unix:{}", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < LIMIT, "no VNC server");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, socket }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        stream
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A viewer, and the splice between it and a server.
struct Session {
    viewer: Viewer,
    splice: Splice,
    server: UnixStream,
    /// Bytes that the servers have said.
    said: usize,
}

impl Session {
    fn open(qemu: &Qemu, encodings: &[i32]) -> Self {
        let encodings = [encodings, &NEWS].concat();
        Self { viewer: Viewer::new(encodings), splice: Splice::new(), server: qemu.connect(), said: 0 }
    }

    /// Until nothing is left to say, and for one read from the server of at most `limit` bytes. Whether anything came.
    fn turn(&mut self, limit: usize) -> bool {
        loop {
            let mut quiet = true;
            while let Some(bytes) = self.splice.take_for_client() {
                quiet = false;
                self.splice.from_client(&self.viewer.hear(&bytes));
            }
            while let Some(bytes) = self.splice.take_for_server() {
                quiet = false;
                self.server.write_all(&bytes).unwrap();
            }
            if quiet {
                break;
            }
        }
        assert!(self.splice.take_unfollowed().is_none(), "QEMU is followed");
        assert!(self.splice.failure().is_none(), "{:?}", self.splice.failure());
        let mut buffer = vec![0; limit.min(READ)];
        match self.server.read(&mut buffer) {
            Ok(0) => panic!("QEMU hangs up"),
            Ok(count) => {
                self.said += count;
                self.splice.from_server(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn lose_server(&mut self, qemu: &Qemu) {
        assert!(self.splice.server_lost(false));
        self.server = qemu.connect();
    }

    /// Until the viewer sees what `reference` does.
    fn converge(&mut self, reference: &mut Self, when: &str) {
        let started = Instant::now();
        while self.viewer.picture.is_empty() || self.viewer.picture != reference.viewer.picture {
            assert!(started.elapsed() < LIMIT, "{when}: the viewer sees something else");
            if !self.turn(READ) {
                reference.turn(READ);
            }
        }
    }
}

#[test]
#[ignore = "needs the launcher image's QEMU: run by scripts/qemu-test.sh"]
fn a_real_server_is_lost_and_the_viewer_sees_the_same() {
    let qemu = Qemu::start();
    let mut reference = Session::open(&qemu, &[0]);
    let started = Instant::now();
    while reference.viewer.colours() < 2 {
        assert!(started.elapsed() < LIMIT, "the BIOS shows nothing");
        reference.turn(READ);
    }
    // The screen is never at rest: its cursor blinks, and the BIOS goes on.
    // Raw, Hextile, Tight at its fastest and smallest, TightPNG isn't decoded here; ZRLE is taken out of the list.
    for encodings in [&[0][..], &[5], &[7, -247], &[7, -256], &[16, 7]] {
        let mut session = Session::open(&qemu, encodings);
        session.converge(&mut reference, "without a cut");
        let all = session.said;
        let cuts = (0..100.min(all)).chain((1..20).map(|n| n * all / 20));
        for cut in cuts {
            let mut session = Session::open(&qemu, encodings);
            while session.said < cut && session.turn(cut - session.said) {}
            session.lose_server(&qemu);
            let when = format!("encodings {encodings:?}, cut at {cut} of {all}");
            session.converge(&mut reference, &when);
            assert!(session.viewer.is_between_messages(), "{when}");
        }
        // Once more and again, with keys held and a button, in one session.
        for input in [&b"\x04\x01\0\0\0\0\xff\xe1"[..], b"\x04\x01\0\0\0\0\0a", b"\x05\x01\0\x05\0\x05"] {
            session.splice.from_client(input);
            session.turn(READ);
            session.lose_server(&qemu);
            session.converge(&mut reference, "again");
        }
        eprintln!("    encodings {encodings:?}: {all} bytes, all cuts are survived");
    }
}
