//! Warm watches of every kind in the table: what the cluster looked like a moment ago.
//!
//! Every replica keeps them, so a new leader starts from a full view. Owns the stores and says when
//! something changed; never decides and never writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use kube::core::DynamicObject;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use kubevirt_observe::Source;
use kubevirt_observe::kinds::{KINDS, KindRow};
use kubevirt_observe::source::{drop_what_nobody_reads, with_type};
use kubevirt_runtime::shutdown::Shutdown;
use kubevirt_types::ObjectKey;
use serde_json::Value;
use tokio::sync::watch;

/// The stores of all watches.
#[derive(Clone)]
pub struct Cache {
    watches: Arc<BTreeMap<&'static str, Watch>>,
    changed: watch::Sender<()>,
}

struct Watch {
    row: &'static KindRow,
    store: Store<DynamicObject>,
    listed: Arc<AtomicBool>,
}

impl Cache {
    /// Starts all watches. They end with the process.
    pub fn start(client: &Client, namespace: &str, shutdown: &Shutdown) -> Self {
        let changed = watch::Sender::new(());
        let watches = KINDS
            .iter()
            .map(|row| {
                let (reader, writer) = reflector_store(row);
                let listed = Arc::new(AtomicBool::new(false));
                let watch = Watch { row, store: reader, listed: Arc::clone(&listed) };
                let run =
                    run_watch(client.clone(), namespace.to_owned(), row, writer, listed, changed.clone());
                let stop = shutdown.token().clone();
                shutdown.spawn(async move { stop.run_until_cancelled(run).await });
                (row.kind, watch)
            })
            .collect();
        Self { watches: Arc::new(watches), changed }
    }

    /// Says when something has changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The kinds whose first list hasn't come yet.
    pub fn unlisted(&self) -> Vec<&'static str> {
        self.watches
            .values()
            .filter(|watch| !watch.listed.load(Ordering::Acquire))
            .map(|watch| watch.row.kind)
            .collect()
    }
}

impl Source for Cache {
    fn of_kind(&self, kind: &str) -> Vec<Value> {
        let Some(watch) = self.watches.get(kind) else { return Vec::new() };
        let mut objects = watch.store.state();
        objects.sort_by_key(|object| (object.namespace(), object.name_any()));
        objects.iter().map(|object| with_type(watch.row, object)).collect()
    }

    fn get(&self, key: &ObjectKey) -> Option<Value> {
        let watch = self.watches.get(key.kind.as_str())?;
        let mut reference = reflector::ObjectRef::new_with(&key.name, watch.row.resource());
        if let Some(namespace) = &key.namespace {
            reference = reference.within(namespace);
        }
        watch.store.get(&reference).map(|object| with_type(watch.row, &object))
    }

    /// A kind that may not be listed is never listed completely, and until then nobody plans.
    fn may_read(&self, _: &str) -> bool {
        true
    }
}

fn reflector_store(row: &KindRow) -> (Store<DynamicObject>, reflector::store::Writer<DynamicObject>) {
    let writer = reflector::store::Writer::new(row.resource());
    (writer.as_reader(), writer)
}

/// Carries one watch into its store for ever; errors back off inside of the stream.
async fn run_watch(
    client: Client,
    namespace: String,
    row: &'static KindRow,
    writer: reflector::store::Writer<DynamicObject>,
    listed: Arc<AtomicBool>,
    changed: watch::Sender<()>,
) {
    let config = watcher::Config::default().labels(row.selector);
    let events = watcher(row.watched_api(client, &namespace), config)
        .default_backoff()
        .modify(|object| drop_what_nobody_reads(row, object))
        .reflect(writer);
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::InitDone) => {
                listed.store(true, Ordering::Release);
                changed.send_replace(());
            }
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_)) => changed.send_replace(()),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Err(error) => tracing::warn!(kind = row.kind, %error, "watching failed, trying again"),
        }
    }
}
