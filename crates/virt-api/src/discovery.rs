//! What the aggregated API server says of itself: groups, resources, version, OpenAPI.
//!
//! Pure documents. A subresource that this release doesn't have isn't named.

use kubevirt_types::Release;
use kubevirt_types::feature::{self, What};
use serde_json::{Value, json};

/// The API group of the subresources.
pub const GROUP: &str = "subresources.kubevirt.io";
/// Its versions, the preferred one first.
pub const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// A subresource that we serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// Plural name of the resource.
    pub resource: &'static str,
    /// Its own name.
    pub name: &'static str,
    /// Kind of the resource.
    kind: &'static str,
    /// How it is asked for.
    method: &'static str,
    description: &'static str,
}

const VM: (&str, &str) = ("virtualmachines", "VirtualMachine");
const VMI: (&str, &str) = ("virtualmachineinstances", "VirtualMachineInstance");

const fn subresource(
    (resource, kind): (&'static str, &'static str),
    name: &'static str,
    method: &'static str,
    description: &'static str,
) -> Subresource {
    Subresource { resource, name, kind, method, description }
}

const SUBRESOURCES: [Subresource; 12] = [
    subresource(VMI, "vnc", "get", "Open a websocket connection to the VNC server of an instance."),
    subresource(VMI, "vnc/screenshot", "get", "Get a PNG of the screen of an instance."),
    subresource(VMI, "console", "get", "Open a websocket connection to the serial console of an instance."),
    subresource(
        VMI,
        "portforward",
        "get",
        "Open a websocket connection to a port of the guest of an instance.",
    ),
    subresource(VMI, "pause", "put", "Pause an instance."),
    subresource(VMI, "unpause", "put", "Unpause an instance."),
    subresource(VMI, "softreboot", "put", "Reboot the guest of an instance."),
    subresource(VM, "start", "put", "Start a virtual machine."),
    subresource(VM, "stop", "put", "Stop a virtual machine."),
    subresource(VM, "restart", "put", "Restart a virtual machine."),
    subresource(VM, "migrate", "put", "Move a running virtual machine to another node."),
    subresource(
        VM,
        "portforward",
        "get",
        "Open a websocket connection to a port of the guest of a virtual machine.",
    ),
];

/// The subresources of a release.
pub fn subresources(own: &Release) -> impl Iterator<Item = &'static Subresource> {
    SUBRESOURCES.iter().filter(move |s| feature::exists(What::Subresource(s.resource, s.name), own))
}

/// `/`: the paths there are.
pub fn root_paths() -> Value {
    let mut paths = vec!["/apis".to_owned(), "/openapi/v2".into(), "/openapi/v3".into()];
    paths.push(format!("/apis/{GROUP}"));
    paths.extend(VERSIONS.iter().map(|version| format!("/apis/{GROUP}/{version}")));
    json!({"paths": paths})
}

/// `/apis`.
pub fn group_list() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})
}

/// `/apis/subresources.kubevirt.io`.
pub fn group() -> Value {
    let version = |version: &str| json!({"groupVersion": format!("{GROUP}/{version}"), "version": version});
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": VERSIONS.map(version),
        "preferredVersion": version(VERSIONS[0]),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

/// `/apis/subresources.kubevirt.io/<version>`.
pub fn resource_list(version: &str, own: &Release) -> Value {
    let resources: Vec<Value> = subresources(own)
        .map(|s| {
            json!({
                "name": format!("{}/{}", s.resource, s.name),
                "singularName": "",
                "namespaced": true,
                "kind": s.kind,
                "group": kubevirt_types::GROUP,
                "version": version,
                "verbs": [if s.method == "put" { "update" } else { "get" }],
            })
        })
        .collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{version}"),
        "resources": resources,
    })
}

/// `.../version`, as `virtctl` reads it. There is no Go in here, so `goVersion` says what built it.
pub fn version(own: &Release) -> Value {
    json!({
        "gitVersion": own.to_string(),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64")),
    })
}

