//! What a pure `decide` hands to the loop: actions in order, and when to look again.
//!
//! An action says what to write and on which precondition; it never reads the cluster.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kubevirt_types::{VirtualMachineInstance, VirtualMachineInstanceMigration};
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
    /// Merge-patch the status of an instance that isn't the subject, if its resourceVersion is this one.
    PatchVmiStatus {
        /// Its name.
        name: String,
        /// The patch, with the resourceVersion in it.
        patch: Value,
    },
    /// Create a migration. One of the same name that has the same controller counts as done.
    CreateMigration(Box<VirtualMachineInstanceMigration>),
    /// Delete a migration, if its uid is this one.
    DeleteMigration {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Tell people what the writes before this one mean.
    Tell(Box<News>),
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

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct News {
    /// The object that it is about.
    pub about: ObjectReference,
    /// Whether something went wrong.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

impl Decision {
    /// Asks for another look at `due`; the earliest wish wins.
    pub fn look_again_at(&mut self, due: Timestamp, now: Timestamp) {
        let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
        let wait = wait.max(Duration::from_millis(100));
        self.requeue_after = Some(self.requeue_after.map_or(wait, |earlier| earlier.min(wait)));
    }
}
