//! Looks at what running plugins have, once a second, for limits that no controller holds, and acts on what is found.
//!
//! One task and one timer serve all plugins, and only while one runs. A plugin whose cgroup has used no processor time since the
//! last look has changed nothing and is not looked at. Small trees are looked at where the timer is; large ones, and such as seem
//! to have too much, on a thread that may block.
//!
//! Invariants: the work of a look is bounded by `process::look`; a plugin is never waited for; what is watched is forgotten
//! with its guard.
//! Elsewhere: what follows from a look is decided in `model::sampled`; what the kernel announces by itself is `pressure`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use palisade_protocol::Level;
use tokio::sync::{Notify, mpsc};

use super::blueprint::Blueprint;
use super::generation::{Order, Told};
use super::logs::{Source, Voice};
use super::pressure::Met;
use crate::model::ids::Generation;
use crate::model::limits::Kind;
use crate::model::sampled::{Held, Sample, Seen, Verdict};
use crate::model::saturation::{History, Throttled};
use crate::process::look::{self, Look, Whereabouts};
use crate::sandbox::cgroup::Accounts;

/// How often is looked.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Somebody who begins while there is nobody else is looked at so much later: until it takes calls, it has the processor to itself.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// A tree with no more processes and descriptors than that is looked at at once; it takes less than giving it to a thread would.
const SMALL_PROCESSES: usize = 8;
const SMALL_FILES: u64 = 64;

/// Everybody who is looked at.
#[derive(Debug, Default)]
pub struct Sampler {
    watched: Mutex<Numbered>,
    /// Rung when there is somebody to look at.
    begun: Notify,
}

#[derive(Debug, Default)]
struct Numbered {
    next: u64,
    subjects: HashMap<u64, Arc<Subject>>,
}

/// One process tree.
#[derive(Debug)]
pub struct Subject {
    /// What it may have.
    pub blueprint: Arc<Blueprint>,
    /// Which process of it.
    pub number: Generation,
    /// In whose name it is said.
    pub voice: Voice,
    /// Where limits that were met are told.
    pub told: mpsc::Sender<(Generation, Told)>,
    /// Where its end is ordered.
    pub orders: mpsc::WeakSender<Order>,
    /// Where it is found.
    pub tree: Whereabouts,
    /// What the kernel counts of its processor time, where it has a cgroup.
    pub accounts: Option<Accounts>,
    /// What the kernel holds.
    pub held: Held,
    /// How often it was throttled.
    pub history: Arc<Mutex<History>>,
    /// What was seen of it.
    pub state: Mutex<State>,
}

/// What was seen of a tree.
#[derive(Debug, Default)]
pub struct State {
    seen: Seen,
    used: Option<Duration>,
    /// It was too large to be looked at in passing.
    large: bool,
}

/// Somebody is looked at for as long as this is kept.
#[derive(Debug)]
pub struct Watched {
    sampler: Weak<Sampler>,
    number: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(sampler) = self.sampler.upgrade() {
            sampler.watched().subjects.remove(&self.number);
        }
    }
}

impl Sampler {
    fn watched(&self) -> MutexGuard<'_, Numbered> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a tree from now on.
    #[must_use]
    pub fn watch(self: &Arc<Self>, subject: Subject) -> Watched {
        let mut watched = self.watched();
        let number = watched.next;
        watched.next += 1;
        watched.subjects.insert(number, Arc::new(subject));
        self.begun.notify_waiters();
        Watched { sampler: Arc::downgrade(self), number }
    }

    /// The process trees of a plugin's version.
    #[must_use]
    pub fn trees_of(&self, blueprint: &Blueprint) -> Vec<Whereabouts> {
        let watched = self.watched();
        let of = watched.subjects.values().filter(|subject| std::ptr::eq(&*subject.blueprint, blueprint));
        of.map(|subject| subject.tree.clone()).collect()
    }

    /// Everybody who is looked at, by a number that is never used again. Waits while there is nobody.
    pub(super) async fn subjects(&self) -> Vec<(u64, Arc<Subject>)> {
        let present = || self.watched().subjects.iter().map(|(number, subject)| (*number, subject.clone())).collect();
        settled(&self.begun, present).await
    }

