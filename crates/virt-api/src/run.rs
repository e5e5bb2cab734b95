//! The process: what is started, in which order, and when it is over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kubevirt_runtime::client::ClientError;
use kubevirt_runtime::health::Health;
use kubevirt_runtime::pod::{Identity, MissingVariable};
use kubevirt_runtime::serve::{BindError, Drain, Server};
use kubevirt_runtime::shutdown::{ListenError, Shutdown};
use kubevirt_runtime::tls::{ClientAuth, ClientTls, Peers, ServerTls};
use kubevirt_types::labels::CN_HANDLER_SERVER;

use crate::app::App;
use crate::args::Args;
use crate::cluster::Cluster;
use crate::handler::Handlers;
use crate::watch::{Readiness, View};
use crate::{metrics, server};

/// Name of this component.
pub const COMPONENT: &str = "virt-api";
/// Between two looks whether a Secret has been mounted.
const CERTIFICATE_POLL: Duration = Duration::from_millis(500);

/// virt-api can't run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RunError {
    #[error(transparent)]
    Identity(#[from] MissingVariable),
    #[error(transparent)]
    Signals(#[from] ListenError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("can't register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Runs until told to stop, and then until the last stream has ended.
pub async fn run(args: Args) -> Result<(), RunError> {
    kubevirt_runtime::logging::init(COMPONENT, args.verbosity);
    let own = kubevirt_runtime::release();
    let pod = Identity::from_env()?;
    let shutdown = Shutdown::on_signals()?;
    let client = kubevirt_runtime::client::client(COMPONENT).await?;
    let health = Health::new(&shutdown);
    tracing::info!(release = %own, pod = pod.pod_name, "starting");

    let server_tls = ServerTls::new(ClientAuth::IfGiven(Peers::default()));
    server_tls.follow_identity(&args.cert_dir);
    let handler_tls = ClientTls::from_files(&args.handler_cert_dir, &args.ca_bundle, CN_HANDLER_SERVER);
    follow_certificates(&health, server_tls.clone(), handler_tls.clone());
    let ready = Readiness {
        view: health.condition("caches are filled"),
        front_proxy: health.condition("front proxy is known"),
    };
    let view = View::start(&client, &pod.namespace, server_tls.clone(), ready);
    metrics::register(own.clone(), view.clone(), health.clone())?;
    let app = Arc::new(App {
        own: own.clone(),
        namespace: pod.namespace.clone(),
        cluster: Cluster::new(client.clone()),
        view,
        handlers: Handlers::new(handler_tls, args.console_server_port),
    });

    let drain = Drain::of_streams(args.drain_seconds);
    let server = Server::bind(any_address(&pod.pod_ip, args.port), server_tls).await?.with_drain(drain);
    shutdown.spawn(kubevirt_runtime::report::keep(client, COMPONENT, own, pod, shutdown.clone()));
    server.serve(server::router(app, health.router()), &shutdown).await;
    shutdown.finished().await;
    tracing::info!("stopped");
    Ok(())
}

/// Every address of the pod's family: a node without IPv6 has no `::`.
fn any_address(pod_ip: &str, port: u16) -> SocketAddr {
    match pod_ip.parse() {
        Ok(IpAddr::V6(_)) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        Ok(IpAddr::V4(_)) | Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}

/// Ready only with both certificates: without the second, consoles fail.
fn follow_certificates(health: &Health, server: ServerTls, handler: ClientTls) {
    let (serving, calling) =
        (health.condition("server certificate"), health.condition("certificate for virt-handler"));
    tokio::spawn(async move {
        server.ready().await;
        serving.set(true);
    });
    tokio::spawn(async move {
        while !handler.is_ready() {
            tokio::time::sleep(CERTIFICATE_POLL).await;
        }
        calling.set(true);
    });
}
