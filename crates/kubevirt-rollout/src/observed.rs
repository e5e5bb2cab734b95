//! The world as virt-operator sees it, as one value.
//!
//! Owns the types that observe (I/O) fills in and everything else in this crate reads. Facts only: what
//! follows from them is decided elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use kubevirt_manifests::ManifestSet;
use kubevirt_types::gate::Reporter;
use kubevirt_types::{KubeVirt, ObjectKey, Release};
use serde_json::Value;

/// Everything that a plan is made from.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Whether every part of this view has been listed completely since the operator leads (I9).
    pub synced: bool,
    /// The operator that looks.
    pub operator: Operator,
    /// The oldest KubeVirt object of the operator's namespace, if there is one.
    pub kubevirt: Option<KubeVirt>,
    /// Every other KubeVirt object in the cluster.
    pub other_kubevirts: Vec<ObjectKey>,
    /// Every live object with label `app.kubernetes.io/managed-by=virt-operator`, and every live object
    /// that a stored or generated manifest set names, whole, with `metadata.uid` and
    /// `metadata.resourceVersion`. Without Secrets of certificates, strategy ConfigMaps and Jobs, which have
    /// fields of their own here. The CA bundle's ConfigMap is among them.
    pub objects: BTreeMap<ObjectKey, Value>,
    /// The pods of the control plane (virt-api, virt-controller, virt-handler), terminating ones too.
    pub pods: Vec<Pod>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Stored manifest sets by deployment id.
    pub strategies: BTreeMap<String, StoredStrategy>,
    /// Jobs that make a manifest set.
    pub strategy_jobs: Vec<StrategyJob>,
    /// Who has to report a release, and what they report, as virt-api counts them.
    pub reporters: Vec<Reporter>,
    /// What a dry-run create of ConfigMap `kubevirt-guard-probe` said: refused by the guard (true) or not.
    pub guard_active: bool,
    /// Certificates.
    pub certificates: Certificates,
    /// How many objects of each of our kinds exist, by plural name (not kubevirts). A kind whose CRD doesn't
    /// exist is absent.
    pub instances: BTreeMap<String, Instances>,
}

/// The operator's own facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The release of the operator's image.
    pub release: Release,
    /// The registry of the operator's image.
    pub registry: String,
    /// The operator's namespace, in which it installs.
    pub namespace: String,
}

/// The name and state of an object whose content isn't needed, enough to write it safely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// Which object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
}

/// A stored manifest set.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredStrategy {
    /// The ConfigMap that holds it.
    pub handle: Handle,
    /// The set; shared, because it is large and never changes.
    pub set: Arc<ManifestSet>,
}

/// A Job that dumps a manifest set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrategyJob {
    /// The Job.
    pub handle: Handle,
    /// Annotation `kubevirt.io/install-strategy-identifier`.
    pub deployment_id: String,
    /// The image of its container.
    pub image: String,
    /// How far it is.
    pub state: StrategyJobState,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// How far a strategy Job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrategyJobState {
    /// Its pod runs, or isn't there yet.
    Running,
    /// Its pod can't start.
    Stuck(Trouble),
    /// It has succeeded.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// It has failed for good (condition Failed).
    Failed {
        /// When.
        at: Timestamp,
        /// The condition's message, or the pod's termination message.
        message: String,
    },
}

/// One pod of virt-api, virt-controller or virt-handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Label `kubevirt.io`: the component.
    pub component: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Where it runs, or, for a DaemonSet's pod that isn't bound yet, where its affinity wants it.
    pub node: Option<String>,
    /// Annotation `kubevirt.io/template-hash`, which the planner put on the template it came from.
    pub template_hash: Option<String>,
    /// Label `kubevirt.io/version`, if it parses.
    pub release: Option<Release>,
    /// When it was created.
    pub created: Timestamp,
    /// Since when its condition Ready is True; none when it isn't.
    pub ready_since: Option<Timestamp>,
    /// Since when its condition Ready is False; none while it is True or was never told.
    pub unready_since: Option<Timestamp>,
    /// When its deletion was asked for (deletionTimestamp less its grace period); none when it wasn't.
    pub deleting_since: Option<Timestamp>,
    /// Restarts of all its containers, init containers included.
    pub restarts: u32,
    /// The last time that one of its containers ended by its own fault.
    pub crash: Option<Crash>,
    /// The first container (init containers first), that waits or has terminated for a reason which won't pass
    /// by itself, or the PodScheduled condition when it is False.
    pub trouble: Option<Trouble>,
}

