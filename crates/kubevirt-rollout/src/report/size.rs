//! A report as it is stored: a ConfigMap holds less than a MiB, and a cluster may have thousands of nodes.

use super::UpdateReport;
use super::rollout::Times;

/// Longer ones are shortened. A ConfigMap takes 1 MiB with its metadata; what is left is for etcd's own limit.
pub const LIMIT: usize = 900 * 1024;
/// So many nodes are listed however long their names are: those that took longest.
pub const NODES_KEPT: usize = 100;

/// The report as JSON, of at most [`LIMIT`] bytes. Nodes are left out if it must be, those that took the shortest
/// time first.
pub fn stored(report: &UpdateReport) -> String {
    let mut text = json(report);
    let mut shortened = report.clone();
    while text.len() > LIMIT {
        let Some(component) = shortened
            .components
            .values_mut()
            .filter(|component| component.nodes.len() > NODES_KEPT)
            .max_by_key(|component| component.nodes.len())
        else {
            break;
        };
        let nodes = std::mem::take(&mut component.nodes);
        let keep = (nodes.len() / 2).max(NODES_KEPT);
        let mut slowest: Vec<_> = nodes.into_iter().collect();
        slowest.sort_by_key(|(_, times)| std::cmp::Reverse(slowness(times)));
        component.nodes_left_out += slowest.len() - keep;
        slowest.truncate(keep);
        component.nodes = slowest.into_iter().collect();
        text = json(&shortened);
    }
    text
}

/// A new pod that isn't ready is the slowest; a node on which nothing has happened yet is the fastest.
fn slowness(times: &Times) -> (bool, i64) {
    (times.created.is_some() && times.ready.is_none(), times.took().unwrap_or(-1))
}

fn json(report: &UpdateReport) -> String {
    serde_json::to_string(report).expect("a report is JSON")
}
