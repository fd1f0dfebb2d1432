//! What is taken over from a database that cannot be used as it is: all of it, where it can only not be written; what restricts, where it is
//! damaged, for what a plugin may do is never guessed.
//!
//! Invariants: the file is only read; of what cannot be read nothing is made up, and it keeps nothing else from being read.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::BUSY_WITHIN;

/// What of it is taken over. What was found of packages is found again.
const TABLES: [&str; 14] = [
    "switched",
    "consents",
    "definitions",
    "deprecated",
    "statistics",
    "configured",
    "secrets",
    "bad",
    "backups",
    "serving",
    "accepted",
    "offered",
    "probations",
    "audit",
];

/// And what of those restricts a plugin.
const RESTRICTING: [(&str, &str); 3] =
    [("switched", "enabled = 0"), ("consents", "word = 'denied'"), ("accepted", "true")];

/// No table has more rows.
const ROWS_MAX: usize = 1_000_000;

/// How much of what restricts plugins was taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Versions that are disabled.
    pub disabled: usize,
    /// Permissions that were refused.
    pub denied: usize,
}

/// Takes over all that this daemon understands of a database that is whole; of a damaged one what restricts. Says whether it was whole.
///
/// # Errors
/// It cannot be read, or what was read cannot be written.
pub(super) fn take_over(path: &Path, into: &Connection) -> rusqlite::Result<bool> {
    let from = open_reading(path)?;
    let checked = from.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    if checked.is_ok_and(|checked| checked == "ok") {
        let all = into.unchecked_transaction()?;
        for table in TABLES {
            carry(&from, &all, table, "true");
        }
        all.commit()?;
        return Ok(true);
    }
    restrictions_of(&from, into)?;
    Ok(false)
}

/// Takes over what restricts plugins, as far as it can still be read.
///
/// # Errors
/// As [`take_over`].
pub(super) fn restrictions(path: &Path, into: &Connection) -> rusqlite::Result<Restrictions> {
    restrictions_of(&open_reading(path)?, into)
}

fn restrictions_of(from: &Connection, into: &Connection) -> rusqlite::Result<Restrictions> {
    let all = into.unchecked_transaction()?;
    let [disabled, denied, _] = RESTRICTING.map(|(table, only)| carry(from, &all, table, only));
    all.commit()?;
    Ok(Restrictions { disabled, denied })
}

/// Opens a database to read it, and leaves it as it is.
fn open_reading(path: &Path) -> rusqlite::Result<Connection> {
    let has_log = fs::metadata(log_of(path)).is_ok_and(|log| 0 < log.len());
    // With nothing in its log only the file counts, and nothing has to be made beside it. Where that cannot be, what is in the file is better
    // than nothing.
    let ways = if has_log { ["mode=ro", "immutable=1"] } else { ["immutable=1", "mode=ro"] };
    let open = |way| {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(path, way), flags)?;
        connection.busy_timeout(BUSY_WITHIN)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    open(ways[0]).or_else(|_| open(ways[1]))
}

fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

fn uri(path: &Path, way: &str) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri + "?" + way
}

/// Copies the rows of a table, in the columns that both have, and says how many. One that is not as it has to be is passed over.
fn carry(from: &Connection, into: &Connection, table: &str, only: &str) -> usize {
    let own = columns(into, table);
    let there = columns(from, table);
    let common: Vec<_> = own.into_iter().filter(|column| there.contains(column)).collect();
    let (names, marks) = (common.join(", "), vec!["?"; common.len()].join(", "));
    let insert = format!("INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})");
    let mut carried = 0;
    // A damaged page ends the reading; what lies behind it is reached from the other end.
    for order in ["ASC", "DESC"] {
        let select = format!("SELECT {names} FROM {table} WHERE {only} ORDER BY id {order} LIMIT {ROWS_MAX}");
        let Ok(mut select) = from.prepare(&select) else { return carried };
        let Ok(mut rows) = select.query([]) else { continue };
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let values: Result<Vec<Value>, _> = (0..common.len()).map(|index| row.get(index)).collect();
                    let done = values.and_then(|values| into.execute(&insert, params_from_iter(values)));
                    carried += done.unwrap_or(0);
                }
                Ok(None) => return carried,
                Err(_) => break,
            }
        }
    }
    carried
}

