//! What a pure `decide` hands to the loop: actions in order, and when to look again.
//!
//! An action says what to write and on which precondition; it never reads the cluster.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubevirt_types::VirtualMachineInstance;
use serde_json::Value;

/// What to do about one object, and when to look at it again although nothing changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// What to do, in order. The first that fails ends the round.
    pub actions: Vec<Action>,
    /// When to look again; none when only a change can matter.
    pub requeue_after: Option<Duration>,
    /// Whether a stale view could make these actions wrong in a way that no precondition
    /// catches. The loop then reads everything from the API server itself and decides again.
    pub confirm: bool,
}

/// One write. "The subject" is the object that the decision is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Merge-patch the subject's status, if its resourceVersion is the one that was decided on.
    PatchStatus(Value),
    /// Merge-patch the rest of the subject, on the same precondition.
    Patch(Value),
    /// Create an instance. One of the same name that has the same controller counts as done.
    CreateVmi(Box<VirtualMachineInstance>),
    /// Delete an instance, if its uid is this one.
    DeleteVmi {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Merge-patch an instance that the subject owns, if its resourceVersion is this one.
    PatchVmi {
        /// Its name.
        name: String,
        /// The patch, with the resourceVersion in it.
        patch: Value,
    },
    /// Create a launcher pod. One of the same name that has the same controller counts as done.
    CreatePod(Box<Pod>),
    /// Delete a launcher pod, if its uid is this one.
    DeletePod {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

impl Decision {
    /// Asks for another look at `due`; the earliest wish wins.
    pub fn look_again_at(&mut self, due: Timestamp, now: Timestamp) {
        let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
        let wait = wait.max(Duration::from_millis(100));
        self.requeue_after = Some(self.requeue_after.map_or(wait, |earlier| earlier.min(wait)));
    }
}
