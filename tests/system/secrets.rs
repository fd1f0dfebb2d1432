//! Secrets: who is given one, who is not, and that nobody else finds it anywhere.
//!
//! Elsewhere: what opens with which key is tested beside `secrets`; what is decided about `secret:NAME`, beside permissions.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use palisade_client::Client;
use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::memory::Needle;
use palisade_tests::package::{Entry, Package};
use palisade_tests::process;
use rustix::pty::OpenptFlags;
use serde_json::{Value, json};

use crate::cli::{Ran, palisade};
use crate::support::{error, expect_text, hostile};

/// As a daemon is without any configuration.
const ASK: &str = "[permissions]\n";

/// Whatever is asked for is granted.
const ALLOW: &str = "[permissions]\npolicy = \"allow\"\n";

/// What nobody is to find.
const VALUE: &str = "hunter2-correct-horse-battery-staple-0123456789";

fn wanting(secrets: &Value) -> Package {
    Package::hostile("guest", "tame").asking(&json!([])).with("secrets", secrets.clone())
}

/// What the plugin is answered when it asks.
fn get(daemon: &Daemon, name: &str) -> Result<Value, ErrorBody> {
    let asks = json!({"asks": [{"op": "secret.get", "params": {"name": name}}]});
    let answers = daemon.agent().call("guest", "ask", &asks)?;
    match answers[0].get("ok") {
        Some(given) => Ok(given["value"].clone()),
        None => Err(serde_json::from_value(answers[0]["error"].clone()).expect("it is an error")),
    }
}

fn set(daemon: &Daemon, name: &str, value: &str) -> Result<Value, ErrorBody> {
    daemon.operate("secret_set", &json!({"plugin": "guest", "name": name, "value": value}))
}

fn not_set(daemon: &Daemon) -> Value {
    let status = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known");
    status.get("secrets_not_set").cloned().unwrap_or_default()
}

fn pending(daemon: &Daemon) -> Vec<String> {
    let listing = daemon.operate("pending", &json!({})).expect("there is a list");
    let each = listing["plugins"].as_array().expect("a list").iter();
    let asked = each.flat_map(|one| one["permissions"].as_array().expect("a list"));
    let asked = asked.filter(|one| one["decision"] == "asked").map(|one| one["permission"].as_str());
    asked.map(|one| one.expect("a text").to_owned()).collect()
}

