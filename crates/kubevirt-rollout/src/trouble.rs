//! What is wrong with one new pod, since when, and until when it may be.

use jiff::{SignedDuration, Timestamp};

use crate::context::View;
use crate::observed::{Crash, Pod, Trouble};
use crate::waiting::Cause;

/// Scheduling is tried again so often that a younger pod which isn't scheduled says nothing.
const SCHEDULING: SignedDuration = SignedDuration::from_secs(10);

/// What is wrong with a pod of the target; none while it may just take its time. A virt-handler that is alone on its node
/// must be in charge of it.
pub(crate) fn cause(pod: &Pod, view: View<'_>, in_charge: bool) -> Option<Cause> {
    let policy = view.policy;
    let since = pod.unready_since.unwrap_or(pod.created);
    let after = |since: Timestamp, limit: SignedDuration| since.saturating_add(limit).unwrap_or(view.now);
    let (message, since, fails_at) = if let Some((crash, hopeless)) = crashes(pod, view) {
        let fails_at = if hopeless { crash.at } else { after(pod.created, policy.pod_deadline) };
        (format!("container {} crashes: {}", crash.container, crash.message), crash.at, fails_at)
    } else if pod.serves() {
        let (message, since) = not_schedulable(pod, view).filter(|_| in_charge)?;
        (message, since, after(since, policy.schedulable_deadline))
    } else {
        let late = view.now >= after(since, policy.pod_deadline);
        let seconds = policy.pod_deadline.as_secs();
        match &pod.trouble {
            Some(trouble) if trouble.image_missing() => {
                (said(trouble), pod.created, after(pod.created, policy.image_deadline))
            }
            Some(trouble) if trouble.container.is_some() || view.now >= after(pod.created, SCHEDULING) => {
                (said(trouble), since, after(since, policy.pod_deadline))
            }
            _ if late => {
                (format!("not Ready for more than {seconds} s"), since, after(since, policy.pod_deadline))
            }
            _ => return None,
        }
    };
    let at = pod.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
    Some(Cause {
        pod: pod.name.clone(),
        node: pod.node.clone(),
        message: format!("pod {}{at}: {message}", pod.name),
        since,
        fails_at,
    })
}

/// The crash that counts, and whether there is no more hope for it. One at the start may be bad luck; one after the start,
/// or one more, is the new version's fault.
fn crashes<'p>(pod: &'p Pod, view: View<'_>) -> Option<(&'p Crash, bool)> {
    let crash = pod.crash.as_ref()?;
    let policy = view.policy;
    let forgiven = pod.ready_since.is_some_and(|since| view.now.duration_since(since) >= policy.forgiven);
    let late = crash.at.duration_since(pod.created) >= policy.startup;
    let hopeless = late || pod.restarts >= policy.restarts;
    (!forgiven && (hopeless || !pod.serves())).then_some((crash, hopeless))
}

/// Why the node of a virt-handler that should be in charge of it can't be used, and since when.
fn not_schedulable(pod: &Pod, view: View<'_>) -> Option<(String, Timestamp)> {
    let node = view.node(pod.node.as_deref()?)?;
    let since = taken_over(pod, view)?;
    let (handler, label) = (node.handler_pod.as_deref(), node.schedulable_label.as_deref());
    if handler.is_some() && handler != Some(&pod.name) {
        return Some(("Ready, but it doesn't take charge of its node".to_owned(), since));
    }
    let was_able = !view.unable_before().contains(&node.name());
    (label != Some("true") && was_able)
        .then(|| ("Ready, but its node isn't schedulable for VMs any more".to_owned(), since))
}

/// Since when a Ready virt-handler has been alone on its node: since its predecessor was deleted, as long as that one is
/// there to be seen; else since it would have been, had it been deleted as late as it may.
pub(crate) fn taken_over(pod: &Pod, view: View<'_>) -> Option<Timestamp> {
    let ready = pod.ready_since?;
    let others = view.observed.pods.iter().filter(|other| {
        other.component == pod.component && other.node == pod.node && other.uid != pod.uid
    });
    let deleted = others.filter_map(|other| other.deleting_since).max();
    let latest = ready.saturating_add(view.soak()).unwrap_or(ready);
    Some(deleted.map_or(latest, |at| at.max(ready)))
}

/// The kubelet's or the scheduler's words, in a form that stays the same while they alternate.
fn said(trouble: &Trouble) -> String {
    let container = trouble.container.as_ref().map(|name| format!("container {name}: ")).unwrap_or_default();
    if trouble.image_missing() {
        let image = trouble.image.as_ref().map(|image| format!(" {image}")).unwrap_or_default();
        return format!("{container}ErrImagePull: image{image} can't be pulled");
    }
    let message = if trouble.message.is_empty() { String::new() } else { format!(": {}", trouble.message) };
    format!("{container}{}{message}", trouble.reason)
}
