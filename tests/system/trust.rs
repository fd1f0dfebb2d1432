//! Packages that are not what they say, or that nobody vouches for who counts: a daemon uses all but those, and says why of each.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palisade_protocol::ErrorCode;
use palisade_tests::command::built;
use palisade_tests::daemon::{Daemon, DaemonOptions, other_user};
use palisade_tests::package::{Entry, Package};
use palisaded::model::trust::{KeyName, Method};
use palisaded::trust::keys::NamedKey;
use palisaded::trust::seal::seal;
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text};

fn key(folder: &Path, name: &str, method: Method) -> NamedKey {
    let name = KeyName::parse(name).expect("it is a name");
    let path = folder.join(name.as_str());
    let key = NamedKey::generate(name, method, &path).expect("the folder is ours");
    // It has to be the daemon's own.
    if let Some(user) = other_user() {
        chown(&path, Some(user), None).expect("only root has daemons of others");
    }
    key
}

fn configured(key: &NamedKey, more: &str) -> String {
    let public = key.key.public().expect("it has one");
    format!("[trust.keys.{}]\nmethod = \"ed25519\"\npublic_key = {:?}\n{more}\n", key.name, STANDARD.encode(public))
}

fn edit(package: &Path, change: impl FnOnce(&mut Value)) {
    let path = package.join("plugin.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("it is JSON");
    change(&mut manifest);
    fs::write(&path, manifest.to_string()).expect("it is ours");
}

/// One daemon, and a package for everything that can be wrong.
#[test]
fn what_does_not_hold_is_refused_by_name_and_the_others_are_used() {
    let folder = tempfile::Builder::new().prefix("palisade-test-trust-").tempdir().expect("it is writable");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let keys = folder.path();
    let release = key(keys, "release", Method::Ed25519);
    let [other, old, narrow] = ["other", "old", "narrow"].map(|name| key(keys, name, Method::Ed25519));
    let [house, open] = ["house", "open"].map(|name| key(keys, name, Method::HmacSha256));
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let plugins = keys.join("plugins");
    let dev = keys.join("dev");
    let make = |id: &str, key: &NamedKey, at: SystemTime| {
        let package = Package::hostile(id, "").write(&plugins, "");
        seal(&package, &key.key, &key.name, at).expect("it can be signed");
        package
    };
    make("good", &release, now);
    make("shared", &house, now);
    fs::write(make("modified", &release, now).join("extra"), "").expect("it is ours");
    edit(&make("renamed", &release, now), |manifest| manifest["name"] = json!("Another"));
    edit(&make("unsigned", &release, now), |manifest| {
        drop(manifest.as_object_mut().map(|all| all.remove("signature")))
    });
    Package::hostile("bare", "").write(&plugins, "");
    make("stranger", &other, now);
    make("revoked", &old, now);
    make("foreign", &narrow, now);
    make("stale", &release, now - 8 * day);
    make("early", &release, now + day);
    make("readable", &open, now);
    edit(&make("mistaken", &release, now), |manifest| manifest["signature"]["method"] = json!("hmac-sha256"));
    Package::hostile("free", "").write(&dev, "");

    let mut configuration = format!("plugin_directories = [{plugins:?}, {dev:?}]\n");
    configuration += "[trust]\npolicy = \"signature\"\nmax_age_days = 7\n";
    configuration += &format!("[trust.sources.{dev:?}]\npolicy = \"none\"\n");
    configuration += &configured(&release, "ids = [\"*\"]");
    configuration += &configured(&old, "ids = [\"*\"]\nrevoked = \"it leaked\"");
    configuration += &configured(&narrow, "ids = [\"narrow-*\"]");
    for key in ["house", "open"] {
        let file = keys.join(key);
        configuration += &format!("[trust.keys.{key}]\nmethod = \"hmac-sha256\"\nkey_file = {file:?}\nids = [\"*\"]\n");
    }
    fs::set_permissions(keys.join("open"), fs::Permissions::from_mode(0o640)).expect("it is ours");
    let daemon = Daemon::start(DaemonOptions::with([]).usual_plugins().configuration(&configuration));

    for id in ["good", "shared", "free"] {
        expect_echo(&daemon, id);
    }
    for (id, code, words) in [
        ("modified", ErrorCode::IntegrityFailed, "the files are not those that plugin.json pins"),
        ("renamed", ErrorCode::SignatureInvalid, "changed after it was signed"),
        ("unsigned", ErrorCode::SignatureMissing, "`palisade sign` adds it"),
        ("bare", ErrorCode::ChecksumMissing, "plugin.json has no `checksum`, and signature is required"),
        ("stranger", ErrorCode::KeyUnknown, "the key \"other\", which palisade.toml does not have"),
        ("revoked", ErrorCode::KeyRevoked, "was revoked: it leaked"),
        ("foreign", ErrorCode::KeyNotAllowed, "may not sign for `foreign`; it may for: narrow-*"),
        ("stale", ErrorCode::SignatureExpired, "longer ago than the 7 days"),
        ("early", ErrorCode::SignatureNotYetValid, "one of the two clocks is wrong"),
        ("readable", ErrorCode::KeyUnusable, "has the mode 0640, and others may use it"),
        (
            "mistaken",
            ErrorCode::SignatureMethodMismatch,
            "says hmac-sha256, and the key \"release\" is one for ed25519",
        ),
    ] {
        let refused = error(daemon.agent().call(id, "echo", &json!(1)), code);
        expect_text(&refused.message, words);
        assert!(!refused.retryable, "{id}: it would be the same again");
        assert_eq!(daemon.status(id).state, "failed", "{id}");
        let restarted = error(daemon.operate("start", &json!({"plugin": id})), code);
        expect_text(&restarted.message, words);
    }
    // Looked at again when somebody asks, a package that is what it was signed as is used.
    fs::remove_file(plugins.join("modified/extra")).expect("it is ours");
    daemon.operate("start", &json!({"plugin": "modified"})).expect("it was mended");
    expect_echo(&daemon, "modified");
    daemon.stop_and_expect_no_orphans();
}

/// What was installed and does not hold any more is a plugin that says why, is kept, and can be removed: whatever is required meanwhile, and
/// whoever starts it. What it was installed from decides which policy that is.
#[test]
fn what_is_installed_and_does_not_hold_any_more_says_why() {
    let install = |daemon: &Daemon, id: &str| {
        let folder = Package::hostile(id, "tame").write(&daemon.path().join("elsewhere"), daemon.marker());
        daemon.operate("install", &json!({"path": folder})).expect("it is installed")
    };
    let daemon = Daemon::with([]);
    let source = fs::canonicalize(daemon.path()).expect("it is there").join("elsewhere");
    let digest = install(&daemon, "guest")["digest"].clone();
    install(&daemon, "other");
    let strict = format!("[trust.sources.{source:?}]\npolicy = \"signature\"\n");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.stop()).configuration(&strict));
    for operate in [
        daemon.agent().call("guest", "echo", &json!(1)),
        // Not even when it is looked at again.
        daemon.operate("start", &json!({"plugin": "guest"})),
        daemon.agent().call("guest", "echo", &json!(1)),
    ] {
        expect_text(&error(operate, ErrorCode::ChecksumMissing).message, "signature is required");
    }
    assert_eq!(daemon.status("guest").state, "failed");
    daemon.operate("rescan", &json!({})).expect("it looks");
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    assert_eq!((list["rejected"].clone(), list["plugins"].as_array().map(Vec::len)), (json!([]), Some(2)));
    let removed = daemon.operate("uninstall", &json!({"plugin": "other"})).expect("it can be removed");
    assert!(removed["archive"].is_string(), "{removed}");
    // With other rules it is what it was.
    let lenient = format!("[trust.sources.{source:?}]\npolicy = \"none\"\n");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.stop()).configuration(&lenient));
    expect_echo(&daemon, "guest");
    assert_eq!(
        daemon.operate("permissions", &json!({"plugin": "guest"})).expect("it is known")["plugins"][0]["digest"],
        digest
    );
    daemon.stop_and_expect_no_orphans();
}

