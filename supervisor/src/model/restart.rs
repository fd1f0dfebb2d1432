//! Whether, and when, a plugin that ended is started again.
//!
//! Each failure in a row doubles the wait, up to a maximum and with jitter, so that plugins that failed together do not
//! return together. A window with too many restarts in it ends the attempts: the plugin is quarantined until somebody
//! resets it. A run that lasted as long as the window makes the next failure a first one again.
//!
//! Invariants: no window holds more automatic restarts than the intensity; the history never holds more either.
//! Restarts that an operator asks for are not noted here at all, and neither are attempts that the host had no means for.
//!
//! Elsewhere: `plugin` asks, and keeps the history.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The bound of the history, whatever a manifest says.
pub const INTENSITY_MAX: u32 = 1000;

/// After which ends a plugin is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// After every end that nobody asked for.
    Always,
    /// After a failure, but not after a clean exit.
    OnFailure,
    Never,
}

/// What a manifest says about restarts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    pub mode: RestartMode,
    pub backoff_initial: Duration,
    pub backoff_max: Duration,
    /// So many automatic restarts are allowed in a window.
    pub intensity: u32,
    pub window: Duration,
    /// The share of a wait by which chance may lengthen or shorten it, 0 to 1.
    pub jitter: f64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            mode: RestartMode::OnFailure,
            backoff_initial: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            intensity: 5,
            window: Duration::from_secs(60),
            jitter: 0.2,
        }
    }
}

/// What follows from an end that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The policy does not want it back.
    Leave,
    RestartAt(Instant),
    /// The window is full.
    Quarantine,
}

/// The automatic restarts of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// When they happened; no more than the policy's intensity.
    starts: VecDeque<Instant>,
    failures_in_a_row: u32,
    /// How often in a row the host had not the means to start it.
    shortages_in_a_row: u32,
    total: u64,
}

/// So many attempts may fail for want of the host's means before those who wait are told; a shortage is often over by then.
pub const SHORTAGES_PATIENT: u32 = 5;

impl History {
    /// Judges an end. `stable_for` is how long the plugin had been active; `chance` is a number in 0..1.
    pub fn judge(
        &mut self,
        policy: &RestartPolicy,
        failed: bool,
        stable_for: Duration,
        chance: f64,
        now: Instant,
    ) -> Verdict {
        if policy.window <= stable_for {
            self.failures_in_a_row = 0;
        }
        match (policy.mode, failed) {
            (RestartMode::Never, _) | (RestartMode::OnFailure, false) => return Verdict::Leave,
            (RestartMode::Always, _) | (RestartMode::OnFailure, true) => {}
        }
        let at = now + wait(policy, self.failures_in_a_row, chance);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if self.has_room(policy, at) { Verdict::RestartAt(at) } else { Verdict::Quarantine }
    }

    /// The host had not the means to start it. Says when to try again, whatever the policy is for the plugin's own failures, and how
    /// often in a row that was.
    pub fn shortage(&mut self, policy: &RestartPolicy, chance: f64, now: Instant) -> (Instant, u32) {
        let at = now + wait(policy, self.shortages_in_a_row, chance);
        self.shortages_in_a_row = self.shortages_in_a_row.saturating_add(1);
        (at, self.shortages_in_a_row)
    }

    /// There is a process.
    pub fn shortage_is_over(&mut self) {
        self.shortages_in_a_row = 0;
    }

    /// Whether an automatic restart at that moment would keep to the intensity.
    pub fn has_room(&self, policy: &RestartPolicy, at: Instant) -> bool {
        let recent = self.starts.iter().filter(|start| at.saturating_duration_since(**start) < policy.window).count();
        recent < policy.intensity.min(INTENSITY_MAX) as usize
    }

    /// Notes that an automatic restart happens now. Noting the start rather than the failure is what keeps a window from
    /// ever holding more starts than the intensity, however late the timer was.
    pub fn note_start(&mut self, policy: &RestartPolicy, now: Instant) {
        self.starts.push_back(now);
        while (policy.intensity.min(INTENSITY_MAX) as usize) < self.starts.len() {
            self.starts.pop_front();
        }
        self.total = self.total.saturating_add(1);
    }

    /// Forgives everything, as an operator does by a start. The total remains, as it is a figure and not a judgement; a reset begins a new
    /// history.
    pub fn reset(&mut self) {
        self.starts.clear();
        self.failures_in_a_row = 0;
        self.shortages_in_a_row = 0;
    }

