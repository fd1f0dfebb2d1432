//! Unpacks an archive into a folder.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tar::EntryType;

use super::stream::{Fault, Stream};
use super::{ArchiveError, ENTRIES_MAX, EXTENSION_BYTES_MAX, NAME_BYTES_MAX, PADDING_BYTES_MAX, PATH_BYTES_MAX};
use crate::trust::tree::{DEPTH_MAX, PACKAGE_BYTES_MAX};

/// What an archive is made of.
const BLOCK: u64 = 512;

/// So much of a name is said in an error.
const SAID_CHARS_MAX: usize = 200;

/// Unpacks the archive in `file`, which is at its beginning, into the folder `into`, which is there and empty, and says where in it the
/// package is. Blocks; `go_on` is asked now and then whether it is still wanted.
///
/// # Errors
/// [`ArchiveError`]; what was unpacked until then is left in the folder.
pub fn unpack(file: File, into: &Path, go_on: &dyn Fn() -> bool) -> Result<PathBuf, ArchiveError> {
    let mut stream = Stream::open(file, go_on)?;
    let fault = stream.fault();
    let mut unpacking = Unpacking::new(into)?;
    let end = unpacking.entries(&mut stream, &fault)?;
    padding(&mut stream, end, &fault)?;
    unpacking.package().map(|folder| into.join(folder))
}

/// Sees that nothing but zeros follows the last entry, which ends at `end`: two blocks of them at least, by which an archive is known to
/// be whole.
fn padding(stream: &mut Stream<'_>, end: u64, fault: &Fault) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer).map_err(|error| fault.explain(&error))?;
        if count == 0 {
            break;
        }
        if buffer[..count].iter().any(|byte| *byte != 0) || end + PADDING_BYTES_MAX < stream.count {
            return Err(ArchiveError::Trailing);
        }
    }
    if stream.count < end + 2 * BLOCK {
        return Err(ArchiveError::Truncated);
    }
    Ok(())
}

/// What preceded an entry to describe it.
#[derive(Default)]
struct Described {
    /// Its name, where that is too long for the entry itself.
    name: Option<Vec<u8>>,
    /// Its size, said once more.
    size: Option<u64>,
    /// These came already.
    extended: bool,
    linked: bool,
}

/// How a folder came about.
#[derive(PartialEq, Eq)]
enum Made {
    /// It was an entry.
    Said,
    /// Something lies in it.
    Implied,
}

struct Unpacking<'a> {
    into: &'a Path,
    root: OwnedFd,
    folders: HashMap<String, Made>,
    /// The folder that was last written in: mostly the next entry lies in it as well.
    last: Option<(String, OwnedFd)>,
    entries: usize,
    bytes: u64,
}

impl<'a> Unpacking<'a> {
    fn new(into: &'a Path) -> Result<Self, ArchiveError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(into, flags, Mode::empty())
            .map_err(|error| ArchiveError::Write { path: into.to_owned(), source: error.into() })?;
        Ok(Self { into, root, folders: HashMap::new(), last: None, entries: 0, bytes: 0 })
    }

    /// Unpacks every entry, and says where the last one ends.
    fn entries(&mut self, stream: &mut Stream<'_>, fault: &Fault) -> Result<u64, ArchiveError> {
        let mut archive = tar::Archive::new(stream);
        let told = |error: io::Error| fault.explain(&error);
        let mut described = Described::default();
        let (mut end, mut began) = (0, false);
        // Each as it stands there: what the crate would make of descriptions has no bounds.
        for entry in archive.entries().map_err(told)?.raw(true) {
            let mut entry =
                entry.map_err(|error| if began { fault.explain(&error) } else { fault.explain_first(&error) })?;
            began = true;
            let size = entry.size();
            end = entry.raw_file_position() + size.next_multiple_of(BLOCK);
            match entry.header().entry_type() {
                EntryType::XGlobalHeader => {
                    self.count()?;
                    let bytes = extension(&mut entry, size, fault)?;
                    for (key, _) in records(&bytes)? {
                        if ["path", "size", "linkpath"].contains(&key) || key.starts_with("GNU.sparse") {
                            return Err(ArchiveError::Damaged(format!("it says `{key}` of all its entries")));
                        }
                    }
                }
                EntryType::XHeader => {
                    if std::mem::replace(&mut described.extended, true) {
                        return Err(ArchiveError::Damaged("an entry is described twice".to_owned()));
                    }
                    let bytes = extension(&mut entry, size, fault)?;
                    described.read(&records(&bytes)?)?;
                }
                EntryType::GNULongName => {
                    let mut bytes = extension(&mut entry, size, fault)?;
                    if bytes.last() == Some(&0) {
                        bytes.pop();
                    }
                    described.rename(bytes)?;
                }
                EntryType::GNULongLink => {
                    if std::mem::replace(&mut described.linked, true) {
                        return Err(ArchiveError::Damaged("an entry is described twice".to_owned()));
                    }
                    extension(&mut entry, size, fault)?;
                }
                kind => {
                    let Described { name, size: said, .. } = std::mem::take(&mut described);
                    let name = name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
                    if said.is_some_and(|said| said != size) {
                        return Err(odd(&name, "has two sizes"));
                    }
                    let mode = entry.header().mode().map_err(told)?;
                    self.entry(&name, kind, size, mode, &mut entry, fault)?;
                }
            }
        }
        if !began {
            return Err(ArchiveError::Empty);
        }
        Ok(end)
    }

