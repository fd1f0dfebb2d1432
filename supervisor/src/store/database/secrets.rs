//! The secrets of plugins, as they are sealed: whoever reads the file has none of them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{OptionalExtension, params};

use super::{Database, DatabaseError, Entry};
use crate::model::ids::{PluginId, SecretName};

pub(super) const MIGRATION: &str = "
    CREATE TABLE secrets (
        id TEXT NOT NULL, name TEXT NOT NULL, sealed BLOB NOT NULL, at_unix_ms INTEGER NOT NULL, who TEXT NOT NULL,
        PRIMARY KEY (id, name)
    ) STRICT, WITHOUT ROWID;
";

/// One that was set, without what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSecret {
    /// What it is called,
    pub name: SecretName,
    /// when it was set
    pub at_unix_ms: u64,
    /// and by whom.
    pub who: String,
}

impl Database {
    /// Which are set, of all plugins. What is no id or no name is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn secrets(&self) -> Result<BTreeMap<PluginId, BTreeSet<SecretName>>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare("SELECT id, name FROM secrets")?;
            let rows = all.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let mut set: BTreeMap<PluginId, BTreeSet<SecretName>> = BTreeMap::new();
        for (id, name) in read().map_err(|error| self.told(&error))? {
            if let (Ok(id), Ok(name)) = (PluginId::parse(&id), SecretName::parse(&name)) {
                set.entry(id).or_default().insert(name);
            }
        }
        Ok(set)
    }

    /// Those of one plugin.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn secrets_of(&self, id: &PluginId) -> Result<Vec<SetSecret>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all =
                connection.prepare("SELECT name, at_unix_ms, who FROM secrets WHERE id = ?1 ORDER BY name")?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?));
            all.query_map([id.as_str()], row)?.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|error| self.told(&error))?;
        let known = |(name, at_unix_ms, who): (String, u64, String)| {
            Some(SetSecret { name: SecretName::parse(&name).ok()?, at_unix_ms, who })
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }

    /// One as it is sealed, if it is set.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn sealed_secret(&self, id: &PluginId, name: &SecretName) -> Result<Option<Vec<u8>>, DatabaseError> {
        let connection = self.connection();
        let asked = "SELECT sealed FROM secrets WHERE id = ?1 AND name = ?2";
        let found = connection.query_row(asked, params![id.as_str(), name.as_str()], |row| row.get(0)).optional();
        found.map_err(|error| self.told(&error))
    }

    /// Keeps one, in the place of what it was before.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was changed.
    pub fn set_secret(&self, name: &SecretName, sealed: &[u8], entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            transaction.execute(
                "INSERT INTO secrets VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
                 sealed = excluded.sealed, at_unix_ms = excluded.at_unix_ms, who = excluded.who",
                params![entry.id, name.as_str(), sealed, entry.at_unix_ms, entry.who],
            )?;
            Ok(())
        })
    }

    /// Forgets one.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was changed.
    pub fn remove_secret(&self, name: &SecretName, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            transaction.execute("DELETE FROM secrets WHERE id = ?1 AND name = ?2", params![entry.id, name.as_str()])?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(what: &str, id: &str) -> Entry {
        Entry {
            at_unix_ms: 7,
            who: "uid:0".into(),
            what: what.into(),
            id: id.into(),
            version: "1.0.0".into(),
            detail: "key".into(),
        }
    }

    #[test]
    fn they_are_kept_by_plugin_and_name_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let [one, other] = ["one", "other"].map(|id| PluginId::parse(id).unwrap());
        let [key, word] = ["key", "word"].map(|name| SecretName::parse(name).unwrap());
        let database = Database::open(&path);
        database.set_secret(&key, b"first", &entry("secret_set", "one")).unwrap();
        database.set_secret(&key, b"second", &entry("secret_set", "one")).unwrap();
        database.set_secret(&word, b"third", &entry("secret_set", "one")).unwrap();
        database.set_secret(&key, b"theirs", &entry("secret_set", "other")).unwrap();
        drop(database);
        let database = Database::open(&path);
        let sealed = |id, name| database.sealed_secret(id, name).unwrap();
        assert_eq!(sealed(&one, &key).as_deref(), Some(b"second".as_slice()));
        assert_eq!(sealed(&other, &key).as_deref(), Some(b"theirs".as_slice()));
        assert_eq!(sealed(&other, &word), None);
        let names: Vec<_> = database.secrets_of(&one).unwrap().into_iter().map(|set| set.name).collect();
        assert_eq!(names, [key.clone(), word.clone()]);
        database.remove_secret(&key, &entry("secret_remove", "one")).unwrap();
        assert_eq!((sealed(&one, &key), sealed(&other, &key).is_some()), (None, true));
        assert_eq!(database.secrets().unwrap()[&one], [word].into());
        database.forget(&entry("purge", "one")).unwrap();
        assert_eq!(database.secrets().unwrap().into_keys().collect::<Vec<_>>(), [other]);
    }
}
