//! How versions are used: counted in memory by those who end calls, written down each minute, and told.
//!
//! Invariants: what is counted is in the database, in `owed`, or not collected yet, and in one of these alone; nothing is written for a
//! call. A daemon that is killed loses a minute of it at most, and a database that cannot be written costs nothing but this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;

use super::{Packages, lock, run};
use crate::blocking;
use crate::events::unix_ms;
use crate::model::ids::PluginId;
use crate::model::specifier::Specifier;
use crate::model::tally::Tally;
use crate::plugin::call::Counters;
use crate::store::database::statistics::Statistics;
use crate::store::database::{Database, DatabaseError};

/// So often what was counted is written down, if there is anything.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);

/// What `stats` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// By id and version.
    pub plugins: Vec<VersionUsage>,
}

/// How a version is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionUsage {
    pub id: PluginId,
    pub version: Version,
    /// Whether there still is that version.
    pub present: bool,
    pub installs: u64,
    /// All that have ended, however.
    pub calls: u64,
    pub ok: u64,
    pub errors: u64,
    pub timed_out: u64,
    pub crashed: u64,
    pub cancelled: u64,
    pub refused: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_unix_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// How long the plugin took for its answers, from when the call was let in; an eighth too much at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Latency {
    pub answers: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// What counts the calls of versions, and what of it is not written down.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    versions: Mutex<BTreeMap<(PluginId, Version), Account>>,
    /// Held by whoever moves what is counted into the database or compares it with what is there; never on the runtime's thread.
    moving: Mutex<()>,
}

#[derive(Debug, Default)]
struct Account {
    /// The counters, and what has been collected of them. A version that is made anew counts from zero, and its old one may still
    /// have calls.
    sources: Vec<(Arc<Counters>, Tally)>,
    /// Collected, and not written down.
    owed: Tally,
}

impl Account {
    fn collect(&mut self, now: (Instant, u64)) {
        let owed = &mut self.owed;
        self.sources.retain_mut(|(counters, collected)| {
            // Asked first: whoever had it may have counted until then.
            let is_in_use = Arc::strong_count(counters) > 1;
            let tally = counters.tally(now.0, now.1);
            owed.add(&tally.since(collected));
            *collected = tally;
            is_in_use
        });
    }
}

fn now() -> (Instant, u64) {
    (Instant::now(), unix_ms(SystemTime::now()))
}

impl Accounts {
    /// Has the calls counted that these count.
    pub(super) fn open(&self, id: &PluginId, version: &Version, counters: &Arc<Counters>) {
        let mut versions = lock(&self.versions);
        let account = versions.entry((id.clone(), version.clone())).or_default();
        account.collect(now());
        account.sources.push((counters.clone(), Tally::default()));
    }

    /// Writes down what was counted since the last time. Blocks.
    fn write(&self, database: &Database) {
        let _moving = lock(&self.moving);
        let now = now();
        let mut owed = Vec::new();
        lock(&self.versions).retain(|version, account| {
            account.collect(now);
            if account.owed != Tally::default() {
                owed.push((version.clone(), std::mem::take(&mut account.owed)));
            }
            !account.sources.is_empty()
        });
        if owed.is_empty() {
            return;
        }
        if let Err(error) = database.count(&owed) {
            tracing::warn!(%error, "how plugins are used is not written down");
            let mut versions = lock(&self.versions);
            for (version, tally) in owed {
                versions.entry(version).or_default().owed.add(&tally);
            }
        }
    }

    /// Forgets all of an id of which no version is there, also what was not written down. Blocks.
    pub(super) fn forget(&self, id: &PluginId, database: &Database) -> Result<(), DatabaseError> {
        let _moving = lock(&self.moving);
        lock(&self.versions).retain(|(other, _), _| other != id);
        database.forget_statistics(id)
    }

    /// Whether anything of an id is not written down.
    pub(super) fn owes(&self, id: &PluginId) -> bool {
        let now = now();
        lock(&self.versions).iter_mut().filter(|((other, _), _)| other == id).any(|(_, account)| {
            account.collect(now);
            account.owed != Tally::default()
        })
    }

    /// All that is known. Blocks.
    fn all(&self, database: &Database) -> Result<BTreeMap<(PluginId, Version), Statistics>, ErrorBody> {
        let _moving = lock(&self.moving);
        let written = database.statistics();
        let mut all = written.map_err(|error| ErrorBody::new(ErrorCode::Unavailable, error.to_string()))?;
        let now = now();
        for (version, account) in &mut *lock(&self.versions) {
            account.collect(now);
            all.entry(version.clone()).or_default().tally.add(&account.owed);
        }
        Ok(all)
    }
}

impl Packages {
    /// Writes down what was counted since the last time. What cannot be written is kept for the next.
    pub async fn write_statistics(&self) {
        let (accounts, database) = (self.accounts.clone(), self.database.clone());
        if let Err(error) = blocking::run(move || accounts.write(&database)).await {
            tracing::warn!(%error, "how plugins are used is not written down");
        }
    }

    /// Does so each minute, until it is dropped.
    pub async fn go_on_writing_statistics(&self) {
        loop {
            tokio::time::sleep(WRITTEN_EVERY).await;
            self.write_statistics().await;
        }
    }