    fn count(&mut self) -> Result<(), ArchiveError> {
        self.entries += 1;
        if ENTRIES_MAX < self.entries {
            return Err(ArchiveError::TooLarge(format!("{ENTRIES_MAX} files and folders")));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &[u8],
        kind: EntryType,
        size: u64,
        mode: u32,
        content: &mut impl Read,
        fault: &Fault,
    ) -> Result<(), ArchiveError> {
        let refused = |what: &str| Err(odd(name, what));
        let path = checked(name)?;
        match kind {
            EntryType::Directory => {
                if size != 0 {
                    return refused("is a folder with contents of its own");
                }
                // The folder in which everything lies.
                if path.is_empty() {
                    return self.count();
                }
                match self.folders.get_mut(path) {
                    Some(Made::Said) => refused("is there twice"),
                    Some(made) => {
                        *made = Made::Said;
                        Ok(())
                    }
                    None => {
                        self.folder(path, name)?;
                        self.folders.insert(path.to_owned(), Made::Said);
                        Ok(())
                    }
                }
            }
            EntryType::Regular if path.is_empty() || name.ends_with(b"/") => {
                refused("is named like a folder, and is a file")
            }
            EntryType::Regular if mode & 0o6000 != 0 => {
                refused("has a setuid or setgid bit, which no program of a package may have")
            }
            EntryType::Regular => self.file(path, name, size, mode & 0o111 != 0, content, fault),
            EntryType::Symlink => refused("is a symbolic link; a package holds files and folders alone"),
            EntryType::Link => refused("is a hard link; a package holds files and folders alone"),
            EntryType::Char | EntryType::Block => refused("is a device; a package holds files and folders alone"),
            EntryType::Fifo => refused("is a pipe; a package holds files and folders alone"),
            EntryType::GNUSparse => refused("is a file with holes; write the archive without `--sparse`"),
            other => refused(&format!("is of the unknown kind {:?}", char::from(other.as_byte()))),
        }
    }

    /// The folder of that path, which is made with those above it where it is not there.
    fn folder(&mut self, path: &str, name: &[u8]) -> Result<OwnedFd, ArchiveError> {
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return folder.try_clone().map_err(|source| self.unwritable(path, source));
        }
        let mut folder = self.root.try_clone().map_err(|source| self.unwritable(path, source))?;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut begin = 0;
        for at in ends.filter(|at| 0 < *at) {
            let (above, part) = (&path[..at], &path[begin..at]);
            begin = at + 1;
            if !self.folders.contains_key(above) {
                self.count()?;
                rustix::fs::mkdirat(&folder, part, Mode::RWXU).map_err(|error| match error {
                    rustix::io::Errno::EXIST => {
                        odd(name, "is a file in one place of the archive and a folder in another")
                    }
                    error => self.unwritable(above, error.into()),
                })?;
                self.folders.insert(above.to_owned(), Made::Implied);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = rustix::fs::openat(&folder, part, flags, Mode::empty())
                .map_err(|error| self.unwritable(above, error.into()))?;
        }
        let kept = folder.try_clone().map_err(|source| self.unwritable(path, source))?;
        self.last = Some((path.to_owned(), kept));
        Ok(folder)
    }

    fn file(
        &mut self,
        path: &str,
        name: &[u8],
        size: u64,
        executable: bool,
        content: &mut impl Read,
        fault: &Fault,
    ) -> Result<(), ArchiveError> {
        self.count()?;
        // Before a byte of it is read.
        self.bytes = self.bytes.saturating_add(size);
        if PACKAGE_BYTES_MAX < self.bytes {
            return Err(ArchiveError::TooLarge(format!("{} MiB of files", PACKAGE_BYTES_MAX >> 20)));
        }
        if self.folders.contains_key(path) {
            return Err(odd(name, "is a file in one place of the archive and a folder in another"));
        }
        let (above, own) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.folder(above, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = if executable { Mode::RWXU } else { Mode::RUSR | Mode::WUSR };
        let file = rustix::fs::openat(folder.as_fd(), own, flags, mode).map_err(|error| match error {
            rustix::io::Errno::EXIST => odd(name, "is there twice"),
            error => self.unwritable(path, error.into()),
        })?;
        let mut file = File::from(file);
        let mut buffer = vec![0; size.min(128 << 10) as usize];
        let mut left = size;
        while 0 < left {
            let count = content.read(&mut buffer).map_err(|error| fault.explain(&error))?;
            if count == 0 {
                return Err(ArchiveError::Truncated);
            }
            left -= count as u64;
            if let Err(source) = file.write_all(&buffer[..count]) {
                // A child that is being made has the descriptor too for a moment, and with it would keep the room of a removed file.
                let _ = file.set_len(0);
                return Err(self.unwritable(path, source));
            }
        }
        Ok(())
    }

    fn unwritable(&self, path: &str, source: io::Error) -> ArchiveError {
        ArchiveError::Write { path: self.into.join(path), source }
    }

    /// Where the package is in what was unpacked: at its top, or in the one folder there.
    fn package(&self) -> Result<String, ArchiveError> {
        let is_there = |folder: &str| {
            let path = self.into.join(folder).join("plugin.json");
            std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
        };
        if is_there("") {
            return Ok(String::new());
        }
        let unreadable = |source| self.unwritable("", source);
        let mut top = std::fs::read_dir(self.into).map_err(unreadable)?.take(2);
        match (top.next().transpose().map_err(unreadable)?, top.next()) {
            (Some(only), None) => {
                let name = only.file_name().to_string_lossy().into_owned();
                if is_there(&name) { Ok(name) } else { Err(ArchiveError::NoManifest) }
            }
            _ => Err(ArchiveError::NoManifest),
        }
    }
}

impl Described {
    /// The records that a description of the newer kind is made of.
    fn read(&mut self, records: &[(&str, &[u8])]) -> Result<(), ArchiveError> {
        for (key, value) in records {
            match *key {
                "path" => self.rename(value.to_vec())?,
                "size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    let size = size.ok_or_else(|| ArchiveError::Damaged("a size is no number".to_owned()))?;
                    if self.size.replace(size).is_some() {
                        return Err(ArchiveError::Damaged("an entry has two sizes".to_owned()));
                    }
                }
                sparse if sparse.starts_with("GNU.sparse") => {
                    let what = "a file with holes is in it; write the archive without `--sparse`";
                    return Err(ArchiveError::Damaged(what.to_owned()));
                }
                // Times, owners and attributes, which no copy has.
                _ => {}
            }
        }
        Ok(())
    }

    fn rename(&mut self, name: Vec<u8>) -> Result<(), ArchiveError> {
        match self.name.replace(name) {
            // Readers would differ in which of them holds.
            Some(before) => Err(odd(&before, "has two names")),
            None => Ok(()),
        }
    }
}

/// A description that precedes an entry.
fn extension(entry: &mut impl Read, size: u64, fault: &Fault) -> Result<Vec<u8>, ArchiveError> {
    if EXTENSION_BYTES_MAX < size {
        return Err(ArchiveError::TooLarge(format!("{} KiB that describe one entry", EXTENSION_BYTES_MAX >> 10)));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| fault.explain(&error))?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(ArchiveError::Truncated) }
}

