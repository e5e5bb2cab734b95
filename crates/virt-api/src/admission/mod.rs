//! What is admitted: a pure answer to each question of the API server.
//!
//! Owns validation and defaults of VMs, instances, migrations and replica sets. Never reads the
//! cluster: what a hook needs to know of it is in [`Context`].

pub mod defaults;
pub mod eviction;
mod field;
mod metadata;
pub mod migration;
mod release;
pub mod review;
mod spec;
mod vm;
mod vmi;

use kubevirt_types::feature::{self, What};
use kubevirt_types::gate::{self, Floor};
use kubevirt_types::{Kind, Release};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::refusal::Refusal;
use field::Findings;
pub use metadata::is_component;
use review::{Operation, Request, Verdict};

/// Our hooks; each is a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Hook {
    VmMutate,
    VmiMutate,
    VmValidate,
    VmiValidateCreate,
    VmiValidateUpdate,
    MigrationValidateCreate,
    MigrationValidateUpdate,
    ReplicaSetValidate,
}

impl Hook {
    /// All of them.
    pub const ALL: [Hook; 8] = [
        Hook::VmMutate,
        Hook::VmiMutate,
        Hook::VmValidate,
        Hook::VmiValidateCreate,
        Hook::VmiValidateUpdate,
        Hook::MigrationValidateCreate,
        Hook::MigrationValidateUpdate,
        Hook::ReplicaSetValidate,
    ];

    /// Its path, as the webhook configurations name it.
    pub fn path(self) -> &'static str {
        match self {
            Hook::VmMutate => "/virtualmachines-mutate",
            Hook::VmiMutate => "/virtualmachineinstances-mutate",
            Hook::VmValidate => "/virtualmachines-validate",
            Hook::VmiValidateCreate => "/virtualmachineinstances-validate-create",
            Hook::VmiValidateUpdate => "/virtualmachineinstances-validate-update",
            Hook::MigrationValidateCreate => "/migration-validate-create",
            Hook::MigrationValidateUpdate => "/migration-validate-update",
            Hook::ReplicaSetValidate => "/virtualmachinereplicaset-validate",
        }
    }

    /// The kind that it is asked about. A release that doesn't have the kind doesn't have the hook.
    pub fn kind(self) -> Kind {
        match self {
            Hook::VmMutate | Hook::VmValidate => Kind::VirtualMachine,
            Hook::VmiMutate | Hook::VmiValidateCreate | Hook::VmiValidateUpdate => {
                Kind::VirtualMachineInstance
            }
            Hook::MigrationValidateCreate | Hook::MigrationValidateUpdate => {
                Kind::VirtualMachineInstanceMigration
            }
            Hook::ReplicaSetValidate => Kind::VirtualMachineInstanceReplicaSet,
        }
    }
}

/// What a hook must know besides the question.
pub struct Context<'a> {
    /// The release of this virt-api.
    pub own: &'a Release,
    /// The lowest release among the controllers.
    pub floor: &'a Floor,
    /// Whether a component of ours asks.
    pub by_component: bool,
    /// Machine type of guests that name none.
    pub machine_type: &'a str,
    /// What is known of the instance that a migration names.
    pub migration_subject: migration::Subject,
}

/// A question about one kind, parsed.
pub struct Question<'a, K> {
    /// The object as it would be.
    pub object: K,
    /// The object as it is; none at its creation.
    pub old: Option<K>,
    /// The same, as it came: with the fields that this release doesn't know.
    pub raw: &'a Value,
    /// The same of `old`; null at a creation.
    pub old_raw: &'a Value,
}

/// Answers a question. `draw` gives random bytes.
pub fn decide(
    hook: Hook,
    request: &Request,
    context: &Context<'_>,
    draw: &mut dyn FnMut(&mut [u8]),
) -> Verdict {
    let going =
        |object: &Value| object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null());
    match request.operation {
        Operation::Delete | Operation::Connect => return Verdict::Admit,
        // What is going must be able to go: only finalizers leave it now.
        Operation::Update if going(&request.object) => return Verdict::Admit,
        Operation::Create | Operation::Update => {}
    }
    match hook {
        Hook::VmMutate | Hook::VmiMutate => mutate(hook.kind(), request, context, draw),
        Hook::VmValidate => validated(request, |q, findings| vm::validate(q, context, findings)),
        Hook::VmiValidateCreate => {
            validated(request, |q, findings| vmi::validate_create(q, context, findings))
        }
        Hook::VmiValidateUpdate => {
            validated(request, |q, findings| vmi::validate_update(q, context, findings))
        }
        Hook::MigrationValidateCreate => validated(request, |q, findings| {
            migration::validate_create(&q.object, &context.migration_subject, findings);
        }),
        Hook::MigrationValidateUpdate => {
            validated(request, |q, findings| migration::validate_update(q, context.by_component, findings))
        }
        Hook::ReplicaSetValidate => match new_kind_is_open(hook.kind(), request, context) {
            Ok(()) => validated(request, |q, findings| vm::validate_replica_set(q, context, findings)),
            Err(refusal) => Verdict::Refuse(refusal),
        },
    }
}

/// What exists already stays changeable when the gate closes again.
fn new_kind_is_open(kind: Kind, request: &Request, context: &Context<'_>) -> Result<(), Refusal> {
    match feature::find(What::Kind(kind.plural())) {
        Some(feature) if request.operation == Operation::Create => {
            gate::check(feature, context.own, context.floor).map_err(|e| Refusal::forbidden(e.to_string()))
        }
        Some(_) | None => Ok(()),
    }
}

fn validated<K: DeserializeOwned>(
    request: &Request,
    validate: impl FnOnce(&Question<'_, K>, &mut Findings),
) -> Verdict {
    let question = match parse(request) {
        Ok(question) => question,
        Err(error) => return Verdict::Refuse(Refusal::bad_request(error.to_string())),
    };
    let mut findings = Findings::default();
    validate(&question, &mut findings);
    match findings.into_causes() {
        causes if causes.is_empty() => Verdict::Admit,
        causes => Verdict::Refuse(Refusal::invalid(causes)),
    }
}

fn parse<K: DeserializeOwned>(request: &Request) -> Result<Question<'_, K>, serde_json::Error> {
    let (raw, old_raw) = (&request.object, &request.old_object);
    let old = if old_raw.is_null() { None } else { Some(K::deserialize(old_raw)?) };
    Ok(Question { object: K::deserialize(raw)?, old, raw, old_raw })
}

fn mutate(kind: Kind, request: &Request, context: &Context<'_>, draw: &mut dyn FnMut(&mut [u8])) -> Verdict {
    let pointer = kind.vmi_spec_pointer().expect("only kinds with an instance's spec are mutated");
    let mut object = request.object.clone();
    let old = request.old_object.pointer(pointer).unwrap_or(&Value::Null);
    if let Some(spec) = object.pointer_mut(pointer) {
        defaults::fill(spec, old, context.machine_type, draw);
    }
    match json_patch::diff(&request.object, &object) {
        patch if patch.0.is_empty() => Verdict::Admit,
        patch => Verdict::Patch(patch),
    }
}

#[cfg(test)]
mod tests;