/// The hostile plugin, built otherwise.
fn rebuilt(id: &str, change: impl FnOnce(&mut [u8])) -> Package {
    let mut bytes = fs::read(built("palisade-hostile")).expect("it was built");
    change(&mut bytes);
    Package::new(id, Entry::Bytes(bytes)).environment("HOSTILE_ID", id).environment("HOSTILE_MODE", "")
}

/// Its stack can be executed: the flags of that program header say so.
fn executable_stack(bytes: &mut [u8]) {
    let stack = 0x6474_e551_u32.to_le_bytes();
    let headers = 64..64 + 56 * usize::from(bytes[56]);
    let at = headers.step_by(56).find(|at| bytes[*at..*at + 4] == stack).expect("linkers write one");
    bytes[at + 4] |= 1;
}

/// It needs a library of another name than the one that every program of this compiler needs.
fn other_library(bytes: &mut [u8]) {
    let name = b"\0libgcc_s.so.1\0";
    let at = bytes.windows(name.len()).position(|there| there == name).expect("it needs that one");
    bytes[at + 6] = b'q';
}

/// A program that cannot run here, or is built so that an attack on it is easy, is not started; the operator may bear with it.
#[test]
fn a_program_that_is_odd_is_refused_unless_the_operator_bears_with_it() {
    let packages = || {
        [Package::echo(), rebuilt("stack", executable_stack), rebuilt("library", other_library)]
            .map(|package| package.mode(0o755))
    };
    let daemon = Daemon::with(packages());
    expect_echo(&daemon, "echo");
    for (id, words) in [
        ("stack", "executable_stack: main wants its stack to be executable"),
        ("library", "missing_library: main needs the library libgcq_s.so.1"),
    ] {
        let refused = error(daemon.agent().call(id, "echo", &json!(1)), ErrorCode::CheckFailed);
        expect_text(&refused.message, words);
        assert_eq!(daemon.status(id).state, "failed", "{id}");
        let restarted = error(daemon.operate("start", &json!({"plugin": id})), ErrorCode::CheckFailed);
        expect_text(&restarted.message, words);
    }
    daemon.stop_and_expect_no_orphans();
    let bearing =
        "[checks]\nexecutable_stack = \"warn\"\nlibraries = [\"libc.so.6\", \"libm.*\", \"libgcc_s*\", \"ld-*\"]\n";
    let daemon = Daemon::start(DaemonOptions::with(packages()).configuration(bearing));
    expect_echo(&daemon, "echo");
    expect_echo(&daemon, "stack");
    let warnings = daemon.operate("info", &json!({"plugin": "stack"})).expect("it is known")["warnings"].to_string();
    expect_text(&warnings, "executable_stack: main wants its stack to be executable");
    daemon.stop_and_expect_no_orphans();
    let daemon =
        Daemon::start(DaemonOptions::with(packages()).configuration("[checks]\nlibraries = [\"libc.so.6\"]\n"));
    let refused = error(daemon.agent().call("echo", "echo", &json!(1)), ErrorCode::CheckFailed);
    expect_text(
        &refused.message,
        "forbidden_library: main needs the library libgcc_s.so.1, which `checks.libraries` does not allow",
    );
    daemon.stop_and_expect_no_orphans();
}

