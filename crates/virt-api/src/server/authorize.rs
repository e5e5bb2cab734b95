//! Lets through who is allowed to: the front proxy vouches for who asks, the API server decides.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use kubevirt_runtime::tls::PeerCertificate;

use crate::access::{Attributes, Identity, is_open};
use crate::admission::Hook;
use crate::admission::eviction::EVICTION_PATH;
use crate::app::App;
use crate::discovery::GROUP;
use crate::refusal::Refusal;

/// Lets a request through, or says why not.
pub async fn authorize(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let path = request.uri().path();
    // Reviews come from the API server without a certificate; answering one tells nothing that is secret,
    // and all that one can bring about is said in `admission::eviction`.
    let is_hook = path == EVICTION_PATH || Hook::ALL.iter().any(|hook| hook.path() == path);
    if !is_open(path) && !is_hook {
        let who = vouched_for(&app, &request)?;
        let what = Attributes::of(request.method(), path)?;
        allowed(&app, &who, &what).await?;
    }
    Ok(next.run(request).await)
}

/// Who asks, if the front proxy says so.
fn vouched_for(app: &App, request: &Request) -> Result<Identity, Refusal> {
    let nobody = || Refusal::unauthorized("request is not authenticated");
    let proxy = app.view.front_proxy().ok_or_else(nobody)?;
    let peer = request.extensions().get::<PeerCertificate>();
    if !peer.is_some_and(|peer| proxy.is(&peer.common_name)) {
        return Err(nobody());
    }
    proxy.identity(request.headers())
}

/// KubeVirt answers 401 where the API server says no. Whoever asks is known by then, so it is a 403 here,
/// as everywhere else in Kubernetes.
async fn allowed(app: &App, who: &Identity, what: &Attributes) -> Result<(), Refusal> {
    let review = app.cluster.review(&what.review(who)).await;
    let status = review.map_err(|error| Refusal::internal(error.to_string()))?;
    if status.allowed {
        return Ok(());
    }
    let mut message = format!(
        "{}.{GROUP} {:?} is forbidden: User {:?} cannot {} resource \"{}/{}\" in API group {GROUP:?} in the namespace {:?}",
        what.resource, what.name, who.user, what.verb, what.resource, what.subresource, what.namespace
    );
    if let Some(reason) = status.reason.filter(|reason| !reason.is_empty()) {
        message.push_str(&format!(": {reason}"));
    }
    Err(Refusal::forbidden(message))
}
