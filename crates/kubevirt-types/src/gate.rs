//! The version gate: nothing new may be used until every controller reports that it knows it.
//!
//! Each virt-controller and virt-handler reports its own release in a Lease. The *floor* is the
//! lowest release among those that the cluster wants. virt-api computes it from what it watches
//! itself, so the gate holds with the operator down.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::feature::Feature;
use crate::release::Release;

/// A virt-controller or virt-handler that the cluster has, or wants and doesn't have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// Its name for people, such as `virt-handler on node worker-1`.
    pub name: String,
    /// What it reports; none when it has not reported yet, or doesn't exist yet.
    pub release: Option<Release>,
}

/// The lowest release among all reporters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Floor {
    /// Every reporter has reported, and this is the lowest.
    Known {
        /// The lowest release.
        release: Release,
        /// Who reports it.
        held_by: Vec<String>,
    },
    /// Somebody has not reported, or nobody is there.
    Unknown {
        /// Who has not.
        silent: Vec<String>,
    },
}

/// Computes the floor.
pub fn floor(reporters: &[Reporter]) -> Floor {
    let silent: Vec<String> =
        reporters.iter().filter(|r| r.release.is_none()).map(|r| r.name.clone()).collect();
    let lowest = reporters.iter().filter_map(|r| r.release.as_ref()).min();
    match lowest {
        Some(lowest) if silent.is_empty() => Floor::Known {
            release: lowest.clone(),
            held_by: reporters
                .iter()
                .filter(|r| r.release.as_ref() == Some(lowest))
                .map(|r| r.name.clone())
                .collect(),
        },
        Some(_) | None => Floor::Unknown { silent },
    }
}

/// Why something may not be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// This virt-api is of a release that doesn't have it.
    #[error("{feature} is unknown in {own} (it exists since {since})")]
    UnknownHere {
        #[allow(missing_docs)]
        feature: &'static str,
        #[allow(missing_docs)]
        own: Release,
        #[allow(missing_docs)]
        since: Release,
    },
    /// This virt-api has it, some controller doesn't.
    #[error("{feature} is new in {since} and the version gate is closed: waiting for {}", waiting_for.join(", "))]
    Closed {
        #[allow(missing_docs)]
        feature: &'static str,
        #[allow(missing_docs)]
        since: Release,
        /// Who doesn't know it yet.
        waiting_for: Vec<String>,
    },
}

/// Whether a virt-api of release `own` may let people use a feature.
pub fn check(feature: &Feature, own: &Release, floor: &Floor) -> Result<(), GateError> {
    if !feature.exists_in(own) {
        return Err(GateError::UnknownHere {
            feature: feature.name,
            own: own.clone(),
            since: feature.since.clone(),
        });
    }
    if feature.since <= Release::V0_17_0 {
        return Ok(());
    }
    let closed = |waiting_for| {
        Err(GateError::Closed { feature: feature.name, since: feature.since.clone(), waiting_for })
    };
    match floor {
        Floor::Known { release, .. } if *release >= feature.since => Ok(()),
        Floor::Known { release, held_by } => {
            closed(held_by.iter().map(|who| format!("{who} ({release})")).collect())
        }
        Floor::Unknown { silent } if silent.is_empty() => {
            closed(vec!["the first virt-controller and virt-handler to report".to_owned()])
        }
        Floor::Unknown { silent } => {
            closed(silent.iter().map(|who| format!("{who} (has not reported)")).collect())
        }
    }
}

/// The gate as it stands, in the status of the KubeVirt object and at virt-api's `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateStatus {
    /// Whether all that `release` brought may be used.
    pub open: bool,
    /// The release whose features the gate guards.
    pub release: String,
    /// The lowest release that a controller reports; none while one has not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// Who holds the gate shut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// The gate's state for features up to `own`.
pub fn status(own: &Release, floor: &Floor) -> GateStatus {
    let (open, waiting_for) = match floor {
        Floor::Known { release, .. } if release >= own => (true, vec![]),
        Floor::Known { held_by, .. } => (false, held_by.clone()),
        Floor::Unknown { silent } => (false, silent.clone()),
    };
    let floor = match floor {
        Floor::Known { release, .. } => Some(release.to_string()),
        Floor::Unknown { .. } => None,
    };
    GateStatus { open, release: own.to_string(), floor, waiting_for }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::{What, find};

    fn reporter(name: &str, release: Option<Release>) -> Reporter {
        Reporter { name: name.into(), release }
    }

    #[test]
    fn table() {
        let old = || Some(Release::V0_17_0);
        let new = || Some(Release::V0_18_0);
        let pause = find(What::Subresource("virtualmachineinstances", "pause")).unwrap();
        let cases: [(Vec<Option<Release>>, Release, bool); 6] = [
            (vec![new(), new()], Release::V0_18_0, true),
            (vec![new(), old()], Release::V0_18_0, false),
            (vec![new(), None], Release::V0_18_0, false),
            (vec![], Release::V0_18_0, false),
            (vec![new(), new()], Release::V0_17_0, false),
            (vec![old(), old()], Release::V0_17_0, false),
        ];
        for (reported, own, open) in cases {
            let reporters: Vec<_> = reported.iter().map(|r| reporter("h", r.clone())).collect();
            assert_eq!(check(pause, &own, &floor(&reporters)).is_ok(), open, "{reported:?} {own}");
        }
    }

    #[test]
    fn the_message_names_who_holds_it_shut() {
        let pause = find(What::Subresource("virtualmachineinstances", "pause")).unwrap();
        let reporters = [
            reporter("virt-controller a", Some(Release::V0_18_0)),
            reporter("virt-handler on node b", Some(Release::V0_17_0)),
        ];
        let error = check(pause, &Release::V0_18_0, &floor(&reporters)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pause is new in v0.18.0 and the version gate is closed: waiting for virt-handler on node b (v0.17.0)"
        );
    }
}
