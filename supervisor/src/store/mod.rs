//! Immutable copies of packages. Every process runs from one, so that a package that changes on disk changes nothing that runs.
//!
//! ```text
//! store/files/<sha256>-<x|r>        every distinct file once, read-only
//! store/snapshots/<sha256>/…        a package: folders, and hard links to those files
//! ```
//!
//! A snapshot is named by the digest of its tree: names, executable bits and contents. It appears by a rename, so a crash leaves
//! a whole one or none. Invariants: nothing in the store is ever changed; a file that is there is hashed again before this
//! daemon first uses it, and replaced if it is not what its name says; a symbolic link is refused.
//! Whoever has a [`Snapshot`] holds it: it stays while anybody does. What nobody holds is taken away by `sweep`.
//! Elsewhere: which version is used is the registry's business; what `plugin.json` says is `model::manifest`'s.

pub mod database;
mod digests;
mod stamp;
mod sweep;
pub(crate) mod writers;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::SystemTime;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use self::digests::{Digests, Identity};
use crate::model::generation::{LaunchFailure, Outlook};
use crate::trust::tree::{self, Entry, PACKAGE_FILES_MAX, TreeError, What};

pub use crate::trust::program::Program;
pub use crate::trust::tree::LEFT_OUT;
pub use stamp::Stamp;
pub use sweep::{KEPT, Swept};

/// Why a package could not be copied. Each names the file in question.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading the package, or the store, failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Writing the store failed.
    #[error("cannot write {path} in the store: {source}{}", tree::not_written(source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon ends, and what it was copying is not needed any more.
    #[error("the daemon is stopping")]
    Closing,
    /// A snapshot is not what it was.
    #[error("{path} in the store is not what it was when it was made", path = .path.display())]
    Altered {
        /// Which, or the file in it.
        path: PathBuf,
    },
}

/// An immutable copy of a package. It stays in the store for as long as somebody has this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The digest of the tree, in hexadecimal.
    pub digest: String,
    /// The digest that the manifest's `checksum` is about.
    pub checksum: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it is not staged yet by this daemon: this is what the package was when it was looked at, by this daemon or an earlier one.
    pub is_presumed: bool,
    _hold: Arc<()>,
}

/// A folder for what is looked at before it is copied, and for nobody but the daemon. It goes with this, or when the store is opened.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
}

impl Workspace {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, "what was unpacked stays until the daemon starts anew");
        }
    }
}

/// Where snapshots are kept.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    staged: AtomicU64,
    /// Digests of source files.
    remembered: Mutex<Digests>,
    /// Files of the store that were hashed by this daemon.
    verified: Mutex<HashMap<String, ()>>,
    /// Who holds which snapshot, by its digest. No more of them than there are snapshots.
    holds: Mutex<HashMap<String, Weak<()>>>,
    /// Many copies may be made at once, and nothing is taken away in the middle of one.
    copying: RwLock<()>,
    /// Of those who have copied the same, one puts it in its place.
    placing: Mutex<()>,
    /// One sweep at a time.
    sweeping: Mutex<()>,
    closing: AtomicBool,
    /// No other daemon uses the store while this one does.
    _state: File,
}

impl Store {
    /// Opens the store at `root`, and clears away what a crash left half done. `state` is the lock on what it is a part of, and is
    /// held for as long as there is a store: also by a sweep that outlasts everything else.
    ///
    /// # Errors
    /// [`StoreError::Write`] when the folders cannot be made.
    pub fn open(root: PathBuf, state: File) -> Result<Self, StoreError> {
        let store = Self {
            root,
            staged: AtomicU64::new(0),
            remembered: Mutex::default(),
            verified: Mutex::default(),
            holds: Mutex::default(),
            copying: RwLock::default(),
            placing: Mutex::default(),
            sweeping: Mutex::default(),
            closing: AtomicBool::new(false),
            _state: state,
        };
        for folder in [store.files(), store.snapshots(), store.staging()] {
            if folder == store.staging() {
                remove_tree(&folder)?;
            }
            fs::create_dir_all(&folder).map_err(|source| StoreError::Write { path: folder.clone(), source })?;
        }
        Ok(store)
    }

    fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    fn staging_path(&self) -> PathBuf {
        self.staging().join(self.staged.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Makes an empty folder on the disk of the store.
    ///
    /// # Errors
    /// [`StoreError::Write`]
    pub fn workspace(&self) -> Result<Workspace, StoreError> {
        let path = self.staging_path();
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Workspace { path }),
            Err(source) => Err(StoreError::Write { path, source }),
        }
    }

