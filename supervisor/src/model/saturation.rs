//! When is a plugin's processor time used up? Decided from how often it was throttled.
//!
//! The kernel counts the periods in which a plugin ran and those at whose end it had to wait. One burst is no news; a plugin that
//! waits in most periods, look after look for as long as [`SATURATED_AFTER`], is saturated, and that is said once until it has had
//! enough again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often somebody looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// For so long it is throttled before it is said.
pub const SATURATED_AFTER: Duration = Duration::from_secs(10);

/// Looks in a row that have to find it throttled.
const LOOKS: u32 = (SATURATED_AFTER.as_secs() / LOOK_EVERY.as_secs()) as u32;

/// What was seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Saturation {
    all: u64,
    throttled: u64,
    in_a_row: u32,
}

impl Saturation {
    /// Takes in the two counters of the kernel; `true` when it is time to say so.
    pub fn look(&mut self, all: u64, throttled: u64) -> bool {
        let (ran, waited) = (all.saturating_sub(self.all), throttled.saturating_sub(self.throttled));
        (self.all, self.throttled) = (all, throttled);
        // Of a handful of periods nothing follows.
        let mostly = ran >= 10 && ran <= waited.saturating_mul(2);
        self.in_a_row = if mostly { self.in_a_row.saturating_add(1) } else { 0 };
        self.in_a_row == LOOKS
    }
}

/// How often it was throttled, look by look, so that it can be said of a call whether it could have run.
#[derive(Debug, Clone, Default)]
pub struct History {
    looks: VecDeque<(Instant, Throttled)>,
}

/// The kernel's counters at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttled {
    /// Periods in which anything ran.
    pub all: u64,
    /// Those at whose end something had to wait.
    pub throttled: u64,
}

/// A period, as plugins' cgroups have it.
const PERIOD: Duration = Duration::from_millis(100);

/// For so long back it is known; a call that takes longer is judged by this.
const LOOKS_KEPT: usize = 64;

impl History {
    /// Keeps a look.
    pub fn note(&mut self, at: Instant, counters: Throttled) {
        if self.looks.len() == LOOKS_KEPT {
            self.looks.pop_front();
        }
        self.looks.push_back((at, counters));
    }

    /// Whether it was waiting for processor time, mostly, from `since` until `at`. Periods in which nothing ran count as such in which it
    /// did not wait.
    pub fn mostly_throttled(&self, since: Instant, at: Instant, now: Throttled) -> bool {
        let before = self.looks.iter().rev().find(|(at, _)| *at <= since).or(self.looks.front());
        // A tree that is younger than the first look has been counted from zero.
        let (from, before) = before.copied().unwrap_or((since, Throttled::default()));
        let waited = now.throttled.saturating_sub(before.throttled);
        let waited = PERIOD.saturating_mul(u32::try_from(waited).unwrap_or(u32::MAX));
        2 * PERIOD <= waited && at.saturating_duration_since(from) <= waited.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_judged_by_the_time_since_it_began() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let counted = |all, throttled| Throttled { all, throttled };
        let mut history = History::default();
        assert!(history.mostly_throttled(start, at(1), counted(7, 6)), "counted from zero");
        assert!(!history.mostly_throttled(start, at(5), counted(7, 6)), "at first, and then there was nothing to do");
        // Free for ten seconds, throttled for ten.
        for second in 0..=20 {
            history.note(at(second), counted(10 * second, 10 * second.saturating_sub(10)));
        }
        let now = counted(200, 100);
        assert!(history.mostly_throttled(at(12), at(20), now) && history.mostly_throttled(at(0), at(20), now));
        assert!(!history.mostly_throttled(at(12), at(20), counted(200, 59)), "in less than half");
        assert!(!history.mostly_throttled(at(20), at(20), now), "of nothing nothing follows");
        for second in 21..200 {
            history.note(at(second), now);
        }
        assert!(history.looks.len() == LOOKS_KEPT && !history.mostly_throttled(start, at(199), now));
    }

    #[test]
    fn it_is_said_once_after_ten_seconds_of_throttling() {
        let mut seen = Saturation::default();
        let said: Vec<bool> = [(50, 49), (100, 98), (150, 147), (200, 150), (250, 199), (300, 240), (350, 290)]
            .into_iter()
            .map(|(all, throttled)| seen.look(all, throttled))
            .collect();
        assert_eq!(said, [false, true, false, false, false, true, false]);
    }

    #[test]
    fn bursts_and_idleness_are_no_news() {
        let mut seen = Saturation::default();
        assert!(!seen.look(4, 4) && !seen.look(8, 8) && !seen.look(8, 8), "a few periods");
        assert!(!seen.look(58, 20) && !seen.look(108, 40), "less than half of them");
        // A counter that went back belongs to another cgroup; nothing follows from the difference.
        assert!(!seen.look(0, 0));
    }
}
