//! How late this machine itself is: what its load explains of a guest's gaps.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Measures how late this machine is with a timer: what its own load explains.
pub struct MachineClock {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<u64>,
}

impl MachineClock {
    /// Starts to measure.
    pub fn start() -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut latest = 0;
            while !*stopped.borrow() {
                let begun = Instant::now();
                tokio::time::sleep(Duration::from_millis(100)).await;
                latest = latest.max(begun.elapsed().as_millis() as u64 - 100);
            }
            latest
        });
        Self { stop, task }
    }

    /// The longest delay of a timer of 100 ms, in milliseconds.
    pub async fn finish(self) -> anyhow::Result<u64> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}
