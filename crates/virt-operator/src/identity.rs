//! The certificate with which this replica serves webhooks, health and metrics.
//!
//! It is issued by the leader, like every other. Until there is one a replica serves with one of its
//! own, which nobody trusts: only the kubelet's probes ask then, and they don't look at it.

use jiff::{SignedDuration, Timestamp};
use kubevirt_observe::Source;
use kubevirt_observe::kinds::SECRET;
use kubevirt_observe::secret::{self, Pair};
use kubevirt_rollout::step::Usage;
use kubevirt_runtime::tls::{ServerTls, TlsError};
use kubevirt_types::{ObjectKey, labels};

use crate::cache::Cache;
use crate::certificates::{CertificateError, Leaf, Validity, issue_ca, issue_leaf};

/// The name on the certificate that nobody trusts.
const UNTRUSTED: &str = "virt-operator.untrusted";
/// It serves until the first real one comes, and where none ever comes as long as a process lives.
const UNTRUSTED_VALID: SignedDuration = SignedDuration::from_hours(24 * 365);

/// Why there is no certificate to start with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It couldn't be made.
    #[error("making a certificate to start with")]
    Make(#[from] CertificateError),
    /// It couldn't be used.
    #[error("using the certificate to start with")]
    Use(#[from] TlsError),
}

/// Takes a certificate of our own into use.
pub fn start_untrusted(tls: &ServerTls) -> Result<(), IdentityError> {
    let now = Timestamp::now();
    let valid = Validity {
        not_before: now,
        not_after: now.saturating_add(UNTRUSTED_VALID).unwrap_or(Timestamp::MAX),
    };
    let ca = issue_ca(UNTRUSTED, valid)?;
    let leaf =
        Leaf { common_name: UNTRUSTED.into(), dns_names: vec![UNTRUSTED.into()], usage: Usage::Server };
    let pair = issue_leaf(&ca, &leaf, valid)?;
    Ok(tls.set_identity(pair.certificate.as_bytes(), pair.key.as_bytes())?)
}

/// Takes every certificate into use that the Secret ever holds, for as long as the process lives.
pub async fn follow(cache: Cache, namespace: String, tls: ServerTls) {
    let key = ObjectKey::namespaced("v1", SECRET, &namespace, labels::SECRET_OPERATOR_CERT);
    let mut changes = cache.changes();
    let mut used: Option<Pair> = None;
    loop {
        let stored = cache.get(&key).and_then(|stored| secret::pair(&stored));
        if let Some(pair) = stored.filter(|pair| used.as_ref() != Some(pair)) {
            match tls.set_identity(pair.certificate.as_bytes(), pair.key.as_bytes()) {
                Ok(()) => tracing::info!(secret = %key, "serving with the certificate"),
                Err(error) => tracing::warn!(secret = %key, %error, "the certificate can't be used"),
            }
            used = Some(pair);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_runtime::tls::ClientAuth;

    #[test]
    fn a_replica_serves_before_the_first_certificate_is_issued() {
        let tls = ServerTls::new(ClientAuth::None);
        assert!(tls.config().is_none());
        start_untrusted(&tls).unwrap();
        assert!(tls.config().is_some());
    }
}
