//! Webhooks and API services of virt-api: what is registered, every virt-api that may be asked can answer.

use kubevirt_manifests::Manifest;
use serde_json::Value;

use crate::context::{Context, Outcome};
use crate::order::{Class, Component};
use crate::plan::Direction;
use crate::waiting::WaitingOn;

/// What the releases in play have in common, until virt-api has rolled. A webhook is the same when its name and
/// path are; then it stands as the older release words it, which both can answer.
pub(crate) fn common(context: &Context<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    if old_apis(context).is_none() {
        return outcome;
    }
    for manifest in admission(context) {
        let known = |key| context.old.iter().filter_map(move |set| set.get(key));
        if known(&manifest.key).next().is_none() {
            continue;
        }
        let mut manifest = manifest.clone();
        for old in known(&manifest.key.clone()) {
            intersect(&mut manifest.body, &old.body, context.direction == Direction::Rollback);
        }
        if let Some(manifest) = context.with_ca(&manifest) {
            context.view.ensure(&manifest, &mut outcome);
        }
    }
    outcome
}

/// Exactly what the target has, as soon as no virt-api of another release can be asked.
pub(crate) fn exact(context: &Context<'_>) -> Outcome {
    if let Some(pods) = old_apis(context) {
        return WaitingOn::OldPods { pods }.into();
    }
    let mut outcome = Outcome::default();
    for manifest in admission(context).filter_map(|manifest| context.with_ca(manifest)) {
        context.view.ensure(&manifest, &mut outcome);
    }
    outcome
}

/// Pods of virt-api of another release that may be asked; none when there are none, and none will be made. No Service
/// leads to a node that is NotReady.
fn old_apis(context: &Context<'_>) -> Option<Vec<String>> {
    let api = context.progress(Component::Api);
    let asked = api.outdated_acting.iter().filter(|pod| context.view.not_ready_node(pod).is_none());
    let names: Vec<String> = asked.map(|pod| pod.name.clone()).collect();
    let over = names.is_empty() && (api.object_current || api.object_absent);
    (!over).then_some(names)
}

fn admission<'a>(context: &Context<'a>) -> impl Iterator<Item = &'a Manifest> {
    context.of_class(Class::ApiWebhook).chain(context.of_class(Class::ApiService))
}

/// Keeps those webhooks of `ours` that `other` has too.
fn intersect(ours: &mut Value, other: &Value, ours_is_older: bool) {
    let Some(hooks) = ours.get_mut("webhooks").and_then(Value::as_array_mut) else { return };
    let same = |a: &Value, b: &Value| {
        a["name"] == b["name"] && a["clientConfig"]["service"]["path"] == b["clientConfig"]["service"]["path"]
    };
    let others = || other["webhooks"].as_array().into_iter().flatten();
    hooks.retain(|hook| others().any(|one| same(hook, one)));
    if !ours_is_older {
        for hook in hooks {
            if let Some(one) = others().find(|one| same(hook, one)) {
                *hook = one.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_webhooks_of_both_stay_and_nothing_is_added_to_what_has_none() {
        let hook =
            |name: &str, path: &str| json!({"name": name, "clientConfig": {"service": {"path": path}}});
        let mut ours = json!({"webhooks": [hook("a", "/a"), hook("b", "/new"), hook("c", "/c")]});
        intersect(&mut ours, &json!({"webhooks": [hook("a", "/a"), hook("b", "/old")]}), true);
        assert_eq!(ours, json!({"webhooks": [hook("a", "/a")]}));

        let mut api_service = json!({"spec": {"group": "x"}});
        intersect(&mut api_service, &json!({"spec": {"group": "x"}}), true);
        assert_eq!(api_service, json!({"spec": {"group": "x"}}));
    }
}