impl Pod {
    /// Whether it is Ready and nobody has asked for its deletion.
    pub fn serves(&self) -> bool {
        self.ready_since.is_some() && self.deleting_since.is_none()
    }
}

/// The end of a container that was its own fault: not one that was killed from outside, or lost with its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// The container.
    pub container: String,
    /// What the kubelet and the container's last words say.
    pub message: String,
    /// When it ended.
    pub at: Timestamp,
}

/// Why a pod doesn't run, in the kubelet's or the scheduler's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The container; none when the pod isn't scheduled.
    pub container: Option<String>,
    /// One word, such as `ErrImagePull`, `CrashLoopBackOff`, `Error`, `Unschedulable`.
    pub reason: String,
    /// A sentence; may be empty.
    pub message: String,
    /// The container's image.
    pub image: Option<String>,
}

impl Trouble {
    /// Whether this is an image that can't be had.
    pub fn image_missing(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull"
        )
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node; needed to remove its labels at uninstall.
    pub handle: Handle,
    /// Since when its condition Ready isn't True; none while it is.
    pub not_ready_since: Option<Timestamp>,
    /// Since when it is True; none while it isn't.
    pub ready_since: Option<Timestamp>,
    /// It is cordoned.
    pub unschedulable: bool,
    /// Label `kubevirt.io/schedulable`.
    pub schedulable_label: Option<String>,
    /// Annotation `kubevirt.io/heartbeat`: when a virt-handler last said what its node can do.
    pub heartbeat: Option<Timestamp>,
    /// Annotation `kubevirt.io/handler-pod`: which virt-handler said so.
    pub handler_pod: Option<String>,
    /// Every label that starts with `kubevirt.io/`.
    pub our_labels: Vec<String>,
    /// Every annotation that starts with `kubevirt.io/`.
    pub our_annotations: Vec<String>,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.handle.key.name
    }
}

/// What is known about certificates. No private key comes near this crate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The CA in Secret `kubevirt-ca`; none when the Secret is missing.
    pub ca: Option<Certificate>,
    /// The leaves by Secret name, those that exist.
    pub leaves: BTreeMap<String, Certificate>,
    /// The CA certificates in ConfigMap `kubevirt-ca`, newest first.
    pub bundle: Vec<CaCertificate>,
    /// What annotation [`PUBLISHED`] of that ConfigMap says, if it can be read.
    pub published: Option<Published>,
    /// Who looks may not read Secrets, so a missing certificate says nothing. Never so for the operator.
    pub unread: bool,
}

/// A certificate in a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret.
    pub handle: Handle,
    /// What is in it; none when it can't be parsed or the key doesn't match.
    pub content: Option<CertificateContent>,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateContent {
    /// Hex SHA-256 of its DER form.
    pub fingerprint: String,
    /// Fingerprint of the certificate in the bundle or the CA's Secret that signed it; none when none of them did.
    pub signed_by: Option<String>,
    /// The common name.
    pub common_name: String,
    /// DNS names in subjectAltName.
    pub dns_names: Vec<String>,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Annotation `kubevirt.io/duration` of the Secret.
    pub duration: Option<String>,
    /// The certificate, PEM: for a CA only, empty for a leaf.
    pub pem: String,
}

/// A CA certificate in the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    /// Hex SHA-256 of its DER form.
    pub fingerprint: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The certificate, PEM, with a newline at its end.
    pub pem: String,
}

/// Annotation of ConfigMap `kubevirt-ca`: the newest CA of the bundle, and since when it is in it. Written with the
/// bundle. An operator that doesn't know it takes it away when it writes another bundle, and else leaves it alone.
pub const PUBLISHED: &str = "kubevirt.io/ca-published";

/// The newest CA of the bundle, and since when it is in it: `<fingerprint> <time>` as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Hex SHA-256 of the CA's DER form.
    pub fingerprint: String,
    /// When the bundle with it was written first.
    pub at: Timestamp,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fingerprint, self.at)
    }
}

impl Published {
    /// Reads the annotation of a live ConfigMap. None when it isn't there, or isn't one of ours.
    pub fn of(config_map: &Value) -> Option<Self> {
        let (fingerprint, at) = config_map["metadata"]["annotations"][PUBLISHED].as_str()?.split_once(' ')?;
        Some(Self { fingerprint: fingerprint.to_owned(), at: at.parse().ok()? })
    }
}

/// The objects of one kind of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    /// How many there are.
    pub count: usize,
    /// How many of them are being deleted.
    pub deleting: usize,
    /// Up to three of them as `namespace/name`, for messages.
    pub some: Vec<String>,
}
