//! Packages that come and go while the daemon runs, and what is left of them for the next daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::steps::Traced;
use palisade_tests::wire::{BOUND, Next};
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text, in_the_guest};

/// A package that lies where no plugin directory is.
fn elsewhere(daemon: &Daemon, package: &Package) -> PathBuf {
    package.write(&daemon.path().join("elsewhere"), daemon.marker())
}

fn install(daemon: &Daemon, folder: &std::path::Path) -> Result<Value, ErrorBody> {
    daemon.operate("install", &json!({ "path": folder, "major": true }))
}

fn guest(version: &str) -> Package {
    Package::hostile("guest", "tame").with("version", json!(version)).environment("HOSTILE_VERSION", version)
}

/// The plugins that the daemon lists, as `id version enabled`.
fn listed(daemon: &Daemon) -> Vec<String> {
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    let plugins = list["plugins"].as_array().expect("a list").iter();
    let text = |plugin: &Value, field: &str| plugin[field].as_str().unwrap_or_default().to_owned();
    plugins.map(|one| format!("{} {} {}", text(one, "id"), text(one, "version"), one["enabled"])).collect()
}

fn restarted(daemon: Daemon) -> Daemon {
    Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()))
}

/// Neither its folder nor a daemon that goes on is needed for what is installed.
#[test]
fn what_is_installed_outlives_its_folder_and_the_daemon() {
    let daemon = Daemon::with([Package::echo()]);
    let folder = elsewhere(&daemon, &guest("1.0.0"));
    let installed = install(&daemon, &folder).expect("it is installed");
    assert_eq!((&installed["id"], &installed["was_there"]), (&json!("guest"), &json!(false)));
    fs::remove_dir_all(&folder).expect("it is ours");
    expect_echo(&daemon, "guest");
    let info = daemon.operate("info", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!(info["snapshot"]["digest"], installed["digest"]);

    let daemon = restarted(daemon);
    assert_eq!(listed(&daemon), ["echo 0.1.0 true", "guest 1.0.0 true"]);
    daemon.agent().call("guest", "data-held", &json!(1)).expect("it writes");
    let removed = daemon.operate("uninstall", &json!({"plugin": "guest"})).expect("it was installed");
    assert!(removed["data"].as_str().is_some_and(|data| data.ends_with("/data/guest")), "{removed}");
    error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::PluginNotFound);
    let daemon = restarted(daemon);
    assert_eq!(listed(&daemon), ["echo 0.1.0 true"]);
    daemon.stop_and_expect_no_orphans();
}

