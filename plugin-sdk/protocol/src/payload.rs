//! Payloads: typed values to MessagePack and back, in one manner at both ends.
//!
//! The manner is serde's human-readable one with named fields, so that a value reads the same as JSON and as MessagePack, and a
//! JSON Schema describes both: an address or a UUID is its text, not its bytes.

use serde::de::DeserializeOwned;
use serde::{Deserializer, Serialize};

use crate::value::{ValueError, ValueLimits, check_value};

/// MessagePack's nil, the canonical payload for "nothing"; an empty payload means the same.
pub const NIL: &[u8] = &[0xc0];

/// The other form of "no parameters".
const EMPTY_MAP: &[u8] = &[0x80];

/// Why a payload is not the value that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The bytes are not one MessagePack value within limits.
    #[error("not a valid MessagePack value: {0}")]
    Malformed(#[from] ValueError),
    /// It is a value, but not of that type.
    #[error("{}{detail}", prefix(path))]
    Mismatch {
        /// Where, as in `items[3].size`; empty for the value itself.
        path: String,
        /// What does not fit.
        detail: String,
    },
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

/// A value that MessagePack cannot hold, or whose own `Serialize` failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value cannot be encoded: {0}")]
pub struct EncodeError(String);

/// Appends `value` to `out`. After an error, what was appended is of no use.
///
/// # Errors
/// [`EncodeError`] when the value's `Serialize` refuses.
pub fn encode_value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map().with_human_readable();
    value.serialize(&mut serializer).map_err(|error| EncodeError(error.to_string()))
}

/// Checks that `payload` is exactly one MessagePack value within [`ValueLimits::PAYLOAD`]; an empty one counts as nil.
///
/// # Errors
/// [`ValueError`] as [`check_value`], and [`ValueError::Trailing`].
pub fn check_payload(payload: &[u8], limits: ValueLimits) -> Result<(), ValueError> {
    if payload.is_empty() {
        return Ok(());
    }
    match payload.len() - check_value(payload, limits)? {
        0 => Ok(()),
        bytes => Err(ValueError::Trailing { bytes }),
    }
}

/// Decodes a payload. "Nothing" in any of its forms (no bytes, nil, an empty map) suits both `()` and a struct without
/// required fields.
///
/// # Errors
/// [`PayloadError`], with the path of what does not fit.
pub fn decode_value<T: DeserializeOwned>(payload: &[u8]) -> Result<T, PayloadError> {
    check_payload(payload, ValueLimits::PAYLOAD)?;
    match payload {
        [] | NIL | EMPTY_MAP => {
            let (first, second) = if payload == EMPTY_MAP { (EMPTY_MAP, NIL) } else { (NIL, EMPTY_MAP) };
            read(first).or_else(|_| read(second)).map_err(|_| explain::<T>(EMPTY_MAP))
        }
        _ => read(payload).map_err(|_| explain::<T>(payload)),
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    T::deserialize(&mut rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable())
}

/// Decodes once more, keeping track of the path. It costs more, so it is done only after a failure.
#[cold]
fn explain<T: DeserializeOwned>(bytes: &[u8]) -> PayloadError {
    // By way of a tree, because MessagePack's own decoder speaks of markers, which mean nothing to a caller.
    let (path, detail) = match read::<serde_json::Value>(bytes) {
        Ok(tree) => trace::<_, T>(&tree),
        Err(_) => trace::<_, T>(&mut rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable()),
    };
    // A path without segments prints as a dot.
    PayloadError::Mismatch { path: if path == "." { String::new() } else { path }, detail }
}

fn trace<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> (String, String) {
    match serde_path_to_error::deserialize::<_, T>(deserializer) {
        Err(error) => (error.path().to_string(), error.into_inner().to_string()),
        // A type that takes from a tree what it does not take from MessagePack, such as numbers as keys of a map.
        Ok(_) => (String::new(), "the value does not have the expected form".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Item {
        size: u32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        items: Vec<Item>,
        #[serde(default)]
        note: Option<String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct AllOptional {
        limit: Option<u32>,
    }

    fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        encode_value(&mut out, value).unwrap();
        out
    }

    #[test]
    fn a_mismatch_names_its_path() {
        let order = serde_json::json!({"items": [{"size": 1}, {"size": "large"}]});
        let Err(PayloadError::Mismatch { path, detail }) = decode_value::<Order>(&bytes(&order)) else { panic!() };
        assert_eq!(path, "items[1].size");
        assert!(detail.contains("invalid type: string \"large\", expected u32"), "{detail}");
        let error = decode_value::<Order>(&bytes(&serde_json::json!({"note": "x"}))).unwrap_err();
        assert_eq!(error.to_string(), "missing field `items`");
    }

    #[test]
    fn nothing_has_three_forms() {
        for nothing in [&[][..], NIL, EMPTY_MAP] {
            decode_value::<()>(nothing).unwrap();
            assert_eq!(decode_value::<AllOptional>(nothing).unwrap(), AllOptional { limit: None });
            assert_eq!(decode_value::<Option<u32>>(nothing).unwrap(), None);
            assert_eq!(decode_value::<Order>(nothing).unwrap_err().to_string(), "missing field `items`");
        }
    }

    #[test]
    fn values_look_as_they_do_in_json() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(bytes(&address), [&[0xa8][..], b"10.0.0.1"].concat());
        assert_eq!(decode_value::<IpAddr>(&bytes(&"10.0.0.1")).unwrap(), address);
    }

    #[test]
    fn malformed_payloads_are_refused_before_they_are_decoded() {
        assert!(matches!(decode_value::<Order>(&[0xc1]), Err(PayloadError::Malformed(_))));
        assert_eq!(decode_value::<u32>(&[0x01, 0x02]), Err(PayloadError::Malformed(ValueError::Trailing { bytes: 1 })));
        let deep = [vec![0x91; 4096], vec![0x00]].concat();
        assert!(matches!(decode_value::<serde_json::Value>(&deep), Err(PayloadError::Malformed(_))));
    }
}
