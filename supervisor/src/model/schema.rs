//! JSON Schemas that come from a package or a plugin: made ready for checking values, within bounds.
//!
//! Invariants: nothing outside of the schema is fetched; patterns run on an engine whose time grows with the text and not
//! beyond, and which therefore has no look-around and no back-references; how many values a schema has once its references
//! are written out is known before anything is checked, and bounded.
//!
//! Elsewhere: what follows from a schema that is none. A manifest with one is refused; of one that a running plugin told,
//! the plugin alone judges its calls.

use std::collections::{HashMap, HashSet};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use super::nearest::nearest;
use super::status::clip;

/// Checking may cost so many steps, a step being a value of the schema for each byte of what is checked.
pub const CHECK_STEPS_MAX: u64 = 4 << 20;

/// So long may a chain of references be, and so deep whatever lies within them. Whoever follows it needs stack for each.
const REFERENCES_DEEP_MAX: usize = 64;

/// So many patterns one schema may have.
pub const PATTERNS_MAX: usize = 64;

/// So much room the patterns of one schema may need once they are compiled, and as much again while they run.
const PATTERNS_BYTES_MAX: usize = 1 << 20;

/// So many patterns all schemas of one manifest may have.
const ALL_PATTERNS_MAX: usize = 4096;

/// So much room they may need once they are compiled, each schema counted with as much as it is given. Compiling takes time in proportion.
const ALL_PATTERNS_BYTES_MAX: usize = 16 << 20;

/// What a schema is given at first, and then four times as much each time that it does not do.
const ROOM_BYTES_MIN: usize = 16 << 10;

/// A pattern costs as much as so many values of a schema.
const PATTERN_VALUES: u64 = 16;

/// A text of the schema's own is shown in an error with at most so many bytes.
const SHOWN_BYTES_MAX: usize = 80;

/// Most violations that are named.
const VIOLATIONS_MAX: usize = 5;

/// So many names of properties are told where none is close to one that there is not.
const NAMES_TOLD_MAX: usize = 10;

/// So many schemas are looked at for such names.
const NAMES_STEPS_MAX: u32 = 10_000;

/// Violations as a sentence has them.
#[must_use]
pub fn listed(violations: &[(String, String)]) -> String {
    let text = violations.iter().map(|(path, what)| match path.as_str() {
        "" => what.clone(),
        path => format!("{path}: {what}"),
    });
    text.collect::<Vec<_>>().join("; ")
}

/// A schema that can be checked here.
#[derive(Debug)]
pub struct Schema {
    pub validator: Validator,
    /// How many values it has, with every reference written out.
    pub values: u64,
}

/// Why nothing is checked against a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It is none.
    #[error("{0}")]
    Refused(String),
    /// It is one, and checking it has no bound that is known.
    #[error("it refers to itself, or too often")]
    Boundless,
    /// What all schemas together may have is used up.
    #[error(
        "with this one all schemas together have more than the {ALL_PATTERNS_MAX} patterns, or take more than the {} MiB for compiled ones, \
         that are allowed",
        ALL_PATTERNS_BYTES_MAX >> 20
    )]
    TooMuch,
}

/// What is left for the patterns of the schemas that are still to come of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    patterns: usize,
    bytes: usize,
    /// One has been refused for want of it.
    is_exceeded: bool,
}

impl Room {
    /// Whether one has been refused for want of it, so that no other with a pattern is compiled.
    #[must_use]
    pub fn is_exceeded(self) -> bool {
        self.is_exceeded
    }
}

impl Default for Room {
    fn default() -> Self {
        Self { patterns: ALL_PATTERNS_MAX, bytes: ALL_PATTERNS_BYTES_MAX, is_exceeded: false }
    }
}

