//! Watches how a process meets its limits, and says so while it runs: forks that are refused, processor time that is used up.
//!
//! The kernel announces refused forks; throttling it only counts, so that is looked at every few seconds. Where there are no
//! controllers there is nothing to watch, and no task of this; `sampler` looks then.
//!
//! Invariants: what is said is bounded by time, however often a limit is met.
//! Elsewhere: the end for want of memory is part of how a process ended, see `process`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::blueprint::Blueprint;
use crate::model::limits::Kind;
use crate::model::saturation::{LOOK_EVERY, Saturation};
use crate::sandbox::cgroup::Pressure;

/// A plugin that goes on meeting a limit is said to again after so long.
pub(super) const SAID_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A limit that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// Which.
    pub limit: Kind,
    /// What is to be said about it.
    pub sentence: String,
}

impl Met {
    pub(super) fn new(limit: Kind, sentence: impl std::fmt::Display) -> Self {
        Self { limit, sentence: format!("{limit}: {sentence}") }
    }
}

/// What has been seen of one process.
#[derive(Debug)]
pub struct Watch {
    announced: AsyncFd<Pressure>,
    blueprint: Arc<Blueprint>,
    saturation: Saturation,
    looks: Interval,
    refused: u64,
    /// Refused forks are not looked at again before they may be said again.
    quiet_until: Instant,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// What the system says if the files cannot be read or waited for.
    pub fn new(pressure: Pressure, blueprint: Arc<Blueprint>) -> io::Result<Self> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let refused = pressure.forks_refused()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that are not I/O-safe; this is one of two files"
        )]
        let announced = AsyncFd::with_interest(pressure, Interest::PRIORITY)?;
        let saturation = Saturation::default();
        Ok(Self { announced, blueprint, saturation, looks, refused, quiet_until: Instant::now() })
    }

    /// Waits for the next limit that is met.
    ///
    /// Cancel safe: a limit is returned in the poll that finds it.
    ///
    /// # Errors
    /// When the cgroup is gone, and with it the process.
    pub async fn next(&mut self) -> io::Result<Met> {
        let Self { announced, blueprint, saturation, looks, refused, quiet_until } = self;
        loop {
            let announcement = async {
                tokio::time::sleep_until(*quiet_until).await;
                announced.ready(Interest::PRIORITY).await
            };
            tokio::select! {
                guard = announcement => {
                    guard?.clear_ready();
                    let now = announced.get_ref().forks_refused()?;
                    if *refused < now {
                        let times = now - *refused;
                        *refused = now;
                        *quiet_until = Instant::now() + SAID_AGAIN_AFTER;
                        let limit = blueprint.limits().pids.value;
                        return Ok(Met::new(Kind::Pids, format_args!(
                            "{limit} processes and threads are its limit, and {times} more were refused"
                        )));
                    }
                }
                _ = looks.tick() => {
                    let periods = announced.get_ref().periods()?;
                    if saturation.look(periods.all, periods.throttled) {
                        let limit = blueprint.limits().cpu_percent.value;
                        return Ok(Met::new(Kind::Cpu, format_args!(
                            "it wants more than its limit of {limit} % of a processor, and waits most of the time"
                        )));
                    }
                }
            }
        }
    }
}
