//! What the operator's own image says about registries, and what its Deployment says about the operator. Pure.

use kubevirt_rollout::observed::Operator;
use kubevirt_types::Release;
use serde_json::Value;

/// The variable of the environment that holds the operator's own image.
pub const IMAGE_VARIABLE: &str = "VIRT_OPERATOR_IMAGE";

/// The registry in an image such as `registry:5000/kubevirt/virt-operator:v0.18.0`.
///
/// KubeVirt's rule: what stands before the last slash is the registry, what stands between it and
/// `virt-operator` a prefix, after which comes a tag, a digest or nothing. Images with a prefix
/// aren't ours: none of the other components' images would be found.
pub fn registry(image: &str) -> Result<&str, ImageError> {
    let (registry, name) =
        image.rsplit_once('/').ok_or_else(|| ImageError::NoRegistry { image: image.to_owned() })?;
    let rest = name.strip_prefix("virt-operator");
    match rest {
        Some("") => Ok(registry),
        Some(rest) if rest.starts_with([':', '@']) => Ok(registry),
        Some(_) | None => Err(ImageError::NotOurs { image: image.to_owned() }),
    }
}

/// The operator as its Deployment makes it. Where the image's tag names no release, as with a digest, it is
/// the one that the operator has `reported` itself.
pub fn operator(deployment: &Value, reported: Option<&str>) -> Result<Operator, ImageError> {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    let variable = variables.iter().find(|variable| variable["name"] == IMAGE_VARIABLE);
    let told = variable.and_then(|variable| variable["value"].as_str());
    let image = told.or_else(|| container["image"].as_str()).unwrap_or_default();
    let unknown = || ImageError::NoRelease { image: image.to_owned() };
    Ok(Operator {
        registry: registry(image)?.to_owned(),
        release: tag(image).or_else(|| reported?.parse().ok()).ok_or_else(unknown)?,
        namespace: deployment["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
    })
}

fn tag(image: &str) -> Option<Release> {
    image.rsplit_once('/')?.1.split_once(':')?.1.parse().ok()
}

/// Why an image can't be the operator's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There is no slash in it.
    #[error("VIRT_OPERATOR_IMAGE {image:?} has no registry: expected registry/virt-operator:tag")]
    NoRegistry {
        #[allow(missing_docs)]
        image: String,
    },
    /// It isn't virt-operator's.
    #[error("VIRT_OPERATOR_IMAGE {image:?} is not virt-operator's: expected registry/virt-operator:tag")]
    NotOurs {
        #[allow(missing_docs)]
        image: String,
    },
    /// Nothing says which release it is.
    #[error("image {image:?} names no release, and virt-operator hasn't reported one yet")]
    NoRelease {
        #[allow(missing_docs)]
        image: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deployment_says_which_operator_it_makes() {
        let deployment = |image: &str, told: Option<&str>| {
            let env = told.map(|told| json!([{"name": IMAGE_VARIABLE, "value": told}]));
            json!({
                "metadata": {"namespace": "kv"},
                "spec": {"template": {"spec": {"containers": [{"image": image, "env": env}]}}},
            })
        };
        let of = |image: &str, told: Option<&str>, reported: Option<&str>| {
            let operator = operator(&deployment(image, told), reported)?;
            Ok::<_, ImageError>(format!("{} {} {}", operator.namespace, operator.registry, operator.release))
        };
        let ours = "r:5000/kv/virt-operator:v0.18.0";
        assert_eq!(of(ours, None, Some("v0.17.0")).unwrap(), "kv r:5000/kv v0.18.0");
        assert_eq!(of("mirror/x", Some(ours), None).unwrap(), "kv r:5000/kv v0.18.0");
        let digest = "r/virt-operator@sha256:abc";
        assert_eq!(of(digest, None, Some("v0.17.0")).unwrap(), "kv r v0.17.0");
        assert!(matches!(of(digest, None, None), Err(ImageError::NoRelease { .. })));
        assert!(matches!(of("", None, None), Err(ImageError::NoRegistry { .. })));
    }

    #[test]
    fn table() {
        for (image, expected) in [
            ("kubevirt/virt-operator:v0.18.0", "kubevirt"),
            ("registry:5000/kubevirt/virt-operator:v0.18.0", "registry:5000/kubevirt"),
            ("quay.io/kubevirt/virt-operator@sha256:abc", "quay.io/kubevirt"),
            ("quay.io/kubevirt/virt-operator", "quay.io/kubevirt"),
        ] {
            assert_eq!(registry(image), Ok(expected), "{image}");
        }
        for image in ["virt-operator:v1", "kubevirt/virt-api:v1", "kubevirt/my-virt-operator:v1", ""] {
            assert!(registry(image).is_err(), "{image}");
        }
    }
}
