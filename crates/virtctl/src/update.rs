//! Updates of KubeVirt itself: how far one is, what would be done next, what is wrong, another try, and what one was like.
//!
//! All but `retry` only look; what is planned and what it means is `kubevirt_rollout`'s, as in the operator.

mod document;
mod look;
mod observe;
mod progress;
mod report;
mod report_text;
mod retry;
mod screen;
mod show;

pub(crate) use report::report;
pub(crate) use retry::retry;
pub(crate) use show::{explain, plan};

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::cli::WatchOptions;
use crate::cluster::{Cluster, words};
use progress::{Outcome, view};
use screen::Screen;

/// Pods change every few seconds during an update; a person looks once a second.
const POLL: Duration = Duration::from_secs(1);
/// One look that takes longer is given up and taken again.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// A failure that is older than the change of the spec is seen until the operator has looked at the change.
const FAILURE_SETTLES: Duration = Duration::from_secs(15);

/// The update didn't come to a good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error("can't read the installation: {}", words(.0))]
    Look(Box<kube::Error>),
    #[error("there is no KubeVirt object in this cluster")]
    NotInstalled,
    #[error("{0}")]
    Failed(String),
    #[error("not over after {} s: {waiting}", limit.as_secs())]
    Timeout { limit: Duration, waiting: String },
}

pub(crate) async fn watch(cluster: &Cluster, options: &WatchOptions) -> Result<(), UpdateError> {
    let started = Instant::now();
    let mut screen = Screen::new();
    let mut failing_since = None;
    let mut last = None;
    loop {
        let seen = match timeout(LOOK_LIMIT, observe::observe(&cluster.client)).await {
            Ok(Ok(seen)) => Some(seen.ok_or(UpdateError::NotInstalled)?),
            // The API server may be busy with the update too; who isn't allowed to look never will be.
            Ok(Err(error @ kube::Error::Api(_))) if last.is_none() => {
                return Err(UpdateError::Look(Box::new(error)));
            }
            Ok(Err(_)) | Err(_) => None,
        };
        if let Some(seen) = seen {
            let view = view(&seen);
            screen.show(&view);
            match &view.outcome {
                Outcome::Done => {
                    screen.finish(&format!("KubeVirt is at {}", view.target));
                    return Ok(());
                }
                // Without a tag in the spec it may be another version that the operator hasn't looked at yet.
                Outcome::Failed(message) | Outcome::Failing(message) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= FAILURE_SETTLES {
                        return Err(UpdateError::Failed(message.clone()));
                    }
                }
                Outcome::GoingOn => failing_since = None,
            }
            last = Some(view.waiting);
        }
        if let Some(limit) = options.timeout
            && started.elapsed() >= limit
        {
            let waiting = last.unwrap_or_default().join("; ");
            return Err(UpdateError::Timeout { limit, waiting });
        }
        sleep(POLL).await;
    }
}