    /// Whether the daemon goes on, and what takes long is still wanted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.closing.load(Ordering::Relaxed)
    }

    /// Copies the package at `source`. Blocks; what is in the store already is not copied again.
    ///
    /// # Errors
    /// [`StoreError`], and nothing is left behind.
    pub fn stage(&self, source: &Path) -> Result<Snapshot, StoreError> {
        self.stage_linking(source, &|file, path| fs::hard_link(file, path))
    }

    fn stage_linking(&self, source: &Path, link: &Link) -> Result<Snapshot, StoreError> {
        let _nothing_goes = self.copying.read().unwrap_or_else(PoisonError::into_inner);
        let entries = tree::walk(source, self)?;
        let digest = tree::digest_of_all(&entries);
        let path = self.snapshots().join(&digest);
        if !self.is_whole(&path, &entries) {
            let staging = self.staging_path();
            let built = self.build(&staging, &entries, link);
            let placed = built.and_then(|()| {
                let _one_at_a_time = lock(&self.placing);
                // Another one may have made the same meanwhile.
                if self.is_whole(&path, &entries) {
                    return remove_tree(&staging);
                }
                if path.exists() {
                    tracing::warn!(snapshot = %path.display(), "a snapshot was not what its name says and is replaced");
                    remove_tree(&path)?;
                }
                fs::rename(&staging, &path).map_err(|source| StoreError::Write { path: path.clone(), source })
            });
            if let Err(error) = placed {
                // The first error is the one worth telling.
                let _ = remove_tree(&staging);
                return Err(error);
            }
        }
        // A folder has to be writable to move to another parent, so its own mode comes last; a crash may have come before.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555))
            .map_err(|source| StoreError::Write { path: path.clone(), source })?;
        // By this a sweep knows the newest. Where it cannot be set, an earlier one holds.
        let _ = File::open(&path).and_then(|folder| folder.set_modified(SystemTime::now()));
        let hold = self.hold(&digest);
        Ok(Snapshot { digest, checksum: tree::checksum_of(&entries), path, is_presumed: false, _hold: hold })
    }

    /// The same for a package that is to be there for good: when this returns, the snapshot is on the disk.
    ///
    /// # Errors
    /// As [`Store::stage`]; where it cannot be written to the disk, the snapshot is there all the same.
    pub fn stage_durably(&self, source: &Path) -> Result<Snapshot, StoreError> {
        let snapshot = self.stage(source)?;
        let mut folders = vec![snapshot.path.clone()];
        while let Some(folder) = folders.pop() {
            let write = |source| StoreError::Write { path: folder.clone(), source };
            for entry in fs::read_dir(&folder).map_err(write)? {
                let entry = entry.map_err(write)?;
                if entry.file_type().map_err(write)?.is_dir() {
                    folders.push(entry.path());
                } else {
                    File::open(entry.path()).and_then(|file| file.sync_all()).map_err(write)?;
                }
            }
            File::open(&folder).and_then(|folder| folder.sync_all()).map_err(write)?;
        }
        for folder in [self.files(), self.snapshots()] {
            let synced = File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| StoreError::Write { path: folder, source })?;
        }
        Ok(snapshot)
    }

    /// The snapshot of this digest, if all of it is what the digest says. Blocks; what this daemon has not hashed yet is hashed.
    ///
    /// # Errors
    /// [`StoreError::Altered`] where it is not, or [`StoreError::Tree`] where it is not there.
    pub fn take(&self, digest: &str) -> Result<Snapshot, StoreError> {
        let _nothing_goes = self.copying.read().unwrap_or_else(PoisonError::into_inner);
        let path = self.snapshots().join(digest);
        let altered = |path: &Path| StoreError::Altered { path: path.to_owned() };
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(altered(&path));
        }
        let entries = tree::walk(&path, &Recognizing(self))?;
        if tree::digest_of_all(&entries) != digest {
            // One of the files that others link as well is not what it was: each is looked at again before its next use.
            lock(&self.verified).clear();
            return Err(altered(&self.altered_in(&path, &entries).unwrap_or(path)));
        }
        let hold = self.hold(digest);
        Ok(Snapshot {
            digest: digest.to_owned(),
            checksum: tree::checksum_of(&entries),
            path,
            is_presumed: false,
            _hold: hold,
        })
    }

    /// Whether the snapshot of this digest is on the disk. Blocks.
    #[must_use]
    pub fn has(&self, digest: &str) -> bool {
        self.snapshots().join(digest).exists()
    }

    /// Whether this is where the store has a snapshot, or would have it.
    #[must_use]
    pub fn has_made(&self, path: &Path) -> bool {
        path.starts_with(self.snapshots())
    }

    /// The snapshot of this digest, which may not be there yet: it is staged before anything runs from it.
    #[must_use]
    pub fn presume(&self, digest: &str, checksum: &str) -> Option<Snapshot> {
        let path = self.snapshots().join(digest);
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let (digest, checksum, hold) = (digest.to_owned(), checksum.to_owned(), self.hold(digest));
        Some(Snapshot { digest, checksum, path, is_presumed: true, _hold: hold })
    }

    /// The snapshot that the package at `source` would be if it were staged now. Blocks; nothing is copied.
    ///
    /// # Errors
    /// As [`Store::stage`].
    pub fn examine(&self, source: &Path) -> Result<Snapshot, StoreError> {
        let entries = tree::walk(source, &Examining(self))?;
        let digest = tree::digest_of_all(&entries);
        let (path, hold) = (self.snapshots().join(&digest), self.hold(&digest));
        Ok(Snapshot { digest, checksum: tree::checksum_of(&entries), path, is_presumed: true, _hold: hold })
    }

    /// What a file of a snapshot is, whose bytes stay where they are.
    fn recognize(&self, mut file: File, path: &Path) -> Result<(String, bool), StoreError> {
        let unreadable = |source| TreeError::Read { path: path.to_owned(), source };
        let metadata = file.metadata().map_err(unreadable)?;
        let executable = metadata.permissions().mode() & 0o111 != 0;
        let identity = Identity::of(&metadata);
        let known = self.remembered(&identity);
        if let Some(digest) = known {
            return Ok((digest, executable));
        }
        let (digest, _) = tree::hash(&mut file).map_err(unreadable)?;
        self.remember(identity, path, &digest);
        Ok((digest, executable))
    }

    /// The digest of that file, unless it has changed since.
    fn remembered(&self, identity: &Identity) -> Option<String> {
        lock(&self.remembered).get(identity).map(str::to_owned)
    }

    fn remember(&self, identity: Identity, path: &Path, digest: &str) {
        lock(&self.remembered).insert(identity, path, digest);
    }

    /// A name more changes the time of a file's last change and nothing of its contents: what was known of it, is.
    fn remember_linked(&self, before: &Identity, after: Identity, path: &Path, digest: &str) {
        let known = self.remembered(before).is_some_and(|known| known == digest);
        if known && before.is_but_linked(&after) {
            self.remember(after, path, digest);
        }
    }

    /// The first file of a snapshot whose contents are not among those that the store has: it was named by other ones.
    fn altered_in(&self, snapshot: &Path, entries: &[Entry]) -> Option<PathBuf> {
        let is_altered = |entry: &&Entry| match &entry.what {
            What::Folder => false,
            What::File { digest, executable } => !self.files().join(file_name(digest, *executable)).exists(),
        };
        entries.iter().find(is_altered).map(|entry| snapshot.join(&entry.relative))
    }

    fn hold(&self, digest: &str) -> Arc<()> {
        let mut holds = lock(&self.holds);
        if let Some(hold) = holds.get(digest).and_then(Weak::upgrade) {
            return hold;
        }
        let hold = Arc::new(());
        holds.insert(digest.to_owned(), Arc::downgrade(&hold));
        hold
    }

    /// Brings one file into the store, and says its digest.
    fn keep(&self, mut file: File, path: &Path) -> Result<(String, bool), StoreError> {
        let unreadable = |source| TreeError::Read { path: path.to_owned(), source };
        let before = file.metadata().map_err(unreadable)?;
        if !before.is_file() {
            return Err(TreeError::Changed { path: path.to_owned() }.into());
        }
        let executable = before.permissions().mode() & 0o111 != 0;
        let identity = Identity::of(&before);
        let known = self.remembered(&identity);
        if let Some(digest) = known
            && self.is_verified(&file_name(&digest, executable))
        {
            return Ok((digest, executable));
        }
        let staging = self.staging_path();
        let copied = self.copy_hashed(&mut file, before.len(), &staging, path);
        let settled = copied.and_then(|digest| {
            let after = file.metadata().map_err(unreadable)?;
            if Identity::of(&after) != identity {
                return Err(TreeError::Changed { path: path.to_owned() }.into());
            }
            Ok(digest)
        });
        let digest = match settled {
            Ok(digest) => digest,
            Err(error) => {
                let _ = fs::remove_file(&staging);
                return Err(error);
            }
        };
        let name = file_name(&digest, executable);
        let target = self.files().join(&name);
        let mode = mode_of(executable);
        if self.is_verified(&name) || self.verify(&name, &digest, mode) {
            let _ = fs::remove_file(&staging);
        } else {
            fs::set_permissions(&staging, fs::Permissions::from_mode(mode))
                .and_then(|()| fs::rename(&staging, &target))
                .map_err(|source| StoreError::Write { path: target, source })?;
        }
        lock(&self.verified).insert(name, ());
        self.remember(identity, path, &digest);
        Ok((digest, executable))
    }

    /// Copies `bytes` bytes, and says their digest. A file that has more by now is one that changes, and might never end.
    fn copy_hashed(&self, from: &mut File, bytes: u64, to: &Path, name: &Path) -> Result<String, StoreError> {
        let write = |source| StoreError::Write { path: to.to_owned(), source };
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(write)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        let mut left = bytes;
        loop {
            if self.closing.load(Ordering::Relaxed) {
                return Err(StoreError::Closing);
            }
            let count = from.read(&mut buffer).map_err(|source| TreeError::Read { path: name.to_owned(), source })?;
            if count == 0 {
                break;
            }
            left = left.checked_sub(count as u64).ok_or_else(|| TreeError::Changed { path: name.to_owned() })?;
            hasher.update(&buffer[..count]);
            if let Err(error) = out.write_all(&buffer[..count]) {
                // A child that is being made has the descriptor too for a moment, and with it would keep the room of a removed file.
                let _ = out.set_len(0);
                return Err(write(error));
            }
        }
        Ok(tree::hex(&hasher.finalize()))
    }

    fn is_verified(&self, name: &str) -> bool {
        lock(&self.verified).contains_key(name)
    }

    /// Whether the store has that file, and it is what its name says.
    fn verify(&self, name: &str, digest: &str, mode: u32) -> bool {
        let Ok(mut file) = File::open(self.files().join(name)) else { return false };
        let Ok(metadata) = file.metadata() else { return false };
        metadata.permissions().mode() & 0o777 == mode && tree::hash(&mut file).is_ok_and(|(found, _)| found == digest)
    }

    /// Whether a snapshot is there with exactly these entries. Contents are those of the linked files, verified before, or of one that had as
    /// many links as it could have.
    fn is_whole(&self, path: &Path, entries: &[Entry]) -> bool {
        let same = |entry: &Entry| {
            let path = path.join(&entry.relative);
            let Ok(metadata) = fs::symlink_metadata(&path) else { return false };
            match &entry.what {
                What::Folder => metadata.is_dir(),
                What::File { digest, executable } => {
                    let linked = fs::metadata(self.files().join(file_name(digest, *executable)))
                        .is_ok_and(|file| file.ino() == metadata.ino() && file.dev() == metadata.dev());
                    let has_mode = || metadata.permissions().mode() & 0o777 == mode_of(*executable);
                    let is_equal = || {
                        let found = File::open(&path).map(|file| self.recognize(file, &path));
                        matches!(found, Ok(Ok((found, _))) if found == *digest)
                    };
                    linked || (metadata.is_file() && has_mode() && is_equal())
                }
            }
        };
        path.is_dir() && count(path) == Some(entries.len()) && entries.iter().all(same)
    }

    /// Begins another file of that content, from which snapshots have theirs from here on: so many links as this one has there may be, and no
    /// more. Those that have it keep it.
    fn begin_another(&self, name: &str, digest: &str, executable: bool) -> Result<(), StoreError> {
        let (file, staging) = (self.files().join(name), self.staging_path());
        let write = |source| StoreError::Write { path: file.clone(), source };
        let copied = || {
            let mut from = File::open(&file).map_err(write)?;
            let bytes = from.metadata().map_err(write)?.len();
            if self.copy_hashed(&mut from, bytes, &staging, &file)? != digest {
                return Err(StoreError::Altered { path: file.clone() });
            }
            fs::set_permissions(&staging, fs::Permissions::from_mode(mode_of(executable))).map_err(write)?;
            fs::rename(&staging, &file).map_err(write)
        };
        copied().inspect_err(|_| {
            // The first error is the one worth telling.
            let _ = fs::remove_file(&staging);
        })
    }

    fn build(&self, staging: &Path, entries: &[Entry], link: &Link) -> Result<(), StoreError> {
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Write { path, source }
        };
        fs::create_dir(staging).map_err(write(staging))?;
        for entry in entries {
            let path = staging.join(&entry.relative);
            match &entry.what {
                What::Folder => fs::create_dir(&path).map_err(write(&path))?,
                What::File { digest, executable } => {
                    let name = file_name(digest, *executable);
                    let file = self.files().join(&name);
                    let before = fs::metadata(&file).map(|metadata| Identity::of(&metadata));
                    let linked = match link(&file, &path) {
                        Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                            self.begin_another(&name, digest, *executable)?;
                            link(&file, &path)
                        }
                        linked => linked,
                    };
                    linked.map_err(write(&path))?;
                    if let (Ok(before), Ok(after)) = (before, fs::metadata(&path)) {
                        self.remember_linked(&before, Identity::of(&after), &path, digest);
                    }
                }
            }
        }
        // Inner folders first: a folder that cannot be written takes no more entries.
        for entry in entries.iter().rev().filter(|entry| matches!(entry.what, What::Folder)) {
            let path = staging.join(&entry.relative);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).map_err(write(&path))?;
        }
        Ok(())
    }
}

