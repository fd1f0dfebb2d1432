//! JSON that people write: a manifest, the parameters of a call.

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// As much of a key is shown.
const KEY_CHARS_MAX: usize = 128;

/// The one JSON value in a text. An object in which a key stands twice is refused: the library would keep the last of several and
/// say nothing.
///
/// # Errors
/// What is wrong and where. It is of the kind [data](serde_json::Error::is_data) where only a key stands twice.
pub fn parse_json(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(text).map(|Distinct(value)| value)
}

struct Distinct(Value);

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctVisitor).map(Self)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Distinct(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if map.contains_key(&key) {
                // It may be as long as the whole text.
                let cut = key.char_indices().nth(KEY_CHARS_MAX).map(|(at, _)| at);
                let (shown, mark) = cut.map_or((key.as_str(), ""), |at| (&key[..at], "…"));
                return Err(A::Error::custom(format_args!(
                    "the key \"{}{mark}\" stands there twice; leave one of them out",
                    shown.escape_debug(),
                )));
            }
            let Distinct(value) = fields.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_with_its_name() {
        for text in ["{\"a\\n\": 1, \"b\": {}, \"a\\n\": 1}", "[{\"b\": {\"a\\n\": 1, \"a\\u000a\": 2}}]"] {
            let error = parse_json(text.as_bytes()).unwrap_err();
            assert!(error.is_data(), "{error}");
            assert!(error.to_string().starts_with("the key \"a\\n\" stands there twice; leave"), "{error}");
        }
        let key = "ä".repeat(100_000);
        let error = parse_json(format!("{{\"{key}\": 1, \"{key}\": 1}}").as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("the key \"{}…\" stands", "ä".repeat(KEY_CHARS_MAX))), "{error}");
    }

    #[test]
    fn everything_else_is_as_it_stands() {
        let whole = json!({"a": [null, true, -1, 1.5, "t\n", {"a": u64::MAX, "b": i64::MIN}], "b": {"a": []}});
        assert_eq!(parse_json(whole.to_string().as_bytes()).unwrap(), whole);
        assert!(parse_json(b"{} {}").unwrap_err().is_syntax());
        assert!(parse_json("[".repeat(100_000).as_bytes()).is_err(), "too deep");
    }
}
