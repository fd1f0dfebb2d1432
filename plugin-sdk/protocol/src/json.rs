//! JSON that people write: a manifest, the parameters of a call.

use std::cell::RefCell;
use std::fmt::Write as _;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// As much of a key is shown.
const KEY_CHARS_MAX: usize = 128;

/// So many keys that stand twice are told of one text.
pub const TWICE_MAX: usize = 64;

/// The one JSON value in a text. An object in which a key stands twice is refused: the library would keep the last of several and
/// say nothing.
///
/// # Errors
/// What is wrong and where. It is of the kind [data](serde_json::Error::is_data) where only a key stands twice.
pub fn parse_json(text: &[u8]) -> serde_json::Result<Value> {
    read(text, Reader(None))
}

/// The same for whoever wants to know of everything that is wrong: where a key stands twice the first value counts, and the places of those
/// keys are returned, at most [`TWICE_MAX`] of them, such as `actions[0].name`.
///
/// # Errors
/// It is no JSON.
pub fn parse_json_noting(text: &[u8]) -> serde_json::Result<(Value, Vec<String>)> {
    let noted = Noted::default();
    let value = read(text, Reader(Some(&noted)))?;
    Ok((value, noted.twice.into_inner()))
}

fn read(text: &[u8], reader: Reader<'_>) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = reader.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Keys that stand twice.
#[derive(Default)]
struct Noted {
    /// Where the reader is.
    path: RefCell<String>,
    twice: RefCell<Vec<String>>,
}

impl Noted {
    fn go_in(&self, step: std::fmt::Arguments<'_>) -> usize {
        let mut path = self.path.borrow_mut();
        let length = path.len();
        // Writing to a text does not fail.
        let _ = path.write_fmt(step);
        length
    }

    fn go_out(&self, length: usize) {
        self.path.borrow_mut().truncate(length);
    }

    /// Enters an object's field.
    fn field(&self, key: &str) -> usize {
        let dot = if self.path.borrow().is_empty() { "" } else { "." };
        self.go_in(format_args!("{dot}{}", shown(key)))
    }

    fn note(&self, key: &str) {
        let mut twice = self.twice.borrow_mut();
        if twice.len() < TWICE_MAX {
            let length = self.field(key);
            twice.push(self.path.borrow().clone());
            self.go_out(length);
        }
    }
}

/// A key, which may be as long as the whole text, as it is shown.
fn shown(key: &str) -> String {
    let cut = key.char_indices().nth(KEY_CHARS_MAX).map(|(at, _)| at);
    let (shown, mark) = cut.map_or((key, ""), |at| (&key[..at], "…"));
    format!("{}{mark}", shown.escape_debug())
}

/// Refuses a key that stands twice, unless they are noted.
#[derive(Clone, Copy)]
struct Reader<'a>(Option<&'a Noted>);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
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
        loop {
            let length = self.0.map(|noted| noted.go_in(format_args!("[{}]", list.len())));
            let item = items.next_element_seed(self)?;
            if let Some((noted, length)) = self.0.zip(length) {
                noted.go_out(length);
            }
            match item {
                Some(item) => list.push(item),
                None => return Ok(list.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if map.contains_key(&key) {
                let Some(noted) = self.0 else {
                    let key = shown(&key);
                    return Err(A::Error::custom(format_args!(
                        "the key \"{key}\" stands there twice; leave one of them out"
                    )));
                };
                noted.note(&key);
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            let length = self.0.map(|noted| noted.field(&key));
            let value = fields.next_value_seed(self)?;
            if let Some((noted, length)) = self.0.zip(length) {
                noted.go_out(length);
            }
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
    fn every_key_that_stands_twice_is_noted_with_its_place() {
        let text = br#"{"a": 1, "b": {"c": [0, {"d": 1, "d": 2, "e": 3}], "c": 4}, "a": {"x": 1, "x": 2}, "f.\n": 1, "f.\n": 2}"#;
        let (value, twice) = parse_json_noting(text).unwrap();
        assert_eq!(twice, ["b.c[1].d", "b.c", "a", "f.\\n"]);
        assert_eq!(value, json!({"a": 1, "b": {"c": [0, {"d": 1, "e": 3}]}, "f.\n": 1}));
        let many = format!("{{{}}}", ["\"k\": 1"; 1000].join(","));
        assert_eq!(parse_json_noting(many.as_bytes()).unwrap().1.len(), TWICE_MAX);
        assert!(parse_json_noting(b"{} {}").unwrap_err().is_syntax());
    }

    #[test]
    fn everything_else_is_as_it_stands() {
        let whole = json!({"a": [null, true, -1, 1.5, "t\n", {"a": u64::MAX, "b": i64::MIN}], "b": {"a": []}});
        assert_eq!(parse_json(whole.to_string().as_bytes()).unwrap(), whole);
        assert!(parse_json(b"{} {}").unwrap_err().is_syntax());
        assert!(parse_json("[".repeat(100_000).as_bytes()).is_err(), "too deep");
    }
}
