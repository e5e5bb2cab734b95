//! Every number that a decision needs, with its reason.

use jiff::SignedDuration;

/// How long things may take, and how much may happen at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long the first new virt-handler must have been Ready before others follow: long enough for it to
    /// take its node's lock and send one heartbeat.
    pub canary_ready: SignedDuration,
    /// How long a new pod may take to get Ready before that is a failure: an image of 300 MB over a slow line.
    pub pod_deadline: SignedDuration,
    /// How much of virt-handler may be replaced at once after the canary, as a DaemonSet's maxSurge.
    pub spread: &'static str,
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

impl Default for Policy {
    fn default() -> Self {
        Self {
            canary_ready: SignedDuration::from_secs(5),
            pod_deadline: SignedDuration::from_mins(5),
            spread: "10%",
            handover: SignedDuration::from_secs(20),
            strategy_retry: SignedDuration::from_secs(30),
            ca_spread: SignedDuration::from_secs(150),
            backdating: SignedDuration::from_mins(5),
        }
    }
}
