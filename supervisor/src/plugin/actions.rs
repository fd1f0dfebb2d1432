//! What a plugin said it can do, and whether a call fits that.
//!
//! Schemas are kept as they came, as bytes, and compiled when the first call needs them: a tree of JSON takes ten times the
//! room, and most actions of most plugins are never called. A schema that accepts everything is not checked at all; nothing
//! outside the schema itself is ever fetched.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use palisade_protocol::{ActionInfo, ErrorBody, ErrorCode, ValueLimits, check_value};
use serde_json::Value;

use crate::model::drift::drift;
use crate::model::ids::ActionName;
use crate::model::manifest::{Manifest, TIME_MAX};
use crate::model::nearest::nearest;
use crate::model::schema::{Schema, is_anything, listed};
use crate::model::status::quoted;

/// Most actions of one plugin.
pub const ACTIONS_MAX: usize = 1024;

/// Most differences between manifest and program that one error names.
const DRIFTS_MAX: usize = 5;

/// The actions of one generation.
#[derive(Debug)]
pub struct Actions {
    by_name: HashMap<Box<str>, Action, RandomState>,
}

/// One action.
#[derive(Debug)]
pub struct Action {
    /// Whether doing it twice is as good as once.
    pub idempotent: bool,
    /// Whether it runs until it is cancelled.
    pub endless: bool,
    /// How many of it at once, where the manifest says so.
    pub concurrency: Option<u32>,
    timeout_ms: Option<u64>,
    /// All that is said of it, as MessagePack.
    info: Box<[u8]>,
    validator: OnceLock<Option<Box<Schema>>>,
}

impl Action {
    fn new(info: &ActionInfo, concurrency: Option<u32>) -> Self {
        Self {
            idempotent: info.idempotent,
            endless: info.endless,
            concurrency,
            timeout_ms: info.timeout_ms,
            info: super::call::body(info).into(),
            validator: OnceLock::new(),
        }
    }

    /// All that is said of it: by the plugin, and by the manifest instead.
    #[must_use]
    pub fn info(&self) -> ActionInfo {
        // We wrote it ourselves, from the same type.
        rmp_serde::from_slice(&self.info).unwrap_or_default()
    }

    /// Its own limit for a call. One that has no end of its own has none to be held to but the longest there is.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        let stated = self.timeout_ms.map(|limit| Duration::from_millis(limit).min(TIME_MAX));
        stated.or(self.endless.then_some(TIME_MAX))
    }
}

impl Actions {
    /// Takes what the plugin announced; the manifest's word on an action goes before the plugin's.
    ///
    /// # Errors
    /// A sentence for the author when names are wrong or stand there twice, or what was announced is not what the manifest has.
    pub fn new(announced: Vec<ActionInfo>, manifest: &Manifest) -> Result<Self, String> {
        if announced.len() > ACTIONS_MAX {
            return Err(format!("announced {} actions, more than {ACTIONS_MAX}", announced.len()));
        }
        let drift = drift(&announced, manifest);
        if !drift.is_empty() {
            return Err(format!(
                "its program and its plugin.json do not agree: {}",
                drift.iter().take(DRIFTS_MAX).map(ToString::to_string).collect::<Vec<_>>().join("; ")
            ));
        }
        let mut by_name = HashMap::with_capacity_and_hasher(announced.len(), RandomState::default());
        for mut info in announced {
            let name =
                ActionName::parse(&info.name).map_err(|error| format!("announced an action whose name {error}"))?;
            if let Some(stated) = manifest.actions.get(&name) {
                info.idempotent |= stated.idempotent;
                info.endless |= stated.endless;
                if let Some(timeout) = stated.timeout {
                    info.timeout_ms = u64::try_from(timeout.as_millis()).ok();
                }
                if let Some(description) = &stated.description {
                    info.description.clone_from(description);
                }
            }
            let name: Box<str> = info.name.as_str().into();
            let concurrency = manifest.actions.get(&*name).and_then(|stated| stated.concurrency);
            if by_name.insert(name, Action::new(&info, concurrency)).is_some() {
                return Err("announced two actions of the same name".to_owned());
            }
        }
        Ok(Self { by_name })
    }

    /// Those of which only so many may run at once.
    pub fn limits(&self) -> impl Iterator<Item = (&str, u32)> {
        self.by_name.iter().filter_map(|(name, action)| Some((&**name, action.concurrency?)))
    }

    /// All of them, by name.
    #[must_use]
    pub fn infos(&self) -> Vec<ActionInfo> {
        let mut infos: Vec<_> = self.by_name.values().map(Action::info).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// The action of that name.
    ///
    /// # Errors
    /// `action_not_found`, with the nearest name as a hint.
    pub fn get(&self, plugin: &str, name: &str) -> Result<&Action, ErrorBody> {
        self.by_name.get(name).ok_or_else(|| {
            let error = ErrorBody::new(ErrorCode::ActionNotFound, format!("{plugin} has no action {}", quoted(name)));
            match nearest(name, self.by_name.keys().map(AsRef::as_ref)) {
                Some(near) => error.with_hint(format!("did you mean {near:?}?")),
                None => error.with_hint(format!("`palisade info {plugin}` lists its actions")),
            }
        })
    }
}

impl Action {
    /// Checks parameters against the schema, when they are there whole.
    ///
    /// # Errors
    /// `invalid_params`, which names each place in the parameters and what is wrong there.
    pub fn check(&self, params: &[u8]) -> Result<(), ErrorBody> {
        let Some(schema) = self.validator.get_or_init(|| compile(&self.info())) else { return Ok(()) };
        // Everybody's calls pass this thread, and a schema comes from a plugin: with more the plugin alone judges.
        if !schema.affords(params.len()) {
            return Ok(());
        }
        let invalid = |message: String| ErrorBody::new(ErrorCode::InvalidParams, message);
        let value = if params.is_empty() {
            Value::Object(serde_json::Map::new())
        } else {
            let length = check_value(params, ValueLimits::PAYLOAD)
                .map_err(|error| invalid(format!("the parameters are not valid MessagePack: {error}")))?;
            if length < params.len() {
                let bytes = params.len() - length;
                return Err(invalid(format!("{bytes} bytes follow the parameters")));
            }
            // Binary values have no form in JSON; then the plugin alone judges.
            let Ok(value) = rmp_serde::from_slice::<Value>(params) else { return Ok(()) };
            value
        };
        // No parameters at all are the same as an empty set of them.
        let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
        let violations = schema.violations(&value, None);
        if violations.is_empty() {
            return Ok(());
        }
        let message = listed(&violations);
        let details: Vec<_> =
            violations.iter().map(|(path, what)| serde_json::json!({"path": path, "problem": what})).collect();
        Err(invalid(message).with_details(serde_json::json!({ "violations": details })))
    }
}

fn compile(info: &ActionInfo) -> Option<Box<Schema>> {
    let schema = info.parameters.as_ref().filter(|schema| !is_anything(schema))?;
    // The plugin checks its parameters itself; a schema that we cannot read is no reason to refuse its calls.
    Schema::compile(schema)
        .inspect_err(|error| {
            tracing::warn!(action = info.name, %error, "the schema of the parameters is not usable and not checked");
        })
        .ok()
        .map(Box::new)
}

/// Shared among the calls and the status of a plugin.
pub type SharedActions = Arc<Actions>;

#[cfg(test)]
mod tests;
