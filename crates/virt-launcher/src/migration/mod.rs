//! Live migration: the guest moves from this launcher to another one, or from another to this.
//!
//! virt-handler says that it should, and carries fingerprints; what follows is between two
//! launchers, so a virt-handler may come and go meanwhile. See
//! `docs/design/0007-live-migration.md`. Read [`handover`] first: who may let the guest run.

pub mod channel;
pub mod handover;
pub mod identity;
pub mod progress;
pub mod qemu;
pub mod report;
pub mod source;
pub mod target;
pub mod transport;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use handler_launcher_com::launcher::{
    DomainPhase, DomainState, MigrateVirtualMachineRequest, MigrationOptions, MigrationPhase, MigrationRole,
    MigrationVerdict, PrepareMigrationTargetRequest,
};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::guest::{Guest, GuestError};
use crate::qmp::QmpError;
use identity::{Fingerprint, Identity, IdentityError};
use progress::Limits;
use qemu::Manner;
use report::Report;
use source::Plan;
use target::Expected;
use transport::TransportError;

/// Seconds per GiB that a migration may take; KubeVirt's default.
const COMPLETION_SECONDS_PER_GIB: u64 = 150;
/// Seconds without progress; KubeVirt's default.
const PROGRESS_SECONDS: u64 = 150;
/// How long the guest may stand; QEMU's default.
const DOWNTIME_MS: u64 = 300;
const MIB: u64 = 1 << 20;

/// A wish that can't be fulfilled.
#[derive(Debug, Error)]
pub enum MigrationError {
    /// Something that was sent isn't what it should be.
    #[error("{field}: {value:?} is not {allowed}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What was sent.
        value: String,
        /// What could be.
        allowed: &'static str,
    },
    /// This guest stays where it is.
    #[error("the virtual machine can't be migrated: {0}")]
    NotMigratable(String),
    /// There is no guest to move, or one where another should come to.
    #[error("the virtual machine can't be {wish}: it is {phase:?}")]
    Phase {
        /// What was wished.
        wish: &'static str,
        /// The phase.
        phase: DomainPhase,
    },
    /// There is another one.
    #[error("migration {uid} isn't over")]
    Busy {
        /// Which.
        uid: String,
    },
    /// There is none with this uid.
    #[error("there is no migration {uid} here")]
    Unknown {
        /// Which.
        uid: String,
    },
    /// It has come too far, or not far enough.
    #[error("migration {uid} can't be {wish}: it is {phase:?}")]
    TooLate {
        /// Which.
        uid: String,
        /// What was wished.
        wish: &'static str,
        /// How far it is.
        phase: MigrationPhase,
    },
    /// QEMU isn't there.
    #[error("QEMU hasn't started: {0}")]
    NotStarted(String),
    /// The guest says no.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No listener.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// QEMU doesn't do it.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// What a migration is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It shall end.
    Cancel,
    /// To a source: the target hasn't let the guest run, and never will.
    TargetGone,
    /// To a source: the guest runs at the target.
    TargetRuns,
}

/// This launcher's part in the last migration.
#[derive(Debug, Default)]
enum Part {
    #[default]
    None,
    /// An identity was made; nothing is moved yet.
    Prepared { uid: String, identity: Arc<Identity>, report: Report },
    /// The guest is moved away, or was.
    Source { uid: String, fingerprint: Fingerprint, orders: mpsc::UnboundedSender<Order> },
    /// The guest is taken in, or was.
    Target {
        uid: String,
        port: u16,
        fingerprint: Fingerprint,
        orders: mpsc::UnboundedSender<Order>,
        driver: JoinHandle<()>,
    },
}

/// All migrations of a guest: one after the other.
#[derive(Debug, Default)]
pub struct Migrations(Mutex<Part>);

impl Guest {
    /// Makes an identity for a migration away from here.
    pub async fn prepare_source(&self, uid: &str) -> Result<Fingerprint, MigrationError> {
        let mut part = self.migrations().0.lock().await;
        match &*part {
            Part::Prepared { uid: known, identity, .. } if known == uid => return Ok(identity.fingerprint()),
            Part::Source { uid: known, fingerprint, .. } if known == uid => return Ok(*fingerprint),
            Part::Source { uid, .. } | Part::Target { uid, .. } if !self.migration_is_over() => {
                return Err(MigrationError::Busy { uid: uid.clone() });
            }
            Part::None | Part::Prepared { .. } | Part::Source { .. } | Part::Target { .. } => {}
        }
        named(uid)?;
        self.movable()?;
        let identity = Arc::new(Identity::make()?);
        let fingerprint = identity.fingerprint();
        let report = Report::prepared(self.clone(), uid, MigrationRole::Source);
        *part = Part::Prepared { uid: uid.to_owned(), identity, report };
        Ok(fingerprint)
    }

