//! What is counted of one version's calls: how they ended, how long the plugin took, when there was the last.
//!
//! Times are counted in buckets whose width grows with the time: eight to each power of two, so that a bounded table holds
//! microseconds and days alike, and what is read from it is at most an eighth more than it was.
//!
//! Elsewhere: counting itself is `plugin::call`'s; what is counted is kept by `packages` and `store::database`.

use std::collections::BTreeMap;
use std::time::Duration;

/// Everything below four microseconds is one bucket: no call is that fast.
const FLOOR_BITS: u32 = 12;

/// No call takes longer than 2^50 nanoseconds, 13 days; its limit is a week at most.
const TOP_BITS: u32 = 50;

/// A power of two has so many buckets, as a power of two.
const PART_BITS: u32 = 3;

/// How many buckets there are.
pub const BUCKETS: usize = 1 + (((TOP_BITS - FLOOR_BITS) as usize) << PART_BITS);

/// A bucket and its count, as they are kept.
const ENTRY_BYTES: usize = 10;

/// The bucket of a call that took so long.
#[must_use]
pub fn bucket(took: Duration) -> usize {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    match nanoseconds.checked_ilog2() {
        Some(power) if TOP_BITS <= power => BUCKETS - 1,
        Some(power) if FLOOR_BITS <= power => {
            let part = (nanoseconds >> (power - PART_BITS)) as usize & ((1 << PART_BITS) - 1);
            1 + (((power - FLOOR_BITS) as usize) << PART_BITS) + part
        }
        _ => 0,
    }
}

/// Where a bucket ends.
fn end(bucket: usize) -> Duration {
    let Some(above) = bucket.checked_sub(1) else { return Duration::from_nanos(1 << FLOOR_BITS) };
    let power = FLOOR_BITS + (above >> PART_BITS) as u32;
    let part = (above & ((1 << PART_BITS) - 1)) as u64;
    Duration::from_nanos(((1 << PART_BITS) + part + 1) << (power - PART_BITS))
}

/// How many calls took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies(BTreeMap<u16, u64>);

impl Latencies {
    /// From the counts of all buckets, in their order.
    pub fn of(counts: impl IntoIterator<Item = u64>) -> Self {
        Self((0..).zip(counts).take(BUCKETS).filter(|(_, count)| *count > 0).collect())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// So many per mille took no longer than this, by an eighth at most less; nothing where there is no call.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let wanted = (u128::from(self.count()) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0_u128;
        let reached = self.0.iter().find(|(_, count)| {
            seen += u128::from(**count);
            wanted <= seen
        });
        reached.map(|(bucket, _)| end((*bucket).into()))
    }

    /// None took longer than this.
    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        self.0.last_key_value().map(|(bucket, _)| end((*bucket).into()))
    }

    fn add(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            let sum = self.0.entry(*bucket).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        let more = |bucket: &u16, count: &u64| count.saturating_sub(earlier.0.get(bucket).copied().unwrap_or_default());
        Self(
            self.0.iter().map(|(bucket, count)| (*bucket, more(bucket, count))).filter(|(_, more)| *more > 0).collect(),
        )
    }

    /// As they are kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(bucket, count)| bucket.to_le_bytes().into_iter().chain(count.to_le_bytes())).collect()
    }

    /// What was kept; what cannot be understood of it is passed over.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
        let read = entries
            .iter()
            .map(|[first, second, count @ ..]| (u16::from_le_bytes([*first, *second]), u64::from_le_bytes(*count)));
        Self(read.filter(|(bucket, count)| usize::from(*bucket) < BUCKETS && *count > 0).collect())
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub ok: u64,
    /// Of the plugin's own.
    pub errors: u64,
    pub cancelled: u64,
    pub timed_out: u64,
    pub crashed: u64,
    pub refused: u64,
    /// Of those that the plugin answered.
    pub latencies: Latencies,
    /// When the last call came.
    pub last_used_unix_ms: Option<u64>,
}

