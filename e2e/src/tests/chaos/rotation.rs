//! A new CA and new leaves: the CA is known everywhere before the first leaf of it, and all are in use without a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::Api;
use kubevirt_types::labels;
use serde_json::json;

use super::blows::Struck;
use crate::component_log::{self, Line};
use crate::product::{NAMESPACE, Product, restarts};
use crate::wait;

/// The certificates that components serve with and call with.
const LEAVES: [&str; 5] = [
    labels::SECRET_OPERATOR_CERT,
    labels::SECRET_API_CERT,
    labels::SECRET_CONTROLLER_CERT,
    labels::SECRET_HANDLER_CLIENT_CERT,
    labels::SECRET_HANDLER_SERVER_CERT,
];
/// The components whose certificates are files of their pods.
const COMPONENTS: [&str; 3] = ["virt-api", "virt-controller", "virt-handler"];
/// A CA has its time to spread, a kubelet brings a Secret to a pod within two minutes, and the machine is busy.
const LIMIT: Duration = Duration::from_secs(600);
/// What a component says when it has read new certificates.
const LOADED: &str = "certificates loaded";
/// What it says when it doesn't trust a peer's certificate, or the peer not its own.
const REFUSED: &str = "TLS handshake failed";

/// Asks for certificates of other durations and waits until they are in use everywhere; returns what was seen.
///
/// # Errors
/// When a leaf was in use before its CA was known everywhere, a handshake failed, or it never comes to that.
pub async fn rotate(product: &Product, ca: &str, leaf: &str) -> anyhow::Result<Struck> {
    let client = &product.cluster.client;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let bundle = async || -> anyhow::Result<String> {
        let data = maps.get(labels::CONFIGMAP_CA).await?.data.unwrap_or_default();
        data.get(labels::CA_BUNDLE_KEY).cloned().context("no CA bundle")
    };
    let (old_bundle, old_leaves) = (bundle().await?, leaves(product).await?);
    let begun = Timestamp::now();
    let durations = json!({"selfSigned": {"ca": {"duration": ca}, "server": {"duration": leaf}}});
    product.patch_spec(json!({"certificateRotateStrategy": durations})).await?;
    wait::until("the new CA to be published", LIMIT, async || {
        wait::when(bundle().await? != old_bundle, "the bundle is as it was")
    })
    .await?;
    let published = Timestamp::now();
    let (mut first, mut unaware) = (None, Vec::new());
    wait::until("new leaves", LIMIT, async || {
        let new = leaves(product).await?;
        let changed = new.iter().filter(|(name, leaf)| old_leaves.get(*name) != Some(*leaf)).count();
        if changed > 0 && first.is_none() {
            let now = Timestamp::now();
            first = Some(now);
            // Those that drain, too: they still talk to the others.
            unaware = unaware_of_the_ca(product, begun, now).await?;
        }
        wait::when(changed == LEAVES.len(), format!("{changed} of {} are new", LEAVES.len()))
    })
    .await?;
    let (first, all) = (first.context("a leaf is new")?, Timestamp::now());
    ensure!(
        unaware.is_empty(),
        "{} did not know the new CA when the first leaf of it was there",
        unaware.join(", ")
    );
    wait::until("the new leaves to be in use", LIMIT, async || {
        let mut without = Vec::new();
        for (pod, lines) in logs(product).await? {
            // Who goes needs none, and who came later began with them.
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let came_later = pod.creation_timestamp().is_some_and(|created| created.0 > all);
            if !came_later
                && !leaf_files(&lines).iter().all(|files| loaded(&lines, files, first, Timestamp::now()))
            {
                without.push(pod.name_any());
            }
        }
        wait::when(without.is_empty(), format!("not in {}", without.join(", ")))
    })
    .await?;
    let in_use = Timestamp::now();
    let refused = refused(product, begun).await?;
    ensure!(refused.is_empty(), "TLS failures: {}", refused.join("; "));
    let after = |moment: Timestamp| moment.duration_since(begun).as_secs();
    let what = format!(
        "a new CA after {} s, leaves of it after {} s, in use everywhere after {} s",
        after(published),
        after(all),
        after(in_use)
    );
    Ok(Struck { what, at: Some(first), kubelet: None })
}

/// The pods of the control plane, with how often each was started: a rotation changes none of it.
pub async fn pods(product: &Product) -> anyhow::Result<BTreeMap<String, i32>> {
    let mut all = BTreeMap::new();
    for component in COMPONENTS.iter().chain(&["virt-operator"]) {
        all.extend(product.pods(component).await?.iter().map(|pod| (pod.name_any(), restarts(pod))));
    }
    ensure!(!all.is_empty(), "nothing is installed");
    Ok(all)
}

async fn leaves(product: &Product) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let secrets: Api<Secret> = Api::namespaced(product.cluster.client.clone(), NAMESPACE);
    let mut all = BTreeMap::new();
    for name in LEAVES {
        let data = secrets.get(name).await?.data.unwrap_or_default();
        let certificate = data.get("tls.crt").with_context(|| format!("{name} has no certificate"))?;
        all.insert(name.to_owned(), certificate.0.clone());
    }
    Ok(all)
}

/// The handshakes that failed since a moment, as those say who are there now.
async fn refused(product: &Product, since: Timestamp) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for component in COMPONENTS.iter().chain(&["virt-operator"]) {
        for pod in product.pods(component).await? {
            let lines = component_log::of(&product.all_pods(), &pod.name_any()).await?;
            let failed = lines.iter().filter(|line| line.message == REFUSED && line.at >= since);
            all.extend(failed.map(|line| {
                format!("{} at {}: {} {}", pod.name_any(), line.at, line.field("peer"), line.field("error"))
            }));
        }
    }
    Ok(all)
}

/// Who was there before the new CA was asked for, and hasn't read a bundle since.
async fn unaware_of_the_ca(
    product: &Product,
    begun: Timestamp,
    now: Timestamp,
) -> anyhow::Result<Vec<String>> {
    let logs = logs(product).await?;
    let unaware = logs.iter().filter(|(pod, lines)| {
        let was_there = pod.creation_timestamp().is_some_and(|created| created.0 < begun);
        was_there && trusts(lines) && !loaded(lines, labels::CA_BUNDLE_KEY, begun, now)
    });
    Ok(unaware.map(|(pod, _)| pod.name_any()).collect())
}

/// What those say whose containers run.
async fn logs(product: &Product) -> anyhow::Result<Vec<(Pod, Vec<Line>)>> {
    let mut all = Vec::new();
    for component in COMPONENTS {
        for pod in product.pods(component).await? {
            if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running") {
                let lines = component_log::of(&product.all_pods(), &pod.name_any()).await?;
                all.push((pod, lines));
            }
        }
    }
    Ok(all)
}

/// The files of each leaf that it has, as it names them when it reads them.
fn leaf_files(lines: &[Line]) -> BTreeSet<&str> {
    let read = lines.iter().filter(|line| line.message == LOADED).map(|line| line.field("files"));
    read.filter(|files| files.contains("tls.crt")).collect()
}

/// Whether it has read a bundle of CAs at all.
fn trusts(lines: &[Line]) -> bool {
    loaded(lines, labels::CA_BUNDLE_KEY, Timestamp::UNIX_EPOCH, Timestamp::now())
}

/// Whether a file was read anew in a time.
fn loaded(lines: &[Line], file: &str, from: Timestamp, to: Timestamp) -> bool {
    lines.iter().any(|line| {
        line.message == LOADED && line.field("files").contains(file) && from <= line.at && line.at <= to
    })
}
