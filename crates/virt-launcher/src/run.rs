//! The launcher's story: sockets up, guest runs, guest ends, report, exit.
//!
//! Exit code 0 when the virtual machine ended as somebody wanted (or never was), 1 when it
//! crashed: the pod becomes Succeeded or Failed. Behind the guest's end the launcher stays
//! until a reader of `WatchDomain` has taken the final state, and some seconds more for one
//! that dies over it, but not for ever: the pod's phase and termination message say the same.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use handler_launcher_com::launcher::launcher_server::LauncherServer;
use handler_launcher_com::launcher::{DomainPhase, DomainState};
use handler_launcher_com::socket;
use kubevirt_types::release::{RELEASE_FILE, Release};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::RunArgs;
use crate::console::Console;
use crate::guest::{Guest, Settings};
use crate::process::Processes;
use crate::server::Server;

/// For a virt-handler that is being replaced right now.
const REPORT_TIMEOUT: Duration = Duration::from_secs(120);
/// For a virt-handler that took the final state and died before it wrote it down.
const REPORT_LINGER: Duration = Duration::from_secs(10);
/// When the pod is being deleted, nobody waits for our report any more.
const DELETED_TIMEOUT: Duration = Duration::from_secs(5);
/// For answers that are on their way: taken by the connection isn't yet received.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// For whoever is reading the console's last bytes.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);
/// For a migration's other side, which may ask what has become of the guest.
const PEER_TIMEOUT: Duration = Duration::from_secs(40);

/// Runs one virtual machine.
pub fn main(args: RunArgs) -> anyhow::Result<ExitCode> {
    crate::logs::init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let release = release(Path::new(RELEASE_FILE))?;
    tracing::info!(name = args.name, namespace = args.namespace, uid = args.uid, release, "virt-launcher");
    let mut stop = Stop::listen()?;
    let processes = Processes::reap()?;
    let (console, carrier) = Console::new();
    let paths = args.paths.clone();
    let guest = Guest::new(
        Settings {
            uid: args.uid,
            grace: Duration::from_secs(args.grace_period_seconds),
            allow_emulation: args.allow_emulation,
            paths: args.paths,
        },
        processes,
        console.clone(),
        carrier,
    );

    let screen = guest.screen().clone();
    serve(socket::bind(&paths.console_socket())?, {
        let console = console.clone();
        move |stream| console.clone().serve(stream)
    });
    serve(socket::bind(&paths.vnc_socket())?, move |stream| screen.clone().serve(stream));
    let told = watch::Sender::new(false);
    let server = LauncherServer::new(Server::new(guest.clone(), release, told.clone()));
    // The last one: who reaches it, reaches all.
    let incoming = socket::incoming(socket::bind(&paths.launcher_socket())?);
    let finish = CancellationToken::new();
    let mut serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(server)
            .serve_with_incoming_shutdown(incoming, finish.clone().cancelled_owned()),
    );

    let deleted = tokio::select! {
        deleted = end(&guest, &mut stop) => deleted,
        failed = &mut serving => return failed?.context("serving launcher-sock").map(|()| ExitCode::FAILURE),
    };
    let state = guest.state();
    leave_message(&paths.termination_log, &state);
    tokio::join!(report(deleted, &mut stop, told.subscribe()), settle(&guest, deleted), drain(&console));
    finish.cancel();
    if tokio::time::timeout(FLUSH_TIMEOUT, serving).await.is_err() {
        tracing::info!("somebody doesn't take our last answer");
    }
    Ok(if state.phase() == DomainPhase::Crashed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Waits for the guest's end, and shuts it down when the pod is to stop. True if so.
async fn end(guest: &Guest, stop: &mut Stop) -> bool {
    let mut domain = guest.watch();
    let mut over = async || {
        // The sender is the guest's own; it outlives this.
        drop(domain.wait_for(|domain| domain.is_over()).await);
    };
    tokio::select! {
        () = over() => return false,
        () = stop.wanted() => {}
    }
    guest.shutdown(None);
    over().await;
    true
}

/// Stays for those who want to know how it ended.
async fn report(deleted: bool, stop: &mut Stop, mut told: watch::Receiver<bool>) {
    let patience = if deleted { DELETED_TIMEOUT } else { REPORT_TIMEOUT };
    let reported = async {
        // What `wait_for` returns would lock out, through all of the linger, the next one who is told.
        let heard = tokio::time::timeout(patience, told.wait_for(|told| *told)).await.is_ok();
        if !deleted && heard {
            tokio::time::sleep(REPORT_LINGER).await;
        }
    };
    tokio::select! {
        () = reported => {}
        () = stop.wanted(), if !deleted => {}
    }
}

/// Stays for the other side of a migration.
async fn settle(guest: &Guest, deleted: bool) {
    let patience = if deleted { DELETED_TIMEOUT } else { PEER_TIMEOUT };
    if tokio::time::timeout(patience, guest.migrations_settled()).await.is_err() {
        tracing::info!("the migration's source hasn't asked what has become of the guest");
    }
}

/// Waits until whoever is attached to the console has read its end.
async fn drain(console: &Console) {
    if tokio::time::timeout(CONSOLE_TIMEOUT, console.vacant()).await.is_err() {
        tracing::info!("somebody doesn't read the console's end");
    }
}

/// Serves every connection by itself.
fn serve<F, E>(listener: UnixListener, session: impl Fn(UnixStream) -> F + Send + 'static)
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let session = session(stream);
                    tokio::spawn(async move {
                        if let Err(err) = session.await {
                            tracing::info!(error = %err, "a session didn't come about");
                        }
                    });
                }
                Err(err) => {
                    tracing::warn!(error = %err, "a connection can't be accepted");
                    // Too many open files pass; asking again at once would only burn the processor.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

/// The kubelet keeps these words in the pod's status, where they outlive us.
fn leave_message(path: &Path, state: &DomainState) {
    let message = serde_json::json!({
        "phase": state.phase().as_str_name(), "reason": state.reason, "detail": state.exit_detail,
    });
    let written = std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, message.to_string().as_bytes()));
    if let Err(err) = written {
        tracing::info!(path = %path.display(), error = %err, "no place for a termination message");
    }
}

/// The release that this image is stamped with; the crate's own where it isn't.
fn release(file: &Path) -> anyhow::Result<String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => env!("CARGO_PKG_VERSION").to_owned(),
        Err(err) => return Err(err).with_context(|| format!("reading {}", file.display())),
    };
    Ok(text.parse::<Release>().with_context(|| format!("reading {}", file.display()))?.to_string())
}

/// SIGTERM, or SIGINT at a person's terminal.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A virt-handler that watches again, while the launcher lingers, is told again.
    #[tokio::test]
    async fn who_lingers_keeps_nobody_from_being_told() {
        let told = watch::Sender::new(true);
        let mut stop = Stop::listen().unwrap();
        let mut heard = told.subscribe();
        let lingers = report(false, &mut stop, told.subscribe());
        tokio::pin!(lingers);
        assert!(futures::poll!(&mut lingers).is_pending());
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            told.send_replace(true);
            done.send(()).unwrap();
        });
        assert_eq!(is_done.recv_timeout(Duration::from_secs(20)), Ok(()));
        assert!(*heard.borrow_and_update());
    }
}
