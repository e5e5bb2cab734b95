//! One link per launcher: dialled when found, dialled again when cut, listened to all the time.
//!
//! Owns what is known of each launcher; decides nothing from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handler_launcher_com::launcher::{DomainState, WatchDomainRequest};
use handler_launcher_com::negotiate::capability;
use handler_launcher_com::{DialError, Launcher};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::socket::{self, Found, SocketError};
use crate::vmi::knowledge::{Domain, Knowledge};

/// The first pause before dialling again; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before dialling again.
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// A launcher that can't be listened to.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("watching the domain: {}", .0.message())]
    Watch(Box<tonic::Status>),
    #[error("the launcher ended the watch")]
    Ended,
}

/// A launcher that answers.
#[derive(Debug, Clone)]
pub struct Session {
    /// What to call it through.
    pub launcher: Launcher,
    _socket: Found,
}

#[derive(Default)]
struct Entry {
    knowledge: Knowledge,
    generation: u64,
    session: Option<Session>,
    linked: bool,
    /// Whether the launcher that answered last can move its guest.
    can_move: bool,
}

/// All links of this node. Clones are the same links.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    pods: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
    changed: mpsc::UnboundedSender<String>,
    heard: watch::Sender<()>,
}

impl Links {
    /// Links to launchers below `pods`; `changed` gets a pod's uid whenever more is known of it.
    pub fn new(pods: &Path, changed: mpsc::UnboundedSender<String>) -> Self {
        let inner =
            Inner { pods: pods.to_owned(), entries: Mutex::default(), changed, heard: watch::channel(()).0 };
        Self { inner: Arc::new(inner) }
    }

    /// Where launchers' sockets are.
    pub fn pods(&self) -> &Path {
        &self.inner.pods
    }

    /// Links to every launcher that is there, and waits until each has answered or `grace` is
    /// over. Returns how many were found, and how many have answered.
    pub async fn adopt(&self, grace: Duration) -> (usize, usize) {
        let found = socket::scan(&self.inner.pods);
        found.iter().for_each(|uid| self.ensure(uid));
        let mut heard = self.inner.heard.subscribe();
        let answered =
            || found.iter().filter(|uid| matches!(self.knowledge(uid), Knowledge::Known(_))).count();
        let all = heard.wait_for(|()| answered() == found.len());
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(found = found.len(), answered = answered(), "not all launchers have answered");
        }
        (found.len(), answered())
    }

    /// Sees to it that a pod's launcher is listened to.
    pub fn ensure(&self, pod_uid: &str) {
        let mut entries = self.inner.entries();
        let entry = entries.entry(pod_uid.to_owned()).or_default();
        if !entry.linked && self.inner.pods.join(pod_uid).exists() {
            entry.linked = true;
            tokio::spawn(self.inner.clone().follow(pod_uid.to_owned()));
        }
    }

    /// What is known of a pod's launcher.
    pub fn knowledge(&self, pod_uid: &str) -> Knowledge {
        self.inner.entries().get(pod_uid).map(|e| e.knowledge.clone()).unwrap_or_default()
    }

    /// A pod's launcher, if it answers.
    pub fn session(&self, pod_uid: &str) -> Option<Session> {
        self.inner.entries().get(pod_uid)?.session.clone()
    }

    /// Takes note of what a launcher said in reply to a call.
    pub fn hear(&self, pod_uid: &str, domain: Option<DomainState>) {
        if let Some(domain) = domain {
            self.inner.hear(pod_uid, domain);
        }
    }

    /// Forgets pods that are neither on this node any more nor `wanted`.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.inner.entries().retain(|uid, entry| entry.linked || wanted(uid));
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to one launcher until the kubelet has removed its pod.
    async fn follow(self: Arc<Self>, pod_uid: String) {
        let mut pause = FIRST_PAUSE;
        while self.pods.join(&pod_uid).exists() {
            let error = match self.listen(&pod_uid).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            if matches!(error, LinkError::Ended | LinkError::Watch(_)) {
                pause = FIRST_PAUSE;
            }
            self.lose(&pod_uid, &error.to_string());
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        if let Some(entry) = self.entries().get_mut(&pod_uid) {
            entry.linked = false;
        }
    }

    async fn listen(&self, pod_uid: &str) -> Result<std::convert::Infallible, LinkError> {
        let found = socket::find(&self.pods, pod_uid, socket::LAUNCHER)?;
        let launcher = handler_launcher_com::dial(&found.path()).await?;
        tracing::info!(
            pod = pod_uid,
            release = launcher.release,
            protocol = launcher.protocol,
            "launcher answers"
        );
        let mut client = launcher.client.clone();
        if let Some(entry) = self.entries().get_mut(pod_uid) {
            entry.can_move = launcher.can(capability::LIVE_MIGRATION);
            entry.session = Some(Session { launcher, _socket: found });
            entry.generation = 0;
        }
        let watch = |status| LinkError::Watch(Box::new(status));
        let mut domains = client.watch_domain(WatchDomainRequest {}).await.map_err(watch)?.into_inner();
        while let Some(domain) = domains.message().await.map_err(watch)? {
            self.hear(pod_uid, domain);
        }
        Err(LinkError::Ended)
    }

    fn hear(&self, pod_uid: &str, domain: DomainState) {
        {
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(pod_uid) else { return };
            // A reply may be overtaken by the watch.
            if domain.generation < entry.generation {
                return;
            }
            entry.generation = domain.generation;
            let knowledge = Knowledge::Known(Domain::reported(domain, entry.can_move));
            if entry.knowledge == knowledge {
                return;
            }
            if knowledge.differs_in_numbers_only(&entry.knowledge) {
                tracing::debug!(pod = pod_uid, ?knowledge, "launcher says");
            } else {
                tracing::info!(pod = pod_uid, ?knowledge, "launcher says");
            }
            entry.knowledge = knowledge;
        }
        self.tell(pod_uid);
    }

    fn lose(&self, pod_uid: &str, error: &str) {
        {
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(pod_uid) else { return };
            entry.session = None;
            let knowledge = entry.knowledge.after_silence(error, jiff::Timestamp::now());
            if entry.knowledge == knowledge {
                return;
            }
            tracing::info!(pod = pod_uid, error, "launcher does not answer");
            entry.knowledge = knowledge;
        }
        self.tell(pod_uid);
    }

    fn tell(&self, pod_uid: &str) {
        self.heard.send_replace(());
        // A handler that drains listens no more.
        drop(self.changed.send(pod_uid.to_owned()));
    }
}
