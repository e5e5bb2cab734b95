//! The user's terminal: where results are said, and raw while a console is open.

use std::io::{IsTerminal, Stdin, Write, stdin, stdout};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// What a shell reports of a program that SIGPIPE ended.
const BROKEN_PIPE: i32 = 141;

/// Says a result on stdout. When nobody reads it any more, as behind `| head`, the program is over.
pub(crate) fn say(line: &str) {
    if writeln!(stdout(), "{line}").is_err() {
        std::process::exit(BROKEN_PIPE);
    }
}

/// A terminal in raw mode; dropping it gives the terminal back. Without a terminal nothing is changed.
pub(crate) struct Raw {
    saved: Option<(Stdin, Termios)>,
}

impl Raw {
    pub(crate) fn enter() -> Result<Self, rustix::io::Errno> {
        let stdin = stdin();
        if !stdin.is_terminal() {
            return Ok(Self { saved: None });
        }
        let saved = tcgetattr(&stdin)?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self { saved: Some((stdin, saved)) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some((stdin, saved)) = &self.saved
            && let Err(error) = tcsetattr(stdin, OptionalActions::Now, saved)
        {
            eprintln!("can't restore the terminal: {error}; `reset` does");
        }
    }
}
