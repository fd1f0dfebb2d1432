//! Medians, pinning, and how much effort a run makes.

use std::time::Duration;

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long and how often to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds in which floor and daemon take turns.
    pub(crate) rounds: usize,
    /// Calls of one round of ping-pong.
    pub(crate) calls: usize,
    /// How long one round of throughput takes.
    pub(crate) span: Duration,
    /// Payloads of one round.
    pub(crate) payloads: usize,
    /// Confined starts of each kind, spread over the whole measurement.
    pub(crate) starts: usize,
    /// The "1,000" of the figures about many plugins.
    pub(crate) many: usize,
    /// The "100".
    pub(crate) hundred: usize,
    /// Whether to leave the daemon out.
    pub(crate) floors_only: bool,
}

impl Effort {
    pub(crate) fn new(quick: bool, floors_only: bool) -> Self {
        if quick {
            let span = Duration::from_millis(100);
            Self { rounds: 1, calls: 500, span, payloads: 2, starts: 3, many: 20, hundred: 10, floors_only }
        } else {
            let span = Duration::from_millis(1000);
            Self { rounds: 5, calls: 20_000, span, payloads: 15, starts: 60, many: 1000, hundred: 100, floors_only }
        }
    }
}

/// The value below which `part` of them lie; sorts them.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = ((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(&mut values.to_vec(), 0.5)
}

/// Where threads may run; what a process starts inherits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// All on one processor: no time goes into waking another one, so the figures are steady.
    OneCore,
    /// As the machine likes.
    Anywhere,
}

/// Runs `work` on a thread of its own at that place; processes it starts stay there.
pub(crate) fn at<T: Send>(place: Place, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                if place == Place::OneCore {
                    pin()?;
                }
                work()
            })
            .join()
            .map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
    })
}

/// Keeps the calling thread on the last processor it may use: the first ones take most interrupts.
fn pin() -> anyhow::Result<()> {
    let all = sched_getaffinity(None).context("asking for the affinity")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu)).context("a thread runs somewhere")?;
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).context("pinning to one processor")
}
