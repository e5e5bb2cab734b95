//! How a virtual machine is ended: asked, asked again, told to quit, killed; and how it is asked to reboot. Pure.
//!
//! Time comes in as an argument; acting is [`super::life`]'s.

use std::time::Duration;

use tokio::time::Instant;

/// A guest may not listen yet when it is asked first.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// What QEMU gets to write back its disks before it is killed.
const QUIT_GRACE: Duration = Duration::from_secs(2);

/// What somebody in charge wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It shall live.
    Live,
    /// It shall shut down, and be ended when it hasn't by then.
    Shutdown {
        /// The time by which it must be over.
        deadline: Instant,
    },
    /// It shall end now.
    Kill,
}

impl Intent {
    /// Two wishes at once: nobody's wish to end it is taken back or put off by another's.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Kill, _) | (_, Self::Kill) => Self::Kill,
            (Self::Live, wish) | (wish, Self::Live) => wish,
            (Self::Shutdown { deadline: a }, Self::Shutdown { deadline: b }) => {
                Self::Shutdown { deadline: a.min(b) }
            }
        }
    }
}

/// What to do to QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Press the power button.
    Powerdown,
    /// Tell it to quit, because the guest's time is up.
    QuitLate,
    /// Tell it to quit.
    Quit,
    /// Kill its process.
    Kill,
}

/// What becomes of a guest that has powered itself off while QEMU was told to wait for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtPoweroff {
    /// It is started again.
    Reset,
    /// QEMU is told to quit, as it would have by itself.
    Quit,
}

/// Decides it. A wish to end the guest outweighs one to reboot it, and a reboot that was asked for long ago isn't
/// meant any more.
pub fn at_poweroff(intent: Intent, reboot_until: Instant, now: Instant) -> AtPoweroff {
    match intent {
        Intent::Live if now <= reboot_until => AtPoweroff::Reset,
        Intent::Live | Intent::Shutdown { .. } | Intent::Kill => AtPoweroff::Quit,
    }
}

/// A reboot that somebody wants: a guest that doesn't react, because it still boots, is asked again until it does or
/// its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reboot {
    until: Instant,
    asked: Instant,
    given_up: bool,
}

/// What to do about a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urge {
    /// Press the power button again.
    Powerdown,
    /// Ask no more: it has had its time.
    GiveUp,
}

impl Reboot {
    /// It is asked now, and has this grace.
    pub fn asked(now: Instant, grace: Duration) -> Self {
        Self { until: now + grace, asked: now, given_up: false }
    }

    /// Until when a guest that powers itself off is to be started again.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// What to do now, if anything. Only a guest that `hears` is asked: one that stands, or leaves, isn't.
    pub fn act(&mut self, intent: Intent, hears: bool, now: Instant) -> Option<Urge> {
        if now < self.wake(intent)? {
            return None;
        }
        if now >= self.until {
            self.given_up = true;
            return Some(Urge::GiveUp);
        }
        self.asked = now;
        hears.then_some(Urge::Powerdown)
    }

    /// When to look again, if nothing else happens. Somebody who wants the guest to end asks it himself.
    pub fn wake(&self, intent: Intent) -> Option<Instant> {
        let open = intent == Intent::Live && !self.given_up;
        open.then(|| self.until.min(self.asked + ASK_AGAIN))
    }
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ending {
    asked: Option<Instant>,
    quit: Option<Instant>,
    killed: bool,
}

impl Ending {
    /// What to do now, if anything.
    pub fn act(&mut self, intent: Intent, now: Instant) -> Option<Act> {
        if let Some(quit) = self.quit {
            let kill = !self.killed && now >= quit + QUIT_GRACE;
            self.killed |= kill;
            return kill.then_some(Act::Kill);
        }
        let quit = match intent {
            Intent::Live => return None,
            Intent::Kill => Act::Quit,
            Intent::Shutdown { deadline } if now >= deadline => Act::QuitLate,
            Intent::Shutdown { .. } => {
                let due = self.asked.is_none_or(|asked| now >= asked + ASK_AGAIN);
                return due.then(|| {
                    self.asked = Some(now);
                    Act::Powerdown
                });
            }
        };
        self.quit = Some(now);
        Some(quit)
    }

