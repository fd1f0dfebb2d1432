//! Real children through the real launcher: what they find, how they end, and that nothing of them stays.
//!
//! The launcher is built once, the way it is shipped. As root the whole file runs again as an ordinary user; with a
//! cgroup that the daemon may use, what depends on it is shown with a leaf and without one.
//! Elsewhere: the protocol on descriptors 3 and 4, which these children do not speak.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

mod confined;
mod failures;
mod found;
mod harness;
mod host;
mod leaves;
mod life;
mod prepared;
mod zygote;

use std::{os::unix::fs::PermissionsExt, path::Path};

use crate::harness::*;

/// Everything above, as somebody who is not root.
#[test]
fn everything_again_as_an_ordinary_user() {
    if !is_root() || std::env::var_os(INNER_VARIABLE).is_some() {
        return;
    }
    // Where that user can read it, whatever the folders of the build allow.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let launcher = copy(&launcher_path(), "palisade-launcher");
    // The others of this run wait: what both runs count must not mix.
    exclusively(|| {
        let status = command(Path::new("setpriv"))
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&tests)
            .arg("--nocapture")
            .env(INNER_VARIABLE, "ordinary user")
            .env(LAUNCHER_VARIABLE, &launcher)
            .current_dir("/")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
    });
}
