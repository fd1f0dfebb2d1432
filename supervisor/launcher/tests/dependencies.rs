//! The launcher holds the unsafe code of the project and runs beside every plugin: what it is made of stays few.

use std::{collections::BTreeSet, process::Command};

/// Crates in the program's tree, its own and those of its build included.
const CRATES_MAX: usize = 25;

#[test]
fn the_launcher_is_made_of_fewer_than_twenty_five_crates() {
    #[expect(clippy::disallowed_methods, reason = "a test is not the daemon")]
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--features", "program", "--edges", "normal,build", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    // Name and version; what follows them tells a crate's first mention from a later one.
    let crates: BTreeSet<_> = tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
    assert!(crates.len() < CRATES_MAX, "{}: {crates:?}", crates.len());
    for forbidden in ["tokio", "nix", "palisade-protocol", "palisaded"] {
        assert!(!crates.iter().any(|name| name.first() == Some(&forbidden)), "{forbidden}");
    }
}
