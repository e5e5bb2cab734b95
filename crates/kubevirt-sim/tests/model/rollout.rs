//! The model: two operators that know nothing of each other, a user who changes the target, a release that may be bad,
//! and time.

use std::sync::Mutex;

use stateright::{Model, Property};

use super::worlds::{Event, FRAGILE, LookId, Moved, World, WorldId, Worlds};

/// The names of the properties.
pub const PROMISE: &str = "the promise holds in every world (I3, I4, I6, I7, I8, guard)";
pub const CHECK: &str = "no plan breaks an invariant (check)";
pub const ARRIVES: &str = "from every world one operator alone arrives (I11)";

/// What one operator has in its hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hand {
    /// Nothing: it starts, or has finished a round, or has died and started again.
    Empty,
    /// A plan, of which some is written.
    Plan {
        /// Which.
        look: LookId,
        /// The step that comes next; the status, when there is none.
        next: u8,
        /// For each step, whether what it names is as it was when the operator looked.
        fresh: u32,
        /// The same, of the KubeVirt object.
        status_fresh: bool,
        /// Seconds since the look.
        age: u8,
    },
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The world.
    pub world: WorldId,
    /// The two operators. They are alike, so their order doesn't count.
    pub hands: [Hand; 2],
    /// How often the user may still change the target.
    pub wishes: u8,
    /// Whether a release may still turn out to be bad.
    pub luck: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An operator looks and plans.
    Look(usize),
    /// It writes the next step of its plan, or its status.
    Write(usize),
    /// It dies, and starts again with nothing.
    Crash(usize),
    /// A second passes.
    Second,
    /// A second passes in which no pod gets Ready.
    SlowSecond,
    /// The user asks for the other release.
    Retarget,
    /// New pods of a component of the release that is asked for never get Ready.
    Break(usize),
}

/// How much may happen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// How often the user changes the target.
    pub wishes: u8,
    /// Whether a release may turn out to be bad.
    pub breaks: bool,
    /// Whether pods may take their time.
    pub slow: bool,
    /// One operator stops before another begins, as the lease has it. Without that both act at once.
    pub lease: bool,
    /// For how many seconds a plan may be held.
    pub patience: u8,
}

/// The model.
pub struct Rollout {
    pub worlds: Mutex<Worlds>,
    pub scope: Scope,
    /// Where it begins.
    pub from: Vec<WorldId>,
}

impl Rollout {
    pub fn with<T>(&self, look: impl FnOnce(&mut Worlds) -> T) -> T {
        look(&mut self.worlds.lock().expect("nobody has panicked"))
    }

    fn in_world(&self, state: &State, is: impl FnOnce(&World) -> bool) -> bool {
        self.with(|worlds| is(worlds.world(state.world)))
    }
}

/// A hand that can do nothing more is empty. A step that has become stale fails whenever it is tried, and with it the rest
/// of the plan; the status is written all the same.
fn settled(worlds: &Worlds, hand: Hand) -> Hand {
    let Hand::Plan { look, mut next, fresh, status_fresh, age } = hand else { return hand };
    let plan = worlds.plan(look);
    let count = steps(worlds, look);
    if next < count && fresh & (1 << next) == 0 {
        next = count;
    }
    if next == count && !(status_fresh && plan.status.is_some()) {
        return Hand::Empty;
    }
    // what is behind doesn't count any more
    Hand::Plan { look, next, fresh: fresh >> next << next, status_fresh, age }
}

fn steps(worlds: &Worlds, look: LookId) -> u8 {
    let count = worlds.plan(look).steps.len();
    u8::try_from(count).ok().filter(|count| *count < 32).expect("a plan of a small world is short")
}

/// A hand after an event that touched these objects.
fn touched(worlds: &Worlds, hand: Hand, moved: &Moved) -> Hand {
    let Hand::Plan { look, next, mut fresh, status_fresh, age } = hand else { return hand };
    if !worlds.operators.guarded {
        return hand;
    }
    for (index, step) in worlds.plan(look).steps.iter().enumerate() {
        let names = worlds.steps[*step as usize].names.as_ref();
        if names.is_some_and(|key| moved.touched.contains(key)) {
            fresh &= !(1 << index);
        }
    }
    let status_fresh = status_fresh && !moved.touched.contains(&worlds.kubevirt);
    Hand::Plan { look, next, fresh, status_fresh, age }
}

/// What an operator writes next, and what it has in its hands when that is taken, and when it is refused.
fn writes(worlds: &Worlds, hand: Hand) -> Option<(Event, Hand, Hand)> {
    let Hand::Plan { look, next, fresh, status_fresh, age } = hand else { return None };
    let then = |next| Hand::Plan { look, next, fresh, status_fresh, age };
    Some(match worlds.plan(look).steps.get(usize::from(next)) {
        Some(step) => (Event::Write(*step), then(next + 1), then(steps(worlds, look))),
        None => (Event::Status(look), Hand::Empty, Hand::Empty),
    })
}

