//! Which secrets of plugins are set, and how an operator sets and removes them.
//!
//! A secret belongs to a plugin in all its versions. Only what a version that is there names in its manifest can be set, so that a name that was
//! mistyped is told; what was set stays until it is removed, or the plugin is purged.
//!
//! Elsewhere: what keeps and opens them is `secrets`; whether a plugin is given one is decided as for permissions, in `packages::consent`.

use std::collections::BTreeMap;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;

use super::{Packages, run};
use crate::events::EventKind;
use crate::model::ids::{PluginId, SecretName};
use crate::model::permission::consent::Decision;
use crate::model::permission::grants;
use crate::model::status::quoted;
use crate::plugin::handle::Handle;
use crate::registry::Registry;
use crate::secrets::{Secret, SecretError};
use crate::store::database::Condition;

/// The secrets of a plugin.
#[derive(Debug, Clone, Serialize)]
pub struct SecretList {
    /// Which plugin.
    pub id: String,
    /// Those that a version of it names, and those that are set, by name.
    pub secrets: Vec<SecretStatus>,
}

/// One of them. What it is nobody is told.
#[derive(Debug, Clone, Serialize)]
pub struct SecretStatus {
    /// What it is called.
    pub name: String,
    /// Whether it is set,
    pub set: bool,
    /// since when,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_unix_ms: Option<u64>,
    /// and by whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The version whose manifest names it, the highest if there are several,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// what was decided of it for that one,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// whether it does without,
    pub optional: bool,
    /// and why it wants it, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a change came to.
#[derive(Debug, Clone, Serialize)]
pub struct SecretChanged {
    /// Of which plugin.
    pub id: String,
    /// Which secret.
    pub name: String,
    /// Whether it is set now.
    pub set: bool,
    /// Whether it was set before.
    pub was_set: bool,
}

impl Packages {
    /// The secrets of a plugin.
    ///
    /// # Errors
    /// `plugin_not_found`; `resource_exhausted` where the database cannot be read.
    pub async fn secrets(&self, plugin: &str) -> Result<SecretList, ErrorBody> {
        let registry = self.registry()?;
        let id = registry.find_any(plugin, None)?.id().clone();
        let mut all: BTreeMap<SecretName, SecretStatus> = BTreeMap::new();
        // The highest comes last, and its word counts.
        for (version, handle) in registry.versions(&id) {
            for secret in named(handle, version) {
                all.insert(secret.0, secret.1);
            }
        }
        drop(registry);
        let (database, of) = (self.database.clone(), id.clone());
        let set = run(move || database.secrets_of(&of)).await?;
        for one in set.map_err(|error| super::unwritten(&error))? {
            let status = all.entry(one.name.clone()).or_insert_with(|| unnamed(&one.name));
            (status.set, status.at_unix_ms, status.by) = (true, Some(one.at_unix_ms), Some(one.who));
        }
        Ok(SecretList { id: id.to_string(), secrets: all.into_values().collect() })
    }

    /// Sets a secret. A plugin that runs is given it when it asks the next time.
    ///
    /// Not cancel safe: it may be set, and nobody be told.
    ///
    /// # Errors
    /// `plugin_not_found`; `invalid_params` for a name that no version of the plugin has; `configuration_invalid` where there is no key;
    /// `resource_exhausted` where it cannot be kept.
    pub async fn set_secret(
        &self,
        plugin: &str,
        name: &str,
        value: Secret,
        who: &str,
    ) -> Result<SecretChanged, ErrorBody> {
        let name = parsed(name)?;
        let registry = self.registry()?;
        let id = registry.find_any(plugin, None)?.id().clone();
        let version = naming(&registry, &id, &name)?;
        drop(registry);
        self.refuse_if_volatile()?;
        let entry = self.entry("secret_set", who, &id, &version, name.to_string());
        let was_set = self.secrets.is_set(&id, &name);
        let (secrets, of, called) = (self.secrets.clone(), id.clone(), name.clone());
        run(move || secrets.set(&of, &called, &value, &entry)).await?.map_err(|error| not_kept(&error))?;
        self.live.has_changed();
        self.tell(EventKind::SecretSet, &id, &version, Some(name.to_string()));
        Ok(SecretChanged { id: id.to_string(), name: name.to_string(), set: true, was_set })
    }

