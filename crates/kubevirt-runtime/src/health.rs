//! `/healthz`, `/readyz` and `/metrics`.
//!
//! A component names what it needs to be ready; a process that was told to stop is never ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Once, PoisonError};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use prometheus::{Encoder, TextEncoder};
use tokio_util::sync::CancellationToken;

use crate::process::ProcessCollector;
use crate::shutdown::Shutdown;

/// What a component waits for before it serves.
#[derive(Debug, Clone)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    stopping: CancellationToken,
}

/// One named condition of being ready.
#[derive(Debug, Clone)]
pub struct Condition {
    health: Health,
    name: &'static str,
}

impl Health {
    /// Ready as long as no condition says otherwise and the shutdown has not started.
    pub fn new(shutdown: &Shutdown) -> Self {
        static PROCESS: Once = Once::new();
        PROCESS.call_once(|| {
            prometheus::register(Box::new(ProcessCollector::new()))
                .expect("the process metrics are registered once");
        });
        Self { conditions: Arc::default(), stopping: shutdown.token().clone() }
    }

    /// Adds a condition, which doesn't hold until it is set.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { health: self.clone(), name };
        condition.set(false);
        condition
    }

    /// What keeps this process from being ready; nothing when it is.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let stopping = self.stopping.is_cancelled().then_some("stopping");
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        stopping
            .into_iter()
            .chain(conditions.iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name))
            .collect()
    }

    /// The three routes. Merge it with the component's own.
    pub fn router(&self) -> Router {
        let health = self.clone();
        Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/readyz", get(async move || readiness(&health.not_ready())))
            .route("/metrics", get(async || metrics()))
    }
}

impl Condition {
    /// Says whether it holds.
    pub fn set(&self, holds: bool) {
        let mut conditions = self.health.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        if conditions.insert(self.name, holds) != Some(holds) {
            tracing::debug!(condition = self.name, holds, "readiness");
        }
    }
}

fn readiness(not_ready: &[&str]) -> (StatusCode, String) {
    if not_ready.is_empty() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", not_ready.join(", ")))
    }
}

fn metrics() -> Response {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut body) {
        Ok(()) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn get(health: &Health, path: &str) -> (StatusCode, String) {
        let response =
            health.router().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_ends_with_the_shutdown() {
        let shutdown = Shutdown::new();
        let health = Health::new(&shutdown);
        assert_eq!(get(&health, "/readyz").await, (StatusCode::OK, "ok".into()));
        let synced = health.condition("caches are filled");
        assert_eq!(
            get(&health, "/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: caches are filled".into())
        );
        synced.set(true);
        assert_eq!(get(&health, "/readyz").await.0, StatusCode::OK);
        shutdown.start();
        assert_eq!(
            get(&health, "/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: stopping".into())
        );
        assert_eq!(get(&health, "/healthz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_text_with_the_process_costs() {
        let (status, body) = get(&Health::new(&Shutdown::new()), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("process_resident_memory_bytes"), "{body}");
    }
}
