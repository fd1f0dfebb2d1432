//! What is written down of each installed version.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use semver::Version;
use serde::{Deserialize, Serialize};

use super::discovery;
use crate::model::generation::LaunchFailure;
use crate::model::ids::PluginId;
use crate::plugin::admission;
use crate::registry::{self, Found, says_nothing};
use crate::store::{Snapshot, Store};
use crate::trust::Rules;

/// No record is longer.
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 10;

/// With what the name ends while it is written.
const HALF: &str = "new";

/// One installed version, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of its snapshot, in hexadecimal.
    pub digest: String,
    /// The folder that it came from.
    pub source: String,
    pub installed_unix_ms: u64,
    /// `uid:0`, or whoever else it was.
    pub installed_by: String,
}

/// What a record is the record of.
#[derive(Debug)]
pub(super) enum Loaded {
    /// A version whose snapshot is what the record says, and that may be used or may not be, as what is required of it is now. In any case
    /// the snapshot is kept.
    Version(Box<Found>, Snapshot, Result<(), LaunchFailure>),
    /// Nothing that could be shown: its snapshot is not what it was, or the record is none.
    Nothing(String),
    /// Nobody knows at the moment: something could not be looked at. If anything is known of the snapshot, it is kept.
    Unseen(String, Option<Snapshot>),
}

/// Where the record of a version is.
pub(super) fn path(records: &Path, id: &PluginId, version: &Version) -> PathBuf {
    records.join(format!("{id}@{version}.json"))
}

/// An installed version.
pub(super) fn load(path: &Path, store: &Store, rules: &Rules) -> Loaded {
    let again = "install it again";
    let read = || {
        let mut text = Vec::new();
        File::open(path)?.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
        io::Result::Ok(text)
    };
    let text = match read() {
        Ok(text) => text,
        Err(error) if says_nothing(&error) => return Loaded::Unseen(format!("cannot be read: {error}"), None),
        Err(error) => return Loaded::Nothing(format!("cannot be read: {error}")),
    };
    let record: Record = match serde_json::from_slice(&text) {
        Ok(record) => record,
        Err(error) => return Loaded::Nothing(format!("is no record: {error}; {again}")),
    };
    let unseen = |reason| Loaded::Unseen(reason, store.presume(&record.digest, ""));
    let snapshot = match store.take(&record.digest) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let reason = format!("its snapshot cannot be used: {error}");
            return match discovery::is_unseen(&error) {
                true => unseen(reason),
                false => Loaded::Nothing(format!("{reason}; {again}")),
            };
        }
    };
    let mut found = match registry::read_with_text(&snapshot.path) {
        Ok((found, _)) => found,
        Err(unread) if unread.unseen => return unseen(unread.reason),
        Err(unread) => return Loaded::Nothing(unread.reason),
    };
    let name = format!("{}@{}.json", found.manifest.id, found.manifest.version);
    if path.file_name().is_none_or(|there| there != name.as_str()) {
        return Loaded::Nothing(format!("its snapshot is another plugin's, and belongs into {name}"));
    }
    let vouched = admission::vouch(&snapshot, rules, Path::new(&record.source), &found.manifest);
    let held = vouched.map(|warnings| found.warnings.extend(warnings));
    Loaded::Version(Box::new(found), snapshot, held)
}

/// From where the version of that record was installed, if there is one.
pub(super) fn source_of(path: &Path) -> Option<PathBuf> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(RECORD_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice::<Record>(&text).ok().map(|record| record.source.into())
}

/// Removes what a crash left half written.
pub(super) fn clear(records: &Path) {
    let half = |path: &Path| path.extension().is_some_and(|end| end == HALF);
    let entries = fs::read_dir(records).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in entries.filter(|path| half(path)) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "what is half written stays");
        }
    }
}

/// Writes it so that it is there whole, and for good, or not at all.
pub(super) fn write(path: &Path, record: &Record) -> io::Result<()> {
    let staging = path.with_extension(HALF);
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    let written = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&staging)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&staging, path)?;
        sync_parent(path)
    };
    written().inspect_err(|_| {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&staging);
    })
}

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo@1.0.0.json");
        let record = Record {
            digest: "00".into(),
            source: "/somewhere".into(),
            installed_unix_ms: 7,
            installed_by: "uid:0".into(),
        };
        write(&path, &record).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&fs::read(&path).unwrap()).unwrap(), record);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("gone/echo@1.0.0.json"), &record).is_err());
        // Where it cannot take its place, nothing of it stays.
        let taken = folder.path().join("taken@1.0.0.json");
        fs::create_dir(&taken).unwrap();
        assert!(write(&taken, &record).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
