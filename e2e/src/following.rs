//! Watching objects of one kind from outside, and keeping what matters of them until it is asked for.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, pin_mut};
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A watch that goes on until it is finished, and what it has seen.
pub struct Following<S> {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    seen: Arc<Mutex<S>>,
}

impl<S: Clone + Default + Send + 'static> Following<S> {
    /// Starts to watch; `see` keeps what matters of each event. A watch that breaks begins anew.
    pub fn start<K>(objects: Api<K>, mut see: impl FnMut(&mut S, Event<K>) + Send + 'static) -> Self
    where
        K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (stop, mut stopped) = watch::channel(false);
        let seen: Arc<Mutex<S>> = Arc::default();
        let keeps = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let events = watcher(objects, watcher::Config::default()).default_backoff();
            pin_mut!(events);
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = stopped.changed() => return,
                };
                match event {
                    Some(Ok(event)) => see(&mut keeps.lock().expect("nobody panics while reading"), event),
                    Some(Err(_)) => {}
                    None => return,
                }
            }
        });
        Self { stop, task, seen }
    }

    /// What was seen until now.
    pub fn so_far(&self) -> S {
        self.seen.lock().expect("the watch doesn't panic while it writes").clone()
    }

    /// Ends it and returns what was seen.
    ///
    /// # Errors
    /// When the task broke.
    pub async fn finish(self) -> anyhow::Result<S> {
        self.stop.send_replace(true);
        self.task.await?;
        let mut seen = self.seen.lock().expect("the watch doesn't panic while it writes");
        Ok(std::mem::take(&mut seen))
    }
}
