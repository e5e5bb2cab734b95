//! The plan: the table of contents of an update.

use std::fmt;

use jiff::Timestamp;
use kubevirt_manifests::InstallConfig;

use crate::observed::Observed;
use crate::policy::Policy;
use crate::step::Step;
use crate::waiting::WaitingOn;

/// What to do next, and what to wait for.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What kind of change this is part of.
    pub direction: Direction,
    /// How far that change is.
    pub stage: Stage,
    /// The next safe writes, in order.
    pub steps: Vec<Step>,
    /// What has to happen before there are more.
    pub waiting_on: Vec<WaitingOn>,
    /// What is wanted; none at uninstall, without a KubeVirt object, or when the spec names no release.
    pub target: Option<InstallConfig>,
}

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
    /// The same release, with or without other settings.
    SameVersion,
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

/// The next safe steps.
pub fn plan(observed: &Observed, policy: &Policy, now: Timestamp) -> Plan {
    let _ = (observed, policy, now);
    Plan {
        direction: Direction::Nothing,
        stage: Stage::Blocked,
        steps: vec![],
        waiting_on: vec![],
        target: None,
    }
}
