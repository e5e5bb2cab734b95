//! The whole of virt-handler, put together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kubevirt_runtime::client::{ClientError, client};
use kubevirt_runtime::health::Health;
use kubevirt_runtime::pod::{Identity, MissingVariable};
use kubevirt_runtime::serve::{BindError, Drain, Server};
use kubevirt_runtime::shutdown::{ListenError, Shutdown};
use kubevirt_runtime::tls::{ClientAuthFiles, ServerTls};
use kubevirt_runtime::{release, report};
use kubevirt_types::labels;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::cluster::{self, Pods, Vmis, Wake};
use crate::console::{self, Consoles};
use crate::control::Control;
use crate::device::kind::{KVM, Reason, TUN};
use crate::device::register::{self, Places};
use crate::launcher::link::Links;
use crate::life::{self, LifeError};
use crate::lock::state::{State, is_ready};
use crate::metrics;
use crate::node::heartbeat::{self, Facts};
use crate::vmi::owner::{self, Part};

/// How long launchers that are there at the start have to answer before anything is judged.
const ADOPTION_GRACE: Duration = Duration::from_secs(10);
/// Health is nobody's endpoint: it needs no lingering, and there is no stream.
const HEALTH_DRAIN: Drain = Drain { linger: Duration::ZERO, streams: Duration::ZERO };