    /// How versions are used: all, those of an id, or of these those that fit; also such that are not there any more.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found` or `invalid_params` where nothing is known of what was named; `unavailable` where the
    /// database cannot be read.
    pub async fn usage(&self, plugin: Option<&str>, version: Option<&str>) -> Result<Usage, ErrorBody> {
        let (accounts, database) = (self.accounts.clone(), self.database.clone());
        let all = run(move || accounts.all(&database)).await??;
        let registry = self.registry()?;
        let wanted = match version.map(Specifier::parse) {
            Some(Ok(specifier)) => Some(specifier),
            None => Some(Specifier::any()),
            // Told with the registry's words.
            Some(Err(_)) => None,
        };
        let fits = |(id, version): &(PluginId, Version)| {
            plugin.is_none_or(|plugin| id.as_str() == plugin)
                && wanted.as_ref().is_some_and(|wanted| wanted.admits(version))
        };
        let plugins: Vec<_> = all
            .into_iter()
            .filter(|(version, _)| fits(version))
            .map(|((id, version), statistics)| {
                let present = registry.versions(&id).any(|(there, _)| *there == version);
                of(id, version, present, statistics)
            })
            .collect();
        match plugin {
            Some(plugin) if plugins.is_empty() => match registry.find_any(plugin, version) {
                Err(error) => Err(error),
                Ok(_) => Ok(Usage { plugins }),
            },
            _ => Ok(Usage { plugins }),
        }
    }
}

fn of(id: PluginId, version: Version, present: bool, statistics: Statistics) -> VersionUsage {
    let Statistics { installs, tally } = statistics;
    let microseconds = |took: Duration| u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
    let quantile = |per_mille| tally.latencies.quantile(per_mille).map(microseconds);
    let latency = || {
        Some(Latency {
            answers: tally.latencies.count(),
            p50_us: quantile(500)?,
            p90_us: quantile(900)?,
            p99_us: quantile(990)?,
            max_us: tally.latencies.longest().map(microseconds)?,
        })
    };
    VersionUsage {
        id,
        version,
        present,
        installs,
        calls: tally.calls(),
        ok: tally.ok,
        errors: tally.errors,
        timed_out: tally.timed_out,
        crashed: tally.crashed,
        cancelled: tally.cancelled,
        refused: tally.refused,
        last_used_unix_ms: tally.last_used_unix_ms,
        latency: latency(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> (PluginId, Version) {
        (PluginId::parse("echo").unwrap(), Version::new(1, 0, 0))
    }

    fn refused(all: &BTreeMap<(PluginId, Version), Statistics>) -> u64 {
        all.get(&echo()).map_or(0, |statistics| statistics.tally.refused)
    }

    /// A version that is made anew, and one that is gone, have their calls counted once.
    #[test]
    fn nothing_is_counted_twice_or_lost_whoever_counts() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let accounts = Accounts::default();
        let (id, version) = echo();
        let first = Arc::new(Counters::default());
        accounts.open(&id, &version, &first);
        first.refuse();
        assert_eq!(refused(&accounts.all(&database).unwrap()), 1);
        assert!(database.statistics().unwrap().is_empty(), "nothing is written for a call");
        let second = Arc::new(Counters::default());
        accounts.open(&id, &version, &second);
        first.refuse();
        second.refuse();
        accounts.write(&database);
        accounts.write(&database);
        assert_eq!(refused(&accounts.all(&database).unwrap()), 3);
        first.refuse();
        drop((first, second));
        accounts.write(&database);
        assert!(lock(&accounts.versions).is_empty());
        assert_eq!(refused(&accounts.all(&database).unwrap()), 4);
        let third = Arc::new(Counters::default());
        accounts.open(&id, &version, &third);
        third.refuse();
        drop(third);
        // Of an earlier version nothing was written down yet either.
        let earlier = Arc::new(Counters::default());
        accounts.open(&id, &Version::new(0, 9, 0), &earlier);
        assert!(accounts.owes(&id));
        earlier.refuse();
        drop(earlier);
        accounts.forget(&id, &database).unwrap();
        assert!(!accounts.owes(&id));
        accounts.write(&database);
        assert_eq!(accounts.all(&database).unwrap(), BTreeMap::new(), "nothing of it comes back");
    }

    /// What could not be written is owed, and written when it can be.
    #[test]
    fn what_cannot_be_written_is_kept_for_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let database = Database::open(&path);
        let accounts = Accounts::default();
        let (id, version) = echo();
        let counters = Arc::new(Counters::default());
        accounts.open(&id, &version, &counters);
        counters.refuse();
        drop(counters);
        // Its place for them is gone.
        let without = |what: &str| {
            let other = rusqlite::Connection::open(&path).unwrap();
            other.execute_batch(what).unwrap();
        };
        drop(database);
        without("ALTER TABLE statistics RENAME TO elsewhere");
        accounts.write(&Database::open(&path));
        assert_eq!(lock(&accounts.versions).len(), 1);
        without("ALTER TABLE elsewhere RENAME TO statistics");
        let database = Database::open(&path);
        accounts.write(&database);
        assert!(lock(&accounts.versions).is_empty());
        assert_eq!(refused(&accounts.all(&database).unwrap()), 1);
    }
}
