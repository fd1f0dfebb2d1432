//! What plugins keep: each its own store, which outlives its processes and versions.
//!
//! `States` has those of all plugins, `State` is the one of a plugin, and a `StateView` is what the generations of one version of it use: the live
//! store, or a copy that is thrown away. Nobody but `States::of` makes a path from an id, and an id is one that was parsed, so no key and no
//! name leads to another plugin's store.
//!
//! What is asked for waits in a queue for the one thread that has the file, and what has come by the time it looks is written together, so
//! that many who write at once wait for the disk once. An answer says that it is on the disk.
//!
//! Invariants: nothing here touches the disk on the daemon's own thread, but in functions that say that they block; a plugin that has no state has no file; what cannot be used is left as it is.
//! Elsewhere: SQL is in `store::database::state`, frames in `plugin::link`.

pub mod json;
mod operations;
mod queue;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::operations::{
    KEY_BYTES_MAX, KEYS_MAX, OPERATIONS_MAX, Operation, PAIRS_BYTES_MAX, VALUE_BYTES_MAX, check_key, check_length,
    error_body,
};
use self::queue::{Shelf, Undecoded};
use crate::model::ids::PluginId;
pub use crate::store::database::state::{About, Key, Reply, Request, StateError, Step};
use crate::store::database::state::{Settings, log_of, shared_of};
use crate::vault::Vault;

/// So much a plugin's state may have.
pub const BYTES_MAX: u64 = 64 << 20;

/// The file in a plugin's folder.
const LIVE: &str = "state.sqlite3";

/// With what the names of copies begin that are thrown away.
const SCRATCH: &str = "scratch-";

/// And of what is put back by the next daemon, if this one does not come to an end with what it does.
const UNDO: &str = "undo-";

/// And of copies that are kept with a package that served before.
const BACKUP: &str = "backup-";

/// And of those that are kept aside.
const ASIDE: &str = "aside-";

/// So many of those of one plugin are kept, the youngest.
const ASIDES_MAX: usize = 5;

/// What such a file is called while it is being sealed.
const SEALING: &str = "scratch-sealing.sqlite3";

/// Those of all plugins.
#[derive(Debug)]
pub struct States {
    folder: PathBuf,
    vault: Option<Arc<Vault>>,
    known: Mutex<HashMap<PluginId, Arc<State>>>,
    /// The plugins that had state when the daemon started.
    there: HashSet<PluginId>,
}

impl States {
    /// Those in this folder, which is made once there is one. What an earlier daemon did not come to throw away is thrown away, and what it
    /// [held](State::hold_copy) is put back, unless that is known by its name already: then it has come to its end, and is kept. Blocks.
    #[must_use]
    pub fn open(folder: PathBuf, vault: Option<Arc<Vault>>, is_kept: impl Fn(&PluginId, &str) -> bool) -> Self {
        let mut there = HashSet::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| PluginId::parse(name).ok());
            let Some(id) = id else { continue };
            clear_scratch(&entry.path());
            if let Err(error) = put_back(&entry.path(), |name| is_kept(&id, name)) {
                tracing::error!(plugin = %id, %error, "its state was being brought into another form, and what was before cannot be put back");
            }
            if entry.path().join(LIVE).exists() {
                there.insert(id);
            }
        }
        Self { folder, vault, known: Mutex::default(), there }
    }

    /// That of one plugin.
    #[must_use]
    pub fn of(&self, id: &PluginId) -> Arc<State> {
        let make = || {
            let folder = self.folder.join(id.as_str());
            let settings =
                Settings { plugin: id.to_string(), bytes_max: BYTES_MAX, vault: self.vault.clone(), durable: true };
            let live = Shelf::new(folder.join(LIVE), settings, self.there.contains(id));
            Arc::new(State { id: id.clone(), folder, live: Arc::new(live), copies: AtomicU64::new(0) })
        };
        lock(&self.known).entry(id.clone()).or_insert_with(make).clone()
    }

    /// With what values are sealed, if a key is configured.
    #[must_use]
    pub fn vault(&self) -> Option<&Arc<Vault>> {
        self.vault.as_ref()
    }

    /// Waits until everything that was asked for is done.
    pub async fn finish(&self) {
        let all: Vec<_> = lock(&self.known).values().cloned().collect();
        for state in all {
            state.live.finish().await;
        }
    }
}

