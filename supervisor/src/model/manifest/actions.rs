//! What a manifest says about its actions.
//!
//! It may say a little, about some of them (a time, that one may be repeated), or all there is: as soon as one has a schema or a
//! stream, the list is the plugin's whole contract, and the program has to have exactly these actions with exactly these schemas.
//! Whether it does is compared when it is ready, in `plugin::actions`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use palisade_protocol::StreamKind;
use serde_json::Value;

use super::json::Json;
use super::read::{Table, Text};
use super::{ACTIONS_MAX, LONG};
use crate::model::ids::ActionName;
use crate::model::permission::grants;
use crate::model::schema::{Schema, SchemaError};

/// More would not be read.
const EXAMPLES_MAX: usize = 16;

/// What a manifest says about one action.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ActionSettings {
    pub description: Option<String>,
    pub parameters: Option<Json>,
    /// Of the result.
    pub returns: Option<Json>,
    pub streaming: Streaming,
    /// It says meanwhile how far it is.
    pub progress: bool,
    /// In place of the plugin's `call_timeout`.
    pub timeout: Option<Duration>,
    /// Doing it twice is doing it once, so it may be repeated after a crash.
    pub idempotent: bool,
    /// So many at once, where that is fewer than the plugin takes.
    pub concurrency: Option<u32>,
    /// It has no end of its own, so that draining does not wait for it.
    pub endless: bool,
    /// Which of the plugin's permissions it needs.
    pub permissions: Vec<&'static str>,
    pub examples: Vec<Example>,
}

/// Which streams an action has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Streaming {
    pub input: Option<Stream>,
    pub output: Option<Stream>,
}

/// What a stream carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub kind: StreamKind,
    /// Of one item.
    pub item: Option<Json>,
}

/// A call as it may look, for people and agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub description: Option<String>,
    /// As JSON.
    pub parameters: Option<Json>,
    /// As JSON.
    pub returns: Option<Json>,
}

impl ActionSettings {
    /// Whether it is described so far that the program's word is held against it.
    #[must_use]
    pub fn is_contract(&self) -> bool {
        self.parameters.is_some() || self.returns.is_some() || self.streaming != Streaming::default()
    }
}

pub(super) fn read(root: &mut Table<'_, '_>, asked: &BTreeSet<&'static str>) -> BTreeMap<ActionName, ActionSettings> {
    const ALLOWED: &str = "a list of objects, each with the name of an action";
    let mut actions = BTreeMap::new();
    root.each("actions", ALLOWED, ACTIONS_MAX, |place| {
        let Some(mut table) = place.table() else { return };
        let name = table.parsed("name", "the name of an action, such as find", ActionName::parse);
        let settings = read_one(&mut table, asked);
        if let Some(name) = name
            && actions.insert(name, settings).is_some()
        {
            table.wrong("name", "a name that no action before it has");
        }
        table.warn_about_the_rest();
    });
    actions
}

fn read_one(table: &mut Table<'_, '_>, asked: &BTreeSet<&'static str>) -> ActionSettings {
    let (parameters, checks_parameters) = schema(table, "parameters");
    let (returns, checks_returns) = schema(table, "returns");
    let mut settings = ActionSettings {
        description: table.text_if_any("description", Text::lines(4096)),
        parameters,
        returns,
        streaming: read_streaming(table),
        progress: table.boolean("progress").unwrap_or(false),
        timeout: table.seconds("timeout_seconds", LONG),
        idempotent: table.boolean("idempotent").unwrap_or(false),
        concurrency: table.number("concurrency", 1, 1024).map(|n| n as u32),
        endless: table.boolean("endless").unwrap_or(false),
        permissions: Vec::new(),
        examples: Vec::new(),
    };
    settings.permissions = table.set("permissions", grants::NAMES.len(), |place| {
        let name = place.choice(&grants::NAMES.map(|name| (name, name)))?;
        if !asked.contains(name) {
            place.refuse(&"the plugin does not ask for it in `permissions_required`");
        }
        Some(name)
    });
    table.each("examples", "a list of objects", EXAMPLES_MAX, |place| {
        let Some(mut table) = place.table() else { return };
        let example = Example {
            description: table.text_if_any("description", Text::lines(1024)),
            parameters: data(&mut table, "parameters", checks_parameters.as_ref()),
            returns: data(&mut table, "returns", checks_returns.as_ref()),
        };
        table.warn_about_the_rest();
        settings.examples.push(example);
    });
    settings
}

/// A schema, and what checks by it.
pub(super) fn schema(table: &mut Table<'_, '_>, key: &str) -> (Option<Json>, Option<Schema>) {
    let Some(value) = table.value(key) else { return (None, None) };
    if !matches!(value, Value::Object(_) | Value::Bool(_)) {
        table.wrong(key, "a JSON Schema");
        return (None, None);
    }
    let is_said = table.room().is_exceeded();
    match Schema::compile_within(value, table.room()) {
        Ok(compiled) => (Some(Json::new(value)), Some(compiled)),
        Err(SchemaError::Refused(why)) => {
            table.refused(key, "a schema", &why);
            (None, None)
        }
        Err(why @ SchemaError::TooMuch) => {
            // Said once, of the first that is too much.
            if !is_said {
                table.refused(key, "a schema", &why);
            }
            (None, None)
        }
        Err(SchemaError::Boundless) => {
            table.warn(key, "refers to itself, or too often; nothing is checked against it");
            (Some(Json::new(value)), None)
        }
    }
}

/// A value of any kind, which has to fit its schema if it has one.
fn data(table: &mut Table<'_, '_>, key: &str, schema: Option<&Schema>) -> Option<Json> {
    let value = table.value(key)?;
    let kept = Json::new(value);
    if let Some(schema) = schema.filter(|schema| schema.affords(kept.as_str().len()))
        && let Err(error) = schema.validator.validate(value)
    {
        let place = error.instance_path().to_string();
        let why = if place.is_empty() { error.to_string() } else { format!("{place}: {error}") };
        table.refused(key, "an example", &format!("it does not fit its schema: {}", super::clip(&why, 240)));
    }
    Some(kept)
}

fn read_streaming(table: &mut Table<'_, '_>) -> Streaming {
    let Some(mut table) = table.table("streaming") else { return Streaming::default() };
    let streaming = Streaming { input: read_stream(&mut table, "input"), output: read_stream(&mut table, "output") };
    table.warn_about_the_rest();
    streaming
}

fn read_stream(table: &mut Table<'_, '_>, key: &str) -> Option<Stream> {
    const KINDS: [(&str, StreamKind); 2] = [("items", StreamKind::Items), ("bytes", StreamKind::Bytes)];
    let mut table = table.table(key)?;
    let kind = table.choice_required("kind", &KINDS);
    let (item, _) = schema(&mut table, "item");
    if item.is_some() && kind == Some(StreamKind::Bytes) {
        table.wrong("item", "absent: a stream of bytes has no items");
    }
    table.warn_about_the_rest();
    Some(Stream { kind: kind?, item })
}
