//! Into which packages somebody writes.
//!
//! A file is written into for as long as a process has it open for writing. That is read in `/proc/PID/fd`, which shows it of all processes
//! to root, and of a user's own to that user. What it does not show: a file of which only a mapping is left, and processes that the
//! daemon may not look at or that are on another machine; with those a package counts as written once it is quiet.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::LEFT_OUT;

/// Most descriptors that are looked at; whoever has so many is not waited for.
const DESCRIPTORS_MAX: usize = 500_000;

/// What the flags of a descriptor say of reading and writing; 0 is reading alone.
const ACCESS: u32 = 0o3;

/// A folder, and where it is found among what processes have open.
#[derive(Debug)]
pub(crate) struct Root {
    folder: PathBuf,
    real: PathBuf,
    /// So many folders beneath it do not belong to a package yet.
    above: usize,
}

impl Root {
    /// A package.
    pub(crate) fn package(folder: &Path) -> Option<Self> {
        Some(Self { folder: folder.to_owned(), real: folder.canonicalize().ok()?, above: 0 })
    }

    /// A plugin directory with all packages in it, that many at most, also those to which a link leads. Blocks.
    pub(crate) fn directory(directory: &Path, packages_max: usize) -> Vec<Self> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(packages_max);
        let is_link = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let linked = entries.filter(is_link).filter_map(|entry| Self::package(&entry.path()));
        let is_package = directory.join("plugin.json").symlink_metadata().is_ok();
        let above = usize::from(!is_package);
        Self::package(directory).map(|root| Self { above, ..root }).into_iter().chain(linked).collect()
    }

    fn has(&self, path: &Path) -> bool {
        let Ok(inner) = path.strip_prefix(&self.real) else { return false };
        // A build that writes into `target` writes into no package.
        !inner.iter().skip(self.above).any(|name| LEFT_OUT.iter().any(|left_out| name == *left_out))
    }
}

/// The folders of those into which somebody writes. Blocks.
pub(crate) fn written(roots: &[Root]) -> BTreeSet<PathBuf> {
    let mut written = BTreeSet::new();
    let mut left = DESCRIPTORS_MAX;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process =
            process.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        // Of another user's process it cannot be listed, and a process may end at any moment.
        let Some(descriptors) = is_process.then(|| fs::read_dir(process.path().join("fd")).ok()).flatten() else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            if written.len() == roots.len() || left == 0 {
                return written;
            }
            left -= 1;
            let Ok(path) = fs::read_link(descriptor.path()) else { continue };
            let mut of: Vec<_> = roots.iter().filter(|root| root.has(&path)).collect();
            of.retain(|root| !written.contains(&root.folder));
            if !of.is_empty()
                && path.exists()
                && is_for_writing(&process.path().join("fdinfo").join(descriptor.file_name()))
            {
                written.extend(of.into_iter().map(|root| root.folder.clone()));
            }
        }
    }
    written
}

fn is_for_writing(information: &Path) -> bool {
    let Ok(text) = fs::read_to_string(information) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & ACCESS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_file_open_for_writing_writes() {
        let folder = tempfile::tempdir().unwrap();
        let plugins = folder.path().join("plugins");
        for inner in ["one/target", "two", "target"] {
            fs::create_dir_all(plugins.join(inner)).unwrap();
        }
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", plugins.join("linked")).unwrap();
        let each = || {
            let roots = ["one", "two", "target", "linked"].map(|name| Root::package(&plugins.join(name)).unwrap());
            written(&roots).iter().map(|path| path.file_name().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let any = || !written(&Root::directory(&plugins, 10)).is_empty();
        assert_eq!((each().len(), any()), (0, false));
        for (file, found) in [
            ("one/file", Some("one")),
            ("one/target/file", None),
            ("two/file", Some("two")),
            ("target/file", Some("target")),
            ("linked/file", Some("linked")),
        ] {
            let open = fs::File::create(plugins.join(file)).unwrap();
            let expected: Vec<&str> = found.into_iter().collect();
            assert_eq!((each(), any()), (expected.iter().map(Into::into).collect(), found.is_some()), "{file}");
            drop(open);
            let _read = fs::File::open(plugins.join(file)).unwrap();
            assert_eq!((each().len(), any()), (0, false), "{file} is read");
        }
        let gone = fs::File::create(plugins.join("one/gone")).unwrap();
        fs::remove_file(plugins.join("one/gone")).unwrap();
        assert_eq!((each().len(), any()), (0, false), "it belongs to nothing any more");
        drop(gone);
    }
}
