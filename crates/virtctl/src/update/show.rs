//! `update plan` and `update explain`: what the operator would do, and what it means. Read-only.

use kubevirt_rollout::WaitingOn;
use kubevirt_rollout::admission::{FieldError, validate_update};
use kubevirt_rollout::explain::{self as words, overview};

use super::document::{Document, DocumentError, text, written};
use super::look::{Look, LookError, look};
use crate::cli::{ExplainOptions, PlanOptions};
use crate::cluster::Cluster;
use crate::terminal::say;

/// There is no plan, or it is one that can't be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShowError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("the API server would refuse it: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotAdmitted(Vec<FieldError>),
    #[error("this can't be carried out: {0}")]
    Refused(String),
}

/// Shows the plan, and fails when it is one that can't be carried out.
pub(crate) async fn plan(cluster: &Cluster, options: &PlanOptions) -> Result<(), ShowError> {
    let tag = options.image_tag.as_deref();
    let look = look(&cluster.client, tag).await?;
    admitted(&look)?;
    let Look { observed, plan, policy, now, notes, .. } = &look;
    let document = Document {
        kind: "UpdatePlan",
        image_tag: options.image_tag.clone(),
        overview: overview(observed, plan, policy, *now),
        notes: notes.clone(),
    };
    match options.output {
        Some(output) => say(&written(&document, output)?),
        None => say(&text(&document)),
    }
    let refused = plan.waiting_on.iter().find_map(|waiting| match waiting {
        WaitingOn::Refused { cause } => Some(cause.clone()),
        _ => None,
    });
    refused.map_or(Ok(()), |cause| Err(ShowError::Refused(cause)))
}

/// Whether the API server would take the change of the spec that is planned for.
fn admitted(look: &Look) -> Result<(), ShowError> {
    let Some(planned) = &look.observed.kubevirt else { return Ok(()) };
    let errors = validate_update(&look.stored, planned, &look.observed.operator);
    if errors.is_empty() { Ok(()) } else { Err(ShowError::NotAdmitted(errors)) }
}

/// Says what goes on.
pub(crate) async fn explain(cluster: &Cluster, options: &ExplainOptions) -> Result<(), ShowError> {
    let Look { observed, plan, policy, now, notes, .. } = look(&cluster.client, None).await?;
    let explanation = words::explain(&observed, &plan, &policy, now);
    match options.output {
        Some(output) => say(&written(&explanation, output)?),
        None => say(&explanation.line),
    }
    for note in notes {
        eprintln!("{note}");
    }
    Ok(())
}
