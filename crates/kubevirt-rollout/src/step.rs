//! What virt-operator is told to do: each step is one write, with its precondition.
//!
//! A step holds everything that its write needs, so the executor decides nothing.

use std::fmt;

use jiff::SignedDuration;
use kubevirt_manifests::{Manifest, ManifestSet};
use kubevirt_types::ObjectKey;

/// What must still be true of an object when a step is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// The object doesn't exist: create it.
    Absent,
    /// The object is the one that was seen, as it was seen.
    Unchanged {
        /// Its uid.
        uid: String,
        /// Its resourceVersion.
        resource_version: String,
    },
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Create the object, or server-side apply it with force, as the precondition says.
    Apply {
        /// The object, complete.
        manifest: Manifest,
        /// What must still be true.
        precondition: Precondition,
    },
    /// Delete an object, with uid and resourceVersion as preconditions.
    Delete {
        /// Which.
        key: ObjectKey,
        /// Its uid.
        uid: String,
        /// Its resourceVersion.
        resource_version: String,
    },
    /// Delete every object of one of our kinds, in all namespaces (uninstall).
    DeleteInstances {
        /// The kind.
        kind: String,
        /// Its plural name.
        plural: String,
        /// A version that its CRD serves.
        version: String,
    },
    /// Create the Job that dumps the target's manifest set.
    CreateStrategyJob {
        /// The Job, complete.
        manifest: Manifest,
    },
    /// Store a manifest set in ConfigMap `kubevirt-install-strategy-<deployment id>`.
    StoreStrategy {
        /// The set; its ConfigMap is `kubevirt_manifests`' business.
        set: Box<ManifestSet>,
    },
    /// Make a new self-signed CA and put it into its Secret.
    IssueCa {
        /// The Secret.
        secret: ObjectKey,
        /// Common name.
        common_name: String,
        /// How long it is valid.
        duration: SignedDuration,
        /// What must still be true of the Secret.
        precondition: Precondition,
    },
    /// Make a new key and certificate, signed by the CA of Secret `kubevirt-ca`, and put it into its Secret.
    IssueLeaf {
        /// The Secret (type kubernetes.io/tls).
        secret: ObjectKey,
        /// Common name.
        common_name: String,
        /// DNS names in subjectAltName.
        dns_names: Vec<String>,
        /// Server, client, or both.
        usage: Usage,
        /// How long it is valid.
        duration: SignedDuration,
        /// Fingerprint of the CA that must sign: when the Secret holds another by now, the step fails.
        ca_fingerprint: String,
        /// What must still be true of the Secret.
        precondition: Precondition,
    },
    /// Add our finalizer to the KubeVirt object.
    AddFinalizer {
        /// The finalizer.
        finalizer: String,
        /// The object's uid.
        uid: String,
        /// Its resourceVersion.
        resource_version: String,
    },
    /// Remove our finalizer from the KubeVirt object; the status is written first.
    RemoveFinalizer {
        /// The finalizer.
        finalizer: String,
        /// The object's uid.
        uid: String,
        /// Its resourceVersion; the status write before moves it, so only the uid is a precondition.
        resource_version: String,
    },
    /// Rewrite every object of one of our kinds as the version that its CRD stores now, and then let the CRD forget
    /// that others were stored.
    MigrateStorage {
        /// The CRD.
        crd: ObjectKey,
        /// The kind.
        kind: String,
        /// Its plural name.
        plural: String,
        /// The version that is stored now.
        version: String,
        /// The CRD's uid.
        uid: String,
        /// The CRD's resourceVersion: a CRD that has changed since may store another version.
        resource_version: String,
    },
    /// Remove labels and annotations from a node (uninstall).
    CleanNode {
        /// The node's name.
        node: String,
        /// Its uid.
        uid: String,
        /// Its resourceVersion.
        resource_version: String,
        /// The labels.
        labels: Vec<String>,
        /// The annotations.
        annotations: Vec<String>,
    },
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply { manifest, precondition: Precondition::Absent } => {
                write!(f, "create {}", manifest.key)
            }
            Self::Apply { manifest, .. } => write!(f, "apply {}", manifest.key),
            Self::Delete { key, .. } => write!(f, "delete {key}"),
            Self::DeleteInstances { kind, .. } => write!(f, "delete every {kind}"),
            Self::CreateStrategyJob { manifest } => write!(f, "create {}", manifest.key),
            Self::StoreStrategy { set } => write!(f, "store the manifests of {}", set.config.release),
            Self::IssueCa { secret, .. } => write!(f, "issue the CA in {secret}"),
            Self::IssueLeaf { secret, .. } => write!(f, "issue the certificate in {secret}"),
            Self::AddFinalizer { .. } => f.write_str("add the finalizer"),
            Self::RemoveFinalizer { .. } => f.write_str("remove the finalizer"),
            Self::MigrateStorage { kind, version, .. } => {
                write!(f, "store every {kind} as {version} and forget other versions")
            }
            Self::CleanNode { node, .. } => write!(f, "remove labels of node {node}"),
        }
    }
}
