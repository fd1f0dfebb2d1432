//! Newer versions of what was installed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use palisade_protocol::{Call, ErrorBody, ErrorCode, Kind};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::process;
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

use crate::cli::palisade;
use crate::reload::kill_while;
use crate::state::{ask, get, put};
use crate::support::{error, expect_echo, expect_text, in_the_guest};

fn guest(version: &str) -> Package {
    Package::hostile("guest", "tame").with("version", json!(version)).environment("HOSTILE_VERSION", version)
}

/// Makes it in the one folder that there is for it.
fn write(daemon: &Daemon, package: &Package) -> PathBuf {
    package.write(&daemon.path().join("elsewhere"), daemon.marker())
}

fn update(daemon: &Daemon, more: &Value) -> Result<Value, ErrorBody> {
    let mut wanted = json!({"plugin": "guest"});
    wanted.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    daemon.operate("update", &wanted).map(|updates| updates["updates"][0].clone())
}

/// The versions of the guest, each with whether it is enabled.
fn versions(daemon: &Daemon) -> Vec<String> {
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    let guests = list["plugins"].as_array().expect("a list").iter().filter(|one| one["id"] == "guest");
    guests.map(|one| format!("{} {}", one["version"], one["enabled"]).replace('"', "")).collect()
}

#[test]
fn an_update_comes_from_where_the_plugin_came_and_leaves_the_version_before() {
    let daemon = Daemon::with([Package::echo()]);
    let folder = write(&daemon, &guest("1.0.0"));
    daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
    let current = update(&daemon, &json!({})).expect("it is there");
    assert_eq!((&current["version"], &current["updated"]), (&json!("1.0.0"), &json!(false)));
    write(&daemon, &guest("1.1.0"));
    let updated = update(&daemon, &json!({})).expect("there is a newer one");
    assert_eq!((&updated["from"], &updated["version"]), (&json!("1.0.0"), &json!("1.1.0")));
    assert_eq!((&updated["updated"], &updated["source"]), (&json!(true), &json!(folder)));
    assert_eq!(versions(&daemon), ["1.0.0 true", "1.1.0 true"]);
    let serving = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!(serving["version"], "1.1.0");
    expect_echo(&daemon, "guest");

    // An older one is no update.
    write(&daemon, &guest("1.0.5"));
    let older = update(&daemon, &json!({})).expect("it is there");
    assert_eq!(
        (&older["updated"], &older["version"], &older["found"]),
        (&json!(false), &json!("1.1.0"), &json!("1.0.5"))
    );
    // What its operator has disabled is not enabled by an update.
    daemon.operate("disable", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is there");
    write(&daemon, &guest("1.2.0"));
    update(&daemon, &json!({})).expect("there is a newer one");
    assert_eq!(versions(&daemon), ["1.0.0 true", "1.1.0 false", "1.2.0 false"]);
    daemon.stop_and_expect_no_orphans();
}

/// What may break somebody is confirmed, and what is no update changes nothing.
#[test]
fn a_new_major_version_has_to_be_confirmed() {
    let daemon = Daemon::with([Package::echo()]);
    let folder = write(&daemon, &guest("1.0.0"));
    daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
    write(&daemon, &guest("2.0.0"));
    let refused = error(update(&daemon, &json!({})), ErrorCode::ConsentRequired);
    assert_eq!(refused.message, "guest 2.0.0 is a new major version after 1.0.0, and may break whoever uses it");
    expect_text(&refused.hint.unwrap_or_default(), "`palisade update --major guest`");
    let all = daemon.operate("update", &json!({})).expect("each is told by itself");
    assert_eq!(all["failed"][0]["code"], "consent_required", "{all}");

    let other = Package::hostile("other", "tame").write(&daemon.path().join("other"), daemon.marker());
    let refused = error(update(&daemon, &json!({ "path": other })), ErrorCode::InvalidParams);
    expect_text(&refused.message, "is other and not guest");
    let refused = error(daemon.operate("update", &json!({"plugin": "echo"})), ErrorCode::InvalidParams);
    expect_text(&refused.message, "no version of echo was installed: 0.1.0 lies in ");
    let refused = error(daemon.operate("update", &json!({"plugin": "nobody"})), ErrorCode::PluginNotFound);
    expect_text(&refused.message, "nobody");
    let refused = error(daemon.operate("update", &json!({ "path": other })), ErrorCode::InvalidParams);
    expect_text(&refused.message, "is that of one plugin");
    fs::rename(&folder, daemon.path().join("moved")).expect("it is ours");
    let refused = error(update(&daemon, &json!({})), ErrorCode::InvalidParams);
    expect_text(&refused.hint.unwrap_or_default(), "guest was installed from there, and that is gone");
    assert_eq!(versions(&daemon), ["1.0.0 true"]);

    let moved = daemon.path().join("moved");
    let refused = error(update(&daemon, &json!({"path": moved, "version": "^1"})), ErrorCode::ConsentRequired);
    let again = format!("`palisade update --major guest@^1 --from {}` installs it", moved.display());
    assert_eq!(refused.hint, Some(again));
    let updated = update(&daemon, &json!({"path": moved, "major": true})).expect("it was confirmed");
    assert_eq!(updated["version"], "2.0.0");
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// What others depend on is not updated to a version that lacks an action it had, unless that is forced: calls of theirs would go there. Who
/// does not take the new version has the one before, and need not be minded.
#[test]
fn a_version_that_drops_what_others_depend_on_is_not_installed() {
    let daemon = Daemon::with([Package::echo()]);
    let told = |version: &str, actions: &[&str]| {
        let actions: Vec<_> = actions.iter().map(|name| json!({ "name": name })).collect();
        guest(version).environment("HOSTILE_ACTIONS", &json!(actions).to_string())
    };
    let needs = |id: &str, versions: &str| {
        let needs = json!({"plugins": [{"id": "guest", "version": versions}]});
        let package = Package::hostile(id, "tame").with("dependencies", needs);
        let folder = package.write(&daemon.path().join("elsewhere"), daemon.marker());
        daemon.operate("install", &json!({ "path": folder })).expect("what it needs is there");
    };
    let folder = write(&daemon, &told("1.0.0", &["echo", "wait"]));
    daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
    needs("exact", "=1.0.0");
    expect_echo(&daemon, "guest");
    write(&daemon, &told("1.1.0", &["echo"]));
    assert_eq!(update(&daemon, &json!({})).expect("nobody minds")["updated"], true);
    daemon.operate("uninstall", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is installed");

    needs("needs", "^1");
    let why = "guest 1.1.0 has no action wait any more, and needs 0.1.0 depends on guest";
    for operation in ["install", "update"] {
        let done = match operation {
            "install" => daemon.operate("install", &json!({ "path": folder })),
            _ => update(&daemon, &json!({})),
        };
        let refused = error(done, ErrorCode::DependencyUnavailable);
        assert_eq!(refused.message, why);
        expect_text(&refused.hint.unwrap_or_default(), "update needs first, or disable it");
    }
    assert_eq!(versions(&daemon), ["1.0.0 true"]);
    expect_echo(&daemon, "guest");
    // One that has them all is no trouble, and who insists has the other.
    let forced = update(&daemon, &json!({"force": true})).expect("it is forced");
    assert_eq!((&forced["version"], &forced["updated"]), (&json!("1.1.0"), &json!(true)));
    write(&daemon, &told("1.2.0", &["echo", "wait"]));
    assert_eq!(update(&daemon, &json!({})).expect("it has all")["version"], "1.2.0");
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// One that is quickly packed, and is not run, nor tried.
fn small(version: &str) -> Package {
    let package = Package::new("guest", Entry::Bytes(b"#!/bin/sh\nexit 3\n".to_vec()));
    package.with("version", json!(version)).with("default_enabled", json!(false))
}

/// Makes an archive of it by the name that `palisade pack` gives it, in the one folder that there is for them.
fn pack(daemon: &Daemon, package: &Package, name: &str) -> PathBuf {
    let folder = write(daemon, package);
    let archives = daemon.path().join("archives");
    fs::create_dir_all(&archives).expect("the folder is ours");
    let archive = archives.join(name);
    palisaded::archive::pack(&folder, "guest", &mut File::create(&archive).expect("it is ours")).expect("it is packed");
    archive
}

#[test]
fn what_came_from_an_archive_with_its_version_is_updated_from_the_newest_beside_it() {
    let daemon = Daemon::with([Package::echo()]);
    let first = pack(&daemon, &small("1.0.0"), "guest-1.0.0.tar.zst");
    daemon.operate("install", &json!({ "path": first })).expect("it is installed");
    assert_eq!(update(&daemon, &json!({})).expect("it is there")["found"], "1.0.0");
    let newest = pack(&daemon, &small("1.2.0"), "guest-1.2.0.tar.zst");
    pack(&daemon, &small("1.1.0"), "guest-1.1.0.tar.gz");
    pack(&daemon, &small("2.0.0"), "guest-2.0.0.tar.zst");
    fs::remove_file(first).expect("it is not needed any more");
    let updated = update(&daemon, &json!({})).expect("there is a newer one");
    assert_eq!((&updated["version"], &updated["source"]), (&json!("1.2.0"), &json!(newest)));
    error(update(&daemon, &json!({})), ErrorCode::ConsentRequired);
    assert_eq!(update(&daemon, &json!({"major": true})).expect("it was confirmed")["version"], "2.0.0");

    // What a version specifies is updated, and not another one.
    let refused = error(update(&daemon, &json!({"version": "^1"})), ErrorCode::ConsentRequired);
    expect_text(&refused.message, "2.0.0 is a new major version after 1.2.0");
    let patch = pack(&daemon, &small("1.2.1"), "guest-1.2.1.tar.zst");
    let updated = update(&daemon, &json!({"version": "1.2.0"})).expect("there is a newer one");
    assert_eq!((&updated["version"], &updated["source"]), (&json!("1.2.1"), &json!(patch)));
    error(update(&daemon, &json!({"version": "^3"})), ErrorCode::VersionNotFound);
    let alone = daemon.operate("update", &json!({"version": "^1"}));
    expect_text(&error(alone, ErrorCode::InvalidParams).message, "a version is that of one plugin");

    // A name is no proof.
    let other = Package::new("other", Entry::Bytes(b"#!/bin/sh\n".to_vec())).with("version", json!("2.1.0"));
    pack(&daemon, &other, "guest-2.1.0.tar.zst");
    let refused = error(update(&daemon, &json!({})), ErrorCode::InvalidParams);
    expect_text(&refused.message, "guest-2.1.0.tar.zst is other and not guest");
    assert_eq!(versions(&daemon), ["1.0.0 false", "1.2.0 false", "1.2.1 false", "2.0.0 false"]);
    daemon.stop_and_expect_no_orphans();
}

/// A version of a plugin that serves, and does not say so before it is asked.
fn edition(id: &str, version: &str, mode: &str) -> Package {
    let package = Package::hostile(id, mode).with("version", json!(version)).with("restart", json!("never"));
    package.environment("HOSTILE_VERSION", version)
}

/// A daemon of which nobody notices what is changed before it is asked to look.
fn unwatched(text: &str) -> DaemonOptions {
    DaemonOptions::with([Package::echo()]).configuration(&format!("watch = false\n{text}"))
}

/// Puts a package into the plugin directory, in a folder of that name.
fn place(daemon: &Daemon, name: &str, package: &Package) {
    let whole = package.write(&daemon.path().join("staging"), daemon.marker());
    let target = daemon.plugins().join(name);
    let _ = fs::remove_dir_all(&target);
    fs::rename(whole, target).expect("it is ours");
}

fn rescan(daemon: &Daemon) -> Value {
    daemon.operate("rescan", &json!({})).expect("it looks")
}

fn status(daemon: &Daemon, target: &str) -> Value {
    let (plugin, version) = target.split_once('@').map_or((target, None), |(plugin, version)| (plugin, Some(version)));
    daemon.operate("status", &json!({"plugin": plugin, "version": version})).expect("it is known")
}

/// The version that calls get which name none.
fn serving(daemon: &Daemon, plugin: &str) -> String {
    expect_echo(daemon, plugin);
    status(daemon, plugin)["version"].as_str().expect("a text").to_owned()
}

/// What holds a version back.
fn held(daemon: &Daemon, target: &str) -> Value {
    status(daemon, target)["held"]["by"].clone()
}

/// What `update --check` says of a plugin: the newest version, its kind, and what holds it back.
fn newest(daemon: &Daemon, plugin: &str) -> [Value; 3] {
    let answer = daemon.operate("update", &json!({"plugin": plugin, "check": true})).expect("it looks");
    ["newest", "kind", "held_by"].map(|field| answer["available"][0][field].clone())
}

/// Events from now on.
struct Events(Agent, u64);

impl Events {
    fn of(daemon: &Daemon) -> Self {
        let mut agent = daemon.agent();
        let id = agent.begin("palisade", "events", &json!({"follow": true}));
        assert_eq!(agent.next_of(id).kind, Some(Kind::StreamOpen));
        Self(agent, id)
    }

    /// Those of some kinds that were there until now, as `kind plugin version`.
    fn until_now(&mut self, daemon: &Daemon, kinds: &[&str]) -> Vec<String> {
        let last = ["disable", "enable"].map(|operation| {
            daemon.operate(operation, &json!({"plugin": "echo"})).expect("it is there");
            format!("package_{operation}d echo 0.1.0")
        });
        let mut all = Vec::new();
        loop {
            let event = self.0.next_of(self.1).value();
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            let told = format!("{} {} {}", text("kind"), text("plugin"), text("version"));
            if told == last[1] {
                return all;
            }
            if kinds.contains(&text("kind").as_str()) {
                all.push(told);
            }
        }
    }
}

/// What may not run beside the one that serves, or brings what that keeps into another form, waits for its operator under any policy, and says so.
#[test]
fn what_is_not_tried_by_itself_is_told_and_waits() {
    let daemon = Daemon::start(unwatched(""));
    let alone = |version| edition("alone", version, "tame").with("exclusive", json!(true));
    let keeping =
        |version, schema: u32, mode| edition("keeps", version, mode).with("state", json!({"schema_version": schema}));
    place(&daemon, "alone-before", &alone("1.0.0"));
    place(&daemon, "keeps-before", &keeping("1.0.0", 1, "tame"));
    rescan(&daemon);
    assert_eq!([serving(&daemon, "alone"), serving(&daemon, "keeps")], ["1.0.0", "1.0.0"]);
    ask(&daemon, "keeps", &[put("a", &json!("one"))]);
    let mut events = Events::of(&daemon);
    place(&daemon, "alone-after", &alone("1.1.0"));
    let migrated = json!({"asks": [put("a", &json!("two")), {"op": "state.migrated", "params": {"schema": 2}}]});
    let brings = keeping("1.1.0", 2, "asks-before-ready").environment("HOSTILE_ASKS", &migrated.to_string());
    place(&daemon, "keeps-after", &brings);
    (0..2).for_each(|_| drop(rescan(&daemon)));
    let mut told = events.until_now(&daemon, &TOLD[..1]);
    told.sort();
    assert_eq!(told, ["update_available alone 1.1.0", "update_available keeps 1.1.0"]);
    let report = daemon.operate("doctor", &json!({})).expect("there is a report")["checks"].to_string();
    for id in ["alone", "keeps"] {
        assert_eq!(serving(&daemon, id), "1.0.0");
        assert_eq!(newest(&daemon, id), [json!("1.1.0"), json!("minor"), json!("untried")]);
        assert_eq!(status(&daemon, id)["update"], json!({"version": "1.1.0", "kind": "minor"}));
        let reason = status(&daemon, &format!("{id}@=1.1.0"))["held"]["reason"].clone();
        expect_text(reason.as_str().expect("a sentence"), &format!("`palisade update {id}` takes it"));
        expect_text(&report, &format!("{id} 1.1.0 is an update that waits: it may not run beside"));
        daemon.operate("update", &json!({"plugin": id})).expect("it is wanted");
        assert_eq!(serving(&daemon, id), "1.1.0");
        // The one before has no process beside it.
        assert_eq!(status(&daemon, &format!("{id}@=1.0.0"))["generations"], json!([]));
    }
    assert_eq!(ask(&daemon, "keeps", &[get("a")])[0]["ok"]["value"], "two");
    daemon.stop_and_expect_no_orphans();
}

/// A newer one that was taken since, or another daemon, makes one that has failed no better.
#[test]
fn what_has_failed_is_held_whatever_serves_since() {
    let mut daemon = Daemon::start(unwatched(""));
    place(&daemon, "before", &edition("guest", "1.0.0", "tame"));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.0.0");
    place(&daemon, "bad", &edition("guest", "1.1.0", "exit-at-once"));
    rescan(&daemon);
    assert_eq!((serving(&daemon, "guest"), held(&daemon, "guest@=1.1.0")), ("1.0.0".into(), json!("failed")));
    place(&daemon, "good", &edition("guest", "1.2.0", "tame"));
    rescan(&daemon);
    for _ in 0..2 {
        assert_eq!((serving(&daemon, "guest"), held(&daemon, "guest@=1.1.0")), ("1.2.0".into(), json!("failed")));
        daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    }
    // Who names it has it.
    daemon.operate("update", &json!({"plugin": "guest", "to_version": "1.1.0"})).expect("it is wanted");
    assert_eq!(held(&daemon, "guest@=1.1.0"), Value::Null);
    daemon.stop_and_expect_no_orphans();
}

/// A version whose state has that form, and that brings what is there into it where that is not the first.
fn in_form(version: &str, schema: u32) -> Package {
    let mode = if schema == 1 { "tame" } else { "asks-before-ready" };
    let package = edition("guest", version, mode).with("state", json!({ "schema_version": schema }));
    let migrated = json!({"op": "state.migrated", "params": { "schema": schema }});
    let asks = json!({"asks": [put("a", &json!(schema)), migrated]});
    if schema == 1 { package } else { package.environment("HOSTILE_ASKS", &asks.to_string()) }
}

fn kept(daemon: &Daemon) -> Value {
    ask(daemon, "guest", &[get("a")])[0]["ok"]["value"].clone()
}

/// Where it was installed as where it lies in a plugin directory: the version before ends, calls wait, the state is brought over once; and what
/// fails soon after is taken back with the state, and what it wrote is kept aside.
#[test]
fn an_update_with_state_of_another_form_takes_it_over_and_is_taken_back_with_it() {
    for is_installed in [true, false] {
        let daemon = Daemon::start(unwatched(""));
        let bring = |package: &Package, folder: &str| {
            if is_installed { drop(write(&daemon, package)) } else { place(&daemon, folder, package) }
        };
        bring(&in_form("1.0.0", 1), "before");
        if is_installed {
            daemon.operate("install", &json!({"path": write(&daemon, &in_form("1.0.0", 1))})).expect("it is installed");
        } else {
            rescan(&daemon);
        }
        ask(&daemon, "guest", &[put("a", &json!(1))]);
        bring(&in_form("1.1.0", 2), "after");
        rescan(&daemon);
        let stop = AtomicBool::new(false);
        let (called, updated) = std::thread::scope(|scope| {
            let calls = scope.spawn(|| {
                let mut agent = daemon.agent();
                let mut called = 0;
                while !stop.load(Ordering::Relaxed) {
                    agent.call("guest", "echo", &json!(called)).expect("no call is lost");
                    called += 1;
                }
                called
            });
            let updated = update(&daemon, &json!({}));
            stop.store(true, Ordering::Relaxed);
            (calls.join().expect("the agent"), updated)
        });
        assert_eq!(updated.expect("there is a newer one")["version"], "1.1.0");
        assert!(called > 0);
        assert_eq!(serving(&daemon, "guest"), "1.1.0");
        assert_eq!(kept(&daemon), 2);
        let shown = daemon.operate("state_show", &json!({"plugin": "guest"})).expect("there is some");
        assert_eq!(shown["schema"], 2, "{shown}");
        // The one before cannot be had beside it.
        let mut agent = daemon.agent();
        let call = Call { action: "echo", plugin: Some("guest"), version: Some("=1.0.0"), ..Call::default() };
        let id = agent.begin_with(&call, &palisade_tests::wire::pack(&json!(null)));
        let refused = error(agent.collect(id).outcome, ErrorCode::InitializationFailed);
        expect_text(&refused.message, "its state was brought into schema 2 by a later version");
        expect_text(
            &refused.message,
            "guest 1.0.0 knows schema 1: 1.1.0 knows it, and takes calls; `palisade state export guest`",
        );

        ask(&daemon, "guest", &[put("a", &json!("nonsense"))]);
        error(daemon.agent().call("guest", "abort", &json!(null)), ErrorCode::Crashed);
        wait_for("the version before", || (status(&daemon, "guest")["version"] == "1.0.0").then_some(()));
        assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.0.0".to_owned(), json!(1)));
        let passed_over = status(&daemon, "guest")["passed_over"]["reason"].clone();
        let aside = passed_over.as_str().and_then(|reason| reason.split("what was written since is kept in ").nth(1));
        assert!(aside.is_some_and(|aside| std::path::Path::new(aside).exists()), "{passed_over}");
        daemon.stop_and_expect_no_orphans();
    }
}

/// A daemon that is killed before any step of that is followed by one that has the version before with what it kept, or the newer one with that in
/// its form.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_an_update_that_brings_the_state_over() {
    let stride = if in_the_guest() { 31 } else { 5 };
    let mut newer = 0;
    for step in (0..).step_by(stride) {
        let daemon = Daemon::start(unwatched(""));
        daemon.operate("install", &json!({"path": write(&daemon, &in_form("1.0.0", 1))})).expect("it is installed");
        ask(&daemon, "guest", &[put("a", &json!(1))]);
        write(&daemon, &in_form("1.1.0", 2));
        let begin = |agent: &mut Agent| agent.begin("palisade", "update", &json!({"plugin": "guest"}));
        let came_so_far = kill_while(&daemon, daemon.agent(), step, begin, |update, frame| frame.id == update);
        let Some(came_so_far) = came_so_far else { return };
        let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
        let now = (serving(&daemon, "guest"), kept(&daemon));
        let [old, new] = [("1.0.0".to_owned(), json!(1)), ("1.1.0".to_owned(), json!(2))];
        assert!(now == old || now == new, "step {step}: {now:?}");
        newer += usize::from(now == new);
        if now == new {
            // Whatever else it had come to, that is on probation, and the version before has its state to return to.
            let back = daemon.operate("rollback", &json!({"plugin": "guest"})).expect("it is on probation");
            assert_eq!(back["reloads"][0]["version"], "1.0.0", "step {step}: {back}");
            assert_eq!((serving(&daemon, "guest"), kept(&daemon)), old, "step {step}");
        }
        if !came_so_far {
            assert_eq!(now, new);
            break;
        }
        if now == new {
            continue;
        }
        // Whatever it was in the middle of can be done.
        let updated = update(&daemon, &json!({})).expect("it can");
        assert_eq!((&updated["version"], kept(&daemon)), (&json!("1.1.0"), json!(2)), "step {step}");
        daemon.stop_and_expect_no_orphans();
    }
    println!("killed while the newer one was to serve {newer} times");
}

/// What a new daemon makes of a probation in which the one before was killed, as the state folder is.
fn killed(daemon: Daemon, text: &str) -> Daemon {
    Daemon::start(unwatched_again(daemon, text))
}

fn unwatched_again(daemon: Daemon, text: &str) -> DaemonOptions {
    DaemonOptions::with([]).folder(daemon.kill_nine()).configuration(&quiet(text))
}

fn quiet(text: &str) -> String {
    format!("watch = false\n{text}")
}

/// A guest with a newer version on probation, however it came; with state of another form if that is so.
fn on_probation(way: &str, form: u32, text: &str) -> Daemon {
    let daemon = Daemon::start(unwatched(text));
    let bring = |version: &str, form: u32, folder: &str| {
        if way == "install" {
            let folder = write(&daemon, &in_form(version, form));
            daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
        } else {
            place(&daemon, folder, &in_form(version, form));
            rescan(&daemon);
        }
    };
    bring("1.0.0", 1, "before");
    assert_eq!(serving(&daemon, "guest"), "1.0.0");
    ask(&daemon, "guest", &[put("a", &json!(1))]);
    bring("1.1.0", form, "after");
    if way == "update" {
        update(&daemon, &json!({})).expect("there is a newer one");
    }
    assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.1.0".to_owned(), json!(form)));
    assert_eq!(status(&daemon, "guest")["probation"]["version"], "1.0.0");
    daemon
}

const LONG: &str = "[reload]\nprobation_seconds = 3600\n";

/// A newer version beside the one before is on probation for the next daemon as well, and as long as it would have been: what fails is taken back
/// with the state, and so it is where its operator says so.
#[test]
fn a_daemon_that_is_killed_in_a_probation_is_followed_by_one_that_goes_on_with_it() {
    for (way, form) in [("install", 2), ("update", 2), ("by itself", 1)] {
        for by_operator in [false, true] {
            let daemon = on_probation(way, form, LONG);
            let before = status(&daemon, "guest")["probation"].clone();
            let folder = daemon.kill_nine();
            if form == 2 {
                // As it is where that happens before the copy of the state has its name.
                let kept = folder.path().join("state/state/guest");
                let names: Vec<_> = fs::read_dir(&kept)
                    .expect("it keeps something")
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .filter(|name| name.starts_with("aside-"))
                    .collect();
                let [name] = names.as_slice() else { panic!("{names:?}") };
                fs::rename(kept.join(name), kept.join(name.replace("aside-", "undo-"))).expect("it is ours");
            }
            let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(&quiet(LONG)));
            // Also where it was asked to end.
            let folder = if by_operator { daemon.stop() } else { daemon.kill_nine() };
            let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(&quiet(LONG)));
            let now = status(&daemon, "guest");
            assert_eq!(
                (&now["version"], &now["probation"]["version"], &now["probation"]["digest"]),
                (&json!("1.1.0"), &before["version"], &before["digest"]),
                "{way}"
            );
            let until = |probation: &Value| probation["until_unix_ms"].as_u64().expect("a moment");
            assert!(until(&now["probation"]) <= until(&before) + 1_000, "{way}: {now} {before}");
            assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.1.0".to_owned(), json!(form)), "{way}");
            if form == 2 {
                ask(&daemon, "guest", &[put("a", &json!("since"))]);
            }
            if by_operator {
                let back = daemon.operate("rollback", &json!({"plugin": "guest"})).expect("it can");
                assert_eq!(back["reloads"][0]["version"], "1.0.0", "{way}: {back}");
            } else {
                error(daemon.agent().call("guest", "abort", &json!(null)), ErrorCode::Crashed);
                wait_for("the version before", || (status(&daemon, "guest")["version"] == "1.0.0").then_some(()));
            }
            let old = ("1.0.0".to_owned(), json!(1));
            assert_eq!((serving(&daemon, "guest"), kept(&daemon)), old, "{way}");
            let reason = status(&daemon, "guest")["passed_over"]["reason"].to_string();
            expect_text(
                &reason,
                if by_operator { "has returned to 1.0.0" } else { "it failed soon after it began to serve" },
            );
            assert_eq!(reason.contains("what was written since is kept in "), form == 2, "{reason}");
            // That is over, for every daemon.
            let daemon = killed(daemon, LONG);
            assert_eq!((serving(&daemon, "guest"), kept(&daemon)), old, "{way}");
            assert_eq!(status(&daemon, "guest")["probation"], Value::Null);
            daemon.stop_and_expect_no_orphans();
        }
    }
}

/// Once it is over nothing leads back, whether a daemon saw the end of it or none.
#[test]
fn a_probation_that_is_over_is_so_for_the_next_daemon() {
    let text = "[reload]\nprobation_seconds = 2\n";
    for is_seen in [false, true] {
        let daemon = on_probation("update", 2, text);
        let until = status(&daemon, "guest")["probation"]["until_unix_ms"].as_u64().expect("a moment");
        let is_over = || UNIX_EPOCH.elapsed().is_ok_and(|now| u128::from(until) < now.as_millis());
        let daemon = if is_seen {
            wait_for("the end of the probation", || status(&daemon, "guest")["probation"].is_null().then_some(()));
            killed(daemon, LONG)
        } else {
            let options = unwatched_again(daemon, LONG);
            wait_for("the end of the probation", || is_over().then_some(()));
            Daemon::start(options)
        };
        assert_eq!(status(&daemon, "guest")["probation"], Value::Null);
        assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.1.0".to_owned(), json!(2)));
        error(daemon.operate("rollback", &json!({"plugin": "guest"})), ErrorCode::InvalidParams);
        error(daemon.agent().call("guest", "abort", &json!(null)), ErrorCode::Crashed);
        let failed = || status(&daemon, "guest")["last_failure"].is_object().then_some(());
        wait_for("the failure", failed);
        assert_eq!(status(&daemon, "guest")["version"], "1.1.0");
        daemon.stop_and_expect_no_orphans();
    }
}

/// A daemon that is killed before any step of a return is followed by one that has the newer version with its state, on probation as before, or
/// comes to the end of the return.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_a_return_from_an_update() {
    let stride = if in_the_guest() { 31 } else { 3 };
    let mut older = 0;
    for step in (0..).step_by(stride) {
        let daemon = on_probation("update", 2, LONG);
        ask(&daemon, "guest", &[put("since", &json!(true))]);
        let begin = |agent: &mut Agent| agent.begin("palisade", "rollback", &json!({"plugin": "guest"}));
        let came_so_far = kill_while(&daemon, daemon.agent(), step, begin, |rollback, frame| frame.id == rollback);
        let Some(came_so_far) = came_so_far else { return };
        let daemon = killed(daemon, LONG);
        let old = ("1.0.0".to_owned(), json!(1));
        if status(&daemon, "guest")["version"] == "1.1.0" {
            // Nothing of it has happened.
            assert!(status(&daemon, "guest")["probation"].is_object(), "step {step}");
            assert_eq!(ask(&daemon, "guest", &[get("since")])[0]["ok"]["value"], true, "step {step}");
            daemon.operate("rollback", &json!({"plugin": "guest"})).expect("it is on probation");
        } else {
            older += 1;
        }
        assert_eq!((serving(&daemon, "guest"), kept(&daemon)), old, "step {step}");
        assert_eq!(status(&daemon, "guest")["probation"], Value::Null, "step {step}");
        if !came_so_far {
            break;
        }
        daemon.stop_and_expect_no_orphans();
    }
    println!("killed once the version before was to serve {older} times");
}

