//! The program of a package: what it says of itself, within bounds, or the end of a sentence.
#![no_main]

// The reader is pure, so it is taken in as it stands, without the daemon around it.
#[allow(dead_code)]
#[path = "../../supervisor/src/trust/elf.rs"]
mod elf;

use elf::{Image, NEEDED_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Image::read(bytes) {
        Ok(image) => {
            assert!(image.needed.len() <= NEEDED_MAX, "{} libraries", image.needed.len());
            let names = image.needed.iter().chain(&image.interpreter).chain(&image.rpath).chain(&image.runpath);
            assert!(names.into_iter().all(|name| name.len() < 4096 && !name.contains('\0')));
        }
        Err(why) => assert!(!why.is_empty()),
    }
});
