//! How far a component is on its way to the target's pods, and which of them fail.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kubevirt_manifests::ManifestSet;
use serde_json::Value;

use crate::context::{View, live_template_hash, template_hash};
use crate::observed::Pod;
use crate::order::Component;
use crate::trouble::cause;
use crate::waiting::{Cause, WaitingOn};

/// How far a component is. What is on a node that is NotReady is kept apart: it holds nobody else up.
#[derive(Debug, Clone)]
pub(crate) struct Progress<'a> {
    component: Component,
    /// The live workload exists and makes pods of the target's template.
    pub object_current: bool,
    /// There is no live workload.
    pub object_absent: bool,
    /// The workload's own controller has seen its last change.
    pub object_seen: bool,
    /// How many pods are wanted, without those of virt-handler on nodes that are NotReady.
    pub wanted: usize,
    /// Pods of the target's template that serve.
    pub ready: Vec<&'a Pod>,
    /// Pods of the target's template that don't, and aren't being deleted.
    pub starting: Vec<&'a Pod>,
    /// Pods of another template that aren't being deleted.
    pub outdated: Vec<&'a Pod>,
    /// Those, the ones that were deleted so recently that they may be handing over, and those on nodes that are
    /// NotReady.
    pub outdated_acting: Vec<&'a Pod>,
    /// Nodes that are NotReady and have a pod of another template, with since when.
    pub away: BTreeMap<&'a str, Timestamp>,
    /// How many nodes with a pod of virt-handler are NotReady.
    pub unreachable: usize,
    /// What goes wrong with the target's pods, what fails first at the front.
    pub causes: Vec<Cause>,
}

impl<'a> Progress<'a> {
    pub fn of(view: View<'a>, target: &ManifestSet, component: Component) -> Self {
        let key = component.key(view.namespace());
        let manifest = target.get(&key);
        let hash = manifest.and_then(template_hash);
        let live = view.live(&key);
        let number = |pointer: &str| live.and_then(|live| live.pointer(pointer)).and_then(Value::as_u64);
        let wanted = match component {
            Component::Handler => number("/status/desiredNumberScheduled"),
            Component::Controller | Component::Api => manifest
                .and_then(|manifest| manifest.body.pointer("/spec/replicas")?.as_u64())
                .or_else(|| number("/spec/replicas")),
        };
        let mut progress = Self {
            component,
            object_current: live.is_some_and(|live| live_template_hash(live) == hash.as_deref()),
            object_absent: live.is_none(),
            object_seen: live.is_some()
                && number("/status/observedGeneration") >= number("/metadata/generation"),
            wanted: 0,
            ready: vec![],
            starting: vec![],
            outdated: vec![],
            outdated_acting: vec![],
            away: BTreeMap::new(),
            unreachable: 0,
            causes: vec![],
        };
        let mut unreachable = BTreeSet::new();
        for pod in view.acting(component) {
            let of_target = pod.template_hash.is_some() && pod.template_hash == hash;
            let not_ready = view.not_ready_node(pod).filter(|_| component == Component::Handler);
            if let Some((node, since)) = not_ready {
                unreachable.insert(node);
                if !of_target {
                    progress.away.insert(node, since);
                }
            }
            progress.sort(pod, of_target, not_ready.is_some());
        }
        progress.unreachable = unreachable.len();
        let wanted = wanted.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        progress.wanted = wanted.saturating_sub(progress.unreachable);
        progress.causes = progress.find_causes(view, tried_since(view, target));
        progress
    }

    fn sort(&mut self, pod: &'a Pod, of_target: bool, unreachable: bool) {
        let live = pod.deleting_since.is_none();
        if !of_target {
            self.outdated_acting.push(pod);
        }
        match (of_target, live && !unreachable) {
            (true, true) if pod.serves() => self.ready.push(pod),
            (true, true) => self.starting.push(pod),
            (false, true) => self.outdated.push(pod),
            (true | false, false) => {}
        }
    }

    fn find_causes(&self, view: View<'_>, tried: Option<Timestamp>) -> Vec<Cause> {
        let shared = self.shared_nodes();
        let mut causes: Vec<Cause> = self
            .starting
            .iter()
            .chain(&self.ready)
            .filter(|pod| self.component == Component::Handler || view.not_ready_node(pod).is_none())
            .filter_map(|pod| {
                let alone = pod.node.as_deref().is_some_and(|node| !shared.contains(node));
                let in_charge = self.component == Component::Handler && alone;
                cause(pod, view, in_charge, tried)
            })
            .collect();
        causes.sort_by(|a, b| (a.fails_at, &a.pod).cmp(&(b.fails_at, &b.pod)));
        causes
    }

