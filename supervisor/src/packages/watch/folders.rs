//! Which folders are watched, and to which package something in them belongs.
//!
//! `notify` watches each of them for itself: what it would watch of its own accord includes `target` and `.git`, follows links, and has
//! no bound. The folder in which a plugin directory lies is watched too, so one that is removed, put somewhere else or exchanged is noticed, and
//! one that is not there is waited for.
//!
//! Plugin directories and the packages in them are watched first, then what lies in packages, the upper folders before the lower; where that
//! is more than are watched, each package has as many as any other that wants them.
//!
//! Invariants: no folder is held open, so none is kept from being unmounted or removed; the number of watches is bounded, and what is not
//! watched is said.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::store::LEFT_OUT;

/// Most folders that are watched: an ordinary user may have few more.
pub(super) const WATCHES_MAX: usize = 8192;

/// No folder of a package lies deeper.
const DEPTH_MAX: usize = 32;

/// So often what is left is shared out among packages that have more; each time, those that need less leave something.
const SHARES_MAX: usize = 8;

/// So many names are told of what is not watched.
const NAMED_MAX: usize = 3;

/// Which folder it is, whatever its name: its device and its inode.
type Identity = (u64, u64);

/// What is watched.
pub(super) struct Folders {
    kernel: RecommendedWatcher,
    directories: Vec<PathBuf>,
    most: usize,
    watched: BTreeMap<PathBuf, Identity>,
    /// By which of its paths each is watched.
    by_identity: HashMap<Identity, PathBuf>,
    /// Of what is watched by one path: other packages that have it by another.
    also: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Whose folders are watched as well.
    packages: BTreeSet<PathBuf>,
    /// Plugin directories that were there.
    there: BTreeSet<PathBuf>,
    /// Plugin directories, and folders in them, that could not be watched, and why.
    missed: BTreeMap<PathBuf, String>,
    /// Packages in which some folders could not be, and why not.
    partly: BTreeMap<PathBuf, String>,
    /// What has become of plugin directories and nobody has been told yet.
    told: Vec<String>,
}

/// What something that has happened belongs to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// It may be anything: a plugin directory itself.
    pub(super) everything: bool,
    /// Folders of plugin directories.
    pub(super) packages: BTreeSet<PathBuf>,
}

/// Where a path is.
enum Place {
    /// A plugin directory, or what makes one a package.
    Directory,
    /// The folder of a package, or what may become one.
    Package(PathBuf),
    /// In the one of the first path.
    Inside(PathBuf),
}

