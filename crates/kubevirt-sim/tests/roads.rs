//! Whole roads: install, update, rollback, uninstall, and what a user or misfortune does on the way.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use jiff::SignedDuration;
use kubevirt_rollout::{Direction, Stage, WaitingOn};
use kubevirt_sim::{Cluster, Fault, Operator};
use kubevirt_types::kubevirt::KubeVirtPhase;
use kubevirt_types::{ObjectKey, Release};
use serde_json::json;
use support::{assert_at, condition, installed, same, settle};

const REPLICA_SETS: &str = "virtualmachineinstancereplicasets";

#[test]
fn both_releases_install_and_then_there_is_nothing_to_do() {
    for release in Release::ALL {
        let (_, cluster) = installed(release.clone());
        assert_at(&cluster, &release);
        assert_eq!(condition(&cluster, "Available"), ("True".into(), "All components are ready.".into()));
        assert_eq!(condition(&cluster, "Degraded").0, "False");
    }
}

#[test]
fn an_update_and_a_rollback_leave_what_an_installation_makes() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    let before = cluster.contents();
    cluster.set_image_tag(Some("v0.18.0"));
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
    same(&cluster, &installed(Release::V0_18_0).1);
    cluster.create_instance(REPLICA_SETS, "a").unwrap();
    cluster.delete_instance(REPLICA_SETS, "a");
    cluster.set_image_tag(Some("v0.17.0"));
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_17_0);
    assert!(cluster.contents() == before);
    let history = cluster.kubevirt().unwrap().status.clone().unwrap().history;
    let road: Vec<_> =
        history.iter().map(|r| (r.from.clone(), r.to.clone(), r.completed.is_some())).collect();
    let (old, new) = ("v0.17.0".to_owned(), "v0.18.0".to_owned());
    assert_eq!(
        road,
        [(None, old.clone(), true), (Some(old.clone()), new.clone(), true), (Some(new), old, true)]
    );
}

#[test]
fn applying_a_newer_operator_updates_everything() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_operator(Release::V0_18_0);
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
}

#[test]
fn a_rollback_needs_no_image_of_the_operator() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_operator(Release::V0_18_0);
    settle(&mut operator, &mut cluster);
    cluster.lose_images(&Release::V0_17_0);
    cluster.set_image_tag(Some("v0.17.0"));
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_17_0);
}

#[test]
fn an_impossible_tag_breaks_nothing_and_names_its_cause() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    let before = cluster.contents();
    cluster.set_image_tag(Some("v0.99.0"));
    settle(&mut operator, &mut cluster);
    assert_eq!(
        condition(&cluster, "Degraded"),
        (
            "True".into(),
            "Transitioning from previous version v0.17.0 with registry kubevirt to target version v0.99.0 using \
             registry kubevirt: waiting for the manifests from image kubevirt/virt-operator:v0.99.0: ErrImagePull: \
             image can't be pulled"
                .into()
        )
    );
    assert_eq!(condition(&cluster, "Available").0, "True");
    assert!(cluster.contents() == before);

    let key = ObjectKey::namespaced("apps/v1", "Deployment", "kubevirt", "virt-controller");
    cluster.tamper(&key, "/spec/replicas", json!(1));
    settle(&mut operator, &mut cluster);
    assert!(cluster.contents() == before, "what runs is kept as it is meanwhile");

    cluster.set_image_tag(Some("v0.18.0"));
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
}

#[test]
fn a_tag_that_is_no_release_is_refused_and_fixed_by_another() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("latest"));
    settle(&mut operator, &mut cluster);
    let (status, message) = condition(&cluster, "Degraded");
    assert_eq!(
        (status.as_str(), message.as_str()),
        (
            "True",
            "An error occurred during deployment: spec.imageTag: Invalid value: \"latest\" is not a release: \
             expected a semantic version such as v0.18.0"
        )
    );
    assert_eq!(condition(&cluster, "Available").0, "True");
    cluster.set_image_tag(None);
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_17_0);
    assert_eq!(condition(&cluster, "Degraded").0, "False");
}