/// Who asks for it need not wait for it.
#[test]
fn an_installation_goes_on_without_whoever_asked_for_it() {
    let daemon = Daemon::with([Package::echo()]);
    // It is copied when it is first used.
    expect_echo(&daemon, "echo");
    let folder = elsewhere(&daemon, &guest("1.0.0"));
    let mut agent = daemon.agent();
    agent.begin("palisade", "install", &json!({ "path": folder }));
    let traces = |path: &str| fs::read_dir(daemon.path().join("state/store").join(path)).map_or(0, Iterator::count);
    wait_for("a trace of it", || (1 < traces("staging") + traces("snapshots")).then_some(()));
    drop(agent);
    wait_for("the installed version", || (listed(&daemon).len() == 2).then_some(()));
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// What is disabled takes no calls, now and later, and the others go on.
#[test]
fn what_is_disabled_stays_so() {
    let daemon = Daemon::with([Package::echo()]);
    for version in ["1.0.0", "1.1.0"] {
        install(&daemon, &elsewhere(&daemon, &guest(version))).expect("it is installed");
    }
    expect_echo(&daemon, "guest");
    let several = error(daemon.operate("disable", &json!({"plugin": "guest"})), ErrorCode::InvalidParams);
    expect_text(&several.message, "there are several versions of guest: 1.0.0, 1.1.0");
    let newer = json!({"plugin": "guest", "version": "=1.1.0"});
    let status = daemon.operate("disable", &newer).expect("it is there");
    assert_eq!((&status["enabled"], &status["version"]), (&json!(false), &json!("1.1.0")));
    let status = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!(status["version"], "1.0.0", "an enabled one goes before");
    expect_echo(&daemon, "guest");

    let daemon = restarted(daemon);
    assert_eq!(listed(&daemon), ["echo 0.1.0 true", "guest 1.0.0 true", "guest 1.1.0 false"]);
    for operation in ["start", "restart", "describe"] {
        let refused = error(daemon.operate(operation, &newer), ErrorCode::Unavailable);
        assert!(!refused.retryable, "{operation}");
        assert_eq!(refused.message, "guest 1.1.0 is disabled", "{operation}");
    }
    daemon.operate("disable", &json!({"plugin": "echo"})).expect("what lies in a folder can be disabled as well");
    let refused = error(daemon.agent().call("echo", "echo", &json!(1)), ErrorCode::Unavailable);
    expect_text(&refused.hint.unwrap_or_default(), "`palisade enable echo@0.1.0`");
    daemon.operate("enable", &json!({"plugin": "echo"})).expect("it is there");
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

/// A manifest may want to be enabled by hand, which is then remembered.
#[test]
fn what_is_not_enabled_by_default_waits_for_its_operator() {
    let daemon = Daemon::with([Package::echo()]);
    let shy = guest("1.0.0").with("default_enabled", json!(false));
    install(&daemon, &elsewhere(&daemon, &shy)).expect("it is installed");
    error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::Unavailable);
    let daemon = restarted(daemon);
    assert_eq!(listed(&daemon), ["echo 0.1.0 true", "guest 1.0.0 false"]);
    daemon.operate("enable", &json!({"plugin": "guest"})).expect("it is there");
    let daemon = restarted(daemon);
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// Everything that is wrong is said, and nothing is changed by it.
#[test]
fn a_package_that_cannot_be_installed_changes_nothing() {
    let daemon = Daemon::with([Package::echo()]);
    install(&daemon, &elsewhere(&daemon, &guest("1.0.0"))).expect("it is installed");
    let before = listed(&daemon);
    let kept = || {
        let records = fs::read_dir(daemon.path().join("state/installed")).expect("it is there");
        records.map(|record| record.expect("it can be read").file_name()).collect::<Vec<_>>()
    };
    let records = kept();
    let refused = |folder: &std::path::Path, code, words: &str| {
        let refused = error(install(&daemon, folder), code);
        expect_text(&refused.message, words);
        assert_eq!((listed(&daemon), kept()), (before.clone(), records.clone()), "{words}");
    };
    let nowhere = daemon.path().join("nowhere");
    refused(&nowhere, ErrorCode::InvalidParams, "nowhere cannot be read: No such file");
    refused("relative".as_ref(), ErrorCode::InvalidParams, "relative is no absolute path");
    let odd = elsewhere(&daemon, &guest("not a version").with("entry_point", json!("/bin/sh")));
    refused(&odd, ErrorCode::ConfigurationInvalid, "version");
    refused(&odd, ErrorCode::ConfigurationInvalid, "plugin.json has 2 mistakes: in version, entry_point");
    let refusal = error(install(&daemon, &odd), ErrorCode::ConfigurationInvalid);
    let mistakes = refusal.details.expect("they are a list")["mistakes"].clone();
    let mistakes: Vec<String> = serde_json::from_value(mistakes).expect("they are texts");
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(mistakes[0].starts_with("`version` is ") && mistakes[1].starts_with("`entry_point` is "), "{mistakes:?}");
    let later = elsewhere(&daemon, &guest("3.0.0").with("dependencies", json!({"host": ">=99"})));
    refused(&later, ErrorCode::ConfigurationInvalid, "dependencies.host wants palisaded >=99, and this is 0.1.0");
    let other = elsewhere(&daemon, &guest("1.0.0").with("description", json!("something else")));
    let there = format!(
        "guest 1.0.0 is there already, from {}, with",
        fs::canonicalize(&other).expect("it is there").display()
    );
    refused(&other, ErrorCode::InvalidParams, &there);
    let linked = elsewhere(&daemon, &guest("2.0.0"));
    std::os::unix::fs::symlink("/etc/passwd", linked.join("link")).expect("the folder is ours");
    refused(&linked, ErrorCode::ConfigurationInvalid, "link is a symbolic link");
    // What lies in a plugin directory is not uninstalled, but taken out of there.
    let refused = error(daemon.operate("uninstall", &json!({"plugin": "echo"})), ErrorCode::InvalidParams);
    expect_text(&refused.message, "echo 0.1.0 was not installed: it lies in ");
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// Who needs it is named, unless it is to go all the same.
#[test]
fn what_others_need_is_not_removed_unasked() {
    let daemon = Daemon::with([Package::echo()]);
    for version in ["1.0.0", "1.4.0", "2.0.0"] {
        install(&daemon, &elsewhere(&daemon, &guest(version))).expect("it is installed");
    }
    let needing = |version: &str| {
        let dependencies = json!({"plugins": [{"id": "guest", "version": version}]});
        elsewhere(&daemon, &Package::hostile("needs", "tame").with("dependencies", dependencies))
    };
    let refused = error(install(&daemon, &needing("^3.0")), ErrorCode::DependencyUnavailable);
    let why = "needs =0.1.0 is wanted; needs 0.1.0 needs guest ^3.0; of guest there is 1.0.0, 1.4.0, 2.0.0";
    assert_eq!(refused.message, format!("needs 0.1.0 cannot be had with what is here: {why}"));
    install(&daemon, &needing("^1.0")).expect("it is installed");
    let uninstall = |version: &str, force: bool| {
        daemon.operate("uninstall", &json!({"plugin": "guest", "version": version, "force": force}))
    };
    // Another version does as well.
    uninstall("=1.0.0", false).expect("there is 1.4.0");
    let refused = error(uninstall("=1.4.0", false), ErrorCode::InvalidParams);
    assert_eq!(refused.message, "needs 0.1.0 depends on guest 1.4.0");
    uninstall("=2.0.0", false).expect("nobody needs it");
    let removed = uninstall("=1.4.0", true).expect("it is to go all the same");
    assert_eq!(removed["broken"], json!(["needs 0.1.0"]));
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers").to_string();
    let lacks = "needs 0.1.0 lacks what it depends on: ";
    expect_text(&doctor, &format!("{lacks}needs =0.1.0 is wanted; needs 0.1.0 needs guest ^1.0; there is no guest"));
    daemon.stop_and_expect_no_orphans();
}

/// What the store has of it is hashed again by the next daemon, before anything of it runs.
#[test]
fn a_snapshot_that_was_changed_is_not_run() {
    let daemon = Daemon::with([Package::echo()]);
    let installed = install(&daemon, &elsewhere(&daemon, &guest("1.0.0"))).expect("it is installed");
    let digest = installed["digest"].as_str().expect("a digest").to_owned();
    let folder = daemon.kill_nine();
    let entry = folder.path().join("state/store/snapshots").join(digest).join("main");
    let mode = |mode| fs::set_permissions(&entry, fs::Permissions::from_mode(mode)).expect("it is ours");
    mode(0o755);
    fs::write(&entry, "#!/bin/sh\necho worse\n").expect("it is ours");
    mode(0o555);
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    assert_eq!(listed(&daemon), ["echo 0.1.0 true"]);
    let rejected = || {
        let list = daemon.operate("list", &json!({})).expect("there is a list");
        let reasons = list["rejected"].as_array().expect("a list").iter();
        reasons.map(|one| one["reason"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let [reason] = &rejected()[..] else { panic!("{:?}", rejected()) };
    expect_text(
        reason,
        &format!("{} in the store is not what it was when it was made; install it again", entry.display()),
    );
    for refused in [
        daemon.agent().call("guest", "echo", &json!(1)),
        daemon.operate("status", &json!({"plugin": "guest"})),
        daemon.operate("info", &json!({"plugin": "guest"})),
        daemon.operate("uninstall", &json!({"plugin": "guest"})),
    ] {
        let refused = error(refused, ErrorCode::IntegrityFailed);
        expect_text(&refused.message, "guest 1.0.0 is installed and cannot be used: ");
        expect_text(&refused.message, reason);
        expect_text(refused.hint.as_deref().unwrap_or_default(), "`palisade uninstall guest@=1.0.0` forgets it");
    }
    expect_echo(&daemon, "echo");
    // Which mends it, and nobody speaks of it any more.
    install(&daemon, &elsewhere(&daemon, &guest("1.0.0"))).expect("it is installed");
    expect_echo(&daemon, "guest");
    assert_eq!(rejected(), [""; 0]);
    daemon.stop_and_expect_no_orphans();
}

/// A version whose snapshot is gone is told of, and can be forgotten; others of its plugin are as they were.
#[test]
fn a_version_whose_snapshot_is_gone_can_be_removed() {
    let daemon = Daemon::with([]);
    let mut digests = Vec::new();
    for version in ["1.0.0", "1.1.0"] {
        let installed = install(&daemon, &elsewhere(&daemon, &guest(version))).expect("it is installed");
        digests.push(installed["digest"].as_str().expect("a digest").to_owned());
    }
    let snapshots = daemon.path().join("state/store/snapshots");
    let folder = daemon.stop();
    fs::rename(snapshots.join(&digests[0]), folder.path().join("taken")).expect("it is ours");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    assert_eq!(listed(&daemon), ["guest 1.1.0 true"]);
    expect_echo(&daemon, "guest");
    let exactly = json!({"plugin": "guest", "version": "=1.0.0"});
    let refused = error(daemon.operate("info", &exactly), ErrorCode::IntegrityFailed);
    expect_text(&refused.message, &digests[0]);
    let removed = daemon.operate("uninstall", &json!({"plugin": "guest", "version": "=1.0.0", "purge": true}));
    assert_eq!(removed.expect("it can be")["purged"], json!(false), "what the other version has stays");
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    assert_eq!(list["rejected"], json!([]));
    error(daemon.operate("info", &exactly), ErrorCode::VersionNotFound);
    let daemon = restarted(daemon);
    assert_eq!(daemon.operate("list", &json!({})).expect("there is a list")["rejected"], json!([]));
    daemon.stop_and_expect_no_orphans();
}

/// What is installed goes on where it can only not be looked at, and so do packages in plugin directories.
#[test]
fn what_cannot_be_looked_at_goes_on() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration("watch = false\n"));
    install(&daemon, &elsewhere(&daemon, &guest("1.0.0"))).expect("it is installed");
    expect_echo(&daemon, "guest");
    expect_echo(&daemon, "echo");
    let processes = ["guest", "echo"].map(|plugin| daemon.process_of(plugin));
    let state = daemon.path().join("state");
    let rescan = || daemon.operate("rescan", &json!({})).expect("it looks");
    let nothing = |found: &Value| {
        assert_eq!(
            (&found["added"], &found["changed"], &found["removed"]),
            (&json!([]), &json!([]), &json!([])),
            "{found}"
        );
        assert_eq!(["guest", "echo"].map(|plugin| daemon.process_of(plugin)), processes);
        found["rejected"].as_array().expect("a list").len()
    };
    assert_eq!(nothing(&rescan()), 0);
    // Root reads what nobody may.
    if palisade_tests::daemon::other_user().is_some() || !palisade_tests::daemon::runs_as_root() {
        for (path, mode) in [
            (state.join("installed"), 0o700),
            (state.join("installed/guest@1.0.0.json"), 0o600),
            (state.join("store/snapshots"), 0o700),
            (daemon.plugins().join("echo"), 0o755),
            (daemon.plugins().join("echo/plugin.json"), 0o644),
        ] {
            let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            set(0o000);
            let found = rescan();
            set(mode);
            nothing(&found);
        }
    } else {
        println!("SKIPPED: what may not be read: root may");
    }
    assert_eq!(nothing(&rescan()), 0);
    // What is gone is gone.
    fs::remove_file(state.join("installed/guest@1.0.0.json")).expect("it is ours");
    assert_eq!(rescan()["removed"], json!(["guest 1.0.0"]));
    daemon.stop_and_expect_no_orphans();
}

/// Whatever becomes of the database, packages and running plugins stay.
#[test]
fn without_its_database_the_daemon_has_its_packages() {
    let daemon = Daemon::with([Package::echo()]);
    install(&daemon, &elsewhere(&daemon, &guest("1.0.0"))).expect("it is installed");
    let folder = daemon.kill_nine();
    let database = folder.path().join("state/registry.sqlite3");
    fs::write(&database, "this is no database, and never was one").expect("it is ours");
    let _ = fs::remove_file(folder.path().join("state/registry.sqlite3-wal"));
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    assert_eq!(listed(&daemon), ["echo 0.1.0 true", "guest 1.0.0 true"]);
    expect_echo(&daemon, "guest");
    expect_text(&daemon.log(), "the registry's database was damaged and is begun anew");
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers").to_string();
    expect_text(&doctor, "and begun anew; the old one is ");
    let aside = daemon.path().join("state/registry.sqlite3.damaged-1");
    assert_eq!(fs::read_to_string(aside).expect("it is kept"), "this is no database, and never was one");
    daemon.operate("disable", &json!({"plugin": "guest"})).expect("it is noted in the new one");
    let daemon = restarted(daemon);
    assert_eq!(listed(&daemon), ["echo 0.1.0 true", "guest 1.0.0 false"]);
    // It is told until somebody has seen to it.
    let database = || {
        let doctor = daemon.operate("doctor", &json!({})).expect("it answers");
        let checks = doctor["checks"].as_array().expect("a list").iter();
        checks.filter(|check| check["name"] == "database").map(|check| check["summary"].clone()).collect::<Vec<_>>()
    };
    expect_text(database()[0].as_str().unwrap_or_default(), "an earlier one was damaged and is ");
    fs::remove_file(daemon.path().join("state/registry.sqlite3.damaged-1")).expect("it is ours");
    assert_eq!(database(), ["what is changed is remembered"]);
    daemon.stop_and_expect_no_orphans();
}

/// What operators said holds also where the database can be read and not written: here it is a later daemon's.
#[test]
fn a_database_that_is_only_read_holds() {
    let ask = "watch = false\n[permissions]\n";
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ask));
    install(&daemon, &elsewhere(&daemon, &guest("1.0.0").asking(&json!(["execute_code"])))).expect("it is installed");
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it can be");
    daemon.operate("disable", &json!({"plugin": "echo"})).expect("it can be");
    let folder = daemon.stop();
    let database = folder.path().join("state/registry.sqlite3");
    let mut bytes = fs::read(&database).expect("it is ours");
    // Where SQLite has the number of the form.
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&database, &bytes).expect("it is ours");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(ask));
    assert_eq!(listed(&daemon), ["echo 0.1.0 false", "guest 1.0.0 true"]);
    expect_echo(&daemon, "guest");
    error(daemon.agent().call("echo", "echo", &json!(1)), ErrorCode::Unavailable);
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers").to_string();
    expect_text(&doctor, "what was said before holds");
    let folder = daemon.stop();
    assert_eq!(fs::read(folder.path().join("state/registry.sqlite3")).expect("it is ours"), bytes);
}

