//! What a loss of power can leave of a folder: the changes that a traced process made to it, and the folders that may be there afterwards.
//!
//! Only what was synced is certain. Of what was changed since, any part may be on the disk, in any order, and of a write some sectors: the
//! contents of a file after a sync of that file, the names in a folder after a sync of that folder. That is less than file systems promise.
//!
//! Invariants: a change that is not understood is a panic, and [`Disk::expect_same`] shows that none was missed.
//! Elsewhere: who records the changes is `steps`.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// One change, in the order in which they were made.
#[derive(Debug, Clone)]
pub enum Change {
    /// The file was opened to be written: it is made where there is none, and `empties` says that nothing is left of one.
    Opened {
        path: PathBuf,
        empties: bool,
    },
    Made {
        folder: PathBuf,
    },
    Wrote {
        path: PathBuf,
        at: u64,
        bytes: Arc<[u8]>,
    },
    Cut {
        path: PathBuf,
        length: u64,
    },
    Linked {
        from: PathBuf,
        to: PathBuf,
    },
    Moved {
        from: PathBuf,
        to: PathBuf,
    },
    Removed {
        path: PathBuf,
    },
    /// Whoever asked for that knows it: what is in it is on the disk.
    Synced {
        path: PathBuf,
    },
    /// So much was acknowledged.
    Acknowledged {
        count: usize,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            Self::Opened { path, .. } => write!(f, "{} opened", name(path)),
            Self::Made { folder } => write!(f, "{} made", name(folder)),
            Self::Wrote { path, at, bytes } => write!(f, "{} bytes at {at} of {}", bytes.len(), name(path)),
            Self::Cut { path, length } => write!(f, "{} cut to {length}", name(path)),
            Self::Linked { from, to } => write!(f, "{} linked to {}", name(from), name(to)),
            Self::Moved { from, to } => write!(f, "{} moved to {}", name(from), name(to)),
            Self::Removed { path } => write!(f, "{} removed", name(path)),
            Self::Synced { path } => write!(f, "{} synced", name(path)),
            Self::Acknowledged { count } => write!(f, "{count} acknowledged"),
        }
    }
}

/// The changes to some of what is in a folder while somebody makes them.
#[derive(Debug)]
pub struct Recording {
    before: Disk,
    changes: Mutex<Vec<Change>>,
}

