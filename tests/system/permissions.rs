//! `file_read`, `file_write` and `system_access`: what is granted can be used, what is not granted is not there, and what is granted
//! in part ends exactly where the grant ends, as root and as an ordinary user.
//!
//! Elsewhere: `execute_code` is `isolation`'s; what a grant may look like is tested beside its reading.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, Lacking, other_user};
use palisade_tests::package::Package;
use serde_json::json;

use crate::support::{can_change_the_host, error, expect_echo, expect_text, hostile};

/// Who owns what the operator grants: an ordinary user, the daemon's own where that is one.
const OWNER: u32 = 65533;

/// A folder of the operator's, outside of everything that is the daemon's.
struct Files {
    _folder: tempfile::TempDir,
    at: PathBuf,
}

impl Files {
    fn new() -> Self {
        // Not anywhere else: there a plugin finds its own read-only root instead of its own /tmp.
        let folder = tempfile::Builder::new().prefix("palisade-files-").tempdir_in("/tmp").expect("/tmp is writable");
        let at = folder.path().canonicalize().expect("it is there");
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let files = Self { _folder: folder, at };
        files.folder("").folder("in").folder("in/out").folder("beside");
        for file in ["in/open", "in/secret", "in/out/old", "beside/file"] {
            files.file(file);
        }
        fs::set_permissions(files.path("in/secret"), fs::Permissions::from_mode(0o600)).expect("it is ours");
        files
    }

    fn own(&self, path: &Path) {
        if rustix::process::geteuid().is_root() {
            let owner = other_user().unwrap_or(OWNER);
            chown(path, Some(owner), Some(owner)).expect("root may");
        }
    }

    fn folder(&self, name: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("it can be made");
        self.own(&path);
        self
    }

