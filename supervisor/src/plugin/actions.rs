//! What a plugin said it can do, and whether a call fits that.
//!
//! Schemas are compiled when the first call needs them, as most actions of most plugins are never called. A schema that
//! accepts everything is not checked at all; nothing outside the schema itself is ever fetched.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use palisade_protocol::{ActionInfo, ErrorBody, ErrorCode, ValueLimits, check_value};
use serde_json::Value;

use crate::model::ids::ActionName;
use crate::model::manifest::Manifest;

/// Most actions of one plugin.
pub const ACTIONS_MAX: usize = 1024;

/// Most violations of a schema that one error names.
const VIOLATIONS_MAX: usize = 5;

/// The actions of one generation.
#[derive(Debug)]
pub struct Actions {
    by_name: HashMap<Box<str>, Action>,
}

/// One action.
#[derive(Debug)]
pub struct Action {
    /// What the plugin says of it, with what the manifest says instead.
    pub info: ActionInfo,
    validator: OnceLock<Option<jsonschema::Validator>>,
}

impl Action {
    /// Its own limit for a call.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.info.timeout_ms.map(Duration::from_millis)
    }
}

impl Actions {
    /// Takes what the plugin announced; the manifest's word on an action goes before the plugin's.
    ///
    /// # Errors
    /// A sentence for the author when names are wrong or stand there twice, or the manifest names an action that there is not.
    pub fn new(announced: Vec<ActionInfo>, manifest: &Manifest) -> Result<Self, String> {
        if announced.len() > ACTIONS_MAX {
            return Err(format!("announced {} actions, more than {ACTIONS_MAX}", announced.len()));
        }
        let mut by_name = HashMap::with_capacity(announced.len());
        for mut info in announced {
            let name = ActionName::parse(&info.name).map_err(|error| format!("announced an action whose name {error}"))?;
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
            if by_name.insert(name, Action { info, validator: OnceLock::new() }).is_some() {
                return Err("announced two actions of the same name".to_owned());
            }
        }
        if let Some(missing) = manifest.actions.keys().find(|name| !by_name.contains_key(name.as_str())) {
            return Err(format!("the manifest names the action {missing}, which the plugin does not have"));
        }
        Ok(Self { by_name })
    }

    /// All of them, by name.
    #[must_use]
    pub fn infos(&self) -> Vec<ActionInfo> {
        let mut infos: Vec<_> = self.by_name.values().map(|action| action.info.clone()).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// The action of that name.
    ///
    /// # Errors
    /// `action_not_found`, with the nearest name as a hint.
    pub fn get(&self, plugin: &str, name: &str) -> Result<&Action, ErrorBody> {
        self.by_name.get(name).ok_or_else(|| {
            let error = ErrorBody::new(ErrorCode::ActionNotFound, format!("{plugin} has no action {name:?}"));
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
        let Some(validator) = self.validator.get_or_init(|| compile(&self.info)) else { return Ok(()) };
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
        if validator.is_valid(&value) {
            return Ok(());
        }
        let mut violations: Vec<(String, String)> = validator
            .iter_errors(&value)
            .take(VIOLATIONS_MAX)
            .map(|error| (error.instance_path().to_string(), error.to_string()))
            .collect();
        violations.dedup();
        let text = violations.iter().map(|(path, what)| match path.as_str() {
            "" => what.clone(),
            path => format!("{path}: {what}"),
        });
        let message = text.collect::<Vec<_>>().join("; ");
        let details: Vec<_> =
            violations.iter().map(|(path, what)| serde_json::json!({"path": path, "problem": what})).collect();
        Err(invalid(message)
            .with_hint(format!("`palisade info` shows the schema of {}", self.info.name))
            .with_details(serde_json::json!({ "violations": details })))
    }
}

fn compile(info: &ActionInfo) -> Option<jsonschema::Validator> {
    let schema = info.parameters.as_ref()?;
    let anything = match schema {
        Value::Bool(any) => *any,
        Value::Object(keywords) => keywords.keys().all(|key| matches!(key.as_str(), "$schema" | "title" | "description")),
        _ => false,
    };
    if anything {
        return None;
    }
    match jsonschema::validator_for(schema) {
        Ok(validator) => Some(validator),
        Err(error) => {
            // The plugin checks its parameters itself; a schema that we cannot read is no reason to refuse its calls.
            tracing::warn!(action = info.name, %error, "the schema of the parameters is not usable and not checked");
            None
        }
    }
}

/// The name among `names` that is most likely meant, if one is close.
#[must_use]
pub fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const CLOSE: f64 = 0.8;
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(closeness, _)| *closeness > CLOSE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// Shared among the calls and the status of a plugin.
pub type SharedActions = Arc<Actions>;
