//! The webhooks: reads what a review needs to know of the cluster, and answers.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use kubevirt_types::VmiPhase;
use rustls::crypto::CryptoProvider;
use serde_json::Value;

use super::Shared;
use crate::admission::review::{self, Request, Verdict};
use crate::admission::{Context, Hook, MigrationSubject, decide, is_component};
use crate::app::App;
use crate::refusal::Refusal;

/// Answers a review.
pub async fn review(State(app): Shared, hook: Hook, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request = review::parse(&body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let verdict = match verdict(&app, hook, &request).await {
        Ok(verdict) => verdict,
        Err(refusal) => Verdict::Refuse(refusal),
    };
    if let Verdict::Refuse(refusal) = &verdict {
        let (user, namespace) = (&request.user_info.username, &request.namespace);
        tracing::info!(hook = hook.path(), user, namespace, why = refusal.message, "refused");
    }
    Ok(Json(review::answer(&request.uid, &verdict)))
}

async fn verdict(app: &App, hook: Hook, request: &Request) -> Result<Verdict, Refusal> {
    let migration_subject = match hook {
        Hook::MigrationValidateCreate => migration_subject(app, request).await?,
        Hook::VmMutate
        | Hook::VmiMutate
        | Hook::VmValidate
        | Hook::VmiValidateCreate
        | Hook::VmiValidateUpdate
        | Hook::ReplicaSetValidate => MigrationSubject::Missing,
    };
    let context = Context {
        own: &app.own,
        floor: &app.view.floor(),
        by_component: is_component(&request.user_info.username, &app.namespace),
        machine_type: &app.view.machine_type(),
        migration_subject,
    };
    Ok(decide(hook, request, &context, &mut draw))
}

async fn migration_subject(app: &App, request: &Request) -> Result<MigrationSubject, Refusal> {
    let name = request.object.pointer("/spec/vmiName").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Ok(MigrationSubject::Missing);
    }
    let vmi = app.cluster.vmi(&request.namespace, name).await;
    Ok(match vmi.map_err(|error| Refusal::internal(error.to_string()))? {
        None => MigrationSubject::Missing,
        Some(vmi) => {
            let phase = vmi.status.map_or(VmiPhase::Unset, |status| status.phase);
            if phase.is_final() { MigrationSubject::Final } else { MigrationSubject::Alive }
        }
    })
}

/// Random bytes from the TLS provider, which has a good source.
fn draw(bytes: &mut [u8]) {
    let provider = CryptoProvider::get_default().expect("a TLS provider is installed before we serve");
    provider.secure_random.fill(bytes).expect("the kernel's random source doesn't fail once it works");
}

/// A session id that nobody guesses.
pub fn session_id() -> String {
    let mut bytes = [0u8; 16];
    draw(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