    fn file(&self, name: &str) {
        fs::write(self.path(name), "what is granted").expect("it can be written");
        self.own(&self.path(name));
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.at.clone() } else { self.at.join(name) }
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

fn configured(grant: &str) -> DaemonOptions {
    DaemonOptions::with([hostile("tame")]).configuration(&format!("[plugins.hostile]\ngrant = [{grant}]\n"))
}

/// Makes each attempt, a verb and a path, and expects what stands beside it.
#[track_caller]
fn expect(daemon: &Daemon, attempts: &[(&str, String, &str)]) {
    let asked: Vec<_> = attempts.iter().map(|(verb, path, _)| format!("{verb} {path}")).collect();
    let met = daemon.agent().call("hostile", "files", &json!(asked));
    let met = met.unwrap_or_else(|error| panic!("{error}; log:\n{}", daemon.log()));
    let expected: BTreeMap<_, _> =
        asked.iter().zip(attempts).map(|(asked, (_, _, met))| (asked.clone(), json!(met))).collect();
    assert_eq!(met, json!(expected));
}

#[test]
fn what_may_be_read_is_read_and_nothing_else() {
    let files = Files::new();
    let daemon = Daemon::start(configured(&format!("\"execute_code\", {{ file_read = [\"{}\"] }}", files.text("in"))));
    expect(
        &daemon,
        &[
            ("read", files.text("in/open"), "ok"),
            // Whoever owns the folder is the plugin itself, for as long as it has it.
            ("read", files.text("in/secret"), "ok"),
            ("list", files.text("in/out"), "ok"),
            ("write", files.text("in/open"), "EROFS"),
            ("create", files.text("in/new"), "EROFS"),
            ("remove", files.text("in/open"), "EROFS"),
            ("execute", files.text("in/open"), "EACCES"),
            ("read", files.text("in/../beside/file"), "ENOENT"),
            ("read", files.text("beside/file"), "ENOENT"),
            ("list", files.text("beside"), "ENOENT"),
        ],
    );
    let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
    assert_eq!(info["permissions"], json!(["execute_code", format!("file_read:{}", files.text("in"))]));
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn what_may_be_written_is_written_and_stays_the_owners() {
    let files = Files::new();
    let grant = format!(
        "\"execute_code\", {{ file_read = [\"{}\"] }}, {{ file_write = [\"{}\", \"{}\"] }}",
        files.text("in"),
        files.text("in/out"),
        files.text("beside/file")
    );
    let daemon = Daemon::start(configured(&grant));
    expect(
        &daemon,
        &[
            ("write", files.text("in/out/old"), "ok"),
            ("create", files.text("in/out/new"), "ok"),
            ("device", files.text("in/out/null"), "EPERM"),
            ("execute", files.text("in/out/old"), "EACCES"),
            ("write", files.text("in/open"), "EROFS"),
            ("write", files.text("beside/file"), "ok"),
            ("list", files.text("beside"), "ok"),
            // The folder that leads to it stands in the plugin's own /tmp and is not the host's.
            ("create", files.text("beside/new"), "ok"),
            ("remove", files.text("beside/file"), "EBUSY"),
        ],
    );
    let made = daemon.agent().call("hostile", "leave-file", &json!([files.text("in/out/left")])).expect("it writes");
    assert_eq!(made[files.text("in/out/left")], "ok");
    let (left, folder) = (files.path("in/out/left"), files.path("in/out"));
    let owner = |path: &Path| path.metadata().map(|metadata| (metadata.uid(), metadata.gid())).expect("it is there");
    assert_eq!(owner(&left), owner(&folder), "on the disk it belongs to whoever owns the folder");
    daemon.stop_and_expect_no_orphans();
}

/// A grant reaches as far as the manifest asks, and what it asks in vain it does not get.
#[test]
fn asking_and_granting_are_both_needed() {
    let files = Files::new();
    let asks = json!(["execute_code", { "file_read": [files.text("in/out")] }]);
    let options = DaemonOptions::with([hostile("tame").asking(&asks)]);
    let daemon = Daemon::start(options.configuration(&format!(
        "[plugins.hostile]\ngrant = [{{ file_read = [\"{}\", \"{}\"] }}]\n",
        files.text("in"),
        files.text("in/out/old"),
    )));
    expect(
        &daemon,
        &[
            ("read", files.text("in/out/old"), "ok"),
            ("read", files.text("in/open"), "ENOENT"),
            ("execute", "/bin/true".to_owned(), "ENOSYS"),
        ],
    );
    let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
    assert_eq!(info["permissions"], json!([format!("file_read:{}", files.text("in/out/old"))]));
    let warnings = info["warnings"].to_string();
    expect_text(
        &warnings,
        &format!("palisade.toml grants file_read of {}, which plugin.json does not ask for", files.text("in")),
    );
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn a_place_that_cannot_be_had_refuses_the_start_by_name() {
    let files = Files::new();
    symlink("in", files.path("link")).expect("it can be made");
    let refused = |grant: String, why: &str| {
        let daemon = Daemon::start(configured(&grant));
        let refusal = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::InitializationFailed);
        expect_text(&refusal.message, why);
        daemon.stop_and_expect_no_orphans();
    };
    let read = |name: &str| format!("{{ file_read = [\"{}\"] }}", files.text(name));
    refused(read("gone/file"), &format!("{} does not exist", files.text("gone")));
    refused(read("link/open"), &format!("{} is a symbolic link", files.text("link")));
    let options = DaemonOptions::with([hostile("tame")]);
    let folder = tempfile::tempdir().expect("a folder");
    let (at, state) = (folder.path().display().to_string(), folder.path().join("state").display().to_string());
    let grant = format!("[plugins.hostile]\ngrant = [{{ file_write = [\"{at}\"] }}]\n");
    let daemon = Daemon::start(options.folder(folder).configuration(&grant));
    let refusal = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::InitializationFailed);
    expect_text(
        &refusal.message,
        &format!("file_write of {at} cannot be had: the daemon's state directory {state} lies in it"),
    );
    daemon.stop_and_expect_no_orphans();
}

/// A grant of writing where the daemon itself may not, as a unit can have it, would be had in name alone.
#[test]
fn a_place_that_is_read_only_for_the_daemon_cannot_be_granted_for_writing() {
    if !can_change_the_host("a folder that is read-only for the daemon") {
        return;
    }
    for (permission, refused) in [("file_write", true), ("file_read", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("read-only").display().to_string();
        let options = configured(&format!("{{ {permission} = [\"{at}\"] }}"));
        let daemon = Daemon::start(options.folder(folder).lacking(Lacking::WritableFolder));
        if refused {
            let refusal = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::InitializationFailed);
            expect_text(&refusal.message, &format!("file_write of {at} cannot be had: it is mounted read-only"));
            expect_text(&refusal.message, &format!("ReadWritePaths={at}"));
        } else {
            expect_echo(&daemon, "hostile");
        }
        daemon.stop_and_expect_no_orphans();
    }
}

/// What is mended is found by the next start.
#[test]
fn a_place_that_comes_back_is_had_again() {
    let files = Files::new();
    let (there, away) = (files.path("in"), files.path("away"));
    fs::rename(&there, &away).expect("it is ours");
    let daemon = Daemon::start(configured(&format!("{{ file_read = [\"{}\"] }}", there.display())));
    let refusal = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::InitializationFailed);
    expect_text(&refusal.message, "does not exist");
    fs::rename(&away, &there).expect("it is ours");
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it starts");
    expect(&daemon, &[("read", files.text("in/open"), "ok")]);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn of_the_system_it_sees_what_was_named() {
    let daemon = Daemon::start(configured("{ system_access = [\"meminfo\", \"cpu\"] }"));
    let at = |path: &str| path.to_owned();
    expect(
        &daemon,
        &[
            ("read", at("/host/proc/meminfo"), "ok"),
            ("read", at("/sys/devices/system/cpu/online"), "ok"),
            ("write", at("/host/proc/meminfo"), "EACCES"),
            ("read", at("/host/proc/loadavg"), "ENOENT"),
            ("read", at("/proc/meminfo"), "ENOENT"),
            ("read", at("/sys/devices/system/memory"), "ENOENT"),
            ("read", at("/sys/kernel"), "ENOENT"),
        ],
    );
    daemon.stop_and_expect_no_orphans();
    let daemon = Daemon::with([hostile("tame"), Package::echo()]);
    expect(
        &daemon,
        &[("read", at("/host/proc/meminfo"), "ENOENT"), ("read", at("/sys/devices/system/cpu/online"), "ENOENT")],
    );
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn a_mistake_in_the_configuration_is_named_at_once() {
    let wrong = Daemon::try_start(configured("{ file_read = [\"/proc/1/root\"] }"));
    let Err(refused) = wrong else { panic!("it must not start") };
    expect_text(&refused.log, "/proc/1/root cannot be permitted: it is the kernel's");
}
