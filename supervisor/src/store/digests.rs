//! Digests of files, for as long as those do not change: what was hashed once is not hashed again.
//!
//! Nobody says so when a file is exchanged for another one. So whenever as many were added as there were, each is looked for where it was, and
//! those that are not there any more are forgotten.
//!
//! Invariant: what was forgotten is hashed again, and nothing else comes of it.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Most files that are known.
const FILES_MAX: usize = 100_000;

/// So many are added at least before they are looked for.
const ADDED_MIN: usize = 256;

/// Changes whenever the content of a file does.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether nothing but that has come of a file that only linking it changes.
    pub(super) fn is_but_linked(&self, after: &Self) -> bool {
        *self == Self { ctime: self.ctime, ..*after }
    }
}

/// By device and inode, with what changes when they do: what a file was before is not kept.
#[derive(Debug, Default)]
pub(super) struct Digests {
    files: HashMap<(u64, u64), Known>,
    /// So many were added since they were looked for.
    added: usize,
    /// So many were there then.
    left: usize,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    digest: String,
    /// Where it was.
    path: Box<Path>,
}

impl Digests {
    /// The digest of that file, unless it has changed since.
    pub(super) fn get(&self, identity: &Identity) -> Option<&str> {
        let known = self.files.get(&(identity.device, identity.inode));
        known.filter(|known| known.identity == *identity).map(|known| known.digest.as_str())
    }

    /// What is known of a file from now on. Blocks.
    pub(super) fn insert(&mut self, identity: Identity, path: &Path, digest: &str) {
        let file = (identity.device, identity.inode);
        if !self.files.contains_key(&file) {
            if self.added >= self.left.max(ADDED_MIN) {
                self.forget_what_is_gone();
            }
            if self.files.len() >= FILES_MAX {
                self.files.clear();
            }
            self.added += 1;
        }
        self.files.insert(file, Known { identity, digest: digest.to_owned(), path: path.into() });
    }

    fn forget_what_is_gone(&mut self) {
        self.files.retain(|file, known| {
            fs::symlink_metadata(&known.path).is_ok_and(|there| (there.dev(), there.ino()) == *file)
        });
        self.files.shrink_to(self.files.len() + ADDED_MIN);
        (self.added, self.left) = (0, self.files.len());
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A file there.
    fn file(path: &Path, content: &str) -> Identity {
        fs::write(path, content).unwrap();
        Identity::of(&fs::metadata(path).unwrap())
    }

    /// Or it would be more and more with each change of a package.
    #[test]
    fn of_a_file_that_changes_only_the_last_contents_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut digests = Digests::default();
        let mut before = None;
        for edition in 0..10 {
            let now = file(&path, &"x".repeat(edition));
            digests.insert(now, &path, &edition.to_string());
            assert_eq!(digests.get(&now), Some(edition.to_string().as_str()));
            assert_eq!((before.and_then(|before| digests.get(&before)), digests.files.len()), (None, 1));
            before = Some(now);
        }
    }

    /// Editors, `git` and `cp --remove-destination` put another file in the place of one that they change.
    #[test]
    fn files_that_were_exchanged_for_others_are_forgotten_and_the_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..50).map(|number| folder.path().join(number.to_string())).collect();
        let mut digests = Digests::default();
        let kept: Vec<Identity> = paths.iter().map(|path| file(path, "kept")).collect();
        for (identity, path) in kept.iter().zip(&paths) {
            digests.insert(*identity, path, "kept");
        }
        let (new, path) = (folder.path().join("new"), folder.path().join("exchanged"));
        for edition in 0..4 * ADDED_MIN {
            let identity = file(&new, "exchanged");
            // It stays by another name, so that none has the number of one before.
            fs::hard_link(&new, folder.path().join(format!("before-{edition}"))).unwrap();
            fs::rename(&new, &path).unwrap();
            digests.insert(identity, &path, "exchanged");
            assert_eq!(digests.get(&identity), Some("exchanged"));
            assert!(kept.iter().all(|one| digests.get(one) == Some("kept")), "{edition}");
            assert!(digests.files.len() <= 50 + 1 + ADDED_MIN, "{}", digests.files.len());
        }
        assert!(digests.files.capacity() <= 4 * ADDED_MIN, "{}", digests.files.capacity());
    }

    /// All that a daemon has is looked at one after the other.
    #[test]
    fn as_many_are_known_as_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let mut digests = Digests::default();
        let all: Vec<_> = (0..5 * ADDED_MIN)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                let identity = file(&path, "");
                digests.insert(identity, &path, "one of many");
                identity
            })
            .collect();
        assert!(all.iter().all(|one| digests.get(one).is_some()));
        assert_eq!(digests.files.len(), all.len());
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let identity = file(&path, "");
        // As if it were so many links to it that it does not matter which is gone.
        let mut digests = Digests { left: usize::MAX, ..Digests::default() };
        for inode in 0..FILES_MAX as u64 + 10 {
            digests.insert(Identity { inode, ..identity }, &path, "");
            assert!(digests.files.len() <= FILES_MAX);
        }
        assert!(digests.files.len() < FILES_MAX);
    }
}
