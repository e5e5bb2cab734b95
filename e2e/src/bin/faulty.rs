//! The entrypoint of an image that is broken on purpose: what is wrong with it is baked in.
//!
//! Owns the ways in which a new version can be bad; never pretends to be good where the fault says otherwise.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use kubevirt_runtime::health::Health;
use kubevirt_runtime::serve::Server;
use kubevirt_runtime::shutdown::Shutdown;
use kubevirt_runtime::tls::{ClientAuthFiles, ServerTls};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// One line: the fault and its arguments.
const FAULT: &str = "/etc/kubevirt-fault";
/// Where the kubelet asks every component for its health.
const PROBE_PORT: u16 = 8443;

/// What is wrong with an image.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// It ends at once.
    Crash,
    /// It is the real program for so long, and then ends.
    CrashAfter { after: Duration, program: PathBuf },
    /// It lives and answers nobody.
    NeverReady,
    /// It answers its probes as the real one does, with the certificate of this folder, and does nothing else.
    Idle { certificates: PathBuf },
}

fn parse(text: &str) -> anyhow::Result<Fault> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok(match words.as_slice() {
        ["crash"] => Fault::Crash,
        ["crash-after", seconds, program] => Fault::CrashAfter {
            after: Duration::from_secs(seconds.parse().context("crash-after takes a number of seconds")?),
            program: program.into(),
        },
        ["never-ready"] => Fault::NeverReady,
        ["idle", certificates] => Fault::Idle { certificates: certificates.into() },
        _ => bail!("{FAULT} names no fault: {text:?}"),
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("faulty: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(FAULT).with_context(|| format!("reading {FAULT}"))?;
    let shutdown = Shutdown::on_signals()?;
    match parse(&text)? {
        Fault::Crash => bail!("this image crashes on purpose"),
        Fault::CrashAfter { after, program } => {
            let child = Command::new(&program)
                .args(std::env::args_os().skip(1))
                .spawn()
                .with_context(|| format!("starting {}", program.display()))?;
            crash_after(child, after, &shutdown).await
        }
        Fault::NeverReady => {
            shutdown.wait().await;
            Ok(ExitCode::SUCCESS)
        }
        Fault::Idle { certificates } => {
            let tls = ServerTls::from_files(certificates, ClientAuthFiles::None);
            let server = Server::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PROBE_PORT)), tls).await?;
            server.serve(Health::new(&shutdown).router(), &shutdown).await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The real program for a while. Told to stop it stops as the real one does.
async fn crash_after(mut child: Child, after: Duration, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    tokio::select! {
        ended = child.wait() => bail!("the real program ended by itself: {}", ended?),
        () = tokio::time::sleep(after) => {
            child.kill().await?;
            bail!("this image crashes on purpose after {} s", after.as_secs())
        }
        () = shutdown.wait() => {}
    }
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    kill_process(pid.context("the real program lives")?, Signal::TERM)?;
    let ended = child.wait().await?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_the_image_names_them() {
        assert_eq!(parse("crash\n").unwrap(), Fault::Crash);
        let late = Fault::CrashAfter { after: Duration::from_secs(60), program: "/usr/bin/virt-api".into() };
        assert_eq!(parse("crash-after 60 /usr/bin/virt-api\n").unwrap(), late);
        assert_eq!(parse("idle /etc/certs").unwrap(), Fault::Idle { certificates: "/etc/certs".into() });
        assert!(parse("crash-after soon x").is_err());
        assert!(parse("").is_err());
    }
}
