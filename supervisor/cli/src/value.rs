//! Values between MessagePack, as they travel, and JSON, as people write and read it.
//!
//! JSON has no binary strings: they are shown, and may be given, as `{"$base64": "…"}`. It has no NaN and no infinities either; they
//! are shown as the strings `"NaN"`, `"Infinity"` and `"-Infinity"`. Keys that are no strings are shown as strings of their JSON.
//! Fields keep the order in which they came.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palisade_client::Raw;
use palisade_protocol::{ErrorCode, ValueLimits, check_value};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::failure::Failure;

/// The key of an object that stands for bytes.
const BASE64: &str = "$base64";

/// How a value is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// On one line, for programs.
    Line,
    /// Indented, for people, who also care less about whether `5` is `5.0`.
    Indented,
}

/// A MessagePack value as JSON text, without a line end.
pub(crate) fn to_json(raw: &Raw, layout: Layout) -> Result<String, Failure> {
    let bytes: &[u8] = if raw.bytes().is_empty() { &[0xc0] } else { raw.bytes() };
    let unreadable = |detail: &dyn fmt::Display| {
        Failure::code(ErrorCode::ProtocolViolation, format!("what came back is not a valid value: {detail}"))
    };
    // The number of values is bounded by that of the bytes, and nothing is built of them but text.
    let limits = ValueLimits { values_max: usize::MAX, ..ValueLimits::PAYLOAD };
    let length = check_value(bytes, limits).map_err(|error| unreadable(&error))?;
    if length < bytes.len() {
        return Err(unreadable(&format_args!("{} bytes follow it", bytes.len() - length)));
    }
    let mut text = String::with_capacity(bytes.len() + bytes.len() / 2);
    let shown = Shown { text: &mut text, layout, depth: 0 };
    shown.deserialize(&mut rmp_serde::Deserializer::from_read_ref(bytes)).map_err(|error| unreadable(&error))?;
    Ok(text)
}

/// The string that a value is, if it is one.
pub(crate) fn as_string(raw: &Raw) -> Option<String> {
    raw.decode().ok()
}

/// Whether the value is nil.
pub(crate) fn is_nil(raw: &Raw) -> bool {
    matches!(raw.bytes().as_ref(), [] | [0xc0])
}

/// JSON as the MessagePack value that travels.
pub(crate) fn from_json(value: &Value) -> Result<Raw, Failure> {
    Raw::encode(&Given(value)).map_err(Failure::from)
}

/// Writes what it is fed as JSON text.
struct Shown<'a> {
    text: &'a mut String,
    layout: Layout,
    depth: usize,
}

