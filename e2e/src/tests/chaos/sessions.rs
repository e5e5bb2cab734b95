//! What a plain client would lose, virtctl's users don't: a console and a screen by `virtctl` while virt-api is killed, while
//! virt-handler is, while a node's network is cut, while their guest moves, and when virt-api may drain for a few seconds only.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kubevirt_types::Release;
use serde_json::json;

use crate::demo;
use crate::migration::Migrations;
use crate::node::{self, Node, Signal};
use crate::product::{Product, is_ready};
use crate::suite::Context;
use crate::talk::{self, Talk, Talked, With};
use crate::ticks::{in_order, summarize};
use crate::viewer::{self, Viewed, Viewer};
use crate::vm::{Vms, schedulable_nodes};
use crate::wait;

/// The guest at which people sit with virtctl.
const GUEST: &str = "resumed";
/// The one with a plain client.
const PLAIN: &str = "plain";
/// How long a network is away.
const CUT: Duration = Duration::from_secs(10);
/// Nobody's work is done in this time.
const SHORT_DRAIN_SECONDS: u32 = 10;
/// A container that was killed is started again, later each time.
const BACK_LIMIT: Duration = Duration::from_secs(180);

/// What is done to the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    ApiKilled,
    HandlerKilled,
    NetworkCut,
    Moved,
    ShortDrain,
}

impl Blow {
    const ALL: [(&str, Self); 5] = [
        ("virt-api killed", Self::ApiKilled),
        ("virt-handler killed", Self::HandlerKilled),
        ("each node's network cut", Self::NetworkCut),
        ("guest moved", Self::Moved),
        ("short drain", Self::ShortDrain),
    ];

    /// Whether it ends virtctl's connection for certain.
    fn cuts(self) -> bool {
        match self {
            Self::ApiKilled | Self::ShortDrain => true,
            Self::HandlerKilled | Self::NetworkCut | Self::Moved => false,
        }
    }

    async fn strike(self, context: &Context, sessions: &mut Sessions) -> anyhow::Result<()> {
        let product = &context.product;
        match self {
            Self::ApiKilled | Self::HandlerKilled => {
                let component = if self == Self::ApiKilled { "virt-api" } else { "virt-handler" };
                for pod in product.pods(component).await? {
                    let name = pod.metadata.name.context("a pod has a name")?;
                    let node = Node(pod.spec.and_then(|spec| spec.node_name).context("it has a node")?);
                    node.signal(&name, Signal::Kill).await?;
                    sessions.go_on().await.with_context(|| format!("after {name} was killed"))?;
                    is_back(product, component).await?;
                }
            }
            Self::NetworkCut => {
                for name in schedulable_nodes(&context.cluster).await? {
                    let node = Node(name);
                    node.isolate().await?;
                    tokio::time::sleep(CUT).await;
                    node.rejoin().await?;
                    sessions.go_on().await.with_context(|| format!("after {} was cut off", node.0))?;
                }
                is_back(product, "virt-api").await?;
            }
            Self::Moved => {
                let vms = Vms::of(&context.cluster, &context.namespace);
                let migrations = Migrations::of(&context.cluster.client, &context.namespace);
                for name in [GUEST, PLAIN] {
                    migrations.carry_out(&vms, name).await?;
                }
                sessions.go_on().await.context("after the move")?;
            }
            Self::ShortDrain => {
                product.set_tag(&Release::V0_17_0.to_string()).await?;
                product.wait_for(&Release::V0_17_0).await?;
                sessions.go_on().await.context("after the update")?;
            }
        }
        Ok(())
    }
}

/// Every way in which a session can lose what carries it.
pub async fn resumed_by_virtctl(context: Context) -> anyhow::Result<()> {
    ensure!(node::is_ours(), "killing and cutting off need nodes that this machine reaches into");
    let product = &context.product;
    if product.settled().await?.as_ref() != Some(&Release::V0_18_0) {
        product.bring_to(&Release::V0_18_0).await?;
    }
    let vms = Vms::of(&context.cluster, &context.namespace);
    for name in [GUEST, PLAIN] {
        vms.create(name, "Always", None).await?;
    }
    for name in [GUEST, PLAIN] {
        vms.wait_running(name).await?;
        demo::first_tick(&context.cluster, &vms, name).await?;
    }
    for (name, blow) in Blow::ALL.into_iter().filter(|(name, _)| context.wants(name)) {
        if blow == Blow::ShortDrain {
            product.patch_spec(json!({"updateStrategy": {"drainSeconds": SHORT_DRAIN_SECONDS}})).await?;
            product.wait_for(&Release::V0_18_0).await?;
        }
        one(&context, name, blow).await.with_context(|| name)?;
    }
    product.patch_spec(json!({"updateStrategy": {"drainSeconds": null}})).await?;
    for name in [GUEST, PLAIN] {
        vms.delete(name).await?;
    }
    Ok(())
}