/// A copy that is kept of what a plugin had: with a package that served before, or aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCopy {
    pub name: String,
    pub path: PathBuf,
    /// When the plugin had it, in ms since the epoch.
    pub at_unix_ms: u64,
    /// The length of the file.
    pub bytes: u64,
}

impl KeptCopy {
    /// Whether it is kept aside, rather than with a package.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.name.starts_with(ASIDE)
    }
}

/// A key, its value as MessagePack, and the number of the write that made it.
pub type Encoded = (String, Vec<u8>, u64);

/// That of one plugin.
#[derive(Debug)]
pub struct State {
    id: PluginId,
    folder: PathBuf,
    live: Arc<Shelf>,
    copies: AtomicU64,
}

impl State {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &PluginId {
        &self.id
    }

    /// Whether there is any. Does not block.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.live.exists()
    }

    /// What is wrong with the file, as far as that was noticed: a sentence.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.live.trouble()
    }

    /// Has the live store do something.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn request(&self, request: Request) -> Result<Reply, StateError> {
        self.live.request(request).await
    }

    /// What is known about the live store; nothing where there is none.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn about(&self) -> Result<Option<About>, StateError> {
        self.live.about().await
    }

    /// Every key with its value, as MessagePack, and its revision, in order. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn pairs(&self) -> Result<Vec<(String, Vec<u8>, u64)>, StateError> {
        if !self.exists() {
            return Ok(Vec::new());
        }
        self.live.with(|file| file.pairs())
    }

    /// What is known about it, and every pair as [`State::pairs`] has them, as they are at one moment. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn all(&self) -> Result<(About, Vec<Encoded>), StateError> {
        all_on(&self.live)
    }

    /// Writes a copy of the live store, as it is at one moment, to a file that is not there yet. It is on the disk when this returns; where
    /// there is no state, the copy is an empty one. Blocks.
    ///
    /// # Errors
    /// [`StateError`]; then there is no copy.
    pub fn copy_to(&self, to: &Path) -> Result<(), StateError> {
        self.live.with(|file| file.copy_to(to))
    }

    /// A copy of the live store for a candidate, which is thrown away with the last view of it. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn scratch(self: &Arc<Self>) -> Result<StateView, StateError> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{SCRATCH}{number}.sqlite3"));
        // Nobody but this daemon makes such files, and the start of the daemon throws away what is left of one.
        remove_file_set(&path).map_err(|error| written(&path, &error))?;
        let exists = self.exists();
        if exists {
            self.copy_to(&path)?;
        }
        let settings = Settings { durable: false, ..self.live.settings().clone() };
        let shelf = Shelf::temporary(path, settings, exists);
        Ok(StateView { state: self.clone(), which: Mutex::new(Which::Scratch(Arc::new(shelf))), schema: None })
    }

    /// Puts a copy that was made with [`State::copy_to`] into the place of the live store, in one step, and returns where that is kept aside now;
    /// nothing where there was none. The copy has to lie on the same file system, and is gone from where it was. Whoever asks for something meanwhile waits. Blocks.
    ///
    /// # Errors
    /// [`StateError`]; then the live store is as it was.
    pub fn replace_with(&self, copy: &Path, now_unix_ms: u64) -> Result<Option<PathBuf>, StateError> {
        let aside = self.live.replace_with(copy, &self.folder.join(format!("{ASIDE}{now_unix_ms}.sqlite3")))?;
        self.thin_asides();
        Ok(aside)
    }

    /// Removes what was put aside longest ago, where that is more than is kept. Blocks.
    fn thin_asides(&self) {
        let at = |path: PathBuf| -> Option<(u64, PathBuf)> {
            let name = path.file_name()?.to_str()?;
            Some((name.strip_prefix(ASIDE)?.strip_suffix(".sqlite3")?.parse().ok()?, path))
        };
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut asides: Vec<_> = entries.filter_map(|entry| at(entry.path())).collect();
        asides.sort();
        let old = asides.len().saturating_sub(ASIDES_MAX);
        for (_, path) in asides.into_iter().take(old) {
            if let Err(error) = remove_file_set(&path) {
                tracing::warn!(file = %path.display(), %error, "what a plugin kept once stays where it was put aside");
            }
        }
    }

    /// Keeps a copy of the live store that is put back by the next daemon, unless it is [kept](State::keep) or
    /// [put back](State::put_back) before. Blocks.
    ///
    /// # Errors
    /// [`StateError`]; then there is no copy.
    pub fn hold_copy(&self, now_unix_ms: u64) -> Result<PathBuf, StateError> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let copy = self.folder.join(format!("{SCRATCH}{number}.sqlite3"));
        let path = self.folder.join(format!("{UNDO}{now_unix_ms}.sqlite3"));
        remove_file_set(&copy).map_err(|error| written(&copy, &error))?;
        self.copy_to(&copy)?;
        // It is called so once it is whole: half a copy must not be put back.
        fs::rename(&copy, &path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|error| written(&path, &error))?;
        Ok(path)
    }

    /// Keeps such a copy, or one of what is there now, as that of a package which served until then; returns the name by which it is
    /// kept, and nothing where there is no state. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn keep(&self, held: Option<&Path>, now_unix_ms: u64) -> Result<Option<String>, StateError> {
        let name = held.map_or_else(|| Self::kept_name(now_unix_ms), kept_name_of);
        let path = self.folder.join(&name);
        match held {
            Some(held) => fs::rename(held, &path)
                .and_then(|()| File::open(&self.folder)?.sync_all())
                .map_err(|error| written(&path, &error))?,
            None if self.exists() => self.copy_to(&path)?,
            None => return Ok(None),
        }
        Ok(Some(name))
    }

    /// Keeps a copy of what is there now aside, and returns its name; nothing where there is no state. Blocks.
    ///
    /// # Errors
    /// [`StateError`]; then there is no copy, or the next daemon puts it back.
    pub fn copy_aside(&self, now_unix_ms: u64) -> Result<Option<String>, StateError> {
        if !self.exists() {
            return Ok(None);
        }
        let held = self.hold_copy(now_unix_ms)?;
        match self.keep_aside(&held) {
            Ok(()) => Ok(Some(aside_name_of(&held))),
            Err(error) => remove_file_set(&held).map_err(|error| written(&held, &error)).and(Err(error)),
        }
    }

    /// Keeps such a copy [aside](Self::replace_with), where the youngest stay, by [its name](aside_name_of). Blocks.
    ///
    /// # Errors
    /// [`StateError`]; then the next daemon does that, if the name is known to it.
    pub fn keep_aside(&self, held: &Path) -> Result<(), StateError> {
        let path = self.folder.join(aside_name_of(held));
        fs::rename(held, &path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|error| written(&path, &error))?;
        self.thin_asides();
        Ok(())
    }

    /// Of which moment a copy is that is kept by that name, in ms since the epoch.
    #[must_use]
    pub fn moment_of(name: &str) -> Option<u64> {
        name.strip_suffix(".sqlite3")?.rsplit_once('-')?.1.parse().ok()
    }

    /// The copies that are kept, the youngest first. Blocks.
    #[must_use]
    pub fn kept_copies(&self) -> Vec<KeptCopy> {
        let copy = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            let is_kept = name.starts_with(BACKUP) || name.starts_with(ASIDE);
            let at_unix_ms = Self::moment_of(&name).filter(|_| is_kept)?;
            Some(KeptCopy { path: entry.path(), name, at_unix_ms, bytes: found.len() })
        };
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut copies: Vec<_> = entries.filter_map(copy).collect();
        copies.sort_by(|one, other| (other.at_unix_ms, &other.name).cmp(&(one.at_unix_ms, &one.name)));
        copies
    }

    /// Where such a copy is.
    #[must_use]
    pub fn path_of_kept(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What is in one of them, by its name or its path, to be read; nothing where there is no such copy. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn view_of_kept(self: &Arc<Self>, which: &str) -> Result<Option<StateView>, StateError> {
        let copies = self.kept_copies();
        let Some(kept) = copies.into_iter().find(|copy| copy.name == which || copy.path == Path::new(which)) else {
            return Ok(None);
        };
        // It stays as it is, whatever form it comes from.
        let copy = self.copy_of_kept(&kept.name)?;
        let log = log_of(&kept.path);
        if log.exists() {
            fs::copy(&log, log_of(&copy)).map_err(|error| written(&log, &error))?;
        }
        let settings = Settings { durable: false, ..self.live.settings().clone() };
        let shelf = Shelf::temporary(copy, settings, true);
        Ok(Some(StateView { state: self.clone(), which: Mutex::new(Which::Scratch(Arc::new(shelf))), schema: None }))
    }

    /// By which name a copy of that moment is kept.
    #[must_use]
    fn kept_name(now_unix_ms: u64) -> String {
        format!("{BACKUP}{now_unix_ms}.sqlite3")
    }

    /// Makes another copy of one that is kept, which can be put into the live store's place. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn copy_of_kept(&self, name: &str) -> Result<PathBuf, StateError> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{SCRATCH}{number}.sqlite3"));
        let copied = remove_file_set(&path)
            .and_then(|()| fs::copy(self.folder.join(name), &path))
            .and_then(|_| File::open(&path)?.sync_all());
        copied.map_err(|error| written(&self.folder.join(name), &error))?;
        Ok(path)
    }

    /// Puts the held copy back; what was written since is gone. Blocks.
    ///
    /// # Errors
    /// [`StateError`]; then the next daemon puts it back.
    pub fn put_back(&self, held: &Path, now_unix_ms: u64) -> Result<(), StateError> {
        self.replace_with(held, now_unix_ms)?.map_or(Ok(()), |aside| self.drop_aside(&aside))
    }

    /// Removes what was put aside. Blocks.
    ///
    /// # Errors
    /// [`StateError::Write`]
    pub fn drop_aside(&self, aside: &Path) -> Result<(), StateError> {
        remove_file_set(aside).map_err(|error| written(aside, &error))
    }

    /// Removes the copies that are kept and not among these. Blocks.
    pub fn keep_only(&self, names: &[String]) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_kept = |name: &str| !name.starts_with(BACKUP) || names.iter().any(|kept| kept == name);
            if !name.to_str().is_some_and(is_kept) {
                // What cannot be removed now is tried again with the next one.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The version of the form of what is there, as `StateView::stored_schema`. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn stored_schema(&self) -> Result<Option<u32>, StateError> {
        if !self.exists() {
            return Ok(None);
        }
        let told = self.live.with(|file| file.apply(&[&Request::About]).pop().unwrap_or(Ok(Reply::Value(None))))?;
        let Reply::About(about) = told else { return Ok(None) };
        Ok(about.schema.or_else(|| (about.keys > 0).then_some(0)))
    }

    /// Removes everything, also what was kept aside. Blocks.
    ///
    /// # Errors
    /// [`StateError::Write`]
    pub fn remove(&self) -> Result<(), StateError> {
        self.live.remove(|| {
            let entries = match fs::read_dir(&self.folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                // There are only files in it, and whatever else somebody has put there is not ours.
                if entry.file_type()?.is_file() {
                    fs::remove_file(entry.path())?;
                }
            }
            fs::remove_dir(&self.folder)?;
            self.folder.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
        })
    }
}