impl tree::Visitor for Store {
    type Error = StoreError;

    fn go_on(&self) -> Result<(), StoreError> {
        if self.closing.load(Ordering::Relaxed) { Err(StoreError::Closing) } else { Ok(()) }
    }

    fn take(&self, file: File, path: &Path) -> Result<(String, bool), StoreError> {
        self.keep(file, path)
    }
}

/// Goes through a snapshot, whose files stay where they are.
struct Recognizing<'a>(&'a Store);

impl tree::Visitor for Recognizing<'_> {
    type Error = StoreError;

    fn take(&self, file: File, path: &Path) -> Result<(String, bool), StoreError> {
        self.0.recognize(file, path)
    }
}

/// Goes through a package that is not copied yet.
struct Examining<'a>(&'a Store);

impl tree::Visitor for Examining<'_> {
    type Error = StoreError;

    fn go_on(&self) -> Result<(), StoreError> {
        tree::Visitor::go_on(self.0)
    }

    fn take(&self, file: File, path: &Path) -> Result<(String, bool), StoreError> {
        let taken = tree::take_hashed(file, path, &|| self.0.is_open());
        self.go_on()?;
        Ok(taken?)
    }
}

/// The program that a snapshot's entry point is, opened.
#[derive(Debug)]
pub struct EntryPoint {
    /// Its descriptor.
    pub file: OwnedFd,
    /// Its path in the snapshot.
    pub path: PathBuf,
    /// What kind of program.
    pub program: Program,
}

