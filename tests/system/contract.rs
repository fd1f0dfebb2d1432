//! What a manifest says of its program is held against the program: when it starts, and by `palisade validate`.

use std::fs;
use std::process::Stdio;

use palisade_protocol::ErrorCode;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text};

/// The actions of the echo plugin as its own program prints them for a manifest.
fn actions_of_echo() -> Value {
    let output = command(built("echo")).arg("--palisade-manifest").output().expect("it can be executed");
    assert!(output.status.success(), "{output:?}");
    let manifest: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    manifest["actions"].clone()
}

#[test]
fn a_program_that_is_what_its_manifest_says_is_started() {
    let daemon = Daemon::with([Package::echo().with("actions", actions_of_echo())]);
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn a_program_that_differs_from_its_manifest_is_not_started_and_both_sides_are_named() {
    let mut other_schema = actions_of_echo();
    other_schema[1]["parameters"]["properties"]["to"]["minimum"] = json!(7);
    let mut other_stream = actions_of_echo();
    other_stream[1]["streaming"] = json!({"output": {"kind": "bytes"}});
    let mut one_less = actions_of_echo();
    one_less.as_array_mut().expect("a list").pop();
    let mut one_more = actions_of_echo();
    one_more.as_array_mut().expect("a list").push(json!({"name": "sing"}));
    for (actions, sentence) in [
        (
            other_schema,
            "of the action count `parameters/properties/to/minimum` is 7 in the manifest and 0 in the program",
        ),
        (
            other_stream,
            "of the action count `streaming.output` is of bytes in the manifest and of items in the program",
        ),
        (one_less, "the program has the action \"fail\", which the manifest does not list"),
        (one_more, "the manifest names the action sing, which the program does not have"),
    ] {
        let package = Package::echo().with("actions", actions).with("restart", json!("never"));
        let daemon = Daemon::with([package]);
        let refused = error(daemon.agent().call("echo", "echo", &json!(1)), ErrorCode::InitializationFailed);
        expect_text(&refused.message, "its program and its plugin.json do not agree: ");
        expect_text(&refused.message, sentence);
        daemon.stop_and_expect_no_orphans();
    }
}

#[test]
fn a_configuration_that_its_manifest_does_not_take_ends_the_start() {
    let schema = json!({"properties": {"depth": {"type": "integer", "minimum": 1}}});
    let start = |depth: u8| {
        let package = Package::echo().with("configuration_schema", schema.clone()).with("restart", json!("never"));
        let configuration = format!("[plugins.echo.configuration]\ndepth = {depth}\n");
        Daemon::start(DaemonOptions::with([package]).configuration(&configuration))
    };
    let daemon = start(1);
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
    let daemon = start(0);
    let refused = error(daemon.agent().call("echo", "echo", &json!(1)), ErrorCode::ConfigurationInvalid);
    expect_text(&refused.message, "not as its plugin.json has it: /depth: 0 is less than the minimum of 1");
    daemon.stop_and_expect_no_orphans();
}

/// The packages that are shipped list their actions, and their programs have them.
#[test]
fn the_shipped_packages_are_valid() {
    let folder = tempfile::tempdir().expect("the disk has room");
    for (name, entry, manifest) in [
        ("echo", "echo", include_str!("../../plugins/echo/plugin.json")),
        ("calculator", "calculator", include_str!("../../plugins/calculator/plugin.json")),
        ("counter", "counter", include_str!("../../plugins/counter/plugin.json")),
        ("counter-1", "counter", include_str!("../../plugins/counter/first/plugin.json")),
        ("ticker", "ticker", include_str!("../../plugins/ticker/plugin.json")),
    ] {
        let package = folder.path().join(name);
        fs::create_dir(&package).expect("the folder is ours");
        fs::write(package.join("plugin.json"), manifest).expect("the folder is ours");
        fs::copy(built(name), package.join(entry)).expect("the folder is ours");
        let mut validate = command(built("palisade"));
        let output = validate.args(["validate", "--run"]).arg(&package).stdin(Stdio::null()).output();
        let output = output.expect("it can be executed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{name}");

        // As it is built: the program lies elsewhere.
        fs::remove_file(package.join(entry)).expect("it is ours");
        for (program, expected) in [(built(name), Some(0)), (package.join("nowhere"), Some(2))] {
            let mut validate = command(built("palisade"));
            validate.args(["validate", "--run", "--program"]).arg(program).arg(&package).stdin(Stdio::null());
            let output = validate.output().expect("it can be executed");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), expected, "{name}: {said}");
        }
    }
}

#[test]
fn a_program_has_the_arguments_of_its_manifest() {
    let script = b"#!/bin/sh\nfor argument in \"$@\"; do echo \"[$argument]\" >&2; done\nexit 1\n";
    let package = Package::new("told", Entry::Bytes(script.to_vec()))
        .with("args", json!(["--fast", "", "a b"]))
        .with("restart", json!("never"));
    let daemon = Daemon::with([package]);
    error(daemon.agent().call("told", "any", &json!(1)), ErrorCode::InitializationFailed);
    let dossier = daemon.status("told").last_failure.expect("it failed");
    assert_eq!(dossier.last_stderr, ["[--fast]", "[]", "[a b]"]);
    daemon.stop_and_expect_no_orphans();
}
