//! An archive of a package: what is unpacked lies beneath one folder and is files and folders, or the end of a sentence.
#![no_main]

// The reader needs no daemon around it, so it is taken in as it stands, with what it knows of packages.
#[allow(dead_code, unused_imports)]
#[path = "../../supervisor/src/archive/mod.rs"]
mod archive;

#[allow(dead_code)]
#[path = "../../supervisor/src/trust/tree.rs"]
mod tree;

mod trust {
    pub(crate) use crate::tree;
}

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// In memory, as everything is made and removed again for each input.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new("/dev/shm").join(format!("palisade-fuzz-archive-{}", std::process::id()));
    fs::create_dir(&folder).expect("it is not there");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("archive", flags).expect("there is memory"));
    file.write_all(bytes).and_then(|()| file.rewind()).expect("there is memory");
    let into = FOLDER.join("into");
    fs::create_dir(&into).expect("it is not there");
    match archive::unpack(file, &into, &|| true) {
        Ok(package) => {
            assert!(package.starts_with(&into));
            // Links, devices and the like are refused by name.
            tree::checksum(&package).expect("it is a package");
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
    fs::remove_dir_all(&into).expect("it is ours");
    assert_eq!(fs::read_dir(&*FOLDER).expect("it is ours").count(), 0, "something lies beside it");
});
