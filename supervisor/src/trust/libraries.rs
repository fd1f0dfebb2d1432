//! Whether a program finds in the sandbox what it needs: its loader, and every library, those of its package with all that they need in turn.
//!
//! It is looked for as the C library's loader does: in `DT_RPATH` or `DT_RUNPATH`, in what `/etc/ld.so.cache` knows, in the usual folders. What a library of the
//! host needs is the host's affair, and what a program loads later by name nobody can tell.
//! Invariants: so many files are looked at and no more; nothing outside of what a plugin sees counts as found.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::elf::{Image, MACHINE};
use crate::model::check::{Checks, Code, Finding};
use crate::model::generation::Outlook;
use crate::model::runtime::BESIDE_USR;

/// Where a plugin sees its package.
const PACKAGE: &str = "/plugin";

/// So many libraries of one package are looked at.
const LIBRARIES_MAX: usize = 256;

/// So much of the list of the host's libraries is read, and so many folders of it are kept.
const CACHE_BYTES_MAX: u64 = 32 << 20;
const FOLDERS_MAX: usize = 256;

/// Where loaders look for libraries unless they are told otherwise.
const USUAL: [&str; 5] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];

/// Where they do on hosts with several machines' libraries, and what those of musl read.
const OF_THE_MACHINE: [&str; 2] = if cfg!(target_arch = "aarch64") {
    ["aarch64-linux-gnu", "etc/ld-musl-aarch64.path"]
} else {
    ["x86_64-linux-gnu", "etc/ld-musl-x86_64.path"]
};

/// What of the host a plugin sees.
#[derive(Debug, Clone, Default)]
pub struct System {
    root: PathBuf,
    /// The folders in which everything is seen.
    seen: Vec<PathBuf>,
    /// Where libraries are looked for.
    folders: Vec<PathBuf>,
}

impl System {
    /// Looks at this host. Blocks.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::beneath(Path::new("/"))
    }

    fn beneath(root: &Path) -> Self {
        let seen = ["usr"].into_iter().chain(BESIDE_USR).filter_map(|name| root.join(name).canonicalize().ok());
        let mut folders: BTreeSet<PathBuf> = cached(root).unwrap_or_default();
        folders.extend(USUAL.map(PathBuf::from));
        let [machine, musl] = OF_THE_MACHINE;
        folders.extend(["/lib", "/usr/lib", "/usr/local/lib"].map(|folder| Path::new(folder).join(machine)));
        if let Ok(file) = File::open(root.join(musl)) {
            let mut text = String::new();
            let read = file.take(64 << 10).read_to_string(&mut text);
            let named = text.split(['\n', ':']).map(str::trim).filter(|folder| read.is_ok() && folder.starts_with('/'));
            folders.extend(named.take(FOLDERS_MAX).map(PathBuf::from));
        }
        Self { root: root.to_owned(), seen: seen.collect(), folders: folders.into_iter().collect() }
    }

    /// Where libraries are looked for, and what changes when one is added there or taken away. Blocks.
    pub(super) fn fingerprint(&self) -> String {
        let mut all = String::new();
        for folder in self.folders.iter().chain(&self.seen) {
            let times = fs::metadata(self.root.join(folder.strip_prefix("/").unwrap_or(folder))).ok().map(|found| {
                (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
            });
            let _ = writeln!(all, "{folder:?} {times:?}");
        }
        all
    }

    /// The file at that absolute path, if a plugin sees it.
    fn find(&self, path: &Path) -> Option<PathBuf> {
        let real = self.root.join(path.strip_prefix("/").ok()?).canonicalize().ok()?;
        (self.seen.iter().any(|seen| real.starts_with(seen)) && real.is_file()).then_some(real)
    }

    /// Whether it is there, of this machine and of 64 bits.
    ///
    /// # Errors
    /// The daemon is short of something, and cannot say.
    fn has(&self, path: &Path) -> io::Result<bool> {
        let mut head = [0; 20];
        let mut file = match self.find(path).map(File::open) {
            Some(Ok(file)) => file,
            Some(Err(error)) if is_shortage(&error) => return Err(error),
            Some(Err(_)) | None => return Ok(false),
        };
        let machine = |head: &[u8; 20]| u16::from_le_bytes([head[18], head[19]]);
        Ok(file.read_exact(&mut head).is_ok()
            && head.starts_with(b"\x7fELF")
            && (head[4], head[5], machine(&head)) == (2, 1, MACHINE))
    }
}

