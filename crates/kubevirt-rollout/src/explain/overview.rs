//! A plan as a document: every stage of its direction, what would be written next, what is waited for.

use jiff::Timestamp;
use kubevirt_types::ObjectKey;
use kubevirt_types::kubevirt::FailedUpdate;
use serde::Serialize;

use super::wait::{Wait, wait};
use super::words::{about, direction};
use super::{Explanation, Seen, explain};
use crate::context::{Nodes, View};
use crate::observed::Observed;
use crate::order::stages;
use crate::plan::{Direction, Plan, Stage};
use crate::policy::Policy;
use crate::step::{Precondition, Step};

/// A plan as a document. Its fields are stable: scripts read it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// `Nothing`, `Install`, `Update`, `Rollback`, `SameVersion`, `Steady` or `Uninstall`.
    pub direction: &'static str,
    /// The release that is left; none where nothing runs yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The release that is wanted; none at uninstall, or when the spec names no release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The stage that is being carried out, by its name.
    pub stage: String,
    /// All stages of the direction, in order.
    pub stages: Vec<StageRow>,
    /// What would be written next, in order.
    pub steps: Vec<StepRow>,
    /// What is waited for.
    pub waiting_for: Vec<Wait>,
    /// What the spec asks for has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedUpdate>,
    /// What it means, on one line and in its parts.
    pub explanation: Explanation,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StageRow {
    /// Its name, as in events and metrics.
    pub stage: String,
    /// What happens in it.
    pub about: &'static str,
    /// How far it is.
    pub state: StageState,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum StageState {
    /// There is nothing left to do in it.
    Done,
    /// It is being carried out.
    Now,
    /// It comes after the present one.
    ToCome,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepRow {
    /// What is done, such as `create`, `apply` or `delete`.
    pub action: &'static str,
    /// To which object; none where it is done to many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectKey>,
    /// The whole of it in words.
    pub text: String,
}

/// Describes a plan that was made from this view.
pub fn overview(observed: &Observed, plan: &Plan, policy: &Policy, now: Timestamp) -> Overview {
    let explanation = explain(observed, plan, policy, now);
    let nodes = Nodes::of(observed);
    let kubevirt = observed.kubevirt.as_ref();
    let seen =
        kubevirt.map(|kubevirt| Seen { view: View { observed, kubevirt, policy, now, nodes: &nodes }, plan });
    let headed = seen.map_or(plan.direction, |seen| seen.headed());
    // Without its manifests nothing of a change has begun.
    let stage = if plan.direction == headed { plan.stage } else { Stage::Strategy };
    let refused = plan.direction == Direction::Nothing && !waits_for_manifests(plan);
    Overview {
        direction: direction(if refused { plan.direction } else { headed }),
        from: seen.and_then(|seen| seen.from()),
        to: plan.target.as_ref().map(|target| target.release.to_string()),
        stage: if refused { plan.stage } else { stage }.to_string(),
        stages: if refused { vec![] } else { rows(headed, stage) },
        steps: plan.steps.iter().map(|step| row(step, kubevirt_key(observed).as_ref())).collect(),
        waiting_for: seen
            .map(|seen| plan.waiting_on.iter().map(|waiting| wait(&seen, waiting)).collect())
            .unwrap_or_default(),
        failed: plan.failed.clone(),
        explanation,
    }
}

fn waits_for_manifests(plan: &Plan) -> bool {
    plan.waiting_on.iter().any(|waiting| matches!(waiting, crate::waiting::WaitingOn::StrategyJob { .. }))
}

fn kubevirt_key(observed: &Observed) -> Option<ObjectKey> {
    let kubevirt = observed.kubevirt.as_ref()?;
    Some(ObjectKey::namespaced(
        kubevirt_types::API_VERSION,
        "KubeVirt",
        kubevirt.namespace(),
        kubevirt.name(),
    ))
}

fn rows(direction: Direction, now: Stage) -> Vec<StageRow> {
    let order = stages(direction);
    let at = order.iter().position(|stage| *stage == now).unwrap_or(order.len());
    let state = |index: usize| match index.cmp(&at) {
        std::cmp::Ordering::Less => StageState::Done,
        std::cmp::Ordering::Equal => StageState::Now,
        std::cmp::Ordering::Greater => StageState::ToCome,
    };
    let row = |(index, stage): (usize, &Stage)| StageRow {
        stage: stage.to_string(),
        about: about(*stage),
        state: state(index),
    };
    order.iter().enumerate().map(row).collect()
}

fn row(step: &Step, kubevirt: Option<&ObjectKey>) -> StepRow {
    let (action, object) = match step {
        Step::Apply { manifest, precondition: Precondition::Absent } => ("create", Some(&manifest.key)),
        Step::Apply { manifest, precondition: Precondition::Unchanged { .. } } => {
            ("apply", Some(&manifest.key))
        }
        Step::Delete { key, .. } => ("delete", Some(key)),
        Step::DeleteInstances { .. } => ("deleteAll", None),
        Step::CreateStrategyJob { manifest } => ("create", Some(&manifest.key)),
        Step::StoreStrategy { .. } => ("store", None),
        Step::IssueCa { secret, .. } | Step::IssueLeaf { secret, .. } => ("issue", Some(secret)),
        Step::AddFinalizer { .. } => ("addFinalizer", kubevirt),
        Step::RemoveFinalizer { .. } => ("removeFinalizer", kubevirt),
        Step::MigrateStorage { crd, .. } => ("rewriteAll", Some(crd)),
        Step::CleanNode { node, .. } => {
            let object = Some(ObjectKey::cluster("v1", "Node", node));
            return StepRow { action: "clean", object, text: step.to_string() };
        }
    };
    StepRow { action, object: object.cloned(), text: step.to_string() }
}
