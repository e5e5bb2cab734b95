//! Runs end-to-end tests one after the other, on one cluster, and prints what became of each.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use anyhow::{bail, ensure};

use crate::cluster::Cluster;
use crate::product::Product;
use crate::tests;

/// What a test gets.
#[derive(Clone)]
pub struct Context {
    pub cluster: Cluster,
    pub product: Product,
    /// A fresh namespace of its own.
    pub namespace: String,
    /// A test that tries one case after another tries only those whose names contain one of these, parted by commas.
    pub case: Option<String>,
}

impl Context {
    /// Whether a test of several cases tries this one.
    pub fn wants(&self, case: &str) -> bool {
        self.case.as_ref().is_none_or(|parts| parts.split(',').any(|part| case.contains(part)))
    }
}

type Run = fn(Context) -> Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// One end-to-end test.
pub struct Test {
    pub name: &'static str,
    /// The suite that it belongs to.
    pub suite: &'static str,
    /// Whether `make test` runs it.
    pub core: bool,
    pub run: Run,
}

/// A test of a suite, from an async function.
macro_rules! test {
    ($suite:literal, core: $core:literal, $function:path) => {
        $crate::suite::Test {
            name: stringify!($function),
            suite: $suite,
            core: $core,
            run: |context| Box::pin($function(context)),
        }
    };
}
pub(crate) use test;

/// Runs a suite: `core` is the part of every suite that `make test` runs.
///
/// # Errors
/// When a test failed, or the suite has none.
pub async fn run(suite: &str, only: Option<&str>, case: Option<String>) -> anyhow::Result<()> {
    let all = tests::all();
    let chosen: Vec<&Test> = all
        .iter()
        .filter(|test| if suite == "core" { test.core } else { test.suite == suite })
        .filter(|test| only.is_none_or(|part| test.name.contains(part)))
        .collect();
    if chosen.is_empty() {
        let mut suites: Vec<&str> = all.iter().map(|test| test.suite).collect();
        suites.sort_unstable();
        suites.dedup();
        bail!("no test of suite {suite:?}: there are core, {}", suites.join(", "));
    }
    let cluster = Cluster::connect().await?;
    let product = Product::on(&cluster);
    cluster.remove_namespaces().await?;
    let (mut passed, mut failed) = (0, Vec::new());
    for (index, test) in chosen.iter().enumerate() {
        println!("==> [{}/{}] {}", index + 1, chosen.len(), test.name);
        let begun = Instant::now();
        let outcome = run_one(&cluster, &product, test, case.clone()).await;
        let seconds = begun.elapsed().as_secs();
        match outcome {
            Ok(()) => {
                println!("    ok, {seconds} s");
                passed += 1;
            }
            Err(error) => {
                println!("    FAILED after {seconds} s: {error:#}");
                failed.push(test.name);
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed", failed.len());
    ensure!(failed.is_empty(), "{} of {} end-to-end tests failed", failed.len(), chosen.len());
    Ok(())
}

async fn run_one(
    cluster: &Cluster,
    product: &Product,
    test: &Test,
    case: Option<String>,
) -> anyhow::Result<()> {
    let short = test.name.rsplit("::").next().unwrap_or(test.name);
    let namespace = cluster.namespace(short).await?;
    let context = Context { cluster: cluster.clone(), product: product.clone(), namespace, case };
    let outcome = (test.run)(context).await;
    cluster.remove_namespaces().await?;
    outcome
}
