//! What the virt-apis count of their streams: their own metrics, from pod to pod.

use std::time::Duration;

use futures::future::join_all;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config};
use kubevirt_observe::Source;
use kubevirt_observe::kinds::{CONFIG_MAP, POD};
use kubevirt_observe::x509::bundle_der;
use kubevirt_rollout::report::ApiStreams;
use kubevirt_types::{ObjectKey, labels};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::Seen;
use crate::cache::Cache;

/// A virt-api that has closed its listener refuses at once; one whose node is lost never answers.
const LIMIT: Duration = Duration::from_secs(2);
/// virt-api's Deployment and Service.
const VIRT_API: &str = "virt-api";
/// Where it listens.
const PORT: u16 = 8443;

/// A virt-api's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ApiPod {
    name: String,
    address: Option<String>,
    made: Timestamp,
    deleting: bool,
}

/// Asks every virt-api once. One that is being deleted and doesn't answer listens no more.
pub async fn look(cache: &Cache, namespace: &str) -> Seen {
    let bundle = cache.get(&ObjectKey::namespaced("v1", CONFIG_MAP, namespace, labels::CONFIGMAP_CA));
    let trusted = bundle.as_ref().and_then(|bundle| bundle["data"][labels::CA_BUNDLE_KEY].as_str());
    let trusted = bundle_der(trusted.unwrap_or_default());
    let pods: Vec<ApiPod> = cache.of_kind(POD).iter().filter_map(api_pod).collect();
    let said = join_all(pods.iter().map(async |pod| {
        let text = timeout(LIMIT, metrics(pod.address.as_deref()?, &trusted, namespace)).await;
        Some(count(pod, &text.ok()??))
    }))
    .await;
    seen(&pods, said)
}

fn seen(pods: &[ApiPod], said: Vec<Option<ApiStreams>>) -> Seen {
    let listens = |(pod, said): &(&ApiPod, &Option<ApiStreams>)| said.is_some() || !pod.deleting;
    let present = pods.iter().zip(&said).filter(listens).map(|(pod, _)| pod.name.clone()).collect();
    Seen::Streams { answered: said.into_iter().flatten().collect(), present }
}

fn api_pod(object: &Value) -> Option<ApiPod> {
    let pod = Pod::deserialize(object).ok()?;
    let label = pod.metadata.labels.as_ref()?.get(labels::APP)?;
    (label == VIRT_API).then_some(())?;
    Some(ApiPod {
        name: pod.metadata.name?,
        address: pod.status.and_then(|status| status.pod_ip),
        made: pod.metadata.creation_timestamp?.0,
        deleting: pod.metadata.deletion_timestamp.is_some(),
    })
}

/// A pod's metrics, from one that shows a certificate of virt-api's.
async fn metrics(address: &str, trusted: &[Vec<u8>], namespace: &str) -> Option<String> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let mut config = Config::new(format!("https://{host}:{PORT}").parse().ok()?);
    config.root_cert = Some(trusted.to_vec());
    config.tls_server_name = Some(format!("{VIRT_API}.{namespace}.svc"));
    config.default_retry = false;
    let client = Client::try_from(config).ok()?;
    let request = Request::get("/metrics").body(vec![]).ok()?;
    let asked = client.request_text(request).await;
    asked.inspect_err(|error| tracing::debug!(address, error = crate::chain(error), "no metrics")).ok()
}

/// What the metrics say of streams. What one of them doesn't name has not happened.
fn count(pod: &ApiPod, metrics: &str) -> ApiStreams {
    let mut streams = ApiStreams { pod: pod.name.clone(), made: pod.made, ..ApiStreams::default() };
    for line in metrics.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let Some(value) = whole(value) else { continue };
        match name {
            "kubevirt_console_active_connections" | "kubevirt_vnc_active_connections" => {
                streams.open += value
            }
            "kubevirt_virt_api_stream_resumes_total" if labels.contains("outcome=\"seamless\"") => {
                streams.resumed += value;
            }
            "kubevirt_virt_api_stream_resumes_total" if labels.contains("outcome=\"with_gap\"") => {
                streams.resumed_with_gap += value;
            }
            "kubevirt_virt_api_stream_resumes_total" if labels.contains("outcome=\"ended\"") => {
                streams.cut += value;
            }
            _ => {}
        }
    }
    streams
}

/// A counter's value; Prometheus writes whole numbers without a point.
fn whole(value: &str) -> Option<u64> {
    value.strip_suffix(".0").unwrap_or(value).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn a_pod(name: &str, deleting: bool) -> ApiPod {
        ApiPod { name: name.into(), address: None, made: Timestamp::UNIX_EPOCH, deleting }
    }

    #[test]
    fn streams_are_counted_over_instances_and_kinds() {
        let metrics = r#"# HELP kubevirt_console_active_connections Open connections to a console, by namespace and VMI.
# TYPE kubevirt_console_active_connections gauge
kubevirt_console_active_connections{namespace="a",vmi="x"} 2
kubevirt_console_active_connections{namespace="a",vmi="y"} 1
kubevirt_vnc_active_connections{namespace="a",vmi="x"} 1
kubevirt_portforward_active_tunnels{namespace="a",vmi="x"} 7
kubevirt_virt_api_stream_resumes_total{outcome="ended",stream="console"} 1
kubevirt_virt_api_stream_resumes_total{outcome="seamless",stream="console"} 5
kubevirt_virt_api_stream_resumes_total{outcome="with_gap",stream="console"} 2
"#;
        let streams = count(&a_pod("p", false), metrics);
        let numbers = (streams.open, streams.resumed, streams.resumed_with_gap, streams.cut);
        assert_eq!((numbers, streams.pod.as_str()), ((4, 5, 2, 1), "p"));
    }

    #[test]
    fn only_a_pod_that_ends_and_is_silent_listens_no_more() {
        let pods = [a_pod("well", false), a_pod("silent", false), a_pod("ending", true), a_pod("gone", true)];
        let answer = || Some(ApiStreams::default());
        let Seen::Streams { answered, present } = seen(&pods, vec![answer(), None, answer(), None]) else {
            panic!("streams were looked at")
        };
        assert_eq!((answered.len(), present), (2, vec!["well".into(), "silent".into(), "ending".into()]));
    }

    #[test]
    fn a_pod_of_virt_api_is_known_by_its_label() {
        let pod = |app: &str| {
            json!({
                "metadata": {"name": "p", "labels": {"kubevirt.io": app}, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"podIP": "10.0.0.1"},
            })
        };
        assert_eq!(api_pod(&pod("virt-api")).unwrap().address.as_deref(), Some("10.0.0.1"));
        assert_eq!(api_pod(&pod("virt-handler")), None);
    }
}
