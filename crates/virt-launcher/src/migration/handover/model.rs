//! Every order of events of one hand-over: messages that are late or lost with their connection, connections that
//! break unseen, processes and QEMUs that die, people who cancel, QEMUs that refuse, and somebody who looks and tells the
//! source. What each side makes of an event is decided by the real functions; what a side then does is told here.

use std::io::Write as _;

use stateright::{Checker, Model, Property};

use super::{Source, SourceAction, SourceEvent, Target, TargetAction, TargetEvent};

const NEVER_TWO: &str = "never do two run";
const NEVER_BACK: &str = "what has run at a target that lives doesn't run at the source again";
const NEVER_NONE: &str = "when none runs, one side waits for an answer, or the guest's owner is dead";
const SOMEWHERE: &str = "when all is calm it runs, or its owner is dead";
/// When all is calm, everything is settled after so many rounds.
const CALM: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Guest {
    /// Not all of it is here.
    Coming,
    Stands,
    Runs,
    /// There is no QEMU.
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Word {
    Loaded,
    HandedOver,
    Kept,
    Runs,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    source: Source,
    source_guest: Guest,
    /// The source's QEMU has sent everything.
    complete: bool,
    target: Target,
    target_guest: Guest,
    target_up: bool,
    source_up: bool,
    /// The one connection, and who hasn't noticed that it is gone.
    connected: bool,
    source_hears: bool,
    target_hears: bool,
    to_target: Vec<Word>,
    to_source: Vec<Word>,
    /// An answer to the source's question.
    answer: Option<Word>,
    has_run_at_target: bool,
    misfortunes: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The source's QEMU stops the guest and sends the rest.
    Complete,
    /// The source sees that.
    SeeSent,
    /// The target's QEMU has taken everything.
    Load,
    /// The target sees that.
    SeeLoaded,
    /// The target's QEMU lets the guest run.
    Resume,
    /// The target sees that.
    SeeResumed,
    /// The target's QEMU refuses to.
    Refuse,
    /// The first message on its way arrives.
    ToTarget,
    ToSource,
    /// The connection breaks.
    Cut,
    /// A side sees that; what it hasn't read is lost.
    SourceLoses,
    TargetLoses,
    /// The source asks on a new connection.
    Ask,
    /// It gets the answer.
    Answer,
    /// The answer is lost.
    NoAnswer,
    /// Somebody has looked at the target, and tells the source.
    Verdict,
    CancelSource,
    CancelTarget,
    SourceQemuDies,
    TargetQemuDies,
    SourceDies,
    TargetDies,
}

/// What the sides do otherwise than they should, so that the model is seen to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    /// The target lets the guest run as soon as it is loaded.
    Eager,
    /// The source runs on when the connection is lost behind "handed over".
    Impatient,
    /// The target answers "never" without ending its QEMU, and listens on.
    Undecided,
}

struct HandOver {
    defect: Defect,
    misfortunes: u8,
}

impl HandOver {
    fn source(&self, state: &mut State, event: SourceEvent) {
        let event = match (self.defect, state.source, event) {
            (Defect::Impatient, Source::HandedOver, SourceEvent::Lost) => SourceEvent::TargetGone,
            (_, _, event) => event,
        };
        let (next, action) = state.source.on(event);
        state.source = next;
        match action {
            Some(SourceAction::HandOver) => say(state.connected, &mut state.to_target, Word::HandedOver),
            Some(SourceAction::Keep) => {
                say(state.connected, &mut state.to_target, Word::Kept);
                if state.source_guest == Guest::Stands {
                    state.source_guest = Guest::Runs;
                }
            }
            Some(SourceAction::End) => state.source_guest = Guest::Dead,
            Some(SourceAction::Ask) | None => {}
        }
    }

    fn target(&self, state: &mut State, event: TargetEvent) {
        let (next, action) = match (self.defect, state.target, event) {
            (Defect::Eager, Target::Loading, TargetEvent::Loaded) => {
                (Target::Resuming, Some(TargetAction::Resume))
            }
            (Defect::Undecided, Target::Loaded, TargetEvent::Lost) => {
                say(state.connected, &mut state.to_source, Word::Never);
                (Target::Loaded, None)
            }
            (_, target, event) => target.on(event),
        };
        state.target = next;
        match action {
            Some(TargetAction::SayLoaded) => say(state.connected, &mut state.to_source, Word::Loaded),
            Some(TargetAction::SayRuns) => say(state.connected, &mut state.to_source, Word::Runs),
            Some(TargetAction::Discard) => {
                state.target_guest = Guest::Dead;
                say(state.connected, &mut state.to_source, Word::Never);
            }
            // QEMU's own step.
            Some(TargetAction::Resume) | None => {}
        }
    }

    fn hear_at_source(&self, state: &mut State, word: Word) {
        let event = match word {
            Word::Loaded => SourceEvent::TargetLoaded,
            Word::Runs => SourceEvent::TargetRuns,
            Word::Never => SourceEvent::TargetGone,
            Word::HandedOver | Word::Kept => return,
        };
        self.source(state, event);
    }

