//! What a launcher pod says about itself, reduced to what a VMI's phase depends on.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, Pod, PodStatus};
use kubevirt_types::VirtualMachineInstance;

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

/// The pod that runs the guest, or is going to: on the instance's node if it has one, alive
/// rather than finished, and the one that this controller would make rather than another.
pub fn current<'a>(vmi: &VirtualMachineInstance, pods: &[&'a Pod]) -> Launcher<'a> {
    let node = vmi.status.as_ref().and_then(|status| status.node_name.as_deref());
    let made_here = pod_name(vmi);
    pods.iter()
        .copied()
        .min_by_key(|pod| {
            (
                is_finished(pod),
                node.is_some() && node_of(pod) != node,
                pod.metadata.name.as_ref() != Some(&made_here),
            )
        })
        .map_or(Launcher::Missing, look)
}

fn look(pod: &Pod) -> Launcher<'_> {
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

/// Why an image of the pod can't be had: `ErrImagePull` or `ImagePullBackOff`, and a message.
pub fn image_problem(pod: &Pod) -> Option<(&str, &str)> {
    let status = status(pod)?;
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.filter_map(|container| container.state.as_ref()?.waiting.as_ref()).find_map(|waiting| {
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.as_deref().unwrap_or_default();
        matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName")
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
