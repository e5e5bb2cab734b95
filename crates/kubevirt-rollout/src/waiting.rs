//! What a plan waits for. Waiting is never an error: one value gives the condition's message, the event,
//! and the metric's label.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use kubevirt_types::kubevirt::{FailedUpdate, OnFailure};

/// What is wrong with a new pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The pod.
    pub pod: String,
    /// Its node.
    pub node: Option<String>,
    /// A sentence that names both and what is wrong.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
    /// When the update has failed because of it, if it stays.
    pub fails_at: Timestamp,
}

/// One thing that has to happen before the plan goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingOn {
    /// The Job that dumps the target's manifests.
    StrategyJob {
        /// Its image.
        image: String,
        /// Why it doesn't come to an end; none while it runs.
        cause: Option<String>,
    },
    /// The guard against new kinds isn't enforced by the API server yet.
    GuardNotActive,
    /// A CRD isn't served yet.
    CrdNotEstablished {
        /// Its name.
        name: String,
    },
    /// A new CA hasn't reached every pod yet.
    CaNotSpread {
        /// When it is taken to have.
        until: Timestamp,
    },
    /// Handlers aren't up to date and ready yet.
    HandlersNotReady {
        /// Up to date and ready.
        ready: usize,
        /// Wanted.
        of: usize,
        /// The node on which one is tried first; none when all may go.
        canary: Option<String>,
        /// What fails; none while it is only taking time.
        cause: Option<Cause>,
    },
    /// virt-handlers of the previous version are so young that the DaemonSet's controller would take them for
    /// unavailable, and replace all of them at once.
    HandlersSettling {
        /// The node of the youngest.
        node: String,
        /// When it is old enough.
        until: Timestamp,
    },
    /// Nodes are NotReady: their virt-handlers follow when they are back.
    NodesNotReady {
        /// Their names.
        nodes: Vec<String>,
        /// A sentence that names some of them, and since when.
        cause: String,
    },
    /// The target has failed. The previous version comes back or has, or everything stays as it is.
    UpdateFailed {
        /// What failed, and what is done about it.
        failed: FailedUpdate,
        /// The release that comes back, or has come back.
        previous: String,
    },
    /// Replicas of virt-controller aren't up to date and ready yet.
    ControllersNotReady {
        /// Up to date and ready.
        ready: usize,
        /// Wanted.
        of: usize,
        /// What fails; none while it is only taking time.
        cause: Option<Cause>,
    },
    /// Replicas of virt-api aren't up to date and ready yet.
    ApiNotReady {
        /// Up to date and ready.
        ready: usize,
        /// Wanted.
        of: usize,
        /// What fails; none while it is only taking time.
        cause: Option<Cause>,
    },
    /// Controllers haven't reported the target release yet.
    Reports {
        /// Who, with what they report.
        missing: Vec<String>,
    },
    /// Pods of another release are handing over.
    OldPods {
        /// Their names.
        pods: Vec<String>,
    },
    /// Objects of a kind that the target doesn't have.
    Leftovers {
        /// The kind.
        kind: String,
        /// The target.
        target: String,
        /// How many are left.
        count: usize,
        /// Some of them.
        some: Vec<String>,
    },
    /// Objects of ours are being deleted.
    Deletion {
        /// What, such as `CustomResourceDefinition virtualmachines.kubevirt.io`.
        what: String,
        /// How many of them are left.
        left: usize,
    },
    /// The target can't be carried out as it is; somebody has to change the spec.
    Refused {
        /// Why.
        cause: String,
    },
}

impl WaitingOn {
    /// Waiting for these nodes, with since when they are NotReady; none when there are none.
    pub fn nodes(away: &BTreeMap<&str, Timestamp>) -> Option<Self> {
        let nodes: Vec<String> = away.keys().map(|node| (*node).to_owned()).collect();
        let told: Vec<String> = away.iter().map(|(node, since)| format!("{node} since {since}")).collect();
        (!nodes.is_empty()).then(|| Self::NodesNotReady {
            nodes,
            cause: format!("NotReady: {}: what runs there follows when the node is back", names(&told)),
        })
    }

