//! How much may be read of what a plugin says: so much a second, and what it has not used of the last seconds at once.
//!
//! Nobody waits here: time comes in, and how long is to be waited goes out.

use std::time::{Duration, Instant};

/// So many seconds' worth is there at once, if nothing was read before.
pub const BURST_SECONDS: u64 = 4;

/// Each line costs that much more than its bytes: many short lines are as much work as a few long ones.
pub const LINE_BYTES: usize = 32;

/// Longest wait at once: a limit that is changed meanwhile holds after that.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What is left, as of some time.
#[derive(Debug)]
pub struct Budget {
    /// Below nothing if the last piece was more than there was.
    bytes: f64,
    filled: Instant,
}

impl Budget {
    /// All that there can be.
    #[must_use]
    pub fn full(per_second: u64, now: Instant) -> Self {
        Self { bytes: most(per_second), filled: now }
    }

    /// How long nothing is to be read, if so. At the end of it that is to be asked again.
    ///
    /// Once all is used up it is waited for a quarter of a second's worth, so that it is not read byte by byte.
    pub fn wait(&mut self, per_second: u64, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        let per_second_f = per_second as f64;
        self.bytes = (self.bytes + passed * per_second_f).min(most(per_second));
        self.filled = now;
        if self.bytes > 0.0 {
            return None;
        }
        let seconds = 0.25 + -self.bytes / per_second_f.max(1.0);
        Some(Duration::try_from_secs_f64(seconds).map_or(WAIT_MAX, |wait| wait.min(WAIT_MAX)))
    }

    /// Takes away what was read.
    pub fn spend(&mut self, bytes: usize, lines: usize) {
        self.bytes -= (bytes + lines * LINE_BYTES) as f64;
    }
}

fn most(per_second: u64) -> f64 {
    per_second.saturating_mul(BURST_SECONDS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads pieces of 1000 bytes for so long as it may, and returns how many bytes that were and how often was waited.
    fn read_for(budget: &mut Budget, per_second: u64, start: Instant, seconds: u64) -> (usize, u32) {
        let (mut now, mut read, mut waits) = (start, 0, 0);
        while now < start + Duration::from_secs(seconds) {
            match budget.wait(per_second, now) {
                Some(wait) => {
                    now += wait;
                    waits += 1;
                }
                None => {
                    budget.spend(1000, 0);
                    read += 1000;
                    assert!(read < 1 << 30, "without end");
                }
            }
        }
        (read, waits)
    }

    #[test]
    fn in_the_long_run_it_is_so_much_a_second_with_few_waits() {
        let start = Instant::now();
        let mut budget = Budget::full(100_000, start);
        let (read, waits) = read_for(&mut budget, 100_000, start, 60);
        // What there was at first, and what came in a minute; up to a piece and what is waited for at once.
        assert!((6_400_000 - 25_000..=6_400_000 + 26_000).contains(&read), "{read}");
        assert!(waits <= 4 * 60, "{waits}");
    }

    #[test]
    fn what_is_not_used_is_kept_for_a_few_seconds() {
        let start = Instant::now();
        let mut budget = Budget::full(1000, start);
        budget.spend(4000, 0);
        assert_eq!(budget.wait(1000, start), Some(Duration::from_millis(250)));
        let mut later = start + Duration::from_secs(3600);
        let read = read_for(&mut budget, 1000, later, 1).0;
        assert!(read <= 5000, "no more than a few seconds' worth: {read}");
        later += Duration::from_secs(3600);
        assert_eq!(budget.wait(1000, later), None);
    }

    #[test]
    fn lines_cost_more_than_their_bytes() {
        let start = Instant::now();
        let mut budget = Budget::full(1000, start);
        budget.spend(100, 4000 / LINE_BYTES);
        assert!(budget.wait(1000, start).is_some());
    }

    #[test]
    fn a_limit_that_is_changed_holds_within_a_second() {
        let start = Instant::now();
        let mut budget = Budget::full(1000, start);
        budget.spend(1_000_000, 0);
        assert_eq!(budget.wait(1000, start), Some(WAIT_MAX), "however much was read");
        assert_eq!(budget.wait(0, start), Some(WAIT_MAX));
        assert_eq!(budget.wait(1_000_000, start + WAIT_MAX), None);
        assert_eq!(read_for(&mut budget, 10, start + WAIT_MAX, 0).0, 0);
        budget.wait(10, start + WAIT_MAX);
        assert!(budget.bytes <= most(10), "what was there by the old limit is not kept");
    }
}
