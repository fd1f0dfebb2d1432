//! A plugin in plain Python, written from the protocol's page alone, in the real daemon: that the page is enough.
//!
//! It is called through the client, so every result, item and piece has crossed both of the daemon's sides. Bounds: each test
//! has to be over within `palisade_tests::wire::BOUND`; nothing depends on how long anything takes. Traffic: the daemon's socket.
//!
//! The page's own, smaller plugin is run as it stands there, file by file. Elsewhere: `plugin-sdk/protocol` holds it against the page's
//! session, without a daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade_client::admin::{Change, LogLine, LogQuery};
use palisade_client::{CallError, Client, ErrorBody, ErrorCode, InputError, Raw, StreamKind};
use palisade_tests::command::command;
use palisade_tests::daemon::{Daemon, DaemonOptions, as_user, other_user};
use palisade_tests::package::{Entry, Package};
use palisade_tests::wire::BOUND;
use serde_json::{Map, Value, json};

/// As the plugin's manifest has it.
const PLUGIN: &str = "protocol-plugin";

/// More than two and a half times the credit of one direction of a call, and no multiple of a piece.
const LARGE: usize = (3 << 20) + 12_345;

const MANIFEST: &str = include_str!("../python/plugin.json");
const SCRIPT: &str = include_str!("../python/protocol_plugin.py");

/// The interpreter, if the user that plugins run as can execute one that has the package `msgpack`.
fn interpreter() -> Option<PathBuf> {
    let asked = std::env::var("PALISADE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut probe = match other_user() {
        Some(uid) => as_user(uid, asked.as_ref()),
        None => command(&asked),
    };
    // What is asked for may be a script that chooses the interpreter; plugins get the chosen one.
    let probe =
        probe.args(["-c", "import msgpack, sys; assert sys.version_info[0] == 3; print(sys.executable)"]).output();
    let path =
        probe.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    let path = path.map(|path| PathBuf::from(path.trim())).filter(|path| path.is_absolute());
    if path.is_none() {
        println!(
            "SKIPPED: {asked} as Python 3 with the package msgpack is needed; PALISADE_PYTHON names another interpreter"
        );
    }
    path
}

/// The plugin's folder: its own manifest and script, with the interpreter that was found in the script's first line.
fn package(interpreter: &Path) -> Package {
    let (first, rest) = SCRIPT.split_once('\n').expect("a script has lines");
    assert_eq!(first, "#!/usr/bin/python3");
    let script = format!("#!{}\n{rest}", interpreter.display());
    let manifest: Map<String, Value> = serde_json::from_str(MANIFEST).expect("the manifest is JSON");
    assert_eq!((&manifest["id"], &manifest["entry_point"]), (&json!(PLUGIN), &json!("protocol_plugin.py")));
    let package = Package::new(PLUGIN, Entry::Bytes(script.into_bytes()))
        .with("limits", json!({"start_timeout_seconds": 60, "call_timeout_seconds": 60, "drain_timeout_seconds": 60}))
        // As often as is allowed: tests wait for pings.
        .with("watchdog", json!({"interval_seconds": 0.1, "timeout_seconds": 60}));
    // The harness names the entry point itself.
    manifest
        .into_iter()
        .filter(|(field, _)| field != "entry_point")
        .fold(package, |package, (field, value)| package.with(&field, value))
}

/// Runs a test against a daemon of its own with the plugin installed, and expects the plugin to be in good health afterwards.
fn with_plugin(test: impl AsyncFnOnce(&Client)) {
    let Some(interpreter) = interpreter() else { return };
    let daemon = Daemon::with([package(&interpreter)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let test = async {
            let client = Client::connect(daemon.socket()).await.expect("the daemon listens");
            test(&client).await;
            let status = client.admin().status(PLUGIN).await.expect("the plugin is known");
            assert_eq!((status.restarts, status.last_failure), (0, None));
        };
        tokio::time::timeout(BOUND, test)
            .await
            .unwrap_or_else(|_| panic!("not over within {BOUND:?}; log:\n{}", daemon.log()));
    });
    drop(runtime);
    daemon.stop_and_expect_no_orphans();
}

