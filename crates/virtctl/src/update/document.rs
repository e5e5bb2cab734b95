//! What `update plan` and `update explain` print: a document for machines, a table and a line for people. Pure.

use std::fmt::Write;

use kubevirt_rollout::explain::{Overview, StageState, Wait};
use serde::Serialize;

use crate::cli::Output;

/// `update plan -o json`: the plan, and what it doesn't know. Fields are added and never change their meaning.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    /// Which document this is, for those who find it in a file.
    pub(super) kind: &'static str,
    /// The tag that was planned for in place of `spec.imageTag`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_tag: Option<String>,
    /// The plan.
    #[serde(flatten)]
    pub(super) overview: Overview,
    /// What the plan doesn't know, and why.
    pub(super) notes: Vec<String>,
}

/// A document can't be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("writing JSON")]
    Json(#[from] serde_json::Error),
    #[error("writing YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// A document in the form that was asked for.
pub(super) fn written(document: &impl Serialize, output: Output) -> Result<String, DocumentError> {
    match output {
        Output::Json => Ok(serde_json::to_string_pretty(document)?),
        // by way of JSON, so that both have the same fields
        Output::Yaml => Ok(serde_saphyr::to_string(&serde_json::to_value(document)?)?.trim_end().to_owned()),
    }
}

/// A plan for people.
pub(super) fn text(document: &Document) -> String {
    let Overview { from, to, stage, stages, steps, waiting_for, explanation, .. } = &document.overview;
    let mut text = String::new();
    let versions = match (from, to) {
        (Some(from), Some(to)) if from != to => format!("{from} -> {to}"),
        (_, Some(to)) => to.clone(),
        (from, None) => from.clone().unwrap_or_default(),
    };
    line(&mut text, &format!("{:<11}{}", "Direction", document.overview.direction));
    line(&mut text, &format!("{:<11}{versions}", "Version"));
    line(&mut text, &format!("{:<11}{stage}", "Stage"));
    if !stages.is_empty() {
        line(&mut text, "");
    }
    for row in stages {
        let state = match row.state {
            StageState::Done => "done",
            StageState::Now => "now",
            StageState::ToCome => "to come",
        };
        line(&mut text, &format!("  {state:<8} {:<15} {}", row.stage, row.about));
    }
    list(&mut text, "Written next", steps.iter().map(|step| step.text.clone()));
    list(&mut text, "Waiting for", waiting_for.iter().map(waits));
    list(&mut text, "Notes", document.notes.iter().cloned());
    line(&mut text, "");
    text.push_str(&explanation.line);
    text
}

/// One thing that is waited for: since when, where, and what comes then.
fn waits(wait: &Wait) -> String {
    let mut facts = Vec::new();
    if let Some(since) = wait.since {
        facts.push(format!("since {}", since.strftime("%Y-%m-%dT%H:%M:%SZ")));
    }
    if !wait.nodes.is_empty() {
        facts.push(format!("nodes {}", wait.nodes.join(", ")));
    }
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join("; ")) };
    format!("{}{facts}: {}", wait.message, wait.next)
}

fn list(text: &mut String, title: &str, lines: impl ExactSizeIterator<Item = String>) {
    if lines.len() == 0 {
        return;
    }
    line(text, &format!("\n{title} ({})", lines.len()));
    for entry in lines {
        line(text, &format!("  {entry}"));
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a String takes all that is written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevirt_rollout::explain::{Explanation, StageRow, State, StepRow};
    use serde_json::{Value, json};

    fn document() -> Document {
        let row = |stage: &str, about, state| StageRow { stage: stage.into(), about, state };
        let line = "update v0.17.0 -> v0.18.0: virt-handler: 0 of 2 ready".to_owned();
        Document {
            kind: "UpdatePlan",
            image_tag: Some("v0.18.0".into()),
            overview: Overview {
                direction: "Update",
                from: Some("v0.17.0".into()),
                to: Some("v0.18.0".into()),
                stage: "Handlers".into(),
                stages: vec![
                    row("Services", "Services and disruption budgets", StageState::Done),
                    row("Handlers", "virt-handler, one node first", StageState::Now),
                    row("Controllers", "virt-controller", StageState::ToCome),
                ],
                steps: vec![StepRow {
                    action: "apply",
                    object: None,
                    text: "apply DaemonSet kubevirt/virt-handler".into(),
                }],
                waiting_for: vec![Wait {
                    reason: "HandlersNotReady",
                    message: "virt-handler: 0 of 2 ready".into(),
                    cause: None,
                    nodes: vec!["a".into(), "b".into()],
                    since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                    until: None,
                    next: "then virt-controller".into(),
                }],
                failed: None,
                explanation: Explanation {
                    line: line.clone(),
                    state: State::InProgress,
                    subject: line,
                    what: None,
                    nodes: vec![],
                    since: None,
                    until: None,
                    next: None,
                },
            },
            notes: vec!["you may not list secrets".into()],
        }
    }

    #[test]
    fn a_person_sees_the_order_the_writes_and_the_waits() {
        let expected = "\
Direction  Update
Version    v0.17.0 -> v0.18.0
Stage      Handlers

  done     Services        Services and disruption budgets
  now      Handlers        virt-handler, one node first
  to come  Controllers     virt-controller

Written next (1)
  apply DaemonSet kubevirt/virt-handler

Waiting for (1)
  virt-handler: 0 of 2 ready (since 2026-01-01T00:00:00Z; nodes a, b): then virt-controller

Notes (1)
  you may not list secrets

update v0.17.0 -> v0.18.0: virt-handler: 0 of 2 ready";
        assert_eq!(text(&document()), expected);
    }

    #[test]
    fn json_and_yaml_are_the_same_document() {
        let json: Value = serde_json::from_str(&written(&document(), Output::Json).unwrap()).unwrap();
        let yaml: Value = serde_saphyr::from_str(&written(&document(), Output::Yaml).unwrap()).unwrap();
        assert_eq!(json, yaml);
        assert_eq!((&json["kind"], &json["imageTag"]), (&json!("UpdatePlan"), &json!("v0.18.0")));
        assert_eq!(json["stages"][2]["state"], "ToCome");
        assert_eq!(json["waitingFor"][0]["nodes"], json!(["a", "b"]));
    }
}
