//! The host calls about state: what they take and answer, as MessagePack.
//!
//! A value is passed on as the bytes that it came in, and never decoded.

use palisade_protocol::{ErrorBody, ErrorCode, Fault, ValueLimits, check_payload, check_value};
use serde_json::json;

use super::{Reply, Request, StateError, Step};
use crate::model::status::quoted;
use crate::store::database::state::Key;

/// Longest key.
pub const KEY_BYTES_MAX: usize = 512;

/// Largest value, as it is encoded.
pub const VALUE_BYTES_MAX: usize = 512 << 10;

/// Most operations of a transaction.
pub const OPERATIONS_MAX: usize = 128;

/// Most keys in one answer, which all together have room in a frame, however long they are.
pub const KEYS_MAX: usize = 1000;

/// Most bytes of keys and values in one operator's import or export, encoded.
pub const PAIRS_BYTES_MAX: usize = 64 << 20;

/// What a plugin can ask about its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Get,
    Put,
    Delete,
    List,
    CompareAndSet,
    Transaction,
    Migrated,
}

impl Operation {
    /// All of them, by the names of their host calls.
    pub const ALL: [(&'static str, Self); 7] = [
        ("state.get", Self::Get),
        ("state.put", Self::Put),
        ("state.delete", Self::Delete),
        ("state.list", Self::List),
        ("state.compare_and_set", Self::CompareAndSet),
        ("state.transaction", Self::Transaction),
        ("state.migrated", Self::Migrated),
    ];

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(known, operation)| (known == name).then_some(operation))
    }
}

fn invalid(detail: impl Into<String>) -> StateError {
    StateError::Invalid(detail.into())
}

/// So many fields a map may have: more than any of them knows.
const FIELDS_MAX: usize = 16;

