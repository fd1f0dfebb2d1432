//! What a plugin keeps, for an operator: shown, exported, imported and forgotten, as JSON; also what it kept once, as far as a copy of that is
//! there.
//!
//! An import replaces all of it, and everything of it is looked at first; it and a reset are one transaction each. A process that runs has no part in that: between
//! two of its own operations everything is another, and what it expects of a revision is not so any more.
//!
//! Elsewhere: the JSON form of a value is `state::json`; what keeps it, `state`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::update::word;
use super::{Packages, run};
use crate::events::EventKind;
use crate::model::ids::PluginId;
use crate::model::status::quoted;
use crate::plugin::handle::Standing;
use crate::state::{
    self, About, KEYS_MAX, PAIRS_BYTES_MAX, Reply, Request, State, StateError, StateView, Step, check_key, check_length,
};

/// What an export says it is.
pub const FORM: u32 = 1;

/// In JSON everything may take several times its length.
const FILE_BYTES_MAX: u64 = 4 * PAIRS_BYTES_MAX as u64;

/// So many mistakes are told.
const MISTAKES_MAX: usize = 64;

/// What is known of a plugin's state, and some of its keys.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Which plugin.
    pub id: String,
    /// How many keys there are,
    pub keys: u64,
    /// what they take on the disk,
    pub bytes: u64,
    /// and the number of the last write.
    pub revision: u64,
    /// The version of its form, if anybody has said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<u32>,
    /// Keys in their order: the one that was asked for, or those that begin so.
    pub pairs: Vec<Pair>,
    /// Whether there are more.
    pub more: bool,
}

/// A key, and its value where that was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    pub key: String,
    pub revision: u64,
    /// How long the value is, encoded.
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// All of it.
#[derive(Debug)]
pub struct Exported {
    pub id: PluginId,
    pub schema: Option<u32>,
    pub revision: u64,
    /// Values as they are encoded.
    pub pairs: Vec<(String, Vec<u8>, u64)>,
}

/// What a change came to.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// Which plugin.
    pub id: String,
    /// How many keys there were,
    pub before: u64,
    /// and how many there are.
    pub keys: u64,
}

/// What an import reads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    palisade_state: u32,
    plugin: String,
    #[serde(default)]
    schema: Option<u32>,
    pairs: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    value: Value,
    /// As an export has it; it gets another.
    #[serde(default)]
    #[expect(dead_code, reason = "part of the form")]
    revision: u64,
}

impl Packages {
    /// What a plugin keeps, in short; with `key` that one with its value, else keys without. With `from` what is in that kept copy.
    ///
    /// # Errors
    /// `plugin_not_found`; `resource_not_found` for a key or a copy that there is not; `dependency_unavailable` where it cannot be read.
    pub async fn kept(
        &self,
        plugin: &str,
        key: Option<String>,
        prefix: String,
        after: Option<String>,
        from: Option<String>,
    ) -> Result<Shown, ErrorBody> {
        let (id, state) = self.state_of(plugin)?;
        let at = from.as_deref().map(|from| format!(" --from {}", word(from))).unwrap_or_default();
        let state = view_of(&id, state, from).await?;
        let told = |error: StateError| state::error_body(&error);
        let about = state.about().await.map_err(told)?.unwrap_or_default();
        let (pairs, more) = match key {
            None => match state.request(Request::List { prefix, after, limit: KEYS_MAX }).await.map_err(told)? {
                Reply::Keys { keys, more } => {
                    let pair =
                        |key: state::Key| Pair { key: key.key, revision: key.revision, bytes: key.bytes, value: None };
                    (keys.into_iter().map(pair).collect(), more)
                }
                _ => (Vec::new(), false),
            },
            Some(key) => match state.request(Request::Get { key: key.clone() }).await.map_err(told)? {
                Reply::Value(Some((value, revision))) => {
                    let pair =
                        Pair { key, revision, bytes: value.len() as u64, value: Some(state::json::to_json(&value)) };
                    (vec![pair], false)
                }
                _ => {
                    let message = format!("{id} keeps nothing under the key {}", quoted(&key));
                    return Err(ErrorBody::new(ErrorCode::ResourceNotFound, message)
                        .with_hint(format!("`palisade state show {id}{at}` lists the keys")));
                }
            },
        };
        let About { revision, schema, keys, bytes, .. } = about;
        Ok(Shown { id: id.to_string(), keys, bytes, revision, schema, pairs, more })
    }

