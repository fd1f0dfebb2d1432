//! What the registry remembers beside the packages themselves: which versions are disabled, what was installed and removed, and how
//! often plugins were called. The one room of the code that knows SQL.
//!
//! Losing it loses no package: those lie in the store, and what was installed is written beside them. So a database that cannot be used
//! is told, with the reason, and the daemon goes on: on one in memory, where a file cannot be written, with what is in it; on a new one, where
//! the old one is damaged, which is put aside and never deleted, with what restricted plugins, as far as it can be read.
//!
//! Invariants: what a function says is done is on the disk, unless the [`Condition`] says otherwise; a migration is made whole or not at
//! all, and after a copy was made; a database of a later version is not touched.
//! Elsewhere: everything here blocks; whoever calls it has a thread for it.

pub mod audit;
mod cache;
pub mod configured;
pub mod consents;
pub mod forget;
mod salvage;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use semver::Version;

use crate::model::ids::PluginId;

pub mod deprecated;
pub mod probations;
pub mod reloads;
pub mod secrets;
pub mod state;
pub mod statistics;
pub mod updates;

pub use audit::Entry;
pub use cache::Remembered;
use probations::Probation;
pub use salvage::Restrictions;

/// One step each, from an empty file to the present form. What was released is never changed.
const MIGRATIONS: [&str; 10] = [
    FIRST,
    consents::MIGRATION,
    statistics::MIGRATION,
    deprecated::MIGRATION,
    cache::MIGRATION,
    configured::MIGRATION,
    secrets::MIGRATION,
    reloads::MIGRATION,
    updates::MIGRATION,
    probations::MIGRATION,
];

/// What is disabled, what was done, what was counted.
const FIRST: &str = "
    CREATE TABLE switched (
        id TEXT NOT NULL, version TEXT NOT NULL, enabled INTEGER NOT NULL, at_unix_ms INTEGER NOT NULL,
        PRIMARY KEY (id, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY, at_unix_ms INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
        id TEXT NOT NULL, version TEXT NOT NULL, detail TEXT NOT NULL
    ) STRICT;
    CREATE TABLE statistics (
        id TEXT NOT NULL, version TEXT NOT NULL, installs INTEGER NOT NULL DEFAULT 0, calls INTEGER NOT NULL DEFAULT 0,
        errors INTEGER NOT NULL DEFAULT 0, last_used_unix_ms INTEGER, PRIMARY KEY (id, version)
    ) STRICT, WITHOUT ROWID;
";

/// So many damaged ones can lie beside it.
const ASIDE_MAX: usize = 100;

/// Another process that looks into the file, a backup for instance, is waited for so long.
const BUSY_WITHIN: Duration = Duration::from_secs(5);

/// So much of a file is kept in memory, in KiB as SQLite counts what is negative; the kernel has the rest at hand.
const CACHE: i32 = -128;

/// Whether what is remembered is remembered for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It is.
    Good,
    /// The file was damaged and is put aside; a new one was begun.
    Renewed {
        /// Where the old one is.
        aside: PathBuf,
        /// What was wrong.
        reason: String,
        /// What the new one has of it.
        kept: Restrictions,
    },
    /// Nothing is written to the disk, and everything is forgotten with the daemon.
    Volatile {
        /// Why.
        reason: String,
        /// Whether what is on the disk was read, and holds.
        taken_over: bool,
    },
}

/// Something could not be remembered, or looked up.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is no room, or the disk does not take it.
    #[error("the registry's database {path} cannot be written: {reason}; is the disk full or read-only?", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// Anything else.
    #[error("the registry's database {path} cannot be used: {reason}", path = .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
}

/// The name of its file in the state folder.
pub const REGISTRY: &str = "registry.sqlite3";

/// The database.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    connection: Mutex<Connection>,
    condition: Condition,
}

impl Database {
    /// Opens the one in this file, or makes it. Never fails: see [`Database::condition`].
    #[must_use]
    pub fn open(path: &Path) -> Self {
        match Self::try_open(path) {
            Ok(connection) => Self::of(path, connection, Condition::Good),
            Err(Trouble::Damaged(reason)) => match put_aside(path).and_then(|aside| {
                Self::try_open(path).map(|connection| (aside, connection)).map_err(|trouble| trouble.reason())
            }) {
                Ok((aside, connection)) => {
                    let kept = salvage::restrictions(&aside, &connection).unwrap_or_default();
                    Self::of(path, connection, Condition::Renewed { aside, reason, kept })
                }
                Err(why) => Self::volatile(path, format!("{reason}; {why}")),
            },
            Err(Trouble::Unusable(reason)) => Self::volatile(path, reason),
        }
    }

    fn of(path: &Path, connection: Connection, condition: Condition) -> Self {
        Self { path: path.to_owned(), connection: Mutex::new(connection), condition }
    }

