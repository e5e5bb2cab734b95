//! What a release knows and the gate allows: fields unknown here, and fields that a controller
//! doesn't know yet.

use kubevirt_types::feature::{FEATURES, Feature, What};
use kubevirt_types::gate::{self, Floor};
use kubevirt_types::schema::{structural, unknown_fields};
use kubevirt_types::{Kind, Release};
use serde_json::Value;

use super::field::{Findings, Path};

/// Refuses fields of `object`'s spec that this release or a controller doesn't know.
///
/// What `old` already has stays allowed: a virt-api that is older than the one that admitted an
/// object, or a gate that closed again, must not stop anybody from changing something else.
pub fn validate(
    kind: Kind,
    (object, old): (&Value, &Value),
    own: &Release,
    floor: &Floor,
    findings: &mut Findings,
) {
    let known_before = unknown_in_spec(kind, old, own);
    for field in unknown_in_spec(kind, object, own) {
        if !known_before.contains(&field) {
            findings.forbidden(&Path::root(&field), format!("field is unknown in {own}"));
        }
    }
    let Some(pointer) = kind.vmi_spec_pointer() else { return };
    for (feature, path) in vmi_spec_features() {
        let pointer = format!("{pointer}/{}", path.replace('.', "/"));
        let is_used = |object: &Value| object.pointer(&pointer).is_some_and(|value| !value.is_null());
        if !feature.exists_in(own) || !is_used(object) || is_used(old) {
            continue;
        }
        if let Err(closed) = gate::check(feature, own, floor) {
            let at = pointer.trim_start_matches('/').replace('/', ".");
            findings.forbidden(&Path::root(&at), closed.to_string());
        }
    }
}

fn vmi_spec_features() -> impl Iterator<Item = (&'static Feature, &'static str)> {
    FEATURES.iter().filter_map(|feature| match feature.what {
        What::VmiSpecField(path) => Some((feature, path)),
        What::Kind(_) | What::Subresource(..) | What::Rbac(_) | What::RunStrategy(_) => None,
    })
}

/// Status isn't looked at: controllers write it, maybe of another release.
fn unknown_in_spec(kind: Kind, object: &Value, own: &Release) -> Vec<String> {
    match (object.get("spec"), structural(kind, own).pointer("/properties/spec")) {
        (Some(spec), Some(schema)) => unknown_fields(schema, spec, "spec"),
        (None, _) | (_, None) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_types::gate::{Reporter, floor};
    use serde_json::json;

    fn found(object: &Value, old: &Value, own: &Release, reported: Release) -> Vec<String> {
        let reporters = [Reporter { name: "virt-handler on node a".into(), release: Some(reported) }];
        let mut findings = Findings::default();
        validate(Kind::VirtualMachine, (object, old), own, &floor(&reporters), &mut findings);
        findings.lines()
    }

    #[test]
    fn a_new_field_needs_own_release_and_floor_unless_it_was_there() {
        let (old_release, new_release) = (Release::V0_17_0, Release::V0_18_0);
        let used = json!({"spec": {"template": {"spec": {"evictionStrategy": "LiveMigrate", "domain": {}}}}});
        let plain = json!({"spec": {"template": {"spec": {"domain": {}}}}});
        let none = Value::Null;
        let unknown = "spec.template.spec.evictionStrategy: Forbidden: field is unknown in v0.17.0";
        let closed = "spec.template.spec.evictionStrategy: Forbidden: evictionStrategy is new in v0.18.0 and the \
                      version gate is closed: waiting for virt-handler on node a (v0.17.0)";
        let cases = [
            (&used, &none, &old_release, &old_release, vec![unknown]),
            (&used, &none, &old_release, &new_release, vec![unknown]),
            (&used, &none, &new_release, &old_release, vec![closed]),
            (&used, &plain, &new_release, &old_release, vec![closed]),
            (&used, &used, &new_release, &old_release, vec![]),
            (&used, &used, &old_release, &old_release, vec![]),
            (&used, &none, &new_release, &new_release, vec![]),
            (&plain, &none, &old_release, &old_release, vec![]),
        ];
        for (object, old, own, reported, expected) in cases {
            assert_eq!(found(object, old, own, reported.clone()), expected, "{own} {reported} {old}");
        }
    }

    #[test]
    fn a_status_of_another_release_is_nobodys_business_here() {
        let object = json!({"spec": {}, "status": {"fromTheFuture": 1}});
        assert!(found(&object, &Value::Null, &Release::V0_17_0, Release::V0_17_0).is_empty());
    }
}
