//! Notices what changes in the plugin directories, and has just that looked at once it has settled.
//!
//! An event says only that there is something to look at: what has changed is found by comparing, so none need be complete, and of the same
//! name one is as good as many. Where more happens than is kept, or a watch is lost, everything is looked at. Folders are watched before
//! they are looked at: what happens before is seen, and what happens after is an event.
//!
//! ```text
//! notify's thread ─▶ Happened (names, bounded) ─▶ Folders: which package is it? ─▶ model::settle ─▶ who writes? ─▶ rescan
//! ```
//!
//! Elsewhere: which folders are watched is `folders`' affair, what follows `rescan`'s.

mod folders;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Config, EventKind, RecommendedWatcher, Watcher as _};
use palisade_protocol::ErrorBody;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use self::folders::{Folders, WATCHES_MAX};
use super::rescan::{Followed, Scope, Trusting};
use super::{Packages, lock};
use crate::blocking;
use crate::model::ids::PluginId;
use crate::model::settle::{Look, QUIET, Settling};
use crate::registry::PACKAGES_MAX;
use crate::store::writers::{self, Root};

/// So many names of what has happened are kept; of more than that, that it may be anything.
const NAMES_MAX: usize = 4096;

/// So many packages may change at once, and be settled each for itself.
const CHANGING_MAX: usize = 1024;

/// What happens within this time is taken together, so that whoever writes without pause does not keep the daemon busy.
const TOGETHER: Duration = Duration::from_millis(10);

/// A look at everything for what could not be kept is followed by the next only after so many times as long as it took.
const REST: u32 = 10;

/// So many changes may have plugins that have not ended yet; before there are more, these are waited for.
const DEPARTING_MAX: usize = 64;

/// How every sentence begins that says so.
const UNNOTICED: &str = "changes of plugin directories are not noticed";

/// Whoever notices what changes.
#[derive(Debug)]
pub struct Watcher {
    folders: Arc<Mutex<Folders>>,
    told: Arc<Told>,
    /// Tells that something was mounted or taken away, which no watch of a folder does; nothing where the system does not say.
    mounts: Option<AsyncFd<File>>,
    settling: Settling<PathBuf>,
    /// How long the last look at everything took.
    whole: Duration,
}

/// What `notify`'s thread has told and nobody has taken yet.
#[derive(Debug, Default)]
struct Told {
    happened: Mutex<Happened>,
    some: Notify,
}

#[derive(Debug, Default)]
struct Happened {
    /// What has changed in itself,
    changed: BTreeSet<PathBuf>,
    /// and what has come, gone or been exchanged.
    moved: BTreeSet<PathBuf>,
    /// Why that is not all, if it is not.
    lost: Option<String>,
    /// Whether nothing will be told any more.
    ended: bool,
}

/// What there is to do.
enum News {
    Happened,
    Mounts,
    Settled,
    Looked(Box<Result<Followed, ErrorBody>>, Duration),
    Stop,
}

impl Packages {
    /// Why changes in some plugin directories are not noticed, if that is so: a sentence.
    #[must_use]
    pub fn unwatched(&self) -> Option<String> {
        lock(&self.unwatched).clone()
    }

    /// Watches the plugin directories, which have to be looked at once after this. Nothing where they cannot be watched, or are not to be.
    pub async fn begin_watching(&self) -> Option<Watcher> {
        if !self.around.config.watch {
            *lock(&self.unwatched) = Some("plugin directories are not watched, as was configured".to_owned());
            return None;
        }
        match Watcher::new(self.around.config.plugin_directories.clone()) {
            Ok(watcher) => {
                self.refresh(&watcher).await;
                Some(watcher)
            }
            Err(error) => {
                self.not_watched(Some(format!("{UNNOTICED}: {error}")));
                None
            }
        }
    }

