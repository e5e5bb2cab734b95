//! Uninstall: what the control plane has to clean up goes while it still runs, the finalizer goes last.

use kubevirt_types::labels::{CONFIGMAP_CA, FINALIZER_KUBEVIRT};
use kubevirt_types::{GROUP, Kind, ObjectKey};
use serde_json::Value;

use crate::context::{Outcome, View, is_deleting, is_managed};
use crate::observed::Handle;
use crate::order::{Class, class};
use crate::plan::Stage;
use crate::stage::certificates;
use crate::stage::crds::{version_name, versions};
use crate::step::{Propagation, Step};
use crate::waiting::WaitingOn;

/// One stage of the uninstall.
pub(crate) fn run(view: View<'_>, stage: Stage) -> Outcome {
    match stage {
        Stage::Certificates => certificates_in_use(view),
        Stage::Instances => instances(view),
        Stage::DeleteCrds => objects(view, is_crd),
        Stage::DeleteWebhooks => objects(view, |key, live| {
            matches!(class(key), Class::ApiWebhook | Class::ApiService | Class::Guard)
                || live.get("webhooks").is_some()
        }),
        Stage::DeleteWorkloads => workloads(view),
        Stage::DeleteRest => rest(view),
        Stage::Nodes => nodes(view),
        Stage::RemoveFinalizer => finalizer(view),
        _ => Outcome::over(),
    }
}

/// Objects may take long to go, and until then virt-api admits and webhooks answer. The certificates of what is about to
/// go itself are nobody's any more.
fn certificates_in_use(view: View<'_>) -> Outcome {
    let serves = |(key, live): (&ObjectKey, &Value)| {
        matches!(class(key), Class::Workload(_)) && is_managed(live) && !is_deleting(live)
    };
    if view.observed.objects.iter().any(serves) { certificates::keep(view) } else { Outcome::over() }
}

fn is_crd(key: &ObjectKey, _: &Value) -> bool {
    class(key) == Class::Crd && key.name != format!("{}.{GROUP}", Kind::KubeVirt.plural())
}

/// Every VM, VMI, migration and replica set; their finalizers are the control plane's business.
fn instances(view: View<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    for (key, crd) in view.observed.objects.iter().filter(|(key, live)| is_managed(live) && is_crd(key, live))
    {
        let text = |field: &str| crd["spec"]["names"][field].as_str().map(str::to_owned);
        let (Some(kind), Some(plural)) = (text("kind"), text("plural")) else { continue };
        let Some(found) = view.observed.instances.get(&plural).filter(|found| found.count > 0) else {
            continue;
        };
        let served = versions(crd).find(|version| version["served"] == true).and_then(version_name);
        if let (Some(version), true) = (served, found.deleting < found.count && !is_deleting(crd)) {
            outcome.steps.push(Step::DeleteInstances {
                kind: kind.clone(),
                plural,
                version: version.to_owned(),
            });
        }
        outcome
            .waiting_on
            .push(WaitingOn::Deletion { what: format!("{kind} objects of {}", key.name), left: found.count });
    }
    outcome
}

fn objects(view: View<'_>, wanted: impl Fn(&ObjectKey, &Value) -> bool) -> Outcome {
    let mut outcome = Outcome::default();
    for (key, live) in &view.observed.objects {
        if is_managed(live) && wanted(key, live) {
            view.delete(key, &mut outcome);
        }
    }
    outcome
}

/// Workloads, then their pods: nothing may act with rules and accounts that are about to go.
fn workloads(view: View<'_>) -> Outcome {
    let mut outcome = objects(view, |key, _| matches!(key.kind.as_str(), "Deployment" | "DaemonSet"));
    if outcome.is_over() && !view.observed.pods.is_empty() {
        let left = view.observed.pods.len();
        outcome.waiting_on.push(WaitingOn::Deletion { what: "the control plane's pods".to_owned(), left });
    }
    outcome
}

/// Everything else, with certificates, strategies and Jobs.
fn rest(view: View<'_>) -> Outcome {
    let observed = view.observed;
    let bundle = |key: &ObjectKey| key.kind == "ConfigMap" && key.name == CONFIGMAP_CA;
    let mut outcome =
        objects(view, |key, live| !bundle(key) && (class(key) != Class::Crd || is_crd(key, live)));
    let bundle = observed.objects.keys().filter(|key| bundle(key));
    for key in bundle {
        view.delete(key, &mut outcome);
    }
    let certificates = observed.certificates.ca.iter().chain(observed.certificates.leaves.values());
    let jobs = observed.strategy_jobs.iter().filter(|job| !job.deleting);
    outcome.steps.extend(
        certificates
            .map(|certificate| &certificate.handle)
            .chain(observed.strategies.values().map(|stored| &stored.handle))
            .chain(jobs.map(|job| &job.handle))
            .map(delete_handle),
    );
    outcome
}

fn delete_handle(handle: &Handle) -> Step {
    Step::Delete {
        key: handle.key.clone(),
        uid: handle.uid.clone(),
        resource_version: handle.resource_version.clone(),
        propagation: Propagation::Background,
    }
}

fn nodes(view: View<'_>) -> Outcome {
    let marked = view
        .observed
        .nodes
        .iter()
        .filter(|node| !node.our_labels.is_empty() || !node.our_annotations.is_empty());
    let steps = marked
        .map(|node| Step::CleanNode {
            node: node.handle.key.name.clone(),
            uid: node.handle.uid.clone(),
            resource_version: node.handle.resource_version.clone(),
            labels: node.our_labels.clone(),
            annotations: node.our_annotations.clone(),
        })
        .collect();
    Outcome { steps, ..Outcome::default() }
}

fn finalizer(view: View<'_>) -> Outcome {
    let metadata = &view.kubevirt.metadata;
    if !metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER_KUBEVIRT) {
        return Outcome::over();
    }
    let step = Step::RemoveFinalizer {
        finalizer: FINALIZER_KUBEVIRT.to_owned(),
        uid: view.kubevirt.uid().to_owned(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
    };
    Outcome { steps: vec![step], ..Outcome::default() }
}
