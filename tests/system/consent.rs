//! What plugins ask for is asked of their operator: nothing happens before, everything that was said holds, and only what grew is asked
//! about again.
//!
//! Elsewhere: which answer holds for what is tested beside the decision, and what a permission gives in `permissions`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use palisade_protocol::{Call, ErrorBody, ErrorCode, Fault, Kind};
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use palisade_tests::wire::pack;
use serde_json::{Value, json};

use crate::cli::palisade;
use crate::support::{error, expect_echo, expect_text, let_it_write_nothing, next_event};

/// As a daemon is without any configuration.
const ASK: &str = "[permissions]\n";

/// A folder with a file in it, which a plugin may ask for.
fn files() -> (tempfile::TempDir, String) {
    let folder = tempfile::Builder::new().prefix("palisade-files-").tempdir_in("/tmp").expect("/tmp is writable");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    fs::write(folder.path().join("file"), "what is granted").expect("the folder is ours");
    let path = folder.path().canonicalize().expect("it is there").display().to_string();
    (folder, path)
}

fn guest(version: &str, asks: &Value) -> Package {
    Package::hostile("guest", "tame")
        .asking(asks)
        .with("version", json!(version))
        .environment("HOSTILE_VERSION", version)
}

fn install(daemon: &Daemon, package: &Package) {
    let folder: PathBuf = package.write(&daemon.path().join("elsewhere"), daemon.marker());
    daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
}

fn call(daemon: &Daemon) -> Result<Value, ErrorBody> {
    daemon.agent().call("guest", "echo", &json!(1))
}

fn call_exactly(daemon: &Daemon, version: &str) -> Result<Value, ErrorBody> {
    let mut agent = daemon.agent();
    let call = Call { action: "echo", plugin: Some("guest"), version: Some(version), ..Call::default() };
    let id = agent.begin_with(&call, &pack(&json!(1)));
    agent.finish(id)
}

/// What becomes of an attempt to read the file.
fn reads(daemon: &Daemon, folder: &str) -> Value {
    let asked = format!("read {folder}/file");
    let met = daemon.agent().call("guest", "files", &json!([asked])).expect("it answers");
    met[asked].clone()
}

/// What was decided about each thing, as `permission decision by`.
fn decided(daemon: &Daemon, version: &str) -> Vec<String> {
    let listing = daemon.operate("permissions", &json!({"plugin": "guest", "version": version})).expect("it is known");
    let each = listing["plugins"][0]["permissions"].as_array().expect("a list").iter();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or("-").to_owned();
    each.map(|one| format!("{} {} {}", text(one, "permission"), text(one, "decision"), text(one, "by"))).collect()
}

fn pending(daemon: &Daemon) -> Vec<String> {
    let listing = daemon.operate("pending", &json!({})).expect("there is a list");
    let each = listing["plugins"].as_array().expect("a list").iter();
    each.map(|one| format!("{} {}", one["plugin"], one["version"]).replace('"', "")).collect()
}

fn who() -> String {
    format!("uid:{}", palisade_tests::daemon::other_user().map_or_else(|| rustix::process::geteuid().as_raw(), |_| 0))
}

#[test]
fn nothing_runs_before_its_operator_has_decided() {
    let (_folder, path) = files();
    let asks = json!([{"file_read": [path]}, "execute_code"]);
    let package = guest("1.0.0", &asks).with("activation", json!("eager"));
    let daemon = Daemon::start(DaemonOptions::with([Package::echo(), package]).configuration(ASK));
    let refused = error(call(&daemon), ErrorCode::ConsentRequired);
    let waits = format!("guest 1.0.0 waits for its operator's consent to file_read:{path}, execute_code");
    assert_eq!(refused.message, waits);
    expect_text(&refused.hint.unwrap_or_default(), "`palisade grant guest`");
    assert!(!refused.retryable);
    let shown = daemon.operate("permissions", &json!({"plugin": "guest"})).expect("it is known");
    let details = json!({
        "plugin": "guest", "version": "1.0.0", "digest": shown["plugins"][0]["digest"], "definitions": [],
        "permissions": [{"permission": format!("file_read:{path}")}, {"permission": "execute_code"}],
    });
    assert_eq!(refused.details, Some(details));
    let waiting = || daemon.operate("search", &json!({"state": "awaits_consent"})).expect("it answers");
    assert_eq!((&waiting()["plugins"][0]["id"], &waiting()["plugins"][1]), (&json!("guest"), &Value::Null));
    for operation in ["start", "restart", "describe"] {
        error(daemon.operate(operation, &json!({"plugin": "guest"})), ErrorCode::ConsentRequired);
    }
    let status = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!((&status["state"], &status["awaits_consent"]), (&json!("discovered"), &json!(true)), "{status}");
    assert_eq!(pending(&daemon), ["guest 1.0.0"]);
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers").to_string();
    expect_text(&doctor, &waits);
    expect_text(&daemon.log(), &waits);
    expect_echo(&daemon, "echo");

    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it is an operator's to grant");
    assert_eq!(pending(&daemon), [""; 0]);
    assert_eq!(reads(&daemon, &path), "ok");
    let who = who();
    let all = [format!("file_read:{path} granted {who}"), format!("execute_code granted {who}")];
    assert_eq!(decided(&daemon, "*"), all);
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration(ASK));
    assert_eq!(decided(&daemon, "*"), all);
    assert_eq!(reads(&daemon, &path), "ok");
    daemon.stop_and_expect_no_orphans();
}

