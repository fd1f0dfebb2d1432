//! What is forgotten with a plugin that is removed for good.

use rusqlite::params;

use super::{Database, DatabaseError, Entry};

/// Every table that has rows of an id, but for the audit trail.
const TABLES: [&str; 8] =
    ["switched", "statistics", "serving", "deprecated", "definitions", "consents", "bad", "backups"];

impl Database {
    /// Forgets everything of an id, in all its versions. What was done with it stays in the audit trail.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten.
    pub fn forget(&self, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            for table in TABLES {
                transaction.execute(&format!("DELETE FROM {table} WHERE id = ?1"), params![entry.id])?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use semver::Version;

    use super::*;
    use crate::model::ids::PluginId;

    #[test]
    fn nothing_of_an_id_is_left_but_its_trail() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let entry = |what: &str, id: &str| Entry {
            at_unix_ms: 7,
            who: "uid:0".into(),
            what: what.into(),
            id: id.into(),
            version: "1.0.0".into(),
            detail: String::new(),
        };
        for id in ["one", "other"] {
            database.installed(&entry("install", id)).unwrap();
            database.switch(false, &entry("disable", id)).unwrap();
        }
        database.forget(&entry("purge", "one")).unwrap();
        let installs = |id: &str| database.installs(&PluginId::parse(id).unwrap(), &Version::new(1, 0, 0)).unwrap();
        assert_eq!((installs("one"), installs("other")), (0, 1));
        assert_eq!(database.switched().unwrap().len(), 1);
        assert_eq!(database.audit(10).unwrap().len(), 5);
        // Whoever adds a table adds it here.
        let connection = database.connection();
        let mut all = connection
            .prepare(
                "SELECT DISTINCT m.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c
                 WHERE m.type = 'table' AND c.name = 'id' AND m.name <> 'audit' ORDER BY m.name DESC",
            )
            .unwrap();
        let named: Vec<String> = all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(named, TABLES);
    }
}