/// A daemon that is killed before any step of an installation, each in turn, has the version whole or nothing of it, and can install it
/// afterwards. The other package is as it was.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_an_installation() {
    // Emulated, a daemon takes its time to start.
    let stride = if in_the_guest() { 9 } else { 1 };
    let mut daemon = Daemon::with([Package::echo()]);
    // It is copied when it is first used.
    expect_echo(&daemon, "echo");
    let (mut before, mut after) = (0, 0);
    for step in (0..).step_by(stride) {
        // Its contents are others each time, so that nothing of it is in the store.
        let script = format!("#!/bin/sh\n# {step}\nexit 3\n").into_bytes();
        let package = Package::new("guest", Entry::Bytes(script)).with("restart", json!("never"));
        let folder = elsewhere(&daemon, &package);
        let mut agent = daemon.agent();
        let Some(traced) = Traced::unless_skipped(daemon.pid()) else { return };
        let over = AtomicBool::new(false);
        let came_so_far = std::thread::scope(|scope| {
            scope.spawn(|| {
                let id = agent.begin("palisade", "install", &json!({ "path": folder }));
                while let Ok(Next::Frame(frame)) = agent.next(BOUND) {
                    if frame.id == id {
                        over.store(true, Ordering::SeqCst);
                    }
                }
            });
            traced.kill_before(step, || over.load(Ordering::SeqCst))
        });
        daemon = restarted(daemon);
        let list = daemon.operate("list", &json!({})).expect("there is a list");
        assert_eq!(list["rejected"], json!([]), "step {step}: nothing is left half done");
        let names = |folder: &str| {
            let entries = fs::read_dir(daemon.path().join("state").join(folder)).expect("it is there");
            entries.map(|entry| entry.expect("it is there").file_name().display().to_string()).collect::<Vec<_>>()
        };
        // What is superfluous goes by way of it, in its own time.
        wait_for("nothing that is half copied", || names("store/staging").is_empty().then_some(()));
        let (there, records) = (listed(&daemon), names("installed"));
        if there.len() == 1 {
            assert_eq!(records, [""; 0], "step {step}");
            before += 1;
            let installed = install(&daemon, &folder).expect("it can be installed");
            assert_eq!(installed["was_there"], false);
        } else {
            assert_eq!(there, ["echo 0.1.0 true", "guest 0.1.0 true"], "step {step}");
            after += 1;
        }
        assert_eq!(names("installed"), ["guest@0.1.0.json"], "step {step}");
        let ran =
            daemon.agent().call("guest", "echo", &json!(1)).expect_err("it exits with 3, which shows that it ran");
        expect_text(&ran.message, "exited with code 3");
        expect_echo(&daemon, "echo");
        daemon.operate("uninstall", &json!({"plugin": "guest", "purge": true})).expect("it is installed");
        if !came_so_far {
            break;
        }
    }
    println!("of {} steps, {before} were before it was installed", before + after);
    assert!(in_the_guest() || (10 < before && 2 < after), "{before} {after}");
    daemon.stop_and_expect_no_orphans();
}

