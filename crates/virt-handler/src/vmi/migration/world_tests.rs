//! A whole migration, in every order of events: two handlers that see late and die anywhere, two
//! launchers, a network that breaks, a virt-controller that aborts and gives up. Each handler is
//! `decide` and `answered`, with an empty memory; the rest is a model of `docs/design/0007` and `0008`.

use std::collections::{HashMap, HashSet};

use kubevirt_types::VmiPhase;
use kubevirt_types::migration::MigrationState;
use kubevirt_types::vmi::{VirtualMachineInstance, VirtualMachineInstanceStatus};
use serde_json::json;

use super::source_tests::{UID, at, guest, pod};
use super::{Answer, Verdict, answered};
use crate::vmi::decide::{Call, Memory, View, decide};
use crate::vmi::decide_tests::{NODE, now, vmi};
use crate::vmi::knowledge::{Domain, DomainState, Knowledge, Role, Stage};
use crate::vmi::status;

const THERE: &str = "worker-2";
const NODES: [&str; 2] = [NODE, THERE];

/// The launcher that has the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Idle,
    Prepared,
    Copying,
    Switchover,
    HandedOver {
        lost: bool,
    },
    Moved,
    Kept(Stage2),
    /// The guest has shut down here.
    Ended {
        begun: bool,
    },
}

/// How a source came to keep its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage2 {
    Failed,
    Cancelled,
}

/// The launcher that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Idle,
    Listening,
    Loaded,
    Runs,
    /// The guest has shut down here.
    Ended,
    /// It has ended, and never let the guest run.
    Never {
        begun: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A handler sees the object, or its launcher's state.
    Sees(usize),
    Hears(usize),
    /// A handler looks, and lives on or dies before it has written what was answered.
    Acts(usize, bool),
    /// The launchers go on by themselves.
    Launchers,
    /// The source learns from the target, which it has lost, where the guest is.
    Inquiry,
    /// virt-controller: the target pod has ended.
    GivesUp,
    /// What needn't happen.
    Lost,
    TargetDies,
    GuestEnds,
    Abort,
}

const EVENTS: [Event; 14] = [
    Event::Sees(0),
    Event::Sees(1),
    Event::Hears(0),
    Event::Hears(1),
    Event::Acts(0, true),
    Event::Acts(1, true),
    Event::Launchers,
    Event::GivesUp,
    Event::Inquiry,
    Event::Acts(0, false),
    Event::Acts(1, false),
    Event::Lost,
    Event::TargetDies,
    Event::GuestEnds,
];

/// What will happen if nothing goes wrong any more. An inquiry may find nobody.
const SURE: usize = 8;

#[derive(Debug, Clone, PartialEq)]
struct World {
    status: VirtualMachineInstanceStatus,
    /// What each handler has in its cache, and whether that is the last version.
    seen: [(VirtualMachineInstanceStatus, bool); 2],
    heard: [Domain; 2],
    source: Source,
    target: Target,
    /// "Handed over" is on its way.
    said: bool,
}

impl World {
    fn new() -> Self {
        let mut object = vmi(VmiPhase::Running);
        object.status =
            Some(status::running(&object, NODE, &guest(DomainState::Running), Some(&pod()), now()));
        let mut status = object.status.unwrap();
        let state = json!({"migrationUid": UID, "sourceNode": NODE, "sourcePod": "from",
            "targetNode": THERE, "targetPod": "to"});
        status.migration_state = Some(serde_json::from_value(state).unwrap());
        let seen = (status.clone(), true);
        let mut world = Self {
            status,
            seen: [seen.clone(), seen],
            heard: [guest(DomainState::Running), guest(DomainState::NotStarted)],
            source: Source::Idle,
            target: Target::Idle,
            said: false,
        };
        world.heard = [world.domain(0), world.domain(1)];
        world
    }

    /// As a map's key: all that tells one world from another.
    fn key(&self) -> String {
        let seen = [0, 1].map(|i| if self.seen[i].1 { String::new() } else { text(&self.seen[i].0) });
        let heard = [0, 1].map(|i| {
            let domain = &self.heard[i];
            (domain.state, domain.migration.as_ref().map(|m| (m.stage, m.unreachable, m.started.is_some())))
        });
        format!("{} {seen:?} {heard:?} {:?} {:?} {}", text(&self.status), self.source, self.target, self.said)
    }

    fn state(&self) -> &MigrationState {
        self.status.migration_state.as_ref().unwrap()
    }

