//! What the operator's own image says about registries. Pure.

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
