//! What a launcher pod says about itself, reduced to what a VMI's phase depends on.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, Pod, PodStatus};
use kubevirt_types::migration::MigrationState;
use kubevirt_types::{VirtualMachineInstance, labels};
use serde_json::Value;

use crate::launcher::{COMPUTE, pod_name};
use crate::owner;

/// How far an instance's launcher pod is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Launcher<'a> {
    /// There is none.
    Missing,
    /// It is there and its launcher doesn't answer yet.
    Preparing(&'a Pod),
    /// Its launcher answers, on this node.
    Ready(&'a Pod, &'a str),
    /// All its containers have ended, for good.
    Finished {
        /// The pod.
        pod: &'a Pod,
        /// Whether the launcher said that all went well.
        success: bool,
        /// When the last container ended, where the kubelet told.
        at: Option<Timestamp>,
    },
}

/// The launcher pods of an instance among `pods`: those that it controls, by uid.
pub fn of_vmi<'a>(vmi: &VirtualMachineInstance, pods: &'a [Arc<Pod>]) -> Vec<&'a Pod> {
    pods.iter().map(Arc::as_ref).filter(|pod| owner::controls(vmi.uid(), &pod.metadata)).collect()
}

/// The migration that made a pod, by its uid; none for an instance's first pod.
pub fn migration_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(labels::MIGRATION_UID).map(String::as_str)
}

/// The pod that has the guest, or is going to have it without a migration.
///
/// Where the guest has moved, or is about to, the migration's state names the pod. Else it is on
/// the instance's node if that has one, alive rather than finished, and the one that this controller
/// would make rather than another.
pub fn owner_pod<'a>(vmi: &VirtualMachineInstance, pods: &[&'a Pod]) -> Option<&'a Pod> {
    let status = vmi.status.as_ref();
    if let Some(state) = status.and_then(|status| status.migration_state.as_ref()) {
        return by_name(pods, if state.completed { &state.target_pod } else { &state.source_pod });
    }
    let node = status.and_then(|status| status.node_name.as_deref());
    let made_here = pod_name(vmi);
    pods.iter().copied().filter(|pod| migration_of(pod).is_none()).min_by_key(|pod| {
        (
            is_finished(pod),
            node.is_some() && node_of(pod) != node,
            pod.metadata.name.as_ref() != Some(&made_here),
        )
    })
}

/// What an instance's end depends on: the launcher of [`owner_pod`], and with it the target's while
/// nobody has said which of the two has the guest.
pub fn current<'a>(vmi: &VirtualMachineInstance, pods: &[&'a Pod]) -> Launcher<'a> {
    let owner = owner_pod(vmi, pods).map_or(Launcher::Missing, look);
    let state = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    if let Some(state) = state.filter(|state| !state.is_final()) {
        let target = look_for(pods, &state.target_pod);
        if has_shut_down(target) {
            // It ran there, and nobody has come to say so.
            return target;
        }
    }
    match (owner, state) {
        (Launcher::Missing | Launcher::Finished { .. }, Some(state)) if !state.completed => {
            after_source(owner, look_for(pods, &state.target_pod), state)
        }
        (owner, _) => owner,
    }
}

/// Whether a guest is no more where a migration that isn't over began, and may have come to its target.
pub fn may_have_left(vmi: &VirtualMachineInstance, pods: &[&Pod]) -> bool {
    let state = vmi.status.as_ref().and_then(|status| status.migration_state.as_ref());
    let source = owner_pod(vmi, pods).map_or(Launcher::Missing, look);
    state.is_some_and(|state| !state.is_final() && handed_over(source, state))
}

/// Whether a source that has ended, or is gone, may have given its guest away.
fn handed_over(source: Launcher<'_>, state: &MigrationState) -> bool {
    match source {
        Launcher::Finished { pod, .. } => match last_reason(pod).as_deref() {
            Some(MIGRATED) => true,
            Some(reason) if SHUT_DOWN.contains(&reason) => false,
            // It may have handed over and died before it was sure. One whose migration has failed
            // kept its guest, unless it says otherwise.
            Some(_) | None => !state.failed,
        },
        Launcher::Missing => !state.failed,
        Launcher::Preparing(_) | Launcher::Ready(..) => false,
    }
}

/// The source of a migration that isn't completed has ended, as `source` says.
fn after_source<'a>(source: Launcher<'a>, target: Launcher<'a>, state: &MigrationState) -> Launcher<'a> {
    if !handed_over(source, state) {
        return source;
    }
    match (source, target) {
        // It may have the guest: no end is judged while it lives.
        (_, Launcher::Preparing(_) | Launcher::Ready(..)) => target,
        (
            Launcher::Finished { success: left_well, at: left, .. },
            Launcher::Finished { pod, success: ended_well, at: ended },
        ) => Launcher::Finished { pod, success: left_well && ended_well, at: left.max(ended) },
        (Launcher::Finished { pod, at, .. }, Launcher::Missing) => {
            Launcher::Finished { pod, success: false, at }
        }
        (Launcher::Missing | Launcher::Preparing(_) | Launcher::Ready(..), _) => Launcher::Missing,
    }
}