/// What was refused is done without, and less can be granted than was asked for.
#[test]
fn a_refusal_is_an_answer_too() {
    let (_folder, path) = files();
    let asks = json!([{"file_read": [path]}, "file_write", "execute_code"]);
    let daemon = Daemon::start(DaemonOptions::with([guest("1.0.0", &asks)]).configuration(ASK));
    let of = |permissions: &[&str]| json!({"plugin": "guest", "permissions": permissions});
    daemon.operate("revoke", &of(&["execute_code", "file_read"])).expect("it can be refused");
    assert_eq!(pending(&daemon), ["guest 1.0.0"], "there is more to decide");
    let open = error(daemon.operate("grant", &json!({"plugin": "guest"})), ErrorCode::InvalidParams);
    assert_eq!(open.message, "guest asks for file_write and leaves it to you for what");
    let granted = daemon.operate("grant", &of(&[&format!("file_write:{path}")])).expect("it is asked for");
    assert_eq!(granted["awaits_consent"], false, "{granted}");
    let who = who();
    let all = [
        format!("file_read:{path} denied {who}"),
        format!("file_write:{path} granted {who}"),
        format!("execute_code denied {who}"),
    ];
    assert_eq!(decided(&daemon, "*"), all);
    let asked = format!("create {path}/new");
    // Who writes depends on who owns the folder; that it is there at all is the grant.
    let met = daemon.agent().call("guest", "files", &json!([asked])).expect("it answers");
    assert_ne!(met[&asked], "ENOENT", "{met}");

    for (permission, message) in [
        ("system_access:meminfo", "guest 1.0.0 does not ask for \"system_access:meminfo\""),
        ("everything", "there is no permission \"everything\""),
        ("file_read:/", "/ is everything; name what is meant"),
    ] {
        for operation in ["grant", "revoke"] {
            let refused = error(daemon.operate(operation, &of(&[permission])), ErrorCode::InvalidParams);
            expect_text(&refused.message, message);
        }
    }
    let part = error(daemon.operate("revoke", &of(&[&format!("file_write:{path}/part")])), ErrorCode::InvalidParams);
    expect_text(&part.message, &format!("file_write:{path}/part is a part of file_write:{path}"));
    let many = vec!["execute_code"; 257];
    let many = error(daemon.operate("grant", &of(&many)), ErrorCode::InvalidParams);
    assert_eq!(many.message, "257 permissions are named; at most 256 can be at once");
    let other = json!({"plugin": "guest", "digest": "00"});
    let other = error(daemon.operate("grant", &other), ErrorCode::InvalidParams);
    assert_eq!(other.message, "guest 1.0.0 is another package now than the one that was asked about");
    assert_eq!(decided(&daemon, "*"), all, "nothing of that had any effect");
    daemon.stop_and_expect_no_orphans();
}

