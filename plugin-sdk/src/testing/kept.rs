//! What a plugin keeps, in memory: a supervisor's answers about state, in a test.

use std::collections::BTreeMap;

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json};

/// As long as a supervisor allows them.
const KEY_BYTES_MAX: usize = 512;
const KEYS_MAX: usize = 1000;
const OPERATIONS_MAX: usize = 128;

/// Values by their keys, with the number of the write that made each.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) values: BTreeMap<String, (Value, u64)>,
    pub(super) schema: Option<u32>,
    revision: u64,
}

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    key: String,
    value: Option<Value>,
    #[serde(default)]
    expected: Option<u64>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    operations: Vec<Step>,
    #[serde(default)]
    schema: Option<u32>,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Step {
    Put { key: String, value: Value },
    Delete { key: String },
    Check { key: String, expected: Option<u64> },
}

impl Kept {
    pub(super) fn put(&mut self, key: &str, value: Value) -> u64 {
        self.revision += 1;
        self.values.insert(key.to_owned(), (value, self.revision));
        self.revision
    }

    /// As `Welcome` says it.
    pub(super) fn stored_schema(&self) -> Option<u32> {
        self.schema.or_else(|| (!self.values.is_empty()).then_some(0))
    }

    pub(super) fn ask(&mut self, operation: &str, params: &[u8]) -> Result<Value, ErrorBody> {
        let params: Params =
            palisade_protocol::decode_value(params).map_err(|error| invalid(format!("the parameters: {error}")))?;
        let revision_of = |there: Option<&(Value, u64)>| there.map(|(_, revision)| *revision);
        if matches!(operation, "get" | "put" | "delete" | "compare_and_set") {
            check_key(&params.key)?;
        }
        match operation {
            "get" => Ok(match self.values.get(&params.key) {
                Some((value, revision)) => json!({"value": value, "revision": revision}),
                None => Value::Null,
            }),
            // `null` is a value, and reads as none here.
            "put" => Ok(json!({"revision": self.put(&params.key, params.value.unwrap_or_default())})),
            "delete" => Ok(json!({"revision": self.delete(&params.key)})),
            "list" => {
                let after = params.after.unwrap_or_default();
                let fits = |key: &&String| key.starts_with(&params.prefix) && **key > after;
                let limit = params.limit.unwrap_or(KEYS_MAX).clamp(1, KEYS_MAX);
                let keys: Vec<_> = self.values.keys().filter(fits).take(limit + 1).collect();
                let entry = |key: &&String| {
                    let (value, revision) = &self.values[*key];
                    json!({"key": key, "revision": revision, "bytes": value.to_string().len()})
                };
                let more = keys.len() > limit;
                Ok(json!({"keys": keys.iter().take(limit).map(entry).collect::<Vec<_>>(), "more": more}))
            }
            "compare_and_set" => {
                let actual = revision_of(self.values.get(&params.key));
                if actual != params.expected {
                    return Err(conflict(0, &params.key, params.expected, actual));
                }
                let revision = match params.value {
                    Some(value) => Some(self.put(&params.key, value)),
                    None => self.delete(&params.key),
                };
                Ok(json!({"revision": revision}))
            }
            "transaction" if params.operations.len() > OPERATIONS_MAX => {
                Err(invalid(format!("a transaction has at most {OPERATIONS_MAX} operations")))
            }
            "transaction" => {
                let mut after = self.clone();
                let mut written = None;
                for (number, step) in params.operations.into_iter().enumerate() {
                    match step {
                        Step::Put { key, value } => {
                            check_key(&key)?;
                            written = Some(after.put(&key, value));
                        }
                        Step::Delete { key } => written = after.delete(&key).or(written),
                        Step::Check { key, expected } => {
                            let actual = revision_of(after.values.get(&key));
                            if actual != expected {
                                return Err(conflict(number, &key, expected, actual));
                            }
                        }
                    }
                }
                after.schema = params.schema.or(after.schema);
                *self = after;
                Ok(json!({"revision": written}))
            }
            "migrated" => {
                self.schema = params.schema;
                Ok(json!({"revision": null}))
            }
            other => Err(ErrorBody::new(ErrorCode::ActionNotFound, format!("there is no operation `state.{other}`"))),
        }
    }

    fn delete(&mut self, key: &str) -> Option<u64> {
        self.values.remove(key)?;
        self.revision += 1;
        Some(self.revision)
    }
}

fn check_key(key: &str) -> Result<(), ErrorBody> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
        return Err(invalid(format!("a key has 1 to {KEY_BYTES_MAX} bytes without control characters, not {key:?}")));
    }
    Ok(())
}

fn invalid(message: String) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidParams, message)
}

fn conflict(operation: usize, key: &str, expected: Option<u64>, actual: Option<u64>) -> ErrorBody {
    let details = json!({"operation": operation, "key": key, "expected": expected, "actual": actual});
    ErrorBody::new(ErrorCode::ExecutionFailed, format!("the key {key:?} has another revision")).with_details(details)
}
