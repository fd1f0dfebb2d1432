//! Query packages of plugin directories are not used because they failed, and what served before: to which a rollback returns.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rusqlite::{Transaction, params};
use semver::Version;

use super::{Database, DatabaseError, Entry};
use crate::model::ids::PluginId;

pub(super) const MIGRATION: &str = "
    CREATE TABLE bad (
        id TEXT NOT NULL, digest TEXT NOT NULL, at_unix_ms INTEGER NOT NULL, reason TEXT NOT NULL, instead TEXT NOT NULL,
        PRIMARY KEY (id, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE backups (
        id TEXT NOT NULL, number INTEGER NOT NULL, at_unix_ms INTEGER NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
        reason TEXT NOT NULL, bytes INTEGER NOT NULL, state TEXT, schema INTEGER, PRIMARY KEY (id, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE serving (
        id TEXT NOT NULL, path BLOB NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (id, path)
    ) STRICT, WITHOUT ROWID;
";

/// So many packages of one plugin that failed are remembered, the youngest of them.
const BAD_MAX: u32 = 50;

/// The digests of the snapshots that served last, by plugin and the folder of its package.
pub type Serving = BTreeMap<(PluginId, PathBuf), String>;

/// A package that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    pub at_unix_ms: u64,
    /// A sentence.
    pub reason: String,
    /// The digest of the snapshot that is used instead.
    pub instead: String,
}

/// A package that served until another took its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// By which it is named: of one plugin, no other has it.
    pub number: u64,
    /// When another took its place.
    pub at_unix_ms: u64,
    pub version: Version,
    /// The digest of its snapshot.
    pub digest: String,
    /// Why it serves no more: a sentence.
    pub reason: String,
    /// How much its files have.
    pub bytes: u64,
    /// The copy of the plugin's state as it was then, by its name, if it had any.
    pub state: Option<String>,
    /// The version of the form of that, if the package says one.
    pub schema: Option<u32>,
}

/// That calls go to a package that served before, because somebody said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// The folder of the plugin's package,
    pub folder: PathBuf,
    /// the digest of the snapshot that serves from here on,
    pub digest: String,
    /// and what lies in the folder, which is not used any more, where that is another: its digest, and why.
    pub instead_of: Option<(String, Bad)>,
}

impl Database {
    /// The packages that are not used, by plugin and digest. What is no id is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn bad(&self) -> Result<BTreeMap<(PluginId, String), Bad>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare("SELECT id, digest, at_unix_ms, reason, instead FROM bad")?;
            let rows = all.query_map([], |row| {
                let bad = Bad { at_unix_ms: row.get(2)?, reason: row.get(3)?, instead: row.get(4)? };
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, bad))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|error| self.told(&error))?;
        Ok(rows.into_iter().filter_map(|(id, digest, bad)| Some(((PluginId::parse(&id).ok()?, digest), bad))).collect())
    }

    /// Notes that the package of this digest is not used, and what is used instead.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn note_bad(&self, digest: &str, bad: &Bad, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| put_bad(transaction, &entry.id, digest, bad))
    }

    /// Notes that a package which served before serves again, by somebody's word.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn note_return(&self, returned: &Return, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| put_return(transaction, &entry.id, returned))
    }

    /// What served last of each plugin, by the folder of its package: the digest of a snapshot. What is no id is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn serving(&self) -> Result<Serving, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare("SELECT id, path, digest FROM serving")?;
            let rows = all.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, PathBuf::from(OsString::from_vec(row.get(1)?)), row.get(2)?))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|error| self.told(&error))?;
        Ok(rows
            .into_iter()
            .filter_map(|(id, path, digest)| Some(((PluginId::parse(&id).ok()?, path), digest)))
            .collect())
    }

    /// Notes that of some plugins.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn note_serving(&self, serving: &Serving) -> Result<(), DatabaseError> {
        let mut connection = self.connection();
        let mut done = || {
            let transaction = connection.transaction()?;
            for ((id, path), digest) in serving {
                let row = params![id.as_str(), path.as_os_str().as_bytes(), digest];
                transaction.execute("INSERT OR REPLACE INTO serving VALUES (?1, ?2, ?3)", row)?;
            }
            transaction.commit()
        };
        done().map_err(|error| self.told(&error))
    }

    /// Forgets what served from that folder, and has the audit trail say so where there is something to be said.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten or noted.
    pub fn note_gone(&self, (id, path): &(PluginId, PathBuf), entry: Option<&Entry>) -> Result<(), DatabaseError> {
        let forget = |connection: &rusqlite::Connection| {
            let row = params![id.as_str(), path.as_os_str().as_bytes()];
            connection.execute("DELETE FROM serving WHERE id = ?1 AND path = ?2", row).map(drop)
        };
        match entry {
            Some(entry) => self.change(entry, |transaction| forget(transaction)),
            None => forget(&self.connection()).map_err(|error| self.told(&error)),
        }
    }

    /// Forgets that packages of a plugin failed: of this digest, or all of them.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was forgotten.
    pub fn forgive(&self, id: &PluginId, digest: Option<&str>) -> Result<(), DatabaseError> {
        let done = self
            .connection()
            .execute("DELETE FROM bad WHERE id = ?1 AND (?2 IS NULL OR digest = ?2)", params![id.as_str(), digest]);
        done.map(drop).map_err(|error| self.told(&error))
    }

    /// Notes what served before, of which the last `kept` are remembered; one package is one of them. With it what is returned to, where
    /// that is how it came about.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn note_backup(
        &self,
        backup: &Backup,
        kept: u32,
        returned: Option<&Return>,
        entry: &Entry,
    ) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            if let Some(returned) = returned {
                put_return(transaction, &entry.id, returned)?;
            }
            let next: i64 = transaction.query_row(
                "SELECT coalesce(max(number), 0) + 1 FROM backups WHERE id = ?1",
                params![entry.id],
                |row| row.get(0),
            )?;
            let Backup { at_unix_ms, version, digest, reason, bytes, state, schema, .. } = backup;
            transaction.execute("DELETE FROM backups WHERE id = ?1 AND digest = ?2", params![entry.id, digest])?;
            transaction.execute(
                "INSERT INTO backups VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![entry.id, next, at_unix_ms, version.to_string(), digest, reason, bytes, state, schema],
            )?;
            transaction.execute(
                "DELETE FROM backups WHERE id = ?1 AND number NOT IN
                 (SELECT number FROM backups WHERE id = ?1 ORDER BY number DESC LIMIT ?2)",
                params![entry.id, kept],
            )?;
            Ok(())
        })
    }

    /// The digests of all that served before, of every plugin.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn backup_digests(&self) -> Result<Vec<String>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare("SELECT DISTINCT digest FROM backups")?;
            let rows = all.query_map([], |row| row.get(0))?;
            rows.collect::<Result<Vec<String>, _>>()
        };
        read().map_err(|error| self.told(&error))
    }

    /// What served before, the youngest first. What has no version is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn backups(&self, id: &PluginId) -> Result<Vec<Backup>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare(
                "SELECT number, at_unix_ms, version, digest, reason, bytes, state, schema FROM backups WHERE id = ?1
                 ORDER BY number DESC",
            )?;
            let rows = all.query_map(params![id.as_str()], |row| {
                let version = Version::parse(&row.get::<_, String>(2)?).ok();
                Ok(version.map(|version| {
                    Ok::<_, rusqlite::Error>(Backup {
                        number: row.get(0)?,
                        at_unix_ms: row.get(1)?,
                        version,
                        digest: row.get(3)?,
                        reason: row.get(4)?,
                        bytes: row.get(5)?,
                        state: row.get(6)?,
                        schema: row.get(7)?,
                    })
                }))
            })?;
            rows.filter_map(Result::transpose).map(|row| row.and_then(|backup| backup)).collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|error| self.told(&error))
    }
}