    /// What a launcher says.
    fn domain(&self, handler: usize) -> Domain {
        let (state, part) = if handler == 0 { self.source_says() } else { self.target_says() };
        let mut domain = guest(state);
        domain.migration = part.map(|stage| Box::new(at([Role::Source, Role::Target][handler], stage)));
        if let (0, Source::HandedOver { lost: true }, Some(migration)) =
            (handler, self.source, domain.migration.as_mut())
        {
            migration.unreachable = true;
        }
        if matches!(self.source, Source::Ended { .. }) && handler == 0 {
            domain.reason = "GuestShutdown".into();
        }
        domain
    }

    fn source_says(&self) -> (DomainState, Option<Stage>) {
        match self.source {
            Source::Idle => (DomainState::Running, None),
            Source::Prepared => (DomainState::Running, Some(Stage::Prepared)),
            Source::Copying => (DomainState::Running, Some(Stage::PreCopy)),
            Source::Switchover => (DomainState::Running, Some(Stage::Switchover)),
            Source::HandedOver { lost: false } => (DomainState::Running, Some(Stage::HandedOver)),
            Source::HandedOver { lost: true } => (DomainState::Paused, Some(Stage::HandedOver)),
            Source::Moved => (DomainState::Moved, Some(Stage::Completed)),
            Source::Kept(Stage2::Failed) => (DomainState::Running, Some(Stage::Failed)),
            Source::Kept(Stage2::Cancelled) => (DomainState::Running, Some(Stage::Cancelled)),
            Source::Ended { begun } => (DomainState::Shutoff, begun.then_some(Stage::Failed)),
        }
    }

    fn target_says(&self) -> (DomainState, Option<Stage>) {
        match self.target {
            Target::Idle => (DomainState::NotStarted, None),
            Target::Listening => (DomainState::Starting, Some(Stage::Prepared)),
            Target::Loaded => (DomainState::Starting, Some(Stage::Switchover)),
            Target::Runs => (DomainState::Running, Some(Stage::Completed)),
            Target::Ended => (DomainState::Shutoff, Some(Stage::Completed)),
            Target::Never { begun } => (DomainState::Shutoff, begun.then_some(Stage::Failed)),
        }
    }

    fn write(&mut self, handler: usize, status: VirtualMachineInstanceStatus) {
        // The resourceVersion.
        if self.seen[handler].1 && status != self.status {
            self.put(status);
        }
    }

    fn put(&mut self, status: VirtualMachineInstanceStatus) {
        self.status = status;
        for seen in &mut self.seen {
            seen.1 = false;
        }
    }

    fn act(&mut self, handler: usize, lives: bool) {
        let mut object: VirtualMachineInstance = vmi(VmiPhase::Running);
        object.status = Some(self.seen[handler].0.clone());
        let (pod, memory) = (pod(), Memory::default());
        let knowledge = Knowledge::Known(self.heard[handler].clone());
        let node = NODES[handler];
        let decision = decide(View {
            vmi: &object,
            node,
            knowledge: &knowledge,
            pod: Some(&pod),
            memory: &memory,
            now: now(),
        });
        if let Some(status) = decision.status {
            self.write(handler, status);
        }
        let Some(call) = decision.call else { return };
        let Some(answer) = self.call(handler, &call) else { return };
        self.heard[handler] = self.domain(handler);
        if lives && let Some((status, _)) = answered(&object, &call, &answer, Some(&pod), now()) {
            self.write(handler, status);
        }
    }

