//! What is written down of each installed version.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plugin::admission;
use crate::registry::{self, Found};
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

/// An installed version, whose snapshot is what its record says.
pub(super) fn load(path: &Path, store: &Store, rules: &Rules) -> Result<(Found, Snapshot), String> {
    let again = "install it again";
    let read = || {
        let mut text = Vec::new();
        File::open(path)?.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
        io::Result::Ok(text)
    };
    let text = read().map_err(|error| format!("cannot be read: {error}"))?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| format!("is no record: {error}; {again}"))?;
    let snapshot =
        store.take(&record.digest).map_err(|error| format!("its snapshot cannot be used: {error}; {again}"))?;
    let mut found = registry::read(&snapshot.path)?;
    let vouched = admission::vouch(&snapshot, rules, Path::new(&record.source), &found.manifest);
    found.warnings.extend(vouched.map_err(|failure| failure.message)?);
    let name = format!("{}@{}.json", found.manifest.id, found.manifest.version);
    if path.file_name().is_none_or(|there| there != name.as_str()) {
        return Err(format!("its snapshot is another plugin's, and belongs into {name}"));
    }
    Ok((found, snapshot))
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
