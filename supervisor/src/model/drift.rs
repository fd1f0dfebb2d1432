//! Where a program and its manifest say different things about its actions.
//!
//! A manifest that has a schema or a stream for any action lists them all: the program has exactly those, and each schema that
//! stands there is the program's. One that has none only adds to what the program says, and names no action that there is not.
//! Descriptions, times and the like are no drift: there the manifest's word goes before the program's.

use std::collections::BTreeMap;
use std::fmt;

use palisade_protocol::{ActionInfo, StreamKind};
use serde_json::Value;

use super::manifest::{Json, Manifest, Streaming};
use super::schema::is_anything;
use super::status::{clip, quoted};

/// As much of a schema is shown.
const SHOWN_BYTES_MAX: usize = 120;

/// What a schema is written in unless it says otherwise.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The manifest has it, the program does not.
    Missing { action: String },
    /// The program has it, the manifest, which lists them all, does not.
    Additional { action: String },
    /// Both have it, and differ in this.
    Differs { action: String, part: String, manifest: String, program: String },
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
                write!(f, "of the action {action} `{part}` is {manifest} in the manifest and {program} in the program")
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
            if let Some((at, stated, told)) = stated.as_ref().and_then(|stated| difference(Some(stated), told.as_ref()))
            {
                differs(format!("{part}{at}"), stated, told);
            }
        }
        if stated.streaming != Streaming::default() {
            for (part, stated, told) in [
                ("streaming.input", &stated.streaming.input, &info.input),
                ("streaming.output", &stated.streaming.output, &info.output),
            ] {
                let kind = |stream: Option<StreamKind>| match stream {
                    None => "none",
                    Some(StreamKind::Bytes) => "of bytes",
                    Some(StreamKind::Items) => "of items",
                };
                let kinds = (stated.as_ref().map(|stream| stream.kind), told.as_ref().map(|stream| stream.kind));
                if kinds.0 != kinds.1 {
                    differs(part.to_owned(), kind(kinds.0).to_owned(), kind(kinds.1).to_owned());
                } else if let (Some(stated), Some(told)) = (stated, told)
                    && let Some((at, stated, told)) = difference(stated.item.as_ref(), told.item.as_ref())
                {
                    differs(format!("{part}.item{at}"), stated, told);
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

/// Where two schemas differ first, as a pointer, and what stands there. None at all is the same as one that everything fits.
fn difference(stated: Option<&Json>, told: Option<&Value>) -> Option<(String, String, String)> {
    let anything = |schema: Option<&Value>| schema.is_none_or(is_anything);
    let (stated, told) = (stated.map(Json::value).map(plain), told.cloned().map(plain));
    if anything(stated.as_ref()) && anything(told.as_ref()) {
        return None;
    }
    let (at, stated, told) = first_difference(stated.as_ref(), told.as_ref())?;
    Some((clip(&at, SHOWN_BYTES_MAX), shown(stated), shown(told)))
}

fn first_difference<'v>(
    stated: Option<&'v Value>,
    told: Option<&'v Value>,
) -> Option<(String, Option<&'v Value>, Option<&'v Value>)> {
    if stated == told {
        return None;
    }
    let within = |at: &str, (beneath, stated, told): (String, _, _)| (format!("/{at}{beneath}"), stated, told);
    match (stated, told) {
        (Some(Value::Object(stated)), Some(Value::Object(told))) => {
            let keys = stated.keys().chain(told.keys().filter(|key| !stated.contains_key(*key)));
            let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
            keys.into_iter()
                .find_map(|key| Some(within(&escaped(key), first_difference(stated.get(key), told.get(key))?)))
        }
        (Some(Value::Array(stated)), Some(Value::Array(told))) if stated.len() == told.len() => {
            stated.iter().zip(told).enumerate().find_map(|(at, (stated, told))| {
                Some(within(&at.to_string(), first_difference(Some(stated), Some(told))?))
            })
        }
        _ => Some((String::new(), stated, told)),
    }
}

/// A schema without the dialect that it has anyway.
fn plain(mut schema: Value) -> Value {
    if let Some(keywords) = schema.as_object_mut()
        && keywords.get("$schema").is_some_and(|dialect| dialect == DIALECT)
    {
        keywords.remove("$schema");
    }
    schema
}

fn shown(schema: Option<&Value>) -> String {
    schema.map_or_else(|| "none".to_owned(), |schema| clip(&schema.to_string(), SHOWN_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use palisade_protocol::StreamInfo;
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
        let mut dialect = schema.clone();
        dialect["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        assert_eq!(found(&program[..1], json!([{"name": "find", "parameters": dialect}])), [""; 0]);
        assert_eq!(
            found(&program, json!([{"name": "find", "parameters": {"type": "object"}}, {"name": "gone"}])),
            [
                "of the action find `parameters/properties` is none in the manifest and {\"name\":{\"type\":\"string\"}} in the \
                 program",
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
        let item =
            json!({"name": "count", "streaming": {"output": {"kind": "items", "item": {"enum": [1, {"a/b": 2}]}}}});
        let told = ActionInfo { output: items(Some(json!({"enum": [1, {"a/b": 3}]}))), ..told("count", None) };
        assert_eq!(
            found(&[told], json!([item])),
            ["of the action count `streaming.output.item/enum/1/a~1b` is 2 in the manifest and 3 in the program"]
        );
        let other = json!({"name": "count", "returns": {"type": "string"}, "streaming": {"input": {"kind": "bytes"}}});
        assert_eq!(
            found(&[program], json!([other])),
            [
                "of the action count `returns/type` is \"string\" in the manifest and \"null\" in the program",
                "of the action count `streaming.input` is of bytes in the manifest and none in the program",
                "of the action count `streaming.output` is none in the manifest and of items in the program",
            ]
        );
    }
}
