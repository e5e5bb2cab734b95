//! The order: what happens after what, for every direction. This is the one place where it is written.

use kubevirt_manifests::webhooks::OPERATOR_VALIDATOR;
use kubevirt_manifests::workloads::{VIRT_API, VIRT_CONTROLLER, VIRT_HANDLER};
use kubevirt_types::ObjectKey;

use crate::context::Outcome;
use crate::plan::{Direction, Plan, Stage};

/// Nothing runs yet, so nobody can be disturbed. Admission comes last: it can't be answered before virt-api serves.
pub const INSTALL: &[Stage] = &[
    Stage::Finalizer,
    Stage::Certificates,
    Stage::Strategy,
    Stage::Crds,
    Stage::Rbac,
    Stage::Services,
    Stage::Workloads,
    Stage::Reports,
    Stage::NewWebhooks,
    Stage::ExactCrds,
    Stage::DropGuard,
    Stage::ExactRbac,
    Stage::Orphans,
];

/// Those who carry requests out first, who admits them last: the old virt-api is the feature gate.
pub const UPDATE: &[Stage] = &[
    Stage::Finalizer,
    Stage::Certificates,
    Stage::Strategy,
    Stage::Guard,
    Stage::Crds,
    Stage::Rbac,
    Stage::Services,
    Stage::Handlers,
    Stage::Controllers,
    Stage::Reports,
    Stage::Webhooks,
    Stage::Api,
    Stage::NewWebhooks,
    Stage::ExactCrds,
    Stage::DropGuard,
    Stage::ExactRbac,
    Stage::Orphans,
];

/// Who admits requests first: nobody may ask any more for what the old controllers can't do.
pub const ROLLBACK: &[Stage] = &[
    Stage::Finalizer,
    Stage::Certificates,
    Stage::Strategy,
    Stage::Guard,
    Stage::Crds,
    Stage::Rbac,
    Stage::Services,
    Stage::Webhooks,
    Stage::Api,
    Stage::NewWebhooks,
    Stage::Controllers,
    Stage::Handlers,
    Stage::Reports,
    Stage::ExactCrds,
    Stage::ExactRbac,
    Stage::Orphans,
    Stage::DropGuard,
];

/// At the target: what has drifted is put right. No stage waits for another. What takes long comes last: every object
/// of a kind may have to be written.
pub const STEADY: &[Stage] = &[
    Stage::Finalizer,
    Stage::Certificates,
    Stage::Strategy,
    Stage::ExactCrds,
    Stage::ExactRbac,
    Stage::Services,
    Stage::Handlers,
    Stage::Controllers,
    Stage::Api,
    Stage::NewWebhooks,
    Stage::Orphans,
    Stage::DropGuard,
    Stage::StoredVersions,
];

/// Objects of our kinds go while the control plane still runs and can clean up after them; admission goes
/// before virt-api, or nothing could be written any more; the finalizer goes last. Until then certificates are kept.
pub const UNINSTALL: &[Stage] = &[
    Stage::Certificates,
    Stage::Instances,
    Stage::DeleteCrds,
    Stage::DeleteWebhooks,
    Stage::DeleteWorkloads,
    Stage::DeleteRest,
    Stage::Nodes,
    Stage::RemoveFinalizer,
];

/// What can be done when the target itself is unknown or refused: what runs must keep its certificates.
pub const BLOCKED: &[Stage] = &[Stage::Finalizer, Stage::Certificates];

/// The stages of a direction, in order.
pub fn stages(direction: Direction) -> &'static [Stage] {
    match direction {
        Direction::Nothing => &[],
        Direction::Install => INSTALL,
        Direction::Update | Direction::SameVersion => UPDATE,
        Direction::Rollback => ROLLBACK,
        Direction::Steady => STEADY,
        Direction::Uninstall => UNINSTALL,
    }
}

/// Goes through the stages of the plan's direction and stops at the first that isn't over. At the target no stage
/// waits for another. Certificates that only wait hold nobody up.
pub(crate) fn walk(plan: &mut Plan, stage_of: impl Fn(Stage) -> Outcome) {
    plan.stage = Stage::Settled;
    for &stage in stages(plan.direction) {
        let outcome = stage_of(stage);
        for note in &outcome.notes {
            if !plan.waiting_on.contains(note) {
                plan.waiting_on.push(note.clone());
            }
        }
        if outcome.is_over() {
            continue;
        }
        let early = BLOCKED.contains(&stage);
        let stops = if early { !outcome.steps.is_empty() } else { plan.direction != Direction::Steady };
        if plan.stage == Stage::Settled && (stops || !outcome.steps.is_empty()) {
            plan.stage = stage;
        }
        plan.steps.extend(outcome.steps);
        plan.waiting_on.extend(outcome.waiting_on);
        if stops {
            return;
        }
    }
}