/// The package of the page, word by word: its manifest, and its script with the mode that it is said to have.
#[test]
fn the_package_of_the_page() {
    let page = include_str!("../../docs/protocol.md");
    let script = page.split_once("```python\n").expect("the page has a plugin").1.split_once("```").expect("it ends").0;
    assert!(script.starts_with("#!/usr/bin/python3\n"));
    let manifest =
        page.lines().find_map(|line| line.strip_prefix("  plugin.json     ")).expect("the page has a manifest");
    let named = Path::new("/usr/bin/python3").canonicalize().ok();
    if named.is_none() || interpreter().and_then(|found| found.canonicalize().ok()) != named {
        println!("SKIPPED: the plugin of the page names /usr/bin/python3, and that one lacks the package msgpack");
        return;
    }
    let folder = tempfile::Builder::new().prefix("palisade-test-").tempdir().expect("the temporary folder is writable");
    let package = folder.path().join("plugins/greeter");
    std::fs::create_dir_all(&package).expect("the folder is ours");
    std::fs::write(package.join("plugin.json"), manifest).expect("the folder is ours");
    std::fs::write(package.join("greeter.py"), script).expect("the folder is ours");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(package.join("greeter.py"), mode).expect("the file is ours");
    let daemon = Daemon::start(DaemonOptions::default().folder(folder));
    let mut agent = daemon.agent();
    assert_eq!(agent.call("greeter", "greet", &json!({"name": "Ada"})), Ok(json!("Hello, Ada!")), "{}", daemon.log());
    let refused = agent.call("greeter", "greet", &json!({})).expect_err("it has no name to greet");
    assert_eq!((refused.code, refused.message.contains("`name` is missing")), (ErrorCode::InvalidParams, true));
    daemon.stop_and_expect_no_orphans();
}

/// The error with which a call ended in the plugin.
#[track_caller]
fn remote<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> ErrorBody {
    match outcome {
        Err(CallError::Remote(error)) => *error,
        other => panic!("expected an error of the plugin's, and the call brought {other:?}"),
    }
}

/// The same, in short.
#[track_caller]
fn failure<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> (ErrorCode, String) {
    let error = remote(outcome);
    (error.code, error.message)
}

/// What the plugin's `letters` gives from the `first` letter on.
fn letters(count: usize, first: usize) -> String {
    (b'a'..=b'z').cycle().skip(first).take(count).map(char::from).collect()
}

/// Bytes of every value whose period fits no piece.
fn noise(count: usize) -> Vec<u8> {
    (0..=255).chain(7..=230).cycle().take(count).collect()
}