/// What was kept before an update brought it over and what was written since are named wherever that is told of, and can be read.
#[test]
fn what_was_put_aside_is_named_and_can_be_read() {
    let keys = tempfile::tempdir().expect("the temporary folder is writable");
    let key = keys.path().join("state.key");
    palisaded::vault::Vault::generate(&key).expect("the folder is ours");
    // Another user's daemon may not read a key of this one's.
    let sealed = palisade_tests::daemon::other_user().is_none().then(|| format!("[state]\nkey_file = {key:?}\n"));
    let text = format!("{}{LONG}", sealed.unwrap_or_default());
    let daemon = Daemon::start(unwatched(&text));
    place(&daemon, "before", &in_form("1.0.0", 1));
    rescan(&daemon);
    ask(&daemon, "guest", &[put("a", &json!(1)), put("secret", &json!("before"))]);
    place(&daemon, "after", &in_form("1.1.0", 2));
    rescan(&daemon);
    let told = |daemon: &Daemon, arguments: &[&str]| palisade(&daemon.socket(), arguments);
    let updated = told(&daemon, &["update", "guest"]);
    let path = updated.stdout.strip_prefix("guest 1.1.0 takes calls, after 1.0.0\nwhat it kept before is kept in ");
    let path = path
        .and_then(|path| path.strip_suffix('\n'))
        .unwrap_or_else(|| panic!("{} {}", updated.stdout, updated.stderr))
        .to_owned();
    assert!(std::path::Path::new(&path).exists(), "{path}");
    assert_eq!(status(&daemon, "guest")["probation"]["state"], json!(path));
    let last = |daemon: &Daemon| {
        let trail = daemon.operate("audit", &json!({"plugin": "guest"})).expect("there is one");
        trail["entries"].as_array().and_then(|entries| entries.last().cloned()).expect("something was done")
    };
    assert_eq!(last(&daemon)["detail"], format!("after 1.0.0; what it kept before is kept in {path}"));

    ask(&daemon, "guest", &[put("secret", &json!("since"))]);
    let back = daemon.operate("rollback", &json!({"plugin": "guest"})).expect("it is on probation");
    let since = back["reloads"][0]["state"]["aside"].as_str().expect("it is named").to_owned();
    expect_text(last(&daemon)["detail"].as_str().expect("a text"), &since);
    let read = |daemon: &Daemon, from: &str| {
        let exported = told(daemon, &["state", "export", "guest", "--from", from]);
        assert_eq!(exported.status, Some(0), "{}", exported.stderr);
        let document: Value = serde_json::from_str(&exported.stdout).expect("it is JSON");
        let pairs = document["pairs"].as_array().expect("a list").clone();
        let secret = pairs.iter().find(|pair| pair["key"] == "secret").map(|pair| pair["value"].clone());
        (document["schema"].clone(), secret.unwrap_or_default())
    };
    let daemon = killed(daemon, &text);
    for _ in 0..2 {
        // By its path as by its name, and it is as it was.
        let name = since.rsplit('/').next().expect("it has a name");
        assert_eq!(read(&daemon, &since), (json!(2), json!("since")));
        assert_eq!(read(&daemon, name), (json!(2), json!("since")));
        assert_eq!(read(&daemon, &path), (json!(1), json!("before")));
    }
    assert_eq!(ask(&daemon, "guest", &[get("secret")])[0]["ok"]["value"], "before");
    let shown = told(&daemon, &["state", "show", "guest", "secret", "--from", &since]);
    assert_eq!(shown.stdout, "\"since\"\n", "{}", shown.stderr);
    assert_eq!(status(&daemon, "guest")["state_aside"], json!(since));
    expect_text(&told(&daemon, &["status", "guest"]).stdout.replace("\n", " "), "what it kept once is in");
    let backups = daemon.operate("backups", &json!({"plugin": "guest"})).expect("they are known");
    let states: Vec<_> = backups["states"].as_array().expect("a list").iter().map(|one| one["path"].clone()).collect();
    assert_eq!(states, [json!(since), json!(path)]);
    expect_text(&told(&daemon, &["backups", "guest"]).stdout, "`palisade state export guest --from COPY` reads one");
    // Nothing else is read.
    for other in ["state.sqlite3", "../../registry.sqlite3", "/etc/passwd", ""] {
        let refused = daemon.operate("state_show", &json!({"plugin": "guest", "from": other}));
        let refused = error(refused, ErrorCode::ResourceNotFound);
        expect_text(&refused.message, "guest has no copy ");
        expect_text(&refused.hint.unwrap_or_default(), "`palisade backups guest` lists those that there are");
    }
    let refused = daemon.operate("state_show", &json!({"plugin": "guest", "from": since, "key": "other"}));
    let hint = error(refused, ErrorCode::ResourceNotFound).hint.unwrap_or_default();
    expect_text(&hint, &format!("`palisade state show guest --from {since}` lists the keys"));
    daemon.stop_and_expect_no_orphans();
}

