//! Reports as ConfigMaps of the install namespace, owned by the KubeVirt object. They aren't part of a release, so they
//! carry no label of one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use kubevirt_rollout::report::{UpdateReport, stored};
use kubevirt_types::{KubeVirt, labels};
use tokio::time::timeout;

use crate::{FIELD_MANAGER, said};

/// The key of a report in its ConfigMap.
const KEY: &str = "report.json";
/// Reports that are kept: an etcd of thousands of nodes holds them without noticing.
const KEPT: usize = 5;
/// A report must not hold up the update that it is of.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Why a report isn't stored, or isn't known.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The API server refused it.
    #[error("{what}: {}", said(error))]
    Refused {
        #[allow(missing_docs)]
        what: String,
        #[allow(missing_docs)]
        error: Box<kube::Error>,
    },
    /// No answer came in time.
    #[error("{what}: no answer within {} s", REQUEST_LIMIT.as_secs())]
    Timeout {
        #[allow(missing_docs)]
        what: String,
    },
}

impl StoreError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { error, .. } => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }
}

/// A report and where it is stored.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The ConfigMap's name.
    pub name: String,
    /// The report.
    pub report: UpdateReport,
    /// The resourceVersion of what was stored last; none before anything was.
    pub resource_version: Option<String>,
}

/// The ConfigMaps.
pub struct Store {
    api: Api<ConfigMap>,
}

impl Store {
    /// Of the install namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    /// Every report that can be read. One that can't is of another release, and left alone.
    pub async fn all(&self) -> Result<Vec<Entry>, StoreError> {
        let listed = bounded("the reports of updates", self.api.list(&selected())).await?;
        let entry = |config_map: ConfigMap| {
            let name = config_map.name_any();
            let resource_version = config_map.resource_version();
            let text = config_map.data.unwrap_or_default().remove(KEY).unwrap_or_default();
            serde_json::from_str(&text)
                .inspect_err(|error| tracing::warn!(name, %error, "a report can't be read"))
                .ok()
                .map(|report| Entry { name, report, resource_version })
        };
        Ok(listed.items.into_iter().filter_map(entry).collect())
    }

    /// Stores a report, whatever is there: only the leader writes, and what another has written in between, it wrote
    /// before it stopped to lead.
    pub async fn save(&self, entry: &mut Entry, owner: &KubeVirt) -> Result<(), StoreError> {
        match self.save_unchanged(entry, owner).await {
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                let found = bounded(&entry.name, self.api.get_metadata_opt(&entry.name)).await?;
                entry.resource_version = found.and_then(|found| found.resource_version());
                self.save_unchanged(entry, owner).await
            }
            saved => saved,
        }
    }

    /// Stores a report if nobody has since it was stored last.
    pub async fn save_unchanged(&self, entry: &mut Entry, owner: &KubeVirt) -> Result<(), StoreError> {
        let body = config_map(entry, owner);
        let field_manager = Some(FIELD_MANAGER.to_owned());
        let saved = match &entry.resource_version {
            // The operator may patch ConfigMaps, not update them; the resourceVersion in the patch is the precondition.
            Some(_) => {
                let params = PatchParams { field_manager, ..PatchParams::default() };
                bounded(&entry.name, self.api.patch(&entry.name, &params, &Patch::Merge(&body))).await?
            }
            None => {
                let params = PostParams { field_manager, ..PostParams::default() };
                bounded(&entry.name, self.api.create(&params, &body)).await?
            }
        };
        entry.resource_version = saved.resource_version();
        Ok(())
    }

    /// Deletes all reports but the newest.
    pub async fn prune(&self) -> Result<(), StoreError> {
        let listed = bounded("the reports of updates", self.api.list_metadata(&selected())).await?;
        for name in surplus(listed.items.iter().map(ResourceExt::name_any).collect()) {
            match bounded(&name, self.api.delete(&name, &DeleteParams::default())).await {
                Err(error) if error.code() == Some(404) => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }
}

fn selected() -> ListParams {
    ListParams::default().labels(labels::UPDATE_REPORT)
}

/// The names of all but the newest.
fn surplus(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.truncate(names.len().saturating_sub(KEPT));
    names
}

fn config_map(entry: &Entry, owner: &KubeVirt) -> ConfigMap {
    let owner = OwnerReference {
        api_version: KubeVirt::api_version(&()).into_owned(),
        kind: KubeVirt::kind(&()).into_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        ..OwnerReference::default()
    };
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(entry.name.clone()),
            labels: Some(BTreeMap::from([(labels::UPDATE_REPORT.to_owned(), String::new())])),
            owner_references: Some(vec![owner]),
            resource_version: entry.resource_version.clone(),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), stored(&entry.report))])),
        ..ConfigMap::default()
    }
}

async fn bounded<T>(
    what: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, StoreError> {
    match timeout(REQUEST_LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StoreError::Refused { what: what.to_owned(), error: Box::new(error) }),
        Err(_) => Err(StoreError::Timeout { what: what.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let names = |numbers: &[u32]| numbers.iter().map(|n| format!("r-{n:02}")).collect::<Vec<_>>();
        assert_eq!(surplus(names(&[7, 1, 3, 2, 9, 5, 11])), names(&[1, 2]));
        assert_eq!(surplus(names(&[7, 1])), names(&[]));
    }
}
