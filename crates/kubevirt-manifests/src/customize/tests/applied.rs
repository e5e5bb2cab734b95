//! What patches and flags come to.

use kubevirt_types::Release;
use kubevirt_types::kubevirt::{CustomizeComponents, CustomizeFlags};
use serde_json::{Value, json};

use super::{CONTAINER, SPEC, assert_has, config, find, original, patched, patches, refusals};
use crate::customize::{check, title, workloads};
use crate::{InstallConfig, manifests};

#[test]
fn json_patches() {
    let patch = r#"[
        {"op": "test", "path": "/spec/template/spec/containers/0/name", "value": "virt-controller"},
        {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--verbosity=4"},
        {"op": "replace", "path": "/spec/replicas", "value": 3}
    ]"#;
    let object = patched("json", "Deployment", "virt-controller", patch);
    assert_has(
        &object,
        &[("/spec/replicas", json!(3)), (&format!("{CONTAINER}/args/4"), json!("--verbosity=4"))],
    );
}

#[test]
fn merge_patches_replace_lists_as_a_whole() {
    let patch = r#"{"spec": {"template": {"spec": {"tolerations": [{"operator": "Exists"}], "priorityClassName": null}}}}"#;
    let object = patched("merge", "DaemonSet", "virt-handler", patch);
    let tolerations = json!([{"operator": "Exists"}]);
    assert_has(
        &object,
        &[(&format!("{SPEC}/tolerations"), tolerations), (&format!("{SPEC}/priorityClassName"), Value::Null)],
    );
}

#[test]
fn strategic_patches_merge_lists_by_key() {
    let patch = "
        spec:
          template:
            spec:
              nodeSelector: {disk: ssd}
              imagePullSecrets: [{name: registry}]
              tolerations: [{operator: Exists}]
              containers:
              - name: virt-handler
                args: [--port, '8443']
                resources: {limits: {memory: 1Gi, cpu: 1}}
                env: [{name: RUST_LOG, value: debug}]
                ports: [{containerPort: 8443, name: metrics}]
                volumeMounts:
                - {mountPath: /host-dev, $patch: delete}
                - {mountPath: /pods, readOnly: true}
              - name: sidecar
                image: busybox
                env: [{name: A, value: null}]
              volumes:
              - {name: host-dev, $patch: delete}
    ";
    let object = patched("strategic", "DaemonSet", "virt-handler", "{}");
    assert_eq!(object, original("virt-handler"), "nothing asked for, nothing changed");
    let object = patched("strategic", "DaemonSet", "virt-handler", patch);
    let at = |path: &str| format!("{CONTAINER}/{path}");
    assert_has(
        &object,
        &[
            (&format!("{SPEC}/nodeSelector"), json!({"disk": "ssd"})),
            (&format!("{SPEC}/imagePullSecrets"), json!([{"name": "registry"}])),
            (&format!("{SPEC}/tolerations"), json!([{"operator": "Exists"}])),
            (&at("args"), json!(["--port", "8443"])),
            (&at("resources/limits"), json!({"memory": "1Gi", "cpu": "1"})),
            (&at("resources/requests"), json!({"cpu": "100m", "memory": "48Mi"})),
            (&at("env/5"), json!({"name": "RUST_LOG", "value": "debug"})),
            (&at("ports/0"), json!({"name": "metrics", "containerPort": 8443, "protocol": "TCP"})),
            (&at("ports/1/containerPort"), json!(8186)),
            (
                &at("volumeMounts/2"),
                json!({"name": "kubelet-pods", "mountPath": "/pods", "mountPropagation": "HostToContainer", "readOnly": true}),
            ),
            (&at("volumeMounts/5"), Value::Null),
            (
                &format!("{SPEC}/containers/1"),
                json!({"name": "sidecar", "image": "busybox", "env": [{"name": "A"}]}),
            ),
            (&format!("{SPEC}/volumes/5"), Value::Null),
        ],
    );
    assert_eq!(object.pointer(&format!("{SPEC}/volumes")).unwrap().as_array().unwrap().len(), 5);
}

