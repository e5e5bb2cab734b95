//! How many bytes each session has typed, so that whoever lost a connection knows what to send again.
//!
//! Owns numbers only. Pure.

use std::collections::VecDeque;

/// Sessions whose counts are kept; the one that was attached longest ago goes.
const SESSIONS: usize = 16;

/// Counts of the last sessions.
#[derive(Debug, Default)]
pub struct Counts {
    /// The session that was attached last is the last.
    sessions: VecDeque<(String, u64)>,
}

impl Counts {
    /// A session attaches: how many of its bytes were taken before. One that says that it was here before and isn't known
    /// can't be told, and isn't counted.
    pub fn begin(&mut self, session: &str, was_here: bool) -> Option<u64> {
        let known = self.sessions.iter().position(|(id, _)| id == session);
        let counted = match known.and_then(|index| self.sessions.remove(index)) {
            Some(counted) => counted,
            None if was_here => return None,
            None => (session.to_owned(), 0),
        };
        let received = counted.1;
        self.sessions.push_back(counted);
        if self.sessions.len() > SESSIONS {
            self.sessions.pop_front();
        }
        Some(received)
    }

    /// So many bytes of a session were taken.
    pub fn add(&mut self, session: &str, bytes: usize) {
        if let Some((_, received)) = self.sessions.iter_mut().find(|(id, _)| id == session) {
            *received += bytes as u64;
        }
    }

    /// All of them, for another launcher.
    pub fn all(&self) -> Vec<(String, u64)> {
        self.sessions.iter().cloned().collect()
    }

    /// Goes on where another launcher has counted.
    pub fn adopt(&mut self, sessions: Vec<(String, u64)>) {
        self.sessions = sessions.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_for_the_last_sessions() {
        let mut counts = Counts::default();
        assert_eq!(counts.begin("a", false), Some(0));
        counts.add("a", 3);
        assert_eq!(counts.begin("a", true), Some(3));
        assert_eq!(counts.begin("a", false), Some(3));
        // From a launcher that didn't count.
        assert_eq!(counts.begin("old", true), None);
        counts.add("old", 1);
        assert_eq!(counts.begin("old", true), None);
        let mut there = Counts::default();
        there.adopt(counts.all());
        assert_eq!(there.begin("a", true), Some(3));
        for other in 0..SESSIONS {
            assert_eq!(counts.begin(&other.to_string(), false), Some(0));
        }
        assert_eq!(counts.begin("a", true), None);
        assert_eq!(counts.begin("0", true), Some(0));
    }
}
