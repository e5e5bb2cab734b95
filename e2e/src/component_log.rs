//! What the components say in their logs, which are lines of JSON.

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use serde_json::Value;

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    pub at: Timestamp,
    pub message: String,
    fields: Value,
}

impl Line {
    fn read(line: &str) -> Option<Self> {
        let fields: Value = serde_json::from_str(line).ok()?;
        Some(Self {
            at: fields["timestamp"].as_str()?.parse().ok()?,
            message: fields["msg"].as_str()?.to_owned(),
            fields,
        })
    }

    /// One of its fields, empty where it has none of the name.
    pub fn field(&self, name: &str) -> &str {
        self.fields[name].as_str().unwrap_or_default()
    }
}

/// All that a pod has said since it started: nothing if its container hasn't, or it is gone.
pub async fn of(pods: &Api<Pod>, name: &str) -> anyhow::Result<Vec<Line>> {
    let log = match pods.logs(name, &LogParams::default()).await {
        Ok(log) => log,
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404) => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("the log of {name}")),
    };
    Ok(log.lines().filter_map(Line::read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_time_a_message_and_fields() {
        let said = r#"{"level":"info","msg":"leading","timestamp":"2026-01-01T00:00:00.5Z","lease":"virt-controller"}"#;
        let line = Line::read(said).unwrap();
        assert_eq!(
            (line.message.as_str(), line.field("lease"), line.field("x")),
            ("leading", "virt-controller", "")
        );
        assert_eq!(line.at.subsec_millisecond(), 500);
        assert!(Line::read("thread 'main' panicked").is_none());
    }
}
