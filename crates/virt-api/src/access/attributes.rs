//! What a request asks for, in the words of Kubernetes' authorizer.

use http::Method;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};

use super::Identity;
use crate::discovery::{GROUP, VERSIONS};
use crate::refusal::Refusal;

/// Paths below a group version that everybody may read. The API server asks for discovery and
/// health itself, and has authorized whoever comes through it for the others.
const OPEN_BELOW_VERSION: [&str; 4] = ["", "/version", "/healthz", "/status"];
/// Paths that everybody may read.
const OPEN: [&str; 7] = ["/", "/apis", "/healthz", "/readyz", "/metrics", "/status", "/openapi/v2"];

/// Whether a path needs no word of who asks.
pub fn is_open(path: &str) -> bool {
    let group = format!("/apis/{GROUP}");
    OPEN.contains(&path)
        || path == group
        || path == "/openapi/v3"
        || path.strip_prefix("/openapi/v3/apis/").is_some_and(|rest| {
            rest.strip_prefix(GROUP).and_then(|v| v.strip_prefix('/')).is_some_and(|v| VERSIONS.contains(&v))
        })
        || path.strip_prefix(&format!("{group}/")).is_some_and(|rest| {
            VERSIONS
                .iter()
                .any(|v| rest.strip_prefix(v).is_some_and(|below| OPEN_BELOW_VERSION.contains(&below)))
        })
}

/// A request for a subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Attributes {
    pub verb: &'static str,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
}

impl Attributes {
    /// Of `/apis/<group>/<version>/namespaces/<ns>/<resource>/<name>/<subresource...>`. Anything
    /// else is no endpoint of ours.
    pub fn of(method: &Method, path: &str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = path.split('/').collect();
        let ["", "apis", group, version, "namespaces", namespace, resource, name, rest @ ..] =
            parts.as_slice()
        else {
            return Err(Refusal::no_such_path());
        };
        let known = *group == GROUP
            && VERSIONS.contains(version)
            && ["virtualmachines", "virtualmachineinstances"].contains(resource);
        if !known || rest.is_empty() || ![namespace, name].iter().all(|part| is_name(part)) {
            return Err(Refusal::no_such_path());
        }
        Ok(Self {
            verb: verb(method)?,
            version: (*version).to_owned(),
            namespace: (*namespace).to_owned(),
            resource: (*resource).to_owned(),
            name: (*name).to_owned(),
            subresource: subresource(rest),
        })
    }

    /// The question whether `who` may.
    pub fn review(&self, who: &Identity) -> SubjectAccessReview {
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(who.user.clone()),
                groups: Some(who.groups.clone()),
                extra: Some(who.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    version: Some(self.version.clone()),
                    namespace: Some(self.namespace.clone()),
                    resource: Some(self.resource.clone()),
                    name: Some(self.name.clone()),
                    subresource: Some(self.subresource.clone()),
                    verb: Some(self.verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }
}

/// Whether this can be a name of Kubernetes. What is encoded otherwise might be reviewed as one name and read as another.
fn is_name(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !part.is_empty() && part.bytes().all(plain)
}

/// What is below it says which port, and isn't a right of its own.
const PORT_FORWARD: &str = "portforward";

fn subresource(parts: &[&str]) -> String {
    match parts {
        [PORT_FORWARD, ..] => PORT_FORWARD.to_owned(),
        parts => parts.join("/"),
    }
}

fn verb(method: &Method) -> Result<&'static str, Refusal> {
    match method.as_str() {
        "GET" | "HEAD" => Ok("get"),
        "PUT" => Ok("update"),
        "POST" => Ok("create"),
        "PATCH" => Ok("patch"),
        "DELETE" => Ok("delete"),
        other => Err(Refusal::new(
            http::StatusCode::METHOD_NOT_ALLOWED,
            format!("the server does not allow method {other} on the requested resource"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_paths() {
        let group = "/apis/subresources.kubevirt.io";
        for path in [
            "/",
            "/apis",
            "/healthz",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/apis/subresources.kubevirt.io/v1",
            "/openapi/v3/apis/subresources.kubevirt.io/v1alpha3",
            group,
            "/apis/subresources.kubevirt.io/v1",
            "/apis/subresources.kubevirt.io/v1alpha3/version",
            "/apis/subresources.kubevirt.io/v1/healthz",
            "/apis/subresources.kubevirt.io/v1/status",
        ] {
            assert!(is_open(path), "{path}");
        }
        for path in [
            "",
            "//",
            "/apis/",
            "/apis/subresources.kubevirt.io/v2",
            "/apis/subresources.kubevirt.io/v1/",
            "/apis/subresources.kubevirt.io/v1/version/x",
            "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachines/b/start",
            "/openapi/v3/apis/subresources.kubevirt.io/v1/x",
            "/virtualmachines-mutate",
        ] {
            assert!(!is_open(path), "{path}");
        }
    }

    #[test]
    fn attributes_of_paths() {
        let base = "/apis/subresources.kubevirt.io/v1/namespaces/ns";
        for (method, path, expected) in [
            (
                Method::GET,
                "/virtualmachineinstances/a/console",
                Some("get virtualmachineinstances a console"),
            ),
            (Method::GET, "/virtualmachineinstances/a/vnc", Some("get virtualmachineinstances a vnc")),
            (Method::PUT, "/virtualmachines/a/start", Some("update virtualmachines a start")),
            (
                Method::GET,
                "/virtualmachineinstances/a/vnc/screenshot",
                Some("get virtualmachineinstances a vnc/screenshot"),
            ),
            (
                Method::GET,
                "/virtualmachineinstances/a/portforward/22/tcp",
                Some("get virtualmachineinstances a portforward"),
            ),
            (Method::GET, "/virtualmachines/a/portforward/80", Some("get virtualmachines a portforward")),
            (Method::PUT, "/virtualmachines/a/migrate", Some("update virtualmachines a migrate")),
            (Method::OPTIONS, "/virtualmachines/a/start", None),
            (Method::GET, "/virtualmachines/a", None),
            (Method::GET, "/virtualmachines//start", None),
            (Method::GET, "/pods/a/exec", None),
        ] {
            let got = Attributes::of(&method, &format!("{base}{path}")).ok();
            let got = got.map(|a| format!("{} {} {} {}", a.verb, a.resource, a.name, a.subresource));
            assert_eq!(got.as_deref(), expected, "{method} {path}");
        }
        for path in [
            "/apis/subresources.kubevirt.io/v2/namespaces/ns/virtualmachines/a/start",
            "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/a/start",
            "/nothing",
        ] {
            assert!(Attributes::of(&Method::PUT, path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_question_names_who_and_what() {
        let path = "/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachineinstances/a/console";
        let who = Identity { user: "jane".into(), groups: vec!["g".into()], extra: Default::default() };
        let review = Attributes::of(&Method::GET, path).unwrap().review(&who);
        let json = serde_json::to_value(review).unwrap();
        assert_eq!(
            json["spec"],
            serde_json::json!({
                "user": "jane", "groups": ["g"],
                "resourceAttributes": {
                    "group": "subresources.kubevirt.io", "version": "v1", "namespace": "ns", "verb": "get",
                    "resource": "virtualmachineinstances", "name": "a", "subresource": "console"},
            })
        );
    }
}
