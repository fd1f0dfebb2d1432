//! The state of one plugin: keys with values and a number of the write that made each, in a file of its own.
//!
//! What waits is applied together: one transaction with a savepoint for each request, and one write to the disk. A request whose check
//! fails, or for which there is no room, leaves nothing behind and takes nobody else's with it.
//!
//! Invariants: an answer that says something was written is given after it is on the disk; a file that cannot be used is left as it is.
//! Elsewhere: whose requests they are, and who may have which file, is `state`'s. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::BUSY_WITHIN;
use crate::vault::{self, Vault, VaultError};

/// One step each, from an empty file to the present form. What was released is never changed.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE pairs (
        number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL, sealed INTEGER NOT NULL, value BLOB NOT NULL
    ) STRICT;
    CREATE TABLE about (
        one INTEGER PRIMARY KEY CHECK (one = 1), plugin TEXT NOT NULL, revision INTEGER NOT NULL, schema INTEGER,
        version TEXT, digest TEXT
    ) STRICT;
"];

/// What tells these files from others of SQLite's: "Pals".
const APPLICATION: i32 = 0x5061_6c73;

/// So many folders may be made for a plugin's file: its own, and that of all plugins' state.
const FOLDERS: usize = 2;

/// So long the log beside the file stays after it was written back.
const LOG_BYTES: u32 = 4 << 20;

/// The log is written back when it has so many pages, and begun anew in the same place: on the disk that is half of what it takes to make it
/// longer.
const LOG_PAGES: u32 = 256;

/// Less than that of what may be had is no room for more: rows, keys and pages that are not full take some.
const SLACK_BYTES: u64 = 64 << 10;

/// Why something of a plugin's state was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The key is not as it was expected to be.
    #[error("the key {key:?} is {}, and {} was expected", revision(*.actual), revision(*.expected))]
    Conflict {
        /// Which of the operations.
        operation: usize,
        /// The key.
        key: String,
        /// The revision that was expected; none means that there was to be no such key.
        expected: Option<u64>,
        /// The revision that it has.
        actual: Option<u64>,
    },
    /// So much waits for it already.
    #[error("too much waits for its state")]
    Busy,
    /// It has as much as it may have.
    #[error(
        "its state has {has_bytes} bytes and may have {limit_bytes}, so there is no room for {more_bytes} more; delete what is not needed"
    )]
    Quota {
        /// So much is used.
        has_bytes: u64,
        /// So much may be.
        limit_bytes: u64,
        /// So much was to be added.
        more_bytes: u64,
    },
    /// The disk does not take it. What is there is good.
    #[error("its state {path} cannot be written: {reason}; is the disk full or read-only?", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is damaged.
    #[error("its state {path} is damaged: {reason}; nothing of it was changed: put a copy in its place, or move it away, and the plugin begins anew", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A value does not open.
    #[error("the value of {key:?} in {path} cannot be read: {reason}", path = .path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Whose value.
        key: String,
        /// Why.
        reason: String,
    },
    /// It cannot be used for another reason.
    #[error("its state {path} cannot be used: {reason}", path = .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl StateError {
    /// Whether it stays so until somebody does something about the file.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unusable { .. })
    }
}

fn revision(revision: Option<u64>) -> String {
    revision.map_or_else(|| "not there".to_owned(), |revision| format!("at revision {revision}"))
}

/// One step of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This value is the key's from now on.
    Put { key: String, value: Vec<u8> },
    /// There is no such key any more.
    Delete { key: String },
    /// The key has this revision, or is not there; if not, nothing is done.
    Check { key: String, expected: Option<u64> },
    /// There is nothing any more.
    Clear,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The value of a key.
    Get { key: String },
    /// The keys with this beginning after that one, so many at the most.
    List { prefix: String, after: Option<String>, limit: usize },
    /// All of it or nothing, and the schema from then on, if it is said; where there is nothing yet, that is the writer's own form.
    Write { steps: Vec<Step>, schema: Option<u32>, form: Option<u32> },
    /// What is known about it.
    About,
    /// Who has brought it into its present form.
    SetAbout { version: String, digest: String, schema: Option<u32> },
}

