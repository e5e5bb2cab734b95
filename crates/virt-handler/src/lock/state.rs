//! What a virt-handler may do, by what has happened to it. Pure.

/// Where a virt-handler is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// It is still learning what is on this node.
    #[default]
    Syncing,
    /// It knows all it needs and waits for the lock: a successor is ready in this state.
    Waiting,
    /// It holds the lock, and acts.
    Holding,
    /// It was told to stop: it acts no more, and carries its streams to their end.
    Draining,
}

/// What happens to a virt-handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its caches are filled, and the launchers found at its start have answered or had their time.
    Synced,
    /// The kernel gave it the lock.
    LockTaken,
    /// It was told to stop.
    Stop,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Start to wait for the lock.
    AwaitLock,
    /// Start to act.
    Act,
    /// Stop acting, then give the lock back if it is held.
    Release,
}

/// What follows from an event.
pub fn next(state: State, event: Event) -> (State, Effect) {
    match (state, event) {
        (State::Syncing, Event::Synced) => (State::Waiting, Effect::AwaitLock),
        (State::Waiting, Event::LockTaken) => (State::Holding, Effect::Act),
        (State::Syncing | State::Waiting | State::Holding, Event::Stop) => (State::Draining, Effect::Release),
        // The lock came after the order to stop: somebody else waits for it.
        (State::Draining, Event::LockTaken) => (State::Draining, Effect::Release),
        (State::Waiting | State::Holding | State::Draining, Event::Synced)
        | (State::Syncing | State::Holding, Event::LockTaken)
        | (State::Draining, Event::Stop) => (state, Effect::Nothing),
    }
}

/// Whether the kubelet may count on this process. A holder must have said so on its node,
/// a successor must be able to take over at once.
pub fn is_ready(state: State, heartbeat_written: bool) -> bool {
    match state {
        State::Syncing | State::Draining => false,
        State::Waiting => true,
        State::Holding => heartbeat_written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[Event]) -> (State, Vec<Effect>) {
        let mut state = State::default();
        let effects = events
            .iter()
            .map(|event| {
                let (then, effect) = next(state, *event);
                state = then;
                effect
            })
            .collect();
        (state, effects)
    }

    #[test]
    fn lives() {
        use Effect::{Act, AwaitLock, Nothing, Release};
        use Event::{LockTaken, Stop, Synced};
        let table: [(&str, &[Event], State, &[Effect]); 5] = [
            ("alone", &[Synced, LockTaken], State::Holding, &[AwaitLock, Act]),
            ("replaced", &[Synced, LockTaken, Stop], State::Draining, &[AwaitLock, Act, Release]),
            ("stopped while it synced", &[Stop, Synced], State::Draining, &[Release, Nothing]),
            (
                "stopped while it waited",
                &[Synced, Stop, LockTaken],
                State::Draining,
                &[AwaitLock, Release, Release],
            ),
            (
                "told twice",
                &[Synced, LockTaken, Stop, Stop],
                State::Draining,
                &[AwaitLock, Act, Release, Nothing],
            ),
        ];
        for (name, events, state, effects) in table {
            assert_eq!(run(events), (state, effects.to_vec()), "{name}");
        }
    }

    #[test]
    fn nothing_lets_a_handler_act_without_the_lock_or_after_the_order_to_stop() {
        for state in [State::Syncing, State::Waiting, State::Holding, State::Draining] {
            for event in [Event::Synced, Event::LockTaken, Event::Stop] {
                let (then, effect) = next(state, event);
                assert!((effect == Effect::Act) <= ((state, event) == (State::Waiting, Event::LockTaken)));
                assert!((then == State::Holding) <= (state == State::Holding || event == Event::LockTaken));
                assert!((state == State::Draining) <= (then == State::Draining));
            }
        }
    }

    #[test]
    fn ready() {
        assert!(!is_ready(State::Syncing, true));
        assert!(is_ready(State::Waiting, false));
        assert!(!is_ready(State::Holding, false));
        assert!(is_ready(State::Holding, true));
        assert!(!is_ready(State::Draining, true));
    }
}
