//! Arguments of the process.

use std::path::PathBuf;

/// What virt-api is started with. The defaults are the paths at which the manifests mount.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "virt-api", version, about = "Admission, subresources and the version gate of KubeVirt")]
pub struct Args {
    /// Port of everything: subresources, webhooks, health and metrics.
    #[arg(long, default_value_t = 8443)]
    pub port: u16,
    /// Port of virt-handler's console server.
    #[arg(long, default_value_t = kubevirt_types::labels::HANDLER_CONSOLE_PORT)]
    pub console_server_port: u16,
    /// For how many seconds streams are carried on when the process is told to end.
    #[arg(long, default_value_t = kubevirt_runtime::serve::DRAIN_SECONDS)]
    pub drain_seconds: u32,
    /// Directory of the server's tls.crt and tls.key.
    #[arg(long, default_value = "/etc/virt-api/certificates")]
    pub cert_dir: PathBuf,
    /// Directory of the tls.crt and tls.key with which virt-handler is called.
    #[arg(long, default_value = "/etc/virt-handler/clientcertificates")]
    pub handler_cert_dir: PathBuf,
    /// File of the CA bundle that vouches for virt-handler.
    #[arg(long, default_value = "/etc/kubevirt/ca/ca-bundle")]
    pub ca_bundle: PathBuf,
    /// How much is logged: 2 is info, 3 debug, from 6 on everything.
    #[arg(short, long, alias = "v", default_value_t = kubevirt_runtime::logging::DEFAULT_VERBOSITY)]
    pub verbosity: u32,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn streams_have_an_hour_unless_the_manifest_says_otherwise() {
        let drain =
            |more: &[&str]| Args::try_parse_from([&["virt-api"], more].concat()).unwrap().drain_seconds;
        assert_eq!((drain(&[]), drain(&["--drain-seconds", "0"])), (3600, 0));
    }

    #[test]
    fn kubevirts_name_of_the_verbosity_is_one_too() {
        for flag in ["-v4", "--v=4", "--verbosity=4"] {
            let args = Args::try_parse_from(["virt-api", "--port", "8443", flag]).unwrap();
            assert_eq!(args.verbosity, 4, "{flag}");
        }
    }
}
