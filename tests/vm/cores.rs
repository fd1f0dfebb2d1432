//! Cores: where the host has a program to read them, as most distributions do, it is not started for a plugin. The program runs as
//! root and reads all of the dead process's memory, so this is for the guest, whose setting it changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, wait_for};
use palisade_tests::package::Package;
use serde_json::json;

const PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// A program for cores that leaves a file with the name of what crashed; the old setting comes back with its end.
struct Reader {
    folder: tempfile::TempDir,
    before: String,
}

impl Reader {
    fn install() -> Self {
        assert!(std::env::var_os("PALISADE_TEST_GUEST").is_some(), "this is for the guest of tests/vm alone");
        let folder = tempfile::tempdir().expect("there is room");
        let script = folder.path().join("reader");
        fs::write(&script, format!("#!/bin/sh\ncat >/dev/null\n: >{}/$1\n", folder.path().display()))
            .expect("there is room");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let before = fs::read_to_string(PATTERN).expect("the kernel has it");
        fs::write(PATTERN, format!("|{} %e", script.display())).expect("root may");
        Self { folder, before }
    }

    fn has_read(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = fs::write(PATTERN, &self.before);
    }
}

#[test]
#[ignore = "for the guest: it changes what the kernel does with cores"]
fn no_program_for_cores_is_run() {
    let reader = Reader::install();
    let daemon = Daemon::with([Package::hostile("hostile", "tame")]);
    let abort = json!({"row": "core-dump", "what": "abort", "world": {}});
    let error = daemon.agent().call("hostile", "attempt", &abort).expect_err("it does not survive that");
    assert!(error.message.contains("SIGABRT"), "{error}");
    // A core is read before the process is gone, so the program would have been started by now.
    assert!(!reader.has_read("main"), "the host's program has read a plugin's core");
    daemon.stop_and_expect_no_orphans();
    // The same outside, even with the limit of 0 that keeps core files away.
    let program = built("palisade-hostile");
    let status = command("prlimit").arg("--core=0:0").arg(&program).args(["attempt", &abort.to_string()]).status();
    assert!(!status.expect("it runs").success());
    let name = Path::new(&program).file_name().expect("a file").to_string_lossy().chars().take(15).collect::<String>();
    wait_for("the program for cores", || reader.has_read(&name).then_some(()));
}
