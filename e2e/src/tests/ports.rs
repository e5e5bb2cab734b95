//! A guest's port, reached from this machine through virt-api: with virtctl and as a plain client does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt;
use futures::future::try_join_all;
use kube::api::PostParams;
use kubevirt_types::vm::PrintableStatus;
use kubevirt_types::{Release, VirtualMachine};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::suite::Context;
use crate::vm::{Vms, tick_vm};
use crate::wait::{self, Look};
use crate::{console, virtctl};

/// The guest's network is up some seconds after its first tick; a machine under load takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// One answer, from a guest without KVM.
const ANSWER: Duration = Duration::from_secs(60);
/// At the same time: as many as a browser opens.
const CONNECTIONS: usize = 6;
/// A page of one line, and a program of two megabytes.
const PAGES: [&str; 2] = ["/", "/busybox"];
/// No less is a program that came whole.
const PROGRAM: usize = 1 << 20;

/// HTTP/1.0: the guest closes the connection behind its answer.
fn request(page: &str) -> String {
    format!("GET {page} HTTP/1.0\r\nHost: guest\r\n\r\n")
}

/// A VM whose guest serves HTTP on port 80, which is forwarded.
fn web_vm() -> anyhow::Result<VirtualMachine> {
    let mut vm = tick_vm("web", "Always", None);
    let spec = &mut vm["spec"]["template"]["spec"];
    spec["domain"]["devices"]["interfaces"] =
        json!([{"name": "default", "masquerade": {}, "ports": [{"name": "http", "port": 80}]}]);
    spec["networks"] = json!([{"name": "default", "pod": {}}]);
    Ok(serde_json::from_value(vm)?)
}

/// Everything that a port-forward can do, and the refusals.
pub async fn forwarded(context: Context) -> anyhow::Result<()> {
    context.product.bring_to(&Release::V0_18_0).await?;
    let vms = Vms::of(&context.cluster, &context.namespace);
    let namespace = context.namespace.as_str();
    vms.vms.create(&PostParams::default(), &web_vm()?).await?;
    vms.wait_running("web").await?;

    let mut virtctl = virtctl::start(&["port-forward", &format!("vm/web/{namespace}"), ":80"])?;
    let mut lines = BufReader::new(virtctl.stdout.take().context("its output is ours")?).lines();
    let line = timeout(ANSWER, lines.next_line()).await.context("virtctl says nothing")??;
    let line = line.context("virtctl ended")?;
    let local = line.strip_prefix("Forwarding from ").and_then(|rest| rest.strip_suffix(" -> 80"));
    let local = local.with_context(|| line.clone())?.to_owned();
    wait::until("the guest to answer", LIMIT, async || match get(&local, PAGES[0]).await {
        Ok(_) => Ok(Look::Done(())),
        Err(error) => Ok(Look::NotYet(format!("{error:#}"))),
    })
    .await?;
    for page in PAGES {
        let begun = Instant::now();
        let answers = try_join_all((0..CONNECTIONS).map(|_| get(&local, page))).await?;
        let first = answers.first().context("there are some connections")?;
        ensure!(answers.iter().all(|answer| body(answer) == body(first)), "answers to {page} differ");
        println!(
            "    {page}: {} bytes through each of {CONNECTIONS} connections in {:.1} s",
            first.len(),
            begun.elapsed().as_secs_f64()
        );
        ensure!(page == PAGES[0] || first.len() >= PROGRAM, "{page} has only {} bytes", first.len());
        let plain = plain(&context, "80/tcp", page).await?;
        ensure!(body(&plain) == body(first), "{page}: a plain client was told something else");
        let piped = piped(&format!("vmi/web/{namespace}"), "80", page).await?;
        ensure!(body(&piped) == body(first), "{page}: --stdio was told something else");
    }
    drop(virtctl);
    refusals(&context, &vms).await?;
    vms.delete("web").await
}