/// What an object of a release is, as far as the order cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A CustomResourceDefinition.
    Crd,
    /// An account, role or binding.
    Rbac,
    /// A component's Deployment or DaemonSet.
    Workload(Component),
    /// A webhook configuration that virt-api answers.
    ApiWebhook,
    /// An aggregated API that virt-api serves.
    ApiService,
    /// The guard against new kinds.
    Guard,
    /// Everything else: Services, disruption budgets, the operator's own webhook.
    Base,
}

/// A component whose pods are rolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// virt-handler, the DaemonSet.
    Handler,
    /// virt-controller.
    Controller,
    /// virt-api.
    Api,
}

impl Component {
    /// All of them.
    pub const ALL: [Component; 3] = [Self::Handler, Self::Controller, Self::Api];

    /// Its name, which is its workload's and its pods' label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handler => VIRT_HANDLER,
            Self::Controller => VIRT_CONTROLLER,
            Self::Api => VIRT_API,
        }
    }

    /// The kind of its workload.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Handler => "DaemonSet",
            Self::Controller | Self::Api => "Deployment",
        }
    }

    /// Its workload's key.
    pub fn key(self, namespace: &str) -> ObjectKey {
        ObjectKey::namespaced("apps/v1", self.kind(), namespace, self.name())
    }
}

/// Classes, by kind and name.
pub fn class(key: &ObjectKey) -> Class {
    match key.kind.as_str() {
        "CustomResourceDefinition" => Class::Crd,
        "ServiceAccount" | "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => Class::Rbac,
        "ValidatingWebhookConfiguration" if key.name == OPERATOR_VALIDATOR => Class::Base,
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => Class::ApiWebhook,
        "APIService" => Class::ApiService,
        "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding" => Class::Guard,
        "Deployment" | "DaemonSet" => Component::ALL
            .into_iter()
            .find(|component| component.kind() == key.kind && component.name() == key.name)
            .map_or(Class::Base, Class::Workload),
        _ => Class::Base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(order: &[Stage], stage: Stage) -> usize {
        order.iter().position(|s| *s == stage).unwrap_or_else(|| panic!("{stage} is in the order"))
    }

    #[test]
    fn nothing_is_taken_away_before_everything_has_rolled() {
        for order in [UPDATE, ROLLBACK] {
            let rolled = [Stage::Handlers, Stage::Controllers, Stage::Api, Stage::Reports]
                .map(|stage| position(order, stage));
            for taken in [Stage::ExactCrds, Stage::DropGuard, Stage::ExactRbac, Stage::Orphans] {
                assert!(rolled.iter().all(|at| *at < position(order, taken)), "{taken}");
            }
        }
    }

    #[test]
    fn an_update_ends_with_virt_api_and_a_rollback_begins_with_it() {
        for other in [Stage::Handlers, Stage::Controllers, Stage::Reports] {
            assert!(position(UPDATE, other) < position(UPDATE, Stage::Api));
            assert!(position(ROLLBACK, Stage::Api) < position(ROLLBACK, other));
        }
    }

    #[test]
    fn virt_api_answers_every_webhook_but_the_operators_own() {
        let of = |kind: &str, name: &str| class(&ObjectKey::cluster("x/v1", kind, name));
        assert_eq!(of("ValidatingWebhookConfiguration", OPERATOR_VALIDATOR), Class::Base);
        assert_eq!(of("ValidatingWebhookConfiguration", "virt-api-validator"), Class::ApiWebhook);
        assert_eq!(of("MutatingWebhookConfiguration", OPERATOR_VALIDATOR), Class::ApiWebhook);
    }

    #[test]
    fn every_order_names_a_stage_once() {
        for order in [INSTALL, UPDATE, ROLLBACK, STEADY, UNINSTALL] {
            for (index, stage) in order.iter().enumerate() {
                assert!(!order[..index].contains(stage), "{stage}");
            }
        }
    }
}
