//! Every state with every event.

use super::{Source, SourceAction, SourceEvent, Target, TargetAction, TargetEvent};

const SOURCES: [Source; 7] = [
    Source::START,
    Source::Holding { sent: true, loaded: false },
    Source::Holding { sent: false, loaded: true },
    Source::HandedOver,
    Source::Kept,
    Source::Left,
    Source::Ended,
];
const SOURCE_EVENTS: [SourceEvent; 7] = [
    SourceEvent::Sent,
    SourceEvent::TargetLoaded,
    SourceEvent::TargetRuns,
    SourceEvent::TargetGone,
    SourceEvent::Lost,
    SourceEvent::GiveUp,
    SourceEvent::QemuEnded,
];
const TARGETS: [Target; 5] =
    [Target::Loading, Target::Loaded, Target::Resuming, Target::Owner, Target::Never];
const TARGET_EVENTS: [TargetEvent; 8] = [
    TargetEvent::Loaded,
    TargetEvent::HandedOver,
    TargetEvent::Kept,
    TargetEvent::Lost,
    TargetEvent::GiveUp,
    TargetEvent::Resumed,
    TargetEvent::ResumeRefused,
    TargetEvent::QemuEnded,
];

#[test]
fn a_migration_that_goes_well() {
    let (state, action) = Source::START.on(SourceEvent::Sent);
    assert_eq!((state, action), (Source::Holding { sent: true, loaded: false }, None));
    assert_eq!(state.on(SourceEvent::TargetLoaded), (Source::HandedOver, Some(SourceAction::HandOver)));
    // The target may be faster than our own look at QEMU.
    let (early, action) = Source::START.on(SourceEvent::TargetLoaded);
    assert_eq!(action, None);
    assert_eq!(early.on(SourceEvent::Sent), (Source::HandedOver, Some(SourceAction::HandOver)));
    assert_eq!(Source::HandedOver.on(SourceEvent::TargetRuns), (Source::Left, Some(SourceAction::End)));

    assert_eq!(Target::Loading.on(TargetEvent::Loaded), (Target::Loaded, Some(TargetAction::SayLoaded)));
    assert_eq!(Target::Loaded.on(TargetEvent::HandedOver), (Target::Resuming, Some(TargetAction::Resume)));
    assert_eq!(Target::Resuming.on(TargetEvent::Resumed), (Target::Owner, Some(TargetAction::SayRuns)));
}

#[test]
fn the_source_gives_away_once_and_takes_back_only_when_told() {
    for state in SOURCES {
        for event in SOURCE_EVENTS {
            let (next, action) = state.on(event);
            let complete = state == Source::Holding { sent: true, loaded: false }
                && event == SourceEvent::TargetLoaded
                || state == Source::Holding { sent: false, loaded: true } && event == SourceEvent::Sent;
            assert_eq!(action == Some(SourceAction::HandOver), complete, "{state:?} {event:?}");
            let kept = matches!(state, Source::Holding { .. })
                && matches!(event, SourceEvent::TargetGone | SourceEvent::Lost | SourceEvent::GiveUp)
                || state == Source::HandedOver && event == SourceEvent::TargetGone;
            assert_eq!(action == Some(SourceAction::Keep), kept, "{state:?} {event:?}");
            let runs = !state.is_final() && event == SourceEvent::TargetRuns;
            assert_eq!(action == Some(SourceAction::End), runs, "{state:?} {event:?}");
            let asks = state == Source::HandedOver && event == SourceEvent::Lost;
            assert_eq!(action == Some(SourceAction::Ask), asks, "{state:?} {event:?}");
            if state.is_final() {
                assert_eq!(next, state);
            }
        }
    }
}

#[test]
fn the_target_lets_run_only_what_is_loaded_and_handed_over() {
    for state in TARGETS {
        for event in TARGET_EVENTS {
            let (next, action) = state.on(event);
            let resumes = (state, event) == (Target::Loaded, TargetEvent::HandedOver);
            assert_eq!(action == Some(TargetAction::Resume), resumes, "{state:?} {event:?}");
            assert_eq!(action == Some(TargetAction::Discard), state != next && next == Target::Never);
            assert_eq!(action == Some(TargetAction::SayRuns), state != next && next == Target::Owner);
            if state.is_final() {
                assert_eq!((next, action), (state, None));
            }
        }
    }
    for event in [TargetEvent::Lost, TargetEvent::Kept, TargetEvent::GiveUp] {
        assert_eq!(Target::Loaded.on(event).0, Target::Never);
        assert_eq!(Target::Resuming.on(event), (Target::Resuming, None));
    }
}