    /// How often the plugin was started again in this history.
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// The wait before the restart that follows so many failures in a row.
fn wait(policy: &RestartPolicy, failures: u32, chance: f64) -> Duration {
    let doubled = policy.backoff_initial.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX));
    let chance = if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.5 };
    let share = if policy.jitter.is_finite() { policy.jitter.clamp(0.0, 1.0) } else { 0.0 };
    let factor = 1.0 + share * (2.0 * chance - 1.0);
    doubled.min(policy.backoff_max).mul_f64(factor).min(policy.backoff_max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        mode: RestartMode::OnFailure,
        backoff_initial: Duration::from_millis(200),
        backoff_max: Duration::from_secs(30),
        intensity: 5,
        window: Duration::from_secs(60),
        jitter: 0.0,
    };

    #[test]
    fn waits_double_up_to_the_maximum_and_jitter_stays_within_its_share() {
        let waits: Vec<u128> = (0..10).map(|failures| wait(&POLICY, failures, 0.5).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(wait(&POLICY, u32::MAX, 0.5), Duration::from_secs(30));
        let policy = RestartPolicy { jitter: 0.2, ..POLICY };
        assert_eq!(wait(&policy, 0, 0.0), Duration::from_millis(160));
        assert_eq!(wait(&policy, 0, 1.0), Duration::from_millis(240));
        assert_eq!(wait(&policy, 0, f64::NAN), Duration::from_millis(200));
        assert_eq!(wait(&policy, 20, 1.0), Duration::from_secs(30), "the maximum holds with jitter as well");
    }

    #[test]
    fn policies_differ_in_which_ends_they_answer() {
        let now = Instant::now();
        for (mode, failed, restarts) in [
            (RestartMode::Always, false, true),
            (RestartMode::Always, true, true),
            (RestartMode::OnFailure, false, false),
            (RestartMode::OnFailure, true, true),
            (RestartMode::Never, false, false),
            (RestartMode::Never, true, false),
        ] {
            let policy = RestartPolicy { mode, ..POLICY };
            let verdict = History::default().judge(&policy, failed, Duration::ZERO, 0.5, now);
            assert_eq!(matches!(verdict, Verdict::RestartAt(_)), restarts, "{mode:?} {failed}");
            assert_eq!(verdict == Verdict::Leave, !restarts);
        }
    }

    #[test]
    fn a_plugin_that_keeps_crashing_is_quarantined_after_its_intensity() {
        let mut now = Instant::now();
        let mut history = History::default();
        let mut waits = Vec::new();
        for _ in 0..20 {
            match history.judge(&POLICY, true, Duration::ZERO, 0.5, now) {
                Verdict::RestartAt(at) => {
                    waits.push(at.duration_since(now).as_millis());
                    now = at;
                    history.note_start(&POLICY, now);
                }
                Verdict::Quarantine => break,
                Verdict::Leave => panic!("the policy restarts failures"),
            }
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200]);
        history.reset();
        assert_eq!(
            history.judge(&POLICY, true, Duration::ZERO, 0.5, now),
            Verdict::RestartAt(now + Duration::from_millis(200))
        );
        assert_eq!(history.total(), 5);
    }

    #[test]
    fn a_stable_run_makes_the_next_failure_a_first_one() {
        let now = Instant::now();
        let mut history = History::default();
        let first = Verdict::RestartAt(now + Duration::from_millis(200));
        assert_eq!(history.judge(&POLICY, true, Duration::ZERO, 0.5, now), first);
        assert_ne!(history.judge(&POLICY, true, Duration::from_secs(59), 0.5, now), first);
        assert_eq!(history.judge(&POLICY, true, Duration::from_secs(60), 0.5, now), first);
    }

    #[test]
    fn shortages_of_the_host_have_waits_of_their_own_and_count_for_nothing() {
        let now = Instant::now();
        let policy = RestartPolicy { mode: RestartMode::Never, intensity: 0, ..POLICY };
        let mut history = History::default();
        let first = now + Duration::from_millis(200);
        assert_eq!(history.shortage(&policy, 0.5, now), (first, 1));
        assert_eq!(history.shortage(&policy, 0.5, now), (now + Duration::from_millis(400), 2));
        assert_eq!((history.failures_in_a_row, history.total(), history.starts.len()), (0, 0, 0));
        history.shortage_is_over();
        assert_eq!(history.shortage(&policy, 0.5, now), (first, 1));
    }

    #[test]
    fn an_intensity_of_zero_allows_no_restart() {
        let policy = RestartPolicy { intensity: 0, ..POLICY };
        let mut history = History::default();
        assert_eq!(history.judge(&policy, true, Duration::ZERO, 0.5, Instant::now()), Verdict::Quarantine);
    }

    proptest! {
        /// Whatever the failures, the runs and the lateness of timers: no window holds more starts than the intensity.
        #[test]
        fn no_window_holds_more_starts_than_the_intensity(
            steps in prop::collection::vec((0..90_000u64, 0..20_000u64, 0.0..1.0f64), 1..60),
            intensity in 0..6u32,
        ) {
            let policy = RestartPolicy { intensity, jitter: 0.2, ..POLICY };
            let mut history = History::default();
            let mut now = Instant::now();
            let mut starts: Vec<Instant> = Vec::new();
            for (ran, late, chance) in steps {
                let ran = Duration::from_millis(ran);
                now += ran;
                match history.judge(&policy, true, ran, chance, now) {
                    Verdict::RestartAt(at) => {
                        prop_assert!(now <= at && at <= now + policy.backoff_max);
                        now = at + Duration::from_millis(late);
                        history.note_start(&policy, now);
                        starts.push(now);
                    }
                    Verdict::Quarantine => history.starts.clear(),
                    Verdict::Leave => prop_assert!(false),
                }
                if history.starts.is_empty() {
                    starts.clear();
                }
                let recent = starts.iter().filter(|start| now.duration_since(**start) < policy.window).count();
                prop_assert!(recent <= intensity as usize);
                prop_assert!(history.starts.len() <= intensity as usize);
            }
        }
    }
}
