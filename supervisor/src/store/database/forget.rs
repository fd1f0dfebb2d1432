//! What is forgotten with a plugin that is removed for good.

use rusqlite::params;

use super::{Database, DatabaseError, Entry};
use crate::model::ids::PluginId;

/// Every table that has rows of an id, but for the audit trail; and what they are to whoever reads of them.
const TABLES: [(&str, &str); 13] = [
    ("switched", "which versions take calls"),
    ("statistics", STATISTICS),
    ("serving", "which package served last"),
    ("secrets", "the secrets that were set for it"),
    ("probations", "what a failure leads back to"),
    ("offered", "which newer versions were told of"),
    ("deprecated", "which versions are deprecated"),
    ("definitions", "which definitions of its actions were agreed to"),
    ("consents", "what it was granted and refused"),
    ("configured", "how it was configured"),
    ("bad", "which packages have failed"),
    ("backups", "which packages served before"),
    ("accepted", "which versions may serve"),
];

/// What is called so is also counted elsewhere, before it is written down.
pub const STATISTICS: &str = "how it was used";

impl Database {
    /// Forgets everything of an id, in all its versions. What was done with it stays in the audit trail.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten.
    pub fn forget(&self, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            for (table, _) in TABLES {
                transaction.execute(&format!("DELETE FROM {table} WHERE id = ?1"), params![entry.id])?;
            }
            Ok(())
        })
    }

    /// What of that there is: a few words for each.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn has_of(&self, id: &PluginId) -> Result<Vec<&'static str>, DatabaseError> {
        let connection = self.connection();
        let mut there = Vec::new();
        for (table, what) in TABLES {
            let asked = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE id = ?1)");
            let has = connection.query_row(&asked, params![id.as_str()], |row| row.get::<_, bool>(0));
            if has.map_err(|error| self.told(&error))? {
                there.push(what);
            }
        }
        Ok(there)
    }
}

#[cfg(test)]
mod tests {
    use super::super::audit::Query;
    use semver::Version;

    use super::*;

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
            database.installed(&entry("install", id), None).unwrap();
            database.switch(false, &entry("disable", id)).unwrap();
        }
        let has = |id: &str| database.has_of(&PluginId::parse(id).unwrap()).unwrap();
        assert_eq!((has("one").len(), has("nobody").len()), (3, 0));
        database.forget(&entry("purge", "one")).unwrap();
        assert_eq!((has("one").len(), has("other").len()), (0, 3));
        let installs = |id: &str| database.installs(&PluginId::parse(id).unwrap(), &Version::new(1, 0, 0)).unwrap();
        assert_eq!((installs("one"), installs("other")), (0, 1));
        assert_eq!(database.switched().unwrap().len(), 1);
        assert_eq!(database.audit(&Query::default(), 10).unwrap().len(), 5);
        // Whoever adds a table adds it here.
        let connection = database.connection();
        let mut all = connection
            .prepare(
                "SELECT DISTINCT m.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c
                 WHERE m.type = 'table' AND c.name = 'id' AND m.name <> 'audit' ORDER BY m.name DESC",
            )
            .unwrap();
        let named: Vec<String> = all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(named, TABLES.map(|(table, _)| table));
    }
}
