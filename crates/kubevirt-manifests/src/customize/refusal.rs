//! Why a customization is refused: which field, what it says, what is allowed.

/// A patch or flag that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: Invalid value: {value:?}: {cause}")]
pub struct Refusal {
    /// The field of the KubeVirt object, such as `spec.customizeComponents.patches[0].patch`.
    pub field: String,
    /// What it says, shortened.
    pub value: String,
    /// What is wrong with it.
    pub cause: Cause,
}

/// What is wrong with a patch or a flag, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// All patches and flags together.
    #[error("expected at most {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The resource type.
    #[error("expected Deployment, DaemonSet or *")]
    Type,
    /// The resource name.
    #[error("expected virt-api, virt-controller, virt-handler or *")]
    Name,
    /// The two don't go together.
    #[error("there is no {type_} of this name: expected one of {}", workloads())]
    NoSuchWorkload {
        /// The resource type.
        type_: String,
    },
    /// Reading the patch.
    #[error("expected {expected} as JSON or YAML: {error}")]
    Unreadable {
        /// What a patch of this type is.
        expected: &'static str,
        /// Why it isn't.
        error: String,
    },
    /// Carrying the patch out.
    #[error("doesn't apply to {workload}: {error}")]
    DoesNotApply {
        /// Which workload.
        workload: String,
        /// Why not.
        error: String,
    },
    /// What comes of it isn't what Kubernetes takes.
    #[error("makes {workload} one that Kubernetes doesn't take: {path}: {error}")]
    NotAWorkload {
        /// Which workload.
        workload: String,
        /// The field in it.
        path: String,
        /// What is wrong with it.
        error: String,
    },
    /// It changes what isn't the user's.
    #[error("changes {path} of {workload}: {rule}")]
    Protected {
        /// Which workload.
        workload: String,
        /// The field in it.
        path: String,
        /// Why it may not be changed so, and what may be.
        rule: &'static str,
    },
    /// The name of a flag.
    #[error("expected a flag without dashes at its front, of letters, digits and dashes, such as v")]
    FlagName,
    /// A flag that is there already.
    #[error("--{flag} is set already: expected a flag that {workload} doesn't have yet, such as v")]
    FlagTaken {
        /// The flag.
        flag: String,
        /// Which workload.
        workload: String,
    },
}

/// What can be customized.
fn workloads() -> String {
    super::CUSTOMIZABLE.map(|(kind, name)| format!("{kind} {name}")).join(", ")
}

/// Messages show no more of a patch than this.
const SHOWN: usize = 200;

/// A text as messages show it.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
