//! The API server, as the user of the kubeconfig.

use std::error::Error;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::Status;
use kube::{Client, Config};
use serde_json::Value;

use crate::cli::ClusterFlags;

/// A person waits.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The group of subresources, at the version that is asked for first.
pub(crate) const SUBRESOURCES: &str = "/apis/subresources.kubevirt.io/v1";

/// A client and the namespace it works in.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

/// There is no cluster to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("can't use the kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    #[error("no cluster to talk to: there is neither a kubeconfig nor a service account")]
    Infer(#[from] kube::config::InferConfigError),
    #[error("can't make a client")]
    Client(#[from] kube::Error),
}

impl Cluster {
    pub(crate) async fn connect(flags: &ClusterFlags) -> Result<Self, ConnectError> {
        let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &flags.kubeconfig {
            Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?,
            None if flags.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await?,
        };
        config.connect_timeout = Some(CONNECT_LIMIT);
        // A console may be silent for a day, and what a person asked for is not asked for twice.
        config.read_timeout = None;
        config.default_retry = false;
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    /// Path of an object's subresource.
    pub(crate) fn path(&self, resource: &str, name: &str, subresource: &str) -> String {
        format!("{SUBRESOURCES}/namespaces/{}/{resource}/{name}/{subresource}", self.namespace)
    }

    /// Asks for an action.
    pub(crate) async fn put(&self, path: &str, options: &Value) -> Result<(), kube::Error> {
        let request = Request::put(path)
            .header("content-type", "application/json")
            .body(options.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }

    /// Gets what isn't JSON, whole.
    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>, kube::Error> {
        let request = Request::get(path).body(Body::empty()).map_err(kube::Error::HttpError)?;
        let (head, body) = self.client.send(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if head.status.is_success() {
            return Ok(body.to_vec());
        }
        Err(kube::Error::Api(Box::new(refusal(head.status, &body))))
    }

    /// Sends a request whose connection is then used for something else.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<http::Response<Body>, kube::Error> {
        self.client.send(request).await
    }
}

/// The Status that a server answers, or one made from what it answers instead.
fn refusal(code: StatusCode, body: &[u8]) -> Status {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        let text = match text.trim() {
            "" => code.to_string(),
            text => format!("{code}: {text}"),
        };
        Status::failure(&text, code.canonical_reason().unwrap_or_default()).with_code(code.as_u16())
    })
}

/// What the API server says, without the wrapping: a Status' message, or what broke underneath.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

/// An error and what caused it, on one line. What an error repeats of its cause is said once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn a_refusal_speaks_for_itself_or_is_quoted() {
        let status = br#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":409}"#;
        assert_eq!(refusal(StatusCode::CONFLICT, status).message, "no");
        let quoted = refusal(StatusCode::BAD_GATEWAY, b"upstream is gone\n");
        assert_eq!((quoted.message.as_str(), quoted.code), ("502 Bad Gateway: upstream is gone", 502));
        assert_eq!(refusal(StatusCode::NOT_FOUND, b"").message, "404 Not Found");
    }

    #[test]
    fn a_chain_is_one_line_that_repeats_nothing() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let error = layer("can't dial: refused", Some(layer("refused", Some(layer("port 1", None)))));
        assert_eq!(chain(&error), "can't dial: refused: port 1");
    }
}