impl Schema {
    /// Makes a schema ready.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let (patterns, values) = measure(schema)?;
        Self::build(schema, patterns, values, PATTERNS_BYTES_MAX).map_err(|error| refusal(&error))
    }

    /// The same for one of several schemas, whose patterns have `room` together.
    pub fn compile_within(schema: &Value, room: &mut Room) -> Result<Self, SchemaError> {
        let (patterns, values) = measure(schema)?;
        if patterns == 0 {
            return Self::build(schema, patterns, values, PATTERNS_BYTES_MAX).map_err(|error| refusal(&error));
        }
        let mut bytes = ROOM_BYTES_MIN;
        loop {
            if room.is_exceeded || room.patterns < patterns || room.bytes < bytes {
                room.is_exceeded = true;
                return Err(SchemaError::TooMuch);
            }
            match Self::build(schema, patterns, values, bytes) {
                Ok(ready) => {
                    room.patterns -= patterns;
                    room.bytes -= bytes;
                    return Ok(ready);
                }
                // The engine does not say how much a pattern takes, only that this is too little.
                Err(error) if bytes < PATTERNS_BYTES_MAX && why_no_pattern(&error).is_some() => bytes *= 4,
                Err(error) => return Err(refusal(&error)),
            }
        }
    }

    fn build(schema: &Value, patterns: usize, values: u64, bytes: usize) -> Result<Self, ValidationError<'static>> {
        let each = |bytes: usize| bytes / patterns.max(1);
        let options = PatternOptions::regex().size_limit(each(bytes)).dfa_size_limit(each(PATTERNS_BYTES_MAX));
        let validator = jsonschema::options().offline().with_pattern_options(options).build(schema);
        validator.map(|validator| Self { validator, values }).map_err(ValidationError::to_owned)
    }

    /// What of a value does not fit: the place in it, and what is wrong there. Who has the schema itself is told which name is meant.
    #[must_use]
    pub fn violations(&self, value: &Value, schema: Option<&Value>) -> Vec<(String, String)> {
        if self.validator.is_valid(value) {
            return Vec::new();
        }
        let mut violations = Vec::new();
        for error in self.validator.iter_errors(value).take(VIOLATIONS_MAX) {
            let at = error.instance_path().to_string();
            match error.kind() {
                ValidationErrorKind::AdditionalProperties { unexpected }
                | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                    let known = schema.map(|schema| names_at(schema, &at)).unwrap_or_default();
                    violations.extend(unexpected.iter().map(|name| {
                        (format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), unknown(name, &known))
                    }));
                }
                _ => violations.push((at, error.to_string())),
            }
        }
        violations.dedup();
        violations.truncate(VIOLATIONS_MAX);
        violations
    }

    /// Whether a value of that many bytes is checked at all.
    #[must_use]
    pub fn affords(&self, bytes: usize) -> bool {
        self.values.saturating_mul(bytes as u64) <= CHECK_STEPS_MAX
    }
}

/// What is wrong with a name that a schema does not have there.
fn unknown(name: &str, known: &[&str]) -> String {
    let told = match nearest(name, known.iter().copied()) {
        Some(near) => format!("; did you mean `{}`?", clip(near, SHOWN_BYTES_MAX)),
        None if (1..=NAMES_TOLD_MAX).contains(&known.len()) => {
            let names: Vec<_> = known.iter().map(|name| format!("`{}`", clip(name, SHOWN_BYTES_MAX))).collect();
            format!("; there is {}", names.join(", "))
        }
        None => String::new(),
    };
    format!("there is no property of this name{told}")
}

/// The names of the properties that an object at that place may have, as far as they are easily found.
fn names_at<'s>(root: &'s Value, at: &str) -> Vec<&'s str> {
    let way: Vec<String> = at.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
    let (mut names, mut steps) = (Vec::new(), NAMES_STEPS_MAX);
    gather_names(root, root, &way, 0, (&mut names, &mut steps));
    names.sort_unstable();
    names.dedup();
    names
}

fn gather_names<'s>(
    root: &'s Value,
    schema: &'s Value,
    way: &[String],
    depth: usize,
    (names, steps): (&mut Vec<&'s str>, &mut u32),
) {
    let Value::Object(keywords) = schema else { return };
    if *steps == 0 || REFERENCES_DEEP_MAX <= depth {
        return;
    }
    *steps -= 1;
    let mut next: Vec<(&Value, &[String])> = Vec::new();
    let target = keywords.get("$ref").and_then(|to| root.pointer(to.as_str()?.strip_prefix('#')?));
    next.extend(target.map(|target| (target, way)));
    for keyword in ["allOf", "anyOf", "oneOf"] {
        next.extend(keywords.get(keyword).and_then(Value::as_array).into_iter().flatten().map(|part| (part, way)));
    }
    let properties = keywords.get("properties").and_then(Value::as_object);
    match way {
        [] => names.extend(properties.into_iter().flatten().map(|(name, _)| name.as_str())),
        [first, rest @ ..] => {
            let within = properties.and_then(|properties| properties.get(first));
            let within = within.or_else(|| keywords.get("additionalProperties")).or_else(|| keywords.get("items"));
            next.extend(within.map(|within| (within, rest)));
        }
    }
    for (schema, way) in next {
        gather_names(root, schema, way, depth + 1, (names, steps));
    }
}

/// How many patterns a schema has, and how many values.
fn measure(schema: &Value) -> Result<(usize, u64), SchemaError> {
    let mut patterns = 0;
    look_through(schema, &mut patterns)?;
    let values = values(schema).ok_or(SchemaError::Boundless)?;
    Ok((patterns, values))
}