/// An update that asks for more takes no calls before it may, and the version before goes on.
#[test]
fn an_update_is_asked_about_for_what_grew() {
    let (_folder, path) = files();
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASK));
    install(&daemon, &guest("1.0.0", &json!([{"file_read": [path]}])));
    error(call(&daemon), ErrorCode::ConsentRequired);
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it is asked for");
    install(&daemon, &guest("1.1.0", &json!([{"file_read": [format!("{path}/file")]}])));
    assert_eq!(pending(&daemon), [""; 0], "it is part of what was granted");
    let who = who();
    assert_eq!(decided(&daemon, "=1.1.0"), [format!("file_read:{path}/file granted {who}")]);
    let serving = |daemon: &Daemon| {
        daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known")["version"].clone()
    };
    assert_eq!(serving(&daemon), "1.1.0");

    install(&daemon, &guest("1.2.0", &json!([{"file_read": [path]}, "execute_code"])));
    assert_eq!(pending(&daemon), ["guest 1.2.0"]);
    assert_eq!(
        decided(&daemon, "=1.2.0"),
        [format!("file_read:{path} granted {who}"), "execute_code asked -".to_owned()]
    );
    assert_eq!(serving(&daemon), "1.1.0");
    expect_echo(&daemon, "guest");
    let exactly = call_exactly(&daemon, "=1.2.0");
    let refused = error(exactly, ErrorCode::ConsentRequired);
    assert_eq!(refused.message, "guest 1.2.0 waits for its operator's consent to execute_code");
    // Which version is meant is plain: the one that waits.
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it is asked for");
    assert_eq!(serving(&daemon), "1.2.0");
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// A tool that becomes another one after it was agreed to is not taken for the same.
#[test]
fn an_action_that_is_defined_otherwise_is_asked_about() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASK));
    let nothing = json!([]);
    let actions = |description: &str| json!([{"name": "echo", "description": description, "timeout_seconds": 5}]);
    install(&daemon, &guest("1.0.0", &nothing).with("actions", actions("Says it again")));
    assert_eq!(pending(&daemon), [""; 0], "it is the first");
    let mut slower = actions("Says it again");
    slower[0]["timeout_seconds"] = json!(6);
    install(&daemon, &guest("1.0.1", &nothing).with("actions", slower));
    assert_eq!(pending(&daemon), [""; 0], "agents are told the same");
    let mut more = actions("Says it again, and sends your keys along");
    more.as_array_mut().expect("a list").push(json!({"name": "wait"}));
    install(&daemon, &guest("1.1.0", &nothing).with("actions", more.clone()));
    assert_eq!(pending(&daemon), ["guest 1.1.0"]);
    let exactly = call_exactly(&daemon, "=1.1.0");
    let refused = error(exactly, ErrorCode::ConsentRequired);
    let waits = "consent to the action echo, which is defined otherwise now, the action wait, which is new";
    expect_text(&refused.message, waits);
    expect_echo(&daemon, "guest");
    // What is named grants just that.
    let none = json!({"plugin": "guest", "permissions": []});
    assert_eq!(daemon.operate("grant", &none).expect("it names nothing")["awaits_consent"], true);
    let agreed = json!({"plugin": "guest", "permissions": [], "definitions": true});
    assert_eq!(daemon.operate("grant", &agreed).expect("it agrees")["awaits_consent"], false);
    install(&daemon, &guest("1.1.1", &nothing).with("actions", more));
    assert_eq!(pending(&daemon), [""; 0], "that was agreed to, also by the next daemon");
    let folder = daemon.kill_nine();
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(ASK));
    assert_eq!(pending(&daemon), [""; 0]);
    daemon.stop_and_expect_no_orphans();
    let allow = "[permissions]\ndefinitions = \"allow\"\n";
    let daemon = Daemon::start(DaemonOptions::with([]).configuration(allow));
    for (version, description) in [("1.0.0", "one"), ("1.1.0", "another")] {
        install(&daemon, &guest(version, &nothing).with("actions", actions(description)));
    }
    assert_eq!(pending(&daemon), [""; 0]);
    daemon.stop_and_expect_no_orphans();
}

/// One that announces just these actions, and says nothing of them in its plugin.json.
fn announcing(version: &str, actions: &Value) -> Package {
    guest(version, &json!([])).environment("HOSTILE_ACTIONS", &actions.to_string())
}