    /// When to look again, if nothing else happens.
    pub fn wake(&self, intent: Intent) -> Option<Instant> {
        match (self.quit, intent) {
            (Some(_), _) if self.killed => None,
            (Some(quit), _) => Some(quit + QUIT_GRACE),
            (None, Intent::Live | Intent::Kill) => None,
            (None, Intent::Shutdown { deadline }) => {
                Some(self.asked.map_or(deadline, |asked| deadline.min(asked + ASK_AGAIN)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_that_is_to_live_is_started_again_and_only_in_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        for (intent, until, want) in [
            (Intent::Live, later, AtPoweroff::Reset),
            (Intent::Live, now, AtPoweroff::Reset),
            (Intent::Shutdown { deadline: later }, later, AtPoweroff::Quit),
            (Intent::Kill, later, AtPoweroff::Quit),
        ] {
            assert_eq!(at_poweroff(intent, until, now), want, "{intent:?}");
        }
        assert_eq!(at_poweroff(Intent::Live, now, later), AtPoweroff::Quit);
    }

    /// Acts with their seconds, looked at only when `wake` says so.
    fn script(intent: impl Fn(u64) -> Intent, start: Instant, until: u64) -> Vec<(u64, Act)> {
        let mut ending = Ending::default();
        (0..until)
            .filter_map(|second| {
                let now = start + Duration::from_secs(second);
                let intent = intent(second);
                let due = second == 0 || ending.wake(intent).is_some_and(|wake| wake <= now);
                due.then(|| ending.act(intent, now)).flatten().map(|act| (second, act))
            })
            .collect()
    }

    #[test]
    fn asked_every_five_seconds_then_quit_then_killed() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(12);
        let acts = script(|_| Intent::Shutdown { deadline }, start, 60);
        let want = [
            (0, Act::Powerdown),
            (5, Act::Powerdown),
            (10, Act::Powerdown),
            (12, Act::QuitLate),
            (14, Act::Kill),
        ];
        assert_eq!(acts, want);
    }

    #[test]
    fn without_grace_there_is_no_asking() {
        let start = Instant::now();
        let acts = script(|_| Intent::Shutdown { deadline: start }, start, 60);
        assert_eq!(acts, [(0, Act::QuitLate), (2, Act::Kill)]);
        assert_eq!(script(|_| Intent::Kill, start, 60), [(0, Act::Quit), (2, Act::Kill)]);
        assert_eq!(script(|_| Intent::Live, start, 60), []);
    }

    /// What is done about a reboot with a grace of 12 s, in the seconds in which something is.
    fn urged(intent: impl Fn(u64) -> Intent, hears: impl Fn(u64) -> bool) -> Vec<(u64, Urge)> {
        let start = Instant::now();
        let mut reboot = Reboot::asked(start, Duration::from_secs(12));
        (0..60)
            .filter_map(|second| {
                let now = start + Duration::from_secs(second);
                let due = reboot.wake(intent(second)).is_some_and(|wake| wake <= now);
                due.then(|| reboot.act(intent(second), hears(second), now))
                    .flatten()
                    .map(|urge| (second, urge))
            })
            .collect()
    }

    #[test]
    fn a_guest_that_does_not_react_is_asked_to_reboot_until_its_time_is_over() {
        let live = |_| Intent::Live;
        let (again, over) = (Urge::Powerdown, Urge::GiveUp);
        assert_eq!(urged(live, |_| true), [(5, again), (10, again), (12, over)]);
        // Nobody presses while it stands or leaves, and not all at once when it is back.
        assert_eq!(urged(live, |second| second > 6), [(10, again), (12, over)]);
        assert_eq!(urged(live, |_| false), [(12, over)]);
        // Who wants it to end asks it himself.
        let ends = |second| if second < 7 { Intent::Live } else { Intent::Kill };
        assert_eq!(urged(ends, |_| true), [(5, again)]);
    }

    #[test]
    fn the_stronger_and_the_earlier_wish_wins() {
        let now = Instant::now();
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        let by = |deadline| Intent::Shutdown { deadline };
        for (a, b, want) in [
            (Intent::Live, Intent::Live, Intent::Live),
            (Intent::Live, by(late), by(late)),
            (by(soon), by(late), by(soon)),
            (by(soon), Intent::Kill, Intent::Kill),
            (Intent::Kill, Intent::Live, Intent::Kill),
        ] {
            assert_eq!(a.and(b), want);
            assert_eq!(b.and(a), want);
        }
    }
}