/// Whoever reads, parses, hashes or verifies on the thread of all calls holds up all of them. So that thread names no file of a package, none
/// of what is written down of it, and none of the database, whatever an operator does.
#[test]
fn the_thread_of_all_calls_touches_no_package() {
    let daemon = Daemon::with([Package::echo()]);
    let asking = |version: &str| {
        let ask = json!([{ "permission": "file_read", "scope": ["/srv"] }]);
        guest(version).with("permissions_required", ask).with("actions", json!([{ "name": "echo" }]))
    };
    let first = daemon.path().join("first");
    fs::rename(elsewhere(&daemon, &asking("1.0.0")), &first).expect("it is ours");
    let second = elsewhere(&daemon, &asking("1.1.0"));
    let state = daemon.path().join("state");
    let steps = [
        ("install", json!({ "path": first })),
        ("grant", json!({ "plugin": "guest" })),
        ("disable", json!({ "plugin": "guest" })),
        ("enable", json!({ "plugin": "guest" })),
        // What is stopped is not tried: starting one is another matter.
        ("stop", json!({ "plugin": "guest" })),
        ("update", json!({ "plugin": "guest", "path": second })),
        ("revoke", json!({ "plugin": "guest" })),
        ("deprecate", json!({ "plugin": "guest", "version": "=1.0.0", "reason": "it is old" })),
        ("disable", json!({ "plugin": "echo" })),
        ("enable", json!({ "plugin": "echo" })),
        ("rescan", json!({})),
        ("uninstall", json!({ "plugin": "guest", "version": "=1.1.0" })),
        ("uninstall", json!({ "plugin": "guest", "purge": true })),
    ];
    let mut agent = daemon.agent();
    let Some(traced) = Traced::unless_skipped(daemon.pid()) else { return };
    let over = AtomicBool::new(false);
    let named = std::thread::scope(|scope| {
        let operator = scope.spawn(|| {
            let mut refused = Vec::new();
            for (operation, parameters) in &steps {
                if let Err(error) = agent.call("palisade", operation, parameters) {
                    refused.push(format!("{operation} {parameters}: {}", error.message));
                }
            }
            over.store(true, Ordering::SeqCst);
            refused
        });
        let named = traced.named_by_first(|| over.load(Ordering::SeqCst));
        assert_eq!(operator.join().expect("it does not panic"), [""; 0]);
        named
    });
    let of_packages: Vec<_> = named
        .iter()
        .filter(|path| path.starts_with(&state) || path.starts_with(daemon.plugins()) || path.ends_with("plugin.json"))
        .collect();
    assert_eq!(of_packages, [""; 0], "of {} that it names", named.len());
    daemon.kill_nine();
}