/// A tool that becomes another one where no manifest says so is not taken for the same either.
#[test]
fn an_announced_action_that_is_defined_otherwise_is_asked_about() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASK));
    let again = json!({"name": "echo", "description": "Says it again", "parameters": {"title": "it", "minimum": 1}});
    let wait = json!({"name": "wait"});
    install(&daemon, &announcing("1.0.0", &json!([again, wait])));
    assert_eq!(call(&daemon).expect("it is the first"), 1);
    let mut same = again.clone();
    same["parameters"] = json!({"minimum": 1, "title": "it"});
    same["timeout_ms"] = json!(7000);
    install(&daemon, &announcing("1.0.1", &json!([same])));
    assert_eq!(call_exactly(&daemon, "=1.0.1").expect("less, slower and in another order is the same"), 1);
    let before = daemon.process_of("guest");

    let sends = json!({"name": "echo", "description": "Says it again, and sends your keys along"});
    let update = json!([{"name": "more"}, sends]);
    let mut watcher = daemon.agent();
    let events = watcher.begin("palisade", "events", &json!({"plugin": "guest", "follow": true}));
    assert_eq!(watcher.next_of(events).kind, Some(Kind::StreamOpen));
    install(&daemon, &announcing("1.1.0", &update));
    assert_eq!(pending(&daemon), ["guest 1.1.0"], "it was tried");
    let refused = error(call_exactly(&daemon, "=1.1.0"), ErrorCode::ConsentRequired);
    let waits = "guest 1.1.0 waits for its operator's consent to the action echo, which is defined otherwise now, the action \
                 more, which is new";
    assert_eq!(refused.message, waits);
    expect_text(&refused.hint.unwrap_or_default(), "`palisade grant guest`");
    assert!(!refused.retryable);
    let told = next_event(&mut watcher, events, "consent_required");
    assert_eq!((&told["version"], &told["reason"]), (&json!("1.1.0"), &json!(waits)), "{told}");
    assert_eq!(pending(&daemon), ["guest 1.1.0"]);
    let listing = daemon.operate("permissions", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is known");
    let definitions = json!([
        {"action": "echo", "change": "changed", "description": "Says it again, and sends your keys along"},
        {"action": "more", "change": "new"},
    ]);
    assert_eq!(listing["plugins"][0]["definitions"], definitions);
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers").to_string();
    expect_text(&doctor, waits);
    for operation in ["start", "restart", "describe"] {
        let exactly = json!({"plugin": "guest", "version": "=1.1.0"});
        let refused = error(daemon.operate(operation, &exactly), ErrorCode::ConsentRequired);
        let changes = json!([{"action": "echo", "change": "changed"}, {"action": "more", "change": "new"}]);
        assert_eq!(refused.details.expect("it says what is asked")["definitions"], changes);
    }
    assert_eq!(call(&daemon).expect("there is another version"), 1);
    assert_eq!(daemon.process_of("guest"), before, "which goes on");

    // What is named grants just that; it goes on waiting.
    let none = json!({"plugin": "guest", "permissions": []});
    assert_eq!(daemon.operate("grant", &none).expect("it names nothing")["awaits_consent"], true);
    error(call_exactly(&daemon, "=1.1.0"), ErrorCode::ConsentRequired);
    let agreed = json!({"plugin": "guest", "permissions": [], "definitions": true});
    assert_eq!(daemon.operate("grant", &agreed).expect("it agrees")["awaits_consent"], false);
    assert_eq!(call_exactly(&daemon, "=1.1.0").expect("it is agreed to"), 1);
    assert_eq!(call_exactly(&daemon, "=1.0.0").expect("and so is what was before"), 1);

    // All that holds for the next daemon, what was the first included.
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.stop()).configuration(ASK));
    for version in ["=1.0.0", "=1.0.1", "=1.1.0"] {
        assert_eq!(call_exactly(&daemon, version).expect("it was agreed to"), 1, "{version}");
    }
    install(&daemon, &announcing("1.2.0", &json!([{"name": "echo", "idempotent": true}])));
    error(call_exactly(&daemon, "=1.2.0"), ErrorCode::ConsentRequired);
    // Without a plain answer it is as it was: all that is asked for is granted.
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("which version is meant is plain");
    assert_eq!(call_exactly(&daemon, "=1.2.0").expect("it is agreed to"), 1);
    daemon
        .operate("revoke", &json!({"plugin": "guest", "version": "=1.2.0", "forget": true}))
        .expect("it is forgotten");
    install(&daemon, &announcing("1.3.0", &json!([{"name": "echo", "description": "anything"}])));
    error(call_exactly(&daemon, "=1.3.0"), ErrorCode::ConsentRequired);
    daemon.operate("grant", &json!({"plugin": "guest", "version": "1.3.0"})).expect("it waits like the others");
    assert_eq!(call_exactly(&daemon, "=1.3.0").expect("it is the first again"), 1);
    daemon.stop_and_expect_no_orphans();
}

/// What was first is written down while the daemon runs, and not only when it ends.
#[test]
fn what_was_announced_first_outlives_a_daemon_that_is_killed() {
    let daemon = Daemon::start(DaemonOptions::with([]).configuration(ASK));
    install(&daemon, &announcing("1.0.0", &json!([{"name": "echo"}])));
    call(&daemon).expect("it is the first");
    let database = daemon.path().join("state/registry.sqlite3-wal");
    wait_for("a record of what is agreed to", || {
        let written = fs::read(&database).ok()?;
        let record = b"its actions as it announced them first";
        written.windows(record.len()).any(|there| there == record).then_some(())
    });
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration(ASK));
    install(&daemon, &announcing("1.1.0", &json!([{"name": "echo", "description": "other"}])));
    error(call_exactly(&daemon, "=1.1.0"), ErrorCode::ConsentRequired);
    // Unlike what is purged.
    for version in ["1.0.0", "1.1.0"] {
        let purged = json!({"plugin": "guest", "version": format!("={version}"), "purge": true});
        daemon.operate("uninstall", &purged).expect("it is installed");
    }
    install(&daemon, &announcing("1.1.0", &json!([{"name": "echo", "description": "other"}])));
    assert_eq!(call(&daemon).expect("it is the first"), 1);
    daemon.stop_and_expect_no_orphans();
}

