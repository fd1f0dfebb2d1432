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
use tokio::task::JoinSet;
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

/// So many changes may have plugins that have not ended yet; before there are more, these are waited for.
const SETTLING_MAX: usize = 64;

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
        let mut settling = JoinSet::new();
        while !*stop.borrow() {
            while settling.try_join_next().is_some() {}
            while settling.len() == SETTLING_MAX {
                settling.join_next().await;
            }
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
            match self.follow(Trusting::Stamps, None).await {
                Ok(followed) => {
                    // How long that takes is the plugins' choice, and what changes meanwhile is looked at.
                    let packages = self.clone();
                    settling.spawn(async move {
                        let found = packages.settle(followed).await;
                        if found.has_changes() {
                            tracing::info!(
                                added = found.added.join(", "),
                                changed = found.changed.join(", "),
                                removed = found.removed.join(", "),
                                "the plugin directories have changed"
                            );
                        }
                    });
                }
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
            let mut adding = Adding::new(kernel.get_ref(), WATCHES_MAX);
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
    most: usize,
    watched: HashSet<i32>,
    /// The first folder that could not be watched, and why.
    missed: Option<String>,
}

impl<'a> Adding<'a> {
    fn new(kernel: &'a OwnedFd, most: usize) -> Self {
        Self { kernel, most, watched: HashSet::new(), missed: None }
    }

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
        if self.watched.len() == self.most {
            self.miss(folder, &format!("{} folders are watched, and no more are", self.most));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn made(folders: &[&str]) -> tempfile::TempDir {
        let plugins = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(plugins.path().join(folder)).unwrap();
        }
        plugins
    }

    fn kernel() -> OwnedFd {
        inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap()
    }

    /// What may become a package is watched, and of a package what belongs to it.
    #[test]
    fn what_can_change_something_is_watched() {
        let plugins = made(&["a/inner/deep", "a/target/debug", "a/.git", "b/inner"]);
        fs::write(plugins.path().join("a/plugin.json"), "{}").unwrap();
        fs::write(plugins.path().join("file"), "").unwrap();
        let kernel = kernel();
        let mut adding = Adding::new(&kernel, WATCHES_MAX);
        adding.directory(plugins.path());
        // The directory, a with inner and deep, and b, which is no package yet.
        assert_eq!((adding.watched.len(), adding.missed), (5, None));
    }

    #[test]
    fn what_is_not_watched_is_said() {
        let plugins = made(&["a", "b", "c"]);
        let kernel = kernel();
        let mut adding = Adding::new(&kernel, 3);
        adding.directory(plugins.path());
        let told = format!(
            "changes in {} are not noticed: 3 folders are watched, and no more are",
            plugins.path().join("c").display()
        );
        assert_eq!((adding.watched.len(), adding.missed), (3, Some(told)));
        let mut adding = Adding::new(&kernel, 3);
        adding.directory(Path::new("/nonexistent/plugins"));
        let told = "changes in /nonexistent/plugins are not noticed: No such file or directory (os error 2)";
        assert_eq!(adding.missed.as_deref(), Some(told));
    }

    /// What happens in a folder that has just appeared is noticed once it is watched, and a folder that has gone is watched no more.
    #[tokio::test]
    async fn folders_that_come_and_go() {
        let plugins = made(&["a"]);
        let directories = || vec![plugins.path().to_owned()];
        let mut watcher = Watcher::new().unwrap();
        assert_eq!(watcher.refresh(directories()).await.unwrap(), None);
        assert_eq!(watcher.watched.len(), 2);
        fs::create_dir(plugins.path().join("b")).unwrap();
        watcher.changed().await.unwrap();
        assert_eq!(watcher.refresh(directories()).await.unwrap(), None);
        assert_eq!(watcher.watched.len(), 3);
        fs::write(plugins.path().join("b/plugin.json"), "{}").unwrap();
        watcher.changed().await.unwrap();
        let aside = made(&[]);
        let gone = aside.path().join("b");
        fs::rename(plugins.path().join("b"), &gone).unwrap();
        watcher.changed().await.unwrap();
        assert_eq!(watcher.refresh(directories()).await.unwrap(), None);
        assert_eq!(watcher.watched.len(), 2);
        // Nor does the kernel tell any more of what happens in it.
        let told = || rustix::io::read(watcher.kernel.get_ref(), &mut [0; 4096]);
        while told().is_ok() {}
        fs::write(gone.join("file"), "").unwrap();
        assert_eq!(told(), Err(Errno::AGAIN));
        fs::write(plugins.path().join("a/file"), "").unwrap();
        assert!(told().is_ok());
    }
}
