//! What plugins keep: that it is there afterwards, whatever ended in between, and that nobody has what is another's.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use palisade_protocol::ErrorCode;
use palisade_tests::command::built;
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use palisade_tests::process;
use palisade_tests::steps::Traced;
use palisade_tests::wire::{BOUND, Next};
use serde_json::{Value, json};

use crate::cli::{palisade, palisade_with};
use crate::support::{
    Disk, can_change_the_host, daemon_with, error, expect_echo, expect_text, expect_tried, hostile, in_the_guest,
};

pub(crate) fn put(key: &str, value: &Value) -> Value {
    json!({"op": "state.put", "params": {"key": key, "value": value}})
}

pub(crate) fn get(key: &str) -> Value {
    json!({"op": "state.get", "params": {"key": key}})
}

/// Puts a value of so many bytes.
fn fill(key: &str, bytes: usize) -> Value {
    json!({"op": "state.put", "params": {"key": key}, "fill": bytes})
}

/// What the plugin is answered to these, asked one after the other.
pub(crate) fn ask(daemon: &Daemon, plugin: &str, asks: &[Value]) -> Vec<Value> {
    ask_at_once(daemon, plugin, asks, 1)
}

fn ask_at_once(daemon: &Daemon, plugin: &str, asks: &[Value], at_once: usize) -> Vec<Value> {
    let asks = json!({"asks": asks, "at_once": at_once});
    let answers = daemon.agent().call(plugin, "ask", &asks).expect("it asks");
    answers.as_array().expect("a list").clone()
}

/// After each of these ends it is all there: of the process, of the daemon, and of both by a signal that nobody can take.
#[test]
fn what_was_acknowledged_is_there_afterwards() {
    let daemon = daemon_with(hostile("tame"));
    let value = json!({"words": ["one", "two"], "number": -1.5});
    assert_eq!(
        ask(&daemon, "hostile", &[get("a"), put("a", &value)]),
        [json!({"ok": null}), json!({"ok": {"revision": 1}})]
    );
    daemon.operate("restart", &json!({"plugin": "hostile"})).expect("it can be restarted");
    let there = json!({"ok": {"value": value, "revision": 1}});
    assert_eq!(ask(&daemon, "hostile", &[get("a")])[0], there);
    palisade_tests::daemon::signal(daemon.process_of("hostile"), nix::sys::signal::Signal::SIGKILL);
    daemon.wait_until("hostile", "another process", |now| now.generation > Some(2) && now.is("active"));
    assert_eq!(ask(&daemon, "hostile", &[get("a")])[0], there);
    let puts: Vec<_> = (0..500).map(|number| put(&format!("key-{number}"), &json!(number))).collect();
    let answers = ask_at_once(&daemon, "hostile", &puts, 50);
    assert!(answers.iter().all(|answer| answer["ok"]["revision"].is_u64()), "{answers:?}");
    let folder = daemon.kill_nine();
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    assert_eq!(ask(&daemon, "hostile", &[get("a")]), [there]);
    let gets: Vec<_> = (0..500).map(|number| get(&format!("key-{number}"))).collect();
    for (number, answer) in ask_at_once(&daemon, "hostile", &gets, 50).iter().enumerate() {
        assert_eq!(answer["ok"]["value"], number, "{answer}");
    }
    daemon.stop_and_expect_no_orphans();
}

/// Two plugins have the same keys, and what looks like a way from one to the other is a key like any.
#[test]
fn nobody_reaches_what_is_anothers() {
    let daemon = Daemon::with([Package::echo(), hostile("tame"), Package::hostile("other", "tame")]);
    let keys =
        ["a", "../other/state.sqlite3", "other", "/etc/passwd", "'; DROP TABLE pairs; --", "other\u{2028}a", "%", "_"];
    for (plugin, value) in [("hostile", "mine"), ("other", "theirs")] {
        let puts: Vec<_> = keys.iter().map(|key| put(key, &json!(format!("{value} {key}")))).collect();
        assert!(ask(&daemon, plugin, &puts).iter().all(|answer| answer["ok"].is_object()));
    }
    for (plugin, value) in [("hostile", "mine"), ("other", "theirs")] {
        for key in keys {
            assert_eq!(ask(&daemon, plugin, &[get(key)])[0]["ok"]["value"], format!("{value} {key}"));
        }
        let listed = ask(&daemon, plugin, &[json!({"op": "state.list"})]);
        assert_eq!(listed[0]["ok"]["keys"].as_array().map(Vec::len), Some(keys.len()));
    }
    let folder = daemon.path().join("state/state");
    let mut folders: Vec<_> =
        fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("it is").file_name()).collect();
    folders.sort();
    assert_eq!(folders, ["hostile", "other"]);
    daemon.stop_and_expect_no_orphans();
}

