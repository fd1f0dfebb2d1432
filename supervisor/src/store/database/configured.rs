//! How plugins were configured while daemons ran: each change with what was said before it and after it, so that it can be taken back.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};

use super::{Database, DatabaseError, Entry};
use crate::model::configuration::Overrides;
use crate::model::ids::PluginId;

pub(super) const MIGRATION: &str = "
    CREATE TABLE configured (
        id TEXT NOT NULL, number INTEGER NOT NULL, at_unix_ms INTEGER NOT NULL, who TEXT NOT NULL,
        undone INTEGER NOT NULL DEFAULT 0, before TEXT NOT NULL, after TEXT NOT NULL, PRIMARY KEY (id, number)
    ) STRICT, WITHOUT ROWID;
";

/// So many changes of each plugin are kept, and can be taken back.
pub const CHANGES_MAX: u32 = 50;

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which of the plugin's, from 1.
    pub number: u64,
    /// When,
    pub at_unix_ms: u64,
    /// and by whom.
    pub who: String,
    /// Whether it was taken back.
    pub undone: bool,
    /// What was said before,
    pub before: Overrides,
    /// and what was said then.
    pub after: Overrides,
}

/// A change as the database has it.
struct Row(Change, Result<(), serde_json::Error>);

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let (before, after) = (row.get::<_, String>(4)?, row.get::<_, String>(5)?);
        let both = || Ok((serde_json::from_str(&before)?, serde_json::from_str(&after)?));
        let read: Result<(Overrides, Overrides), serde_json::Error> = both();
        let (sides, sound) = match read {
            Ok(sides) => (sides, Ok(())),
            Err(error) => (<_>::default(), Err(error)),
        };
        let change = Change {
            number: row.get(0)?,
            at_unix_ms: row.get(1)?,
            who: row.get(2)?,
            undone: row.get(3)?,
            before: sides.0,
            after: sides.1,
        };
        Ok(Self(change, sound))
    }
}

const COLUMNS: &str = "number, at_unix_ms, who, undone, before, after";

impl Database {
    /// What is said of each plugin. What is no id, or cannot be read, is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn configured(&self) -> Result<BTreeMap<PluginId, Overrides>, DatabaseError> {
        let ids = {
            let connection = self.connection();
            let read = || {
                let mut all = connection.prepare("SELECT DISTINCT id FROM configured")?;
                all.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()
            };
            read().map_err(|error| self.told(&error))?
        };
        let mut configured = BTreeMap::new();
        for id in ids.iter().filter_map(|id| PluginId::parse(id).ok()) {
            let said = current(&self.configured_of(&id)?);
            configured.insert(id, said);
        }
        Ok(configured)
    }

    /// The changes of a plugin's configuration, the first first.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn configured_of(&self, id: &PluginId) -> Result<Vec<Change>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all =
                connection.prepare(&format!("SELECT {COLUMNS} FROM configured WHERE id = ?1 ORDER BY number"))?;
            all.query_map([id.as_str()], Row::read)?.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|error| self.told(&error))?;
        let sound = rows.into_iter().filter_map(|Row(change, sound)| {
            let told = |error| tracing::error!(plugin = %id, %error, "a change of its configuration cannot be read");
            sound.map_err(told).ok().map(|()| change)
        });
        Ok(sound.collect())
    }

    /// Notes a change, and returns its number.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn configure(&self, before: &Overrides, after: &Overrides, entry: &Entry) -> Result<u64, DatabaseError> {
        let text = |said: &Overrides| serde_json::to_string(said).unwrap_or_default();
        let mut number = 0;
        self.change(entry, |transaction| {
            let last = "SELECT max(number) FROM configured WHERE id = ?1";
            let last: Option<u64> = transaction.query_row(last, [&entry.id], |row| row.get(0)).optional()?.flatten();
            number = last.unwrap_or(0) + 1;
            transaction.execute(
                &format!("INSERT INTO configured (id, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6)"),
                params![entry.id, number, entry.at_unix_ms, entry.who, text(before), text(after)],
            )?;
            transaction.execute(
                "DELETE FROM configured WHERE id = ?1 AND number <= ?2 - ?3",
                params![entry.id, number, CHANGES_MAX],
            )?;
            Ok(())
        })?;
        Ok(number)
    }

    /// Notes that a change was taken back.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn unconfigure(&self, number: u64, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            let undone = "UPDATE configured SET undone = 1 WHERE id = ?1 AND number = ?2";
            transaction.execute(undone, params![entry.id, number])?;
            Ok(())
        })
    }
}

/// What is said after these changes.
fn current(changes: &[Change]) -> Overrides {
    match last(changes) {
        Some(change) => change.after.clone(),
        None => changes.first().map(|first| first.before.clone()).unwrap_or_default(),
    }
}

/// The change that would be taken back next.
#[must_use]
pub fn last(changes: &[Change]) -> Option<&Change> {
    changes.iter().rev().find(|change| !change.undone)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::configuration::Place;

    fn entry(id: &str) -> Entry {
        Entry {
            at_unix_ms: 7,
            who: "uid:0".into(),
            what: "configure".into(),
            id: id.into(),
            version: "1.0.0".into(),
            detail: "/a".into(),
        }
    }

    fn said(number: u32) -> Overrides {
        let mut said = Overrides::default();
        if 0 < number {
            said.set(&Place::parse("a").unwrap(), json!(number)).unwrap();
        }
        said
    }

    #[test]
    fn changes_are_kept_and_taken_back_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let echo = PluginId::parse("echo").unwrap();
        let database = Database::open(&path);
        for number in 1..=3 {
            assert_eq!(
                database.configure(&said(number - 1), &said(number), &entry("echo")).unwrap(),
                u64::from(number)
            );
        }
        database.configure(&said(0), &said(9), &entry("other")).unwrap();
        drop(database);
        let database = Database::open(&path);
        let now = || database.configured().unwrap()[&echo].clone();
        assert_eq!(now(), said(3));
        let undo = || {
            let number = last(&database.configured_of(&echo).unwrap())?.number;
            database.unconfigure(number, &entry("echo")).unwrap();
            Some(number)
        };
        assert_eq!((undo(), now()), (Some(3), said(2)));
        // What comes after something was taken back is taken back to that.
        database.configure(&said(2), &said(7), &entry("echo")).unwrap();
        assert_eq!((now(), undo(), now()), (said(7), Some(4), said(2)));
        assert_eq!((undo(), undo(), undo()), (Some(2), Some(1), None));
        assert_eq!(now(), said(0));
        let undone: Vec<_> = database.configured_of(&echo).unwrap().iter().map(|change| change.undone).collect();
        assert_eq!(undone, [true; 4]);
        database.forget(&entry("echo")).unwrap();
        assert_eq!(database.configured().unwrap().keys().map(PluginId::as_str).collect::<Vec<_>>(), ["other"]);
    }

    #[test]
    fn only_the_last_changes_are_kept_and_what_cannot_be_read_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let echo = PluginId::parse("echo").unwrap();
        for number in 1..=CHANGES_MAX + 2 {
            database.configure(&said(number - 1), &said(number), &entry("echo")).unwrap();
        }
        let changes = database.configured_of(&echo).unwrap();
        assert_eq!((changes.len(), changes[0].number), (CHANGES_MAX as usize, 3));
        database
            .connection()
            .execute("UPDATE configured SET after = '{' WHERE number = ?1", [CHANGES_MAX + 2])
            .unwrap();
        assert_eq!(database.configured().unwrap()[&echo], said(CHANGES_MAX + 1));
    }
}
