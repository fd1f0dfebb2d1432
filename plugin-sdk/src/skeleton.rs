//! The part of a `plugin.json` that a plugin's own code knows.

use palisade_protocol::{ActionInfo, StreamInfo};
use serde_json::{Map, Value, json};

use crate::Plugin;
use crate::plugin::CONCURRENCY;

/// Most calls at once that a manifest may have.
const CONCURRENCY_MAX: u32 = 1024;

/// What a schema is written in unless it says otherwise.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The fields of a manifest, in the order in which people read them.
pub(crate) fn manifest<S>(plugin: &Plugin<S>) -> String {
    let mut fields = vec![
        ("id", json!(plugin.id)),
        ("name", json!(title(&plugin.id))),
        ("version", json!(plugin.version)),
        ("entry_point", json!(plugin.id)),
    ];
    if plugin.concurrency != CONCURRENCY {
        fields.push(("limits", json!({"concurrency": plugin.concurrency.min(CONCURRENCY_MAX)})));
    }
    if let Some(version) = plugin.state_schema {
        fields.push(("state", json!({"schema_version": version})));
    }
    let mut lines: Vec<String> =
        fields.iter().map(|(name, value)| format!("  {}: {value}", Value::from(*name))).collect();
    let actions: Vec<String> = plugin.actions.iter().map(|action| indented(&action_fields(&action.info()))).collect();
    if !actions.is_empty() {
        lines.push(format!("  \"actions\": [\n    {}\n  ]", actions.join(",\n    ")));
    }
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn action_fields(info: &ActionInfo) -> Vec<(&'static str, Value)> {
    let mut fields = vec![("name", json!(info.name))];
    if !info.description.is_empty() {
        fields.push(("description", json!(info.description)));
    }
    fields.extend(info.parameters.as_ref().map(|schema| ("parameters", plain(schema))));
    fields.extend(info.result.as_ref().map(|schema| ("returns", plain(schema))));
    let streams = [("input", info.input.as_ref()), ("output", info.output.as_ref())];
    let streams: Map<String, Value> =
        streams.into_iter().filter_map(|(name, stream)| Some((name.to_owned(), stream_fields(stream?)))).collect();
    if !streams.is_empty() {
        fields.push(("streaming", streams.into()));
    }
    if info.idempotent {
        fields.push(("idempotent", json!(true)));
    }
    if info.endless {
        fields.push(("endless", json!(true)));
    }
    if let Some(limit) = info.timeout_ms {
        let whole = limit.is_multiple_of(1000);
        fields.push(("timeout_seconds", if whole { json!(limit / 1000) } else { json!(limit as f64 / 1000.0) }));
    }
    fields
}

fn stream_fields(stream: &StreamInfo) -> Value {
    let mut fields = json!({"kind": stream.kind});
    if let Some(item) = &stream.item {
        fields["item"] = plain(item);
    }
    fields
}

/// A schema without the dialect that it has anyway.
fn plain(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(keywords) = schema.as_object_mut()
        && keywords.get("$schema").is_some_and(|dialect| dialect == DIALECT)
    {
        keywords.remove("$schema");
    }
    schema
}

/// An object two lists deep, a field a line.
fn indented(fields: &[(&'static str, Value)]) -> String {
    let line = |(name, value): &(&str, Value)| format!("      {}: {}", Value::from(*name), pretty(value));
    format!("{{\n{}\n    }}", fields.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

/// A value as its line goes on: on that line if it is short.
fn pretty(value: &Value) -> String {
    const SHORT_BYTES_MAX: usize = 80;
    let short = value.to_string();
    if short.len() <= SHORT_BYTES_MAX || !(value.is_object() || value.is_array()) {
        return short;
    }
    format!("{value:#}").replace('\n', "\n      ")
}

/// `file-search` as people write it.
fn title(id: &str) -> String {
    let words = id.replace(['-', '_'], " ");
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut letters = words.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{Call, Result};

    async fn count(_: Call, to: u64) -> Result<u64> {
        Ok(to)
    }

    #[test]
    fn it_has_what_the_code_knows_in_the_order_of_people() {
        let plugin = Plugin::new("word-count_2", "1.2.3")
            .concurrency(4)
            .state_schema(2)
            .with(
                crate::Action::new("count", "Counts \"up\".")
                    .idempotent()
                    .timeout(Duration::from_millis(1500))
                    .output::<u8>()
                    .input_bytes()
                    .handler(count),
            )
            .action("again", "", count);
        let text = plugin.manifest();
        let start = "{\n  \"id\": \"word-count_2\",\n  \"name\": \"Word count 2\",\n  \"version\": \"1.2.3\",\n  \
                     \"entry_point\": \"word-count_2\",\n  \"limits\": {\"concurrency\":4},\n  \"state\": \
                     {\"schema_version\":2},\n  \"actions\": [\n    {\n      \"name\": \"count\",\n      \"description\": \"Counts \
                     \\\"up\\\".\",\n      \"parameters\": ";
        assert!(text.starts_with(start), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        let [count, again] = &value["actions"].as_array().unwrap()[..] else { panic!("{text}") };
        let described = &plugin.describe()["actions"][0];
        assert_eq!(
            count["parameters"],
            json!({"title": "uint64", "type": "integer", "format": "uint64", "minimum": 0})
        );
        assert_eq!(
            (&count["parameters"], &count["returns"]),
            (&plain(&described["parameters"]), &plain(&described["result"]))
        );
        assert_eq!(count["streaming"]["input"], json!({"kind": "bytes"}));
        assert_eq!(count["streaming"]["output"]["item"], plain(&described["output"]["item"]));
        assert_eq!((&count["idempotent"], &count["timeout_seconds"]), (&json!(true), &json!(1.5)));
        let names: Vec<_> = again.as_object().unwrap().keys().collect();
        assert_eq!(names, ["name", "parameters", "returns"]);
    }
}