#[test]
fn a_broken_first_installation_is_fixed_by_another_tag() {
    let mut cluster = Cluster::new(2, Release::V0_18_0, 1);
    let mut operator = Operator::default();
    cluster.inject("virt-handler", Release::V0_17_0, Fault::ImageMissing);
    cluster.set_image_tag(Some("v0.17.0"));
    settle(&mut operator, &mut cluster);
    assert_eq!(condition(&cluster, "Available").0, "False");
    let (status, message) = condition(&cluster, "Degraded");
    assert!(status == "True" && message.starts_with("Deploying version v0.17.0"), "{message}");
    cluster.set_image_tag(Some("v0.18.0"));
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
}

#[test]
fn a_new_kind_is_guarded_until_the_update_is_over() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("v0.18.0"));
    let mut refusals = std::collections::BTreeSet::new();
    for _ in 0..400 {
        operator.reconcile(&mut cluster, usize::MAX).unwrap();
        cluster.tick();
        match cluster.create_instance(REPLICA_SETS, "a") {
            Ok(()) => break,
            Err(refusal) => refusals.insert(refusal),
        };
    }
    let all: Vec<_> = refusals.into_iter().collect();
    assert_eq!(
        all,
        [
            "VirtualMachineInstanceReplicaSet is new in v0.18.0: the version gate is closed until the update from \
             v0.17.0 to v0.18.0 is over",
            "virtualmachineinstancereplicasets is not a kind",
        ]
    );
    assert_eq!(cluster.instances(REPLICA_SETS), 1, "accepted in the end");
    assert_eq!(cluster.serving("virt-api", &Release::V0_18_0), 2);
}

#[test]
fn a_rollback_waits_for_objects_of_a_kind_that_goes() {
    let (mut operator, mut cluster) = installed(Release::V0_18_0);
    cluster.create_instance(REPLICA_SETS, "mine").unwrap();
    cluster.set_image_tag(Some("v0.17.0"));
    let plan = settle(&mut operator, &mut cluster);
    assert_eq!((plan.direction, plan.stage), (Direction::Rollback, Stage::Orphans));
    assert_eq!(
        plan.waiting_on[0].to_string(),
        "1 VirtualMachineInstanceReplicaSet to be deleted by their owners, because v0.17.0 doesn't have the kind: \
         default/mine"
    );
    assert!(
        cluster.create_instance(REPLICA_SETS, "another").unwrap_err().contains("does not exist in v0.17.0")
    );
    cluster.delete_instance(REPLICA_SETS, "mine");
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_17_0);
    assert!(cluster.guard_refuses(REPLICA_SETS).is_none(), "no guard is left");
}

#[test]
fn a_cosmetic_change_rolls_nothing_and_another_registry_rolls_everything() {
    let (mut operator, mut cluster) = installed(Release::V0_18_0);
    let pods = |cluster: &Cluster| -> Vec<String> {
        let mut uids: Vec<_> = cluster.observe().pods.into_iter().map(|pod| pod.uid).collect();
        uids.sort();
        uids
    };
    let before = pods(&cluster);
    cluster.set_log_verbosity();
    settle(&mut operator, &mut cluster);
    assert_eq!(pods(&cluster), before);
    let status = cluster.kubevirt().unwrap().status.clone().unwrap();
    assert_eq!(status.observed_generation, cluster.kubevirt().unwrap().metadata.generation);
    cluster.set_registry("elsewhere");
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
    assert!(pods(&cluster).iter().all(|uid| !before.contains(uid)));
}

#[test]
fn what_drifts_or_disappears_is_put_right() {
    let (mut operator, mut cluster) = installed(Release::V0_18_0);
    let before = cluster.contents();
    let mut kinds = std::collections::BTreeSet::new();
    let one_of_each = before.keys().filter(|key| kinds.insert(key.kind.clone()));
    for key in one_of_each.filter(|key| key.kind != "CustomResourceDefinition") {
        cluster.vandalise(key);
        settle(&mut operator, &mut cluster);
        assert!(cluster.contents() == before, "{key}");
    }
    let role = ObjectKey::cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "kubevirt-handler");
    cluster.tamper(&role, "/rules/0", json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
    settle(&mut operator, &mut cluster);
    assert!(cluster.contents() == before);
}