impl Request {
    /// Whether anything is written for it.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::SetAbout { .. })
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The value and its revision, if there is one.
    Value(Option<(Vec<u8>, u64)>),
    /// Keys, and whether there are more.
    Keys { keys: Vec<Key>, more: bool },
    /// The number of the last write that it was; none where there was nothing to be done.
    Written { revision: Option<u64> },
    /// What is known about it.
    About(About),
}

/// A key without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub key: String,
    pub revision: u64,
    /// How long the value is.
    pub bytes: u64,
}

/// What is known about a plugin's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// The number of the last write.
    pub revision: u64,
    /// The version of its form, once somebody has said it.
    pub schema: Option<u32>,
    /// Which version of the plugin it was last brought into its form by, if that was noted.
    pub version: Option<String>,
    /// And which package that was.
    pub digest: Option<String>,
    /// How many keys there are.
    pub keys: u64,
    /// What it takes of what it may have.
    pub bytes: u64,
}

/// How a file is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose it is.
    pub plugin: String,
    /// So much it may have.
    pub bytes_max: u64,
    /// With what values are sealed, if they are.
    pub vault: Option<Arc<Vault>>,
    /// Whether it outlives a loss of power. One that is thrown away need not.
    pub durable: bool,
}

/// The file, open.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    connection: Connection,
    settings: Settings,
    page_bytes: u64,
}

