//! Which versions are deprecated, by whom, when and why. It is forgotten with its version.

use std::collections::BTreeMap;

use rusqlite::params;
use semver::Version;

use super::{Database, DatabaseError, Entry};
use crate::model::ids::PluginId;
use crate::model::status::Deprecation;

pub(super) const MIGRATION: &str = "
    CREATE TABLE deprecated (
        id TEXT NOT NULL, version TEXT NOT NULL, at_unix_ms INTEGER NOT NULL, who TEXT NOT NULL, reason TEXT,
        PRIMARY KEY (id, version)
    ) STRICT, WITHOUT ROWID;
";

impl Database {
    /// Notes that a version is deprecated, or no longer.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn deprecate(&self, deprecated: Option<&Deprecation>, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            let (id, version) = (&entry.id, &entry.version);
            transaction.execute("DELETE FROM deprecated WHERE id = ?1 AND version = ?2", params![id, version])?;
            if let Some(Deprecation { at_unix_ms, by, reason }) = deprecated {
                let row = params![id, version, at_unix_ms, by, reason];
                transaction.execute("INSERT INTO deprecated VALUES (?1, ?2, ?3, ?4, ?5)", row)?;
            }
            Ok(())
        })
    }

    /// The versions that are deprecated. What is no id or no version is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn deprecated(&self) -> Result<BTreeMap<(PluginId, Version), Deprecation>, DatabaseError> {
        let connection = self.connection();
        let all = || {
            let mut all = connection.prepare("SELECT id, version, at_unix_ms, who, reason FROM deprecated")?;
            let rows = all.query_map([], |row| {
                let deprecation = Deprecation { at_unix_ms: row.get(2)?, by: row.get(3)?, reason: row.get(4)? };
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, deprecation))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = all().map_err(|error| self.told(&error))?;
        let known = |(id, version, deprecation): (String, String, Deprecation)| {
            Some(((PluginId::parse(&id).ok()?, Version::parse(&version).ok()?), deprecation))
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deprecated_is_so_for_the_next_daemon_until_it_is_undone_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let text = str::to_owned;
        let entry = |version| Entry {
            at_unix_ms: 7,
            who: text("uid:0"),
            what: text("deprecate"),
            id: text("echo"),
            version: text(version),
            detail: String::new(),
        };
        let said = |reason: Option<&str>| Deprecation { at_unix_ms: 7, by: text("uid:0"), reason: reason.map(text) };
        let database = Database::open(&path);
        database.deprecate(Some(&said(None)), &entry("1.0.0")).unwrap();
        database.deprecate(Some(&said(Some("it forgets"))), &entry("1.0.0")).unwrap();
        database.deprecate(Some(&said(None)), &entry("2.0.0")).unwrap();
        database.deprecate(Some(&said(None)), &entry("3.0.0")).unwrap();
        drop(database);
        let database = Database::open(&path);
        let of = |version| (PluginId::parse("echo").unwrap(), Version::new(version, 0, 0));
        assert_eq!(database.deprecated().unwrap().len(), 3);
        assert_eq!(database.deprecated().unwrap()[&of(1)], said(Some("it forgets")));
        database.deprecate(None, &entry("1.0.0")).unwrap();
        database.removed(&entry("2.0.0")).unwrap();
        assert_eq!(database.deprecated().unwrap(), BTreeMap::from([(of(3), said(None))]));
    }
}
