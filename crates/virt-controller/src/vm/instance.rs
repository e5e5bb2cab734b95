//! The instance that a VM's template gives.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kubevirt_types::vm::VirtualMachineInstanceTemplateSpec;
use kubevirt_types::vmi::Machine;
use kubevirt_types::{API_VERSION, VirtualMachine, VirtualMachineInstance, labels};

/// Annotation on an instance: the generation of the VM that it was made from.
const VM_GENERATION: &str = "kubevirt.io/vm-generation";

/// The instance of a VM: same name, controlled by it.
pub(super) fn instance(vm: &VirtualMachine, machine_type: &str) -> VirtualMachineInstance {
    let owner = owner("VirtualMachine", &vm.metadata);
    let mut vmi = from_template(&vm.spec.template, machine_type);
    vmi.metadata.name = vm.metadata.name.clone();
    vmi.metadata.namespace = vm.metadata.namespace.clone();
    vmi.metadata.owner_references = Some(vec![owner]);
    vmi.metadata.finalizers = Some(vec![labels::FINALIZER_VM.to_owned()]);
    if let Some(generation) = vm.metadata.generation {
        let annotations = vmi.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(VM_GENERATION.to_owned(), generation.to_string());
    }
    vmi
}

/// The generation of the VM that an instance was made from.
pub(super) fn generation(vmi: &VirtualMachineInstance) -> Option<i64> {
    vmi.metadata.annotations.as_ref()?.get(VM_GENERATION)?.parse().ok()
}

/// An instance without a name, from a template.
pub fn from_template(
    template: &VirtualMachineInstanceTemplateSpec,
    machine_type: &str,
) -> VirtualMachineInstance {
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut spec = template.spec.clone();
    spec.domain
        .machine
        .get_or_insert_with(Machine::default)
        .type_
        .get_or_insert_with(|| machine_type.to_owned());
    VirtualMachineInstance {
        metadata: ObjectMeta {
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// The reference with which an object of ours controls an instance.
pub fn owner(kind: &str, metadata: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
