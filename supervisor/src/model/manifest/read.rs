//! Reads fields out of a JSON object, and collects what is wrong with them.
//!
//! A reader answers None for what is absent and for what is wrong; the latter has been noted by then. Whoever asks gives
//! the default, which for a wrong field is never used, as the errors win in the end.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{FieldError, PROBLEMS_MAX, Warning, clip};
use crate::model::schema::Room;

/// A value is shown in an error with at most so many bytes.
const SHOWN_BYTES_MAX: usize = 80;

/// What has been found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) errors: Vec<FieldError>,
    pub(super) warnings: Vec<Warning>,
    /// What the patterns of the schemas still to come may take.
    room: Room,
}

impl Problems {
    fn error(&mut self, error: FieldError) {
        if self.errors.len() < PROBLEMS_MAX {
            self.errors.push(error);
        } else if self.errors.len() == PROBLEMS_MAX {
            self.errors.push(FieldError::More);
        }
    }

    fn warn(&mut self, path: String, message: String) {
        if self.warnings.len() < PROBLEMS_MAX {
            self.warnings.push(Warning { path, message });
        }
    }
}

/// What a text may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    bytes_max: usize,
    lines: bool,
    empty: bool,
}

impl Text {
    /// One line, not empty.
    pub(super) fn line(bytes_max: usize) -> Self {
        Self { bytes_max, lines: false, empty: false }
    }

    /// As many lines as fit.
    pub(super) fn lines(bytes_max: usize) -> Self {
        Self { bytes_max, lines: true, empty: false }
    }

    pub(super) fn or_empty(self) -> Self {
        Self { empty: true, ..self }
    }

    fn takes(self, text: &str) -> bool {
        let plain = |c: char| !c.is_control() || (self.lines && matches!(c, '\n' | '\t' | '\r'));
        text.len() <= self.bytes_max && (self.empty || !text.trim().is_empty()) && text.chars().all(plain)
    }

    fn allowed(self) -> String {
        let kind = if self.lines { "a text" } else { "one line of text" };
        let filled = if self.empty { "" } else { ", not empty" };
        format!("{kind} of at most {} bytes{filled}, without control characters", self.bytes_max)
    }
}

/// One object of the manifest.
#[derive(Debug)]
pub(super) struct Table<'v, 'p> {
    path: String,
    fields: &'v Map<String, Value>,
    /// What has been asked for; the rest is unknown.
    known: BTreeSet<String>,
    problems: &'p mut Problems,
}

impl<'v, 'p> Table<'v, 'p> {
    pub(super) fn root(fields: &'v Map<String, Value>, problems: &'p mut Problems) -> Self {
        Self { path: String::new(), fields, known: BTreeSet::new(), problems }
    }