    /// Looks at what changes in the plugin directories, until `stop` says so.
    ///
    /// Not cancel safe: a look may be under way.
    pub async fn watch(self: Arc<Self>, mut watcher: Watcher, mut stop: watch::Receiver<bool>) {
        let (mut looking, mut departing) = (JoinSet::new(), JoinSet::new());
        while !*stop.borrow() {
            // One look at a time; what changes meanwhile is noted.
            let wakes = watcher.settling.wakes().filter(|_| looking.is_empty());
            let news = tokio::select! {
                () = watcher.told.some.notified() => News::Happened,
                () = mounted(watcher.mounts.as_ref()) => News::Mounts,
                () = at(wakes) => News::Settled,
                Some(Ok((looked, took))) = looking.join_next() => News::Looked(Box::new(looked), took),
                // Or whoever could say so is gone.
                _ = stop.changed() => News::Stop,
            };
            match news {
                News::Happened => {
                    tokio::time::sleep(TOGETHER).await;
                    if let Err(error) = self.take_up(&mut watcher).await {
                        self.not_watched(Some(format!("{UNNOTICED} any more: {error}")));
                        break;
                    }
                }
                News::Mounts => self.look_at_mounts(&mut watcher).await,
                News::Settled => match self.settled(&mut watcher).await {
                    Ok(None) => {}
                    Ok(Some(scope)) => {
                        let packages = self.clone();
                        looking.spawn(async move { packages.look_at(scope).await });
                    }
                    Err(error) => {
                        self.not_watched(Some(format!("{UNNOTICED} any more: {error}")));
                        break;
                    }
                },
                News::Looked(looked, took) => {
                    watcher.whole = took;
                    match *looked {
                        Ok(followed) => {
                            while departing.try_join_next().is_some() {}
                            while departing.len() == DEPARTING_MAX {
                                departing.join_next().await;
                            }
                            // How long that takes is the plugins' choice, and what changes meanwhile is looked at.
                            let packages = self.clone();
                            departing.spawn(async move { packages.see_through(followed).await });
                        }
                        Err(error) => {
                            tracing::warn!(error = error.message, "the plugin directories cannot be looked at");
                        }
                    }
                }
                News::Stop => break,
            }
        }
        // It may be changing something.
        while looking.join_next().await.is_some() {}
    }

    async fn look_at(&self, scope: Scope) -> (Result<Followed, ErrorBody>, Duration) {
        let begun = Instant::now();
        let looked = self.follow(Trusting::Stamps, &scope, None).await;
        (looked, begun.elapsed())
    }

    /// Has what was found be what serves, as far as it does, and logs what came of it.
    async fn see_through(self: &Arc<Self>, followed: Followed) {
        let found = self.settle(followed).await;
        if found.has_changes() {
            tracing::info!(
                added = found.added.join(", "),
                changed = found.changed.join(", "),
                removed = found.removed.join(", "),
                "the plugin directories have changed"
            );
        }
    }

    /// Takes what was told, and notes what it is that changes. An error is that nothing will be told any more.
    async fn take_up(&self, watcher: &mut Watcher) -> io::Result<()> {
        let Happened { changed, moved, lost, ended } = std::mem::take(&mut *lock(&watcher.told.happened));
        if ended {
            return Err(io::Error::other("whoever watches them has ended"));
        }
        if let Some(lost) = lost {
            tracing::warn!("{lost}; all plugin directories are looked at");
            self.anything_may_have_changed(watcher).await;
            return Ok(());
        }
        let folders = watcher.folders.clone();
        let (packages, everything, missed) = blocking::run(move || {
            let mut folders = lock(&folders);
            folders.follow(&moved);
            let touched = moved.iter().map(|path| (path, true)).chain(changed.iter().map(|path| (path, false)));
            let mut packages = BTreeSet::new();
            let mut everything = false;
            for touched in touched.map(|(path, has_moved)| folders.touched(path, has_moved)) {
                everything |= touched.everything;
                packages.extend(touched.packages);
            }
            (packages, everything, folders.missed())
        })
        .await?;
        self.not_watched(missed);
        if everything {
            self.anything_may_have_changed(watcher).await;
            return Ok(());
        }
        let now = Instant::now();
        for package in packages {
            let quiet = self.quiet_of(&package);
            watcher.settling.changed(package, quiet, now);
        }
        Ok(())
    }

