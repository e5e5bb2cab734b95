//! pause, unpause, softreboot.

use axum::body::Bytes;
use axum::extract::State;
use http::StatusCode;
use kubevirt_types::feature::{self, What};
use kubevirt_types::gate;

use super::{Name, Shared};
use crate::handler::HandlerError;
use crate::instance::{Action, action_node};
use crate::lifecycle::Options;
use crate::refusal::Refusal;

/// Has it done to an instance, if every controller knows what that is.
pub async fn act(State(app): Shared, name: Name, action: Action, body: Bytes) -> Result<StatusCode, Refusal> {
    let (namespace, name) = &name.0;
    if let Some(feature) = feature::find(What::Subresource("virtualmachineinstances", action.name())) {
        gate::check(feature, &app.own, &app.view.floor())
            .map_err(|closed| Refusal::forbidden(closed.to_string()))?;
    }
    let options = Options::parse(&body)?;
    let vmi = app.vmi(namespace, name).await?;
    let node = action_node(&vmi, action)?;
    if !options.is_dry_run() {
        let pods = app.view.handlers(&node);
        app.handlers.act(&node, &pods, (namespace, name), action).await.map_err(|error| refusal(&error))?;
    }
    Ok(StatusCode::OK)
}

fn refusal(error: &HandlerError) -> Refusal {
    match error {
        HandlerError::None { .. } => Refusal::bad_request(error.to_string()),
        HandlerError::Connect { .. } | HandlerError::Cut { .. } | HandlerError::Refused { .. } => {
            Refusal::internal(error.to_string())
        }
    }
}
