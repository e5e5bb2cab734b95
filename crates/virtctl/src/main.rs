//! virtctl, and `kubectl virt` under its other name.

use std::process::ExitCode;

fn main() -> ExitCode {
    let invocation = match virtctl::cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(usage) => usage.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let succeeded = runtime.block_on(virtctl::run(invocation));
    // A thread that still waits for a key must not keep us.
    runtime.shutdown_background();
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
