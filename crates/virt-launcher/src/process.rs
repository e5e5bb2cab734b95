//! Child processes: starts them, and reaps every child that ends, ours or inherited.
//!
//! As the first process of a container the launcher inherits orphans, so there must be one
//! place that waits for all; two waiters would steal each other's children. Never decides
//! what an end means.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Children couldn't be watched, or one couldn't be started.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// No news of children.
    #[error("listening for SIGCHLD: {0}")]
    Listen(io::Error),
    /// A program couldn't be started.
    #[error("starting {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Nobody was told.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("ended, nobody knows how"),
        }
    }
}

impl From<WaitStatus> for Exit {
    fn from(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// A child that runs, or has ended.
#[derive(Debug)]
pub struct Child {
    /// Its process number.
    pub pid: u32,
    /// What it says on stderr.
    pub stderr: tokio::process::ChildStderr,
    /// How it ends.
    pub exit: oneshot::Receiver<Exit>,
}

/// Starts and reaps.
#[derive(Debug, Clone, Default)]
pub struct Processes {
    waiting: Arc<Mutex<HashMap<u32, oneshot::Sender<Exit>>>>,
}

impl Processes {
    /// Reaps from now on, until the process ends.
    pub fn reap() -> Result<Self, ProcessError> {
        let mut ended = signal(SignalKind::child()).map_err(ProcessError::Listen)?;
        let processes = Self::default();
        let reaper = processes.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                reaper.collect();
            }
        });
        Ok(processes)
    }

    /// Starts a program whose stderr the caller reads.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, ProcessError> {
        let program = PathBuf::from(command.get_program());
        let failed = |source| ProcessError::Spawn { program: program.clone(), source };
        let (tell, exit) = oneshot::channel();
        // Held over the start: a child that ends at once must find its entry.
        let mut waiting = self.waiting();
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().map_err(failed)?;
        waiting.insert(child.id(), tell);
        drop(waiting);
        let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
        let stderr = tokio::process::ChildStderr::from_std(stderr).map_err(failed)?;
        Ok(Child { pid: child.id(), stderr, exit })
    }

    /// Ends a child that hasn't been reaped, without asking it.
    pub fn kill(&self, pid: u32) {
        // Held over the signal: the number can't be given to another process meanwhile.
        let waiting = self.waiting();
        let Some(known) = waiting.contains_key(&pid).then(|| Pid::from_raw(pid.cast_signed())).flatten()
        else {
            return;
        };
        if let Err(err) = kill_process(known, Signal::KILL) {
            tracing::warn!(pid, error = %err, "a child can't be killed");
        }
    }

    fn collect(&self) {
        let mut waiting = self.waiting();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            match waiting.remove(&pid) {
                // Whoever started it may be gone; it is reaped all the same.
                Some(tell) => drop(tell.send(status.into())),
                None => tracing::debug!(pid, "reaped an orphan"),
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Exit>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_read_well() {
        assert_eq!(Exit::Code(1).to_string(), "ended with code 1");
        assert_eq!(Exit::Signal(9).to_string(), "was killed by signal 9");
    }

    // One test for all: the reaper takes every child of this process.
    #[tokio::test]
    async fn children_are_started_killed_and_reaped() {
        let processes = Processes::reap().unwrap();
        let quick = processes.spawn(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        assert_eq!(quick.exit.await, Ok(Exit::Code(3)));

        let slow = processes.spawn(Command::new("sleep").arg("600")).unwrap();
        processes.kill(slow.pid);
        assert_eq!(slow.exit.await, Ok(Exit::Signal(9)));
        processes.kill(slow.pid);

        let missing = processes.spawn(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(missing.to_string().starts_with("starting /no/such/program: "), "{missing}");
        assert!(processes.waiting().is_empty());
    }
}