/// Results, and every way for a call to be wrong.
#[test]
fn calls_and_invalid_calls() {
    with_plugin(async |client| {
        let greeting: String = client.call(PLUGIN, "greet", json!({"name": "Ada"})).await.expect("it greets");
        assert_eq!(greeting, "Hello, Ada!");
        let mirrored: Value =
            client.call(PLUGIN, "mirror", json!({"ü": [1, -2, 2.5, null, true, {"": "x"}]})).await.expect("it mirrors");
        assert_eq!(mirrored, json!({"ü": [1, -2, 2.5, null, true, {"": "x"}]}));
        // Absent, nil and an empty map are one and the same.
        for nothing in [Value::Null, json!({})] {
            assert_eq!(client.call::<Value>(PLUGIN, "mirror", nothing).await.expect("it mirrors"), json!({}));
        }

        let missing = (ErrorCode::InvalidParams, "`name` is missing, or of another type than str".to_owned());
        for wrong in [json!({}), json!({"name": 7}), Value::Null] {
            assert_eq!(failure(client.call::<Value>(PLUGIN, "greet", wrong).await), missing);
        }
        let list = failure(client.call::<Value>(PLUGIN, "greet", json!(["Ada"])).await);
        assert_eq!(list, (ErrorCode::InvalidParams, "the parameters have to be a map".to_owned()));
        // By the schema that it declared, or by its own check.
        let count = remote(client.call::<Value>(PLUGIN, "letters", json!({"count": 0})).await);
        assert_eq!(count.code, ErrorCode::InvalidParams);
        let cut = failure(client.call::<Value>(PLUGIN, "greet", Raw::new(vec![0x81, 0xa4])).await);
        assert_eq!(cut.0, ErrorCode::InvalidParams, "{}", cut.1);

        let unknown = failure(client.call::<Value>(PLUGIN, "fly", ()).await);
        assert_eq!(unknown.0, ErrorCode::ActionNotFound, "{}", unknown.1);
        let exception = failure(client.call::<Value>(PLUGIN, "fail", ()).await);
        assert_eq!(exception, (ErrorCode::ExecutionFailed, "RuntimeError('nobody expected this')".to_owned()));
        let told = remote(client.call::<Value>(PLUGIN, "fail", json!({"code": "resource_not_found"})).await);
        assert_eq!((told.code, told.message.as_str()), (ErrorCode::ResourceNotFound, "failed as told"));
        assert_eq!((told.class, told.fault, told.retryable), (told.code.class(), told.code.fault(), false));
        assert_eq!(
            (told.hint.as_deref(), told.details),
            (Some("ask for something else"), Some(json!({"asked": true})))
        );
        let odd = failure(client.call::<Value>(PLUGIN, "fail", json!({"code": "bad_mood"})).await);
        assert_eq!(odd.0, ErrorCode::ExecutionFailed);
        assert!(odd.1.contains("bad_mood") && odd.1.contains("failed as told"), "{}", odd.1);
    });
}

/// Each report of progress arrives, when the next is not made before it did.
#[test]
fn progress() {
    with_plugin(async |client| {
        let running = client.request(PLUGIN, "march").start().await.expect("it starts");
        let mut progress = running.progress();
        let mut input = running.input(StreamKind::Items).expect("streams are agreed");
        for (step, percentage) in [(1, 12.5), (2, 50.0), (3, 100.0)] {
            input.send(percentage).await.expect("the input is open");
            let report = progress.next().await.expect("the call runs");
            assert_eq!((report.percentage, report.message), (Some(percentage), Some(format!("step {step}"))));
            assert_eq!(report.details, Some(json!({"step": step})));
        }
        input.finish();
        assert_eq!(running.result::<Value>().await.expect("it marched"), json!({"steps": 3}));
    });
}

/// Items out: in order, cut into pieces where they are larger than the credit, refused by the reader, given up by the writer.
#[test]
fn an_output_of_items() {
    with_plugin(async |client| {
        let mut squares = client
            .request(PLUGIN, "squares")
            .params(json!({"count": 2_000}))
            .items::<Value>()
            .await
            .expect("it starts");
        for n in 1..=2_000 {
            let item = squares.next().await.expect("there is more").expect("it is an item");
            assert_eq!(item, json!({"n": n, "square": n * n}));
        }
        assert!(squares.next().await.is_none());
        assert_eq!(squares.result::<Value>().await.expect("it ends well"), json!({"sent": 2_000}));

        let pages = json!({"count": 3, "bytes": LARGE});
        let mut pages = client.request(PLUGIN, "pages").params(pages).items::<String>().await.expect("it starts");
        for n in 0..3 {
            let page = pages.next().await.expect("there is more").expect("it is an item");
            assert!(page == letters(LARGE, n), "page {n} with {} bytes", page.len());
        }
        assert!(pages.next().await.is_none());
        pages.result::<()>().await.expect("it ends well");

        let many = 100_000_000;
        let running =
            client.request(PLUGIN, "squares").params(json!({"count": many})).start().await.expect("it starts");
        let mut output = running.output();
        for n in 1..=3 {
            let item = output.next_item::<Value>().await.expect("there is more").expect("it is an item");
            assert_eq!(item["n"], json!(n));
        }
        drop(output);
        let result = running.result::<Value>().await.expect("the call goes on without its output");
        let sent = result["sent"].as_u64().expect("it is a number");
        assert!((3..many).contains(&sent), "{sent}");

        let mut broken = client.request(PLUGIN, "break-off").items::<Value>().await.expect("it starts");
        assert_eq!(broken.next().await.expect("there is one").expect("it is an item"), json!(1));
        let gone = (ErrorCode::DependencyUnavailable, "the source of the items is gone".to_owned());
        assert_eq!(failure(broken.next().await.expect("an error is the last")), gone);
        assert_eq!(failure(broken.result::<Value>().await), gone);
    });
}

