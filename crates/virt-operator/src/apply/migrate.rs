//! Rewrites every object of a kind, so that all of them are stored as the version that the API server writes now.
//!
//! Changes nothing in an object and reads nothing of it but its name: what a field means is no business of this
//! module, so none can be lost here. Cut off anywhere, it is simply begun again.

use futures::{StreamExt, TryStreamExt, stream};
use kubevirt_rollout::Step;
use serde_json::Value;

use super::request::{self, Seen};
use super::{ApplyError, Executor, is_not_found, text};

/// Objects that are listed at once.
const PAGE: u32 = 500;
/// Requests under way at once: as many as an API server takes from one client without making others wait.
const AT_ONCE: usize = 8;

impl Executor {
    /// Writes every object of a kind as it is. One that has gone, or that somebody else has written since it was
    /// listed, needs it no more: whoever writes now writes the version that is stored now.
    pub(super) async fn rewrite(&self, step: &Step, plural: &str, version: &str) -> Result<(), ApplyError> {
        let url = format!("/apis/{}/{version}", kubevirt_types::GROUP);
        let all = self.names(step, &format!("{url}/{plural}")).await?;
        tracing::info!(plural, version, objects = all.len(), "rewriting every object");
        stream::iter(&all)
            .map(|seen| async {
                match self.send(step, request::rewrite(&url, plural, seen)).await {
                    Ok(_) | Err(ApplyError::Stale { .. }) => Ok(()),
                    Err(ApplyError::Refused { error, .. }) if is_not_found(&error) => Ok(()),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Every object at a URL, page by page. Only the names are kept, so that the list is read through before it can
    /// grow too old, and its size is no matter.
    async fn names(&self, step: &Step, url: &str) -> Result<Vec<Seen>, ApplyError> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let page = self.send(step, request::list_page(url, PAGE, next.as_deref())).await?;
            let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            all.extend(items.iter().filter_map(seen));
            next = text(&page, "/metadata/continue").filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(all);
            }
        }
    }
}

fn seen(item: &Value) -> Option<Seen> {
    let metadata = |field: &str| text(item, &format!("/metadata/{field}"));
    Some(Seen {
        namespace: metadata("namespace")?,
        name: metadata("name")?,
        uid: metadata("uid")?,
        resource_version: metadata("resourceVersion")?,
    })
}
