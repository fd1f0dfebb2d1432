//! Tells a plugin that is busy from one that is hung.
//!
//! A plugin that has said nothing for an interval is sent a ping, which the SDK's event loop answers whatever its calls
//! are doing. An answer means busy at most, however old the oldest call is; no answer within the timeout means hung.
//!
//! Invariants: at most one ping waits at a time. A pause stops the clock. A verdict is never passed on the first look when
//! that look is late: then it was the daemon that stood still, and the pong may lie unread in the pipe.
//!
//! Elsewhere: `generation` owns one while it is active; the actor sends the ping.

use std::time::{Duration, Instant};

/// How often to ask, and how long to wait for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(15), timeout: Duration::from_secs(15) }
    }
}

/// Being looked at so much later than asked means that the daemon itself was held up.
const LATE: Duration = Duration::from_secs(1);

/// What a look at the watchdog says has to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Send a ping; the waiting begins now.
    Ping,
    /// The last one was not answered in time.
    Expired,
}

/// The watchdog of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    settings: Settings,
    heard: Instant,
    waiting: Option<Waiting>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    pong_by: Instant,
    /// One late look has been forgiven.
    spared: bool,
}

impl Watchdog {
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self { settings, heard: now, waiting: None }
    }

    /// Any frame at all was heard. It puts the next ping off, but answers none that waits.
    pub fn heard(&mut self, at: Instant) {
        self.heard = self.heard.max(at);
    }

    pub fn pong(&mut self, now: Instant) {
        self.heard(now);
        self.waiting = None;
    }

    /// The clock stood still for so long.
    pub fn shift(&mut self, by: Duration) {
        self.heard += by;
        if let Some(waiting) = &mut self.waiting {
            waiting.pong_by += by;
        }
    }

    /// When to look again.
    pub fn deadline(&self) -> Instant {
        self.waiting.as_ref().map_or(self.heard + self.settings.interval, |waiting| waiting.pong_by)
    }

    pub fn look(&mut self, now: Instant) -> Due {
        match &mut self.waiting {
            None if self.heard + self.settings.interval <= now => {
                self.waiting = Some(Waiting { pong_by: now + self.settings.timeout, spared: false });
                Due::Ping
            }
            Some(waiting) if waiting.pong_by <= now => {
                if !waiting.spared && waiting.pong_by + LATE < now {
                    *waiting = Waiting { pong_by: now + LATE, spared: true };
                    return Due::Nothing;
                }
                Due::Expired
            }
            None | Some(_) => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { interval: Duration::from_secs(10), timeout: Duration::from_secs(5) };

    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn silence_is_asked_about_and_then_judged() {
        let start = Instant::now();
        let mut dog = Watchdog::new(SETTINGS, start);
        assert_eq!(dog.deadline(), at(start, 10.0));
        assert_eq!(dog.look(at(start, 9.9)), Due::Nothing);
        assert_eq!(dog.look(at(start, 10.0)), Due::Ping);
        assert_eq!(dog.deadline(), at(start, 15.0));
        assert_eq!(dog.look(at(start, 14.9)), Due::Nothing);
        assert_eq!(dog.look(at(start, 15.0)), Due::Expired);
    }

    #[test]
    fn a_pong_proves_life_and_other_frames_only_put_the_ping_off() {
        let start = Instant::now();
        let mut dog = Watchdog::new(SETTINGS, start);
        dog.heard(at(start, 8.0));
        assert_eq!(dog.look(at(start, 10.0)), Due::Nothing);
        assert_eq!(dog.look(at(start, 18.0)), Due::Ping);
        dog.heard(at(start, 19.0));
        assert_eq!(dog.deadline(), at(start, 23.0), "a frame is no answer to a ping");
        dog.pong(at(start, 22.0));
        assert_eq!(dog.look(at(start, 31.9)), Due::Nothing);
        assert_eq!(dog.look(at(start, 32.0)), Due::Ping);
    }

    #[test]
    fn a_pause_stops_the_clock() {
        let start = Instant::now();
        let mut dog = Watchdog::new(SETTINGS, start);
        assert_eq!(dog.look(at(start, 10.0)), Due::Ping);
        dog.shift(Duration::from_secs(100));
        assert_eq!(dog.look(at(start, 114.9)), Due::Nothing);
        assert_eq!(dog.look(at(start, 115.0)), Due::Expired);
    }

    #[test]
    fn a_daemon_that_stood_still_looks_twice_and_only_twice() {
        let start = Instant::now();
        let mut dog = Watchdog::new(SETTINGS, start);
        assert_eq!(dog.look(at(start, 10.0)), Due::Ping);
        assert_eq!(dog.look(at(start, 60.0)), Due::Nothing, "the pong may lie unread");
        assert_eq!(dog.deadline(), at(start, 61.0));
        assert_eq!(dog.look(at(start, 100.0)), Due::Expired);
    }
}
