//! A guest that talks faster than somebody listens: nobody else waits, memory is bounded, and who lost something is told.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt;
use kube::ResourceExt;
use kubevirt_types::Release;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::console::{self, Socket};
use crate::demo;
use crate::node::{self, Node};
use crate::product::Product;
use crate::suite::Context;
use crate::vm::Vms;

/// The guest that talks.
const GUEST: &str = "talks";
/// What it counts from.
const FIRST: u64 = 10_000_000;
/// A line of it, line feed and carriage return among them.
const LINE: u64 = 100;
/// So long a message is read each second and no more.
const SLOW: Duration = Duration::from_secs(90);
/// A slow reader takes this between two messages.
const EACH: Duration = Duration::from_secs(1);
/// So long nobody reads at all, and yet nothing is lost: the launcher keeps a MiB.
const SHORT_PAUSE: Duration = Duration::from_secs(2);
/// What lies between the launcher and a slow reader is read within this.
const REST_LIMIT: Duration = Duration::from_secs(120);
/// A component that carries a slow reader's stream may grow by this: windows and buffers of some hundred KiB each. The guest
/// must have said several times as much.
const MAY_GROW: u64 = 2 << 20;

/// What somebody read who reads in order.
#[derive(Debug, Default)]
struct Read {
    /// The first number and the last.
    first: Option<u64>,
    last: u64,
    /// Where a number wasn't followed by the next.
    gaps: Vec<(u64, u64)>,
    rest: Vec<u8>,
}

impl Read {
    fn feed(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        // Ticks come in between.
        for number in lines.split(|byte| *byte == b'\n').filter_map(number) {
            if self.first.is_none() {
                self.first = Some(number);
            } else if number != self.last + 1 {
                self.gaps.push((self.last, number));
            }
            self.last = number;
        }
    }
}

fn number(line: &[u8]) -> Option<u64> {
    let number: u64 = std::str::from_utf8(line).ok()?.split_once(' ')?.0.parse().ok()?;
    (number >= FIRST).then_some(number)
}

/// Reads until the connection ends or `limit` is over; returns how it ended, if it did.
async fn read(socket: &mut Socket, read: &mut Read, limit: Duration) -> anyhow::Result<Option<CloseFrame>> {
    let give_up = tokio::time::Instant::now() + limit;
    loop {
        let Ok(message) = tokio::time::timeout_at(give_up, socket.next()).await else { return Ok(None) };
        match message.context("the console ended without a word")?? {
            Message::Close(frame) => return frame.context("closed without a code").map(Some),
            other => read.feed(&console::said(other)),
        }
    }
}

/// One reads on after a pause, one reads too slowly, one comes after him.
pub async fn slow_readers(context: Context) -> anyhow::Result<()> {
    ensure!(node::is_ours(), "memory is read from nodes that this machine reaches into");
    let product = &context.product;
    if product.settled().await?.as_ref() != Some(&Release::V0_18_0) {
        product.bring_to(&Release::V0_18_0).await?;
    }
    let client = &context.cluster.client;
    let vms = Vms::of(&context.cluster, &context.namespace);
    vms.create(GUEST, "Always", None).await?;
    vms.wait_running(GUEST).await?;
    demo::first_tick(&context.cluster, &vms, GUEST).await?;

    let mut socket = console::attach(client, &context.namespace, GUEST).await?;
    console::type_line(&mut socket, "count").await?;
    let mut paused = Read::default();
    for _ in 0..5 {
        ensure!(
            read(&mut socket, &mut paused, SHORT_PAUSE).await?.is_none(),
            "cut while it was read: {paused:?}"
        );
        tokio::time::sleep(SHORT_PAUSE).await;
    }
    ensure!(read(&mut socket, &mut paused, SHORT_PAUSE).await?.is_none(), "cut after a short pause");
    ensure!(paused.first == Some(FIRST), "began with {:?}", paused.first);
    ensure!(paused.gaps.is_empty(), "with short pauses these are missing: {:?}", paused.gaps);
    println!(
        "    read with pauses of {} s: {} lines, none missing",
        SHORT_PAUSE.as_secs(),
        paused.last - FIRST
    );
    drop(socket);

    let before = resident(product).await?;
    let mut socket = console::attach(client, &context.namespace, GUEST).await?;
    let mut slow = Read::default();
    let mut close = None;
    let give_up = tokio::time::Instant::now() + SLOW;
    while close.is_none() && tokio::time::Instant::now() < give_up {
        tokio::time::sleep(EACH).await;
        match socket.next().await.context("the console ended without a word")?? {
            Message::Close(frame) => close = frame,
            other => slow.feed(&console::said(other)),
        }
    }
    let after = resident(product).await?;
    if close.is_none() {
        close = read(&mut socket, &mut slow, REST_LIMIT).await?;
    }
    let close = close.with_context(|| format!("still open after {} lines", slow.last - FIRST))?;
    println!(
        "    read too slowly: {} lines, then {} {:?}",
        slow.last - slow.first.unwrap_or(FIRST),
        close.code,
        close.reason
    );
    ensure!(u16::from(close.code) == 1008 && close.reason.contains("too slow"), "closed with {close:?}");
    ensure!(slow.gaps.is_empty(), "before it was closed these were missing: {:?}", slow.gaps);

    let mut socket = console::attach(client, &context.namespace, GUEST).await?;
    let mut next = Read::default();
    ensure!(read(&mut socket, &mut next, SHORT_PAUSE).await?.is_none(), "cut, too");
    ensure!(next.gaps.is_empty(), "for the next these are missing: {:?}", next.gaps);
    let first = next.first.context("the guest says nothing any more")?;
    ensure!(first > slow.last, "nothing was lost, but the slow reader was cut");
    let said = LINE * (next.last - paused.last);
    println!(
        "    the guest said {said} bytes meanwhile, {} of them lost to the slow reader",
        LINE * (first - slow.last - 1)
    );
    for (pod, after) in after {
        let before = before.get(&pod).copied().with_context(|| format!("{pod} is new"))?;
        let grown = after.saturating_sub(before);
        println!("    {pod}: {} KiB before, {} KiB more with the slow reader", before >> 10, grown >> 10);
        ensure!(grown < MAY_GROW, "{pod} has grown by {grown} bytes");
    }
    ensure!(said > 4 * MAY_GROW, "the guest said too little to tell: {said} bytes");
    vms.delete(GUEST).await
}

/// The memory of each pod that may carry a stream.
async fn resident(product: &Product) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for component in ["virt-api", "virt-handler"] {
        for pod in product.pods(component).await? {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("it has a node")?;
            all.insert(pod.name_any(), Node(node).resident(&pod.name_any()).await?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_seen_across_messages_and_ticks() {
        let mut read = Read::default();
        read.feed(b"echo: 12 \r\n10000000 ..\r\n1000");
        read.feed(b"0001 ..\r\ntick 7 1.20\r\n10000004 ..\r\n");
        assert_eq!((read.first, read.last), (Some(FIRST), FIRST + 4));
        assert_eq!(read.gaps, [(FIRST + 1, FIRST + 4)]);
    }
}
