//! What is wrong with one new pod, since when, and until when it may be.

use jiff::{SignedDuration, Timestamp};

use crate::context::View;
use crate::observed::{Crash, Pod, Trouble};
use crate::waiting::Cause;

/// Scheduling is tried again so often that a younger pod which isn't scheduled says nothing.
const SCHEDULING: SignedDuration = SignedDuration::from_secs(10);

/// The lock changes hands, and the first heartbeat is on its way. A canary isn't proved before, so it isn't longer than
/// the soak.
const TAKEOVER: SignedDuration = SignedDuration::from_secs(5);

/// What is wrong with a pod of the target; none while it may just take its time. A virt-handler that is alone on its node
/// must be in charge of it. A pod may be older than the update, which leaves it as it is: what went wrong before the target was
/// `tried` isn't the target's fault.
pub(crate) fn cause(pod: &Pod, view: View<'_>, in_charge: bool, tried: Option<Timestamp>) -> Option<Cause> {
    let policy = view.policy;
    let fresh_start = view.fresh_start(pod).max(tried);
    let begins = |at: Timestamp| fresh_start.map_or(at, |start| at.max(start));
    let (created, since) = (begins(pod.created), begins(pod.unready_since.unwrap_or(pod.created)));
    let after = |since: Timestamp, limit: SignedDuration| since.saturating_add(limit).unwrap_or(view.now);
    let (message, since, fails_at) = if let Some((crash, hopeless)) = crashes(pod, view, fresh_start) {
        let fails_at = if hopeless { crash.at } else { after(created, policy.pod_deadline) };
        (format!("container {} crashes: {}", crash.container, crash.message), crash.at, fails_at)
    } else if pod.serves() {
        let (message, since) = not_schedulable(pod, view).filter(|_| in_charge)?;
        let since = begins(since);
        if view.now < after(since, TAKEOVER.min(view.soak())) {
            return None;
        }
        (message, since, after(since, policy.schedulable_deadline))
    } else {
        let late = view.now >= after(since, policy.pod_deadline);
        let seconds = policy.pod_deadline.as_secs();
        match &pod.trouble {
            None if in_charge && stood_by(pod, view) => {
                let message = "not Ready any more since it should be in charge of its node".to_owned();
                (message, since, after(since, policy.schedulable_deadline))
            }
            Some(trouble) if trouble.image_missing() => {
                (said(trouble), created, after(created, policy.image_deadline))
            }
            // that there is no room is not the new version's fault while nodes are missing
            Some(trouble) if trouble.container.is_none() && view.misses_nodes() => {
                (said(trouble), since, after(view.now, policy.pod_deadline))
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
fn crashes<'p>(pod: &'p Pod, view: View<'_>, fresh_start: Option<Timestamp>) -> Option<(&'p Crash, bool)> {
    let crash = pod.crash.as_ref().filter(|crash| fresh_start.is_none_or(|at| crash.at > at))?;
    let policy = view.policy;
    let forgiven = pod.ready_since.is_some_and(|since| view.now.duration_since(since) >= policy.forgiven);
    let late = crash.at.duration_since(pod.created) >= policy.startup;
    let hopeless = late || pod.restarts >= policy.restarts;
    (!forgiven && (hopeless || !pod.serves())).then_some((crash, hopeless))
}

/// Whether a pod that isn't Ready has been: it stood by for a soak, and lost it when it took its node over.
fn stood_by(pod: &Pod, view: View<'_>) -> bool {
    pod.unready_since
        .is_some_and(|since| since > pod.created && since.duration_since(pod.created) >= view.soak())
}

/// Why the node of a virt-handler that should be in charge of it can't be used, and since when.
fn not_schedulable(pod: &Pod, view: View<'_>) -> Option<(String, Timestamp)> {
    let node = view.node(pod.node.as_deref()?)?;
    let since = taken_over(pod, view)?;
    let (handler, label) = (node.handler_pod.as_deref(), node.schedulable_label.as_deref());
    if handler.is_some() && handler != Some(&pod.name) {
        return Some(("Ready, but it doesn't take charge of its node".to_owned(), since));
    }
    let was_able = !view.unable_before().contains(node.name());
    (label != Some("true") && was_able)
        .then(|| ("Ready, but its node isn't schedulable for VMs any more".to_owned(), since))
}

/// Since when a Ready virt-handler has been alone on its node: since its predecessor was deleted, as long as that one is
/// there to be seen; else since it would have been, had it been deleted as late as it may.
pub(crate) fn taken_over(pod: &Pod, view: View<'_>) -> Option<Timestamp> {
    let ready = pod.ready_since?;
    let deleted = view.handler_deleted(pod.node.as_deref()?);
    let latest = ready.saturating_add(view.soak()).unwrap_or(ready);
    Some(deleted.map_or(latest, |at| at.max(ready)))
}

/// The kubelet's or the scheduler's words, in a form that stays the same while they alternate.
pub(crate) fn said(trouble: &Trouble) -> String {
    let container = trouble.container.as_ref().map(|name| format!("container {name}: ")).unwrap_or_default();
    if trouble.image_missing() {
        let image = trouble.image.as_ref().map(|image| format!(" {image}")).unwrap_or_default();
        return format!("{container}ErrImagePull: image{image} can't be pulled");
    }
    let message = if trouble.message.is_empty() { String::new() } else { format!(": {}", trouble.message) };
    format!("{container}{}{message}", trouble.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Nodes;
    use crate::fixture::{at, node, observed, pod};
    use crate::policy::Policy;

    /// The cause of a pod created at second 0, as seen at a second: its message without the pod's name, and when it fails.
    fn seen(change: impl Fn(&mut Pod), second: i64, in_charge: bool) -> Option<(String, Timestamp)> {
        let mut pod = pod("virt-handler", "h", "n1");
        change(&mut pod);
        let mut observed = observed();
        observed.nodes = vec![node("n1")];
        observed.pods = vec![pod.clone()];
        let (policy, nodes) = (Policy::default(), Nodes::of(&observed));
        let kubevirt = observed.kubevirt.as_ref().unwrap();
        let view = View { observed: &observed, kubevirt, policy: &policy, now: at(second), nodes: &nodes };
        let cause = cause(&pod, view, in_charge, None)?;
        assert_eq!(cause.node.as_deref(), Some("n1"));
        Some((cause.message.strip_prefix("pod h on node n1: ").unwrap().to_owned(), cause.fails_at))
    }

    fn trouble(reason: &str, container: Option<&str>) -> Option<Trouble> {
        Some(Trouble {
            container: container.map(str::to_owned),
            reason: reason.into(),
            message: "words".into(),
            image: container.map(|_| "r/virt-handler:v1".to_owned()),
        })
    }

    fn crash(second: i64) -> Option<Crash> {
        Some(Crash { container: "c".into(), message: "exit code 1".into(), at: at(second) })
    }

    #[test]
    fn a_pod_that_takes_its_time_has_until_the_deadline() {
        assert_eq!(seen(|_| {}, 179, false), None);
        assert_eq!(seen(|_| {}, 180, false), Some(("not Ready for more than 180 s".into(), at(180))));
        let flapped = |pod: &mut Pod| pod.unready_since = Some(at(1000));
        assert_eq!(seen(flapped, 1179, false), None, "the time counts from when it stopped being Ready");
        assert_eq!(seen(flapped, 1180, false).unwrap().1, at(1180));
    }

    #[test]
    fn an_image_that_is_missing_is_named_at_once_and_in_the_same_words() {
        let said =
            Some(("container c: ErrImagePull: image r/virt-handler:v1 can't be pulled".to_owned(), at(60)));
        for reason in ["ErrImagePull", "ImagePullBackOff"] {
            assert_eq!(seen(|pod| pod.trouble = trouble(reason, Some("c")), 1, false), said);
        }
    }

    #[test]
    fn what_is_not_scheduled_is_named_when_it_has_been_tried_for_a_while() {
        let unscheduled = |pod: &mut Pod| pod.trouble = trouble("Unschedulable", None);
        assert_eq!(seen(unscheduled, 9, false), None);
        assert_eq!(seen(unscheduled, 10, false), Some(("Unschedulable: words".into(), at(180))));
    }

    #[test]
    fn a_crash_at_the_start_may_be_bad_luck_and_one_more_or_a_later_one_is_not() {
        let words = || "container c crashes: exit code 1".to_owned();
        let once = |pod: &mut Pod| (pod.crash, pod.restarts) = (crash(5), 1);
        assert_eq!(seen(once, 6, false), Some((words(), at(180))), "named at once");
        let recovered = |pod: &mut Pod| {
            once(pod);
            pod.ready_since = Some(at(8));
        };
        assert_eq!(seen(recovered, 9, false), None);
        let twice = |pod: &mut Pod| (pod.crash, pod.restarts) = (crash(12), 2);
        assert_eq!(seen(twice, 13, false), Some((words(), at(12))));
        let late = |pod: &mut Pod| {
            (pod.crash, pod.restarts) = (crash(65), 1);
            pod.ready_since = Some(at(66));
        };
        assert_eq!(seen(late, 67, false), Some((words(), at(65))), "though it is Ready again");
        assert_eq!(seen(late, 66 + 120, false), None, "forgiven");
    }

    #[test]
    fn what_was_before_the_target_was_tried_is_not_its_fault() {
        let mut pod = pod("virt-controller", "c", "n1");
        // as one whose leader was cut off for a while
        (pod.crash, pod.restarts, pod.ready_since) = (crash(65), 1, Some(at(66)));
        let observed = observed();
        let (policy, nodes) = (Policy::default(), Nodes::of(&observed));
        let kubevirt = observed.kubevirt.as_ref().unwrap();
        let view = View { observed: &observed, kubevirt, policy: &policy, now: at(100), nodes: &nodes };
        let fails_at =
            |tried: Option<i64>| cause(&pod, view, false, tried.map(at)).map(|cause| cause.fails_at);
        assert_eq!(fails_at(None), Some(at(65)));
        assert_eq!(fails_at(Some(64)), Some(at(65)), "it crashed while the target was tried");
        assert_eq!(fails_at(Some(90)), None);
    }

    #[test]
    fn who_loses_its_readiness_when_it_takes_charge_has_not_the_time_of_a_start() {
        let silent = |pod: &mut Pod| pod.unready_since = Some(at(50));
        let message = "not Ready any more since it should be in charge of its node";
        assert_eq!(seen(silent, 51, true), Some((message.into(), at(120))));
        assert_eq!(seen(silent, 51, false), None, "its predecessor is in charge");
        let starting = |pod: &mut Pod| pod.unready_since = Some(at(1));
        assert_eq!(seen(starting, 60, true), None);
    }

    #[test]
    fn what_was_before_its_node_came_back_does_not_count() {
        let check = |second: i64| {
            let pod = pod("virt-handler", "h", "n1");
            let mut observed = observed();
            let mut node = node("n1");
            node.ready_since = Some(at(1000));
            observed.nodes = vec![node];
            observed.pods = vec![pod.clone()];
            let (policy, nodes) = (Policy::default(), Nodes::of(&observed));
            let kubevirt = observed.kubevirt.as_ref().unwrap();
            let view =
                View { observed: &observed, kubevirt, policy: &policy, now: at(second), nodes: &nodes };
            cause(&pod, view, false, None).map(|cause| cause.fails_at)
        };
        assert_eq!((check(1179), check(1180)), (None, Some(at(1180))));
    }

    #[test]
    fn who_is_in_charge_must_say_so_and_keep_the_node_schedulable() {
        let check = |handler: Option<&str>, label: Option<&str>, second: i64| {
            let mut pod = pod("virt-handler", "h", "n1");
            pod.ready_since = Some(at(10));
            let mut observed = observed();
            let mut node = node("n1");
            node.handler_pod = handler.map(str::to_owned);
            node.schedulable_label = label.map(str::to_owned);
            observed.nodes = vec![node];
            let mut old = pod.clone();
            (old.uid, old.deleting_since) = ("old".into(), Some(at(50)));
            observed.pods = vec![pod.clone(), old];
            let (policy, nodes) = (Policy::default(), Nodes::of(&observed));
            let kubevirt = observed.kubevirt.as_ref().unwrap();
            let view =
                View { observed: &observed, kubevirt, policy: &policy, now: at(second), nodes: &nodes };
            cause(&pod, view, true, None).map(|cause| (cause.since, cause.fails_at))
        };
        let since = Some((at(50), at(120)));
        assert_eq!(check(Some("h"), Some("true"), 60), None);
        assert_eq!(check(None, Some("true"), 60), None, "an old release names nobody");
        assert_eq!(check(Some("old"), Some("true"), 60), since, "its predecessor was the last to say so");
        assert_eq!(check(Some("h"), Some("false"), 60), since);
        assert_eq!(check(Some("h"), None, 60), since);
    }
}
