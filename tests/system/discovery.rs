//! How the daemon finds what lies in its plugin directories: without reading again what is as it was, whatever is wrong with some of it,
//! and whenever something changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text};

fn restarted(daemon: Daemon) -> Daemon {
    Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()))
}

/// How many packages the daemon has found when it started, and how many of them it has not read.
fn looked(daemon: &Daemon) -> String {
    let log = daemon.log();
    // The log of the daemon before stands before.
    let (_, since) = log.rsplit_once("this host cgroup").expect("the daemon says what its host is");
    let line = since.lines().find(|line| line.contains("looked into the plugin directories"));
    let told = line.unwrap_or_else(|| panic!("{log}")).split_whitespace();
    told.filter(|word| word.starts_with("packages=") || word.starts_with("unchanged=")).collect::<Vec<_>>().join(" ")
}

fn digest(daemon: &Daemon, plugin: &str) -> Value {
    daemon.operate("info", &json!({ "plugin": plugin })).expect("it is known")["snapshot"]["digest"].clone()
}

/// A second start reads only what has changed, and finds the same.
#[test]
fn what_is_as_it_was_is_not_read_again() {
    let three = [Package::echo(), Package::hostile("one", "tame"), Package::hostile("two", "tame")];
    // What was written a moment ago is not relied on, so the second daemon is the first that remembers for sure.
    let daemon = restarted(Daemon::with(three));
    let digests = ["echo", "one", "two"].map(|plugin| digest(&daemon, plugin));
    let daemon = restarted(daemon);
    assert_eq!(looked(&daemon), "packages=3 unchanged=3");
    assert_eq!(["echo", "one", "two"].map(|plugin| digest(&daemon, plugin)), digests);
    ["echo", "one", "two"].iter().for_each(|plugin| expect_echo(&daemon, plugin));

    let folder = daemon.kill_nine();
    let plugins = folder.path().join("plugins");
    fs::write(plugins.join("one/more"), "a file").expect("it is ours");
    fs::remove_dir_all(plugins.join("two")).expect("it is ours");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    assert_eq!(looked(&daemon), "packages=2 unchanged=1");
    // What served before does until the other one was tried.
    wait_for("the changed package", || (digest(&daemon, "one") != digests[1]).then_some(()));
    expect_echo(&daemon, "one");
    daemon.stop_and_expect_no_orphans();
}

/// What is required is asked of a package that is as it was, too: it may be more by now.
#[test]
fn what_was_found_does_not_outlive_what_is_required() {
    let daemon = restarted(Daemon::with([Package::echo()]));
    let folder = daemon.kill_nine();
    let configuration = "[trust]\npolicy = \"checksum\"\n";
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(configuration));
    let refused = error(daemon.agent().call("echo", "echo", &json!(1)), ErrorCode::ChecksumMissing);
    expect_text(&refused.message, "plugin.json has no `checksum`, and checksum is required of this source");
    daemon.stop_and_expect_no_orphans();
}

/// Changes what is remembered of `echo`, so that it looks as if a daemon had written it. False where there is nothing to do it with.
fn poison(folder: &Path, field: &str, value: &str) -> bool {
    let asked = std::env::var("PALISADE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let program = r#"
import hashlib, sqlite3, sys
database, path, field, value = sys.argv[1:]
fields = ["form", "path", "stamp", "manifest", "digest", "checksum", "warnings"]
as_bytes = lambda value: value.encode() if isinstance(value, str) else bytes(value)
connection = sqlite3.connect(database)
rows = [dict(zip(fields, row)) for row in connection.execute("SELECT %s FROM discovered" % ", ".join(fields))]
[echo] = [row for row in rows if as_bytes(row["path"]).endswith(b"/echo")]
[other] = [row for row in rows if as_bytes(row["path"]).endswith(b"/other")]
if value == "of the other":
    for name in field.split():
        echo[name] = other[name]
elif value.startswith("s/"):
    _, old, new = value.split("/")
    assert old.encode() in echo[field]
    echo[field] = echo[field].replace(old.encode(), new.encode())
else:
    echo[field] = value.encode() if isinstance(echo[field], bytes) else value
seal = hashlib.sha256()
for name in fields:
    part = as_bytes(echo[name])
    seal.update(len(part).to_bytes(8, "little") + part)
changed = ", ".join(name + " = ?" for name in fields)
values = [echo[name] for name in fields] + [seal.digest(), echo["path"]]
connection.execute("UPDATE discovered SET %s, seal = ? WHERE path = ?" % changed, values)
connection.commit()
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"#;
    let database = folder.join("state/registry.sqlite3");
    let mut command = palisade_tests::command::command(&asked);
    command.arg("-c").arg(program).arg(database).args(["echo", field, value]);
    match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("AssertionError") => {
            panic!("{}", String::from_utf8_lossy(&output.stderr))
        }
        said => {
            println!("SKIPPED: {asked} as Python 3 with sqlite3 is needed; PALISADE_PYTHON names another: {said:?}");
            false
        }
    }
}

