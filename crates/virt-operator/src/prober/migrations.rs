//! Every live migration that there is.

use kube::Client;
use kube::api::{Api, ListParams, VersionMatch};
use kubevirt_rollout::report::Moved;
use kubevirt_types::VirtualMachineInstanceMigration;

/// Lists them, as the API server has them in its cache: nobody waits for etcd because of a report.
pub async fn list(client: &Client) -> Result<Vec<Moved>, kube::Error> {
    let api: Api<VirtualMachineInstanceMigration> = Api::all(client.clone());
    let cached = ListParams::default().at("0").matching(VersionMatch::NotOlderThan);
    Ok(api.list(&cached).await?.items.iter().map(Moved::of).collect())
}
