//! What QEMU is told in a migration. Never decides when.

use std::path::Path;

use serde_json::{Value, json};

use super::progress::Progress;
use crate::qmp::{Qmp, QmpError};

/// QEMU wants a number where we want no limit: a terabyte per second.
const NO_LIMIT: u64 = 1 << 40;

/// How the source migrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Bytes per second; 0 for no limit.
    pub bandwidth: u64,
    /// How long the guest may stand.
    pub downtime_ms: u64,
    /// Whether it may be slowed down.
    pub auto_converge: bool,
}

/// Begins to migrate to whoever listens at `socket`.
pub async fn begin(qmp: &Qmp, manner: Manner, socket: &Path) -> Result<(), QmpError> {
    let capabilities = [
        ("events", true),
        // QEMU stops the guest, and waits for us before it sends the last part.
        ("pause-before-switchover", true),
        ("auto-converge", manner.auto_converge),
    ];
    set_capabilities(qmp, &capabilities).await?;
    let bandwidth = if manner.bandwidth == 0 { NO_LIMIT } else { manner.bandwidth };
    let parameters = json!({"max-bandwidth": bandwidth, "downtime-limit": manner.downtime_ms});
    qmp.execute_with("migrate-set-parameters", parameters).await?;
    qmp.execute_with("migrate", json!({"uri": uri(socket)})).await.map(|_| ())
}

/// Behind `pre-switchover`: sends the last part.
pub async fn go_on(qmp: &Qmp) -> Result<(), QmpError> {
    qmp.execute_with("migrate-continue", json!({"state": "pre-switchover"})).await.map(|_| ())
}

/// Waits for the source at `socket`.
pub async fn expect(qmp: &Qmp, socket: &Path) -> Result<(), QmpError> {
    // Disks aren't touched before the guest runs.
    set_capabilities(qmp, &[("events", true), ("late-block-activate", true)]).await?;
    qmp.execute_with("migrate-incoming", json!({"uri": uri(socket)})).await.map(|_| ())
}

/// How far it is.
pub async fn progress(qmp: &Qmp) -> Result<Progress, QmpError> {
    Ok(Progress::read(&qmp.execute("query-migrate").await?))
}

/// The machine's type without aliases.
pub async fn machine_type(qmp: &Qmp) -> Result<String, QmpError> {
    let answer = qmp.execute_with("qom-get", json!({"path": "/machine", "property": "type"})).await?;
    Ok(answer.as_str().unwrap_or_default().trim_end_matches("-machine").to_owned())
}

async fn set_capabilities(qmp: &Qmp, capabilities: &[(&str, bool)]) -> Result<(), QmpError> {
    let list: Vec<Value> =
        capabilities.iter().map(|(name, state)| json!({"capability": name, "state": state})).collect();
    qmp.execute_with("migrate-set-capabilities", json!({"capabilities": list})).await.map(|_| ())
}

fn uri(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}