/// `LENGTH KEY=VALUE`, each with a line's end, the length being that of all of it.
fn records(mut bytes: &[u8]) -> Result<Vec<(&str, &[u8])>, ArchiveError> {
    let damaged = || ArchiveError::Damaged("the description of an entry is not as it should be".to_owned());
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(8).position(|byte| *byte == b' ').ok_or_else(damaged)?;
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let record = length.filter(|length| space + 1 < *length).and_then(|length| bytes.get(..length));
        let record = record.ok_or_else(damaged)?;
        bytes = &bytes[record.len()..];
        let text = record[space + 1..].strip_suffix(b"\n").ok_or_else(damaged)?;
        let equals = text.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
        let key = std::str::from_utf8(&text[..equals]).map_err(|_| damaged())?;
        records.push((key, &text[equals + 1..]));
    }
    Ok(records)
}

/// The path of an entry beneath the folder, without anything around it; empty for that folder itself.
fn checked(name: &[u8]) -> Result<&str, ArchiveError> {
    let refused = |what: &str| Err(odd(name, what));
    let Ok(path) = std::str::from_utf8(name) else {
        return refused("has a name that is not UTF-8");
    };
    if path.chars().any(char::is_control) {
        return refused("has control characters in its name");
    }
    if PATH_BYTES_MAX < path.len() {
        return refused(&format!("has a name of more than {PATH_BYTES_MAX} bytes"));
    }
    if path.starts_with('/') {
        return refused("has an absolute name");
    }
    let mut path = path;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest.trim_start_matches('/');
    }
    let path = if path == "." { "" } else { path.strip_suffix('/').unwrap_or(path) };
    if path.is_empty() {
        return if name.is_empty() { refused("has no name") } else { Ok(path) };
    }
    for (number, part) in path.split('/').enumerate() {
        match part {
            ".." => return refused("leads out of the package"),
            "" | "." => return refused("has an empty part in its name"),
            _ if NAME_BYTES_MAX < part.len() => {
                return refused(&format!("has a part of more than {NAME_BYTES_MAX} bytes in its name"));
            }
            // A folder around the package, and the file itself.
            _ if DEPTH_MAX + 2 <= number => return refused(&format!("lies in more than {DEPTH_MAX} folders")),
            _ => {}
        }
    }
    Ok(path)
}

fn odd(name: &[u8], what: &str) -> ArchiveError {
    let name: String = String::from_utf8_lossy(name).chars().take(SAID_CHARS_MAX).collect();
    ArchiveError::Entry { name: format!("{name:?}"), what: what.to_owned() }
}
