//! What a plugin keeps, for an operator: shown, exported, imported and forgotten, as JSON; also what it kept once, as far as a copy of that is
//! there.
//!
//! An import replaces all of it, and everything of it is looked at first; it and a reset are one transaction each. A process that runs has no part in that: between
//! two of its own operations everything is another, and what it expects of a revision is not so any more.
//!
//! Elsewhere: the JSON form of a value is `state::json`; what keeps it, `state`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_protocol::{ErrorBody, ErrorCode, parse_json_noting};
use semver::Version;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::update::word;
use super::{Packages, run};
use crate::events::EventKind;
use crate::model::ids::PluginId;
use crate::model::status::quoted;
use crate::plugin::handle::{Handle, Standing};
use crate::state::{
    self, About, KEYS_MAX, PAIRS_BYTES_MAX, Reply, Request, State, StateError, StateView, Step, check_key, check_length,
};

/// What an export says it is.
pub const FORM: u32 = 1;

/// In JSON everything may take several times its length.
const FILE_BYTES_MAX: u64 = 4 * PAIRS_BYTES_MAX as u64;

/// So many mistakes are told, and so much of the name of a field that there is not.
const MISTAKES_MAX: usize = 20;
const FIELD_BYTES_MAX: usize = 60;

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

/// What is wrong with an import, each with its place.
#[derive(Debug, Default)]
struct Mistakes {
    told: Vec<String>,
    /// So many are not told.
    more: usize,
}

impl Mistakes {
    fn add(&mut self, place: impl Display, why: impl Display) {
        if self.told.len() < MISTAKES_MAX {
            self.told.push(format!("`{place}`: {why}"));
        } else {
            self.more += 1;
        }
    }

    /// Each field of a map that is none of these.
    fn unknown(&mut self, place: &str, map: &Map<String, Value>, fields: &[&str]) {
        for field in map.keys().filter(|field| !fields.contains(&field.as_str())) {
            self.add(
                format_args!("{place}{}", short(field)),
                format_args!("there is no such field, but {}", fields.join(", ")),
            );
        }
    }

    fn is_none(&self) -> bool {
        self.told.is_empty()
    }

    fn error(self) -> ErrorBody {
        let more = (0 < self.more).then(|| format!("and {} more", self.more));
        let all: Vec<_> = self.told.iter().cloned().chain(more).collect();
        let message = format!("it cannot be kept: {}", all.join("; "));
        let details: BTreeMap<_, _> = [("mistakes", self.told)].into();
        ErrorBody::new(ErrorCode::InvalidParams, message).with_details(json!(details))
    }
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
                let takes = |one: &Handle| one.is_enabled() && !one.is_held();
                let fits = |one: &Handle| one.blueprint().manifest.state_schema.is_some_and(|own| form <= own);
                let other = registry.versions(id).find(|(_, one)| fits(one));
                let hint = match other {
                    Some((_, other)) if takes(other) => {
                        format!("`palisade disable {id}@{version}` first, as {id} {} can use it", other.version())
                    }
                    Some((_, other)) if other.is_held() => {
                        format!("`palisade update {id} --to {}` first, which can use it", other.version())
                    }
                    Some((_, other)) => format!(
                        "`palisade enable {id}@{}` first, which can use it, and `palisade disable {id}@{version}`",
                        other.version()
                    ),
                    None => format!(
                        "give it a version whose `state.schema_version` is {form} first, by `palisade update {id} --from` or in its folder; \
                         or put another `schema` into the file, if what is in it has that form"
                    ),
                };
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint));
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
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if FILE_BYTES_MAX < text.len() as u64 {
        return Err(invalid(format!("{} has more than {FILE_BYTES_MAX} bytes", path.display())));
    }
    let none = |why: &dyn Display| invalid(format!("{} is no state as it is exported: {why}", path.display()));
    let (value, twice) = parse_json_noting(&text).map_err(|error| none(&error))?;
    drop(text);
    let Value::Object(document) = value else { return Err(none(&"it is no map")) };
    understand(document, &twice, id)
}

/// What a document says is to be kept, and the version of its form.
fn understand(
    mut document: Map<String, Value>,
    twice: &[String],
    id: &PluginId,
) -> Result<(Option<u32>, Vec<Step>), ErrorBody> {
    let form = document.get("palisade_state").and_then(Value::as_u64);
    if let Some(form) = form.filter(|form| *form != u64::from(FORM)) {
        // Nothing else of it means what is known here.
        let message = format!("its `palisade_state` is {form}, and this daemon knows {FORM}");
        return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
            .with_hint("export it anew with a `palisade` and a daemon of this version"));
    }
    let mut mistakes = Mistakes::default();
    mistakes.unknown("", &document, &["palisade_state", "plugin", "schema", "pairs"]);
    for place in twice {
        mistakes.add(place, "it is there twice");
    }
    if form.is_none() {
        mistakes.add("palisade_state", format_args!("it is missing or no number; it is {FORM}"));
    }
    let mut is_anothers = false;
    match document.get("plugin").and_then(Value::as_str) {
        Some(plugin) if plugin == id.as_str() => {}
        Some(plugin) => {
            is_anothers = true;
            mistakes.add("plugin", format_args!("it is the state of {}, and not of {id}", quoted(plugin)));
        }
        None => mistakes.add("plugin", format_args!("it is missing or no text; it is {id}")),
    }
    let schema = match document.get("schema").filter(|schema| !schema.is_null()) {
        None => None,
        Some(schema) => {
            let number = schema.as_u64().and_then(|schema| u32::try_from(schema).ok());
            if number.is_none() {
                mistakes.add("schema", "it is no whole number of 32 bits");
            }
            number
        }
    };
    let mut steps = vec![Step::Clear];
    match document.remove("pairs") {
        Some(Value::Array(pairs)) => read_pairs(pairs, &mut steps, &mut mistakes),
        _ => mistakes.add("pairs", "it is missing or no list"),
    }
    if mistakes.is_none() {
        return Ok((schema, steps));
    }
    let error = mistakes.error();
    Err(if is_anothers { error.with_hint("change its `plugin` if it is meant all the same") } else { error })
}

