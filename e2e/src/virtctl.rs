//! virtctl as a person runs it: the one that was built beside this program.

use std::process::{Output, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

/// virtctl with arguments, to be run.
pub fn command(args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("virtctl"));
    command.args(args);
    Ok(command)
}

async fn run(args: &[&str]) -> anyhow::Result<Output> {
    command(args)?.output().await.context("running virtctl")
}

/// Starts virtctl with its standard input and output in our hands; it ends when it is dropped.
pub fn start(args: &[&str]) -> anyhow::Result<Child> {
    let mut command = command(args)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("running virtctl")
}

/// Runs virtctl to a good end; returns what it says, which may be nothing.
///
/// # Errors
/// When it fails.
pub async fn done(args: &[&str]) -> anyhow::Result<String> {
    let output = run(args).await?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "virtctl {}: {}: {complaint}", args.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What virtctl says when it succeeds.
///
/// # Errors
/// When it fails, or says nothing.
pub async fn said(args: &[&str]) -> anyhow::Result<String> {
    let said = done(args).await?;
    ensure!(!said.is_empty(), "virtctl {} said nothing", args.join(" "));
    Ok(said)
}

/// The last line of its complaint when virtctl fails.
///
/// # Errors
/// When it succeeds, or fails without a word.
pub async fn refused(args: &[&str]) -> anyhow::Result<String> {
    let output = run(args).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success(), "virtctl {} succeeded: {said}", args.join(" "));
    // what is said before it may be that this virtctl is newer than what runs
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.trim().lines().last().map(str::to_owned);
    last.with_context(|| format!("virtctl {} failed without a word", args.join(" ")))
}

/// What `virtctl update explain` says.
pub async fn explain() -> anyhow::Result<String> {
    said(&["update", "explain"]).await
}

/// What `virtctl update plan` would do for a tag, or does for the one in the spec.
pub async fn plan(image_tag: Option<&str>) -> anyhow::Result<Value> {
    let mut args = vec!["update", "plan", "-o", "json"];
    args.extend(image_tag.into_iter().flat_map(|tag| ["--image-tag", tag]));
    serde_json::from_str(&said(&args).await?).context("reading the plan")
}

/// The line with which `virtctl update plan` refuses a tag.
pub async fn refused_plan(image_tag: &str) -> anyhow::Result<String> {
    refused(&["update", "plan", "--image-tag", image_tag]).await
}

/// Asks for another try of an update that has failed.
pub async fn retry() -> anyhow::Result<String> {
    said(&["update", "retry"]).await
}
