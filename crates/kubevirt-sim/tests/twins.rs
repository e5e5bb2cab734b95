//! Must-fail twins: for each invariant a planner that is wrong on purpose, carried out by the same loop on the same
//! cluster as the real one. Each is caught twice: its plan by `check`, before anything is written, and with that
//! switched off its deeds by the promise. What no single plan shows only the loop can see.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::{Manifest, ManifestSet};
use kubevirt_rollout::{
    Direction, Make, Observed, Plan, Policy, Precondition, Stage, Step, WaitingOn, plan_with,
};
use kubevirt_sim::{Cluster, Fault, Operator, Planner, say};
use kubevirt_types::{ObjectKey, Release};
use serde_json::{Value, json};
use std::sync::Arc;
use support::installed;

const NEW: Release = Release::V0_18_0;
const OLD: Release = Release::V0_17_0;

/// What stops an update by this planner.
fn stopped(planner: Planner, checks: bool) -> String {
    let (_, mut cluster) = installed(OLD);
    cluster.create_instance("virtualmachines", "a").unwrap();
    let mut operator = Operator::with(planner, checks);
    operator.watch(&cluster).unwrap();
    cluster.set_image_tag(Some("v0.18.0"));
    operator.arrive(&mut cluster, &NEW, 1500).and_then(|()| operator.run(&mut cluster, 60)).unwrap_err()
}

/// Caught as this by the check of its plan, and as that by the promise.
fn caught(planner: Planner, by_check: &str, by_promise: &str) {
    for (checks, expected) in [(true, by_check), (false, by_promise)] {
        let stopped = stopped(planner, checks);
        let first = stopped.lines().next().unwrap();
        assert!(stopped.contains(expected), "checks {checks}: {stopped}");
        say(&format!("twin caught by {}: {:.100}", if checks { "check" } else { "the promise" }, first));
    }
}

/// What only the loop can see is seen with and without checks.
fn caught_by_the_loop(planner: Planner, expected: &str) {
    caught(planner, expected, expected);
}

#[test]
fn the_right_planner_is_not_stopped() {
    let (_, mut cluster) = installed(OLD);
    let mut operator = Operator::with(plan_with, false);
    cluster.set_image_tag(Some("v0.18.0"));
    operator.arrive(&mut cluster, &NEW, 1500).unwrap();
}

fn service() -> ObjectKey {
    ObjectKey::namespaced("v1", "Service", "kubevirt", "virt-api")
}

fn workload(kind: &str, name: &str) -> ObjectKey {
    ObjectKey::namespaced("apps/v1", kind, "kubevirt", name)
}

fn seen(observed: &Observed, key: &ObjectKey) -> Option<(String, String)> {
    let text = |field: &str| observed.objects.get(key)?["metadata"][field].as_str().map(str::to_owned);
    Some((text("uid")?, text("resourceVersion")?))
}

/// Writes a live object again, changed.
fn rewrite(observed: &Observed, key: &ObjectKey, change: impl FnOnce(&mut Value)) -> Option<Step> {
    let mut body = observed.objects.get(key)?.clone();
    change(&mut body);
    apply(observed, Manifest { key: key.clone(), body })
}

fn apply(observed: &Observed, manifest: Manifest) -> Option<Step> {
    let (uid, resource_version) = seen(observed, &manifest.key)?;
    Some(Step::Apply { manifest, precondition: Precondition::Unchanged { uid, resource_version } })
}

fn target(observed: &Observed, plan: &Plan) -> Option<Arc<ManifestSet>> {
    Some(observed.strategies.get(&plan.target.as_ref()?.id())?.set.clone())
}

/// The right plan, and in this stage one step more, first.
fn with(observed: &Observed, mut plan: Plan, stage: Stage, step: impl FnOnce(&Plan) -> Option<Step>) -> Plan {
    if plan.stage == stage
        && plan.direction != Direction::Steady
        && let Some(step) = step(&plan)
        && observed.synced
    {
        plan.steps.insert(0, step);
    }
    plan
}

