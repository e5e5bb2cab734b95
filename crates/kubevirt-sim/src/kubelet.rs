//! The kubelet: what becomes of a container from one moment to the next, and whether its pod is Ready. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::misfortune::Fault;

/// The kubelet's first pause before it starts a crashed container again; it doubles each time.
const FIRST_BACK_OFF: i64 = 10;
/// The longest pause.
const LONGEST_BACK_OFF: i64 = 300;
/// How long it waits before it tries to pull an image again.
const PULL_AGAIN: i64 = 20;
/// A readiness probe that fails makes a pod unready after so long: three failures, two seconds apart.
pub(crate) const PROBE: SignedDuration = SignedDuration::from_secs(6);

/// What a pod's container does.
#[derive(Debug, Clone, PartialEq)]
pub enum Container {
    /// Its image is pulled and it is made.
    Creating {
        /// Until then.
        until: Timestamp,
    },
    /// It runs.
    Running {
        /// Since then.
        since: Timestamp,
    },
    /// It has just ended by its own fault.
    Ended,
    /// The kubelet waits before it tries again.
    BackOff {
        /// Why, in its word.
        reason: &'static str,
        /// Until then.
        until: Timestamp,
    },
}

/// A container and how often it was started again.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// What it does.
    pub container: Container,
    /// How often it was started again.
    pub restarts: u32,
    /// When it last ended by its own fault.
    pub crashed: Option<Timestamp>,
}

fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}

/// The pause after so many restarts. The first restart has none.
fn back_off(restarts: u32) -> i64 {
    2_i64
        .checked_pow(restarts.saturating_sub(1))
        .map_or(LONGEST_BACK_OFF, |times| times.saturating_mul(FIRST_BACK_OFF).min(LONGEST_BACK_OFF))
}

/// The container at this moment, `fault` being what is wrong with its image.
pub fn step(life: &Life, fault: Option<Fault>, ready_since: Option<Timestamp>, now: Timestamp) -> Life {
    let mut next = life.clone();
    match life.container {
        Container::Creating { until } if now < until => {}
        Container::Creating { .. } => start(&mut next, fault, now),
        Container::Running { since } => {
            let end = match fault {
                Some(Fault::Crashes) => Some(after(since, 1)),
                Some(Fault::CrashesAfter(seconds)) => ready_since.map(|ready| after(ready, seconds.into())),
                Some(
                    Fault::ImageMissing
                    | Fault::InitCrashes
                    | Fault::Unschedulable
                    | Fault::NeverReady
                    | Fault::NodeUnable
                    | Fault::Silent,
                )
                | None => None,
            };
            if end.is_some_and(|end| now >= end) {
                end_by_fault(&mut next, now);
            }
        }
        Container::Ended if life.restarts == 0 => again(&mut next, now),
        Container::Ended => {
            let until = after(now, back_off(life.restarts));
            next.container = Container::BackOff { reason: "CrashLoopBackOff", until };
        }
        Container::BackOff { reason: "ErrImagePull", until } => {
            next.container = Container::BackOff { reason: "ImagePullBackOff", until };
        }
        Container::BackOff { until, .. } if now < until => {}
        Container::BackOff { reason: "CrashLoopBackOff", .. } => again(&mut next, now),
        Container::BackOff { .. } => start(&mut next, fault, now),
    }
    next
}

fn start(next: &mut Life, fault: Option<Fault>, now: Timestamp) {
    match fault {
        Some(Fault::ImageMissing) => {
            next.container = Container::BackOff { reason: "ErrImagePull", until: after(now, PULL_AGAIN) };
        }
        Some(Fault::InitCrashes) => end_by_fault(next, now),
        Some(
            Fault::Crashes
            | Fault::CrashesAfter(_)
            | Fault::Unschedulable
            | Fault::NeverReady
            | Fault::NodeUnable
            | Fault::Silent,
        )
        | None => next.container = Container::Running { since: now },
    }
}

fn again(next: &mut Life, now: Timestamp) {
    next.restarts += 1;
    next.container = Container::Creating { until: after(now, 1) };
}

fn end_by_fault(next: &mut Life, now: Timestamp) {
    next.container = Container::Ended;
    next.crashed = Some(now);
}

/// What a virt-handler is on its node; other components are nothing there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// It has nothing to do with the node's lock.
    None,
    /// It waits for the lock.
    Standby,
    /// It holds the lock.
    Holding {
        /// Since then.
        since: Timestamp,
        /// It has said so on its node.
        said: bool,
    },
}

/// Whether the pod of a container that runs and answers is Ready now. `was` is whether it was a moment ago.
pub fn is_ready(charge: Charge, fault: Option<Fault>, was: bool, now: Timestamp) -> bool {
    if fault == Some(Fault::NeverReady) {
        return false;
    }
    match charge {
        Charge::None | Charge::Standby => true,
        Charge::Holding { since, said } => said || (was && now.duration_since(since) < PROBE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// What a container does in so many seconds, one letter a second.
    fn told(fault: Option<Fault>, seconds: i64) -> (String, u32) {
        let mut life = Life { container: Container::Creating { until: at(2) }, restarts: 0, crashed: None };
        let mut ready = None;
        let mut told = String::new();
        for now in (1..=seconds).map(at) {
            life = step(&life, fault, ready, now);
            ready = match life.container {
                Container::Running { .. } => ready.or(Some(now)),
                _ => None,
            };
            told.push(match life.container {
                Container::Creating { .. } => 'c',
                Container::Running { .. } => 'r',
                Container::Ended => 'e',
                Container::BackOff { reason, .. } => reason.chars().next().unwrap().to_ascii_uppercase(),
            });
        }
        (told, life.restarts)
    }

    #[test]
    fn what_a_container_does() {
        let cases = [
            (None, "crrrrrrrrrrrrrrrrrrr", 0),
            (Some(Fault::NeverReady), "crrrrrrrrrrrrrrrrrrr", 0),
            (Some(Fault::Crashes), "crecreCCCCCCCCCCcreC", 2),
            (Some(Fault::InitCrashes), "ceceCCCCCCCCCCceCCCC", 2),
            (Some(Fault::CrashesAfter(3)), "crrrecrrreCCCCCCCCCC", 1),
            (Some(Fault::ImageMissing), "cEIIIIIIIIIIIIIIIIII", 0),
        ];
        for (fault, expected, restarts) in cases {
            assert_eq!(told(fault, 20), (expected.to_owned(), restarts), "{fault:?}");
        }
    }

    #[test]
    fn the_pause_doubles_up_to_five_minutes() {
        let pauses: Vec<i64> = [1, 2, 3, 5, 6, 60].map(back_off).into();
        assert_eq!(pauses, [10, 20, 40, 160, 300, 300]);
    }

    #[test]
    fn a_holder_is_ready_when_it_has_said_so() {
        let holding = |since, said| Charge::Holding { since: at(since), said };
        let cases = [
            (Charge::None, None, false, true),
            (Charge::Standby, Some(Fault::Silent), false, true),
            (Charge::Standby, Some(Fault::NeverReady), false, false),
            (holding(9, false), None, false, false),
            (holding(9, false), None, true, true),
            (holding(1, false), None, true, false),
            (holding(1, true), None, false, true),
        ];
        for (charge, fault, was, expected) in cases {
            assert_eq!(is_ready(charge, fault, was, at(10)), expected, "{charge:?} {fault:?} {was}");
        }
    }
}
