//! How much of everything one plugin's way out may take, and why so much: what is fixed, and the pace.
//!
//! Elsewhere: what an operator can set is `model::permission::traffic`.

use std::time::Duration;

use tokio::time::Instant;

pub use crate::model::permission::traffic::Limits;

/// How many connections beyond `connections_max` are told so. The rest are closed without a word.
pub(super) const TOLD_OF_LIMIT_MAX: usize = 8;

/// How many of a host's addresses are tried. More than that is a list to go through, not a host.
pub(super) const ADDRESSES_TRIED_MAX: usize = 4;

/// Interim responses before the real one; more is a way to keep a connection busy with nothing.
pub(super) const INTERIM_RESPONSES_MAX: usize = 8;

/// What is on its way in one direction. Two of these are held by each connection while it is open.
pub(super) const BUFFER_BYTES: usize = 16 << 10;

/// After an answer, what the client still sends is read and dropped for so long…
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// …and so many bytes: closing with unread bytes would take the answer away from it.
pub(super) const LINGER_BYTES_MAX: usize = 256 << 10;

/// After the process has no descriptors or memory for a connection, nothing is accepted for so long.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// When the next connection may be accepted.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time that one connection takes up.
    each: Duration,
    /// How far ahead of the clock they may be together.
    ahead_max: Duration,
    /// When those that were accepted would have come, one after the other.
    due: Instant,
}

impl Pace {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        let each = Duration::from_secs(1) / limits.connections_per_second.max(1);
        Self { each, ahead_max: each.saturating_mul(limits.connections_burst.max(1)), due: now }
    }

    /// Counts one, and says until when the next has to wait, if it has to.
    pub(super) fn accepted(&mut self, now: Instant) -> Option<Instant> {
        self.due = self.due.max(now) + self.each;
        let until = self.due + self.each - self.ahead_max;
        (now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_pace_counts() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let limits = Limits { connections_per_second: 10, connections_burst: 3, ..Limits::default() };
        let mut pace = Pace::new(&limits, began);
        assert_eq!([pace.accepted(began), pace.accepted(began)], [None, None]);
        // The burst is used up: one for each tenth of a second.
        assert_eq!(pace.accepted(began), Some(at(100)));
        assert_eq!(pace.accepted(at(100)), Some(at(200)));
        // Half of it is there again after a while, and never more than all of it.
        assert_eq!(pace.accepted(at(350)), None);
        assert_eq!(pace.accepted(at(350)), Some(at(400)));
        assert_eq!([pace.accepted(at(9000)), pace.accepted(at(9000))], [None, None]);
        assert_eq!(pace.accepted(at(9000)), Some(at(9100)));
    }
}
