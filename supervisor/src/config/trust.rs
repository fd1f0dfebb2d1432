//! The table `[trust]`: what is required of packages, and which keys may sign them.
//!
//! Elsewhere: what the entries mean is `model::trust`; files with keys are read in `trust::keys`, and never before they are needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::model::trust::{Ids, KeyName, Material, Method, Policy, SKEW, Settings, Trusted};

/// More keys and sources than these are not kept by hand.
const ENTRIES_MAX: usize = 1000;

/// Nobody's signatures hold for more than a century.
const DAYS_MAX: u32 = 36_500;

/// Clocks that differ by more are wrong.
const SKEW_SECONDS_MAX: u32 = 86_400;

/// The table as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    #[serde(default)]
    policy: Policy,
    max_age_days: Option<u32>,
    clock_skew_seconds: Option<u32>,
    #[serde(default)]
    sources: BTreeMap<PathBuf, Source>,
    #[serde(default)]
    keys: BTreeMap<String, Key>,
}

/// What is said of one source.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    policy: Policy,
}

/// One key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    method: Method,
    public_key: Option<String>,
    key_file: Option<PathBuf>,
    ids: Ids,
    #[serde(default)]
    revoked: Revoked,
}

/// Whether, and why.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Revoked {
    Is(bool),
    Because(String),
}

impl Default for Revoked {
    fn default() -> Self {
        Self::Is(false)
    }
}

impl Table {
    /// Reads the entries; `base` is the folder to which paths are relative.
    ///
    /// # Errors
    /// A sentence that names the first that is wrong.
    pub(super) fn understand(&self, base: &Path) -> Result<Settings, String> {
        for (what, count) in [("sources", self.sources.len()), ("keys", self.keys.len())] {
            if ENTRIES_MAX < count {
                return Err(format!("trust.{what} has {count} entries; at most {ENTRIES_MAX} are allowed"));
            }
        }
        let age_max = match self.max_age_days {
            Some(days) if !(1..=DAYS_MAX).contains(&days) => {
                return Err(format!("trust.max_age_days is {days}; it can be from 1 to {DAYS_MAX}"));
            }
            days => days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600)),
        };
        let skew = match self.clock_skew_seconds {
            Some(seconds) if SKEW_SECONDS_MAX < seconds => {
                return Err(format!("trust.clock_skew_seconds is {seconds}; it can be from 0 to {SKEW_SECONDS_MAX}"));
            }
            seconds => seconds.map_or(SKEW, |seconds| Duration::from_secs(seconds.into())),
        };
        let keys = self
            .keys
            .iter()
            .map(|(name, key)| {
                let place = |why| format!("trust.keys.{name}: {why}");
                Ok((KeyName::parse(name).map_err(place)?, key.understand(base).map_err(place)?))
            })
            .collect::<Result<_, String>>()?;
        let sources = self.sources.iter().map(|(path, source)| (base.join(path), source.policy)).collect();
        Ok(Settings { policy: self.policy, sources, age_max, skew, keys })
    }
}

impl Key {
    fn understand(&self, base: &Path) -> Result<Trusted, String> {
        let material = match (self.method, &self.public_key, &self.key_file) {
            (Method::Ed25519, Some(text), None) => {
                let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
                Material::Public(
                    bytes.ok_or("`public_key` has to be 32 bytes in base64, as `palisade keygen` prints it")?,
                )
            }
            (Method::HmacSha256, None, Some(path)) => Material::File(base.join(path)),
            (Method::Ed25519, ..) => {
                return Err("a key for \"ed25519\" has a `public_key`, and no `key_file`".to_owned());
            }
            (Method::HmacSha256, ..) => {
                return Err("a key for \"hmac-sha256\" has a `key_file`, and no `public_key`".to_owned());
            }
        };
        let revoked = match &self.revoked {
            Revoked::Is(false) => None,
            Revoked::Is(true) => Some(String::new()),
            Revoked::Because(reason) => Some(reason.clone()),
        };
        Ok(Trusted { material, ids: self.ids.clone(), revoked })
    }
}
