//! Discovery, OpenAPI, version, health and the version gate.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::Shared;
use crate::discovery;
use crate::refusal::Refusal;

pub async fn root() -> Json<Value> {
    Json(discovery::root_paths())
}

pub async fn groups(headers: HeaderMap) -> Result<Json<Value>, Refusal> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if discovery::wants_only_aggregated(accept) {
        let why = "only application/json is served here";
        return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, why));
    }
    Ok(Json(discovery::group_list()))
}

pub async fn group() -> Json<Value> {
    Json(discovery::group())
}

pub async fn resources(State(app): Shared, version: &'static str) -> Json<Value> {
    Json(discovery::resource_list(version, &app.own))
}

pub async fn openapi_v2(State(app): Shared) -> Json<Value> {
    Json(discovery::openapi_v2(&app.own))
}

pub async fn openapi_v3_index(State(app): Shared) -> Json<Value> {
    Json(discovery::openapi_v3_index(&app.own))
}

pub async fn openapi_v3(State(app): Shared, version: &'static str) -> Json<Value> {
    Json(discovery::openapi_v3(version, &app.own))
}

pub async fn version(State(app): Shared) -> Json<Value> {
    Json(discovery::version(&app.own))
}

pub async fn gate(State(app): Shared) -> Response {
    Json(app.gate()).into_response()
}

/// Whether this virt-api reaches the API server.
pub async fn healthz(State(app): Shared) -> (StatusCode, Json<Value>) {
    match app.cluster.version().await {
        Ok(version) => {
            (StatusCode::OK, Json(json!({"apiserver": {"connectivity": "ok", "version": version}})))
        }
        Err(error) => {
            let said = json!({"apiserver": {"connectivity": "failed", "error": error.to_string()}});
            (StatusCode::INTERNAL_SERVER_ERROR, Json(said))
        }
    }
}