fn read_pairs(pairs: Vec<Value>, steps: &mut Vec<Step>, mistakes: &mut Mistakes) {
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    for (number, pair) in pairs.into_iter().enumerate() {
        let place = |field: &str| format!("pairs[{number}].{field}");
        let Value::Object(mut pair) = pair else {
            mistakes.add(format_args!("pairs[{number}]"), "it is no map");
            continue;
        };
        mistakes.unknown(&place(""), &pair, &["key", "value", "revision"]);
        // It gets another.
        if pair.get("revision").is_some_and(|revision| revision.as_u64().is_none()) {
            mistakes.add(place("revision"), "it is no whole number");
        }
        let key = match pair.remove("key") {
            Some(Value::String(key)) => Some(key),
            _ => None,
        };
        match &key {
            None => mistakes.add(place("key"), "it is missing or no text"),
            Some(key) => {
                if let Err(error) = check_key(key) {
                    mistakes.add(place("key"), error);
                }
                if !seen.insert(key.clone()) {
                    mistakes.add(place("key"), format_args!("{} is there before", quoted(key)));
                }
            }
        }
        let Some(value) = pair.remove("value") else {
            mistakes.add(place("value"), "it is missing");
            continue;
        };
        match state::json::from_json(&value) {
            Err(why) => mistakes.add(place("value"), why),
            Ok(value) => match check_length(&value) {
                Err(error) => mistakes.add(place("value"), error),
                Ok(()) => {
                    let key = key.unwrap_or_default();
                    bytes += key.len() + value.len();
                    steps.push(Step::Put { key, value });
                }
            },
        }
    }
    if PAIRS_BYTES_MAX < bytes {
        let why = format_args!("they have {bytes} bytes, and a plugin keeps at most {PAIRS_BYTES_MAX}").to_string();
        mistakes.add("pairs", why);
    }
}

/// What a field may be told as, however long it is.
fn short(field: &str) -> String {
    let cut = field.floor_char_boundary(FIELD_BYTES_MAX);
    let mark = if cut < field.len() { "…" } else { "" };
    format!("{}{mark}", field[..cut].escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(document: &Value) -> Result<usize, ErrorBody> {
        let Value::Object(document) = document.clone() else { unreachable!("a test's document is a map") };
        understand(document, &["pairs[0].key".to_owned()][..0], &PluginId::parse("it").unwrap())
            .map(|(_, steps)| steps.len() - 1)
    }

    /// Each mistake is told with its place, as many as can be read, and how many more there are.
    #[test]
    fn each_mistake_of_an_import_is_told() {
        let good = json!({"palisade_state": 1, "plugin": "it", "schema": 2,
            "pairs": [{"key": "a", "value": 1, "revision": 3}, {"key": "b", "value": null}]});
        assert_eq!(told(&good), Ok(2));
        assert_eq!(told(&json!({"palisade_state": 1, "plugin": "it", "schema": null, "pairs": []})), Ok(0));
        let newer = told(&json!({"palisade_state": 2, "things": []})).unwrap_err();
        assert_eq!(newer.message, "its `palisade_state` is 2, and this daemon knows 1");
        let wrong = json!({"palisade_state": "1", "plugin": "other", "schema": -1, "more": 1, "pairs": [
            {"key": "a", "value": 1},
            {"key": 7, "value": {"$base64": "?"}, "revision": "x", "extra": 0},
            {"key": "a"},
            [],
            {"value": 2},
            {"key": "a\nb", "value": 3},
        ]});
        let error = told(&wrong).unwrap_err();
        let mistakes = error.details.as_ref().unwrap()["mistakes"].as_array().unwrap().clone();
        let expected = [
            "`more`: there is no such field",
            "`palisade_state`: it is missing or no number; it is 1",
            "`plugin`: it is the state of \"other\", and not of it",
            "`schema`: it is no whole number",
            "`pairs[1].extra`: there is no such field, but key, value, revision",
            "`pairs[1].revision`: it is no whole number",
            "`pairs[1].key`: it is missing or no text",
            "`pairs[1].value`: what stands under `$base64` is not base64",
            "`pairs[2].key`: \"a\" is there before",
            "`pairs[2].value`: it is missing",
            "`pairs[3]`: it is no map",
            "`pairs[4].key`: it is missing or no text",
            "`pairs[5].key`: ",
        ];
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
        for (told, expected) in mistakes.iter().zip(expected) {
            let told = told.as_str().unwrap();
            assert!(told.starts_with(expected), "{told}, and not {expected}");
            assert!(error.message.contains(told), "{}", error.message);
        }
        assert_eq!(error.hint.as_deref(), Some("change its `plugin` if it is meant all the same"));
        let many: Vec<_> = (0..MISTAKES_MAX + 7).map(|_| json!({"key": "k"})).collect();
        let error = told(&json!({"palisade_state": 1, "plugin": "it", "pairs": many})).unwrap_err();
        // Of the keys each but the first is there twice as well.
        let more = 2 * (MISTAKES_MAX + 7) - 1 - MISTAKES_MAX;
        assert!(error.message.ends_with(&format!("; and {more} more")), "{}", error.message);
        let long = json!({"palisade_state": 1, "plugin": "it", "pairs": [], "x".repeat(10_000): 1});
        assert!(told(&long).unwrap_err().message.len() < 1000);
    }
}
