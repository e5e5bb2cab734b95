//! Somebody who types lines without a pause wherever the guest is, and hears its echo.

use std::path::PathBuf;
use std::time::Duration;

use kubevirt_stream::attach::{self, AttachRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::interval;

/// Not a whole line, so that lines are torn anywhere.
const PIECE: usize = 7;
const PACE: Duration = Duration::from_millis(2);
/// Lines ahead of the echo: the guest's own line discipline drops what it has no place for.
const AHEAD: usize = 60;

pub struct Typist {
    script: Vec<u8>,
    /// What has been heard, from this offset on.
    begin: Option<u64>,
    text: String,
    /// How much of the script was typed.
    position: usize,
    /// The most that was typed again behind a cut.
    pub again: usize,
}

impl Typist {
    pub fn new() -> Self {
        let script = (0..100_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        Self { script, begin: None, text: String::new(), position: 0, again: 0 }
    }

    /// Types at the launcher in this directory until that cuts it; with `last` to the end of a line, and hears its echo.
    pub async fn talk(mut self, dir: PathBuf, last: bool) -> Self {
        let mut stream = UnixStream::connect(dir.join("sockets/console-sock")).await.unwrap();
        let resume_from = self.begin.map(|begin| begin + self.text.len() as u64);
        let request = AttachRequest { session: "typist".into(), resume_from, ..AttachRequest::default() };
        let attached = attach::attach(&mut stream, &request).await.unwrap();
        assert!(resume_from.is_none_or(|offset| offset == attached.offset), "no output is lost");
        self.begin.get_or_insert(attached.offset);
        let received = usize::try_from(attached.received.unwrap()).unwrap();
        assert!(received <= self.position, "{received} of {} bytes", self.position);
        self.again = self.again.max(self.position - received);
        self.position = received;
        let (mut read, mut write) = stream.split();
        let (mut pace, mut chunk, mut cut) = (interval(PACE), [0; 4096], false);
        loop {
            let typed = self.script[..self.position].iter().filter(|byte| **byte == b'\n').count();
            let heard = self.heard().len();
            let at_end = last && self.script[..self.position].last() == Some(&b'\n');
            if at_end && heard == typed {
                return self;
            }
            tokio::select! {
                count = read.read(&mut chunk) => match count {
                    Ok(0) | Err(_) => return self,
                    Ok(count) => self.text.push_str(std::str::from_utf8(&chunk[..count]).unwrap()),
                },
                _ = pace.tick(), if !cut && !at_end && typed < heard + AHEAD => {
                    let rest = &self.script[self.position..];
                    let line = rest.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                    let piece = &rest[..if last { line } else { PIECE }];
                    // Partly written is typed: the launcher says how much.
                    cut = write.write_all(piece).await.is_err();
                    self.position += piece.len();
                }
            }
        }
    }

    /// The numbers of the lines that the guest has heard.
    pub fn heard(&self) -> Vec<usize> {
        let whole = self.text.rfind('\n').map_or("", |end| &self.text[..end]);
        whole.lines().filter_map(|line| line.trim_end().strip_prefix("echo: line ")?.parse().ok()).collect()
    }
}
