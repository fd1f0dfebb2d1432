//! The arithmetic of one call: until when it may take, and whether it may be tried again.
//!
//! Elsewhere: the router applies the first, the plugin's actor the second; neither decides anything of its own.

use std::time::{Duration, Instant};

use serde::Serialize;

/// A call is given to at most so many generations. A call that kills what serves it must not kill without end.
pub const ATTEMPTS_MAX: u32 = 3;

/// Who set the deadline of a call, for the message when it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    Caller,
    Action,
    Plugin,
}

/// Until when a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    pub at: Instant,
    pub limit: Duration,
    pub by: LimitedBy,
}

/// The earliest of what the caller allows, what the action declares, and what the plugin's calls may take at most. The
/// manifest's limit for an action replaces the plugin's, longer or shorter, as it is the more particular statement.
pub fn deadline(now: Instant, caller: Option<Duration>, action: Option<Duration>, plugin: Duration) -> Deadline {
    let (mut limit, mut by) = action.map_or((plugin, LimitedBy::Plugin), |action| (action, LimitedBy::Action));
    if let Some(caller) = caller.filter(|caller| *caller < limit) {
        (limit, by) = (caller, LimitedBy::Caller);
    }
    Deadline { at: now + limit, limit, by }
}

/// How far a call had come when the generation that had it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progressed {
    /// Nothing of it was written to the plugin.
    Unwritten,
    /// It was written, perhaps in part: the work may have been done.
    Written,
    /// The caller has seen a part of the answer, or sent a stream; it cannot be taken back.
    Answered,
}

/// What becomes of a call whose generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterEnd {
    /// The next generation gets it, within the deadline it has.
    Repeat,
    Fail,
}

/// Repeats what cannot have been done, and what may be done twice. `attempts` counts the generations it was written to.
pub fn after_end(progressed: Progressed, idempotent: bool, attempts: u32, deadline: Instant, now: Instant) -> AfterEnd {
    if deadline <= now {
        return AfterEnd::Fail;
    }
    match (progressed, idempotent) {
        (Progressed::Unwritten, _) => AfterEnd::Repeat,
        (Progressed::Written, true) if attempts < ATTEMPTS_MAX => AfterEnd::Repeat,
        (Progressed::Written | Progressed::Answered, _) => AfterEnd::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_limit_holds_and_is_named() {
        let now = Instant::now();
        let s = Duration::from_secs;
        for (caller, action, limit, by) in [
            (None, None, 30, LimitedBy::Plugin),
            (Some(5), None, 5, LimitedBy::Caller),
            (Some(50), None, 30, LimitedBy::Plugin),
            (None, Some(120), 120, LimitedBy::Action),
            (Some(60), Some(120), 60, LimitedBy::Caller),
            (Some(60), Some(10), 10, LimitedBy::Action),
            (Some(0), None, 0, LimitedBy::Caller),
        ] {
            let found = deadline(now, caller.map(s), action.map(s), s(30));
            assert_eq!(found, Deadline { at: now + s(limit), limit: s(limit), by });
        }
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        for (progressed, idempotent, attempts, expected) in [
            (Progressed::Unwritten, false, 0, AfterEnd::Repeat),
            (Progressed::Unwritten, false, 9, AfterEnd::Repeat),
            (Progressed::Written, false, 1, AfterEnd::Fail),
            (Progressed::Written, true, 1, AfterEnd::Repeat),
            (Progressed::Written, true, 2, AfterEnd::Repeat),
            (Progressed::Written, true, 3, AfterEnd::Fail),
            (Progressed::Answered, true, 1, AfterEnd::Fail),
        ] {
            assert_eq!(after_end(progressed, idempotent, attempts, later, now), expected);
            assert_eq!(after_end(progressed, idempotent, attempts, now, now), AfterEnd::Fail);
        }
    }
}