impl Snapshot {
    /// Opens the entry point and looks whether this host can execute it.
    ///
    /// # Errors
    /// A sentence that names the file and says what to do; and whether only the host lacks the means to open it.
    pub fn entry_point(&self, relative: &str) -> Result<EntryPoint, LaunchFailure> {
        entry_point(&self.path, relative)
    }

    /// The same where a runtime executes it: its own bytes are that one's affair.
    ///
    /// # Errors
    /// As above.
    pub fn script(&self, relative: &str) -> Result<(PathBuf, OwnedFd), LaunchFailure> {
        script(&self.path, relative)
    }
}

/// The same in any package's folder.
///
/// # Errors
/// As of a snapshot.
pub fn script(package: &Path, relative: &str) -> Result<(PathBuf, OwnedFd), LaunchFailure> {
    let (path, file) = open(package, relative)?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        let message = format!("the entry point {relative} is no regular file");
        return Err(LaunchFailure { message, outlook: Outlook::Lasting, code: None });
    }
    Ok((path, file.into()))
}

/// The same in any package's folder.
///
/// # Errors
/// As of a snapshot.
pub fn entry_point(package: &Path, relative: &str) -> Result<EntryPoint, LaunchFailure> {
    let lasting = |message| LaunchFailure { message, outlook: Outlook::Lasting, code: None };
    let (path, file) = open(package, relative)?;
    executable(path, file, relative).map_err(lasting)
}

