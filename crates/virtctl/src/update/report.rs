//! `update report`: what an update was like, as the operator saw it. Read-only.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use kubevirt_rollout::report::UpdateReport;
use kubevirt_types::labels::UPDATE_REPORT;
use serde::Serialize;
use serde_json::Value;

use super::document::{DocumentError, written};
use super::observe::installation;
use super::report_text::text;
use crate::cli::ReportOptions;
use crate::cluster::{Cluster, words};
use crate::terminal::say;

/// The key of a report in its ConfigMap.
const KEY: &str = "report.json";

/// There is no report to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("can't read the installation: {}", words(.0))]
    Look(Box<kube::Error>),
    #[error("there is no KubeVirt object in this cluster")]
    NotInstalled,
    #[error("can't read the reports: {}", words(.0))]
    List(Box<kube::Error>),
    #[error(
        "there is no report: no update has begun here that an operator has reported (an installation is none)"
    )]
    None,
    #[error("there is no report {wanted}; there are {}", .there.join(", "))]
    Unknown { wanted: String, there: Vec<String> },
    #[error("report {name} can't be read: a newer virtctl may, or look with -o json")]
    Unreadable {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Document(#[from] DocumentError),
}

/// `update report -o json`: the report as it is stored, fields of later releases too.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: &'static str,
    /// The ConfigMap.
    name: String,
    #[serde(flatten)]
    report: Value,
}

/// Shows a report.
pub(crate) async fn report(cluster: &Cluster, options: &ReportOptions) -> Result<(), ReportError> {
    let kubevirt = installation(&cluster.client).await.map_err(|error| ReportError::Look(Box::new(error)))?;
    let namespace = kubevirt.ok_or(ReportError::NotInstalled)?.namespace().to_owned();
    let all =
        stored(&cluster.client, &namespace).await.map_err(|error| ReportError::List(Box::new(error)))?;
    let (name, stored) = chosen(all, options)?;
    let unreadable = |source| ReportError::Unreadable { name: name.clone(), source };
    let report: Value = serde_json::from_str(&stored).map_err(unreadable)?;
    match options.output {
        Some(output) => say(&written(&Document { kind: "UpdateReport", name, report }, output)?),
        None => {
            let report: UpdateReport = serde_json::from_value(report).map_err(unreadable)?;
            say(&text(&name, &report));
        }
    }
    Ok(())
}

/// Every report by its name, the newest first.
async fn stored(client: &Client, namespace: &str) -> Result<Vec<(String, String)>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let listed = api.list(&ListParams::default().labels(UPDATE_REPORT)).await?;
    let mut all: Vec<_> = listed
        .items
        .into_iter()
        .filter_map(|mut map| Some((map.name_any(), map.data.as_mut()?.remove(KEY)?)))
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0));
    Ok(all)
}

/// The one that was asked for.
fn chosen(
    mut newest_first: Vec<(String, String)>,
    options: &ReportOptions,
) -> Result<(String, String), ReportError> {
    if newest_first.is_empty() {
        return Err(ReportError::None);
    }
    let names: Vec<String> = newest_first.iter().map(|(name, _)| name.clone()).collect();
    let (place, wanted) = match &options.name {
        Some(wanted) => (names.iter().position(|name| name == wanted), wanted.clone()),
        None => (options.index.checked_sub(1), options.index.to_string()),
    };
    match place.filter(|place| *place < newest_first.len()) {
        Some(place) => Ok(newest_first.swap_remove(place)),
        None => Err(ReportError::Unknown { wanted, there: names }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_chosen_by_its_place_or_its_name() {
        let all = || ["c", "b", "a"].map(|name| (format!("r-{name}"), name.to_owned())).to_vec();
        let choose = |name: Option<&str>, index: usize| {
            let options = ReportOptions { name: name.map(str::to_owned), index, output: None };
            chosen(all(), &options).map(|(_, text)| text).map_err(|error| error.to_string())
        };
        assert_eq!(choose(None, 1).as_deref(), Ok("c"));
        assert_eq!(choose(None, 3).as_deref(), Ok("a"));
        assert_eq!(choose(Some("r-b"), 1).as_deref(), Ok("b"));
        assert_eq!(choose(None, 4), Err("there is no report 4; there are r-c, r-b, r-a".into()));
        assert_eq!(choose(Some("x"), 1), Err("there is no report x; there are r-c, r-b, r-a".into()));
        let none = chosen(vec![], &ReportOptions { name: None, index: 1, output: None }).unwrap_err();
        assert!(none.to_string().starts_with("there is no report: no update has begun here"));
    }
}
