//! virtctl as a person runs it: the one that was built beside this program.

use anyhow::Context;
use tokio::process::Command;

/// What `virtctl update explain` says.
pub async fn explain() -> anyhow::Result<String> {
    let program = std::env::current_exe()?.with_file_name("virtctl");
    let output = Command::new(&program)
        .args(["update", "explain"])
        .output()
        .await
        .with_context(|| format!("running {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    anyhow::ensure!(
        !said.is_empty(),
        "virtctl update explain said nothing: {}, {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(said)
}
