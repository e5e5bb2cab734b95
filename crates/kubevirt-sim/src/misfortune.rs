//! What goes wrong: images, nodes, vandals. A misfortune takes what it takes; the operator may take nothing more.

use jiff::{SignedDuration, Timestamp};
use kubevirt_manifests::InstallConfig;
use kubevirt_types::{ObjectKey, Release};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::pods::SimPod;

/// Something that is wrong with an image, or with what it meets where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The image can't be pulled.
    ImageMissing,
    /// The container crashes at once.
    Crashes,
    /// An init container crashes.
    InitCrashes,
    /// No node has room for it.
    Unschedulable,
    /// It never gets Ready.
    NeverReady,
    /// A virt-handler that is Ready, takes charge, and says that its node can run nothing.
    NodeUnable,
    /// A virt-handler that is Ready as a standby, takes charge, and never says anything on its node.
    Silent,
    /// It crashes so many seconds after it got Ready, each time.
    CrashesAfter(u32),
}

impl Fault {
    /// Whether only a virt-handler can have it.
    pub fn is_handlers(self) -> bool {
        match self {
            Self::NodeUnable | Self::Silent => true,
            Self::ImageMissing
            | Self::Crashes
            | Self::InitCrashes
            | Self::Unschedulable
            | Self::NeverReady
            | Self::CrashesAfter(_) => false,
        }
    }
}

/// Which pods have a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FaultRule {
    pub(crate) image: String,
    pub(crate) node: Option<String>,
    pub(crate) fault: Fault,
    since: Timestamp,
}

/// How long after its last sign of life a node is NotReady.
pub(crate) const NODE_GRACE: SignedDuration = SignedDuration::from_secs(40);
/// How long a pod tolerates that its node is NotReady, a DaemonSet's excepted.
pub(crate) const EVICTION: SignedDuration = SignedDuration::from_secs(300);

impl Cluster {
    /// Pods of a component of a release that are made from now on fail.
    pub fn inject(&mut self, component: &str, release: Release, fault: Fault) {
        let image = InstallConfig { release, ..self.operator.clone() }.image(component);
        self.inject_image(&image, None, fault);
    }

    /// Pods with this image that are made from now on fail; with a node only those there.
    pub fn inject_image(&mut self, image: &str, node: Option<&str>, fault: Fault) {
        self.meddle();
        let node = node.map(str::to_owned);
        self.faults.push(FaultRule { image: image.to_owned(), node, fault, since: self.now });
    }

    /// Nothing is wrong with any image any more.
    pub fn heal(&mut self) {
        self.meddle();
        self.faults.clear();
    }

    /// What this pod has.
    pub(crate) fn fault(&self, pod: &SimPod) -> Option<Fault> {
        let here = |rule: &&FaultRule| {
            rule.image == pod.image
                && (rule.node.is_none() || rule.node == pod.node)
                && rule.since <= pod.created
        };
        self.faults.iter().find(here).map(|rule| rule.fault)
    }

    /// The release's operator image can't be pulled any more.
    pub fn lose_images(&mut self, release: &Release) {
        self.meddle();
        self.images.remove(release);
    }

    /// A node's kubelet falls silent: nothing starts and nothing ends there, and after a while the node is NotReady.
    pub fn lose_node(&mut self, name: &str) {
        self.meddle();
        let now = self.now;
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            node.silent_since.get_or_insert(now);
        }
    }

    /// It is back, with all that ran there.
    pub fn return_node(&mut self, name: &str) {
        self.meddle();
        let now = self.now;
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            node.silent_since = None;
            node.back_since = Some(now);
        }
    }

    /// A node goes for good, with all that ran there.
    pub fn remove_node(&mut self, name: &str) {
        self.meddle();
        self.misfortunes += 1;
        self.nodes.retain(|node| node.name != name);
        self.pods.retain(|pod| pod.node.as_deref() != Some(name));
    }

    /// Somebody deletes an object behind the operator's back.
    pub fn vandalise(&mut self, key: &ObjectKey) {
        self.meddle();
        self.objects.remove(key);
    }

    /// Somebody changes an object behind the operator's back.
    pub fn tamper(&mut self, key: &ObjectKey, pointer: &str, value: Value) {
        self.meddle();
        let version = self.bump();
        if let Some(live) = self.objects.get_mut(key) {
            if let Some(field) = live.pointer_mut(pointer) {
                *field = value;
            }
            live["metadata"]["resourceVersion"] = json!(version);
            let generation = live["metadata"]["generation"].as_u64().unwrap_or(0) + 1;
            live["metadata"]["generation"] = json!(generation);
        }
    }

    /// Somebody deletes a pod of the control plane: on a node that serves, the kubelet lets it go.
    pub fn delete_a_pod(&mut self, component: &str, node: &str) {
        self.meddle();
        self.misfortunes += 1;
        let found = self
            .pods
            .iter()
            .find(|pod| pod.component == component && pod.node.as_deref() == Some(node) && pod.lives());
        if let Some(uid) = found.map(|pod| pod.uid.clone()) {
            self.delete_pod(&uid);
        }
    }

    /// Time passes at once.
    pub fn advance(&mut self, by: SignedDuration) {
        self.meddle();
        self.now = self.now.saturating_add(by).unwrap_or(self.now);
    }
}
