//! When this process is told to stop: the first signal starts the drain, the second ends it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Exit code after a second signal, as a shell reports a process ended by SIGTERM.
const FORCED_EXIT: i32 = 143;

/// The wish to stop, and the tasks that must end before the process does.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

/// A signal handler can't be installed.
#[derive(Debug, thiserror::Error)]
#[error("can't listen for signals")]
pub struct ListenError(#[from] std::io::Error);

impl Shutdown {
    /// A shutdown that only [`Shutdown::start`] starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM or SIGINT starts. A second signal exits at once.
    pub fn on_signals() -> Result<Self, ListenError> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "stopping");
            token.cancel();
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "second signal, exiting at once");
            std::process::exit(FORCED_EXIT);
        });
        Ok(shutdown)
    }

    /// Starts the shutdown from inside.
    pub fn start(&self) {
        self.token.cancel();
    }

    /// Whether the process was told to stop.
    pub fn started(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the process is told to stop.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// The token that is cancelled when the process is told to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a task that must have ended before the process does.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Waits until the process was told to stop and every task of [`Shutdown::spawn`] has ended.
    pub async fn finished(&self) {
        self.wait().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn finishes_when_told_and_all_tasks_have_ended() {
        let shutdown = Shutdown::new();
        let token = shutdown.token().clone();
        shutdown.spawn(async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let started = tokio::time::Instant::now();
        shutdown.start();
        shutdown.finished().await;
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }
}
