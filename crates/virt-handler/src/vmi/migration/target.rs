//! The part of the node that gets the guest. Pure.
//!
//! It never says that a migration has failed: a target that can't take the guest ends, and
//! virt-controller sees to the rest.

use kubevirt_types::migration::MigrationState;

use super::{LOOK_AGAIN, with};
use crate::vmi::decide::{Call, Decision, Notice, View};
use crate::vmi::knowledge::{Domain, DomainState, Knowledge, Role, Stage};
use crate::vmi::{owner, status};

/// What is done for a guest that is on its way here.
pub fn take_in(view: View<'_>) -> Decision {
    let Some(state) = owner::migration(view.vmi) else { return Decision::default() };
    let Knowledge::Known(domain) = view.knowledge else {
        return Decision { again: Some(LOOK_AGAIN), ..Decision::default() };
    };
    let over = view.vmi.status.as_ref().is_some_and(|status| status.phase.is_final());
    match domain.part_in(&state.migration_uid, Role::Target).map(|ours| ours.stage) {
        _ if over => Decision::default(),
        Some(Stage::Completed) => hand_over(view, domain, state),
        // Its pod ends, and then virt-controller knows for certain that the guest isn't here.
        Some(Stage::Failed | Stage::Cancelled) => Decision::default(),
        Some(_) if state.abort_requested && is_orphaned(view, state) => Decision {
            call: Some(Call::Cancel { uid: state.migration_uid.clone() }),
            again: Some(LOOK_AGAIN),
            ..Decision::default()
        },
        _ if domain.state.is_end() || state.abort_requested || view.vmi.is_deleting() => Decision::default(),
        Some(
            Stage::Prepared
            | Stage::Connecting
            | Stage::PreCopy
            | Stage::Switchover
            | Stage::HandedOver
            | Stage::Unclear,
        ) => prepare(view, state),
        None => match domain.state {
            DomainState::NotStarted if !domain.can_move => Decision {
                call: Some(Call::Discard {
                    why: "its launcher is of a release that can't take it in".into(),
                }),
                again: Some(LOOK_AGAIN),
                ..Decision::default()
            },
            DomainState::NotStarted | DomainState::Starting => prepare(view, state),
            DomainState::Running
            | DomainState::Paused
            | DomainState::ShuttingDown
            | DomainState::Shutoff
            | DomainState::Moved
            | DomainState::Crashed
            | DomainState::Unclear => Decision { again: Some(LOOK_AGAIN), ..Decision::default() },
        },
    }
}

/// Whether there is no source any more that could be asked to abort. A launcher that has taken the guest in all the same
/// refuses.
fn is_orphaned(view: View<'_>, state: &MigrationState) -> bool {
    let status = view.vmi.status.as_ref();
    status.is_some_and(|status| !status.active_pods.values().any(|node| *node == state.source_node))
}

/// Has the launcher listen, until it is written where.
fn prepare(view: View<'_>, state: &MigrationState) -> Decision {
    let written = state.target_node_address.is_some()
        && state.target_port.is_some()
        && state.target_certificate_sha256.is_some();
    let address = view.pod.and_then(|pod| pod.ips.first());
    let call = match (&state.source_certificate_sha256, address) {
        (Some(_), Some(_)) if written => return Decision::default(),
        (Some(source_certificate), Some(_)) => Some(Call::PrepareTarget {
            uid: state.migration_uid.clone(),
            source_certificate: source_certificate.clone(),
        }),
        // Both come with a watch.
        (None, _) | (_, None) => None,
    };
    Decision { call, again: Some(LOOK_AGAIN), ..Decision::default() }
}

/// The guest runs here: from this write on it is this node's.
fn hand_over(view: View<'_>, domain: &Domain, state: &MigrationState) -> Decision {
    let ours = domain.part_in(&state.migration_uid, Role::Target);
    let at = ours.and_then(|ours| ours.ended).unwrap_or(view.now);
    let moved = MigrationState {
        completed: true,
        end_timestamp: Some(at),
        target_node_domain_ready_timestamp: Some(at),
        ..state.clone()
    };
    let status = match domain.state {
        DomainState::Running | DomainState::Paused => {
            Some(status::running(view.vmi, view.node, domain, view.pod, view.now))
        }
        // QEMU's own word that it runs comes next.
        DomainState::NotStarted | DomainState::Starting => {
            return Decision { again: Some(LOOK_AGAIN), ..Decision::default() };
        }
        // What has become of it since is the owner's to say: the next look's.
        DomainState::ShuttingDown
        | DomainState::Shutoff
        | DomainState::Moved
        | DomainState::Crashed
        | DomainState::Unclear => None,
    };
    let mut status = with(status, view.vmi, moved);
    status.node_name = Some(view.node.to_owned());
    let message = format!("The VirtualMachineInstance migrated to node {}.", view.node);
    Decision {
        status: Some(status),
        notices: vec![Notice::normal("Migrated", message)],
        again: Some(LOOK_AGAIN),
        ..Decision::default()
    }
}
