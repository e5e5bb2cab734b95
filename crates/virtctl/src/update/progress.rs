//! What a person is told about an update, from what was seen: pure.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubevirt_types::condition::{Condition, ConditionStatus};
use kubevirt_types::kubevirt::{FailedUpdate, KubeVirtStatus, OnFailure};
use kubevirt_types::labels::{APP, RETRY_UPDATE, TEMPLATE_HASH};
use kubevirt_types::{KubeVirt, Release};

/// What an update replaces, in its order.
pub(super) const COMPONENTS: [&str; 3] = ["virt-handler", "virt-controller", "virt-api"];
/// Who carries it out.
pub(super) const OPERATOR: &str = "virt-operator";

/// The installation as it was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) kubevirt: KubeVirt,
    pub(super) deployments: Vec<Deployment>,
    pub(super) daemon_sets: Vec<DaemonSet>,
    pub(super) pods: Vec<Pod>,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// From where to where.
    pub(super) title: String,
    /// The release that is wanted.
    pub(super) target: String,
    /// One line for each component.
    pub(super) rows: Vec<Row>,
    /// What is waited for, in sentences.
    pub(super) waiting: Vec<String>,
    pub(super) outcome: Outcome,
}

/// How far one component is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) component: &'static str,
    /// Pods of the target that are ready.
    pub(super) updated: usize,
    /// Pods that are wanted.
    pub(super) wanted: usize,
    /// Pods that are still there from before.
    pub(super) old: usize,
}

/// Whether it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    GoingOn,
    Done,
    /// The operator has given up, for the reason that it gives.
    Failing(String),
    /// The target has failed, and the previous version is back or everything stands still.
    Failed(String),
}

pub(super) fn view(seen: &Seen) -> View {
    let status = seen.kubevirt.status.clone().unwrap_or_default();
    let target = status.target_kube_virt_version.clone().unwrap_or_default();
    let observed = status.observed_kube_virt_version.clone();
    let given_up = failed(seen, &status)
        .filter(|failed| status.target_deployment_id.as_ref() != Some(&failed.deployment_id));
    let title = match (observed, given_up) {
        (_, Some(failed)) if failed.version == target => {
            format!("KubeVirt {target}: the change failed, back to what ran before")
        }
        (_, Some(failed)) => format!("KubeVirt {} failed, back to {target}", failed.version),
        (Some(observed), None) if observed == target => format!("KubeVirt {target}"),
        (Some(observed), None) => format!("KubeVirt {observed} -> {target}"),
        (None, None) => format!("KubeVirt -> {target}"),
    };
    let outcome = outcome(seen, &status);
    let waiting = match outcome {
        Outcome::Done => vec![],
        Outcome::GoingOn | Outcome::Failing(_) | Outcome::Failed(_) => waiting(seen, &status),
    };
    let rows = COMPONENTS.map(|component| row(seen, &status, component)).into();
    View { title, target, rows, waiting, outcome }
}

fn outcome(seen: &Seen, status: &KubeVirtStatus) -> Outcome {
    let condition = |type_| find(status, type_).map(|condition| condition.status);
    let settled = condition("Progressing") == Some(ConditionStatus::False);
    if let Some(failed) = failed(seen, status) {
        return given_up(failed, status, settled);
    }
    if settled && condition("Degraded") == Some(ConditionStatus::True) {
        let message = find(status, "Degraded").and_then(|condition| condition.message.clone());
        return Outcome::Failing(message.unwrap_or_else(|| "KubeVirt is degraded".into()));
    }
    let arrived = status.observed_deployment_id.is_some()
        && status.observed_deployment_id == status.target_deployment_id
        && status.observed_generation == seen.kubevirt.metadata.generation;
    let good = condition("Available") == Some(ConditionStatus::True);
    if arrived && settled && good && operator_change(seen, status).is_none() {
        Outcome::Done
    } else {
        Outcome::GoingOn
    }
}

/// The failure of what the spec asks for. One of another tag, or before another try was asked for, is over.
fn failed<'a>(seen: &Seen, status: &'a KubeVirtStatus) -> Option<&'a FailedUpdate> {
    let failed = status.failed_update.as_ref()?;
    let retry = seen.kubevirt.metadata.annotations.as_ref().and_then(|all| all.get(RETRY_UPDATE));
    let release = |tag: &str| tag.parse::<Release>().ok();
    let tag = seen.kubevirt.spec.image_tag.as_deref().and_then(release);
    let other = tag.is_some_and(|tag| Some(tag) != release(&failed.version));
    (failed.retry.as_ref() == retry && !other).then_some(failed)
}

/// What came of a failure: nothing moves, or the previous version comes back, or is back.
fn given_up(failed: &FailedUpdate, status: &KubeVirtStatus, settled: bool) -> Outcome {
    let FailedUpdate { version, component, cause, .. } = failed;
    let back = settled && status.target_deployment_id == status.observed_deployment_id;
    match failed.action {
        OnFailure::Pause => Outcome::Failed(format!(
            "{version} failed, and the update is paused at {component}: {cause}; virtctl update retry tries again"
        )),
        OnFailure::Rollback if back => {
            let previous = status.observed_kube_virt_version.as_deref().unwrap_or_default();
            Outcome::Failed(format!(
                "{version} failed, and {previous} is back: {cause}; virtctl update retry tries again"
            ))
        }
        OnFailure::Rollback => Outcome::GoingOn,
    }
}

