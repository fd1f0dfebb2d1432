//! Interpreters of the operator's: a plugin that names one is executed by it, wherever it lies, and is refused where that is not what
//! it was or not there at all.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text};

/// A folder that everybody may read, with a copy of the interpreter in it.
struct Installed {
    folder: tempfile::TempDir,
    exec: PathBuf,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("palisade-test-runtime-").tempdir().expect("it is writable");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let place = folder.path().canonicalize().expect("it is there").join("interpreter");
        fs::create_dir(&place).expect("it is ours");
        let exec = place.join("snake");
        fs::copy(built("palisade-hostile"), &exec).expect("it can be copied");
        Self { folder, exec }
    }

    fn bind(&self) -> &Path {
        self.exec.parent().expect("it lies in a folder")
    }

    /// Of that name, with this program.
    fn configured(&self, exec: &Path) -> String {
        format!("[runtimes.snake]\nexec = {exec:?}\nbinds = [{:?}]\n", self.bind())
    }
}

/// A plugin that is a few words; its runtime is the hostile plugin, which takes them for granted.
fn package(runtime: &str) -> Package {
    Package::new("words", Entry::Bytes(b"for whoever reads them\n".to_vec()))
        .mode(0o644)
        .environment("HOSTILE_ID", "words")
        .with("runtime", json!(runtime))
}

fn echo(daemon: &Daemon) -> Result<Value, ErrorBody> {
    daemon.agent().call("words", "echo", &json!(1))
}

/// The runtime executes the plugin from where the operator has it, and the report says which program that is.
#[test]
fn a_plugin_is_executed_by_the_runtime_that_it_names() {
    let installed = Installed::new();
    let configuration = installed.configured(&installed.exec);
    let daemon = Daemon::start(DaemonOptions::with([package("snake")]).configuration(&configuration));
    expect_echo(&daemon, "words");
    let told = fs::read(format!("/proc/{}/cmdline", daemon.process_of("words"))).expect("it runs");
    assert_eq!(told, [installed.exec.as_os_str().as_bytes(), b"\0/plugin/main\0"].concat());
    let info = daemon.operate("info", &json!({"plugin": "words"})).expect("it is known");
    let said = command("sha256sum").arg(&installed.exec).output().expect("it is everywhere").stdout;
    let digest = String::from_utf8_lossy(&said).split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(digest.len(), 64);
    assert_eq!(info["runtime"], json!({"name": "snake", "exec": installed.exec, "sha256": digest}));
    // Another program of the same name is not what was looked at.
    let other = installed.folder.path().join("other");
    fs::copy(&installed.exec, &other).expect("it can be copied");
    fs::rename(&other, &installed.exec).expect("it is ours");
    let restarted = daemon.operate("restart", &json!({"plugin": "words"}));
    let refused = error(restarted.and_then(|_| echo(&daemon)), ErrorCode::InitializationFailed);
    expect_text(&refused.message, "was changed since the daemon started; restart the daemon");
    daemon.stop_and_expect_no_orphans();
}

/// A plugin that cannot have what it names is refused from the beginning, by a sentence.
#[test]
fn a_runtime_that_cannot_be_had_refuses_the_start() {
    let installed = Installed::new();
    let link = installed.bind().join("link");
    symlink("snake", &link).expect("it is ours");
    let script = installed.bind().join("script");
    fs::write(&script, "#!/bin/sh\n").expect("it is ours");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    for (runtime, exec, why) in [
        ("viper", installed.exec.clone(), "plugin.json names the runtime \"viper\", which palisade.toml does not have"),
        ("snake", link, "link is a symbolic link; name the place that is meant"),
        ("snake", installed.bind().join("gone"), "gone does not exist"),
        ("snake", script, "script is no ELF program; name the program itself"),
    ] {
        let configuration = installed.configured(&exec);
        let daemon = Daemon::start(DaemonOptions::with([package(runtime)]).configuration(&configuration));
        let status = daemon.operate("status", &json!({"plugin": "words"})).expect("it is known");
        assert_eq!(status["state"], "failed", "{why}");
        expect_text(status["reason"].as_str().unwrap_or_default(), why);
        let refused = error(echo(&daemon), ErrorCode::InitializationFailed);
        expect_text(&refused.message, why);
        daemon.stop_and_expect_no_orphans();
    }
    let binds = format!("binds = [{:?}, \"/nowhere/at/all\"]", installed.bind());
    let configuration = format!("[runtimes.snake]\nexec = {:?}\n{binds}\n", installed.exec);
    let daemon = Daemon::start(DaemonOptions::with([package("snake")]).configuration(&configuration));
    let refused = error(echo(&daemon), ErrorCode::InitializationFailed);
    expect_text(&refused.message, "the runtime's bind /nowhere/at/all cannot be had: /nowhere does not exist");
    daemon.stop_and_expect_no_orphans();
}

/// What cannot be meant is an error of the configuration.
#[test]
fn a_runtime_that_cannot_be_meant_ends_the_daemon() {
    for (runtime, why) in [
        ("exec = \"bin/python\"", "is no absolute path"),
        ("exec = \"/opt/python/bin/python\"", "runtimes.snake: no plugin sees /opt/python/bin/python"),
        ("exec = \"/opt/x\"\nbinds = [\"/\"]", "/ is everything"),
        ("exec = \"/usr/bin/x\"\nbind = []", "unknown field `bind`"),
        ("binds = []", "missing field `exec`"),
    ] {
        let options = DaemonOptions::with([]).configuration(&format!("[runtimes.snake]\n{runtime}\n"));
        let ended = Daemon::try_start(options).expect_err("it is wrong");
        assert_eq!(ended.status.code(), Some(4), "{}", ended.log);
        expect_text(&ended.log, why);
    }
}
