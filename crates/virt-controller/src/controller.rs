//! The loop of every kind: take a key, look, decide, carry out.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::act::{ActError, Subject, Writer};
use crate::cache::Cache;
use crate::children::Key;
use crate::decision::Decision;
use crate::queue::{Outcome, Queue};

/// More than any round of a few API calls takes; a longer one hangs and is tried again.
const ROUND_LIMIT: Duration = Duration::from_secs(60);

/// All that a round needs.
#[derive(Clone)]
pub struct Context {
    /// What was seen.
    pub cache: Cache,
    /// What writes go through.
    pub writer: Writer,
    /// The image of launcher pods.
    pub launcher_image: String,
}

/// A kind of object that is kept as it is wanted.
pub trait Kind: Send + Sync + 'static {
    /// The objects.
    type Subject: Subject;
    /// All that a decision about one depends on.
    type Inputs: Send;

    /// What the cache says; none when there is no such object.
    fn cached(context: &Context, key: &Key) -> Option<Self::Inputs>;
    /// What the API server says; none when there is no such object.
    fn live(
        context: &Context,
        key: &Key,
    ) -> impl Future<Output = Result<Option<Self::Inputs>, kube::Error>> + Send;
    /// The object that the inputs are about.
    fn subject(inputs: &Self::Inputs) -> Arc<Self::Subject>;
    /// What to do.
    fn decide(inputs: &Self::Inputs, now: jiff::Timestamp) -> Decision;
}

/// A round that wasn't finished.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The API server couldn't be asked.
    #[error("can't read {key} and what belongs to it")]
    Look {
        /// The object.
        key: Key,
        #[allow(missing_docs)]
        source: Box<kube::Error>,
    },
    /// A write failed.
    #[error(transparent)]
    Act(#[from] ActError),
    /// It took too long.
    #[error("{key} took longer than {ROUND_LIMIT:?}")]
    Slow {
        /// The object.
        key: Key,
    },
}

/// Works on keys until the term is over, which drops it. A write that was sent then counts; the
/// next leader sees it.
pub async fn work<K: Kind>(context: Context, queue: impl AsRef<Queue<Key>>) {
    let queue = queue.as_ref();
    loop {
        let key = queue.next().await;
        let round = match timeout(ROUND_LIMIT, round::<K>(&context, &key)).await {
            Ok(result) => result,
            Err(_) => Err(RoundError::Slow { key: key.clone() }),
        };
        let outcome = match round {
            Ok(after) => Outcome::Done(after),
            Err(error @ RoundError::Act(ActError::Changed { .. })) => {
                tracing::debug!(%key, %error, "deciding again");
                Outcome::Retry
            }
            Err(error) => {
                tracing::warn!(%key, error = %Chain(&error), "trying again later");
                Outcome::Retry
            }
        };
        queue.done(key, outcome);
    }
}

/// One look at one object. Returns when to look again.
pub async fn round<K: Kind>(context: &Context, key: &Key) -> Result<Option<Duration>, RoundError> {
    let Some(mut inputs) = K::cached(context, key) else { return Ok(None) };
    let mut decision = K::decide(&inputs, crate::now());
    if decision.confirm {
        let look = |source| RoundError::Look { key: key.clone(), source: Box::new(source) };
        let Some(live) = K::live(context, key).await.map_err(look)? else { return Ok(None) };
        decision = K::decide(&live, crate::now());
        inputs = live;
    }
    context.writer.carry_out(K::subject(&inputs), decision.actions).await?;
    Ok(decision.requeue_after)
}

/// An error with all its causes, in one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
