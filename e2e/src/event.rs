//! What virt-operator announces on the KubeVirt object: warnings, and each new stage of an update.

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};

use crate::product::NAMESPACE;

/// One event on the KubeVirt object.
#[derive(Debug, Clone)]
pub struct Said {
    pub at: Timestamp,
    pub warning: bool,
    pub reason: String,
    pub note: String,
    /// The operator's pod that said it.
    pub by: String,
}

fn said(event: Event) -> Option<Said> {
    let about = event.regarding?;
    (about.kind.as_deref() == Some("KubeVirt")).then_some(())?;
    Some(Said {
        at: event.event_time?.0,
        warning: event.type_.as_deref() == Some("Warning"),
        reason: event.reason?,
        note: event.note.unwrap_or_default(),
        by: event.reporting_instance.unwrap_or_default(),
    })
}

impl Said {
    /// Whether it announces a stage of a change: the note begins with the stage's name.
    pub fn is_stage(&self) -> bool {
        !self.warning && self.note.starts_with(&format!("{}: ", self.reason))
    }
}

/// The warnings since a time.
pub async fn warnings(client: &Client, since: Timestamp) -> anyhow::Result<Vec<Said>> {
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = events.list(&ListParams::default()).await?;
    Ok(listed.into_iter().filter_map(said).filter(|said| said.warning && said.at >= since).collect())
}

/// The stages that are announced from now on.
pub fn stages(client: &Client, since: Timestamp) -> impl Stream<Item = Said> + Unpin {
    let events: Api<Event> = Api::namespaced(client.clone(), NAMESPACE);
    let applied = watcher(events, watcher::Config::default()).default_backoff().applied_objects();
    let stage = move |event: Event| said(event).filter(|said| said.at >= since && said.is_stage());
    Box::pin(applied.filter_map(move |event| std::future::ready(event.ok().and_then(stage))))
}