impl Shown<'_> {
    fn inner(&mut self) -> Shown<'_> {
        Shown { text: self.text, layout: self.layout, depth: self.depth + 1 }
    }

    fn new_line(&mut self, depth: usize) {
        if self.layout == Layout::Indented {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n("  ", depth));
        }
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for character in string.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                // All of them below U+10000, where JSON's escape is the code point.
                character if character.is_control() => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(character));
                }
                character => self.text.push(character),
            }
        }
        self.text.push('"');
    }

    fn number(&mut self, text: &str, is_finite: bool, is_negative: bool) {
        match (is_finite, text) {
            (true, text) => {
                let whole = if self.layout == Layout::Indented { text.strip_suffix(".0") } else { None };
                self.text.push_str(whole.unwrap_or(text));
            }
            (false, "NaN") => self.text.push_str("\"NaN\""),
            (false, _) if is_negative => self.text.push_str("\"-Infinity\""),
            (false, _) => self.text.push_str("\"Infinity\""),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Shown<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shown<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.text.push_str("null");
        Ok(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.text.push_str(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        let _ = write!(self.text, "{value}");
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        let _ = write!(self.text, "{value}");
        Ok(())
    }

    fn visit_f32<E>(mut self, value: f32) -> Result<(), E> {
        let text = serde_json::to_string(&value).ok().filter(|_| value.is_finite()).unwrap_or(value.to_string());
        self.number(&text, value.is_finite(), value.is_sign_negative());
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        let text = serde_json::to_string(&value).ok().filter(|_| value.is_finite()).unwrap_or(value.to_string());
        self.number(&text, value.is_finite(), value.is_sign_negative());
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.string(value);
        Ok(())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<(), E> {
        let space = if self.layout == Layout::Indented { " " } else { "" };
        let _ = write!(self.text, "{{\"{BASE64}\":{space}\"{}\"}}", STANDARD.encode(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.text.push('[');
        let mut is_empty = true;
        loop {
            let before = self.text.len();
            if !is_empty {
                self.text.push(',');
            }
            self.new_line(self.depth + 1);
            if seq.next_element_seed(self.inner())?.is_none() {
                self.text.truncate(before);
                break;
            }
            is_empty = false;
        }
        if !is_empty {
            self.new_line(self.depth);
        }
        self.text.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.text.push('{');
        let mut is_empty = true;
        loop {
            let mut key = String::new();
            let shown = Shown { text: &mut key, layout: Layout::Line, depth: self.depth + 1 };
            if map.next_key_seed(shown)?.is_none() {
                break;
            }
            if !is_empty {
                self.text.push(',');
            }
            is_empty = false;
            self.new_line(self.depth + 1);
            if key.starts_with('"') {
                self.text.push_str(&key);
            } else {
                self.string(&key);
            }
            self.text.push_str(if self.layout == Layout::Indented { ": " } else { ":" });
            map.next_value_seed(self.inner())?;
        }
        if !is_empty {
            self.new_line(self.depth);
        }
        self.text.push('}');
        Ok(())
    }
}

/// JSON to be encoded, with its stand-ins for bytes.
struct Given<'a>(&'a Value);

impl Serialize for Given<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(values) => {
                let mut seq = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    seq.serialize_element(&Given(value))?;
                }
                seq.end()
            }
            Value::Object(fields) => {
                if let (1, Some(Value::String(text))) = (fields.len(), fields.get(BASE64)) {
                    let bytes = STANDARD.decode(text).map_err(|error| {
                        serde::ser::Error::custom(format!("`{BASE64}` is followed by what is no base64: {error}"))
                    })?;
                    return serializer.serialize_bytes(&bytes);
                }
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, value) in fields {
                    map.serialize_entry(key, &Given(value))?;
                }
                map.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(bytes: &[u8], layout: Layout) -> String {
        to_json(&Raw::new(bytes.to_vec()), layout).unwrap()
    }

    #[test]
    fn scalars_are_shown_as_themselves() {
        let raw = |value: f64| Raw::encode(&value).unwrap();
        assert_eq!(to_json(&raw(5.0), Layout::Indented).unwrap(), "5");
        assert_eq!(to_json(&raw(5.0), Layout::Line).unwrap(), "5.0");
        assert_eq!(to_json(&raw(0.1), Layout::Indented).unwrap(), "0.1");
        assert_eq!(to_json(&raw(1e300), Layout::Indented).unwrap(), "1e+300");
        assert_eq!(to_json(&raw(f64::NAN), Layout::Line).unwrap(), "\"NaN\"");
        assert_eq!(to_json(&raw(f64::INFINITY), Layout::Line).unwrap(), "\"Infinity\"");
        assert_eq!(to_json(&raw(f64::NEG_INFINITY), Layout::Line).unwrap(), "\"-Infinity\"");
        assert_eq!(to_json(&Raw::encode(&0.1_f32).unwrap(), Layout::Line).unwrap(), "0.1");
        assert_eq!(to_json(&Raw::encode(&u64::MAX).unwrap(), Layout::Line).unwrap(), "18446744073709551615");
        assert_eq!(to_json(&Raw::encode(&i64::MIN).unwrap(), Layout::Line).unwrap(), "-9223372036854775808");
        assert_eq!(shown(&[], Layout::Line), "null");
        assert_eq!(shown(&[0xc0], Layout::Line), "null");
        assert_eq!(shown(&[0xc3], Layout::Line), "true");
    }

    #[test]
    fn what_json_lacks_has_a_documented_form() {
        assert_eq!(shown(&[0xc4, 3, 0, 1, 255], Layout::Line), r#"{"$base64":"AAH/"}"#);
        assert_eq!(shown(&[0x82, 0x01, 0xa1, b'x', 0xc3, 0x02], Layout::Line), r#"{"1":"x","true":2}"#);
        assert_eq!(shown(&[0xa3, 0x1b, b'"', 0x7f], Layout::Line), r#""\u001b\"\u007f""#);
        let given = json!({"data": {"$base64": "AAH/"}, "text": "x"});
        assert_eq!(from_json(&given).unwrap().bytes()[..], *b"\x82\xa4data\xc4\x03\x00\x01\xff\xa4text\xa1x");
        let error = from_json(&json!({"$base64": "not base64"})).unwrap_err();
        assert!(error.message().contains("no base64"), "{}", error.message());
        // Anything beside it makes it an object like any other.
        assert_eq!(from_json(&json!({"$base64": "AAH/", "a": 1})).unwrap().bytes()[0], 0x82);
    }

    #[test]
    fn composites_are_indented_for_people_and_on_one_line_for_programs() {
        #[derive(Serialize)]
        struct Point {
            y: u8,
            x: Vec<u8>,
            z: Option<()>,
            none: [u8; 0],
        }
        let raw = Raw::encode(&Point { y: 1, x: vec![2, 3], z: None, none: [] }).unwrap();
        assert_eq!(to_json(&raw, Layout::Line).unwrap(), r#"{"y":1,"x":[2,3],"z":null,"none":[]}"#);
        insta::assert_snapshot!(to_json(&raw, Layout::Indented).unwrap(), @r#"
        {
          "y": 1,
          "x": [
            2,
            3
          ],
          "z": null,
          "none": []
        }
        "#);
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [&[0xc1][..], &[0x92, 0x01], &[0x01, 0x02], &[0xa1, 0xff], &[0x91; 500]] {
            let failure = to_json(&Raw::new(bytes.to_vec()), Layout::Line).unwrap_err();
            assert_eq!(failure.status, 7, "{bytes:?}");
        }
    }

    #[test]
    fn more_values_than_a_tree_may_have_are_shown_all_the_same() {
        let many = vec![0_u8; 200_000];
        let text = to_json(&Raw::encode(&many).unwrap(), Layout::Line).unwrap();
        assert_eq!(text.len(), 400_001);
    }

    #[test]
    fn whatever_is_given_comes_back() {
        let given = json!({"a": [1, -2, 3.5, "x", null, true, {}], "b": {"c": [[]]}});
        let raw = from_json(&given).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&to_json(&raw, Layout::Line).unwrap()).unwrap(), given);
        assert_eq!(serde_json::from_str::<Value>(&to_json(&raw, Layout::Indented).unwrap()).unwrap(), given);
    }
}
