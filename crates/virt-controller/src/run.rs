//! virt-controller from start to end: caches on every replica, work on the one that leads.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::{Recorder, Reporter};
use kubevirt_runtime::health::Health;
use kubevirt_runtime::lease::{self, LeaseConfig, Term};
use kubevirt_runtime::pod::Identity;
use kubevirt_runtime::serve::{Drain, Server};
use kubevirt_runtime::shutdown::Shutdown;
use kubevirt_runtime::tls::{ClientAuthFiles, ServerTls};
use kubevirt_types::feature::{self, What};
use tokio::task::JoinSet;

use crate::act::Writer;
use crate::args::Args;
use crate::cache::{self, Cache, Scope};
use crate::children::Key;
use crate::controller::{Context, work};
use crate::kinds::{Migrations, Sets, Vmis, Vms};
use crate::metrics;
use crate::queue::Queue;
use crate::queues::Queues;

/// The component's name: of its lease, its reports and its events.
pub const COMPONENT: &str = "virt-controller";
/// Workers of each kind; KubeVirt has ten for instances too.
const WORKERS: usize = 10;

/// Why virt-controller can't go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The downward API is incomplete.
    #[error(transparent)]
    Identity(#[from] kubevirt_runtime::pod::MissingVariable),
    /// Signals can't be listened for.
    #[error(transparent)]
    Signals(#[from] kubevirt_runtime::shutdown::ListenError),
    /// There is no cluster.
    #[error(transparent)]
    Client(#[from] kubevirt_runtime::client::ClientError),
    /// Health and metrics can't be served.
    #[error(transparent)]
    Bind(#[from] kubevirt_runtime::serve::BindError),
    /// The lease is lost and work goes on.
    #[error(transparent)]
    Lease(#[from] lease::LeaseError),
    /// A worker ended, which none does.
    #[error("a worker ended: {0}")]
    Worker(String),
    /// A watch ended, which none does.
    #[error("a watch ended before its first list")]
    Watch(#[from] kube::runtime::reflector::store::WriterDropped),
}

/// Runs until told to stop.
pub async fn run(args: Args) -> Result<(), RunError> {
    let identity = Identity::from_env()?;
    let shutdown = Shutdown::on_signals()?;
    let client = kubevirt_runtime::client::client(COMPONENT).await?;
    let release = kubevirt_runtime::release();
    tracing::info!(%release, launcher = args.launcher_image, "starting");

    let health = Health::new(&shutdown);
    let caches_filled = health.condition("caches are filled");
    let tls = ServerTls::from_files(&args.certificates, ClientAuthFiles::None);
    // Nobody but the kubelet and Prometheus asks, so nothing is drained.
    let drain = Drain { linger: Duration::ZERO, streams: Duration::ZERO };
    let server =
        Server::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, args.port)), tls).await?.with_drain(drain);
    let (router, stop) = (health.router(), shutdown.clone());
    shutdown.spawn(async move { server.serve(router, &stop).await });

    let report = kubevirt_runtime::report::keep(
        client.clone(),
        COMPONENT,
        release.clone(),
        identity.clone(),
        shutdown.clone(),
    );
    shutdown.spawn(report);

    let queues = Arc::new(Queues::default());
    let replica_sets = feature::exists(What::Kind("virtualmachineinstancereplicasets"), &release);
    let scope = Scope { namespace: identity.namespace.clone(), replica_sets };
    let cache = Cache::start(&client, &scope, &queues, &shutdown);
    tokio::select! {
        () = shutdown.wait() => {
            shutdown.finished().await;
            return Ok(());
        }
        filled = cache.filled() => filled?,
    }
    caches_filled.set(true);
    metrics::ready(true);

    let reporter = Reporter { controller: COMPONENT.to_owned(), instance: Some(identity.pod_name.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let config = LeaseConfig::new(COMPONENT, &identity.namespace, &identity.pod_name);
    let led = lease::run(client.clone(), config, &shutdown, |term| {
        let writer = Writer { client: client.clone(), recorder: recorder.clone(), term: term.clone() };
        let context = Context { cache: cache.clone(), writer, launcher_image: args.launcher_image.clone() };
        lead(context, queues.clone(), term)
    })
    .await?;
    // The lease is given back; whatever ended the work, this process has nothing left to do.
    shutdown.start();
    shutdown.finished().await;
    led.unwrap_or(Ok(()))
}

/// Works until the term is over. Nothing is written after it returns.
async fn lead(context: Context, queues: Arc<Queues>, term: Term) -> Result<(), RunError> {
    queues.vms.open(cache::keys(&context.cache.vms));
    queues.vmis.open(cache::keys(&context.cache.vmis));
    queues.sets.open(cache::keys(&context.cache.sets));
    queues.migrations.open(cache::keys(&context.cache.migrations));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work::<Vms>(context.clone(), Of(queues.clone(), |queues| &queues.vms)));
        workers.spawn(work::<Vmis>(context.clone(), Of(queues.clone(), |queues| &queues.vmis)));
        workers.spawn(work::<Sets>(context.clone(), Of(queues.clone(), |queues| &queues.sets)));
    }
    // One: what the limits leave is given away by one at a time.
    workers.spawn(work::<Migrations>(context.clone(), Of(queues.clone(), |queues| &queues.migrations)));
    let ended = tokio::select! {
        () = term.cancelled() => Ok(()),
        Some(ended) = workers.join_next() => Err(RunError::Worker(format!("{ended:?}"))),
    };
    workers.shutdown().await;
    queues.vms.close();
    queues.vmis.close();
    queues.sets.close();
    queues.migrations.close();
    ended
}

/// One of the queues.
struct Of(Arc<Queues>, fn(&Queues) -> &Queue<Key>);

impl AsRef<Queue<Key>> for Of {
    fn as_ref(&self) -> &Queue<Key> {
        (self.1)(&self.0)
    }
}
