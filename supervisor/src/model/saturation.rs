//! When is a plugin's processor time used up? Decided from how often it was throttled.
//!
//! The kernel counts the periods in which a plugin ran and those at whose end it had to wait. One burst is no news; a plugin that
//! waits in most periods, look after look for as long as [`SATURATED_AFTER`], is saturated, and that is said once until it has had
//! enough again.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

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
