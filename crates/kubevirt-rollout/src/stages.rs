//! The names of the directions and of the stages.

use std::fmt;

/// What kind of change a plan is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// There is no KubeVirt object, or it isn't ours to carry out.
    Nothing,
    /// Nothing is observed yet.
    Install,
    /// To a newer release.
    Update,
    /// To an older release.
    Rollback,
    /// The same release with other settings, or with pods that aren't its own.
    SameVersion,
    /// The target is observed and nothing has to roll: only drift is put right.
    Steady,
    /// The KubeVirt object is being deleted.
    Uninstall,
}

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing can be done: see what it waits for.
    Blocked,
    /// Put our finalizer on the KubeVirt object.
    Finalizer,
    /// Get the target's manifests.
    Strategy,
    /// Guard kinds that not every release in play has.
    Guard,
    /// CustomResourceDefinitions.
    Crds,
    /// Access rules: the union of all releases in play.
    Rbac,
    /// CA, bundle, leaves.
    Certificates,
    /// Services and everything that is neither access, workload nor admission.
    Services,
    /// virt-handler, canary first.
    Handlers,
    /// virt-controller.
    Controllers,
    /// Every controller and handler reports the target release.
    Reports,
    /// Webhooks and APIServices, as far as every virt-api in play can answer them.
    Webhooks,
    /// virt-api.
    Api,
    /// Everything at once, where nothing runs yet.
    Workloads,
    /// Webhooks and APIServices exactly as the target has them.
    NewWebhooks,
    /// CustomResourceDefinitions exactly as the target has them.
    ExactCrds,
    /// The guard goes.
    DropGuard,
    /// Access rules exactly as the target has them.
    ExactRbac,
    /// What the target doesn't have goes.
    Orphans,
    /// No object is stored as a version that isn't written any more.
    StoredVersions,
    /// Uninstall: objects of our kinds.
    Instances,
    /// Uninstall: their CustomResourceDefinitions.
    DeleteCrds,
    /// Uninstall: webhooks and APIServices.
    DeleteWebhooks,
    /// Uninstall: workloads.
    DeleteWorkloads,
    /// Uninstall: everything else.
    DeleteRest,
    /// Uninstall: labels on nodes.
    Nodes,
    /// Uninstall: the finalizer.
    RemoveFinalizer,
    /// All is as it is wanted.
    Settled,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
