//! The version gate's floor: nobody may be behind, and nobody silent, before virt-api follows.

use crate::context::{Context, Outcome};
use crate::waiting::WaitingOn;

pub(crate) fn wait(context: &Context<'_>) -> Outcome {
    let target = &context.target.config.release;
    let missing: Vec<String> = context
        .view
        .observed
        .reporters
        .iter()
        .filter(|reporter| reporter.release.as_ref() != Some(target))
        .map(|reporter| match &reporter.release {
            Some(release) => format!("{} ({release})", reporter.name),
            None => format!("{} (silent)", reporter.name),
        })
        .collect();
    if missing.is_empty() { Outcome::over() } else { WaitingOn::Reports { missing }.into() }
}
