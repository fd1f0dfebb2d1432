//! Which versions were accepted, so that the next daemon has no other serve; and which newer ones were told of.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use semver::Version;

use super::probations::{self, Probation};
use super::{Database, DatabaseError, Entry};
use crate::model::ids::PluginId;

pub(super) const MIGRATION: &str = "
    CREATE TABLE accepted (
        id TEXT NOT NULL, version TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (id, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE offered (
        id TEXT NOT NULL, version TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (id, version)
    ) STRICT, WITHOUT ROWID;
";

/// So many versions of one plugin are remembered in each table, the youngest of them.
pub const VERSIONS_MAX: usize = 1_000;

/// Versions, by plugin.
pub type Versions = BTreeMap<PluginId, BTreeSet<Version>>;

/// Where versions are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that may serve.
    Accepted,
    /// Those that were told of.
    Offered,
}

impl Which {
    fn table(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Offered => "offered",
        }
    }
}

impl Database {
    /// The versions that were accepted, or told of. What is no id or no version is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn known_versions(&self, which: Which) -> Result<Versions, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare(&format!("SELECT id, version FROM {}", which.table()))?;
            let rows = all.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|error| self.told(&error))?;
        let mut versions = Versions::new();
        for (id, version) in rows {
            if let (Ok(id), Ok(version)) = (PluginId::parse(&id), Version::parse(&version)) {
                versions.entry(id).or_default().insert(version);
            }
        }
        Ok(versions)
    }

    /// Notes versions of which nobody has said anything.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn note_versions(&self, which: Which, versions: &Versions) -> Result<(), DatabaseError> {
        let mut connection = self.connection();
        let mut done = || {
            let transaction = connection.transaction()?;
            for (id, versions) in versions {
                for version in versions {
                    add(&transaction, which, id.as_str(), &version.to_string())?;
                }
            }
            transaction.commit()
        };
        done().map_err(|error| self.told(&error))
    }

    /// Notes that a version was accepted, and by whom; on probation, where it takes the place of another.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn accept(&self, entry: &Entry, probation: Option<&Probation>) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| accept(transaction, entry, probation))
    }

    /// Forgets that a version was accepted. It has to be again before it serves.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten.
    pub fn accept_no_more(&self, id: &PluginId, version: &Version) -> Result<(), DatabaseError> {
        let row = params![id.as_str(), version.to_string()];
        let done = self.connection().execute("DELETE FROM accepted WHERE id = ?1 AND version = ?2", row);
        done.map(drop).map_err(|error| self.told(&error))
    }
}

/// Both or neither: a daemon that is killed in between would not know of a copy of the state that it is to be kept.
pub(super) fn accept(
    transaction: &rusqlite::Transaction<'_>,
    entry: &Entry,
    probation: Option<&Probation>,
) -> rusqlite::Result<()> {
    add(transaction, Which::Accepted, &entry.id, &entry.version)?;
    probation.map_or(Ok(()), |probation| probations::put(transaction, probation))
}

fn add(transaction: &rusqlite::Transaction<'_>, which: Which, id: &str, version: &str) -> rusqlite::Result<()> {
    let table = which.table();
    transaction.execute(
        &format!(
            "INSERT OR REPLACE INTO {table} VALUES (?1, ?2, (SELECT coalesce(max(number), 0) + 1 FROM {table} WHERE id = ?1))"
        ),
        params![id, version],
    )?;
    transaction.execute(
        &format!(
            "DELETE FROM {table} WHERE id = ?1 AND number <= (SELECT max(number) FROM {table} WHERE id = ?1) - ?2"
        ),
        params![id, i64::try_from(VERSIONS_MAX).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::audit::Query;
    use super::*;

    fn versions(of: &[(&str, &[u64])]) -> Versions {
        let all = |minors: &&[u64]| minors.iter().map(|minor| Version::new(1, *minor, 0)).collect();
        of.iter().map(|(id, minors)| (PluginId::parse(id).unwrap(), all(minors))).collect()
    }

    #[test]
    fn what_was_accepted_is_so_for_the_next_daemon_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let entry = |what: &str, version: &str| Entry {
            at_unix_ms: 7,
            who: "uid:0".into(),
            what: what.into(),
            id: "echo".into(),
            version: version.into(),
            detail: String::new(),
        };
        let database = Database::open(&path);
        database.note_versions(Which::Accepted, &versions(&[("echo", &[0, 1]), ("other", &[7])])).unwrap();
        database.note_versions(Which::Offered, &versions(&[("echo", &[3])])).unwrap();
        database.accept(&entry("update", "1.2.0"), None).unwrap();
        drop(database);
        let database = Database::open(&path);
        let known = |which| database.known_versions(which).unwrap();
        assert_eq!(known(Which::Accepted), versions(&[("echo", &[0, 1, 2]), ("other", &[7])]));
        assert_eq!(known(Which::Offered), versions(&[("echo", &[3])]));
        assert_eq!(database.audit(&Query::default(), 9).unwrap().len(), 1, "what appears first is nobody's doing");
        database.accept_no_more(&PluginId::parse("echo").unwrap(), &Version::new(1, 2, 0)).unwrap();
        assert_eq!(known(Which::Accepted), versions(&[("echo", &[0, 1]), ("other", &[7])]));
        database.forget(&entry("purge", "")).unwrap();
        assert_eq!((known(Which::Accepted), known(Which::Offered)), (versions(&[("other", &[7])]), Versions::new()));
    }

    #[test]
    fn the_youngest_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let minors: Vec<_> = (0..VERSIONS_MAX as u64 + 5).collect();
        database.note_versions(Which::Accepted, &versions(&[("echo", &minors)])).unwrap();
        assert_eq!(database.known_versions(Which::Accepted).unwrap(), versions(&[("echo", &minors[5..])]));
    }
}