/// Nobody is given what was not granted, named and set; what is set holds from the next question on, and survives the daemon.
#[test]
fn a_secret_is_given_to_whom_it_was_granted() {
    let secrets =
        json!([{"name": "key", "reason": "to ask with"}, {"name": "refused"}, {"name": "spare", "optional": true}]);
    let daemon = Daemon::start(DaemonOptions::with([wanting(&secrets)]).configuration(ASK));
    assert_eq!(pending(&daemon), ["secret:key", "secret:refused", "secret:spare"]);
    let listed = daemon.operate("permissions", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!(listed["plugins"][0]["permissions"][0]["reason"], "to ask with");
    let grant = |what: &[&str]| daemon.operate("grant", &json!({"plugin": "guest", "permissions": what}));
    grant(&["secret:key", "secret:spare"]).expect("it asks for them");
    daemon
        .operate("revoke", &json!({"plugin": "guest", "permissions": ["secret:refused"]}))
        .expect("it can be refused");
    assert_eq!(pending(&daemon), [""; 0]);
    let refused = error(grant(&["secret:other"]), ErrorCode::InvalidParams);
    expect_text(&refused.message, "does not ask for \"secret:other\"");

    // It runs without, and is told so.
    let unset = error(get(&daemon, "key"), ErrorCode::ResourceNotFound);
    expect_text(&unset.message, "the secret key of guest is not set");
    expect_text(&unset.hint.unwrap_or_default(), "palisade secret set guest key");
    assert_eq!(not_set(&daemon), json!(["key"]));
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers").to_string();
    expect_text(&doctor, "guest 0.1.0 wants secrets that are not set: key");

    let changed = set(&daemon, "key", VALUE).expect("it asks for that");
    assert_eq!(changed, json!({"id": "guest", "name": "key", "set": true, "was_set": false}));
    assert_eq!((get(&daemon, "key"), not_set(&daemon)), (Ok(json!(VALUE)), Value::Null));
    let again = set(&daemon, "key", "another").expect("it asks for that");
    assert_eq!((again["was_set"].clone(), get(&daemon, "key")), (json!(true), Ok(json!("another"))));
    set(&daemon, "refused", VALUE).expect("it asks for that");
    let denied = error(get(&daemon, "refused"), ErrorCode::PermissionDenied);
    expect_text(&denied.message, "the secret refused was not granted to guest");
    let unnamed = error(get(&daemon, "other"), ErrorCode::PermissionDenied);
    expect_text(&unnamed.message, "names no secret \"other\"");

    for (name, value, why) in [
        ("other", "x", "no version of guest asks for a secret \"other\""),
        ("a b", "x", "contains ' ' at byte 1"),
        ("key", "", "a secret is not empty"),
        ("key", &"x".repeat(16_385), "a secret has at most 16384 bytes"),
        // Also in a frame with a buffer of its own.
        ("key", &"x".repeat(100_000), "a secret has at most 16384 bytes"),
    ] {
        expect_text(&error(set(&daemon, name, value), ErrorCode::InvalidParams).message, why);
    }
    let number = daemon.operate("secret_set", &json!({"plugin": "guest", "name": "key", "value": 1_234_554_321}));
    let number = error(number, ErrorCode::InvalidParams);
    assert!(!number.to_string().contains("1234554321"), "{number}");
    assert_eq!(get(&daemon, "key"), Ok(json!("another")), "what was refused changed nothing");

    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration(ASK));
    assert_eq!(get(&daemon, "key"), Ok(json!("another")));
    let listed = daemon.operate("secret_list", &json!({"plugin": "guest"})).expect("it is known");
    let rows: Vec<_> = listed["secrets"].as_array().expect("a list").iter().collect();
    let shown: Vec<_> =
        rows.iter().map(|one| (&one["name"], &one["set"], &one["decision"], &one["optional"])).collect();
    assert_eq!(
        shown,
        [
            (&json!("key"), &json!(true), &json!("granted"), &json!(false)),
            (&json!("refused"), &json!(true), &json!("denied"), &json!(false)),
            (&json!("spare"), &json!(false), &json!("granted"), &json!(true)),
        ]
    );

    // What was taken back is not given any more, though it is set.
    daemon.operate("revoke", &json!({"plugin": "guest", "permissions": ["secret:key"]})).expect("it was granted");
    error(get(&daemon, "key"), ErrorCode::PermissionDenied);
    daemon.operate("grant", &json!({"plugin": "guest", "permissions": ["secret:key"]})).expect("it asks for it");
    assert_eq!(get(&daemon, "key"), Ok(json!("another")));
    let remove = || daemon.operate("secret_remove", &json!({"plugin": "guest", "name": "key"}));
    assert_eq!(remove().expect("it is set")["was_set"], true);
    error(remove(), ErrorCode::ResourceNotFound);
    error(get(&daemon, "key"), ErrorCode::ResourceNotFound);
    daemon.stop_and_expect_no_orphans();
}