/// What the generations of one version of a plugin use of its state.
#[derive(Debug)]
pub struct StateView {
    state: Arc<State>,
    which: Mutex<Which>,
    /// The version of the form in which this version of the plugin keeps its state, if its manifest says one.
    schema: Option<u32>,
}

#[derive(Debug, Clone)]
enum Which {
    Live,
    Scratch(Arc<Shelf>),
}

impl StateView {
    /// Of the live store.
    #[must_use]
    pub fn live(state: Arc<State>, schema: Option<u32>) -> Self {
        Self { state, which: Mutex::new(Which::Live), schema }
    }

    /// The same view, for a version of the plugin that keeps its state in that form.
    #[must_use]
    pub fn with_schema(self, schema: Option<u32>) -> Self {
        Self { schema, ..self }
    }

    /// The plugin's state.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whether it is a copy that is thrown away.
    #[must_use]
    pub fn is_scratch(&self) -> bool {
        matches!(&*lock(&self.which), Which::Scratch(_))
    }

    /// From now on it is the live store; a copy is thrown away, and what was written to it. Does not block: the copy is removed by the next
    /// thread that has something to do with it, or the daemon's next start.
    pub fn go_live(&self) {
        *lock(&self.which) = Which::Live;
    }

    /// Has it do something.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn request(&self, request: Request) -> Result<Reply, StateError> {
        let shelf = self.shelf();
        shelf.request(request).await
    }

    /// As [`State::all`]. Blocks.
    ///
    /// # Errors
    /// [`StateError`]
    pub fn all(&self) -> Result<(About, Vec<Encoded>), StateError> {
        all_on(&self.shelf())
    }

    fn shelf(&self) -> Arc<Shelf> {
        match &*lock(&self.which) {
            Which::Live => self.state.live.clone(),
            Which::Scratch(shelf) => shelf.clone(),
        }
    }

    /// What is known about it; nothing where there is none.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn about(&self) -> Result<Option<About>, StateError> {
        let shelf = self.shelf();
        shelf.about().await
    }

    /// The version of the form of what is there: 0 where nobody has said one, and nothing where there is nothing.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn stored_schema(&self) -> Result<Option<u32>, StateError> {
        Ok(self.about().await?.and_then(|about| about.schema.or_else(|| (about.keys > 0).then_some(0))))
    }

    /// Notes who has brought it into its present form.
    ///
    /// # Errors
    /// [`StateError`]
    pub async fn set_about(&self, version: String, digest: String, schema: Option<u32>) -> Result<(), StateError> {
        let shelf = self.shelf();
        shelf.request(Request::SetAbout { version, digest, schema }).await.map(drop)
    }

    /// What a plugin asks for, by its host call's name and undecoded parameters; the answer is MessagePack.
    pub async fn call(&self, operation: Operation, params: Vec<u8>) -> Result<Vec<u8>, StateError> {
        let shelf = self.shelf();
        shelf.call(Undecoded { operation, params, schema: self.schema }).await
    }
}