    /// What a launcher does when it is asked; nothing for what passes.
    fn call(&mut self, handler: usize, call: &Call) -> Option<Answer> {
        let never = Some(Answer::Never { why: "no".into() });
        let (source, target) = (self.source, self.target);
        match (handler, call) {
            (0, Call::PrepareSource { .. }) => match source {
                Source::Idle | Source::Prepared | Source::Kept(Stage2::Cancelled) => {
                    self.source = Source::Prepared;
                    Some(Answer::Source { certificate: "aa".into() })
                }
                Source::Ended { .. } => never,
                _ => Some(Answer::Source { certificate: "aa".into() }),
            },
            (0, Call::Migrate { .. }) => match source {
                Source::Prepared => {
                    self.source = Source::Copying;
                    Some(Answer::Done)
                }
                Source::Idle => None,
                Source::Ended { .. } => never,
                _ => Some(Answer::Done),
            },
            (0, Call::Cancel { .. }) => match source {
                Source::Prepared | Source::Copying | Source::Switchover => {
                    self.source = Source::Kept(Stage2::Cancelled);
                    Some(Answer::Done)
                }
                Source::HandedOver { .. } | Source::Moved => never,
                _ => Some(Answer::Done),
            },
            (0, Call::Resolve { verdict, .. }) => match (source, verdict) {
                (Source::HandedOver { lost }, Verdict::TargetGone) => {
                    assert!(lost && matches!(target, Target::Never { .. }), "two guests: {self:?}");
                    self.source = Source::Kept(Stage2::Failed);
                    Some(Answer::Done)
                }
                (Source::HandedOver { lost }, Verdict::TargetRuns) => {
                    assert!(lost && self.has_run(), "no guest: {self:?}");
                    self.source = Source::Moved;
                    Some(Answer::Done)
                }
                _ => None,
            },
            (1, Call::PrepareTarget { .. }) => match target {
                Target::Idle => {
                    self.target = Target::Listening;
                    Some(Answer::Target { port: 4444, certificate: "bb".into() })
                }
                Target::Ended | Target::Never { .. } => None,
                _ => Some(Answer::Target { port: 4444, certificate: "bb".into() }),
            },
            _ => panic!("handler {handler} asks {call:?}: {self:?}"),
        }
    }

    fn has_run(&self) -> bool {
        matches!(self.target, Target::Runs | Target::Ended)
    }

    fn is_gone(&self) -> bool {
        matches!(self.target, Target::Never { .. })
    }

    /// The world after an event.
    fn after(&self, event: Event) -> Self {
        let mut next = self.clone();
        match event {
            Event::Sees(handler) => next.seen[handler] = (self.status.clone(), true),
            Event::Hears(handler) => next.heard[handler] = self.domain(handler),
            Event::Acts(handler, lives) => next.act(handler, lives),
            Event::Launchers => next.go_on(),
            Event::Inquiry => match self.source {
                Source::HandedOver { lost: true } if self.has_run() => next.source = Source::Moved,
                Source::HandedOver { lost: true } if self.is_gone() => {
                    next.source = Source::Kept(Stage2::Failed)
                }
                _ => {}
            },
            Event::GivesUp if self.is_gone() && !self.state().is_final() => {
                let mut status = self.status.clone();
                let state = status.migration_state.as_mut().unwrap();
                (state.failed, state.failure_reason) = (true, Some("the target pod has ended".into()));
                next.put(status);
            }
            Event::Abort if !self.state().is_final() && !self.state().abort_requested => {
                let mut status = self.status.clone();
                status.migration_state.as_mut().unwrap().abort_requested = true;
                next.put(status);
            }
            Event::Lost => match self.source {
                Source::Copying | Source::Switchover => next.source = Source::Kept(Stage2::Failed),
                Source::HandedOver { .. } => {
                    next.source = Source::HandedOver { lost: true };
                    if std::mem::take(&mut next.said) {
                        next.target = Target::Never { begun: true };
                    }
                }
                _ => {}
            },
            Event::TargetDies => match self.target {
                Target::Idle => next.target = Target::Never { begun: false },
                Target::Listening | Target::Loaded => {
                    next.said = false;
                    next.target = Target::Never { begun: true };
                }
                Target::Runs | Target::Ended | Target::Never { .. } => {}
            },
            Event::GuestEnds => match (self.source, self.target) {
                (Source::Idle | Source::Prepared, _) => {
                    next.source = Source::Ended { begun: self.source != Source::Idle };
                }
                (Source::Copying | Source::Kept(_), _) => next.source = Source::Ended { begun: true },
                (_, Target::Runs) => next.target = Target::Ended,
                _ => {}
            },
            Event::GivesUp | Event::Abort => {}
        }
        next
    }