fn columns(connection: &Connection, table: &str) -> Vec<String> {
    let read = || {
        let mut all = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
        all.query_map([table], |row| row.get(0))?.collect::<Result<Vec<_>, _>>()
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use semver::Version;

    use super::super::audit::Query;
    use super::super::consents::Definitions;
    use super::super::{Condition, Database, Entry};
    use super::*;
    use crate::model::ids::PluginId;
    use crate::model::permission::consent::{Said, Word};
    use crate::model::permission::item::Item;

    fn entry(id: &str) -> Entry {
        let text = str::to_owned;
        let (who, what, version) = (text("uid:0"), text("disable"), text("1.0.0"));
        Entry { at_unix_ms: 7, who, what, id: text(id), version, detail: String::new() }
    }

    fn said(item: &str, word: Word) -> Said {
        let (who, version, digest) = ("uid:0".into(), "1.0.0".into(), "00ff".into());
        let (item, place) = (Item::parse(item).unwrap(), "/srv/plugins".into());
        Said { item, word, key: None, place, at_unix_ms: 7, who, version, digest }
    }

    /// One that has something of everything.
    fn filled() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        // Not every path is one that a URI can have as it is.
        let path = folder.path().join("a ?b#%41.sqlite3");
        let database = Database::open(&path);
        database.switch(false, &entry("echo")).unwrap();
        database.switch(true, &entry("guest")).unwrap();
        let words = [said("execute_code", Word::Granted), said("file_read:/srv", Word::Denied)];
        let definitions = Definitions { stated: vec![("run".to_owned(), "aa".to_owned())], announced: Vec::new() };
        database.consent(&words, &definitions, &entry("echo")).unwrap();
        database.installed(&entry("echo"), None).unwrap();
        (folder, path)
    }

    fn id(id: &str) -> PluginId {
        PluginId::parse(id).unwrap()
    }

    #[test]
    fn what_cannot_be_written_holds_all_the_same() {
        let (_folder, path) = filled();
        let before = Database::open(&path);
        let (switched, consents) = (before.switched().unwrap(), before.consents().unwrap());
        let trail = before.audit(&Query::default(), 9).unwrap();
        assert_eq!(trail.len(), 4);
        before.connection().pragma_update(None, "user_version", 99).unwrap();
        before.connection().execute_batch("ALTER TABLE switched ADD COLUMN later TEXT").unwrap();
        drop(before);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let bytes = fs::read(&path).unwrap();
        let database = Database::open(&path);
        assert!(matches!(database.condition(), Condition::Volatile { taken_over: true, .. }), "{database:?}");
        assert_eq!((database.switched().unwrap(), database.consents().unwrap()), (switched, consents));
        assert_eq!(database.installs(&id("echo"), &Version::new(1, 0, 0)).unwrap(), 1);
        assert_eq!(database.audit(&Query::default(), 9).unwrap(), trail);
        database.switch(true, &entry("echo")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes, "it is only read");
    }

    /// What has not come from the log into the file yet counts as well.
    #[test]
    fn what_is_in_the_log_alone_is_taken_over() {
        let (folder, path) = filled();
        let open = Database::open(&path);
        open.switch(false, &entry("late")).unwrap();
        let copy = folder.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        fs::copy(log_of(&path), log_of(&copy)).unwrap();
        let into = Connection::open_in_memory().unwrap();
        for migration in super::super::MIGRATIONS {
            into.execute_batch(migration).unwrap();
        }
        assert_eq!(take_over(&copy, &into), Ok(true));
        let late = into.query_row("SELECT count(*) FROM switched WHERE id = 'late'", [], |row| row.get::<_, u32>(0));
        assert_eq!(late, Ok(1));
    }

    /// Wherever it is damaged: what restricts is there as far as it can be read, and nothing that permits.
    #[test]
    fn of_a_damaged_one_only_what_restricts() {
        let (folder, path) = filled();
        {
            let database = Database::open(&path);
            for number in 0..2_000 {
                database
                    .connection()
                    .execute("INSERT INTO switched VALUES (?1, '1.0.0', 0, 7)", [format!("p{number}")])
                    .unwrap();
            }
        }
        let bytes = fs::read(&path).unwrap();
        let mut most = 0;
        for page in 1..bytes.len() / 4096 {
            let path = folder.path().join(format!("damaged-at-{page}"));
            let mut bytes = bytes.clone();
            bytes[page * 4096..][..4096].fill(0xff);
            fs::write(&path, bytes).unwrap();
            let database = Database::open(&path);
            let Condition::Renewed { kept, .. } = database.condition() else { continue };
            let switched = database.switched().unwrap();
            assert_eq!(kept.disabled, switched.len());
            assert!(switched.values().all(|enabled| !enabled));
            let consents: BTreeMap<_, _> = database.consents().unwrap();
            for consents in consents.values() {
                assert!(consents.said.iter().all(|said| said.word == Word::Denied) && consents.definitions.is_empty());
            }
            most = most.max(kept.disabled * usize::from(kept.denied == 1));
        }
        assert!(1_500 < most, "{most}");
    }
}