impl Tally {
    /// How many calls have ended.
    #[must_use]
    pub fn calls(&self) -> u64 {
        let all = [self.ok, self.errors, self.cancelled, self.timed_out, self.crashed, self.refused];
        all.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds what another has.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.ok, other.ok),
            (&mut self.errors, other.errors),
            (&mut self.cancelled, other.cancelled),
            (&mut self.timed_out, other.timed_out),
            (&mut self.crashed, other.crashed),
            (&mut self.refused, other.refused),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.latencies.add(&other.latencies);
        self.last_used_unix_ms = self.last_used_unix_ms.max(other.last_used_unix_ms);
    }

    /// What has been counted since this was as `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            ok: self.ok.saturating_sub(earlier.ok),
            errors: self.errors.saturating_sub(earlier.errors),
            cancelled: self.cancelled.saturating_sub(earlier.cancelled),
            timed_out: self.timed_out.saturating_sub(earlier.timed_out),
            crashed: self.crashed.saturating_sub(earlier.crashed),
            refused: self.refused.saturating_sub(earlier.refused),
            latencies: self.latencies.since(&earlier.latencies),
            last_used_unix_ms: self.last_used_unix_ms.filter(|at| Some(*at) > earlier.last_used_unix_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(nanoseconds: &[u64]) -> Latencies {
        let mut counts = vec![0; BUCKETS];
        for took in nanoseconds {
            counts[bucket(Duration::from_nanos(*took))] += 1;
        }
        Latencies::of(counts)
    }

    #[test]
    fn the_buckets_follow_each_other_without_a_gap() {
        for number in 0..BUCKETS - 1 {
            let next = end(number);
            assert_eq!(bucket(next), number + 1, "{next:?}");
            assert_eq!(bucket(next - Duration::from_nanos(1)), number, "{next:?}");
        }
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_those_of_the_calls_that_there_were() {
        assert_eq!((Latencies::default().quantile(500), Latencies::default().longest()), (None, None));
        let millisecond = 1_000_000;
        let hundred: Vec<_> = (1..=100).map(|number| number * millisecond).collect();
        let latencies = of(&hundred);
        assert_eq!(latencies.count(), 100);
        for (per_mille, least) in [(0, 1), (500, 50), (900, 90), (990, 99), (1000, 100)] {
            let found = latencies.quantile(per_mille).unwrap();
            let least = Duration::from_millis(least);
            assert!(least <= found && found <= least * 9 / 8, "{per_mille}: {found:?}");
        }
        assert_eq!(latencies.longest(), latencies.quantile(1000));
    }

    proptest! {
        #[test]
        fn a_time_is_told_by_an_eighth_too_long_at_most(nanoseconds in 4096..1_u64 << 50) {
            let told = of(&[nanoseconds]).longest().unwrap();
            let was = Duration::from_nanos(nanoseconds);
            prop_assert!(was < told && told - was <= was / 8, "{was:?} {told:?}");
        }

        #[test]
        fn what_is_kept_and_what_came_since_make_the_whole(
            earlier in prop::collection::vec(0..1_u64 << 52, 0..20), later in prop::collection::vec(0..1_u64 << 52, 0..20),
        ) {
            let before = Tally { ok: 3, latencies: of(&earlier), last_used_unix_ms: Some(7), ..Tally::default() };
            let all = [earlier, later].concat();
            let now = Tally { ok: 9, latencies: of(&all), last_used_unix_ms: Some(8), ..Tally::default() };
            let mut sum = Tally { latencies: Latencies::from_bytes(&before.latencies.to_bytes()), ..before.clone() };
            sum.add(&now.since(&before));
            prop_assert_eq!(sum, now.clone());
            prop_assert_eq!(now.since(&now), Tally::default());
        }

        #[test]
        fn whatever_was_kept_is_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let read = Latencies::from_bytes(&bytes);
            prop_assert_eq!(Latencies::from_bytes(&read.to_bytes()), read);
        }
    }
}
