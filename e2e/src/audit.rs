//! The API server's audit log, where this machine can read it: who wrote what, when.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

/// The operator's service account.
pub const OPERATOR: &str = "system:serviceaccount:kubevirt:kubevirt-operator";
/// virt-controller's.
pub const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";

/// One write that the API server carried out.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Write {
    pub at: Timestamp,
    pub verb: String,
    pub resource: String,
    pub name: String,
    /// The pod whose token was used.
    pub by: String,
    /// None for the object itself.
    pub subresource: Option<String>,
}

/// Successful writes with an account since a time; none where nobody named an audit log.
///
/// # Errors
/// When the one that was named can't be read.
pub fn writes(account: &str, since: Timestamp) -> anyhow::Result<Option<Vec<Write>>> {
    let Some(path) = std::env::var_os("AUDIT_LOG").map(PathBuf::from) else { return Ok(None) };
    let file = std::fs::File::open(&path).with_context(|| format!("the audit log {}", path.display()))?;
    let mut writes: Vec<Write> = BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter(|line| line.contains(account))
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter_map(|event| write(account, &event))
        .filter(|write| write.at >= since)
        .collect();
    writes.sort_by_key(|write| write.at);
    Ok(Some(writes))
}

fn write(account: &str, event: &Value) -> Option<Write> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let ok = event.pointer("/responseStatus/code").and_then(Value::as_u64).is_some_and(|code| code < 300);
    let complete = text("/stage")? == "ResponseComplete";
    let reads = matches!(text("/verb")?, "get" | "list" | "watch");
    if !(ok && complete && text("/user/username")? == account) || reads {
        return None;
    }
    Some(Write {
        at: text("/requestReceivedTimestamp")?.parse().ok()?,
        verb: text("/verb")?.to_owned(),
        resource: text("/objectRef/resource")?.to_owned(),
        name: text("/objectRef/name").unwrap_or_default().to_owned(),
        by: text("/user/extra/authentication.kubernetes.io~1pod-name/0").unwrap_or_default().to_owned(),
        subresource: text("/objectRef/subresource").map(str::to_owned),
    })
}

/// The workloads in the order in which the operator first wrote each.
pub fn first_writes(writes: &[Write]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for write in writes {
        let workload = matches!(write.resource.as_str(), "deployments" | "daemonsets");
        if workload && write.subresource.is_none() && !names.contains(&write.name) {
            names.push(write.name.clone());
        }
    }
    names
}

/// Who of these pods wrote, in order; one that goes on writing is named once. Each run has the number of its writes.
pub fn reigns(writes: &[Write], pods: &[String]) -> Vec<(String, usize)> {
    let mut reigns: Vec<(String, usize)> = Vec::new();
    for write in writes.iter().filter(|write| pods.contains(&write.by)) {
        match reigns.last_mut() {
            Some((by, number)) if *by == write.by => *number += 1,
            Some(_) | None => reigns.push((write.by.clone(), 1)),
        }
    }
    reigns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(verb: &str, code: u64, pod: &str, name: &str) -> Value {
        json!({
            "stage": "ResponseComplete", "verb": verb,
            "user": {"username": OPERATOR, "extra": {"authentication.kubernetes.io/pod-name": [pod]}},
            "objectRef": {"resource": "deployments", "name": name},
            "responseStatus": {"code": code},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000001Z",
        })
    }

    #[test]
    fn only_what_was_carried_out_counts() {
        assert!(write(OPERATOR, &event("get", 200, "a", "x")).is_none());
        assert!(write(OPERATOR, &event("patch", 409, "a", "x")).is_none());
        let events = [("a", "x"), ("a", "y"), ("b", "x"), ("job", "z"), ("b", "x"), ("a", "y")];
        let writes: Vec<Write> = events
            .iter()
            .filter_map(|(pod, name)| write(OPERATOR, &event("patch", 200, pod, name)))
            .collect();
        assert_eq!(first_writes(&writes), ["x", "y", "z"]);
        let pods = ["a".to_owned(), "b".to_owned()];
        let expected = [("a".to_owned(), 2), ("b".to_owned(), 2), ("a".to_owned(), 1)];
        assert_eq!(reigns(&writes, &pods), expected);
    }
}
