//! The Kubernetes client of every server: bounded, never retrying on its own, and counted.

use std::sync::{LazyLock, Once};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use prometheus::{IntCounterVec, register_int_counter_vec};
use tower::{Layer, Service};

/// An API server that doesn't accept a connection in this time is as good as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch is silent for at most 290 s (kube asks the server to end it then); more is a dead connection.
const READ_TIMEOUT: Duration = Duration::from_secs(305);
/// Requests are small: a connection that takes none of one in this time is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "kubevirt_rest_client_requests_total",
        "Requests to the Kubernetes API, by verb and status code.",
        &["method", "code"]
    )
    .expect("the metric's name is valid and registered once")
});

/// A client can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a pod's service account nor a kubeconfig.
    #[error("no cluster to talk to")]
    Infer(#[from] kube::config::InferConfigError),
    /// The configuration doesn't make a client.
    #[error("can't make a client for {cluster}")]
    Build {
        /// The API server's URL.
        cluster: String,
        #[allow(missing_docs)]
        source: kube::Error,
    },
}

/// A client for the cluster of this pod, or of the kubeconfig outside of one.
pub async fn client(component: &str) -> Result<Client, ClientError> {
    install_crypto_provider();
    let mut config = Config::infer().await?;
    // The default would retry a refused POST for minutes inside of one call; our loops retry themselves.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    config.write_timeout = Some(WRITE_TIMEOUT);
    let agent = format!("{component}/{}", crate::release());
    if let Ok(agent) = HeaderValue::from_str(&agent) {
        config.headers.push((USER_AGENT, agent));
    }
    let cluster = config.cluster_url.to_string();
    let builder = ClientBuilder::try_from(config).map_err(|source| ClientError::Build { cluster, source })?;
    Ok(builder.with_layer(&CountLayer).build())
}

/// Makes ring the TLS provider of the process. Repeated calls change nothing.
pub fn install_crypto_provider() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider was installed before");
        }
    });
}

#[derive(Clone, Copy)]
struct CountLayer;

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;
    fn layer(&self, inner: S) -> Count<S> {
        Count { inner }
    }
}

#[derive(Clone)]
struct Count<S> {
    inner: S,
}

impl<S, B> Service<Request<Body>> for Count<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await;
            let code = response.as_ref().map_or("<error>".to_owned(), |r| r.status().as_u16().to_string());
            REQUESTS.with_label_values(&[method.as_str(), &code]).inc();
            response
        })
    }
}
