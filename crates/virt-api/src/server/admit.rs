//! The webhooks: reads what a review needs to know of the cluster, and answers.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use kubevirt_types::VirtualMachineInstance;
use rustls::crypto::CryptoProvider;
use serde_json::Value;

use super::Shared;
use crate::admission::review::{self, Request, Verdict};
use crate::admission::{Context, Hook, decide, eviction, is_component, migration};
use crate::app::App;
use crate::cluster::ClusterError;
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
        | Hook::MigrationValidateUpdate
        | Hook::ReplicaSetValidate => migration::Subject::Missing,
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

async fn migration_subject(app: &App, request: &Request) -> Result<migration::Subject, Refusal> {
    let name = request.object.pointer("/spec/vmiName").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Ok(migration::Subject::Missing);
    }
    let Some(vmi) = app.cluster.vmi(&request.namespace, name).await.map_err(unknown)? else {
        return Ok(migration::Subject::Missing);
    };
    let others = app.cluster.migrations(&request.namespace).await.map_err(unknown)?;
    Ok(migration::Subject::of(&vmi, &others))
}

/// Answers whether a pod may be evicted.
pub async fn evict(State(app): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request = review::parse(&body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let verdict = match eviction_verdict(&app, &request).await {
        Ok(verdict) => verdict,
        Err(refusal) => Verdict::Refuse(refusal),
    };
    Ok(Json(review::answer(&request.uid, &verdict)))
}

async fn eviction_verdict(app: &App, request: &Request) -> Result<Verdict, Refusal> {
    let (namespace, pod) = (request.namespace.as_str(), request.name.as_str());
    let Some(pod) = app.cluster.pod(namespace, pod).await.map_err(unknown)? else {
        return Ok(Verdict::Admit);
    };
    let Some(name) = eviction::instance_of(&pod) else { return Ok(Verdict::Admit) };
    let vmi = app.cluster.vmi(namespace, name).await.map_err(unknown)?;
    let message = match eviction::answer(&pod, vmi.as_ref()) {
        eviction::Answer::Allow => return Ok(Verdict::Admit),
        eviction::Answer::Deny(message) => message,
        eviction::Answer::Evacuate { node, message } => {
            let uid = vmi.as_ref().map(VirtualMachineInstance::uid).unwrap_or_default();
            app.cluster.evacuate((namespace, name), uid, &node, request.dry_run).await.map_err(unknown)?;
            message
        }
    };
    tracing::info!(namespace, vmi = name, message, "eviction put off");
    Ok(Verdict::Refuse(Refusal::new(http::StatusCode::TOO_MANY_REQUESTS, message)))
}

fn unknown(error: ClusterError) -> Refusal {
    Refusal::internal(error.to_string())
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