/// Unless the operator says otherwise a script may bring any interpreter that a plugin sees.
#[test]
fn an_operator_may_want_only_interpreters_that_are_listed() {
    let script = || Package::new("script", Entry::Bytes(b"#!/bin/sh\nexit 3\n".to_vec()));
    let named = Package::new("named", Entry::Bytes(b"exit 3\n".to_vec())).with("runtime", json!("shell"));
    let reason = "unlisted_interpreter: main is a script for /bin/sh, and plugin.json names no `runtime` that palisade.toml lists";
    for (verdict, code) in [
        ("", ErrorCode::InitializationFailed),
        ("warn", ErrorCode::InitializationFailed),
        ("refuse", ErrorCode::CheckFailed),
    ] {
        let checks = if verdict.is_empty() { String::new() } else { format!("unlisted_interpreter = {verdict:?}") };
        let configuration = format!("[runtimes.shell]\nexec = \"/bin/sh\"\n[checks]\n{checks}\n");
        let options = DaemonOptions::with([Package::echo(), script(), named.clone()]).configuration(&configuration);
        let daemon = Daemon::start(options);
        // Either is executed where it may be, and says nothing.
        let start = |plugin: &str| daemon.operate("start", &json!({ "plugin": plugin }));
        error(start("named"), ErrorCode::InitializationFailed);
        let met = error(start("script"), code);
        let info = daemon.operate("info", &json!({"plugin": "script"})).expect("it is known");
        let is_warned = info["warnings"].to_string().contains(&reason.replace('"', "\\\""));
        assert_eq!(is_warned, verdict == "warn", "{info}");
        assert_eq!(met.message.contains(reason), verdict == "refuse", "{}", met.message);
        let other = script().with("id", json!("other")).write(&daemon.path().join("elsewhere"), daemon.marker());
        let installed = daemon.operate("install", &json!({ "path": other }));
        match verdict {
            "refuse" => expect_text(&error(installed, ErrorCode::CheckFailed).message, reason),
            _ => drop(installed.expect("it may be used")),
        }
        daemon.stop_and_expect_no_orphans();
    }
}
