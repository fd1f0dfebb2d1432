//! How often something may be asked for: so many times a second, and so many at once after a rest.
//!
//! Nobody waits here: time comes in, and when to come back goes out.

use std::time::{Duration, Instant};

/// So many a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// After it was not used for a while.
    pub burst: u32,
}

/// What is left, as of some time.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    left: f64,
    filled: Instant,
}

impl Bucket {
    /// One that is full.
    #[must_use]
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, left: f64::from(rate.burst), filled: now }
    }

    /// Takes one.
    ///
    /// # Errors
    /// When there will be one, if there is none.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        let per_second = f64::from(self.rate.per_second.max(1));
        self.left = (self.left + passed * per_second).min(f64::from(self.rate.burst));
        // Time that seems to go backwards fills nothing, and does not fill twice later.
        self.filled = self.filled.max(now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / per_second));
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 100, burst: 10 };

    #[test]
    fn a_burst_is_let_through_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::full(RATE, start);
        let taken = (0..100).take_while(|_| bucket.take(start).is_ok()).count();
        assert_eq!(taken, 10);
        let mut taken = 0;
        for millis in 1..=2000 {
            taken += u32::from(bucket.take(start + Duration::from_millis(millis)).is_ok());
        }
        assert!((199..=200).contains(&taken), "{taken}");
    }

    #[test]
    fn who_comes_back_when_told_is_let_through() {
        let mut now = Instant::now();
        let mut bucket = Bucket::full(RATE, now);
        for _ in 0..1000 {
            if let Err(wait) = bucket.take(now) {
                assert!(wait <= Duration::from_millis(10), "{wait:?}");
                now += wait + Duration::from_nanos(1);
                assert_eq!(bucket.take(now), Ok(()));
            }
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut bucket = Bucket::full(RATE, start);
        while bucket.take(start).is_ok() {}
        assert!(bucket.take(start - Duration::from_secs(30)).is_err());
        assert!(bucket.take(start).is_err());
    }
}