/// A whole version means just that one, and what can never run is not installed.
#[test]
fn what_is_said_of_one_version_comes_to_no_other() {
    let daemon = Daemon::with([Package::echo()]);
    for version in ["1.0.0", "1.1.0"] {
        install(&daemon, &elsewhere(&daemon, &guest(version))).expect("it is installed");
    }
    let of = |version: &str| json!({"plugin": "guest", "version": version});
    let status = daemon.operate("disable", &of("1.0.0")).expect("it is there");
    assert_eq!(status["version"], "1.0.0");
    assert_eq!(listed(&daemon)[1..], ["guest 1.0.0 false", "guest 1.1.0 true"]);
    let refused = error(daemon.operate("uninstall", &of("1.0.5")), ErrorCode::VersionNotFound);
    assert_eq!(refused.message, "there is no version 1.0.5 of guest");
    assert_eq!(refused.hint.as_deref(), Some("there is 1.0.0, 1.1.0"));
    error(daemon.operate("restart", &of("1.0.0")), ErrorCode::Unavailable);
    daemon.operate("uninstall", &of("1.0.0")).expect("it is there");
    assert_eq!(listed(&daemon)[1..], ["guest 1.1.0 true"]);

    let missing = guest("2.0.0").with("entry_point", json!("bin/nothing"));
    let refused = error(install(&daemon, &elsewhere(&daemon, &missing)), ErrorCode::ConfigurationInvalid);
    expect_text(&refused.message, "the entry point bin/nothing is not in the package");
    let refused =
        error(install(&daemon, &elsewhere(&daemon, &guest("2.0.0").mode(0o644))), ErrorCode::ConfigurationInvalid);
    expect_text(&refused.message, "chmod +x");
    assert_eq!(listed(&daemon)[1..], ["guest 1.1.0 true"]);
    daemon.stop_and_expect_no_orphans();
}