    fn go_on(&mut self) {
        let kept = matches!(self.source, Source::Kept(_) | Source::Ended { .. });
        match (self.source, self.target) {
            (Source::Copying, Target::Listening) => {
                (self.source, self.target) = (Source::Switchover, Target::Loaded)
            }
            (Source::Switchover, Target::Loaded) => {
                (self.source, self.said) = (Source::HandedOver { lost: false }, true);
            }
            (Source::HandedOver { .. }, Target::Loaded) if self.said => {
                (self.target, self.said) = (Target::Runs, false);
            }
            (Source::HandedOver { lost: false }, Target::Runs | Target::Ended) => self.source = Source::Moved,
            (Source::HandedOver { .. }, Target::Never { .. }) => {
                self.source = Source::HandedOver { lost: true }
            }
            (Source::Copying | Source::Switchover, Target::Never { .. }) => {
                self.source = Source::Kept(Stage2::Failed);
            }
            // It hears that the guest stays, or nobody comes, or virt-controller deletes its pod.
            (_, Target::Idle | Target::Listening | Target::Loaded) if kept => {
                self.target = Target::Never { begun: self.target != Target::Idle };
            }
            _ => {}
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        let state = self.state();
        let there = self.status.node_name.as_deref() == Some(THERE);
        assert!(!(state.completed && state.failed), "both: {self:?}");
        assert_eq!(state.completed, there, "the owner is where the guest is: {self:?}");
        assert!(!state.completed || self.has_run(), "completed, and doesn't run there: {self:?}");
        assert!(!state.failed || !self.has_run(), "failed, and runs there: {self:?}");
        let ended = matches!(self.source, Source::Ended { .. }) || self.target == Target::Ended;
        assert!(!self.status.phase.is_final() || ended, "an end that is none: {self:?}");
        assert_ne!(self.status.phase, VmiPhase::Failed, "{self:?}");
    }

    /// Whether all is said and done.
    fn is_settled(&self) -> bool {
        let ended = matches!(self.source, Source::Ended { .. }) || self.target == Target::Ended;
        self.state().is_final()
            && !matches!(self.source, Source::HandedOver { .. })
            && self.status.phase.is_final() == ended
    }
}

fn text(status: &VirtualMachineInstanceStatus) -> String {
    let state = status.migration_state.as_ref().unwrap();
    format!(
        "{:?} {:?} {} {:?} {:?} {:?} {} {} {} {:?} {:?}",
        status.phase,
        status.node_name,
        status.conditions.len(),
        state.source_certificate_sha256,
        state.target_port,
        state.start_timestamp,
        state.abort_requested,
        state.completed,
        state.failed,
        state.abort_status,
        state.downtime_milliseconds,
    )
}

/// All worlds that can come to be, and which lead to which.
fn explore(events: &[Event]) -> (Vec<World>, Vec<Vec<(usize, usize)>>) {
    let (mut worlds, mut leads) = (vec![World::new()], Vec::new());
    let mut known = HashMap::from([(worlds[0].key(), 0)]);
    while leads.len() < worlds.len() {
        let here = leads.len();
        let mut to = Vec::new();
        for (n, event) in events.iter().enumerate() {
            let next = worlds[here].after(*event);
            let index = *known.entry(next.key()).or_insert_with(|| {
                next.check();
                worlds.push(next);
                worlds.len() - 1
            });
            if index != here {
                to.push((n, index));
            }
        }
        leads.push(to);
    }
    (worlds, leads)
}

/// The worlds from which a settled one is reached without anything that needn't happen.
fn can_settle(worlds: &[World], leads: &[Vec<(usize, usize)>]) -> HashSet<usize> {
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); worlds.len()];
    for (from, to) in leads.iter().enumerate() {
        to.iter().filter(|(event, _)| *event < SURE).for_each(|(_, to)| before[*to].push(from));
    }
    let mut open: Vec<usize> = (0..worlds.len()).filter(|world| worlds[*world].is_settled()).collect();
    let mut found: HashSet<usize> = open.iter().copied().collect();
    while let Some(world) = open.pop() {
        open.extend(before[world].iter().copied().filter(|from| found.insert(*from)));
    }
    found
}

fn prove(events: &[Event]) -> (usize, usize, usize) {
    let (worlds, leads) = explore(events);
    let settles = can_settle(&worlds, &leads);
    if let Some(stuck) = (0..worlds.len()).find(|world| !settles.contains(world)) {
        panic!("never over: {:#?}", worlds[stuck]);
    }
    let with = |end: fn(&MigrationState) -> bool| worlds.iter().filter(|world| end(world.state())).count();
    (worlds.len(), with(|state| state.completed), with(|state| state.failed))
}

#[test]
fn a_move_always_ends_in_one_of_two_ways_and_the_owner_is_where_the_guest_is() {
    let (worlds, completed, failed) = prove(&EVENTS);
    assert!(worlds > 1000 && completed > 100 && failed > 100, "{worlds} {completed} {failed}");
}

#[test]
fn a_move_that_somebody_wants_to_end_ends_or_is_done() {
    let mut events = EVENTS.to_vec();
    // In the place of an end of the guest.
    events[EVENTS.len() - 1] = Event::Abort;
    let (worlds, completed, failed) = prove(&events);
    assert!(worlds > 1000 && completed > 100 && failed > 100, "{worlds} {completed} {failed}");
}
