//! Which instances are admitted.

use kubevirt_types::{Kind, VirtualMachineInstance};

use super::field::{Findings, Path};
use super::{Context, Question, metadata, release, spec};

/// Checks an instance at its creation.
pub fn validate_create(
    question: &Question<'_, VirtualMachineInstance>,
    context: &Context<'_>,
    findings: &mut Findings,
) {
    let Question { object, raw, old_raw, .. } = question;
    metadata::validate_name(&object.metadata, findings);
    if !context.by_component {
        let at = Path::root("metadata").field("labels");
        metadata::validate_labels(object.metadata.labels.as_ref(), None, &at, findings);
        // What virt-controller makes from a template was asked when the template was admitted: a
        // gate that closed since must not keep a VM from starting again.
        release::validate(Kind::VirtualMachineInstance, (raw, old_raw), context.own, context.floor, findings);
    }
    spec::validate(&object.spec, &Path::root("spec"), context.own, findings);
}

/// Checks a change of an instance. Its spec is what QEMU was started with: only components of ours
/// may touch it.
pub fn validate_update(
    question: &Question<'_, VirtualMachineInstance>,
    context: &Context<'_>,
    findings: &mut Findings,
) {
    if context.by_component {
        return;
    }
    let Question { object, old, raw, old_raw } = question;
    if raw.get("spec") != old_raw.get("spec") {
        findings
            .forbidden(&Path::root("spec"), "update of VMI object is restricted: its spec can't be changed");
    }
    let old = old.as_ref().and_then(|old| old.metadata.labels.as_ref());
    let at = Path::root("metadata").field("labels");
    metadata::validate_labels(object.metadata.labels.as_ref(), old, &at, findings);
}
