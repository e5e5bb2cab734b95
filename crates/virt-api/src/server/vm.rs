//! start, stop and restart.

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use kubevirt_types::feature::{self, What};
use kubevirt_types::gate;

use super::{Name, Shared};
use crate::app::App;
use crate::cluster::ClusterError;
use crate::lifecycle::{Action, Options, Step, decide};
use crate::refusal::{Refusal, Subject};

/// Somebody else may change a VM between our look and our patch; then we look again.
const TRIES: usize = 4;

/// Has a VM started, stopped or restarted.
pub async fn act(State(app): Shared, name: Name, action: Action, body: Bytes) -> Result<StatusCode, Refusal> {
    let options = Options::parse(&body)?;
    if options.is_paused() {
        // A controller that doesn't know the field would let the guest run.
        let field = feature::find(What::VmiSpecField("startStrategy")).expect("the table has this field");
        gate::check(field, &app.own, &app.view.floor())
            .map_err(|closed| Refusal::forbidden(format!("paused: {closed}")))?;
    }
    let (namespace, name) = &name.0;
    let mut last = None;
    for _ in 0..TRIES {
        let vm = app.cluster.vm(namespace, name).await.map_err(|error| refusal(&error))?;
        let vm = vm.ok_or_else(|| Refusal::not_found(Subject::vm(name)))?;
        let vmi = app.cluster.vmi(namespace, name).await.map_err(|error| refusal(&error))?;
        let steps = decide(action, &vm, vmi.as_ref(), &options)?;
        match take(&app, (namespace, name), &steps, options.is_dry_run()).await {
            Ok(()) => return Ok(StatusCode::ACCEPTED),
            Err(error) if error.is_failed_test() => last = Some(error),
            Err(error) => return Err(refusal(&error)),
        }
    }
    let why = last.map_or_else(String::new, |error| error.to_string());
    Err(Refusal::conflict(Subject::vm(name), why))
}

/// Takes steps in order. When one fails, those before it that can be are taken back.
async fn take(app: &App, name: (&str, &str), steps: &[Step], dry_run: bool) -> Result<(), ClusterError> {
    for (index, step) in steps.iter().enumerate() {
        let Err(error) = app.cluster.patch(name, step.target, &step.patch, dry_run).await else { continue };
        for done in steps[..index].iter().rev() {
            if let Some(undo) = &done.undo
                && let Err(error) = app.cluster.patch(name, done.target, undo, dry_run).await
            {
                tracing::warn!(%error, name = name.1, "taking a change back");
            }
        }
        return Err(error);
    }
    Ok(())
}

/// The API server's refusal in its own words; whatever else is ours.
pub(super) fn refusal(error: &ClusterError) -> Refusal {
    let code = error.refusal().and_then(|status| StatusCode::from_u16(status.code).ok());
    match (code, error.refusal()) {
        (Some(code), Some(status)) if code.is_client_error() => Refusal::new(code, &status.message),
        (_, _) => Refusal::internal(error.to_string()),
    }
}