#[test]
fn directives() {
    let at = |inner: &str| format!("spec: {{template: {{spec: {inner}}}}}");
    let cases = [
        // a map's content is replaced
        (
            "{containers: [{name: virt-api, resources: {$patch: replace, limits: {cpu: 1}}}]}",
            "resources",
            json!({"limits": {"cpu": "1"}}),
        ),
        ("{containers: [{name: virt-api, resources: {$patch: delete}}]}", "resources", Value::Null),
        ("{containers: [{name: virt-api, livenessProbe: null}]}", "livenessProbe", Value::Null),
        (
            "{containers: [{name: virt-api, resources: {$patch: merge, requests: null}}]}",
            "resources",
            json!({}),
        ),
        // a list's content is replaced
        (
            "{containers: [{name: virt-api, ports: [{$patch: replace}, {containerPort: 1}]}]}",
            "ports",
            json!([{"containerPort": 1}]),
        ),
        (
            "{containers: [{name: virt-api, ports: [{containerPort: 8443, $patch: delete}, {containerPort: 1}]}]}",
            "ports",
            json!([{"containerPort": 1}]),
        ),
    ];
    for (patch, field, wanted) in cases {
        let object = patched("strategic", "Deployment", "virt-api", &at(patch));
        assert_has(&object, &[(&format!("{CONTAINER}/{field}"), wanted)]);
    }
    let refused = [
        (
            "{tolerations: [{$patch: delete}]}",
            "spec.template.spec.tolerations: this list is replaced as a whole: no $patch in it",
        ),
        (
            "{$retainKeys: [containers]}",
            "spec.template.spec: $retainKeys is not known: expected $patch: delete, $patch: replace or $patch: merge",
        ),
        (
            "{$patch: remove}",
            "spec.template.spec: $patch: \"remove\" is not known: expected $patch: delete, $patch: replace or $patch: merge",
        ),
        (
            "{containers: [{image: x}]}",
            "spec.template.spec.containers[0]: elements of this list are told apart by name: every one has to have it",
        ),
        (
            "{containers: [{$patch: replace, name: x}]}",
            "spec.template.spec.containers[0]: $patch: replace stands alone in an element of its own",
        ),
    ];
    for (patch, why) in refused {
        let said = refusals(patches("strategic", "Deployment", "virt-api", &at(patch)));
        let want = format!("doesn't apply to Deployment virt-api: {why}");
        assert!(said.len() == 1 && said[0].ends_with(&want), "{said:?}\n{want}");
    }
    let said = refusals(patches("strategic", "Deployment", "virt-api", "{$patch: delete}"));
    assert!(said[0].ends_with("$patch is for a part of the object, not for all of it"), "{said:?}");
}

#[test]
fn types_and_names_are_compared_as_kubevirt_does() {
    let patch = r#"{"metadata": {"annotations": {"a": "b"}}}"#;
    let names = |kind: &str, name: &str| {
        let objects = workloads(&config(patches("merge", kind, name, patch))).unwrap();
        let changed = objects.iter().filter(|object| object["metadata"]["annotations"]["a"] == "b");
        changed.map(title).collect::<Vec<_>>().join(", ")
    };
    let (handler, both) = ("DaemonSet virt-handler", "Deployment virt-controller, Deployment virt-api");
    assert_eq!(names("deployment", "Virt-Api"), "Deployment virt-api");
    assert_eq!(names("Deployment", "*"), both);
    assert_eq!(names("DAEMONSET", "*"), handler);
    assert_eq!(names("*", "virt-handler"), handler);
    assert_eq!(names("*", "*"), format!("{handler}, {both}"));
}

#[test]
fn flags_follow_the_arguments_and_the_patches() {
    let mut customize = patches(
        "json",
        "Deployment",
        "virt-api",
        r#"[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--x"}]"#,
    );
    customize["flags"] =
        json!({"api": {"v": "4", "Quiet": "", "a-b": "-1"}, "handler": {"max-devices": "10"}});
    let objects = workloads(&config(customize)).unwrap();
    let args = |name: &str| find(&objects, name).pointer(&format!("{CONTAINER}/args")).unwrap().clone();
    assert_eq!(args("virt-api"), json!(["--port", "8443", "--x", "--quiet", "--a-b=-1", "--v=4"]));
    assert_eq!(
        args("virt-handler"),
        json!(["--port", "8443", "--console-server-port", "8186", "--max-devices=10"])
    );
    assert_eq!(find(&objects, "virt-controller"), original("virt-controller"));
}

