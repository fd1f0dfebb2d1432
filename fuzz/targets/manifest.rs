//! A `plugin.json`: a manifest within its bounds, or errors that name the place.
#![no_main]

// The model is pure, so it is taken in as it stands, without the daemon around it.
#[allow(dead_code, unused_imports)]
#[path = "../../supervisor/src/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::manifest::{Manifest, ManifestError, PROBLEMS_MAX};

fuzz_target!(|bytes: &[u8]| {
    match Manifest::parse(bytes) {
        Ok((manifest, _)) => {
            let entry_point = manifest.entry_point.as_str();
            assert!(!entry_point.starts_with('/') && entry_point.split('/').all(|part| part != ".."), "{entry_point}");
            assert_ne!(manifest.id.to_string(), palisade_protocol::SUPERVISOR_ID);
            let _ = (manifest.instance(), manifest.timing(), manifest.action("any"));
        }
        Err(ManifestError::Fields { errors }) => {
            assert!((1..=PROBLEMS_MAX + 1).contains(&errors.len()), "{} errors", errors.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
