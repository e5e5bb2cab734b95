//! What no plan may ever do, checked on every plan before it is carried out.
//!
//! Written without the planner's own decisions, so that a mistake there is caught here. I1, I2, I10 and I11 are
//! statements about sequences of plans: the simulator checks them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::{ObjectKey, Release, gate, labels};
use serde_json::{Value, json};

use crate::observed::{Node, Observed, Pod};
use crate::order::{Class, Component, class};
use crate::plan::{Direction, Plan};
use crate::policy::Policy;
use crate::step::{Precondition, Step};

/// An invariant, by its number in the design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A plan at the target is empty.
    I1EmptyAtTarget,
    /// Applying a plan twice changes nothing more.
    I2Idempotent,
    /// virt-api is never newer than the slowest controller or handler.
    I3ApiNeverAhead,
    /// Ready virt-apis never get fewer.
    I4ApiAlwaysServes,
    /// No step of a control-plane rollout touches a VM or its pod.
    I5NoWorkloadTouched,
    /// One handler at a time before the canary is healthy, at most 10 % then, and none unavailable.
    I6CanaryFirst,
    /// Old access rules stand while an old pod acts.
    I7OldRbacStands,
    /// Nothing is deleted before everything has rolled.
    I8NothingDeletedEarly,
    /// No step comes from an unsynced view.
    I9SyncedView,
    /// Never are two domains of one VM running.
    I10OneDomain,
    /// A new target at any moment still converges.
    I11Converges,
    /// A stale step can only fail: every write of an existing object names what was seen.
    I12StaleStepFails,
    /// A kind or a version that some release in play lacks is guarded, and none in use is dropped.
    CrdsInUse,
}

/// An invariant that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The step that breaks it.
    pub step: String,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.invariant, self.step, self.detail)
    }
}

/// Checks a plan against what it was made from.
///
/// # Errors
/// Every violation, in the order of the steps.
pub fn check(
    plan: &Plan,
    observed: &Observed,
    policy: &Policy,
    now: Timestamp,
) -> Result<(), Vec<Violation>> {
    let nodes = observed.nodes.iter().map(|node| (node.name(), node)).collect();
    let facts = Facts { plan, observed, policy, now, nodes };
    let mut violations = Vec::new();
    for step in &plan.steps {
        let rules: [(Invariant, Option<String>); 9] = [
            (Invariant::I3ApiNeverAhead, facts.api_ahead(step)),
            (Invariant::I4ApiAlwaysServes, facts.api_stops(step)),
            (Invariant::I5NoWorkloadTouched, facts.workload_touched(step)),
            (Invariant::I6CanaryFirst, facts.too_many_handlers(step)),
            (Invariant::I7OldRbacStands, facts.rule_taken(step)),
            (Invariant::I8NothingDeletedEarly, facts.deleted_early(step)),
            (Invariant::I9SyncedView, (!observed.synced).then(|| "the view is not synced".to_owned())),
            (Invariant::I12StaleStepFails, facts.unguarded_write(step)),
            (Invariant::CrdsInUse, facts.crd_in_use(step)),
        ];
        violations.extend(rules.into_iter().filter_map(|(invariant, broken)| {
            Some(Violation { invariant, step: step.to_string(), detail: broken? })
        }));
    }
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

struct Facts<'a> {
    plan: &'a Plan,
    observed: &'a Observed,
    policy: &'a Policy,
    now: Timestamp,
    nodes: BTreeMap<&'a str, &'a Node>,
}

impl<'a> Facts<'a> {
    fn uninstalls(&self) -> bool {
        self.plan.direction == Direction::Uninstall
    }