    /// All of it, as it is at one moment; or with `from` all that is in that kept copy.
    ///
    /// # Errors
    /// `plugin_not_found`; `resource_not_found` for a copy that there is not; `dependency_unavailable` where it cannot be read.
    pub async fn export(&self, plugin: &str, from: Option<String>) -> Result<Exported, ErrorBody> {
        let (id, state) = self.state_of(plugin)?;
        let told = |error: StateError| state::error_body(&error);
        let of = view_of(&id, state, from).await?;
        let (about, pairs) = run(move || of.all()).await?.map_err(told)?;
        Ok(Exported { id, schema: about.schema, revision: about.revision, pairs })
    }

    /// Has a plugin keep what a file says, and nothing else.
    ///
    /// Not cancel safe: it may be done, and nobody be told.
    ///
    /// # Errors
    /// `plugin_not_found`; `invalid_params` for a file that is none, with all its mistakes, or that is another plugin's; `unavailable` where the plugin runs and would find a form
    /// older than its own; `resource_exhausted` where it is more than there may be; `dependency_unavailable` where the disk does not take it. Nothing is changed then.
    pub async fn import(&self, plugin: &str, path: &str, who: &str) -> Result<Kept, ErrorBody> {
        let (id, state) = self.state_of(plugin)?;
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            let message = format!("{} is no absolute path", path.display());
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
        }
        let of = id.clone();
        let (schema, steps) = run(move || read(&path, &of)).await??;
        self.fits(&id, schema).await?;
        let keys = steps.len() as u64 - 1;
        let kept = self.rewrite((&id, &state), steps, schema, keys).await?;
        self.note_rewritten("state_import", EventKind::StateImported, &id, who).await;
        Ok(kept)
    }

    /// Has a plugin keep nothing any more.
    ///
    /// # Errors
    /// `plugin_not_found`; `dependency_unavailable` where the disk does not take it.
    pub async fn forget_kept(&self, plugin: &str, who: &str) -> Result<Kept, ErrorBody> {
        let (id, state) = self.state_of(plugin)?;
        let kept = if state.exists() {
            self.rewrite((&id, &state), vec![Step::Clear], None, 0).await?
        } else {
            Kept { id: id.to_string(), before: 0, keys: 0 }
        };
        self.note_rewritten("state_reset", EventKind::StateReset, &id, who).await;
        Ok(kept)
    }

    fn state_of(&self, plugin: &str) -> Result<(PluginId, Arc<State>), ErrorBody> {
        let id = self.registry()?.find_any(plugin, None)?.id().clone();
        let state = self.around.states.of(&id);
        Ok((id, state))
    }

    async fn rewrite(
        &self,
        (id, state): (&PluginId, &Arc<State>),
        steps: Vec<Step>,
        schema: Option<u32>,
        keys: u64,
    ) -> Result<Kept, ErrorBody> {
        let told = |error: StateError| state::error_body(&error);
        let before = state.about().await.map_err(told)?.map_or(0, |about| about.keys);
        state.request(Request::Write { steps, schema, form: None }).await.map_err(told)?;
        Ok(Kept { id: id.to_string(), before, keys })
    }

    /// Whether every version that takes calls can start with a state of that form, and those that run are not surprised by it.
    async fn fits(&self, id: &PluginId, schema: Option<u32>) -> Result<(), ErrorBody> {
        let registry = self.registry()?;
        for (version, handle) in registry.versions(id).filter(|(_, handle)| handle.is_enabled() && !handle.is_held()) {
            // One that says none is not started with any either.
            let own = handle.blueprint().manifest.state_schema.unwrap_or(0);
            let form = schema.unwrap_or(0);
            if own < form {
                let message =
                    format!("it has schema {form}, and {id} {version} keeps schema {own}: it would not start with it");
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                    .with_hint(format!("import it once a version with schema {form} is there")));
            }
            if form < own && handle.standing().await != Standing::Absent {
                let message = format!("it has schema {form}, and {id} {version} runs and keeps schema {own}");
                let error = ErrorBody::new(ErrorCode::Unavailable, message);
                return Err(ErrorBody { retryable: false, ..error }.with_hint(format!(
                    "`palisade stop {id}` first; it is brought into schema {own} with the next start"
                )));
            }
        }
        Ok(())
    }

    async fn note_rewritten(&self, what: &str, kind: EventKind, id: &PluginId, who: &str) {
        let version = self
            .registry()
            .ok()
            .and_then(|registry| registry.find_any(id.as_str(), None).ok().map(|handle| handle.version().clone()));
        let version = version.unwrap_or_else(|| Version::new(0, 0, 0));
        let entry = self.entry(what, who, id, &version, String::new());
        let database = self.database.clone();
        match run(move || database.note(&entry)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what was done with a plugin's state is not in the audit trail"),
            Err(error) => tracing::error!(%error, "what was done with a plugin's state is not in the audit trail"),
        }
        self.tell(kind, id, &version, None);
    }
}

