//! The one form of a manifest that is signed: RFC 8785, without the signature itself.
//!
//! Invariant: two manifests that the daemon reads differently have different canonical forms. So a number that RFC 8785 cannot hold
//! exactly, as it knows doubles alone, is refused rather than rounded.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tree::hex;

/// Where a signature stands in the manifest, which cannot cover itself.
const SIGNATURE: &str = "signature";

/// Why a manifest has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// It cannot be read.
    #[error("plugin.json is not JSON: {0}")]
    Syntax(String),
    /// It is something else.
    #[error("plugin.json is no JSON object")]
    NotAnObject,
    /// A number that would be rounded.
    #[error("plugin.json has the number {0}, which a double cannot hold exactly; nothing with it can be signed")]
    Inexact(String),
}

/// The bytes that stand for the manifest when it is signed.
///
/// # Errors
/// [`CanonicalError`]
pub fn canonical(manifest: &[u8]) -> Result<Vec<u8>, CanonicalError> {
    let syntax = |error: serde_json::Error| CanonicalError::Syntax(error.to_string());
    let mut value = palisade_protocol::parse_json(manifest).map_err(syntax)?;
    value.as_object_mut().ok_or(CanonicalError::NotAnObject)?.remove(SIGNATURE);
    exact(&value)?;
    serde_json_canonicalizer::to_vec(&value).map_err(syntax)
}

/// The SHA-256 of a value's canonical form, in hexadecimal; of one with a number that would be rounded, that of another form.
#[must_use]
pub fn digest_of(value: &Value) -> String {
    let canonical = exact(value).ok().and_then(|()| serde_json_canonicalizer::to_vec(value).ok());
    hex(&Sha256::digest(canonical.unwrap_or_else(|| value.to_string().into_bytes())))
}

/// Whether every whole number is one that a double holds. Values are no deeper than their parser allows.
fn exact(value: &Value) -> Result<(), CanonicalError> {
    /// From here on not every whole number is a double.
    const WHOLE_MAX: u64 = 1 << 53;
    match value {
        Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match whole {
                Some(whole) if WHOLE_MAX < whole => Err(CanonicalError::Inexact(number.to_string())),
                _ => Ok(()),
            }
        }
        Value::Array(items) => items.iter().try_for_each(exact),
        Value::Object(fields) => fields.values().try_for_each(exact),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::Map;

    use super::*;

    fn text(manifest: &str) -> String {
        String::from_utf8(canonical(manifest.as_bytes()).unwrap()).unwrap()
    }

    /// What RFC 8785 has as examples, and what is its own about a manifest.
    #[test]
    fn the_form_is_that_of_the_rfc() {
        let given = "{\"numbers\": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],\n\
            \"string\": \"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\", \"literals\": [null, true, false]}";
        let wanted = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
            \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(text(given), wanted);
        // Keys are compared by their UTF-16 code units, as the example of section 3.2.3 has them.
        let keys = "{\"\u{20ac}\":1,\"\\r\":2,\"\u{fb33}\":3,\"1\":4,\"\u{1f600}\":5,\"\u{80}\":6,\"\u{f6}\":7}";
        let sorted = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
        assert_eq!(text(keys), sorted);
        assert_eq!(
            text(r#"{"b": {"signature": 1}, "signature": {"value": "x"}, "a": 1.0}"#),
            r#"{"a":1,"b":{"signature":1}}"#
        );
    }

    /// Appendix B of the RFC: doubles by their bits, and how they are written.
    #[test]
    fn numbers_are_those_of_the_rfc() {
        for (bits, written) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let given = format!("{{\"n\": {:e}}}", f64::from_bits(bits));
            assert_eq!(text(&given), format!("{{\"n\":{written}}}"), "{bits:x}");
        }
    }

    #[test]
    fn what_would_be_rounded_is_refused() {
        let error = |manifest: &str| canonical(manifest.as_bytes()).unwrap_err();
        assert_eq!(text(r#"{"n":9007199254740992}"#), r#"{"n":9007199254740992}"#);
        for number in ["9007199254740993", "-9007199254740993", "18446744073709551615"] {
            let nested = format!("{{\"a\": [{{\"b\": {number}}}]}}");
            assert_eq!(error(&nested), CanonicalError::Inexact(number.to_owned()));
        }
        assert_eq!(error("[1]"), CanonicalError::NotAnObject);
        assert!(matches!(error(r#"{"a": 1, "a": 2}"#), CanonicalError::Syntax(_)));
        assert!(matches!(error(&"[".repeat(10_000)), CanonicalError::Syntax(_)));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
            // Short decimals, as manifests have them, and whatever else there is.
            (-99_999_i32..99_999, 0..6_i32).prop_map(|(n, places)| Value::from(f64::from(n) / 10_f64.powi(places))),
            any::<f64>()
                // Between these a double is written as a whole number that is not that double.
                .prop_filter("finite, and the same when it is read", |n| {
                    n.is_finite() && !(2_f64.powi(53)..1e21).contains(&n.abs())
                })
                .prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                btree_map(any::<String>(), inner, 0..6).prop_map(|map| Map::from_iter(map).into()),
            ]
        })
    }

    /// The same, if numbers are taken for what they are and not for how they are written.
    fn same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len()
                    && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
            }
            (one, other) => one == other,
        }
    }

    proptest! {
        /// Nothing is lost, and neither order nor layout makes a difference.
        #[test]
        fn a_canonical_form_says_the_same_in_one_way(fields in btree_map(any::<String>(), values(), 0..8)) {
            let mut fields = Map::from_iter(fields);
            let pretty = serde_json::to_vec_pretty(&fields).unwrap();
            let form = canonical(&pretty).unwrap();
            prop_assert_eq!(&canonical(&form).unwrap(), &form);
            fields.remove(SIGNATURE);
            let again: Value = serde_json::from_slice(&form).unwrap();
            prop_assert!(same(&again, &Value::Object(fields.clone())), "{again}");
            let reversed: Vec<String> = fields
                .iter()
                .rev()
                .map(|(key, value)| format!("{} : {value}", Value::from(key.as_str())))
                .collect();
            prop_assert_eq!(canonical(format!("{{\n{}\t}}", reversed.join(" ,\n")).as_bytes()).unwrap(), form);
        }
    }
}