/// virt-handler can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The pod's manifest lacks something.
    #[error(transparent)]
    Identity(#[from] MissingVariable),
    /// There is no cluster.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Signals can't be handled.
    #[error(transparent)]
    Signals(#[from] ListenError),
    /// A port is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It can't go on.
    #[error(transparent)]
    Life(#[from] LifeError),
}

/// Runs until told to stop, and then until the last stream has ended.
pub async fn run(args: Args) -> Result<(), RunError> {
    let pod = Identity::from_env()?;
    let shutdown = Shutdown::on_signals()?;
    let client = client("virt-handler").await?;
    let release = release();
    tracing::info!(%release, node = pod.node_name, pod = pod.pod_name, "virt-handler starts");
    metrics::export(&release);
    let health = Health::new(&shutdown);

    let (wake, mut wakes) = mpsc::unbounded_channel();
    let vmis = Vmis::watch(client.clone(), &pod.node_name, wake.clone());
    let pods = Pods::watch(client.clone(), &pod.node_name, wake.clone());
    let use_emulation = cluster::use_emulation(client.clone(), &pod.namespace);
    let links = Links::new(&args.pods_dir, told_as_pods(wake));

    let health_tls = ServerTls::from_files(&args.cert_dir, ClientAuthFiles::None);
    let console_tls = ServerTls::from_files(
        &args.cert_dir,
        ClientAuthFiles::Required {
            bundle: args.ca_dir.join(labels::CA_BUNDLE_KEY),
            common_names: vec![labels::CN_HANDLER_CLIENT.to_owned()],
        },
    );
    let health_server =
        Server::bind(every_address(&pod.pod_ip, args.port), health_tls).await?.with_drain(HEALTH_DRAIN);
    let console_server =
        Server::bind(every_address(&pod.pod_ip, args.console_server_port), console_tls.clone())
            .await?
            .with_drain(Drain::of_streams(args.drain_seconds));
    let consoles = {
        let (vmis, pods, node) = (vmis.clone(), pods.clone(), pod.node_name.clone());
        let lookup = Arc::new(move |namespace: &str, name: &str| {
            let vmi = vmis.get(namespace, name)?;
            let here = owner::part(&vmi, &node) == Part::Owner;
            here.then(|| pods.launcher(&vmi, &node)).flatten()
        });
        Consoles { lookup, links: links.clone(), node: pod.node_name.clone() }
    };
    // Health is asked for until the process ends: the kubelet would kill a drain that it can't see alive.
    let over = Shutdown::new();
    let health_task = {
        let (router, over) = (health.router(), over.clone());
        tokio::spawn(async move { health_server.serve(router, &over).await })
    };
    let console_task = {
        let (router, shutdown) = (console::router(consoles, &release), shutdown.clone());
        tokio::spawn(async move { console_server.serve(router, &shutdown).await })
    };
    tokio::spawn(report::keep(client.clone(), "virt-handler", release, pod.clone(), shutdown.clone()));
    tokio::spawn(export_readiness(health.clone()));

    let (draining, ended) = (CancellationToken::new(), CancellationToken::new());
    let places = Places {
        plugins: args.device_plugins_dir.clone(),
        host_dev: args.host_dev.clone(),
        max_devices: args.max_devices,
    };
    let plugins: Vec<_> = [KVM, TUN]
        .into_iter()
        .map(|kind| {
            let (draining, ended) = (draining.clone(), ended.clone());
            (kind, register::run(kind, places.clone(), &pod.pod_name, draining, ended))
        })
        .collect();
    let facts = Facts { use_emulation: use_emulation.clone(), plugins: plugins.clone() };

    let certificates = health.condition("certificates");
    let caches = health.condition("caches of this node's VMIs and pods");
    let launchers = health.condition("launchers that were here already");
    let ability = health.condition("knowledge whether this node can run VMs");
    let takes_part = health.condition("the node's lock, or a place in its queue");
    let synced = {
        let (vmis, pods, links, mut facts) = (vmis.clone(), pods.clone(), links.clone(), facts.clone());
        async move {
            console_tls.ready().await;
            certificates.set(true);
            // An error means that the writer is gone, which ends with the process.
            let _ = tokio::join!(vmis.store.wait_until_ready(), pods.store.wait_until_ready());
            caches.set(true);
            let (found, answered) = links.adopt(ADOPTION_GRACE).await;
            metrics::ADOPTED.set(i64::try_from(answered).unwrap_or(i64::MAX));
            tracing::info!(found, answered, "launchers adopted");
            launchers.set(true);
            facts.known().await;
            ability.set(true);
        }
    };

    let control =
        Control::new(client.clone(), &pod.node_name, &pod.pod_name, (vmis, pods, links), use_emulation);
    let act = {
        let (pod, takes_part) = (pod.clone(), takes_part.clone());
        move || async move {
            for (_, plugin) in &plugins {
                drop(plugin.again.send(Reason::TookOver));
            }
            let written = move || takes_part.set(is_ready(State::Holding, true));
            tokio::join!(
                Arc::new(control).run(&mut wakes),
                heartbeat::keep(client, &pod.node_name, &pod.pod_name, facts, written),
            );
        }
    };
    let changed = |state| {
        metrics::LOCK_HELD.set(i64::from(state == State::Holding));
        takes_part.set(is_ready(state, false));
    };
    life::live(args.lock_file, &shutdown, synced, act, changed).await?;
    draining.cancel();
    // The task ends by itself; it can only fail by panicking, and then there is nothing to wait for.
    drop(console_task.await);
    ended.cancel();
    over.start();
    drop(health_task.await);
    tracing::info!("virt-handler ends");
    Ok(())
}

/// A sender of pod uids that wakes their VMIs.
fn told_as_pods(wake: mpsc::UnboundedSender<Wake>) -> mpsc::UnboundedSender<String> {
    let (tell, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(uid) = told.recv().await {
            if wake.send(Wake::Pod(uid)).is_err() {
                // Handlers that drain are not interested any more.
                told.close();
            }
        }
    });
    tell
}

async fn export_readiness(health: Health) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        metrics::READY.set(i64::from(health.not_ready().is_empty()));
    }
}

/// Every address of the pod's family: a node may have only one of them.
fn every_address(pod_ip: &str, port: u16) -> SocketAddr {
    match pod_ip.parse() {
        Ok(IpAddr::V6(_)) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        Ok(IpAddr::V4(_)) | Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}
