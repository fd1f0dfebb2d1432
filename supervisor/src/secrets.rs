//! The secrets of plugins: sealed in the registry's database, opened only when a plugin asks for one.
//!
//! They are sealed with the configured key. Where none is configured a key is made with the first secret, in a file of the state folder that
//! nobody else may use; it goes on opening what was sealed with it when a key is configured later.
//!
//! Invariants: what a secret is stands in nothing that is not wiped when it is dropped, in no error and in no log; a plugin is given none
//! that its manifest does not name, or that it was not granted.
//! Elsewhere: who may set one, and which there can be, is `packages::secrets`; the frame that carries one is `plugin::link`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Deserialize;
use serde::de::{self, Visitor};
use zeroize::Zeroizing;

use crate::blocking;
use crate::model::ids::{PluginId, SecretName};
use crate::model::status::quoted;
use crate::store::database::{Database, DatabaseError, Entry};
use crate::vault::{Place, Vault, VaultError};

/// The longest secret.
pub const BYTES_MAX: usize = 16 << 10;

/// The host call by which a plugin asks for one.
pub const GET: &str = "secret.get";

/// The file with the key that is made where none is configured, in the state folder.
const KEY_FILE: &str = "secrets.key";

/// What a secret is: a text, which is wiped when it is dropped, and which nothing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text that may be one.
    ///
    /// # Errors
    /// What is wrong with its length, a sentence.
    pub fn new(text: Zeroizing<String>) -> Result<Self, String> {
        match text.len() {
            0 => Err("a secret is not empty".to_owned()),
            length if BYTES_MAX < length => {
                Err(format!("a secret has at most {BYTES_MAX} bytes, and this has {length}"))
            }
            _ => Ok(Self(text)),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads it without a copy of it being left anywhere, or any of it standing in an error.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Secret::new(Zeroizing::new(text.to_owned())).map_err(E::custom)
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
                Secret::new(Zeroizing::new(text)).map_err(E::custom)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
                Err(other())
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(other())
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(other())
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(other())
            }

            fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Secret, E> {
                Err(other())
            }
        }

        fn other<E: de::Error>() -> E {
            E::custom("a secret is a text")
        }

        deserializer.deserialize_str(Text)
    }
}

/// Why a secret was not kept, or not opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// There is no key to be had: a sentence.
    #[error("{0}")]
    NoKey(String),
    /// It cannot be sealed or opened.
    #[error("the secret {name} cannot be {done}: {source}")]
    Vault {
        /// Which.
        name: SecretName,
        /// `sealed` or `opened`.
        done: &'static str,
        /// Why.
        source: VaultError,
    },
}

impl SecretError {
    fn body(&self) -> ErrorBody {
        let code = match self {
            Self::Database(_) => ErrorCode::DependencyUnavailable,
            Self::NoKey(_) | Self::Vault { .. } => ErrorCode::ConfigurationInvalid,
        };
        let error = ErrorBody::new(code, self.to_string());
        match self {
            Self::Vault { source: VaultError::OtherKey { .. }, name, .. } => {
                error.with_hint(format!("or set it anew, with `palisade secret set PLUGIN {name}`"))
            }
            _ => error,
        }
    }
}

/// What opens and seals them.
#[derive(Debug)]
struct Keys {
    configured: Option<Arc<Vault>>,
    /// That of the file, or what is wrong with it; nothing where there is no such file.
    made: Option<Result<Arc<Vault>, String>>,
}

/// Those of all plugins.
#[derive(Debug)]
pub struct Secrets {
    database: Arc<Database>,
    key_file: PathBuf,
    keys: Mutex<Keys>,
    /// Which are set.
    set: Mutex<BTreeMap<PluginId, BTreeSet<SecretName>>>,
}

impl Secrets {
    /// Those that the database has; the key that was made for them, if one was, lies in this folder. Blocks.
    #[must_use]
    pub fn open(database: Arc<Database>, state: &std::path::Path, configured: Option<Arc<Vault>>) -> Self {
        let key_file = state.join(KEY_FILE);
        let made = key_file.symlink_metadata().is_ok().then(|| {
            Vault::open(&Place::File(key_file.clone())).map(Arc::new).map_err(|error| {
                let told = error.to_string();
                tracing::error!(
                    error = told,
                    "secrets that were sealed with the key that was made for them cannot be opened"
                );
                told
            })
        });
        let set = database.secrets().unwrap_or_else(|error| {
            tracing::error!(%error, "which secrets are set is not known");
            BTreeMap::new()
        });
        Self { database, key_file, keys: Mutex::new(Keys { configured, made }), set: Mutex::new(set) }
    }

