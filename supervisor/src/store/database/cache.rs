//! What was found in plugin directories, so that the next start need not read it all again.
//!
//! Losing any of it costs time alone, and so does whatever else becomes of it: each row has a digest of itself, and one that does not fit
//! is passed over. What a row says is believed until the plugin is first used, and then seen for itself.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::params;
use sha2::{Digest, Sha256};

use super::{Database, DatabaseError};

/// The table.
pub(super) const MIGRATION: &str = "
    CREATE TABLE discovered (
        path BLOB NOT NULL PRIMARY KEY, form TEXT NOT NULL, stamp BLOB NOT NULL, manifest BLOB NOT NULL,
        digest TEXT NOT NULL, checksum TEXT NOT NULL, warnings TEXT NOT NULL, seal BLOB NOT NULL
    ) STRICT;
";

/// What is remembered of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Its folder.
    pub path: PathBuf,
    /// What changes when it does.
    pub stamp: Vec<u8>,
    /// Its manifest, as it was written.
    pub manifest: Vec<u8>,
    /// The digest of its snapshot.
    pub digest: String,
    /// The one that its manifest may pin.
    pub checksum: String,
    /// What was found odd, as JSON.
    pub warnings: String,
}

impl Remembered {
    /// What only a row has that was written as it is.
    fn seal(&self, form: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let parts: [&[u8]; 7] = [
            form.as_bytes(),
            self.path.as_os_str().as_bytes(),
            &self.stamp,
            &self.manifest,
            self.digest.as_bytes(),
            self.checksum.as_bytes(),
            self.warnings.as_bytes(),
        ];
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl Database {
    /// What is remembered in that form, of packages wherever they are.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn remembered(&self, form: &str) -> Result<Vec<Remembered>, DatabaseError> {
        let connection = self.connection();
        let read = || {
            let mut all = connection.prepare(
                "SELECT path, stamp, manifest, digest, checksum, warnings, seal FROM discovered WHERE form = ?1",
            )?;
            let rows = all.query_map([form], |row| {
                let remembered = Remembered {
                    path: OsString::from_vec(row.get(0)?).into(),
                    stamp: row.get(1)?,
                    manifest: row.get(2)?,
                    digest: row.get(3)?,
                    checksum: row.get(4)?,
                    warnings: row.get(5)?,
                };
                let seal: Vec<u8> = row.get(6)?;
                Ok((seal == remembered.seal(form)).then_some(remembered))
            })?;
            // One that cannot be read as what it is is no better than one that does not fit.
            Ok(rows.filter_map(Result::ok).flatten().collect())
        };
        read().map_err(|error| self.told(&error))
    }

    /// Remembers these, forgets those, and whatever has another form: all of it, or nothing.
    ///
    /// # Errors
    /// [`DatabaseError`], and everything is as it was.
    pub fn remember(&self, form: &str, found: &[Remembered], gone: &[&Path]) -> Result<(), DatabaseError> {
        let mut connection = self.connection();
        let mut done = || {
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM discovered WHERE form <> ?1", [form])?;
            {
                let mut forget = transaction.prepare("DELETE FROM discovered WHERE path = ?1")?;
                for path in gone {
                    forget.execute([path.as_os_str().as_bytes()])?;
                }
                let mut note =
                    transaction.prepare("INSERT OR REPLACE INTO discovered VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
                for one in found {
                    note.execute(params![
                        one.path.as_os_str().as_bytes(),
                        form,
                        one.stamp,
                        one.manifest,
                        one.digest,
                        one.checksum,
                        one.warnings,
                        one.seal(form),
                    ])?;
                }
            }
            transaction.commit()
        };
        done().map_err(|error| self.told(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn remembered(path: &str) -> Remembered {
        Remembered {
            path: path.into(),
            stamp: vec![0, 1, 2],
            manifest: b"{}".to_vec(),
            digest: "d".repeat(64),
            checksum: "c".repeat(64),
            warnings: "[[],[]]".to_owned(),
        }
    }

    #[test]
    fn what_is_remembered_is_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("registry.sqlite3"));
        let (one, two) = (remembered("/a"), remembered("/b"));
        database.remember("form", &[one.clone(), two.clone()], &[]).unwrap();
        assert_eq!(database.remembered("form").unwrap(), [one.clone(), two.clone()]);
        assert_eq!(database.remembered("other").unwrap(), []);
        let changed = Remembered { stamp: vec![7], ..one };
        database.remember("form", std::slice::from_ref(&changed), &[&two.path]).unwrap();
        assert_eq!(database.remembered("form").unwrap(), [changed]);
        // A daemon of another build has its own, and leaves nothing of this one's.
        database.remember("other", std::slice::from_ref(&two), &[]).unwrap();
        assert_eq!((database.remembered("form").unwrap(), database.remembered("other").unwrap()), (vec![], vec![two]));
    }

    /// Each field of a row, changed by whatever means, makes it one that is passed over; the others stand.
    #[test]
    fn a_row_that_is_not_as_it_was_written_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite3");
        let good = remembered("/good");
        for change in [
            "path = x'2f6f74686572'",
            "stamp = x'00'",
            "manifest = x'7b7d20'",
            "digest = replace(digest, 'd', 'e')",
            "checksum = ''",
            "warnings = '[]'",
            "seal = x''",
        ] {
            let database = Database::open(&path);
            database.remember("form", &[good.clone(), remembered("/poisoned")], &[]).unwrap();
            drop(database);
            let connection = Connection::open(&path).unwrap();
            let poisoned = format!("UPDATE discovered SET {change} WHERE path = x'2f706f69736f6e6564'");
            assert_eq!(connection.execute(&poisoned, []).unwrap(), 1);
            drop(connection);
            assert_eq!(Database::open(&path).remembered("form").unwrap(), std::slice::from_ref(&good), "{change}");
        }
    }
}
