//! Takes out of the store what nobody needs any more, so that it does not only grow.
//!
//! A snapshot stays while anybody holds it: the plugin whose version it is, a process that runs from it. Of the others the newest
//! [`KEPT`] of each plugin stay, by when they were last staged, for a return to them. A file goes with the last snapshot
//! that has it.
//!
//! Invariants: a snapshot leaves its place by a rename into the staging folder, so a crash leaves it whole, or leaves something
//! that the next daemon clears away when it opens the store. What is in use is decided in the same breath, under the lock that
//! keeps copies from being made meanwhile; the state's lock, which the store holds, keeps other daemons away. What cannot be
//! looked at, and what is not named as the store names things, is left alone.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::Deserialize;

use super::{Store, StoreError, lock, remove_tree};
use crate::model::ids::PluginId;
use crate::model::manifest::MANIFEST_BYTES_MAX;
use crate::trust::tree::TreeError;

/// So many snapshots of a plugin that nobody holds stay.
pub const KEPT: usize = 5;

/// So many snapshots one sweep looks at: more than the plugins that a daemon can have, with what is kept of each.
const LOOKED_AT_MAX: usize = 100_000;

/// So many snapshots, and so many files, one sweep removes. What is left is for the next.
const REMOVED_MAX: usize = 10_000;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// So many snapshots are gone.
    pub snapshots: usize,
    /// So many files of theirs.
    pub files: usize,
    /// As much room they took.
    pub bytes: u64,
    /// So many could not be removed.
    pub failed: usize,
    /// The first reason why not.
    pub problem: Option<StoreError>,
}

/// A snapshot that nobody holds.
struct Idle {
    digest: String,
    staged: SystemTime,
}

/// What of a manifest says whose snapshot it is. The rest may be of another time's form.
#[derive(Deserialize)]
struct Whose {
    id: String,
}

impl Store {
    /// Removes the snapshots that nobody holds but for the newest [`KEPT`] of each plugin, and their files. Blocks; copies can be
    /// made meanwhile. Does nothing while another sweep is under way.
    pub fn sweep(&self) -> Swept {
        match self.sweeping.try_lock() {
            Ok(one_at_a_time) => self.sweep_but_for(None, one_at_a_time),
            Err(_) => Swept::default(),
        }
    }

    /// The same, and of one plugin all go that nobody holds: nobody is to return to it. Waits for a sweep that is under way.
    pub fn sweep_all_of(&self, id: &PluginId) -> Swept {
        self.sweep_but_for(Some(id), lock(&self.sweeping))
    }

    fn sweep_but_for(&self, gone: Option<&PluginId>, _one_at_a_time: MutexGuard<'_, ()>) -> Swept {
        let mut swept = Swept::default();
        match self.superfluous(gone) {
            Ok(superfluous) => {
                for digest in superfluous.into_iter().take(REMOVED_MAX) {
                    if self.closing.load(Ordering::Relaxed) {
                        break;
                    }
                    match self.remove_snapshot(&digest) {
                        Ok(removed) => swept.snapshots += usize::from(removed),
                        Err(error) => swept.failed(error),
                    }
                }
            }
            Err(error) => swept.failed(error),
        }
        if let Err(error) = self.remove_files(&mut swept) {
            swept.failed(error);
        }
        if let Some(problem) = &swept.problem {
            tracing::warn!(failed = swept.failed, %problem, "the store could not be swept");
        }
        if 0 < swept.snapshots + swept.files {
            let Swept { snapshots, files, bytes, .. } = swept;
            tracing::info!(snapshots, files, bytes, "removed from the store what no plugin needs any more");
        }
        swept
    }

