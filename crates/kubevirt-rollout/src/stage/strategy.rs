//! The target's manifests: the operator's own release it makes itself, those of another release a Job makes
//! that runs that release's image. What was made is kept, so that a rollback needs no image.

use std::sync::Arc;

use kubevirt_manifests::{ACCOUNT_OPERATOR, InstallConfig, Manifest, ManifestSet, customize};
use kubevirt_types::labels;
use serde_json::json;

use crate::context::{Outcome, View};
use crate::observed::{StrategyJob, StrategyJobState};
use crate::step::{Propagation, Step};
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
        match view.observed.strategy_jobs.iter().find(|job| job.deployment_id == id) {
            Some(job) => follow(view, job, &mut outcome),
            None => {
                outcome.steps.push(Step::CreateStrategyJob { manifest: job(config, &id) });
                outcome.waiting_on.push(waiting(config.image(OPERATOR), None));
            }
        }
    }
    Strategy { set, outcome }
}

fn waiting(image: String, cause: Option<String>) -> WaitingOn {
    WaitingOn::StrategyJob { image, cause }
}

/// What a Job that should make the manifests is doing.
fn follow(view: View<'_>, job: &StrategyJob, outcome: &mut Outcome) {
    let over_since = |at| view.now.duration_since(at) >= view.policy.strategy_retry;
    let cause = match &job.state {
        StrategyJobState::Running => None,
        StrategyJobState::Stuck(trouble) if trouble.message.is_empty() => Some(trouble.reason.clone()),
        StrategyJobState::Stuck(trouble) => Some(format!("{}: {}", trouble.reason, trouble.message)),
        StrategyJobState::Succeeded { at } => {
            if over_since(*at) && !job.deleting {
                outcome.steps.push(delete_job(job));
            }
            None
        }
        StrategyJobState::Failed { at, message } => {
            if over_since(*at) && !job.deleting {
                outcome.steps.push(delete_job(job));
            }
            Some(format!("the Job failed: {message}"))
        }
    };
    outcome.waiting_on.push(waiting(job.image.clone(), cause));
}

fn delete_job(job: &StrategyJob) -> Step {
    Step::Delete {
        key: job.handle.key.clone(),
        uid: job.handle.uid.clone(),
        resource_version: job.handle.resource_version.clone(),
        propagation: Propagation::Background,
    }
}

/// The operator's image name, and the command in it.
const OPERATOR: &str = "virt-operator";
/// A Job that can't come to its end in this many tries has failed.
const TRIES: u32 = 3;

/// The Job that makes a release's manifests with that release's own operator image.
fn job(config: &InstallConfig, id: &str) -> Manifest {
    let image = config.image(OPERATOR);
    let app = "virt-operator-strategy-dumper";
    Manifest::plain(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": format!("virt-operator-install-strategy-{id}"),
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
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": {"drop": ["ALL"]},
                            "readOnlyRootFilesystem": true,
                            "runAsNonRoot": true,
                            "runAsUser": 1001,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                    }],
                },
            },
        },
    }))
}