    /// Whether it is set. Does not block.
    #[must_use]
    pub fn is_set(&self, id: &PluginId, name: &SecretName) -> bool {
        lock(&self.set).get(id).is_some_and(|set| set.contains(name))
    }

    /// Keeps one. Blocks.
    ///
    /// # Errors
    /// [`SecretError`]; then it is what it was before.
    pub fn set(&self, id: &PluginId, name: &SecretName, value: &Secret, entry: &Entry) -> Result<(), SecretError> {
        let vault = self.sealing()?;
        let sealed = vault.seal(&place(id, name), value.0.as_bytes());
        let sealed = sealed.map_err(|source| SecretError::Vault { name: name.clone(), done: "sealed", source })?;
        self.database.set_secret(name, &sealed, entry)?;
        lock(&self.set).entry(id.clone()).or_default().insert(name.clone());
        Ok(())
    }

    /// Forgets one. Blocks.
    ///
    /// # Errors
    /// [`SecretError::Database`]
    pub fn remove(&self, id: &PluginId, name: &SecretName, entry: &Entry) -> Result<(), SecretError> {
        self.database.remove_secret(name, entry)?;
        if let Some(set) = lock(&self.set).get_mut(id) {
            set.remove(name);
        }
        Ok(())
    }

    /// Takes in that the database has none any more of a plugin.
    pub fn forget(&self, id: &PluginId) {
        lock(&self.set).remove(id);
    }

    /// Opens one, if it is set. Blocks.
    ///
    /// # Errors
    /// [`SecretError`]
    pub fn get(&self, id: &PluginId, name: &SecretName) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
        let Some(sealed) = self.database.sealed_secret(id, name)? else { return Ok(None) };
        let place = place(id, name);
        let (configured, made) = {
            let keys = lock(&self.keys);
            (keys.configured.clone(), keys.made.clone())
        };
        let failed = |source| SecretError::Vault { name: name.clone(), done: "opened", source };
        let mut other = None;
        for vault in [configured, made.as_ref().and_then(|made| made.as_ref().ok().cloned())].into_iter().flatten() {
            match vault.unseal(&place, &sealed) {
                Ok(plain) => return Ok(Some(plain)),
                Err(error @ VaultError::OtherKey { .. }) => other = other.or(Some(error)),
                Err(error) => return Err(failed(error)),
            }
        }
        match (made, other) {
            (Some(Err(told)), _) => Err(SecretError::NoKey(told)),
            (_, Some(error)) => Err(failed(error)),
            (_, None) => Err(SecretError::NoKey(format!(
                "there is no key to open the secret {name} with: {} is gone, and no `state.key_file` is configured",
                self.key_file.display()
            ))),
        }
    }

    /// What seals: the configured key, or the one that was made, which is made now if it never was.
    fn sealing(&self) -> Result<Arc<Vault>, SecretError> {
        let mut keys = lock(&self.keys);
        if let Some(configured) = &keys.configured {
            return Ok(configured.clone());
        }
        if keys.made.is_none() {
            let made = Vault::generate(&self.key_file).map_err(|error| SecretError::NoKey(error.to_string()))?;
            tracing::info!(key_file = %self.key_file.display(), "a key was made to seal secrets with");
            keys.made = Some(Ok(Arc::new(made)));
        }
        match &keys.made {
            Some(Ok(made)) => Ok(made.clone()),
            Some(Err(told)) => Err(SecretError::NoKey(told.clone())),
            None => Err(SecretError::NoKey(format!("{} was not made", self.key_file.display()))),
        }
    }

    /// With which key they are sealed: a sentence, or what is wrong with it.
    ///
    /// # Errors
    /// The key that was made cannot be used, and what was sealed with it not be opened.
    pub fn sealed_with(&self) -> Result<String, String> {
        let keys = lock(&self.keys);
        let file = self.key_file.display();
        match (&keys.configured, &keys.made) {
            (_, Some(Err(told))) => Err(told.clone()),
            (Some(_), None) => Ok("secrets are sealed with the configured key".to_owned()),
            (Some(_), Some(Ok(_))) => Ok(format!(
                "secrets are sealed with the configured key; those set before it was configured, with the one in {file}"
            )),
            (None, Some(Ok(_))) => {
                Ok(format!("no key is configured; secrets are sealed with the one in {file}, which was made for them"))
            }
            (None, None) => Ok(format!("no key is configured; with the first secret one is made, in {file}")),
        }
    }
}

