//! An API server that tells a fixed story: one node with two virt-handlers, one instance on it.
//! Jane may do anything, nobody else may.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::StatusCode;
use http_body_util::BodyExt;
use kubevirt_types::labels::{REPORT_COMPONENT, REPORT_VERSION};
use serde_json::{Value, json};

pub const NODE: &str = "n1";

pub struct ApiServer {
    url: http::Uri,
}

struct Story {
    front_ca: String,
    handlers: [IpAddr; 2],
}

impl ApiServer {
    pub async fn start(front_ca: &str, handlers: [IpAddr; 2]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let story = Arc::new(Story { front_ca: front_ca.to_owned(), handlers });
        let router = Router::new().fallback(answer).with_state(story);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { url }
    }

    pub fn client(&self) -> kube::Client {
        kubevirt_runtime::client::install_crypto_provider();
        kube::Client::try_from(kube::Config::new(self.url.clone())).unwrap()
    }
}

async fn answer(State(story): State<Arc<Story>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    if watches {
        // Nothing ever changes.
        let never = futures::stream::pending::<Result<Bytes, std::convert::Infallible>>();
        return Response::new(Body::from_stream(never));
    }
    if path.ends_with("/subjectaccessreviews") {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut review: Value = serde_json::from_slice(&body).unwrap();
        review["status"] =
            json!({"allowed": review["spec"]["user"] == "jane", "reason": "the story says so"});
        return (StatusCode::CREATED, Json(review)).into_response();
    }
    match object(&path, &story) {
        Some(object) => Json(object).into_response(),
        None => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "not found", "reason": "NotFound", "code": 404});
            (StatusCode::NOT_FOUND, Json(status)).into_response()
        }
    }
}

fn object(path: &str, story: &Story) -> Option<Value> {
    let list = |items: Value| Some(json!({"metadata": {"resourceVersion": "1"}, "items": items}));
    let namespaced = |group: &str, kind: &str| format!("/{group}/namespaces/kubevirt/{kind}");
    let vmi = |name: &str, phase: &str| {
        Some(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": name, "namespace": "ns", "uid": "u1"},
            "spec": {"domain": {}}, "status": {"phase": phase, "nodeName": NODE}}))
    };
    let vm = |name: &str, created: bool| {
        Some(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": "ns", "uid": "v1"},
            "spec": {"template": {"spec": {"domain": {}}}}, "status": {"created": created}}))
    };
    match path {
        "/api/v1/nodes" => list(json!([{"metadata": {"name": NODE}}])),
        "/api/v1/namespaces/kube-system/configmaps" => list(json!([{
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": {
                "requestheader-client-ca-file": story.front_ca,
                "requestheader-allowed-names": json!([super::FRONT_PROXY]).to_string()}}])),
        "/apis/kubevirt.io/v1/namespaces/ns/virtualmachineinstances/a" => vmi("a", "Running"),
        "/apis/kubevirt.io/v1/namespaces/ns/virtualmachineinstances/starting" => {
            vmi("starting", "Scheduling")
        }
        "/apis/kubevirt.io/v1/namespaces/ns/virtualmachineinstances/reachable" => reachable(false),
        "/apis/kubevirt.io/v1/namespaces/ns/virtualmachineinstances/paused" => reachable(true),
        "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/reachable" => vm("reachable", true),
        "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/stopped" => vm("stopped", false),
        "/apis/kubevirt.io/v1/namespaces/ns/virtualmachines/starting" => vm("starting", true),
        path if path == namespaced("api/v1", "pods") => {
            let pods: Vec<Value> =
                story.handlers.iter().enumerate().map(|(age, ip)| pod(age, &ip.to_string())).collect();
            list(Value::Array(pods))
        }
        path if path == namespaced("apis/coordination.k8s.io/v1", "leases") => {
            list((0..2).map(lease).collect())
        }
        path if path == namespaced("apis/apps/v1", "daemonsets") => list(json!([])),
        path if path == namespaced("apis/kubevirt.io/v1", "kubevirts") => list(json!([])),
        _ => None,
    }
}

/// An instance whose guest is this machine.
fn reachable(paused: bool) -> Option<Value> {
    Some(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "reachable", "namespace": "ns", "uid": "u2"},
        "spec": {"domain": {"devices": {"interfaces": [{"name": "default", "ports": [{"port": 80}]}]}}},
        "status": {"phase": "Running", "nodeName": NODE,
            "conditions": [{"type": "Paused", "status": if paused { "True" } else { "False" }}],
            "interfaces": [{"name": "default", "ipAddress": "127.0.0.1"}]}}))
}

fn pod(age: usize, ip: &str) -> Value {
    json!({
        "metadata": {"name": format!("virt-handler-{age}"), "namespace": "kubevirt",
            "labels": {"kubevirt.io": "virt-handler"}, "creationTimestamp": format!("2026-01-01T00:00:0{age}Z")},
        "spec": {"nodeName": NODE, "containers": []},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn lease(age: usize) -> Value {
    let pod = format!("virt-handler-{age}");
    json!({
        "metadata": {"name": format!("version-report-{pod}"), "namespace": "kubevirt",
            "labels": {REPORT_COMPONENT: "virt-handler", REPORT_VERSION: "v0.17.0"}},
        "spec": {"holderIdentity": pod}})
}