/// Whatever the database says of a package, what runs is what lies in its folder, as its manifest there says, or nothing.
#[test]
fn what_is_remembered_falsely_runs_nothing_else() {
    let mut daemon = restarted(Daemon::with([
        Package::echo().environment("MARK", "right"),
        Package::hostile("other", "tame").environment("MARK", "other"),
    ]));
    let right = digest(&daemon, "echo");
    for (field, value) in [
        // The snapshot of another plugin, one that is not there, and what is no digest.
        ("digest", "of the other"),
        ("digest checksum", "of the other"),
        ("digest", "0000000000000000000000000000000000000000000000000000000000000000"),
        ("digest", "../../../plugins/other"),
        ("checksum", "of the other"),
        ("stamp", "garbage"),
        ("manifest", "garbage"),
        ("warnings", "garbage"),
    ] {
        let folder = daemon.kill_nine();
        if !poison(folder.path(), field, value) {
            return;
        }
        daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
        expect_echo(&daemon, "echo");
        assert_eq!(digest(&daemon, "echo"), right, "{field} {value}");
        expect_echo(&daemon, "other");
        // What is remembered is mended by whoever looks anew.
        daemon = restarted(daemon);
    }
    // Of the same plugin, with more than its manifest asks for.
    let folder = daemon.kill_nine();
    assert!(poison(folder.path(), "manifest", "s/right/wrong"));
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    assert_eq!(looked(&daemon), "packages=2 unchanged=2");
    let refused = error(daemon.agent().call("echo", "echo", &json!(1)), ErrorCode::InitializationFailed);
    expect_text(&refused.message, "its plugin.json was changed; `palisade rescan` reads it anew");
    expect_echo(&daemon, "other");
    daemon.stop_and_expect_no_orphans();
}

/// What a look brings, without the rejected ones' other fields: the lists of plugins, and the names of the folders that are not used.
fn rescan(daemon: &Daemon) -> Value {
    let mut found = daemon.operate("rescan", &json!({})).expect("it looks");
    found.as_object_mut().expect("a map").remove("rejected");
    found
}

fn found(added: &[&str], changed: &[&str], removed: &[&str]) -> Value {
    json!({ "added": added, "changed": changed, "removed": removed, "kept": [] })
}

/// A daemon whose plugin directories nobody watches but whoever asks for it.
fn unwatched(packages: impl IntoIterator<Item = Package>) -> Daemon {
    Daemon::start(DaemonOptions::with(packages).configuration("watch = false\n"))
}

