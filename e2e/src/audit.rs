//! The API server's audit log, where this machine can read it: who wrote what, when.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

/// One write that the API server carried out.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Write {
    pub at: Timestamp,
    pub verb: String,
    pub resource: String,
    pub name: String,
}

/// Successful writes of the operator to workloads since a time; none where nobody named an audit log.
///
/// # Errors
/// When the one that was named can't be read.
pub fn operator_writes(since: Timestamp) -> anyhow::Result<Option<Vec<Write>>> {
    let Some(path) = std::env::var_os("AUDIT_LOG").map(PathBuf::from) else { return Ok(None) };
    let file = std::fs::File::open(&path).with_context(|| format!("the audit log {}", path.display()))?;
    let mut writes: Vec<Write> = BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter_map(|event| write(&event))
        .filter(|write| write.at >= since)
        .collect();
    writes.sort_by_key(|write| write.at);
    Ok(Some(writes))
}

fn write(event: &Value) -> Option<Write> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let user = text("/user/username")?;
    let resource = text("/objectRef/resource")?;
    let ok = event.pointer("/responseStatus/code").and_then(Value::as_u64).is_some_and(|code| code < 300);
    let complete = text("/stage")? == "ResponseComplete";
    let by_operator = user == "system:serviceaccount:kubevirt:kubevirt-operator";
    let workload = matches!(resource, "deployments" | "daemonsets");
    if !(ok && complete && by_operator && workload && event.pointer("/objectRef/subresource").is_none()) {
        return None;
    }
    Some(Write {
        at: text("/requestReceivedTimestamp")?.parse().ok()?,
        verb: text("/verb")?.to_owned(),
        resource: resource.to_owned(),
        name: text("/objectRef/name")?.to_owned(),
    })
}

/// The workloads in the order in which the operator first wrote each.
pub fn first_writes(writes: &[Write]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for write in writes {
        if !names.contains(&write.name) {
            names.push(write.name.clone());
        }
    }
    names
}
