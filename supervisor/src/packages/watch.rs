//! Notices that something changes in the plugin directories, and has it looked at once it is quiet.
//!
//! Events say only that there is something to look at: what has changed is found by comparing, so none need be complete, and one that was
//! lost with an overflow loses nothing. Folders are watched before they are looked at: what happens before is seen, and what happens
//! after is an event.
//!
//! Invariants: no folder is held open, so none is kept from being unmounted or removed; the number of watches is bounded, and what is not
//! watched is said.
//! Elsewhere: what follows is `rescan`'s. A plugin directory that is not there is not waited for.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Packages;
use super::rescan::Trusting;
use crate::blocking;
use crate::store::LEFT_OUT;

/// A change is looked at when nothing has changed for so long,
const QUIET: Duration = Duration::from_secs(1);

/// and at the latest so long after it.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Most folders that are watched: an ordinary user may have few more.
const WATCHES_MAX: usize = 8192;

/// No folder of a package lies deeper.
const DEPTH_MAX: usize = 32;

/// So many bytes of events are taken from the kernel at once.
const EVENT_BYTES: usize = 64 << 10;

/// The folders that are watched.
#[derive(Debug)]
pub struct Watcher {
    kernel: Arc<AsyncFd<OwnedFd>>,
    watched: HashSet<i32>,
}

impl Packages {
    /// Why changes in some plugin directories are not noticed, if that is so: a sentence.
    #[must_use]
    pub fn unwatched(&self) -> Option<String> {
        super::lock(&self.unwatched).clone()
    }

    /// Watches the plugin directories, which have to be looked at once after this. Nothing where they cannot be watched, or are not to be.
    pub async fn begin_watching(&self) -> Option<Watcher> {
        if !self.around.config.watch {
            *super::lock(&self.unwatched) = Some("plugin directories are not watched, as was configured".to_owned());
            return None;
        }
        match Watcher::new() {
            Ok(mut watcher) => {
                self.refresh(&mut watcher).await;
                Some(watcher)
            }
            Err(error) => {
                self.not_watched(Some(format!("changes of plugin directories are not noticed: {error}")));
                None
            }
        }
    }

    /// Looks at the plugin directories whenever they change, until `stop` says so.
    ///
    /// Not cancel safe: a look may be under way.
    pub async fn watch(self: Arc<Self>, mut watcher: Watcher, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            tokio::select! {
                settled = watcher.settled() => {
                    if let Err(error) = settled {
                        self.not_watched(Some(format!("changes of plugin directories are not noticed any more: {error}")));
                        return;
                    }
                }
                // Or whoever could say so is gone.
                _ = stop.changed() => return,
            }
            self.refresh(&mut watcher).await;
            match self.rescan(Trusting::Stamps).await {
                Ok(found) if found.has_changes() => tracing::info!(
                    added = found.added.join(", "),
                    changed = found.changed.join(", "),
                    removed = found.removed.join(", "),
                    "the plugin directories have changed"
                ),
                Ok(_) => {}
                Err(error) => tracing::warn!(error = error.message, "the plugin directories cannot be looked at"),
            }
        }
    }

    async fn refresh(&self, watcher: &mut Watcher) {
        match watcher.refresh(self.around.config.plugin_directories.clone()).await {
            Ok(missed) => self.not_watched(missed),
            Err(error) => self.not_watched(Some(format!("changes of plugin directories are not noticed: {error}"))),
        }
    }

    /// Notes what is not watched; the first time it is logged.
    fn not_watched(&self, why: Option<String>) {
        let mut unwatched = super::lock(&self.unwatched);
        if let Some(why) = why.as_ref().filter(|why| Some(*why) != unwatched.as_ref()) {
            tracing::warn!("{why}; `palisade rescan` looks at them");
        }
        *unwatched = why;
    }
}

