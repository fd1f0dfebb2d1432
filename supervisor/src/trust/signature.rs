//! Signatures over a manifest: what exactly is signed, how it is made and how it is verified. `docs/integrity.md` has the recipe.
//!
//! Invariants: what is signed begins with words that nothing else of ours begins with, and holds method, key and time, so that none of
//! them can be exchanged; shared keys are compared in constant time; nothing of a secret is ever shown.

use std::fmt;

use ed25519_dalek::Signer as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::canonical::{CanonicalError, canonical};
use crate::model::trust::{KeyName, Method, Signature, SignedAt};

/// With what every signed text begins.
const DOMAIN: &str = "palisade-plugin-signature-1";

/// A key of either kind has so many bytes.
pub const KEY_BYTES: usize = 32;

/// A secret, which goes when it is dropped.
pub type Secret = Zeroizing<[u8; KEY_BYTES]>;

/// What signatures are made with.
pub enum SigningKey {
    /// A private key.
    Ed25519(Box<ed25519_dalek::SigningKey>),
    /// A shared one.
    HmacSha256(Secret),
}

/// What signatures are verified with.
pub enum VerifyingKey {
    /// A public key.
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    /// A shared one.
    HmacSha256(Secret),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.method())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.method())
    }
}

impl SigningKey {
    /// The key that such a secret is.
    #[must_use]
    pub fn new(method: Method, secret: &Secret) -> Self {
        match method {
            Method::Ed25519 => Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(secret))),
            Method::HmacSha256 => Self::HmacSha256(secret.clone()),
        }
    }

    /// How it signs.
    #[must_use]
    pub fn method(&self) -> Method {
        match self {
            Self::Ed25519(_) => Method::Ed25519,
            Self::HmacSha256(_) => Method::HmacSha256,
        }
    }

    /// What the daemon has to know of a private key; nothing of one that is shared may be told.
    #[must_use]
    pub fn public(&self) -> Option<[u8; KEY_BYTES]> {
        match self {
            Self::Ed25519(key) => Some(key.verifying_key().to_bytes()),
            Self::HmacSha256(_) => None,
        }
    }

    /// What verifies the signatures that it makes.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        match self {
            Self::Ed25519(key) => VerifyingKey::Ed25519(Box::new(key.verifying_key())),
            Self::HmacSha256(secret) => VerifyingKey::HmacSha256(secret.clone()),
        }
    }

    /// Signs the bytes of a manifest.
    ///
    /// # Errors
    /// [`CanonicalError`]
    pub fn sign(&self, manifest: &[u8], key_id: &KeyName, signed_at: &SignedAt) -> Result<Signature, CanonicalError> {
        let method = self.method();
        let message = message(manifest, method, key_id, signed_at)?;
        let value = match self {
            Self::Ed25519(key) => key.sign(&message).to_bytes().to_vec(),
            Self::HmacSha256(secret) => mac(secret, &message).finalize().into_bytes().to_vec(),
        };
        Ok(Signature { method, key_id: key_id.clone(), value, signed_at: signed_at.clone() })
    }
}

impl VerifyingKey {
    /// The key that these bytes are.
    ///
    /// # Errors
    /// They are none that anything can be verified with.
    pub fn public(bytes: &[u8; KEY_BYTES]) -> Result<Self, String> {
        match ed25519_dalek::VerifyingKey::from_bytes(bytes) {
            Ok(key) if key.is_weak() => Err("it is a weak key, for which anybody can sign".to_owned()),
            Ok(key) => Ok(Self::Ed25519(Box::new(key))),
            Err(_) => Err("it is no Ed25519 public key".to_owned()),
        }
    }

    /// How it verifies.
    #[must_use]
    pub fn method(&self) -> Method {
        match self {
            Self::Ed25519(_) => Method::Ed25519,
            Self::HmacSha256(_) => Method::HmacSha256,
        }
    }

    /// Whether that is the signature of this key for the bytes of a manifest.
    ///
    /// # Errors
    /// [`CanonicalError`]
    pub fn verify(&self, manifest: &[u8], signature: &Signature) -> Result<bool, CanonicalError> {
        let message = message(manifest, self.method(), &signature.key_id, &signature.signed_at)?;
        Ok(match self {
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(&signature.value)
                .is_ok_and(|signature| key.verify_strict(&message, &signature).is_ok()),
            Self::HmacSha256(secret) => mac(secret, &message).verify_slice(&signature.value).is_ok(),
        })
    }
}

fn mac(secret: &Secret, message: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_slice()).expect("HMAC takes keys of every length");
    mac.update(message);
    mac
}

/// What is signed. None of the words before the manifest can have a line break in it.
fn message(manifest: &[u8], method: Method, key: &KeyName, at: &SignedAt) -> Result<Vec<u8>, CanonicalError> {
    let mut message = format!("{DOMAIN}\n{method}\n{key}\n{}\n", at.as_str()).into_bytes();
    message.extend(canonical(manifest)?);
    Ok(message)
}
