//! Certificates: a CA, a bundle that everybody trusts, a leaf for every server and client.
//!
//! Decides what is issued and when; keys never come here. A leaf is signed by a new CA only when that CA has reached
//! every trust bundle. Goes on whatever happens to the target: what runs must not run out of certificates.

mod bundle;
#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
pub(crate) mod validity;
#[cfg(test)]
mod world;

use std::collections::BTreeSet;

use jiff::Timestamp;
use kubevirt_manifests::workloads::{OPERATOR_WEBHOOK, VIRT_API, VIRT_CONTROLLER};
use kubevirt_types::kubevirt::SelfSigned;
use kubevirt_types::{ObjectKey, labels};

use crate::context::{Outcome, View};
use crate::duration;
use crate::observed::{Certificate, CertificateContent, Handle};
use crate::step::{Precondition, Step, Usage};
use crate::waiting::WaitingOn;
use validity::{CA_DURATION, LEAF_DURATION, Validity};

/// The CA's common name.
const CA_NAME: &str = "kubevirt.io";

/// Whose a leaf is.
enum Identity {
    /// A server behind this Service, or pods of this name.
    Service(&'static str),
    /// A client, or a server that is dialled by address, with a fixed common name that its peers check.
    Name(&'static str),
}

/// A leaf that is kept.
struct Leaf {
    secret: &'static str,
    identity: Identity,
    usage: Usage,
}

const LEAVES: [Leaf; 5] = [
    Leaf {
        secret: labels::SECRET_OPERATOR_CERT,
        identity: Identity::Service(OPERATOR_WEBHOOK),
        usage: Usage::Server,
    },
    Leaf { secret: labels::SECRET_API_CERT, identity: Identity::Service(VIRT_API), usage: Usage::Server },
    Leaf {
        secret: labels::SECRET_CONTROLLER_CERT,
        identity: Identity::Service(VIRT_CONTROLLER),
        usage: Usage::Server,
    },
    Leaf {
        secret: labels::SECRET_HANDLER_CLIENT_CERT,
        identity: Identity::Name(labels::CN_HANDLER_CLIENT),
        usage: Usage::Client,
    },
    Leaf {
        secret: labels::SECRET_HANDLER_SERVER_CERT,
        identity: Identity::Name(labels::CN_HANDLER_SERVER),
        usage: Usage::Server,
    },
];

/// The next step of keeping the certificates.
pub(crate) fn keep(view: View<'_>) -> Outcome {
    if view.observed.certificates.unread {
        return Outcome::over();
    }
    let self_signed = view
        .kubevirt
        .spec
        .certificate_rotate_strategy
        .as_ref()
        .and_then(|strategy| strategy.self_signed.clone())
        .unwrap_or_default();
    let SelfSigned { ca, server } = &self_signed;
    let ca_validity = Validity::of(ca.as_ref(), CA_DURATION);
    let leaf_validity = Validity::of(server.as_ref(), LEAF_DURATION);

    let secret = view.observed.certificates.ca.as_ref();
    let current =
        secret.and_then(|secret| secret.content.as_ref()).filter(|ca| is_fresh(ca, ca_validity, view.now));
    let Some(current) = current else { return issue_ca(view, secret, ca_validity) };

    let mut outcome = Outcome::default();
    let published = bundle::publish(view, current, &mut outcome);
    if !outcome.is_over() {
        return outcome;
    }
    bundle::inject(view, &mut outcome);
    if !outcome.is_over() {
        return outcome;
    }
    let spread = bundle::spread_at(view, published);
    for leaf in &LEAVES {
        keep_leaf(view, leaf, current, leaf_validity, spread, &mut outcome);
    }
    outcome
}

/// Whether a certificate is of the wanted duration and not near its end.
fn is_fresh(certificate: &CertificateContent, validity: Validity, now: Timestamp) -> bool {
    let wanted = certificate.duration.as_deref().and_then(duration::parse) == Some(validity.duration);
    wanted && now.duration_until(certificate.not_after) > validity.renew_before
}

fn issue_ca(view: View<'_>, secret: Option<&Certificate>, validity: Validity) -> Outcome {
    let step = Step::IssueCa {
        secret: key(view, labels::SECRET_CA),
        common_name: CA_NAME.to_owned(),
        duration: validity.duration,
        precondition: precondition(secret),
    };
    Outcome { steps: vec![step], ..Outcome::default() }
}

fn key(view: View<'_>, secret: &str) -> ObjectKey {
    ObjectKey::namespaced("v1", "Secret", view.namespace(), secret)
}

fn precondition(secret: Option<&Certificate>) -> Precondition {
    match secret.map(|secret| &secret.handle) {
        None => Precondition::Absent,
        Some(Handle { uid, resource_version, .. }) => {
            Precondition::Unchanged { uid: uid.clone(), resource_version: resource_version.clone() }
        }
    }
}

fn keep_leaf(
    view: View<'_>,
    leaf: &Leaf,
    ca: &CertificateContent,
    validity: Validity,
    spread: Option<Timestamp>,
    outcome: &mut Outcome,
) {
    let (common_name, dns_names) = leaf.names(view.namespace());
    let secret = view.observed.certificates.leaves.get(leaf.secret);
    let trusted: BTreeSet<&str> =
        view.observed.certificates.bundle.iter().map(|ca| ca.fingerprint.as_str()).collect();
    if let Some(content) = secret.and_then(|secret| secret.content.as_ref()) {
        let names = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
        let signer = content.signed_by.as_deref();
        let named =
            content.common_name == common_name && names(&content.dns_names).is_superset(&names(&dns_names));
        let ends_with_ca = content.not_after > view.now && content.not_after >= ca.not_after;
        let fresh = is_fresh(content, validity, view.now) || ends_with_ca;
        if named && signer == Some(ca.fingerprint.as_str()) && fresh {
            return;
        }
        let usable =
            named && content.not_after > view.now && signer.is_some_and(|signer| trusted.contains(signer));
        if let (true, Some(until)) = (usable, spread) {
            let waiting = WaitingOn::CaNotSpread { until };
            if !outcome.waiting_on.contains(&waiting) {
                outcome.waiting_on.push(waiting);
            }
            return;
        }
    }
    outcome.steps.push(Step::IssueLeaf {
        secret: key(view, leaf.secret),
        common_name,
        dns_names,
        usage: leaf.usage,
        duration: validity.duration,
        ca_fingerprint: ca.fingerprint.clone(),
        precondition: precondition(secret),
    });
}

impl Leaf {
    /// The common name and the DNS names.
    fn names(&self, namespace: &str) -> (String, Vec<String>) {
        match self.identity {
            Identity::Service(service) => (
                format!("{service}.{namespace}.pod.cluster.local"),
                vec![
                    format!("{service}.{namespace}.svc"),
                    format!("{service}.{namespace}.svc.cluster.local"),
                ],
            ),
            Identity::Name(name) => (name.to_owned(), vec![]),
        }
    }
}
