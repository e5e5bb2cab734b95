//! virt-handler: runs the virtual machines of one node.

use clap::Parser;
use virt_handler::args::Args;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    kubevirt_runtime::logging::init("virt-handler", args.verbosity);
    virt_handler::handler::run(args).await?;
    Ok(())
}