fn all_on(shelf: &Shelf) -> Result<(About, Vec<Encoded>), StateError> {
    if !shelf.exists() {
        return Ok((About::default(), Vec::new()));
    }
    // Nobody else has the file meanwhile.
    shelf.with(|file| {
        let about = match file.apply(&[&Request::About]).pop() {
            Some(Ok(Reply::About(about))) => about,
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => About::default(),
        };
        Ok((about, file.pairs()?))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn written(path: &Path, error: &io::Error) -> StateError {
    StateError::Write { path: path.to_owned(), reason: error.to_string() }
}

/// Removes a file of SQLite's and what it keeps beside it.
fn remove_file_set(path: &Path) -> io::Result<()> {
    for path in [path.to_owned(), log_of(path), shared_of(path)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// By which name a held copy is kept.
#[must_use]
pub fn kept_name_of(held: &Path) -> String {
    renamed(held, BACKUP)
}

/// And by which name it is kept aside.
#[must_use]
pub fn aside_name_of(held: &Path) -> String {
    renamed(held, ASIDE)
}

fn renamed(held: &Path, beginning: &str) -> String {
    let name = held.file_name().unwrap_or_default().to_string_lossy();
    format!("{beginning}{}", name.strip_prefix(UNDO).unwrap_or(&name))
}

/// Puts back what was held for the case that a daemon ends while it brings a store into another form, or keeps it where that had come to its
/// end. Whoever is killed meanwhile is followed by another that does so.
fn put_back(folder: &Path, is_kept: impl Fn(&str) -> bool) -> io::Result<()> {
    let held = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(UNDO) && name.ends_with(".sqlite3"))
    });
    let Some(held) = held else { return Ok(()) };
    let mut names = [kept_name_of(&held), aside_name_of(&held)].into_iter();
    if let Some(kept) = names.find(|name| is_kept(name)) {
        fs::rename(held, folder.join(kept))?;
        return File::open(folder)?.sync_all();
    }
    let live = folder.join(LIVE);
    // What is in a log belongs to what is not wanted any more.
    for beside in [log_of(&live), shared_of(&live)] {
        match fs::remove_file(beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::open(folder)?.sync_all()?;
    fs::rename(held, live)?;
    File::open(folder)?.sync_all()
}

fn clear_scratch(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(SCRATCH)) {
            // What cannot be removed now is tried again by the next start.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