/// A road in words: what happened, and what was written.
pub fn told(worlds: &Worlds, road: &[(State, Option<Action>)]) -> String {
    let line = |(state, action): &(State, Option<Action>)| {
        let written = match action {
            Some(Action::Write(index)) => match writes(worlds, state.hands[*index]) {
                Some((Event::Write(step), ..)) => worlds.steps[step as usize].step.to_string(),
                Some(_) => "the status".to_owned(),
                None => String::new(),
            },
            _ => String::new(),
        };
        action.map(|action| format!("{action:?} {written}"))
    };
    road.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

/// A second later. Who has held a plan for too long has stopped.
fn older(hand: Hand, patience: u8) -> Hand {
    match hand {
        Hand::Plan { age, .. } if age >= patience => Hand::Empty,
        Hand::Plan { look, next, fresh, status_fresh, age } => {
            // where there is no end to patience nobody counts
            let age = if patience == u8::MAX { 0 } else { age + 1 };
            Hand::Plan { look, next, fresh, status_fresh, age }
        }
        Hand::Empty => Hand::Empty,
    }
}

fn follow(worlds: &mut Worlds, last: &State, action: Action, scope: Scope) -> Option<State> {
    let mut next = last.clone();
    let event = match action {
        Action::Look(index) => {
            let look = worlds.world(last.world).look?;
            if scope.lease {
                next.hands = [Hand::Empty; 2];
            }
            next.hands[index] = Hand::Plan { look, next: 0, fresh: u32::MAX, status_fresh: true, age: 0 };
            None
        }
        Action::Crash(index) => {
            next.hands[index] = Hand::Empty;
            None
        }
        Action::Write(index) => {
            let (event, taken, refused) = writes(worlds, last.hands[index])?;
            let is_taken = worlds.after(last.world, event).is_some();
            next.hands[index] = if is_taken { taken } else { refused };
            is_taken.then_some(event)
        }
        Action::Second => Some(Event::Second),
        Action::SlowSecond => Some(Event::SlowSecond),
        Action::Retarget => {
            next.wishes -= 1;
            Some(Event::Ask(1 - worlds.world(last.world).asked?))
        }
        Action::Break(component) => {
            next.luck = false;
            Some(Event::Break(component))
        }
    };
    if let Some(event) = event {
        let moved = worlds.after(last.world, event)?;
        next.world = moved.to;
        next.hands = next.hands.map(|hand| touched(worlds, hand, &moved));
        if matches!(event, Event::Second | Event::SlowSecond) {
            next.hands = next.hands.map(|hand| older(hand, scope.patience));
        }
    }
    next.hands = next.hands.map(|hand| settled(worlds, hand));
    next.hands.sort_unstable();
    (next != *last).then_some(next)
}

impl Model for Rollout {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Scope { wishes, breaks, .. } = self.scope;
        let state = |world: &WorldId| State { world: *world, hands: [Hand::Empty; 2], wishes, luck: breaks };
        self.from.iter().map(state).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Second);
        if self.scope.slow {
            actions.push(Action::SlowSecond);
        }
        if state.wishes > 0 {
            actions.push(Action::Retarget);
        }
        if state.luck {
            actions.extend((0..FRAGILE.len()).map(Action::Break));
        }
        for (index, hand) in state.hands.iter().enumerate() {
            match hand {
                // two that have nothing in their hands are one
                Hand::Empty if index > 0 && state.hands[0] == Hand::Empty => {}
                Hand::Empty => actions.push(Action::Look(index)),
                Hand::Plan { .. } => actions.extend([Action::Write(index), Action::Crash(index)]),
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.with(|worlds| follow(worlds, last, action, self.scope))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<Property<Self>> = vec![
            Property::always(PROMISE, |model: &Self, state: &State| {
                model.in_world(state, |world| world.broken.is_empty())
            }),
            Property::always(CHECK, |model: &Self, state: &State| {
                model.in_world(state, |world| world.refused.is_none())
            }),
            Property::always(ARRIVES, |model: &Self, state: &State| {
                model.with(|worlds| worlds.ends_well(state.world))
            }),
            Property::sometimes("an update ends", |model: &Self, state: &State| {
                model.in_world(state, |world| world.arrived && world.asked == Some(1) && !world.failed)
            }),
            Property::sometimes("a rollback ends", |model: &Self, state: &State| {
                model.in_world(state, |world| world.arrived && world.asked == Some(0) && !world.failed)
            }),
        ];
        if !self.scope.lease {
            let both = "two operators hold different plans";
            properties.push(Property::sometimes(both, |_, state: &State| match state.hands {
                [Hand::Plan { look: a, .. }, Hand::Plan { look: b, .. }] => a != b,
                _ => false,
            }));
        }
        if self.scope.breaks {
            properties.push(Property::sometimes(
                "an update that fails is taken back",
                |model: &Self, state: &State| model.in_world(state, |world| world.arrived && world.failed),
            ));
        }
        properties
    }
}
