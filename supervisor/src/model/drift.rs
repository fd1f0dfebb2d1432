//! Where a program and its manifest say different things about its actions.
//!
//! A manifest that has a schema or a stream for any action lists them all: the program has exactly those, and each schema that
//! stands there is the program's. One that has none only adds to what the program says, and names no action that there is not.
//! Descriptions, times and the like are no drift: there the manifest's word goes before the program's.

use std::collections::BTreeMap;
use std::fmt;

use palisade_protocol::{ActionInfo, StreamInfo, StreamKind};
use serde_json::Value;

use super::manifest::{Json, Manifest, Stream, Streaming};
use super::schema::is_anything;
use super::status::{clip, quoted};

/// As much of a schema is shown.
const SHOWN_BYTES_MAX: usize = 120;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The manifest has it, the program does not.
    Missing { action: String },
    /// The program has it, the manifest, which lists them all, does not.
    Additional { action: String },
    /// Both have it, and differ in this.
    Differs { action: String, part: &'static str, manifest: String, program: String },
}

impl Drift {
    /// The place in the manifest.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Missing { action } | Self::Additional { action } => format!("actions.{action}"),
            Self::Differs { action, part, .. } => format!("actions.{action}.{part}"),
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { action } => {
                write!(f, "the manifest names the action {action}, which the program does not have")
            }
            Self::Additional { action } => {
                write!(f, "the program has the action {}, which the manifest does not list", quoted(action))
            }
            Self::Differs { action, part, manifest, program } => {
                write!(f, "of the action {action} the manifest has {part} {manifest}, and the program {program}")
            }
        }
    }
}

/// Every difference, by the names of the actions.
#[must_use]
pub fn drift(told: &[ActionInfo], manifest: &Manifest) -> Vec<Drift> {
    let told: BTreeMap<&str, &ActionInfo> = told.iter().map(|info| (info.name.as_str(), info)).collect();
    let mut found = Vec::new();
    for (name, stated) in &manifest.actions {
        let Some(info) = told.get(name.as_str()) else {
            found.push(Drift::Missing { action: name.to_string() });
            continue;
        };
        let mut differs = |part, manifest, program| {
            found.push(Drift::Differs { action: name.to_string(), part, manifest, program });
        };
        for (part, stated, told) in
            [("parameters", &stated.parameters, &info.parameters), ("returns", &stated.returns, &info.result)]
        {
            if let Some(stated) = stated.as_ref().filter(|stated| !is_same(Some(stated), told.as_ref())) {
                differs(part, shown(Some(&stated.value())), shown(told.as_ref()));
            }
        }
        if stated.streaming != Streaming::default() {
            for (part, stated, told) in [
                ("streaming.input", &stated.streaming.input, &info.input),
                ("streaming.output", &stated.streaming.output, &info.output),
            ] {
                if !is_same_stream(stated.as_ref(), told.as_ref()) {
                    let manifest = stated.as_ref().map(|stream| (stream.kind, stream.item.as_ref().map(Json::value)));
                    let program = told.as_ref().map(|stream| (stream.kind, stream.item.clone()));
                    differs(part, shown_stream(manifest), shown_stream(program));
                }
            }
        }
    }
    if manifest.actions.values().any(|stated| stated.is_contract()) {
        let unlisted = told.keys().filter(|name| !manifest.actions.contains_key(**name));
        found.extend(unlisted.map(|name| Drift::Additional { action: (*name).to_owned() }));
    }
    found
}

/// No schema at all is the same as one that everything fits.
fn is_same(stated: Option<&Json>, told: Option<&Value>) -> bool {
    let anything = |schema: Option<&Value>| schema.is_none_or(is_anything);
    let stated = stated.map(Json::value);
    stated.as_ref() == told || (anything(stated.as_ref()) && anything(told))
}

fn is_same_stream(stated: Option<&Stream>, told: Option<&StreamInfo>) -> bool {
    match (stated, told) {
        (None, None) => true,
        (Some(stated), Some(told)) => stated.kind == told.kind && is_same(stated.item.as_ref(), told.item.as_ref()),
        _ => false,
    }
}

fn shown(schema: Option<&Value>) -> String {
    schema.map_or_else(|| "none".to_owned(), |schema| clip(&schema.to_string(), SHOWN_BYTES_MAX))
}

fn shown_stream(stream: Option<(StreamKind, Option<Value>)>) -> String {
    match stream {
        None => "none".to_owned(),
        Some((StreamKind::Bytes, _)) => "of bytes".to_owned(),
        Some((StreamKind::Items, item)) => format!("of items {}", shown(item.as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(actions: Value) -> Manifest {
        let manifest = json!({"id": "a", "name": "A", "version": "1.0.0", "entry_point": "a", "actions": actions});
        Manifest::parse(manifest.to_string().as_bytes()).unwrap().0
    }

    fn told(name: &str, parameters: Option<Value>) -> ActionInfo {
        ActionInfo { name: name.to_owned(), parameters, ..ActionInfo::default() }
    }

    fn found(program: &[ActionInfo], actions: Value) -> Vec<String> {
        drift(program, &manifest(actions)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_manifest_without_schemas_only_adds() {
        let program = [told("find", Some(json!({"type": "object"}))), told("watch", None)];
        assert_eq!(found(&program, json!([])), [""; 0]);
        assert_eq!(found(&program, json!([{"name": "find", "idempotent": true, "description": "other"}])), [""; 0]);
        assert_eq!(
            found(&program, json!([{"name": "search"}])),
            ["the manifest names the action search, which the program does not have"]
        );
    }

    #[test]
    fn one_with_schemas_is_the_whole_contract() {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
        let program = [told("find", Some(schema.clone())), told("more", None)];
        assert_eq!(found(&program[..1], json!([{"name": "find", "parameters": schema}])), [""; 0]);
        assert_eq!(
            found(&program, json!([{"name": "find", "parameters": {"type": "object"}}, {"name": "gone"}])),
            [
                "of the action find the manifest has parameters {\"type\":\"object\"}, and the program \
                 {\"properties\":{\"name\":{\"type\":\"string\"}},\"type\":\"object\"}",
                "the manifest names the action gone, which the program does not have",
                "the program has the action \"more\", which the manifest does not list",
            ]
        );
    }

    #[test]
    fn results_and_streams_are_compared_as_well() {
        let items = |item| Some(StreamInfo { kind: StreamKind::Items, item });
        let program = ActionInfo {
            result: Some(json!({"type": "null"})),
            output: items(Some(json!({"type": "integer"}))),
            ..told("count", Some(json!(true)))
        };
        let same = json!({
            "name": "count", "parameters": {}, "returns": {"type": "null"},
            "streaming": {"output": {"kind": "items", "item": {"type": "integer"}}},
        });
        assert_eq!(found(std::slice::from_ref(&program), json!([same])), [""; 0]);
        let other = json!({"name": "count", "returns": {"type": "string"}, "streaming": {"input": {"kind": "bytes"}}});
        assert_eq!(
            found(&[program], json!([other])),
            [
                "of the action count the manifest has returns {\"type\":\"string\"}, and the program {\"type\":\"null\"}",
                "of the action count the manifest has streaming.input of bytes, and the program none",
                "of the action count the manifest has streaming.output none, and the program of items {\"type\":\"integer\"}",
            ]
        );
    }
}
