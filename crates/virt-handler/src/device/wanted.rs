//! What one plugin still has to tell the kubelet, and when. Pure.
//!
//! Never reads a clock: it is told when a look begins.

use super::kind::Reason;

/// What is still to be said to the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// To be said at once, and until the kubelet has taken it.
    now: Option<Reason>,
    /// What is said now has to be said a second time.
    twice: bool,
    /// It has been said once. The second time is a look away, whatever else is said meanwhile: a
    /// word in the same breath finds the kubelet no further than the first one did.
    later: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { now: Some(Reason::First), twice: false, later: false }
    }
}

impl Wanted {
    /// A reason has come up. One registration answers all that came up before it.
    pub fn hear(&mut self, reason: Reason) {
        if reason == Reason::KubeletRestarted {
            // A new kubelet isn't busy with the end of anything that the old one knew. It is heard at every look
            // until it has been told, and what came up since then still counts.
            if self.now != Some(Reason::KubeletRestarted) {
                *self = Self { now: Some(reason), twice: false, later: false };
            }
            return;
        }
        self.twice |= reason.is_said_twice();
        self.now.get_or_insert(reason);
    }

    /// A look begins: what was said before it is due a second time.
    pub fn look(&mut self) {
        if std::mem::take(&mut self.later) {
            self.now.get_or_insert(Reason::Again);
        }
    }

    /// What to tell the kubelet now.
    pub fn now(&self) -> Option<&Reason> {
        self.now.as_ref()
    }

    /// The kubelet has taken it. Says whether that was the first of two times.
    pub fn told(&mut self) -> bool {
        self.now = None;
        let twice = std::mem::take(&mut self.twice);
        self.later |= twice;
        twice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone() -> Reason {
        Reason::PeerGone("/old.sock".into())
    }

    /// One that the kubelet knows.
    fn known() -> Wanted {
        let mut wanted = Wanted::default();
        assert_eq!(wanted.now(), Some(&Reason::First));
        assert!(!wanted.told());
        wanted
    }

    /// What is said at the next looks, each of which the kubelet takes.
    fn looks(wanted: &mut Wanted) -> Vec<Option<Reason>> {
        let mut said = Vec::new();
        for _ in 0..3 {
            wanted.look();
            said.push(wanted.now().cloned());
            wanted.told();
        }
        said
    }

    #[test]
    fn the_second_word_waits_for_a_look_whatever_comes_up_in_the_same_breath() {
        let orders = [
            vec![gone()],
            vec![Reason::Dropped],
            vec![gone(), Reason::TookOver],
            vec![Reason::TookOver, gone()],
            vec![gone(), Reason::TookOver, Reason::Dropped],
            vec![Reason::Dropped, gone(), Reason::TookOver],
        ];
        for order in orders {
            let mut wanted = known();
            for reason in &order {
                wanted.hear(reason.clone());
                assert_eq!(wanted.now(), Some(reason), "at once: {order:?}");
                wanted.told();
                assert_eq!(wanted.now(), None, "{order:?}");
            }
            assert_eq!(looks(&mut wanted), [Some(Reason::Again), None, None], "{order:?}");
        }
    }

    #[test]
    fn a_peer_that_goes_while_the_kubelet_does_not_answer_is_not_forgotten() {
        for first in [Reason::TookOver, Reason::NodeSaysNone, Reason::Dropped] {
            let mut wanted = known();
            wanted.hear(first.clone());
            wanted.hear(gone());
            wanted.look();
            assert_eq!(wanted.now(), Some(&first));
            assert!(wanted.told());
            assert_eq!(looks(&mut wanted), [Some(Reason::Again), None, None], "{first:?}");
        }
        // Nor one that goes before the kubelet has heard of us at all.
        let mut wanted = Wanted::default();
        wanted.hear(gone());
        assert_eq!(wanted.now(), Some(&Reason::First));
        assert!(wanted.told());
        assert_eq!(looks(&mut wanted), [Some(Reason::Again), None, None]);
    }

    #[test]
    fn a_new_kubelet_makes_all_of_the_old_ones_reasons_one() {
        let mut wanted = known();
        wanted.hear(gone());
        wanted.told();
        wanted.hear(Reason::Dropped);
        wanted.hear(Reason::KubeletRestarted);
        assert_eq!(wanted.now(), Some(&Reason::KubeletRestarted));
        assert!(!wanted.told());
        assert_eq!(looks(&mut wanted), [None, None, None]);
        // A peer that goes after that was known to the new kubelet.
        wanted.hear(Reason::KubeletRestarted);
        wanted.hear(gone());
        wanted.hear(Reason::KubeletRestarted);
        assert!(wanted.told());
        assert_eq!(looks(&mut wanted), [Some(Reason::Again), None, None]);
    }

    #[test]
    fn what_nobody_else_ends_is_said_once() {
        for reason in [Reason::TookOver, Reason::NodeSaysNone] {
            let mut wanted = known();
            wanted.hear(reason.clone());
            assert!(!wanted.told());
            assert_eq!(looks(&mut wanted), [None, None, None], "{reason:?}");
        }
    }
}
