//! What operators said about what plugins ask for, and which definitions of actions they agreed to.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rusqlite::{Row, Transaction, params};

use super::{Database, DatabaseError, Entry};
use crate::model::ids::PluginId;
use crate::model::permission::consent::{Agreed, Said, Word};
use crate::model::permission::item::Item;
use crate::model::trust::KeyName;

/// The tables.
pub(super) const MIGRATION: &str = "
    CREATE TABLE consents (
        id TEXT NOT NULL, permission TEXT NOT NULL, scope TEXT NOT NULL, word TEXT NOT NULL, key TEXT, place BLOB NOT NULL,
        at_unix_ms INTEGER NOT NULL, who TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (id, permission, scope)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE definitions (
        id TEXT NOT NULL, place TEXT NOT NULL, action TEXT NOT NULL, digest TEXT NOT NULL,
        at_unix_ms INTEGER NOT NULL, who TEXT NOT NULL, version TEXT NOT NULL, PRIMARY KEY (id, place, action, digest)
    ) STRICT, WITHOUT ROWID;
";

/// Where a definition stands that was agreed to.
const MANIFEST: &str = "manifest";
const PROGRAM: &str = "program";

/// So many different definitions of one plugin's actions are kept for each place; the oldest go first.
const DEFINITIONS_MAX: i64 = 10_000;

/// What is known of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consents {
    /// What was said of what it asks for.
    pub said: Vec<Said>,
    /// The entries of manifests that were agreed to.
    pub definitions: Agreed,
    /// And what its programs announced.
    pub announced: Agreed,
}

/// How actions are defined: their names, and the digests of that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definitions {
    /// In the manifest.
    pub stated: Vec<(String, String)>,
    /// By the program.
    pub announced: Vec<(String, String)>,
}

impl Definitions {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stated.is_empty() && self.announced.is_empty()
    }
}

impl Database {
    /// What was said of every plugin. What this daemon does not understand is passed over, and so is asked for again.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn consents(&self) -> Result<BTreeMap<PluginId, Consents>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare(
                "SELECT id, permission, scope, word, key, place, at_unix_ms, who, version, digest FROM consents ORDER BY id",
            )?;
            let said = all.query_map([], said)?.collect::<Result<Vec<_>, _>>()?;
            let mut all = connection.prepare("SELECT id, action, digest, place FROM definitions")?;
            let row =
                |row: &Row<'_>| Ok((row.get::<_, String>(0)?, (row.get(1)?, row.get(2)?), row.get::<_, String>(3)?));
            let definitions = all.query_map([], row)?.collect::<Result<Vec<_>, _>>()?;
            Ok((said, definitions))
        };
        let (said, definitions) = read().map_err(|error: rusqlite::Error| self.told(&error))?;
        let mut consents: BTreeMap<PluginId, Consents> = BTreeMap::new();
        for (id, said) in said.into_iter().flatten() {
            consents.entry(id).or_default().said.push(said);
        }
        for (id, definition, place) in definitions {
            let Ok(id) = PluginId::parse(&id) else { continue };
            let known = consents.entry(id).or_default();
            match place.as_str() {
                MANIFEST => drop(known.definitions.insert(definition)),
                PROGRAM => drop(known.announced.insert(definition)),
                _ => {}
            }
        }
        Ok(consents)
    }

    /// Notes what an operator said of a plugin. Of each thing the last word holds.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn consent(&self, said: &[Said], definitions: &Definitions, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            for said in said {
                transaction.execute(
                    "INSERT OR REPLACE INTO consents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                    params![
                        entry.id,
                        said.item.permission(),
                        said.item.scope().unwrap_or_default(),
                        said.word.as_str(),
                        said.key.as_ref().map(KeyName::as_str),
                        said.place.as_os_str().as_bytes(),
                        said.at_unix_ms,
                        said.who,
                        said.version,
                        said.digest
                    ],
                )?;
            }
            agree(transaction, MANIFEST, &definitions.stated, entry)?;
            agree(transaction, PROGRAM, &definitions.announced, entry)
        })
    }

    /// Forgets all that was said of a plugin; it will be asked for again.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten.
    pub fn forget_consents(&self, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            transaction.execute("DELETE FROM consents WHERE id = ?1", [&entry.id])?;
            transaction.execute("DELETE FROM definitions WHERE id = ?1", [&entry.id])?;
            Ok(())
        })
    }
}