/// Items in: read to their end, refused by the reader, given up by the writer, and where none are read.
#[test]
fn an_input_of_items() {
    with_plugin(async |client| {
        let start = async |action| client.request(PLUGIN, action).start().await.expect("it starts");

        let running = start("sum").await;
        let mut input = running.input(StreamKind::Items).expect("streams are agreed");
        for n in 1..=1_000 {
            input.send(n).await.expect("the input is open");
        }
        input.finish();
        assert_eq!(running.result::<Value>().await.expect("it adds"), json!({"count": 1_000, "sum": 500_500}));

        // Larger than the credit, so it goes in pieces that are granted as they are read.
        let running = start("first").await;
        let mut input = running.input(StreamKind::Items).expect("streams are agreed");
        let item = letters(LARGE, 3);
        input.send(&item).await.expect("the input is open");
        // The plugin takes no more; until that is known here, what is sent is skipped.
        while input.send(&item).await.is_ok() {}
        assert!(matches!(input.send(1).await, Err(InputError::Closed)));
        // The call itself goes on, until it is told.
        running.cancel();
        let result = running.result::<Value>().await.expect("it has one item");
        assert!(result == json!({"first": item, "reason": "caller"}));

        let running = start("sum").await;
        let mut input = running.input(StreamKind::Items).expect("streams are agreed");
        input.send(1).await.expect("the input is open");
        drop(input);
        let broken = failure(running.result::<Value>().await);
        assert_eq!(broken.0, ErrorCode::ExecutionFailed);
        assert!(broken.1.starts_with("the input broke off"), "{}", broken.1);

        for (action, kind) in [("wait", StreamKind::Items), ("sum", StreamKind::Bytes)] {
            let running = start(action).await;
            let _input = running.input(kind).expect("streams are agreed");
            let refused = failure(running.result::<Value>().await);
            assert_eq!(refused.0, ErrorCode::StreamingNotSupported, "{action}: {}", refused.1);
        }
    });
}

/// Bytes in and out of one call at once, several times the credit in both directions.
#[test]
fn both_streams_at_once() {
    with_plugin(async |client| {
        let running = client.request(PLUGIN, "invert").start().await.expect("it starts");
        let mut input = running.input(StreamKind::Bytes).expect("streams are agreed");
        let mut output = running.output();
        let sent = noise(LARGE);
        let send = async {
            for part in sent.chunks(100_003) {
                input.write(part.to_vec()).await.expect("the input is open");
            }
            input.finish();
        };
        let receive = async {
            let mut received = Vec::new();
            while let Some(bytes) = output.next_bytes().await {
                received.extend_from_slice(&bytes.expect("it is bytes"));
            }
            received
        };
        let ((), received) = tokio::join!(send, receive);
        let inverted: Vec<u8> = sent.iter().map(|byte| !byte).collect();
        assert!(received == inverted, "{} bytes of {}", received.len(), inverted.len());
        assert_eq!(running.result::<Value>().await.expect("it ends well"), json!({"bytes": LARGE}));
    });
}

