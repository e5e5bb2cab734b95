//! What may not be done, and how it is said.

use kubevirt_types::Release;
use serde_json::{Value, json};

use super::{CONTAINER, SPEC, config, patches, refusals};
use crate::customize::{Cause, check, check_form, form, protected, workloads};
use crate::{InstallConfig, manifests};

#[test]
fn patches_that_select_nothing_or_cannot_be_read() {
    let cases = [
        (
            ("merge", "ClusterRole", "*", "{}"),
            "patches[0].resourceType: Invalid value: \"ClusterRole\": expected Deployment, DaemonSet or *",
        ),
        (
            ("merge", "Deployment", "virt-operator", "{}"),
            "patches[0].resourceName: Invalid value: \"virt-operator\": expected virt-api, virt-controller, virt-handler or *",
        ),
        (
            ("merge", "Deployment", "virt-handler", "{}"),
            "patches[0].resourceName: Invalid value: \"virt-handler\": there is no Deployment of this name: expected one \
             of Deployment virt-api, Deployment virt-controller, DaemonSet virt-handler",
        ),
        (
            ("merge", "Deployment", "virt-api", "1"),
            "patches[0].patch: Invalid value: \"1\": expected an object as JSON or YAML: invalid type: integer `1`, expected a map",
        ),
        (
            ("json", "Deployment", "virt-api", "{}"),
            "patches[0].patch: Invalid value: \"{}\": expected a list of operations as JSON or YAML: invalid type: map, \
             expected a sequence",
        ),
        (
            ("json", "Deployment", "virt-api", r#"[{"op": "shred", "path": "/spec"}]"#),
            "patches[0].patch: Invalid value: \"[{\\\"op\\\": \\\"shred\\\", \\\"path\\\": \\\"/spec\\\"}]\": expected a \
             list of operations as JSON or YAML: unknown variant `shred`, expected one of `add`, `remove`, `replace`, \
             `move`, `copy`, `test`",
        ),
        (
            ("json", "Deployment", "virt-api", r#"[{"op": "remove", "path": "/spec/none"}]"#),
            "patches[0].patch: Invalid value: \"[{\\\"op\\\": \\\"remove\\\", \\\"path\\\": \\\"/spec/none\\\"}]\": doesn't \
             apply to Deployment virt-api: operation 0 ({\"op\":\"remove\",\"path\":\"/spec/none\"}): path is invalid",
        ),
    ];
    for ((type_, kind, name, patch), want) in cases {
        let said = refusals(patches(type_, kind, name, patch));
        assert_eq!(said, [format!("spec.customizeComponents.{want}")]);
    }
    for text in ["a: [", "a: 1\na: 2", "", "&a [*a]", "- 1\n---\n- 2"] {
        let said = refusals(patches("merge", "Deployment", "virt-api", text));
        assert!(said[0].contains("expected an object as JSON or YAML: "), "{said:?}");
        assert_eq!(said[0].lines().count(), 1, "{said:?}");
    }
}

#[test]
fn every_refusal_is_named_by_its_index() {
    let good =
        json!({"resourceType": "Deployment", "resourceName": "virt-api", "type": "merge", "patch": "{}"});
    let mut bad = good.clone();
    bad["patch"] = json!("kind: StatefulSet");
    let customize =
        json!({"patches": [good, bad, good, {"resourceType": "Pod", "resourceName": "x", "patch": ""}]});
    let fields: Vec<_> = check(&config(customize))
        .unwrap_err()
        .into_iter()
        .map(|refusal| (refusal.field, refusal.value))
        .collect();
    let at = "spec.customizeComponents.patches";
    assert_eq!(
        fields,
        [
            (format!("{at}[1].patch"), "\"StatefulSet\"".to_owned()),
            (format!("{at}[3].resourceType"), "Pod".to_owned())
        ]
    );
}

#[test]
fn what_is_protected() {
    let template = |text: &str| format!("spec: {{template: {text}}}");
    let own = |text: &str| template(&format!("{{spec: {{containers: [{text}]}}}}"));
    let cases = [
        ("apiVersion: apps/v1beta1".to_owned(), "apiVersion"),
        ("kind: StatefulSet".to_owned(), "kind"),
        ("status: {replicas: 1}".to_owned(), "status"),
        ("metadata: {name: other}".to_owned(), "metadata.name"),
        ("metadata: {namespace: kube-system}".to_owned(), "metadata.namespace"),
        ("metadata: {finalizers: [a/b]}".to_owned(), "metadata.finalizers"),
        ("metadata: {resourceVersion: '1'}".to_owned(), "metadata.resourceVersion"),
        ("metadata: {labels: {kubevirt.io: other}}".to_owned(), "metadata.labels.kubevirt.io"),
        (
            "metadata: {labels: {app.kubernetes.io/managed-by: me}}".to_owned(),
            "metadata.labels.app.kubernetes.io/managed-by",
        ),
        (
            "metadata: {annotations: {kubevirt.io/manifest-hash: x}}".to_owned(),
            "metadata.annotations.kubevirt.io/manifest-hash",
        ),
        (
            "metadata: {annotations: {deployment.kubernetes.io/revision: '7'}}".to_owned(),
            "metadata.annotations.deployment.kubernetes.io/revision",
        ),
        ("metadata: null".to_owned(), "metadata"),
        ("spec: null".to_owned(), "spec"),
        ("spec: {selector: {matchLabels: {a: b}}}".to_owned(), "spec.selector"),
        ("spec: {strategy: {type: Recreate}}".to_owned(), "spec.strategy"),
        ("spec: {strategy: null}".to_owned(), "spec.strategy"),
        ("spec: {updateStrategy: {type: OnDelete}}".to_owned(), "spec.updateStrategy"),
        ("spec: {minReadySeconds: 0}".to_owned(), "spec.minReadySeconds"),
        ("spec: {paused: true}".to_owned(), "spec.paused"),
        ("spec: {progressDeadlineSeconds: 1}".to_owned(), "spec.progressDeadlineSeconds"),
        ("spec: {replicas: 1}".to_owned(), "spec.replicas"),
        ("spec: {replicas: '3'}".to_owned(), "spec.replicas"),
        ("spec: {replicas: null}".to_owned(), "spec.replicas"),
        (template("null"), "spec.template"),
        (template("{metadata: {labels: {kubevirt.io: null}}}"), "spec.template.metadata.labels.kubevirt.io"),
        (
            template("{metadata: {labels: {kubevirt.io/version: v9.9.9}}}"),
            "spec.template.metadata.labels.kubevirt.io/version",
        ),
        (
            template("{metadata: {annotations: {kubevirt.io/template-hash: x}}}"),
            "spec.template.metadata.annotations.kubevirt.io/template-hash",
        ),
        (template("{metadata: {name: x}}"), "spec.template.metadata.name"),
        (template("{metadata: null}"), "spec.template.metadata"),
        (
            template("{spec: {serviceAccountName: kubevirt-operator}}"),
            "spec.template.spec.serviceAccountName",
        ),
        (template("{spec: {serviceAccount: kubevirt-operator}}"), "spec.template.spec.serviceAccount"),
        (template("{spec: {restartPolicy: Never}}"), "spec.template.spec.restartPolicy"),
        (template("{spec: {activeDeadlineSeconds: 5}}"), "spec.template.spec.activeDeadlineSeconds"),
        (own("{$patch: replace}, {name: other, image: x}"), "spec.template.spec.containers"),
        (own("{name: virt-api, $patch: delete}"), "spec.template.spec.containers"),
        (
            own("{name: virt-api, readinessProbe: null}"),
            "spec.template.spec.containers[virt-api].readinessProbe",
        ),
        (
            own("{name: virt-api, env: [{name: POD_NAME, value: x}]}"),
            "spec.template.spec.containers[virt-api].env[POD_NAME]",
        ),
        (
            own("{name: virt-api, env: [{name: NODE_NAME, $patch: delete}]}"),
            "spec.template.spec.containers[virt-api].env[NODE_NAME]",
        ),
    ];
    for (patch, path) in cases {
        let errors = check(&config(patches("strategic", "Deployment", "virt-api", &patch))).unwrap_err();
        let causes: Vec<_> = errors.into_iter().map(|refusal| refusal.cause).collect();
        let [Cause::Protected { workload, path: found, rule }] = causes.as_slice() else {
            panic!("{patch}: {causes:?}")
        };
        assert_eq!((workload.as_str(), found.as_str()), ("Deployment virt-api", path), "{patch}");
        assert!(
            rule.contains("may")
                || rule.contains("expected")
                || rule.contains("these pods")
                || rule.contains("release")
        );
    }
    assert_eq!(
        refusals(patches("json", "DaemonSet", "*", r#"[{"op": "remove", "path": "/spec/updateStrategy"}]"#)),
        [
            "spec.customizeComponents.patches[0].patch: Invalid value: \"null\": changes spec.updateStrategy of DaemonSet \
          virt-handler: how pods are found and replaced is the update's business; a patch may change spec.template, \
          spec.replicas and spec.revisionHistoryLimit"
        ]
    );
    assert_eq!(
        refusals(patches("merge", "Deployment", "virt-controller", "spec: {replicas: 0}")),
        [
            "spec.customizeComponents.patches[0].patch: Invalid value: \"0\": changes spec.replicas of Deployment \
          virt-controller: somebody has to lead: expected at least 1"
        ]
    );
    let before = r#"[{"op": "add", "path": "/spec/template/spec/containers/0", "value": {"name": "x"}}]"#;
    let said = refusals(patches("json", "Deployment", "virt-api", before));
    assert!(said[0].contains("changes spec.template.spec.containers of Deployment virt-api: "), "{said:?}");
    let whole = r#"[{"op": "replace", "path": "", "value": 1}]"#;
    assert_eq!(
        refusals(patches("json", "Deployment", "virt-api", whole)).len(),
        1,
        "not even an object is left"
    );
}

#[test]
fn what_kubernetes_would_not_take() {
    let own =
        |text: &str| format!("spec: {{template: {{spec: {{containers: [{{name: virt-api, {text}}}]}}}}}}");
    let cases = [
        (
            "spec: {replicas: 2, template: {spec: {tolerationss: []}}}".to_owned(),
            "spec.template.spec.tolerationss: there is no such field",
        ),
        (
            "spec: {template: {spec: {hostNetwork: 'yes'}}}".to_owned(),
            "spec.template.spec.hostNetwork: invalid type: string \"yes\", expected a boolean",
        ),
        (
            own("ports: [{containerPort: https}]"),
            "spec.template.spec.containers[0].ports[1].containerPort: invalid type: string \"https\", expected i32",
        ),
        (
            own("env: [{name: A, value: 1}]"),
            "spec.template.spec.containers[0].env[5].value: invalid type: integer `1`, expected a string",
        ),
        (own("env: [{name: A, value: a}, {name: A, value: b}]"), ""),
    ];
    for (patch, want) in cases {
        let result = check(&config(patches("strategic", "Deployment", "virt-api", &patch)));
        if want.is_empty() {
            assert_eq!(result, Ok(()), "{patch}: an element that is given twice is merged twice");
            continue;
        }
        let said = result.unwrap_err()[0].to_string();
        assert!(said.ends_with(&format!("Kubernetes doesn't take: {want}")), "{said}\n{want}");
    }
    let twice = |path: &str, value: &str| format!(r#"[{{"op": "add", "path": "{path}", "value": {value}}}]"#);
    let cases = [
        (
            twice(&format!("{CONTAINER}/env/-"), r#"{"name": "POD_IP"}"#),
            "env[5]: name \"POD_IP\" is there twice",
        ),
        (
            twice(&format!("{SPEC}/volumes/-"), r#"{"name": "kubevirt-ca"}"#),
            "volumes[3]: name \"kubevirt-ca\" is there twice",
        ),
        (
            twice(&format!("{CONTAINER}/ports/-"), r#"{"containerPort": 8443, "protocol": "TCP"}"#),
            "ports[1]: containerPort 8443 is there twice",
        ),
    ];
    for (patch, want) in cases {
        let said = refusals(patches("json", "Deployment", "virt-api", &patch));
        assert!(said[0].ends_with(want), "{said:?}\n{want}");
    }
    let other = twice(&format!("{CONTAINER}/ports/-"), r#"{"containerPort": 8443, "protocol": "UDP"}"#);
    assert_eq!(check(&config(patches("json", "Deployment", "virt-api", &other))), Ok(()));
}

#[test]
fn a_patch_cannot_fill_the_memory() {
    let doubling =
        |n: usize| json!({"op": "copy", "from": "/spec/template", "path": format!("/spec/template/x{n}")});
    let copies = Value::from_iter((0..300).map(doubling)).to_string();
    let said = refusals(patches("json", "Deployment", "virt-api", &copies));
    assert!(said[0].ends_with("the object becomes larger than 1 MiB"), "{said:?}");
    let said = refusals(patches("merge", "Deployment", "virt-api", &"x".repeat(70_000)));
    assert!(said[0].starts_with("spec.customizeComponents: Invalid value: \"70"), "{said:?}");
    assert!(said[0].ends_with("expected at most 65536 bytes"), "{said:?}");
    let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                  d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                  g: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\nh: [*e,*e,*e,*e,*e,*e,*e,*e,*e]";
    let said = refusals(patches("merge", "Deployment", "virt-api", laughs));
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn flags_that_are_refused() {
    let at = "spec.customizeComponents.flags";
    let name = "expected a flag without dashes at its front, of letters, digits and dashes, such as v";
    let taken = |flag: &str, workload: &str| {
        format!("--{flag} is set already: expected a flag that {workload} doesn't have yet, such as v")
    };
    let cases = [
        (json!({"api": {"--v": "4"}}), format!("{at}.api.--v: Invalid value: \"--v\": {name}")),
        (json!({"api": {"v=5 --x": "4"}}), format!("{at}.api.v=5 --x: Invalid value: \"v=5 --x\": {name}")),
        (json!({"handler": {"": "4"}}), format!("{at}.handler.: Invalid value: \"\": {name}")),
        (
            json!({"controller": {"launcher-image": "evil"}}),
            format!(
                "{at}.controller.launcher-image: Invalid value: \"evil\": {}",
                taken("launcher-image", "Deployment virt-controller")
            ),
        ),
        (
            json!({"handler": {"V": "1", "v": "2"}}),
            format!("{at}.handler.v: Invalid value: \"2\": {}", taken("v", "DaemonSet virt-handler")),
        ),
    ];
    for (flags, want) in cases {
        assert_eq!(refusals(json!({"flags": flags})), [want]);
    }
}

#[test]
fn what_is_said_is_short() {
    let long = "x".repeat(2000);
    let patch =
        json!({"resourceType": "Deployment", "resourceName": "virt-api", "patch": format!("{long}: 1")});
    let flags = json!({"api": {format!("{long}!"): long}});
    let texts = [
        json!({"patches": vec![patch.clone(); 10], "flags": flags}),
        json!({"flags": flags}),
        patches("json", "*", &long, "[]"),
        patches("json", "*", "*", &json!([{"op": "remove", "path": format!("/{long}")}]).to_string()),
        patches("json", "*", "*", &json!([{"op": long, "path": ""}]).to_string()),
        patches("strategic", "*", "*", &json!({format!("${long}"): 1}).to_string()),
        patches(
            "strategic",
            "*",
            "*",
            &json!({"metadata": {"annotations": {format!("{long}.kubevirt.io/a"): "b"}}}).to_string(),
        ),
        patches(
            "strategic",
            "*",
            "*",
            &json!({"spec": {"template": {"spec": {long.clone(): 1}}}}).to_string(),
        ),
        patches(
            "strategic",
            "*",
            "*",
            &json!({"spec": {"template": {"spec": {"hostNetwork": long}}}}).to_string(),
        ),
    ];
    for customize in texts {
        let said = refusals(customize);
        assert!(!said.is_empty());
        assert!(said.iter().all(|text| text.len() < 1000), "{:.300}", said[0]);
    }
    assert_eq!(refusals(json!({"patches": vec![patch; 11]})).len(), 10);
}

#[test]
fn what_is_refused_changes_nothing_at_all() {
    let mut customize = patches("merge", "Deployment", "*", "metadata: {annotations: {a: b}}");
    customize["patches"].as_array_mut().unwrap().push(json!({
        "resourceType": "*", "resourceName": "*", "type": "merge", "patch": "kind: Secret",
    }));
    let config = config(customize);
    assert!(check(&config).is_err());
    let plain = manifests(&InstallConfig::of(Release::V0_18_0));
    assert_eq!(manifests(&config).manifests, plain.manifests);
}

#[test]
fn the_form_is_known_without_the_release() {
    let form = |customize: Value| check_form(&serde_json::from_value(customize).unwrap());
    assert!(
        form(patches("json", "Deployment", "virt-api", r#"[{"op": "remove", "path": "/spec/new"}]"#)).is_ok()
    );
    assert!(form(patches("json", "Deployment", "virt-apis", "[]")).is_err());
    assert!(form(patches("json", "Deployment", "virt-api", "no")).is_err());
    assert!(form(patches("merge", "Deployment", "virt-api", &format!("a: {}", "x".repeat(70_000)))).is_err());
}

#[test]
fn every_release_is_one_that_kubernetes_takes() {
    for release in Release::ALL {
        let config = InstallConfig::of(release);
        for object in
            workloads(&config).unwrap().iter().filter(|object| object["spec"].get("template").is_some())
        {
            assert_eq!(form::flaw(object), None);
            assert_eq!(protected::change(object, object), None);
        }
    }
}