fn agree(
    transaction: &Transaction<'_>,
    place: &str,
    definitions: &[(String, String)],
    entry: &Entry,
) -> rusqlite::Result<()> {
    for (action, digest) in definitions {
        transaction.execute(
            "INSERT OR REPLACE INTO definitions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![entry.id, place, action, digest, entry.at_unix_ms, entry.who, entry.version],
        )?;
    }
    transaction.execute(
        "DELETE FROM definitions WHERE id = ?1 AND place = ?2 AND (action, digest) NOT IN
            (SELECT action, digest FROM definitions WHERE id = ?1 AND place = ?2 ORDER BY at_unix_ms DESC LIMIT ?3)",
        params![entry.id, place, DEFINITIONS_MAX],
    )?;
    Ok(())
}

/// One row, if this daemon understands it.
fn said(row: &Row<'_>) -> rusqlite::Result<Option<(PluginId, Said)>> {
    let text = |index| row.get::<_, String>(index);
    let (id, permission, scope, word, key) = (text(0)?, text(1)?, text(2)?, text(3)?, row.get::<_, Option<String>>(4)?);
    let item = Item::new(&permission, Some(scope.as_str()).filter(|scope| !scope.is_empty()));
    let key = key.as_deref().map(KeyName::parse).transpose();
    let (Ok(id), Ok(item), Some(word), Ok(key)) = (PluginId::parse(&id), item, Word::named(&word), key) else {
        return Ok(None);
    };
    let said = Said {
        item,
        word,
        key,
        place: OsString::from_vec(row.get(5)?).into(),
        at_unix_ms: row.get(6)?,
        who: text(7)?,
        version: text(8)?,
        digest: text(9)?,
    };
    Ok(Some((id, said)))
}

#[cfg(test)]
mod tests {
    use super::super::audit::Query;
    use super::*;

    fn entry(what: &str) -> Entry {
        Entry {
            at_unix_ms: 7,
            who: "uid:0".into(),
            what: what.into(),
            id: "echo".into(),
            version: "1.0.0".into(),
            detail: String::new(),
        }
    }

    fn said(item: &str, word: Word) -> Said {
        Said {
            item: Item::parse(item).unwrap(),
            word,
            key: KeyName::parse("acme").ok(),
            place: "/srv/plugins".into(),
            at_unix_ms: 7,
            who: "uid:0".into(),
            version: "1.0.0".into(),
            digest: "00ff".into(),
        }
    }

    #[test]
    fn the_last_word_holds_for_the_next_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let database = Database::open(&path);
        let first = [said("execute_code", Word::Granted), said("file_read:/srv/data", Word::Granted)];
        let definition = |action: &str, digest: &str| (action.to_owned(), digest.to_owned());
        let definitions = Definitions {
            stated: vec![definition("run", "aa"), definition("run", "bb")],
            announced: vec![definition("run", "bb"), definition("walk", "cc")],
        };
        let less = Definitions { stated: vec![definition("run", "aa")], announced: Vec::new() };
        database.consent(&first, &definitions, &entry("grant")).unwrap();
        database.consent(&[said("execute_code", Word::Denied)], &less, &entry("revoke")).unwrap();
        drop(database);
        let database = Database::open(&path);
        let all = database.consents().unwrap();
        let echo = &all[&PluginId::parse("echo").unwrap()];
        assert_eq!(echo.said, [said("execute_code", Word::Denied), first[1].clone()]);
        assert_eq!(echo.definitions, Agreed::from_iter(definitions.stated));
        assert_eq!(echo.announced, Agreed::from_iter(definitions.announced));
        let trail: Vec<_> =
            database.audit(&Query::default(), 9).unwrap().into_iter().map(|(_, entry)| entry.what).collect();
        assert_eq!(trail, ["revoke", "grant"]);
        database.forget_consents(&entry("purge")).unwrap();
        assert!(database.consents().unwrap().is_empty());
    }

    /// A later daemon may know permissions that this one does not: nothing follows from what it wrote about them.
    #[test]
    fn what_is_not_understood_grants_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        database.consent(&[said("execute_code", Word::Granted)], &Definitions::default(), &entry("grant")).unwrap();
        let connection = database.connection();
        let insert = "INSERT INTO consents VALUES (?1, ?2, ?3, ?4, ?5, x'2f', 7, 'uid:0', '1.0.0', '00')";
        for (id, permission, scope, word, key) in [
            ("No id", "execute_code", "", "granted", None),
            ("one", "rule_the_world", "", "granted", None),
            ("one", "file_read", "srv", "granted", None),
            ("one", "execute_code", "", "perhaps", None),
            ("two", "execute_code", "", "granted", Some("no key's name")),
        ] {
            connection.execute(insert, params![id, permission, scope, word, key]).unwrap();
        }
        drop(connection);
        let all = database.consents().unwrap();
        assert_eq!(all.keys().map(PluginId::as_str).collect::<Vec<_>>(), ["echo"]);
    }
}