/// What the plugin keeps, or what is in that copy of what it kept.
async fn view_of(id: &PluginId, state: Arc<State>, from: Option<String>) -> Result<StateView, ErrorBody> {
    let Some(from) = from else { return Ok(StateView::live(state, None)) };
    let which = from.clone();
    let view = run(move || state.view_of_kept(&which)).await?.map_err(|error| state::error_body(&error))?;
    view.ok_or_else(|| {
        let message = format!("{id} has no copy {} of what it kept", quoted(&from));
        ErrorBody::new(ErrorCode::ResourceNotFound, message)
            .with_hint(format!("`palisade backups {id}` lists those that there are"))
    })
}

/// One pair of an export, as its JSON has it.
#[must_use]
pub fn pair((key, value, revision): &(String, Vec<u8>, u64)) -> Value {
    json!({ "key": key, "value": state::json::to_json(value), "revision": revision })
}

/// Reads and checks all of a file: what its schema is, and what there is to be done. Blocks.
fn read(path: &Path, id: &PluginId) -> Result<(Option<u32>, Vec<Step>), ErrorBody> {
    let invalid = |message: String| ErrorBody::new(ErrorCode::InvalidParams, message);
    let failed = |error: std::io::Error| invalid(format!("{} cannot be read: {error}", path.display()));
    // Not waiting: it could be a pipe.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|error| failed(error.into()))?;
    let file = File::from(file);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(invalid(format!("{} is no regular file", path.display())));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if FILE_BYTES_MAX < text.len() as u64 {
        return Err(invalid(format!("{} has more than {FILE_BYTES_MAX} bytes", path.display())));
    }
    let document: Document = serde_json::from_str(&text)
        .map_err(|error| invalid(format!("{} is no state as it is exported: {error}", path.display())))?;
    if document.palisade_state != FORM {
        let message = format!("its `palisade_state` is {}, and this daemon knows {FORM}", document.palisade_state);
        return Err(invalid(message));
    }
    if document.plugin != id.as_str() {
        let message = format!("it is the state of {}, and not of {id}", quoted(&document.plugin));
        return Err(invalid(message).with_hint("change its `plugin` if it is meant all the same"));
    }
    steps(document)
}

fn steps(document: Document) -> Result<(Option<u32>, Vec<Step>), ErrorBody> {
    let mut mistakes = Vec::new();
    let mut steps = vec![Step::Clear];
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    for (number, Entry { key, value, .. }) in document.pairs.into_iter().enumerate() {
        let mut mistake = |field: &str, why: String| {
            if mistakes.len() < MISTAKES_MAX {
                mistakes.push(format!("`pairs[{number}].{field}`: {why}"));
            }
        };
        if let Err(error) = check_key(&key) {
            mistake("key", error.to_string());
        }
        if !seen.insert(key.clone()) {
            mistake("key", format!("{} is there before", quoted(&key)));
        }
        match state::json::from_json(&value) {
            Err(why) => mistake("value", why),
            Ok(value) => match check_length(&value) {
                Err(error) => mistake("value", error.to_string()),
                Ok(()) => {
                    bytes += key.len() + value.len();
                    steps.push(Step::Put { key, value });
                }
            },
        }
    }
    if PAIRS_BYTES_MAX < bytes {
        mistakes.push(format!("`pairs`: they have {bytes} bytes, and a plugin keeps at most {PAIRS_BYTES_MAX}"));
    }
    if mistakes.is_empty() {
        return Ok((document.schema, steps));
    }
    let details: BTreeMap<_, _> = [("mistakes", mistakes.clone())].into();
    let message = format!("it cannot be kept: {}", mistakes.join("; "));
    Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_details(json!(details)))
}
