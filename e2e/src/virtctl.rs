//! virtctl as a person runs it: the one that was built beside this program.

use std::process::Output;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;

/// Runs `virtctl update` with these arguments.
async fn update(args: &[&str]) -> anyhow::Result<Output> {
    let program = std::env::current_exe()?.with_file_name("virtctl");
    let mut command = Command::new(&program);
    command.arg("update").args(args);
    command.output().await.with_context(|| format!("running {}", program.display()))
}

/// What it says when it succeeds.
async fn said(args: &[&str]) -> anyhow::Result<String> {
    let output = update(args).await?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "virtctl update {}: {}: {complaint}", args.join(" "), output.status);
    ensure!(!said.is_empty(), "virtctl update {} said nothing", args.join(" "));
    Ok(said)
}

/// What `virtctl update explain` says.
pub async fn explain() -> anyhow::Result<String> {
    said(&["explain"]).await
}

/// What `virtctl update plan` would do for a tag, or does for the one in the spec.
pub async fn plan(image_tag: Option<&str>) -> anyhow::Result<Value> {
    let mut args = vec!["plan", "-o", "json"];
    args.extend(image_tag.into_iter().flat_map(|tag| ["--image-tag", tag]));
    serde_json::from_str(&said(&args).await?).context("reading the plan")
}

/// The line with which `virtctl update plan` refuses a tag.
pub async fn refused_plan(image_tag: &str) -> anyhow::Result<String> {
    let output = update(&["plan", "--image-tag", image_tag]).await?;
    ensure!(!output.status.success(), "a plan to {image_tag}: {}", String::from_utf8_lossy(&output.stdout));
    // what is said before it may be that this virtctl is newer than what runs
    let complaint = String::from_utf8_lossy(&output.stderr);
    complaint.trim().lines().last().map(str::to_owned).context("virtctl update plan failed without a word")
}

/// Asks for another try of an update that has failed.
pub async fn retry() -> anyhow::Result<String> {
    said(&["retry"]).await
}
