//! The parameters of a call, from `key=value` and from JSON.
//!
//! `key=value` is typed by the action's schema: where it wants text, the value is taken as it stands; where it wants a number, a
//! truth value, an array or an object, the value is JSON. Without a schema it is JSON if it parses, else text. `key:=JSON` is JSON
//! always. A key that the schema does not know is an error that names the nearest one.

use std::cell::Cell;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use palisade_protocol::{ErrorCode, parse_json};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// Most bytes of parameters that are read: more than this no call may carry, as MessagePack is seldom longer than JSON.
const JSON_BYTES_MAX: u64 = 128 << 20;

/// How many references and alternatives of a schema are followed in all. Schemas come from plugins, and may refer to themselves.
const SCHEMA_STEPS_MAX: u32 = 20_000;

/// How deep they are followed.
const SCHEMA_DEPTH_MAX: u8 = 32;

/// `key=value`, or `key:=JSON`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    key: String,
    text: String,
    is_json: bool,
}

/// The same of a configuration.
pub(crate) fn setting(text: &str) -> Result<Assignment, String> {
    if !text.contains('=') {
        return Err("what is to be set is given as `key=value`; without any, what is set is shown".into());
    }
    assignment(text)
}

/// Reads `key=value` as clap hands it over.
pub(crate) fn assignment(text: &str) -> Result<Assignment, String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("parameters are given as `key=value`, or all together with --params".into());
    };
    let (key, is_json) = match key.strip_suffix(':') {
        Some(key) => (key, true),
        None => (key, false),
    };
    if key.is_empty() {
        return Err("there is no key before the `=`".into());
    }
    Ok(Assignment { key: key.to_owned(), text: value.to_owned(), is_json })
}

impl Assignment {
    /// The key, as it was given.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The value, for a place in what this schema describes. Of a place that it does not know it is as without a schema.
    pub(crate) fn at(&self, place: &[String], schema: Option<&Value>) -> Result<Value, Failure> {
        let Self { key, text, is_json } = self;
        if *is_json {
            return json(key, text);
        }
        let steps = Cell::new(SCHEMA_STEPS_MAX);
        let anything = &Value::Bool(true);
        let root = schema.unwrap_or(anything);
        let mut field = Schema { root, node: root, steps: &steps, depth: 0 };
        for name in place {
            let unknown = Schema { node: anything, ..field };
            field = field.field(name).unwrap_or(unknown);
        }
        typed(key, text, &field)
    }
}

/// How `--params` is used, for those who tried.
const FORMS: &str = "--params takes a JSON object in quotes, as '{\"a\": 1}', a file as @FILE, or - for stdin";

/// Where the parameters that `--params` names come from, as people call it.
pub(crate) fn name(source: &str) -> &str {
    match source.strip_prefix('@') {
        Some(path) => path,
        None if source == "-" => "stdin",
        None => "--params",
    }
}

/// What `--params` says: JSON itself, `@file`, or `-` for stdin. This may block for as long as there may be more to read.
pub(crate) fn read(source: &str) -> Result<Value, Failure> {
    let name = name(source);
    let unreadable = |error: &std::io::Error| {
        Failure::usage(format!("the parameter file {name} cannot be read: {error}")).with_hint(FORMS)
    };
    match source.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(Path::new(path)).map_err(|error| unreadable(&error))?;
            parse_all(&read_all(file).map_err(|error| unreadable(&error))?, name)
        }
        None if source == "-" => {
            parse_all(&read_all(std::io::stdin().lock()).map_err(|error| unreadable(&error))?, name)
        }
        None => parse_all(source.as_bytes(), name).map_err(|failure| {
            let is_file = Path::new(source).is_file();
            if is_file { failure.with_hint(format!("a file is given as --params @{source}")) } else { failure }
        }),
    }
}

