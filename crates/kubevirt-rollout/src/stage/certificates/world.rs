//! A world of certificates for tests: carries out steps as the API server and the kubelets do, and says what breaks.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kubevirt_types::{ObjectKey, labels};
use serde_json::{Value, json};

use super::validity::DELIVERY;
use super::{LEAVES, keep};
use crate::context::{Nodes, Outcome, View};
use crate::duration;
use crate::fixture;
use crate::observed::{CaCertificate, Certificate, CertificateContent, Handle, Observed, Published};
use crate::policy::Policy;
use crate::step::Step;

/// A leaf that pods may serve with.
#[derive(Debug, Clone)]
pub(super) struct Used {
    secret: String,
    leaf: CertificateContent,
    /// When the last pod has its successor; none while there is none.
    until: Option<Timestamp>,
}

#[derive(Clone)]
pub(super) struct World {
    pub observed: Observed,
    pub policy: Policy,
    pub now: Timestamp,
    serial: u64,
    /// Since when each CA is in the bundle: what happened, not what anybody has written down.
    pub in_bundle: BTreeMap<String, Timestamp>,
    known: BTreeMap<String, CaCertificate>,
    used: Vec<Used>,
    looked: Timestamp,
}

pub(super) fn bundle_key() -> ObjectKey {
    ObjectKey::namespaced("v1", "ConfigMap", "kubevirt", labels::CONFIGMAP_CA)
}

impl World {
    /// With these durations in the spec, and nothing else.
    pub fn new(self_signed: Value) -> Self {
        let mut world = Self {
            observed: fixture::observed(),
            policy: Policy::default(),
            now: fixture::at(0),
            serial: 0,
            in_bundle: BTreeMap::new(),
            known: BTreeMap::new(),
            used: vec![],
            looked: fixture::at(0),
        };
        world.ask(self_signed);
        world
    }