impl StateFile {
    /// Opens it, and makes it where there is none.
    ///
    /// # Errors
    /// [`StateError`]; the file is as it was.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, StateError> {
        let told = |error: rusqlite::Error| told(path, &error);
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| written(path, &error))?;
        }
        // For its user alone, as SQLite makes its other files like this one.
        let made = OpenOptions::new().read(true).create(true).append(true).mode(0o600).open(path);
        let begins = made.and_then(|file| file.metadata()).map_err(|error| written(path, &error))?.len() == 0;
        if begins && settings.durable {
            // SQLite sees to the names in the file's own folder, and nobody to that of the folder.
            for folder in path.ancestors().skip(2).take(FOLDERS) {
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| written(path, &error))?;
            }
        }
        let mut connection = Connection::open(path).map_err(told)?;
        connection.busy_timeout(BUSY_WITHIN).map_err(told)?;
        super::alone(&connection).map_err(told)?;
        let checked: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(told)?;
        if checked != "ok" {
            return Err(StateError::Damaged { path: path.to_owned(), reason: checked });
        }
        let pragma =
            |name: &str, value: &dyn rusqlite::ToSql| connection.pragma_update(None, name, value).map_err(told);
        pragma("journal_mode", &"WAL")?;
        pragma("synchronous", &if settings.durable { "FULL" } else { "OFF" })?;
        pragma("journal_size_limit", &LOG_BYTES)?;
        pragma("wal_autocheckpoint", &LOG_PAGES)?;
        pragma("cache_size", &super::CACHE)?;
        pragma("trusted_schema", &false)?;
        // What is deleted or was there before it was sealed does not lie in pages that nobody uses.
        pragma("secure_delete", &true)?;
        migrate(path, &mut connection, &settings.plugin)?;
        let page_bytes: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(told)?;
        let mut file = Self { path: path.to_owned(), connection, settings, page_bytes };
        file.seal_all()?;
        let pages = (file.settings.bytes_max / page_bytes).max(1);
        file.connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .map_err(|error| file.told(&error))?;
        Ok(file)
    }

    /// Does all of it, as far as it can be done: the answers are in the order of the requests.
    pub fn apply(&mut self, requests: &[&Request]) -> Vec<Result<Reply, StateError>> {
        if !requests.iter().any(|request| request.writes()) {
            return requests.iter().map(|request| self.read(&self.connection, request)).collect();
        }
        match self.together(requests) {
            Ok(replies) => replies,
            // What is too much together may have room one by one; and who caused it is found out.
            Err(_) if requests.len() > 1 => {
                requests.iter().map(|request| self.together(&[*request]).and_then(|mut one| one.remove(0))).collect()
            }
            Err(error) => vec![Err(error)],
        }
    }

    /// One transaction. An error means that nothing of it was done.
    fn together(&mut self, requests: &[&Request]) -> Result<Vec<Result<Reply, StateError>>, StateError> {
        self.transact(requests).map_err(|error| match error {
            StateError::Write { path, reason } => {
                self.full(requests.iter().map(|request| weight(request)).sum(), path, reason)
            }
            error => error,
        })
    }

    fn transact(&mut self, requests: &[&Request]) -> Result<Vec<Result<Reply, StateError>>, StateError> {
        let path = self.path.clone();
        let told = |error: rusqlite::Error| told(&path, &error);
        // Taken before it is read, so that what is checked is what is written.
        let begun = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
        let mut transaction = begun.map_err(told)?;
        let mut replies = Vec::with_capacity(requests.len());
        let mut revision: u64 =
            transaction.query_row("SELECT revision FROM about", [], |row| row.get(0)).map_err(told)?;
        let before = revision;
        let mut failed = None;
        for request in requests {
            if !request.writes() {
                replies.push(read(&self.path, &self.settings, self.page_bytes, &transaction, request));
                continue;
            }
            let mut next = revision;
            let savepoint = transaction.savepoint().map_err(told)?;
            let done = write(&self.path, &self.settings, &savepoint, request, &mut next);
            match done {
                Ok(reply) => {
                    savepoint.commit().map_err(told)?;
                    revision = next;
                    replies.push(Ok(reply));
                }
                Err(error) => {
                    drop(savepoint);
                    // An error can have ended the whole transaction.
                    let ended = transaction.is_autocommit();
                    if ended || matches!(error, StateError::Write { .. }) {
                        failed = Some(error);
                        break;
                    }
                    replies.push(Err(error));
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let notes =
            |request: &&Request| matches!(request, Request::SetAbout { .. } | Request::Write { schema: Some(_), .. });
        if revision == before && !requests.iter().any(notes) {
            // Nothing was changed, so there is nothing to be written.
            return Ok(replies);
        }
        transaction.execute("UPDATE about SET revision = ?1", params![revision]).map_err(told)?;
        transaction.commit().map_err(told)?;
        Ok(replies)
    }

    /// Whether it is the plugin's room that is used up, or the disk.
    fn full(&self, more_bytes: u64, path: PathBuf, reason: String) -> StateError {
        let (has_bytes, limit_bytes) = (used(&self.connection, self.page_bytes).unwrap_or(0), self.settings.bytes_max);
        if has_bytes.saturating_add(more_bytes).saturating_add(SLACK_BYTES) > limit_bytes {
            StateError::Quota { has_bytes, limit_bytes, more_bytes }
        } else {
            StateError::Write { path, reason }
        }
    }

    fn read(&self, connection: &Connection, request: &Request) -> Result<Reply, StateError> {
        read(&self.path, &self.settings, self.page_bytes, connection, request)
    }

    /// Every pair, in the order of their keys: for an export.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn pairs(&self) -> Result<Vec<(String, Vec<u8>, u64)>, StateError> {
        let told = |error: rusqlite::Error| self.told(&error);
        let mut all =
            self.connection.prepare("SELECT key, value, revision, sealed FROM pairs ORDER BY key").map_err(told)?;
        let row = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?, row.get::<_, bool>(3)?))
        };
        let rows: Vec<_> = all.query_map([], row).map_err(told)?.collect::<Result<_, _>>().map_err(told)?;
        let open = |(key, value, revision, sealed): (String, Vec<u8>, u64, bool)| {
            let value = if sealed { unseal(&self.path, &self.settings, &key, &value)? } else { value };
            Ok((key, value, revision))
        };
        rows.into_iter().map(open).collect()
    }

    /// Writes a copy to a file that is not there yet, for its user alone, which is on the disk when this returns.
    ///
    /// # Errors
    /// [`StateError`]; then there is no copy.
    pub fn copy_to(&self, to: &Path) -> Result<(), StateError> {
        let copied = || {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
            made.map_err(|error| written(to, &error))?;
            self.connection
                .execute("VACUUM INTO ?1", params![to.to_string_lossy()])
                .map_err(|error| told(to, &error))?;
            let synced = || -> io::Result<()> {
                File::open(to)?.sync_all()?;
                to.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
            };
            synced().map_err(|error| written(to, &error))
        };
        if to.exists() {
            let reason = "there is something already".to_owned();
            return Err(StateError::Unusable { path: to.to_owned(), reason });
        }
        copied().inspect_err(|_| drop(fs::remove_file(to)))
    }

    /// Writes everything into the one file and closes it, so that it can be moved.
    ///
    /// # Errors
    /// [`StateError`]; it is closed all the same.
    pub fn close(self) -> Result<(), StateError> {
        let Self { path, connection, .. } = self;
        let busy: i64 = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(|error| told(&path, &error))?;
        connection.close().map_err(|(_, error)| told(&path, &error))?;
        if busy != 0 || log_of(&path).metadata().is_ok_and(|log| log.len() > 0) {
            let reason = "another process looks into it".to_owned();
            return Err(StateError::Unusable { path, reason });
        }
        Ok(())
    }

    fn told(&self, error: &rusqlite::Error) -> StateError {
        told(&self.path, error)
    }

    /// Seals what was written before there was a key.
    fn seal_all(&mut self) -> Result<(), StateError> {
        let Some(vault) = self.settings.vault.clone() else { return Ok(()) };
        let path = self.path.clone();
        let told = |error: rusqlite::Error| told(&path, &error);
        let transaction = self.connection.transaction().map_err(told)?;
        let open: Vec<(i64, String, Vec<u8>)> = {
            let mut open =
                transaction.prepare("SELECT number, key, value FROM pairs WHERE sealed = 0").map_err(told)?;
            let rows = open.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(told)?;
            rows.collect::<Result<_, _>>().map_err(told)?
        };
        if open.is_empty() {
            return Ok(());
        }
        for (number, key, value) in open {
            let sealed = sealed(&path, &self.settings.plugin, &vault, &key, &value)?;
            transaction
                .execute("UPDATE pairs SET value = ?1, sealed = 1 WHERE number = ?2", params![sealed, number])
                .map_err(told)?;
        }
        transaction.commit().map_err(told)?;
        // The log still has the pages as they were.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(told)
    }
}

