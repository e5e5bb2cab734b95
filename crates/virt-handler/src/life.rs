//! The life of a virt-handler: learn, wait for the node's lock, act, hand over, drain.
//!
//! What follows from what is `lock::state`; this carries it out.

use std::path::PathBuf;

use kubevirt_runtime::shutdown::Shutdown;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::lock::file::{self, Held, LockError};
use crate::lock::state::{Effect, Event, State, next};

/// Why a life ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// The node's lock can't be had.
    #[error("taking the node's lock")]
    Lock(#[from] LockError),
    /// What acts while the lock is held has ended, though nobody told it to. Holding on to the lock would leave the
    /// node without control for ever; the kubelet starts a new process.
    #[error("what controls this node's virtual machines ended by itself")]
    Ended(#[source] Option<tokio::task::JoinError>),
}

/// Lives until the lock has been given back after the order to stop. `synced` ends when enough
/// is known; `act` runs while the lock is held; `changed` is told each new state.
pub async fn live<S, A>(
    lock_file: PathBuf,
    shutdown: &Shutdown,
    synced: S,
    act: impl FnOnce() -> A,
    changed: impl Fn(State),
) -> Result<(), LifeError>
where
    S: Future<Output = ()>,
    A: Future<Output = ()> + Send + 'static,
{
    let mut synced = std::pin::pin!(synced);
    let mut state = State::default();
    let mut act = Some(act);
    let mut waiting = None;
    let mut held = None;
    let mut acting: Option<JoinHandle<()>> = None;
    while state != State::Draining {
        let event = tokio::select! {
            biased;
            () = shutdown.wait() => Event::Stop,
            () = &mut synced, if state == State::Syncing => Event::Synced,
            lock = granted(&mut waiting), if state == State::Waiting => {
                held = Some(lock?);
                Event::LockTaken
            }
            ended = ended(&mut acting), if acting.is_some() => return Err(LifeError::Ended(ended.err())),
        };
        let (then, effect) = next(state, event);
        tracing::info!(?event, state = ?then, "life");
        state = then;
        match effect {
            Effect::Nothing => {}
            Effect::AwaitLock => waiting = Some(file::wait(&lock_file)),
            Effect::Act => acting = act.take().map(|act| tokio::spawn(act())),
            Effect::Release => {
                if let Some(acting) = acting.take() {
                    acting.abort();
                    // Aborted or ended: either way nothing of it runs any more.
                    drop(acting.await);
                }
                waiting = None;
                held = None;
            }
        }
        changed(state);
    }
    drop((waiting, held));
    Ok(())
}

async fn ended(acting: &mut Option<JoinHandle<()>>) -> Result<(), tokio::task::JoinError> {
    match acting {
        Some(acting) => acting.await,
        None => std::future::pending().await,
    }
}

async fn granted(
    waiting: &mut Option<oneshot::Receiver<Result<Held, LockError>>>,
) -> Result<Held, LockError> {
    match waiting {
        Some(receiver) => match receiver.await {
            Ok(granted) => granted,
            // The thread sends before it ends, so only a process on its way out gets here.
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::watch;

    struct Actor(Arc<AtomicUsize>);
    impl Drop for Actor {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn start(
        lock: &std::path::Path,
        actors: &Arc<AtomicUsize>,
    ) -> (Shutdown, watch::Receiver<State>, JoinHandle<Result<(), LifeError>>) {
        let (shutdown, lock, actors) = (Shutdown::new(), lock.to_owned(), actors.clone());
        let (tell, told) = watch::channel(State::Syncing);
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let act = move || async move {
                assert_eq!(actors.fetch_add(1, Ordering::SeqCst), 0, "two act at the same time");
                let _actor = Actor(actors);
                std::future::pending::<()>().await;
            };
            live(lock, &stop, std::future::ready(()), act, |state| tell.send(state).unwrap_or(())).await
        });
        (shutdown, told, task)
    }

    #[tokio::test]
    async fn a_panic_of_what_acts_ends_the_life_and_gives_the_lock_back() {
        let lock = std::env::temp_dir().join(format!("virt-handler-panic-{}", std::process::id()));
        let act = || async { panic!("on purpose") };
        let outcome = live(lock.clone(), &Shutdown::new(), std::future::ready(()), act, |_| {}).await;
        assert!(matches!(outcome, Err(LifeError::Ended(Some(_)))), "{outcome:?}");
        let (stop, mut next, task) = start(&lock, &Arc::default());
        next.wait_for(|s| *s == State::Holding).await.unwrap();
        stop.start();
        task.await.unwrap().unwrap();
        std::fs::remove_file(lock).unwrap();
    }

    #[tokio::test]
    async fn the_old_hands_over_to_the_new_and_never_do_two_act() {
        let lock = std::env::temp_dir().join(format!("virt-handler-life-{}", std::process::id()));
        let actors = Arc::new(AtomicUsize::new(0));
        let (stop_old, mut old, old_task) = start(&lock, &actors);
        old.wait_for(|s| *s == State::Holding).await.unwrap();
        let (stop_new, mut new, new_task) = start(&lock, &actors);
        new.wait_for(|s| *s == State::Waiting).await.unwrap();
        stop_old.start();
        new.wait_for(|s| *s == State::Holding).await.unwrap();
        old_task.await.unwrap().unwrap();
        stop_new.start();
        new_task.await.unwrap().unwrap();
        assert_eq!(actors.load(Ordering::SeqCst), 0);
        std::fs::remove_file(lock).unwrap();
    }
}
