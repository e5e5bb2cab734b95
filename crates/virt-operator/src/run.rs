//! The process: what is started, in which order, and how it ends.

use std::net::{Ipv6Addr, SocketAddr};

use kube::Client;
use kubevirt_observe::image::{self, IMAGE_VARIABLE, ImageError};
use kubevirt_rollout::Policy;
use kubevirt_rollout::observed::Operator;
use kubevirt_runtime::client::{ClientError, client};
use kubevirt_runtime::health::{Condition, Health};
use kubevirt_runtime::lease::{self, LeaseConfig, LeaseError};
use kubevirt_runtime::pod::{Identity, MissingVariable};
use kubevirt_runtime::serve::{BindError, Server};
use kubevirt_runtime::shutdown::{ListenError, Shutdown};
use kubevirt_runtime::tls::{ClientAuth, ServerTls};
use kubevirt_runtime::{logging, release};

use crate::args::Args;
use crate::cache::Cache;
use crate::identity::{self, IdentityError};
use crate::prober::TermLog;
use crate::reconcile::Reconciler;
use crate::strategy::{self, StrategyError};
use crate::webhook::{self, Webhooks};
use crate::{lead, metrics};

/// The component's name, in logs, in the user agent and of the lease.
const NAME: &str = "virt-operator";

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No client.
    #[error("connecting to the cluster")]
    Client(#[from] ClientError),
    /// No identity.
    #[error("finding out who we are")]
    Pod(#[from] MissingVariable),
    /// The environment doesn't say which image this is.
    #[error("{IMAGE_VARIABLE} is not set: it says where the images of the other components are")]
    NoImage,
    /// The environment says nothing useful.
    #[error("finding the registry")]
    Image(#[from] ImageError),
    /// No signals.
    #[error("listening for signals")]
    Signals(#[from] ListenError),
    /// No certificate.
    #[error("starting to serve")]
    Identity(#[from] IdentityError),
    /// No port.
    #[error("starting to serve")]
    Bind(#[from] BindError),
    /// Another replica may lead now.
    #[error("leading")]
    Lease(#[from] LeaseError),
    /// The install strategy wasn't stored.
    #[error("dumping the install strategy")]
    Strategy(#[from] StrategyError),
}

/// Does what the arguments say.
pub async fn run(args: Args) -> Result<(), RunError> {
    logging::init(NAME, args.verbosity);
    let client = client(NAME).await?;
    if args.dump_install_strategy {
        return Ok(strategy::dump(client, &release()).await?);
    }
    let shutdown = Shutdown::on_signals()?;
    let pod = Identity::from_env()?;
    let image = std::env::var(IMAGE_VARIABLE).map_err(|_| RunError::NoImage)?;
    let operator = Operator {
        release: release(),
        registry: image::registry(&image)?.to_owned(),
        namespace: pod.namespace.clone(),
    };
    tracing::info!(release = %operator.release, registry = operator.registry, "starting");
    let cache = Cache::start(&client, &operator.namespace, &shutdown);
    let terms = TermLog::start(&client, &operator.namespace, &shutdown);
    serve(&args, &client, &cache, &operator, &shutdown).await?;

    let lease = LeaseConfig::new(NAME, &operator.namespace, &pod.pod_name);
    let policy = Policy::default();
    lease::run(client.clone(), lease, &shutdown, |stop| {
        let (operator, policy) = (operator.clone(), policy.clone());
        let reconciler =
            Reconciler::new(client.clone(), cache.clone(), operator, policy, &pod.pod_name, terms.clone());
        lead::lead(reconciler, cache.changes(), stop)
    })
    .await?;
    shutdown.finished().await;
    Ok(())
}

/// Starts both servers, which share one certificate.
async fn serve(
    args: &Args,
    client: &Client,
    cache: &Cache,
    operator: &Operator,
    shutdown: &Shutdown,
) -> Result<(), RunError> {
    let health = Health::new(shutdown);
    let tls = ServerTls::new(ClientAuth::None);
    identity::start_untrusted(&tls)?;
    let address = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let metrics = Server::bind(address(args.port), tls.clone()).await?;
    let webhooks = Server::bind(address(args.webhook_port), tls.clone()).await?;
    let router = webhook::router(Webhooks {
        client: client.clone(),
        cache: cache.clone(),
        operator: operator.clone(),
    });
    let (serving, stop) = (shutdown.clone(), shutdown.token().clone());
    let listed = health.condition("every watch has listed its objects");
    shutdown.spawn(async move { metrics.serve(health.router(), &serving).await });
    let serving = shutdown.clone();
    shutdown.spawn(async move { webhooks.serve(router, &serving).await });
    let background = background(cache.clone(), operator.namespace.clone(), tls, listed);
    shutdown.spawn(async move { stop.run_until_cancelled(background).await });
    Ok(())
}

/// What goes on as long as the process lives: follows the certificate, says when the caches are full.
async fn background(cache: Cache, namespace: String, tls: ServerTls, listed: Condition) {
    let full = async {
        let mut changes = cache.changes();
        while !cache.unlisted().is_empty() && changes.changed().await.is_ok() {}
        listed.set(true);
        metrics::ready(true);
        tracing::info!("every watch has listed its objects");
    };
    tokio::join!(full, identity::follow(cache.clone(), namespace, tls));
}