    /// Nodes on which a pod of another template lives still.
    pub fn shared_nodes(&self) -> BTreeSet<&'a str> {
        self.outdated.iter().filter_map(|pod| pod.node.as_deref()).collect()
    }

    /// Whether a workload that exists, or a pod, is of another template than the target's.
    pub fn rolls(&self) -> bool {
        !(self.object_absent || self.object_current) || !self.outdated.is_empty()
    }

    /// Whether every wanted pod is the target's and serves. Nodes that are lost are not waited for, unless all are.
    pub fn rolled(&self, view: View<'_>) -> bool {
        self.object_current
            && self.object_seen
            && self.outdated.is_empty()
            && self.ready.len() >= self.wanted.max(usize::from(self.unreachable > 0))
            && self.away.values().all(|since| view.is_lost(*since))
    }

    /// What has failed: those for whom the time is over.
    pub fn failed(&self, view: View<'_>) -> impl Iterator<Item = &Cause> {
        self.causes.iter().filter(move |cause| cause.fails_at <= view.now)
    }

    /// What to say while it isn't rolled.
    pub fn waiting(&self, canary: Option<String>) -> WaitingOn {
        let (ready, of) = (self.ready.len(), self.wanted.max(self.ready.len()));
        let cause = self.causes.first().cloned();
        match self.component {
            Component::Handler => WaitingOn::HandlersNotReady { ready, of, canary, cause },
            Component::Controller => WaitingOn::ControllersNotReady { ready, of, cause },
            Component::Api => WaitingOn::ApiNotReady { ready, of, cause },
        }
    }
}

/// Since when the target is tried, where another ran before: what its record says, or now where it has none yet.
fn tried_since(view: View<'_>, target: &ManifestSet) -> Option<Timestamp> {
    let (status, id) = (view.status()?, target.config.id());
    if *status.observed_deployment_id.as_ref()? == id {
        return None;
    }
    let failed = status.failed_update.as_ref().is_some_and(|failed| failed.deployment_id == id);
    let record = status.history.last().filter(|record| {
        record.to == target.config.release.to_string() && (record.completed.is_none() || failed)
    });
    Some(record.map_or(view.now, |record| record.started))
}

#[cfg(test)]
mod tests {
    use kubevirt_manifests::InstallConfig;
    use kubevirt_types::Release;
    use kubevirt_types::kubevirt::KubeVirtStatus;
    use serde_json::json;

    use super::*;
    use crate::context::Nodes;
    use crate::fixture::{at, observed};
    use crate::policy::Policy;

    #[test]
    fn a_target_is_tried_since_its_record_began() {
        let target = kubevirt_manifests::manifests(&InstallConfig::of(Release::V0_18_0));
        let id = target.config.id();
        let since = |status: Option<serde_json::Value>| {
            let mut observed = observed();
            let status = status.map(|status| serde_json::from_value::<KubeVirtStatus>(status).unwrap());
            observed.kubevirt.as_mut().unwrap().status = status;
            let (policy, nodes) = (Policy::default(), Nodes::of(&observed));
            let kubevirt = observed.kubevirt.as_ref().unwrap();
            let view = View { observed: &observed, kubevirt, policy: &policy, now: at(900), nodes: &nodes };
            tried_since(view, &target)
        };
        assert_eq!(since(None), None, "an installation has nothing to come back to");
        let at_id =
            |id: &str, history: serde_json::Value| json!({"observedDeploymentID": id, "history": history});
        let open = json!([{"from": "v0.17.0", "to": "v0.18.0", "started": at(100)}]);
        assert_eq!(since(Some(at_id(&id, open.clone()))), None, "it ran before");
        assert_eq!(since(Some(at_id("other", open))), Some(at(100)));
        assert_eq!(since(Some(at_id("other", json!([])))), Some(at(900)), "nobody has begun yet");
        let over = json!([{"from": "v0.17.0", "to": "v0.18.0", "started": at(100), "completed": at(200)}]);
        assert_eq!(since(Some(at_id("other", over.clone()))), Some(at(900)), "that was another time");
        let mut paused = at_id("other", over);
        paused["failedUpdate"] = json!({
            "deploymentID": id, "version": "v0.18.0", "component": "virt-api", "cause": "c", "at": at(200), "action": "Pause",
        });
        assert_eq!(since(Some(paused)), Some(at(100)), "it stays where it failed");
    }
}
