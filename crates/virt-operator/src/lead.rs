//! What the leader does: one round after another, when something has changed and every now and then.

use std::time::{Duration, Instant};

use kubevirt_runtime::lease::Term;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::metrics;
use crate::reconcile::{Reconciler, Round};

/// Changes come in bursts; one look at the end of a burst sees them all.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Some of what is waited for is time itself, such as how long a pod has been ready.
const WAITING_TICK: Duration = Duration::from_secs(2);
/// Where all is settled only certificates age.
const SETTLED_TICK: Duration = Duration::from_secs(10);
/// After an error the next round isn't hurried by changes; after one more it waits twice as long.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// What doesn't pass in minutes needs somebody, who isn't to wait for us longer than this.
const AFTER_ERRORS: Duration = Duration::from_secs(30);

/// Reconciles until told to stop. What a process that was frozen had planned is too old to be carried out (`apply`), so the
/// term's end isn't asked for here. A round that is cut off leaves nothing behind that the next leader
/// doesn't see: each of its writes is whole or isn't there.
pub async fn lead(mut reconciler: Reconciler, mut changes: watch::Receiver<()>, term: Term) {
    let stop = term.token();
    stop.run_until_cancelled(async {
        let mut errors = 0;
        loop {
            let started = Instant::now();
            let result = reconciler.reconcile().await;
            metrics::reconciled(started.elapsed());
            errors = if result.is_ok() { 0 } else { errors + 1 };
            match result {
                Ok(round) => {
                    // whichever comes first; a sender that is gone means that the process is ending
                    let _ = timeout(tick(&round), changes.changed()).await;
                }
                Err(error) => {
                    tracing::error!(error = %crate::chain(&error), "reconciling failed, trying again");
                    sleep(backoff(errors)).await;
                }
            }
            sleep(DEBOUNCE).await;
            changes.mark_unchanged();
        }
    })
    .await;
    reconciler.leave().await;
}

/// After how long to look again where nothing changes.
fn tick(round: &Round) -> Duration {
    match round {
        Round::Behind { waiting_for } => {
            tracing::debug!(?waiting_for, "the watches are behind");
            WAITING_TICK
        }
        Round::Again => Duration::ZERO,
        Round::OnTheWay => WAITING_TICK,
        Round::Settled => SETTLED_TICK,
    }
}

/// How long to wait after so many errors without a success between them.
fn backoff(errors: u32) -> Duration {
    AFTER_ERROR.saturating_mul(1 << errors.saturating_sub(1).min(16)).min(AFTER_ERRORS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_slow_down_and_no_further() {
        let waits: Vec<u64> = [1, 2, 3, 5, 6, 60].map(|errors| backoff(errors).as_secs()).to_vec();
        assert_eq!(waits, [1, 2, 4, 16, 30, 30]);
    }
}