    /// The path of a field. A key that is no plain word is quoted, so that a path cannot be mistaken for another.
    fn path(&self, key: &str) -> String {
        let plain =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$'));
        let key = if plain { clip(key, SHOWN_BYTES_MAX) } else { format!("{:?}", clip(key, SHOWN_BYTES_MAX)) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// A field that is there. `null` is as good as absent.
    fn get(&mut self, key: &str) -> Option<&'v Value> {
        self.known.insert(key.to_owned());
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// A field of any kind.
    pub(super) fn value(&mut self, key: &str) -> Option<&'v Value> {
        self.get(key)
    }

    pub(super) fn is_given(&mut self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn wrong(&mut self, key: &str, allowed: &str) {
        let value = self.fields.get(key).map_or_else(|| "absent".to_owned(), show);
        self.problems.error(FieldError::Wrong { path: self.path(key), value, allowed: allowed.to_owned() });
    }

    fn missing(&mut self, key: &str, allowed: &str) {
        self.problems.error(FieldError::Missing { path: self.path(key), allowed: allowed.to_owned() });
    }

    pub(super) fn refused(&mut self, key: &str, value: &str, why: &dyn Display) {
        let value = value.to_owned();
        self.problems.error(FieldError::Refused { path: self.path(key), value, why: why.to_string() });
    }

    pub(super) fn warn(&mut self, key: &str, message: &str) {
        self.problems.warn(self.path(key), message.to_owned());
    }

    pub(super) fn ignore(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }

    /// Whether there are not too many entries, which is an error of the object as a whole.
    pub(super) fn at_most(&mut self, entries_max: usize) -> bool {
        let entries = self.fields.len();
        if entries_max < entries {
            self.problems.error(FieldError::Wrong {
                path: self.path.clone(),
                value: format!("an object with {entries} entries"),
                allowed: format!("one with at most {entries_max}"),
            });
        }
        entries <= entries_max
    }

    /// Reads a key that is itself a name.
    pub(super) fn key<T, E: Display>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(key) {
            Ok(name) => Some(name),
            Err(why) => {
                self.refused(key, "a key", &why);
                None
            }
        }
    }

    pub(super) fn is_table(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(Value::is_object)
    }

    pub(super) fn table(&mut self, key: &str) -> Option<Table<'v, '_>> {
        match self.get(key)? {
            Value::Object(fields) => {
                let path = self.path(key);
                Some(Table { path, fields, known: BTreeSet::new(), problems: self.problems })
            }
            _ => {
                self.wrong(key, "an object");
                None
            }
        }
    }

    /// A text that has to be there.
    pub(super) fn text(&mut self, key: &str, text: Text) -> Option<String> {
        if self.get(key).is_none() {
            self.missing(key, &text.allowed());
            return None;
        }
        self.text_if_any(key, text)
    }

    pub(super) fn text_if_any(&mut self, key: &str, text: Text) -> Option<String> {
        match self.get(key)? {
            Value::String(found) if text.takes(found) => Some(found.clone()),
            _ => {
                self.wrong(key, &text.allowed());
                None
            }
        }
    }

    /// A text that has to be there, and has rules of its own.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match self.get(key) {
            None => self.missing(key, allowed),
            Some(Value::String(found)) => match parse(found) {
                Ok(value) => return Some(value),
                Err(why) => self.refused(key, &show(&Value::String(found.clone())), &why),
            },
            Some(_) => self.wrong(key, allowed),
        }
        None
    }

    /// The same of a text that need not be there.
    pub(super) fn parsed_if_any<T, E: Display>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.is_given(key).then(|| self.parsed(key, allowed, parse)).flatten()
    }

    /// Hands over each entry of a list, and says whether nothing was wrong with it. A list that is too long is not looked into.
    pub(super) fn each(
        &mut self,
        key: &str,
        allowed: &str,
        entries_max: usize,
        mut read: impl FnMut(&mut Place<'v, '_>),
    ) -> bool {
        let before = self.problems.errors.len();
        match self.get(key) {
            None => {}
            Some(Value::Array(entries)) if entries_max < entries.len() => {
                self.problems.error(FieldError::Wrong {
                    path: self.path(key),
                    value: format!("a list with {} entries", entries.len()),
                    allowed: format!("one with at most {entries_max}"),
                });
            }
            Some(Value::Array(entries)) => {
                let list = self.path(key);
                for (number, value) in entries.iter().enumerate() {
                    read(&mut Place { path: format!("{list}[{number}]"), value, problems: self.problems });
                }
            }
            Some(_) => self.wrong(key, allowed),
        }
        self.problems.errors.len() == before
    }

    /// A list in which nothing stands twice, without the entries that are wrong.
    pub(super) fn set<T: PartialEq>(
        &mut self,
        key: &str,
        entries_max: usize,
        mut read: impl FnMut(&mut Place<'v, '_>) -> Option<T>,
    ) -> Vec<T> {
        let mut entries = Vec::new();
        self.each(key, "a list", entries_max, |place| {
            let Some(entry) = read(place) else { return };
            if entries.contains(&entry) {
                place.refuse(&"it stands in the list before");
            }
            entries.push(entry);
        });
        entries
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.get(key)?;
        let found = chosen(value, choices);
        if found.is_none() {
            self.wrong(key, &one_of(choices));
        }
        found
    }

    /// The same where one has to be there.
    pub(super) fn choice_required<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        if !self.is_given(key) {
            self.missing(key, &one_of(choices));
            return None;
        }
        self.choice(key, choices)
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        let found = self.get(key)?.as_bool();
        if found.is_none() {
            self.wrong(key, "true or false");
        }
        found
    }

    /// A whole number within its bounds.
    pub(super) fn number(&mut self, key: &str, least: u64, most: u64) -> Option<u64> {
        let found = self.get(key)?.as_u64().filter(|number| (least..=most).contains(number));
        if found.is_none() {
            self.wrong(key, &format!("a whole number from {least} to {most}"));
        }
        found
    }

    /// A number of seconds, whole or not, within its bounds.
    pub(super) fn seconds(&mut self, key: &str, (least, most): (Duration, Duration)) -> Option<Duration> {
        let bounds = least.as_secs_f64()..=most.as_secs_f64();
        let found = self.get(key)?.as_f64().filter(|seconds| bounds.contains(seconds)).map(Duration::from_secs_f64);
        if found.is_none() {
            self.wrong(key, &format!("a number of seconds from {} to {}", bounds.start(), bounds.end()));
        }
        found
    }

    pub(super) fn share(&mut self, key: &str) -> Option<f64> {
        let found = self.get(key)?.as_f64().filter(|share| (0.0..=1.0).contains(share));
        if found.is_none() {
            self.wrong(key, "a number from 0 to 1");
        }
        found
    }

    /// What the patterns of the schemas still to come may take.
    pub(super) fn room(&mut self) -> &mut Room {
        &mut self.problems.room
    }

    /// Everything that nobody asked for.
    pub(super) fn warn_about_the_rest(&mut self) {
        for key in self.unasked() {
            let path = self.path(&key);
            self.problems.warn(path, "unknown key, ignored".to_owned());
        }
    }

    /// The keys that nobody asked for.
    pub(super) fn unasked(&self) -> Vec<String> {
        self.fields.keys().filter(|key| !self.known.contains(*key)).cloned().collect()
    }
}