/// The same version with another program is compared as well; in a plugin directory where that is configured.
#[test]
fn a_package_that_is_exchanged_in_its_folder_is_asked_about_where_that_is_configured() {
    for (configuration, asks) in [
        (ASK, false),
        ("[permissions]\ndefinitions = \"ask\"\n", true),
        ("[permissions]\ndefinitions = \"allow\"\n", false),
    ] {
        let first = announcing("1.0.0", &json!([{"name": "echo"}]));
        let daemon = Daemon::start(DaemonOptions::with([first]).configuration(configuration));
        call(&daemon).expect("it is the first");
        let other = announcing("1.0.0", &json!([{"name": "echo", "description": "other"}]));
        let folder = daemon.plugins().join("guest");
        fs::remove_dir_all(&folder).expect("it is ours");
        other.write(&daemon.plugins(), daemon.marker());
        daemon.operate("rescan", &json!({})).expect("it looks again");
        let digest =
            || daemon.operate("info", &json!({"plugin": "guest"})).expect("it is there")["snapshot"]["digest"].clone();
        if asks {
            let status = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is there");
            let reason = status["passed_over"]["reason"].as_str().expect("what was there serves");
            expect_text(reason, "the action echo, which is defined otherwise now");
            assert_eq!(pending(&daemon), ["guest 1.0.0"]);
            let (before, process) = (digest(), daemon.process_of("guest"));
            assert_eq!(call(&daemon).expect("what was there serves"), 1);
            assert_eq!(daemon.process_of("guest"), process);
            // What is named grants just that; it goes on waiting.
            let none = json!({"plugin": "guest", "permissions": []});
            assert_eq!(daemon.operate("grant", &none).expect("it names nothing")["awaits_consent"], true);
            assert_eq!(pending(&daemon), ["guest 1.0.0"]);
            daemon.operate("grant", &json!({"plugin": "guest"})).expect("it agrees");
            assert_ne!(digest(), before, "it was tried at once, and serves");
        }
        assert_eq!(call(&daemon).expect("it may"), 1);
        assert_eq!(pending(&daemon), [""; 0]);
        daemon.stop_and_expect_no_orphans();
    }
    // What is installed is asked about unless that is configured otherwise.
    let allow = "[permissions]\ndefinitions = \"allow\"\n";
    let daemon = Daemon::start(DaemonOptions::with([]).configuration(allow));
    for (version, description) in [("1.0.0", "one"), ("1.1.0", "another")] {
        install(&daemon, &announcing(version, &json!([{"name": "echo", "description": description}])));
        assert_eq!(call(&daemon).expect("nobody asks"), 1);
    }
    daemon.stop_and_expect_no_orphans();
}

/// What a manifest says of an action is asked about once, before the start; and by a directory plugin whose manifest says it first too.
#[test]
fn what_the_manifest_says_is_not_asked_about_twice() {
    let ask = "[permissions]\ndefinitions = \"ask\"\n";
    let stating = |version: &str, description: &str| {
        let told = json!([{"name": "echo", "description": "Says it again"}, {"name": "wait"}]);
        announcing(version, &told).with("actions", json!([{"name": "echo", "description": description}]))
    };
    let daemon = Daemon::start(DaemonOptions::with([stating("1.0.0", "one")]).configuration(ask));
    call(&daemon).expect("it is the first");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.stop()).configuration(ask));
    install(&daemon, &stating("1.1.0", "another"));
    assert_eq!(pending(&daemon), ["guest 1.1.0"], "it need not be started for that");
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it agrees");
    assert_eq!(call_exactly(&daemon, "=1.1.0").expect("that was all there is"), 1);
    daemon.stop_and_expect_no_orphans();
}

/// Where the configuration decides what a plugin may do, its actions are still an operator's to agree to.
#[test]
fn definitions_are_agreed_to_also_where_the_configuration_grants() {
    let configuration = "[permissions]\n[plugins.guest]\ngrant = []\n";
    let daemon = Daemon::start(DaemonOptions::with([]).configuration(configuration));
    install(&daemon, &announcing("1.0.0", &json!([{"name": "echo"}])));
    call(&daemon).expect("it is the first");
    let grant = json!({"plugin": "guest"});
    let refused = error(daemon.operate("grant", &grant), ErrorCode::InvalidParams);
    expect_text(&refused.message, "plugins.guest.grant");
    install(&daemon, &announcing("1.1.0", &json!([{"name": "echo", "description": "other"}])));
    error(call_exactly(&daemon, "=1.1.0"), ErrorCode::ConsentRequired);
    daemon.operate("grant", &grant).expect("nobody else can agree to it");
    assert_eq!(call_exactly(&daemon, "=1.1.0").expect("it is agreed to"), 1);
    daemon.stop_and_expect_no_orphans();
}

/// A running plugin does not keep what was taken back, not even to finish a call.
#[test]
fn what_is_taken_back_is_gone_at_once() {
    let (_folder, path) = files();
    let asks = json!([{"file_read": [path]}, "execute_code"]);
    let daemon = Daemon::start(DaemonOptions::with([guest("1.0.0", &asks)]).configuration(ASK));
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it is asked for");
    assert_eq!(reads(&daemon, &path), "ok");
    let before = daemon.process_of("guest");
    let mut agent = daemon.agent();
    let waits = agent.begin("guest", "wait", &json!(null));
    daemon.wait_until("guest", "a call under way", |status| status.calls.in_flight == 1);
    let revoked = json!({"plugin": "guest", "permissions": ["file_read"]});
    daemon.operate("revoke", &revoked).expect("it was granted");
    error(agent.finish(waits), ErrorCode::Unavailable);
    wait_for("the end of the process that had more", || {
        (!PathBuf::from(format!("/proc/{before}")).exists()).then_some(())
    });
    // It ran, so it goes on without anybody's call.
    daemon.wait_until("guest", "a process with less", |status| status.is("active"));
    assert_eq!(reads(&daemon, &path), "ENOENT");
    let who = who();
    assert_eq!(
        decided(&daemon, "*"),
        [format!("file_read:{path} denied {who}"), format!("execute_code granted {who}")]
    );

    let granted = json!({"plugin": "guest", "permissions": [format!("file_read:{path}")]});
    daemon.operate("grant", &granted).expect("it is asked for");
    assert_eq!(reads(&daemon, &path), "ok");
    daemon.operate("revoke", &json!({"plugin": "guest", "stop": true})).expect("it was granted");
    assert!(daemon.status("guest").is("stopped"));
    error(call(&daemon), ErrorCode::Unavailable);
    daemon.operate("start", &json!({"plugin": "guest"})).expect("it can go on with nothing");
    assert_eq!(reads(&daemon, &path), "ENOENT");
    daemon.operate("revoke", &json!({"plugin": "guest", "forget": true})).expect("it is forgotten");
    assert_eq!(pending(&daemon), ["guest 1.0.0"]);
    daemon.stop_and_expect_no_orphans();
}