    async fn look_at_mounts(&self, watcher: &mut Watcher) {
        let folders = watcher.folders.clone();
        // Where there is no thread for it now, the next that is mounted has it looked at.
        let exchanged = blocking::run(move || lock(&folders).exchanged()).await.ok().flatten();
        if let Some(folder) = exchanged {
            let folder = folder.display();
            tracing::warn!(
                "{folder} is another folder than it was, by what is mounted; all plugin directories are looked at"
            );
            self.anything_may_have_changed(watcher).await;
        }
    }

    /// Watches anew, as what happened until now may have gone unseen.
    async fn anything_may_have_changed(&self, watcher: &mut Watcher) {
        self.refresh(watcher).await;
        let quiet = self.around.config.defaults.settle_seconds.unwrap_or(QUIET).max(watcher.whole * REST);
        watcher.settling.everything_changed(quiet, Instant::now());
    }

    /// What is to be looked at now: what is quiet, and into which nobody writes.
    async fn settled(&self, watcher: &mut Watcher) -> io::Result<Option<Scope>> {
        let due = watcher.settling.due(Instant::now());
        let asked = due.clone();
        let directories = self.around.config.plugin_directories.clone();
        let written = blocking::run(move || {
            let roots: Vec<Root> = match &due {
                Look::At(packages) => packages.iter().filter_map(|package| Root::package(package)).collect(),
                Look::AtEverything => {
                    directories.iter().flat_map(|directory| Root::directory(directory, PACKAGES_MAX)).collect()
                }
            };
            writers::written(&roots)
        });
        let written = written.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether anybody writes into a package is not known");
            BTreeSet::new()
        });
        // What has changed while that was found out is not quiet.
        self.take_up(watcher).await?;
        Ok(match watcher.settling.take(&asked, &written, Instant::now()) {
            Look::At(packages) if packages.is_empty() => None,
            Look::At(packages) => Some(Scope::Packages(packages)),
            Look::AtEverything => {
                self.refresh(watcher).await;
                Some(Scope::Everything)
            }
        })
    }

    async fn refresh(&self, watcher: &Watcher) {
        let folders = watcher.folders.clone();
        let refreshed = blocking::run(move || {
            let mut folders = lock(&folders);
            (folders.refresh(), folders.missed())
        });
        match refreshed.await {
            Ok((told, missed)) => {
                for told in told {
                    tracing::warn!("{told}");
                }
                self.not_watched(missed);
            }
            Err(error) => self.not_watched(Some(format!("{UNNOTICED}: {error}"))),
        }
    }

    /// How long a package has to be quiet: as is said of its plugin, which of a new one its folder is named after.
    fn quiet_of(&self, package: &Path) -> Duration {
        let config = &self.around.config;
        let usual = config.defaults.settle_seconds.unwrap_or(QUIET);
        if config.plugins.values().all(|plugin| plugin.settle_seconds.is_none()) {
            return usual;
        }
        let registry = self.live.now();
        let id = registry.as_ref().and_then(|registry| {
            registry.all().find(|handle| handle.blueprint().source == package).map(|handle| handle.id().clone())
        });
        let named = || PluginId::parse(package.file_name()?.to_str()?).ok();
        let configured = id.or_else(named).and_then(|id| config.plugins.get(&id));
        configured.and_then(|plugin| plugin.settle_seconds).unwrap_or(usual)
    }

    /// Notes what is not watched; the first time it is logged.
    fn not_watched(&self, why: Option<String>) {
        let mut unwatched = lock(&self.unwatched);
        if let Some(why) = why.as_ref().filter(|why| Some(*why) != unwatched.as_ref()) {
            tracing::warn!("{why}; `palisade rescan` looks at them");
        }
        *unwatched = why;
    }
}

impl Watcher {
    /// Watches nothing yet.
    fn new(directories: Vec<PathBuf>) -> io::Result<Self> {
        let told = Arc::new(Told::default());
        let kernel = kernel(told.clone(), directories.clone())?;
        Ok(Self {
            folders: Arc::new(Mutex::new(Folders::new(kernel, directories, WATCHES_MAX))),
            told,
            mounts: mounts(),
            settling: Settling::new(CHANGING_MAX),
            whole: Duration::ZERO,
        })
    }
}

