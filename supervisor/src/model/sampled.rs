//! What follows from looking at a plugin's tree once in a while, for every limit that the kernel does not hold by itself.
//!
//! Looked at is what the whole tree has, so this is later than the kernel would be, by a look, and it is said to be: `monitored`.
//! A limit that is met and held elsewhere (descriptors, processes) is told once, until it is not met any more; one that is
//! exceeded and held by nobody ends the plugin, but for processor time, where the operator says what follows.
//!
//! Elsewhere: looking is `plugin::sampler`; limits that the kernel holds and counts are `plugin::pressure`.

use std::time::{Duration, Instant};

use super::limits::{CpuOver, Kind, Limits};
use super::saturation::SATURATED_AFTER;

/// What was seen at one look. What could not be seen is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub at: Instant,
    /// Memory of the tree that nobody else has.
    pub memory_bytes: Option<u64>,
    /// Processes and threads, pid 1 of the tree not among them.
    pub pids: Option<u64>,
    /// Processor time since the tree began.
    pub cpu: Option<Duration>,
    /// Descriptors of the process that has most.
    pub open_files: Option<u64>,
    /// A file system in memory of its own in which there is no room left.
    pub full: Option<&'static str>,
}

impl Sample {
    /// A look that saw nothing.
    #[must_use]
    pub fn nothing(at: Instant) -> Self {
        Self { at, memory_bytes: None, pids: None, cpu: None, open_files: None, full: None }
    }
}

/// Which limits the kernel holds for the whole tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    pub memory: bool,
    pub pids: bool,
    pub cpu: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be said.
    Met(Kind, String),
    /// The plugin is to be ended.
    Over(Kind, String),
}

/// What was seen of a tree so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The last look that saw processor time.
    cpu: Option<(Instant, Duration)>,
    /// When it began to use more than it may, and how much it had used by then.
    over_since: Option<(Instant, Duration)>,
    cpu_said: bool,
    pids_said: bool,
    files_said: bool,
    full_said: bool,
}

impl Seen {
    /// Takes in a look, and says what follows.
    pub fn look(&mut self, sample: &Sample, limits: &Limits, held: Held) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let Some(bytes) = sample.memory_bytes.filter(|_| !held.memory)
            && limits.memory_mib.value.saturating_mul(1 << 20) < bytes
        {
            let (mib, limit) = (bytes >> 20, limits.memory_mib.value);
            let sentence =
                format!("its processes were seen to have {mib} MiB together, and {limit} MiB are their limit");
            verdicts.push(Verdict::Over(Kind::Memory, sentence));
        }
        if let Some(pids) = sample.pids.filter(|_| !held.pids) {
            let limit = limits.pids.value;
            if limit < pids {
                let sentence = format!("{pids} processes and threads were seen, and {limit} are its limit");
                verdicts.push(Verdict::Over(Kind::Pids, sentence));
            } else if met(&mut self.pids_said, limit <= pids) {
                let sentence = format!("{limit} processes and threads are its limit, and it was seen to have them all");
                verdicts.push(Verdict::Met(Kind::Pids, sentence));
            }
        }
        if let Some(files) = sample.open_files {
            let limit = limits.open_files.value;
            if met(&mut self.files_said, limit <= files) {
                let sentence =
                    format!("{limit} descriptors are the limit of a process, and one was seen to have them all");
                verdicts.push(Verdict::Met(Kind::OpenFiles, sentence));
            }
        }
        if met(&mut self.full_said, sample.full.is_some())
            && let Some(place) = sample.full
        {
            verdicts.push(Verdict::Met(Kind::Disk, format!("{place} is full, in bytes or in files")));
        }
        if let Some(used) = sample.cpu.filter(|_| !held.cpu) {
            verdicts.extend(self.processor(sample.at, used, limits));
        }
        verdicts
    }

    fn processor(&mut self, at: Instant, used: Duration, limits: &Limits) -> Option<Verdict> {
        let last = self.cpu.replace((at, used))?;
        // A pause makes up for as much as was too much before, and for no more: who rests every ten seconds is not overlooked.
        let (since, before) = *self.over_since.get_or_insert(last);
        let (passed, spent) = (at.saturating_duration_since(since), used.saturating_sub(before));
        if passed.is_zero() {
            return None;
        }
        let percent = 100.0 * spent.as_secs_f64() / passed.as_secs_f64();
        let limit = limits.cpu_percent.value;
        // What it was between two looks is known only roughly.
        if percent <= limit as f64 * 1.1 {
            self.over_since = None;
            self.cpu_said = false;
            return None;
        }
        if passed < SATURATED_AFTER || self.cpu_said {
            return None;
        }
        self.cpu_said = true;
        let (seconds, percent) = (passed.as_secs(), percent.round());
        let sentence = format!(
            "for {seconds} s it has used more than its limit of {limit} % of a processor, {percent} % on the average; nothing here throttles it"
        );
        Some(match limits.cpu_over {
            CpuOver::Warn => Verdict::Met(Kind::Cpu, sentence),
            CpuOver::Restart => Verdict::Over(Kind::Cpu, sentence),
        })
    }
}