/// Somebody at a guest's console and at its screen.
struct Sessions {
    console: Talk,
    screen: Viewer,
}

/// What became of them.
struct Left {
    talked: Talked,
    viewed: Viewed,
    /// Bytes typed that never came, and that came again or late: at the console, and at the screen.
    console: (u64, u64),
    screen: (u64, u64),
}

impl Sessions {
    fn begin(context: &Context, guest: &str, with: With) -> Self {
        let (client, namespace) = (&context.cluster.client, &context.namespace);
        let console = Talk::start(client, namespace, guest, with);
        let screen = Viewer::start(client, namespace, guest, with, console.on_screen());
        Self { console, screen }
    }

    async fn go_on(&mut self) -> anyhow::Result<()> {
        self.console.hears(10).await?;
        self.screen.sees(2).await
    }

    async fn end(self) -> anyhow::Result<Left> {
        // The console hears what came of what was typed at the screen.
        let viewed = self.screen.finish().await?;
        let talked = self.console.finish().await?;
        let console = talked.echoes.amiss(talked.typed, talk::typed_line);
        let screen = talked.on_screen.amiss(viewed.typed, viewer::typed_line);
        Ok(Left { talked, viewed, console, screen })
    }
}

impl Left {
    fn say(&self, who: &str, blow: &str, (begun, ended): (Instant, Instant)) {
        let Self { talked, viewed, console, screen } = self;
        let ticks = summarize(&talked.ticks, begun, ended);
        println!(
            "    {blow}, {who}: console cut {} times, resumed by itself {} times, {} of {} ticks lost, of {} lines typed {} bytes \
             lost, {} again; screen cut {} times, resumed {} times, longest gap {} ms, of {} lines typed {} bytes lost, {} again \
             {:?} {:?}",
            talked.cut,
            talked.resumed,
            ticks.missing,
            ticks.ticks,
            talked.typed,
            console.0,
            console.1,
            viewed.cut,
            viewed.resumed,
            viewed.longest_gap_ms,
            viewed.typed,
            screen.0,
            screen.1,
            talked.causes,
            viewed.causes
        );
    }

    /// Neither connection ended, and what went over them did so once and in order.
    fn is_whole(&self) -> anyhow::Result<()> {
        let Self { talked, viewed, console, screen } = self;
        ensure!(talked.cut == 0, "the console ended: {:?}", talked.causes);
        ensure!(viewed.cut == 0, "the screen ended: {:?}", viewed.causes);
        ensure!(
            *console == (0, 0),
            "of what was typed {} bytes are lost and {} came again",
            console.0,
            console.1
        );
        ensure!(
            *screen == (0, 0),
            "of what was typed at the screen {} bytes are lost and {} came again",
            screen.0,
            screen.1
        );
        in_order(&talked.ticks)
    }
}

async fn one(context: &Context, name: &str, blow: Blow) -> anyhow::Result<()> {
    let mut virtctl = Sessions::begin(context, GUEST, With::Virtctl);
    let mut plain = Sessions::begin(context, PLAIN, With::PlainClient);
    virtctl.go_on().await?;
    plain.go_on().await?;
    let begun = Instant::now();
    let struck = blow.strike(context, &mut virtctl).await;
    let ended = Instant::now();
    let (virtctl, plain) = (virtctl.end().await?, plain.end().await?);
    virtctl.say("virtctl", name, (begun, ended));
    plain.say("a plain client", name, (begun, ended));
    struck?;
    virtctl.is_whole().context("virtctl")?;
    if blow.cuts() {
        let resumed = (virtctl.talked.resumed, virtctl.viewed.resumed);
        ensure!(resumed.0 > 0 && resumed.1 > 0, "nothing was cut: virtctl had nothing to resume");
    }
    match blow {
        Blow::ShortDrain => {
            let told =
                plain.talked.causes.iter().any(|cause| cause.contains("1001") || cause.contains("Away"));
            ensure!(told, "a plain client was not told that its server goes away: {:?}", plain.talked.causes);
        }
        Blow::HandlerKilled | Blow::Moved => plain.is_whole().context("a plain client")?,
        Blow::ApiKilled | Blow::NetworkCut => {}
    }
    Ok(())
}

async fn is_back(product: &Product, component: &str) -> anyhow::Result<()> {
    wait::until(format!("{component} to be back"), BACK_LIMIT, async || {
        let pods = product.pods(component).await?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        wait::when(ready >= 2, format!("{ready} of {} pods are ready", pods.len()))
    })
    .await
}