fn put_bad(transaction: &Transaction<'_>, id: &str, digest: &str, bad: &Bad) -> rusqlite::Result<()> {
    let row = params![id, digest, bad.at_unix_ms, bad.reason, bad.instead];
    transaction.execute("INSERT OR REPLACE INTO bad VALUES (?1, ?2, ?3, ?4, ?5)", row)?;
    transaction.execute(
        "DELETE FROM bad WHERE id = ?1 AND digest NOT IN
         (SELECT digest FROM bad WHERE id = ?1 ORDER BY at_unix_ms DESC, digest LIMIT ?2)",
        params![id, BAD_MAX],
    )?;
    Ok(())
}

fn put_return(transaction: &Transaction<'_>, id: &str, returned: &Return) -> rusqlite::Result<()> {
    let Return { folder, digest, instead_of } = returned;
    if let Some((in_folder, bad)) = instead_of {
        put_bad(transaction, id, in_folder, bad)?;
    }
    transaction.execute("DELETE FROM bad WHERE id = ?1 AND digest = ?2", params![id, digest])?;
    let serves = params![id, folder.as_os_str().as_bytes(), digest];
    transaction.execute("INSERT OR REPLACE INTO serving VALUES (?1, ?2, ?3)", serves)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::audit::Query;
    use super::*;

    fn entry(what: &str) -> Entry {
        let (who, id, version) = ("palisade".to_owned(), "echo".to_owned(), "1.0.0".to_owned());
        Entry { at_unix_ms: 7, who, what: what.to_owned(), id, version, detail: String::new() }
    }

    fn backup(number: u64, digest: &str) -> Backup {
        let (version, reason) = (Version::new(1, 0, 0), "another took its place".to_owned());
        let state = (digest == "a").then(|| "backup-7.sqlite3".to_owned());
        Backup { number, at_unix_ms: 7, version, digest: digest.to_owned(), reason, bytes: 3, state, schema: Some(2) }
    }

    #[test]
    fn what_failed_is_known_to_the_next_daemon_until_it_is_forgiven() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let bad = |at_unix_ms| Bad { at_unix_ms, reason: "it crashed".into(), instead: "00".into() };
        let database = Database::open(&path);
        for number in 0..u64::from(BAD_MAX) + 2 {
            database.note_bad(&format!("{number:02}"), &bad(number), &entry("rollback")).unwrap();
        }
        drop(database);
        let database = Database::open(&path);
        let id = PluginId::parse("echo").unwrap();
        let all = database.bad().unwrap();
        assert_eq!(all.len(), BAD_MAX as usize, "the youngest stay");
        assert_eq!((all.get(&(id.clone(), "01".into())), all.get(&(id.clone(), "02".into()))), (None, Some(&bad(2))));
        database.forgive(&id, Some("02")).unwrap();
        assert_eq!(database.bad().unwrap().get(&(id.clone(), "02".into())), None);
        database.forgive(&id, None).unwrap();
        assert_eq!(database.bad().unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_serves_in_a_folder_is_known_to_the_next_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let of =
            |path: &str, digest: &str| ((PluginId::parse("echo").unwrap(), PathBuf::from(path)), digest.to_owned());
        let database = Database::open(&path);
        database.note_serving(&BTreeMap::from([of("/a", "1"), of("/b", "2")])).unwrap();
        database.note_serving(&BTreeMap::from([of("/a", "3")])).unwrap();
        drop(database);
        assert_eq!(Database::open(&path).serving().unwrap(), BTreeMap::from([of("/a", "3"), of("/b", "2")]));
    }

    /// Both or neither: a daemon that is killed in between would have the one package with the state of the other.
    #[test]
    fn what_is_returned_to_is_noted_with_what_served_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let id = PluginId::parse("echo").unwrap();
        let bad = |instead: &str| Bad { at_unix_ms: 7, reason: "so it was said".into(), instead: instead.into() };
        database.note_bad("a", &bad("0"), &entry("rollback")).unwrap();
        let returned = |digest: &str, instead_of| Return { folder: "/a".into(), digest: digest.into(), instead_of };
        let to_a = returned("a", Some(("b".to_owned(), bad("a"))));
        database.note_backup(&backup(0, "b"), 3, Some(&to_a), &entry("rollback")).unwrap();
        assert_eq!(database.bad().unwrap(), BTreeMap::from([((id.clone(), "b".to_owned()), bad("a"))]));
        let serving = |digest: &str| BTreeMap::from([((id.clone(), PathBuf::from("/a")), digest.to_owned())]);
        assert_eq!((database.serving().unwrap(), database.backups(&id).unwrap().len()), (serving("a"), 1));
        // What lies in the folder.
        database.note_return(&returned("b", None), &entry("rollback")).unwrap();
        assert_eq!((database.serving().unwrap(), database.bad().unwrap()), (serving("b"), BTreeMap::new()));
    }

    #[test]
    fn the_last_that_served_are_kept_each_once_and_no_number_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let id = PluginId::parse("echo").unwrap();
        for digest in ["a", "b", "c", "a", "d"] {
            database.note_backup(&backup(0, digest), 3, None, &entry("reload")).unwrap();
        }
        assert_eq!(database.backups(&id).unwrap(), [backup(5, "d"), backup(4, "a"), backup(3, "c")]);
        assert_eq!(database.backups(&PluginId::parse("other").unwrap()).unwrap(), []);
        assert_eq!(database.audit(&Query::default(), 9).unwrap().len(), 5);
    }
}