    /// Removes a secret. A plugin that has it keeps what it has.
    ///
    /// # Errors
    /// `plugin_not_found`; `resource_not_found` where it is not set; `resource_exhausted` where that cannot be noted.
    pub async fn remove_secret(&self, plugin: &str, name: &str, who: &str) -> Result<SecretChanged, ErrorBody> {
        let name = parsed(name)?;
        let registry = self.registry()?;
        let handle = registry.find_any(plugin, None)?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        drop(registry);
        if !self.secrets.is_set(&id, &name) {
            let message = format!("the secret {name} of {id} is not set");
            return Err(ErrorBody::new(ErrorCode::ResourceNotFound, message)
                .with_hint(format!("`palisade secret list {id}` shows which are")));
        }
        self.refuse_if_volatile()?;
        let entry = self.entry("secret_remove", who, &id, &version, name.to_string());
        let (secrets, of, called) = (self.secrets.clone(), id.clone(), name.clone());
        run(move || secrets.remove(&of, &called, &entry)).await?.map_err(|error| not_kept(&error))?;
        self.live.has_changed();
        self.tell(EventKind::SecretRemoved, &id, &version, Some(name.to_string()));
        Ok(SecretChanged { id: id.to_string(), name: name.to_string(), set: false, was_set: true })
    }

    /// With which key secrets are sealed: a sentence.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn secrets_sealed_with(&self) -> Result<String, String> {
        self.secrets.sealed_with()
    }

    /// Refuses what would be forgotten with the daemon: one that was set, and worse, that one was removed.
    fn refuse_if_volatile(&self) -> Result<(), ErrorBody> {
        match self.database.condition() {
            Condition::Good | Condition::Renewed { .. } => Ok(()),
            Condition::Volatile { reason, .. } => {
                let message = format!("the registry's database cannot be used, so it would not be kept: {reason}");
                Err(ErrorBody::new(ErrorCode::ResourceExhausted, message))
            }
        }
    }
}

/// Those that the manifest of a version names.
fn named(handle: &Handle, version: &Version) -> Vec<(SecretName, SecretStatus)> {
    let blueprint = handle.blueprint();
    let items = &blueprint.consent.verdict.items;
    let decision_of = |name: &SecretName| {
        let is_it = |scope: Option<String>| scope.as_deref() == Some(name.as_str());
        let its = items.iter().find(|one| one.item.permission() == grants::SECRET && is_it(one.item.scope()));
        its.map(|one| one.decision)
    };
    let status = |secret: &crate::model::manifest::SecretRequest| {
        let status = SecretStatus {
            version: Some(version.to_string()),
            decision: decision_of(&secret.name),
            optional: secret.optional,
            reason: secret.reason.clone(),
            ..unnamed(&secret.name)
        };
        (secret.name.clone(), status)
    };
    blueprint.manifest.secrets.iter().map(status).collect()
}

/// One that no manifest names.
fn unnamed(name: &SecretName) -> SecretStatus {
    SecretStatus {
        name: name.to_string(),
        set: false,
        at_unix_ms: None,
        by: None,
        version: None,
        decision: None,
        optional: false,
        reason: None,
    }
}

/// The highest version whose manifest names it.
fn naming(registry: &Registry, id: &PluginId, name: &SecretName) -> Result<Version, ErrorBody> {
    let names = |handle: &Handle| handle.blueprint().manifest.secrets.iter().any(|secret| secret.name == *name);
    if let Some((version, _)) = registry.versions(id).filter(|(_, handle)| names(handle)).last() {
        return Ok(version.clone());
    }
    let message = format!("no version of {id} asks for a secret {}", quoted(name.as_str()));
    let mut asked: Vec<_> = registry
        .versions(id)
        .flat_map(|(_, handle)| &handle.blueprint().manifest.secrets)
        .map(|secret| secret.name.as_str())
        .collect();
    asked.sort_unstable();
    asked.dedup();
    let hint = match asked.as_slice() {
        [] => "its plugin.json lists none in `secrets`".to_owned(),
        asked => format!("it asks for {}", asked.join(", ")),
    };
    Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint))
}

fn parsed(name: &str) -> Result<SecretName, ErrorBody> {
    SecretName::parse(name).map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, error.to_string()))
}

fn not_kept(error: &SecretError) -> ErrorBody {
    let code = match error {
        SecretError::Database(_) => ErrorCode::ResourceExhausted,
        SecretError::NoKey(_) | SecretError::Vault { .. } => ErrorCode::ConfigurationInvalid,
    };
    ErrorBody::new(code, error.to_string())
}