#[test]
fn certificates_are_renewed_and_a_new_ca_is_trusted_before_it_signs() {
    let (mut operator, mut cluster) = installed(Release::V0_18_0);
    let first = cluster.observe().certificates;
    cluster.advance(SignedDuration::from_hours(20));
    settle(&mut operator, &mut cluster);
    let second = cluster.observe().certificates;
    assert_eq!(first.ca, second.ca);
    let changed = |a: &kubevirt_rollout::observed::Certificates,
                   b: &kubevirt_rollout::observed::Certificates| {
        a.leaves.iter().filter(|(name, leaf)| b.leaves.get(*name) != Some(leaf)).count()
    };
    assert_eq!(changed(&first, &second), 5);

    for _ in 0..6 {
        cluster.advance(SignedDuration::from_hours(19));
        settle(&mut operator, &mut cluster);
    }
    let fingerprint =
        |cluster: &Cluster| cluster.observe().certificates.ca.unwrap().content.unwrap().fingerprint;
    let before = fingerprint(&cluster);
    cluster.advance(SignedDuration::from_hours(1));
    operator.reconcile(&mut cluster, usize::MAX).unwrap();
    let (ca, issued) = (fingerprint(&cluster), cluster.now());
    assert_ne!(before, ca, "renewed when a fifth is left");
    let signed = |cluster: &Cluster| {
        let leaves = cluster.observe().certificates.leaves;
        leaves.values().filter(|leaf| leaf.content.as_ref().unwrap().signed_by.as_ref() == Some(&ca)).count()
    };
    while signed(&cluster) == 0 {
        operator.run(&mut cluster, 1).unwrap();
        assert!(cluster.now().duration_since(issued) < SignedDuration::from_mins(10));
    }
    assert!(cluster.now().duration_since(issued) >= operator.policy.ca_spread);
    let bundle = cluster.observe().certificates.bundle;
    assert_eq!(bundle.iter().map(|ca| ca.fingerprint.clone()).collect::<Vec<_>>(), [ca.clone(), before]);
    settle(&mut operator, &mut cluster);
    assert_eq!(signed(&cluster), 5);
}

#[test]
fn a_new_ca_spreads_from_its_publication_on_and_not_from_its_issue() {
    let (mut operator, mut cluster) = installed(Release::V0_18_0);
    let leaves = |cluster: &Cluster| cluster.observe().certificates.leaves;
    cluster.advance(SignedDuration::from_hours(134));
    settle(&mut operator, &mut cluster);
    let (before, bundle) = (leaves(&cluster), cluster.observe().certificates.bundle);
    cluster.advance(SignedDuration::from_hours(1));
    // the leader dies between the two writes, and nobody leads for longer than a CA takes to spread
    operator.reconcile(&mut cluster, 1).unwrap();
    assert_eq!(cluster.observe().certificates.bundle, bundle);
    cluster.advance(SignedDuration::from_mins(10));
    let mut next = Operator::default();
    while cluster.observe().certificates.bundle == bundle {
        next.run(&mut cluster, 1).unwrap();
        assert_eq!(leaves(&cluster), before);
    }
    let published = cluster.now();
    while leaves(&cluster) == before {
        next.run(&mut cluster, 1).unwrap();
        assert!(cluster.now().duration_since(published) < SignedDuration::from_mins(4));
    }
    assert!(cluster.now().duration_since(published) >= next.policy.ca_spread);
}