/// Has what installed packages ask for be asked about.
const ASKING: &str = "[permissions]\npolicy = \"deny\"\nrules = [{ permission = \"file_read\", scope = [\"/srv\"], decision = \"ask\" }]\n";

fn asking(version: &str) -> Package {
    guest(version).asking(&json!([{"file_read": ["/srv"]}]))
}

/// The versions of a plugin whose use is known.
fn counted(daemon: &Daemon) -> Vec<String> {
    let usage = daemon.operate("stats", &json!({})).expect("it is known");
    let all = usage["plugins"].as_array().expect("a list").iter().filter(|one| one["id"] == "guest");
    all.map(|one| one["version"].as_str().unwrap_or_default().to_owned()).collect()
}

/// What earlier versions left goes with the last one: their archives, copies and counts, and what was granted.
#[test]
fn what_is_purged_leaves_nothing_of_earlier_versions() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASKING));
    let state = daemon.path().join("state");
    let mut copies = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let installed = install(&daemon, &elsewhere(&daemon, &asking(version))).expect("it is installed");
        copies.push(state.join("store/snapshots").join(installed["digest"].as_str().expect("a digest")));
        assert_eq!(installed["awaits_consent"], json!(version == "1.0.0"), "the second asks for no more");
        daemon.operate("grant", &json!({"plugin": "guest"})).expect("it asks, or did");
        let call = daemon.agent().call("guest", "data-held", &json!(1));
        call.expect("it writes, which is counted and not written down yet");
        let removal = json!({"plugin": "guest", "version": format!("={version}"), "purge": version == "2.0.0"});
        let removed = daemon.operate("uninstall", &removal).expect("it is installed");
        if version == "1.0.0" {
            assert!(state.join("archive/guest-1.0.0.tar.zst").exists());
            assert_eq!((counted(&daemon), &removed["gone"]), (vec!["1.0.0".to_owned()], &json!([])));
            continue;
        }
        assert_eq!((&removed["purged"], &removed["archive"]), (&json!(true), &Value::Null));
        let gone = json!([
            format!("its data in {}", state.join("data/guest").display()),
            "the archives of 1.0.0",
            "the numbers of its processes",
            "how it was used",
            "which definitions of its actions were agreed to",
            "what it was granted and refused",
        ]);
        assert_eq!(removed["gone"], gone);
    }
    let left = fs::read_dir(state.join("archive")).expect("it is there").count();
    assert_eq!((left, counted(&daemon)), (0, vec![]));
    error(daemon.operate("stats", &json!({"plugin": "guest"})), ErrorCode::PluginNotFound);
    wait_for("its copies to go", || copies.iter().all(|copy| !copy.exists()).then_some(()));
    let installed = install(&daemon, &elsewhere(&daemon, &asking("1.0.0"))).expect("it is installed");
    assert_eq!(installed["awaits_consent"], json!(true), "it is asked about anew");
    daemon.stop_and_expect_no_orphans();
}