/// An operator that is being replaced, or hasn't looked yet: without `spec.imageTag` that is where an update begins.
fn operator_change(seen: &Seen, status: &KubeVirtStatus) -> Option<String> {
    let named = |deployment: &&Deployment| deployment.metadata.name.as_deref() == Some(OPERATOR);
    let deployment = seen.deployments.iter().find(named)?;
    let (spec, state) = (deployment.spec.as_ref()?, deployment.status.as_ref()?);
    let wanted = spec.replicas.unwrap_or(1);
    let updated = state.updated_replicas.unwrap_or(0);
    let rolling = state.observed_generation < deployment.metadata.generation
        || updated < wanted
        || state.replicas.unwrap_or(0) > updated;
    if rolling {
        return Some(format!("{OPERATOR} to be replaced ({updated} of {wanted})"));
    }
    let image = spec.template.spec.as_ref()?.containers.first()?.image.as_deref()?;
    let release: Release = image.rsplit_once(':')?.1.parse().ok()?;
    let writer: Release = status.operator_version.as_deref()?.parse().ok()?;
    (release != writer).then(|| format!("{OPERATOR} {release} to take over from {writer}"))
}

/// What the operator says that it waits for, and what it can't say because it hasn't looked yet.
fn waiting(seen: &Seen, status: &KubeVirtStatus) -> Vec<String> {
    let said = find(status, "Progressing")
        .filter(|condition| condition.status == ConditionStatus::True)
        .and_then(|condition| condition.message.as_deref())
        .and_then(|message| message.split_once(": waiting for "))
        .map(|(_, waiting)| waiting.split("; ").map(str::to_owned).collect())
        .unwrap_or_default();
    let unseen = status.observed_generation != seen.kubevirt.metadata.generation
        && find(status, "Progressing").is_none_or(|condition| condition.status != ConditionStatus::True);
    let unseen = unseen.then(|| format!("{OPERATOR} to look at the change"));
    let operator = operator_change(seen, status);
    [operator.into_iter().chain(unseen).collect::<Vec<_>>(), said].concat()
}

fn row(seen: &Seen, status: &KubeVirtStatus, component: &'static str) -> Row {
    let of_component = |pod: &&Pod| {
        pod.metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.get(APP).map(String::as_str) == Some(component))
    };
    let (mut updated, mut old) = (0, 0);
    for pod in seen.pods.iter().filter(of_component) {
        if !is_target(seen, status, component, pod) {
            old += 1;
        } else if is_ready(pod) && pod.metadata.deletion_timestamp.is_none() {
            updated += 1;
        }
    }
    let wanted = wanted(seen, component);
    Row { component, updated: updated.min(wanted), wanted, old }
}

/// Made from the target's image and from its workload's present template.
fn is_target(seen: &Seen, status: &KubeVirtStatus, component: &str, pod: &Pod) -> bool {
    let (Some(registry), Some(version)) =
        (&status.target_kube_virt_registry, &status.target_kube_virt_version)
    else {
        return false;
    };
    let image = format!("{registry}/{component}:{version}");
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let of_image = containers.into_iter().any(|container| container.image.as_ref() == Some(&image));
    of_image && template_hash(seen, component).is_none_or(|hash| hash_of(&pod.metadata) == Some(hash))
}

fn hash_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get(TEMPLATE_HASH).map(String::as_str)
}

/// Hash that a component's workload stamps on the pods that it makes now.
fn template_hash<'a>(seen: &'a Seen, component: &str) -> Option<&'a str> {
    let deployment = seen.deployments.iter().find(|d| d.metadata.name.as_deref() == Some(component));
    let daemon_set = seen.daemon_sets.iter().find(|d| d.metadata.name.as_deref() == Some(component));
    let of_deployment = deployment.and_then(|d| d.spec.as_ref()).map(|spec| &spec.template);
    let of_daemon_set = daemon_set.and_then(|d| d.spec.as_ref()).map(|spec| &spec.template);
    hash_of(of_deployment.or(of_daemon_set)?.metadata.as_ref()?)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn wanted(seen: &Seen, component: &str) -> usize {
    let deployment = seen.deployments.iter().find(|d| d.metadata.name.as_deref() == Some(component));
    let daemon_set = seen.daemon_sets.iter().find(|d| d.metadata.name.as_deref() == Some(component));
    let replicas = deployment.and_then(|d| d.spec.as_ref()).map(|spec| spec.replicas.unwrap_or(1));
    let nodes = daemon_set.and_then(|d| d.status.as_ref()).map(|status| status.desired_number_scheduled);
    usize::try_from(replicas.or(nodes).unwrap_or(0)).unwrap_or(0)
}

fn find<'a>(status: &'a KubeVirtStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests;
