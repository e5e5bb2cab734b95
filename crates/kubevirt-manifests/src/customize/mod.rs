//! `spec.customizeComponents`: what a user changes in the control plane's own Deployments and DaemonSet.
//!
//! Owns how patches and flags are carried out and what they may never change. Never touches any other object, so
//! there is no way from here to roles, webhooks or CRDs. See `docs/design/0005-customize-components.md`.

mod flags;
mod form;
mod patch;
mod protected;
mod refusal;
mod strategic;
#[cfg(test)]
mod tests;

use kubevirt_types::kubevirt::CustomizeComponents;
use serde_json::Value;

use crate::config::InstallConfig;
use crate::workloads::{self, VIRT_API, VIRT_CONTROLLER, VIRT_HANDLER};
pub use refusal::{Cause, Refusal};

use patch::Patch;

/// What can be customized: kind and name.
const CUSTOMIZABLE: [(&str, &str); 3] =
    [("Deployment", VIRT_API), ("Deployment", VIRT_CONTROLLER), ("DaemonSet", VIRT_HANDLER)];

/// The largest customization, as JSON. It travels in an environment variable, which Linux limits to 128 KiB, and twice
/// in the status.
const MAX_SIZE: usize = 64 << 10;

/// So many refusals are told at once: they have to fit into a condition.
const MAX_TOLD: usize = 10;

/// What is wrong with a config's customization, for a release that this code makes.
///
/// # Errors
/// A refusal for each patch and flag that can't be carried out or changes what it may not, ten at most.
pub fn check(config: &InstallConfig) -> Result<(), Vec<Refusal>> {
    workloads(config).map(drop)
}

/// What is wrong with a customization whatever the release is: for a release that only its own image can make.
///
/// # Errors
/// A refusal for each patch that can't be read or names no workload.
pub fn check_form(customize: &CustomizeComponents) -> Result<(), Vec<Refusal>> {
    let refusals = too_large(customize).into_iter().chain(parse(customize).filter_map(Result::err));
    told(refusals.collect())
}

/// The workloads, Services and disruption budgets of a release, customized.
///
/// # Errors
/// As [`check`]: all of the customization is carried out, or none.
pub fn workloads(config: &InstallConfig) -> Result<Vec<Value>, Vec<Refusal>> {
    let originals = workloads::workloads(config);
    let Some(customize) = &config.customize_components else { return Ok(originals) };
    if let Some(refusal) = too_large(customize) {
        return Err(vec![refusal]);
    }
    let mut objects = originals.clone();
    let mut refusals = Vec::new();
    for patch in parse(customize) {
        match patch {
            Ok(patch) => {
                for object in objects.iter_mut().filter(|object| patch.selects(object)) {
                    match patch.apply(object) {
                        Ok(changed) => *object = changed,
                        Err(refusal) => refusals.push(refusal),
                    }
                }
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    if let Some(flags) = &customize.flags {
        refusals.extend(objects.iter_mut().flat_map(|object| flags::append(flags, object)));
    }
    told(refusals)?;
    for (original, object) in originals.iter().zip(&mut objects) {
        form::in_order_of(original, object);
    }
    Ok(objects)
}

/// A yes, or as many refusals as are told.
fn told(mut refusals: Vec<Refusal>) -> Result<(), Vec<Refusal>> {
    refusals.truncate(MAX_TOLD);
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

fn parse(customize: &CustomizeComponents) -> impl Iterator<Item = Result<Patch<'_>, Refusal>> {
    customize.patches.iter().enumerate().map(|(index, given)| Patch::parse(index, given))
}

fn too_large(customize: &CustomizeComponents) -> Option<Refusal> {
    let size = serde_json::to_string(customize).expect("a struct of strings serializes").len();
    (size > MAX_SIZE).then(|| Refusal {
        field: "spec.customizeComponents".to_owned(),
        value: format!("{size} bytes"),
        cause: Cause::TooLarge { limit: MAX_SIZE },
    })
}

/// Kind and name of a workload, as messages have them.
fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}
