//! A payload, decoded into types of every shape: a value or an error that names a place.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use palisade_protocol::{ValueLimits, check_payload, decode_value, encode_value};

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Order {
    name: String,
    #[serde(default)]
    items: Vec<Item>,
    note: Option<String>,
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum Item {
    Plain(u32),
    Named { n: i64, size: f32 },
    None,
}

fuzz_target!(|payload: &[u8]| {
    let well_formed = check_payload(payload, ValueLimits::PAYLOAD).is_ok();
    let tree = decode_value::<serde_json::Value>(payload);
    assert!(well_formed || tree.is_err(), "what is malformed is never decoded");
    if let Ok(tree) = tree {
        let mut again = Vec::new();
        encode_value(&mut again, &tree).expect("a tree can be encoded");
        assert_eq!(decode_value::<serde_json::Value>(&again), Ok(tree));
    }
    let _ = decode_value::<Order>(payload);
    let _ = decode_value::<BTreeMap<String, Option<u64>>>(payload);
    let _ = decode_value::<Vec<Vec<f64>>>(payload);
    let _ = decode_value::<()>(payload);
    let _ = decode_value::<(u8, char, bool)>(payload);
});
