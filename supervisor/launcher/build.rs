//! Computes the build id by which daemon and launcher recognise each other.
//!
//! It is a hash of this crate's sources and version and of nothing else (no time, path, profile or compiler), so that
//! the static program and the library inside the daemon agree exactly when they were made from the same sources. It
//! guards against mistakes, not against forgery: whoever can replace the launcher can replace the daemon.

use std::{env, fs, io, path::Path};

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// FNV-1a, 128 bits wide: stable over compilers and machines, unlike the standard library's hasher.
fn hash(state: u128, bytes: &[u8]) -> u128 {
    bytes.iter().fold(state, |state, byte| (state ^ u128::from(*byte)).wrapping_mul(PRIME))
}

fn main() -> io::Result<()> {
    let mut files = vec!["Cargo.toml".to_owned(), "build.rs".to_owned()];
    for entry in fs::read_dir("src")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|extension| extension == "rs") {
            files.push(format!("src/{name}"));
        }
    }
    files.sort();

    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let mut state = hash(OFFSET, version.as_bytes());
    for file in &files {
        // Name and length go in as well, so that bytes moved from one file to its neighbour make another id.
        let contents = fs::read(file)?;
        state = hash(state, file.as_bytes());
        state = hash(state, &(contents.len() as u64).to_le_bytes());
        state = hash(state, &contents);
    }
    println!("cargo::rustc-env=PALISADE_LAUNCHER_BUILD_ID={version}-{state:032x}");
    for path in ["Cargo.toml", "build.rs", "src"] {
        println!("cargo::rerun-if-changed={path}");
    }
    Ok(())
}