impl Recording {
    /// Of the folders and files of those names in this folder, with what SQLite keeps beside them. What is there is certain.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of(root: &Path, inside: &[&str]) -> Self {
        Self { before: Disk::of(root, inside), changes: Mutex::default() }
    }

    /// Whether changes there are recorded: in what it is about, or to whether that is there.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        path == self.before.root || self.before.has(path)
    }

    /// Notes a change behind those before.
    pub fn note(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    /// What was there before, and all changes.
    #[must_use]
    pub fn finish(self) -> (Disk, Vec<Change>) {
        (self.before, self.changes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A folder, of which some of what is in it is looked at, with what is certain of that and what is not.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
    inside: Vec<String>,
    /// The first is the root.
    nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
enum Node {
    File { sure: Vec<u8>, since: Vec<Data> },
    Folder { sure: BTreeMap<OsString, usize>, since: Vec<Name> },
}

#[derive(Debug, Clone)]
enum Data {
    Wrote { at: usize, bytes: Arc<[u8]> },
    Cut { length: usize },
}

#[derive(Debug, Clone)]
enum Name {
    Is { name: OsString, node: usize },
    IsNot { name: OsString },
    Moved { from: OsString, to: OsString, node: usize },
}

/// How much of a change that is not certain is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Nothing,
    All,
    /// Of a write this many sectors, and no more.
    First(usize),
    /// Of a write what is behind this many sectors.
    Behind(usize),
}

impl Disk {
    /// The folder as it is now, which is certain.
    fn of(root: &Path, inside: &[&str]) -> Self {
        let inside = inside.iter().map(|name| (*name).to_owned()).collect();
        let mut disk = Self { root: root.to_owned(), inside, nodes: Vec::new() };
        disk.read(root);
        disk
    }

    fn has(&self, path: &Path) -> bool {
        let first = path.strip_prefix(&self.root).ok().and_then(|below| below.iter().next()?.to_str());
        let is_it = |name: &String| first.and_then(|first| first.strip_prefix(name.as_str()));
        self.inside.iter().filter_map(is_it).any(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    fn read(&mut self, path: &Path) -> usize {
        let number = self.nodes.len();
        if path.is_dir() {
            self.nodes.push(Node::Folder { sure: BTreeMap::new(), since: Vec::new() });
            let entries = fs::read_dir(path).expect("it is ours").map(|entry| entry.expect("it is there").path());
            let ours: Vec<_> = entries.filter(|path| self.has(path)).collect();
            let name = |path: &Path| path.file_name().expect("it has one").to_owned();
            let sure = ours.iter().map(|path| (name(path), self.read(path))).collect();
            self.nodes[number] = Node::Folder { sure, since: Vec::new() };
        } else {
            let sure = fs::read(path).expect("it is ours");
            self.nodes.push(Node::File { sure, since: Vec::new() });
        }
        number
    }

    /// One of them that is there for whoever looks.
    fn find(&self, path: &Path) -> Option<usize> {
        let below = path.strip_prefix(&self.root).ok()?;
        below.iter().try_fold(0, |node, name| self.names(node)?.get(name).copied())
    }

    fn names(&self, node: usize) -> Option<BTreeMap<OsString, usize>> {
        let Node::Folder { sure, since } = &self.nodes[node] else { return None };
        let mut names = sure.clone();
        since.iter().for_each(|change| change.apply(&mut names));
        Some(names)
    }

    fn name(&mut self, folder: usize, change: Name) {
        let Node::Folder { since, .. } = &mut self.nodes[folder] else { panic!("a file has no names in it") };
        since.push(change);
    }

    fn data(&mut self, file: usize, change: Data) {
        let Node::File { since, .. } = &mut self.nodes[file] else { panic!("a folder has no bytes in it") };
        since.push(change);
    }

    /// The folder that it stands in, and its name there; nothing for what is elsewhere.
    fn place<'a>(&self, path: &'a Path) -> Option<(usize, &'a OsStr)> {
        Some((self.find(path.parent()?)?, path.file_name()?))
    }

    /// Makes a change. What fails for whoever tried it, as there is no such file, or one already, changes nothing here either.
    ///
    /// # Panics
    /// When it is one that nobody has thought of.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Acknowledged { .. } => {}
            Change::Opened { path, empties } => match self.find(path) {
                Some(file) if *empties => self.data(file, Data::Cut { length: 0 }),
                Some(_) => {}
                None => self.make(path, Node::File { sure: Vec::new(), since: Vec::new() }),
            },
            Change::Made { folder } => {
                if self.find(folder).is_none() {
                    self.make(folder, Node::Folder { sure: BTreeMap::new(), since: Vec::new() });
                }
            }
            Change::Wrote { path, at, bytes } => {
                if let Some(file) = self.find(path) {
                    let at = usize::try_from(*at).expect("files are small");
                    self.data(file, Data::Wrote { at, bytes: bytes.clone() });
                }
            }
            Change::Cut { path, length } => {
                if let Some(file) = self.find(path) {
                    self.data(file, Data::Cut { length: usize::try_from(*length).expect("files are small") });
                }
            }
            Change::Linked { from, to } => {
                if let (Some(node), Some((folder, name)), None) = (self.find(from), self.place(to), self.find(to)) {
                    self.name(folder, Name::Is { name: name.to_owned(), node });
                }
            }
            Change::Moved { from, to } => {
                let (from_place, to_place) = (self.place(from), self.place(to));
                match (self.find(from), from_place, to_place) {
                    (None, Some(_), _) | (_, None, None) => {}
                    (Some(node), Some((folder, from)), Some((to_folder, to))) if folder == to_folder => {
                        let (from, to) = (from.to_owned(), to.to_owned());
                        self.name(folder, Name::Moved { from, to, node });
                    }
                    _ => panic!("moved between folders: {} to {}", from.display(), to.display()),
                }
            }
            Change::Removed { path } => {
                if self.find(path).is_some()
                    && let Some((folder, name)) = self.place(path)
                {
                    self.name(folder, Name::IsNot { name: name.to_owned() });
                }
            }
            Change::Synced { path } => {
                let Some(node) = self.find(path) else { return };
                match &mut self.nodes[node] {
                    Node::File { sure, since } => since.drain(..).for_each(|change| change.apply(Part::All, sure)),
                    Node::Folder { sure, since } => since.drain(..).for_each(|change| change.apply(sure)),
                }
            }
        }
    }

    fn make(&mut self, path: &Path, new: Node) {
        if let Some((folder, name)) = self.place(path) {
            let node = self.nodes.len();
            self.nodes.push(new);
            self.name(folder, Name::Is { name: name.to_owned(), node });
        }
    }

    /// How many sectors each change has that is not certain; one of a name counts as one.
    #[must_use]
    pub fn uncertain(&self) -> Vec<usize> {
        let of = |node: &Node| -> Vec<usize> {
            match node {
                Node::File { since, .. } => since.iter().map(Data::sectors).collect(),
                Node::Folder { since, .. } => vec![1; since.len()],
            }
        };
        self.nodes.iter().flat_map(of).collect()
    }

    /// What is there if of each uncertain change that part is on the disk, in the order of [`Disk::uncertain`].
    #[must_use]
    pub fn image(&self, parts: &[Part]) -> Image {
        let mut parts = parts.iter().copied();
        let mut next = || parts.next().unwrap_or(Part::Nothing);
        let image = |node: &Node| match node {
            Node::File { sure, since } => {
                let mut bytes = sure.clone();
                since.iter().for_each(|change| change.apply(next(), &mut bytes));
                Left::File(bytes)
            }
            Node::Folder { sure, since } => {
                let mut names = sure.clone();
                since.iter().filter(|_| next() != Part::Nothing).for_each(|change| change.apply(&mut names));
                Left::Folder(names)
            }
        };
        Image { nodes: self.nodes.iter().map(image).collect() }
    }

    /// Expects that the folder on the real disk is what the changes have made of it, but for files whose names end so.
    ///
    /// # Panics
    /// When it is not, naming where.
    pub fn expect_same(&self, but: &str) {
        let all = vec![Part::All; self.uncertain().len()];
        let mut there = Self { nodes: Vec::new(), ..self.clone() };
        there.read(&self.root);
        let (there, made) = (there.image(&[]), self.image(&all));
        let (there, made) = (there.files(), made.files());
        assert_eq!(there.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>());
        for (path, bytes) in there.iter().filter(|(path, _)| !path.to_string_lossy().ends_with(but)) {
            assert!(made.get(path) == Some(bytes), "{}: it was changed in a way that was not seen", path.display());
        }
    }
}

impl Name {
    fn apply(&self, names: &mut BTreeMap<OsString, usize>) {
        match self {
            Self::Is { name, node } => drop(names.insert(name.clone(), *node)),
            Self::IsNot { name } => drop(names.remove(name)),
            Self::Moved { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Data {
    fn sectors(&self) -> usize {
        match self {
            Self::Wrote { bytes, .. } => bytes.len().div_ceil(SECTOR_BYTES).max(1),
            Self::Cut { .. } => 1,
        }
    }

    fn apply(&self, part: Part, file: &mut Vec<u8>) {
        match (self, part) {
            (_, Part::Nothing) => {}
            (Self::Cut { length }, _) => file.resize(*length, 0),
            (Self::Wrote { at, bytes }, part) => {
                // Where a sector ends is counted from the beginning of the file.
                let place =
                    |sectors: usize| (sectors * SECTOR_BYTES).saturating_sub(at % SECTOR_BYTES).min(bytes.len());
                let (from, to) = match part {
                    Part::Nothing | Part::All => (0, bytes.len()),
                    Part::First(sectors) => (0, place(sectors)),
                    Part::Behind(sectors) => (place(sectors), bytes.len()),
                };
                if from < to {
                    file.resize(file.len().max(at + to), 0);
                    file[at + from..at + to].copy_from_slice(&bytes[from..to]);
                }
            }
        }
    }
}

/// What may be there after a loss of power.
#[derive(Debug, Clone, Hash)]
pub struct Image {
    nodes: Vec<Left>,
}

#[derive(Debug, Clone, Hash)]
enum Left {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, usize>),
}

impl Image {
    /// The same for two that are the same for whoever looks.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files().hash(&mut hasher);
        hasher.finish()
    }

    /// Each file that has a name, and folders with nothing in them.
    fn files(&self) -> BTreeMap<PathBuf, Option<&[u8]>> {
        let (mut files, mut look) = (BTreeMap::new(), vec![(PathBuf::new(), 0)]);
        while let Some((path, node)) = look.pop() {
            match &self.nodes[node] {
                Left::File(bytes) => drop(files.insert(path, Some(bytes.as_slice()))),
                Left::Folder(names) => {
                    look.extend(names.iter().map(|(name, node)| (path.join(name), *node)));
                    files.insert(path, None);
                }
            }
        }
        files
    }

    /// Writes it below a folder that is there, with `instead` in the place of what is in a file of that name.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, to: &Path, instead: impl Fn(&Path) -> Option<Vec<u8>>) {
        let mut written: HashMap<usize, PathBuf> = HashMap::new();
        let mut look = vec![(to.to_owned(), 0)];
        while let Some((path, node)) = look.pop() {
            match (&self.nodes[node], written.get(&node)) {
                // Two names of one file.
                (Left::File(_), Some(first)) => fs::hard_link(first, &path).expect("it is ours"),
                (Left::File(bytes), None) => {
                    let instead = instead(&path);
                    fs::write(&path, instead.as_ref().unwrap_or(bytes)).expect("it is ours");
                    written.insert(node, path);
                }
                (Left::Folder(names), _) => {
                    fs::create_dir_all(&path).expect("it is ours");
                    look.extend(names.iter().map(|(name, node)| (path.join(name), *node)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(disk: &Disk, parts: &[Part]) -> Vec<(String, Option<String>)> {
        let image = disk.image(parts);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = image.files().into_iter().map(|(path, bytes)| (path.display().to_string(), bytes.map(text)));
        all.filter(|(path, _)| !path.is_empty()).collect()
    }

    #[test]
    fn only_what_was_synced_is_certain() {
        let folder = tempfile::tempdir().expect("there is room");
        let (root, file) = (folder.path(), folder.path().join("a"));
        let mut disk = Disk::of(root, &["a", "b"]);
        disk.apply(&Change::Opened { path: file.clone(), empties: false });
        disk.apply(&Change::Wrote { path: file.clone(), at: 0, bytes: (*b"one").into() });
        disk.apply(&Change::Synced { path: file.clone() });
        assert_eq!(files(&disk, &[Part::Nothing]), [], "the name is not there");
        assert_eq!(files(&disk, &[Part::All]), [("a".to_owned(), Some("one".to_owned()))]);
        disk.apply(&Change::Synced { path: root.to_owned() });
        assert_eq!(files(&disk, &[]), [("a".to_owned(), Some("one".to_owned()))]);
        let long: Vec<u8> = [[b'x'; SECTOR_BYTES], [b'y'; SECTOR_BYTES]].concat();
        disk.apply(&Change::Wrote { path: file.clone(), at: 0, bytes: long.clone().into() });
        disk.apply(&Change::Cut { path: file.clone(), length: 1 });
        disk.apply(&Change::Moved { from: file.clone(), to: root.join("b") });
        assert_eq!(disk.uncertain(), [1, 2, 1], "a folder comes before what is in it");
        let [nothing, all] = [Part::Nothing, Part::All];
        assert_eq!(files(&disk, &[nothing, all, nothing])[0].1.as_deref(), std::str::from_utf8(&long).ok());
        let (first, behind) = ("x".repeat(SECTOR_BYTES), format!("one{}", "\0".repeat(SECTOR_BYTES - 3)));
        assert_eq!(files(&disk, &[nothing, Part::First(1), nothing]), [("a".to_owned(), Some(first))]);
        let behind = format!("{behind}{}", "y".repeat(SECTOR_BYTES));
        assert_eq!(files(&disk, &[all, Part::Behind(1), nothing]), [("b".to_owned(), Some(behind))]);
        assert_eq!(files(&disk, &[all, nothing, all]), [("b".to_owned(), Some("o".to_owned()))]);
    }
}
