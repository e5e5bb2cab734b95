//! The command line of virt-controller.

use std::path::PathBuf;

use clap::Parser;

/// Makes instances of VMs, and launcher pods of instances.
#[derive(Debug, Clone, Parser)]
#[command(name = "virt-controller")]
pub struct Args {
    /// Port of health and metrics, over TLS.
    #[arg(long, default_value_t = 8443)]
    pub port: u16,
    /// Image of the launcher pods.
    #[arg(long)]
    pub launcher_image: String,
    /// Directory with tls.crt and tls.key of the server; they may appear later.
    #[arg(long, default_value = "/etc/virt-controller/certificates")]
    pub certificates: PathBuf,
    /// Verbosity of the logs: 2 is info, 3 debug, from 6 on everything.
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
                "virt-controller",
                "--port",
                "8443",
                "--launcher-image",
                "launcher",
                flag,
            ])
            .unwrap();
            assert_eq!(args.verbosity, 4, "{flag}");
        }
    }
}
