//! A client of QEMU's control protocol, QMP.
//!
//! Owns the connection: the greeting, answers matched to commands by number, and events,
//! which go to one receiver in the order in which QEMU said them. Never interprets them.

mod wire;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, Lines, ReadHalf};
use tokio::sync::{mpsc, oneshot};

pub use wire::{Event, NotQmp, Refusal};
use wire::{Message, command, parse};

/// QEMU answers at once; one that takes this long hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A command that has no answer.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The connection couldn't be read.
    #[error("reading from QEMU: {0}")]
    Read(io::Error),
    /// QEMU doesn't begin as it should.
    #[error("waiting for QEMU's greeting: {0}")]
    Greeting(NotQmp),
    /// The connection is over: QEMU is gone, or about to be.
    #[error("QEMU has closed its control connection")]
    Closed,
    /// QEMU says no.
    #[error("QEMU refused {name}: {refusal}")]
    Refused {
        /// The command.
        name: &'static str,
        /// QEMU's answer.
        refusal: Refusal,
    },
    /// It would let a guest run that isn't here.
    #[error("the virtual machine isn't on this node, or is leaving it")]
    Forbidden,
    /// QEMU says nothing.
    #[error("QEMU didn't answer {name} within {ANSWER_TIMEOUT:?}")]
    Timeout {
        /// The command.
        name: &'static str,
    },
}

type Answer = Result<Value, Refusal>;

/// Commands waiting for their answers; none any more once the connection is over.
type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// QEMU's control.
#[derive(Debug, Clone)]
pub struct Qmp {
    pending: Pending,
    /// Numbers are given here, so lines leave in the order of their numbers.
    outgoing: mpsc::UnboundedSender<(u64, &'static str, Value)>,
    next: Arc<Mutex<u64>>,
}

impl Qmp {
    /// Waits for the greeting and opens the command mode. Events come from the receiver,
    /// which ends when QEMU has closed the connection.
    pub async fn open<S>(stream: S) -> Result<(Self, mpsc::UnboundedReceiver<Event>), QmpError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, mut write) = tokio::io::split(stream);
        let mut lines = BufReader::new(read).lines();
        let first = lines.next_line().await.map_err(QmpError::Read)?.ok_or(QmpError::Closed)?;
        match parse(&first).map_err(QmpError::Greeting)? {
            Message::Greeting => {}
            Message::Answer { .. } | Message::Event(_) => {
                return Err(QmpError::Greeting(NotQmp { line: first }));
            }
        }
        let (outgoing, mut to_write) = mpsc::unbounded_channel::<(u64, &'static str, Value)>();
        let (event, events) = mpsc::unbounded_channel();
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(async move {
            while let Some((id, name, arguments)) = to_write.recv().await {
                if write.write_all(command(id, name, &arguments).as_bytes()).await.is_err() {
                    // The reader sees the same end and tells those who wait.
                    return;
                }
            }
        });
        tokio::spawn(listen(lines, Arc::clone(&pending), event));
        let qmp = Self { pending, outgoing, next: Arc::default() };
        qmp.execute("qmp_capabilities").await?;
        Ok((qmp, events))
    }

    /// Sends a command without arguments and waits for its answer.
    pub async fn execute(&self, name: &'static str) -> Result<Value, QmpError> {
        self.execute_with(name, Value::Null).await
    }

    /// Sends a command and waits for its answer.
    pub async fn execute_with(&self, name: &'static str, arguments: Value) -> Result<Value, QmpError> {
        let (tell, answer) = oneshot::channel();
        {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            waiting(&self.pending).as_mut().ok_or(QmpError::Closed)?.insert(*next, tell);
            self.outgoing.send((*next, name, arguments)).map_err(|_| QmpError::Closed)?;
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Err(_) => Err(QmpError::Timeout { name }),
            Ok(Err(_)) => Err(QmpError::Closed),
            Ok(Ok(result)) => result.map_err(|refusal| QmpError::Refused { name, refusal }),
        }
    }

    /// Whether the virtual CPUs run.
    pub async fn runs(&self) -> Result<bool, QmpError> {
        Ok(self.execute("query-status").await?["running"].as_bool().unwrap_or_default())
    }
}

fn waiting(pending: &Pending) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen<S: AsyncRead>(
    mut lines: Lines<BufReader<ReadHalf<S>>>,
    pending: Pending,
    events: mpsc::UnboundedSender<Event>,
) {
    // A broken connection ends like a closed one: QEMU's exit tells the rest.
    while let Ok(Some(line)) = lines.next_line().await {
        match parse(&line) {
            Ok(Message::Event(event)) => {
                // Without a receiver events interest nobody.
                drop(events.send(event));
            }
            Ok(Message::Answer { id, result }) => {
                if let Some(tell) = waiting(&pending).as_mut().and_then(|all| all.remove(&id)) {
                    // Whoever asked may have given up.
                    drop(tell.send(result));
                }
            }
            Ok(Message::Greeting) => {}
            Err(err) => tracing::warn!(error = %err, "QEMU says something strange"),
        }
    }
    waiting(&pending).take();
}

#[cfg(test)]
mod tests;
