//! The plan: the table of contents of an update. The order is in [`order`], what a stage does in its file.

use std::sync::Arc;

use jiff::Timestamp;
use kubevirt_manifests::{InstallConfig, manifests};
use kubevirt_types::kubevirt::{FailedUpdate, OnFailure};

use crate::context::{Context, Nodes, Outcome, View};
use crate::failure::{self, Effective};
use crate::observed::Observed;
use crate::order::{self, Component};
use crate::policy::Policy;
use crate::stage;
pub use crate::stage::strategy::Make;
pub use crate::stages::{Direction, Stage};
use crate::step::Step;
use crate::target::resolve;
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
    /// What the spec asks for has failed: the target is what was there before, or nothing moves.
    pub failed: Option<FailedUpdate>,
}

/// The next safe steps.
pub fn plan(observed: &Observed, policy: &Policy, now: Timestamp) -> Plan {
    plan_with(observed, policy, now, &|config| Arc::new(manifests(config)))
}

/// The same, with another maker of the operator's own manifests: one that remembers, or one of a test.
pub fn plan_with(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = Plan {
        direction: Direction::Nothing,
        stage: Stage::Blocked,
        steps: vec![],
        waiting_on: vec![],
        target: None,
        failed: None,
    };
    let nodes = Nodes::of(observed);
    let Some(kubevirt) = observed.kubevirt.as_ref().filter(|_| observed.synced) else { return plan };
    let view = View { observed, kubevirt, policy, now, nodes: &nodes };
    if kubevirt.is_deleting() {
        plan.direction = Direction::Uninstall;
        order::walk(&mut plan, |stage| stage::uninstall::run(view, stage));
        return plan;
    }
    let config = match resolve(&kubevirt.spec, &observed.operator) {
        Ok(config) => config,
        Err(refusal) => return blocked(plan, view, WaitingOn::Refused { cause: refusal.to_string() }.into()),
    };
    let Effective { config, failed } = failure::effective(view, config);
    plan.target = Some(config.clone());
    let strategy = stage::strategy::find(view, &config, make);
    let Some(set) = &strategy.set else { return blocked(plan, view, strategy.outcome) };
    let paused = failed.as_ref().filter(|failed| failed.action == OnFailure::Pause);
    let context = Context::new(view, set, paused);
    if let Some(cause) = stage::crds::refusal(&context) {
        return blocked(plan, view, WaitingOn::Refused { cause }.into());
    }
    plan.direction = context.direction;
    order::walk(&mut plan, |stage| match stage {
        Stage::Strategy => strategy.outcome.clone(),
        other => run(&context, other),
    });
    plan.failed = failed.clone().or_else(|| failure::found(&context));
    plan.waiting_on.splice(0..0, failure::said(view, plan.failed.as_ref()));
    plan
}

/// The target can't be carried out, or not yet: what runs is kept as it is.
fn blocked(mut plan: Plan, view: View<'_>, why: Outcome) -> Plan {
    let observed = view.status().and_then(|status| status.observed_deployment_id.as_deref());
    let running = observed
        .and_then(|id| view.observed.strategies.get(id))
        .map(|stored| Context::new(view, &stored.set, None))
        .filter(|context| context.direction == Direction::Steady);
    match running {
        Some(context) => {
            plan.direction = Direction::Steady;
            order::walk(&mut plan, |stage| match stage {
                Stage::Strategy | Stage::Orphans => Outcome::over(),
                other => run(&context, other),
            });
        }
        None => plan.steps.extend(order::BLOCKED.iter().flat_map(|stage| run_early(view, *stage).steps)),
    }
    plan.direction = Direction::Nothing;
    plan.stage = Stage::Blocked;
    plan.steps.extend(why.steps);
    plan.waiting_on.splice(0..0, why.waiting_on);
    plan
}

/// Stages that need no target.
fn run_early(view: View<'_>, stage: Stage) -> Outcome {
    match stage {
        Stage::Finalizer => stage::finalizer::add(view),
        Stage::Certificates => stage::certificates::keep(view),
        _ => Outcome::over(),
    }
}

/// Every stage of an installation, update, rollback or repair, and where it is written.
fn run(context: &Context<'_>, stage: Stage) -> Outcome {
    match stage {
        Stage::Finalizer | Stage::Certificates => run_early(context.view, stage),
        Stage::Guard => stage::guard::raise(context),
        Stage::Crds => stage::crds::union(context),
        Stage::Rbac => stage::rbac::union(context),
        Stage::Services => stage::services::apply(context),
        Stage::Handlers => stage::workloads::handlers(context),
        Stage::Controllers => stage::workloads::deployment(context, Component::Controller),
        Stage::Reports => stage::reports::wait(context),
        Stage::Webhooks => stage::webhooks::common(context),
        Stage::Api => stage::workloads::deployment(context, Component::Api),
        Stage::Workloads => stage::workloads::together(context),
        Stage::NewWebhooks => stage::webhooks::exact(context),
        Stage::ExactCrds => stage::crds::exact(context),
        Stage::DropGuard => stage::guard::drop(context),
        Stage::ExactRbac => stage::rbac::exact(context),
        Stage::Orphans => stage::orphans::delete(context),
        Stage::StoredVersions => stage::stored_versions::clean(context),
        Stage::Blocked
        | Stage::Strategy
        | Stage::Instances
        | Stage::DeleteCrds
        | Stage::DeleteWebhooks
        | Stage::DeleteWorkloads
        | Stage::DeleteRest
        | Stage::Nodes
        | Stage::RemoveFinalizer
        | Stage::Settled => Outcome::over(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{at, node, observed, pod};

    /// Which way to v0.18.0, from pods of these components and releases, each on a node of its own.
    fn direction(pods: &[(Component, &str)], lost: Option<&str>) -> Direction {
        let mut observed = observed();
        for (component, release) in pods {
            let mut pod = pod(component.name(), release, release);
            pod.release = Some(release.parse().unwrap());
            observed.pods.push(pod);
            let mut node = node(release);
            node.not_ready_since = (lost == Some(release)).then(|| at(-60));
            observed.nodes.push(node);
        }
        plan(&observed, &Policy::default(), at(0)).direction
    }

    #[test]
    fn where_newer_and_older_releases_live_virt_api_says_which_way() {
        use Component::{Api, Controller, Handler};
        let (old, wanted, new) = ("v0.17.0", "v0.18.0", "v0.19.0");
        let table: &[(&[(Component, &str)], Direction)] = &[
            (&[], Direction::Install),
            (&[(Api, old)], Direction::Update),
            (&[(Api, new)], Direction::Rollback),
            (&[(Controller, new), (Handler, old)], Direction::Update),
            (&[(Handler, new), (Api, old)], Direction::Update),
            (&[(Handler, new), (Controller, old), (Api, wanted)], Direction::Update),
            (&[(Controller, new), (Handler, old), (Api, old)], Direction::Update),
            (&[(Handler, old), (Api, new)], Direction::Rollback),
            (&[(Api, old), (Api, new)], Direction::Rollback),
        ];
        for (pods, expected) in table {
            assert_eq!(direction(pods, None), *expected, "{pods:?}");
        }
        let both: &[(Component, &str)] = &[(Handler, new), (Controller, old)];
        assert_eq!(direction(both, Some(old)), Direction::Rollback, "a lost node decides nothing");
        assert_eq!(direction(both, Some(new)), Direction::Update);
    }
}
