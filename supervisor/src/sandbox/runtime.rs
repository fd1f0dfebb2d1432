//! The interpreters that the operator configured, as they were found when the daemon started, and whether they still are that.
//!
//! Each is hashed once. A plugin is started with the program that was, or not at all: after an upgrade the daemon reads it anew when it
//! is started again.
//!
//! Elsewhere: what a runtime may be is `model::runtime`; its folders are looked at with what a plugin is granted, in `granted`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::granted;
use crate::model::permission::path::HostPath;
use crate::model::runtime::Runtime;

/// No interpreter has more.
const BYTES_MAX: u64 = 1 << 30;

/// All that are configured, by name.
#[derive(Debug, Default)]
pub struct Runtimes(BTreeMap<String, Found>);

/// One of them.
#[derive(Debug)]
pub struct Found {
    configured: Runtime,
    /// Which file it was, and its SHA-256; or why there is none.
    program: Result<(Stamp, String), String>,
}

/// Which file, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Runtimes {
    /// Looks at each and hashes it. Blocks.
    #[must_use]
    pub fn look(configured: BTreeMap<String, Runtime>) -> Self {
        let found = configured.into_iter().map(|(name, configured)| {
            let program = open(&configured.exec).and_then(|(file, stamp)| Ok((stamp, hash(file)?)));
            (name, Found { configured, program })
        });
        Self(found.collect())
    }

    /// The one of that name.
    ///
    /// # Errors
    /// A sentence that names those that there are.
    pub fn named(&self, name: &str) -> Result<&Found, String> {
        self.0.get(name).ok_or_else(|| {
            let others: Vec<_> = self.0.keys().map(|name| format!("{name:?}")).collect();
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            format!(
                "plugin.json names the runtime {name:?}, which palisade.toml does not have; of `runtimes` there: {others}"
            )
        })
    }

    /// All of them, with the digest of each or the reason why it cannot be used.
    pub fn all(&self) -> impl Iterator<Item = (&str, Result<&str, &str>)> {
        self.0.iter().map(|(name, found)| (name.as_str(), found.digest()))
    }
}

impl Found {
    /// The program.
    #[must_use]
    pub fn exec(&self) -> &HostPath {
        &self.configured.exec
    }

    /// What of the host comes with it.
    #[must_use]
    pub fn binds(&self) -> &[HostPath] {
        &self.configured.binds
    }

    /// The SHA-256 of the program.
    ///
    /// # Errors
    /// Why it has none.
    pub fn digest(&self) -> Result<&str, &str> {
        self.program.as_ref().map(|(_, digest)| digest.as_str()).map_err(String::as_str)
    }

    /// The program that was hashed, opened for reading.
    ///
    /// # Errors
    /// A sentence: it is not there, no program, or another than it was.
    pub fn open(&self) -> Result<OwnedFd, String> {
        let (seen, _) = self.program.as_ref().map_err(Clone::clone)?;
        let (file, stamp) = open(&self.configured.exec)?;
        if stamp != *seen {
            let exec = &self.configured.exec;
            return Err(format!(
                "{exec} was changed since the daemon started; restart the daemon, which reads it anew"
            ));
        }
        Ok(file.into())
    }
}

fn open(exec: &HostPath) -> Result<(File, Stamp), String> {
    // Not waiting: it could be a pipe.
    let file = granted::open(exec, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut file = File::from(file);
    let metadata = file.metadata().map_err(|error| format!("{exec}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{exec} is no regular file"));
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(format!("{exec} is not executable"));
    }
    if BYTES_MAX < metadata.len() {
        return Err(format!("{exec} has {} bytes; at most {BYTES_MAX} are possible", metadata.len()));
    }
    let mut magic = [0; 4];
    let read = file.read_exact(&mut magic).and_then(|()| std::io::Seek::rewind(&mut file));
    if read.is_err() || magic != *b"\x7fELF" {
        return Err(format!("{exec} is no ELF program; name the program itself, not a script that starts it"));
    }
    let stamp = Stamp {
        file: (metadata.dev(), metadata.ino()),
        size: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    Ok((file, stamp))
}

fn hash(file: File) -> Result<String, String> {
    let mut hasher = Sha256::new();
    let mut file = file.take(BYTES_MAX);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        }
    }
    Ok(hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn look(exec: &Path) -> Runtimes {
        let path = HostPath::parse(exec.to_str().unwrap()).unwrap();
        let configured = Runtime { binds: vec![path.clone()], exec: path };
        Runtimes::look([("one".to_owned(), configured)].into())
    }

    fn program(at: &Path, contents: &[u8]) {
        fs::write(at, contents).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_program_is_the_one_that_was_hashed_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let exec = folder.path().canonicalize().unwrap().join("exec");
        program(&exec, b"\x7fELF one");
        let runtimes = look(&exec);
        let found = runtimes.named("one").unwrap();
        let digest = Sha256::digest(b"\x7fELF one").iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(found.digest(), Ok(digest.as_str()));
        assert!(found.open().is_ok());
        fs::remove_file(&exec).unwrap();
        program(&exec, b"\x7fELF two");
        let error = found.open().unwrap_err();
        assert!(error.ends_with("was changed since the daemon started; restart the daemon, which reads it anew"));
        fs::remove_file(&exec).unwrap();
        assert!(found.open().unwrap_err().ends_with("exec does not exist"));
        let error = runtimes.named("two").unwrap_err();
        assert!(error.ends_with("of `runtimes` there: \"one\""), "{error}");
    }

    #[test]
    fn what_is_no_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        program(&at.join("script"), b"#!/bin/sh\n");
        program(&at.join("empty"), b"");
        program(&at.join("plain"), b"\x7fELF");
        fs::set_permissions(at.join("plain"), fs::Permissions::from_mode(0o644)).unwrap();
        symlink("plain", at.join("link")).unwrap();
        fs::create_dir(at.join("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at.join("pipe"), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        for (name, why) in [
            ("script", "script is no ELF program; name the program itself, not a script that starts it"),
            ("empty", "empty is no ELF program; name the program itself, not a script that starts it"),
            ("plain", "plain is not executable"),
            ("link", "link is a symbolic link; name the place that is meant"),
            ("folder", "folder is no regular file"),
            ("pipe", "pipe is no regular file"),
            ("missing", "missing does not exist"),
        ] {
            let runtimes = look(&at.join(name));
            let error = runtimes.named("one").unwrap().open().unwrap_err();
            assert!(error.ends_with(why), "{error}");
            assert_eq!(runtimes.all().next(), Some(("one", Err(error.as_str()))));
        }
    }
}
