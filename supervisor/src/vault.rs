//! Seals what is not to lie readable on the disk: the state of plugins, and secrets.
//!
//! XChaCha20-Poly1305 with a random nonce of 24 bytes for each piece. A sealed piece names the key by a digest of it, so that one that was
//! sealed under another key is told from one that was changed; and it opens only where it was sealed for, which whoever seals says in words
//! (whose it is, what it is called).
//!
//! Invariants: a key is never shown, and never taken from the environment.
//!
//! Elsewhere: who may have the file that a key is read from is `key_file`'s.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::key_file::{self, Keeper, KeyError, Kind};

/// A key.
pub const KEY_BYTES: usize = 32;

/// With what every sealed piece begins.
const MARK: &[u8; 4] = b"PSV1";

/// So much of the digest of a key names it.
const NAME_BYTES: usize = 8;

const NONCE_BYTES: usize = 24;

const TAG_BYTES: usize = 16;

/// By so much a sealed piece is longer than what is in it.
pub const OVERHEAD_BYTES: usize = MARK.len() + NAME_BYTES + NONCE_BYTES + TAG_BYTES;

/// What is said of a file with something else.
const FORM: &str = "it is not 32 bytes in hexadecimal digits or base64";

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file of this user's, which nobody else may use.
    File(PathBuf),
    /// In the folder of credentials that systemd has made for this service, and that it alone can enter.
    Credential(PathBuf),
}

impl Place {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Credential(path) => path,
        }
    }
}

/// Why something was not sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It was sealed with another key.
    #[error("it was sealed with the key {sealed}, and the configured one is {ours}; configure that key again")]
    OtherKey {
        /// The name of the key that it was sealed with.
        sealed: KeyName,
        /// Ours.
        ours: KeyName,
    },
    /// It does not open: it was changed, or lies somewhere else than where it was sealed for.
    #[error("it was changed since it was sealed, or belongs elsewhere")]
    Changed,
    /// It is nothing that was sealed.
    #[error("it is nothing that was sealed")]
    NotSealed,
    /// The kernel gives no random numbers.
    #[error("there are no random numbers to seal it with: {0}")]
    NoRandom(String),
}

/// By what keys are told apart: the beginning of a digest, from which nothing follows about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyName([u8; NAME_BYTES]);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A key, ready for use. What it has of the key is wiped when it is dropped.
pub struct Vault {
    cipher: XChaCha20Poly1305,
    name: KeyName,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Vault {
    /// The one with the key that lies there. Blocks.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn open(place: &Place) -> Result<Self, KeyError> {
        let path = place.path();
        let keeper = match place {
            Place::File(_) => Keeper::Owner,
            Place::Credential(_) => Keeper::Systemd,
        };
        let text = key_file::read(path, Kind::Sealing, keeper)?;
        let form = KeyError::Form { path: path.to_owned(), kind: Kind::Sealing, why: FORM };
        let key = key_of(text.trim_ascii()).ok_or(form)?;
        Ok(Self::with(&key))
    }

    /// Makes a new key in a file that nobody else may use, in a folder that is there. A file that is there already stays as it is. Blocks.
    ///
    /// # Errors
    /// [`KeyError::File`]
    pub fn generate(path: &Path) -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key_file::random(key.as_mut_slice()).map_err(|source| KeyError::File { path: path.to_owned(), source })?;
        let text = Zeroizing::new(format!("{}\n", Zeroizing::new(STANDARD.encode(key.as_slice())).as_str()));
        // What is sealed with it is worth nothing without it, so it is on the disk first.
        key_file::create(path, text.as_bytes())?;
        Ok(Self::with(&key))
    }

    fn with(key: &Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let mut digest = Sha256::new_with_prefix(b"palisade vault key\0");
        digest.update(key.as_slice());
        let digest = digest.finalize();
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&digest[..NAME_BYTES]);
        Self {
            cipher: XChaCha20Poly1305::new(key.as_slice().try_into().expect("it has 32 bytes")),
            name: KeyName(name),
        }
    }

    /// What its key is called.
    #[must_use]
    pub fn name(&self) -> KeyName {
        self.name
    }

    /// Seals it for a place that these words name.
    ///
    /// # Errors
    /// [`VaultError::NoRandom`]
    pub fn seal(&self, place: &[&str], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0; NONCE_BYTES];
        key_file::random(&mut nonce).map_err(|error| VaultError::NoRandom(error.to_string()))?;
        let mut sealed = [MARK.as_slice(), &self.name.0, &nonce].concat();
        let aad = bound(&sealed[..MARK.len() + NAME_BYTES], place);
        let payload = Payload { msg: plain, aad: &aad };
        // It fails for pieces of hundreds of gigabytes alone.
        let encrypted = self.cipher.encrypt(&nonce.into(), payload).map_err(|_| VaultError::Changed)?;
        sealed.extend_from_slice(&encrypted);
        Ok(sealed)
    }

    /// Opens what was sealed for the place that these words name.
    ///
    /// # Errors
    /// [`VaultError`]
    pub fn unseal(&self, place: &[&str], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let name = key_name(sealed).ok_or(VaultError::NotSealed)?;
        if name != self.name {
            return Err(VaultError::OtherKey { sealed: name, ours: self.name });
        }
        let (head, rest) = sealed.split_at(MARK.len() + NAME_BYTES);
        let (nonce, encrypted) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::NotSealed)?;
        let aad = bound(head, place);
        let payload = Payload { msg: encrypted, aad: &aad };
        self.cipher.decrypt(&(*nonce).into(), payload).map(Zeroizing::new).map_err(|_| VaultError::Changed)
    }
}

