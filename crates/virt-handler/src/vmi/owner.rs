//! Whose a VMI is: the handler of `status.nodeName` has its guest, and while it moves two of them
//! have a part. Pure.

use kubevirt_types::labels;
use kubevirt_types::migration::MigrationState;
use kubevirt_types::vmi::VirtualMachineInstance;

/// A handler's part in a VMI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// None of its business.
    Nobody,
    /// Its guest is on this node.
    Owner,
    /// Its guest is on its way to this node.
    Target,
    /// Its guest has moved away from this node.
    Left,
}

/// The last migration of a VMI.
pub fn migration(vmi: &VirtualMachineInstance) -> Option<&MigrationState> {
    vmi.status.as_ref()?.migration_state.as_ref()
}

/// The node that has a VMI's guest: as the status says, and where it says nothing, the label.
pub fn node(vmi: &VirtualMachineInstance) -> Option<&str> {
    let in_status = vmi.status.as_ref().and_then(|status| status.node_name.as_deref());
    let label = || vmi.metadata.labels.as_ref()?.get(labels::NODE_NAME).map(String::as_str);
    in_status.filter(|node| !node.is_empty()).or_else(label)
}

/// What part this node has.
pub fn part(vmi: &VirtualMachineInstance, here: &str) -> Part {
    if node(vmi) == Some(here) {
        return Part::Owner;
    }
    match migration(vmi) {
        Some(state) if !state.is_final() && state.target_node == here => Part::Target,
        Some(state) if state.completed && state.source_node == here => Part::Left,
        Some(_) | None => Part::Nobody,
    }
}

/// The uid of the launcher pod through which this node plays its part. `uid_of` knows the pods of
/// this node by name: there may be two of one VMI while it comes back.
pub fn launcher(
    vmi: &VirtualMachineInstance,
    here: &str,
    uid_of: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let state = migration(vmi);
    match part(vmi, here) {
        Part::Nobody => None,
        Part::Target => uid_of(&state?.target_pod),
        Part::Left => uid_of(&state?.source_pod),
        Part::Owner => {
            let name = state.and_then(|state| match state.completed {
                true => (state.target_node == here).then_some(&state.target_pod),
                false => (state.source_node == here).then_some(&state.source_pod),
            });
            // A pod may have left the cache, and its last words still count.
            name.and_then(|name| uid_of(name)).or_else(|| active(vmi, here, name.is_some()))
        }
    }
}

/// The active pod on this node; with `only`, if there is no doubt.
fn active(vmi: &VirtualMachineInstance, here: &str, only: bool) -> Option<String> {
    let pods = &vmi.status.as_ref()?.active_pods;
    let mut here = pods.iter().filter(|(_, on)| *on == here).map(|(uid, _)| uid.clone());
    let first = here.next();
    first.filter(|_| !only || here.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn vmi(label: Option<&str>, status: Value) -> VirtualMachineInstance {
        let labels = label.map(|node| json!({"kubevirt.io/nodeName": node}));
        serde_json::from_value(json!({
            "metadata": {"name": "tick", "namespace": "default", "labels": labels},
            "spec": {"domain": {"devices": {}}}, "status": status,
        }))
        .unwrap()
    }

    fn moving(end: Option<&str>) -> Value {
        let mut state = json!({"migrationUid": "m-1", "sourceNode": "a", "sourcePod": "from",
            "targetNode": "b", "targetPod": "to"});
        if let Some(end) = end {
            state[end] = json!(true);
        }
        state
    }

    #[test]
    fn the_status_says_whose_it_is_whatever_the_label_says() {
        use Part::{Left, Nobody, Owner, Target};
        let table = [
            (Some("a"), json!({}), Owner, Nobody),
            (None, json!({}), Nobody, Nobody),
            (Some("a"), json!({"nodeName": "a"}), Owner, Nobody),
            (Some("b"), json!({"nodeName": "a"}), Owner, Nobody),
            (Some("a"), json!({"nodeName": "a", "migrationState": moving(None)}), Owner, Target),
            (Some("a"), json!({"nodeName": "a", "migrationState": moving(Some("failed"))}), Owner, Nobody),
            // The label follows later.
            (Some("a"), json!({"nodeName": "b", "migrationState": moving(Some("completed"))}), Left, Owner),
            (Some("b"), json!({"nodeName": "b", "migrationState": moving(Some("completed"))}), Left, Owner),
        ];
        for (label, status, a, b) in table {
            let vmi = vmi(label, status.clone());
            assert_eq!((part(&vmi, "a"), part(&vmi, "b"), part(&vmi, "c")), (a, b, Nobody), "{status}");
        }
    }

    #[test]
    fn each_part_has_its_pod() {
        let know = |name: &str| match name {
            "from" => Some("uid-from".to_owned()),
            "to" => Some("uid-to".to_owned()),
            _ => None,
        };
        let blind = |_: &str| None;
        let on = |node: &str, state: Option<Value>, pods: Value| {
            vmi(None, json!({"nodeName": node, "migrationState": state, "activePods": pods}))
        };
        let both = json!({"uid-from": "a", "uid-to": "b"});
        let before = on("a", None, json!({"uid-from": "a"}));
        let during = on("a", Some(moving(None)), both.clone());
        let after = on("b", Some(moving(Some("completed"))), both.clone());
        let failed = on("a", Some(moving(Some("failed"))), both);
        let (from, to) = (Some("uid-from".to_owned()), Some("uid-to".to_owned()));
        for (vmi, a, b) in [
            (&before, from.clone(), None),
            (&during, from.clone(), to.clone()),
            (&after, from.clone(), to.clone()),
            (&failed, from.clone(), None),
        ] {
            assert_eq!((launcher(vmi, "a", know), launcher(vmi, "b", know)), (a, b));
        }
        // Pods that aren't seen: an owner's is known by its uid, others' aren't.
        assert_eq!((launcher(&during, "a", blind), launcher(&during, "b", blind)), (from, None));
        assert_eq!(launcher(&after, "b", blind), to);
        // It comes back to a node where its first pod still is.
        let mut back = moving(Some("completed"));
        back["sourceNode"] = json!("b");
        back["targetNode"] = json!("a");
        let back = on("a", Some(back), json!({"uid-old": "a", "uid-to": "a"}));
        assert_eq!(launcher(&back, "a", know), Some("uid-to".into()));
        assert_eq!(launcher(&back, "a", blind), None, "which of the two can't be told");
    }
}