/// Where there is nothing to try it beside, as the version before has no process, the state is kept all the same before it is brought over.
#[test]
fn an_update_that_is_not_tried_first_is_taken_back_with_the_state_as_well() {
    let daemon = Daemon::start(unwatched(LONG));
    place(&daemon, "before", &in_form("1.0.0", 1));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.0.0");
    ask(&daemon, "guest", &[put("a", &json!(1))]);
    daemon.operate("stop", &json!({"plugin": "guest"})).expect("it runs");
    place(&daemon, "after", &in_form("1.1.0", 2));
    rescan(&daemon);
    assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.1.0".to_owned(), json!(2)));
    let daemon = killed(daemon, LONG);
    error(daemon.agent().call("guest", "abort", &json!(null)), ErrorCode::Crashed);
    wait_for("the version before", || (status(&daemon, "guest")["version"] == "1.0.0").then_some(()));
    assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.0.0".to_owned(), json!(1)));
    daemon.stop_and_expect_no_orphans();
}

/// Who cannot use what the plugin keeps says what can be done about that, as it is.
#[test]
fn what_to_do_about_a_state_of_a_later_form_is_said() {
    let daemon = on_probation("update", 2, "[reload]\nprobation_seconds = 1\n");
    wait_for("the end of the probation", || status(&daemon, "guest")["probation"].is_null().then_some(()));
    let message = |daemon: &Daemon| {
        let mut agent = daemon.agent();
        let call = Call { action: "echo", plugin: Some("guest"), version: Some("=1.0.0"), ..Call::default() };
        let id = agent.begin_with(&call, &palisade_tests::wire::pack(&json!(null)));
        error(agent.collect(id).outcome, ErrorCode::InitializationFailed).message
    };
    let begins = "its state was brought into schema 2 by a later version, and guest 1.0.0 knows schema 1: ";
    let anew = "; `palisade state export guest` and then `palisade state reset guest` let one that does not begin anew";
    daemon.operate("disable", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is there");
    let way = "1.1.0 knows it, and `palisade enable guest@1.1.0` has it take calls";
    expect_text(&message(&daemon), &format!("{begins}{way}{anew}"));
    daemon.operate("enable", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is there");
    assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.1.0".to_owned(), json!(2)), "that was true");
    let daemon = killed(daemon, "[plugins.guest]\nversion = \"=1.0.0\"\n");
    let way = "1.1.0 knows it, and is held: `plugins.guest.version` of palisade.toml says which versions may serve";
    expect_text(&message(&daemon), &format!("{begins}{way}{anew}"));
    fs::remove_dir_all(daemon.plugins().join("after")).expect("it is ours");
    let daemon = killed(daemon, "");
    let way = "no version that knows it is there; install one, or return to a package that does, if `palisade backups guest` has one";
    expect_text(&message(&daemon), &format!("{begins}{way}{anew}"));
    daemon.operate("state_reset", &json!({"plugin": "guest"})).expect("it can");
    daemon.operate("start", &json!({"plugin": "guest"})).expect("it begins anew");
    assert_eq!(serving(&daemon, "guest"), "1.0.0", "that was true as well");
    daemon.stop_and_expect_no_orphans();
}

/// What is asked for by its version and is no update is told as what it is, with what would have it serve.
#[test]
fn a_version_that_is_named_and_cannot_be_taken_is_told_as_what_it_is() {
    let daemon = Daemon::start(unwatched(LONG));
    let to = |daemon: &Daemon, version: &str, code| {
        let refused = error(update(daemon, &json!({ "to_version": version })), code);
        (refused.message, refused.hint.unwrap_or_default())
    };
    place(&daemon, "one", &edition("guest", "1.0.0", "tame"));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.0.0");
    let missing = to(&daemon, "1.5.0", ErrorCode::VersionNotFound);
    assert_eq!(missing.0, "there is no guest 1.5.0: there is 1.0.0");
    expect_text(&missing.1, "`palisade install` takes it from a folder");
    place(&daemon, "two", &edition("guest", "2.0.0", "tame"));
    rescan(&daemon);
    let taken = palisade(&daemon.socket(), &["update", "guest", "--major"]);
    assert_eq!(taken.stdout, "guest 2.0.0 takes calls, after 1.0.0\n", "{}", taken.stderr);
    let again = palisade(&daemon.socket(), &["update", "guest", "--to", "2.0.0"]);
    assert_eq!(again.stdout, "guest 2.0.0 takes calls already\n", "{}", again.stderr);
    assert_eq!(
        to(&daemon, "1.5.0", ErrorCode::VersionNotFound).0,
        "there is no guest 1.5.0: there are 1.0.0 and 2.0.0"
    );

    let older = to(&daemon, "1.0.0", ErrorCode::InvalidParams);
    assert_eq!(older.0, "guest 1.0.0 is no update: 2.0.0 serves, and goes before it");
    let call = "; `palisade call guest@=1.0.0` calls it as it is";
    assert_eq!(older.1, format!("`palisade rollback guest` returns to it{call}"));
    let told = palisade(&daemon.socket(), &["update", "guest", "--to", "1.0.0"]);
    assert_eq!((told.status, told.stdout.as_str()), (Some(4), ""), "{}", told.stderr);
    assert_eq!(serving(&daemon, "guest"), "2.0.0");

    // Once nothing leads back.
    let daemon = killed(daemon, "[reload]\nprobation_seconds = 1\n");
    wait_for("the end of the probation", || status(&daemon, "guest")["probation"].is_null().then_some(()));
    let hint = to(&daemon, "1.0.0", ErrorCode::InvalidParams).1;
    expect_text(&hint, "`version = \"=1.0.0\"` in `[plugins.guest]` of palisade.toml has it serve from the next start");
    expect_text(&hint, &format!("`palisade disable guest@2.0.0` leaves the calls to the next one at once{call}"));
    daemon.operate("disable", &json!({"plugin": "guest", "version": "=2.0.0"})).expect("it is there");
    assert_eq!(serving(&daemon, "guest"), "1.0.0", "that was true");
    let disabled = to(&daemon, "2.0.0", ErrorCode::InvalidParams);
    assert_eq!(disabled.0, "guest 2.0.0 is there, and disabled");
    assert_eq!(disabled.1, "`palisade enable guest@2.0.0` has it take calls");
    daemon.operate("enable", &json!({"plugin": "guest", "version": "=2.0.0"})).expect("it is there");
    let daemon = killed(daemon, "[plugins.guest]\nversion = \"=1.0.0\"\n");
    assert_eq!(serving(&daemon, "guest"), "1.0.0", "that as well");
    daemon.stop_and_expect_no_orphans();

    // Where the older one cannot use what the plugin keeps.
    let daemon = on_probation("update", 2, "[reload]\nprobation_seconds = 1\n");
    wait_for("the end of the probation", || status(&daemon, "guest")["probation"].is_null().then_some(()));
    let hint = to(&daemon, "1.0.0", ErrorCode::InvalidParams).1;
    expect_text(
        &hint,
        "1.0.0 does not know the form of what 1.1.0 keeps: `palisade state export guest`, `palisade disable guest@1.1.0`",
    );
    daemon.operate("disable", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is there");
    daemon.operate("state_reset", &json!({"plugin": "guest"})).expect("it can");
    assert_eq!(serving(&daemon, "guest"), "1.0.0", "that was true");
    daemon.stop_and_expect_no_orphans();
}

/// Of versions that are newer the one that a pin admits is shown, and the one beyond it is named.
#[test]
fn what_a_pin_admits_is_shown_before_what_it_excludes() {
    let daemon = Daemon::start(unwatched("[plugins.guest]\nversion = \"~1.2\"\nupdate_policy = \"manual\"\n"));
    let excluded = |daemon: &Daemon| {
        let answer = daemon.operate("update", &json!({"plugin": "guest", "check": true})).expect("it looks");
        answer["available"][0]["excluded"].clone()
    };
    for (folder, version) in [("one", "1.2.0"), ("two", "1.3.0")] {
        place(&daemon, folder, &edition("guest", version, "tame"));
        rescan(&daemon);
    }
    assert_eq!(newest(&daemon, "guest"), [json!("1.3.0"), json!("minor"), json!("pin")]);
    assert_eq!(excluded(&daemon), Value::Null);
    place(&daemon, "three", &edition("guest", "1.2.5", "tame"));
    rescan(&daemon);
    assert_eq!(newest(&daemon, "guest"), [json!("1.2.5"), json!("patch"), json!("policy")]);
    assert_eq!(excluded(&daemon), "1.3.0");
    let shown = palisade(&daemon.socket(), &["update", "--check", "guest"]).stdout;
    expect_text(&shown, "manual, pinned to ~1.2, which excludes 1.3.0");
    daemon.operate("update", &json!({"plugin": "guest"})).expect("it can be taken");
    assert_eq!(serving(&daemon, "guest"), "1.2.5");
    daemon.stop_and_expect_no_orphans();

    // Among archives as well.
    let daemon = Daemon::start(unwatched("[plugins.guest]\nversion = \"~1.0\"\n"));
    let first = pack(&daemon, &small("1.0.0").with("default_enabled", json!(true)), "guest-1.0.0.tar.zst");
    daemon.operate("install", &json!({ "path": first })).expect("it is installed");
    for version in ["1.0.1", "1.1.0"] {
        pack(&daemon, &small(version), &format!("guest-{version}.tar.zst"));
    }
    assert_eq!(newest(&daemon, "guest"), [json!("1.0.1"), json!("patch"), json!("not_installed")]);
    assert_eq!(excluded(&daemon), "1.1.0");
    let missing = error(update(&daemon, &json!({"to_version": "1.0.7"})), ErrorCode::VersionNotFound).message;
    expect_text(&missing, "there is no guest 1.0.7 to be had: in ");
    expect_text(&missing, ", and there is 1.0.0");
    daemon.stop_and_expect_no_orphans();
}

/// What served last stands beside the newer version, whatever its own folder had before that.
#[test]
fn an_operator_returns_to_the_version_before_rather_than_to_an_older_package_of_it() {
    let daemon = Daemon::start(unwatched(LONG));
    for text in ["first", "second"] {
        place(&daemon, "before", &edition("guest", "1.0.0", "tame").with("description", json!(text)));
        rescan(&daemon);
        assert_eq!(serving(&daemon, "guest"), "1.0.0");
    }
    let digest =
        || daemon.operate("info", &json!({"plugin": "guest"})).expect("it is known")["snapshot"]["digest"].clone();
    let second = digest();
    let backups = daemon.operate("backups", &json!({"plugin": "guest"})).expect("there is one")["backups"].clone();
    assert_eq!(backups.as_array().map(Vec::len), Some(1), "{backups}");
    place(&daemon, "after", &edition("guest", "1.1.0", "tame"));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.1.0");
    // Both use the one state.
    let refused =
        error(daemon.operate("rollback", &json!({"plugin": "guest", "with_state": true})), ErrorCode::InvalidParams);
    expect_text(&refused.message, "no state was kept when 1.1.0 took the place of 1.0.0: both use the same");
    let back = daemon.operate("rollback", &json!({"plugin": "guest"})).expect("it is on probation");
    assert_eq!((&back["reloads"][0]["version"], &back["reloads"][0]["digest"]), (&json!("1.0.0"), &second), "{back}");
    assert_eq!((serving(&daemon, "guest"), digest()), ("1.0.0".to_owned(), second));
    daemon.stop_and_expect_no_orphans();
}

/// Two processes of a plugin that must not run twice never do: calls wait while none runs, and go to the version before where the newer one fails.
#[test]
fn an_exclusive_update_starts_once_the_version_before_has_ended() {
    for is_installed in [true, false] {
        let daemon = Daemon::start(unwatched(""));
        let alone = |version, mode, folder: &str| {
            let limits = json!({"start_timeout_seconds": 2});
            let package = edition("guest", version, mode).with("exclusive", json!(true)).with("limits", limits);
            if is_installed {
                return write(&daemon, &package);
            }
            place(&daemon, folder, &package);
            rescan(&daemon);
            daemon.plugins().join(folder)
        };
        let mut ways = vec![("update", json!({"plugin": "guest"}))];
        let folder = alone("1.0.0", "tame", "before");
        if is_installed {
            daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
        }
        let folder = alone("1.1.0", "never-ready", "after");
        if is_installed {
            ways.push(("install", json!({ "path": folder })));
        }
        for (way, what) in ways {
            assert_eq!(serving(&daemon, "guest"), "1.0.0");
            let process = process::identity(daemon.process_of("guest")).expect("it runs");
            std::thread::scope(|scope| {
                let bringing = scope.spawn(|| daemon.operate(way, &what));
                wait_for("the end of the old process", || (!process::is_alive(process)).then_some(()));
                // It waits, and is answered by the version before.
                assert_eq!(serving(&daemon, "guest"), "1.0.0");
                let refused = error(bringing.join().expect("it is asked for"), ErrorCode::InitializationFailed);
                expect_text(&refused.message, "guest 1.1.0 does not serve, and 1.0.0 goes on");
            });
        }
        let process = process::identity(daemon.process_of("guest")).expect("it runs again");
        let mut agent = daemon.agent();
        let under_way = agent.begin("guest", "sleep-blocking", &json!(null));
        alone("1.2.0", "tame", "after");
        update(&daemon, &json!({})).expect("there is a newer one");
        agent.finish(under_way).expect("what was under way has ended well");
        assert!(!process::is_alive(process));
        assert_eq!(serving(&daemon, "guest"), "1.2.0");
        error(daemon.agent().call("guest", "abort", &json!(null)), ErrorCode::Crashed);
        wait_for("the version before", || (status(&daemon, "guest")["version"] == "1.0.0").then_some(()));
        assert_eq!(serving(&daemon, "guest"), "1.0.0");
        daemon.stop_and_expect_no_orphans();
    }
}

/// While a failure would lead back an operator can have that as well, and is told what became of the state.
#[test]
fn an_operator_returns_from_an_update_with_the_state() {
    for is_installed in [true, false] {
        let daemon = Daemon::start(unwatched(""));
        let bring = |version: &str, form: u32, folder: &str| {
            if is_installed {
                return write(&daemon, &in_form(version, form));
            }
            place(&daemon, folder, &in_form(version, form));
            rescan(&daemon);
            daemon.plugins().join(folder)
        };
        let folder = bring("1.0.0", 1, "before");
        if is_installed {
            daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
        }
        ask(&daemon, "guest", &[put("a", &json!(1))]);
        bring("1.1.0", 2, "after");
        update(&daemon, &json!({})).expect("there is a newer one");
        assert_eq!(kept(&daemon), 2);
        let back = daemon.operate("rollback", &json!({"plugin": "guest"})).expect("it can");
        let back = &back["reloads"][0];
        assert_eq!((&back["version"], &back["reloaded"]), (&json!("1.0.0"), &json!(true)), "{back}");
        let aside = back["state"]["aside"].as_str().expect("it is named");
        assert!(std::path::Path::new(aside).exists() && back["state"]["at_unix_ms"].is_u64(), "{back}");
        assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.0.0".to_owned(), json!(1)));
        let passed = status(&daemon, "guest")["passed_over"].clone();
        expect_text(&passed["reason"].to_string(), " has returned to 1.0.0; what was");
        assert_eq!(passed["version"], "1.1.0", "it lies elsewhere: {passed}");
        let trail = daemon.operate("audit", &json!({"plugin": "guest"})).expect("there is one");
        let last = trail["entries"].as_array().and_then(|entries| entries.last()).expect("something was done");
        assert_eq!((&last["what"], last["who"] == "palisade"), (&json!("rollback"), false), "{last}");
        rescan(&daemon);
        assert_eq!(serving(&daemon, "guest"), "1.0.0");
        // There is nothing before that.
        let none = error(daemon.operate("rollback", &json!({"plugin": "guest"})), ErrorCode::InvalidParams);
        expect_text(&none.message, "has no backup to return to");
        daemon.stop_and_expect_no_orphans();
    }
}

/// One that cannot bring it over changes nothing, and one that cannot do it once more where it counts neither.
#[test]
fn an_update_that_cannot_bring_the_state_over_changes_nothing() {
    let daemon = Daemon::start(unwatched(""));
    daemon.operate("install", &json!({"path": write(&daemon, &in_form("1.0.0", 1))})).expect("it is installed");
    ask(&daemon, "guest", &[put("a", &json!(1))]);
    let broken = edition("guest", "1.1.0", "tame").with("state", json!({"schema_version": 2}));
    write(&daemon, &broken);
    let refused = error(update(&daemon, &json!({})), ErrorCode::InitializationFailed);
    expect_text(&refused.message, "guest 1.1.0 does not serve, and 1.0.0 goes on");
    assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.0.0".to_owned(), json!(1)));
    // It can once, and that was the rehearsal.
    let once = in_form("1.2.0", 2).environment("HOSTILE_ONCE", "1");
    write(&daemon, &once);
    let refused = error(update(&daemon, &json!({})), ErrorCode::InitializationFailed);
    expect_text(&refused.message, "guest 1.2.0 does not serve, and 1.0.0 goes on");
    assert_eq!((serving(&daemon, "guest"), kept(&daemon)), ("1.0.0".to_owned(), json!(1)));
    daemon.stop_and_expect_no_orphans();
}

const TOLD: [&str; 3] = ["update_available", "package_updated", "package_kept"];

/// A newer version beside the one that serves: what each policy makes of each kind of it, what is told, and how often.
#[test]
fn each_policy_takes_tells_or_only_keeps_what_is_newer() {
    let kinds = [
        ("patch", "1.2.0", "1.2.1", "patch"),
        ("minor", "1.2.0", "1.3.0", "minor"),
        ("major", "1.2.0", "2.0.0", "major"),
        ("zero", "0.2.0", "0.3.0", "major"),
    ];
    for policy in ["auto", "notify", "manual"] {
        let daemon = Daemon::start(unwatched(&format!("[updates]\npolicy = \"{policy}\"\n")));
        let mut events = Events::of(&daemon);
        for (id, before, ..) in kinds {
            place(&daemon, &format!("{id}-before"), &edition(id, before, "tame"));
        }
        rescan(&daemon);
        for (id, before, after, _) in kinds {
            assert_eq!(serving(&daemon, id), before);
            place(&daemon, &format!("{id}-after"), &edition(id, after, "tame"));
        }
        let changes = rescan(&daemon);
        assert_eq!(changes["kept"], json!([]), "{changes}");
        rescan(&daemon);
        let mut expected = Vec::new();
        for (id, before, after, kind) in kinds {
            let is_taken = policy == "auto" && kind != "major";
            let what = format!("{policy} {id}");
            assert_eq!(serving(&daemon, id), if is_taken { after } else { before }, "{what}");
            expect_echo(&daemon, id);
            let by = if kind == "major" { "major" } else { "policy" };
            let target = format!("{id}@={after}");
            if is_taken {
                assert_eq!(held(&daemon, &target), json!(null), "{what}");
                assert_eq!(newest(&daemon, id), [json!(null), json!(null), json!(null)], "{what}");
                expected.push(format!("package_updated {id} {after}"));
                continue;
            }
            assert_eq!(held(&daemon, &target), by, "{what}");
            assert_eq!(newest(&daemon, id), [json!(after), json!(kind), json!(by)], "{what}");
            let refused = daemon.operate("start", &json!({"plugin": id, "version": format!("={after}")}));
            expect_text(&error(refused, ErrorCode::Unavailable).message, "takes no calls: it is ");
            let told = status(&daemon, id)["update"].clone();
            match policy {
                "manual" => assert_eq!(told, json!(null), "{what}"),
                _ => {
                    assert_eq!(told, json!({"version": after, "kind": kind}), "{what}");
                    expected.push(format!("update_available {id} {after}"));
                }
            }
        }
        let mut told = events.until_now(&daemon, &TOLD);
        told.sort();
        expected.sort();
        assert_eq!(told, expected, "{policy}");
        let list = palisade(&daemon.socket(), &["list"]).stdout;
        let waits = list.lines().filter(|line| line.contains("2.0.0 waits")).count();
        assert_eq!(waits, usize::from(policy != "manual"), "{list}");
        daemon.stop_and_expect_no_orphans();
    }
}

/// What was accepted serves in the next daemon as well, and nobody is told twice; what an operator takes serves from then on.
#[test]
fn the_next_daemon_has_the_version_serve_that_was_accepted() {
    let text = "[updates]\npolicy = \"manual\"\n[plugins.guest]\nupdate_policy = \"notify\"\n";
    let daemon = Daemon::start(unwatched(text));
    place(&daemon, "one", &edition("guest", "1.0.0", "tame"));
    rescan(&daemon);
    place(&daemon, "two", &edition("guest", "1.1.0", "tame"));
    place(&daemon, "three", &edition("guest", "2.0.0", "tame"));
    rescan(&daemon);
    let available = "1.1.0 is there, a minor version after 1.0.0, which serves: `palisade update guest` takes it";
    expect_text(&daemon.log(), available);
    let again = |daemon: Daemon| Daemon::start(unwatched(text).folder(daemon.kill_nine()));
    let daemon = again(daemon);
    assert_eq!(serving(&daemon, "guest"), "1.0.0");
    assert_eq!(status(&daemon, "guest")["update"], json!({"version": "2.0.0", "kind": "major"}));
    rescan(&daemon);
    assert_eq!(daemon.log().matches(available).count(), 1, "it is told once:\n{}", daemon.log());

    // The newest that needs no confirmation.
    let updated = palisade(&daemon.socket(), &["update", "guest"]);
    assert_eq!((updated.status, updated.stdout.as_str()), (Some(0), "guest 1.1.0 takes calls, after 1.0.0\n"));
    assert_eq!(serving(&daemon, "guest"), "1.1.0");
    let refused = palisade(&daemon.socket(), &["update", "guest"]);
    assert_eq!(refused.status, Some(i32::from(ErrorCode::ConsentRequired.exit_status())), "{}", refused.stderr);
    expect_text(&refused.stderr, "guest 2.0.0 is a new major version after 1.1.0");
    expect_text(&refused.stderr, "`palisade update --major --to 2.0.0 guest` has it take calls");
    let daemon = again(daemon);
    assert_eq!(serving(&daemon, "guest"), "1.1.0");
    let daemon = again(daemon);
    let updated = palisade(&daemon.socket(), &["update", "--major", "--to", "2.0.0", "guest"]);
    assert_eq!(updated.status, Some(0), "{}", updated.stderr);
    assert_eq!(serving(&daemon, "guest"), "2.0.0");
    assert_eq!(status(&daemon, "guest@^1")["version"], "1.1.0", "of whoever names it");
    let daemon = again(daemon);
    assert_eq!(serving(&daemon, "guest"), "2.0.0");

    // What came while there was no daemon waits as well, or is tried once what serves does.
    let folder = daemon.kill_nine();
    edition("guest", "2.1.0", "tame").write(&folder.path().join("staging"), "late");
    fs::rename(folder.path().join("staging/guest"), folder.path().join("plugins/late")).expect("it is ours");
    let daemon = Daemon::start(unwatched(text).folder(folder));
    assert_eq!((serving(&daemon, "guest").as_str(), held(&daemon, "guest@=2.1.0")), ("2.0.0", json!("policy")));
    let daemon = Daemon::start(unwatched("").folder(daemon.kill_nine()));
    wait_for("the update", || (status(&daemon, "guest")["version"] == "2.1.0").then_some(()));
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// What may serve is gone: what lies there instead serves, but for a new major version.
#[test]
fn what_takes_the_place_of_what_is_gone_waits_only_where_it_may_break_somebody() {
    let daemon = Daemon::start(unwatched("[updates]\npolicy = \"manual\"\n"));
    for (folder, version) in [("one", "1.0.0"), ("two", "1.1.0")] {
        place(&daemon, folder, &edition("guest", version, "tame"));
        rescan(&daemon);
    }
    assert_eq!(serving(&daemon, "guest"), "1.0.0");
    fs::remove_dir_all(daemon.plugins().join("one")).expect("it is ours");
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.1.0");
    place(&daemon, "three", &edition("guest", "2.0.0", "tame"));
    fs::remove_dir_all(daemon.plugins().join("two")).expect("it is ours");
    rescan(&daemon);
    let refused = error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::Unavailable);
    expect_text(&refused.message, "2.0.0 takes no calls: it is a new major version after 1.1.0");
    assert_eq!(refused.hint.as_deref(), Some("`palisade update --major --to 2.0.0 guest` has it take calls"));
    let daemon = Daemon::start(unwatched("").folder(daemon.kill_nine()));
    error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::Unavailable);
    daemon.operate("update", &json!({"plugin": "guest", "major": true})).expect("it was confirmed");
    assert_eq!(serving(&daemon, "guest"), "2.0.0");
    // Who changes it in its folder has it serve, whatever its number is.
    place(&daemon, "three", &edition("guest", "4.0.0", "tame"));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "4.0.0");
    let daemon = Daemon::start(unwatched("").folder(daemon.kill_nine()));
    wait_for("what lies in the folder", || (status(&daemon, "guest")["version"] == "4.0.0").then_some(()));
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// What is pinned stays, wherever another version comes from, and whoever wants it.
#[test]
fn a_pinned_version_stays() {
    let pinned = "[plugins.guest]\nversion = \"~1.2\"\n";
    let daemon = Daemon::start(unwatched(pinned));
    let mut events = Events::of(&daemon);
    place(&daemon, "one", &edition("guest", "1.2.0", "tame"));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.2.0");
    place(&daemon, "two", &edition("guest", "1.3.0", "tame"));
    rescan(&daemon);
    assert_eq!((serving(&daemon, "guest").as_str(), held(&daemon, "guest@=1.3.0")), ("1.2.0", json!("pin")));
    assert_eq!(newest(&daemon, "guest"), [json!("1.3.0"), json!("minor"), json!("pin")]);
    let told = "guest 1.3.0 is not taken: guest is pinned to ~1.2";
    let wanted = update(&daemon, &json!({"to_version": "1.3.0", "major": true}));
    assert_eq!(error(wanted, ErrorCode::InvalidParams).message, told);
    let other = write(&daemon, &edition("guest", "1.4.0", "tame"));
    let install = daemon.operate("install", &json!({"path": other, "major": true}));
    assert_eq!(error(install, ErrorCode::InvalidParams).message, told.replace("1.3.0", "1.4.0"));
    // Also where the folder of what serves is changed.
    place(&daemon, "one", &edition("guest", "1.9.0", "tame"));
    let reason = "1.9.0 is not taken: guest is pinned to ~1.2";
    for _ in 0..2 {
        assert_eq!(rescan(&daemon)["kept"], json!([{"plugin": "guest 1.2.0", "reason": reason}]));
    }
    assert_eq!(serving(&daemon, "guest"), "1.2.0");
    assert_eq!(status(&daemon, "guest")["passed_over"]["reason"], reason);
    // What is within is an update as any.
    place(&daemon, "three", &edition("guest", "1.2.5", "tame"));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.2.5");
    let told = ["package_kept guest 1.2.0", "package_updated guest 1.2.5"];
    assert_eq!(events.until_now(&daemon, &TOLD), told, "nobody is told of what is not wanted");
    let daemon = Daemon::start(unwatched(pinned).folder(daemon.kill_nine()));
    assert_eq!(serving(&daemon, "guest"), "1.2.5");
    wait_for("the look at what has changed", || {
        (status(&daemon, "guest@=1.2.0")["passed_over"]["reason"] == reason).then_some(())
    });
    // Without the pin all of it is as it would have been.
    let daemon = Daemon::start(unwatched("").folder(daemon.kill_nine()));
    wait_for("what lies in the folder", || (status(&daemon, "guest")["version"] == "1.9.0").then_some(()));
    daemon.stop_and_expect_no_orphans();
}

/// An update that fails is not taken, nor tried again before it changes or is asked for; one that fails soon after leads back.
#[test]
fn an_update_that_fails_leaves_the_version_before() {
    let daemon = Daemon::start(unwatched(""));
    place(&daemon, "one", &edition("guest", "1.0.0", "tame"));
    rescan(&daemon);
    expect_echo(&daemon, "guest");
    let process = daemon.process_of("guest");
    place(&daemon, "two", &edition("guest", "1.1.0", "exit-at-once"));
    let kept = rescan(&daemon)["kept"].clone();
    expect_text(&kept.to_string(), "guest 1.1.0 does not serve, and 1.0.0 goes on");
    assert_eq!(rescan(&daemon)["kept"], json!([]), "it is tried once");
    assert_eq!(newest(&daemon, "guest"), [json!("1.1.0"), json!("minor"), json!("failed")]);
    assert_eq!(daemon.process_of("guest"), process);
    let daemon = Daemon::start(unwatched("").folder(daemon.kill_nine()));
    assert_eq!((serving(&daemon, "guest").as_str(), held(&daemon, "guest@=1.1.0")), ("1.0.0", json!("failed")));
    assert_eq!(rescan(&daemon)["kept"], json!([]), "it is not tried again");
    expect_text(
        &error(update(&daemon, &json!({})), ErrorCode::InitializationFailed).message,
        "guest 1.1.0 does not serve, and 1.0.0 goes on",
    );
    place(&daemon, "two", &edition("guest", "1.1.0", "tame"));
    rescan(&daemon);
    assert_eq!(serving(&daemon, "guest"), "1.1.0");
    (0..10).for_each(|_| expect_echo(&daemon, "guest"));
    error(daemon.agent().call("guest", "abort", &json!(null)), ErrorCode::Crashed);
    wait_for("the version before", || (status(&daemon, "guest")["version"] == "1.0.0").then_some(()));
    assert_eq!((serving(&daemon, "guest").as_str(), held(&daemon, "guest@=1.1.0")), ("1.0.0", json!("failed")));
    expect_text(&status(&daemon, "guest")["passed_over"].to_string(), "it failed soon after it began to serve");
    let daemon = Daemon::start(unwatched("").folder(daemon.kill_nine()));
    assert_eq!((serving(&daemon, "guest").as_str(), held(&daemon, "guest@=1.1.0")), ("1.0.0", json!("failed")));
    daemon.stop_and_expect_no_orphans();
}

/// What an operator installs is wanted; where it may break somebody, that has to be said.
#[test]
fn to_install_a_new_major_version_has_to_be_confirmed() {
    let daemon = Daemon::start(unwatched("[updates]\npolicy = \"manual\"\n"));
    let install = |version: &str, more: &[&str]| {
        let folder = write(&daemon, &edition("guest", version, "tame"));
        palisade(&daemon.socket(), &[&["install", "--yes"], more, &[&folder.display().to_string()]].concat())
    };
    assert_eq!(install("1.0.0", &[]).status, Some(0));
    assert_eq!(install("1.1.0", &[]).status, Some(0), "whatever the policy is");
    assert_eq!(serving(&daemon, "guest"), "1.1.0");
    let refused = install("2.0.0", &[]);
    assert_eq!(refused.status, Some(i32::from(ErrorCode::ConsentRequired.exit_status())), "{}", refused.stderr);
    expect_text(&refused.stderr, "guest 2.0.0 is a new major version after 1.1.0, and may break whoever uses it");
    expect_text(&refused.stderr, "hint: `palisade install --major ");
    assert_eq!(versions(&daemon), ["1.0.0 true", "1.1.0 true"]);
    assert_eq!(install("2.0.0-rc.1", &[]).status, Some(0), "it takes no calls that do not name it");
    assert_eq!(serving(&daemon, "guest"), "1.1.0");
    assert_eq!(install("2.0.0", &["--major"]).status, Some(0));
    assert_eq!(serving(&daemon, "guest"), "2.0.0");
    assert_eq!(install("1.1.5", &[]).status, Some(0), "an older one is no update");
    daemon.stop_and_expect_no_orphans();
}

/// What there is, for people and for programs; nothing is changed by looking.
#[test]
fn newer_versions_are_shown_with_what_holds_them_back() {
    let daemon =
        Daemon::start(unwatched("[permissions]\n[plugins.delta]\nupdate_policy = \"manual\"\nversion = \"1\"\n"));
    let check = |more: &[&str]| palisade(&daemon.socket(), &[more, &["update", "--check"]].concat());
    assert_eq!(check(&[]).stdout, "there is no newer version of any plugin\n");
    let first = pack(&daemon, &small("1.0.0"), "guest-1.0.0.tar.zst");
    daemon.operate("install", &json!({ "path": first })).expect("it is installed");
    daemon.operate("enable", &json!({"plugin": "guest"})).expect("it is there");
    pack(&daemon, &small("1.1.0"), "guest-1.1.0.tar.zst");
    for (folder, id, version) in [("a", "delta", "1.0.0"), ("c", "early", "1.0.0")] {
        place(&daemon, folder, &edition(id, version, "tame").asking(&json!([])));
    }
    rescan(&daemon);
    expect_echo(&daemon, "early");
    place(&daemon, "b", &edition("delta", "1.0.1", "tame").asking(&json!([])));
    place(&daemon, "f", &edition("early", "1.1.0", "tame").asking(&json!(["execute_code", {"file_read": ["/usr"]}])));
    rescan(&daemon);
    let before = versions(&daemon);
    let told = check(&[]);
    let lines: Vec<Vec<&str>> = told.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["PLUGIN", "SERVING", "NEWEST", "KIND", "POLICY", "HELD", "BACK", "BY"], "{}", told.stdout);
    assert_eq!(lines[1][..9], ["delta", "1.0.0", "1.0.1", "patch", "manual,", "pinned", "to", "1", "policy:"]);
    assert_eq!(lines[2][..6], ["early", "1.0.0", "1.1.0", "minor", "auto", "permission:"]);
    assert_eq!(lines[3][..6], ["guest", "1.0.0", "1.1.0", "minor", "auto", "not_installed:"]);
    assert_eq!(lines.len(), 4, "echo has none: {}", told.stdout);
    let json: Value = serde_json::from_str(&check(&["--json"]).stdout).expect("it is JSON");
    assert_eq!(json["available"][0]["pin"], "1");
    let held: Vec<_> = json["available"].as_array().expect("a list").iter().map(|one| &one["held_by"]).collect();
    assert_eq!(held, ["policy", "permission", "not_installed"]);
    assert_eq!(newest(&daemon, "echo"), [json!(null), json!(null), json!(null)]);
    assert_eq!(versions(&daemon), before);
    error(
        daemon.operate("update", &json!({"plugin": "delta", "check": true, "major": true})),
        ErrorCode::InvalidParams,
    );
    error(daemon.operate("update", &json!({"plugin": "nobody", "check": true})), ErrorCode::PluginNotFound);
    error(daemon.operate("update", &json!({"plugin": "delta", "to_version": "1.x"})), ErrorCode::InvalidParams);
    let missing =
        error(daemon.operate("update", &json!({"plugin": "guest", "to_version": "1.7.0"})), ErrorCode::VersionNotFound);
    expect_text(&missing.message, "there is no guest 1.7.0 to be had");
    let updated = update(&daemon, &json!({"to_version": "1.1.0"})).expect("it is beside");
    assert_eq!((&updated["version"], &updated["updated"]), (&json!("1.1.0"), &json!(true)));
    daemon.stop_and_expect_no_orphans();
}

/// What nobody can understand keeps the daemon from starting, with its place.
#[test]
fn a_policy_and_a_pin_are_understood_or_refused() {
    for (text, line, why) in [
        ("[updates]\npolicy = \"always\"\n", "line 3", "unknown variant `always`"),
        ("[plugins.guest]\nupdate_policy = \"weekly\"\n", "line 3", "unknown variant `weekly`"),
        ("[plugins.guest]\nversion = \">= 1.2 < 2\"\n", "line 3", "version specifier"),
    ] {
        let failed = Daemon::try_start(unwatched(text)).expect_err("it is not understood");
        expect_text(&failed.log, line);
        expect_text(&failed.log, why);
    }
}
