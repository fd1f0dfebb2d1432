//! Which newer versions are on probation beside the version before, so that the daemon which follows one that is killed meanwhile goes on with
//! that.

use rusqlite::{OptionalExtension, Transaction, params};
use semver::Version;

use super::{Database, DatabaseError};
use crate::model::ids::PluginId;

pub(super) const MIGRATION: &str = "
    CREATE TABLE probations (
        id TEXT PRIMARY KEY, version TEXT NOT NULL, digest TEXT NOT NULL, before_version TEXT NOT NULL, before_digest TEXT NOT NULL,
        until_unix_ms INTEGER NOT NULL, state TEXT, reason TEXT, who TEXT
    ) STRICT, WITHOUT ROWID;
";

/// That a failure of a version leads back to the one before, which stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probation {
    pub id: PluginId,
    /// The newer version, and the digest of its snapshot.
    pub version: Version,
    pub digest: String,
    /// The same of the version before.
    pub before: (Version, String),
    /// Until when.
    pub until_unix_ms: u64,
    /// The kept copy of the state in the form of the version before, by its name, where the newer one has another.
    pub state: Option<String>,
    /// Why it is being taken back, and by whose word: whoever is killed meanwhile is followed by another that does so.
    pub ending: Option<(String, String)>,
}

impl Database {
    /// The versions that are on probation. What has no id or no version is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn probations(&self) -> Result<Vec<Probation>, DatabaseError> {
        type Row = (String, String, String, (String, String), u64, Option<String>, Option<(String, String)>);
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare(
                "SELECT id, version, digest, before_version, before_digest, until_unix_ms, state, reason, who FROM probations
                 ORDER BY id",
            )?;
            let rows = all.query_map([], |row| {
                let ending = row.get::<_, Option<String>>(7)?.zip(row.get(8)?);
                let before = (row.get(3)?, row.get(4)?);
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, before, row.get(5)?, row.get(6)?, ending))
            })?;
            rows.collect::<Result<Vec<Row>, _>>()
        };
        let rows = read().map_err(|error| self.told(&error))?;
        let known = |(id, version, digest, before, until_unix_ms, state, ending): Row| {
            let before = (Version::parse(&before.0).ok()?, before.1);
            let (id, version) = (PluginId::parse(&id).ok()?, Version::parse(&version).ok()?);
            Some(Probation { id, version, digest, before, until_unix_ms, state, ending })
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }

    /// Notes that the package of this digest is being taken back, why and by whose word; or that it goes on after all.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn end_probation(
        &self,
        id: &PluginId,
        digest: &str,
        ending: Option<(&str, &str)>,
    ) -> Result<(), DatabaseError> {
        let (reason, who) = ending.unzip();
        let row = params![id.as_str(), digest, reason, who];
        let set = "UPDATE probations SET reason = ?3, who = ?4 WHERE id = ?1 AND digest = ?2";
        self.connection().execute(set, row).map(drop).map_err(|error| self.told(&error))
    }

    /// Forgets that the package of this digest was on probation, where it was.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten.
    pub fn forget_probation(&self, id: &PluginId, digest: &str) -> Result<(), DatabaseError> {
        let row = params![id.as_str(), digest];
        let connection = self.connection();
        let forget = || {
            // Mostly there is none, and nothing is written then.
            let there = "SELECT 1 FROM probations WHERE id = ?1 AND digest = ?2";
            if connection.query_row(there, row, |_| Ok(())).optional()?.is_some() {
                connection.execute("DELETE FROM probations WHERE id = ?1 AND digest = ?2", row)?;
            }
            Ok(())
        };
        forget().map_err(|error| self.told(&error))
    }
}

/// Notes it in the place of whichever the plugin had.
pub(super) fn put(transaction: &Transaction<'_>, probation: &Probation) -> rusqlite::Result<()> {
    let Probation { id, version, digest, before, until_unix_ms, state, ending } = probation;
    let (reason, who) = ending.as_ref().map(|(reason, who)| (reason, who)).unzip();
    let (version, before_version) = (version.to_string(), before.0.to_string());
    transaction.execute(
        "INSERT OR REPLACE INTO probations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![id.as_str(), version, digest, before_version, before.1, until_unix_ms, state, reason, who],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::updates::Which;
    use super::*;

    fn probation(id: &str, digest: &str) -> Probation {
        Probation {
            id: PluginId::parse(id).unwrap(),
            version: Version::new(1, 1, 0),
            digest: digest.into(),
            before: (Version::new(1, 0, 0), "before".into()),
            until_unix_ms: 9,
            state: Some("aside-7.sqlite3".into()),
            ending: None,
        }
    }

    fn entry(what: &str, id: &str) -> Entry {
        let (who, id, version) = ("palisade".to_owned(), id.to_owned(), "1.1.0".to_owned());
        Entry { at_unix_ms: 7, who, what: what.to_owned(), id, version, detail: String::new() }
    }

    #[test]
    fn a_probation_is_known_to_the_next_daemon_from_the_acceptance_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let (taken, installed) = (probation("taken", "a"), Probation { state: None, ..probation("installed", "b") });
        let database = Database::open(&path);
        database.accept(&entry("update", "taken"), Some(&taken)).unwrap();
        database.installed(&entry("install", "installed"), Some(&installed)).unwrap();
        drop(database);
        let database = Database::open(&path);
        assert_eq!(database.probations().unwrap(), [installed.clone(), taken.clone()]);
        let accepted = database.known_versions(Which::Accepted).unwrap();
        assert_eq!(accepted.keys().collect::<Vec<_>>(), [&installed.id, &taken.id]);

        database.end_probation(&taken.id, "another", Some(("it failed", "palisade"))).unwrap();
        assert_eq!(database.probations().unwrap()[1], taken, "that is not the one");
        database.end_probation(&taken.id, "a", Some(("it failed", "palisade"))).unwrap();
        let ending = Some(("it failed".to_owned(), "palisade".to_owned()));
        assert_eq!(database.probations().unwrap()[1].ending, ending);
        database.end_probation(&taken.id, "a", None).unwrap();
        assert_eq!(database.probations().unwrap()[1], taken);

        // The next version has its place.
        let next = probation("taken", "c");
        database.accept(&entry("update", "taken"), Some(&next)).unwrap();
        database.forget_probation(&taken.id, "a").unwrap();
        assert_eq!(database.probations().unwrap(), [installed.clone(), next]);
        database.forget_probation(&taken.id, "c").unwrap();
        database.forget_probation(&installed.id, "b").unwrap();
        assert_eq!(database.probations().unwrap(), []);
    }
}