/// Each kind of broken package is told with a sentence of its own, and keeps no other from being used.
#[test]
fn a_package_that_cannot_be_used_is_told_and_keeps_no_other_from_being_used() {
    let daemon = unwatched([Package::echo()]);
    let plugins = daemon.plugins();
    let folder = |name: &str| {
        let folder = plugins.join(name);
        fs::create_dir_all(&folder).expect("it is ours");
        folder
    };
    fs::write(folder("cut").join("plugin.json"), "{\"id\": \"cut\", \"na").expect("it is ours");
    fs::write(folder("empty").join("plugin.json"), "").expect("it is ours");
    fs::write(folder("list").join("plugin.json"), "[1, 2]").expect("it is ours");
    fs::write(folder("odd").join("plugin.json"), "{\"id\": \"Odd\", \"surprise\": 1}").expect("it is ours");
    fs::create_dir(folder("inner").join("plugin.json")).expect("it is ours");
    std::os::unix::fs::symlink("/etc/hostname", folder("linked").join("plugin.json")).expect("it is ours");
    // Its manifest was copied, and the rest not yet.
    Package::new("half", palisade_tests::package::Entry::Missing).write(&plugins, daemon.marker());
    // The same id and version in two folders: the first by name.
    let twin = Package::hostile("echo", "tame").write(&daemon.path().join("elsewhere"), daemon.marker());
    fs::rename(twin, plugins.join("twin")).expect("it is ours");
    folder("no-package");
    fs::write(plugins.join("a file"), "which is none either").expect("it is ours");

    assert_eq!(rescan(&daemon), found(&["half 0.1.0"], &[], &[]));
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    let told: Vec<_> = list["rejected"].as_array().expect("a list").iter().collect();
    let at = |name: &str| plugins.join(name).display().to_string();
    let expected = [
        ("cut", format!("{}/plugin.json: ", at("cut"))),
        ("empty", format!("{}/plugin.json: ", at("empty"))),
        ("inner", format!("{}/plugin.json is not a file", at("inner"))),
        ("linked", format!("{}/plugin.json is a symbolic link; a package holds files and folders alone", at("linked"))),
        ("list", format!("{}/plugin.json: ", at("list"))),
        ("odd", format!("{}/plugin.json: ", at("odd"))),
        ("twin", format!("echo 0.1.0 is shadowed by {}, which comes first", at("echo"))),
    ];
    let mut paths: Vec<_> = told.iter().map(|one| one["path"].as_str().unwrap_or_default().to_owned()).collect();
    paths.sort();
    assert_eq!(paths, expected.clone().map(|(name, _)| at(name)), "{told:?}");
    for (name, words) in expected {
        let one = told.iter().find(|one| one["path"] == at(name)).expect("it is there");
        expect_text(one["reason"].as_str().unwrap_or_default(), &words);
        // Whoever asks for it by the folder's name is told as well.
        if !["twin", "echo"].contains(&name) {
            let refused = error(daemon.agent().call(name, "echo", &json!(1)), ErrorCode::ConfigurationInvalid);
            expect_text(&refused.message, &words);
        }
    }
    let refused = error(daemon.agent().call("half", "echo", &json!(1)), ErrorCode::InitializationFailed);
    expect_text(&refused.message, "the entry point main is not in the package");
    expect_echo(&daemon, "echo");
    // Once it is whole it is used.
    Package::hostile("half", "tame").write(&plugins, daemon.marker());
    assert_eq!(rescan(&daemon), found(&[], &["half 0.1.0"], &[]));
    expect_echo(&daemon, "half");
    daemon.stop_and_expect_no_orphans();
}

/// What the daemon lists: each plugin with its place and digest, and what is not used.
fn registry(daemon: &Daemon) -> Value {
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    let plugins = list["plugins"].as_array().expect("a list").iter().map(|one| {
        let plugin =
            json!({"plugin": one["id"], "version": format!("={}", one["version"].as_str().unwrap_or_default())});
        let info = daemon.operate("info", &plugin).expect("it is known");
        json!([
            one["id"],
            one["version"],
            one["enabled"],
            one["description"],
            info["source"],
            info["snapshot"]["digest"]
        ])
    });
    json!({ "plugins": plugins.collect::<Vec<_>>(), "rejected": list["rejected"] })
}

