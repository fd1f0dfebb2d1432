//! Files with keys: one line with what it is, how it signs, what it is called, and the secret in base64.
//!
//! Invariants: a secret is never shown, and never taken from the environment.
//!
//! Elsewhere: who may have such a file is `key_file`'s.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::signature::{KEY_BYTES, Secret, SigningKey};
use crate::key_file::{self, Keeper, KeyError, Kind};
use crate::model::trust::{KeyName, Method};

/// With what every such file begins.
const MARK: &str = "palisade-key-1";

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
        let mut secret = Secret::default();
        let made = key_file::random(secret.as_mut_slice());
        made.map_err(|source| KeyError::File { path: path.to_owned(), source })?;
        let encoded = Zeroizing::new(STANDARD.encode(secret.as_slice()));
        let text = Zeroizing::new(format!("{MARK} {method} {name} {}\n", encoded.as_str()));
        key_file::create(path, text.as_bytes())?;
        Ok(Self { name, key: SigningKey::new(method, &secret) })
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let form = |why| KeyError::Form { path: path.to_owned(), kind: Kind::Signing, why };
        let bytes = key_file::read(path, Kind::Signing, Keeper::Owner)?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