/// The folders of the libraries that the list of the host has, which `ldconfig` makes.
fn cached(root: &Path) -> Option<BTreeSet<PathBuf>> {
    /// What of the file stands before its entries, and the bytes of each.
    const HEAD: usize = 48;
    const ENTRY: usize = 24;
    let mut bytes = Vec::new();
    File::open(root.join("etc/ld.so.cache")).ok()?.take(CACHE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let entries = bytes.strip_prefix(b"glibc-ld.so.cache1.1")?;
    let number = |at: &[u8]| at.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let count = number(entries)?;
    let mut folders = BTreeSet::new();
    for entry in bytes.get(HEAD..)?.chunks_exact(ENTRY).take(count) {
        let path =
            number(&entry[8..]).and_then(|at| bytes.get(at..)).and_then(|rest| rest.split(|byte| *byte == 0).next());
        let folder = path.and_then(|path| std::str::from_utf8(path).ok()).and_then(|path| Path::new(path).parent());
        if let Some(folder) = folder.filter(|folder| folder.is_absolute() && folders.len() < FOLDERS_MAX) {
            folders.insert(folder.to_owned());
        }
    }
    Some(folders)
}

/// Looks at the program of a package, and at the libraries of the package that it needs. Blocks.
///
/// # Errors
/// The daemon is short of something, and what was found says nothing.
pub fn inspect(package: &Path, entry: &str, system: &System, checks: &Checks) -> io::Result<Vec<Finding>> {
    let mut search = Search::new(package, system, checks);
    let entry = PathBuf::from(entry);
    search.seen.insert(entry.clone());
    let mut waiting = VecDeque::from([(entry, Vec::new())]);
    let mut is_program = true;
    while let Some((relative, inherited)) = waiting.pop_front() {
        waiting.extend(search.look(&relative, &inherited, is_program));
        is_program = false;
    }
    search.end()
}

/// Looks for the libraries of the host that a manifest names. Blocks.
///
/// # Errors
/// As [`inspect`].
pub fn declared(names: &[String], system: &System, checks: &Checks) -> io::Result<Vec<Finding>> {
    let mut search = Search::new(Path::new(""), system, checks);
    for name in names {
        let place = system.folders.iter().find_map(|folder| search.at(&folder.join(name)));
        search.judge(Path::new("plugin.json"), name, place.as_ref(), "is not in /usr");
    }
    search.end()
}

fn is_shortage(error: &io::Error) -> bool {
    let outlook = error.raw_os_error().map(|errno| Outlook::of_errno(errno, Outlook::Lasting));
    outlook == Some(Outlook::Shortage)
}

struct Search<'a> {
    package: &'a Path,
    system: &'a System,
    checks: &'a Checks,
    findings: Vec<Finding>,
    /// The files of the package that are looked at.
    seen: BTreeSet<PathBuf>,
    /// What the daemon was short of.
    short: RefCell<Option<io::Error>>,
}

/// A file of the package, and where those that need it look for libraries, for it as well.
type Waiting = (PathBuf, Vec<PathBuf>);

impl<'a> Search<'a> {
    fn new(package: &'a Path, system: &'a System, checks: &'a Checks) -> Self {
        Self { package, system, checks, findings: Vec::new(), seen: BTreeSet::new(), short: RefCell::default() }
    }

    fn end(self) -> io::Result<Vec<Finding>> {
        self.short.into_inner().map_or(Ok(self.findings), Err)
    }

    /// What is wrong with a library being there, or not.
    fn judge(&mut self, by: &Path, name: &str, place: Option<&Place>, missing: &str) {
        match place {
            Some(Place::Package(_)) => {}
            Some(Place::Host) if self.checks.allow_library(base(name)) => {}
            Some(Place::Host) => {
                let why = format!("needs the library {name}, which `checks.libraries` does not allow");
                self.found(Code::ForbiddenLibrary, by, why);
            }
            None => self.found(Code::MissingLibrary, by, format!("needs the library {name}, which {missing}")),
        }
    }

    fn found(&mut self, code: Code, place: &Path, detail: impl Into<String>) {
        self.findings.push(Finding::new(code, place.to_string_lossy(), detail));
    }

