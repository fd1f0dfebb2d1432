//! What becomes of a version that is uninstalled: its snapshot is kept as an archive, from which it can be installed again.
//!
//! ```text
//! archive/ID-VERSION.tar.zst        the newest of them; the oldest go when there are too many, or they take too much room
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use semver::Version;

use super::record::sync_parent;
use crate::archive::{self, PackError};
use crate::model::ids::PluginId;

/// So many are kept,
const KEPT: usize = 50;

/// and so many bytes of them: more than two of the largest packages.
const KEPT_BYTES: u64 = 2 << 30;

/// What an archive's name ends with.
const END: &str = ".tar.zst";

/// Packs the snapshot into the folder `archived`, and says where. Blocks.
///
/// # Errors
/// [`PackError`], and nothing of it is left.
pub(super) fn keep(archived: &Path, snapshot: &Path, name: &str) -> Result<PathBuf, PackError> {
    DirBuilder::new().recursive(true).mode(0o700).create(archived).map_err(PackError::Write)?;
    let place = archived.join(format!("{name}{END}"));
    let beside = archived.join(format!("{name}.new"));
    let written = write(&beside, snapshot, name).and_then(|()| {
        let placed = fs::rename(&beside, &place).and_then(|()| sync_parent(&place));
        placed.map_err(PackError::Write)
    });
    if let Err(error) = written {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    if let Err(error) = prune(archived, &place, KEPT, KEPT_BYTES) {
        tracing::warn!(folder = %archived.display(), %error, "the oldest archives of what was uninstalled stay");
    }
    Ok(place)
}

/// The archives of an id, the lowest version first. What is named otherwise is none. Blocks.
///
/// # Errors
/// Why the folder cannot be read.
pub(super) fn of(archived: &Path, id: &PluginId) -> io::Result<BTreeMap<Version, PathBuf>> {
    let entries = match fs::read_dir(archived) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut there = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(END));
        // An id that begins with this one and a dash leaves nothing that would be a version.
        let rest = name.and_then(|name| name.strip_prefix(id.as_str())?.strip_prefix('-'));
        if let Some(version) = rest.and_then(|version| Version::parse(version).ok()) {
            there.insert(version, path);
        }
    }
    Ok(there)
}

/// Removes them, for good. Blocks.
///
/// # Errors
/// Why one of them stays, and perhaps others.
pub(super) fn forget(archived: &Path, id: &PluginId) -> io::Result<()> {
    let there = of(archived, id)?;
    if there.is_empty() {
        return Ok(());
    }
    for path in there.values() {
        fs::remove_file(path)?;
    }
    File::open(archived)?.sync_all()
}

fn write(beside: &Path, snapshot: &Path, name: &str) -> Result<(), PackError> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(beside).map_err(PackError::Write)?;
    archive::pack(snapshot, name, &mut file)?;
    file.sync_all().map_err(PackError::Write)
}

/// Removes the oldest but for so many, and for so many bytes of them, and what a crash left half written. That one stays.
fn prune(archived: &Path, newest: &Path, kept: usize, kept_bytes: u64) -> io::Result<()> {
    let mut there: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(archived)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if !metadata.is_file() || path == newest {
            continue;
        }
        if path.to_string_lossy().ends_with(END) {
            there.push((metadata.modified()?, metadata.len(), path));
        } else if path.extension().is_some_and(|end| end == "new") {
            fs::remove_file(&path)?;
        }
    }
    there.sort_unstable_by(|one, other| other.cmp(one));
    let (mut count, mut bytes) = (1, fs::metadata(newest)?.len());
    for (_, size, path) in there {
        count += 1;
        bytes += size;
        if kept < count || kept_bytes < bytes {
            fs::remove_file(&path)?;
        }
    }
    File::open(archived)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (snapshot, archived) = (folder.path().join("snapshot"), folder.path().join("archive"));
        fs::create_dir(&snapshot).unwrap();
        fs::write(snapshot.join("plugin.json"), "{}").unwrap();
        for (age, name) in ["one", "two", "three"].into_iter().enumerate() {
            let place = keep(&archived, &snapshot, name).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + age as u64);
            File::open(place).unwrap().set_modified(time).unwrap();
        }
        fs::write(archived.join("half.new"), "half").unwrap();
        let newest = keep(&archived, &snapshot, "four").unwrap();
        let names = || {
            let entries = fs::read_dir(&archived).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().display().to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["four.tar.zst", "one.tar.zst", "three.tar.zst", "two.tar.zst"]);
        prune(&archived, &newest, 3, u64::MAX).unwrap();
        assert_eq!(names(), ["four.tar.zst", "three.tar.zst", "two.tar.zst"]);
        let size = fs::metadata(&newest).unwrap().len();
        prune(&archived, &newest, 3, 2 * size + 100).unwrap();
        assert_eq!(names(), ["four.tar.zst", "three.tar.zst"]);
        prune(&archived, &newest, 3, 0).unwrap();
        assert_eq!(names(), ["four.tar.zst"]);
    }

    #[test]
    fn those_of_one_id_are_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let id = PluginId::parse("echo").unwrap();
        assert!(of(&folder.path().join("nowhere"), &id).unwrap().is_empty());
        let names = ["echo-1.0.0", "echo-1.1.0-rc.1+b", "echo-1-0.0.0", "echoes-1.0.0", "echo-one", "1.0.0"];
        for name in names {
            fs::write(folder.path().join(format!("{name}{END}")), "").unwrap();
        }
        let versions: Vec<_> = of(folder.path(), &id).unwrap().keys().map(ToString::to_string).collect();
        assert_eq!(versions, ["1.0.0", "1.1.0-rc.1+b"]);
        forget(folder.path(), &id).unwrap();
        assert!(of(folder.path(), &id).unwrap().is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), names.len() - 2);
    }

    #[test]
    fn what_cannot_be_packed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let archived = folder.path().join("archive");
        assert!(keep(&archived, &folder.path().join("nowhere"), "some").is_err());
        assert_eq!(fs::read_dir(&archived).unwrap().count(), 0);
    }
}
