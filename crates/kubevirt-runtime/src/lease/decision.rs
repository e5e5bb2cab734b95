//! What to do about a lease, from what was seen of it and when: pure.
//!
//! A holder's own times are never compared with our clock. We only count, on our clock, for how
//! long a record has not changed.

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use std::time::Duration;
use tokio::time::Instant;

use super::Timing;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is ours: renew it.
    Renew,
    /// Nobody holds it: take it.
    Acquire,
    /// Somebody holds it, for at most so long without a renewal.
    Wait(Duration),
}

/// Decides about a lease whose present record we first saw at `observed_at`.
pub fn evaluate(lease: Option<&LeaseSpec>, me: &str, observed_at: Instant, now: Instant) -> Decision {
    let Some(lease) = lease else { return Decision::Acquire };
    let duration = Duration::from_secs(u64::try_from(lease.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
    match lease.holder_identity.as_deref() {
        None | Some("") => Decision::Acquire,
        Some(holder) if holder == me => Decision::Renew,
        Some(_) => {
            let left = duration.saturating_sub(now.saturating_duration_since(observed_at));
            if left.is_zero() { Decision::Acquire } else { Decision::Wait(left) }
        }
    }
}

/// Whether a process that is about to end has to write that nobody holds the lease: when it is ours, or may become so.
///
/// `may_land` says that a write of ours of whose fate we know nothing was based on this very record, so that the API
/// server may carry it out still. Of two writes on one record only the first is taken: ours of nobody's name keeps the
/// other out, or is refused and shows that it has arrived.
pub(super) fn must_give_back(lease: Option<&LeaseSpec>, me: &str, may_land: bool) -> bool {
    may_land || lease.is_some_and(|lease| lease.holder_identity.as_deref() == Some(me))
}

/// Until when the leader may send writes after a renewal that was sent at `renewed`. What is left of the lease then is
/// for what is on its way: nobody else leads before it is over.
pub(super) fn valid_until(renewed: Instant, timing: &Timing) -> Instant {
    renewed + timing.renew_deadline
}

/// Whether a write may be sent.
pub(super) fn is_valid(until: Instant, now: Instant) -> bool {
    now < until
}

/// The last record that was seen, and when it was first seen on our clock.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    seen: Option<(LeaseSpec, Instant)>,
}

impl Observation {
    /// Notes a record and returns since when it has been so.
    pub fn observe(&mut self, lease: &LeaseSpec, now: Instant) -> Instant {
        match &self.seen {
            Some((record, since)) if record == lease => *since,
            Some(_) | None => {
                self.seen = Some((lease.clone(), now));
                now
            }
        }
    }
}

/// The record with which `me` takes or renews a lease.
pub(super) fn held(
    previous: Option<&LeaseSpec>,
    me: &str,
    duration: Duration,
    now: jiff::Timestamp,
) -> LeaseSpec {
    let renewal = previous.filter(|lease| lease.holder_identity.as_deref() == Some(me));
    let transitions = previous.and_then(|lease| lease.lease_transitions).unwrap_or(0);
    let taken_over = previous.is_some() && renewal.is_none();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: renewal.and_then(|lease| lease.acquire_time.clone()).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if taken_over { transitions.saturating_add(1) } else { transitions }),
        ..LeaseSpec::default()
    }
}

/// The record with which a lease is given back: nobody's, and over in a second for those who ask the clock.
pub(super) fn released(previous: Option<&LeaseSpec>, now: jiff::Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        ..previous.cloned().unwrap_or_default()
    }
}