/// Whatever is done to the folders, what is there after a look is what a daemon finds that starts on them.
#[test]
fn a_look_finds_what_a_new_daemon_finds() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let (first, second) = (folder.path().join("plugins"), folder.path().join("second"));
    fs::create_dir_all(&second).expect("it is ours");
    let options = |folder| {
        let options = DaemonOptions::with([]).folder(folder).configuration("watch = false\n");
        options.arguments(&["--plugins", &second.display().to_string()])
    };
    let second_folder = second.clone();
    let mut daemon = Daemon::start(options(folder));
    let marker = daemon.marker().to_owned();
    let guest = |version: &str, said: &str| {
        let guest = Package::hostile("guest", "tame").with("version", json!(version));
        guest.with("description", json!(said)).environment("HOSTILE_VERSION", version)
    };
    // Into a folder of that name, in place of what is there.
    let place = |directory: &Path, name: &str, package: &Package| {
        let whole = package.write(&directory.with_extension("staging"), &marker);
        let target = directory.join(name);
        let _ = fs::remove_dir_all(&target);
        fs::rename(whole, target).expect("it is ours");
    };
    let remove = |directory: &Path, name: &str| fs::remove_dir_all(directory.join(name)).expect("it is ours");
    let steps: [(&str, &dyn Fn()); 9] = [
        ("one in the second directory", &|| place(&second_folder, "b", &guest("1.0.0", "second"))),
        ("one that goes before it", &|| place(&first, "z", &guest("1.0.0", "first"))),
        ("one that goes before both", &|| place(&first, "a", &guest("1.0.0", "the very first"))),
        ("another version", &|| place(&second_folder, "c", &guest("1.1.0", "newer"))),
        ("other contents", &|| place(&first, "a", &guest("1.0.0", "the very first, mended"))),
        ("a broken one", &|| fs::write(first.join("z/plugin.json"), "{").expect("it is ours")),
        ("the first one goes", &|| remove(&first, "a")),
        ("the broken one goes, and a version", &|| {
            remove(&first, "z");
            remove(&second_folder, "c");
        }),
        ("a folder is another", &|| fs::rename(second_folder.join("b"), first.join("b")).expect("it is ours")),
    ];
    for (what, step) in steps {
        step();
        let changes = rescan(&daemon);
        let after = registry(&daemon);
        let again = rescan(&daemon);
        assert_eq!(again, found(&[], &[], &[]), "{what}: nothing has changed since {changes}");
        daemon = Daemon::start(options(daemon.kill_nine()));
        assert_eq!(after, registry(&daemon), "{what}: {changes}");
    }
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// Nobody has to ask: a folder that appears is a plugin, one that changes is begun anew, one that goes ends it; and the others go on.
#[test]
fn what_changes_is_noticed() {
    let daemon = Daemon::with([Package::echo()]);
    expect_echo(&daemon, "echo");
    let before = daemon.process_of("echo");
    let plugins = daemon.plugins();
    let listed = |plugin: &str| {
        let list = daemon.operate("list", &json!({})).expect("there is a list");
        list["plugins"].as_array().expect("a list").iter().any(|one| one["id"] == plugin)
    };
    let rejected = || {
        let list = daemon.operate("list", &json!({})).expect("there is a list");
        list["rejected"].as_array().expect("a list").len()
    };
    // Half of it first: it is told as what it is, and looked at again when the rest comes.
    fs::create_dir(plugins.join("guest")).expect("it is ours");
    fs::write(plugins.join("guest/plugin.json"), "{").expect("it is ours");
    wait_for("the half of a package", || (rejected() == 1).then_some(()));
    Package::hostile("guest", "tame").write(&plugins, daemon.marker());
    wait_for("the new plugin", || listed("guest").then_some(()));
    expect_echo(&daemon, "guest");
    assert_eq!(rejected(), 0);
    let old = daemon.process_of("guest");
    Package::hostile("guest", "tame").with("description", json!("changed")).write(&plugins, daemon.marker());
    wait_for("the changed plugin", || {
        let info = daemon.operate("info", &json!({"plugin": "guest"})).expect("it is known");
        (info["description"] == "changed").then_some(())
    });
    expect_echo(&daemon, "guest");
    assert_ne!(daemon.process_of("guest"), old);
    fs::remove_dir_all(plugins.join("guest")).expect("it is ours");
    wait_for("the end of the plugin", || (!listed("guest")).then_some(()));
    error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::PluginNotFound);
    assert_eq!(daemon.process_of("echo"), before, "it is none of its business");
    daemon.stop_and_expect_no_orphans();
}

