//! A queue of keys: each is in it once, is worked on by one worker at a time, and can be asked
//! for again later. Closed while this replica doesn't lead.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::metrics::QueueMetrics;

/// The wait after a first failure; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest wait after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// The queue.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
    metrics: QueueMetrics,
}

#[derive(Debug)]
struct State<K> {
    open: bool,
    ready: VecDeque<K>,
    /// What `ready` holds.
    queued: HashSet<K>,
    /// What a worker has.
    running: HashSet<K>,
    /// What a worker has and must be done again.
    again: HashSet<K>,
    /// What is due later; one time for each key.
    later: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        Self {
            open: false,
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            later: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

/// How work on a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; look again after a while if one is given.
    Done(Option<Duration>),
    /// It failed: again, later and later.
    Retry,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// An empty queue, closed.
    pub fn new(metrics: QueueMetrics) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), metrics }
    }

    /// Forgets everything and starts with these keys.
    pub fn open(&self, keys: impl IntoIterator<Item = K>) {
        *self.lock() = State { open: true, ..State::default() };
        for key in keys {
            self.add(key);
        }
    }

    /// Forgets everything; what is added from now on is ignored.
    pub fn close(&self) {
        *self.lock() = State::default();
        self.metrics.depth.set(0);
    }

    /// Asks for a key to be worked on soon.
    pub fn add(&self, key: K) {
        let mut state = self.lock();
        if !state.open {
            return;
        }
        self.metrics.adds.inc();
        state.enqueue(key);
        self.metrics.depth.set(depth(&state));
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for a key. It belongs to the caller until [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let changed = self.changed.notified();
            let wake = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    self.metrics.depth.set(depth(&state));
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.later.first().map(|(due, _)| *due)
            };
            match wake {
                Some(due) => tokio::select! {
                    () = changed => (),
                    () = sleep_until(due) => (),
                },
                None => changed.await,
            }
        }
    }

    /// Gives a key back.
    pub fn done(&self, key: K, outcome: Outcome) {
        let mut state = self.lock();
        state.running.remove(&key);
        match outcome {
            Outcome::Done(after) => {
                state.failures.remove(&key);
                if let Some(after) = after {
                    state.schedule(key.clone(), Instant::now() + after);
                }
            }
            Outcome::Retry => {
                self.metrics.retries.inc();
                let failures = state.failures.entry(key.clone()).or_default();
                *failures += 1;
                let wait = retry_after(*failures);
                state.schedule(key.clone(), Instant::now() + wait);
            }
        }
        if state.again.remove(&key) {
            // A change came while it was worked on: that is worth a look even after a failure.
            state.enqueue(key);
        }
        self.metrics.depth.set(depth(&state));
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn enqueue(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// The earliest wish wins.
    fn schedule(&mut self, key: K, due: Instant) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= due => return,
            Some(later) => {
                self.later.remove(&(*later, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), due);
        self.later.insert((due, key));
    }

    fn promote(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.enqueue(key);
            }
        }
    }
}

fn depth<K>(state: &State<K>) -> i64 {
    i64::try_from(state.ready.len()).unwrap_or(i64::MAX)
}

fn retry_after(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn queue(keys: &[&'static str]) -> Queue<&'static str> {
        let queue = Queue::new(QueueMetrics::unregistered());
        queue.open(keys.iter().copied());
        queue
    }

    #[tokio::test]
    async fn a_key_is_queued_once_and_worked_on_by_one() {
        let queue = queue(&["a", "a", "b"]);
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(queue.next().now_or_never(), None);
        queue.done("a", Outcome::Done(None));
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_longer_and_longer_and_success_forgets_them() {
        let queue = queue(&["a"]);
        let mut waits = Vec::new();
        for _ in 0..3 {
            queue.next().await;
            queue.done("a", Outcome::Retry);
            let start = Instant::now();
            queue.next().await;
            waits.push(start.elapsed().as_millis());
            queue.done("a", Outcome::Retry);
            queue.next().await;
            queue.done("a", Outcome::Done(None));
            queue.add("a");
        }
        assert_eq!(waits.iter().map(|ms| ms / 50).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(retry_after(30), LONGEST_RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wish_wins() {
        let queue = queue(&["a"]);
        queue.next().await;
        queue.done("a", Outcome::Done(Some(Duration::from_secs(60))));
        queue.add("a");
        queue.next().await;
        queue.done("a", Outcome::Done(Some(Duration::from_secs(5))));
        let start = Instant::now();
        queue.next().await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn closed_it_takes_nothing_and_a_new_term_starts_afresh() {
        let queue = queue(&["a"]);
        queue.next().await;
        queue.close();
        queue.add("b");
        assert_eq!(queue.next().now_or_never(), None);
        queue.open(["a"]);
        assert_eq!(queue.next().await, "a");
    }
}