    /// Looks at one file, and says which others of the package it needs.
    fn look(&mut self, place: &Path, inherited: &[PathBuf], is_program: bool) -> Vec<Waiting> {
        // A pipe is not waited for.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let opened = File::options().read(true).custom_flags(flags).open(self.package.join(place));
        let opened = opened.map_err(|error| {
            let why = format!("cannot be read: {error}");
            self.note(error);
            why
        });
        let image = match opened.and_then(|file| Image::read(&file)) {
            Ok(image) => image,
            Err(why) => {
                self.found(Code::Malformed, place, why);
                return Vec::new();
            }
        };
        if image.text_relocations {
            self.found(
                Code::TextRelocations,
                place,
                "has text relocations; build it as position-independent code (-fPIC)",
            );
        }
        if let Some(why) = image.executable_stack {
            self.found(Code::ExecutableStack, place, format!("{why}; link it with -z noexecstack"));
        }
        if image.writable_code {
            self.found(Code::WritableCode, place, "has a segment that can be written and executed");
        }
        match &image.interpreter {
            Some(loader) if is_program && self.at(Path::new(loader)).is_none() => {
                let why = format!(
                    "names the loader {loader}, which is not there for a plugin; build it for this host, or statically"
                );
                self.found(Code::InterpreterMissing, place, why);
            }
            None if is_program && image.needed.is_empty() => {
                self.found(Code::Static, place, "is linked statically, and needs nothing of the host");
            }
            _ => {}
        }
        let own = |search: &mut Self, list: &Option<String>| search.folders_of(place, list.as_deref());
        // Where both are there, the former is not looked at, and only the former holds for what is needed in turn.
        let runpath = own(self, &image.runpath);
        let rpath = own(self, &image.rpath);
        let (folders, handed_on) = match &image.runpath {
            Some(_) => (runpath, Vec::new()),
            None => {
                let all: Vec<_> = rpath.iter().chain(inherited).take(FOLDERS_MAX).cloned().collect();
                (all.clone(), all)
            }
        };
        let mut waiting = Vec::new();
        for name in &image.needed {
            match self.resolve(place, name, &folders) {
                Some(Place::Package(file)) => {
                    if self.seen.len() == LIBRARIES_MAX && !self.seen.contains(&file) {
                        self.found(
                            Code::Malformed,
                            place,
                            format!("needs, in the end, more than {LIBRARIES_MAX} libraries of its package"),
                        );
                        return Vec::new();
                    }
                    if self.seen.insert(file.clone()) {
                        waiting.push((file, handed_on.clone()));
                    }
                }
                found => self.judge(place, name, found.as_ref(), "is neither in the package, by $ORIGIN, nor in /usr"),
            }
        }
        waiting
    }

    /// The folders of a list, as a plugin sees them.
    fn folders_of(&mut self, place: &Path, list: Option<&str>) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for entry in list.into_iter().flat_map(|list| list.split(':')).take(FOLDERS_MAX) {
            let folder = expand(place, entry);
            if folder.as_ref().is_none_or(|folder| !folder.starts_with(PACKAGE)) {
                let why = format!(
                    "looks for libraries in {entry:?}, outside of its package; link it with -rpath '$ORIGIN/…' or without"
                );
                self.found(Code::ForeignRpath, place, why);
            }
            folders.extend(folder);
        }
        folders
    }

    fn resolve(&self, place: &Path, name: &str, folders: &[PathBuf]) -> Option<Place> {
        if name.contains('/') {
            return self.at(&expand(place, name)?);
        }
        folders.iter().chain(&self.system.folders).find_map(|folder| self.at(&folder.join(name)))
    }

    /// What a plugin finds at that path.
    fn at(&self, path: &Path) -> Option<Place> {
        match path.strip_prefix(PACKAGE) {
            // There are no links in a package.
            Ok(relative) => {
                let there = fs::symlink_metadata(self.package.join(relative)).is_ok_and(|found| found.is_file());
                there.then(|| Place::Package(relative.to_owned()))
            }
            Err(_) => self.system.has(path).map_err(|error| self.note(error)).unwrap_or(false).then_some(Place::Host),
        }
    }

    fn note(&self, error: io::Error) {
        if is_shortage(&error) {
            *self.short.borrow_mut() = Some(error);
        }
    }
}

/// Where a library is.
enum Place {
    /// In the package, there.
    Package(PathBuf),
    /// On the host.
    Host,
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// An entry of such a list as an absolute path in its plain form; none if it is relative, or leads out of everything.
fn expand(place: &Path, entry: &str) -> Option<PathBuf> {
    let origin = Path::new(PACKAGE).join(place.parent().unwrap_or(Path::new("")));
    let rest = ["$ORIGIN", "${ORIGIN}"].iter().find_map(|token| entry.strip_prefix(token));
    let path = match rest {
        // `$ORIGINAL` is another word.
        Some(rest) if rest.is_empty() || rest.starts_with('/') => origin.join(rest.trim_start_matches('/')),
        Some(_) => return None,
        None => PathBuf::from(entry),
    };
    if !path.is_absolute() || path.to_string_lossy().contains('$') {
        return None;
    }
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir if !plain.pop() => return None,
            Component::ParentDir | Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests;