/// The configuration decides without asking, and nobody decides otherwise.
#[test]
fn the_configuration_goes_before() {
    let (_folder, path) = files();
    let asks = json!([{"file_read": [path]}, "execute_code"]);
    let rules =
        format!("[permissions]\nrules = [{{ permission = \"file_read\", scope = [{path:?}], decision = \"deny\" }},\n");
    let source = "{ source = \"SOURCE\", decision = \"allow\" }]\n";
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let options = DaemonOptions::with([guest("1.0.0", &asks)]);
    let configuration = rules + &source.replace("SOURCE", &folder.path().join("plugins").display().to_string());
    let daemon = Daemon::start(options.configuration(&configuration).folder(folder));
    let all = [
        format!("file_read:{path} denied permissions.rules[0]"),
        "execute_code granted permissions.rules[1]".to_owned(),
    ];
    assert_eq!(decided(&daemon, "*"), all);
    expect_echo(&daemon, "guest");
    let refused = json!({"plugin": "guest", "permissions": [format!("file_read:{path}")]});
    let refused = error(daemon.operate("grant", &refused), ErrorCode::PermissionDenied);
    assert_eq!(refused.message, format!("file_read:{path} is denied by `permissions.rules[0]` in palisade.toml"));
    // What a rule allows an operator can take back.
    daemon.operate("revoke", &json!({"plugin": "guest", "permissions": ["execute_code"]})).expect("it is granted");
    assert_eq!(decided(&daemon, "*")[1], format!("execute_code denied {}", who()));
    daemon.stop_and_expect_no_orphans();

    let configured = format!("{ASK}[plugins.guest]\ngrant = [{{ file_read = [{path:?}] }}]\n");
    let daemon = Daemon::start(DaemonOptions::with([guest("1.0.0", &asks)]).configuration(&configured));
    let all =
        [format!("file_read:{path} granted plugins.guest.grant"), "execute_code denied plugins.guest.grant".to_owned()];
    assert_eq!(decided(&daemon, "*"), all);
    for operation in ["grant", "revoke"] {
        let refused = error(daemon.operate(operation, &json!({"plugin": "guest"})), ErrorCode::InvalidParams);
        assert_eq!(refused.message, "what guest may do is decided by `plugins.guest.grant` in palisade.toml");
    }
    daemon.stop_and_expect_no_orphans();
}

/// Losing what was said loses no permission's fence.
#[test]
fn without_its_database_everything_is_asked_for_again() {
    let daemon = Daemon::start(DaemonOptions::with([guest("1.0.0", &json!(["execute_code"]))]).configuration(ASK));
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it is asked for");
    expect_echo(&daemon, "guest");
    let folder = daemon.kill_nine();
    let database = folder.path().join("state/registry.sqlite3");
    fs::write(&database, b"no database at all, and long enough to be none".repeat(20)).expect("it is ours");
    for suffix in ["-wal", "-shm"] {
        let beside = folder.path().join(format!("state/registry.sqlite3{suffix}"));
        if beside.exists() {
            fs::remove_file(beside).expect("it is ours");
        }
    }
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(ASK));
    error(call(&daemon), ErrorCode::ConsentRequired);
    assert_eq!(pending(&daemon), ["guest 1.0.0"]);
    daemon.stop_and_expect_no_orphans();
}

