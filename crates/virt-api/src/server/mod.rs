//! The routes: thin, each reads what a decision needs, decides, and does what was decided.

mod admit;
mod authorize;
mod documents;
mod migrate;
mod portforward;
mod screen;
mod streams;
mod vm;
mod vmi;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use kubevirt_types::feature::{self, What};

use crate::admission::Hook;
use crate::admission::eviction::EVICTION_PATH;
use crate::app::App;
use crate::discovery::{GROUP, VERSIONS};
use crate::portforward::Target;
use crate::refusal::Refusal;
use crate::{instance, lifecycle, metrics};

/// A review carries an object twice; etcd holds objects of up to 1.5 MiB.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Namespace and name of a request's object.
type Name = axum::extract::Path<(String, String)>;
type Shared = State<Arc<App>>;

/// Every route of this release.
pub fn router(app: Arc<App>, health: Router) -> Router {
    let mut router = Router::new()
        .route("/", get(documents::root))
        .route("/apis", get(documents::groups))
        .route(&format!("/apis/{GROUP}"), get(documents::group))
        .route("/openapi/v2", get(documents::openapi_v2))
        .route("/openapi/v3", get(documents::openapi_v3_index))
        .route("/status", get(documents::gate));
    for version in VERSIONS {
        let base = format!("/apis/{GROUP}/{version}");
        router = router
            .route(&base, get(async move |app: Shared| documents::resources(app, version).await))
            .route(&format!("{base}/version"), get(documents::version))
            .route(&format!("{base}/healthz"), get(documents::healthz))
            .route(&format!("{base}/status"), get(documents::gate))
            .route(
                &format!("/openapi/v3/apis/{GROUP}/{version}"),
                get(async move |app: Shared| documents::openapi_v3(app, version).await),
            );
        router = subresources(router, &base, &app);
    }
    for hook in Hook::ALL.into_iter().filter(|hook| hook.kind().exists_in(&app.own)) {
        router = router
            .route(hook.path(), post(async move |app: Shared, body| admit::review(app, hook, body).await));
    }
    if feature::exists(What::VmiSpecField("evictionStrategy"), &app.own) {
        router = router.route(EVICTION_PATH, post(admit::evict));
    }
    router
        .fallback(any(async || Refusal::no_such_path()))
        .method_not_allowed_fallback(async || {
            let why = "the server does not allow this method on the requested resource";
            Refusal::new(http::StatusCode::METHOD_NOT_ALLOWED, why)
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn_with_state(app.clone(), authorize::authorize))
        .layer(from_fn(count))
        .with_state(app)
        .merge(health)
}

fn subresources(mut router: Router<Arc<App>>, base: &str, app: &Arc<App>) -> Router<Arc<App>> {
    let at = |resource: &str, name: &str| {
        format!("{base}/namespaces/{{namespace}}/{resource}/{{name}}/{name}", name = name)
    };
    let vms = "virtualmachines";
    let vmis = "virtualmachineinstances";
    for action in lifecycle::Action::ALL {
        let handler = async move |app: Shared, name: Name, body| vm::act(app, name, action, body).await;
        router = router.route(&at(vms, action.name()), put(handler));
    }
    for stream in [instance::Stream::Console, instance::Stream::Vnc] {
        let handler = async move |app: Shared, name: Name, request: Request| {
            streams::open(app, name, stream, request).await
        };
        router = router.route(&at(vmis, stream.name()), get(handler));
    }
    router = router.route(&at(vmis, "vnc/screenshot"), get(screen::screenshot));
    router = router.route(&at(vms, "migrate"), put(migrate::migrate));
    for target in Target::ALL {
        if feature::exists(What::Subresource(target.resource(), "portforward"), &app.own) {
            let handler =
                async move |app: Shared, wanted: axum::extract::Path<portforward::Wanted>, request| {
                    portforward::open(app, target, wanted.0, request).await
                };
            let path = at(target.resource(), "portforward/{port}");
            router = router.route(&path, get(handler)).route(&format!("{path}/{{protocol}}"), get(handler));
        }
    }
    for action in instance::Action::ALL {
        if feature::exists(What::Subresource(vmis, action.name()), &app.own) {
            let handler = async move |app: Shared, name: Name, body| vmi::act(app, name, action, body).await;
            router = router.route(&at(vmis, action.name()), put(handler));
        }
    }
    router
}

/// Counts requests by route, not by path: names of VMs are no label.
async fn count(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let path = path.map_or("<none>".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let response = next.run(request).await.into_response();
    metrics::count_request(method.as_str(), &path, response.status().as_u16());
    response
}
