//! Every number that a decision needs, with its reason.

use jiff::SignedDuration;
use kubevirt_types::kubevirt::KubeVirtSpec;

/// How long things may take, and how much may happen at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For how long a new pod runs beside what it replaces, and then for how long the first new virt-handler must have
    /// been in charge of its node before the others follow. Twice this is more than a minute: what crashes a minute
    /// after it was Ready has not reached a second node. `spec.updateStrategy.soakSeconds` says otherwise.
    pub soak: SignedDuration,
    /// How long a new pod may take to get Ready: an image of 300 MB over a slow line.
    pub pod_deadline: SignedDuration,
    /// How long an image may be missing: a registry that restarts is back by then.
    pub image_deadline: SignedDuration,
    /// How long a virt-handler that is in charge may take to say that its node can run VMs. Its first heartbeat comes
    /// at once. The rest is for the node: one that falls silent in the takeover can't say anything either, and is called
    /// NotReady only 50 s later (kube-controller-manager's --node-monitor-grace-period). No other node follows meanwhile.
    pub schedulable_deadline: SignedDuration,
    /// A crash so soon after the pod's creation may be bad luck of a start, such as an API server that restarts.
    pub startup: SignedDuration,
    /// So many restarts are no bad luck any more.
    pub restarts: u32,
    /// A pod that has been Ready for so long is forgiven its crashes.
    pub forgiven: SignedDuration,
    /// Once the canary was good, so many new virt-handlers of a hundred may fail before the update does: in a large
    /// cluster there is always a node with a full disk.
    pub tolerated_percent: usize,
    /// How much of virt-handler may be replaced at once after the canary, as a DaemonSet's maxSurge.
    pub spread_percent: usize,
    /// For how long after its deletion an old pod is taken to act still: it hands over at once, and then only
    /// carries streams, for which it needs no access rules.
    pub handover: SignedDuration,
    /// How long after its Job a missing manifest set, or a failed Job, is tried again.
    pub strategy_retry: SignedDuration,
    /// How long the kubelet may take to bring a changed ConfigMap into every pod: its sync period of 60 s, its
    /// cache's 60 s, and some.
    pub ca_spread: SignedDuration,
    /// How far before its issue a certificate's validity begins, for peers whose clocks are behind. Whoever
    /// issues must use the same.
    pub backdating: SignedDuration,
}

impl Policy {
    /// The soak that a spec asks for.
    pub fn soak(&self, spec: &KubeVirtSpec) -> SignedDuration {
        let asked = spec.update_strategy.as_ref().and_then(|strategy| strategy.soak_seconds);
        asked.map_or(self.soak, |seconds| SignedDuration::from_secs(i64::from(seconds)))
    }

    /// How many of so many virt-handlers may be replaced at once after the canary.
    pub fn spread(&self, handlers: usize) -> usize {
        (handlers * self.spread_percent).div_ceil(100).max(1)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            soak: SignedDuration::from_secs(40),
            pod_deadline: SignedDuration::from_mins(3),
            image_deadline: SignedDuration::from_mins(1),
            schedulable_deadline: SignedDuration::from_secs(70),
            startup: SignedDuration::from_secs(20),
            restarts: 2,
            forgiven: SignedDuration::from_mins(2),
            tolerated_percent: 5,
            spread_percent: 10,
            handover: SignedDuration::from_secs(20),
            strategy_retry: SignedDuration::from_secs(30),
            ca_spread: SignedDuration::from_secs(150),
            backdating: SignedDuration::from_mins(5),
        }
    }
}