/// Whether it looks like something that was sealed, with whichever key.
#[must_use]
pub fn is_sealed(bytes: &[u8]) -> bool {
    key_name(bytes).is_some()
}

/// With which key it was sealed, if it was.
fn key_name(bytes: &[u8]) -> Option<KeyName> {
    if bytes.len() < OVERHEAD_BYTES {
        return None;
    }
    let name = bytes.strip_prefix(MARK)?.first_chunk::<NAME_BYTES>()?;
    Some(KeyName(*name))
}

/// What a piece is bound to. Each word comes after its length, so that no two places are the same.
fn bound(head: &[u8], place: &[&str]) -> Vec<u8> {
    let mut all = head.to_vec();
    for word in place {
        all.extend_from_slice(&(word.len() as u64).to_le_bytes());
        all.extend_from_slice(word.as_bytes());
    }
    all
}

fn key_of(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if text.len() == 2 * KEY_BYTES {
        for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?;
        }
        return Some(key);
    }
    let decoded = Zeroizing::new(STANDARD.decode(text).ok()?);
    if decoded.len() != KEY_BYTES {
        return None;
    }
    key.copy_from_slice(&decoded);
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use proptest::prelude::*;

    use super::*;

    fn vault(byte: u8) -> Vault {
        Vault::with(&Zeroizing::new([byte; KEY_BYTES]))
    }

    fn write(folder: &Path, text: &[u8], mode: u32) -> Place {
        let path = folder.join("key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Place::File(path)
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_where_it_belongs_and_nowhere_else(
            plain in prop::collection::vec(any::<u8>(), 0..200), id in "[a-z]{1,5}", key in "[a-z]{0,5}", at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let vault = vault(1);
            let sealed = vault.seal(&[&id, &key], &plain).unwrap();
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD_BYTES);
            prop_assert_eq!(&*vault.unseal(&[&id, &key], &sealed).unwrap(), &plain);
            prop_assert_ne!(&vault.seal(&[&id, &key], &plain).unwrap(), &sealed, "no nonce is used twice");
            let moved = format!("{id}{key}");
            for elsewhere in [&[id.as_str()][..], &[&moved], &[&moved, ""], &["", &moved], &[&id, &key, ""]] {
                if elsewhere != [id.as_str(), key.as_str()] {
                    prop_assert_eq!(vault.unseal(elsewhere, &sealed).unwrap_err(), VaultError::Changed);
                }
            }
            let mut changed = sealed.clone();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            prop_assert!(vault.unseal(&[&id, &key], &changed).is_err());
            prop_assert!(vault.unseal(&[&id, &key], &sealed[..at]).is_err());
        }
    }

    #[test]
    fn another_key_is_named_and_garbage_is_not_sealed() {
        let sealed = vault(1).seal(&["a"], b"text").unwrap();
        let error = vault(2).unseal(&["a"], &sealed).unwrap_err();
        assert_eq!(error, VaultError::OtherKey { sealed: vault(1).name(), ours: vault(2).name() });
        assert!(error.to_string().contains(&vault(1).name().to_string()));
        assert!(is_sealed(&sealed) && !is_sealed(b"") && !is_sealed(&[0; 100]));
        assert_eq!(vault(1).unseal(&["a"], &[0; 100]).unwrap_err(), VaultError::NotSealed);
        assert!(!format!("{:?}", vault(7)).contains("07, 07"));
    }

    #[test]
    fn a_key_is_hexadecimal_or_base64() {
        let folder = tempfile::tempdir().unwrap();
        let hex: String = (0..64).map(|_| 'A').collect();
        let base64 = STANDARD.encode([0xaa; KEY_BYTES]);
        for text in [format!("{hex}\n"), hex.to_lowercase(), format!("  {base64}\n\n")] {
            let place = write(folder.path(), text.as_bytes(), 0o600);
            assert_eq!(Vault::open(&place).unwrap().name(), vault(0xaa).name(), "{text:?}");
        }
        for text in ["", "hello", &hex[1..], &format!("{hex}{hex}{hex}{hex}{hex}{hex}{hex}{hex}{hex}"), &"g".repeat(64)]
        {
            let place = write(folder.path(), text.as_bytes(), 0o600);
            assert!(matches!(Vault::open(&place), Err(KeyError::Form { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_unless_systemd_has_put_it_there() {
        let folder = tempfile::tempdir().unwrap();
        let place = write(folder.path(), STANDARD.encode([1; KEY_BYTES]).as_bytes(), 0o640);
        let error = Vault::open(&place).unwrap_err();
        assert!(matches!(error, KeyError::Open { mode: 0o640, .. }), "{error}");
        assert!(error.to_string().contains("chmod 600"));
        assert!(Vault::open(&Place::Credential(place.path().to_owned())).is_ok());
        let folder_itself = Place::File(folder.path().to_owned());
        assert!(matches!(Vault::open(&folder_itself), Err(KeyError::Form { .. })));
        let missing = Place::File(folder.path().join("none"));
        assert!(matches!(Vault::open(&missing), Err(KeyError::File { .. })));
    }

    #[test]
    fn a_new_key_is_for_its_user_alone_and_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = Vault::generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Vault::open(&Place::File(path.clone())).unwrap().name(), made.name());
        assert!(matches!(Vault::generate(&path), Err(KeyError::File { .. })));
        assert_eq!(Vault::open(&Place::File(path)).unwrap().name(), made.name());
    }
}
