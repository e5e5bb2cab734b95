//! How far a component is on its way to the target's pods.

use kubevirt_manifests::ManifestSet;
use serde_json::Value;

use crate::context::{View, live_template_hash, template_hash};
use crate::observed::Pod;
use crate::order::Component;
use crate::waiting::WaitingOn;

/// Restarts after which a pod that isn't Ready is said to crash, even in a moment when it runs.
const CRASHES: u32 = 3;

/// How far a component is.
#[derive(Debug, Clone)]
pub(crate) struct Progress<'a> {
    component: Component,
    /// The live workload exists and makes pods of the target's template.
    pub object_current: bool,
    /// There is no live workload.
    pub object_absent: bool,
    /// The workload's own controller has seen its last change.
    pub object_seen: bool,
    /// How many pods are wanted.
    pub wanted: usize,
    /// Pods of the target's template that serve.
    pub ready: Vec<&'a Pod>,
    /// Pods of the target's template that don't, and aren't being deleted.
    pub starting: Vec<&'a Pod>,
    /// Pods of another template that aren't being deleted.
    pub outdated: Vec<&'a Pod>,
    /// Those, and the ones that were deleted so recently that they may be handing over.
    pub outdated_acting: Vec<&'a Pod>,
    /// What fails among the target's pods.
    pub cause: Option<Cause>,
}

/// Why a pod of the target's template isn't Ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// The pod's node.
    pub node: Option<String>,
    /// A sentence.
    pub message: String,
}

impl<'a> Progress<'a> {
    pub fn of(view: View<'a>, target: &ManifestSet, component: Component) -> Self {
        let key = component.key(view.namespace());
        let manifest = target.get(&key);
        let hash = manifest.and_then(template_hash);
        let live = view.live(&key);
        let number = |pointer: &str| live.and_then(|live| live.pointer(pointer)).and_then(Value::as_u64);
        let object_seen =
            live.is_some() && number("/status/observedGeneration") >= number("/metadata/generation");
        let wanted = match component {
            Component::Handler => number("/status/desiredNumberScheduled"),
            Component::Controller | Component::Api => manifest
                .and_then(|manifest| manifest.body.pointer("/spec/replicas")?.as_u64())
                .or_else(|| number("/spec/replicas")),
        };
        let of_target = |pod: &&Pod| pod.template_hash.is_some() && pod.template_hash == hash;
        let mut starting = Vec::new();
        let (mut ready, mut outdated, mut outdated_acting) = (Vec::new(), Vec::new(), Vec::new());
        for pod in view.acting(component) {
            match (of_target(&pod), pod.deleting_since.is_none()) {
                (true, true) if pod.serves() => ready.push(pod),
                (true, true) => starting.push(pod),
                (true, false) => {}
                (false, live) => {
                    outdated_acting.push(pod);
                    if live {
                        outdated.push(pod);
                    }
                }
            }
        }
        let cause = starting.iter().find_map(|pod| cause(pod, view));
        Self {
            component,
            object_current: live.is_some_and(|live| live_template_hash(live) == hash.as_deref()),
            object_absent: live.is_none(),
            object_seen,
            wanted: wanted.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            ready,
            starting,
            outdated,
            outdated_acting,
            cause,
        }
    }

    /// Whether a workload that exists, or a pod, is of another template than the target's.
    pub fn rolls(&self) -> bool {
        !(self.object_absent || self.object_current) || !self.outdated.is_empty()
    }

    /// Whether every wanted pod is the target's and serves.
    pub fn rolled(&self) -> bool {
        self.object_current && self.object_seen && self.outdated.is_empty() && self.ready.len() >= self.wanted
    }

    /// What to say while it isn't.
    pub fn waiting(&self) -> WaitingOn {
        let (ready, of) = (self.ready.len(), self.wanted.max(self.ready.len()));
        let cause = self.cause.as_ref().map(|cause| cause.message.clone());
        match self.component {
            Component::Handler => WaitingOn::HandlersNotReady { ready, of, canary: None, cause },
            Component::Controller => WaitingOn::ControllersNotReady { ready, of, cause },
            Component::Api => WaitingOn::ApiNotReady { ready, of, cause },
        }
    }
}

/// Why this pod doesn't get Ready; none while it may just take its time.
fn cause(pod: &Pod, view: View<'_>) -> Option<Cause> {
    let deadline = view.policy.pod_deadline;
    let late = view.now.duration_since(pod.created) > deadline;
    let what = match &pod.trouble {
        Some(trouble) if trouble.crashes() || trouble.image_missing() || late => {
            let container =
                trouble.container.as_ref().map(|name| format!("container {name}: ")).unwrap_or_default();
            let message =
                if trouble.message.is_empty() { String::new() } else { format!(": {}", trouble.message) };
            format!("{container}{}{message}", trouble.reason)
        }
        Some(_) | None if pod.restarts >= CRASHES => "its container keeps crashing".to_owned(),
        Some(_) | None if late => {
            format!("not Ready for more than {} s", deadline.as_secs())
        }
        Some(_) | None => return None,
    };
    let at = pod.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
    Some(Cause { node: pod.node.clone(), message: format!("pod {}{at}: {what}", pod.name) })
}
