//! The target's manifests: the operator's own release it makes itself, those of another release a Job makes
//! that runs that release's image. What was made is kept, so that a rollback needs no image.

use std::sync::Arc;

use jiff::Timestamp;
use kubevirt_manifests::workloads::unprivileged;
use kubevirt_manifests::{ACCOUNT_OPERATOR, InstallConfig, Manifest, ManifestSet, customize};
use kubevirt_types::labels;
use serde_json::json;

use crate::context::{Outcome, View};
use crate::observed::{StrategyJob, StrategyJobState};
use crate::step::Step;
use crate::trouble::said;
use crate::waiting::WaitingOn;

/// Makes the manifests of the operator's own release.
pub type Make<'a> = &'a dyn Fn(&InstallConfig) -> Arc<ManifestSet>;

/// The target's manifests, and what has to be done to get or keep them.
pub(crate) struct Strategy {
    /// None while nobody has made them.
    pub set: Option<Arc<ManifestSet>>,
    /// Storing, tidying up, waiting.
    pub outcome: Outcome,
}

/// Finds the target's manifests.
pub(crate) fn find(view: View<'_>, config: &InstallConfig, make: Make<'_>) -> Strategy {
    let id = config.id();
    let stored = view.observed.strategies.get(&id);
    let mut outcome = Outcome::default();
    // What was stored is used as it is where this operator wouldn't customize so: it is what ran before.
    let makes = config.release == view.observed.operator.release && customize::check(config).is_ok();
    let set = if makes {
        let own = make(config);
        if stored.is_none_or(|stored| stored.set != own) {
            outcome.steps.push(Step::StoreStrategy { set: Box::new(ManifestSet::clone(&own)) });
        }
        Some(own)
    } else {
        stored.map(|stored| stored.set.clone())
    };
    for job in view.observed.strategy_jobs.iter().filter(|job| !job.deleting) {
        if set.is_some() || job.deployment_id != id {
            outcome.steps.push(delete_job(job));
        }
    }
    if set.is_none() {
        follow(view, config, &id, &mut outcome);
    }
    Strategy { set, outcome }
}

fn waiting(image: String, cause: Option<String>) -> WaitingOn {
    WaitingOn::StrategyJob { image, cause }
}

/// Has the manifests made. A Job that has failed stays until the next one has come to something: what went wrong would
/// come and go with every try otherwise.
fn follow(view: View<'_>, config: &InstallConfig, id: &str, outcome: &mut Outcome) {
    let jobs = || view.observed.strategy_jobs.iter().filter(|job| job.deployment_id == id);
    let create = |outcome: &mut Outcome| {
        let free = names(id).into_iter().find(|name| jobs().all(|job| job.handle.key.name != *name));
        outcome.steps.extend(free.map(|name| Step::CreateStrategyJob { manifest: job(config, id, &name) }));
    };
    let mut tries: Vec<&StrategyJob> = jobs().filter(|job| !job.deleting).collect();
    tries.sort_by_key(|job| (ended(job).is_none(), ended(job)));
    let Some((last, before)) = tries.split_last() else {
        create(outcome);
        outcome.waiting_on.push(waiting(config.image(OPERATOR), None));
        return;
    };
    let again = ended(last).is_some_and(|at| view.now.duration_since(at) >= view.policy.strategy_retry);
    let cause = match &last.state {
        StrategyJobState::Running => before.iter().rev().find_map(|job| cause(job)),
        StrategyJobState::Stuck(_) | StrategyJobState::Failed { .. } | StrategyJobState::Succeeded { .. } => {
            outcome.steps.extend(before.iter().map(|job| delete_job(job)));
            cause(last)
        }
    };
    match &last.state {
        StrategyJobState::Failed { .. } if again => create(outcome),
        StrategyJobState::Succeeded { .. } if again => outcome.steps.push(delete_job(last)),
        StrategyJobState::Running
        | StrategyJobState::Stuck(_)
        | StrategyJobState::Failed { .. }
        | StrategyJobState::Succeeded { .. } => {}
    }
    outcome.waiting_on.push(waiting(last.image.clone(), cause));
}

/// When a Job came to its end.
fn ended(job: &StrategyJob) -> Option<Timestamp> {
    match &job.state {
        StrategyJobState::Running | StrategyJobState::Stuck(_) => None,
        StrategyJobState::Succeeded { at } | StrategyJobState::Failed { at, .. } => Some(*at),
    }
}

/// What is wrong with a Job, in words that stay the same while the kubelet's alternate.
fn cause(job: &StrategyJob) -> Option<String> {
    match &job.state {
        StrategyJobState::Running | StrategyJobState::Succeeded { .. } => None,
        StrategyJobState::Stuck(trouble) => Some(said(trouble)),
        StrategyJobState::Failed { message, .. } => Some(format!("the Job failed: {message}")),
    }
}

fn delete_job(job: &StrategyJob) -> Step {
    Step::Delete {
        key: job.handle.key.clone(),
        uid: job.handle.uid.clone(),
        resource_version: job.handle.resource_version.clone(),
    }
}

/// The operator's image name, and the command in it.
const OPERATOR: &str = "virt-operator";
/// A Job that can't come to its end in this many tries has failed.
const TRIES: u32 = 3;

/// The names of the Jobs of a deployment: the next try has another one than the last.
fn names(id: &str) -> [String; 2] {
    let name = format!("virt-operator-install-strategy-{id}");
    [name.clone(), format!("{name}-again")]
}