fn rewrites_what_is_there(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    if plan.direction == Direction::Steady {
        plan.steps.extend(rewrite(observed, &service(), |_| {}));
    }
    plan
}

fn stamp(body: &mut Value, now: Timestamp) {
    body["metadata"]["annotations"]["seen"] = json!(now.to_string());
}

fn never_rests(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    if plan.direction == Direction::Steady && now.as_second() % 2 == 0 {
        plan.steps.extend(rewrite(observed, &service(), |body| stamp(body, now)));
    }
    plan
}

#[test]
fn i1_writes_at_the_target() {
    for planner in [rewrites_what_is_there as Planner, never_rests] {
        caught_by_the_loop(planner, "I1: ");
    }
}

fn writes_twice(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    with(observed, plan, Stage::Handlers, |_| rewrite(observed, &service(), |_| {}))
}

/// One stage wants an annotation, the next one wants it gone.
fn undoes(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    with(observed, plan, Stage::Handlers, |_| {
        let ports = observed.objects.get(&service())?["spec"]["ports"][0]["port"] == 443;
        rewrite(observed, &service(), |body| {
            body["spec"]["ports"][0]["port"] = json!(if ports { 444 } else { 443 });
        })
    })
}

#[test]
fn i2_applies_twice_and_undoes_its_own_work() {
    for planner in [writes_twice as Planner, undoes] {
        caught_by_the_loop(planner, "I2: ");
    }
}

fn api_first(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    with(observed, plan, Stage::Handlers, |plan| {
        let manifest = target(observed, plan)?.get(&workload("Deployment", "virt-api"))?.clone();
        let live = &observed.objects.get(&manifest.key)?["spec"]["template"]["metadata"]["labels"];
        let is_new = live == &manifest.body["spec"]["template"]["metadata"]["labels"];
        apply(observed, manifest).filter(|_| !is_new)
    })
}

#[test]
fn i3_virt_api_before_the_handlers() {
    caught(api_first, "I3ApiNeverAhead", "I3: virt-api v0.18.0 beside v0.17.0");
}

/// Every step that writes this object, changed.
fn changed(mut plan: Plan, key: &ObjectKey, change: impl Fn(&mut Value)) -> Plan {
    for step in &mut plan.steps {
        if let Step::Apply { manifest, .. } = step
            && manifest.key == *key
        {
            change(&mut manifest.body);
        }
    }
    plan
}

fn api_with_a_gap(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    changed(plan_with(observed, policy, now, make), &workload("Deployment", "virt-api"), |body| {
        body["spec"]["strategy"]["rollingUpdate"] = json!({"maxUnavailable": 2, "maxSurge": 0});
    })
}

#[test]
fn i4_virt_api_with_a_gap() {
    caught(api_with_a_gap, "I4ApiAlwaysServes", "I4: 0 virt-api where there were 2");
}

fn deletes_vms(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    with(observed, plan, Stage::Controllers, |_| {
        Some(Step::DeleteInstances {
            kind: "VirtualMachine".into(),
            plural: "virtualmachines".into(),
            version: "v1".into(),
        })
    })
}

#[test]
fn i5_deletes_the_vms_of_others() {
    caught(deletes_vms, "I5NoWorkloadTouched", "I5: virtualmachines default/a is gone");
}

