//! What the leader does: one round after another, when something has changed and every now and then.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::reconcile::{Reconciler, Round};

/// Changes come in bursts; one look at the end of a burst sees them all.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Some of what is waited for is time itself, such as how long a pod has been ready.
const WAITING_TICK: Duration = Duration::from_secs(2);
/// Where all is settled only certificates age.
const SETTLED_TICK: Duration = Duration::from_secs(10);
/// After an error the next round isn't hurried by changes.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Reconciles until told to stop. A round that is cut off leaves nothing behind that the next leader
/// doesn't see: each of its writes is whole or isn't there.
pub async fn lead(mut reconciler: Reconciler, mut changes: watch::Receiver<()>, stop: CancellationToken) {
    tracing::info!("leading");
    stop.run_until_cancelled(async {
        loop {
            let (pause, tick) = round(&mut reconciler).await;
            sleep(pause).await;
            // whichever comes first; a sender that is gone means that the process is ending
            let _ = timeout(tick, changes.changed()).await;
            sleep(DEBOUNCE).await;
            changes.mark_unchanged();
        }
    })
    .await;
    tracing::info!("not leading any more");
}

/// One round, and how long to pause after it, and after how long to look again without a change.
async fn round(reconciler: &mut Reconciler) -> (Duration, Duration) {
    let started = Instant::now();
    let result = reconciler.reconcile().await;
    metrics::reconciled(started.elapsed());
    match result {
        Ok(Round::Behind { waiting_for }) => {
            tracing::debug!(?waiting_for, "the watches are behind");
            (Duration::ZERO, WAITING_TICK)
        }
        Ok(Round::Settled) => (Duration::ZERO, SETTLED_TICK),
        Ok(Round::OnTheWay) => (Duration::ZERO, WAITING_TICK),
        Ok(Round::Again) => (Duration::ZERO, Duration::ZERO),
        Err(error) => {
            tracing::error!(error = %crate::chain(&error), "reconciling failed, trying again");
            (AFTER_ERROR, Duration::ZERO)
        }
    }
}