    fn hear_at_target(&self, state: &mut State, word: Word) {
        let event = match word {
            Word::HandedOver => TargetEvent::HandedOver,
            Word::Kept => TargetEvent::Kept,
            Word::Loaded | Word::Runs | Word::Never => return,
        };
        self.target(state, event);
    }

    fn possible(&self, state: &State) -> Vec<Action> {
        let (source, target) = (state.source_up, state.target_up);
        let asks = source && state.source == Source::HandedOver && !state.source_hears;
        let knows = !target || target_is(state, Target::Never) || target_is(state, Target::Owner);
        let all = [
            (
                Action::Complete,
                source && holds(state) && state.source_guest == Guest::Runs && !state.complete,
            ),
            (
                Action::SeeSent,
                source && state.complete && state.source_guest == Guest::Stands && !sent(state),
            ),
            (Action::Load, target && state.complete && state.target_guest == Guest::Coming),
            (
                Action::SeeLoaded,
                target && state.target_guest == Guest::Stands && target_is(state, Target::Loading),
            ),
            (
                Action::Resume,
                target && state.target_guest == Guest::Stands && target_is(state, Target::Resuming),
            ),
            (
                Action::SeeResumed,
                target && state.target_guest == Guest::Runs && target_is(state, Target::Resuming),
            ),
            (Action::ToTarget, target && state.target_hears && !state.to_target.is_empty()),
            (Action::ToSource, source && state.source_hears && !state.to_source.is_empty()),
            (Action::SourceLoses, source && state.source_hears && !state.connected),
            (Action::TargetLoses, target && state.target_hears && !state.connected),
            (Action::Ask, asks && target && state.answer.is_none()),
            (Action::Answer, asks && state.answer.is_some()),
            (Action::NoAnswer, state.answer.is_some()),
            (Action::Verdict, source && state.source == Source::HandedOver && knows),
            (Action::CancelSource, source && !state.source.is_final()),
            (Action::CancelTarget, target && !state.target.is_final()),
        ];
        let bad = [
            (
                Action::Refuse,
                target && state.target_guest == Guest::Stands && target_is(state, Target::Resuming),
            ),
            (Action::Cut, state.connected),
            (Action::SourceQemuDies, source && state.source_guest != Guest::Dead),
            (Action::TargetQemuDies, target && state.target_guest != Guest::Dead),
            (Action::SourceDies, source),
            (Action::TargetDies, target),
        ];
        let bad = bad.into_iter().filter(|_| state.misfortunes > 0);
        all.into_iter().chain(bad).filter(|(_, possible)| *possible).map(|(action, _)| action).collect()
    }

    fn follow(&self, last: &State, action: Action) -> State {
        let mut state = last.clone();
        match action {
            Action::Complete => {
                state.complete = true;
                state.source_guest = Guest::Stands;
            }
            Action::SeeSent => self.source(&mut state, SourceEvent::Sent),
            Action::Load => state.target_guest = Guest::Stands,
            Action::SeeLoaded => self.target(&mut state, TargetEvent::Loaded),
            Action::Resume => {
                state.target_guest = Guest::Runs;
                state.has_run_at_target = true;
            }
            Action::SeeResumed => self.target(&mut state, TargetEvent::Resumed),
            Action::Refuse => self.target(&mut state, TargetEvent::ResumeRefused),
            Action::ToTarget => {
                let word = state.to_target.remove(0);
                self.hear_at_target(&mut state, word);
            }
            Action::ToSource => {
                let word = state.to_source.remove(0);
                self.hear_at_source(&mut state, word);
            }
            Action::Cut => state.connected = false,
            Action::SourceLoses => {
                state.source_hears = false;
                state.to_source.clear();
                self.source(&mut state, SourceEvent::Lost);
            }
            Action::TargetLoses => {
                state.target_hears = false;
                state.to_target.clear();
                self.target(&mut state, TargetEvent::Lost);
            }
            Action::Ask => {
                self.target(&mut state, TargetEvent::Lost);
                state.answer = match (self.defect, state.target) {
                    (_, Target::Owner) => Some(Word::Runs),
                    (_, Target::Never) | (Defect::Undecided, Target::Loaded) => Some(Word::Never),
                    (_, Target::Loading | Target::Loaded | Target::Resuming) => None,
                };
            }
            Action::Answer => {
                if let Some(word) = state.answer.take() {
                    self.hear_at_source(&mut state, word);
                }
            }
            Action::NoAnswer => state.answer = None,
            Action::Verdict => {
                let runs = state.target_up && target_is(&state, Target::Owner);
                let event = if runs { SourceEvent::TargetRuns } else { SourceEvent::TargetGone };
                self.source(&mut state, event);
            }
            Action::CancelSource => self.source(&mut state, SourceEvent::GiveUp),
            Action::CancelTarget => self.target(&mut state, TargetEvent::GiveUp),
            Action::SourceQemuDies => {
                state.source_guest = Guest::Dead;
                self.source(&mut state, SourceEvent::QemuEnded);
            }
            Action::TargetQemuDies => {
                state.target_guest = Guest::Dead;
                self.target(&mut state, TargetEvent::QemuEnded);
            }
            Action::SourceDies => {
                state.source_up = false;
                state.source_guest = Guest::Dead;
                state.connected = false;
            }
            Action::TargetDies => {
                state.target_up = false;
                state.target_guest = Guest::Dead;
                state.connected = false;
            }
        }
        let bad = [Action::Refuse, Action::Cut, Action::SourceQemuDies, Action::TargetQemuDies];
        if bad.contains(&action) || matches!(action, Action::SourceDies | Action::TargetDies) {
            state.misfortunes -= 1;
        }
        state
    }