/// An update that names another secret is asked about for that one alone; a rule of the policy decides as for any permission.
#[test]
fn an_update_is_asked_about_for_the_secret_that_is_new() {
    let rules = "[permissions]\nrules = [{ permission = \"secret\", scope = [\"open\"], decision = \"allow\" }, \
                 { permission = \"secret\", scope = [\"closed\"], decision = \"deny\" }]\n";
    let daemon = Daemon::start(DaemonOptions::with([]).configuration(rules));
    let install = |version: &str, secrets: &Value| {
        let package = wanting(secrets).with("version", json!(version)).environment("HOSTILE_VERSION", version);
        let folder = package.write(&daemon.path().join("elsewhere"), daemon.marker());
        daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
    };
    install("1.0.0", &json!([{"name": "key"}, {"name": "open"}, {"name": "closed"}]));
    assert_eq!(pending(&daemon), ["secret:key"]);
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it can be granted");
    for name in ["key", "open", "closed"] {
        set(&daemon, name, name).expect("it asks for that");
    }
    assert_eq!((get(&daemon, "key"), get(&daemon, "open")), (Ok(json!("key")), Ok(json!("open"))));
    error(get(&daemon, "closed"), ErrorCode::PermissionDenied);
    install("1.1.0", &json!([{"name": "key"}, {"name": "open"}, {"name": "more"}]));
    assert_eq!(pending(&daemon), ["secret:more"]);
    assert_eq!(get(&daemon, "key"), Ok(json!("key")), "the version before it goes on");
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it can be granted");
    set(&daemon, "more", "more").expect("it asks for that");
    assert_eq!((get(&daemon, "key"), get(&daemon, "more")), (Ok(json!("key")), Ok(json!("more"))));

    // With the plugin for good go its secrets; a plugin of that id that comes later has none.
    for version in ["1.0.0", "1.1.0"] {
        let purge = json!({"plugin": "guest", "version": format!("={version}"), "purge": true});
        let removed = daemon.operate("uninstall", &purge).expect("it is installed");
        let gone = removed["gone"].to_string();
        assert_eq!(gone.contains("the secrets that were set for it"), version == "1.1.0", "{removed}");
    }
    install("1.0.0", &json!([{"name": "key"}]));
    let listed = daemon.operate("secret_list", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!((&listed["secrets"][0]["set"], &listed["secrets"][1]), (&json!(false), &Value::Null), "{listed}");
    daemon.stop_and_expect_no_orphans();
}

/// Runs `palisade secret set` with this on stdin.
fn set_by_hand(daemon: &Daemon, plugin: &str, name: &str, text: &[u8]) -> Ran {
    let mut command = command(built("palisade"));
    command.arg("--socket").arg(daemon.socket()).args(["secret", "set", plugin, name]).env("NO_COLOR", "1");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be executed");
    // It may have ended already, of what was wrong with its arguments.
    let _ = child.stdin.take().expect("it is piped").write_all(text);
    let output = child.wait_with_output().expect("it ends");
    Ran {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Every file beneath a folder that has these bytes.
fn files_with(folder: &Path, text: &[u8], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("it is ours") {
        let path = entry.expect("it is ours").path();
        let metadata = path.symlink_metadata().expect("it is there");
        if metadata.is_dir() {
            files_with(&path, text, found);
        } else if metadata.is_file() {
            let bytes = fs::read(&path).expect("it is ours");
            if bytes.windows(text.len()).any(|window| window == text) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// From stdin of the command line to the plugin that asks: neither on the way nor afterwards does anybody find it, though the plugin
/// crashes and everything is asked of the daemon that it tells.
#[test]
fn nobody_else_finds_a_secret() {
    let keeper = Package::new("keeper", Entry::File(built("palisade-bench-plugin")))
        .environment("BENCH_ID", "keeper")
        .with("secrets", json!([{"name": "key"}]))
        .with("restart", json!("never"));
    let trace =
        DaemonOptions::with([keeper, hostile("tame").asking(&json!([])).with("secrets", json!([{"name": "key"}]))])
            .configuration(ALLOW)
            .environment("RUST_LOG", "trace");
    let daemon = Daemon::start(trace);
    let mut watcher = daemon.agent();
    let events = watcher.begin("palisade", "events", &json!({"follow": true}));
    let opened = watcher.next_of(events);
    assert_eq!(opened.kind, Some(palisade_protocol::Kind::StreamOpen));
    for plugin in ["keeper", "hostile"] {
        let ran = set_by_hand(&daemon, plugin, "key", VALUE.as_bytes());
        assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
    }
    let used = || daemon.agent().call("keeper", "secret", &json!("key"));
    assert_eq!(used(), Ok(json!(VALUE.len())));
    let keeper = daemon.process_of("keeper");
    let needle = Needle::new(VALUE);

    let mut told = String::new();
    for process in
        [daemon.pid(), keeper].into_iter().chain(process::descendants(daemon.pid()).iter().map(|one| one.pid))
    {
        for file in ["environ", "cmdline"] {
            told += &String::from_utf8_lossy(&fs::read(format!("/proc/{process}/{file}")).unwrap_or_default());
        }
    }
    for pid in [daemon.pid(), keeper] {
        match needle.in_process(pid) {
            Ok(found) => assert_eq!(found, 0, "in the memory of process {pid}, log:\n{}", daemon.log()),
            Err(why) => println!("SKIPPED: the memory of process {pid} cannot be looked at: {why}"),
        }
    }

    // It crashes with the secret in its hands, which leaves a dossier.
    let asks = json!({"asks": [{"op": "secret.get", "params": {"name": "key"}}]});
    let given = daemon.agent().call("hostile", "ask", &asks).expect("it asks");
    assert_eq!(given[0]["ok"]["value"], VALUE);
    daemon.agent().call("hostile", "abort", &json!(null)).expect_err("it crashes");
    daemon.wait_until("hostile", "its failure", |now| now.last_failure.is_some());
    daemon.operate("restart", &json!({"plugin": "keeper"})).expect("it runs");
    assert_eq!(used(), Ok(json!(VALUE.len())));
    for plugin in ["keeper", "hostile"] {
        let of = json!({ "plugin": plugin });
        for operation in ["status", "info", "describe", "permissions", "config", "stats", "secret_list"] {
            told += &daemon.operate(operation, &of).expect("it answers").to_string();
        }
        for arguments in
            [["status", plugin].as_slice(), &["info", plugin], &["secret", "list", plugin], &["logs", plugin]]
        {
            let ran = palisade(&daemon.socket(), arguments);
            assert_eq!(ran.status, Some(0), "{arguments:?}: {}", ran.stderr);
            told += &(ran.stdout + &ran.stderr);
        }
    }
    for operation in ["list", "status", "doctor", "permissions", "pending", "stats", "search"] {
        told += &daemon.operate(operation, &json!({})).expect("it answers").to_string();
    }
    daemon.operate("secret_remove", &json!({"plugin": "keeper", "name": "key"})).expect("it is set");
    let kinds = wait_for("what happened", || {
        let event = watcher.next_of(events).value().to_string();
        told += &event;
        event.contains("secret_removed").then(|| told.matches("\"secret_set\"").count())
    });
    assert_eq!(kinds, 2, "{told}");
    told += &daemon.log();
    assert!(told.contains("keeper") && told.contains("secret_set"), "{told}");
    assert!(!told.contains(VALUE), "{told}");
    daemon.terminate();
    let folder = daemon.stop();
    let mut found = Vec::new();
    files_with(folder.path(), VALUE.as_bytes(), &mut found);
    assert_eq!(found, [""; 0]);
}

/// Of what the client needs to send a secret nothing is left in its process.
#[test]
fn the_client_keeps_nothing_of_it() {
    /// Its own, as it may stand nowhere else in this process.
    const SENT: &str = "swordfish-xyzzy-plugh-9876543210-abcdefghijklm";
    let daemon = Daemon::with([wanting(&json!([{"name": "key"}]))]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is room for it");
    let client = Client::builder().path(daemon.socket()).build();
    let changed = runtime.block_on(client.admin().set_secret("guest", "key", SENT)).expect("it asks for that");
    assert!(changed.set && !changed.was_set);
    let own = Needle::new(SENT).in_process(std::process::id());
    assert_eq!(own, Ok(0), "in this process");
    let shown = runtime.block_on(client.admin().secrets("guest")).expect("it is known");
    assert!(shown.secrets[0].set && shown.secrets[0].by.is_some());
    assert!(runtime.block_on(client.admin().remove_secret("guest", "key")).expect("it is set").was_set);
    daemon.stop_and_expect_no_orphans();
}

/// Without a configured key one is made for the daemon's user alone, and doctor says which; with one, none is made.
#[test]
fn the_key_is_the_configured_one_or_one_that_is_made() {
    let secrets = json!([{"name": "key"}]);
    let doctor = |daemon: &Daemon| {
        let report = daemon.operate("doctor", &json!({})).expect("it answers");
        let checks = report["checks"].as_array().expect("a list").clone();
        let check = checks.into_iter().find(|check| check["name"] == "secrets").expect("it is looked at");
        (
            check["state"].as_str().unwrap_or_default().to_owned(),
            check["summary"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let daemon = Daemon::start(DaemonOptions::with([wanting(&secrets)]).configuration(ALLOW));
    let key = daemon.path().join("state/secrets.key");
    assert!(!key.exists());
    expect_text(&doctor(&daemon).1, "with the first secret one is made");
    set(&daemon, "key", VALUE).expect("it asks for that");
    let (state, summary) = doctor(&daemon);
    assert_eq!(state, "ok");
    expect_text(&summary, &key.display().to_string());
    let (of_key, of_state) = (fs::metadata(&key).expect("it is there"), fs::metadata(daemon.path().join("state")));
    assert_eq!((of_key.mode() & 0o7777, of_key.uid()), (0o600, of_state.expect("it is there").uid()));

    // One that cannot be used costs the secrets, and nothing else.
    let folder = daemon.stop();
    let key = folder.path().join("state/secrets.key");
    let before = fs::read(&key).expect("it is there");
    fs::write(&key, "no key").expect("it is ours");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(ALLOW));
    assert_eq!(doctor(&daemon).0, "warn");
    let refused = error(get(&daemon, "key"), ErrorCode::ConfigurationInvalid);
    expect_text(&refused.message, "secrets.key is no key file");
    error(set(&daemon, "key", "x"), ErrorCode::ConfigurationInvalid);
    let folder = daemon.stop();
    fs::write(&key, before).expect("it is ours");

    let configured = folder.path().join("configured.key");
    fs::write(&configured, format!("{}\n", "0f".repeat(32))).expect("it is ours");
    fs::set_permissions(&configured, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    if let Some(uid) = palisade_tests::daemon::other_user() {
        std::os::unix::fs::chown(&configured, Some(uid), None).expect("it is ours");
    }
    let with_key = format!("[state]\nkey_file = {configured:?}\n{ALLOW}");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(&with_key));
    assert_eq!(get(&daemon, "key"), Ok(json!(VALUE)), "the one that was made goes on opening it");
    expect_text(&doctor(&daemon).1, "the configured key; those set before");
    set(&daemon, "key", "sealed anew").expect("it asks for that");
    assert_eq!(get(&daemon, "key"), Ok(json!("sealed anew")));
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn the_command_line_sets_shows_and_removes_secrets() {
    let wanting = wanting(&json!([{"name": "key", "reason": "to ask with"}]));
    let daemon = Daemon::start(DaemonOptions::with([wanting]).configuration(ALLOW));
    let socket = daemon.socket();
    let run = |arguments: &[&str]| palisade(&socket, arguments);
    expect_text(&run(&["status", "guest"]).stdout, "not set: key; `palisade secret set guest key` sets it");
    for (text, value) in [("first\n", "first"), ("two\nlines\r\n", "two\nlines"), ("as it is", "as it is")] {
        let ran = set_by_hand(&daemon, "guest", "key", text.as_bytes());
        assert_eq!((ran.status, ran.stdout + &ran.stderr), (Some(0), String::new()));
        assert_eq!(get(&daemon, "key"), Ok(json!(value)));
    }
    for (plugin, name, text, status, why) in [
        ("guest", "key", b"".as_slice(), 2, "there is no secret on stdin"),
        ("guest", "key", b"\xff\xfe", 2, "a secret is text in UTF-8"),
        ("guest", "key", &[b'x'; 20_000], 2, "a secret has at most 16384 bytes"),
        ("guest", "other", b"x", 4, "no version of guest asks for a secret \"other\""),
        ("nobody", "key", b"x", 3, "nobody"),
    ] {
        let ran = set_by_hand(&daemon, plugin, name, text);
        assert_eq!((ran.status, ran.stdout.as_str()), (Some(status), ""), "{}", ran.stderr);
        expect_text(&ran.stderr, why);
    }
    // Never an argument.
    let ran = run(&["secret", "set", "guest", "key", "value"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    let ran = run(&["secret", "set", "guest", "key=in plain sight"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    expect_text(&ran.stderr, "a secret is no argument");
    expect_text(&ran.stderr, "`palisade secret set guest key` reads it from stdin");
    assert!(!ran.stderr.contains("sight"), "{}", ran.stderr);
    assert_eq!(get(&daemon, "key"), Ok(json!("as it is")));
    let listed = run(&["secret", "list", "guest"]);
    expect_text(&listed.stdout, "granted");
    expect_text(&listed.stdout, "to ask with");
    let listed: Value = serde_json::from_str(&run(&["--json", "secret", "list", "guest"]).stdout).expect("it is JSON");
    assert_eq!(listed["secrets"][0]["set"], true);
    assert_eq!(run(&["secret", "remove", "guest", "key"]).status, Some(0));
    let again = run(&["secret", "remove", "guest", "key"]);
    assert_eq!(again.status, Some(3), "{}", again.stderr);
    expect_text(&again.stderr, "the secret key of guest is not set");
    daemon.stop_and_expect_no_orphans();
}

/// What is typed on a terminal is not shown there, and the terminal shows what is typed afterwards as it did before.
#[test]
fn a_terminal_shows_nothing_of_it() {
    let daemon = Daemon::start(DaemonOptions::with([wanting(&json!([{"name": "key"}]))]).configuration(ALLOW));
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
    rustix::pty::grantpt(&master).expect("it is ours");
    rustix::pty::unlockpt(&master).expect("it is ours");
    let name = rustix::pty::ptsname(&master, Vec::new()).expect("it has a name");
    let slave = || {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).expect("it can be opened")
    };
    let held = slave();
    let echoes = || {
        let modes = rustix::termios::tcgetattr(&held).expect("it is a terminal");
        modes.local_modes.contains(rustix::termios::LocalModes::ECHO)
    };
    assert!(echoes());
    let mut command = command(built("palisade"));
    command.arg("--socket").arg(daemon.socket()).args(["secret", "set", "guest", "key"]).env("NO_COLOR", "1");
    let command = command.stdin(slave()).stdout(slave()).stderr(slave());
    let mut child = command.spawn().expect("it can be executed");
    let mut terminal = fs::File::from(master);
    let mut shown = String::new();
    while !shown.contains("(not shown): ") {
        let mut bytes = [0; 256];
        let read = terminal.read(&mut bytes).expect("it is open");
        shown += &String::from_utf8_lossy(&bytes[..read]);
    }
    assert!(!echoes());
    terminal.write_all(VALUE.as_bytes()).expect("it is open");
    terminal.write_all(b"\n").expect("it is open");
    assert!(child.wait().expect("it ends").success(), "{shown}");
    assert!(echoes(), "as before");
    assert_eq!(get(&daemon, "key"), Ok(json!(VALUE)));
    // Whatever else it shows comes before this.
    rustix::io::write(&held, b"end").expect("it is open");
    while !shown.contains("end") {
        let mut bytes = [0; 256];
        let read = terminal.read(&mut bytes).expect("it is open");
        shown += &String::from_utf8_lossy(&bytes[..read]);
    }
    assert!(shown.starts_with("Secret key of guest (not shown): ") && !shown.contains("hunter2"), "{shown:?}");
    daemon.stop_and_expect_no_orphans();
}