    /// Looks, for as long as the daemon runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            for (_, subject) in self.subjects().await {
                subject.look().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Subject {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processor time of its cgroup, as it was seen last.
    pub(super) fn used(&self) -> Option<Duration> {
        self.state().used
    }

    async fn look(self: Arc<Self>) {
        let at = Instant::now();
        let counted = match self.accounts.as_ref().map(Accounts::look) {
            Some(Ok((used, periods))) => {
                if let Some(periods) = periods {
                    let counters = Throttled { all: periods.all, throttled: periods.throttled };
                    self.history.lock().unwrap_or_else(PoisonError::into_inner).note(at, counters);
                }
                let before = self.state().used.replace(used);
                if before == Some(used) {
                    // Nothing ran, so nothing has changed.
                    let idle = Sample { cpu: Some(used), ..Sample::nothing(at) };
                    return self.conclude(&idle);
                }
                Some(used)
            }
            // The cgroup is gone, and the process with it.
            Some(Err(_)) => return,
            None => None,
        };
        let Some(seen) = self.clone().see().await else { return };
        self.conclude(&Sample {
            at,
            memory_bytes: seen.memory,
            pids: Some(seen.pids),
            cpu: counted.or(seen.cpu),
            open_files: seen.open_files,
            full: seen.full,
        });
    }

    /// Looks, on this thread if that is quick.
    async fn see(self: Arc<Self>) -> Option<Look> {
        let limit = self.blueprint.limits().memory_mib.value.saturating_mul(1 << 20);
        if !self.state().large && self.tree.leaf.is_some() {
            let processes = look::processes(&self.tree);
            if processes.len() <= SMALL_PROCESSES {
                let seen = look::look(&self.tree, &processes, u64::MAX);
                self.state().large = SMALL_FILES < seen.open_files.unwrap_or(0);
                if seen.memory.is_none_or(|memory| memory <= limit) {
                    return Some(seen);
                }
            }
        }
        let subject = self.clone();
        let looked = crate::blocking::run(move || {
            let processes = look::processes(&subject.tree);
            let seen = look::look(&subject.tree, &processes, limit);
            subject.state().large = SMALL_PROCESSES < processes.len() || SMALL_FILES < seen.open_files.unwrap_or(0);
            seen
        });
        match looked.await {
            Ok(seen) => Some(seen),
            Err(error) => {
                tracing::error!(plugin = %self.voice.plugin, %error, "a plugin could not be looked at");
                None
            }
        }
    }

    fn conclude(&self, sample: &Sample) {
        let verdicts = self.state().seen.look(sample, &self.blueprint.limits(), self.held);
        for verdict in verdicts {
            match verdict {
                Verdict::Met(limit, sentence) => {
                    self.meet(&Met::new(limit, sentence));
                }
                Verdict::Over(limit, detail) => self.end(limit, detail),
            }
        }
    }

    /// Says that it has met a limit.
    pub(super) fn meet(&self, met: &Met) {
        self.voice.say(Source::Supervisor, Level::Warn, &met.sentence, None, None);
        // Who does not listen at the moment has it in the log.
        let _ = self.told.try_send((self.number, Told::Met(met.clone())));
    }

    /// Has it ended, because of what it has.
    pub(super) fn end(&self, limit: Kind, detail: String) {
        // A task that has ended has nothing left to end; one that has as many orders as it can is looked at again.
        if let Some(orders) = self.orders.upgrade() {
            let _ = orders.try_send(Order::Exhaust { limit, detail });
        }
    }
}

/// Who is present, once there is somebody; whoever was the first has settled by then. `begun` is rung by each who comes.
async fn settled<T>(begun: &Notify, present: impl Fn() -> Vec<T>) -> Vec<T> {
    loop {
        // Before it is looked, so that nothing is missed in between.
        let mut rung = std::pin::pin!(begun.notified());
        rung.as_mut().enable();
        let found = present();
        if !found.is_empty() {
            return found;
        }
        rung.await;
        tokio::time::sleep(SETTLED_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_who_begins_has_settled_before_it_is_looked_at() {
        let (begun, present) = (Notify::new(), Mutex::new(Vec::new()));
        let began = tokio::time::Instant::now();
        let come = async {
            present.lock().unwrap().push("first");
            begun.notify_waiters();
        };
        let (found, ()) = tokio::join!(settled(&begun, || present.lock().unwrap().clone()), come);
        assert_eq!((found, began.elapsed()), (vec!["first"], SETTLED_AFTER));

        let found = settled(&begun, || present.lock().unwrap().clone()).await;
        assert_eq!(
            (found, began.elapsed()),
            (vec!["first"], SETTLED_AFTER),
            "who has been there is looked at without delay"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_meanwhile_is_not_looked_at() {
        let (begun, present) = (Notify::new(), Mutex::new(Vec::new()));
        let come_and_go = async {
            present.lock().unwrap().push("first");
            begun.notify_waiters();
            tokio::time::sleep(SETTLED_AFTER / 2).await;
            present.lock().unwrap().clear();
            tokio::time::sleep(SETTLED_AFTER * 2).await;
            present.lock().unwrap().push("second");
            begun.notify_waiters();
        };
        let (found, ()) = tokio::join!(settled(&begun, || present.lock().unwrap().clone()), come_and_go);
        assert_eq!(found, ["second"]);
    }
}