/// The fields of a map.
struct Fields<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Fields<'a> {
    /// `bytes` are one value that was checked. Nothing at all counts as none.
    fn of(bytes: &'a [u8], place: &str) -> Result<Self, StateError> {
        let few = || invalid(format!("{place} are not a map with few fields"));
        let (count, mut rest) = match bytes {
            [] | [0xc0] => return Ok(Self(Vec::new())),
            [marker @ 0x80..=0x8f, rest @ ..] => (usize::from(marker & 0x0f), rest),
            [0xde, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            [0xdf, 0, 0, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            _ => return Err(few()),
        };
        if FIELDS_MAX < count {
            return Err(few());
        }
        let mut fields: Vec<(&str, &[u8])> = Vec::new();
        for _ in 0..count {
            let (name, value);
            (name, rest) = one(rest)?;
            (value, rest) = one(rest)?;
            let name: &str = rmp_serde::from_slice(name)
                .map_err(|_| invalid(format!("a field of {place} has no text as its name")))?;
            if fields.iter().any(|(there, _)| *there == name) {
                return Err(invalid(format!("the field {} of {place} is there twice", quoted(name))));
            }
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    fn take(&mut self, name: &str) -> Option<&'a [u8]> {
        let at = self.0.iter().position(|(there, _)| *there == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn read<T: serde::de::Deserialize<'a>>(&mut self, name: &str, what: &str) -> Result<Option<T>, StateError> {
        self.take(name)
            .filter(|bytes| *bytes != [0xc0])
            .map(|bytes| rmp_serde::from_slice(bytes).map_err(|_| invalid(format!("`{name}` is not {what}"))))
            .transpose()
    }

    fn key(&mut self) -> Result<String, StateError> {
        let key: &str = self.read("key", "text")?.ok_or_else(|| invalid("there is no `key`"))?;
        check_key(key)?;
        Ok(key.to_owned())
    }

    fn value(&mut self) -> Result<Option<Vec<u8>>, StateError> {
        let Some(value) = self.take("value") else { return Ok(None) };
        check_length(value)?;
        Ok(Some(value.to_vec()))
    }

    /// `null` says that there is to be no such key.
    fn expected(&mut self) -> Result<Option<u64>, StateError> {
        match self.take("expected") {
            None => Err(invalid("there is no `expected`; null expects no such key")),
            Some([0xc0]) => Ok(None),
            Some(bytes) => rmp_serde::from_slice(bytes).map(Some).map_err(|_| invalid("`expected` is no revision")),
        }
    }

    /// Whoever misspells a field is told.
    fn done(self, place: &str) -> Result<(), StateError> {
        match self.0.first() {
            Some((name, _)) => Err(invalid(format!("{place} have no field {}", quoted(name)))),
            None => Ok(()),
        }
    }
}

/// The value at the beginning, and what follows.
fn one(bytes: &[u8]) -> Result<(&[u8], &[u8]), StateError> {
    let length = check_value(bytes, ValueLimits::PAYLOAD).map_err(|error| invalid(error.to_string()))?;
    Ok(bytes.split_at(length))
}

/// Whether that can be a key.
///
/// # Errors
/// [`StateError::Invalid`]
pub fn check_key(key: &str) -> Result<(), StateError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(invalid(format!("a key has 1 to {KEY_BYTES_MAX} bytes, and this one {}", key.len())));
    }
    if key.chars().any(char::is_control) {
        return Err(invalid(format!("the key {} has a control character in it", quoted(key))));
    }
    Ok(())
}

/// Whether that can be a value.
///
/// # Errors
/// [`StateError::Invalid`]
pub fn check_length(value: &[u8]) -> Result<(), StateError> {
    if value.len() > VALUE_BYTES_MAX {
        let bytes = value.len();
        return Err(invalid(format!("a value has at most {VALUE_BYTES_MAX} bytes, and this one {bytes}")));
    }
    Ok(())
}

/// Whether that can be the beginning of keys, or one of them.
fn check_beginning(name: &str, text: Option<&str>) -> Result<String, StateError> {
    let text = text.unwrap_or_default();
    if text.is_empty() {
        return Ok(String::new());
    }
    check_key(text).map_err(|error| invalid(format!("`{name}`: {error}")))?;
    Ok(text.to_owned())
}

/// What a host call asks for.
pub(super) fn decode(operation: Operation, params: &[u8]) -> Result<Request, StateError> {
    check_payload(params, ValueLimits::PAYLOAD).map_err(|error| invalid(error.to_string()))?;
    const PLACE: &str = "the parameters";
    let mut fields = Fields::of(params, PLACE)?;
    let write = |steps| Request::Write { steps, schema: None, form: None };
    let request = match operation {
        Operation::Get => Request::Get { key: fields.key()? },
        Operation::Put => {
            let value = fields.value()?.ok_or_else(|| invalid("there is no `value`"))?;
            write(vec![Step::Put { key: fields.key()?, value }])
        }
        Operation::Delete => write(vec![Step::Delete { key: fields.key()? }]),
        Operation::List => {
            let prefix = check_beginning("prefix", fields.read("prefix", "text")?)?;
            let after = check_beginning("after", fields.read("after", "text")?)?;
            let limit: u64 = fields.read("limit", "a number")?.unwrap_or(KEYS_MAX as u64);
            let limit = usize::try_from(limit).unwrap_or(KEYS_MAX).clamp(1, KEYS_MAX);
            Request::List { prefix, after: Some(after).filter(|after| !after.is_empty()), limit }
        }
        Operation::CompareAndSet => {
            let (key, expected) = (fields.key()?, fields.expected()?);
            let then = match fields.value()? {
                Some(value) => Step::Put { key: key.clone(), value },
                None => Step::Delete { key: key.clone() },
            };
            write(vec![Step::Check { key, expected }, then])
        }
        Operation::Transaction => {
            let schema = fields.read("schema", "a whole number from 1 to 4294967295")?;
            let operations = fields.take("operations").ok_or_else(|| invalid("there are no `operations`"))?;
            Request::Write { steps: steps(operations)?, schema, form: None }
        }
        Operation::Migrated => {
            let schema: u32 = fields
                .read("schema", "a whole number from 1 to 4294967295")?
                .ok_or_else(|| invalid("there is no `schema`"))?;
            Request::Write { steps: Vec::new(), schema: Some(schema), form: None }
        }
    };
    fields.done(PLACE)?;
    Ok(request)
}

fn steps(bytes: &[u8]) -> Result<Vec<Step>, StateError> {
    let (count, mut rest) = match bytes {
        [marker @ 0x90..=0x9f, rest @ ..] => (usize::from(marker & 0x0f), rest),
        [0xdc, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [0xdd, ..] => (usize::MAX, bytes),
        _ => return Err(invalid("`operations` is not a list")),
    };
    if count > OPERATIONS_MAX {
        return Err(invalid(format!("a transaction has at most {OPERATIONS_MAX} operations")));
    }
    let mut steps = Vec::with_capacity(count);
    for number in 0..count {
        let operation;
        (operation, rest) = one(rest)?;
        let place = format!("the fields of operation {number}");
        let step = || {
            let mut fields = Fields::of(operation, &place)?;
            let op: &str = fields.read("op", "text")?.ok_or_else(|| invalid("there is no `op`"))?;
            let key = fields.key()?;
            let step = match op {
                "put" => Step::Put { key, value: fields.value()?.ok_or_else(|| invalid("there is no `value`"))? },
                "delete" => Step::Delete { key },
                "check" => Step::Check { key, expected: fields.expected()? },
                other => {
                    let other = quoted(other);
                    return Err(invalid(format!("the `op` {other} is none of put, delete and check")));
                }
            };
            fields.done(&place)?;
            Ok(step)
        };
        steps.push(step().map_err(|error| invalid(format!("operation {number}: {error}")))?);
    }
    Ok(steps)
}

/// An answer, as MessagePack.
pub(super) fn encode(reply: Reply) -> Vec<u8> {
    let mut out = Vec::new();
    match reply {
        Reply::Value(None) => out.push(0xc0),
        Reply::Value(Some((value, revision))) => {
            out.push(0x82);
            put(&mut out, "value");
            out.extend_from_slice(&value);
            put(&mut out, "revision");
            put(&mut out, &revision);
        }
        Reply::Keys { keys, more } => {
            let keys: Vec<_> = keys
                .into_iter()
                .map(|Key { key, revision, bytes }| json!({"key": key, "revision": revision, "bytes": bytes}))
                .collect();
            put(&mut out, &json!({"keys": keys, "more": more}));
        }
        Reply::Written { revision } => put(&mut out, &json!({"revision": revision})),
        Reply::About(about) => put(
            &mut out,
            &json!({"revision": about.revision, "schema": about.schema, "keys": about.keys, "bytes": about.bytes}),
        ),
    }
    out
}

fn put<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Texts, numbers and JSON are what MessagePack can always hold, and memory takes all bytes.
    rmp_serde::encode::write_named(out, value).expect("MessagePack holds what JSON does");
}

/// An error as the plugin is told.
#[must_use]
pub fn error_body(error: &StateError) -> ErrorBody {
    let message = error.to_string();
    let file = |reason: &str| json!({"state": reason});
    match error {
        StateError::Invalid(_) => ErrorBody::new(ErrorCode::InvalidParams, message).with_fault(Fault::Plugin),
        StateError::Conflict { operation, key, expected, actual } => {
            let details = json!({"operation": operation, "key": key, "expected": expected, "actual": actual});
            ErrorBody::new(ErrorCode::ExecutionFailed, message)
                .with_hint("read it again, and write what follows from what it is now")
                .with_details(details)
        }
        StateError::Busy => ErrorBody::new(ErrorCode::Overloaded, message).with_retry_after_ms(100),
        StateError::Quota { has_bytes, limit_bytes, .. } => {
            let details = json!({"limit": "state", "has_bytes": has_bytes, "limit_bytes": limit_bytes});
            ErrorBody::new(ErrorCode::ResourceExhausted, message).with_details(details)
        }
        StateError::Write { .. } => {
            let error = ErrorBody::new(ErrorCode::DependencyUnavailable, message);
            error.with_retry_after_ms(1000).with_details(file("not_written"))
        }
        StateError::Damaged { .. } => lasting(message, file("damaged")),
        StateError::Sealed { .. } => lasting(message, file("sealed")),
        StateError::Unusable { .. } => lasting(message, file("unusable")),
    }
}

/// Nothing changes about it until somebody does something.
fn lasting(message: String, details: serde_json::Value) -> ErrorBody {
    let mut error = ErrorBody::new(ErrorCode::DependencyUnavailable, message).with_details(details);
    error.retryable = false;
    error
}
