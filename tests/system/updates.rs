//! Newer versions of what was installed.

use std::fs::{self, File};
use std::path::PathBuf;

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::Daemon;
use palisade_tests::package::{Entry, Package};
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text};

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