impl Folders {
    pub(super) fn new(kernel: RecommendedWatcher, directories: Vec<PathBuf>, most: usize) -> Self {
        Self {
            kernel,
            directories,
            most,
            watched: BTreeMap::new(),
            by_identity: HashMap::new(),
            also: BTreeMap::new(),
            packages: BTreeSet::new(),
            there: BTreeSet::new(),
            missed: BTreeMap::new(),
            partly: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// What is not watched, and why: a sentence.
    pub(super) fn missed(&self) -> Option<String> {
        let whole = some(&self.missed).map(|(names, why)| format!("changes in {names} are not noticed: {why}"));
        let partly = some(&self.partly)
            .map(|(names, why)| format!("changes in some of the folders of {names} are not noticed: {why}"));
        let told: Vec<_> = whole.into_iter().chain(partly).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Watches the folders that there are now, and no others. Says which plugin directories have gone or come since. Blocks.
    pub(super) fn refresh(&mut self) -> Vec<String> {
        self.watch_all();
        std::mem::take(&mut self.told)
    }

    fn watch_all(&mut self) {
        let before = std::mem::take(&mut self.watched);
        self.by_identity.clear();
        self.also.clear();
        self.packages.clear();
        self.missed.clear();
        self.partly.clear();
        let mut there = Vec::new();
        for directory in self.directories.clone() {
            let above = directory.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_owned);
            if let Some(above) = &above {
                self.add(above, None, &before);
            }
            let is_there = directory.is_dir();
            if is_there {
                there.extend(self.add(&directory, None, &before).then(|| directory.clone()));
                if self.there.insert(directory.clone()) && !before.is_empty() {
                    self.told
                        .push(format!("the plugin directory {} is there again, and is looked at", directory.display()));
                }
            } else if self.there.remove(&directory) {
                let above = above.unwrap_or_default();
                self.told.push(format!(
                    "the plugin directory {} is gone, and its plugins end; it is waited for in {}",
                    directory.display(),
                    above.display()
                ));
            }
        }
        for directory in there {
            self.directory(&directory, &before);
        }
        self.share_out(&before);
        for gone in before.keys().filter(|path| !self.watched.contains_key(*path)) {
            // What is gone from the disk the kernel has taken away itself.
            let _ = self.kernel.unwatch(gone);
        }
    }

    /// Something of these names has come, gone or been exchanged: watches what there is now. Blocks.
    pub(super) fn follow(&mut self, names: &BTreeSet<PathBuf>) {
        let mut names = names.clone();
        let mut done: Option<PathBuf> = None;
        // What has come could not be watched, or not in all of its folders.
        let mut short = BTreeSet::new();
        // In the order of paths a folder comes before what is in it.
        while let Some(name) = names.pop_first() {
            if done.as_ref().is_some_and(|done| name.starts_with(done)) {
                continue;
            }
            for place in self.places(&name) {
                match place {
                    Place::Directory => {}
                    Place::Package(package) => {
                        let is_manifest = package != name;
                        let is_known = self.packages.contains(&package);
                        if !(is_manifest && is_known) && (self.watched.contains_key(&package) || package.is_dir()) {
                            names.extend(self.forget(&package));
                            self.package(&package, &BTreeMap::new());
                            let left = self.most - self.watched.len();
                            let is_whole = !self.packages.contains(&package)
                                || self.inside(&package, &package, 0, left, &BTreeMap::new());
                            if !is_whole || (self.watched.len() == self.most && self.missed.contains_key(&package)) {
                                short.insert(package.clone());
                            }
                            done = Some(package);
                        }
                    }
                    Place::Inside(package) => {
                        let is_folder = fs::symlink_metadata(&name).is_ok_and(|found| found.is_dir());
                        if self.packages.contains(&package) && (self.watched.contains_key(&name) || is_folder) {
                            names.extend(self.forget(&name));
                            let depth = name.strip_prefix(&package).map_or(0, |inner| inner.iter().count());
                            if is_folder && depth <= DEPTH_MAX {
                                let has_room = self.watched.len() < self.most;
                                let left = self.most - self.watched.len();
                                if self.add(&name, Some(&package), &BTreeMap::new()) {
                                    let left = left.min(self.most - self.watched.len());
                                    if !self.inside(&name, &package, depth, left, &BTreeMap::new()) {
                                        short.insert(package.clone());
                                    }
                                } else if !has_room {
                                    short.insert(package.clone());
                                }
                            }
                            done = Some(name.clone());
                        }
                    }
                }
            }
        }
        for package in &short {
            self.cut(package);
        }
        // Others have more than their share, and give it up.
        let share = self.most / (self.packages.len() + 1);
        if share > 1 && short.iter().any(|package| self.count(package) < share) {
            self.watch_all();
        }
    }

    /// What it belongs to if something has happened to what this path names: whether that has come or gone, or has only changed.
    pub(super) fn touched(&self, path: &Path, has_moved: bool) -> Touched {
        let mut touched = Touched::default();
        let above = |directory: &PathBuf| directory.starts_with(path) && (has_moved || directory == path);
        touched.everything = self.directories.iter().any(above);
        for place in self.places(path) {
            match place {
                Place::Directory => touched.everything = true,
                Place::Package(package) | Place::Inside(package) => drop(touched.packages.insert(package)),
            }
        }
        // It is also in whatever else has one of the folders above it; where it is left out, in none.
        if !touched.packages.is_empty() {
            let others = path.ancestors().filter_map(|above| self.also.get(above)).flatten();
            touched.packages.extend(others.cloned());
        }
        touched
    }

    /// A folder that is watched, and is not the one any more that is found by its path, though nobody has said that it went: something was
    /// mounted there or taken away. Blocks.
    pub(super) fn exchanged(&self) -> Option<PathBuf> {
        let is_other = |(path, known): &(&PathBuf, &Identity)| identity(path).is_ok_and(|found| found != **known);
        self.watched.iter().find(is_other).map(|(path, _)| path.clone())
    }

    fn places(&self, path: &Path) -> Vec<Place> {
        let mut places = Vec::new();
        for directory in &self.directories {
            let Ok(inner) = path.strip_prefix(directory) else { continue };
            let names: Vec<_> = inner.iter().collect();
            let is_left_out =
                |names: &[&std::ffi::OsStr]| names.iter().any(|name| LEFT_OUT.iter().any(|left_out| name == left_out));
            places.extend(match names.as_slice() {
                [] => Some(Place::Directory),
                [first] if *first == "plugin.json" => Some(Place::Directory),
                all if self.packages.contains(directory) => {
                    (!is_left_out(all)).then(|| Place::Inside(directory.clone()))
                }
                [first] => Some(Place::Package(directory.join(first))),
                [first, last] if *last == "plugin.json" => Some(Place::Package(directory.join(first))),
                [first, rest @ ..] => (!is_left_out(rest)).then(|| Place::Inside(directory.join(first))),
            });
        }
        places
    }

    /// A plugin directory, and the packages in it; or one that is a package itself.
    fn directory(&mut self, directory: &Path, before: &BTreeMap<PathBuf, Identity>) {
        if directory.join("plugin.json").symlink_metadata().is_ok() {
            self.packages.insert(directory.to_owned());
            return;
        }
        // Whatever may become one is watched as well, and where a link leads.
        for folder in folders(directory, fs::metadata) {
            self.package(&folder, before);
        }
    }

    /// What is a package, or may become one: the folder alone.
    fn package(&mut self, folder: &Path, before: &BTreeMap<PathBuf, Identity>) {
        if folder.is_dir()
            && self.add(folder, Some(folder), before)
            && folder.join("plugin.json").symlink_metadata().is_ok()
        {
            self.packages.insert(folder.to_owned());
        }
    }

    /// Watches what lies in packages, of each as much as of any other that has so much.
    fn share_out(&mut self, before: &BTreeMap<PathBuf, Identity>) {
        let mut cut: Vec<_> = self.packages.iter().cloned().collect();
        for _ in 0..SHARES_MAX {
            let begun = self.watched.len();
            let share = (self.most - begun).checked_div(cut.len()).unwrap_or(0).max(1);
            cut.retain(|package| {
                let share = share.min(self.most - self.watched.len());
                !self.inside(package, package, 0, share, before)
            });
            if cut.is_empty() || self.watched.len() == begun {
                break;
            }
        }
        for package in cut {
            self.cut(&package);
        }
    }

    fn cut(&mut self, package: &Path) {
        let why = self.full();
        self.partly.entry(package.to_owned()).or_insert(why);
    }

    fn full(&self) -> String {
        format!("{} folders are watched, and no more are", self.most)
    }

    /// How many folders of a package are watched by its path.
    fn count(&self, package: &Path) -> usize {
        let from = (std::ops::Bound::Included(package.to_owned()), std::ops::Bound::Unbounded);
        self.watched.range(from).take_while(|(path, _)| path.starts_with(package)).count()
    }

    /// The folders of a package beneath one of its folders, the upper ones first, and so many more of them at most than are watched already; no
    /// link is followed. Says whether that is all of them.
    fn inside(
        &mut self,
        folder: &Path,
        package: &Path,
        depth: usize,
        more: usize,
        before: &BTreeMap<PathBuf, Identity>,
    ) -> bool {
        let begun = self.watched.len();
        let (mut next, mut seen) = (VecDeque::from([(folder.to_owned(), depth)]), 0);
        while let Some((above, depth)) = next.pop_front() {
            if depth == DEPTH_MAX {
                continue;
            }
            for inner in folders(&above, fs::symlink_metadata) {
                if inner.file_name().is_some_and(|name| LEFT_OUT.iter().any(|left_out| name == *left_out)) {
                    continue;
                }
                let has_room = self.watched.len() - begun < more && seen < self.most;
                if !has_room && !self.watched.contains_key(&inner) {
                    return false;
                }
                if self.add(&inner, Some(package), before) {
                    seen += 1;
                    next.push_back((inner, depth + 1));
                }
            }
        }
        true
    }

    /// Whether it is watched, by this path or another.
    fn add(&mut self, folder: &Path, package: Option<&Path>, before: &BTreeMap<PathBuf, Identity>) -> bool {
        let found = match identity(folder) {
            Ok(found) => found,
            // It has gone meanwhile, which is an event.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => {
                self.miss(folder, package, error.to_string());
                return false;
            }
        };
        if self.watched.get(folder) == Some(&found) {
            return true;
        }
        if let Some(first) = self.by_identity.get(&found).filter(|first| *first != folder) {
            if let Some(package) = package.filter(|package| !first.starts_with(package)) {
                self.also.entry(first.clone()).or_default().insert(package.to_owned());
            }
            return true;
        }
        if self.watched.len() == self.most {
            let why = self.full();
            self.miss(folder, package, why);
            return false;
        }
        if before.get(folder).is_some_and(|before| *before != found) {
            // Else the one that had this name goes on being watched by it.
            let _ = self.kernel.unwatch(folder);
        }
        match self.kernel.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.by_identity.insert(found, folder.to_owned());
                self.watched.insert(folder.to_owned(), found);
                true
            }
            Err(error) => {
                match error.kind {
                    ErrorKind::PathNotFound => {}
                    ErrorKind::MaxFilesWatch => {
                        let why = "the user may watch no more folders; `sysctl fs.inotify.max_user_watches` says how many, and sets it";
                        self.miss(folder, package, why.to_owned());
                    }
                    ErrorKind::Io(error) => self.miss(folder, package, error.to_string()),
                    _ => self.miss(folder, package, error.to_string()),
                }
                false
            }
        }
    }

    /// Watches a folder and what is in it no more. Returns what other packages have of it, by their paths.
    fn forget(&mut self, folder: &Path) -> BTreeSet<PathBuf> {
        let from = (std::ops::Bound::Included(folder.to_owned()), std::ops::Bound::Unbounded);
        let beneath = self.watched.range(from).map(|(path, _)| path).take_while(|path| path.starts_with(folder));
        let mut others = BTreeSet::new();
        for path in beneath.cloned().collect::<Vec<_>>() {
            if let Some(known) = self.watched.remove(&path) {
                self.by_identity.remove(&known);
            }
            others.extend(self.also.remove(&path).unwrap_or_default());
            self.packages.remove(&path);
            let _ = self.kernel.unwatch(&path);
        }
        self.packages.remove(folder);
        self.missed.remove(folder);
        self.partly.remove(folder);
        for other in &mut self.also.values_mut() {
            other.remove(folder);
        }
        others
    }

    /// What is watched, by its path.
    #[cfg(test)]
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.watched.keys().cloned().collect()
    }

    fn miss(&mut self, folder: &Path, package: Option<&Path>, why: String) {
        match package.filter(|package| *package != folder) {
            Some(package) => self.partly.entry(package.to_owned()).or_insert(why),
            None => self.missed.entry(folder.to_owned()).or_insert(why),
        };
    }
}

/// The first few of these, how many more there are, and why the first is among them.
fn some(missed: &BTreeMap<PathBuf, String>) -> Option<(String, &str)> {
    let (_, why) = missed.first_key_value()?;
    let names: Vec<_> = missed.keys().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
    let names = names.join(", ");
    let names = match missed.len() - missed.len().min(NAMED_MAX) {
        0 => names,
        more => format!("{names} and {more} more"),
    };
    Some((names, why))
}

impl std::fmt::Debug for Folders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folders")
            .field("watched", &self.watched.len())
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The folders that lie in one; none where it cannot be read, of which whoever looks at it has a word.
fn folders(folder: &Path, look: fn(PathBuf) -> io::Result<fs::Metadata>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path()).take(crate::registry::PACKAGES_MAX);
    let mut folders: Vec<_> = paths.filter(|path| look(path.clone()).is_ok_and(|found| found.is_dir())).collect();
    folders.sort();
    folders
}
