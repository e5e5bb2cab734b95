//! Whose turn it is: the limits per cluster and node, the order of those that wait, and how long
//! a drain waits after a failure. Pure; knows nothing of pods but whether a migration has one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kubevirt_types::migration::{MigrationConfiguration, MigrationPhase};
use kubevirt_types::{VirtualMachineInstanceMigration, labels};

use super::status;

/// The wait after a first failure of a migration that a drain asked for; it doubles with each.
const FIRST_BACKOFF_SECONDS: u64 = 20;
/// The longest wait.
const LONGEST_BACKOFF_SECONDS: u64 = 300;

/// A migration of the cluster, as far as limits are concerned.
#[derive(Debug, Clone)]
pub struct Other {
    /// The migration.
    pub migration: Arc<VirtualMachineInstanceMigration>,
    /// The node that its guest leaves, where it is known.
    pub source_node: Option<String>,
    /// Whether its target pod exists: it may, before its phase says so.
    pub has_pod: bool,
}

/// Whether a migration may make its target pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It may.
    Now,
    /// Enough guests move.
    ClusterFull {
        /// Guests that may move at the same time.
        limit: u32,
    },
    /// Enough guests leave its node.
    NodeFull {
        /// The node.
        node: String,
        /// Guests that may leave it at the same time.
        limit: u32,
    },
}

/// What is free: in the cluster, and on each node that is counted.
struct Free<'a> {
    cluster: u32,
    per_node: u32,
    nodes: HashMap<&'a str, u32>,
}

impl<'a> Free<'a> {
    fn take(&mut self, node: Option<&'a str>) -> Turn {
        let left = node.map(|node| self.nodes.get(node).copied().unwrap_or(self.per_node));
        match (self.cluster, left, node) {
            (0, _, _) => Turn::ClusterFull { limit: 0 },
            (_, Some(0), Some(node)) => Turn::NodeFull { node: node.to_owned(), limit: self.per_node },
            (_, left, node) => {
                self.cluster -= 1;
                if let (Some(node), Some(left)) = (node, left) {
                    self.nodes.insert(node, left - 1);
                }
                Turn::Now
            }
        }
    }

    /// What moves already counts, even where a limit was lowered under it.
    fn occupy(&mut self, node: Option<&'a str>) {
        self.cluster = self.cluster.saturating_sub(1);
        if let Some(node) = node {
            let left = self.nodes.entry(node).or_insert(self.per_node);
            *left = left.saturating_sub(1);
        }
    }
}

/// Whether it is the turn of `me`. The oldest goes first; one that waits for its node holds up
/// nobody on another.
pub fn turn(
    me: &VirtualMachineInstanceMigration,
    node: Option<&str>,
    all: &[Other],
    limits: &MigrationConfiguration,
    now: Timestamp,
) -> Turn {
    let cluster = limits.parallel_migrations_per_cluster.unwrap_or(u32::MAX);
    let per_node = limits.parallel_outbound_migrations_per_node.unwrap_or(u32::MAX);
    let mut free = Free { cluster, per_node, nodes: HashMap::new() };
    let ended = Ended::of(all);
    let others = || all.iter().filter(|other| other.migration.uid() != me.uid());
    for other in others().filter(|other| is_moving(other)) {
        free.occupy(other.source_node.as_deref());
    }
    let mut ahead: Vec<&Other> =
        others().filter(|other| waits(other, &ended, now) && rank(&other.migration) < rank(me)).collect();
    ahead.sort_by(|a, b| rank(&a.migration).cmp(&rank(&b.migration)));
    for other in ahead {
        free.take(other.source_node.as_deref());
    }
    match free.take(node) {
        Turn::ClusterFull { .. } => Turn::ClusterFull { limit: cluster },
        turn @ (Turn::Now | Turn::NodeFull { .. }) => turn,
    }
}

/// Whether it has, or had, a target pod and isn't over.
pub fn is_moving(other: &Other) -> bool {
    match other.migration.phase() {
        MigrationPhase::Unset | MigrationPhase::Pending => other.has_pod,
        MigrationPhase::Scheduling
        | MigrationPhase::Scheduled
        | MigrationPhase::PreparingTarget
        | MigrationPhase::TargetReady
        | MigrationPhase::Running => true,
        MigrationPhase::Succeeded | MigrationPhase::Failed => false,
    }
}

/// Whether it waits for nothing but its turn.
fn waits(other: &Other, ended: &Ended<'_>, now: Timestamp) -> bool {
    let migration = &other.migration;
    migration.phase() == MigrationPhase::Pending
        && !other.has_pod
        && !migration.is_deleting()
        && !status::is_refused(migration)
        && ended.not_before(migration).is_none_or(|due| due <= now)
}

/// The order of migrations: by age, and of equals by name.
pub fn rank(migration: &VirtualMachineInstanceMigration) -> (Option<Timestamp>, &str, &str) {
    let created = migration.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, migration.name(), migration.namespace())
}

/// Whether two migrations are of the same instance.
pub fn same_instance(one: &VirtualMachineInstanceMigration, other: &VirtualMachineInstanceMigration) -> bool {
    one.spec.vmi_name == other.spec.vmi_name && one.namespace() == other.namespace()
}

/// The migration of the same instance that goes before `me`: one that has a target pod, or is older.
pub fn rival<'a>(
    me: &VirtualMachineInstanceMigration,
    all: &'a [Other],
) -> Option<&'a VirtualMachineInstanceMigration> {
    all.iter()
        .filter(|other| other.migration.uid() != me.uid() && same_instance(me, &other.migration))
        .filter(|other| !other.migration.phase().is_final())
        .find(|other| is_moving(other) || rank(&other.migration) < rank(me))
        .map(|other| &*other.migration)
}

/// Before when a drain doesn't try again: 20 s after a first failure, doubling to 300 s.
/// What people ask for is tried at once.
pub fn not_before(me: &VirtualMachineInstanceMigration, all: &[Other]) -> Option<Timestamp> {
    Ended::of(all).not_before(me)
}

/// The migrations that are over, by namespace and name of their instance.
struct Ended<'a>(HashMap<(&'a str, &'a str), Vec<&'a VirtualMachineInstanceMigration>>);

impl<'a> Ended<'a> {
    fn of(all: &'a [Other]) -> Self {
        let mut by_instance: HashMap<_, Vec<_>> = HashMap::new();
        for migration in all.iter().map(|other| &*other.migration) {
            if migration.phase().is_final() {
                let instance = (migration.namespace(), migration.spec.vmi_name.as_str());
                by_instance.entry(instance).or_default().push(migration);
            }
        }
        Self(by_instance)
    }

    fn not_before(&self, me: &VirtualMachineInstanceMigration) -> Option<Timestamp> {
        me.metadata.annotations.as_ref()?.get(labels::EVACUATION_MIGRATION)?;
        let mut ended = self.0.get(&(me.namespace(), me.spec.vmi_name.as_str()))?.clone();
        ended.sort_by(|a, b| rank(b).cmp(&rank(a)));
        let mut failures = ended.iter().take_while(|other| other.phase() == MigrationPhase::Failed);
        let last = status::reached(failures.next()?, MigrationPhase::Failed)?;
        Some(last + backoff(failures.count()))
    }
}

fn backoff(failures_before: usize) -> Duration {
    let doubled = FIRST_BACKOFF_SECONDS << failures_before.min(10);
    Duration::from_secs(doubled.min(LONGEST_BACKOFF_SECONDS))
}

#[cfg(test)]
mod tests;
