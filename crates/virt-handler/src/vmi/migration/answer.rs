//! What is written when a launcher has answered. Pure.

use jiff::Timestamp;
use kubevirt_types::migration::{AbortStatus, MigrationState};
use kubevirt_types::vmi::{VirtualMachineInstance, VirtualMachineInstanceStatus};

use super::{failed, with};
use crate::vmi::decide::{Call, Notice, PodFacts};
use crate::vmi::knowledge::{DomainState, Knowledge};
use crate::vmi::owner;

/// What a launcher says to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done, or being done.
    Done,
    /// Fingerprint of the source's certificate.
    Source {
        #[allow(missing_docs)]
        certificate: String,
    },
    /// Where the target listens, and the fingerprint of its certificate.
    Target {
        #[allow(missing_docs)]
        port: u32,
        #[allow(missing_docs)]
        certificate: String,
    },
    /// It won't, and asking again won't change that.
    Never {
        /// Its words.
        why: String,
    },
}

/// What to write, and to tell people, after an answer. Nothing where the launcher's own state
/// tells how it goes on.
pub fn answered(
    vmi: &VirtualMachineInstance,
    call: &Call,
    answer: &Answer,
    pod: Option<&PodFacts>,
    now: Timestamp,
) -> Option<(VirtualMachineInstanceStatus, Option<Notice>)> {
    let state = owner::migration(vmi)?;
    let (state, notice) = match (call, answer) {
        (Call::PrepareSource { .. }, Answer::Source { certificate }) => {
            let source_certificate_sha256 = Some(certificate.clone());
            (MigrationState { source_certificate_sha256, ..state.clone() }, None)
        }
        (Call::PrepareTarget { .. }, Answer::Target { port, certificate }) => {
            let listening = MigrationState {
                target_node_address: Some(pod?.ips.first()?.clone()),
                target_port: Some(*port),
                target_certificate_sha256: Some(certificate.clone()),
                ..state.clone()
            };
            let message = "VirtualMachineInstance Migration Target Prepared.";
            (listening, Some(Notice::normal("PreparingTarget", message)))
        }
        (Call::PrepareSource { .. } | Call::Migrate { .. }, Answer::Never { why }) => {
            let (state, notice) = failed(state, why, now);
            (state, Some(notice))
        }
        // An earlier migration's, which isn't told of any more, or this one's.
        (Call::Cancel { uid }, Answer::Never { .. })
            if *uid == state.migration_uid && state.abort_requested && !state.is_final() =>
        {
            (MigrationState { abort_status: Some(AbortStatus::Failed), ..state.clone() }, None)
        }
        _ => return None,
    };
    Some((with(None, vmi, state), notice))
}

/// What to ask next at once. A launcher that can't take a guest in would wait for ever.
pub fn then(call: &Call, answer: &Answer, knowledge: &Knowledge) -> Option<Call> {
    match (call, answer, knowledge) {
        (Call::PrepareTarget { .. }, Answer::Never { why }, Knowledge::Known(domain))
            if domain.state == DomainState::NotStarted =>
        {
            Some(Call::Discard { why: why.clone() })
        }
        _ => None,
    }
}
