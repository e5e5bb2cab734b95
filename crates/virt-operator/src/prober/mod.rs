//! Asks, while an update goes on, what its users would ask: at a fixed pace, nothing that changes or disturbs anything.
//!
//! It only asks and remembers; what answers mean for the report is `kubevirt_rollout::report`'s. It ends when it is dropped.

mod migrations;
mod request;
mod streams;
mod terms;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kubevirt_rollout::report::{ApiPod, Moved, Observation, Probe, ProbeKind, UpdateReport};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::cache::Cache;
use request::{REQUEST_LIMIT, ask};

pub use terms::TermLog;

/// Requests of one kind without an answer. An API server that hangs isn't asked ever more.
const AT_ONCE: usize = 8;
/// Between two looks at the virt-apis' streams: it bounds what is missed of one that stops to listen.
const STREAMS_PACE: Duration = Duration::from_secs(2);
/// Between two looks at all migrations, of which there may be thousands.
const MIGRATIONS_PACE: Duration = Duration::from_secs(10);
/// What is remembered between two rounds; a round that hangs that long makes a hole in the report, which says so.
const MAX_SEEN: usize = 5_000;

/// Something that the prober saw.
#[derive(Debug)]
enum Seen {
    Probe(Probe),
    Streams(Vec<ApiPod>),
    Migrations(Vec<Moved>),
}

/// What was seen, and when, until somebody takes it.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<(Timestamp, Seen)>>>);

impl Log {
    fn note(&self, seen: Seen) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() < MAX_SEEN {
            log.push((Timestamp::now(), seen));
        }
    }

    fn take(&self) -> Vec<(Timestamp, Seen)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Asks until it is dropped.
pub struct Prober {
    client: Client,
    cache: Cache,
    namespace: String,
    log: Log,
    _tasks: JoinSet<()>,
}

impl Prober {
    /// Begins to ask, in the install namespace.
    pub fn start(client: Client, cache: Cache, namespace: &str) -> Self {
        let log = Log::default();
        let mut tasks = JoinSet::new();
        for kind in ProbeKind::ALL {
            tasks.spawn(keep_asking(kind, client.clone(), namespace.to_owned(), log.clone()));
        }
        tasks.spawn(keep_counting(cache.clone(), namespace.to_owned(), log.clone()));
        tasks.spawn(keep_listing(client.clone(), log.clone()));
        Self { client, cache, namespace: namespace.to_owned(), log, _tasks: tasks }
    }

    /// Folds all that was seen since the last time into a report.
    pub fn fold_into(&self, report: &mut UpdateReport) {
        for (at, seen) in self.log.take() {
            let observation = match &seen {
                Seen::Probe(probe) => Observation::Probe(probe),
                Seen::Streams(pods) => Observation::Streams(pods),
                Seen::Migrations(all) => Observation::Migrations(all),
            };
            report.fold(&observation, at);
        }
    }

    /// Looks once more at what is only looked at every few seconds.
    pub async fn look_again(&self) {
        let (streams, migrations) = futures::join!(
            streams::look(&self.cache, &self.namespace),
            timeout(REQUEST_LIMIT, migrations::list(&self.client)),
        );
        self.log.note(Seen::Streams(streams));
        if let Ok(Ok(all)) = migrations {
            self.log.note(Seen::Migrations(all));
        }
    }
}

/// Ten a second, so that a gap of a third of a second in one of them would be seen. Dry runs go through two webhooks.
fn pace(kind: ProbeKind) -> Duration {
    match kind {
        ProbeKind::ApiServer => Duration::from_millis(200),
        ProbeKind::Webhook | ProbeKind::Subresource => Duration::from_millis(500),
    }
}

async fn keep_asking(kind: ProbeKind, client: Client, namespace: String, log: Log) {
    let mut ticks = interval(pace(kind));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut asked = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick(), if asked.len() < AT_ONCE => {
                asked.spawn(probe(kind, client.clone(), namespace.clone()));
            }
            Some(Ok(probe)) = asked.join_next() => log.note(Seen::Probe(probe)),
        }
    }
}

async fn probe(kind: ProbeKind, client: Client, namespace: String) -> Probe {
    let (sent, clock) = (Timestamp::now(), Instant::now());
    let failed = match timeout(REQUEST_LIMIT, ask(kind, &client, &namespace)).await {
        Ok(failed) => failed,
        Err(_) => Some(format!("no answer within {} s", REQUEST_LIMIT.as_secs())),
    };
    // how long it took isn't the wall clock's business, which may be set in between
    let answered = sent.saturating_add(clock.elapsed()).unwrap_or(sent);
    Probe { kind, sent, answered, failed }
}

async fn keep_counting(cache: Cache, namespace: String, log: Log) {
    loop {
        log.note(Seen::Streams(streams::look(&cache, &namespace).await));
        sleep(STREAMS_PACE).await;
    }
}

async fn keep_listing(client: Client, log: Log) {
    loop {
        match timeout(REQUEST_LIMIT, migrations::list(&client)).await {
            Ok(Ok(all)) => log.note(Seen::Migrations(all)),
            Ok(Err(error)) => tracing::debug!(%error, "migrations can't be listed, trying again"),
            Err(_) => tracing::debug!("migrations can't be listed in time, trying again"),
        }
        sleep(MIGRATIONS_PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use kubevirt_rollout::report::STALLED;

    #[test]
    fn a_prober_that_waits_for_answers_does_not_look_as_if_it_were_stalled() {
        let longest = ProbeKind::ALL.map(pace).into_iter().max().unwrap() + REQUEST_LIMIT;
        assert!(longest < Duration::try_from(STALLED).unwrap());
    }

    /// An API server that never answers, and counts who waits.
    fn silent() -> (Client, Arc<Mutex<usize>>) {
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |_: Request<Body>| {
            *count.lock().unwrap() += 1;
            futures::future::pending::<Result<Response<Body>, std::convert::Infallible>>()
        });
        (Client::new(service, "kubevirt"), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_answers_asks_no_more_at_once_than_is_bounded() {
        let (client, asked) = silent();
        let log = Log::default();
        let asking = keep_asking(ProbeKind::ApiServer, client, "kubevirt".into(), log.clone());
        assert!(timeout(REQUEST_LIMIT - Duration::from_secs(1), asking).await.is_err());
        assert_eq!(*asked.lock().unwrap(), AT_ONCE);
        assert!(log.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_an_answer_has_failed_in_words() {
        let (client, _) = silent();
        let probe = probe(ProbeKind::Webhook, client, "kubevirt".into()).await;
        assert_eq!(probe.failed.as_deref(), Some("no answer within 10 s"));
        assert_eq!(probe.answered.duration_since(probe.sent).as_secs(), 10);
    }
}