/// Whether it is to be said now that something is so: once, until it is not.
fn met(said: &mut bool, now: bool) -> bool {
    let news = now && !*said;
    *said = now;
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::Allowance;
    use crate::model::manifest::Resources;

    fn limits(cpu_over: CpuOver) -> Limits {
        let said = Allowance {
            memory_mib: Some(64),
            cpu_percent: Some(50),
            pids: Some(8),
            open_files: Some(100),
            cpu_over: Some(cpu_over),
            ..Allowance::default()
        };
        Limits::decide(&Resources::default(), &said, &Allowance::default())
    }

    fn sample(at: Instant) -> Sample {
        Sample::nothing(at)
    }

    fn kinds(verdicts: &[Verdict]) -> Vec<(bool, Kind)> {
        let kind = |verdict: &Verdict| match verdict {
            Verdict::Met(kind, _) => (false, *kind),
            Verdict::Over(kind, _) => (true, *kind),
        };
        verdicts.iter().map(kind).collect()
    }

    #[test]
    fn what_nobody_holds_ends_a_plugin_that_has_more() {
        let (limits, at) = (limits(CpuOver::Warn), Instant::now());
        let full = Sample { memory_bytes: Some(64 << 20), pids: Some(7), open_files: Some(99), ..sample(at) };
        assert_eq!(Seen::default().look(&full, &limits, Held::default()), []);
        let more = Sample { memory_bytes: Some((64 << 20) + 1), pids: Some(9), ..full };
        let said = Seen::default().look(&more, &limits, Held::default());
        assert_eq!(kinds(&said), [(true, Kind::Memory), (true, Kind::Pids)]);
        let held = Held { memory: true, pids: true, cpu: true };
        assert_eq!(Seen::default().look(&more, &limits, held), [], "the kernel sees to it");
    }

    #[test]
    fn what_is_met_is_said_once_until_it_is_not_met() {
        let (limits, at, mut seen) = (limits(CpuOver::Warn), Instant::now(), Seen::default());
        let mut look = |pids, files| {
            let sample = Sample { pids: Some(pids), open_files: Some(files), ..sample(at) };
            kinds(&seen.look(&sample, &limits, Held::default()))
        };
        assert_eq!(look(8, 100), [(false, Kind::Pids), (false, Kind::OpenFiles)]);
        assert_eq!(look(8, 100), []);
        assert_eq!(look(7, 100), []);
        assert_eq!(look(8, 99), [(false, Kind::Pids)]);
        assert_eq!(look(8, 100), [(false, Kind::OpenFiles)]);

        let mut look = |full| kinds(&seen.look(&Sample { full, ..sample(at) }, &limits, Held::default()));
        let said: Vec<_> = [Some("/tmp"), Some("/dev/shm"), None, Some("/tmp")].map(&mut look).into();
        let full = vec![(false, Kind::Disk)];
        assert_eq!(said, [full.clone(), vec![], vec![], full]);
    }

    #[test]
    fn processor_time_has_to_be_exceeded_for_ten_seconds() {
        for (over, expected) in [(CpuOver::Warn, (false, Kind::Cpu)), (CpuOver::Restart, (true, Kind::Cpu))] {
            let (limits, start, mut seen, mut used) = (limits(over), Instant::now(), Seen::default(), Duration::ZERO);
            let mut look = |second: u64, spent_ms: u64| {
                used += Duration::from_millis(spent_ms);
                let sample = Sample { cpu: Some(used), ..sample(start + Duration::from_secs(second)) };
                kinds(&seen.look(&sample, &limits, Held::default()))
            };
            // A pause that makes up for it begins anew, and what is hardly more than the limit is none.
            let quiet = (0..5).flat_map(|second| look(second, 1000)).count();
            assert_eq!((quiet, look(9, 540)), (0, vec![]));
            let loud: Vec<_> = (10..30).map(|second| look(second, 600)).collect();
            let at = loud.iter().position(|said| !said.is_empty());
            assert_eq!(at, Some(9), "after ten seconds, and {loud:?}");
            assert_eq!(loud.concat(), [expected], "and once");
        }
    }

    #[test]
    fn a_second_of_rest_does_not_hide_nine_of_work() {
        let (limits, start, mut seen, mut used) =
            (limits(CpuOver::Warn), Instant::now(), Seen::default(), Duration::ZERO);
        let said = (0..60).filter(|second| {
            used += Duration::from_secs(u64::from(second % 10 != 9));
            let sample = Sample { cpu: Some(used), ..sample(start + Duration::from_secs(*second)) };
            !seen.look(&sample, &limits, Held::default()).is_empty()
        });
        assert_eq!(said.collect::<Vec<_>>(), [10], "once, as it goes on");
    }
}
