//! What a plugin is configured with: what `palisade.toml` says, over it what an operator has said since, and below both the defaults of
//! its `configuration_schema`.
//!
//! Invariants: no place that was said lies within another one; what is said is a change of objects alone, lists are said as a whole; filling
//! in defaults ends, whatever the schema is.
//! Elsewhere: schemas are checked by `schema`; what a running plugin says of a change is `plugin`'s.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use palisade_protocol::STRING_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::manifest::Manifest;
use super::schema::{self, Schema};
use super::status::clip;

/// A configuration may have so many bytes as JSON: as `Welcome` it has to fit one frame.
pub const CONFIGURATION_BYTES_MAX: usize = 256 << 10;

/// What carries it may be nested deeper than this, and have more values, texts as long as this.
const DEEP_MAX: usize = 24;
const VALUES_MAX: usize = 16_384;

/// So many places an operator may have said something about.
pub const PLACES_MAX: usize = 1024;

/// A place may be so long, as it is written.
const PLACE_BYTES_MAX: usize = 512;

/// A sentence about what does not fit has at most so many bytes.
const SHOWN_BYTES_MAX: usize = 1000;

/// So many values of a schema are looked at for defaults. Beyond it the schema is more than any that anybody writes.
const STEPS_MAX: u32 = 100_000;

/// So deep defaults are filled in, references of the schema counted.
const DEPTH_MAX: u8 = 64;

/// A place in a configuration: the names of the fields that lead there. Written as a JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(Vec<String>);

/// Why a place or what is to stand there is refused: where, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// As a JSON pointer, or as it was written where it is none.
    pub at: String,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.problem)
    }
}

