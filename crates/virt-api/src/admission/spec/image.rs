//! What is said of a container image that holds files for a guest.

use crate::admission::field::{Findings, Path};

/// Pull policies of Kubernetes.
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// Checks an image that stands at `at`, and how it is pulled.
pub fn validate(image: &str, policy: Option<&str>, what: &str, at: &Path, findings: &mut Findings) {
    if image.trim().is_empty() {
        findings.required(&at.field("image"), what);
    }
    if let Some(policy) = policy
        && !PULL_POLICIES.contains(&policy)
    {
        findings.unsupported(&at.field("imagePullPolicy"), policy, &PULL_POLICIES);
    }
}

/// Checks the path of a file in an image.
pub fn validate_path(path: Option<&str>, at: &Path, findings: &mut Findings) {
    if let Some(path) = path
        && !is_absolute_file(path)
    {
        findings.invalid(at, path, "must be an absolute path of a file in the image, without '..'");
    }
}

fn is_absolute_file(path: &str) -> bool {
    path.starts_with('/') && !path.ends_with('/') && path.split('/').all(|part| part != "..")
}
