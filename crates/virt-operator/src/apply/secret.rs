//! Secrets of certificates: how a pair is stored. How it is read back is `kubevirt_observe::secret`'s.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use kubevirt_observe::secret::{DURATION, Pair};
use kubevirt_rollout::duration;
use kubevirt_types::{ObjectKey, labels};
use serde_json::{Value, json};

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

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_observe::secret::{asked_duration, pair};

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
