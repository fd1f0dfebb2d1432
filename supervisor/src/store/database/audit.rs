//! The audit trail: what was done with plugins, when, by whom, and why. Each entry is written with the change that it tells of, or not at all.
//!
//! Invariants: no entry is changed once it was written, and none has the number of another; the trail has at most [`ROWS_MAX`] entries, and
//! none has more than [`DETAIL_BYTES_MAX`] bytes of detail.

use rusqlite::{Transaction, params};
use serde::Serialize;

use super::{Database, DatabaseError};

/// So many entries are kept, the youngest.
pub const ROWS_MAX: u32 = 100_000;

/// So much of a detail is kept: a reason may quote what a plugin has said.
pub const DETAIL_BYTES_MAX: usize = 4 << 10;

/// Every word for what was done.
pub const WORDS: [&str; 24] = [
    "install",
    "uninstall",
    "purge",
    "package_added",
    "package_removed",
    "enable",
    "disable",
    "deprecate",
    "undeprecate",
    "grant",
    "revoke",
    "forget",
    "agree",
    "await_consent",
    "configure",
    "unconfigure",
    "reload",
    "pass_over",
    "rollback",
    "update",
    "secret_set",
    "secret_remove",
    "state_import",
    "state_reset",
];

/// What was done, for the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub at_unix_ms: u64,
    /// `uid:0`, or whoever else it was.
    pub who: String,
    /// One of [`WORDS`].
    pub what: String,
    pub id: String,
    pub version: String,
    /// The rest, a sentence.
    pub detail: String,
}

/// Which entries somebody wants to see.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Of this plugin,
    pub id: Option<String>,
    /// not older than that,
    pub since_unix_ms: u64,
    /// and before the one of this number.
    pub before: Option<u64>,
}

pub(super) fn write(transaction: &Transaction<'_>, entry: &Entry) -> rusqlite::Result<()> {
    let Entry { at_unix_ms, who, what, id, version, detail } = entry;
    let row = params![at_unix_ms, who, what, id, version, cut(detail)];
    transaction.execute(
        "INSERT INTO audit (at_unix_ms, who, what, id, version, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        row,
    )?;
    transaction
        .execute("DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?1", params![ROWS_MAX])
        .map(drop)
}

/// What of a detail is kept; that it was longer is seen.
fn cut(detail: &str) -> String {
    if detail.len() <= DETAIL_BYTES_MAX {
        return detail.to_owned();
    }
    let kept = detail.floor_char_boundary(DETAIL_BYTES_MAX - '…'.len_utf8());
    format!("{}…", &detail[..kept])
}

impl Database {
    /// Notes something that is kept elsewhere.
    ///
    /// # Errors
    /// [`DatabaseError`], and it is not in the trail.
    pub fn note(&self, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |_| Ok(()))
    }

    /// Notes several things that are kept elsewhere, all or none.
    ///
    /// # Errors
    /// [`DatabaseError`], and none is in the trail.
    pub fn note_all(&self, entries: &[Entry]) -> Result<(), DatabaseError> {
        let Some((last, others)) = entries.split_last() else { return Ok(()) };
        self.change(last, |transaction| others.iter().try_for_each(|entry| write(transaction, entry)))
    }

    /// The youngest of these entries, at most so many, each with its number, the youngest first.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn audit(&self, which: &Query, most: u32) -> Result<Vec<(u64, Entry)>, DatabaseError> {
        let before = which.before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let since = i64::try_from(which.since_unix_ms).unwrap_or(i64::MAX);
        let connection = self.connection();
        let read = || {
            let mut last = connection.prepare(
                "SELECT number, at_unix_ms, who, what, id, version, detail FROM audit
                 WHERE number < ?1 AND ?2 <= at_unix_ms AND (?3 IS NULL OR id = ?3) ORDER BY number DESC LIMIT ?4",
            )?;
            let rows = last.query_map(params![before, since, which.id, most], |row| {
                let entry = Entry {
                    at_unix_ms: row.get(1)?,
                    who: row.get(2)?,
                    what: row.get(3)?,
                    id: row.get(4)?,
                    version: row.get(5)?,
                    detail: row.get(6)?,
                };
                Ok((row.get(0)?, entry))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|error| self.told(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at_unix_ms: u64, what: &str, id: &str) -> Entry {
        let text = str::to_owned;
        Entry {
            at_unix_ms,
            who: text("uid:0"),
            what: text(what),
            id: text(id),
            version: text("1.0.0"),
            detail: text(""),
        }
    }

    fn numbers(database: &Database, which: &Query, most: u32) -> Vec<u64> {
        database.audit(which, most).unwrap().into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn the_youngest_that_are_wanted_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        for (at, id) in [(1, "echo"), (2, "other"), (3, "echo"), (4, "echo")] {
            database.note(&entry(at, "enable", id)).unwrap();
        }
        let echo = Query { id: Some("echo".into()), ..Query::default() };
        assert_eq!(database.audit(&echo, 1).unwrap(), [(4, entry(4, "enable", "echo"))]);
        assert_eq!(numbers(&database, &Query::default(), 9), [4, 3, 2, 1]);
        assert_eq!(numbers(&database, &echo, 9), [4, 3, 1]);
        assert_eq!(numbers(&database, &Query { before: Some(3), ..echo.clone() }, 9), [1]);
        assert_eq!(numbers(&database, &Query { since_unix_ms: 3, ..echo.clone() }, 9), [4, 3]);
        assert_eq!(numbers(&database, &Query { since_unix_ms: u64::MAX, ..echo }, 9), Vec::<u64>::new());
        assert_eq!(numbers(&database, &Query { before: Some(u64::MAX), ..Query::default() }, 2), [4, 3]);
    }

    #[test]
    fn the_oldest_give_way_and_a_long_detail_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let database = Database::open(&path);
        database.note(&entry(1, "enable", "echo")).unwrap();
        // As if there had been as many as there may be.
        database.connection().execute("UPDATE audit SET number = 7", []).unwrap();
        database.note(&entry(2, "enable", "echo")).unwrap();
        database.connection().execute("UPDATE audit SET number = ?1 WHERE number = 8", [6 + ROWS_MAX]).unwrap();
        let long = "ä".repeat(DETAIL_BYTES_MAX);
        database.note(&Entry { detail: long, ..entry(3, "disable", "echo") }).unwrap();
        let all = database.audit(&Query::default(), 9).unwrap();
        assert_eq!(numbers(&database, &Query::default(), 9), [7 + u64::from(ROWS_MAX), 6 + u64::from(ROWS_MAX)]);
        let detail = &all[0].1.detail;
        assert!(detail.len() <= DETAIL_BYTES_MAX && detail.ends_with("ä…"), "{} bytes", detail.len());
    }
}
