//! Secrets of certificates: how a pair is stored, and how it is read back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use kubevirt_rollout::duration;
use kubevirt_types::{ObjectKey, labels};
use serde_json::{Value, json};

use crate::certificates::Pair;

/// Annotation: how long the certificate was asked to be valid, so that a change of it is seen.
const DURATION: &str = "kubevirt.io/duration";

/// The Secret that holds a pair.
pub fn secret(key: &ObjectKey, pair: &Pair, valid: SignedDuration) -> Value {
    json!({
        "apiVersion": key.api_version,
        "kind": key.kind,
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": {
                labels::MANAGED_BY: labels::MANAGED_BY_OPERATOR,
                labels::APP_COMPONENT: "kubevirt",
            },
            "annotations": { DURATION: duration::format(valid) },
        },
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": STANDARD.encode(&pair.certificate),
            "tls.key": STANDARD.encode(&pair.key),
        },
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_back() {
        let stored = Pair { certificate: "c".into(), key: "k".into() };
        let key = ObjectKey::namespaced("v1", "Secret", "kubevirt", labels::SECRET_CA);
        let secret = secret(&key, &stored, SignedDuration::from_hours(168));
        assert_eq!(ObjectKey::of(&secret), Some(key));
        assert_eq!(asked_duration(&secret).as_deref(), Some("168h0m0s"));
        assert_eq!(pair(&secret), Some(stored));
        assert_eq!(pair(&json!({"data": {"tls.crt": "Yw=="}})), None);
    }
}