    /// Starts QEMU for a guest that comes from elsewhere. Done when its source may connect.
    pub async fn prepare_target(
        &self,
        request: PrepareMigrationTargetRequest,
    ) -> Result<(u16, Fingerprint), MigrationError> {
        let guest = self.clone();
        // Goes on when the caller goes: QEMU is started once.
        let prepared = tokio::spawn(async move { guest.listen_for_source(request).await });
        prepared.await.unwrap_or_else(|err| Err(MigrationError::NotStarted(err.to_string())))
    }

    async fn listen_for_source(
        &self,
        request: PrepareMigrationTargetRequest,
    ) -> Result<(u16, Fingerprint), MigrationError> {
        let mut part = self.migrations().0.lock().await;
        let uid = request.migration_uid;
        if let Part::Target { uid: known, port, fingerprint, .. } = &*part
            && *known == uid
        {
            return Ok((*port, *fingerprint));
        }
        named(&uid)?;
        let peer = Fingerprint::parse(&request.source_certificate_sha256)?;
        let identity = Identity::make()?;
        let tls = Arc::new(identity.server(peer)?);
        let allow_emulation = request.options.unwrap_or_default().allow_emulation;
        self.start_incoming(&request.vmi_json, allow_emulation)?;
        let report = Report::prepared(self.clone(), &uid, MigrationRole::Target);
        let qmp = self.connected().await.map_err(MigrationError::NotStarted)?;
        let socket = self.paths().migration();
        if let Err(err) = qemu::expect(&qmp, &socket).await {
            self.discard(false, &err.to_string());
            return Err(err.into());
        }
        // Only now: QEMU has its guest's ports, so none of them is taken for the one that is free.
        let (listener, port) = match transport::listen().await {
            Ok(listening) => listening,
            Err(err) => {
                self.discard(false, &err.to_string());
                return Err(err.into());
            }
        };
        let (orders, obeyed) = mpsc::unbounded_channel();
        let expected = Expected { uid: uid.clone(), tls, listener, socket };
        let driver = tokio::spawn(target::drive(self.clone(), qmp, expected, report, obeyed));
        let fingerprint = identity.fingerprint();
        *part = Part::Target { uid, port, fingerprint, orders, driver };
        Ok((port, fingerprint))
    }

    /// Begins to move.
    pub async fn migrate(
        &self,
        request: MigrateVirtualMachineRequest,
    ) -> Result<DomainState, MigrationError> {
        let mut part = self.migrations().0.lock().await;
        let uid = request.migration_uid.clone();
        match &*part {
            Part::Source { uid: known, .. } if *known == uid => return Ok(self.state()),
            Part::Prepared { uid: known, .. } if *known == uid => {}
            Part::None | Part::Prepared { .. } | Part::Source { .. } | Part::Target { .. } => {
                return Err(MigrationError::Unknown { uid });
            }
        }
        let (target, peer) = (address(&request)?, Fingerprint::parse(&request.target_certificate_sha256)?);
        let memory = self.movable()?;
        let qmp = self.qmp()?;
        let Part::Prepared { identity, report, .. } = std::mem::take(&mut *part) else {
            return Err(MigrationError::Unknown { uid });
        };
        let options = request.options.unwrap_or_default();
        let (orders, obeyed) = mpsc::unbounded_channel();
        let fingerprint = identity.fingerprint();
        *part = Part::Source { uid: uid.clone(), fingerprint, orders };
        let socket = self.paths().migration();
        let plan = Plan {
            uid,
            identity,
            peer,
            target,
            manner: manner(&options),
            limits: limits(&options, memory),
            socket,
        };
        tokio::spawn(source::drive(self.clone(), qmp, plan, report, obeyed));
        Ok(self.state())
    }