/// The Job that makes a release's manifests with that release's own operator image.
fn job(config: &InstallConfig, id: &str, name: &str) -> Manifest {
    let image = config.image(OPERATOR);
    let app = "virt-operator-strategy-dumper";
    Manifest::plain(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": config.namespace,
            "labels": {
                labels::APP: "",
                labels::MANAGED_BY: labels::MANAGED_BY_OPERATOR,
                labels::INSTALL_STRATEGY: "",
            },
            "annotations": {
                labels::INSTALL_VERSION: config.release.to_string(),
                labels::INSTALL_REGISTRY: config.registry,
                labels::INSTALL_IDENTIFIER: id,
            },
        },
        "spec": {
            "backoffLimit": TRIES,
            "template": {
                "metadata": {"labels": {labels::APP: app}},
                "spec": {
                    "serviceAccountName": ACCOUNT_OPERATOR,
                    "restartPolicy": "Never",
                    "containers": [{
                        "name": "install-strategy-upload",
                        "image": image,
                        "imagePullPolicy": config.image_pull_policy,
                        "args": ["--dump-install-strategy"],
                        "env": [
                            {"name": "VIRT_OPERATOR_IMAGE", "value": image},
                            {"name": "TARGET_DEPLOYMENT_CONFIG", "value": config.to_json()},
                        ],
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "securityContext": unprivileged(),
                    }],
                },
            },
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Nodes;
    use crate::fixture::{at, observed};
    use crate::observed::{Handle, Trouble};
    use crate::policy::Policy;
    use kubevirt_types::{ObjectKey, Release};

    /// What is done at second 100 about Jobs by name, state and whether they are going: steps, and the cause that is said.
    fn done(tries: &[(&str, StrategyJobState, bool)]) -> (Vec<String>, Option<String>) {
        let config = InstallConfig::of(Release::V0_17_0);
        let id = config.id();
        let mut observed = observed();
        let of = |(name, state, deleting): &(&str, StrategyJobState, bool)| StrategyJob {
            handle: Handle {
                key: ObjectKey::namespaced(
                    "batch/v1",
                    "Job",
                    "kubevirt",
                    &names(&id)[usize::from(*name == "b")],
                ),
                uid: "u".into(),
                resource_version: "1".into(),
            },
            deployment_id: id.clone(),
            image: config.image(OPERATOR),
            state: state.clone(),
            deleting: *deleting,
        };
        observed.strategy_jobs = tries.iter().map(of).collect();
        let (policy, nodes) = (Policy::default(), Nodes::of(&observed));
        let kubevirt = observed.kubevirt.as_ref().unwrap();
        let view = View { observed: &observed, kubevirt, policy: &policy, now: at(100), nodes: &nodes };
        let strategy = find(view, &config, &|_| panic!("it is another release's"));
        assert!(strategy.set.is_none());
        let [WaitingOn::StrategyJob { cause, .. }] = strategy.outcome.waiting_on.as_slice() else {
            panic!("{:?}", strategy.outcome.waiting_on)
        };
        let prefix = names(&id)[0].clone();
        let short = |step: &Step| step.to_string().replace(&format!("Job kubevirt/{prefix}"), "Job");
        (strategy.outcome.steps.iter().map(short).collect(), cause.clone())
    }

    #[test]
    fn what_has_failed_is_said_until_the_next_try_has_come_to_something() {
        let failed = |second| StrategyJobState::Failed { at: at(second), message: "no".into() };
        let stuck = StrategyJobState::Stuck(Trouble {
            container: Some("c".into()),
            reason: "ImagePullBackOff".into(),
            message: "back-off".into(),
            image: Some("i".into()),
        });
        let running = StrategyJobState::Running;
        let no = Some("the Job failed: no");
        let pull = Some("container c: ErrImagePull: image i can't be pulled");
        type Case<'c> = (&'c str, Vec<(&'c str, StrategyJobState, bool)>, &'c [&'c str], Option<&'c str>);
        let table: Vec<Case<'_>> = vec![
            ("nothing yet", vec![], &["create Job"], None),
            ("the first runs", vec![("a", running.clone(), false)], &[], None),
            ("it has just failed", vec![("a", failed(90), false)], &[], no),
            ("it is tried again", vec![("a", failed(60), false)], &["create Job-again"], no),
            ("the second runs", vec![("b", running.clone(), false), ("a", failed(60), false)], &[], no),
            ("it fails too", vec![("a", failed(60), false), ("b", failed(90), false)], &["delete Job"], no),
            ("the first is gone", vec![("b", failed(60), false)], &["create Job"], no),
            ("it is still going", vec![("a", failed(20), true), ("b", failed(60), false)], &[], no),
            (
                "stuck is something",
                vec![("a", failed(60), false), ("b", stuck, false)],
                &["delete Job"],
                pull,
            ),
            ("somebody deletes it", vec![("a", running, true)], &["create Job-again"], None),
            (
                "it is over, and nothing is stored",
                vec![("a", StrategyJobState::Succeeded { at: at(60) }, false)],
                &["delete Job"],
                None,
            ),
        ];
        for (name, tries, steps, cause) in table {
            assert_eq!(
                done(&tries),
                (steps.iter().map(ToString::to_string).collect(), cause.map(Into::into)),
                "{name}"
            );
        }
    }
}