/// What watches, with a thread of its own, and tells.
fn kernel(told: Arc<Told>, directories: Vec<PathBuf>) -> io::Result<RecommendedWatcher> {
    let teller = Teller(told);
    let tell = move |event| teller.tell(event, &directories);
    let watcher = RecommendedWatcher::new(tell, Config::default().with_follow_symlinks(false));
    let mut watcher = watcher.map_err(|error| {
        let help = "`sysctl fs.inotify.max_user_instances` says how many a user may have, and sets it";
        match error.kind {
            notify::ErrorKind::Io(error) => io::Error::other(format!("{error}; {help}")),
            _ => io::Error::other(error.to_string()),
        }
    })?;
    // Where there was no thread to be had for it, only this is an error, and everything else a panic.
    if let Err(error) = watcher.configure(Config::default()) {
        let _never_dropped = std::mem::ManuallyDrop::new(watcher);
        return Err(io::Error::other(format!("there is no thread to be had for it: {error}")));
    }
    Ok(watcher)
}

/// Tells what happens, and with its end that nothing more is told.
struct Teller(Arc<Told>);

impl Teller {
    fn tell(&self, event: notify::Result<notify::Event>, directories: &[PathBuf]) {
        let mut happened = lock(&self.0.happened);
        match event {
            Ok(event) if event.need_rescan() => {
                happened.lost("more has happened than the kernel keeps (fs.inotify.max_queued_events)".to_owned());
            }
            Ok(event) => {
                let Some(has_moved) = has_moved(event.kind) else { return };
                // The folder above a plugin directory is watched too, and whatever else happens there is nobody's affair here.
                let concerns = |path: &PathBuf| {
                    directories.iter().any(|directory| path.starts_with(directory) || directory.starts_with(path))
                };
                for path in event.paths.into_iter().filter(concerns) {
                    if has_moved {
                        happened.moved.insert(path)
                    } else {
                        happened.changed.insert(path)
                    };
                }
                if NAMES_MAX < happened.moved.len() + happened.changed.len() {
                    happened.lost(format!("more than {NAMES_MAX} files have changed at once"));
                }
                if happened.moved.is_empty() && happened.changed.is_empty() {
                    return;
                }
            }
            Err(error) => happened.lost(format!("a watch of a folder is lost: {error}")),
        }
        drop(happened);
        self.0.some.notify_one();
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        lock(&self.0.happened).ended = true;
        self.0.some.notify_one();
    }
}

impl Happened {
    fn lost(&mut self, why: String) {
        self.changed.clear();
        self.moved.clear();
        self.lost.get_or_insert(why);
    }
}