/// What is left of a plugin of which no version is there is named, and can be removed; nothing is done to one that left nothing.
#[test]
fn what_is_left_of_a_plugin_can_be_removed_later() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASKING));
    let state = daemon.path().join("state");
    install(&daemon, &elsewhere(&daemon, &asking("1.0.0"))).expect("it is installed");
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it asks");
    daemon.agent().call("guest", "data-held", &json!(1)).expect("it writes");
    daemon.operate("deprecate", &json!({"plugin": "guest"})).expect("it is there");
    daemon.operate("uninstall", &json!({"plugin": "guest"})).expect("it is installed");
    let uninstall = |parameters: &Value| daemon.operate("uninstall", parameters);
    let named = json!({"plugin": "guest", "version": "=1.0.0", "purge": true});
    for kept in [json!({"plugin": "guest"}), named] {
        let refused = error(uninstall(&kept), ErrorCode::PluginNotFound);
        let data = state.join("data/guest");
        expect_text(&refused.message, &format!("of it there is left: its data in {}, the archives", data.display()));
        assert_eq!(refused.hint.as_deref(), Some("`palisade uninstall --purge guest` removes all of that"), "{kept}");
        assert!(data.is_dir() && state.join("archive/guest-1.0.0.tar.zst").exists());
    }
    let purge = json!({"plugin": "guest", "purge": true});
    let removed = uninstall(&purge).expect("something is left");
    assert_eq!((&removed["purged"], removed.get("version")), (&json!(true), None));
    let gone = removed["gone"].to_string();
    for what in ["its data in", "the archives of 1.0.0", "the numbers of its processes", "how it was used", "granted"] {
        expect_text(&gone, what);
    }
    let is_there = ["data/guest", "archive/guest-1.0.0.tar.zst", "generations/guest"].map(|at| state.join(at).exists());
    assert_eq!((is_there, counted(&daemon)), ([false; 3], vec![]));
    for parameters in [&purge, &json!({"plugin": "nobody", "purge": true}), &json!({"plugin": "guest"})] {
        let refused = error(uninstall(parameters), ErrorCode::PluginNotFound);
        assert!(!refused.message.contains("left"), "{refused:?}");
    }
    let installed = install(&daemon, &elsewhere(&daemon, &asking("1.0.0"))).expect("it is installed");
    assert_eq!(installed["awaits_consent"], json!(true), "it is asked about anew");
    daemon.stop_and_expect_no_orphans();
}