fn open(package: &Path, relative: &str) -> Result<(PathBuf, File), LaunchFailure> {
    let path = package.join(relative);
    // It may be a pipe by now, where it is not in the store.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(|error| {
        let outlook = error.raw_os_error().map_or(Outlook::Lasting, |errno| Outlook::of_errno(errno, Outlook::Lasting));
        let message = match error.kind() {
            io::ErrorKind::NotFound => {
                format!("the entry point {relative} is not in the package; build it, or correct `entry_point` in plugin.json")
            }
            _ => format!("the entry point {relative} cannot be opened: {error}"),
        };
        LaunchFailure { message, outlook, code: None }
    })?;
    Ok((path, file))
}

fn executable(path: PathBuf, mut file: File, relative: &str) -> Result<EntryPoint, String> {
    let metadata = file.metadata().map_err(|error| format!("the entry point {relative} cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("the entry point {relative} is a folder, not a program"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("the entry point {relative} is not executable; run `chmod +x {relative}` in the package"));
    }
    let program = Program::read(&mut file).map_err(|reason| format!("the entry point {relative} {reason}"))?;
    Ok(EntryPoint { file: file.into(), path, program })
}
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds the store's memory")
}

/// How a file gets another name.
type Link = dyn Fn(&Path, &Path) -> io::Result<()>;

