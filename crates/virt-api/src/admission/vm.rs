//! Which virtual machines and replica sets are admitted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kubevirt_types::feature::{self, What};
use kubevirt_types::gate;
use kubevirt_types::vm::{RunStrategy, VirtualMachineInstanceTemplateSpec, VirtualMachineSpec};
use kubevirt_types::{Kind, VirtualMachine, VirtualMachineInstanceReplicaSet};
use serde_json::Value;

use super::field::{Findings, Path};
use super::{Context, Question, metadata, release, spec};

/// Checks a VM at its creation or change.
pub fn validate(question: &Question<'_, VirtualMachine>, context: &Context<'_>, findings: &mut Findings) {
    let Question { object, old, raw, old_raw } = question;
    if old.is_none() {
        metadata::validate_name(&object.metadata, findings);
    }
    release::validate(Kind::VirtualMachine, (raw, old_raw), context.own, context.floor, findings);
    validate_run_strategy(&object.spec, raw, findings);
    validate_new_strategy(&object.spec, old.as_ref().map(|old| &old.spec), context, findings);
    let old = old.as_ref().map(|old| &old.spec.template);
    validate_template(&object.spec.template, old, context, findings);
}

/// Checks a replica set at its creation or change.
pub fn validate_replica_set(
    question: &Question<'_, VirtualMachineInstanceReplicaSet>,
    context: &Context<'_>,
    findings: &mut Findings,
) {
    let Question { object, old, raw, old_raw } = question;
    let at = Path::root("spec");
    let kind = Kind::VirtualMachineInstanceReplicaSet;
    release::validate(kind, (raw, old_raw), context.own, context.floor, findings);
    if let Some(replicas) = object.spec.replicas
        && replicas < 0
    {
        findings.invalid(&at.field("replicas"), replicas, "must be greater than or equal to 0");
    }
    validate_selector(&object.spec.selector, &object.spec.template, &at, findings);
    let old = old.as_ref().map(|old| &old.spec.template);
    validate_template(&object.spec.template, old, context, findings);
}

fn validate_run_strategy(vm: &VirtualMachineSpec, raw: &Value, findings: &mut Findings) {
    let at = Path::root("spec");
    match (vm.running, vm.run_strategy) {
        (Some(_), Some(_)) => {
            findings.forbidden(&at.field("running"), "running and runstrategy are mutually exclusive");
        }
        (None, None) => {
            let why =
                "one of running or runStrategy: allowed are Always, Halted, Manual, RerunOnFailure, Once";
            findings.required(&at.field("runStrategy"), why);
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    if !raw.pointer("/spec/template").is_some_and(Value::is_object) {
        findings.required(&at.field("template"), "what the instance is made from");
    }
}

/// A strategy that a controller doesn't know yet would be carried out by none.
fn validate_new_strategy(
    vm: &VirtualMachineSpec,
    old: Option<&VirtualMachineSpec>,
    context: &Context<'_>,
    findings: &mut Findings,
) {
    let Some(strategy) = vm.run_strategy else { return };
    if old.is_some_and(|old| old.run_strategy == Some(strategy)) {
        return;
    }
    let feature = match strategy {
        RunStrategy::Once => feature::find(What::RunStrategy("Once")),
        RunStrategy::Always | RunStrategy::Halted | RunStrategy::Manual | RunStrategy::RerunOnFailure => None,
    };
    if let Some(Err(closed)) = feature.map(|feature| gate::check(feature, context.own, context.floor)) {
        findings.forbidden(&Path::root("spec").field("runStrategy"), closed.to_string());
    }
}

/// A template that stays as it is isn't judged again: whatever was admitted once must not keep a
/// VM from being started, stopped or deleted.
fn validate_template(
    template: &VirtualMachineInstanceTemplateSpec,
    old: Option<&VirtualMachineInstanceTemplateSpec>,
    context: &Context<'_>,
    findings: &mut Findings,
) {
    if old == Some(template) {
        return;
    }
    let at = Path::root("spec").field("template");
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    metadata::validate_labels(labels, None, &at.field("metadata").field("labels"), findings);
    spec::validate(&template.spec, &at.field("spec"), context.own, findings);
}

fn validate_selector(
    selector: &LabelSelector,
    template: &VirtualMachineInstanceTemplateSpec,
    at: &Path,
    findings: &mut Findings,
) {
    let at = at.field("selector");
    let (labels, expressions) = (selector.match_labels.as_ref(), selector.match_expressions.as_ref());
    if labels.is_none_or(|l| l.is_empty()) && expressions.is_none_or(|e| e.is_empty()) {
        findings.required(&at, "labels by which the replica set knows its instances");
        return;
    }
    let empty = Default::default();
    let have = template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&empty);
    let equal = labels.into_iter().flatten().all(|(key, value)| have.get(key) == Some(value));
    let matches = expressions.into_iter().flatten().all(|e| {
        let values = e.values.as_deref().unwrap_or_default();
        let value = have.get(&e.key);
        match e.operator.as_str() {
            "In" => value.is_some_and(|v| values.contains(v)),
            "NotIn" => value.is_none_or(|v| !values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    if !(equal && matches) {
        findings.invalid(&at, have, "must match the labels of the template, spec.template.metadata.labels");
    }
}
