//! A frame's content: where the body ends, or why it is none. What is taken is a map with text keys, each once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_protocol::{BODY_KEYS_MAX, ValueLimits, check_body, check_value};
use serde::de::IgnoredAny;

fuzz_target!(|content: &[u8]| {
    let Ok(length) = check_body(content) else { return };
    let body = &content[..length];
    assert_eq!(check_body(body), Ok(length), "what follows a body means nothing to it");
    assert_eq!(check_value(body, ValueLimits::BODY), Ok(length));
    let map: Vec<(String, IgnoredAny)> = rmp_serde::from_slice::<Pairs>(body).expect("a map with text keys").0;
    assert!(map.len() <= BODY_KEYS_MAX);
    for (at, (key, _)) in map.iter().enumerate() {
        assert!(map[..at].iter().all(|(before, _)| before != key), "{key} stands there twice");
    }
});

/// A map in the order in which it stands.
struct Pairs(Vec<(String, IgnoredAny)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}