fn handlers_all_at_once(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    changed(plan_with(observed, policy, now, make), &workload("DaemonSet", "virt-handler"), |body| {
        body["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = json!("100%");
    })
}

#[test]
fn i6_every_handler_at_once() {
    caught(handlers_all_at_once, "I6CanaryFirst", "I6: 3 handlers are being replaced, at most 1 may");
}

#[test]
fn i6_a_second_node_before_the_first_is_known_to_be_bad() {
    let (_, mut cluster) = installed(OLD);
    let policy = Policy { schedulable_deadline: SignedDuration::from_mins(10), ..Policy::default() };
    let mut operator = Operator::with(plan_with, false);
    operator.policy = policy;
    cluster.inject("virt-handler", NEW, Fault::NodeUnable);
    // nobody waits for the decision: whoever stands by follows
    operator.planner = |observed, policy, now, make| {
        let key = workload("DaemonSet", "virt-handler");
        let mut plan = changed(plan_with(observed, policy, now, make), &key, |body| {
            body["spec"]["minReadySeconds"] = json!(5);
            body["spec"]["updateStrategy"] =
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
        });
        let live = observed.objects.get(&key);
        plan.steps.retain(|step| match step {
            Step::Apply { manifest, .. } if manifest.key == key => {
                live.is_none_or(|live| live["spec"] != manifest.body["spec"])
            }
            _ => true,
        });
        plan
    };
    cluster.set_image_tag(Some("v0.18.0"));
    let stopped = operator.arrive(&mut cluster, &NEW, 1500).unwrap_err();
    assert!(stopped.contains("suffer from a virt-handler that nobody has tried"), "{stopped}");
}

/// The target's rules, and nothing that only old pods need.
fn takes_rules(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    with(observed, plan, Stage::Handlers, |plan| {
        let key = ObjectKey::cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "kubevirt-controller");
        apply(observed, target(observed, plan)?.get(&key)?.clone())
    })
}

#[test]
fn i7_takes_rules_that_old_pods_need() {
    caught(takes_rules, "I7OldRbacStands", "I7: a pod of v0.17.0 lacks");
}

fn deletes_early(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    with(observed, plan, Stage::Controllers, |_| {
        let (uid, resource_version) = seen(observed, &service())?;
        Some(Step::Delete { key: service(), uid, resource_version })
    })
}

#[test]
fn i8_deletes_what_the_old_release_has() {
    caught(deletes_early, "I8NothingDeletedEarly", "I8: Service kubevirt/virt-api is gone");
}

fn believes_half_a_view(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    plan_with(&Observed { synced: true, ..observed.clone() }, policy, now, make)
}

#[test]
fn i9_plans_from_a_view_that_is_not_synced() {
    let (_, mut cluster) = installed(OLD);
    let mut half = cluster.observe();
    half.synced = false;
    half.objects.retain(|key, _| key.kind == "CustomResourceDefinition");
    half.pods.clear();
    let mut operator = Operator::with(believes_half_a_view, true);
    let stopped = operator.reconcile_from(&mut cluster, &half, usize::MAX).unwrap_err();
    assert!(stopped.contains("I9SyncedView"), "{stopped}");
    let mut reckless = Operator::with(believes_half_a_view, false);
    let before = cluster.contents();
    for _ in 0..20 {
        reckless.reconcile_from(&mut cluster, &half, usize::MAX).unwrap();
    }
    assert!(
        cluster.contents() == before,
        "and nothing that it wants is taken, for what it doesn't see exists"
    );
}

/// A second launcher for a VM. That no two domains of one VM ever run is the business of migration and of the launcher:
/// here it can only be shown that no step of an update makes, changes or deletes a launcher pod or a VM (I5).
fn second_launcher(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    with(observed, plan, Stage::Handlers, |_| {
        let key = ObjectKey::namespaced("v1", "Pod", "default", "virt-launcher-a-zzzzz");
        let body = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "virt-launcher-a-zzzzz", "namespace": "default"},
        });
        let exists = observed.objects.contains_key(&key);
        let step = Step::Apply { manifest: Manifest { key, body }, precondition: Precondition::Absent };
        (!exists).then_some(step)
    })
}

#[test]
fn i10_makes_a_second_launcher() {
    let stopped = stopped(second_launcher, true);
    assert!(
        stopped.contains("I5NoWorkloadTouched") && stopped.contains("virt-launcher-a-zzzzz"),
        "{stopped}"
    );
}