    /// Somebody asks for other durations.
    pub fn ask(&mut self, self_signed: Value) {
        let strategy = json!({"selfSigned": self_signed});
        let kubevirt = self.observed.kubevirt.as_mut().unwrap();
        kubevirt.spec.certificate_rotate_strategy = serde_json::from_value(strategy).unwrap();
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub fn keep(&self) -> Outcome {
        let nodes = Nodes::of(&self.observed);
        let kubevirt = self.observed.kubevirt.as_ref().unwrap();
        keep(View { observed: &self.observed, kubevirt, policy: &self.policy, now: self.now, nodes: &nodes })
    }

    /// The steps in words.
    pub fn steps(&self) -> Vec<String> {
        self.keep().steps.iter().map(ToString::to_string).collect()
    }

    /// One round of the operator; how many steps it had.
    pub fn round(&mut self) -> Result<usize, String> {
        self.check()?;
        let steps = self.keep().steps;
        for step in &steps {
            self.take(step)?;
        }
        self.check()?;
        Ok(steps.len())
    }

    /// Rounds until there is nothing to do.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            if self.round().unwrap() == 0 {
                return;
            }
        }
        panic!("{:?}", self.keep());
    }

    pub fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::IssueCa { secret, common_name, duration, .. } => {
                let content = self.content(common_name, vec![], *duration, None);
                let ca = CaCertificate {
                    fingerprint: content.fingerprint.clone(),
                    not_before: content.not_before,
                    not_after: content.not_after,
                    pem: content.pem.clone(),
                };
                self.known.insert(ca.fingerprint.clone(), ca);
                let handle = self.handle(secret.clone());
                self.observed.certificates.ca = Some(Certificate { handle, content: Some(content) });
                Ok(())
            }
            Step::IssueLeaf { secret, common_name, dns_names, duration, ca_fingerprint, .. } => {
                let content =
                    self.content(common_name, dns_names.clone(), *duration, Some(ca_fingerprint.clone()));
                self.replace(&secret.name, content)
            }
            Step::Apply { manifest, .. } => self.publish(&manifest.body),
            other => Err(format!("{other}: not of this stage")),
        }
    }

    /// A leaf comes into its Secret. The one before may have been of use: then its successor must be of more.
    fn replace(&mut self, secret: &str, leaf: CertificateContent) -> Result<(), String> {
        let (now, spread) = (self.now, self.policy.ca_spread);
        let before = self.used.iter().find(|used| used.secret == secret && used.until.is_none());
        if before.is_some_and(|before| self.works(&before.leaf, now)) {
            let signer = leaf.signed_by.as_ref().and_then(|signer| self.in_bundle.get(signer));
            if signer.is_none_or(|since| now.duration_since(*since) < spread) {
                return Err(format!(
                    "{secret}: a leaf of a CA that is in the bundle since {signer:?}, at {now}"
                ));
            }
        }
        for used in self.used.iter_mut().filter(|used| used.secret == secret && used.until.is_none()) {
            used.until = Some(now + DELIVERY);
        }
        self.used.push(Used { secret: secret.to_owned(), leaf: leaf.clone(), until: None });
        let key = ObjectKey::namespaced("v1", "Secret", "kubevirt", secret);
        let handle = self.handle(key);
        self.observed
            .certificates
            .leaves
            .insert(secret.to_owned(), Certificate { handle, content: Some(leaf) });
        Ok(())
    }

    fn publish(&mut self, body: &Value) -> Result<(), String> {
        let text = body["data"][labels::CA_BUNDLE_KEY].as_str().unwrap_or_default();
        let bundle: Vec<CaCertificate> = text.lines().map(|line| self.known[line].clone()).collect();
        let now = self.now;
        self.in_bundle.retain(|known, _| bundle.iter().any(|ca| ca.fingerprint == *known));
        for ca in &bundle {
            self.in_bundle.entry(ca.fingerprint.clone()).or_insert(now);
        }
        self.serial += 1;
        let mut live = body.clone();
        live["metadata"]["uid"] = json!("bundle");
        live["metadata"]["resourceVersion"] = json!(self.serial.to_string());
        self.observed.certificates.published = Published::of(&live);
        self.observed.certificates.bundle = bundle;
        self.observed.objects.insert(bundle_key(), live);
        Ok(())
    }

    fn handle(&mut self, key: ObjectKey) -> Handle {
        self.serial += 1;
        Handle { uid: key.name.clone(), key, resource_version: self.serial.to_string() }
    }

    fn content(
        &mut self,
        common_name: &str,
        dns_names: Vec<String>,
        valid: SignedDuration,
        signed_by: Option<String>,
    ) -> CertificateContent {
        self.serial += 1;
        let fingerprint = format!("{}", self.serial);
        CertificateContent {
            pem: format!("{fingerprint}\n"),
            signed_by: signed_by.or_else(|| Some(fingerprint.clone())),
            fingerprint,
            common_name: common_name.to_owned(),
            dns_names,
            not_before: self.now - self.policy.backdating,
            not_after: self.now + valid,
            duration: Some(duration::format(valid)),
        }
    }

    /// Whether a leaf is of use: neither it nor its CA has expired, and its CA is in the bundle.
    fn works(&self, leaf: &CertificateContent, at: Timestamp) -> bool {
        let signer = leaf.signed_by.as_ref().filter(|signer| self.in_bundle.contains_key(*signer));
        let signer = signer.and_then(|signer| self.known.get(signer));
        leaf.not_after > at && signer.is_some_and(|ca| ca.not_after > at)
    }

    /// Nobody serves with a leaf that is of no use.
    fn check(&mut self) -> Result<(), String> {
        let (looked, now) = (self.looked, self.now);
        self.used.retain(|used| used.until.is_none_or(|until| until > looked));
        for used in &self.used {
            let last = used.until.map_or(now, |until| until.min(now));
            if !self.works(&used.leaf, last) {
                return Err(format!("{used:?} is of no use at {last}; bundle {:?}", self.in_bundle));
            }
        }
        self.looked = now;
        Ok(())
    }

    /// What was no more of use than so long is nobody's fault: it is not looked at.
    pub fn forgive(&mut self, margin: SignedDuration) {
        let used = std::mem::take(&mut self.used);
        let last = self.now + margin;
        self.used = used.into_iter().filter(|used| self.works(&used.leaf, last)).collect();
        self.looked = self.now;
    }

    /// When something happens next by itself.
    pub fn next(&self) -> Option<Timestamp> {
        let asked = self.observed.kubevirt.as_ref()?.spec.certificate_rotate_strategy.as_ref();
        let asked = asked.and_then(|asked| asked.self_signed.clone()).unwrap_or_default();
        let ca = super::Validity::of(asked.ca.as_ref(), super::CA_DURATION);
        let leaf = super::Validity::of(asked.server.as_ref(), super::LEAF_DURATION);
        let certificates = &self.observed.certificates;
        let mut times: Vec<Timestamp> = certificates.bundle.iter().map(|ca| ca.not_after).collect();
        let content = |certificate: &Certificate| certificate.content.clone();
        let cas = certificates.ca.iter().filter_map(content).map(|content| (content, ca));
        let leaves = certificates.leaves.values().filter_map(content).map(|content| (content, leaf));
        for (content, validity) in cas.chain(leaves) {
            times.extend([content.not_after, content.not_after - validity.renew_before]);
        }
        times.extend(certificates.published.as_ref().map(|published| published.at + self.policy.ca_spread));
        times.into_iter().filter(|time| *time > self.now).min()
    }

    /// Leaves that were made in this Secret's place by hand.
    pub fn put_leaf(&mut self, index: usize, signer: Option<String>, age: i64, valid: &str) {
        let leaf = &LEAVES[index];
        let (common_name, dns_names) = leaf.names("kubevirt");
        let valid = duration::parse(valid).unwrap();
        let mut content = self.content(&common_name, dns_names, valid, signer);
        content.not_before -= SignedDuration::from_secs(age);
        content.not_after -= SignedDuration::from_secs(age);
        self.used.retain(|used| used.secret != leaf.secret);
        self.used.push(Used { secret: leaf.secret.to_owned(), leaf: content.clone(), until: None });
        let handle = self.handle(ObjectKey::namespaced("v1", "Secret", "kubevirt", leaf.secret));
        let certificate = Certificate { handle, content: Some(content) };
        self.observed.certificates.leaves.insert(leaf.secret.to_owned(), certificate);
    }

    /// A CA that was made some time ago, in the Secret and nowhere else.
    pub fn put_ca(&mut self, age: i64, valid: &str) -> String {
        let secret = ObjectKey::namespaced("v1", "Secret", "kubevirt", labels::SECRET_CA);
        let valid = duration::parse(valid).unwrap();
        let now = self.now;
        self.now -= SignedDuration::from_secs(age);
        let precondition = crate::step::Precondition::Absent;
        let step = Step::IssueCa { secret, common_name: "kubevirt.io".into(), duration: valid, precondition };
        self.take(&step).unwrap();
        self.now = now;
        self.ca()
    }

    /// The bundle holds these, and says this about the newest.
    pub fn put_bundle(&mut self, cas: &[String], since: i64, annotation: Option<String>) {
        let pem: String = cas.iter().map(|ca| format!("{ca}\n")).collect();
        let mut body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": labels::CONFIGMAP_CA, "namespace": "kubevirt",
                "labels": {labels::MANAGED_BY: labels::MANAGED_BY_OPERATOR, labels::APP_COMPONENT: "kubevirt"},
            },
            "data": {labels::CA_BUNDLE_KEY: pem},
        });
        if let Some(annotation) = annotation {
            body["metadata"]["annotations"] = json!({crate::observed::PUBLISHED: annotation});
        }
        self.publish(&body).unwrap();
        let since = self.now - SignedDuration::from_secs(since);
        self.in_bundle.values_mut().for_each(|at| *at = since.min(*at));
    }

    /// The current CA's fingerprint.
    pub fn ca(&self) -> String {
        let ca = self.observed.certificates.ca.as_ref().and_then(|ca| ca.content.as_ref());
        ca.unwrap().fingerprint.clone()
    }

    /// Who signed each leaf.
    pub fn signers(&self) -> Vec<String> {
        let leaves = self.observed.certificates.leaves.values();
        leaves.filter_map(|leaf| leaf.content.as_ref()?.signed_by.clone()).collect()
    }
}