#[test]
fn an_old_pod_that_drains_for_long_holds_up_nothing() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_drain(SignedDuration::from_hours(1));
    cluster.set_image_tag(Some("v0.18.0"));
    let start = cluster.now();
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
    assert!(cluster.now().duration_since(start) < SignedDuration::from_mins(10));
    assert!(cluster.observe().pods.iter().any(|pod| pod.deleting_since.is_some()));
}

#[test]
fn uninstall_takes_everything_and_the_workloads_first() {
    let (mut operator, mut cluster) = installed(Release::V0_18_0);
    cluster.create_instance("virtualmachines", "a").unwrap();
    cluster.create_instance(REPLICA_SETS, "b").unwrap();
    cluster.log.clear();
    cluster.delete_kubevirt();
    operator.reconcile(&mut cluster, usize::MAX).unwrap();
    let status = cluster.kubevirt().unwrap().status.clone().unwrap();
    assert_eq!(status.phase, Some(KubeVirtPhase::Deleting));
    settle(&mut operator, &mut cluster);
    assert!(cluster.kubevirt().is_none());
    assert!(cluster.contents().is_empty(), "{:?}", cluster.contents().keys());
    let seen = cluster.observe();
    assert!(seen.pods.is_empty() && seen.strategies.is_empty() && seen.certificates.ca.is_none());
    assert!(seen.nodes.iter().all(|node| node.our_labels.is_empty()));
    let at = |what: &str| {
        cluster.log.iter().position(|step| step.contains(what)).unwrap_or_else(|| panic!("{what}"))
    };
    let order = [
        "delete every VirtualMachine",
        "delete CustomResourceDefinition",
        "delete ValidatingWebhookConfiguration virt-api",
        "delete Deployment",
        "delete ClusterRole",
        "remove labels of node",
        "remove the finalizer",
    ];
    let positions: Vec<usize> = order.iter().map(|what| at(what)).collect();
    assert!(positions.is_sorted(), "{:#?}", cluster.log);
}

#[test]
fn an_uninstall_in_the_middle_of_an_update_ends_too() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("v0.18.0"));
    operator.run_writes(&mut cluster, 20, 300).unwrap();
    cluster.delete_kubevirt();
    settle(&mut operator, &mut cluster);
    assert!(cluster.kubevirt().is_none() && cluster.contents().is_empty());
}

#[test]
fn a_stale_view_only_fails() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("v0.18.0"));
    let mut views = vec![];
    for round in 0..120_usize {
        views.push(cluster.observe());
        let stale = &views[round.saturating_sub(round % 4)];
        operator.reconcile_from(&mut cluster, &stale.clone(), usize::MAX).unwrap();
        cluster.tick();
        operator.watch(&cluster).unwrap();
    }
    settle(&mut operator, &mut cluster);
    assert_at(&cluster, &Release::V0_18_0);
}

#[test]
fn waits_are_named_in_the_conditions() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("v0.18.0"));
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let outcome = operator.reconcile(&mut cluster, usize::MAX).unwrap();
        waits.extend(outcome.plan.waiting_on.iter().map(WaitingOn::reason));
        cluster.tick();
    }
    for reason in ["StrategyJob", "GuardNotActive", "HandlersNotReady", "ControllersNotReady", "ApiNotReady"]
    {
        assert!(waits.contains(reason), "{reason} in {waits:?}");
    }
}

#[test]
fn a_status_that_is_derived_twice_is_the_same() {
    let (mut operator, mut cluster) = installed(Release::V0_17_0);
    cluster.set_image_tag(Some("v0.18.0"));
    for _ in 0..60 {
        let outcome = operator.reconcile(&mut cluster, 0).unwrap();
        let later = cluster.now().saturating_add(SignedDuration::from_secs(5)).unwrap();
        let observed = cluster.observe();
        let first = kubevirt_rollout::status(&observed, &outcome.plan, cluster.now());
        let mut seen = observed.clone();
        seen.kubevirt.as_mut().unwrap().status = Some(first.clone());
        assert!(kubevirt_rollout::status(&seen, &outcome.plan, later) == first);
        operator.run(&mut cluster, 1).unwrap();
    }
}