/// Whether a client takes nothing but aggregated discovery. It gets 406 then and asks again for the
/// plain documents, from which the API server makes the aggregated ones for everybody.
pub fn wants_only_aggregated(accept: &str) -> bool {
    !accept.trim().is_empty() && accept.split(',').all(|one| one.contains("as=APIGroupDiscoveryList"))
}

/// `/openapi/v2`.
pub fn openapi_v2(own: &Release) -> Value {
    json!({
        "swagger": "2.0",
        "info": info(own),
        "paths": paths(&VERSIONS, own, &json!({"type": "string"})),
        "definitions": {},
    })
}

/// `/openapi/v3`: where the documents are. The hash makes the API server read them again when the release changes.
pub fn openapi_v3_index(own: &Release) -> Value {
    let entry = |version: &str| {
        let path = format!("apis/{GROUP}/{version}");
        let url = format!("/openapi/v3/{path}?hash={own}");
        (path, json!({"serverRelativeURL": url}))
    };
    json!({"paths": VERSIONS.map(entry).into_iter().collect::<serde_json::Map<_, _>>()})
}

/// `/openapi/v3/apis/subresources.kubevirt.io/<version>`.
pub fn openapi_v3(version: &'static str, own: &Release) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info(own),
        "paths": paths(&[version], own, &json!({"schema": {"type": "string"}})),
        "components": {"schemas": {}},
    })
}

fn info(own: &Release) -> Value {
    json!({"title": "KubeVirt API", "version": own.to_string()})
}

/// `typed` is how this version of OpenAPI says that a path's parameter is a text.
fn paths(versions: &[&str], own: &Release, typed: &Value) -> Value {
    let parameter = |name: &str| {
        let mut parameter = json!({"name": name, "in": "path", "required": true});
        if let (Some(parameter), Some(typed)) = (parameter.as_object_mut(), typed.as_object()) {
            parameter.extend(typed.clone());
        }
        parameter
    };
    let mut paths = serde_json::Map::new();
    for version in versions {
        for s in subresources(own) {
            let path = format!(
                "/apis/{GROUP}/{version}/namespaces/{{namespace}}/{}/{{name}}/{}",
                s.resource, s.name
            );
            let operation = json!({
                "operationId": format!("{version}{}{}", s.kind, s.name.replace('/', "")),
                "description": s.description,
                "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
            });
            let mut parameters = vec![parameter("namespace"), parameter("name")];
            if s.name == "portforward" {
                // One operation at two paths would need two ids.
                parameters.extend([parameter("port"), parameter("protocol")]);
                let path = format!("{path}/{{port}}/{{protocol}}");
                paths.insert(path, json!({"parameters": parameters, s.method: operation}));
                continue;
            }
            paths.insert(path, json!({"parameters": parameters, s.method: operation}));
        }
    }
    Value::Object(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(own: &Release) -> Vec<String> {
        let list = resource_list("v1", own);
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_release_names_what_it_has() {
        let old = names(&Release::V0_17_0);
        assert!(!old.contains(&"virtualmachineinstances/pause".to_owned()), "{old:?}");
        assert!(old.contains(&"virtualmachineinstances/console".to_owned()));
        assert!(names(&Release::V0_18_0).contains(&"virtualmachineinstances/unpause".to_owned()));
    }

    #[test]
    fn who_takes_only_aggregated_discovery_is_told_to_ask_again() {
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        for (accept, expected) in [
            (aggregated.to_owned(), true),
            (format!("{aggregated}, {aggregated}"), true),
            (format!("{aggregated}, application/json"), false),
            ("application/json".to_owned(), false),
            ("*/*".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(wants_only_aggregated(&accept), expected, "{accept}");
        }
    }

    #[test]
    fn documents() {
        let own = Release::V0_18_0;
        insta::assert_yaml_snapshot!(json!({
            "/": root_paths(),
            "/apis": group_list(),
            "/apis/subresources.kubevirt.io/v1": resource_list("v1", &own),
            "/openapi/v3": openapi_v3_index(&own),
            "/openapi/v3/apis/subresources.kubevirt.io/v1": openapi_v3("v1", &own),
            "/openapi/v2": openapi_v2(&Release::V0_17_0),
        }));
    }
}
