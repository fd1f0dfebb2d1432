//! JSON of a manifest that is kept as it came.

use std::fmt;

use serde_json::Value;

/// A value, mostly a schema, as text: a tree of JSON takes ten times the room, and few are ever looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Box<str>);

impl Json {
    pub fn new(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same as a tree.
    pub fn value(&self) -> Value {
        // It was written from a value, so it is one.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