/// What an operator takes away is away also where nobody can write it down, which he is told; what he gives is not given then.
#[test]
fn what_is_taken_back_is_gone_whatever_can_be_written_down() {
    let (_folder, path) = files();
    let asks = json!([{"file_read": [path]}, "execute_code"]);
    let daemon = Daemon::start(DaemonOptions::with([guest("1.0.0", &asks)]).configuration(ASK));
    let granted = daemon.operate("grant", &json!({"plugin": "guest"})).expect("it is asked for");
    assert_eq!((&granted["not_kept"], reads(&daemon, &path)), (&Value::Null, json!("ok")));
    // By then it is written what serves: the files are not taken from under a write.
    daemon.operate("rescan", &json!({})).expect("it looks");
    let_it_write_nothing(&daemon);

    let ran = palisade(&daemon.socket(), &["revoke", "guest", "file_read"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let told = "palisade: warning: this holds until the daemon ends, as it could not be written down: the registry's database ";
    expect_text(&ran.stderr, told);
    assert_eq!(reads(&daemon, &path), "ENOENT");
    let wanted = json!({"plugin": "guest", "permissions": [format!("file_read:{path}")]});
    let is_not_written = |outcome: Result<Value, ErrorBody>| {
        let refused = outcome.expect_err("it cannot be written down");
        let whose = (refused.code, refused.fault, refused.retryable);
        assert_eq!(whose, (ErrorCode::ResourceExhausted, Fault::Host, true), "{refused}");
    };
    is_not_written(daemon.operate("grant", &wanted));
    assert_eq!(reads(&daemon, &path), "ENOENT");

    let ran = palisade(&daemon.socket(), &["disable", "guest"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    expect_text(&ran.stderr, told);
    error(call(&daemon), ErrorCode::Unavailable);
    is_not_written(daemon.operate("enable", &json!({"plugin": "guest"})));
    error(call(&daemon), ErrorCode::Unavailable);

    let forgotten = daemon.operate("revoke", &json!({"plugin": "guest", "forget": true})).expect("it is forgotten");
    expect_text(forgotten["not_kept"].as_str().unwrap_or_default(), "this holds until the daemon ends");
    assert_eq!(pending(&daemon), ["guest 1.0.0"]);
    daemon.stop_and_expect_no_orphans();
}

/// Where the database is in memory alone, whoever says something is told that it ends with the daemon.
#[test]
fn what_is_said_to_a_daemon_that_forgets_is_told_to_be_forgotten() {
    let daemon = Daemon::start(DaemonOptions::with([guest("1.0.0", &json!(["execute_code"]))]).configuration(ASK));
    let folder = daemon.kill_nine();
    let database = folder.path().join("state/registry.sqlite3");
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.path().join(format!("state/registry.sqlite3{end}")));
    }
    fs::create_dir(&database).expect("it is ours");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(ASK));
    for (operation, parameters) in [
        ("grant", json!({"plugin": "guest"})),
        ("deprecate", json!({"plugin": "guest"})),
        ("disable", json!({"plugin": "guest"})),
        ("enable", json!({"plugin": "guest"})),
        ("revoke", json!({"plugin": "guest"})),
    ] {
        let said = daemon.operate(operation, &parameters).expect("it holds for now");
        let told = said["not_kept"].as_str().unwrap_or_default();
        assert!(
            told.starts_with("the registry's database cannot be used, so this holds until the daemon ends"),
            "{said}"
        );
    }
    daemon.stop_and_expect_no_orphans();
}

/// Somebody at a terminal is shown what is asked for, and why, and what he answers is done.
#[test]
fn at_a_terminal_the_question_is_asked() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASK));
    let asks = json!([{"permission": "execute_code", "reason": "It runs pdftotext."}]);
    let package = guest("1.0.0", &json!([])).with("permissions_required", asks);
    let folder = package.write(&daemon.path().join("elsewhere"), daemon.marker());
    let at_a_terminal = |arguments: &str, answer: &str| {
        let line = format!("{} --socket {} {arguments}", built("palisade").display(), daemon.socket().display());
        let mut script = command("script");
        script.env("NO_COLOR", "1");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = script.spawn().expect("script can be executed");
        child.stdin.take().expect("it is piped").write_all(answer.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (status, shown) = at_a_terminal(&format!("install {}", folder.display()), "n\n");
    assert_eq!(status, Some(0), "{shown}");
    for text in ["guest 1.0.0 is installed", "execute_code  asked", "It runs pdftotext.", "Grant all of this? [y/N]"] {
        expect_text(&shown, text);
    }
    expect_text(&shown, "nothing is granted, and it takes no calls");
    assert_eq!(pending(&daemon), ["guest 1.0.0"]);
    let (status, shown) = at_a_terminal("grant guest", "y\n");
    assert_eq!(status, Some(0), "{shown}");
    expect_text(&shown, "execute_code  granted");
    expect_echo(&daemon, "guest");
    let (status, shown) = at_a_terminal("grant guest", "");
    assert_eq!(status, Some(0), "{shown}");
    expect_text(&shown, "guest waits for nobody's consent");
    daemon.stop_and_expect_no_orphans();
}

/// What was said holds for the plugin, in whatever version it runs.
#[test]
fn what_is_taken_back_is_taken_from_every_version() {
    let (_folder, path) = files();
    let asks = json!([{"file_read": [path]}]);
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASK));
    for version in ["1.0.0", "1.1.0"] {
        install(&daemon, &guest(version, &asks));
    }
    assert_eq!(pending(&daemon), ["guest 1.0.0", "guest 1.1.0"]);
    daemon.operate("grant", &json!({"plugin": "guest", "version": "1.0.0"})).expect("it is asked for");
    assert_eq!(pending(&daemon), [""; 0], "the same was asked for by both");
    let read = json!([format!("read {path}/file")]);
    let reads = |version: &str| {
        let mut agent = daemon.agent();
        let call = Call { action: "files", plugin: Some("guest"), version: Some(version), ..Call::default() };
        let id = agent.begin_with(&call, &pack(&read));
        agent.finish(id).expect("it answers")[format!("read {path}/file")].clone()
    };
    assert_eq!((reads("=1.0.0"), reads("=1.1.0")), (json!("ok"), json!("ok")));
    daemon.operate("revoke", &json!({"plugin": "guest", "permissions": ["file_read"]})).expect("it was granted");
    assert_eq!((reads("=1.0.0"), reads("=1.1.0")), (json!("ENOENT"), json!("ENOENT")));
    daemon.stop_and_expect_no_orphans();
}

