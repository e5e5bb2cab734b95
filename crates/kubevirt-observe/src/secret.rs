//! Secrets of certificates: how what is stored is read. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Annotation: how long the certificate was asked to be valid, so that a change of it is seen.
pub const DURATION: &str = "kubevirt.io/duration";

/// A certificate and its private key, both PEM. Its `Debug` form doesn't show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The pair in a Secret; none when a part is missing or isn't text.
pub fn pair(secret: &Value) -> Option<Pair> {
    let part = |name: &str| {
        let text = STANDARD.decode(secret["data"][name].as_str()?).ok()?;
        String::from_utf8(text).ok()
    };
    Some(Pair { certificate: part("tls.crt")?, key: part("tls.key")? })
}

/// The annotation of a Secret that says how long its certificate was asked to be valid.
pub fn asked_duration(secret: &Value) -> Option<String> {
    secret["metadata"]["annotations"][DURATION].as_str().map(str::to_owned)
}
