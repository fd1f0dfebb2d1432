//! What a plugin is configured with at the moment: shared by all its versions, and seen by each through its own schema.
//!
//! Elsewhere: how the parts are put together, and what fits, is `model::configuration`; who changes it, `packages::configure`.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::model::configuration::{Overrides, Unfit, effective};
use crate::model::manifest::Manifest;

/// What is said of a plugin, whatever its version.
#[derive(Debug)]
pub struct Configured {
    /// What `palisade.toml` says.
    base: Value,
    said: Mutex<(u64, Arc<Overrides>)>,
    /// Held by who changes it.
    pub changing: tokio::sync::Mutex<()>,
}

impl Configured {
    /// What is said at the beginning.
    #[must_use]
    pub fn new(base: Value, said: Overrides) -> Self {
        Self { base, said: Mutex::new((0, Arc::new(said))), changing: tokio::sync::Mutex::default() }
    }

    /// What `palisade.toml` says.
    #[must_use]
    pub fn base(&self) -> &Value {
        &self.base
    }

    /// What an operator has said since.
    #[must_use]
    pub fn said(&self) -> Arc<Overrides> {
        self.numbered().1
    }

    /// Has this be said from now on, for processes that are started.
    pub fn say(&self, said: Overrides) {
        let mut now = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (now.0 + 1, Arc::new(said));
    }

    fn numbered(&self) -> (u64, Arc<Overrides>) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The same as one version has it.
#[derive(Debug)]
pub struct Configuration {
    of: Arc<Configured>,
    known: Mutex<Option<Known>>,
}

/// What was made of what is said.
#[derive(Debug)]
struct Known {
    /// Of which number.
    number: u64,
    made: Result<Arc<Value>, Unfit>,
}

impl Configuration {
    /// That of a version.
    #[must_use]
    pub fn new(of: Arc<Configured>) -> Self {
        Self { of, known: Mutex::default() }
    }

    /// What is said of all versions.
    #[must_use]
    pub fn of(&self) -> &Arc<Configured> {
        &self.of
    }

    /// What its process gets. Made once for each change.
    ///
    /// # Errors
    /// What of it does not fit the version's schema.
    pub fn now(&self, manifest: &Manifest) -> Result<Arc<Value>, Unfit> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, said) = self.of.numbered();
        match &*known {
            Some(known) if known.number == number => known.made.clone(),
            _ => {
                let made = effective(manifest, &self.of.base, &said).map(Arc::new);
                *known = Some(Known { number, made: made.clone() });
                made
            }
        }
    }

    /// Why no process can have it, if none can.
    #[must_use]
    pub fn unfit(&self, manifest: &Manifest) -> Option<String> {
        // There is nothing that it could be at odds with.
        if manifest.configuration_schema.is_none() && self.of.numbered().1.is_empty() {
            return None;
        }
        self.now(manifest).err().map(|unfit| unfit.to_string())
    }
}