impl Watcher {
    fn new() -> io::Result<Self> {
        let kernel = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that are not I/O-safe; this owns a descriptor"
        )]
        let kernel = AsyncFd::with_interest(kernel, Interest::READABLE)?;
        Ok(Self { kernel: Arc::new(kernel), watched: HashSet::new() })
    }

    /// Watches the folders that there are now, and no others. Returns what is not watched.
    async fn refresh(&mut self, directories: Vec<PathBuf>) -> io::Result<Option<String>> {
        let (kernel, old) = (self.kernel.clone(), std::mem::take(&mut self.watched));
        let (watched, missed) = blocking::run(move || {
            let mut adding = Adding { kernel: kernel.get_ref(), watched: HashSet::new(), missed: None };
            for directory in &directories {
                adding.directory(directory);
            }
            for gone in old.difference(&adding.watched) {
                // Of a folder that is gone the kernel has taken it away itself.
                let _ = inotify::remove_watch(kernel.get_ref(), *gone);
            }
            (adding.watched, adding.missed)
        })
        .await?;
        self.watched = watched;
        Ok(missed)
    }

    /// Waits until something has changed and no more does.
    async fn settled(&self) -> io::Result<()> {
        self.changed().await?;
        let at_the_latest = Instant::now() + SETTLED_WITHIN;
        loop {
            let quiet = (Instant::now() + QUIET).min(at_the_latest);
            tokio::select! {
                changed = self.changed() => changed?,
                () = sleep_until(quiet) => return Ok(()),
            }
            if at_the_latest <= Instant::now() {
                return Ok(());
            }
        }
    }

    /// Waits until something has changed. Cancel safe: what was not waited for is there the next time.
    async fn changed(&self) -> io::Result<()> {
        let mut buffer = vec![0; EVENT_BYTES];
        loop {
            let mut ready = self.kernel.readable().await?;
            match rustix::io::read(self.kernel.get_ref(), &mut buffer) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Adding<'a> {
    kernel: &'a OwnedFd,
    watched: HashSet<i32>,
    /// The first folder that could not be watched, and why.
    missed: Option<String>,
}

impl Adding<'_> {
    /// A plugin directory, and the packages in it; or one that is a package itself.
    fn directory(&mut self, directory: &Path) {
        if !self.add(directory) {
            return;
        }
        if directory.join("plugin.json").symlink_metadata().is_ok() {
            return self.inside(directory, 0);
        }
        // Whatever may become one is watched as well, and where a link leads.
        for folder in folders(directory, fs::metadata) {
            if self.add(&folder) && folder.join("plugin.json").symlink_metadata().is_ok() {
                self.inside(&folder, 0);
            }
        }
    }

    /// The folders of a package; no link in it is followed.
    fn inside(&mut self, folder: &Path, depth: usize) {
        if depth == DEPTH_MAX {
            return;
        }
        for inner in folders(folder, fs::symlink_metadata) {
            let is_left_out = inner.file_name().is_some_and(|name| LEFT_OUT.iter().any(|left_out| name == *left_out));
            if !is_left_out && self.add(&inner) {
                self.inside(&inner, depth + 1);
            }
        }
    }

    fn add(&mut self, folder: &Path) -> bool {
        if self.watched.len() == WATCHES_MAX {
            self.miss(folder, &format!("{WATCHES_MAX} folders are watched, and no more are"));
            return false;
        }
        // Only what changes something: the daemon's own reading is no event.
        let changes = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(self.kernel, folder, changes) {
            Ok(watch) => {
                self.watched.insert(watch);
                true
            }
            Err(Errno::NOSPC) => {
                self.miss(folder, "the user may watch no more folders (fs.inotify.max_user_watches)");
                false
            }
            Err(error) => {
                self.miss(folder, &error.to_string());
                false
            }
        }
    }

    fn miss(&mut self, folder: &Path, why: &str) {
        self.missed.get_or_insert_with(|| format!("changes in {} are not noticed: {why}", folder.display()));
    }
}

/// The folders that lie in one; none where it cannot be read, of which whoever looks at it has a word.
fn folders(folder: &Path, look: fn(PathBuf) -> io::Result<fs::Metadata>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path()).take(crate::registry::PACKAGES_MAX);
    let mut folders: Vec<_> = paths.filter(|path| look(path.clone()).is_ok_and(|found| found.is_dir())).collect();
    folders.sort();
    folders
}