    /// Pods that may act: not those whose deletion is longer ago than a handover takes, unless their node is NotReady.
    fn acting(&self, component: Component) -> impl Iterator<Item = &'a Pod> {
        self.observed.pods.iter().filter(move |pod| {
            let told = pod
                .deleting_since
                .is_some_and(|since| self.now.duration_since(since) >= self.policy.handover);
            pod.component == component.name() && (!told || !self.reachable(pod))
        })
    }

    /// Releases of a component's pods that nobody has asked to go, and that aren't on a lost node.
    fn releases(&self, component: Component) -> impl Iterator<Item = &'a Release> {
        self.acting(component)
            .filter(|pod| pod.deleting_since.is_none() && !self.is_lost(pod))
            .filter_map(|pod| pod.release.as_ref())
    }

    fn live(&self, key: &ObjectKey) -> Option<&'a Value> {
        self.observed.objects.get(key)
    }

    /// The target's release, when a pod of another one may act or a workload still makes such pods.
    fn mixed(&self) -> Option<&'a Release> {
        let target = &self.plan.target.as_ref()?.release;
        let other_pod = Component::ALL
            .into_iter()
            .flat_map(|component| self.acting(component))
            .any(|pod| pod.release.as_ref() != Some(target));
        let other_object = Component::ALL.into_iter().any(|component| {
            self.live(&component.key(&self.observed.operator.namespace))
                .is_some_and(|live| template_release(live).as_ref() != Some(target))
        });
        (other_pod || other_object).then_some(target)
    }

    fn api_ahead(&self, step: &Step) -> Option<String> {
        let Step::Apply { manifest, .. } = step else { return None };
        let Class::Workload(component) = class(&manifest.key) else { return None };
        let wanted = template_release(&manifest.body)?;
        if self.live(&manifest.key).and_then(template_release).is_none_or(|live| live == wanted) {
            return None;
        }
        match component {
            Component::Api => [Component::Handler, Component::Controller]
                .into_iter()
                .flat_map(|other| self.releases(other))
                .find(|release| **release < wanted)
                .map(|slowest| format!("virt-api would be {wanted} beside {slowest}")),
            Component::Handler | Component::Controller => self
                .releases(Component::Api)
                .find(|release| **release > wanted)
                .map(|api| format!("{} would be {wanted} beside virt-api {api}", component.name())),
        }
    }

    fn api_stops(&self, step: &Step) -> Option<String> {
        if self.uninstalls() {
            return None;
        }
        let key = Component::Api.key(&self.observed.operator.namespace);
        match step {
            Step::Delete { key: deleted, .. } if *deleted == key => {
                Some("virt-api would be deleted".to_owned())
            }
            Step::Apply { manifest, .. } if manifest.key == key => {
                let spec = &manifest.body["spec"];
                let unavailable = &spec["strategy"]["rollingUpdate"]["maxUnavailable"];
                let had =
                    self.live(&key).and_then(|live| live["spec"]["replicas"].as_u64()).unwrap_or(0).min(2);
                if *unavailable != json!(0) {
                    Some(format!("maxUnavailable would be {unavailable}"))
                } else if spec["replicas"].as_u64().unwrap_or(1) < had {
                    Some(format!("replicas would be {}", spec["replicas"]))
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    fn workload_touched(&self, step: &Step) -> Option<String> {
        if self.uninstalls() {
            return None;
        }
        let touched = match step {
            Step::DeleteInstances { kind, .. } => Some(kind.clone()),
            Step::Apply { manifest, .. } => workload(&manifest.key),
            Step::Delete { key, .. } => workload(key),
            Step::CreateStrategyJob { .. }
            | Step::StoreStrategy { .. }
            | Step::IssueCa { .. }
            | Step::IssueLeaf { .. }
            | Step::AddFinalizer { .. }
            | Step::RemoveFinalizer { .. } => None,
            // rewrites objects as they are
            Step::MigrateStorage { .. } => None,
            Step::CleanNode { node, .. } => Some(format!("node {node}")),
        };
        touched.map(|what| format!("{what} would be touched"))
    }

    fn too_many_handlers(&self, step: &Step) -> Option<String> {
        let Step::Apply { manifest, .. } = step else { return None };
        if class(&manifest.key) != Class::Workload(Component::Handler) {
            return None;
        }
        let strategy = &manifest.body["spec"]["updateStrategy"];
        if strategy["type"] == json!("OnDelete") {
            return None;
        }
        let rolling = &strategy["rollingUpdate"];
        if rolling["maxUnavailable"] != json!(0) {
            return Some(format!("maxUnavailable would be {}", rolling["maxUnavailable"]));
        }
        let Some(surge) = rolling["maxSurge"].as_u64().and_then(|n| usize::try_from(n).ok()) else {
            return Some(format!("maxSurge would be {}", rolling["maxSurge"]));
        };
        let handlers = |pod: &&Pod| pod.deleting_since.is_none();
        let hash = template_hash(&manifest.body);
        let others = || {
            self.acting(Component::Handler)
                .filter(handlers)
                .filter(|pod| pod.template_hash.as_deref() != hash && self.reachable(pod))
        };
        let nodes: BTreeSet<_> =
            self.acting(Component::Handler).filter_map(|pod| pod.node.as_ref()).collect();
        if surge > nodes.len().div_ceil(10).max(1) {
            return Some(format!("maxSurge would be {surge} on {} nodes", nodes.len()));
        }
        let soak = self.soak();
        let healthy = self.acting(Component::Handler).filter(handlers).any(|pod| {
            pod.template_hash.as_deref() == hash
                && self.reachable(pod)
                && pod.ready_since.is_some_and(|since| self.now.duration_since(since) >= soak)
                && !others().any(|other| other.node == pod.node)
        });
        let waits = manifest.body["spec"]["minReadySeconds"].as_i64().unwrap_or(0) >= soak.as_secs();
        if healthy || others().next().is_none() || (surge <= 1 && waits) {
            return None;
        }
        Some(format!(
            "maxSurge would be {surge} and minReadySeconds {} before a canary is healthy",
            manifest.body["spec"]["minReadySeconds"]
        ))
    }

    fn soak(&self) -> SignedDuration {
        let spec = self.observed.kubevirt.as_ref().map(|kubevirt| &kubevirt.spec);
        spec.map_or(self.policy.soak, |spec| self.policy.soak(spec))
    }

    /// Whether a pod's node is Ready, as far as is known.
    fn reachable(&self, pod: &Pod) -> bool {
        self.not_ready_since(pod).is_none()
    }

    fn not_ready_since(&self, pod: &Pod) -> Option<Timestamp> {
        self.nodes.get(pod.node.as_deref()?)?.not_ready_since
    }

    /// Whether a pod is on a node for which nobody waits any more.
    fn is_lost(&self, pod: &Pod) -> bool {
        self.not_ready_since(pod).is_some_and(|since| gate::is_lost(since, self.now))
    }

    fn rule_taken(&self, step: &Step) -> Option<String> {
        self.mixed()?;
        match step {
            Step::Apply { manifest, precondition: Precondition::Unchanged { .. } }
                if class(&manifest.key) == Class::Rbac =>
            {
                let live = self.live(&manifest.key)?;
                let lost = |list: &str| {
                    let new = manifest.body[list].as_array();
                    let in_play = self.in_play(&manifest.key, list);
                    live[list]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .find(|one| in_play.contains(one) && !new.is_some_and(|new| new.contains(one)))
                        .map(|one| format!("{list} would lose {one}"))
                };
                lost("rules").or_else(|| lost("subjects"))
            }
            Step::Delete { key, .. } if class(key) == Class::Rbac && !self.uninstalls() => {
                Some("it would be deleted".to_owned())
            }
            _ => None,
        }
    }

    /// The rules or subjects that the manifest sets of pods that act give to an object.
    fn in_play(&self, key: &ObjectKey, list: &str) -> Vec<&'a Value> {
        let acting: Vec<&Release> = Component::ALL
            .into_iter()
            .flat_map(|component| self.acting(component))
            .filter_map(|pod| pod.release.as_ref())
            .collect();
        self.observed
            .strategies
            .values()
            .filter(|stored| acting.contains(&&stored.set.config.release))
            .filter_map(|stored| stored.set.get(key)?.body[list].as_array())
            .flatten()
            .collect()
    }

    fn deleted_early(&self, step: &Step) -> Option<String> {
        let Step::Delete { key, .. } = step else { return None };
        let harmless = class(key) == Class::Guard || key.kind == "Job";
        if self.uninstalls() || harmless {
            return None;
        }
        self.mixed().map(|target| format!("it would be deleted before everything is {target}"))
    }

    fn unguarded_write(&self, step: &Step) -> Option<String> {
        let seen = |key: &ObjectKey, uid: &str, version: &str| match self.live(key) {
            Some(live) => live["metadata"]["uid"] == uid && live["metadata"]["resourceVersion"] == version,
            None => !uid.is_empty() && !version.is_empty(),
        };
        match step {
            Step::Apply { manifest, precondition: Precondition::Absent } => {
                self.live(&manifest.key).map(|_| "it exists".to_owned())
            }
            Step::Apply { manifest, precondition: Precondition::Unchanged { uid, resource_version } } => {
                (!seen(&manifest.key, uid, resource_version))
                    .then(|| "its precondition is not what was seen".to_owned())
            }
            Step::Delete { key, uid, resource_version, .. }
            | Step::MigrateStorage { crd: key, uid, resource_version, .. } => {
                (!seen(key, uid, resource_version))
                    .then(|| "its precondition is not what was seen".to_owned())
            }
            Step::DeleteInstances { .. }
            | Step::CreateStrategyJob { .. }
            | Step::StoreStrategy { .. }
            | Step::IssueCa { .. }
            | Step::IssueLeaf { .. }
            | Step::AddFinalizer { .. }
            | Step::RemoveFinalizer { .. }
            | Step::CleanNode { .. } => None,
        }
    }

    fn crd_in_use(&self, step: &Step) -> Option<String> {
        if let Step::MigrateStorage { crd, version, .. } = step {
            let mut versions = self.live(crd)?["spec"]["versions"].as_array().into_iter().flatten();
            let written = versions.any(|known| known["name"] == *version && known["storage"] == true);
            return (!written)
                .then(|| format!("objects would be taken to be stored as {version}, and aren't"));
        }
        let Step::Apply { manifest, .. } = step else { return None };
        if class(&manifest.key) != Class::Crd {
            return None;
        }
        let names = |crd: &Value| -> Vec<String> {
            crd["spec"]["versions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|version| version["served"] == true)
                .filter_map(|version| version["name"].as_str().map(str::to_owned))
                .collect()
        };
        let Some(live) = self.live(&manifest.key) else {
            let target = self.mixed()?;
            let acting: Vec<&Release> =
                Component::ALL.into_iter().flat_map(|component| self.releases(component)).collect();
            let lacking = self.observed.strategies.values().any(|stored| {
                stored.set.config.release != *target
                    && acting.contains(&&stored.set.config.release)
                    && stored.set.get(&manifest.key).is_none()
            });
            let open = lacking && !self.observed.guard_active;
            return open.then(|| "a new kind would be open before the update is over".to_owned());
        };
        let wanted = names(&manifest.body);
        let stored =
            live["status"]["storedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let listed: Vec<&str> = manifest.body["spec"]["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|version| version["name"].as_str())
            .collect();
        if let Some(lost) = stored.into_iter().find(|version| !listed.contains(version)) {
            return Some(format!("version {lost}, in which objects are stored, would be dropped"));
        }
        let dropped = names(live).into_iter().find(|version| !wanted.contains(version));
        dropped
            .filter(|_| self.mixed().is_some())
            .map(|lost| format!("served version {lost} would be dropped"))
    }
}

/// Pods, and objects of our kinds.
fn workload(key: &ObjectKey) -> Option<String> {
    (key.kind == "Pod" || key.group() == kubevirt_types::GROUP).then(|| key.to_string())
}

fn template_release(workload: &Value) -> Option<Release> {
    workload.pointer("/spec/template/metadata/labels")?.get(labels::REPORT_VERSION)?.as_str()?.parse().ok()
}

fn template_hash(workload: &Value) -> Option<&str> {
    workload.pointer("/spec/template/metadata/annotations")?.get(labels::TEMPLATE_HASH)?.as_str()
}

#[cfg(test)]
mod tests;
