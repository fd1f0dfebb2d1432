//! What is remembered of the use of each version: how often it was installed, its calls, and when there was the last.
//!
//! A version that is removed keeps its row until somebody asks for its end; there are at most [`ROWS_MAX`], and those that were
//! used longest ago go first.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use semver::Version;

use super::{Database, DatabaseError};
use crate::model::ids::PluginId;
use crate::model::tally::{Latencies, Tally};

pub(super) const MIGRATION: &str = "
    ALTER TABLE statistics DROP COLUMN calls;
    ALTER TABLE statistics ADD COLUMN ok INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE statistics ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE statistics ADD COLUMN timed_out INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE statistics ADD COLUMN crashed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE statistics ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE statistics ADD COLUMN latencies BLOB NOT NULL DEFAULT x'';
";

/// Twice what can be installed at once.
pub const ROWS_MAX: usize = 20_000;

/// What is remembered of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// How often it was installed.
    pub installs: u64,
    /// Its calls.
    pub tally: Tally,
}

impl Database {
    /// Adds what was counted of some versions. All of it is there then, or nothing.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn count(&self, counted: &[((PluginId, Version), Tally)]) -> Result<(), DatabaseError> {
        let mut connection = self.connection();
        let mut done = || {
            let transaction = connection.transaction()?;
            for ((id, version), more) in counted {
                let (id, version) = (id.as_str(), version.to_string());
                let mut tally = transaction
                    .query_row("SELECT * FROM statistics WHERE id = ?1 AND version = ?2", params![id, version], read)
                    .optional()?
                    .unwrap_or_default()
                    .tally;
                tally.add(more);
                transaction.execute(
                    "INSERT INTO statistics
                     (id, version, ok, errors, cancelled, timed_out, crashed, refused, latencies, last_used_unix_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                     ON CONFLICT DO UPDATE SET ok = excluded.ok, errors = excluded.errors, cancelled = excluded.cancelled,
                     timed_out = excluded.timed_out, crashed = excluded.crashed, refused = excluded.refused,
                     latencies = excluded.latencies, last_used_unix_ms = excluded.last_used_unix_ms",
                    params![
                        id,
                        version,
                        kept(tally.ok),
                        kept(tally.errors),
                        kept(tally.cancelled),
                        kept(tally.timed_out),
                        kept(tally.crashed),
                        kept(tally.refused),
                        tally.latencies.to_bytes(),
                        tally.last_used_unix_ms.map(kept),
                    ],
                )?;
            }
            let rows: usize = transaction.query_row("SELECT count(*) FROM statistics", [], |row| row.get(0))?;
            if ROWS_MAX < rows {
                transaction.execute(
                    "DELETE FROM statistics WHERE (id, version) IN
                     (SELECT id, version FROM statistics ORDER BY last_used_unix_ms, id, version LIMIT ?1)",
                    params![rows - ROWS_MAX],
                )?;
            }
            transaction.commit()
        };
        done().map_err(|error| self.told(&error))
    }

    /// What is remembered of every version. What is no id or no version is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn statistics(&self) -> Result<BTreeMap<(PluginId, Version), Statistics>, DatabaseError> {
        let connection = self.connection();
        let all = || {
            let mut all = connection.prepare("SELECT * FROM statistics")?;
            let rows = all
                .query_map([], |row| Ok((row.get::<_, String>("id")?, row.get::<_, String>("version")?, read(row)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = all().map_err(|error| self.told(&error))?;
        let known = |(id, version, statistics): (String, String, Statistics)| {
            Some(((PluginId::parse(&id).ok()?, Version::parse(&version).ok()?), statistics))
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }

    /// Forgets all of an id, in all its versions.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten.
    pub fn forget_statistics(&self, id: &PluginId) -> Result<(), DatabaseError> {
        let gone = self.connection().execute("DELETE FROM statistics WHERE id = ?1", params![id.as_str()]);
        gone.map(|_| ()).map_err(|error| self.told(&error))
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Statistics> {
    let count = |name| row.get::<_, u64>(name);
    let tally = Tally {
        ok: count("ok")?,
        errors: count("errors")?,
        cancelled: count("cancelled")?,
        timed_out: count("timed_out")?,
        crashed: count("crashed")?,
        refused: count("refused")?,
        latencies: Latencies::from_bytes(row.get_ref("latencies")?.as_blob()?),
        last_used_unix_ms: row.get("last_used_unix_ms")?,
    };
    Ok(Statistics { installs: count("installs")?, tally })
}

/// SQLite's numbers have a sign.
fn kept(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Entry;
    use super::*;
    use crate::model::tally::{BUCKETS, bucket};

    fn tally(ok: u64, took: Duration, at: u64) -> Tally {
        let mut counts = vec![0; BUCKETS];
        counts[bucket(took)] = ok;
        Tally { ok, crashed: 1, latencies: Latencies::of(counts), last_used_unix_ms: Some(at), ..Tally::default() }
    }

    fn version(id: &str, version: &str) -> (PluginId, Version) {
        (PluginId::parse(id).unwrap(), Version::parse(version).unwrap())
    }

    fn entry(id: &str, version: &str) -> Entry {
        let text = str::to_owned;
        let (at_unix_ms, who, what, detail) = (7, text("uid:0"), text("install"), String::new());
        Entry { at_unix_ms, who, what, id: text(id), version: text(version), detail }
    }

    #[test]
    fn counts_add_up_over_daemons_and_outlive_their_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let echo = version("echo", "1.0.0");
        let database = Database::open(&path);
        database.installed(&entry("echo", "1.0.0"), None).unwrap();
        database.count(&[(echo.clone(), tally(3, Duration::from_millis(1), 20))]).unwrap();
        drop(database);
        let database = Database::open(&path);
        let later =
            [(echo.clone(), tally(2, Duration::from_secs(1), 30)), (version("other", "0.1.0"), Tally::default())];
        database.count(&later).unwrap();
        database.installed(&entry("echo", "1.0.0"), None).unwrap();
        database.removed(&entry("echo", "1.0.0")).unwrap();
        let mut sum = tally(3, Duration::from_millis(1), 20);
        sum.add(&tally(2, Duration::from_secs(1), 30));
        let all = database.statistics().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[&echo], Statistics { installs: 2, tally: sum });
        database.forget_statistics(&echo.0).unwrap();
        let left = BTreeMap::from([(version("other", "0.1.0"), Statistics::default())]);
        assert_eq!(database.statistics().unwrap(), left);
    }

    #[test]
    fn those_that_were_used_longest_ago_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let of = |number: usize| (version("echo", &format!("1.0.{number}")), tally(1, Duration::ZERO, number as u64));
        let many: Vec<_> = (0..ROWS_MAX + 3).map(of).collect();
        database.count(&many).unwrap();
        let left = database.statistics().unwrap();
        assert_eq!(left.len(), ROWS_MAX);
        let oldest = left.values().map(|statistics| statistics.tally.last_used_unix_ms).min();
        assert_eq!(oldest, Some(Some(3)));
    }

    #[test]
    fn a_full_disk_leaves_the_counts_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        database.count(&[(version("echo", "1.0.0"), tally(3, Duration::ZERO, 20))]).unwrap();
        let before = database.statistics().unwrap();
        database.connection().pragma_update(None, "max_page_count", 1).unwrap();
        let many: Vec<_> =
            (0..500).map(|number| (version("echo", &format!("1.0.{number}")), tally(1, Duration::ZERO, 30))).collect();
        assert!(matches!(database.count(&many), Err(DatabaseError::Write { .. })));
        assert_eq!(database.statistics().unwrap(), before);
    }
}