/// A result and parameters of more than three megabytes, in pieces.
#[test]
fn large_payloads() {
    with_plugin(async |client| {
        let result: String = client.call(PLUGIN, "letters", json!({"count": LARGE})).await.expect("it gives letters");
        assert!(result == letters(LARGE, 0), "{} bytes", result.len());

        let text = letters(LARGE, 5);
        let sum: u64 = text.bytes().map(u64::from).sum();
        let measured: Value = client.call(PLUGIN, "measure", json!({ "text": text })).await.expect("it measures");
        assert_eq!(measured, json!({"bytes": LARGE, "sum": sum}));

        let both = json!({ "text": text });
        let mirrored: Value = client.call(PLUGIN, "mirror", &both).await.expect("it mirrors");
        assert!(mirrored == both);
    });
}

/// A call that would never end is cancelled by its caller, or by its deadline.
#[test]
fn cancelled_calls() {
    with_plugin(async |client| {
        let running = client.request(PLUGIN, "wait").start().await.expect("it starts");
        let report = running.progress().next().await.expect("it says that it waits");
        assert_eq!((report.percentage, report.message.as_deref()), (Some(0.0), Some("waiting")));
        running.cancel();
        let cancelled = failure(running.result::<Value>().await);
        assert_eq!(cancelled, (ErrorCode::Cancelled, "stopped, because: caller".to_owned()));

        // It may have finished when it hears of it.
        let running = client.request(PLUGIN, "wait").params(json!({"answer": true})).start().await.expect("it starts");
        running.progress().next().await.expect("it says that it waits");
        running.cancel();
        assert_eq!(running.result::<Value>().await.expect("an answer counts"), json!({"reason": "caller"}));

        let late = client.request(PLUGIN, "wait").timeout(Duration::from_millis(50)).call::<Value>().await;
        assert_eq!(failure(late).0, ErrorCode::Timeout);

        let calls = client.admin().status(PLUGIN).await.expect("the plugin is known").calls;
        assert_eq!((calls.in_flight, calls.ok, calls.cancelled, calls.timed_out), (0, 1, 1, 1));
    });
}

/// Pings are answered while a call computes, and so are other calls.
#[test]
fn pings_while_a_call_works() {
    with_plugin(async |client| {
        let running =
            client.request(PLUGIN, "until-pinged").params(json!({"count": 3})).start().await.expect("it starts");
        running.progress().next().await.expect("it says that it computes");
        let greeting: String = client.call(PLUGIN, "greet", json!({"name": "Ada"})).await.expect("it greets meanwhile");
        assert_eq!(greeting, "Hello, Ada!");
        assert_eq!(running.result::<Value>().await.expect("it was pinged"), json!({"pings": 3}));
        assert_eq!(client.call::<String>(PLUGIN, "ping", ()).await.expect("the daemon answers pings, too"), "pong");
    });
}

/// Log frames, and lines of both kinds.
#[test]
fn log_lines() {
    with_plugin(async |client| {
        client.call::<()>(PLUGIN, "log", json!({"message": "a line"})).await.expect("it logs");
        let query = LogQuery { plugin: Some(PLUGIN), lines: Some(100), follow: true, ..LogQuery::default() };
        let mut lines = client.admin().logs(&query).await.expect("the log can be read");
        let mut found: Vec<LogLine> = Vec::new();
        while found.len() < 3 {
            let line = lines.next().await.expect("the log goes on").expect("it is a line");
            if line.message.starts_with("a line") {
                found.push(line);
            }
        }
        // The three come on three ways, in no order.
        found.sort_by(|one, other| one.message.cmp(&other.message));
        let short: Vec<_> = found.iter().map(|line| (line.stream.as_str(), line.message.as_str())).collect();
        assert_eq!(short, [("log", "a line"), ("stderr", "a line on stderr"), ("stdout", "a line on stdout")]);
        assert_eq!(serde_json::to_value(found[0].level).expect("a level has a name"), json!("warn"));
        assert_eq!(found[0].fields, Some(json!({"way": "log"})));
        assert!(found[0].call.is_some(), "{:?}", found[0]);
        assert!(found.iter().all(|line| line.generation == Some(1)), "{found:?}");
    });
}

