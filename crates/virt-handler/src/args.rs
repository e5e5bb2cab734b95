//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Runs the virtual machines of one node.
#[derive(Debug, Clone, Parser)]
#[command(name = "virt-handler", version)]
pub struct Args {
    /// TLS port of health and metrics.
    #[arg(long, default_value_t = 8443)]
    pub port: u16,
    /// TLS port of consoles, screens and pausing, for virt-api only.
    #[arg(long, default_value_t = kubevirt_types::labels::HANDLER_CONSOLE_PORT)]
    pub console_server_port: u16,
    /// For how many seconds streams are carried on when the process is told to end.
    #[arg(long, default_value_t = kubevirt_runtime::serve::DRAIN_SECONDS)]
    pub drain_seconds: u32,
    /// Devices of each kind that pods of this node may use at a time.
    #[arg(long, default_value_t = 1000)]
    pub max_devices: u32,
    /// Where the kubelet's pods directory is mounted.
    #[arg(long, default_value = "/pods")]
    pub pods_dir: PathBuf,
    /// Where the kubelet's directory for device plugins is mounted.
    #[arg(long, default_value = "/var/lib/kubelet/device-plugins")]
    pub device_plugins_dir: PathBuf,
    /// Where the host's /dev is mounted.
    #[arg(long, default_value = "/host-dev")]
    pub host_dev: PathBuf,
    /// The file whose lock says which handler of the node acts.
    #[arg(long, default_value = "/var/run/kubevirt/virt-handler.lock")]
    pub lock_file: PathBuf,
    /// Directory of the server's certificate.
    #[arg(long, default_value = "/etc/virt-handler/servercertificates")]
    pub cert_dir: PathBuf,
    /// Directory of the CA bundle.
    #[arg(long, default_value = "/etc/kubevirt/ca")]
    pub ca_dir: PathBuf,
    /// Verbosity of the log.
    #[arg(short = 'v', long, alias = "v", default_value_t = kubevirt_runtime::logging::DEFAULT_VERBOSITY)]
    pub verbosity: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubevirts_name_of_the_verbosity_is_one_too() {
        for flag in ["-v4", "--v=4", "--verbosity=4"] {
            let args = Args::try_parse_from([
                "virt-handler",
                "--port",
                "8443",
                "--console-server-port",
                "8186",
                flag,
            ])
            .unwrap();
            assert_eq!(args.verbosity, 4, "{flag}");
        }
    }
}