/// One that has all it may have is told so, lives, and can make room; the memory of the daemon stays bounded.
#[test]
fn one_that_keeps_too_much_is_refused() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let answers = ask(&daemon, "hostile", &[fill("0", 524_300), fill("0", 520_000)]);
    assert_eq!(answers[0]["error"]["code"], "invalid_params", "{answers:?}");
    assert!(answers[1]["ok"].is_object(), "{answers:?}");
    let mut refusal = None;
    for number in 0..200 {
        let answer = ask(&daemon, "hostile", &[fill(&format!("more-{number}"), 520_000)]).remove(0);
        if let Some(error) = answer.get("error") {
            refusal = Some((number, error.clone()));
            break;
        }
    }
    let (number, error) = refusal.expect("there is an end to it");
    assert!((100..130).contains(&number), "{number}");
    assert_eq!(
        (&error["code"], &error["details"]["limit"]),
        (&json!("resource_exhausted"), &json!("state")),
        "{error}"
    );
    let answers = ask(
        &daemon,
        "hostile",
        &[json!({"op": "state.delete", "params": {"key": "more-0"}}), put("more", &json!(1)), get("more")],
    );
    assert_eq!(answers[2]["ok"]["value"], 1, "{answers:?}");
    assert!(process::peak_kib(daemon.pid()).expect("it runs") < 256 << 10);
    assert_eq!(daemon.status("hostile").last_failure, None);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// What the disk does not take is refused, and what was there is there; with room again it goes on.
#[test]
fn a_full_disk_is_told_and_costs_nothing_that_was_there() {
    if palisade_tests::daemon::other_user().is_some() || !can_change_the_host("whose disk is full") {
        println!("SKIPPED: only root can mount a small disk");
        return;
    }
    let options = DaemonOptions::with([Package::echo(), hostile("tame")])
        .configuration("disk_reserve_mib = 0\n")
        .small_disk(65_536);
    let daemon = Daemon::start(options);
    assert!(ask(&daemon, "hostile", &[put("a", &json!("kept"))])[0]["ok"].is_object());
    // Somebody else uses up the disk.
    let disk = Disk::of(&daemon);
    disk.leave(0);
    let error = ask(&daemon, "hostile", &[fill("b", 300_000)])[0]["error"].clone();
    assert_eq!((&error["code"], &error["retryable"]), (&json!("dependency_unavailable"), &json!(true)), "{error}");
    expect_text(error["message"].as_str().unwrap_or_default(), "is the disk full");
    assert_eq!(
        ask(&daemon, "hostile", &[get("a"), get("b")]),
        [json!({"ok": {"value": "kept", "revision": 1}}), json!({"ok": null})]
    );
    disk.empty();
    let answers = ask(&daemon, "hostile", &[put("b", &json!("again")), get("b")]);
    assert_eq!(answers[1]["ok"]["value"], "again", "{answers:?}");
    assert_eq!(daemon.status("hostile").last_failure, None);
    daemon.stop_and_expect_no_orphans();
}