/// Neither a plugin that takes its time to end nor whoever waits for that holds up what is taken back from another.
#[test]
fn nobody_is_waited_for_to_take_something_back() {
    let (_folder, path) = files();
    let slow = Package::echo().with("limits", json!({"drain_timeout_seconds": 600}));
    let packages = [guest("1.0.0", &json!([{"file_read": [path]}])), slow];
    let daemon = Daemon::start(DaemonOptions::with(packages).configuration(ASK));
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it is asked for");
    assert_eq!(reads(&daemon, &path), "ok");
    let mut agent = daemon.agent();
    let waits = agent.begin("echo", "slow", &json!({"ms": 300_000}));
    daemon.wait_until("echo", "a call under way", |status| status.calls.in_flight == 1);
    let mut operator = daemon.agent();
    let disabling = operator.begin("palisade", "disable", &json!({"plugin": "echo"}));
    daemon.wait_until("echo", "its end", |status| status.is("stopping"));
    daemon.operate("revoke", &json!({"plugin": "guest", "permissions": ["file_read"]})).expect("it was granted");
    assert_eq!(reads(&daemon, &path), "ENOENT");
    let status = daemon.status("echo");
    assert!(status.is("stopping") && status.calls.in_flight == 1, "the other still waits");
    agent.cancel(waits);
    error(agent.finish(waits), ErrorCode::Cancelled);
    operator.finish(disabling).expect("it is disabled");
    daemon.stop_and_expect_no_orphans();
}

/// A package is where it is, and not where a path says that it is.
#[test]
fn a_path_with_detours_is_not_taken_for_what_it_begins_with() {
    let (_folder, path) = files();
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let trusted = folder.path().join("trusted");
    let configuration = format!(
        "[trust]\npolicy = \"checksum\"\n[trust.sources.{trusted:?}]\npolicy = \"none\"\n\
         [permissions]\nrules = [{{ decision = \"allow\", source = {trusted:?} }}]\n"
    );
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(&configuration));
    let trusted = daemon.path().join("trusted");
    fs::create_dir_all(trusted.join("x")).expect("it is ours");
    let package = guest("1.0.0", &json!([{"file_read": [path]}])).write(&daemon.path().join("evil"), daemon.marker());
    fs::create_dir(package.join("y")).expect("it is ours");
    let link = trusted.join("link");
    std::os::unix::fs::symlink(&package, &link).expect("it is ours");
    let detours = [
        format!("{}/x/../../evil/guest", trusted.display()),
        format!("{}/x/../../evil/guest/y/..", trusted.display()),
        format!("file://{}/x/../../evil/guest/y/..", trusted.display()),
        link.display().to_string(),
    ];
    for detour in &detours {
        error(daemon.operate("install", &json!({ "path": detour })), ErrorCode::ChecksumMissing);
    }
    let good = guest("1.0.0", &json!([{"file_read": [path]}])).write(&trusted, daemon.marker());
    daemon.operate("install", &json!({ "path": good })).expect("it lies where it may");
    assert_eq!(decided(&daemon, "*"), [format!("file_read:{path} granted permissions.rules[0]")]);
    daemon.stop_and_expect_no_orphans();
}

/// Of what was installed somebody has agreed to the actions; if that is not known any more, it is asked about.
#[test]
fn what_was_forgotten_of_actions_is_asked_about() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration(ASK));
    install(&daemon, &guest("1.0.0", &json!([])));
    expect_echo(&daemon, "guest");
    // The version before has said nothing of its actions.
    let stated = json!([{"name": "echo", "description": "Says it again"}]);
    install(&daemon, &guest("1.1.0", &json!([])).with("actions", stated));
    assert_eq!(pending(&daemon), ["guest 1.1.0"]);
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it waits");
    assert_eq!(pending(&daemon), [""; 0]);
    daemon.operate("revoke", &json!({"plugin": "guest", "forget": true})).expect("it is there");
    assert_eq!(pending(&daemon), ["guest 1.0.0", "guest 1.1.0"]);
    let refused = error(call(&daemon), ErrorCode::ConsentRequired);
    expect_text(&refused.message, "to its actions, as it is not known that anybody has agreed to them");
    daemon.operate("grant", &json!({"plugin": "guest", "version": "1.1.0"})).expect("it waits");
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}