    /// Ends a migration, if the guest hasn't been handed over.
    pub async fn cancel_migration(&self, uid: &str) -> Result<DomainState, MigrationError> {
        let mut part = self.migrations().0.lock().await;
        let phase = self.migration_phase();
        let orders = match &mut *part {
            Part::Prepared { uid: known, report, .. } if known == uid => {
                report.end(MigrationPhase::Cancelled, "cancelled");
                *part = Part::None;
                return Ok(self.state());
            }
            Part::Source { uid: known, orders, .. } | Part::Target { uid: known, orders, .. }
                if known == uid =>
            {
                orders
            }
            _ => return Err(MigrationError::Unknown { uid: uid.to_owned() }),
        };
        match phase {
            MigrationPhase::HandedOverUnconfirmed | MigrationPhase::Completed => {
                Err(MigrationError::TooLate { uid: uid.to_owned(), wish: "cancelled", phase })
            }
            _ => {
                // One that is over is obeyed already.
                let _ = orders.send(Order::Cancel);
                Ok(self.state())
            }
        }
    }

    /// Tells a source what has become of its target.
    pub async fn resolve_migration(
        &self,
        uid: &str,
        verdict: MigrationVerdict,
    ) -> Result<DomainState, MigrationError> {
        let part = self.migrations().0.lock().await;
        let orders = match &*part {
            Part::Source { uid: known, orders, .. } if known == uid => orders,
            Part::None | Part::Prepared { .. } | Part::Source { .. } | Part::Target { .. } => {
                return Err(MigrationError::Unknown { uid: uid.to_owned() });
            }
        };
        let (order, same) = match verdict {
            MigrationVerdict::TargetGone => (Order::TargetGone, MigrationPhase::Failed),
            MigrationVerdict::TargetRuns => (Order::TargetRuns, MigrationPhase::Completed),
            MigrationVerdict::Unknown => {
                let value = verdict.as_str_name().to_owned();
                let allowed = "TARGET_GONE or TARGET_RUNS";
                return Err(MigrationError::Invalid { field: "verdict", value, allowed });
            }
        };
        let phase = self.migration_phase();
        if phase == MigrationPhase::HandedOverUnconfirmed {
            // It may have found out by itself in this moment.
            let _ = orders.send(order);
        } else if phase != same {
            return Err(MigrationError::TooLate { uid: uid.to_owned(), wish: "resolved", phase });
        }
        Ok(self.state())
    }

    /// Waits until no other launcher needs an answer from this one.
    pub async fn migrations_settled(&self) {
        if let Part::Target { driver, .. } = &mut *self.migrations().0.lock().await {
            // It ends by itself, and has no result.
            drop(driver.await);
        }
    }

    fn migration_phase(&self) -> MigrationPhase {
        self.state().migration.map_or(MigrationPhase::Unknown, |migration| migration.phase())
    }

    fn migration_is_over(&self) -> bool {
        report::is_final(self.migration_phase())
    }
}

fn named(uid: &str) -> Result<(), MigrationError> {
    if uid.is_empty() {
        let value = uid.to_owned();
        return Err(MigrationError::Invalid {
            field: "migration_uid",
            value,
            allowed: "the uid of a migration",
        });
    }
    Ok(())
}

fn address(request: &MigrateVirtualMachineRequest) -> Result<SocketAddr, MigrationError> {
    let invalid = |field, value, allowed| MigrationError::Invalid { field, value, allowed };
    let ip: IpAddr = request
        .target_address
        .parse()
        .map_err(|_| invalid("target_address", request.target_address.clone(), "an IP address"))?;
    let port = u16::try_from(request.target_port).ok().filter(|port| *port != 0);
    let port =
        port.ok_or_else(|| invalid("target_port", request.target_port.to_string(), "a port: 1 to 65535"))?;
    Ok(SocketAddr::new(ip, port))
}

fn manner(options: &MigrationOptions) -> Manner {
    Manner {
        bandwidth: options.bandwidth_bytes_per_second,
        downtime_ms: options.downtime_limit_ms.unwrap_or(DOWNTIME_MS),
        auto_converge: options.allow_auto_converge,
    }
}

fn limits(options: &MigrationOptions, memory_mib: u64) -> Limits {
    Limits::new(
        options.completion_timeout_seconds_per_gib.unwrap_or(COMPLETION_SECONDS_PER_GIB),
        memory_mib.saturating_mul(MIB),
        options.progress_timeout_seconds.unwrap_or(PROGRESS_SECONDS),
    )
}
