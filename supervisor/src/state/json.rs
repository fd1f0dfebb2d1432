//! What a plugin keeps as JSON, for an operator's export and import: each value in a form from which it comes back as it was.
//!
//! Nil, booleans, whole numbers, floats of 64 bits, texts, lists, and maps whose keys are texts stand there as JSON has them; `bin` as
//! `{"$base64": "…"}`, at any depth. A value for which that would lose anything (a float of 32 bits or one that is no number, an extension, a map with other keys, or
//! with a key twice, or one that looks like those forms) stands there whole as `{"$msgpack": "…"}`, the base64 of its bytes.
//!
//! Invariant: what comes back is the same value. How its numbers and lengths are encoded, and the order of the entries of a map, is not kept but in the last
//! of these forms.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palisade_protocol::{ValueLimits, check_value};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Bytes, at any depth.
const BYTES: &str = "$base64";

/// A whole value as it is encoded.
const WHOLE: &str = "$msgpack";

/// The JSON form of a value that is encoded so.
#[must_use]
pub fn to_json(encoded: &[u8]) -> Value {
    let natural = || {
        let node: Node = rmp_serde::from_slice(encoded).ok()?;
        let form = node.json();
        let again: Node = rmp_serde::from_slice(&from_json(&form).ok()?).ok()?;
        (again == node).then_some(form)
    };
    natural().unwrap_or_else(|| json!({ WHOLE: STANDARD.encode(encoded) }))
}

/// The value of a JSON form, encoded.
///
/// # Errors
/// What is wrong with it, a sentence.
pub fn from_json(form: &Value) -> Result<Vec<u8>, String> {
    let encoded = match single(form, WHOLE) {
        Some(text) => decoded(WHOLE, text)?,
        None => rmp_serde::to_vec_named(&Form(form)).map_err(|error| error.to_string())?,
    };
    match check_value(&encoded, ValueLimits::PAYLOAD) {
        Ok(length) if length == encoded.len() => Ok(encoded),
        Ok(length) => Err(format!("it is no value that can be kept: {} bytes follow it", encoded.len() - length)),
        Err(error) => Err(format!("it is no value that can be kept: {error}")),
    }
}

/// What stands under the only key of a map, if that is this one.
fn single<'a>(form: &'a Value, key: &str) -> Option<&'a Value> {
    form.as_object().filter(|map| map.len() == 1).and_then(|map| map.get(key))
}

fn decoded(key: &str, text: &Value) -> Result<Vec<u8>, String> {
    let text = text.as_str().ok_or_else(|| format!("what stands under `{key}` is no text"))?;
    STANDARD.decode(text).map_err(|error| format!("what stands under `{key}` is not base64: {error}"))
}

/// A JSON form that is written as MessagePack.
struct Form<'a>(&'a Value);

impl Serialize for Form<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(list) => {
                let mut sequence = serializer.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|one| sequence.serialize_element(&Form(one)))?;
                sequence.end()
            }
            Value::Object(map) => {
                if let Some(text) = single(self.0, BYTES) {
                    return serializer.serialize_bytes(&decoded(BYTES, text).map_err(ser::Error::custom)?);
                }
                if map.contains_key(WHOLE) || map.contains_key(BYTES) {
                    let message =
                        format!("`{BYTES}` stands alone in a map, and `{WHOLE}` alone in one that is the whole value");
                    return Err(ser::Error::custom(message));
                }
                let mut entries = serializer.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(key, one)| entries.serialize_entry(key, &Form(one)))?;
                entries.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}