    /// One word in CamelCase, for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::StrategyJob { .. } => "StrategyJob",
            Self::GuardNotActive => "GuardNotActive",
            Self::CrdNotEstablished { .. } => "CrdNotEstablished",
            Self::CaNotSpread { .. } => "CaNotSpread",
            Self::HandlersNotReady { .. } => "HandlersNotReady",
            Self::HandlersSettling { .. } => "HandlersSettling",
            Self::NodesNotReady { .. } => "NodesNotReady",
            Self::UpdateFailed { .. } => "UpdateFailed",
            Self::ControllersNotReady { .. } => "ControllersNotReady",
            Self::ApiNotReady { .. } => "ApiNotReady",
            Self::Reports { .. } => "Reports",
            Self::OldPods { .. } => "OldPods",
            Self::Leftovers { .. } => "Leftovers",
            Self::Deletion { .. } => "Deletion",
            Self::Refused { .. } => "Refused",
        }
    }

    /// What fails, when this is more than a matter of time.
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::StrategyJob { cause, .. } => cause.as_deref(),
            Self::HandlersNotReady { cause, .. }
            | Self::ControllersNotReady { cause, .. }
            | Self::ApiNotReady { cause, .. } => cause.as_ref().map(|cause| cause.message.as_str()),
            Self::Refused { cause } | Self::NodesNotReady { cause, .. } => Some(cause),
            Self::UpdateFailed { failed, .. } => Some(&failed.cause),
            Self::GuardNotActive
            | Self::CrdNotEstablished { .. }
            | Self::CaNotSpread { .. }
            | Self::HandlersSettling { .. }
            | Self::Reports { .. }
            | Self::OldPods { .. }
            | Self::Leftovers { .. }
            | Self::Deletion { .. } => None,
        }
    }
}

/// Up to three names, and how many more there are.
fn names(all: &[String]) -> String {
    match all {
        [] => "nobody".to_owned(),
        [a] => a.clone(),
        [a, b] => format!("{a}, {b}"),
        [a, b, c] => format!("{a}, {b}, {c}"),
        [a, b, c, more @ ..] => format!("{a}, {b}, {c} and {} more", more.len()),
    }
}

fn ready(f: &mut fmt::Formatter<'_>, component: &str, ready: usize, of: usize) -> fmt::Result {
    match of {
        0 => write!(f, "{component}: there is no pod yet"),
        _ => write!(f, "{component}: {ready} of {of} ready"),
    }
}

fn because(f: &mut fmt::Formatter<'_>, cause: Option<&str>) -> fmt::Result {
    match cause {
        Some(cause) => write!(f, ": {cause}"),
        None => Ok(()),
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StrategyJob { image, .. } => {
                write!(f, "the manifests from image {image}")?;
                because(f, self.cause())
            }
            Self::GuardNotActive => f.write_str("the guard against new kinds to be enforced"),
            Self::CrdNotEstablished { name } => {
                write!(f, "CustomResourceDefinition {name} to be established")
            }
            Self::CaNotSpread { until } => write!(f, "the new CA to reach every pod (by {until})"),
            Self::HandlersNotReady { ready: n, of, canary, .. } => {
                ready(f, "virt-handler", *n, *of)?;
                if let Some(node) = canary {
                    write!(f, ", trying node {node} first")?;
                }
                because(f, self.cause())
            }
            Self::ControllersNotReady { ready: n, of, .. } => {
                ready(f, "virt-controller", *n, *of)?;
                because(f, self.cause())
            }
            Self::ApiNotReady { ready: n, of, .. } => {
                ready(f, "virt-api", *n, *of)?;
                because(f, self.cause())
            }
            Self::HandlersSettling { node, until } => {
                write!(f, "the virt-handler on node {node} to have been ready for a while ({until})")
            }
            Self::NodesNotReady { cause, .. } => f.write_str(cause),
            Self::UpdateFailed { failed, previous } => {
                let version = &failed.version;
                match failed.action {
                    OnFailure::Rollback => write!(
                        f,
                        "another target or another try: {version} failed, and {previous} is brought back"
                    )?,
                    OnFailure::Pause => {
                        write!(
                            f,
                            "another target or another try: {version} failed, and the update is paused"
                        )?;
                    }
                }
                because(f, self.cause())
            }
            Self::Reports { missing } => write!(f, "reports of {}", names(missing)),
            Self::OldPods { pods } => write!(f, "old pods to hand over: {}", names(pods)),
            Self::Leftovers { kind, target, count, some } => write!(
                f,
                "{count} {kind} to be deleted by their owners, because {target} doesn't have the kind: {}",
                names(some)
            ),
            Self::Deletion { what, left } => write!(f, "deletion of {what}, {left} left"),
            Self::Refused { cause } => f.write_str(cause),
        }
    }
}