fn mode_of(executable: bool) -> u32 {
    if executable { 0o555 } else { 0o444 }
}

fn file_name(digest: &str, executable: bool) -> String {
    format!("{digest}-{}", if executable { 'x' } else { 'r' })
}

/// How many entries a tree has, if it can be read and is no larger than a package may be.
fn count(folder: &Path) -> Option<usize> {
    let mut found = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()? {
            let entry = entry.ok()?;
            found += 1;
            if found > PACKAGE_FILES_MAX {
                return None;
            }
            if entry.file_type().ok()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(found)
}

/// Removes a tree whose folders may be read-only. It must not be anybody's any more.
pub(crate) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    let write = |source| StoreError::Write { path: path.to_owned(), source };
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let metadata = match fs::symlink_metadata(&folder) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(write(error)),
        };
        if !metadata.is_dir() {
            continue;
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(write)?;
        for entry in fs::read_dir(&folder).map_err(write)? {
            let entry = entry.map_err(write)?;
            if entry.file_type().map_err(write)?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(path).map_err(write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content, mode) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        folder
    }

    fn open(folder: &tempfile::TempDir) -> Store {
        Store::open(folder.path().join("store"), tempfile::tempfile().unwrap()).unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        (folder, store)
    }

    /// One that grows while it is copied is given up as soon as it has more than it had, or it might never end.
    #[test]
    fn a_file_that_grows_is_not_copied_for_ever() {
        let (_folder, store) = store();
        let source = package(&[("log", "longer than it was", 0o644)]);
        let path = source.path().join("log");
        let target = store.staging().join("0");
        let copied = store.copy_hashed(&mut File::open(&path).unwrap(), 4, &target, &path);
        assert!(matches!(copied, Err(StoreError::Tree(TreeError::Changed { .. }))), "{copied:?}");
        assert!(fs::metadata(&target).unwrap().len() <= 4);
    }

    /// A file system lets a file have so many names (ext4: 65,000), and all packages share one of each content.
    #[test]
    fn where_a_file_can_have_no_more_links_there_is_another() {
        let (folder, store) = store();
        let few = |file: &Path, path: &Path| match fs::metadata(file)?.nlink() {
            links if links < 4 => fs::hard_link(file, path),
            _ => Err(io::Error::from_raw_os_error(rustix::io::Errno::MLINK.raw_os_error())),
        };
        let many: Vec<_> = (0..7).map(|n| format!("empty{n}")).collect();
        let files: Vec<_> = many.iter().map(|name| (name.as_str(), "", 0o644)).collect();
        let source = package(&files);
        let first = store.stage_linking(source.path(), &few).unwrap();
        let inodes = |snapshot: &Snapshot| -> Vec<u64> {
            many.iter().map(|name| fs::metadata(snapshot.path.join(name)).unwrap().ino()).collect()
        };
        let before = inodes(&first);
        let different: std::collections::BTreeSet<_> = before.iter().collect();
        assert_eq!(different.len(), 3, "three names each beside the store's own: {before:?}");
        // Another package goes on with the last one.
        let other = package(&[("run", "x", 0o755), ("empty", "", 0o644)]);
        let second = store.stage_linking(other.path(), &few).unwrap();
        assert_eq!(fs::metadata(second.path.join("empty")).unwrap().ino(), *before.last().unwrap());
        // It is whole with all of them, so that it is not built again under whoever runs from it; also for the next daemon.
        assert_eq!(store.stage_linking(source.path(), &few).unwrap().digest, first.digest);
        assert_eq!(inodes(&first), before);
        let next = open(&folder);
        assert_eq!(next.stage_linking(source.path(), &few).unwrap().digest, first.digest);
        assert_eq!(inodes(&first), before);
        assert_eq!(next.take(&first.digest).unwrap().digest, first.digest);
        // What leaves no room is an error, and leaves nothing behind.
        let none = |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(rustix::io::Errno::MLINK.raw_os_error()));
        let third = package(&[("alone", "y", 0o644)]);
        assert!(matches!(store.stage_linking(third.path(), &none), Err(StoreError::Write { .. })));
        assert_eq!(fs::read_dir(store.staging()).unwrap().count(), 0);
    }

    #[test]
    fn a_daemon_that_ends_copies_no_further() {
        let (_folder, store) = store();
        let source = package(&[("run", "", 0o755)]);
        store.stage(source.path()).unwrap();
        store.close();
        assert!(matches!(store.stage(source.path()), Err(StoreError::Closing)));
        let path = source.path().join("run");
        let copied = store.copy_hashed(&mut File::open(&path).unwrap(), 0, &store.staging().join("0"), &path);
        assert!(matches!(copied, Err(StoreError::Closing)), "{copied:?}");
    }

    #[test]
    fn a_snapshot_is_read_only_and_outlives_changes_of_its_source() {
        let (_folder, store) = store();
        let source =
            package(&[("plugin.json", "{}", 0o644), ("bin/run", "#!/bin/sh\n", 0o755), (".git/x", "no", 0o644)]);
        let snapshot = store.stage(source.path()).unwrap();
        fs::write(source.path().join("bin/run"), "changed").unwrap();
        assert_eq!(fs::read_to_string(snapshot.path.join("bin/run")).unwrap(), "#!/bin/sh\n");
        let mode = |name: &str| fs::metadata(snapshot.path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("plugin.json"), mode("bin/run"), mode("bin")), (0o444, 0o555, 0o555));
        assert!(!snapshot.path.join(".git").exists());
        let changed = store.stage(source.path()).unwrap();
        assert_ne!(changed.digest, snapshot.digest);
        assert!(snapshot.path.exists());
    }

    #[test]
    fn equal_packages_are_one_snapshot_and_equal_files_one_file() {
        let (_folder, store) = store();
        let one = package(&[("a", "same", 0o644)]);
        let two = package(&[("a", "same", 0o644)]);
        let three = package(&[("a", "same", 0o644), ("b", "other", 0o644)]);
        let [one, two, three] = [&one, &two, &three].map(|package| store.stage(package.path()).unwrap());
        assert_eq!(one, two);
        let inode = |snapshot: &Snapshot| fs::metadata(snapshot.path.join("a")).unwrap().ino();
        assert_eq!(inode(&one), inode(&three));
        assert_eq!(fs::read_dir(store.staging()).unwrap().count(), 0);
    }

    /// Neither is in the other's way, nor takes away what the other runs from.
    #[test]
    fn who_copies_the_same_at_once_has_the_same() {
        let (_folder, store) = store();
        for round in 0..50 {
            let text = round.to_string();
            let source = package(&[("a/run", "same", 0o755), ("b", &text, 0o644)]);
            let begin = std::sync::Barrier::new(4);
            let staged = std::thread::scope(|scope| {
                let stage = || {
                    begin.wait();
                    store.stage(source.path()).map(|snapshot| snapshot.digest)
                };
                let all: Vec<_> = (0..4).map(|_| scope.spawn(stage)).collect();
                all.into_iter().map(|one| one.join().unwrap().unwrap()).collect::<std::collections::BTreeSet<_>>()
            });
            assert_eq!(staged.len(), 1);
            assert_eq!(fs::read_dir(store.staging()).unwrap().count(), 0);
        }
    }

    /// Or each start after another package had taken in the same file would hash it once more.
    #[test]
    fn what_is_known_of_a_file_is_known_when_others_link_it_too() {
        let (_folder, store) = store();
        let [one, two, three] = ["1", "2", "3"].map(|more| package(&[("a", "same", 0o644), ("b", more, 0o644)]));
        let one = store.stage(one.path()).unwrap();
        store.take(&one.digest).unwrap();
        let file = one.path.join("a");
        let is_known = || store.remembered(&Identity::of(&fs::metadata(&file).unwrap())).is_some();
        assert!(is_known());
        store.stage(two.path()).unwrap();
        assert!(is_known());
        // Whatever else is done to it makes it unknown, and stays so.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!is_known());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        store.stage(three.path()).unwrap();
        assert!(!is_known());
    }

    #[test]
    fn a_damaged_store_is_mended_by_the_next_daemon() {
        let (folder, store) = store();
        let source = package(&[("a", "right", 0o644)]);
        let snapshot = store.stage(source.path()).unwrap();
        let file = snapshot.path.join("a");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "wrong").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        drop(store);
        let store = open(&folder);
        let again = store.stage(source.path()).unwrap();
        assert_eq!(again, snapshot);
        assert_eq!(fs::read_to_string(again.path.join("a")).unwrap(), "right");
    }

    #[test]
    fn a_snapshot_is_taken_again_if_it_is_what_it_was() {
        let (folder, store) = store();
        let source = package(&[("bin/run", "#!/bin/sh\n", 0o755), ("a", "right", 0o644)]);
        let snapshot = store.stage_durably(source.path()).unwrap();
        drop(source);
        assert_eq!(store.take(&snapshot.digest).unwrap(), snapshot);
        drop(store);
        let store = open(&folder);
        assert_eq!(store.take(&snapshot.digest).unwrap(), snapshot);
        assert_eq!(fs::read_dir(store.staging()).unwrap().count(), 0, "nothing is copied");
        drop(store);
        for digest in ["../../etc", &"0".repeat(64)] {
            assert!(open(&folder).take(digest).is_err(), "{digest}");
        }
        let file = snapshot.path.join("a");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "wrong").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        let error = open(&folder).take(&snapshot.digest).unwrap_err();
        assert!(matches!(error, StoreError::Altered { .. }), "{error}");
    }

    #[test]
    fn links_and_devices_are_refused_by_name() {
        let (_folder, store) = store();
        let source = package(&[("a", "x", 0o644)]);
        std::os::unix::fs::symlink("/etc/passwd", source.path().join("link")).unwrap();
        let error = store.stage(source.path()).unwrap_err();
        assert!(
            matches!(&error, StoreError::Tree(TreeError::Unusual { path, what: "a symbolic link" }) if path.ends_with("link")),
            "{error}"
        );
    }

    /// The folder of a package becomes a link out of it, and a folder again, while it is copied again and again.
    #[test]
    fn a_folder_that_becomes_a_link_is_never_followed() {
        let (_folder, store) = store();
        let outside = package(&[("secret", "nobody is to have this", 0o644)]);
        let source = package(&[("plugin.json", "{}", 0o644), ("sub/secret", "mine", 0o644)]);
        let aside = tempfile::tempdir().unwrap();
        let (sub, other) = (source.path().join("sub"), aside.path().join("other"));
        std::os::unix::fs::symlink(outside.path(), &other).unwrap();
        let over = AtomicBool::new(false);
        let (mut copied, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &sub, rustix::fs::CWD, &other, exchange).unwrap();
                }
            });
            while copied < 2000 || refused < 2000 {
                match store.stage(source.path()) {
                    Ok(_) => copied += 1,
                    Err(StoreError::Tree(
                        TreeError::Unusual { .. } | TreeError::Read { .. } | TreeError::Changed { .. },
                    )) => refused += 1,
                    Err(error) => unreachable!("{error}"),
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let secret = "nobody is to have this".as_bytes();
        let kept = fs::read_dir(store.files()).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
        assert!(kept.into_iter().all(|content| content != secret), "it was taken into the store");
    }

    #[test]
    fn an_entry_point_that_cannot_run_is_named_with_what_to_do() {
        let (_folder, store) = store();
        let elf = |machine: u8| {
            let mut header = b"\x7fELF\x02\x01\x01".to_vec();
            header.resize(18, 0);
            header.push(machine);
            header.resize(64, 0);
            header
        };
        let source =
            package(&[("plain", "text", 0o755), ("closed", "#!/bin/sh\n", 0o644), ("script", "#!/bin/sh -e\n", 0o755)]);
        fs::write(source.path().join("arm"), elf(183)).unwrap();
        fs::set_permissions(source.path().join("arm"), fs::Permissions::from_mode(0o755)).unwrap();
        let snapshot = store.stage(source.path()).unwrap();
        for (entry, words) in [
            ("missing", "is not in the package"),
            ("closed", "chmod +x closed"),
            ("plain", "neither an ELF program nor a script"),
            ("arm", "built for another machine: for aarch64"),
        ] {
            let error = snapshot.entry_point(entry).unwrap_err().message;
            assert!(error.contains(words), "{error}");
        }
        let script = snapshot.entry_point("script").unwrap();
        assert_eq!(script.program, Program::Script { interpreter: "/bin/sh".into(), argument: Some("-e".into()) });
    }
}