/// A plugin that takes its time to end keeps nothing else from being changed, and calls go to what has taken its place; a daemon that stops
/// meanwhile ends it too.
#[test]
fn a_plugin_that_drains_holds_up_nothing() {
    let slow = |description: &str| {
        Package::hostile("slow", "stubborn")
            .with("limits", json!({"drain_timeout_seconds": 600, "call_timeout_seconds": 600}))
            .with("description", json!(description))
    };
    let mut daemon = unwatched([Package::echo(), slow("first")]);
    let plugins = daemon.plugins();
    let (mut agent, mut looking) = (daemon.agent(), daemon.agent());
    let _call = agent.begin("slow", "wait", &json!(null));
    let old = daemon.wait_until("slow", "a call in flight", |now| now.calls.in_flight == 1);
    slow("second").write(&plugins, daemon.marker());
    let _look = looking.begin("palisade", "rescan", &json!({}));
    wait_for("the other one", || {
        let info = daemon.operate("info", &json!({"plugin": "slow"})).expect("it is known");
        (info["description"] == "second").then_some(())
    });
    expect_echo(&daemon, "slow");
    assert_ne!(daemon.status("slow").process_id(), old.process_id());
    // The first look has not ended, as what it waits for has not.
    daemon.operate("disable", &json!({"plugin": "echo"})).expect("it is there");
    fs::remove_dir_all(plugins.join("echo")).expect("it is ours");
    assert_eq!(rescan(&daemon), found(&[], &[], &["echo 0.1.0"]));
    let process = old.process_id().expect("it runs");
    assert!(fs::exists(format!("/proc/{process}")).expect("it can be asked"), "it has a call under way");
    daemon.remember();
    daemon.terminate();
    wait_for("the daemon's ear", || daemon.log().contains("SIGTERM: stopping").then_some(()));
    assert!(fs::exists(format!("/proc/{process}")).expect("it can be asked"), "its call is waited for");
    // The second time it is in haste.
    daemon.stop_and_expect_no_orphans();
}

/// Nobody knows then which versions are disabled, and none is to take calls for that.
#[test]
fn a_rescan_that_cannot_read_the_database_changes_nothing() {
    let daemon = Daemon::with([Package::echo()]);
    let folder = daemon.stop();
    let asked = std::env::var("PALISADE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let program =
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript('ALTER TABLE switched RENAME TO elsewhere')";
    let mut command = palisade_tests::command::command(&asked);
    let said = command.arg("-c").arg(program).arg(folder.path().join("state/registry.sqlite3")).output();
    if !said.as_ref().is_ok_and(|said| said.status.success()) {
        println!("SKIPPED: {asked} as Python 3 with sqlite3 is needed; PALISADE_PYTHON names another: {said:?}");
        return;
    }
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    // A version that has changed is made anew, as its manifest says, which has nothing against it.
    let manifest = daemon.plugins().join("echo/plugin.json");
    let text = fs::read_to_string(&manifest).expect("it is there");
    let mut changed: Value = serde_json::from_str(&text).expect("it is one");
    changed["description"] = json!("another");
    fs::write(&manifest, changed.to_string()).expect("it is ours");
    let refused = daemon.operate("rescan", &json!({})).expect_err("the table is not there");
    assert_eq!(refused.code, ErrorCode::ResourceExhausted);
    assert!(
        refused.message.contains("which versions are disabled cannot be read, so nothing is changed"),
        "{refused:?}"
    );
    let info = daemon.operate("info", &json!({"plugin": "echo"})).expect("it is known");
    assert_ne!(info["description"], json!("another"));
    daemon.stop_and_expect_no_orphans();
}

/// A file of a package that cannot be read says nothing of what runs from it.
#[test]
fn a_file_that_cannot_be_read_ends_no_plugin() {
    // Root reads what nobody may.
    if palisade_tests::daemon::other_user().is_none() && palisade_tests::daemon::runs_as_root() {
        println!("SKIPPED: a file that may not be read: root may; the lane of an ordinary user has it");
        return;
    }
    let daemon = unwatched([Package::echo()]);
    expect_echo(&daemon, "echo");
    let process = daemon.process_of("echo");
    let package = daemon.plugins().join("echo");
    let entry = fs::read_to_string(package.join("plugin.json")).expect("it is there");
    let entry: Value = serde_json::from_str(&entry).expect("it is one");
    let file = package.join(entry["entry_point"].as_str().expect("it is named"));
    let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
    set(0o000);
    let looked = daemon.operate("rescan", &json!({}));
    let before = daemon.operate("list", &json!({}));
    set(0o755);
    let looked = looked.expect("it looks");
    assert_eq!((&looked["changed"], &looked["removed"]), (&json!([]), &json!([])), "{looked}");
    let reason = looked["rejected"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("Permission denied"), "it is told: {looked}");
    assert_eq!(before.expect("there is a list")["rejected"], looked["rejected"]);
    expect_echo(&daemon, "echo");
    assert_eq!(daemon.process_of("echo"), process, "it goes on");
    assert_eq!(daemon.operate("rescan", &json!({})).expect("it looks")["rejected"], json!([]));
    assert_eq!(daemon.process_of("echo"), process);
    daemon.stop_and_expect_no_orphans();
}