    fn volatile(path: &Path, reason: String) -> Self {
        let connection = Connection::open_in_memory().expect("SQLite is linked in, and memory is all that this takes");
        for migration in MIGRATIONS {
            connection.execute_batch(migration).expect("the migrations are constants that the tests run");
        }
        // Not there at all is nothing to be taken over either.
        let taken_over = salvage::take_over(path, &connection).unwrap_or(false);
        Self::of(path, connection, Condition::Volatile { reason, taken_over })
    }

    fn try_open(path: &Path) -> Result<Connection, Trouble> {
        // For its user alone, as SQLite makes its other files like this one.
        let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        made.map_err(|error| Trouble::Unusable(error.to_string()))?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WITHIN)?;
        alone(&connection)?;
        let checked: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if checked != "ok" {
            return Err(Trouble::Damaged(checked));
        }
        // A change is on the disk before anybody is told that it was made.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", CACHE)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        migrate(path, &mut connection)?;
        Ok(connection)
    }

    /// Whether it can be relied on.
    #[must_use]
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// A damaged one that was put aside, now or by an earlier daemon, and that nobody has taken away since.
    #[must_use]
    pub fn damaged(&self) -> Option<PathBuf> {
        (1..=ASIDE_MAX).rev().map(|number| aside(&self.path, number)).find(|aside| aside.exists())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, error: &rusqlite::Error) -> DatabaseError {
        let (path, reason) = (self.path.clone(), reason_of(error));
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => {
                DatabaseError::Write { path, reason }
            }
            _ => DatabaseError::Broken { path, reason },
        }
    }

    /// The versions that an operator has enabled or disabled. What is no id or no version is passed over.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn switched(&self) -> Result<BTreeMap<(PluginId, Version), bool>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare("SELECT id, version, enabled FROM switched")?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?));
            let rows = all.query_map([], row)?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|error| self.told(&error))?;
        let known = |(id, version, enabled): (String, String, bool)| {
            Some(((PluginId::parse(&id).ok()?, Version::parse(&version).ok()?), enabled))
        };
        Ok(rows.into_iter().filter_map(known).collect())
    }

    /// Notes that a version is enabled, or disabled, and who said so.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn switch(&self, enabled: bool, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            transaction.execute(
                "INSERT INTO switched VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET enabled = excluded.enabled, at_unix_ms = excluded.at_unix_ms",
                params![entry.id, entry.version, enabled, entry.at_unix_ms],
            )?;
            Ok(())
        })
    }

    /// Notes that a version was installed, and is accepted with that; on probation, where it is to take the place of another.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn installed(&self, entry: &Entry, probation: Option<&Probation>) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            updates::accept(transaction, entry, probation)?;
            transaction.execute(
                "INSERT INTO statistics (id, version, installs) VALUES (?1, ?2, 1)
                 ON CONFLICT DO UPDATE SET installs = installs + 1",
                params![entry.id, entry.version],
            )?;
            Ok(())
        })
    }

    /// Notes that a version is gone; whether it was disabled or deprecated is forgotten with it.
    ///
    /// # Errors
    /// [`DatabaseError`], and nothing was noted.
    pub fn removed(&self, entry: &Entry) -> Result<(), DatabaseError> {
        self.change(entry, |transaction| {
            transaction
                .execute("DELETE FROM switched WHERE id = ?1 AND version = ?2", params![entry.id, entry.version])?;
            transaction
                .execute("DELETE FROM deprecated WHERE id = ?1 AND version = ?2", params![entry.id, entry.version])?;
            Ok(())
        })
    }

    fn change(
        &self,
        entry: &Entry,
        make: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), DatabaseError> {
        let mut connection = self.connection();
        let done = || {
            let transaction = connection.transaction()?;
            make(&transaction)?;
            audit::write(&transaction, entry)?;
            transaction.commit()
        };
        done().map_err(|error| self.told(&error))
    }

    /// How often a version was installed.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn installs(&self, id: &PluginId, version: &Version) -> Result<u64, DatabaseError> {
        let found = self.connection().query_row(
            "SELECT installs FROM statistics WHERE id = ?1 AND version = ?2",
            params![id.as_str(), version.to_string()],
            |row| row.get(0),
        );
        found.optional().map(Option::unwrap_or_default).map_err(|error| self.told(&error))
    }
}

/// Keeps the file from other processes, from the first look into it on. The index of the log is then in memory that is the daemon's own, and
/// not in a mapped file: where somebody cuts that short, or the disk below it fails, the kernel ends who looks into it.
fn alone(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")
}

/// Why a file cannot be used as it is.
enum Trouble {
    /// What is in it is no database, or a damaged one.
    Damaged(String),
    /// It cannot be read or written, or is of a later version; what is in it may be good.
    Unusable(String),
}