#[test]
fn only_the_workloads_change_and_the_id_does_with_them() {
    let plain = InstallConfig::of(Release::V0_18_0);
    let customized = config(patches("merge", "*", "*", "metadata: {annotations: {a: b}}"));
    assert_ne!(plain.id(), customized.id(), "a stored strategy of one is never the other's");
    let (old, new) = (manifests(&plain), manifests(&customized));
    assert_eq!(old.manifests.len(), new.manifests.len());
    let changed: Vec<_> = old
        .manifests
        .iter()
        .zip(&new.manifests)
        .filter(|(old, new)| old != new)
        .map(|(_, new)| format!("{} {}", new.key.kind, new.key.name))
        .collect();
    assert_eq!(changed, ["DaemonSet virt-handler", "Deployment virt-controller", "Deployment virt-api"]);
    assert!(
        new.manifests.iter().all(|manifest| manifest.clone().rehashed() == *manifest),
        "hashes are of the patched"
    );
    let ids: std::collections::BTreeSet<String> = [
        json!({}),
        patches("merge", "*", "*", "{}"),
        patches("strategic", "*", "*", "{}"),
        patches("merge", "*", "virt-api", "{}"),
        patches("merge", "*", "*", " {}"),
        json!({"flags": {"api": {"v": "4"}}}),
        json!({"flags": {"handler": {"v": "4"}}}),
    ]
    .into_iter()
    .map(|customize| config(customize).id())
    .collect();
    assert_eq!(ids.len(), 7);
}

#[test]
fn one_meaning_is_one_text() {
    let spec = |type_: &str, patch: &str| patched(type_, "Deployment", "virt-api", patch).to_string();
    let as_json = r#"{"spec": {"template": {"spec": {"nodeSelector": {"b": "1", "a": "2"}, "hostAliases": [{"ip": "::1", "hostnames": ["x"]}]}}}}"#;
    let as_yaml = "
        spec:
          template:
            spec:
              hostAliases:
              - {hostnames: [x], ip: '::1'}
              nodeSelector: {a: '2', b: '1'}
    ";
    let in_steps = format!(
        r#"[{{"op": "add", "path": "{SPEC}/hostAliases", "value": [{{"hostnames": ["x"], "ip": "::1"}}]}},
            {{"op": "add", "path": "{SPEC}/nodeSelector", "value": {{"b": "1"}}}},
            {{"op": "add", "path": "{SPEC}/nodeSelector/a", "value": "2"}}]"#
    );
    let want = spec("strategic", as_json);
    assert!(want.contains("nodeSelector"));
    assert_eq!(spec("merge", as_yaml), want);
    assert_eq!(spec("strategic", as_yaml), want);
    assert_eq!(spec("json", &in_steps), want);
    let there_and_back = format!(
        r#"[{{"op": "move", "from": "{CONTAINER}/image", "path": "{CONTAINER}/command"}},
            {{"op": "move", "from": "{CONTAINER}/command", "path": "{CONTAINER}/image"}}]"#
    );
    assert_eq!(spec("json", &there_and_back), original("virt-api").to_string());
    let null = format!(r#"[{{"op": "add", "path": "{SPEC}/nodeSelector", "value": null}}]"#);
    assert_eq!(spec("json", &null), original("virt-api").to_string());
}

#[test]
fn a_patched_workload() {
    let customize: CustomizeComponents = serde_json::from_value(json!({
        "patches": [
            {
                "resourceType": "Deployment", "resourceName": "virt-api", "type": "json",
                "patch": r#"[{"op": "add", "path": "/spec/replicas", "value": 3}]"#,
            },
            {
                "resourceType": "*", "resourceName": "*", "type": "merge",
                "patch": "metadata: {annotations: {team: virtualization}}",
            },
            {
                "resourceType": "Deployment", "resourceName": "*",
                "patch": "
                    spec:
                      template:
                        metadata: {labels: {network: internal}}
                        spec:
                          imagePullSecrets: [{name: registry}]
                          containers:
                          - name: virt-api
                            resources: {limits: {memory: 256Mi}}
                            env: [{name: RUST_LOG, value: debug}]
                          - $patch: delete
                            name: virt-controller
                ",
            },
        ],
    }))
    .unwrap();
    let flags =
        CustomizeFlags { api: [("v".to_owned(), "4".to_owned())].into(), ..CustomizeFlags::default() };
    let mut config = InstallConfig::of(Release::V0_18_0);
    config.customize_components = Some(CustomizeComponents { flags: Some(flags), ..customize });
    let refused: Vec<_> = check(&config).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(refused.len(), 1, "virt-controller's own container can't go: {refused:?}");
    let patches = &mut config.customize_components.as_mut().unwrap().patches;
    patches[2].resource_name = "virt-api".to_owned();
    let set = manifests(&config);
    let api = set.of_kind("Deployment").find(|manifest| manifest.key.name == "virt-api").unwrap();
    insta::assert_yaml_snapshot!(api.body);
}