    /// Whether the guest runs, or its owner is dead, once nothing bad happens any more and all that can happen does.
    fn settles(&self, state: &State) -> bool {
        let mut at = state.clone();
        for _ in 0..CALM {
            if settled(&at) {
                return true;
            }
            at.misfortunes = 0;
            let next = self.possible(&at).into_iter().find(|action| {
                !matches!(action, Action::NoAnswer | Action::CancelSource | Action::CancelTarget)
            });
            match next {
                Some(action) => at = self.follow(&at, action),
                None => return settled(&at),
            }
        }
        settled(&at)
    }
}

fn say(connected: bool, queue: &mut Vec<Word>, word: Word) {
    if connected {
        queue.push(word);
    }
}

fn holds(state: &State) -> bool {
    matches!(state.source, Source::Holding { .. })
}

fn sent(state: &State) -> bool {
    !matches!(state.source, Source::Holding { sent: false, .. })
}

fn target_is(state: &State, target: Target) -> bool {
    state.target == target
}

fn running(state: &State) -> usize {
    [state.source_guest, state.target_guest].iter().filter(|guest| **guest == Guest::Runs).count()
}

/// Whose the guest is: what has happened to it there is what has happened to the guest.
fn owner(state: &State) -> Guest {
    match state.target {
        Target::Resuming | Target::Owner => state.target_guest,
        Target::Loading | Target::Loaded | Target::Never => state.source_guest,
    }
}

fn settled(state: &State) -> bool {
    running(state) == 1 || owner(state) == Guest::Dead
}

impl Model for HandOver {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            source: Source::START,
            source_guest: Guest::Runs,
            complete: false,
            target: Target::Loading,
            target_guest: Guest::Coming,
            target_up: true,
            source_up: true,
            connected: true,
            source_hears: true,
            target_hears: true,
            to_target: Vec::new(),
            to_source: Vec::new(),
            answer: None,
            has_run_at_target: false,
            misfortunes: self.misfortunes,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.possible(state));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        Some(self.follow(last, action)).filter(|state| state != last)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_TWO, |_, state: &State| running(state) <= 1),
            Property::always(NEVER_BACK, |_, state: &State| {
                !(state.source_guest == Guest::Runs && state.has_run_at_target && state.target_up)
            }),
            Property::always(NEVER_NONE, |_, state: &State| {
                let waits = state.source_up && !state.source.is_final();
                let resumes = state.target_up && target_is(state, Target::Resuming);
                running(state) == 1 || waits || resumes || owner(state) == Guest::Dead
            }),
            Property::always(SOMEWHERE, |model: &Self, state: &State| model.settles(state)),
            Property::sometimes("it moves", |_, state: &State| {
                state.source == Source::Left && state.target_guest == Guest::Runs
            }),
            Property::sometimes("it stays behind a lost hand-over", |_, state: &State| {
                state.source == Source::Kept && state.complete && !state.source_hears && state.target_up
            }),
            Property::sometimes("it moves although the confirmation was lost", |_, state: &State| {
                state.source == Source::Left && !state.source_hears && state.target_up
            }),
        ]
    }
}

/// Says it where a passing test's words aren't kept back.
fn tell(line: &str) {
    // A test doesn't fail because nobody listens.
    let _ = std::io::stderr().lock().write_all(format!("    {line}\n").as_bytes());
}

#[test]
fn never_two_run_and_never_none_unnoticed() {
    let checker = HandOver { defect: Defect::None, misfortunes: 4 }.checker().spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    tell(&format!("migration hand-over: {states} states, depth {depth}"));
    checker.assert_properties();
    assert!(states > 500, "the model has become too small to say anything: {states} states");
}

#[test]
fn defects_are_found_out() {
    for (defect, broken) in
        [(Defect::Eager, NEVER_TWO), (Defect::Impatient, NEVER_TWO), (Defect::Undecided, NEVER_TWO)]
    {
        let checker = HandOver { defect, misfortunes: 2 }.checker().spawn_bfs().join();
        let Some(path) = checker.discovery(broken) else { panic!("{defect:?} goes unnoticed") };
        tell(&format!("{defect:?}: found in {} steps", path.into_actions().len()));
    }
}
