//! Counts calls that did not end although they were cancelled and given a grace.
//!
//! One such call says little about a plugin; several in a short while say that it no longer listens. How many, and how
//! short, is the manifest's decision.
//!
//! Elsewhere: what follows is decided in `generation`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A window with a named number of misses in it replaces the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnOverdue {
    /// So many, at least one.
    pub missed_graces: u32,
    pub window: Duration,
}

/// More are never remembered, whatever a manifest says.
pub const MISSED_GRACES_MAX: u32 = 1000;

impl Default for OnOverdue {
    fn default() -> Self {
        Self { missed_graces: 3, window: Duration::from_secs(60) }
    }
}

/// The misses of one generation within the window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Misses(VecDeque<Instant>);

impl Misses {
    /// Notes one, and says whether it was one too many. The count then starts anew, so that asking for a replacement that
    /// is not to be had is repeated after as many more.
    pub fn note(&mut self, settings: OnOverdue, now: Instant) -> bool {
        while self.0.front().is_some_and(|first| settings.window < now.saturating_duration_since(*first)) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        let enough = settings.missed_graces.clamp(1, MISSED_GRACES_MAX) as usize <= self.0.len();
        if enough {
            self.0.clear();
        }
        enough
    }

    /// A pause does not count: the misses move along with the clock that stood still.
    pub fn shift(&mut self, by: Duration) {
        for at in &mut self.0 {
            *at += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_misses_close_together_count() {
        let settings = OnOverdue { missed_graces: 3, window: Duration::from_secs(60) };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut misses = Misses::default();
        let noted: Vec<bool> = [0, 50, 70, 100, 101, 102, 103].map(|t| misses.note(settings, at(t))).to_vec();
        // At 70 the first has left the window; 50, 70, 100 are three within it; then the count starts anew.
        assert_eq!(noted, [false, false, false, true, false, false, true]);
    }

    #[test]
    fn a_pause_moves_them_along() {
        let settings = OnOverdue { missed_graces: 2, window: Duration::from_secs(10) };
        let start = Instant::now();
        let mut misses = Misses::default();
        assert!(!misses.note(settings, start));
        misses.shift(Duration::from_secs(100));
        assert!(misses.note(settings, start + Duration::from_secs(105)));
    }
}