fn refusal(error: &ValidationError<'_>) -> SchemaError {
    let place = error.instance_path().to_string();
    let place = if place.is_empty() { String::new() } else { format!("{}: ", clip(&place, SHOWN_BYTES_MAX)) };
    let why = why_no_pattern(error).map(|why| format!(": {why}")).unwrap_or_default();
    SchemaError::Refused(format!("{place}{}{why}", clip(&error.to_string(), 3 * SHOWN_BYTES_MAX)))
}

/// Why a pattern is refused, if it is about one. The engine does not say, so it is what is there to be seen.
fn why_no_pattern(error: &ValidationError<'_>) -> Option<&'static str> {
    let ValidationErrorKind::Format { format } = error.kind() else { return None };
    let pattern = error.instance().as_str().filter(|_| format == "regex")?;
    let bytes = pattern.as_bytes();
    let is_reference = |pair: &[u8]| pair[0] == b'\\' && matches!(pair[1], b'1'..=b'9' | b'k');
    Some(if ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|around| pattern.contains(around)) {
        "there is no look-around, which takes time without a bound"
    } else if bytes.windows(2).any(is_reference) {
        "there are no back-references, which take time without a bound"
    } else {
        "it is not well-formed, or repeats so much that it takes too much memory"
    })
}

/// Whether everything fits a schema, so that there is nothing to check.
#[must_use]
pub fn is_anything(schema: &Value) -> bool {
    match schema {
        Value::Bool(any) => *any,
        Value::Object(keywords) => {
            keywords.keys().all(|key| matches!(key.as_str(), "$schema" | "title" | "description"))
        }
        _ => false,
    }
}

/// Refuses references that lead out of the schema, and counts the patterns. What is data there, as in `const`, is read like the rest:
/// a property may have the same name.
fn look_through(schema: &Value, patterns: &mut usize) -> Result<(), SchemaError> {
    match schema {
        Value::Array(items) => items.iter().try_for_each(|item| look_through(item, patterns))?,
        Value::Object(keywords) => {
            for (keyword, value) in keywords {
                match (keyword.as_str(), value) {
                    ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(to)) if !to.starts_with('#') => {
                        return Err(SchemaError::Refused(format!(
                            "it refers to {:?}, which lies outside of it; nothing is fetched, so write that into its `$defs`",
                            clip(to, SHOWN_BYTES_MAX)
                        )));
                    }
                    ("pattern", Value::String(_)) => *patterns += 1,
                    ("patternProperties", Value::Object(of)) => *patterns += of.len(),
                    _ => {}
                }
                look_through(value, patterns)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    if PATTERNS_MAX < *patterns {
        return Err(SchemaError::Refused(format!("it has more than {PATTERNS_MAX} patterns")));
    }
    Ok(())
}

/// How many values a schema has once its references are written out: each of them may be looked at for each value of what is
/// checked. `None` if that is no end or too many: references to references, two at a time, make a million of twenty.
fn values(schema: &Value) -> Option<u64> {
    fn count<'s>(
        root: &'s Value,
        part: &'s Value,
        known: &mut HashMap<&'s str, u64>,
        open: &mut HashSet<&'s str>,
    ) -> Option<u64> {
        let mut sum = 1_u64;
        match part {
            Value::Array(items) => {
                for item in items {
                    sum = sum.saturating_add(count(root, item, known, open)?);
                }
            }
            Value::Object(keywords) => {
                for (keyword, value) in keywords {
                    match (keyword.as_str(), value) {
                        // They count where they are referred to.
                        ("$defs" | "definitions", _) => {}
                        ("$ref", Value::String(to)) => {
                            if let Some(values) = known.get(to.as_str()) {
                                sum = sum.saturating_add(*values);
                                continue;
                            }
                            let target = root.pointer(to.strip_prefix('#')?)?;
                            if open.len() == REFERENCES_DEEP_MAX || !open.insert(to) {
                                return None;
                            }
                            let values = count(root, target, known, open)?;
                            open.remove(to.as_str());
                            known.insert(to, values);
                            sum = sum.saturating_add(values);
                        }
                        ("$dynamicRef" | "$recursiveRef" | "$id" | "$anchor", Value::String(_)) => return None,
                        ("pattern", Value::String(_)) => sum = sum.saturating_add(PATTERN_VALUES),
                        (keyword, value) => {
                            if let ("patternProperties", Value::Object(of)) = (keyword, value) {
                                sum = sum.saturating_add(PATTERN_VALUES.saturating_mul(of.len() as u64));
                            }
                            sum = sum.saturating_add(count(root, value, known, open)?);
                        }
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        (sum <= CHECK_STEPS_MAX).then_some(sum)
    }
    count(schema, schema, &mut HashMap::new(), &mut HashSet::new())
}

#[cfg(test)]
mod tests;
