//! Newer versions of what was installed.

use std::fs;
use std::path::PathBuf;

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::Daemon;
use palisade_tests::package::Package;
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
    assert_eq!(update(&daemon, &json!({})).expect("it is there")["updated"], false);
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
    expect_text(&refused.message, "no version of echo was installed: it lies in ");
    let refused = error(daemon.operate("update", &json!({"plugin": "nobody"})), ErrorCode::PluginNotFound);
    expect_text(&refused.message, "nobody");
    let refused = error(daemon.operate("update", &json!({ "path": other })), ErrorCode::InvalidParams);
    expect_text(&refused.message, "is that of one plugin");
    fs::rename(&folder, daemon.path().join("moved")).expect("it is ours");
    let refused = error(update(&daemon, &json!({})), ErrorCode::InvalidParams);
    expect_text(&refused.hint.unwrap_or_default(), "guest was installed from there, and that is gone");
    assert_eq!(versions(&daemon), ["1.0.0 true"]);

    let moved = daemon.path().join("moved");
    let updated = update(&daemon, &json!({"path": moved, "major": true})).expect("it was confirmed");
    assert_eq!(updated["version"], "2.0.0");
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}
