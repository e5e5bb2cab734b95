//! Versions of client and server, and the warning when they differ.

use http::Request;
use kubevirt_types::Release;
use serde::Deserialize;

use crate::cluster::{Cluster, SUBRESOURCES, words};
use crate::terminal::say;

/// The server's version can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{}", words(.0))]
pub(crate) struct VersionError(Box<kube::Error>);

/// What the server says about itself; Kubernetes' `version.Info`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info {
    git_version: String,
    git_commit: String,
    git_tree_state: String,
    build_date: String,
    go_version: String,
    compiler: String,
    platform: String,
}

impl Info {
    fn client() -> Self {
        Self {
            git_version: format!("v{}", env!("CARGO_PKG_VERSION")),
            compiler: "rustc".into(),
            platform: format!("{}/{}", std::env::consts::OS, go_arch(std::env::consts::ARCH)),
            ..Self::default()
        }
    }

    /// As Go prints it: scripts look for `GitVersion:"..."`.
    fn print(&self) -> String {
        format!(
            "version.Info{{GitVersion:{:?}, GitCommit:{:?}, GitTreeState:{:?}, BuildDate:{:?}, \
             GoVersion:{:?}, Compiler:{:?}, Platform:{:?}}}",
            self.git_version,
            self.git_commit,
            self.git_tree_state,
            self.build_date,
            self.go_version,
            self.compiler,
            self.platform
        )
    }
}

fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn print_client() {
    say(&format!("Client Version: {}", Info::client().print()));
}

pub(crate) async fn print(cluster: &Cluster, client_only: bool) -> Result<(), VersionError> {
    print_client();
    if !client_only {
        let server = server(cluster).await.map_err(|error| VersionError(Box::new(error)))?;
        say(&format!("Server Version: {}", server.print()));
    }
    Ok(())
}

/// The warning to print after a failed command where the versions don't go together. Nothing when
/// the server doesn't tell.
pub(crate) async fn mismatch(cluster: &Cluster) -> Option<String> {
    warning(&Info::client().git_version, &server(cluster).await.ok()?.git_version)
}

async fn server(cluster: &Cluster) -> Result<Info, kube::Error> {
    let request =
        Request::get(format!("{SUBRESOURCES}/version")).body(vec![]).map_err(kube::Error::HttpError)?;
    cluster.client.request(request).await
}

fn warning(client: &str, server: &str) -> Option<String> {
    let numbers = |version: &str| version.parse::<Release>().map(|release| release.major_minor()).ok();
    let same = numbers(client)? == numbers(server)?;
    (!same).then(|| {
        format!(
            "You are using a client virtctl version that is different from the KubeVirt version running in the cluster\n\
             Client Version: {client}\nServer Version: {server}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_only_when_major_or_minor_differ() {
        assert_eq!(warning("v0.18.0", "v0.18.3"), None);
        assert_eq!(warning("v0.18.0", "devel"), None);
        let warning = warning("v0.18.0", "v0.17.0").unwrap();
        assert!(warning.ends_with("Client Version: v0.18.0\nServer Version: v0.17.0"), "{warning}");
    }

    #[test]
    fn prints_as_go_does() {
        let info = Info { git_version: "v0.18.0".into(), platform: "linux/amd64".into(), ..Info::default() };
        assert_eq!(
            info.print(),
            r#"version.Info{GitVersion:"v0.18.0", GitCommit:"", GitTreeState:"", BuildDate:"", GoVersion:"", Compiler:"", Platform:"linux/amd64"}"#
        );
    }
}