/// Whatever becomes of the copy while the daemon runs, the same package mends it; another one does not take its place.
#[test]
fn a_copy_that_is_damaged_meanwhile_is_mended_by_installing_it_again() {
    let daemon = Daemon::with([Package::echo()]);
    let folder = elsewhere(&daemon, &guest("1.0.0"));
    let installed = install(&daemon, &folder).expect("it is installed");
    let copy = daemon.path().join("state/store/snapshots").join(installed["digest"].as_str().expect("a digest"));
    let writable = |path: &std::path::Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    for takes_it_away in [false, true] {
        expect_echo(&daemon, "guest");
        daemon.operate("stop", &json!({"plugin": "guest"})).expect("it runs");
        writable(&copy).expect("it is ours");
        if takes_it_away {
            fs::rename(&copy, daemon.path().join("taken")).expect("it is ours");
        } else {
            writable(&copy.join("main")).expect("it is ours");
            fs::write(copy.join("main"), "#!/bin/sh\necho worse\n").expect("it is ours");
        }
        daemon.operate("start", &json!({"plugin": "guest"})).expect_err("it cannot run");
        let other =
            guest("1.0.0").with("description", json!("another")).write(&daemon.path().join("other"), daemon.marker());
        let refused = error(install(&daemon, &other), ErrorCode::InvalidParams);
        expect_text(&refused.hint.unwrap_or_default(), "remove that one: `palisade uninstall guest@1.0.0`");
        let again = install(&daemon, &folder).expect("it is the same package");
        assert_eq!((&again["digest"], &again["was_there"]), (&installed["digest"], &json!(false)));
    }
    expect_echo(&daemon, "guest");
    assert_eq!(install(&daemon, &folder).expect("it is there")["was_there"], json!(true));
    let daemon = restarted(daemon);
    expect_echo(&daemon, "guest");
    // One that nobody installed cannot be uninstalled.
    let echo = Package::echo().with("description", json!("another"));
    let refused = error(install(&daemon, &elsewhere(&daemon, &echo)), ErrorCode::InvalidParams);
    let hint = refused.hint.unwrap_or_default();
    expect_text(&hint, "take that one out of there; with `palisade disable echo@0.1.0` it only takes no calls");
    daemon.stop_and_expect_no_orphans();
}
