//! The built program against a supervisor that says what each test wants: what it prints, how it exits, what it sends.

#![allow(clippy::unwrap_used, reason = "helpers of tests, in which it is allowed")]

#[path = "../../../plugin-sdk/client/tests/fake/mod.rs"]
mod fake;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Output, Stdio};

use fake::{Agent, Fake, nothing, within};
use palisade_protocol::{ErrorBody, ErrorCode, Kind};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// The program, with an environment that has nothing of this machine's, and this socket.
fn palisade(socket: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.args(arguments).env_clear().env("PALISADE_SOCKET", socket).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(fake: &Fake, line: &str) -> Child {
    palisade(&fake.path(), line.split(' ')).spawn().unwrap()
}

async fn finish(child: Child) -> (i32, String, String) {
    let Output { status, stdout, stderr } = within(child.wait_with_output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Answers the request for an action's description.
async fn describe(agent: &mut Agent, action: Value) {
    let got = agent.expect(Kind::Call).await;
    assert_eq!((&got.body["plugin"], &got.body["action"]), (&json!("palisade"), &json!("describe")));
    agent.ok(got.id, &json!({"actions": [action]})).await;
}

/// Runs a call of an action that is described like this; hands over the connection and the call's frame.
async fn begin(line: &str, action: Value) -> (Fake, Child, Agent, fake::Got) {
    let fake = Fake::new();
    let child = start(&fake, line);
    let mut agent = fake.accept().await;
    describe(&mut agent, action).await;
    let call = agent.expect(Kind::Call).await;
    (fake, child, agent, call)
}

fn params(call: &fake::Got) -> Value {
    rmp_serde::from_slice(&call.payload).unwrap()
}

#[tokio::test]
async fn a_result_is_printed_and_nothing_else() {
    let schema = json!({"type": "object", "properties": {"expression": {"type": "string"}}});
    let action = json!({"name": "evaluate", "parameters": schema});
    let line = "call calculator@^0.1 evaluate expression=2+3 --timeout 5s";
    let (_fake, child, mut agent, call) = begin(line, action.clone()).await;
    assert_eq!(call.body["version"], "^0.1");
    assert!((1..=5000).contains(&call.body["deadline_ms"].as_u64().unwrap()));
    assert_eq!(params(&call), json!({"expression": "2+3"}));
    agent.ok(call.id, &5.0).await;
    assert_eq!(finish(child).await, (0, "5\n".into(), String::new()));

    for (line, result, printed) in [
        ("call c evaluate", json!("plain text"), "plain text\n"),
        ("call c evaluate", json!(null), ""),
        ("call c evaluate", json!([1]), "[\n  1\n]\n"),
        ("call --json c evaluate", json!("plain text"), "\"plain text\"\n"),
        ("call --json c evaluate", json!(null), "null\n"),
        ("call --json c evaluate", json!({"b": [1, "x"]}), "{\"b\":[1,\"x\"]}\n"),
    ] {
        let (_fake, child, mut agent, call) = begin(line, action.clone()).await;
        assert_eq!(call.payload, [0xc0], "no parameters are nil");
        agent.ok(call.id, &result).await;
        assert_eq!(finish(child).await, (0, printed.into(), String::new()), "{line}: {result}");
    }
}

#[tokio::test]
async fn nobody_there_is_status_nine_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    for line in ["list", "call echo echo", "status", "info echo", "logs", "events", "start echo"] {
        let (status, stdout, stderr) = finish(palisade(&absent, line.split(' ')).spawn().unwrap()).await;
        assert_eq!((status, stdout.as_str()), (9, ""), "{line}: {stderr}");
        assert!(stderr.starts_with("palisade: error: no daemon is running: there is no socket at "), "{stderr}");
        assert!(stderr.contains("\nhint: start it with `palisaded --user`"), "{stderr}");
    }
    // Where nobody says which, each that was looked for is named.
    let mut unnamed = palisade(&absent, ["list"]);
    let (status, _, stderr) =
        finish(unnamed.env_remove("PALISADE_SOCKET").env("XDG_RUNTIME_DIR", folder.path()).spawn().unwrap()).await;
    let own = folder.path().join("palisade/palisade.sock");
    assert_eq!(status, 9);
    assert!(stderr.contains("/run/palisade/palisade.sock") && stderr.contains(own.to_str().unwrap()), "{stderr}");
    // Left behind by a daemon that died, it says so.
    let fake = Fake::new();
    let path = fake.path();
    let _folder = fake.die();
    let (status, _, stderr) = finish(palisade(&path, ["list"]).spawn().unwrap()).await;
    assert_eq!(status, 9);
    assert!(stderr.contains("a dead one may have left behind"), "{stderr}");
    // As JSON for programs; and --socket goes before the environment.
    let arguments = ["--json", "--socket", path.to_str().unwrap(), "list"];
    let (status, _, stderr) = finish(palisade(&absent, arguments).spawn().unwrap()).await;
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(status, 9);
    assert_eq!((&error["error"]["code"], &error["error"]["exit_status"]), (&json!("not_reachable"), &json!(9)));
    assert!(error["error"]["message"].as_str().unwrap().contains(path.to_str().unwrap()));
}

#[tokio::test]
async fn every_code_of_the_taxonomy_has_its_status() {
    for code in ErrorCode::ALL {
        let (_fake, child, mut agent, call) = begin("call echo echo", json!({"name": "echo"})).await;
        let error = ErrorBody::new(*code, "it says\x1b[2J why").with_hint("and what to do");
        agent.send(Kind::Err, call.id, &error, &[]).await;
        let (status, stdout, stderr) = finish(child).await;
        assert_eq!(status, i32::from(code.exit_status()), "{code}");
        assert_eq!(stdout, "");
        assert_eq!(stderr, "palisade: error: it says\\u{1b}[2J why\nhint: and what to do\n", "{code}");
    }
    let (_fake, child, mut agent, call) = begin("--json call echo echo", json!({"name": "echo"})).await;
    let error = ErrorBody::new(ErrorCode::Overloaded, "full").with_retry_after_ms(20);
    agent.send(Kind::Err, call.id, &error, &[]).await;
    let (status, _, stderr) = finish(child).await;
    assert_eq!(
        serde_json::from_str::<Value>(&stderr).unwrap(),
        json!({"error": {
            "code": "overloaded", "class": "unavailable", "fault": "host", "retryable": true, "retry_after_ms": 20,
            "message": "full", "exit_status": 8,
        }})
    );
    assert_eq!(status, 8);
}

#[tokio::test]
async fn a_lost_connection_and_a_refusal_are_told() {
    let (_fake, child, agent, _call) = begin("call echo echo", json!({"name": "echo"})).await;
    drop(agent);
    let (status, _, stderr) = finish(child).await;
    assert_eq!(status, 9);
    assert!(stderr.contains("connection to the daemon was lost"), "{stderr}");
    assert!(stderr.contains("hint: the call may have been carried out"), "{stderr}");

    let fake = Fake::new();
    let child = start(&fake, "list");
    let mut agent = fake.accept_silently().await;
    let error = ErrorBody::new(ErrorCode::PermissionDenied, "uid 7 may not use this daemon");
    agent.send(Kind::Refuse, 0, &json!({ "error": error }), &[]).await;
    let (status, _, stderr) = finish(child).await;
    assert_eq!(status, 5);
    assert!(stderr.contains("uid 7 may not use this daemon"), "{stderr}");
}

#[tokio::test]
async fn wrong_parameters_are_told_before_the_call() {
    let schema =
        json!({"type": "object", "properties": {"expression": {"type": "string"}, "count": {"type": "integer"}}});
    let action = json!({"name": "evaluate", "parameters": schema});
    for (argument, message, hint) in [
        (
            "expresion=1",
            "this action has no parameter `expresion`; it has `count`, `expression`",
            "did you mean `expression`?",
        ),
        ("count=x", "`count` has to be an integer, not `x`", ""),
    ] {
        let fake = Fake::new();
        let child = start(&fake, &format!("call calculator evaluate {argument}"));
        let mut agent = fake.accept().await;
        describe(&mut agent, action.clone()).await;
        let (status, _, stderr) = finish(child).await;
        assert_eq!(status, 4);
        assert!(stderr.starts_with(&format!("palisade: error: {message}\n")), "{stderr}");
        assert!(stderr.contains(hint), "{stderr}");
        assert_eq!(agent.try_next().await, None, "nothing was called");
    }
    // Without a daemon, what is wrong without one.
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let file = folder.path().join("params.json");
    std::fs::write(&file, "{\n  \"a\": tru }").unwrap();
    for (arguments, status, expected) in [
        (vec!["call", "e", "a", "noequals"], 2, "key=value"),
        (vec!["call", "e", "a", "--params", "@/does/not/exist"], 2, "/does/not/exist cannot be read: No such file"),
        (
            vec!["call", "e", "a", "--params", &format!("@{}", file.display())],
            4,
            "params.json is not JSON: line 2, column 11",
        ),
        (vec!["call", "e", "a", "--params", "{"], 4, "--params is not JSON: line 1, column 1"),
        (vec!["call", "e", "a", "--input", "/does/not/exist"], 2, "/does/not/exist cannot be read"),
        (vec!["call", "e", "a", "--params", "-", "--input", "-"], 2, "cannot both read stdin"),
        (vec!["call", "e", "a", "--timeout", "soon"], 2, "write it as"),
        (vec!["call", "e"], 2, "ACTION"),
        (vec!["frobnicate"], 2, "frobnicate"),
        (vec![], 2, "Usage"),
    ] {
        let (found, stdout, stderr) = finish(palisade(&absent, &arguments).spawn().unwrap()).await;
        assert_eq!((found, stdout.as_str()), (status, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert_eq!(stderr.starts_with("palisade: error: "), !arguments.is_empty(), "help is no error: {stderr}");
    }
    // Who names a command that consists of others is told of those.
    for (line, usage, has, lacks) in [
        ("state", "Usage: palisade state ", "Have a plugin keep nothing any more", "frozen"),
        ("secret", "Usage: palisade secret ", "Show which secrets", "Have a plugin keep nothing any more"),
        (
            "--socket state secret",
            "Usage: palisade secret ",
            "Show which secrets",
            "Have a plugin keep nothing any more",
        ),
        (
            "secret --socket state",
            "Usage: palisade secret ",
            "Show which secrets",
            "Have a plugin keep nothing any more",
        ),
        (
            "--socket state",
            "Usage: palisade [",
            "Show, save, restore and forget what a plugin keeps",
            "Show which secrets",
        ),
    ] {
        let (found, stdout, stderr) = finish(palisade(&absent, line.split(' ')).spawn().unwrap()).await;
        assert_eq!((found, stdout.as_str()), (2, ""), "{line}: {stderr}");
        assert!(stderr.contains(usage) && stderr.contains(has) && !stderr.contains(lacks), "{line}: {stderr}");
    }
    // Each with what to do, and for programs as what it is.
    std::fs::write(&file, "").unwrap();
    let at_file = format!("@{}", file.display());
    for (params, code, status) in [
        ("@/does/not/exist", "usage", 2),
        (at_file.as_str(), "invalid_params", 4),
        ("{", "invalid_params", 4),
        ("[18446744073709551616]", "invalid_params", 4),
    ] {
        let arguments = ["--json", "call", "e", "a", "--params", params];
        let (found, _, stderr) = finish(palisade(&absent, arguments).spawn().unwrap()).await;
        let mut error = serde_json::from_str::<Value>(&stderr).unwrap()["error"].take();
        let told = error.as_object_mut().unwrap();
        assert!(told.remove("message").is_some() && told.remove("hint").is_some(), "{stderr}");
        assert_eq!(
            error,
            json!({"code": code, "class": "invalid", "fault": "caller", "retryable": false, "exit_status": status})
        );
        assert_eq!(found, status);
    }
    // For programs as JSON, wherever it was asked for.
    for (line, expected, hint) in [
        ("--json bogus", "unrecognized subcommand 'bogus'", "a similar subcommand exists: 'logs'"),
        (
            "--json call",
            "the following required arguments were not provided: <PLUGIN> <ACTION>",
            "Usage: palisade call <PLUGIN> <ACTION> [KEY=VALUE]...",
        ),
        ("--json", "requires a subcommand", "Usage: palisade [OPTIONS] <COMMAND>"),
    ] {
        let (status, stdout, stderr) = finish(palisade(&absent, line.split(' ')).spawn().unwrap()).await;
        assert_eq!((status, stdout.as_str()), (2, ""), "{line}: {stderr}");
        let error: Value = serde_json::from_str(&stderr).unwrap_or_else(|error| panic!("{line}: {error}: {stderr}"));
        assert_eq!((&error["error"]["code"], &error["error"]["exit_status"]), (&json!("usage"), &json!(2)));
        assert!(error["error"]["message"].as_str().unwrap().contains(expected), "{stderr}");
        assert_eq!(error["error"]["hint"], hint, "{line}");
    }
}

#[tokio::test]
async fn lines_of_a_plugin_do_not_pass_for_lines_of_the_program() {
    let (_fake, child, mut agent, call) = begin("call echo echo", json!({"name": "echo"})).await;
    let error = ErrorBody::new(ErrorCode::ExecutionFailed, "no\nhint: run \rthis").with_hint("a\npalisade: error: b");
    agent.send(Kind::Err, call.id, &error, &[]).await;
    let (_, _, stderr) = finish(child).await;
    assert_eq!(stderr, "palisade: error: no\n    hint: run \\rthis\nhint: a\n    palisade: error: b\n");
}

#[tokio::test]
async fn an_error_without_words_and_an_answer_that_is_none_are_told() {
    let (_fake, child, mut agent, call) = begin("call echo echo", json!({"name": "echo"})).await;
    agent.send(Kind::Err, call.id, &ErrorBody::new(ErrorCode::ExecutionFailed, " "), &[]).await;
    let told = "palisade: error: execution_failed, and nothing was said of why\n";
    assert_eq!(finish(child).await, (1, String::new(), told.into()));
    let (_fake, child, mut agent, call) = begin("call echo echo", json!({"name": "echo"})).await;
    agent.send(Kind::Ok, call.id, &nothing(), &[0xc1]).await;
    let (status, _, stderr) = finish(child).await;
    assert_eq!(status, 7);
    assert!(stderr.starts_with("palisade: error: echo echo: what came back is not a valid value: "), "{stderr}");
}

/// All about an action is what the daemon's `describe` says, which starts a plugin that never ran.
#[tokio::test]
async fn an_action_is_described() {
    let fake = Fake::new();
    for (line, expected) in [("info echo@^1 count", true), ("info echo@^1 other", false)] {
        let child = start(&fake, line);
        let mut agent = fake.accept().await;
        let call = agent.expect(Kind::Call).await;
        let action = line.rsplit(' ').next();
        assert_eq!(call.body["action"], "describe");
        assert_eq!(params(&call), json!({"plugin": "echo", "version": "^1", "action": action}));
        agent.ok(call.id, &json!({"actions": [{"name": "count", "description": "Counts."}]})).await;
        let (status, stdout, stderr) = finish(child).await;
        if expected {
            assert!(status == 0 && stdout.contains("description  Counts.\n"), "{stdout}{stderr}");
        } else {
            assert_eq!((status, stderr.as_str()), (3, "palisade: error: `echo` has no action `other`\n"));
        }
    }
}

/// What a call asks the daemon for on its way is no business of who called.
#[tokio::test]
async fn a_plugin_that_dies_at_its_start_is_told_as_such() {
    let late = ErrorBody::new(ErrorCode::Timeout, "describe took more than 2999 ms, the caller's deadline");
    let reason = "exited with code 1 before it was ready";
    for (last_failure, status, code, message) in [
        (
            json!({"generation": 1, "at_unix_ms": u64::MAX, "reason": reason}),
            8,
            "initialization_failed",
            format!("`broken` does not start, so `work` was not called: {reason}"),
        ),
        (json!(null), 6, "timeout", "`broken` was not ready for `work`: no answer within 3 s".into()),
    ] {
        let fake = Fake::new();
        let child = start(&fake, "--json call broken work --timeout 3s");
        let mut agent = fake.accept().await;
        let asked = agent.expect(Kind::Call).await;
        agent.send(Kind::Err, asked.id, &late, &[]).await;
        let asked = agent.expect(Kind::Call).await;
        assert_eq!((&asked.body["action"], params(&asked)), (&json!("status"), json!({"plugin": "broken"})));
        agent.ok(asked.id, &json!({"id": "broken", "state": "loaded", "last_failure": last_failure})).await;
        let (found, _, stderr) = finish(child).await;
        let error: Value = serde_json::from_str(&stderr).unwrap();
        assert_eq!((found, &error["error"]["code"]), (status, &json!(code)), "{stderr}");
        assert_eq!(error["error"]["message"], message);
        assert!(!stderr.contains("describe"), "{stderr}");
    }
    // The actions of one that ran before are known, and it is the call that waits for the start.
    let (_fake, child, mut agent, call) = begin("call broken work --timeout 3s", json!({"name": "work"})).await;
    agent.send(Kind::Err, call.id, &ErrorBody::new(ErrorCode::Timeout, "no answer"), &[]).await;
    let asked = agent.expect(Kind::Call).await;
    let last_failure = json!({"generation": 1, "at_unix_ms": 1, "reason": reason});
    agent.ok(asked.id, &json!({"state": "failed", "restart_in_ms": 9, "last_failure": last_failure})).await;
    let (status, _, stderr) = finish(child).await;
    assert_eq!(status, 8, "{stderr}");
    assert!(stderr.contains("`broken` does not start, so `work` was not called: exited with code 1"), "{stderr}");
    // One that runs is just slow.
    let (_fake, child, mut agent, call) = begin("call slow work --timeout 3s", json!({"name": "work"})).await;
    agent.send(Kind::Err, call.id, &ErrorBody::new(ErrorCode::Timeout, "no answer"), &[]).await;
    let asked = agent.expect(Kind::Call).await;
    let last_failure = json!({"generation": 1, "at_unix_ms": u64::MAX, "reason": reason});
    agent.ok(asked.id, &json!({"state": "active", "last_failure": last_failure})).await;
    assert_eq!(finish(child).await, (6, String::new(), "palisade: error: no answer\n".into()));
}

#[tokio::test]
async fn parameters_come_from_stdin_as_well() {
    let fake = Fake::new();
    let mut command = palisade(&fake.path(), ["call", "echo", "echo", "--params", "-", "b:=[1]", "c=x"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(br#"{"a": {"$base64": "AAH/"}}"#).await.unwrap();
    drop(stdin);
    let mut agent = fake.accept().await;
    describe(&mut agent, json!({"name": "echo"})).await;
    let call = agent.expect(Kind::Call).await;
    assert_eq!(call.payload, b"\x83\xa1a\xc4\x03\x00\x01\xff\xa1b\x91\x01\xa1c\xa1x");
    agent.send(Kind::Ok, call.id, &nothing(), &call.payload).await;
    let (status, stdout, _) = finish(child).await;
    assert_eq!(status, 0);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), json!({"a": {"$base64": "AAH/"}, "b": [1], "c": "x"}));
}

#[tokio::test]
async fn a_stream_is_printed_as_it_comes() {
    let (_fake, mut child, mut agent, call) = begin("call echo count", json!({"name": "count"})).await;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
    for number in 0..3_u8 {
        // The next is sent only after the one before was seen.
        agent.send(Kind::StreamData, call.id, &nothing(), &[number]).await;
        assert_eq!(within(lines.next_line()).await.unwrap().unwrap(), number.to_string());
    }
    agent.send(Kind::StreamEnd, call.id, &nothing(), &[]).await;
    agent.ok(call.id, &json!("done")).await;
    assert_eq!(within(lines.next_line()).await.unwrap().unwrap(), "done");
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(0));

    // Bytes come as they are; an error comes after what came before it.
    let (_fake, child, mut agent, call) = begin("call echo cat", json!({"name": "cat"})).await;
    agent.send(Kind::StreamOpen, call.id, &json!({"kind": "bytes"}), &[]).await;
    agent.send(Kind::StreamData, call.id, &nothing(), &[0xff, 0x00, b'x']).await;
    agent.send(Kind::Err, call.id, &ErrorBody::new(ErrorCode::Crashed, "it died"), &[]).await;
    let output = within(child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, [0xff, 0x00, b'x']);
    assert_eq!(output.stderr, b"palisade: error: it died\n");
}

#[tokio::test]
async fn input_is_fed_as_the_action_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input");
    std::fs::write(&file, "{\"a\": 1}\n\n\"two\"\n3").unwrap();
    let line = format!("call echo sum --input {}", file.display());
    let action = |kind: &str| json!({"name": "sum", "input": {"kind": kind}});
    let (_fake, child, mut agent, call) = begin(&line, action("items")).await;
    assert_eq!(agent.expect(Kind::StreamOpen).await.body, json!({"kind": "items"}));
    for payload in [&b"\x81\xa1a\x01"[..], b"\xa3two", b"\x03"] {
        assert_eq!(agent.expect(Kind::StreamData).await.payload, payload);
    }
    agent.expect(Kind::StreamEnd).await;
    agent.ok(call.id, &3).await;
    assert_eq!(finish(child).await, (0, "3\n".into(), String::new()));

    let (_fake, child, mut agent, call) = begin(&line, action("bytes")).await;
    assert_eq!(agent.expect(Kind::StreamOpen).await.body, json!({"kind": "bytes"}));
    assert_eq!(agent.expect(Kind::StreamData).await.payload, std::fs::read(&file).unwrap());
    agent.expect(Kind::StreamEnd).await;
    agent.ok(call.id, &()).await;
    assert_eq!(finish(child).await, (0, String::new(), String::new()));

    // Nothing to read is an empty stream, not a missing one.
    let (_fake, child, mut agent, call) = begin("call echo sum", action("items")).await;
    agent.expect(Kind::StreamOpen).await;
    agent.expect(Kind::StreamEnd).await;
    agent.ok(call.id, &0).await;
    assert_eq!(finish(child).await.0, 0);

    // What is no JSON cancels the call and names the line.
    std::fs::write(&file, "1\n2\n{3\n").unwrap();
    let (_fake, child, mut agent, _call) = begin(&line, action("items")).await;
    agent.expect(Kind::StreamOpen).await;
    let (status, _, stderr) = finish(child).await;
    assert_eq!(status, 4);
    assert!(stderr.contains("is not JSON: line 3, column 2: key must be a string"), "{stderr}");

    // An action that reads none says so before it is called.
    let fake = Fake::new();
    let child = start(&fake, &line);
    let mut agent = fake.accept().await;
    describe(&mut agent, json!({"name": "sum"})).await;
    let (status, _, stderr) = finish(child).await;
    assert_eq!((status, stderr.contains("`sum` reads no input stream")), (4, true), "{stderr}");
}

fn interrupt(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn ctrl_c_cancels_and_waits_for_the_end() {
    for (signal, status) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let (_fake, child, mut agent, call) = begin("call echo slow", json!({"name": "slow"})).await;
        interrupt(&child, signal);
        let cancel = agent.expect(Kind::Cancel).await;
        assert_eq!((cancel.id, cancel.body), (call.id, json!({"reason": "caller"})));
        agent.send(Kind::Cancelled, call.id, &nothing(), &[]).await;
        assert_eq!(finish(child).await, (status, String::new(), String::new()));
    }
    // A call that ended well all the same has its result.
    let (_fake, child, mut agent, call) = begin("call echo slow", json!({"name": "slow"})).await;
    interrupt(&child, rustix::process::Signal::INT);
    agent.expect(Kind::Cancel).await;
    agent.ok(call.id, &7).await;
    assert_eq!(finish(child).await, (0, "7\n".into(), String::new()));
}

/// A read that somebody else may leave waiting for ever: of stdin, of a FIFO, and the opening of one.
#[tokio::test]
async fn a_command_that_waits_to_read_can_be_ended() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let fifo = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let fifo = fifo.to_str().unwrap();
    let at_fifo = format!("@{fifo}");
    for arguments in [["--params", "-"], ["--params", at_fifo.as_str()], ["--input", fifo]] {
        for (signal, status) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
            let mut command = palisade(&absent, ["call", "echo", "echo"].iter().chain(&arguments));
            let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
            let stdin = child.stdin.take();
            until_it_listens(&child).await;
            interrupt(&child, signal);
            assert_eq!(finish(child).await, (status, String::new(), String::new()), "{arguments:?}");
            drop(stdin);
        }
        let limited = ["--json", "call", "echo", "echo", "--timeout", "50ms"];
        let mut child = palisade(&absent, limited.iter().chain(&arguments)).stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let (status, _, stderr) = finish(child).await;
        drop(stdin);
        let error = &serde_json::from_str::<Value>(&stderr).unwrap()["error"];
        assert_eq!((status, &error["code"], &error["fault"]), (6, &json!("timeout"), &json!("caller")), "{stderr}");
        assert!(error["message"].as_str().unwrap().starts_with("nothing was called: "), "{stderr}");
        assert!(error["hint"].as_str().unwrap().contains("--timeout"), "{stderr}");
    }
}

/// Until both signals have a handler: before, they would end any program.
async fn until_it_listens(child: &Child) {
    let path = format!("/proc/{}/status", child.id().unwrap());
    let both = 1_u64 << (2 - 1) | 1 << (15 - 1);
    within(async {
        loop {
            let status = std::fs::read_to_string(&path).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            if u64::from_str_radix(caught.trim(), 16).unwrap() & both == both {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_ctrl_c_ends_at_once() {
    let (_fake, mut child, mut agent, _call) = begin("call echo slow", json!({"name": "slow"})).await;
    interrupt(&child, rustix::process::Signal::INT);
    agent.expect(Kind::Cancel).await;
    interrupt(&child, rustix::process::Signal::INT);
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(130));
    assert_eq!(agent.try_next().await, None);
}

#[tokio::test]
async fn a_second_ctrl_c_ends_a_program_whose_output_is_stuck() {
    let (_fake, mut child, mut agent, call) = begin("call echo flood", json!({"name": "flood"})).await;
    // Nobody reads stdout; more than the pipe and the buffer hold.
    agent.send(Kind::StreamOpen, call.id, &json!({"kind": "bytes"}), &[]).await;
    for _ in 0..8 {
        agent.send(Kind::StreamData, call.id, &nothing(), &[b'x'; 100_000]).await;
    }
    interrupt(&child, rustix::process::Signal::INT);
    let pid = child.id().unwrap();
    // The first is taken note of before the second comes: two at once would be one.
    within(async {
        while std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
            status.lines().any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"))
        }) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let ended = within(async {
        loop {
            interrupt(&child, rustix::process::Signal::INT);
            if let Ok(Some(status)) = child.try_wait() {
                return status;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(ended.code(), Some(130));
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let (_fake, mut child, mut agent, call) = begin("call echo echo", json!({"name": "echo"})).await;
    drop(child.stdout.take());
    agent.ok(call.id, &7).await;
    assert_eq!(finish(child).await, (141, String::new(), String::new()));
}

/// `| head -1` ends what follows, without a further line to notice it by.
#[tokio::test]
async fn a_reader_that_goes_away_ends_what_waits_for_news() {
    for line in ["logs -f", "events", "call echo count"] {
        let fake = Fake::new();
        let mut child = start(&fake, line);
        let mut agent = fake.accept().await;
        if line.starts_with("call") {
            describe(&mut agent, json!({"name": "count", "endless": true})).await;
        }
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
        let item = rmp_serde::to_vec(&json!({"missed": 1})).unwrap();
        agent.send(Kind::StreamData, call.id, &nothing(), &item).await;
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        within(stdout.read_line(&mut String::new())).await.unwrap();
        drop(stdout);
        assert_eq!(finish(child).await, (141, String::new(), String::new()), "{line}");
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error() {
    let (fake, child, mut agent, call) = {
        let fake = Fake::new();
        let full: OwnedFd = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
        let child = palisade(&fake.path(), ["call", "echo", "echo"]).stdout(full).spawn().unwrap();
        let mut agent = fake.accept().await;
        describe(&mut agent, json!({"name": "echo"})).await;
        let call = agent.expect(Kind::Call).await;
        (fake, child, agent, call)
    };
    agent.ok(call.id, &1).await;
    let (status, _, stderr) = finish(child).await;
    drop(fake);
    assert_eq!(status, 74);
    assert!(stderr.contains("the output cannot be written: No space left on device"), "{stderr}");
}

#[tokio::test]
async fn operations_are_silent_where_they_work() {
    for (line, action, expected) in [
        ("start echo", "start", json!({"plugin": "echo"})),
        ("stop echo@^1", "stop", json!({"plugin": "echo", "version": "^1"})),
        ("stop --force echo", "stop", json!({"plugin": "echo", "force": true})),
        ("restart echo", "restart", json!({"plugin": "echo"})),
        ("pause echo", "pause", json!({"plugin": "echo"})),
        ("resume echo", "resume", json!({"plugin": "echo"})),
        ("reset echo", "reset", json!({"plugin": "echo"})),
    ] {
        let fake = Fake::new();
        let child = start(&fake, line);
        let mut agent = fake.accept().await;
        let call = agent.expect(Kind::Call).await;
        assert_eq!((call.body["action"].as_str(), params(&call)), (Some(action), expected), "{line}");
        agent.ok(call.id, &json!({"id": "echo", "state": "active"})).await;
        assert_eq!(finish(child).await, (0, String::new(), String::new()), "{line}");
    }
    // Several at once; one that fails does not keep the others from being done.
    let fake = Fake::new();
    let child = start(&fake, "--json start one two three");
    let mut agent = fake.accept().await;
    for _ in 0..3 {
        let call = agent.expect(Kind::Call).await;
        let plugin = params(&call)["plugin"].clone();
        if plugin == "two" {
            agent.send(Kind::Err, call.id, &ErrorBody::new(ErrorCode::PluginNotFound, "no such plugin"), &[]).await;
        } else {
            agent.ok(call.id, &json!({"id": plugin, "state": "active"})).await;
        }
    }
    let (status, stdout, stderr) = finish(child).await;
    assert_eq!(status, 3);
    let ids: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, ["one", "three"]);
    assert_eq!(serde_json::from_str::<Value>(&stderr).unwrap()["error"]["message"], "two: no such plugin");
    // What names it already does not name it twice.
    let child = start(&fake, "start nothere echo");
    let mut agent = fake.accept().await;
    for _ in 0..2 {
        let call = agent.expect(Kind::Call).await;
        if params(&call)["plugin"] == "nothere" {
            let error = ErrorBody::new(ErrorCode::PluginNotFound, "there is no plugin \"nothere\"");
            agent.send(Kind::Err, call.id, &error, &[]).await;
        } else {
            agent.ok(call.id, &json!({"id": "echo", "state": "active"})).await;
        }
    }
    assert_eq!(finish(child).await.2, "palisade: error: there is no plugin \"nothere\"\n");
}

#[tokio::test]
async fn a_daemon_that_is_just_starting_is_waited_for() {
    let fake = Fake::new();
    let child = start(&fake, "start echo");
    let mut agent = fake.accept().await;
    for _ in 0..3 {
        let call = agent.expect(Kind::Call).await;
        let error = ErrorBody::new(ErrorCode::Unavailable, "still looking").with_retry_after_ms(1);
        agent.send(Kind::Err, call.id, &error, &[]).await;
    }
    let call = agent.expect(Kind::Call).await;
    agent.ok(call.id, &json!({})).await;
    assert_eq!(finish(child).await, (0, String::new(), String::new()));
    // Not when it says that it takes longer, nor for other reasons.
    for error in [
        ErrorBody::new(ErrorCode::Unavailable, "restarting").with_retry_after_ms(30_000),
        ErrorBody::new(ErrorCode::Unavailable, "stopped"),
        ErrorBody::new(ErrorCode::Timeout, "slow").with_retry_after_ms(1),
    ] {
        let child = start(&fake, "start echo");
        let mut agent = fake.accept().await;
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::Err, call.id, &error, &[]).await;
        assert_eq!(finish(child).await.0, i32::from(error.code.exit_status()));
    }
}

#[tokio::test]
async fn what_is_shown_is_shown_for_people_and_for_programs() {
    let answer = json!({"plugins": [{"id": "echo", "version": "1.0.0", "name": "Echo", "state": "active", "since_unix_ms": 0,
        "restarts": 1, "calls_in_flight": 2, "from_tomorrow": {"x": 1}}], "rejected": [{"path": "/p/bad", "reason": "no id"}]});
    let fake = Fake::new();
    let child = start(&fake, "list");
    let mut agent = fake.accept().await;
    let call = agent.expect(Kind::Call).await;
    agent.ok(call.id, &answer).await;
    let (status, stdout, stderr) = finish(child).await;
    assert_eq!(status, 0);
    assert_eq!(
        stdout,
        "PLUGIN  VERSION  STATE   SINCE  BUSY  RESTARTS  DESCRIPTION\necho    1.0.0    active         2     1         Echo\n"
    );
    assert_eq!(stderr, "palisade: warning: /p/bad cannot be used: no id\n");

    let child = start(&fake, "list --json");
    let mut agent = fake.accept().await;
    let call = agent.expect(Kind::Call).await;
    agent.ok(call.id, &answer).await;
    let (status, stdout, stderr) = finish(child).await;
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap(), answer, "all that came, known or not");
}

#[tokio::test]
async fn logs_are_printed_line_by_line() {
    let fake = Fake::new();
    let child = start(&fake, "logs -n 5 --level warn echo");
    let mut agent = fake.accept().await;
    let call = agent.expect(Kind::Call).await;
    assert_eq!(params(&call), json!({"plugin": "echo", "lines": 5, "follow": false, "level": "warn"}));
    agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
    let line = json!({"time_unix_ms": 0, "plugin": "echo", "generation": 1, "stream": "stderr", "level": "warn", "message": "hm"});
    agent.send(Kind::StreamData, call.id, &nothing(), &rmp_serde::to_vec(&line).unwrap()).await;
    agent.send(Kind::StreamEnd, call.id, &nothing(), &[]).await;
    agent.ok(call.id, &json!({})).await;
    assert_eq!(finish(child).await, (0, "1970-01-01T00:00:00.000Z echo[1] stderr warn  hm\n".into(), String::new()));

    // Followed, they end with Ctrl-C.
    let mut child = start(&fake, "logs -f --json");
    let mut agent = fake.accept().await;
    let call = agent.expect(Kind::Call).await;
    assert_eq!(params(&call), json!({"lines": 100, "follow": true}));
    agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
    agent.send(Kind::StreamData, call.id, &nothing(), &rmp_serde::to_vec(&line).unwrap()).await;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let printed = within(lines.next_line()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), line);
    interrupt(&child, rustix::process::Signal::INT);
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(130));
    while agent.try_next().await.is_some() {}

    // Or with the daemon, and then with what to do.
    for (line, again) in [("logs -f", "`palisade logs` goes on"), ("events", "`palisade events` goes on")] {
        let child = start(&fake, line);
        let mut agent = fake.accept().await;
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
        drop(agent);
        let (status, stdout, stderr) = finish(child).await;
        assert_eq!((status, stdout.as_str()), (9, ""), "{stderr}");
        assert!(stderr.contains("connection to the daemon was lost") && stderr.contains(again), "{stderr}");
        assert!(!stderr.contains("carried out"), "{stderr}");
    }
}

#[tokio::test]
async fn doctor_works_with_and_without_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let (status, stdout, _) = finish(palisade(&absent, ["doctor"]).spawn().unwrap()).await;
    assert_eq!(status, 1);
    assert!(stdout.contains("fail   daemon") && stdout.contains("hint: start it with"), "{stdout}");
    assert!(stdout.contains("seccomp"), "{stdout}");

    let fake = Fake::new();
    for (state, expected) in [("warn", 0), ("fail", 1)] {
        let child = start(&fake, "doctor --json");
        let mut agent = fake.accept().await;
        let call = agent.expect(Kind::Call).await;
        agent.ok(call.id, &json!({"checks": [{"name": "cgroup", "state": state, "summary": "none"}]})).await;
        let (status, stdout, _) = finish(child).await;
        assert_eq!(status, expected);
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert!(report["checks"].as_array().unwrap().iter().any(|check| check["name"] == "cgroup"), "{report}");
    }
}

#[tokio::test]
async fn what_needs_no_daemon_needs_none() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let run = async |line: &str| finish(palisade(&absent, line.split(' ')).spawn().unwrap()).await;
    let (status, stdout, _) = run("version").await;
    assert_eq!((status, stdout), (0, format!("palisade {}\npalisaded is not reachable\n", env!("CARGO_PKG_VERSION"))));
    let (status, stdout, _) = run("version --json").await;
    let version: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, version["palisaded"].is_null()), (0, true));
    for shell in ["bash", "zsh", "fish"] {
        let (status, stdout, stderr) = run(&format!("completions {shell}")).await;
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert!(stdout.contains("palisade"), "{shell}");
    }
    let (status, stdout, _) = run("--help").await;
    assert!(status == 0 && stdout.contains("Exit status"), "{stdout}");
}

/// Beside the program, or in PATH: here a script of ours, which says what it was given.
#[tokio::test]
async fn run_becomes_the_daemon() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("bin/palisade");
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_palisade"), &copy).unwrap();
    let given: &[&str] = &["--socket", "/s", "run", "--plugins", "p"];
    let command = |path: &str, arguments: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let mut command = Command::new(&copy);
        command.args(arguments).env_clear().env("PATH", path).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let (status, _, stderr) = finish(spawn(command("/nowhere:", given)).await).await;
    assert_eq!(status, 3);
    assert!(stderr.contains("palisaded is neither beside this program nor in PATH"), "{stderr}");
    assert!(stderr.contains("`make build`"), "{stderr}");

    for (place, path) in [("other", folder.path().join("other")), ("bin", "/nowhere".into())] {
        let _ = std::fs::create_dir(folder.path().join(place));
        let script = folder.path().join(place).join("palisaded");
        std::fs::write(&script, format!("#!/bin/sh\necho {place} \"$@\"\nexit 42\n")).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (status, stdout, stderr) = finish(spawn(command(path.to_str().unwrap(), given)).await).await;
        assert_eq!((status, stderr.as_str()), (42, ""));
        assert_eq!(stdout, format!("{place} --plugins p --socket /s\n"));
        for (arguments, expected) in [(&["run"][..], "/v"), (&["--socket", "/s", "run"], "/s")] {
            let mut command = command(path.to_str().unwrap(), arguments);
            command.env("PALISADE_SOCKET", "/v");
            let (_, stdout, _) = finish(spawn(command).await).await;
            assert_eq!(stdout, format!("{place} --socket {expected}\n"));
        }
    }
}

/// Another test that forks while the copy is being written holds it open for writing for a moment.
async fn spawn(mut command: Command) -> Child {
    within(async {
        loop {
            match command.spawn() {
                Ok(child) => return child,
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}