/// What the plugin asks of its host.
#[test]
fn host_calls() {
    with_plugin(async |client| {
        let mut own: Value = client.call(PLUGIN, "ask", json!({"op": "self"})).await.expect("the daemon answers");
        let uptime = own.as_object_mut().and_then(|own| own.remove("uptime_ms"));
        assert!(uptime.is_some_and(|uptime| uptime.is_u64()));
        assert_eq!(own, json!({"id": PLUGIN, "version": "1.0.0", "generation": 1}));
        let unknown = failure(client.call::<Value>(PLUGIN, "ask", json!({"op": "fly"})).await);
        assert_eq!(unknown.0, ErrorCode::ActionNotFound, "{}", unknown.1);
    });
}

/// Waits for the line that the plugin prints when its input has ended.
async fn expect_goodbye(client: &Client, generation: u64) {
    let query = LogQuery { plugin: Some(PLUGIN), lines: Some(100), follow: true, ..LogQuery::default() };
    let mut lines = client.admin().logs(&query).await.expect("the log can be read");
    loop {
        let line = lines.next().await.expect("the log goes on").expect("it is a line");
        if line.generation == Some(generation) && line.message == "the input has ended: exiting" {
            assert_eq!(line.stream, "stderr");
            return;
        }
    }
}

/// Told to drain, the plugin finishes the calls that it has. At the end of its input it exits, drained or not.
#[test]
fn drain_and_the_end_of_the_input() {
    with_plugin(async |client| {
        let running = client.request(PLUGIN, "until-drained").start().await.expect("it starts");
        let mut progress = running.progress();
        let mut input = running.input(StreamKind::Items).expect("streams are agreed");
        let mut expect_report = async |message| {
            let report = progress.next().await.expect("the call runs");
            assert_eq!(report.message.as_deref(), Some(message));
        };
        expect_report("waiting for the drain").await;
        let admin = client.admin();
        // A plugin that says `Drained` too early is not there any more when the item comes.
        let finish = async {
            expect_report("draining").await;
            input.send("an item").await.expect("the input is open");
            running.result::<Value>().await
        };
        let (result, stopped) = tokio::join!(finish, admin.change(Change::Stop, PLUGIN));
        assert_eq!(result.expect("it finishes"), json!({"while draining": "an item"}));
        let stopped = stopped.expect("it can be stopped");
        assert_eq!((stopped.state.as_str(), stopped.last_failure), ("stopped", None));
        expect_goodbye(client, 1).await;

        admin.change(Change::Start, PLUGIN).await.expect("it can be started again");
        // A call without an end of its own is not waited for, but told.
        let running = client.request(PLUGIN, "wait").params(json!({"answer": true})).start().await.expect("it starts");
        running.progress().next().await.expect("it says that it waits");
        let (result, stopped) = tokio::join!(running.result::<Value>(), admin.change(Change::Stop, PLUGIN));
        assert_eq!(result.expect("an answer counts"), json!({"reason": "draining"}));
        assert_eq!(stopped.expect("it can be stopped").state, "stopped");
        expect_goodbye(client, 2).await;

        admin.change(Change::Start, PLUGIN).await.expect("it can be started again");
        // Nothing is waited for, and the plugin computes: the end of its input has to be noticed all the same.
        let running = client
            .request(PLUGIN, "until-pinged")
            .params(json!({"count": 1_000_000_000}))
            .start()
            .await
            .expect("it starts");
        running.progress().next().await.expect("it says that it computes");
        let stopped = admin.change(Change::ForceStop, PLUGIN).await.expect("it can be stopped");
        assert_eq!((stopped.state.as_str(), stopped.last_failure), ("stopped", None));
        let lost = failure(running.result::<Value>().await);
        assert_eq!(lost.0, ErrorCode::Unavailable, "{}", lost.1);
        expect_goodbye(client, 3).await;
    });
}
