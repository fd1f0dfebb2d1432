//! How the daemon finds what lies in its plugin directories: without reading again what is as it was, whatever is wrong with some of it,
//! and whenever something changes.

use std::fs;
use std::path::Path;

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text};

fn restarted(daemon: Daemon) -> Daemon {
    Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()))
}

/// How many packages the daemon has found, and how many of them it has not read.
fn looked(daemon: &Daemon) -> String {
    let log = daemon.log();
    let line = log.lines().rfind(|line| line.contains("looked into the plugin directories"));
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
    assert_ne!(digest(&daemon, "one"), digests[1]);
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
    expect_text(&refused.message, "its plugin.json was changed; ");
    expect_echo(&daemon, "other");
    daemon.stop_and_expect_no_orphans();
}