/// Whether a file that nobody uses has values that are not sealed. Nothing is written.
///
/// # Errors
/// [`StateError`]
pub fn has_plain(path: &Path) -> Result<bool, StateError> {
    let told = |error: rusqlite::Error| told(path, &error);
    // As it would otherwise make files beside it.
    let name = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(format!("file:{name}?immutable=1"), flags).map_err(told)?;
    let asked = "SELECT EXISTS (SELECT 1 FROM pairs WHERE sealed = 0)";
    connection.query_row(asked, [], |row| row.get(0)).map_err(told)
}

/// The log that SQLite keeps beside a file.
#[must_use]
pub fn log_of(path: &Path) -> PathBuf {
    super::suffixed(path, "-wal")
}

/// What SQLite keeps in memory that it shares.
#[must_use]
pub fn shared_of(path: &Path) -> PathBuf {
    super::suffixed(path, "-shm")
}

fn migrate(path: &Path, connection: &mut Connection, plugin: &str) -> Result<(), StateError> {
    let told = |error: rusqlite::Error| told(path, &error);
    let unusable = |reason| StateError::Unusable { path: path.to_owned(), reason };
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(told)?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(told)?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(told)?;
    if application != APPLICATION && (application != 0 || version != 0 || tables != 0) {
        return Err(unusable("it is not a plugin's state".to_owned()));
    }
    let known = MIGRATIONS.len();
    let steps = MIGRATIONS
        .get(version..)
        .ok_or_else(|| unusable(format!("it is of version {version}, and this palisaded knows none beyond {known}")))?;
    if !steps.is_empty() {
        let transaction = connection.transaction().map_err(told)?;
        for step in steps {
            transaction.execute_batch(step).map_err(told)?;
        }
        if version == 0 {
            transaction
                .execute("INSERT INTO about (one, plugin, revision) VALUES (1, ?1, 0)", params![plugin])
                .map_err(told)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(told)?;
        transaction.pragma_update(None, "user_version", known).map_err(told)?;
        transaction.commit().map_err(told)?;
    }
    let whose: String = connection.query_row("SELECT plugin FROM about", [], |row| row.get(0)).map_err(told)?;
    if whose != plugin {
        return Err(unusable(format!("it is the state of {whose}, and not of {plugin}")));
    }
    Ok(())
}

fn read(
    path: &Path,
    settings: &Settings,
    page_bytes: u64,
    connection: &Connection,
    request: &Request,
) -> Result<Reply, StateError> {
    let told = |error: rusqlite::Error| told(path, &error);
    match request {
        Request::Get { key } => {
            let mut get =
                connection.prepare("SELECT value, revision, sealed FROM pairs WHERE key = ?1").map_err(told)?;
            let found = get
                .query_row(params![key], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get::<_, bool>(2)?)))
                .optional()
                .map_err(told)?;
            let found = match found {
                Some((value, revision, true)) => Some((unseal(path, settings, key, &value)?, revision)),
                Some((value, revision, false)) => Some((value, revision)),
                None => None,
            };
            Ok(Reply::Value(found))
        }
        Request::List { prefix, after, limit } => {
            let mut list = connection
                .prepare(
                    "SELECT key, revision, length(value), sealed FROM pairs WHERE key >= ?1 AND key > ?2
                     ORDER BY key LIMIT ?3",
                )
                .map_err(told)?;
            let row = |row: &rusqlite::Row<'_>| {
                let (bytes, sealed): (u64, bool) = (row.get(2)?, row.get(3)?);
                let overhead = if sealed { vault::OVERHEAD_BYTES as u64 } else { 0 };
                Ok(Key { key: row.get(0)?, revision: row.get(1)?, bytes: bytes.saturating_sub(overhead) })
            };
            let after = after.as_deref().unwrap_or_default();
            let rows = list.query_map(params![prefix, after, limit.saturating_add(1)], row).map_err(told)?;
            let mut keys = Vec::new();
            for key in rows {
                let key = key.map_err(told)?;
                if !key.key.starts_with(prefix.as_str()) {
                    break;
                }
                keys.push(key);
            }
            let more = keys.len() > *limit;
            keys.truncate(*limit);
            Ok(Reply::Keys { keys, more })
        }
        Request::About => {
            let mut about = connection
                .prepare("SELECT revision, schema, version, digest, (SELECT count(*) FROM pairs) FROM about")
                .map_err(told)?;
            let mut about = about
                .query_row([], |row| {
                    Ok(About {
                        revision: row.get(0)?,
                        schema: row.get(1)?,
                        version: row.get(2)?,
                        digest: row.get(3)?,
                        keys: row.get(4)?,
                        bytes: 0,
                    })
                })
                .map_err(told)?;
            about.bytes = used(connection, page_bytes).map_err(told)?;
            Ok(Reply::About(about))
        }
        Request::Write { .. } | Request::SetAbout { .. } => {
            Err(StateError::Invalid("a write is not a question".to_owned()))
        }
    }
}

