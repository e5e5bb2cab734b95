//! The rules of the house: which crate may know which, what a pure crate may not touch, how long a file may be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// The house from the ground up: a crate may depend only on crates above it in this list.
const HOUSE: &[&str] = &[
    "kubevirt-types",
    "kubevirt-manifests",
    "kubevirt-rollout",
    "kubevirt-sim",
    "kubevirt-runtime",
    "kubevirt-observe",
    "kubevirt-stream",
    "handler-launcher-com",
    "virt-operator",
    "virt-api",
    "virt-controller",
    "virt-handler",
    "virt-launcher",
    "virtctl",
    "xtask",
    "e2e",
];

/// Crates that decide and do nothing.
const PURE: &[&str] = &["kubevirt-types", "kubevirt-manifests", "kubevirt-rollout", "kubevirt-sim"];

/// Crates that a pure crate may not depend on.
const IMPURE_CRATES: &[&str] = &["tokio", "kube", "hyper", "axum", "rand", "getrandom", "rustls", "tonic"];

/// What a pure crate's code may not say: clocks, randomness, the environment, files, the network.
const IMPURE_WORDS: &[&str] = &[
    "Timestamp::now",
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "Zoned::now",
];

/// Binaries never depend on each other's crates.
const BINARIES: &[&str] =
    &["virt-operator", "virt-api", "virt-controller", "virt-handler", "virt-launcher", "virtctl"];

/// A main that is longer does something that belongs elsewhere.
const MAIN_LINES: usize = 30;
/// A file that is longer must be split.
const FILE_LINES: usize = 800;

/// Module names that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helpers", "helper", "common", "manager", "misc"];

/// Runs every check and prints what each looked at.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let edges = dependencies(root)?;
    let mut complaints = Vec::new();
    for (package, dependencies) in &edges {
        let place = position(package).with_context(|| format!("{package} has no place in the house"))?;
        for dependency in dependencies {
            match position(dependency) {
                Some(below) if below >= place => {
                    complaints
                        .push(format!("{package} may not depend on {dependency}: the edge points down"));
                }
                Some(_) if BINARIES.contains(&dependency.as_str()) => {
                    complaints.push(format!("{package} may not depend on the binary {dependency}"));
                }
                Some(_) | None => {}
            }
            if PURE.contains(&package.as_str()) && IMPURE_CRATES.contains(&dependency.as_str()) {
                complaints.push(format!("{package} is pure and may not depend on {dependency}"));
            }
        }
    }
    let files = sources(root)?;
    for file in &files {
        let text = std::fs::read_to_string(root.join(file))?;
        complaints.extend(file_complaints(file, &text));
    }
    if !complaints.is_empty() {
        bail!("{} complaints\n{}", complaints.len(), complaints.join("\n"));
    }
    crate::generate::verify(root)?;
    println!("house: {} crates, {} source files, generated manifests up to date", edges.len(), files.len());
    Ok(())
}

fn position(package: &str) -> Option<usize> {
    HOUSE.iter().position(|name| *name == package)
}

/// Normal and build dependencies of each crate of the workspace.
fn dependencies(root: &Path) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut edges = BTreeMap::new();
    for package in metadata["packages"].as_array().context("metadata lists packages")? {
        let name = package["name"].as_str().context("a package has a name")?;
        let dependencies = package["dependencies"].as_array().context("a package lists dependencies")?;
        let normal = dependencies
            .iter()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
        edges.insert(name.to_owned(), normal.collect());
    }
    Ok(edges)
}

/// Every Rust file below the root, except generated ones.
fn sources(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = ["crates", "xtask", "e2e"].map(|folder| root.join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("generated") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn file_complaints(file: &Path, text: &str) -> Vec<String> {
    let shown = file.display();
    let lines = text.lines().count();
    let mut complaints = Vec::new();
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        complaints.push(format!("{shown}: the name says nothing"));
    }
    if lines > FILE_LINES {
        complaints.push(format!("{shown}: {lines} lines, at most {FILE_LINES}"));
    }
    let binary = BINARIES.iter().any(|binary| file == Path::new(&format!("crates/{binary}/src/main.rs")));
    if binary && lines > MAIN_LINES {
        complaints.push(format!("{shown}: {lines} lines, a main has at most {MAIN_LINES}"));
    }
    if !text.starts_with("//!") {
        complaints.push(format!("{shown}: doesn't begin with what it owns (//!)"));
    }
    let pure = PURE.iter().any(|package| file.starts_with(format!("crates/{package}/src")));
    if pure {
        for word in IMPURE_WORDS.iter().filter(|word| text.contains(**word)) {
            complaints.push(format!("{shown}: a pure crate may not say {word}"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_crate_with_a_clock_is_refused() {
        let file = Path::new("crates/kubevirt-rollout/src/plan.rs");
        assert!(
            file_complaints(file, "//! Plans.\nlet now = Timestamp::now();\n")[0].contains("may not say")
        );
        assert!(file_complaints(file, "//! Plans.\n").is_empty());
        assert!(!file_complaints(file, "fn plan() {}\n").is_empty());
    }

    #[test]
    fn a_long_main_is_refused() {
        let file = Path::new("crates/virt-api/src/main.rs");
        let text = format!("//! Main.\n{}", "let x = 1;\n".repeat(MAIN_LINES));
        assert_eq!(file_complaints(file, &text).len(), 1);
    }
}