fn read_all(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    source.take(JSON_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > JSON_BYTES_MAX {
        let message = format!("it has more than {} MiB; send it as a stream with --input", JSON_BYTES_MAX >> 20);
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// All parameters.
fn parse_all(text: &[u8], name: &str) -> Result<Value, Failure> {
    if text.trim_ascii().is_empty() {
        let hint = "no parameters at all are given by leaving --params out, an object without fields as {}";
        let message = format!("{name} is empty, and has to hold the parameters as JSON");
        return Err(Failure::code(ErrorCode::InvalidParams, message).with_hint(hint));
    }
    parse(text, name, |line| format!("line {line}, ")).map_err(|failure| failure.with_hint_if_none(FORMS))
}

/// One line of several values.
pub(crate) fn parse_line(text: &[u8], name: &str, number: u64) -> Result<Value, Failure> {
    parse(text, name, |_| format!("line {number}, "))
}

/// The one JSON value in a text, with every integer as it stands there.
fn parse(text: &[u8], name: &str, line: impl Fn(usize) -> String) -> Result<Value, Failure> {
    let value = parse_json(text).map_err(|error| {
        let detail = error.to_string();
        // The library puts the place at the end; here it stands before what is wrong there.
        let what = detail.split(" at line ").next().unwrap_or(&detail);
        let place = format!("{}column {}", line(error.line()), error.column());
        // It is JSON all the same where only a key stands twice.
        let not_json = if error.is_data() { "" } else { " is not JSON" };
        Failure::code(ErrorCode::InvalidParams, format!("{name}{not_json}: {place}: {what}"))
    })?;
    match oversized(text) {
        Some(at) => {
            let before = &text[..at.start];
            let lines = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
            Err(too_large(&format!("{name}: {}column {column}: ", line(lines)), &String::from_utf8_lossy(&text[at])))
        }
        None => Ok(value),
    }
}

fn too_large(place: &str, integer: &str) -> Failure {
    let message = format!(
        "{place}{integer} is too large an integer; those from {} to {} can be sent, and nothing is rounded silently",
        i64::MIN,
        u64::MAX
    );
    let hint =
        "write it in quotes where the action takes text, or with a fraction (1.0e20) where a rounded number will do";
    Failure::code(ErrorCode::InvalidParams, message).with_hint(hint)
}

/// Where in a JSON text the first integer stands that no integer type holds; the library would round it to a float.
fn oversized(text: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at += 1;
                // What follows a backslash does not end the string.
                while text.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let part = |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = at + text[at..].iter().take_while(part).count();
                let number = std::str::from_utf8(&text[at..end]).unwrap_or_default();
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some(at..end);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

/// Puts the parameters together: those from `--params`, and over them each `key=value`, typed by `schema`. `None` when nothing
/// was given.
pub(crate) fn assemble(
    base: Option<Value>,
    assignments: &[Assignment],
    schema: Option<&Value>,
) -> Result<Option<Value>, Failure> {
    if assignments.is_empty() {
        return Ok(base);
    }
    let mut fields = match base {
        None => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            let message = format!(
                "`key=value` can be added only to --params that are an object, and they are {}",
                describe(kind_of(&other))
            );
            return Err(Failure::usage(message).with_hint("leave one of the two out"));
        }
    };
    let steps = Cell::new(SCHEMA_STEPS_MAX);
    let schema = Schema {
        root: schema.unwrap_or(&Value::Bool(true)),
        node: schema.unwrap_or(&Value::Bool(true)),
        steps: &steps,
        depth: 0,
    };
    if schema.kinds() & OBJECT == 0 {
        let wanted = describe(schema.kinds());
        return Err(Failure::code(ErrorCode::InvalidParams, format!("this action takes {wanted}, not `key=value`"))
            .with_hint("give it as JSON with --params"));
    }
    let mut seen: Vec<&str> = Vec::new();
    for Assignment { key, text, is_json } in assignments {
        if seen.contains(&key.as_str()) {
            return Err(Failure::usage(format!("`{key}` is given twice")).with_hint("leave one of them out"));
        }
        seen.push(key);
        let field = schema.field(key).ok_or_else(|| unknown_key(key, &schema))?;
        let value = if *is_json { json(key, text)? } else { typed(key, text, &field)? };
        fields.insert(key.clone(), value);
    }
    Ok(Some(Value::Object(fields)))
}

fn json(key: &str, text: &str) -> Result<Value, Failure> {
    let value = parse_json(text.as_bytes()).map_err(|error| {
        if error.is_data() {
            return Failure::code(ErrorCode::InvalidParams, format!("`{key}`: {error}"));
        }
        let message = format!("`{key}` is not JSON: {error}");
        Failure::code(ErrorCode::InvalidParams, message).with_hint(format!("text without quotes is given as `{key}=…`"))
    })?;
    match oversized(text.as_bytes()) {
        Some(at) => Err(too_large(&format!("in `{key}`, "), &text[at])),
        None => Ok(value),
    }
}

/// The value that a text stands for where the schema wants something.
fn typed(key: &str, text: &str, field: &Schema<'_>) -> Result<Value, Failure> {
    let kinds = field.kinds();
    if kinds & !NULL == STRING {
        if let Some(allowed) = field.names()
            && !allowed.contains(&text)
        {
            let message = format!("`{key}` cannot be `{text}`; it is one of {}", list(&allowed));
            return Err(with_nearest(Failure::code(ErrorCode::InvalidParams, message), text, allowed));
        }
        return Ok(Value::String(text.to_owned()));
    }
    let parsed = parse_json(text.as_bytes());
    if let Err(error) = &parsed
        && error.is_data()
    {
        return Err(Failure::code(ErrorCode::InvalidParams, format!("`{key}`: {error}")));
    }
    if parsed.is_ok()
        && let Some(at) = oversized(text.as_bytes())
    {
        return Err(too_large(&format!("in `{key}`, "), &text[at]));
    }
    match parsed {
        Ok(value) if kinds & kind_of(&value) != 0 => Ok(whole(value, kinds)),
        _ if kinds & STRING != 0 => Ok(Value::String(text.to_owned())),
        _ => {
            let failure =
                Failure::code(ErrorCode::InvalidParams, format!("`{key}` has to be {}, not `{text}`", describe(kinds)));
            Err(if kinds & (ARRAY | OBJECT) == 0 {
                failure
            } else {
                failure.with_hint(format!("write it as JSON, in quotes for the shell: {key}='{}'", example(kinds)))
            })
        }
    }
}

/// `5.0` where an integer is wanted is 5.
fn whole(value: Value, kinds: Kinds) -> Value {
    match value.as_f64() {
        Some(number) if kinds & NUMBER == 0 && value.is_f64() && is_exact_integer(number) => Value::from(number as i64),
        _ => value,
    }
}

/// Whether a float is the integer that was meant: up to here each of them is exactly a float, and `1e30` is what no integer holds.
fn is_exact_integer(number: f64) -> bool {
    number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0
}

fn unknown_key(key: &str, schema: &Schema<'_>) -> Failure {
    let known = schema.keys();
    if known.is_empty() {
        return Failure::code(ErrorCode::InvalidParams, format!("this action has no parameter `{key}`; it takes none"));
    }
    let message = format!("this action has no parameter `{key}`; it has {}", list(&known));
    with_nearest(Failure::code(ErrorCode::InvalidParams, message), key, known)
}

fn with_nearest(failure: Failure, given: &str, known: Vec<&str>) -> Failure {
    let nearest = known.into_iter().map(|name| (strsim::damerau_levenshtein(given, name), name)).min();
    match nearest {
        // Half of it mistyped is a guess worth making, more is not.
        Some((distance, name)) if distance <= name.chars().count().div_ceil(2) => {
            failure.with_hint(format!("did you mean `{name}`?"))
        }
        _ => failure,
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The kinds of values that a schema accepts.
type Kinds = u8;
const STRING: Kinds = 1;
const INTEGER: Kinds = 2;
const NUMBER: Kinds = 4;
const BOOLEAN: Kinds = 8;
const ARRAY: Kinds = 16;
const OBJECT: Kinds = 32;
const NULL: Kinds = 64;
const ALL: Kinds = 127;

const NAMES: [(Kinds, &str, &str, &str); 7] = [
    (STRING, "string", "text", "text"),
    (INTEGER, "integer", "an integer", "1"),
    (NUMBER, "number", "a number", "1.5"),
    (BOOLEAN, "boolean", "true or false", "true"),
    (ARRAY, "array", "an array", "[1, 2]"),
    (OBJECT, "object", "an object", "{\"a\": 1}"),
    (NULL, "null", "null", "null"),
];

fn kind_named(name: &str) -> Kinds {
    let kind = NAMES.iter().find(|row| row.1 == name).map_or(0, |row| row.0);
    // Every integer is a number.
    if kind == NUMBER { NUMBER | INTEGER } else { kind }
}

fn kind_of(value: &Value) -> Kinds {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(number) if number.is_i64() || number.is_u64() => INTEGER | NUMBER,
        Value::Number(number) if number.as_f64().is_some_and(is_exact_integer) => INTEGER | NUMBER,
        Value::Number(_) => NUMBER,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

fn describe(kinds: Kinds) -> String {
    let kinds = if kinds & NUMBER != 0 { kinds & !INTEGER } else { kinds };
    let names: Vec<_> = NAMES.iter().filter(|row| kinds & row.0 & !NULL != 0).map(|row| row.2).collect();
    if names.is_empty() { "nothing".into() } else { names.join(" or ") }
}

fn example(kinds: Kinds) -> &'static str {
    NAMES.iter().rev().find(|row| kinds & row.0 & !NULL != 0).map_or("null", |row| row.3)
}

/// One parameter, as the action's schema describes it.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    /// What it may be, with its bounds.
    pub(crate) kind: String,
    pub(crate) is_required: bool,
    pub(crate) default: Option<Value>,
    pub(crate) description: Option<String>,
}

/// The parameters that a schema names, the required ones first.
pub(crate) fn parameters(schema: &Value) -> Vec<Parameter> {
    let steps = Cell::new(SCHEMA_STEPS_MAX);
    let schema = Schema { root: schema, node: schema, steps: &steps, depth: 0 };
    let required: Vec<&str> = schema
        .parts()
        .iter()
        .filter_map(|part| part.node.get("required")?.as_array())
        .flat_map(|names| names.iter().filter_map(Value::as_str))
        .collect();
    let mut parameters: Vec<_> = schema
        .keys()
        .into_iter()
        .filter_map(|name| {
            let field = schema.field(name)?;
            Some(Parameter {
                name: name.to_owned(),
                kind: field.told(),
                is_required: required.contains(&name),
                default: field.keyword("default").cloned(),
                description: field.keyword("description").and_then(Value::as_str).map(ToOwned::to_owned),
            })
        })
        .collect();
    parameters.sort_by_key(|parameter| !parameter.is_required);
    parameters
}

/// A schema within the one it may refer to.
#[derive(Debug, Clone, Copy)]
struct Schema<'a> {
    root: &'a Value,
    node: &'a Value,
    steps: &'a Cell<u32>,
    depth: u8,
}

impl<'a> Schema<'a> {
    fn at(&self, node: &'a Value) -> Self {
        Self { node, depth: self.depth + 1, ..*self }
    }

    /// Whether one more schema may be looked at.
    fn step(&self) -> bool {
        let left = self.steps.get();
        self.steps.set(left.saturating_sub(1));
        left > 0 && self.depth < SCHEMA_DEPTH_MAX
    }

    /// What a reference points to, within the same document.
    fn referred(&self) -> Option<Self> {
        let pointer = self.node.get("$ref")?.as_str()?.strip_prefix('#')?;
        let node = self.root.pointer(pointer)?;
        // A reference to itself leads nowhere.
        (!std::ptr::eq(node, self.node) && self.step()).then(|| self.at(node))
    }

    fn each(&self, keyword: &str) -> Vec<Self> {
        let nodes = self.node.get(keyword).and_then(Value::as_array).into_iter().flatten();
        nodes.take_while(|_| self.step()).map(|node| self.at(node)).collect()
    }

    fn kinds(&self) -> Kinds {
        if self.node == &Value::Bool(false) {
            return 0;
        }
        let mut kinds = match self.node.get("type") {
            Some(Value::String(name)) => kind_named(name),
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).fold(0, |kinds, name| kinds | kind_named(name))
            }
            _ => ALL,
        };
        if let Some(referred) = self.referred() {
            kinds &= referred.kinds();
        }
        if let Some(Value::Array(values)) = self.node.get("enum") {
            kinds &= values.iter().fold(0, |kinds, value| kinds | kind_of(value));
        }
        if let Some(value) = self.node.get("const") {
            kinds &= kind_of(value);
        }
        for schema in self.each("allOf") {
            kinds &= schema.kinds();
        }
        for keyword in ["anyOf", "oneOf"] {
            let choices = self.each(keyword);
            if !choices.is_empty() {
                kinds &= choices.iter().fold(0, |kinds, choice| kinds | choice.kinds());
            }
        }
        kinds
    }

    /// The texts that are allowed, where the schema lists them.
    fn names(&self) -> Option<Vec<&'a str>> {
        if let Some(referred) = self.referred() {
            return referred.names();
        }
        if let Some(value) = self.node.get("const") {
            return Some(value.as_str().into_iter().collect());
        }
        if let Some(values) = self.node.get("enum").and_then(Value::as_array) {
            return Some(values.iter().filter_map(Value::as_str).collect());
        }
        let choices: Vec<_> = self.each("oneOf").into_iter().chain(self.each("anyOf")).collect();
        // The choice of nothing at all takes no name away.
        let named = choices.iter().filter(|choice| choice.kinds() != NULL).map(Schema::names);
        let names: Vec<&str> = named.collect::<Option<Vec<_>>>()?.concat();
        (!names.is_empty()).then_some(names)
    }

    /// This schema and those that are part of it.
    fn parts(&self) -> Vec<Self> {
        let mut parts = vec![*self];
        parts.extend(self.referred().into_iter().flat_map(|schema| schema.parts()));
        for keyword in ["allOf", "anyOf", "oneOf"] {
            parts.extend(self.each(keyword).iter().flat_map(Schema::parts));
        }
        parts
    }

    /// What stands under a keyword, here or in what this schema refers to.
    fn keyword(&self, name: &str) -> Option<&'a Value> {
        self.parts().iter().find_map(|part| part.node.get(name))
    }

    /// What the value may be, in a few words: `integer or null, 1 to 9`.
    fn told(&self) -> String {
        if let Some(names) = self.names() {
            return format!("one of {}", names.join(", "));
        }
        let kinds = self.kinds();
        let kinds = if kinds & NUMBER != 0 { kinds & !INTEGER } else { kinds };
        let mut told = match kinds | INTEGER {
            ALL => "anything".to_owned(),
            _ => NAMES.iter().filter(|row| kinds & row.0 != 0).map(|row| row.1).collect::<Vec<_>>().join(" or "),
        };
        if kinds & ARRAY != 0
            && kinds & !NULL == ARRAY
            && let Some(items) = self.keyword("items").filter(|_| self.step())
        {
            told += &format!(" of ({})", self.at(items).told());
        }
        for (least, most, what) in
            [("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items")]
        {
            match (self.keyword(least), self.keyword(most)) {
                (Some(least), Some(most)) => told += &format!(", {least} to {most}{what}"),
                (Some(least), None) => told += &format!(", at least {least}{what}"),
                (None, Some(most)) => told += &format!(", at most {most}{what}"),
                (None, None) => {}
            }
        }
        for (keyword, what) in [("exclusiveMinimum", "more than"), ("exclusiveMaximum", "less than")] {
            if let Some(bound) = self.keyword(keyword) {
                told += &format!(", {what} {bound}");
            }
        }
        told
    }

    fn keys(&self) -> Vec<&'a str> {
        let parts = self.parts();
        let named = parts.iter().filter_map(|part| part.node.get("properties")?.as_object());
        let mut keys: Vec<&str> = named.flat_map(|properties| properties.keys().map(String::as_str)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The schema of one parameter; `None` when there is no such parameter.
    fn field(&self, key: &str) -> Option<Self> {
        let parts = self.parts();
        let own = parts.iter().find_map(|part| part.node.get("properties")?.get(key).map(|node| part.at(node)));
        if own.is_some() {
            return own;
        }
        let others = parts.iter().find_map(|part| match part.node.get("additionalProperties")? {
            Value::Bool(false) => None,
            node => Some(part.at(node)),
        });
        if others.is_some() {
            return others;
        }
        // Names by pattern, and schemas that say nothing about names, leave it to the plugin.
        let silent = parts
            .iter()
            .all(|part| part.node.get("properties").is_none() && part.node.get("additionalProperties").is_none());
        let patterns = parts.iter().any(|part| part.node.get("patternProperties").is_some());
        (silent || patterns).then_some(self.at(&Value::Bool(true)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "maybe": {"type": ["string", "null"]},
                "count": {"type": "integer", "minimum": 0},
                "ratio": {"type": "number"},
                "fast": {"type": "boolean"},
                "list": {"type": "array", "items": {"type": "integer"}},
                "map": {"type": "object"},
                "either": {"type": ["string", "integer"]},
                "level": {"$ref": "#/$defs/Level"},
                "level_or_none": {"anyOf": [{"$ref": "#/$defs/Level"}, {"type": "null"}]},
                "documented": {"description": "a level", "allOf": [{"$ref": "#/$defs/Level"}]},
                "shape": {"oneOf": [{"const": "round"}, {"const": "square"}]},
                "anything": true,
                "loop": {"$ref": "#/$defs/Loop"},
            },
            "$defs": {
                "Level": {"type": "string", "enum": ["low", "high"]},
                "Loop": {"$ref": "#/$defs/Loop"},
            },
        })
    }

    fn given(arguments: &[&str], schema: Option<&Value>) -> Result<Value, Failure> {
        let assignments: Vec<_> = arguments.iter().map(|text| assignment(text).unwrap()).collect();
        assemble(None, &assignments, schema).map(Option::unwrap_or_default)
    }

    #[test]
    fn the_schema_types_the_values() {
        for (text, expected) in [
            ("text=5", json!({"text": "5"})),
            ("text=true", json!({"text": "true"})),
            ("text=", json!({"text": ""})),
            ("text=a=b", json!({"text": "a=b"})),
            ("text=\"quoted\"", json!({"text": "\"quoted\""})),
            ("maybe=null", json!({"maybe": "null"})),
            ("maybe:=null", json!({"maybe": null})),
            ("count=5", json!({"count": 5})),
            ("count=5.0", json!({"count": 5})),
            ("count=18446744073709551615", json!({"count": 18_446_744_073_709_551_615_u64})),
            ("ratio=5", json!({"ratio": 5})),
            ("ratio=-0.5e3", json!({"ratio": -500.0})),
            ("fast=false", json!({"fast": false})),
            ("list=[1, 2]", json!({"list": [1, 2]})),
            ("map={\"a\": {}}", json!({"map": {"a": {}}})),
            ("either=5", json!({"either": 5})),
            ("either=five", json!({"either": "five"})),
            ("either:=\"5\"", json!({"either": "5"})),
            ("level=low", json!({"level": "low"})),
            ("level_or_none=high", json!({"level_or_none": "high"})),
            ("documented=high", json!({"documented": "high"})),
            ("shape=round", json!({"shape": "round"})),
            ("anything=5", json!({"anything": 5})),
            ("anything=five", json!({"anything": "five"})),
            ("loop=5", json!({"loop": 5})),
        ] {
            assert_eq!(given(&[text], Some(&schema())), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        for (text, message, hint) in [
            ("count=five", "`count` has to be an integer, not `five`", None),
            ("count=1e30", "`count` has to be an integer, not `1e30`", None),
            ("count=5.5", "`count` has to be an integer, not `5.5`", None),
            ("ratio=", "`ratio` has to be a number, not ``", None),
            ("fast=yes", "`fast` has to be true or false, not `yes`", None),
            (
                "list=1,2",
                "`list` has to be an array, not `1,2`",
                Some("write it as JSON, in quotes for the shell: list='[1, 2]'"),
            ),
            ("level=hihg", "`level` cannot be `hihg`; it is one of `low`, `high`", Some("did you mean `high`?")),
            ("shape=triangular", "`shape` cannot be `triangular`; it is one of `round`, `square`", None),
        ] {
            let failure = given(&[text], Some(&schema())).unwrap_err();
            assert_eq!((failure.message(), failure.hint(), failure.status), (message, hint, 4), "{text}");
        }
        let failure = given(&["count:=x"], Some(&schema())).unwrap_err();
        assert!(failure.message().starts_with("`count` is not JSON: "), "{}", failure.message());
    }

    /// None is rounded silently, wherever it stands.
    #[test]
    fn an_integer_that_no_type_holds_is_refused() {
        for text in ["ratio=18446744073709551616", "count=-9223372036854775809", "list=[1, 18446744073709551616]"] {
            let failure = given(&[text], Some(&schema())).unwrap_err();
            assert!(failure.message().contains("is too large an integer"), "{text}: {}", failure.message());
            assert!(failure.message().starts_with(&format!("in `{}`", text.split('=').next().unwrap())));
            assert!(failure.hint().unwrap().contains("in quotes"), "{text}");
        }
        assert!(given(&["a:={\"b\": -9223372036854775809}"], None).is_err());
        assert!(given(&["a=18446744073709551616"], None).is_err());
        let whole = json!({"a": "18446744073709551616", "b\\\"": [i64::MIN, u64::MAX], "c": 1.0e300, "d": -0.5});
        assert_eq!(read(&whole.to_string()), Ok(whole));
        let failure = read("{\"a\": \"\\\"9\",\n \"b\": [18446744073709551616]}").unwrap_err();
        let message = failure.message();
        assert!(message.starts_with("--params: line 2, column 8: 18446744073709551616 is too large"), "{message}");
        assert_eq!(failure.status, 4);
        let failure = parse_line(b"[-9223372036854775809]", "stdin", 7).unwrap_err();
        assert!(failure.message().starts_with("stdin: line 7, column 2: -9223372036854775809 is"));
        assert_eq!(given(&["text=18446744073709551616"], Some(&schema())), Ok(json!({"text": "18446744073709551616"})));
    }

    /// Of two values under one key neither is dropped silently.
    #[test]
    fn a_key_that_stands_twice_is_refused() {
        for text in ["{\"a\": 1, \"a\": 2}", "[{\"b\": {\"a\": 1, \"a\": 1}}]"] {
            let failure = read(text).unwrap_err();
            assert!(failure.message().starts_with("--params: line 1, column "), "{}", failure.message());
            assert!(failure.message().ends_with("the key \"a\" stands there twice; leave one of them out"));
            assert_eq!(failure.status, 4);
        }
        for text in ["a={\"b\": 1, \"b\": 2}", "a:={\"b\": 1, \"b\": 2}"] {
            let failure = given(&[text], None).unwrap_err();
            assert!(failure.message().contains("the key \"b\" stands there twice"), "{}", failure.message());
        }
        let whole = json!({"a": [null, true, -1, 1.5, "t", {"a": u64::MAX}], "b": {}});
        assert_eq!(read(&whole.to_string()), Ok(whole));
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let schema = json!({"type": "object", "properties": {"expression": {"type": "string"}, "precision": {}}});
        let failure = given(&["expresion=1"], Some(&schema)).unwrap_err();
        assert_eq!(failure.message(), "this action has no parameter `expresion`; it has `expression`, `precision`");
        assert_eq!((failure.hint(), failure.status), (Some("did you mean `expression`?"), 4));
        assert_eq!(given(&["qqqqqqqqqq=1"], Some(&schema)).unwrap_err().hint(), None);
        let nothing = json!({"type": "object", "additionalProperties": false});
        let failure = given(&["a=1"], Some(&nothing)).unwrap_err();
        assert_eq!(failure.message(), "this action has no parameter `a`; it takes none");
    }

    #[test]
    fn keys_that_the_schema_leaves_open_are_taken() {
        let numbers = json!({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}});
        assert_eq!(given(&["b=5"], Some(&numbers)), Ok(json!({"b": 5})));
        assert!(given(&["b=x"], Some(&numbers)).is_err());
        for open in [json!(true), json!({}), json!({"type": "object"})] {
            assert_eq!(given(&["b=5", "c=x"], Some(&open)), Ok(json!({"b": 5, "c": "x"})), "{open}");
        }
        let patterns = json!({"type": "object", "properties": {"a": {}}, "patternProperties": {"^x-": {}}});
        assert_eq!(given(&["x-y=5"], Some(&patterns)), Ok(json!({"x-y": 5})));
    }

    #[test]
    fn without_a_schema_it_is_json_or_else_text() {
        assert_eq!(
            given(&["a=5", "b=five", "c=[1]", "d=\"5\"", "e=null", "f={x"], None),
            Ok(json!({"a": 5, "b": "five", "c": [1], "d": "5", "e": null, "f": "{x"}))
        );
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let again = json!({"$ref": "#"});
        let schema = json!({"anyOf": [&again, &again, &again], "allOf": [&again, &again], "properties": {"a": &again}});
        // What it accepts cannot be told; that it is told in no time is the point.
        let _ = given(&["a=1"], Some(&schema));
        let _ = given(&["b=1"], Some(&schema));
        let pair = json!({"$ref": "#/b", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}});
        let _ = given(&["b=1"], Some(&pair));
    }

    #[test]
    fn variants_of_an_object_share_their_keys() {
        let schema = json!({"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "circle"}, "radius": {"type": "number"}}},
            {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "number"}}},
        ]});
        assert_eq!(given(&["radius=2"], Some(&schema)), Ok(json!({"radius": 2})));
        assert_eq!(given(&["side=2"], Some(&schema)), Ok(json!({"side": 2})));
        assert!(given(&["height=2"], Some(&schema)).is_err());
    }

    #[test]
    fn assignments_go_over_what_params_say() {
        let assignments = [assignment("a=2").unwrap()];
        let base = Some(json!({"a": 1, "b": 1}));
        assert_eq!(assemble(base, &assignments, None), Ok(Some(json!({"a": 2, "b": 1}))));
        assert_eq!(assemble(Some(json!([1])), &assignments, None).unwrap_err().status, 2);
        assert_eq!(assemble(Some(json!([1])), &[], None), Ok(Some(json!([1]))));
        assert_eq!(assemble(None, &[], None), Ok(None));
        let twice = [assignment("a=2").unwrap(), assignment("a=3").unwrap()];
        assert_eq!(assemble(None, &twice, None).unwrap_err().status, 2);
        let list = json!({"type": "array"});
        let failure = assemble(None, &assignments, Some(&list)).unwrap_err();
        assert_eq!(failure.message(), "this action takes an array, not `key=value`");
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        assert!(assignment("expression").is_err());
        assert!(assignment("=5").is_err());
        assert!(assignment(":=5").is_err());
    }

    #[test]
    fn a_parameter_file_is_named_with_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("params.json");
        let failure = read(&format!("@{}", path.display())).unwrap_err();
        assert_eq!((failure.status, failure.hint()), (2, Some(FORMS)));
        assert!(failure.message().contains("params.json cannot be read: No such file"), "{}", failure.message());
        std::fs::write(&path, "{\"a\": 1,\n \"b\" 2}").unwrap();
        let failure = read(&format!("@{}", path.display())).unwrap_err();
        assert_eq!(failure.status, 4);
        assert_eq!(failure.message(), format!("{} is not JSON: line 2, column 6: expected `:`", path.display()));
        std::fs::write(&path, "{\"a\": 1}").unwrap();
        assert_eq!(read(&format!("@{}", path.display())), Ok(json!({"a": 1})));
        let failure = read("{").unwrap_err();
        assert_eq!(failure.message(), "--params is not JSON: line 1, column 1: EOF while parsing an object");
        assert_eq!(failure.hint(), Some(FORMS));
        assert!(read(&"[".repeat(1000)).is_err(), "too deep");
        std::fs::write(&path, " \n").unwrap();
        let failure = read(&format!("@{}", path.display())).unwrap_err();
        assert_eq!(failure.message(), format!("{} is empty, and has to hold the parameters as JSON", path.display()));
        assert!(failure.hint().unwrap().contains("leaving --params out"));
        let failure = read(&path.display().to_string()).unwrap_err();
        assert_eq!(failure.hint(), Some(format!("a file is given as --params @{}", path.display()).as_str()));
    }
}