/// Does one request. Whatever it has done until an error is taken back by the caller.
fn write(
    path: &Path,
    settings: &Settings,
    connection: &Connection,
    request: &Request,
    revision: &mut u64,
) -> Result<Reply, StateError> {
    let told = |error: rusqlite::Error| told(path, &error);
    match request {
        Request::Write { steps, schema, form } => {
            let mut written = None;
            if let Some(form) = form {
                connection
                    .execute(
                        "UPDATE about SET schema = ?1 WHERE schema IS NULL AND NOT EXISTS (SELECT 1 FROM pairs)",
                        params![form],
                    )
                    .map_err(told)?;
            }
            for (operation, step) in steps.iter().enumerate() {
                match step {
                    Step::Check { key, expected } => {
                        let mut get = connection.prepare("SELECT revision FROM pairs WHERE key = ?1").map_err(told)?;
                        let actual = get.query_row(params![key], |row| row.get(0)).optional().map_err(told)?;
                        if actual != *expected {
                            let (key, expected) = (key.clone(), *expected);
                            return Err(StateError::Conflict { operation, key, expected, actual });
                        }
                    }
                    Step::Put { key, value } => {
                        *revision += 1;
                        let sealed = match &settings.vault {
                            Some(vault) => Some(sealed(path, &settings.plugin, vault, key, value)?),
                            None => None,
                        };
                        let mut put = connection
                            .prepare(
                                "INSERT INTO pairs (key, revision, sealed, value) VALUES (?1, ?2, ?3, ?4)
                                 ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, sealed = excluded.sealed,
                                 value = excluded.value",
                            )
                            .map_err(told)?;
                        let value = sealed.as_deref().unwrap_or(value);
                        put.execute(params![key, *revision, sealed.is_some(), value]).map_err(told)?;
                        written = Some(*revision);
                    }
                    Step::Delete { key } => {
                        let mut delete = connection.prepare("DELETE FROM pairs WHERE key = ?1").map_err(told)?;
                        if delete.execute(params![key]).map_err(told)? > 0 {
                            *revision += 1;
                            written = Some(*revision);
                        }
                    }
                    Step::Clear => {
                        connection.execute("DELETE FROM pairs", []).map_err(told)?;
                        connection
                            .execute("UPDATE about SET schema = NULL, version = NULL, digest = NULL", [])
                            .map_err(told)?;
                        *revision += 1;
                        written = Some(*revision);
                    }
                }
            }
            if let Some(schema) = schema {
                connection.execute("UPDATE about SET schema = ?1", params![schema]).map_err(told)?;
            }
            Ok(Reply::Written { revision: written })
        }
        Request::SetAbout { version, digest, schema } => {
            connection
                .execute("UPDATE about SET version = ?1, digest = ?2, schema = ?3", params![version, digest, schema])
                .map_err(told)?;
            Ok(Reply::Written { revision: None })
        }
        Request::Get { .. } | Request::List { .. } | Request::About => {
            Err(StateError::Invalid("a question is not a write".to_owned()))
        }
    }
}

