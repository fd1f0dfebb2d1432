//! Files with keys: one line with what it is, how it signs, what it is called, and the secret in base64.
//!
//! Invariants: a secret is read only from a file that belongs to this user and that nobody else may read, and written into one that was not
//! there before; it is never shown, and never taken from the environment.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::signature::{KEY_BYTES, Secret, SigningKey};
use crate::model::trust::{KeyName, Method};

/// With what every such file begins.
const MARK: &str = "palisade-key-1";

/// No such file is longer.
const FILE_BYTES_MAX: usize = 512;

/// Why there is no key in a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be opened or read, or not be made.
    #[error("the key file {path} cannot be used: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the key file {path} has the mode {mode:04o}, and others may use it; run `chmod 600` on it", path = .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("the key file {path} belongs to user {owner}, and this is user {user}", path = .path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// It is something else.
    #[error("{path} is no key file: {why}; `palisade keygen` makes one", path = .path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A key, and what it is called.
#[derive(Debug)]
pub struct NamedKey {
    /// Its name.
    pub name: KeyName,
    /// The key.
    pub key: SigningKey,
}

impl NamedKey {
    /// Makes a new key, and a file for it that nobody else may read. A file that is there already stays as it is.
    ///
    /// # Errors
    /// [`KeyError::File`]
    pub fn generate(name: KeyName, method: Method, path: &Path) -> Result<Self, KeyError> {
        let failed = |source: io::Error| KeyError::File { path: path.to_owned(), source };
        let mut secret = Secret::default();
        random(secret.as_mut_slice()).map_err(failed)?;
        let text = Zeroizing::new(format!("{MARK} {method} {name} {}\n", STANDARD.encode(secret.as_slice())));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()) {
            // Half a key is none, and would be in the way of the next attempt.
            let _ = fs::remove_file(path);
            return Err(failed(error));
        }
        Ok(Self { name, key: SigningKey::new(method, &secret) })
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source: io::Error| KeyError::File { path: path.to_owned(), source };
        let form = |why| KeyError::Form { path: path.to_owned(), why };
        // Not waiting: it could be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?.into();
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(form("it is no regular file"));
        }
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(KeyError::Foreign { path: path.to_owned(), owner: metadata.uid(), user });
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
        file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if FILE_BYTES_MAX < bytes.len() {
            return Err(form("it is too long"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| form("it is not text"))?;
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let [MARK, method, name, encoded] = words[..] else {
            return Err(form("it does not hold `palisade-key-1`, a method, a name and a secret"));
        };
        let method: Method = method.parse().map_err(|_| form("its method is none that there is"))?;
        let name = KeyName::parse(name).map_err(|_| form("its name is none of a key"))?;
        let decoded = STANDARD.decode(encoded).map(Zeroizing::new).map_err(|_| form("its secret is not base64"))?;
        let secret =
            <[u8; KEY_BYTES]>::try_from(decoded.as_slice()).map_err(|_| form("its secret has not 32 bytes"))?;
        Ok(Self { name, key: SigningKey::new(method, &Zeroizing::new(secret)) })
    }
}

fn random(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let filled = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty())?;
        buffer = &mut buffer[filled..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name() -> KeyName {
        KeyName::parse("release").unwrap()
    }

    #[test]
    fn a_key_is_read_as_it_was_made_and_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for method in [Method::Ed25519, Method::HmacSha256] {
            let made = NamedKey::generate(name(), method, &path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
            let read = NamedKey::read(&path).unwrap();
            assert_eq!((read.name, read.key.method(), read.key.public()), (name(), method, made.key.public()));
            assert!(matches!(NamedKey::generate(name(), method, &path), Err(KeyError::File { .. })), "it stays");
            assert!(NamedKey::read(&path).is_ok());
            for mode in [0o640, 0o604, 0o620, 0o601] {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let error = NamedKey::read(&path).unwrap_err();
                assert!(matches!(error, KeyError::Open { mode: found, .. } if found == mode), "{error}");
            }
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let secret = STANDARD.encode([7; 32]);
        for (text, why) in [
            (String::new(), "does not hold"),
            (format!("palisade-key-2 ed25519 a {secret}"), "does not hold"),
            (format!("palisade-key-1 ed25519 a {secret} b"), "does not hold"),
            (format!("palisade-key-1 rsa a {secret}"), "its method"),
            (format!("palisade-key-1 ed25519 .a {secret}"), "its name"),
            ("palisade-key-1 ed25519 a !".to_owned(), "not base64"),
            ("palisade-key-1 ed25519 a BwcH".to_owned(), "32 bytes"),
            (format!("palisade-key-1 ed25519 a {}", "B".repeat(600)), "too long"),
        ] {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = NamedKey::read(&path).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains(&secret), "{error}");
        }
        assert!(matches!(NamedKey::read(folder.path()), Err(KeyError::Form { why: "it is no regular file", .. })));
        assert!(matches!(NamedKey::read(&folder.path().join("none")), Err(KeyError::File { .. })));
    }
}
