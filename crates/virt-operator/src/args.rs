//! The command line.

use clap::Parser;
use kubevirt_runtime::logging::DEFAULT_VERBOSITY;

/// Installs, updates, rolls back and removes KubeVirt.
#[derive(Debug, Clone, Parser)]
#[command(name = "virt-operator", version)]
pub struct Args {
    /// Port of health and metrics, HTTPS.
    #[arg(long, default_value_t = 8443)]
    pub port: u16,
    /// Port of the webhooks for KubeVirt objects, HTTPS.
    #[arg(long, default_value_t = 8444)]
    pub webhook_port: u16,
    /// Store the manifests that the environment asks for (TARGET_DEPLOYMENT_CONFIG) in a ConfigMap, and end.
    #[arg(long)]
    pub dump_install_strategy: bool,
    /// How much is logged: 2 is information, 3 debugging, 6 everything.
    #[arg(short, long, default_value_t = DEFAULT_VERBOSITY)]
    pub verbosity: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_arguments_are_understood() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        let args = Args::parse_from(["virt-operator", "--port", "8443", "--webhook-port", "8444"]);
        assert_eq!((args.port, args.webhook_port, args.dump_install_strategy), (8443, 8444, false));
        assert!(Args::parse_from(["virt-operator", "--dump-install-strategy"]).dump_install_strategy);
    }
}