/// How many bytes of the file are in use.
fn used(connection: &Connection, page_bytes: u64) -> rusqlite::Result<u64> {
    let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let free: u64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    Ok(pages.saturating_sub(free).saturating_mul(page_bytes))
}

/// What a request adds at the most, roughly.
fn weight(request: &Request) -> u64 {
    let Request::Write { steps, .. } = request else { return 0 };
    let of = |step: &Step| match step {
        Step::Put { key, value } => (2 * key.len() + value.len() + vault::OVERHEAD_BYTES) as u64,
        Step::Delete { .. } | Step::Check { .. } | Step::Clear => 0,
    };
    steps.iter().map(of).sum()
}

/// For whom and where a value is sealed.
fn sealed(path: &Path, plugin: &str, vault: &Vault, key: &str, value: &[u8]) -> Result<Vec<u8>, StateError> {
    vault.seal(&["state", plugin, key], value).map_err(|error| unsealed(path, key, &error))
}

fn unseal(path: &Path, settings: &Settings, key: &str, value: &[u8]) -> Result<Vec<u8>, StateError> {
    let Some(vault) = &settings.vault else {
        let reason = "it is encrypted, and no key is configured; configure the one it was written with".to_owned();
        return Err(StateError::Sealed { path: path.to_owned(), key: key.to_owned(), reason });
    };
    let opened = vault.unseal(&["state", &settings.plugin, key], value);
    opened.map(|value| value.to_vec()).map_err(|error| unsealed(path, key, &error))
}

fn unsealed(path: &Path, key: &str, error: &VaultError) -> StateError {
    StateError::Sealed { path: path.to_owned(), key: key.to_owned(), reason: error.to_string() }
}

fn written(path: &Path, error: &io::Error) -> StateError {
    StateError::Write { path: path.to_owned(), reason: error.to_string() }
}

fn told(path: &Path, error: &rusqlite::Error) -> StateError {
    let (path, reason) = (path.to_owned(), super::reason_of(error));
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::PermissionDenied) => {
            StateError::Write { path, reason }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StateError::Damaged { path, reason },
        _ => StateError::Unusable { path, reason },
    }
}
