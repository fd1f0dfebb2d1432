//! The files of the host that a plugin was granted, looked at when it starts: they are there, no link stands in their way, and nothing
//! of the daemon's own lies in them or they in it.
//!
//! What is found here may be another thing a moment later; the launcher opens each path by the same rule and mounts what it opened, so
//! this is for a sentence that helps, and for what cannot be seen from a path alone.
//!
//! Invariant: what is not understood is refused. Elsewhere: what a path may look like is `model::permission::path`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::model::permission::grants::Grants;
use crate::model::permission::path::HostPath;

/// File systems in which the kernel speaks of itself, by their magic numbers.
const KERNELS: [(i64, &str); 5] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup2"),
    (0x0027_e0eb, "cgroup"),
    (0x6462_6720, "debugfs"),
];

/// Where every plugin finds the host's programs and libraries, and may read all there is.
const PROGRAMS: &str = "/usr";

/// What a plugin may do with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read what is there.
    Read,
    /// Execute it as well: what belongs to its runtime.
    Execute,
    /// Change it as well.
    Write,
}

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder, and everything in it.
    Folder,
    /// A single file.
    File,
}

/// A folder or file of the host that a plugin finds at the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub path: HostPath,
    /// What it is.
    pub kind: Kind,
    /// What may be done there.
    pub access: Access,
}

/// What is the daemon's own: what it is, and where.
#[derive(Clone, Debug, Default)]
pub struct Reserved(Vec<(&'static str, PathBuf)>);

impl Reserved {
    /// These.
    #[must_use]
    pub fn new(places: Vec<(&'static str, PathBuf)>) -> Self {
        Self(places)
    }

    /// What of the daemon's own a folder has to do with, if anything. Both are compared as they are reached, by links and mounts as
    /// well, and not by their text.
    fn touched(&self, path: &Path) -> Option<String> {
        let above = chain(path);
        let own = identity(path);
        self.0.iter().find_map(|(what, place)| {
            let inside = identity(place).is_some_and(|place| above.contains(&place)) || path.starts_with(place);
            let around = own.is_some_and(|own| chain(place).contains(&own)) || place.starts_with(path);
            match (inside, around) {
                (true, _) => Some(format!("it lies in the daemon's {what} {}", place.display())),
                (_, true) => Some(format!("the daemon's {what} {} lies in it", place.display())),
                (false, false) => None,
            }
        })
    }
}

/// Which file that is, however it is reached.
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A place and everything that it lies in. What is not there is left out.
fn chain(path: &Path) -> Vec<(u64, u64)> {
    let real = path.canonicalize();
    let real = real.as_deref().unwrap_or(path);
    real.ancestors().filter_map(identity).collect()
}

/// The granted files and those of the plugin's runtime, those that lie in others behind them. Of the same path the wider access
/// counts.
///
/// # Errors
/// A sentence that names the path.
pub fn places(grants: &Grants, binds: &[HostPath], reserved: &Reserved) -> Result<Vec<Place>, String> {
    let read = grants.file_read.iter().map(|path| ("file_read", path, Access::Read));
    let write = grants.file_write.iter().map(|path| ("file_write", path, Access::Write));
    if let Some(both) = binds.iter().find(|bind| grants.file_write.contains(bind)) {
        return Err(format!("file_write of {both} cannot be had: the plugin's runtime is executed from there"));
    }
    let binds = binds.iter().map(|path| ("the runtime's bind", path, Access::Execute));
    let mut places: Vec<Place> = Vec::new();
    for (permission, path, access) in read.chain(write).chain(binds) {
        let of = if access == Access::Execute { "" } else { "of " };
        let refused = |why: String| format!("{permission} {of}{path} cannot be had: {why}");
        let kind = look(path, access).map_err(refused)?;
        if path.as_path().starts_with(PROGRAMS) {
            match access {
                // Every plugin reads it, and a mount of its own would keep programs there from being executed.
                Access::Read => continue,
                Access::Write if path.as_path() == Path::new(PROGRAMS) => {
                    return Err(refused("every plugin's programs and libraries are executed from there".to_owned()));
                }
                Access::Write | Access::Execute => {}
            }
        }
        if let Some(why) = reserved.touched(path.as_path()) {
            return Err(refused(format!("{why}, which no plugin may see")));
        }
        places.push(Place { path: path.clone(), kind, access });
    }
    places.sort_by(|one, other| (&one.path, other.access).cmp(&(&other.path, one.access)));
    places.dedup_by(|later, first| later.path == first.path);
    Ok(places)
}

/// Opens what stands there without following a link. A refusal is a sentence.
pub(super) fn open(path: &HostPath, flags: OFlags) -> Result<OwnedFd, String> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path.as_path(), flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(|errno| {
        match errno {
            Errno::LOOP => match first_link(path.as_path()) {
                Some(link) => format!("{} is a symbolic link; name the place that is meant", link.display()),
                None => "a symbolic link stands in it; name the place that is meant".to_owned(),
            },
            Errno::NOENT => format!("{} does not exist", first_missing(path.as_path()).display()),
            errno => io::Error::from(errno).to_string(),
        }
    })
}

/// What stands there, if it can be permitted.
fn look(path: &HostPath, access: Access) -> Result<Kind, String> {
    let file = open(path, OFlags::PATH)?;
    let status = rustix::fs::fstat(&file).map_err(|errno| io::Error::from(errno).to_string())?;
    let system = rustix::fs::fstatfs(&file).map_err(|errno| io::Error::from(errno).to_string())?;
    if let Some((_, name)) = KERNELS.iter().find(|(magic, _)| *magic == system.f_type) {
        return Err(format!("it lies in a file system of the kernel's own ({name})"));
    }
    if access == Access::Write {
        let mounted = rustix::fs::fstatvfs(&file).map_err(|errno| io::Error::from(errno).to_string())?;
        if mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(format!(
                "it is mounted read-only, for the daemon at least; where that is its service's doing (ProtectHome=, ProtectSystem=), \
                 ReadWritePaths={path} in `systemctl edit palisaded` takes it back"
            ));
        }
    }
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => Ok(Kind::Folder),
        FileType::RegularFile => Ok(Kind::File),
        _ => Err("it is neither a folder nor a regular file".to_owned()),
    }
}