fn by_name<'a>(pods: &[&'a Pod], name: &str) -> Option<&'a Pod> {
    pods.iter().copied().find(|pod| pod.metadata.name.as_deref() == Some(name))
}

/// The launcher in the pod of this name.
pub fn look_for<'a>(pods: &[&'a Pod], name: &str) -> Launcher<'a> {
    by_name(pods, name).map_or(Launcher::Missing, look)
}

/// Whether a launcher has ended because its guest runs at a migration's target.
pub fn has_migrated(launcher: Launcher<'_>) -> bool {
    match launcher {
        Launcher::Finished { pod, .. } => last_reason(pod).as_deref() == Some(MIGRATED),
        Launcher::Missing | Launcher::Preparing(_) | Launcher::Ready(..) => false,
    }
}

/// Whether a launcher has ended because its guest shut itself down: it was there, then.
pub fn has_shut_down(launcher: Launcher<'_>) -> bool {
    match launcher {
        Launcher::Finished { pod, .. } => {
            last_reason(pod).is_some_and(|reason| SHUT_DOWN.contains(&reason.as_str()))
        }
        Launcher::Missing | Launcher::Preparing(_) | Launcher::Ready(..) => false,
    }
}

/// The reason with which a launcher ends whose guest runs at a migration's target.
const MIGRATED: &str = "Migrated";

/// Reasons with which a launcher ends whose guest shut itself down, and so was there.
const SHUT_DOWN: [&str; 2] = ["Shutdown", "GuestShutdown"];

/// The reason that the launcher left when it ended; none when it could leave none.
fn last_reason(pod: &Pod) -> Option<String> {
    let all = status(pod)?.container_statuses.as_ref()?;
    let compute = all.iter().find(|container| container.name == COMPUTE)?;
    let said: Value =
        serde_json::from_str(compute.state.as_ref()?.terminated.as_ref()?.message.as_deref()?).ok()?;
    said["reason"].as_str().map(str::to_owned)
}

/// How far the launcher in a pod is.
pub fn look(pod: &Pod) -> Launcher<'_> {
    if is_finished(pod) {
        let success = status(pod).and_then(|s| s.phase.as_deref()) == Some("Succeeded");
        return Launcher::Finished { pod, success, at: finished_at(pod) };
    }
    match node_of(pod) {
        Some(node) if condition(pod, "Ready").is_some_and(|(ready, _, _)| ready) => {
            Launcher::Ready(pod, node)
        }
        Some(_) | None => Launcher::Preparing(pod),
    }
}

/// Whether every container has ended and the kubelet won't start one again.
///
/// The phase alone isn't enough: a controller may call a pod Failed whose node can't be
/// asked, and then a guest may still run there.
pub fn is_finished(pod: &Pod) -> bool {
    let Some(status) = status(pod) else { return false };
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let running = status
        .container_statuses
        .iter()
        .flatten()
        .any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    over && !running
}

/// The node that the pod was bound to.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// A condition of the pod: whether it is true, its reason and its message.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(bool, &'a str, &'a str)> {
    let condition = status(pod)?.conditions.iter().flatten().find(|c| c.type_ == type_)?;
    Some((
        condition.status == "True",
        condition.reason.as_deref().unwrap_or_default(),
        condition.message.as_deref().unwrap_or_default(),
    ))
}

/// Why an image of the pod can't be had, such as `ErrImagePull` or `ImagePullBackOff`, and a message.
pub fn image_problem(pod: &Pod) -> Option<(&str, &str)> {
    let status = status(pod)?;
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.filter_map(|container| container.state.as_ref()?.waiting.as_ref()).find_map(|waiting| {
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.as_deref().unwrap_or_default();
        matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull")
            .then_some((reason, message))
    })
}

/// Why the pod failed, in the kubelet's words.
pub fn failure(pod: &Pod) -> String {
    let Some(status) = status(pod) else { return String::new() };
    if let Some(reason) = &status.reason {
        return format!("{reason}: {}", status.message.as_deref().unwrap_or_default());
    }
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let ended = all.filter_map(|container| {
        let end = container.state.as_ref()?.terminated.as_ref()?;
        (end.exit_code != 0).then(|| {
            let said = end.message.as_deref().or(end.reason.as_deref()).unwrap_or_default();
            let said = said.trim().lines().last().unwrap_or_default();
            format!("container {} ended with exit code {}: {said}", container.name, end.exit_code)
        })
    });
    ended.collect::<Vec<_>>().join("; ")
}

/// The image that the launcher runs.
pub fn launcher_image(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.containers.iter().find(|c| c.name == COMPUTE)?.image.clone()
}

fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let ended = |state: &ContainerState| Some(state.terminated.as_ref()?.finished_at.as_ref()?.0);
    status(pod)?.container_statuses.iter().flatten().filter_map(|c| ended(c.state.as_ref()?)).max()
}

fn status(pod: &Pod) -> Option<&PodStatus> {
    pod.status.as_ref()
}