impl Trouble {
    fn reason(self) -> String {
        match self {
            Self::Damaged(reason) | Self::Unusable(reason) => reason,
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Unusable(reason_of(&error)),
        }
    }
}

/// What SQLite says, in words that say what to do where its own do not.
fn reason_of(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => "another process has it open, which keeps the daemon from it".to_owned(),
        _ => error.to_string(),
    }
}

/// Brings it to the present form, after a copy of what there is.
fn migrate(path: &Path, connection: &mut Connection) -> Result<(), Trouble> {
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = MIGRATIONS.get(version..) else {
        return Err(Trouble::Unusable(format!(
            "it is of version {version}, and this palisaded knows none beyond {}; it is left as it is",
            MIGRATIONS.len()
        )));
    };
    if steps.is_empty() {
        return Ok(());
    }
    if version != 0 {
        let copy = beside(path, &format!("version-{version}"));
        // One that was left by a migration that failed is no better than a new one.
        remove_if_there(&copy).map_err(|error| Trouble::Unusable(format!("{}: {error}", copy.display())))?;
        connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    }
    let transaction = connection.transaction()?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()?;
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    suffixed(path, &format!(".{suffix}"))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn aside(path: &Path, number: usize) -> PathBuf {
    beside(path, &format!("damaged-{number}"))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a damaged database out of the way, to the first name that is free, and leaves it to its operator.
fn put_aside(path: &Path) -> Result<PathBuf, String> {
    let free = (1..=ASIDE_MAX).map(|number| aside(path, number)).find(|aside| !aside.exists());
    let aside = free.ok_or_else(|| format!("there are {ASIDE_MAX} damaged ones beside it already"))?;
    let told = |error: io::Error| format!("it cannot be put aside: {error}");
    fs::rename(path, &aside).map_err(told)?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o400)).map_err(told)?;
    // What had not come into the file yet belongs to it, and would be taken for a part of the new one.
    for suffix in ["-wal", "-shm"] {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        match fs::rename(with(path), with(&aside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            _ => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(what: &str, id: &str, version: &str) -> Entry {
        Entry {
            at_unix_ms: 7,
            who: "uid:1000".into(),
            what: what.into(),
            id: id.into(),
            version: version.into(),
            detail: "from a folder".into(),
        }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        (folder, path)
    }

    fn pair(id: &str, version: &str) -> (PluginId, Version) {
        (PluginId::parse(id).unwrap(), Version::parse(version).unwrap())
    }

    #[test]
    fn what_is_noted_is_there_for_the_next_daemon() {
        let (_folder, path) = folder();
        let database = Database::open(&path);
        assert_eq!(database.condition(), &Condition::Good);
        database.installed(&entry("install", "echo", "1.0.0"), None).unwrap();
        database.installed(&entry("install", "echo", "1.0.0"), None).unwrap();
        database.switch(false, &entry("disable", "echo", "1.0.0")).unwrap();
        database.switch(false, &entry("disable", "echo", "1.0.0")).unwrap();
        database.switch(false, &entry("disable", "echo", "2.0.0")).unwrap();
        database.switch(true, &entry("enable", "echo", "2.0.0")).unwrap();
        drop(database);
        let database = Database::open(&path);
        assert_eq!(database.condition(), &Condition::Good);
        let expected = BTreeMap::from([(pair("echo", "1.0.0"), false), (pair("echo", "2.0.0"), true)]);
        assert_eq!(database.switched().unwrap(), expected);
        let (id, version) = pair("echo", "1.0.0");
        assert_eq!(database.installs(&id, &version).unwrap(), 2);
        assert_eq!(database.installs(&id, &Version::new(9, 0, 0)).unwrap(), 0);
        let trail = database.audit(&audit::Query::default(), 2).unwrap();
        let trail: Vec<_> = trail.into_iter().map(|(_, entry)| entry.what).collect();
        assert_eq!(trail, ["enable", "disable"]);
        database.removed(&entry("uninstall", "echo", "1.0.0")).unwrap();
        assert_eq!(database.switched().unwrap(), BTreeMap::from([(pair("echo", "2.0.0"), true)]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_one_is_put_aside_and_a_new_one_begun() {
        let (folder, path) = folder();
        for (number, garbage) in [b"no database at all, and long enough to be none".repeat(20), {
            let database = Database::open(&path);
            database.switch(false, &entry("disable", "echo", "1.0.0")).unwrap();
            drop(database);
            let mut bytes = fs::read(&path).unwrap();
            bytes[100..3000].fill(0xff);
            bytes
        }]
        .into_iter()
        .enumerate()
        {
            fs::write(&path, &garbage).unwrap();
            let database = Database::open(&path);
            let aside = folder.path().join(format!("registry.sqlite3.damaged-{}", number + 1));
            assert!(matches!(database.condition(), Condition::Renewed { aside: found, .. } if *found == aside));
            assert_eq!(fs::read(&aside).unwrap(), garbage);
            database.installed(&entry("install", "echo", "1.0.0"), None).unwrap();
            drop(database);
            assert_eq!(Database::open(&path).condition(), &Condition::Good);
        }
    }

    #[test]
    fn one_that_cannot_be_written_is_replaced_by_memory() {
        let (folder, _) = folder();
        let nowhere = folder.path().join("gone/registry.sqlite3");
        let database = Database::open(&nowhere);
        assert!(matches!(database.condition(), Condition::Volatile { .. }));
        database.switch(false, &entry("disable", "echo", "1.0.0")).unwrap();
        assert_eq!(database.switched().unwrap().len(), 1);
        assert!(!nowhere.exists());
    }

    #[test]
    fn a_later_version_is_not_touched() {
        let (_folder, path) = folder();
        drop(Database::open(&path));
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        connection.execute_batch("CREATE TABLE later (what TEXT)").unwrap();
        drop(connection);
        let database = Database::open(&path);
        let Condition::Volatile { reason, .. } = database.condition() else { panic!("{:?}", database.condition()) };
        let last = MIGRATIONS.len();
        assert_eq!(
            *reason,
            format!("it is of version 99, and this palisaded knows none beyond {last}; it is left as it is")
        );
        let connection = Connection::open(&path).unwrap();
        assert_eq!(connection.query_row("SELECT count(*) FROM later", [], |row| row.get::<_, u32>(0)).unwrap(), 0);
    }

    /// What can be cut short by somebody else, or lie on a disk that fails, is read and not mapped.
    #[test]
    fn nothing_of_it_is_mapped_into_the_daemon() {
        let (_folder, path) = folder();
        let database = Database::open(&path);
        database.switch(false, &entry("disable", "echo", "1.0.0")).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains(path.to_str().unwrap()), "{maps}");
        assert!(suffixed(&path, "-wal").exists());
        assert!(!suffixed(&path, "-shm").exists());
    }

    #[test]
    fn one_that_another_process_has_open_is_left_to_it_and_read() {
        let (_folder, path) = folder();
        let database = Database::open(&path);
        database.switch(false, &entry("disable", "echo", "1.0.0")).unwrap();
        drop(database);
        let other = Connection::open(&path).unwrap();
        assert_eq!(other.query_row("SELECT count(*) FROM switched", [], |row| row.get::<_, u32>(0)).unwrap(), 1);
        let database = Database::open(&path);
        let Condition::Volatile { reason, .. } = database.condition() else { panic!("{:?}", database.condition()) };
        assert_eq!(reason, "another process has it open, which keeps the daemon from it");
        assert_eq!(database.switched().unwrap().len(), 1);
        drop((database, other));
        assert_eq!(*Database::open(&path).condition(), Condition::Good);
    }

    #[test]
    fn a_full_disk_is_told_and_nothing_is_half_noted() {
        let (_folder, path) = folder();
        let database = Database::open(&path);
        // No page more than there are.
        database.connection().pragma_update(None, "max_page_count", 1).unwrap();
        let long = entry("disable", &"x".repeat(100_000), "1.0.0");
        let error = database.switch(false, &long).unwrap_err();
        assert!(matches!(error, DatabaseError::Write { .. }), "{error}");
        assert!(
            database.switched().unwrap().is_empty() && database.audit(&audit::Query::default(), 9).unwrap().is_empty()
        );
    }

    #[test]
    fn a_migration_makes_a_copy_first_and_keeps_what_there_was() {
        let (folder, path) = folder();
        let mut connection = Connection::open(&path).unwrap();
        connection.execute_batch(FIRST).unwrap();
        connection.execute("INSERT INTO switched VALUES ('echo', '1.0.0', 0, 7)", []).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        assert!(migrate(&path, &mut connection).is_ok());
        let count = |connection: &Connection, what: &str| {
            connection.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get::<_, u32>(0)).ok()
        };
        assert_eq!((count(&connection, "switched"), count(&connection, "consents")), (Some(1), Some(0)));
        let copy = Connection::open(folder.path().join("registry.sqlite3.version-1")).unwrap();
        assert_eq!((count(&copy, "switched"), count(&copy, "consents")), (Some(1), None));
        assert_eq!(copy.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap(), 1);
        drop((connection, copy));
        let database = Database::open(&path);
        assert_eq!((database.condition(), database.switched().unwrap().len()), (&Condition::Good, 1));
        assert_eq!(
            fs::read_dir(folder.path())
                .unwrap()
                .filter(|entry| {
                    entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains("version-"))
                })
                .count(),
            1,
            "there was nothing more to do"
        );
    }
}
