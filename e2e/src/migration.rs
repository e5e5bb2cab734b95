//! Migrations as their owner sees them: an object that is made, watched and deleted, and a VM that goes on.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kube::Client;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kubevirt_types::VirtualMachineInstanceMigration;
use kubevirt_types::migration::{MigrationPhase, MigrationState, VirtualMachineInstanceMigrationSpec};

use crate::vm::Vms;
use crate::wait::{self, Look};

/// A guest of 96 MiB moves within seconds; a machine under load takes longer.
pub const MOVE_LIMIT: Duration = Duration::from_secs(180);

/// The migrations of one namespace.
#[derive(Clone)]
pub struct Migrations {
    pub api: Api<VirtualMachineInstanceMigration>,
}

impl Migrations {
    /// The migrations of one namespace.
    pub fn of(client: &Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace) }
    }

    /// Asks for a VM to be moved; returns the migration's name.
    pub async fn begin(&self, vmi: &str) -> Result<String, kube::Error> {
        let migration = VirtualMachineInstanceMigration {
            metadata: ObjectMeta { generate_name: Some(format!("{vmi}-")), ..ObjectMeta::default() },
            spec: VirtualMachineInstanceMigrationSpec {
                vmi_name: vmi.to_owned(),
                ..VirtualMachineInstanceMigrationSpec::default()
            },
            ..VirtualMachineInstanceMigration::default()
        };
        Ok(self.api.create(&PostParams::default(), &migration).await?.name().to_owned())
    }

    /// Waits until a migration is in a phase. Fails at once when it is over in another one.
    pub async fn wait_phase(&self, name: &str, wanted: MigrationPhase) -> anyhow::Result<()> {
        let over = wait::until(format!("migration {name} to be {wanted:?}"), MOVE_LIMIT, async || {
            let status = self.api.get(name).await?.status.unwrap_or_default();
            let how = format!("{:?}, {:?}", status.phase, status.conditions);
            Ok(match status.phase {
                phase if phase == wanted => Look::Done(None),
                phase if phase.is_final() => Look::Done(Some(how)),
                _ => Look::NotYet(how),
            })
        })
        .await?;
        over.map_or(Ok(()), |how| bail!("migration {name} ended otherwise: {how}"))
    }

    /// Moves a VM and checks that it is where the migration says; returns the migration's state.
    pub async fn carry_out(&self, vms: &Vms, vmi: &str) -> anyhow::Result<MigrationState> {
        let before = vms.vmis.get(vmi).await?;
        let name = self.begin(vmi).await?;
        self.wait_phase(&name, MigrationPhase::Succeeded).await?;
        let state = wait::until("the source's word on how long the guest stood", MOVE_LIMIT, async || {
            let state = self.api.get(&name).await?.status.and_then(|status| status.migration_state);
            let state = state.context("a migration that succeeded has a state")?;
            Ok(match state.downtime_milliseconds {
                Some(_) => Look::Done(state),
                None => Look::NotYet(format!("{state:?}")),
            })
        })
        .await?;
        let after = vms.vmis.get(vmi).await?;
        let status = after.status.clone().unwrap_or_default();
        let node =
            |vmi: &kubevirt_types::VirtualMachineInstance| vmi.status.clone().unwrap_or_default().node_name;
        ensure!(before.uid() == after.uid(), "{vmi} is another instance");
        ensure!(node(&before).as_deref() == Some(&state.source_node), "from {:?}: {state:?}", node(&before));
        ensure!(
            status.node_name.as_deref() == Some(&state.target_node),
            "at {:?}: {state:?}",
            status.node_name
        );
        ensure!(state.source_node != state.target_node, "{state:?}");
        ensure!(state.completed && !state.failed, "{state:?}");
        Ok(state)
    }

    /// The migrations of a VM that aren't over.
    pub async fn in_flight(&self, vmi: &str) -> anyhow::Result<Vec<String>> {
        let all = self.api.list(&ListParams::default()).await?.items;
        Ok(all
            .iter()
            .filter(|m| m.spec.vmi_name == vmi && !m.phase().is_final())
            .map(|m| m.name().to_owned())
            .collect())
    }
}
