//! Objects that may still be stored as a version that isn't written any more are rewritten. Only after that a later
//! release may drop the version: the API server couldn't read them any more.

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::{GROUP, Kind, ObjectKey};
use serde_json::{Value, json};

use crate::context::{Context, Outcome, is_deleting};
use crate::drift::is_subset;
use crate::stage::crds::{exactly, stored_versions, version_name, versions};
use crate::step::Step;

/// How long API servers may take to hear that a CRD stores another version now. One that hasn't would go on
/// storing the old one behind the migration's back.
const HEARD: SignedDuration = SignedDuration::from_secs(15);

/// Has them rewritten, when no old pod acts and their CRD has its final form.
pub(crate) fn clean(context: &Context<'_>) -> Outcome {
    if !context.handed_over() {
        return Outcome::over();
    }
    let view = context.view;
    let final_form = |key: &ObjectKey, live: &Value| {
        let manifest = context.target.get(key);
        manifest.is_none_or(|manifest| is_subset(&exactly(manifest, Some(live)).body, live))
    };
    let steps = Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            let name = format!("{}.{GROUP}", kind.plural());
            let key = ObjectKey::cluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", &name);
            let live = view.live(&key).filter(|live| final_form(&key, live))?;
            migration(kind, key, live, view.now)
        })
        .collect();
    Outcome { steps, ..Outcome::default() }
}

/// The migration that a CRD needs, when its time has come.
fn migration(kind: Kind, crd: ObjectKey, live: &Value, now: Timestamp) -> Option<Step> {
    let storage = versions(live).find(|version| version["storage"] == json!(true))?;
    let version = version_name(storage)?;
    let others = stored_versions(live).into_iter().any(|stored| stored != version);
    // objects are rewritten through their status, which is no business of admission
    let writable = storage["served"] == json!(true) && storage["subresources"]["status"].is_object();
    let heard = changed(live).is_none_or(|at| now.duration_since(at) >= HEARD);
    if !others || !writable || !heard || is_deleting(live) {
        return None;
    }
    let text = |field: &str| live["metadata"][field].as_str().unwrap_or_default().to_owned();
    Some(Step::MigrateStorage {
        crd,
        kind: kind.name().to_owned(),
        plural: kind.plural().to_owned(),
        version: version.to_owned(),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
    })
}

/// When somebody last changed more than an object's status.
fn changed(live: &Value) -> Option<Timestamp> {
    let writes = live["metadata"]["managedFields"].as_array().into_iter().flatten();
    writes
        .filter(|write| write["subresource"] != "status")
        .filter_map(|write| write["time"].as_str()?.parse().ok())
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:01:00Z";

    /// A CRD that stores v1, has stored `stored`, and was changed at second `changed` of the minute before [`NOW`].
    fn crd(stored: &[&str], changed: u8) -> Value {
        let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}}});
        json!({
            "metadata": {
                "name": "virtualmachines.kubevirt.io", "uid": "u", "resourceVersion": "7",
                "managedFields": [
                    {"manager": "virt-operator", "time": format!("2026-01-01T00:00:{changed:02}Z")},
                    {"manager": "kube-apiserver", "subresource": "status", "time": NOW},
                ],
            },
            "spec": {"versions": [version("v1", true), version("v1alpha3", false)]},
            "status": {"storedVersions": stored},
        })
    }

    fn planned(live: &Value) -> Option<Step> {
        let key = ObjectKey::cluster(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "virtualmachines.kubevirt.io",
        );
        migration(Kind::VirtualMachine, key, live, NOW.parse().unwrap())
    }

    #[test]
    fn only_what_may_be_stored_as_another_version_is_rewritten() {
        let with = |change: fn(&mut Value)| {
            let mut live = crd(&["v1alpha3", "v1"], 0);
            change(&mut live);
            live
        };
        let table = [
            ("another version is stored", crd(&["v1alpha3", "v1"], 0), true),
            ("only another version is stored", crd(&["v1alpha3"], 0), true),
            ("nothing else is stored", crd(&["v1"], 0), false),
            ("some API server may not have heard", crd(&["v1alpha3", "v1"], 46), false),
            ("every API server has heard", crd(&["v1alpha3", "v1"], 45), true),
            (
                "nobody knows when it changed",
                with(|live| live["metadata"]["managedFields"] = Value::Null),
                true,
            ),
            ("the CRD is going", with(|live| live["metadata"]["deletionTimestamp"] = json!(NOW)), false),
            ("it isn't served", with(|live| live["spec"]["versions"][0]["served"] = json!(false)), false),
            ("it has no status", with(|live| live["spec"]["versions"][0]["subresources"] = json!({})), false),
        ];
        for (name, live, expected) in table {
            assert_eq!(planned(&live).is_some(), expected, "{name}");
        }
    }

    #[test]
    fn the_migration_is_to_what_is_stored_now_of_the_crd_that_was_seen() {
        let mut live = crd(&["v1", "v1alpha3"], 0);
        live["spec"]["versions"][0]["storage"] = json!(false);
        live["spec"]["versions"][1]["storage"] = json!(true);
        let Some(Step::MigrateStorage { kind, plural, version, uid, resource_version, .. }) = planned(&live)
        else {
            panic!("a migration is planned")
        };
        assert_eq!(
            [kind, plural, version, uid, resource_version],
            ["VirtualMachine", "virtualmachines", "v1alpha3", "u", "7"]
        );
    }
}