fn waits_forever(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    if plan.stage == Stage::Controllers && plan.direction == Direction::Update {
        plan.steps.clear();
        plan.waiting_on = vec![WaitingOn::Reports { missing: vec!["nobody".into()] }];
    }
    plan
}

/// Never settles: there is always something new to say.
fn always_busy(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = plan_with(observed, policy, now, make);
    let stage = plan.stage;
    with(observed, plan, stage, |_| {
        rewrite(observed, &service(), |body| stamp(body, now)).filter(|_| stage == Stage::Handlers)
    })
}

fn keeps_a_failed_target(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut observed = observed.clone();
    let status = observed.kubevirt.as_mut().and_then(|kubevirt| kubevirt.status.as_mut());
    if let Some(status) = status {
        status.failed_update = None;
    }
    plan_with(&observed, policy, now, make)
}

#[test]
fn i11_waits_forever_or_never_gets_quiet() {
    caught_by_the_loop(waits_forever, "I11: v0.18.0 is never reached");
    let (_, mut cluster) = installed(OLD);
    cluster.inject("virt-handler", NEW, Fault::NeverReady);
    cluster.set_image_tag(Some("v0.18.0"));
    let mut busy = Operator::with(always_busy, true);
    let stopped = busy.arrive(&mut cluster, &NEW, 150).unwrap_err();
    assert!(stopped.contains("I11: not quiet after 150 s"), "{stopped}");
}

#[test]
fn i11_never_comes_back_from_a_target_that_fails() {
    let (_, mut cluster) = installed(OLD);
    cluster.inject("virt-controller", NEW, Fault::Crashes);
    cluster.set_image_tag(Some("v0.18.0"));
    let mut operator = Operator::with(keeps_a_failed_target, true);
    let stopped = operator.arrive(&mut cluster, &OLD, 1500).unwrap_err();
    assert!(stopped.contains("I11"), "{stopped}");
}

/// Writes over what it has not seen.
fn names_nothing_seen(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(observed, policy, now, make);
    for step in &mut plan.steps {
        if let Step::Apply { precondition: Precondition::Unchanged { resource_version, .. }, .. } = step {
            *resource_version = "0".into();
        }
    }
    plan
}

#[test]
fn i12_writes_that_name_nothing_seen() {
    caught(names_nothing_seen, "I12StaleStepFails", "I11: v0.18.0 is never reached");
}

fn guards_nothing(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let mut plan = plan_with(&Observed { guard_active: true, ..observed.clone() }, policy, now, make);
    plan.steps.retain(|step| !step.to_string().contains("ValidatingAdmissionPolicy"));
    plan
}

/// The guard is never written, and all goes on as if it were enforced.
fn skips_the_guard(observed: &Observed, policy: &Policy, now: Timestamp, make: Make<'_>) -> Plan {
    let plan = guards_nothing(observed, policy, now, make);
    with(observed, plan, Stage::Guard, |plan| {
        let set = target(observed, plan)?;
        let name = "virtualmachineinstancereplicasets.kubevirt.io";
        let crd = set.manifests.iter().find(|manifest| manifest.key.name == name)?;
        let exists = observed.objects.contains_key(&crd.key);
        let step = Step::Apply { manifest: crd.clone(), precondition: Precondition::Absent };
        (!exists).then_some(step)
    })
}

#[test]
fn a_new_kind_without_a_guard() {
    caught(skips_the_guard, "CrdsInUse", "CRDs: VirtualMachineInstanceReplicaSet may be used beside");
}

#[test]
fn a_world_that_is_broken_behind_the_operators_back_is_noticed_too() {
    let (mut operator, mut cluster) = installed(OLD);
    operator.watch(&cluster).unwrap();
    let key = ObjectKey::cluster("rbac.authorization.k8s.io/v1", "ClusterRole", "kubevirt-handler");
    cluster.tamper(&key, "/rules", json!([]));
    assert!(operator.watch(&cluster).unwrap_err().contains("I7"));
    Operator::default().watch(&Cluster::new(1, OLD, 1)).unwrap();
}