    /// A sweep that is under way ends with what it has in hand, and there will be no other; a copy that is being made is given up.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// The digests of the snapshots that are to go, the oldest first.
    fn superfluous(&self, gone: Option<&PluginId>) -> Result<Vec<String>, StoreError> {
        let folder = self.snapshots();
        let mut idle: HashMap<String, Vec<Idle>> = HashMap::new();
        let mut superfluous = Vec::new();
        for name in names(&folder)?.take(LOOKED_AT_MAX) {
            let Some(digest) = name.ok().filter(|name| is_digest(name)) else { continue };
            let path = folder.join(&digest);
            let staged = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                _ => continue,
            };
            if self.is_held(&digest) {
                continue;
            }
            match whose(&path) {
                Ok(Some(id)) => idle.entry(id).or_default().push(Idle { digest, staged }),
                // No plugin can return to it.
                Ok(None) => superfluous.push(Idle { digest, staged }),
                // The daemon may be short of descriptors; there will be another sweep.
                Err(error) => tracing::debug!(snapshot = %path.display(), %error, "cannot be looked at, and stays"),
            }
        }
        for (id, mut of_one) in idle {
            let kept = if gone.is_some_and(|gone| gone.as_str() == id) { 0 } else { KEPT };
            of_one.sort_unstable_by_key(|idle| std::cmp::Reverse(idle.staged));
            superfluous.extend(of_one.into_iter().skip(kept));
        }
        superfluous.sort_unstable_by_key(|idle| idle.staged);
        Ok(superfluous.into_iter().map(|idle| idle.digest).collect())
    }

    fn is_held(&self, digest: &str) -> bool {
        lock(&self.holds).get(digest).is_some_and(|hold| 0 < hold.strong_count())
    }

    /// Removes a snapshot, unless somebody holds it by now.
    fn remove_snapshot(&self, digest: &str) -> Result<bool, StoreError> {
        let path = self.snapshots().join(digest);
        let doomed = self.staging_path();
        {
            let _no_copies = self.copying.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            if self.is_held(digest) {
                return Ok(false);
            }
            // A folder has to be writable to move to another parent. Nobody is shut out by it, should this be the last thing that is done.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .and_then(|()| fs::rename(&path, &doomed))
                .map_err(|source| StoreError::Write { path, source })?;
            lock(&self.holds).remove(digest);
        }
        remove_tree(&doomed)?;
        Ok(true)
    }

    /// Removes the files that no snapshot has.
    fn remove_files(&self, swept: &mut Swept) -> Result<(), StoreError> {
        let folder = self.files();
        let in_no_snapshot = |path: &Path| {
            fs::symlink_metadata(path).ok().filter(|metadata| metadata.is_file() && metadata.nlink() == 1)
        };
        for name in names(&folder)? {
            if self.closing.load(Ordering::Relaxed) || REMOVED_MAX <= swept.files {
                break;
            }
            let Some(name) = name.ok().filter(|name| is_file_name(name)) else { continue };
            let path = folder.join(&name);
            // A first look, so that the lock is taken for few of them.
            if in_no_snapshot(&path).is_none() {
                continue;
            }
            let _no_copies = self.copying.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let Some(metadata) = in_no_snapshot(&path) else { continue };
            // Whoever copies the same file next is to find that it is not there.
            lock(&self.verified).remove(&name);
            match fs::remove_file(&path) {
                Ok(()) => {
                    swept.files += 1;
                    swept.bytes += metadata.len();
                }
                Err(source) => swept.failed(StoreError::Write { path, source }),
            }
        }
        Ok(())
    }
}

impl Swept {
    fn failed(&mut self, error: StoreError) {
        self.failed += 1;
        self.problem.get_or_insert(error);
    }
}

/// The names in a folder of the store; those that are not text are none of the store's.
fn names(folder: &Path) -> Result<impl Iterator<Item = io::Result<String>>, StoreError> {
    let entries = fs::read_dir(folder).map_err(|source| TreeError::Read { path: folder.to_owned(), source })?;
    Ok(entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default())))
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_file_name(name: &str) -> bool {
    name.strip_suffix("-x").or_else(|| name.strip_suffix("-r")).is_some_and(is_digest)
}

/// The id in a snapshot's manifest; `None` if it says none.
fn whose(snapshot: &Path) -> io::Result<Option<String>> {
    let path: PathBuf = snapshot.join("plugin.json");
    let mut bytes = Vec::new();
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    File::open(path)?.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice::<Whose>(&bytes).ok().map(|whose| whose.id))
}

#[cfg(test)]
mod tests;