/// A damaged file is that plugin's affair: it is told, `status` says so, nothing is deleted, and the others have theirs.
#[test]
fn a_damaged_file_is_told_and_harms_nobody_else() {
    let daemon = Daemon::with([Package::echo(), hostile("tame"), Package::hostile("other", "tame")]);
    for plugin in ["hostile", "other"] {
        ask(&daemon, plugin, &[put("a", &json!("kept"))]);
    }
    let folder = daemon.stop();
    let file = folder.path().join("state/state/hostile/state.sqlite3");
    let mut bytes = fs::read(&file).expect("it is there");
    let whole = bytes.clone();
    bytes[100..].iter_mut().for_each(|byte| *byte = 0xa5);
    fs::write(&file, &bytes).expect("it is ours");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    let answers = ask(&daemon, "hostile", &[get("a"), put("a", &json!(1)), json!({"op": "self"})]);
    for answer in &answers[..2] {
        assert_eq!(answer["error"]["code"], "dependency_unavailable", "{answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        expect_text(message, "state/hostile/state.sqlite3 is damaged");
        expect_text(message, "move it away");
    }
    assert_eq!(answers[2]["ok"]["id"], "hostile", "it lives");
    let status = daemon.operate("status", &json!({"plugin": "hostile"})).expect("it has one");
    expect_text(status["state_trouble"].as_str().unwrap_or_default(), "damaged");
    assert_eq!(fs::read(&file).expect("it is there"), bytes);
    assert_eq!(ask(&daemon, "other", &[get("a")])[0]["ok"]["value"], "kept");
    // An operator puts a copy in its place.
    fs::write(&file, &whole).expect("it is ours");
    assert_eq!(ask(&daemon, "hostile", &[get("a")])[0]["ok"]["value"], "kept");
    let status = daemon.operate("status", &json!({"plugin": "hostile"})).expect("it has one");
    assert_eq!(status.get("state_trouble"), None);
    daemon.stop_and_expect_no_orphans();
}

/// With a key nothing of a value lies readable in the state folder, and a daemon with a key that others may read does not start.
#[test]
fn with_a_key_no_value_lies_readable() {
    let keys = tempfile::tempdir().expect("the temporary folder is writable");
    let key = keys.path().join("state.key");
    palisaded::vault::Vault::generate(&key).expect("the folder is ours");
    if let Some(uid) = palisade_tests::daemon::other_user() {
        println!("SKIPPED: as user {uid} the daemon may not read a key of this user's");
        return;
    }
    let configuration = format!("[state]\nkey_file = {key:?}\n");
    let options = DaemonOptions::with([Package::echo(), hostile("tame")]).configuration(&configuration);
    let daemon = Daemon::start(options);
    let secret = "nobody-is-to-read-this-0123456789";
    ask(&daemon, "hostile", &[put("a", &json!(secret))]);
    assert_eq!(ask(&daemon, "hostile", &[get("a")])[0]["ok"]["value"], secret);
    let kept = daemon.path().join("state/state/hostile");
    for entry in fs::read_dir(&kept).expect("it is there") {
        let bytes = fs::read(entry.expect("it is").path()).expect("it is ours");
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
    let folder = daemon.stop();
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    let error = ask(&daemon, "hostile", &[get("a")])[0]["error"].clone();
    expect_text(error["message"].as_str().unwrap_or_default(), "no key is configured");
    daemon.stop_and_expect_no_orphans();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("it is ours");
    let options = DaemonOptions::with([Package::echo()]).configuration(&configuration);
    let Err(refused) = Daemon::try_start(options) else { panic!("it starts") };
    expect_text(&format!("{refused:?}"), "chmod 600");
}

/// What a plugin asks while it drains is still answered.
#[test]
fn whoever_drains_may_still_write() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let puts: Vec<_> = (0..300).map(|number| put(&format!("{number}"), &json!(number))).collect();
    let call = agent.begin("hostile", "ask", &json!({"asks": puts}));
    daemon.wait_until("hostile", "the call", |now| now.is("active"));
    daemon.operate("restart", &json!({"plugin": "hostile"})).expect("it can be restarted");
    match agent.finish(call) {
        Ok(answers) => {
            assert!(answers.as_array().expect("a list").iter().all(|answer| answer["ok"].is_object()), "{answers}")
        }
        // It does not hear that it is to drain while it asks, and its time for that may be over.
        Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
    }
    daemon.stop_and_expect_no_orphans();
}

/// A version whose state has another form than what is there brings it into its own before it is ready, or does not start.
#[test]
fn a_version_is_started_with_state_of_its_own_form_alone() {
    let of_schema = |schema: Option<u32>, asks: Option<Value>| {
        let package = match asks {
            Some(asks) => {
                hostile("asks-before-ready").environment("HOSTILE_ASKS", &json!({ "asks": asks }).to_string())
            }
            None => hostile("tame"),
        };
        let package = package.with("restart", json!("never"));
        match schema {
            Some(schema) => package.with("state", json!({ "schema_version": schema })),
            None => package,
        }
    };
    let daemon_of = |package: Package, before: Option<tempfile::TempDir>| {
        let options = DaemonOptions::with([package]);
        let daemon = Daemon::start(match before {
            Some(folder) => options.folder(folder),
            None => options,
        });
        expect_tried(&daemon, "hostile");
        daemon
    };
    let refused = |daemon: &Daemon, sentence: &str| {
        let refused = error(daemon.operate("start", &json!({"plugin": "hostile"})), ErrorCode::InitializationFailed);
        expect_text(&refused.message, sentence);
    };
    let passed_over = |daemon: &Daemon, sentence: &str| {
        let status = daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known");
        expect_text(status["passed_over"]["reason"].as_str().expect("the version before serves"), sentence);
    };
    let daemon = daemon_of(of_schema(Some(1), None), None);
    let migrated = json!({"op": "state.migrated", "params": {"schema": 2}});
    let answers = ask(&daemon, "hostile", &[put("a", &json!(1)), migrated.clone()]);
    assert_eq!(answers[1]["error"]["code"], "invalid_params", "no version knows what comes after it: {answers:?}");

    let daemon = daemon_of(of_schema(Some(2), None), Some(daemon.stop()));
    passed_over(&daemon, "its state has schema 1 and has to be brought into schema 2");

    let interrupted = json!([put("a", &json!("half"))]);
    let daemon = daemon_of(of_schema(Some(2), Some(interrupted)), Some(daemon.stop()));
    passed_over(&daemon, "its state has schema 1 and has to be brought into schema 2");

    let daemon = daemon_of(of_schema(Some(2), Some(json!([put("a", &json!("two")), migrated]))), Some(daemon.stop()));
    assert_eq!(ask(&daemon, "hostile", &[get("a")])[0]["ok"]["value"], "two");

    let daemon = daemon_of(of_schema(Some(1), None), Some(daemon.stop()));
    refused(
        &daemon,
        "its state was brought into schema 2 by a later version, and hostile 0.1.0 knows schema 1: no version that knows it is there; install one, or",
    );
    let daemon = daemon_of(of_schema(None, None), Some(daemon.stop()));
    passed_over(&daemon, "schema 2 by a later version, and hostile 0.1.0 knows schema 0");
    // The same as the first that failed would not be tried again.
    let other = of_schema(Some(2), None).with("description", json!("another"));
    let daemon = daemon_of(other, Some(daemon.stop()));
    assert_eq!(ask(&daemon, "hostile", &[get("a")])[0]["ok"]["value"], "two");
    daemon.stop_and_expect_no_orphans();
}

/// A daemon that is killed before any step of writing, each in turn, from the first write of all on: what was acknowledged is there afterwards,
/// whole, and the state can be written again.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_a_write() {
    // Emulated, a daemon takes its time to start.
    let stride = if in_the_guest() { 9 } else { 1 };
    // A put, a transaction that is there as a whole or not at all, and one that changes what was there.
    let writes = [
        put("one", &json!("first")),
        json!({"op": "state.transaction", "params": {"operations": [
            {"op": "check", "key": "one", "expected": 1},
            {"op": "put", "key": "two", "value": 2}, {"op": "put", "key": "three", "value": 3},
        ]}}),
        put("one", &json!("second")),
    ];
    let values = |daemon: &Daemon| -> [Value; 3] {
        let answers = ask(daemon, "hostile", &["one", "two", "three"].map(get));
        assert!(answers.iter().all(|answer| answer.get("error").is_none()), "{answers:?}");
        [0, 1, 2].map(|at| answers[at]["ok"]["value"].clone())
    };
    let after = [
        [Value::Null, Value::Null, Value::Null],
        [json!("first"), Value::Null, Value::Null],
        [json!("first"), json!(2), json!(3)],
        [json!("second"), json!(2), json!(3)],
    ];
    let mut daemon = daemon_with(hostile("tame"));
    let mut killed_after = [0; 4];
    for step in (0..).step_by(stride) {
        expect_echo(&daemon, "hostile");
        let mut agent = daemon.agent();
        let Some(traced) = Traced::unless_skipped(daemon.pid()) else { return };
        let (acknowledged, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let came_so_far = std::thread::scope(|scope| {
            scope.spawn(|| {
                for write in &writes {
                    let id = agent.begin("hostile", "ask", &json!({ "asks": [write] }));
                    loop {
                        match agent.next(BOUND) {
                            Ok(Next::Frame(frame)) if frame.id == id => {
                                assert!(frame.value()[0]["ok"]["revision"].is_u64(), "{}", frame.value());
                                acknowledged.fetch_add(1, Ordering::SeqCst);
                                break;
                            }
                            Ok(Next::Frame(_)) => {}
                            // It was killed.
                            _ => return,
                        }
                    }
                }
                over.store(true, Ordering::SeqCst);
            });
            traced.kill_before(step, || over.load(Ordering::SeqCst))
        });
        let folder = daemon.kill_nine();
        daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        let there = values(&daemon);
        let at = after.iter().position(|values| *values == there);
        // What was written and not acknowledged may be there as well: no more than one, as each waits for the one before.
        let at = at.unwrap_or_else(|| panic!("step {step}: a write in pieces: {there:?}"));
        assert!(
            (acknowledged..=acknowledged + 1).contains(&at),
            "step {step}: {acknowledged} acknowledged, {at} there"
        );
        killed_after[acknowledged] += 1;
        assert!(ask(&daemon, "hostile", &[put("again", &json!(step))])[0]["ok"].is_object(), "step {step}");
        if !came_so_far {
            assert_eq!(acknowledged, writes.len());
            break;
        }
        // The next begins with nothing again.
        let folder = daemon.stop();
        fs::remove_dir_all(folder.path().join("state/state/hostile")).expect("it is ours");
        daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    }
    assert!(stride > 1 || killed_after.iter().all(|times| *times > 0), "{killed_after:?}");
    println!("killed after so many of the writes were acknowledged: {killed_after:?}");
    daemon.stop_and_expect_no_orphans();
}

/// What was exported is imported into another plugin byte for byte, as far as JSON goes; nothing of it is taken in where anything is wrong.
#[test]
fn what_a_plugin_keeps_is_exported_imported_and_forgotten() {
    let daemon =
        Daemon::with([hostile("tame").with("state", json!({"schema_version": 2})), Package::hostile("other", "tame")]);
    let socket = daemon.socket();
    let run = |arguments: &[&str]| palisade(&socket, arguments);
    let value = json!({"words": ["one", null, true], "number": -1.5, "map": {"$base64": "AA=="}});
    let answers = ask(&daemon, "hostile", &[put("a", &value), put("b/1", &json!(1)), put("b/2", &json!("two"))]);
    assert!(answers.iter().all(|answer| answer["ok"].is_object()), "{answers:?}");
    let shown = run(&["state", "show", "hostile", "--prefix", "b/"]);
    assert_eq!((shown.status, shown.stdout.contains("b/2"), shown.stdout.contains(" a ")), (Some(0), true, false));
    expect_text(&shown.stdout, "2 of 3 keys, ");
    expect_text(&shown.stdout, "schema 2");
    let first = |arguments: &[&str]| {
        let shown = run(&[&["state", "show", "hostile"], arguments].concat());
        shown.stdout.split(", ").next().unwrap_or_default().to_owned()
    };
    assert_eq!(first(&["--prefix", "zz"]), "0 of 3 keys");
    assert_eq!(first(&["--after", "b/1"]), "1 of 3 keys");
    assert_eq!(first(&[]), "3 keys");
    assert_eq!(run(&["state", "show", "hostile", "b/2"]).stdout, "\"two\"\n");
    assert_eq!(run(&["state", "show", "hostile", "c"]).status, Some(3));

    let exported = run(&["state", "export", "hostile"]);
    assert_eq!(exported.status, Some(0), "{}", exported.stderr);
    let document: Value = serde_json::from_str(&exported.stdout).expect("it is JSON");
    assert_eq!(
        (&document["palisade_state"], &document["plugin"], &document["schema"]),
        (&json!(1), &json!("hostile"), &json!(2))
    );
    let one_line = run(&["--json", "state", "export", "hostile"]);
    assert_eq!(one_line.stdout.trim_end_matches('\n').lines().count(), 1, "{}", one_line.stdout);
    assert_eq!(serde_json::from_str::<Value>(&one_line.stdout).expect("it is JSON"), document);
    // What looks like bytes and is none stands there whole.
    assert!(document["pairs"][0]["value"]["$msgpack"].is_string(), "{document}");
    assert_eq!((&document["pairs"][1]["key"], &document["pairs"][1]["value"]), (&json!("b/1"), &json!(1)));

    let file = daemon.path().join("export.json");
    let write = |document: &Value| fs::write(&file, document.to_string()).expect("it is ours");
    let import = |plugin: &str| daemon.operate("state_import", &json!({"plugin": plugin, "path": file}));
    let keys = || daemon.operate("state_show", &json!({"plugin": "hostile"})).expect("it is known")["keys"].clone();
    let changed = |path: &str, to: Value| {
        let mut changed = document.clone();
        *changed.pointer_mut(path).expect("it is there") = to;
        changed
    };
    for (wrong, code, why) in [
        (changed("/plugin", json!("somebody")), ErrorCode::InvalidParams, "it is the state of \"somebody\""),
        (changed("/palisade_state", json!(2)), ErrorCode::InvalidParams, "its `palisade_state` is 2"),
        (changed("/schema", json!(3)), ErrorCode::InvalidParams, "keeps schema 2: it would not start"),
        (changed("/schema", json!(1)), ErrorCode::Unavailable, "runs and keeps schema 2"),
        (changed("/pairs/1/key", json!("a\nb")), ErrorCode::InvalidParams, "`pairs[1].key`"),
        (changed("/pairs/1/key", json!("a")), ErrorCode::InvalidParams, "is there before"),
        (
            changed("/pairs/2/value", json!({"$base64": "?"})),
            ErrorCode::InvalidParams,
            "`pairs[2].value`: what stands under `$base64`",
        ),
        (
            changed("/pairs/2/value", json!("x".repeat(600_000))),
            ErrorCode::InvalidParams,
            "`pairs[2].value`: a value has at most",
        ),
        (changed("/pairs/2", json!({"key": "c"})), ErrorCode::InvalidParams, "`pairs[2].value`: it is missing"),
        (
            json!({"palisade_state": 1, "plugin": "hostile", "pairs": [{"key": 1, "value": 1}, {"key": "a"}]}),
            ErrorCode::InvalidParams,
            "`pairs[0].key`: it is missing or no text; `pairs[1].value`: it is missing",
        ),
        (json!([]), ErrorCode::InvalidParams, "is no state as it is exported"),
    ] {
        write(&wrong);
        expect_text(&error(import("hostile"), code).message, why);
        assert_eq!(keys(), 3, "nothing was changed");
    }

    // A form that it cannot have: what leads out of it is named.
    write(&changed("/schema", json!(3)));
    let refused = error(import("hostile"), ErrorCode::InvalidParams);
    expect_text(refused.hint.as_deref().unwrap_or_default(), "`state.schema_version` is 3");
    write(&changed("/schema", json!(1)));
    let refused = error(import("hostile"), ErrorCode::Unavailable);
    expect_text(refused.hint.as_deref().unwrap_or_default(), "`palisade stop hostile` first");
    // What is read from stdin is called so; what is not there is no usage of it.
    fs::write(&file, "{\"palisade_state\": 1,").expect("it is ours");
    let told = run(&["state", "import", "hostile", &file.display().to_string()]);
    assert_eq!(told.status, Some(4), "{}", told.stderr);
    expect_text(&told.stderr, &format!("{} is no state as it is exported: ", file.display()));
    expect_text(&told.stderr, " at line 1 column ");
    let piped = |document: &str| {
        fs::write(&file, document).expect("it is ours");
        let stdin = fs::File::open(&file).expect("it is there");
        palisade_with(&socket, &["state", "import", "hostile", "-"], stdin.into())
    };
    let told = piped("{\"palisade_state\": 1,");
    assert_eq!(told.status, Some(4), "{}", told.stderr);
    expect_text(&told.stderr, "error: stdin is no state as it is exported: ");
    assert!(!told.stderr.contains("palisade-import-"), "{}", told.stderr);
    for name in ["gone.json", "export.json/within"] {
        let missing = run(&["state", "import", "hostile", &daemon.path().join(name).display().to_string()]);
        assert_eq!(missing.status, Some(2), "{}", missing.stderr);
        expect_text(&missing.stderr, &format!("{name} cannot be read: "));
    }
    assert_eq!(keys(), 3, "nothing was changed");

    // What runs finds another state between two of its operations, and what it expected of before is refused.
    let first = ask(&daemon, "hostile", &[get("b/1")])[0]["ok"]["revision"].clone();
    let mut other = changed("/pairs/1/value", json!(11));
    other["pairs"].as_array_mut().expect("a list").pop();
    write(&other);
    assert_eq!(import("hostile").expect("it is sound"), json!({"id": "hostile", "before": 3, "keys": 2}));
    let late = json!({"op": "state.compare_and_set", "params": {"key": "b/1", "expected": first, "value": 0}});
    let answers = ask(&daemon, "hostile", &[get("a"), get("b/1"), get("b/2"), late]);
    assert_eq!(
        (&answers[0]["ok"]["value"], &answers[1]["ok"]["value"], &answers[2]["ok"]),
        (&value, &json!(11), &Value::Null)
    );
    assert_eq!(answers[3]["error"]["code"], "execution_failed", "{answers:?}");
    let mut others = changed("/plugin", json!("other"));
    write(&others);
    // It knows no form.
    expect_text(&error(import("other"), ErrorCode::InvalidParams).message, "keeps schema 0");
    others.as_object_mut().expect("a map").remove("schema");
    write(&others);
    let imported = run(&["state", "import", "other", &file.display().to_string()]);
    assert_eq!(
        (imported.status, imported.stdout.as_str()),
        (Some(0), "other keeps 3 keys now, after 0\n"),
        "{}",
        imported.stderr
    );
    assert_eq!(ask(&daemon, "other", &[get("a")])[0]["ok"]["value"], value);
    let piped =
        palisade_with(&socket, &["state", "import", "other", "-"], fs::File::open(&file).expect("it is there").into());
    assert_eq!(
        (piped.status, piped.stdout.as_str()),
        (Some(0), "other keeps 3 keys now, after 3\n"),
        "{}",
        piped.stderr
    );

    let refused = run(&["state", "reset", "hostile"]);
    assert_eq!(refused.status, Some(2), "{}", refused.stdout);
    expect_text(&refused.stderr, "hostile would lose 2 keys");
    let folder = daemon.kill_nine();
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    let socket = daemon.socket();
    assert_eq!(ask(&daemon, "other", &[get("b/2")])[0]["ok"]["value"], "two", "it is on the disk");
    let reset = palisade(&socket, &["state", "reset", "hostile", "--yes"]);
    assert_eq!((reset.status, reset.stdout + &reset.stderr), (Some(0), String::new()));
    let left = daemon.operate("state_show", &json!({"plugin": "hostile"})).expect("it is known");
    assert_eq!((&left["keys"], left.get("schema")), (&json!(0), None), "{left}");
    assert_eq!(ask(&daemon, "hostile", &[get("a")])[0]["ok"], Value::Null);
    daemon.stop_and_expect_no_orphans();
}

/// The second version of the counter goes on where the first was; the first is not started with what the second keeps.
#[test]
fn the_next_version_brings_over_what_the_one_before_has_kept() {
    let counter = |version: &str, program: &str, schema: u32| {
        Package::new("counter", Entry::File(built(program)))
            .with("version", json!(version))
            .with("state", json!({"schema_version": schema}))
    };
    let daemon = Daemon::with([]);
    let install = |package: &Package| {
        let folder = package.write(&daemon.path().join("elsewhere"), daemon.marker());
        daemon.operate("install", &json!({ "path": folder, "major": true })).expect("it is installed");
    };
    install(&counter("1.0.0", "counter-1", 1));
    let add = |params: &Value| daemon.agent().call("counter", "add", params);
    assert_eq!(add(&json!({"by": 41})), Ok(json!(41)));
    assert_eq!(add(&json!({})), Ok(json!(42)));
    daemon.operate("stop", &json!({"plugin": "counter"})).expect("it runs");
    install(&counter("2.0.0", "counter", 2));
    // Its actions are others.
    error(add(&json!({})), ErrorCode::ConsentRequired);
    daemon.operate("grant", &json!({"plugin": "counter"})).expect("it can be agreed to");
    assert_eq!(daemon.agent().call("counter", "counts", &json!(null)), Ok(json!([{"name": "all", "count": 42}])));
    assert_eq!(add(&json!({"name": "pears", "by": 2})), Ok(json!(2)));
    assert_eq!(add(&json!({})), Ok(json!(43)));
    let shown = daemon.operate("state_show", &json!({"plugin": "counter"})).expect("it is known");
    assert_eq!((&shown["schema"], &shown["keys"]), (&json!(2), &json!(2)), "{shown}");
    daemon.operate("disable", &json!({"plugin": "counter", "version": "=2.0.0"})).expect("it is there");
    // It was stopped by its operator.
    let first = json!({"plugin": "counter", "version": "=1.0.0"});
    let refused = error(daemon.operate("start", &first), ErrorCode::InitializationFailed);
    assert!(refused.message.contains("schema 2") && refused.message.contains("schema 1"), "{}", refused.message);
    daemon.stop_and_expect_no_orphans();
}