async fn get(address: &str, page: &str) -> anyhow::Result<Vec<u8>> {
    let exchange = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(request(page).as_bytes()).await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    checked(timeout(ANSWER, exchange).await.context("no answer in time")??)
}

/// An HTTP answer that says that all is well.
fn checked(answer: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let head = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
    ensure!(head.starts_with("HTTP/1.") && head.contains(" 200 "), "the guest said {head:?}");
    ensure!(!body(&answer).is_empty(), "the guest said nothing more than {head:?}");
    Ok(answer)
}

/// What is behind the head: heads carry the time.
fn body(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or(&[][..], |end| &answer[end + 4..])
}

/// The same over a websocket of the instance's subresource, as clients of other makes open it.
async fn plain(context: &Context, port: &str, page: &str) -> anyhow::Result<Vec<u8>> {
    let path = format!(
        "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachineinstances/web/portforward/{port}",
        context.namespace
    );
    let subprotocol = kubevirt_types::labels::PLAIN_SUBPROTOCOL;
    let mut socket = console::open(&context.cluster.client, &path, subprotocol).await?;
    futures::SinkExt::send(&mut socket, Message::binary(request(page).into_bytes())).await?;
    let mut answer = Vec::new();
    let read = async {
        while let Some(message) = socket.next().await {
            match message? {
                Message::Binary(data) => answer.extend_from_slice(&data),
                Message::Close(frame) => return Ok(frame.map(|frame| u16::from(frame.code))),
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        bail!("the tunnel ended without a close frame")
    };
    let code = timeout(ANSWER, read).await.context("no end in time")??;
    ensure!(code == Some(1000), "the guest's end of the stream is {code:?}");
    checked(answer)
}

/// The same through `--stdio`, as ssh uses it.
async fn piped(target: &str, port: &str, page: &str) -> anyhow::Result<Vec<u8>> {
    let mut virtctl = virtctl::start(&["port-forward", "--stdio", target, port])?;
    let mut input = virtctl.stdin.take().context("its input is ours")?;
    let mut output = virtctl.stdout.take().context("its output is ours")?;
    input.write_all(request(page).as_bytes()).await?;
    // As in a pipe: what was said is all.
    input.shutdown().await?;
    drop(input);
    let mut answer = Vec::new();
    timeout(ANSWER, output.read_to_end(&mut answer)).await.context("no answer in time")??;
    let status = timeout(ANSWER, virtctl.wait()).await.context("virtctl doesn't end")??;
    ensure!(status.success(), "virtctl: {status}");
    checked(answer)
}

async fn refusals(context: &Context, vms: &Vms) -> anyhow::Result<()> {
    let namespace = context.namespace.as_str();
    let target = format!("vmi/web/{namespace}");
    let refused = async |target: &str, port: &str, words: &str| {
        let said = virtctl::refused(&["port-forward", "--stdio", target, port]).await?;
        ensure!(said.contains(words), "{target} {port}: {said}");
        anyhow::Ok(())
    };
    refused(&target, "81", "port 81 isn't listed in spec.domain.devices.interfaces[].ports").await?;
    refused(&target, "udp/53", "only TCP is supported").await?;
    refused(&format!("vmi/nobody/{namespace}"), "80", "\"nobody\" not found").await?;
    virtctl::said(&["pause", "vm", "web", "-n", namespace]).await?;
    vms.wait_printable("web", PrintableStatus::Paused).await?;
    refused(&target, "80", "VMI is paused").await?;
    virtctl::said(&["unpause", "vm", "web", "-n", namespace]).await?;
    vms.wait_printable("web", PrintableStatus::Running).await?;
    virtctl::said(&["stop", "web", "-n", namespace]).await?;
    vms.wait_printable("web", PrintableStatus::Stopped).await?;
    // "running" while the instance that has ended is there, "started" then.
    refused(&format!("vm/web/{namespace}"), "80", "VMI is not ").await
}