/// Whether something has come or gone, or else has only changed; nothing where nothing has.
fn has_moved(kind: EventKind) -> Option<bool> {
    match kind {
        EventKind::Create(_) | EventKind::Remove(_) => Some(true),
        // It comes after the two of which it consists.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(_)) => Some(true),
        EventKind::Modify(_) | EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(false),
        // The daemon reads as well.
        EventKind::Access(_) => None,
        EventKind::Any | EventKind::Other => Some(true),
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// The system's list of what is mounted, of which the kernel says when it changes.
fn mounts() -> Option<AsyncFd<File>> {
    let file = File::open("/proc/self/mountinfo").ok()?;
    #[expect(deprecated, reason = "its successor is unsafe, for types that are not I/O-safe; this owns a descriptor")]
    AsyncFd::with_interest(file, Interest::PRIORITY).ok()
}

async fn mounted(mounts: Option<&AsyncFd<File>>) {
    let Some(mounts) = mounts else { return std::future::pending().await };
    match mounts.ready(Interest::PRIORITY).await {
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::folders::Touched;
    use super::*;

    fn made(folders: &[&str]) -> tempfile::TempDir {
        let plugins = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(plugins.path().join(folder)).unwrap();
        }
        plugins
    }

    fn watching(directories: &[&Path], most: usize) -> (Folders, Arc<Told>) {
        let told = Arc::new(Told::default());
        let directories: Vec<_> = directories.iter().map(|directory| directory.to_path_buf()).collect();
        let kernel = kernel(told.clone(), directories.clone()).unwrap();
        let mut folders = Folders::new(kernel, directories, most);
        folders.refresh();
        (folders, told)
    }

    /// Follows what has happened, which has to do with just these. All of it is told before the file that is made here.
    fn until(folders: &mut Folders, told: &Told, packages: &[PathBuf]) {
        static MARKS: AtomicUsize = AtomicUsize::new(0);
        let mark = format!("mark-{}", MARKS.fetch_add(1, Ordering::Relaxed));
        let mark = packages[0].with_file_name(mark);
        fs::write(&mark, "").unwrap();
        let begun = Instant::now();
        let mut touched = BTreeSet::new();
        loop {
            let Happened { changed, moved, lost, .. } = std::mem::take(&mut *lock(&told.happened));
            assert_eq!(lost, None);
            folders.follow(&moved);
            touched.extend(moved.iter().flat_map(|path| folders.touched(path, true).packages));
            touched.extend(changed.iter().flat_map(|path| folders.touched(path, false).packages));
            if moved.contains(&mark) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{touched:?} of {packages:?}");
            std::thread::yield_now();
        }
        let is_mark =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"mark-"));
        touched.retain(|path| !is_mark(path));
        assert_eq!(touched, packages.iter().cloned().collect());
    }

    fn touches(folders: &mut Folders, told: &Told, file: &Path, packages: &[PathBuf]) {
        fs::write(file, "x").unwrap();
        until(folders, told, packages);
    }

    /// What may become a package is watched, and of a package what belongs to it; and the folder above.
    #[test]
    fn what_can_change_something_is_watched() {
        let plugins = made(&["p/a/inner/deep", "p/a/target/debug", "p/a/.git", "p/b/inner"]);
        let directory = plugins.path().join("p");
        fs::write(directory.join("a/plugin.json"), "{}").unwrap();
        fs::write(directory.join("file"), "").unwrap();
        let (folders, _) = watching(&[&directory], WATCHES_MAX);
        let names = ["", "p", "p/a", "p/a/inner", "p/a/inner/deep", "p/b"].map(|name| plugins.path().join(name));
        assert_eq!(folders.paths(), names.map(|name| name.components().collect::<PathBuf>()));
        assert_eq!(folders.missed(), None);
    }

    #[test]
    fn what_is_not_watched_is_said() {
        let plugins = made(&["a", "b", "c"]);
        let (folders, _) = watching(&[plugins.path()], 4);
        let told = format!(
            "changes in {} are not noticed: 4 folders are watched, and no more are",
            plugins.path().join("c").display()
        );
        assert_eq!((folders.paths().len(), folders.missed()), (4, Some(told)));
    }

    /// Each thing that happens is one of just the package that it happens to, wherever in it, and of whatever else has the same folder.
    #[test]
    fn what_happens_belongs_to_a_package() {
        let plugins = made(&["a/inner", "b", "target", "own/target"]);
        let at = |name: &str| plugins.path().join(name);
        for package in ["a", "b", "target", "own"] {
            fs::write(at(package).join("plugin.json"), "{}").unwrap();
        }
        std::os::unix::fs::symlink("a", at("linked")).unwrap();
        let (mut folders, told) = watching(&[plugins.path(), &at("own")], WATCHES_MAX);
        let (folders, told) = (&mut folders, &*told);
        touches(folders, told, &at("b/plugin.json"), &[at("b")]);
        touches(folders, told, &at("target/file"), &[at("target")]);
        touches(folders, told, &at("a/inner/file"), &[at("a"), at("linked")]);
        fs::create_dir_all(at("a/new/er")).unwrap();
        until(folders, told, &[at("a"), at("linked")]);
        touches(folders, told, &at("a/new/er/file"), &[at("a"), at("linked")]);
        touches(folders, told, &at("own/file"), &[at("own")]);
        let nothing = Touched::default();
        assert_eq!(folders.touched(&at("a/target/debug/file"), true), nothing, "it is left out");
        assert_eq!(folders.touched(&at("own/target"), true), nothing, "and so it is of either directory");
        let everything = |path: &Path, has_moved| folders.touched(path, has_moved).everything;
        assert!(everything(plugins.path(), true) && everything(plugins.path(), false));
        let above = plugins.path().parent().unwrap();
        assert!(everything(above, true) && !everything(above, false));
        assert!(everything(&at("own/plugin.json"), false), "that it is a package may be over");
    }

    /// What one package has too much of takes nothing from another: every package is watched itself, and of what is left each has a share.
    #[test]
    fn a_package_of_too_many_folders_leaves_the_others_theirs() {
        let plugins = made(&["p/large", "p/small/inner/deep", "p/zz"]);
        let at = |name: &str| plugins.path().join("p").join(name);
        for number in 0..30 {
            fs::create_dir_all(at(&format!("large/{number:02}/deep"))).unwrap();
        }
        for package in ["large", "small", "zz"] {
            fs::write(at(package).join("plugin.json"), "{}").unwrap();
        }
        let (mut folders, told) = watching(&[&plugins.path().join("p")], 20);
        let partly = |names: &str| {
            let why = "are not noticed: 20 folders are watched, and no more are";
            Some(format!("changes in some of the folders of {names} {why}"))
        };
        let large = at("large").display().to_string();
        assert_eq!((folders.paths().len(), folders.missed()), (20, partly(&large)));
        for folder in ["small/inner/deep", "zz", "large/12"] {
            assert!(folders.paths().contains(&at(folder)), "{folder} of {:?}", folders.paths());
        }
        assert!(!folders.paths().contains(&at("large/00/deep")), "the upper ones come first");
        let nested = made(&["p/one"]);
        let inner = |name: &str| nested.path().join("p/one").join(name);
        for number in 0..4 {
            fs::create_dir_all(inner(&format!("{number}/deep/deeper"))).unwrap();
        }
        fs::write(inner("plugin.json"), "{}").unwrap();
        let (nested, _told) = watching(&[&nested.path().join("p")], 3 + 4 + 4);
        let ends = |end: &str| nested.paths().iter().filter(|path| path.ends_with(end)).count();
        assert_eq!((ends("deep"), ends("deeper")), (4, 0), "at every depth: {:?}", nested.paths());
        // And so it is with what comes later.
        fs::create_dir_all(at("late/inner/deep")).unwrap();
        fs::write(at("late/plugin.json"), "{}").unwrap();
        until(&mut folders, &told, &[at("late")]);
        assert!(folders.paths().contains(&at("late/inner/deep")), "{:?}", folders.paths());
        fs::create_dir_all(at("zz/inner")).unwrap();
        until(&mut folders, &told, &[at("zz")]);
        touches(&mut folders, &told, &at("zz/inner/file"), &[at("zz")]);
        assert_eq!((folders.paths().len(), folders.missed()), (20, partly(&large)));
        // Of several the first few are named.
        for package in ["la", "lb", "lc", "small"] {
            (0..20).for_each(|number| fs::create_dir_all(at(&format!("{package}/{number}"))).unwrap());
            fs::write(at(package).join("plugin.json"), "{}").unwrap();
        }
        folders.refresh();
        let names = ["la", "large", "lb"].map(|name| at(name).display().to_string()).join(", ");
        assert_eq!(folders.missed(), partly(&format!("{names} and 2 more")));
    }

    /// A folder is watched from the moment that it appears, whatever way, and no longer than it is there.
    #[test]
    fn folders_that_come_and_go() {
        let plugins = made(&["p/a/inner", "aside"]);
        let at = |name: &str| plugins.path().join(name);
        let (mut folders, told) = watching(&[&at("p")], WATCHES_MAX);
        let (folders, told) = (&mut folders, &*told);
        let count = folders.paths().len();
        assert_eq!(count, 3, "the folder above, the directory and a, of which it is not known yet what belongs to it");
        touches(folders, told, &at("p/a/plugin.json"), &[at("p/a")]);
        touches(folders, told, &at("p/a/inner/file"), &[at("p/a")]);
        // A folder in place of another, as editors and package managers do it.
        for round in 0..3 {
            fs::create_dir_all(at("aside/new/inner")).unwrap();
            fs::write(at("aside/new/plugin.json"), "{}").unwrap();
            fs::rename(at("p/a"), at("aside/old")).unwrap();
            fs::rename(at("aside/new"), at("p/a")).unwrap();
            until(folders, told, &[at("p/a")]);
            touches(folders, told, &at("p/a/inner/file"), &[at("p/a")]);
            assert_eq!(folders.paths().len(), 4, "{round}");
            fs::remove_dir_all(at("aside/old")).unwrap();
        }
        fs::rename(at("p/a"), at("aside/a")).unwrap();
        until(folders, told, &[at("p/a")]);
        assert_eq!(folders.paths().len(), 2);
        // Nor is it told any more what happens in it.
        fs::write(at("aside/a/inner/file"), "y").unwrap();
        fs::create_dir(at("p/b")).unwrap();
        until(folders, told, &[at("p/b")]);
    }

    /// A plugin directory that goes is everything, and so is one that comes back; there is a word for each.
    #[test]
    fn a_plugin_directory_that_goes_is_waited_for() {
        let plugins = made(&["above/p/a"]);
        let directory = plugins.path().join("above/p");
        let (mut folders, told) = watching(&[&directory], WATCHES_MAX);
        let everything = |folders: &mut Folders| {
            let begun = Instant::now();
            loop {
                let moved = std::mem::take(&mut *lock(&told.happened)).moved;
                if moved.iter().any(|path| folders.touched(path, true).everything) {
                    return folders.refresh();
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "nothing has happened");
                std::thread::yield_now();
            }
        };
        fs::remove_dir_all(plugins.path().join("above")).unwrap();
        let said = everything(&mut folders);
        let waited = plugins.path().display();
        let gone = format!(
            "the plugin directory {} is gone, and its plugins end; it is waited for in {waited}",
            directory.display()
        );
        assert_eq!(said, [gone]);
        fs::create_dir_all(&directory).unwrap();
        let mut said = everything(&mut folders);
        while said.is_empty() {
            said = everything(&mut folders);
        }
        assert_eq!(said, [format!("the plugin directory {} is there again, and is looked at", directory.display())]);
        // It is another one by the same name.
        fs::rename(&directory, plugins.path().join("above/aside")).unwrap();
        fs::create_dir_all(directory.join("b")).unwrap();
        everything(&mut folders);
        let moved = std::mem::take(&mut *lock(&told.happened)).moved;
        folders.follow(&moved);
        assert!(folders.paths().contains(&directory.join("b")));
    }

    /// What is told is bounded, and what goes beyond is everything.
    #[test]
    fn more_than_is_kept_is_everything() {
        let told = Arc::new(Told::default());
        let teller = Teller(told.clone());
        let directories = [PathBuf::from("/p")];
        let event = |number: usize| {
            let kind = EventKind::Modify(ModifyKind::Any);
            teller.tell(Ok(notify::Event::new(kind).add_path(format!("/p/a/{number}").into())), &directories);
        };
        let elsewhere = notify::Event::new(EventKind::Create(notify::event::CreateKind::Any)).add_path("/q".into());
        teller.tell(Ok(elsewhere), &directories);
        (0..NAMES_MAX).for_each(event);
        (0..NAMES_MAX).for_each(event);
        let kept = || {
            let happened = lock(&told.happened);
            (happened.changed.len(), happened.lost.clone())
        };
        assert_eq!(kept(), (NAMES_MAX, None));
        event(NAMES_MAX);
        assert_eq!(kept(), (0, Some("more than 4096 files have changed at once".to_owned())));
        std::mem::take(&mut *lock(&told.happened));
        let overflow = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        teller.tell(Ok(overflow), &directories);
        let why = "more has happened than the kernel keeps (fs.inotify.max_queued_events)";
        assert_eq!(kept(), (0, Some(why.to_owned())));
        drop(teller);
        assert!(lock(&told.happened).ended);
    }

    /// A package of thousands of folders is watched in all of them.
    #[test]
    fn thousands_of_folders() {
        let plugins = made(&["p/many"]);
        let many = plugins.path().join("p/many");
        let packages = [many.clone()];
        fs::write(many.join("plugin.json"), "{}").unwrap();
        let (mut folders, told) = watching(&[&plugins.path().join("p")], WATCHES_MAX);
        for number in 0..2000 {
            fs::create_dir(many.join(format!("folder-{number}"))).unwrap();
        }
        touches(&mut folders, &told, &many.join("folder-1999/file"), &packages);
        folders.refresh();
        assert_eq!((folders.paths().len(), folders.missed()), (2003, None));
        touches(&mut folders, &told, &many.join("folder-1000/file"), &packages);
    }
}
