//! One look at the cluster: every kind of the table, listed once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::try_join_all;
use kube::Client;
use kube::api::ListParams;
use kubevirt_types::ObjectKey;
use serde_json::Value;
use tokio::time::timeout;

use crate::kinds::{KINDS, KindRow, SECRET, Scope};
use crate::said;
use crate::source::{Source, drop_what_nobody_reads, with_type};

/// A page of the largest kind, nodes, on a cluster that works.
const PAGE_LIMIT: Duration = Duration::from_secs(15);
/// Objects in a page: the number that kubectl asks for.
const PAGE: u32 = 500;
/// What a look may lack: without Secrets a plan doesn't speak of certificates.
const DISPENSABLE: [&str; 1] = [SECRET];

/// Why the cluster couldn't be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The API server said no.
    #[error("listing {what}: {}", said(error))]
    Refused {
        /// Which kind, and where.
        what: String,
        #[allow(missing_docs)]
        error: Box<kube::Error>,
    },
    /// The API server said nothing.
    #[error("listing {what}: no answer within {} s", PAGE_LIMIT.as_secs())]
    Timeout {
        #[allow(missing_docs)]
        what: String,
    },
}

/// What was listed.
#[derive(Debug, Default)]
pub struct Listed {
    objects: BTreeMap<&'static str, BTreeMap<ObjectKey, Value>>,
    refused: BTreeSet<&'static str>,
}

impl Listed {
    /// Lists every kind, all at the same time. A kind that may be lacking and may not be read is left out.
    pub async fn list(client: &Client, namespace: &str) -> Result<Self, ListError> {
        let lists = KINDS.iter().map(|row| async move {
            match list(client, namespace, row).await {
                Ok(objects) => Ok((row.kind, Some(objects))),
                Err(error) if error.is_forbidden() && DISPENSABLE.contains(&row.kind) => Ok((row.kind, None)),
                Err(error) => Err(error),
            }
        });
        let mut listed = Self::default();
        for (kind, objects) in try_join_all(lists).await? {
            match objects {
                Some(objects) => {
                    listed.objects.insert(kind, objects);
                }
                None => {
                    listed.refused.insert(kind);
                }
            }
        }
        Ok(listed)
    }
}

impl ListError {
    fn is_forbidden(&self) -> bool {
        match self {
            Self::Refused { error, .. } => {
                matches!(error.as_ref(), kube::Error::Api(status) if status.code == 403)
            }
            Self::Timeout { .. } => false,
        }
    }
}

impl Source for Listed {
    fn of_kind(&self, kind: &str) -> Vec<Value> {
        self.objects.get(kind).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    fn get(&self, key: &ObjectKey) -> Option<Value> {
        self.objects.get(key.kind.as_str())?.get(key).cloned()
    }

    fn may_read(&self, kind: &str) -> bool {
        !self.refused.contains(kind)
    }
}

/// All objects of a kind, page by page.
async fn list(
    client: &Client,
    namespace: &str,
    row: &KindRow,
) -> Result<BTreeMap<ObjectKey, Value>, ListError> {
    let what = match row.scope {
        Scope::Cluster | Scope::Everywhere => row.plural.to_owned(),
        Scope::Install => format!("{} in namespace {namespace}", row.plural),
    };
    let api = row.watched_api(client.clone(), namespace);
    let mut params = ListParams::default().labels(row.selector).limit(PAGE);
    let mut objects = BTreeMap::new();
    loop {
        let page = match timeout(PAGE_LIMIT, api.list(&params)).await {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => return Err(ListError::Refused { what, error: Box::new(error) }),
            Err(_) => return Err(ListError::Timeout { what }),
        };
        for mut object in page.items {
            drop_what_nobody_reads(row, &mut object);
            let object = with_type(row, &object);
            objects.extend(ObjectKey::of(&object).map(|key| (key, object)));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