/// One entry of a list.
#[derive(Debug)]
pub(super) struct Place<'v, 'p> {
    path: String,
    value: &'v Value,
    problems: &'p mut Problems,
}

impl<'v> Place<'v, '_> {
    pub(super) fn wrong(&mut self, allowed: &str) {
        let value = show(self.value);
        self.problems.error(FieldError::Wrong { path: self.path.clone(), value, allowed: allowed.to_owned() });
    }

    pub(super) fn refuse(&mut self, why: &dyn Display) {
        let value = show(self.value);
        self.problems.error(FieldError::Refused { path: self.path.clone(), value, why: why.to_string() });
    }

    pub(super) fn table(&mut self) -> Option<Table<'v, '_>> {
        match self.value {
            Value::Object(fields) => {
                Some(Table { path: self.path.clone(), fields, known: BTreeSet::new(), problems: self.problems })
            }
            _ => {
                self.wrong("an object");
                None
            }
        }
    }

    pub(super) fn text(&mut self, text: Text) -> Option<String> {
        match self.value {
            Value::String(found) if text.takes(found) => Some(found.clone()),
            _ => {
                self.wrong(&text.allowed());
                None
            }
        }
    }

    /// A text that has rules of its own.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match self.value {
            Value::String(found) => match parse(found) {
                Ok(value) => return Some(value),
                Err(why) => self.refuse(&why),
            },
            _ => self.wrong(allowed),
        }
        None
    }

    pub(super) fn choice<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        let found = chosen(self.value, choices);
        if found.is_none() {
            self.wrong(&one_of(choices));
        }
        found
    }
}

fn chosen<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Option<T> {
    choices.iter().find(|(name, _)| value.as_str() == Some(*name)).map(|(_, choice)| *choice)
}

fn one_of<T>(choices: &[(&str, T)]) -> String {
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    format!("one of {}", names.join(", "))
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value as an error shows it: scalars as they stand, clipped; of the rest only what they are.
fn show(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => clip(&value.to_string(), SHOWN_BYTES_MAX),
        Value::String(text) => format!("\"{}\"", clip(text, SHOWN_BYTES_MAX)),
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
    }
}