fn first_link(path: &Path) -> Option<&Path> {
    let mut places: Vec<_> = path.ancestors().collect();
    places.reverse();
    places.into_iter().find(|place| place.is_symlink())
}

fn first_missing(path: &Path) -> &Path {
    let missing = path.ancestors().take_while(|place| place.symlink_metadata().is_err());
    missing.last().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn grants(read: &[&Path], write: &[&Path]) -> Grants {
        let paths =
            |paths: &[&Path]| paths.iter().map(|path| HostPath::parse(path.to_str().unwrap()).unwrap()).collect();
        Grants { file_read: paths(read), file_write: paths(write), ..Grants::default() }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        (folder, path)
    }

    #[test]
    fn places_come_in_order_and_writing_goes_before_reading() {
        let (_folder, at) = folder();
        let inner = at.join("b/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(at.join("a"), "").unwrap();
        let (a, b) = (at.join("a"), at.join("b"));
        let found = places(&grants(&[&inner, &b, &a], &[&b]), &[], &Reserved::default()).unwrap();
        let found: Vec<_> = found.iter().map(|place| (place.path.as_path(), place.kind, place.access)).collect();
        assert_eq!(
            found,
            [
                (a.as_path(), Kind::File, Access::Read),
                (b.as_path(), Kind::Folder, Access::Write),
                (inner.as_path(), Kind::Folder, Access::Read)
            ]
        );
    }

    #[test]
    fn what_belongs_to_a_runtime_is_executed_and_never_written() {
        let (_folder, at) = folder();
        let inner = at.join("opt/inner");
        fs::create_dir_all(&inner).unwrap();
        let opt = at.join("opt");
        let bind = [HostPath::parse(opt.to_str().unwrap()).unwrap()];
        let reserved = Reserved::default();
        let found = places(&grants(&[&opt], &[&inner]), &bind, &reserved).unwrap();
        let found: Vec<_> = found.iter().map(|place| (place.path.as_path(), place.access)).collect();
        assert_eq!(found, [(opt.as_path(), Access::Execute), (inner.as_path(), Access::Write)]);
        let error = places(&grants(&[], &[&opt]), &bind, &reserved).unwrap_err();
        let at_opt = opt.display();
        assert_eq!(error, format!("file_write of {at_opt} cannot be had: the plugin's runtime is executed from there"));
        fs::remove_dir_all(&opt).unwrap();
        let error = places(&Grants::default(), &bind, &reserved).unwrap_err();
        assert_eq!(error, format!("the runtime's bind {at_opt} cannot be had: {at_opt} does not exist"));
    }

    #[test]
    fn programs_of_the_host_are_read_without_a_mount_of_their_own() {
        let reserved = Reserved::default();
        let found = places(&grants(&[Path::new("/usr"), Path::new("/usr/bin")], &[]), &[], &reserved);
        assert_eq!(found, Ok(vec![]));
        let error = places(&grants(&[], &[Path::new("/usr")]), &[], &reserved).unwrap_err();
        let why = "every plugin's programs and libraries are executed from there";
        assert_eq!(error, format!("file_write of /usr cannot be had: {why}"));
    }

    #[test]
    fn what_is_missing_or_behind_a_link_is_named() {
        let (_folder, at) = folder();
        fs::create_dir(at.join("real")).unwrap();
        symlink("real", at.join("link")).unwrap();
        let error = |path: &str| places(&grants(&[&at.join(path)], &[]), &[], &Reserved::default()).unwrap_err();
        let said = |path: &str, why: String| format!("file_read of {} cannot be had: {why}", at.join(path).display());
        let link = format!("{} is a symbolic link; name the place that is meant", at.join("link").display());
        assert_eq!(error("link"), said("link", link.clone()));
        fs::create_dir(at.join("real/deep")).unwrap();
        assert_eq!(error("link/deep"), said("link/deep", link));
        let missing = format!("{} does not exist", at.join("real/no").display());
        assert_eq!(error("real/no/more"), said("real/no/more", missing));
        let socket = at.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(error("socket"), said("socket", "it is neither a folder nor a regular file".to_owned()));
    }

    #[test]
    fn nothing_of_the_daemons_is_seen_in_either_direction() {
        let (_folder, at) = folder();
        for folder in ["state/data", "beside", "real"] {
            fs::create_dir_all(at.join(folder)).unwrap();
        }
        symlink("../state/data", at.join("beside/alias")).unwrap();
        let state = at.join("state");
        let reserved =
            Reserved::new(vec![("state directory", state.clone()), ("socket", at.join("real/not-there-yet"))]);
        let error = |path: &Path| places(&grants(&[], &[path]), &[], &reserved).unwrap_err();
        let of = |path: &Path, why: &str| {
            format!("file_write of {} cannot be had: {why}, which no plugin may see", path.display())
        };
        let lies_in = format!("it lies in the daemon's state directory {}", state.display());
        assert_eq!(error(&state), of(&state, &lies_in));
        assert_eq!(error(&state.join("data")), of(&state.join("data"), &lies_in));
        let holds = format!("the daemon's state directory {} lies in it", state.display());
        assert_eq!(error(&at), of(&at, &holds));
        let holds = format!("the daemon's socket {} lies in it", at.join("real/not-there-yet").display());
        assert_eq!(error(&at.join("real")), of(&at.join("real"), &holds));
        assert!(places(&grants(&[&at.join("beside")], &[]), &[], &reserved).is_ok());
        // The same folder by another name: what the daemon calls it goes through a link.
        let reserved = Reserved::new(vec![("state directory", at.join("beside/alias"))]);
        let data = state.join("data");
        let error = places(&grants(&[&data], &[]), &[], &reserved).unwrap_err();
        assert!(error.contains("it lies in the daemon's state directory"), "{error}");
    }
}