impl Place {
    /// Reads `server.port`, or the JSON pointer `/server/port`, which can name fields that have a dot in them.
    ///
    /// # Errors
    /// [`Misplaced`]
    pub fn parse(text: &str) -> Result<Self, Misplaced> {
        let wrong = |problem: &str| Err(Misplaced { at: clip(text, PLACE_BYTES_MAX), problem: problem.to_owned() });
        if PLACE_BYTES_MAX < text.len() {
            return wrong("it is longer than any place");
        }
        let names: Vec<String> = match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect(),
            None => text.split('.').map(str::to_owned).collect(),
        };
        if names.iter().any(String::is_empty) {
            return wrong("it names nothing; write it as `server.port`, or as `/server/port`");
        }
        if usize::from(DEPTH_MAX) < names.len() {
            return wrong("it is deeper than any place");
        }
        Ok(Self(names))
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// What it has beyond the other one, if that leads to it.
    fn within(&self, other: &Self) -> Option<&[String]> {
        self.0.strip_prefix(other.0.as_slice())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.0 {
            write!(f, "/{}", name.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

/// What an operator has said of a plugin's configuration while a daemon ran, by place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides(BTreeMap<Place, Value>);

impl Overrides {
    /// Has this value stand there.
    ///
    /// # Errors
    /// [`Misplaced`] where the place lies within something that was said and is no object.
    pub fn set(&mut self, place: &Place, value: Value) -> Result<(), Misplaced> {
        let around = self.0.iter_mut().find_map(|(other, there)| {
            place.within(other).filter(|rest| !rest.is_empty()).map(|rest| (other.clone(), rest, there))
        });
        if let Some((other, rest, there)) = around {
            return put(there, &other, rest, value);
        }
        self.0.retain(|other, _| other.within(place).is_none());
        self.0.insert(place.clone(), value);
        Ok(())
    }

    /// Takes back whatever was said of this place and of all within it. Says whether there was anything.
    pub fn unset(&mut self, place: &Place) -> bool {
        let before = self.0.len();
        self.0.retain(|other, _| other.within(place).is_none());
        if self.0.len() < before {
            return true;
        }
        self.0.iter_mut().any(|(other, there)| match place.within(other) {
            Some([way @ .., last]) => {
                let around = way.iter().try_fold(there, |at, name| at.as_object_mut()?.get_mut(name));
                around.and_then(Value::as_object_mut).is_some_and(|fields| fields.remove(last).is_some())
            }
            _ => false,
        })
    }

    /// The same over what `palisade.toml` says.
    ///
    /// # Errors
    /// [`Misplaced`] where that has something else than an object on the way to a place.
    pub fn over(&self, base: &Value) -> Result<Value, Misplaced> {
        let mut whole = base.clone();
        for (place, value) in &self.0 {
            put(&mut whole, &Place(Vec::new()), &place.0, value.clone())?;
        }
        Ok(whole)
    }

    /// How many places there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Puts a value in its place, with the objects that lead there.
fn put(into: &mut Value, from: &Place, way: &[String], value: Value) -> Result<(), Misplaced> {
    let mut at = into;
    for (depth, name) in way.iter().enumerate() {
        let Value::Object(fields) = at else {
            let there = Place([from.0.as_slice(), &way[..depth]].concat());
            let kind = if at.is_array() { "a list, which is set as a whole" } else { "no object" };
            return Err(Misplaced {
                at: there.to_string(),
                problem: format!("it is {kind}, so there is no {name:?} in it"),
            });
        };
        at = fields.entry(name.clone()).or_insert_with(|| json!({}));
    }
    *at = value;
    Ok(())
}

/// As an object of values by JSON pointer.
impl Serialize for Overrides {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(place, value)| (place.to_string(), value)))
    }
}

impl<'de> Deserialize<'de> for Overrides {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let mut overrides = Self::default();
        for (place, value) in all {
            let place = Place::parse(&place).map_err(serde::de::Error::custom)?;
            overrides.set(&place, value).map_err(serde::de::Error::custom)?;
        }
        Ok(overrides)
    }
}

/// What of a configuration does not fit, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit(pub Vec<Misplaced>);

impl From<Misplaced> for Unfit {
    fn from(misplaced: Misplaced) -> Self {
        Self(vec![misplaced])
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.0.iter().map(|one| (one.at.clone(), one.problem.clone())).collect();
        f.write_str(&clip(&schema::listed(&pairs), SHOWN_BYTES_MAX))
    }
}

/// The configuration that a version of a plugin gets: all that was said, with the defaults of its schema.
///
/// # Errors
/// What of it does not fit.
pub fn effective(manifest: &Manifest, base: &Value, said: &Overrides) -> Result<Value, Unfit> {
    let whole = said.over(base)?;
    let whole = if whole.is_null() { json!({}) } else { whole };
    let Some(schema) = &manifest.configuration_schema else { return bounded(whole) };
    let schema = schema.value();
    let whole = bounded(filled(&schema, whole))?;
    // What has no bound is not checked, which was said when the manifest was read; all else was compiled then.
    let Ok(compiled) = Schema::compile(&schema) else { return Ok(whole) };
    if !compiled.affords(whole.to_string().len()) {
        return Ok(whole);
    }
    let violations = compiled.violations(&whole, Some(&schema));
    if violations.is_empty() {
        return Ok(whole);
    }
    Err(Unfit(violations.into_iter().map(|(at, problem)| Misplaced { at, problem }).collect()))
}

fn bounded(whole: Value) -> Result<Value, Unfit> {
    let bytes = whole.to_string().len();
    if bytes <= CONFIGURATION_BYTES_MAX {
        tellable(&whole, &mut String::new(), 0, &mut 0)?;
        return Ok(whole);
    }
    let problem = format!("it has {bytes} bytes, and a configuration has at most {CONFIGURATION_BYTES_MAX}");
    Err(Misplaced { at: String::new(), problem }.into())
}

/// Whether a plugin can be told of it: the protocol has bounds for texts, depth and number of values in what carries it.
fn tellable(value: &Value, at: &mut String, depth: usize, values: &mut usize) -> Result<(), Misplaced> {
    let wrong = |at: &str, problem: String| Err(Misplaced { at: at.to_owned(), problem });
    *values += 1;
    if VALUES_MAX < *values {
        return wrong("", format!("it has more than {VALUES_MAX} values"));
    }
    if DEEP_MAX < depth {
        return wrong(at, format!("it is deeper than {DEEP_MAX}"));
    }
    let mut within = |name: &str, value: &Value, values: &mut usize| {
        let before = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let told = tellable(value, at, depth + 1, values);
        at.truncate(before);
        told
    };
    match value {
        Value::String(text) if STRING_BYTES_MAX < text.len() => {
            wrong(at, format!("a text has at most {STRING_BYTES_MAX} bytes, and this one {}", text.len()))
        }
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| within(&index.to_string(), item, values))
        }
        Value::Object(fields) => fields.iter().try_for_each(|(name, field)| {
            *values += 1;
            if STRING_BYTES_MAX < name.len() {
                let problem = format!("a name has at most {STRING_BYTES_MAX} bytes, and one of these {}", name.len());
                return Err(Misplaced { at: String::new(), problem });
            }
            within(name, field, values)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Fills in the `default` of each property that is absent, at every depth of the objects that are there.
#[must_use]
pub fn filled(schema: &Value, value: Value) -> Value {
    let mut value = value;
    let steps = Cell::new(STEPS_MAX);
    Filling { root: schema, steps: &steps }.fill(schema, &mut value, 0);
    value
}

struct Filling<'s> {
    root: &'s Value,
    steps: &'s Cell<u32>,
}

impl<'s> Filling<'s> {
    fn fill(&self, schema: &'s Value, value: &mut Value, depth: u8) {
        let Value::Object(keywords) = schema else { return };
        if self.steps.get() == 0 || depth == DEPTH_MAX {
            return;
        }
        self.steps.set(self.steps.get() - 1);
        if let Some(target) = self.target(keywords) {
            self.fill(target, value, depth + 1);
        }
        for part in keywords.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.fill(part, value, depth + 1);
        }
        match value {
            Value::Object(fields) => self.fill_fields(keywords, fields, depth),
            Value::Array(items) => {
                if let Some(schema) = keywords.get("items") {
                    items.iter_mut().for_each(|item| self.fill(schema, item, depth + 1));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn fill_fields(&self, keywords: &'s Map<String, Value>, fields: &mut Map<String, Value>, depth: u8) {
        let properties = keywords.get("properties").and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            if !fields.contains_key(name)
                && let Some(default) = self.default_of(schema)
            {
                fields.insert(name.clone(), default.clone());
            }
            if let Some(field) = fields.get_mut(name) {
                self.fill(schema, field, depth + 1);
            }
        }
        if let Some(schema @ Value::Object(_)) = keywords.get("additionalProperties") {
            let others =
                fields.iter_mut().filter(|(name, _)| properties.is_none_or(|known| !known.contains_key(*name)));
            others.for_each(|(_, field)| self.fill(schema, field, depth + 1));
        }
    }

    /// The default that stands there, or where it refers to.
    fn default_of(&self, schema: &'s Value) -> Option<&'s Value> {
        let mut schema = schema.as_object()?;
        for _ in 0..DEPTH_MAX {
            if let Some(default) = schema.get("default") {
                return Some(default);
            }
            schema = self.target(schema)?.as_object()?;
        }
        None
    }

    fn target(&self, keywords: &Map<String, Value>) -> Option<&'s Value> {
        self.root.pointer(keywords.get("$ref")?.as_str()?.strip_prefix('#')?)
    }
}

impl Overrides {
    /// What was said of these places.
    #[must_use]
    pub fn only(mut self, places: &[String]) -> Self {
        self.0.retain(|place, _| places.contains(&place.to_string()));
        self
    }

    /// The places at which two differ.
    #[must_use]
    pub fn changed(&self, after: &Self) -> Vec<String> {
        let mut places: Vec<_> = self.0.keys().chain(after.0.keys()).collect();
        places.sort();
        places.dedup();
        places.retain(|place| self.0.get(*place) != after.0.get(*place));
        places.into_iter().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    fn said(all: &[(&str, Value)]) -> Overrides {
        let mut overrides = Overrides::default();
        for (at, value) in all {
            overrides.set(&place(at), value.clone()).unwrap();
        }
        overrides
    }

    fn manifest(schema: &Value) -> Manifest {
        let manifest = json!({
            "id": "a", "name": "A", "version": "1.0.0", "entry_point": "a", "configuration_schema": schema,
        });
        Manifest::parse(manifest.to_string().as_bytes()).unwrap().0
    }

    #[test]
    fn places_are_written_in_two_ways_and_told_in_one() {
        for (text, told) in [("a", "/a"), ("a.b", "/a/b"), ("/a/b", "/a/b"), ("/a.b/c~1d~0", "/a.b/c~1d~0")] {
            assert_eq!(place(text).to_string(), told);
            assert_eq!(place(told), place(text));
        }
        let long = "a".repeat(PLACE_BYTES_MAX + 1);
        let deep = vec!["a"; usize::from(DEPTH_MAX) + 1].join(".");
        for text in ["", ".", "a.", "/", "/a//b", &long, &deep] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_said_goes_over_the_file_and_is_taken_back() {
        let base = json!({ "name": "x", "server": { "port": 1, "host": "h" }, "list": [1, 2] });
        let mut overrides = said(&[("server.port", json!(2)), ("limits.deep", json!(3))]);
        let whole = json!({
            "name": "x", "server": { "port": 2, "host": "h" }, "list": [1, 2], "limits": { "deep": 3 },
        });
        assert_eq!(overrides.over(&base).unwrap(), whole);
        // A whole object goes over the parts, and a part goes into it.
        overrides.set(&place("server"), json!({ "host": "other" })).unwrap();
        overrides.set(&place("server.port"), json!(9)).unwrap();
        assert_eq!(overrides.len(), 2);
        assert_eq!(overrides.over(&base).unwrap()["server"], json!({ "host": "other", "port": 9 }));
        assert!(overrides.unset(&place("server.port")));
        assert!(!overrides.unset(&place("server.port")) && !overrides.unset(&place("name")));
        assert_eq!(overrides.over(&base).unwrap()["server"], json!({ "host": "other" }));
        assert!(overrides.unset(&place("server")) && overrides.unset(&place("limits")));
        assert_eq!((overrides.over(&base).unwrap(), overrides.is_empty()), (base.clone(), true));
        for at in ["name.first", "list.0"] {
            let refused = said(&[(at, json!(1))]).over(&base).unwrap_err();
            assert_eq!(refused.at, format!("/{}", at.split_once('.').unwrap().0), "{refused}");
        }
        let mut within = said(&[("a", json!(1))]);
        assert_eq!(within.set(&place("a.b"), json!(2)).unwrap_err().at, "/a");
        let kept = serde_json::to_value(said(&[("a.b", json!(1)), ("/c.d", json!({ "e": [] }))])).unwrap();
        assert_eq!(kept, json!({ "/a/b": 1, "/c.d": { "e": [] } }));
        assert_eq!(serde_json::from_value::<Overrides>(kept).unwrap().len(), 2);
        assert_eq!(
            said(&[("a", json!(1)), ("b", json!(1))]).changed(&said(&[("a", json!(1)), ("c", json!(1))])),
            ["/b", "/c"]
        );
    }

    #[test]
    fn defaults_are_filled_in_at_every_depth_that_is_there() {
        let schema = json!({
            "$defs": { "port": { "type": "integer", "default": 80 } },
            "properties": {
                "name": { "default": "x" },
                "server": {
                    "default": {},
                    "properties": { "port": { "$ref": "#/$defs/port" }, "tls": { "properties": { "on": { "default": true } } } },
                },
                "absent": { "properties": { "inner": { "default": 1 } } },
                "many": { "items": { "properties": { "weight": { "default": 1 } } } },
                "named": { "additionalProperties": { "properties": { "kind": { "default": "a" } } } },
            },
            "allOf": [{ "properties": { "more": { "default": [1] } } }],
        });
        assert_eq!(
            filled(
                &schema,
                json!({ "many": [{}, { "weight": 2 }, 3], "named": { "one": {}, "two": { "kind": "b" } } })
            ),
            json!({
                "name": "x", "server": { "port": 80 }, "more": [1],
                "many": [{ "weight": 1 }, { "weight": 2 }, 3],
                "named": { "one": { "kind": "a" }, "two": { "kind": "b" } },
            })
        );
        assert_eq!(filled(&schema, json!({ "server": { "tls": {} } }))["server"]["tls"], json!({ "on": true }));
        assert_eq!(filled(&schema, json!({ "name": null }))["name"], Value::Null, "what is there stays");
        // Two of each in each, without end.
        let boundless =
            json!({ "properties": { "a": { "$ref": "#", "default": {} }, "b": { "$ref": "#", "default": {} } } });
        assert!(filled(&boundless, json!({})).to_string().len() < 10 * STEPS_MAX as usize);
    }

    /// Whatever the keyword is.
    #[test]
    fn what_does_not_fit_is_told_with_its_place_in_schemas_of_several_parts() {
        let manifest = manifest(&json!({
            "$defs": {
                "tls": { "properties": { "certificate": { "type": "string", "pattern": "^/" } }, "additionalProperties": false },
            },
            "allOf": [{ "properties": { "tls": { "$ref": "#/$defs/tls" } } }],
            "properties": {
                "peers": { "type": "array", "maxItems": 2, "items": {
                    "properties": { "port": { "minimum": 1 }, "weight": { "const": 1 } }, "required": ["port"],
                    "additionalProperties": false,
                } },
            },
        }));
        for (at, value, told) in [
            (
                "tls.certificat",
                json!("/a"),
                "/tls/certificat: there is no property of this name; did you mean `certificate`?",
            ),
            ("tls.certificate", json!("a"), "/tls/certificate: \"a\" does not match \"^/\""),
            ("peers", json!([{ "port": 0 }]), "/peers/0/port: 0 is less than the minimum of 1"),
            ("peers", json!([{}]), "/peers/0: \"port\" is a required property"),
            ("peers", json!([{ "port": 1, "weight": 2 }]), "/peers/0/weight: 1 was expected"),
            (
                "peers",
                json!([{ "port": 1, "wieght": 1 }]),
                "/peers/0/wieght: there is no property of this name; did you mean `weight`?",
            ),
            ("peers", json!({}), "/peers: {} is not of type \"array\""),
            ("peers", json!([{ "port": 1 }, { "port": 1 }, { "port": 1 }]), "/peers: "),
        ] {
            let refused = effective(&manifest, &json!({}), &said(&[(at, value)])).unwrap_err().to_string();
            assert!(refused.starts_with(told), "{refused}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place_and_what_is_allowed() {
        let manifest = manifest(&json!({
            "type": "object",
            "properties": {
                "level": { "enum": ["low", "high"], "default": "low" },
                "server": { "type": "object", "properties": { "port": { "type": "integer", "maximum": 9 } }, "required": ["port"] },
            },
            "additionalProperties": false,
        }));
        let of = |said: &Overrides| effective(&manifest, &json!({}), said);
        assert_eq!(of(&Overrides::default()).unwrap(), json!({ "level": "low" }));
        let refused = of(&said(&[("level", json!("loud"))])).unwrap_err().to_string();
        assert_eq!(refused, "/level: \"loud\" is not one of \"low\" or \"high\"");
        let refused = of(&said(&[("server.port", json!(10))])).unwrap_err().to_string();
        assert_eq!(refused, "/server/port: 10 is greater than the maximum of 9");
        let refused = of(&said(&[("server", json!({}))])).unwrap_err().to_string();
        assert_eq!(refused, "/server: \"port\" is a required property");
        let refused = of(&said(&[("levl", json!(1))])).unwrap_err().to_string();
        assert_eq!(refused, "/levl: there is no property of this name; did you mean `level`?");
        let refused = of(&said(&[("a/b", json!(1))])).unwrap_err().to_string();
        assert_eq!(refused, "/a~1b: there is no property of this name; there is `level`, `server`");
        let long = "x".repeat(CONFIGURATION_BYTES_MAX);
        let refused = of(&said(&[("level", json!(long))])).unwrap_err().to_string();
        assert!(refused.contains("at most 262144") && refused.len() < 200, "{refused}");
        // Beyond what the protocol carries no plugin could be told of it.
        let anything = self::manifest(&json!(true));
        let of = |value: Value| effective(&anything, &json!({}), &said(&[("a", value)])).map(drop);
        assert!(of(json!("x".repeat(STRING_BYTES_MAX))).is_ok() && of(json!(vec![0; 10_000])).is_ok());
        let refused = of(json!([0, "x".repeat(STRING_BYTES_MAX + 1)])).unwrap_err().to_string();
        assert!(refused.starts_with("/a/1: a text has at most 32768 bytes"), "{refused}");
        let deep = (0..DEEP_MAX).fold(json!(0), |deep, _| json!([deep]));
        assert!(of(deep).unwrap_err().to_string().ends_with("it is deeper than 24"));
        assert_eq!(of(json!(vec![0; VALUES_MAX])).unwrap_err().to_string(), "it has more than 16384 values");
    }
}
