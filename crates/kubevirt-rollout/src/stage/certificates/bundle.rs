//! The CAs that everybody trusts: the bundle, since when the newest CA is in it, and who has it written into them.
//!
//! The time counts from the bundle and not from the CA: between the two writes the leader may die, or the API server.
//! It is written with the bundle, so that every leader and every look from outside sees the same.

use std::collections::BTreeSet;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use kubevirt_manifests::Manifest;
use kubevirt_types::labels;
use serde_json::json;

use crate::context::{Outcome, View, inject_ca, is_managed, unchanged};
use crate::drift::{as_manifest, is_subset};
use crate::observed::{CaCertificate, CertificateContent, Certificates, PUBLISHED, Published};
use crate::order::{Class, class};
use crate::step::Step;

/// More CAs than this are not trusted at the same time, unless leaves of more are in use.
const MAX_BUNDLE: usize = 50;

/// Puts a CA into the bundle, and says since when it is there.
pub(super) fn publish(view: View<'_>, ca: &CertificateContent, outcome: &mut Outcome) -> Timestamp {
    let certificates = &view.observed.certificates;
    let pem: String = wanted(ca, certificates, view.now).iter().map(|ca| ca.pem.as_str()).collect();
    let at = published_at(ca, certificates, view.now);
    let published = Published { fingerprint: ca.fingerprint.clone(), at };
    let manifest = Manifest::plain(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": labels::CONFIGMAP_CA,
            "namespace": view.namespace(),
            "labels": {labels::MANAGED_BY: labels::MANAGED_BY_OPERATOR, labels::APP_COMPONENT: "kubevirt"},
            "annotations": {PUBLISHED: published.to_string()},
        },
        "data": {labels::CA_BUNDLE_KEY: pem},
    }));
    view.ensure(&manifest, outcome);
    at
}

/// The current CA, and every older one that is still valid: a leaf of it may be in use.
fn wanted(ca: &CertificateContent, certificates: &Certificates, now: Timestamp) -> Vec<CaCertificate> {
    let mut older: Vec<&CaCertificate> = certificates
        .bundle
        .iter()
        .filter(|older| older.not_after > now && older.fingerprint != ca.fingerprint)
        .collect();
    older.sort_by(|a, b| b.not_before.cmp(&a.not_before).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
    let leaves = certificates.leaves.values().filter_map(|leaf| leaf.content.as_ref());
    let signers: BTreeSet<&str> = leaves.filter_map(|leaf| leaf.signed_by.as_deref()).collect();
    let signs = |ca: &CaCertificate| signers.contains(ca.fingerprint.as_str());
    let mut room = (MAX_BUNDLE - 1).saturating_sub(older.iter().filter(|ca| signs(ca)).count());
    let mut wanted = vec![CaCertificate {
        fingerprint: ca.fingerprint.clone(),
        not_before: ca.not_before,
        not_after: ca.not_after,
        pem: ca.pem.clone(),
    }];
    for ca in older {
        if !signs(ca) {
            let Some(left) = room.checked_sub(1) else { continue };
            room = left;
        }
        wanted.push(ca.clone());
    }
    wanted
}

/// Since when a CA is in the bundle. Now, where it isn't in yet, or nobody has written it down: an operator that doesn't
/// know the annotation put it there at some time before now. Now too where what is written is still to come: the clock
/// of whoever wrote it is ahead of ours, and nobody should wait until ours is there.
fn published_at(ca: &CertificateContent, certificates: &Certificates, now: Timestamp) -> Timestamp {
    // people read it
    let second = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
    let now = now.round(second).unwrap_or(now);
    let is_in = certificates.bundle.iter().any(|other| other.fingerprint == ca.fingerprint);
    let written = certificates.published.as_ref().filter(|written| written.fingerprint == ca.fingerprint);
    written.map(|written| written.at).filter(|at| is_in && *at <= now).unwrap_or(now)
}

/// When every pod will have read the bundle that has been published then; none when they have.
pub(super) fn spread_at(view: View<'_>, published: Timestamp) -> Option<Timestamp> {
    let until = published.saturating_add(view.policy.ca_spread).ok()?;
    (until > view.now).then_some(until)
}

/// Writes the bundle into everything that is registered already, whatever release it is of.
pub(super) fn inject(view: View<'_>, outcome: &mut Outcome) {
    let Some(ca) = view.ca_bundle() else { return };
    let registered = view.observed.objects.iter().filter(|(key, live)| {
        let trusts =
            matches!(class(key), Class::ApiWebhook | Class::ApiService) || live.get("webhooks").is_some();
        trusts && is_managed(live)
    });
    for (_, live) in registered {
        let mut body = as_manifest(live);
        inject_ca(&mut body, &ca);
        if !is_subset(&body, live) {
            outcome
                .steps
                .push(Step::Apply { manifest: Manifest::plain(body), precondition: unchanged(live) });
        }
    }
}