/// What the processes of one version of a plugin may have of its secrets.
#[derive(Debug)]
pub struct SecretsView {
    secrets: Arc<Secrets>,
    id: PluginId,
    /// Those that its manifest names, and whether it does without.
    named: Vec<(SecretName, Need)>,
    granted: Vec<SecretName>,
}

/// Whether a plugin does without a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Required,
    Optional,
}

/// What a plugin asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
}

impl SecretsView {
    /// For a plugin whose manifest names these, and that was granted those.
    #[must_use]
    pub fn new(secrets: Arc<Secrets>, id: PluginId, named: Vec<(SecretName, Need)>, granted: Vec<SecretName>) -> Self {
        Self { secrets, id, named, granted }
    }

    /// Those that it was granted, cannot do without, and that are not set.
    #[must_use]
    pub fn missing(&self) -> Vec<SecretName> {
        let needed = self.named.iter().filter(|(_, need)| *need == Need::Required).map(|(name, _)| name);
        let granted = needed.filter(|name| self.granted.contains(name));
        granted.filter(|name| !self.secrets.is_set(&self.id, name)).cloned().collect()
    }

    /// Answers `secret.get`: a frame's payload, which is wiped when it is dropped.
    ///
    /// # Errors
    /// `permission_denied` for one that the manifest does not name or that was not granted, `resource_not_found` for one that is not set.
    pub async fn call(&self, params: &[u8]) -> Result<Zeroizing<Vec<u8>>, ErrorBody> {
        let Asked { name } = palisade_protocol::decode_value(params)
            .map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, error.to_string()))?;
        let id = &self.id;
        let Some((name, _)) = self.named.iter().find(|(named, _)| named.as_str() == name) else {
            let message = format!("the plugin.json of {id} names no secret {}", quoted(&name));
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, message)
                .with_hint("a plugin is given what its manifest lists in `secrets`"));
        };
        if !self.granted.contains(name) {
            let message = format!("the secret {name} was not granted to {id}");
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, message)
                .with_hint(format!("`palisade grant {id} secret:{name}` grants it")));
        }
        let (secrets, of, wanted) = (self.secrets.clone(), id.clone(), name.clone());
        let opened = blocking::run(move || secrets.get(&of, &wanted).map(|plain| plain.map(|plain| payload(&plain))));
        let opened = opened.await.map_err(|error| {
            ErrorBody::new(ErrorCode::ResourceExhausted, format!("there is no thread to be had for it: {error}"))
        })?;
        opened.map_err(|error| error.body())?.ok_or_else(|| {
            let message = format!("the secret {name} of {id} is not set");
            ErrorBody::new(ErrorCode::ResourceNotFound, message)
                .with_hint(format!("`palisade secret set {id} {name}` sets it, from stdin"))
        })
    }
}

/// `{value}` as MessagePack, in memory that never grows, so that nothing of it is left behind.
fn payload(plain: &[u8]) -> Zeroizing<Vec<u8>> {
    const NAME: &[u8] = b"\x81\xa5value";
    let mut payload = Zeroizing::new(Vec::with_capacity(NAME.len() + 5 + plain.len()));
    payload.extend_from_slice(NAME);
    // A text with its length in 32 bits.
    payload.push(0xdb);
    payload.extend_from_slice(&u32::try_from(plain.len()).unwrap_or(u32::MAX).to_be_bytes());
    payload.extend_from_slice(plain);
    payload
}

fn place<'a>(id: &'a PluginId, name: &'a SecretName) -> [&'a str; 3] {
    ["secret", id.as_str(), name.as_str()]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
