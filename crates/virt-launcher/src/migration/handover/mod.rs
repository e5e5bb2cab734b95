//! Who may let the guest run: the source's and the target's part. Pure: events in, actions out.
//!
//! Both QEMUs have the whole guest for a moment. What keeps it from running twice is one
//! promise in one message: the source says "handed over" only after it has decided that the
//! guest will not run there again, and the target lets the guest run only after it has heard
//! that. So whoever is cut off before the message was sent, or before it came, knows what to
//! do alone; a source that is cut off after it has sent it knows nothing, and asks.
//!
//! Never acts, and never looks at a clock: giving up is an event.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// Where the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The guest is the source's: it runs, or stands for the last part.
    Holding {
        /// QEMU has sent everything, and the guest stands.
        sent: bool,
        /// The target has taken everything.
        loaded: bool,
    },
    /// The guest is given away; whether it runs at the target isn't known.
    HandedOver,
    /// The guest stays here. Final.
    Kept,
    /// The guest runs at the target. Final.
    Left,
    /// The guest has ended here, before it was given away. Final.
    Ended,
}

/// What happens to the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// QEMU has sent everything, and the guest stands.
    Sent,
    /// The target's QEMU has taken everything.
    TargetLoaded,
    /// The guest runs at the target.
    TargetRuns,
    /// The guest has never run at the target and never will: the target says so, or
    /// somebody who knows.
    TargetGone,
    /// The connection is lost.
    Lost,
    /// Somebody, or a time limit, or QEMU ends the migration.
    GiveUp,
    /// QEMU has ended.
    QemuEnded,
}

/// What the source does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceAction {
    /// Say "handed over".
    HandOver,
    /// Tell the target that nothing will come, and let the guest run on here.
    Keep,
    /// End QEMU: the guest is elsewhere.
    End,
    /// Reach the target again, and ask what has become of the guest.
    Ask,
}

impl Source {
    /// At the beginning.
    pub const START: Self = Self::Holding { sent: false, loaded: false };

    /// What an event makes of it, and what is to be done.
    pub fn on(self, event: SourceEvent) -> (Self, Option<SourceAction>) {
        use SourceEvent::{GiveUp, Lost, QemuEnded, Sent, TargetGone, TargetLoaded, TargetRuns};
        match self {
            Self::Holding { sent, loaded } => match event {
                Sent if loaded => (Self::HandedOver, Some(SourceAction::HandOver)),
                Sent => (Self::Holding { sent: true, loaded }, None),
                TargetLoaded if sent => (Self::HandedOver, Some(SourceAction::HandOver)),
                TargetLoaded => (Self::Holding { sent, loaded: true }, None),
                TargetGone | Lost | GiveUp => (Self::Kept, Some(SourceAction::Keep)),
                QemuEnded => (Self::Ended, None),
                // It broke the promise's order. It runs, so it must not run here.
                TargetRuns => (Self::Left, Some(SourceAction::End)),
            },
            Self::HandedOver => match event {
                TargetRuns => (Self::Left, Some(SourceAction::End)),
                TargetGone => (Self::Kept, Some(SourceAction::Keep)),
                Lost => (self, Some(SourceAction::Ask)),
                // It can't be taken back. A QEMU that has ended couldn't run the guest, but
                // that says nothing of the target.
                GiveUp | QemuEnded | Sent | TargetLoaded => (self, None),
            },
            Self::Kept | Self::Left | Self::Ended => (self, None),
        }
    }

    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Kept | Self::Left | Self::Ended => true,
            Self::Holding { .. } | Self::HandedOver => false,
        }
    }
}

/// Where the target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The guest is coming.
    Loading,
    /// All of it is here, and stands.
    Loaded,
    /// It is ours, and being let run.
    Resuming,
    /// It is ours, and has run. Final.
    Owner,
    /// It has never run here, and never will. Final.
    Never,
}

/// What happens to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetEvent {
    /// QEMU has taken everything.
    Loaded,
    /// The source has handed over.
    HandedOver,
    /// The source keeps the guest.
    Kept,
    /// The connection is lost, or the source asks on another one, so it has lost this one.
    Lost,
    /// Somebody, or a time limit, ends the migration.
    GiveUp,
    /// QEMU has let the guest run.
    Resumed,
    /// QEMU has refused to let the guest run.
    ResumeRefused,
    /// QEMU has ended.
    QemuEnded,
}

/// What the target does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetAction {
    /// Say "loaded".
    SayLoaded,
    /// Let the guest run.
    Resume,
    /// Say "it runs".
    SayRuns,
    /// End QEMU, then say "never".
    Discard,
}

impl Target {
    /// What an event makes of it, and what is to be done.
    pub fn on(self, event: TargetEvent) -> (Self, Option<TargetAction>) {
        use TargetEvent::{GiveUp, HandedOver, Kept, Loaded, Lost, QemuEnded, ResumeRefused, Resumed};
        match (self, event) {
            (Self::Loading, Loaded) => (Self::Loaded, Some(TargetAction::SayLoaded)),
            (Self::Loaded, HandedOver) => (Self::Resuming, Some(TargetAction::Resume)),
            // Nothing was promised yet, so nothing is lost.
            (Self::Loading | Self::Loaded, Kept | Lost | GiveUp | QemuEnded) => {
                (Self::Never, Some(TargetAction::Discard))
            }
            // Handed over what hasn't come: it can't run here.
            (Self::Loading, HandedOver) => (Self::Never, Some(TargetAction::Discard)),
            // QEMU's "no" is certain: it hasn't run.
            (Self::Resuming, ResumeRefused) => (Self::Never, Some(TargetAction::Discard)),
            // A QEMU that ends without an answer may have run it: then it was ours, and has crashed here.
            (Self::Resuming, Resumed | QemuEnded) => (Self::Owner, Some(TargetAction::SayRuns)),
            (Self::Resuming, Loaded | HandedOver | Kept | Lost | GiveUp)
            | (Self::Loading | Self::Loaded, Resumed | ResumeRefused)
            | (Self::Loaded, Loaded)
            | (Self::Owner | Self::Never, _) => (self, None),
        }
    }

    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Owner | Self::Never => true,
            Self::Loading | Self::Loaded | Self::Resuming => false,
        }
    }
}
