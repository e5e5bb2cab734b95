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
use crate::step::Step;
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

#[cfg(test)]
mod tests {
    use kubevirt_types::labels::{MANAGED_BY, MANAGED_BY_OPERATOR};
    use serde_json::json;

    use super::*;
    use crate::context::Nodes;
    use crate::fixture::{at, node, observed};
    use crate::observed::{Instances, Observed, StrategyJob, StrategyJobState};
    use crate::policy::Policy;

    /// What a stage comes to: its steps in words, and how much it waits for.
    fn done(observed: &Observed, stage: Stage) -> (Vec<String>, usize) {
        let (policy, nodes) = (Policy::default(), Nodes::of(observed));
        let kubevirt = observed.kubevirt.as_ref().unwrap();
        let outcome = run(View { observed, kubevirt, policy: &policy, now: at(0), nodes: &nodes }, stage);
        (outcome.steps.iter().map(ToString::to_string).collect(), outcome.waiting_on.len())
    }

    fn live(observed: &mut Observed, kind: &str, name: &str, change: fn(&mut Value)) {
        let api_version = if kind == "Deployment" { "apps/v1" } else { "v1" };
        let mut body = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": name, "uid": "u", "resourceVersion": "1", "labels": {MANAGED_BY: MANAGED_BY_OPERATOR}},
        });
        change(&mut body);
        observed.objects.insert(ObjectKey::of(&body).unwrap(), body);
    }

    #[test]
    fn certificates_are_kept_while_a_workload_serves() {
        let kept = |kind: &str, name: &str, change: fn(&mut Value)| {
            let mut observed = observed();
            live(&mut observed, kind, name, change);
            !done(&observed, Stage::Certificates).0.is_empty()
        };
        assert!(kept("Deployment", "virt-api", |_| {}));
        assert!(!kept("Deployment", "another", |_| {}));
        assert!(!kept("Service", "virt-api", |_| {}));
        assert!(!kept("Deployment", "virt-api", |body| body["metadata"]["labels"] = json!({})));
        let going: fn(&mut Value) = |body| body["metadata"]["deletionTimestamp"] = json!(at(0));
        assert!(!kept("Deployment", "virt-api", going));
    }

    #[test]
    fn instances_are_deleted_once_and_waited_for() {
        let seen = |count: usize, deleting: usize, change: fn(&mut Value)| {
            let mut observed = observed();
            live(&mut observed, "CustomResourceDefinition", "vms.kubevirt.io", |body| {
                let versions = json!([{"name": "v0", "served": false}, {"name": "v1", "served": true}]);
                body["spec"] = json!({"names": {"kind": "VM", "plural": "vms"}, "versions": versions});
            });
            observed.objects.values_mut().for_each(change);
            observed.instances.insert("vms".into(), Instances { count, deleting, some: vec![] });
            done(&observed, Stage::Instances)
        };
        let every = || vec!["delete every VM".to_owned()];
        assert_eq!(seen(0, 0, |_| {}), (vec![], 0));
        assert_eq!(seen(2, 0, |_| {}), (every(), 1));
        assert_eq!(seen(2, 1, |_| {}), (every(), 1));
        assert_eq!(seen(2, 2, |_| {}), (vec![], 1), "all are going");
        let going: fn(&mut Value) = |body| body["metadata"]["deletionTimestamp"] = json!(at(0));
        assert_eq!(seen(2, 0, going), (vec![], 1), "they go with their kind");
        assert_eq!(seen(2, 0, |body| body["metadata"]["labels"] = json!({})), (vec![], 0), "not ours");
        let kubevirts: fn(&mut Value) = |body| body["spec"]["versions"] = json!([]);
        assert_eq!(seen(2, 0, kubevirts), (vec![], 1), "no version is served");
    }

    #[test]
    fn the_bundle_goes_last_of_the_objects_and_a_job_once() {
        let mut observed = observed();
        live(&mut observed, "ConfigMap", "another", |_| {});
        live(&mut observed, "ConfigMap", CONFIGMAP_CA, |body| body["metadata"]["labels"] = json!({}));
        live(&mut observed, "Service", CONFIGMAP_CA, |_| {});
        live(&mut observed, "Service", "not-ours", |body| body["metadata"]["labels"] = json!({}));
        live(&mut observed, "CustomResourceDefinition", "kubevirts.kubevirt.io", |_| {});
        live(&mut observed, "CustomResourceDefinition", "vms.kubevirt.io", |_| {});
        let job = |name: &str, deleting: bool| StrategyJob {
            handle: Handle {
                key: ObjectKey::namespaced("batch/v1", "Job", "kubevirt", name),
                uid: "u".into(),
                resource_version: "1".into(),
            },
            deployment_id: "d".into(),
            image: "i".into(),
            state: StrategyJobState::Running,
            deleting,
        };
        observed.strategy_jobs = vec![job("stays", false), job("goes", true)];
        let (steps, waits) = done(&observed, Stage::DeleteRest);
        assert_eq!(waits, 0);
        assert_eq!(
            steps,
            [
                "delete ConfigMap another",
                "delete CustomResourceDefinition vms.kubevirt.io",
                "delete Service kubevirt-ca",
                "delete ConfigMap kubevirt-ca",
                "delete Job kubevirt/stays",
            ]
        );
    }

    #[test]
    fn only_nodes_with_something_of_ours_are_cleaned() {
        let mut observed = observed();
        observed.nodes = ["plain", "label", "annotation"].map(node).into();
        observed.nodes[1].our_labels = vec!["kubevirt.io/schedulable".into()];
        observed.nodes[2].our_annotations = vec!["kubevirt.io/heartbeat".into()];
        let cleaned = ["label", "annotation"].map(|name| format!("remove labels of node {name}"));
        assert_eq!(done(&observed, Stage::Nodes), (cleaned.into(), 0));
    }
}