/// A value of which JSON can say everything. Reading any other fails.
#[derive(Debug, PartialEq)]
enum Node {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    /// By its bits, as -0 is not 0.
    Float(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

impl Node {
    fn json(&self) -> Value {
        match self {
            Self::Nil => Value::Null,
            Self::Bool(value) => json!(value),
            Self::Unsigned(value) => json!(value),
            Self::Negative(value) => json!(value),
            Self::Float(bits) => json!(f64::from_bits(*bits)),
            Self::Text(text) => json!(text),
            Self::Bytes(bytes) => json!({ BYTES: STANDARD.encode(bytes) }),
            Self::List(list) => Value::Array(list.iter().map(Self::json).collect()),
            Self::Map(map) => {
                Value::Object(map.iter().map(|(key, one)| (key.clone(), one.json())).collect::<Map<_, _>>())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value that JSON can say")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Nil)
            }

            fn visit_none<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Nil)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Unsigned(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
                Ok(u64::try_from(value).map_or(Node::Negative(value), Node::Unsigned))
            }

            fn visit_f32<E: de::Error>(self, _: f32) -> Result<Node, E> {
                Err(E::custom("it would come back with 64 bits"))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Float(value.to_bits()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Node, E> {
                Ok(Node::Bytes(bytes.to_vec()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(one) = sequence.next_element()? {
                    list.push(one);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, one)) = entries.next_entry::<Node, Node>()? {
                    let Node::Text(key) = key else { return Err(de::Error::custom("a key is no text")) };
                    if map.insert(key, one).is_some() {
                        return Err(de::Error::custom("a key is there twice"));
                    }
                }
                Ok(Node::Map(map))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A value, read without what is tested here. How its numbers and lengths are encoded, and the order of a map, makes no difference.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Plain {
        Nil,
        Bool(bool),
        Whole(i128),
        Short(Vec<u8>),
        Long(Vec<u8>),
        Text(Vec<u8>),
        Bytes(Vec<u8>),
        List(Vec<Plain>),
        Map(Vec<(Plain, Plain)>),
    }

    fn plain(rest: &mut &[u8]) -> Plain {
        let mut take = |count: usize| rest.split_off(..count).unwrap().to_vec();
        let number = |bytes: &[u8]| bytes.iter().fold(0_i128, |number, byte| number << 8 | i128::from(*byte));
        let head = take(1)[0];
        let low = usize::from(head & 0x0f);
        match head {
            0x00..=0x7f => Plain::Whole(head.into()),
            0x80..=0x8f => {
                let mut map: Vec<_> = (0..low).map(|_| (plain(rest), plain(rest))).collect();
                map.sort();
                Plain::Map(map)
            }
            0x90..=0x9f => Plain::List((0..low).map(|_| plain(rest)).collect()),
            0xa0..=0xbf => Plain::Text(take(usize::from(head & 0x1f))),
            0xc0 => Plain::Nil,
            0xc2 | 0xc3 => Plain::Bool(head == 0xc3),
            0xc4 => {
                let length = take(1)[0];
                Plain::Bytes(take(length.into()))
            }
            0xca => Plain::Short(take(4)),
            0xcb => Plain::Long(take(8)),
            0xcc..=0xcf => Plain::Whole(number(&take(1 << (head - 0xcc)))),
            0xd0..=0xd3 => {
                let bytes = take(1 << (head - 0xd0));
                let bits = 128 - 8 * bytes.len();
                Plain::Whole(number(&bytes) << bits >> bits)
            }
            0xd9 => {
                let length = take(1)[0];
                Plain::Text(take(length.into()))
            }
            0xe0.. => Plain::Whole(i128::from(head.cast_signed())),
            other => panic!("nothing here is encoded with {other:#x}"),
        }
    }

    /// Values of every kind that there is, as they are encoded.
    fn encoded() -> impl Strategy<Value = Vec<u8>> {
        let bytes = |head: &[u8], rest: &[u8]| [head, rest].concat();
        let text = |text: &str| {
            let mut encoded = Vec::new();
            palisade_protocol::encode_value(&mut encoded, text).unwrap();
            encoded
        };
        let leaf = prop_oneof![
            Just(vec![0xc0]),
            any::<bool>().prop_map(|value| vec![0xc2 | u8::from(value)]),
            any::<u64>().prop_map(move |value| bytes(&[0xcf], &value.to_be_bytes())),
            any::<i64>().prop_map(move |value| bytes(&[0xd3], &value.to_be_bytes())),
            (0..128_u8).prop_map(|value| vec![value]),
            (0xe0..=0xff_u8).prop_map(|value| vec![value]),
            any::<f64>().prop_map(move |value| bytes(&[0xcb], &value.to_bits().to_be_bytes())),
            any::<u64>().prop_map(move |bits| bytes(&[0xcb], &bits.to_be_bytes())),
            any::<f32>().prop_map(move |value| bytes(&[0xca], &value.to_bits().to_be_bytes())),
            prop_oneof![".{0,5}", Just(BYTES.to_owned()), Just(WHOLE.to_owned())].prop_map(move |value| text(&value)),
            prop::collection::vec(any::<u8>(), 0..20)
                .prop_map(move |value| bytes(&[0xc4, u8::try_from(value.len()).unwrap()], &value)),
            // They look like the forms that stand for others.
            (prop::sample::select(vec![BYTES, WHOLE]), prop::sample::select(vec!["", "aGk=", "wA=="]))
                .prop_map(move |(key, value)| [vec![0x81], text(key), text(value)].concat()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let twice = (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(key, one, other)| [vec![0x82], key.clone(), one, key, other].concat());
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|list| [
                    vec![0x90 | u8::try_from(list.len()).unwrap()],
                    list.concat()
                ]
                .concat()),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(|map| {
                    let head = vec![0x80 | u8::try_from(map.len()).unwrap()];
                    let entries: Vec<_> = map.into_iter().flat_map(|(key, value)| [key, value]).collect();
                    [head, entries.concat()].concat()
                }),
                // The same key twice.
                twice,
            ]
        })
    }

    proptest! {
        /// Through the text of JSON and back it is the same value: byte for byte, but for how it was encoded where JSON says all of it.
        #[test]
        fn every_value_comes_back_as_it_was(encoded in encoded()) {
            let form = to_json(&encoded);
            let read: Value = serde_json::from_str(&form.to_string()).unwrap();
            let again = from_json(&read).unwrap();
            if single(&form, WHOLE).is_some() {
                prop_assert_eq!(&again, &encoded);
            } else {
                prop_assert_eq!(plain(&mut &again[..]), plain(&mut &encoded[..]));
            }
            prop_assert_eq!(to_json(&again), form);
        }

        /// What is natural in JSON stands there as it is.
        #[test]
        fn what_json_can_say_is_said_in_json(number in any::<i64>(), text in "[a-z]{0,9}", float in prop::num::f64::NORMAL) {
            let value = json!({"number": number, "list": [text, null, true, {}], "float": float});
            let mut encoded = Vec::new();
            palisade_protocol::encode_value(&mut encoded, &value).unwrap();
            prop_assert_eq!(to_json(&encoded), value);
        }
    }

    #[test]
    fn forms_that_are_none_say_what_is_wrong() {
        assert_eq!(to_json(b"\xc4\x02hi"), json!({"$base64": "aGk="}));
        assert_eq!(to_json(b"\xca\x3f\x80\x00\x00"), json!({"$msgpack": "yj+AAAA="}));
        // Two zeros, and one that looks like bytes.
        assert_eq!(to_json(b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00"), json!(-0.0));
        assert_eq!(to_json(b"\x81\xa7$base64\xa1x"), json!({"$msgpack": "gackYmFzZTY0oXg="}));
        // The same key twice.
        assert_eq!(to_json(b"\x82\xa1a\x01\xa1a\x02"), json!({"$msgpack": "gqFhAaFhAg=="}));
        for (form, why) in [
            (json!({"$base64": 1}), "is no text"),
            (json!([{"$base64": "?"}]), "is not base64"),
            (json!({"$base64": "", "more": 1}), "stands alone"),
            (json!([{"$msgpack": "wA=="}]), "the whole value"),
            (json!({"$msgpack": "wMA="}), "no value that can be kept"),
            (json!({"$msgpack": ""}), "no value that can be kept"),
        ] {
            let error = from_json(&form).unwrap_err();
            assert!(error.contains(why), "{form}: {error}");
        }
    }
}
