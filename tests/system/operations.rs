//! The daemon's own operations answer what `docs/protocol.md` says: every operation is performed in states that differ, and each answer
//! is held against the page's tables, key by key at every level, with types, and with what is always there and what is not.
//!
//! The page's tables are read, so that neither can change alone; the client's types are held against them as well.
//! Elsewhere: what the answers mean is what the other files here test; `{"missed"}` is tested beside `api::unix`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palisade_client::admin;
use palisade_protocol::{ErrorCode, Kind};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::wire::Agent;

use palisaded::model::trust::{KeyName, Method};
use palisaded::store::database::audit::WORDS;
use palisaded::trust::keys::NamedKey;
use palisaded::trust::seal::seal;
use serde_json::{Value, json};

use crate::support::{error, expect_echo, hostile, let_it_write_nothing};

const PAGE: &str = include_str!("../../docs/protocol.md");
const MANIFEST_PAGE: &str = include_str!("../../docs/manifest.md");
const CLIENT: &str = include_str!("../../plugin-sdk/client/src/admin.rs");
const EVENTS: &str = include_str!("../../supervisor/src/events.rs");

/// Optional fields whose absence lasts for a moment only, in which no test can be sure to look.
const HARDLY_EVER_ABSENT: [(&str, &str); 1] = [("a status", "generations[].process_id")];

/// Errors of operations that other tests make: as another user, on a host that lacks something, with a thousand waiting, of packages that do
/// not hold.
const MADE_ELSEWHERE: [&str; 15] = [
    "permission_denied",
    "sandbox_unavailable",
    "overloaded",
    "integrity_failed",
    "checksum_missing",
    "signature_missing",
    "signature_invalid",
    "signature_method_mismatch",
    "signature_expired",
    "signature_not_yet_valid",
    "key_unknown",
    "key_revoked",
    "key_not_allowed",
    "key_unusable",
    "check_failed",
];

/// The cells of the table of the page whose heading row begins so, as they stand there.
fn cells(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = PAGE.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let rows: Vec<Vec<_>> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "the page has a table that begins with {heading}");
    rows
}

fn bare(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// What a field of an answer is, as the page has it.
#[derive(Debug, Clone)]
struct Field {
    kind: &'static str,
    always: bool,
}

/// The tables of the page, and which fields were there and which were not.
#[derive(Debug, Default)]
struct Page {
    tables: BTreeMap<String, BTreeMap<String, Field>>,
    present: BTreeSet<(String, String)>,
    absent: BTreeSet<(String, String)>,
}

impl Page {
    fn read() -> Self {
        let mut page = Self::default();
        let names = PAGE.lines().filter_map(|line| line.strip_prefix("| field of ")?.split_once(" | type |"));
        // That of a file stands elsewhere on the page.
        for (name, _) in names.filter(|(name, _)| !name.starts_with('`')) {
            page.add(name, cells(&format!("field of {name}")), "");
        }
        assert_eq!(page.tables.len(), 33, "{:?}", page.tables.keys());
        for (name, fields) in &page.tables {
            for (path, Field { kind, .. }) in fields {
                let unit = kind.split_once(", ").map(|(_, unit)| unit);
                let endings = [("_ms", "ms"), ("_us", "µs"), ("_seconds", "s")];
                let ending = endings.iter().find(|(ending, _)| path.ends_with(ending)).map(|(_, unit)| *unit);
                assert_eq!(unit, ending, "{name}: the unit of {path}");
            }
        }
        // What a plugin says of its actions, and is told of its guarantees, stands where it says and is told it.
        page.take_section("an action", "### 0x03 Ready", "actions[].");
        page.take_section("a guarantee", "### 0x02 Welcome", "plugin.guarantees[].");
        page
    }

    fn take_section(&mut self, name: &str, heading: &str, prefix: &str) {
        let section = PAGE.split_once(&format!("\n{heading}\n")).expect("there is such a section").1;
        let rows = section.lines().skip_while(|line| !line.starts_with('|')).skip(2);
        let rows = rows.take_while(|line| line.starts_with('|'));
        self.add(name, rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect(), prefix);
    }

    fn add(&mut self, name: &str, rows: Vec<Vec<&'static str>>, prefix: &str) {
        let rows = rows.into_iter().filter_map(|row| {
            let path = bare(row[0]).strip_prefix(prefix)?;
            Some((path.to_owned(), Field { kind: row[1], always: matches!(row[2], "always" | "required") }))
        });
        let fields: BTreeMap<_, _> = rows.collect();
        assert!(!fields.is_empty(), "{name}");
        self.tables.insert(name.to_owned(), fields);
    }

    /// Holds a value against a table.
    #[track_caller]
    fn hold(&mut self, name: &str, value: &Value) {
        self.map(name, "", value);
    }

    /// Every key of a map, and every field that it should have.
    #[track_caller]
    fn map(&mut self, name: &str, prefix: &str, value: &Value) {
        let map = value.as_object().unwrap_or_else(|| panic!("{name}: {prefix} is a map and not {value}"));
        let fields = self.tables.get(name).unwrap_or_else(|| panic!("the page has no table of {name}")).clone();
        let within = fields.iter().filter_map(|(path, field)| Some((path.strip_prefix(prefix)?, field)));
        let mut children: BTreeMap<&str, Option<Field>> = BTreeMap::new();
        for (path, field) in within {
            match path.split_once('.') {
                None => drop(children.insert(path, Some(field.clone()))),
                // Its own row stands before those of what is in it, if it has one.
                Some((first, _)) => drop(children.entry(first.trim_end_matches("[]")).or_default()),
            }
        }
        for key in map.keys() {
            assert!(children.contains_key(key.as_str()), "{name}: `{prefix}{key}` is not on the page: {value}");
        }
        for (key, field) in children {
            let path = format!("{prefix}{key}");
            let Some(held) = map.get(key) else {
                let always = field.is_some_and(|field| field.always);
                assert!(!always, "{name}: the page says that `{path}` is always there: {value}");
                self.absent.insert((name.to_owned(), path));
                continue;
            };
            self.present.insert((name.to_owned(), path.clone()));
            match field {
                Some(field) => self.field(name, &path, field.kind, held),
                None if held.is_array() => self.field(name, &path, "list of maps", held),
                None => self.field(name, &path, "map", held),
            }
        }
    }

    #[track_caller]
    fn field(&mut self, name: &str, path: &str, kind: &str, value: &Value) {
        let kind = kind.split_once(", ").map_or(kind, |(kind, _unit)| kind);
        let whole = |most: u64| value.as_u64().is_some_and(|value| value <= most);
        let fits = match kind {
            "text" => value.is_string(),
            "bool" => value.is_boolean(),
            "u16" => whole(u16::MAX.into()),
            "u32" => whole(u32::MAX.into()),
            "u64" => whole(u64::MAX),
            "float" => value.is_number(),
            "value" => true,
            "map" => return self.map(name, &format!("{path}."), value),
            "list of maps" => {
                let list = value.as_array().unwrap_or_else(|| panic!("{name}: {path} is a list and not {value}"));
                return list.iter().for_each(|one| self.map(name, &format!("{path}[]."), one));
            }
            "status" => return self.hold("a status", value),
            "limits" => return self.hold("limits", value),
            "limit" => return self.hold("a limit", value),
            "permissions" => return self.hold("permissions", value),
            kind => {
                let (outer, inner) = kind.split_once(" of ").unwrap_or_else(|| panic!("{name}: a type {kind}"));
                let parts: Vec<_> = match outer {
                    "list" => value.as_array().map(|list| list.iter().collect()),
                    "map" => value.as_object().map(|map| map.values().collect()),
                    _ => None,
                }
                .unwrap_or_else(|| panic!("{name}: {path} is a {kind} and not {value}"));
                for part in parts {
                    match inner {
                        "actions" => self.hold("an action", part),
                        "guarantees" => self.hold("a guarantee", part),
                        "permissions" => self.hold("permissions", part),
                        inner => self.field(name, path, inner, part),
                    }
                }
                return;
            }
        };
        assert!(fits, "{name}: {path} is a {kind} on the page, and the daemon sends {value}");
    }

    /// Each field was there once, and each that may be absent was once not there.
    fn expect_all_seen(&self) {
        let mut unseen = Vec::new();
        let own = self.tables.iter().filter(|(name, _)| !matches!(name.as_str(), "an action" | "a guarantee"));
        for (name, fields) in own {
            for (path, field) in fields {
                let seen = (name.clone(), path.clone());
                if !self.present.contains(&seen) {
                    unseen.push(format!("{name}: {path} was never there"));
                }
                let hardly = HARDLY_EVER_ABSENT.contains(&(name, path));
                if !field.always && !hardly && !self.absent.contains(&seen) {
                    unseen.push(format!("{name}: {path} was always there"));
                }
            }
        }
        assert!(unseen.is_empty(), "{unseen:#?}");
    }
}

/// Asks, and holds the answer against the page and against the client's type for it.
#[track_caller]
fn ask<T>(page: &mut Page, daemon: &Daemon, table: &str, operation: &str, parameters: &Value) -> Value
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let answer = daemon.operate(operation, parameters);
    let answer = answer.unwrap_or_else(|error| panic!("{operation} {parameters}: {error}; log:\n{}", daemon.log()));
    page.hold(table, &answer);
    let read: T = serde_json::from_value(answer.clone()).unwrap_or_else(|error| panic!("{error} in {answer}"));
    expect_within(&answer, &serde_json::to_value(read).expect("it can be written"), operation);
    answer
}

/// That a type of the client's keeps all that the daemon said.
#[track_caller]
fn expect_within(said: &Value, kept: &Value, at: &str) {
    match (said, kept) {
        (Value::Object(said), Value::Object(kept)) => {
            for (key, value) in said {
                let kept = kept.get(key).unwrap_or_else(|| panic!("{at}: the client's type has no {key}"));
                expect_within(value, kept, &format!("{at}.{key}"));
            }
        }
        (Value::Array(said), Value::Array(kept)) => {
            assert_eq!(said.len(), kept.len(), "{at}");
            said.iter().zip(kept).for_each(|(said, kept)| expect_within(said, kept, at));
        }
        _ => assert_eq!(said, kept, "{at}"),
    }
}

/// One that is started and fails, with these ways to be restarted.
fn failing(id: &str, mode: &str, restart: Value) -> Package {
    Package::hostile(id, mode).with("restart", restart)
}

fn never() -> Value {
    json!({"policy": "never"})
}

/// The items of an operation that ends by itself.
fn items(daemon: &Daemon, operation: &str, parameters: &Value) -> Vec<Value> {
    let mut agent = daemon.agent();
    let id = agent.begin("palisade", operation, parameters);
    let collected = agent.collect(id);
    assert_eq!(collected.outcome, Ok(json!({})), "{operation}");
    collected.items
}

/// Takes events until one is as asked.
fn events_until(page: &mut Page, agent: &mut Agent, id: u64, wanted: impl Fn(&Value) -> bool) {
    loop {
        let frame = agent.next_of(id);
        assert_eq!(frame.kind, Some(Kind::StreamData), "events go on");
        let event = frame.value();
        page.hold("an event", &event);
        let read: admin::Event = serde_json::from_value(event.clone()).expect("it is an event");
        expect_within(&event, &serde_json::to_value(read).expect("it can be written"), "an event");
        let kinds = cells("kind of an event");
        assert!(
            kinds.iter().any(|row| json!(bare(row[0])) == event["kind"]),
            "{event} is of a kind that is on the page"
        );
        if wanted(&event) {
            return;
        }
    }
}

/// A server that answers each connection once.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    port
}

#[test]
fn every_operation_answers_what_the_page_says() {
    let page = &mut Page::read();
    let port = server();
    let long = json!({"policy": "on-failure", "backoff_initial_ms": 3_600_000, "backoff_max_ms": 3_600_000});
    let packages = [
        Package::echo().with("description", json!("Says it again")).with("novelty", json!(1)),
        hostile("tame")
            .asking(&json!(["network_access"]))
            .with("limits", json!({"memory_mib": 1024, "concurrency": 1}))
            .with("watchdog", json!({"interval_seconds": 0.1})),
        failing("failing", "exit-at-once", long),
        failing("quiet", "abort-at-once", never()),
        failing("silent", "silent", never()),
        Package::new("homeless", Entry::Bytes(b"#!/nonexistent/interpreter\n".to_vec())).with("restart", never()),
        Package::new("missing", Entry::Missing),
        Package::new("wrong", Entry::Missing).with("version", json!("one")),
        Package::hostile("lesser", "tame").with("require", json!(["disk"])),
        Package::hostile("keeper", "tame")
            .asking(&json!([]))
            .with("state", json!({"schema_version": 1}))
            .with("secrets", json!([{"name": "key", "reason": "to ask with"}, {"name": "spare", "optional": true}])),
        Package::hostile("misconfigured", "tame").with("configuration_schema", json!({"required": ["depth"]})),
        Package::new("words", Entry::Bytes(b"for whoever reads them\n".to_vec())).with("runtime", json!("there")),
        Package::new("asker", Entry::Bytes(b"for nobody\n".to_vec()))
            .with("author", json!("Somebody"))
            .with("license", json!("MIT"))
            .with("homepage", json!("https://example.com/asker"))
            .with("tags", json!(["one", "two"]))
            .with("capabilities", json!(["custom"]))
            .with(
                "dependencies",
                json!({"plugins": [
                    {"id": "echo", "version": "^0.1", "reason": "to say it again"},
                    {"id": "nowhere", "version": "*", "optional": true},
                ]}),
            ),
        Package::new("pinned", Entry::Bytes(b"for nobody\n".to_vec())),
        Package::new("letters", Entry::Bytes(b"for nobody\n".to_vec()))
            .with("runtime", json!("gone"))
            .with("dependencies", json!({"plugins": [{"id": "nowhere", "version": "*"}]})),
    ];
    let keys = tempfile::tempdir().expect("the temporary folder is writable");
    let release = KeyName::parse("release").expect("it is a name");
    let release = NamedKey::generate(release, Method::Ed25519, &keys.path().join("key")).expect("the folder is ours");
    let public = STANDARD.encode(release.key.public().expect("it has one"));
    let configuration = format!(
        "[permissions]\npolicy = \"deny\"\nrules = [{{ key = \"release\", decision = \"ask\" }}]\n[trust.keys.release]\nmethod = \"ed25519\"\npublic_key = {public:?}\n\
         ids = [\"*\"]\n[egress]\nallow_addresses = {{ \"*.test\" = [\"127.0.0.1\"] }}\n[egress.hosts]\n\"a.test\" = [\"127.0.0.1\"]\n\
         [plugins.hostile]\ntrace_denials = true\ngrant = [{{ network_access = [\"a.test:{port}\"] }}]\n\
         [plugins.lesser]\non_degraded = \"warn\"\n[plugins.pinned]\nversion = \"9\"\n[plugins.bound]\nversion = \"1\"\nupdate_policy = \"manual\"\n[plugins.keeper]\ngrant = [{{ secret = [\"key\"] }}]\n\
         [runtimes.there]\nexec = \"/usr/bin/env\"\n[runtimes.gone]\nexec = \"/usr/bin/no-such-program\"\n"
    );
    let mut daemon = Daemon::start(DaemonOptions::with(packages).configuration(&configuration));
    let of = |plugin: &str| json!({ "plugin": plugin });
    let status =
        |page: &mut Page, plugin: &str| ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of(plugin));
    let info = |page: &mut Page, plugin: &str| ask::<admin::PluginInfo>(page, &daemon, "an info", "info", &of(plugin));

    let mut watcher = daemon.agent();
    let events = watcher.begin("palisade", "events", &json!({"follow": true}));
    assert_eq!(watcher.next_of(events).kind, Some(Kind::StreamOpen));

    // Before anything runs, and with all there is that cannot.
    assert_eq!(status(page, "hostile")["state"], "discovered");
    ask::<admin::Listing>(page, &daemon, "a listing", "list", &json!({}));
    assert_eq!(status(page, "missing")["state"], "failed");
    info(page, "missing");
    for plugin in ["words", "letters", "asker"] {
        info(page, plugin);
    }
    let link = daemon.plugins().join("missing/link");
    std::os::unix::fs::symlink("/etc/passwd", link).expect("the folder is ours");
    daemon.operate("start", &of("missing")).expect_err("a package has no links");
    assert_eq!(info(page, "missing").get("snapshot"), None);
    let refused = daemon.operate("start", &of("failing")).expect_err("it exits at once");
    assert_eq!(refused.code, ErrorCode::InitializationFailed, "{refused}");
    for plugin in ["quiet", "homeless"] {
        daemon.operate("start", &of(plugin)).expect_err("it does not start");
    }
    let failing = status(page, "failing");
    assert!(failing["restart_in_ms"].is_u64() && failing["last_failure"]["last_stderr"].is_array(), "{failing}");
    assert_eq!(failing["last_failure"]["exit"], json!({"code": 3}));
    assert!(status(page, "quiet")["last_failure"]["exit"]["signal"]["number"].is_u64());
    assert_eq!(status(page, "homeless")["last_failure"].get("exit"), None);
    events_until(page, &mut watcher, events, |event| event["kind"] == "generation_failed");

    // One that has a process and has said nothing yet.
    let mut starter = daemon.agent();
    starter.begin("palisade", "start", &of("silent"));
    wait_for("a process that is silent", || {
        let generations = status(page, "silent")["generations"].clone();
        (generations[0]["phase"] == "starting" && generations[0]["process_id"].is_u64()).then_some(())
    });
    let stopped = ask::<admin::PluginStatus>(
        page,
        &daemon,
        "a status",
        "stop",
        &json!({"plugin": "silent", "version": "^0.1", "force": true}),
    );
    assert_eq!(stopped["generations"], json!([]));

    // What each change answers with.
    for (operation, state) in [
        ("start", "active"),
        ("pause", "paused"),
        ("resume", "active"),
        ("restart", "active"),
        ("stop", "stopped"),
        ("reset", "stopped"),
        ("start", "active"),
    ] {
        let parameters = json!({"plugin": "hostile", "version": "*"});
        let answer = ask::<admin::PluginStatus>(page, &daemon, "a status", operation, &parameters);
        assert_eq!(answer["state"], state, "{operation}");
    }
    expect_echo(&daemon, "lesser");
    assert!(status(page, "lesser")["degraded"].is_array());

    // What it keeps cannot be used.
    let kept = daemon.path().join("state/state/hostile");
    fs::create_dir_all(&kept).expect("the state is ours");
    fs::write(kept.join("state.sqlite3"), "no database".repeat(100)).expect("the state is ours");
    // Others keep theirs beside it.
    let above = kept.parent().expect("it has one");
    std::os::unix::fs::chown(above, palisade_tests::daemon::other_user(), None).expect("it is ours");
    let asks = json!({"asks": [{"op": "state.put", "params": {"key": "a", "value": 1}}]});
    daemon.agent().call("hostile", "ask", &asks).expect("it lives on");
    assert!(status(page, "hostile")["state_trouble"].is_string());

    // Calls of every fate, one of which is under way, and one of which waits for it.
    let mut caller = daemon.agent();
    let waits = caller.begin("hostile", "wait", &json!(null));
    let queued = caller.begin("hostile", "echo", &json!(null));
    wait_for("the age of a call", || {
        let status = status(page, "hostile");
        (status["generations"][0]["oldest_call_ms"].is_u64() && status["calls"]["waiting"] == 1).then_some(())
    });
    ask::<admin::Listing>(page, &daemon, "a listing", "list", &json!({}));
    caller.cancel(waits);
    error(caller.finish(waits), ErrorCode::Cancelled);
    assert_eq!(caller.finish(queued), Ok(json!(null)));

    // The connections of one that is granted a host: let through, refused, and not understood.
    for request in [
        format!("GET http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\nConnection: close\r\n\r\n"),
        "CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        daemon.agent().call("hostile", "proxy-ask", &json!([request])).expect("it asks");
    }
    for (kind, understood) in [
        ("connection_allowed", true),
        ("connection_ended", true),
        ("connection_refused", true),
        ("connection_refused", false),
    ] {
        events_until(page, &mut watcher, events, |event| {
            event["kind"] == kind && event["connection"]["host"].is_string() == understood
        });
    }

    // The system calls that it was refused, with and without a permission that would allow them.
    for (row, what) in [("mknod", "character 1:1"), ("ld-so-exec", "itself")] {
        let attempt = json!({"row": row, "what": what, "world": {"data": "/data"}});
        daemon.agent().call("hostile", "attempt", &attempt).expect("it lives on");
    }
    wait_for("what it was refused", || {
        let denied = info(page, "hostile")["denied"].as_array().map_or(0, Vec::len);
        (denied >= 2).then_some(())
    });
    expect_echo(&daemon, "echo");
    let echo = info(page, "echo");
    assert!(echo["warnings"].is_array() && echo.get("denied").is_none() && echo["actions"][0].is_object(), "{echo}");
    ask::<Value>(page, &daemon, "a description", "describe", &of("echo"));
    ask::<Value>(page, &daemon, "a description", "describe", &json!({"plugin": "echo", "action": "echo"}));
    ask::<Value>(page, &daemon, "a description", "describe", &of("palisade"));

    let limits = json!({"plugin": "hostile", "cpu_percent": 40, "disk_mib": 100, "pids": 50, "cpu_over": "warn"});
    let changed = ask::<Value>(page, &daemon, "a change", "limit", &limits);
    assert_eq!(changed["limits"]["cpu_percent"], json!({"value": 40, "by": "operator"}));
    assert!(changed["limits"]["memory_mib"]["asked"].is_u64(), "{changed}");
    events_until(page, &mut watcher, events, |event| event["kind"] == "limits_changed");

    // With and without a schema, before it was changed and after it.
    ask::<admin::Configuration>(page, &daemon, "a configuration", "config", &of("echo"));
    ask::<admin::Configuration>(page, &daemon, "a configuration", "config", &of("misconfigured"));
    let lacking = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of("misconfigured"));
    assert!(lacking["misconfigured"].is_string(), "{lacking}");
    let set = json!({"plugin": "misconfigured", "set": {"depth": 2}, "unset": []});
    let changed = ask::<admin::ConfigurationChange>(page, &daemon, "a change of configuration", "configure", &set);
    assert_eq!(changed["configuration"], json!({"depth": 2}), "{changed}");
    events_until(page, &mut watcher, events, |event| event["kind"] == "configuration_changed");
    let shown = ask::<admin::Configuration>(page, &daemon, "a configuration", "config", &of("misconfigured"));
    assert_eq!(shown["history"][0]["places"], json!(["/depth"]), "{shown}");
    let again = json!({"plugin": "misconfigured", "set": {"depth": 3}});
    daemon.operate("configure", &again).expect("it fits");
    let undo = json!({"plugin": "misconfigured", "undo": true});
    ask::<admin::ConfigurationChange>(page, &daemon, "a change of configuration", "configure", &undo);

    // What is kept, with a form that somebody has said and without.
    let of_keeper = of("keeper");
    ask::<admin::State>(page, &daemon, "a state", "state_show", &of_keeper);
    for asks in [
        json!([{"op": "state.put", "params": {"key": "a", "value": 1}}]),
        json!([{"op": "state.migrated", "params": {"schema": 1}}]),
    ] {
        let mut exporter = daemon.agent();
        let id = exporter.begin("palisade", "state_export", &of_keeper);
        let collected = exporter.collect(id);
        collected.items.iter().for_each(|item| page.hold("a pair", item));
        page.hold("an end of an export", &collected.outcome.expect("it ends well"));
        let answers = daemon.agent().call("keeper", "ask", &json!({ "asks": asks })).expect("it asks");
        assert!(answers[0]["ok"].is_object(), "{answers}");
    }
    let mut exporter = daemon.agent();
    let id = exporter.begin("palisade", "state_export", &of_keeper);
    let collected = exporter.collect(id);
    collected.items.iter().for_each(|item| page.hold("a pair", item));
    page.hold("an end of an export", &collected.outcome.expect("it ends well"));
    for one in [json!({"plugin": "keeper", "key": "a"}), json!({"plugin": "keeper", "prefix": "a", "after": "A"})] {
        ask::<admin::State>(page, &daemon, "a state", "state_show", &one);
    }
    let export = daemon.path().join("export.json");
    let text = json!({"palisade_state": 1, "plugin": "keeper", "schema": 1, "pairs": [{"key": "b", "value": 2}]});
    fs::write(&export, text.to_string()).expect("it is ours");
    let import = json!({"plugin": "keeper", "path": export});
    ask::<admin::StateChange>(page, &daemon, "a change of state", "state_import", &import);
    events_until(page, &mut watcher, events, |event| event["kind"] == "state_imported");
    ask::<admin::StateChange>(page, &daemon, "a change of state", "state_reset", &of_keeper);
    events_until(page, &mut watcher, events, |event| event["kind"] == "state_reset");

    // Secrets that are set and that are not, with a version that names them and without.
    assert_eq!(status(page, "keeper")["secrets_not_set"], json!(["key"]));
    let list =
        |page: &mut Page, plugin: &str| ask::<admin::Secrets>(page, &daemon, "secrets", "secret_list", &of(plugin));
    let secret = json!({"plugin": "keeper", "name": "key"});
    let valued = json!({"plugin": "keeper", "name": "key", "value": "hunter2"});
    ask::<admin::SecretChange>(page, &daemon, "a change of a secret", "secret_set", &valued);
    events_until(page, &mut watcher, events, |event| event["kind"] == "secret_set" && event["reason"] == "key");
    let listed = list(page, "keeper");
    assert_eq!((&listed["secrets"][0]["set"], &listed["secrets"][1]["set"]), (&json!(true), &json!(false)), "{listed}");
    let folder = daemon.plugins().join("keeper/plugin.json");
    let manifest = fs::read_to_string(&folder).expect("it is there");
    let mut without: Value = serde_json::from_str(&manifest).expect("it is JSON");
    without.as_object_mut().expect("a map").remove("secrets");
    fs::write(&folder, without.to_string()).expect("it is ours");
    daemon.operate("rescan", &json!({})).expect("it looks");
    assert_eq!(list(page, "keeper")["secrets"][0].get("version"), None);
    fs::write(&folder, manifest).expect("it is ours");
    daemon.operate("rescan", &json!({})).expect("it looks");
    ask::<admin::SecretChange>(page, &daemon, "a change of a secret", "secret_remove", &secret);
    events_until(page, &mut watcher, events, |event| event["kind"] == "secret_removed");

    // Lines of every way: its own, of a call, and the supervisor's.
    daemon.agent().call("hostile", "log-with-fields", &json!(null)).expect("it logs");
    wait_for("a line with fields", || {
        let lines = items(&daemon, "logs", &json!({"lines": 1_000, "follow": false, "level": "trace"}));
        for line in &lines {
            page.hold("a line", line);
            let read: admin::LogLine = serde_json::from_value(line.clone()).expect("it is a line");
            expect_within(line, &serde_json::to_value(read).expect("it can be written"), "a line");
        }
        lines.iter().any(|line| line["fields"].is_object()).then_some(())
    });
    let lines = items(&daemon, "logs", &of("failing"));
    let ways: BTreeSet<_> = lines.iter().filter_map(|line| line["stream"].as_str()).collect();
    assert_eq!(ways, BTreeSet::from(["stderr", "supervisor"]));

    // What they ask for, and what is said to that.
    let asking = |version: &str, actions: Value| {
        let wants = json!([
            {"permission": "file_read", "scope": ["/srv"], "reason": "It looks there."},
            {"permission": "execute_code"},
        ]);
        let package = Package::hostile("asking", "tame").with("permissions_required", wants).with("actions", actions);
        let package = package.with("version", json!(version)).environment("HOSTILE_VERSION", version);
        let folder = package.write(&daemon.path().join("elsewhere"), daemon.marker());
        seal(&folder, &release.key, &release.name, SystemTime::now()).expect("it can be signed");
        json!({ "path": folder })
    };
    let first = asking("1.0.0", json!([{"name": "echo", "description": "Says it again"}]));
    let installed = ask::<admin::Installation>(page, &daemon, "an installation", "install", &first);
    assert_eq!((&installed["awaits_consent"], &installed["asks"]["plugin"]), (&json!(true), &json!("asking")));
    events_until(page, &mut watcher, events, |event| event["kind"] == "consent_required");
    let pending = ask::<Value>(page, &daemon, "a permissions listing", "pending", &json!({}));
    assert_eq!(pending["plugins"][0]["plugin"], "asking", "{pending}");
    let refusing = json!({"plugin": "asking", "permissions": ["file_read"], "stop": false, "forget": false});
    ask::<admin::Permissions>(page, &daemon, "permissions", "revoke", &refusing);
    events_until(page, &mut watcher, events, |event| event["kind"] == "permissions_changed");
    let digest = pending["plugins"][0]["digest"].clone();
    let granting = json!({"plugin": "asking", "digest": digest, "definitions": true});
    let granted = ask::<admin::Permissions>(page, &daemon, "permissions", "grant", &granting);
    assert_eq!(granted["awaits_consent"], false, "{granted}");
    let second = asking("2.0.0", json!([{"name": "echo", "description": "Tells it"}, {"name": "wait"}]));
    let second = json!({"path": second["path"], "major": true});
    ask::<admin::Installation>(page, &daemon, "an installation", "install", &second);
    let listing = ask::<Value>(page, &daemon, "a permissions listing", "permissions", &of("asking"));
    assert_eq!(listing["plugins"][1]["definitions"][1], json!({"action": "wait", "change": "new"}), "{listing}");
    ask::<Value>(page, &daemon, "a permissions listing", "permissions", &of("missing"));
    let third = asking("2.1.0", json!([{"name": "echo", "description": "Tells it"}, {"name": "wait"}]));
    let third = json!({"plugin": "asking", "path": third["path"], "major": false, "force": false});
    let updated = ask::<admin::Updates>(page, &daemon, "updates", "update", &third);
    assert_eq!(updated["updates"][0]["updated"], true, "{updated}");
    assert_eq!(updated["updates"][0]["asks"]["version"], "2.1.0", "{updated}");
    fs::remove_dir_all(daemon.path().join("elsewhere/asking")).expect("it is ours");
    let failed = ask::<admin::Updates>(page, &daemon, "updates", "update", &json!({}));
    assert_eq!(failed["failed"][0]["id"], "asking", "{failed}");

    // Packages come and go.
    let package = Package::hostile("guest", "tame").write(&daemon.path().join("elsewhere"), daemon.marker());
    let path = json!({ "path": package });
    for was_there in [false, true] {
        let installed = ask::<admin::Installation>(page, &daemon, "an installation", "install", &path);
        assert_eq!((&installed["was_there"], &installed["awaits_consent"]), (&json!(was_there), &json!(false)));
    }
    let updated = ask::<admin::Updates>(page, &daemon, "updates", "update", &of("guest"));
    assert_eq!(updated["updates"][0]["awaits_consent"], false, "{updated}");
    events_until(page, &mut watcher, events, |event| event["kind"] == "package_installed");
    for enabled in [false, true] {
        let operation = if enabled { "enable" } else { "disable" };
        let answer = ask::<admin::PluginStatus>(page, &daemon, "a status", operation, &of("guest"));
        assert_eq!(answer["enabled"], enabled);
        events_until(page, &mut watcher, events, |event| event["kind"] == format!("package_{operation}d"));
    }
    let disabled = ask::<admin::PluginStatus>(page, &daemon, "a status", "disable", &of("echo"));
    assert_eq!(disabled["broken"], json!(["asker 0.1.0"]));
    ask::<admin::PluginStatus>(page, &daemon, "a status", "enable", &of("echo"));
    assert_eq!(info(page, "guest")["installed"]["source"], json!(package));
    for (reason, undo) in [(Some("it forgets"), false), (None, false), (None, true)] {
        let mut parameters = json!({"plugin": "guest", "undo": undo});
        if let Some(reason) = reason {
            parameters["reason"] = json!(reason);
        }
        let answer = ask::<admin::PluginStatus>(page, &daemon, "a status", "deprecate", &parameters);
        assert_eq!(answer.get("deprecated").is_some(), !undo, "{answer}");
        if reason.is_some() {
            ask::<Value>(page, &daemon, "a description", "describe", &of("guest"));
            daemon.operate("stop", &of("guest")).expect("it runs");
        }
        let kind = if undo { "package_undeprecated" } else { "package_deprecated" };
        events_until(page, &mut watcher, events, |event| event["kind"] == kind);
    }
    let removed = ask::<admin::Removal>(page, &daemon, "a removal", "uninstall", &of("guest"));
    assert!(removed.get("data").is_none(), "it has not run: {removed}");
    ask::<admin::Installation>(page, &daemon, "an installation", "install", &path);
    daemon.agent().call("guest", "data-held", &json!(1)).expect("it writes");
    let removed = ask::<admin::Removal>(page, &daemon, "a removal", "uninstall", &of("guest"));
    assert!(removed["data"].is_string(), "{removed}");
    for query in [json!({}), json!({"plugin": "guest", "since_unix_ms": 1, "before": u64::MAX, "limit": 3})] {
        let trail = ask::<admin::Trail>(page, &daemon, "a trail", "audit", &query);
        let last = trail["entries"].as_array().and_then(|entries| entries.last()).expect("something was done");
        assert_eq!((&last["what"], &last["id"]), (&json!("uninstall"), &json!("guest")), "{trail}");
        assert_eq!(trail["more"], query["limit"].is_u64(), "{trail}");
    }
    let usage = ask::<admin::Usage>(page, &daemon, "a usage", "stats", &json!({}));
    let guest = usage["plugins"].as_array().expect("a list").iter().find(|one| one["id"] == "guest");
    assert_eq!(guest.map(|guest| (&guest["installs"], &guest["present"])), Some((&json!(2), &json!(false))));
    let purge = json!({"plugin": "guest", "purge": true});
    let rest = ask::<admin::Removal>(page, &daemon, "a removal", "uninstall", &purge);
    assert!(rest.get("version").is_none(), "none is there: {rest}");
    ask::<admin::Installation>(page, &daemon, "an installation", "install", &path);
    let removed = ask::<admin::Removal>(page, &daemon, "a removal", "uninstall", &purge);
    assert_eq!(removed["purged"], true);
    events_until(page, &mut watcher, events, |event| event["kind"] == "package_removed");

    ask::<admin::Found>(page, &daemon, "what was found", "search", &json!({}));
    let found = ask::<admin::Found>(page, &daemon, "what was found", "search", &json!({"text": "SAYS"}));
    assert_eq!((&found["plugins"][0]["id"], &found["plugins"][0]["found_in"]), (&json!("echo"), &json!("description")));
    let overview = ask::<admin::Overview>(page, &daemon, "an overview", "capabilities", &json!({}));
    let custom = json!({"capability": "custom", "plugins": ["asker 0.1.0"]});
    assert!(overview["capabilities"].as_array().expect("a list").contains(&custom), "{overview}");
    let hostile = ask::<admin::Overview>(page, &daemon, "an overview", "capabilities", &of("hostile"));
    assert_eq!(hostile["plugin"]["announced"], true);
    let seen = ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    assert_eq!(seen["added"], json!([]), "{seen}");
    let late = Package::hostile("late", "tame");
    let folder = late.write(&daemon.plugins(), daemon.marker());
    ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    events_until(page, &mut watcher, events, |event| event["kind"] == "package_added");
    late.clone().with("description", json!("changed")).write(&daemon.plugins(), daemon.marker());
    ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    events_until(page, &mut watcher, events, |event| event["kind"] == "package_changed");
    expect_echo(&daemon, "late");
    let put = json!({"asks": [{"op": "state.put", "params": {"key": "a", "value": 1}}]});
    daemon.agent().call("late", "ask", &put).expect("it is kept");
    let late = late.with("version", json!("0.2.0")).environment("HOSTILE_VERSION", "0.2.0");
    late.clone().with("description", json!("changed again")).write(&daemon.plugins(), daemon.marker());
    ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    let served = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of("late"));
    assert!(served["probation"].is_object(), "{served}");
    let hanging = late.clone().environment("HOSTILE_MODE", "never-ready");
    hanging.with("limits", json!({"start_timeout_seconds": 600})).write(&daemon.plugins(), daemon.marker());
    let mut looks = daemon.agent();
    let look = looks.begin("palisade", "rescan", &json!({}));
    wait_for("a trial", || {
        let trying = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of("late"));
        trying["trial"].is_object().then_some(())
    });
    late.clone().with("description", json!("changed again")).write(&daemon.plugins(), daemon.marker());
    ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    looks.finish(look).expect("it is given up");
    late.clone().environment("HOSTILE_MODE", "exit-at-once").write(&daemon.plugins(), daemon.marker());
    let seen = ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    assert_eq!(seen["kept"][0]["plugin"], "late 0.2.0", "{seen}");
    events_until(page, &mut watcher, events, |event| event["kind"] == "package_kept");
    let kept = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of("late"));
    assert!(kept["passed_over"].is_object(), "{kept}");
    let list = ask::<admin::Listing>(page, &daemon, "a listing", "list", &json!({}));
    let late_one = list["plugins"].as_array().expect("a list").iter().find(|one| one["id"] == "late");
    assert_eq!(late_one.map(|one| &one["passed_over"]), Some(&kept["passed_over"]), "{list}");
    let failed = ask::<admin::Reloads>(page, &daemon, "reloads", "reload", &of("late"));
    assert!(failed["reloads"][0]["reason"].is_string(), "{failed}");
    let returned = ask::<admin::Reloads>(page, &daemon, "reloads", "rollback", &of("late"));
    assert_eq!(returned["reloads"][0]["reloaded"], true, "{returned}");
    events_until(page, &mut watcher, events, |event| event["kind"] == "package_rolled_back");
    let with_state = json!({"plugin": "late", "with_state": true});
    let returned = ask::<admin::Reloads>(page, &daemon, "reloads", "rollback", &with_state);
    assert!(returned["reloads"][0]["state"]["aside"].is_string(), "{returned}");
    let backups = ask::<admin::Backups>(page, &daemon, "backups", "backups", &of("late"));
    assert!(!backups["backups"].as_array().expect("a list").is_empty(), "{backups}");
    daemon.operate("stop", &of("late")).expect("it is there");
    let dry = json!({"plugin": "late", "dry_run": true});
    let plan = ask::<admin::Reloads>(page, &daemon, "reloads", "reload", &dry);
    assert_eq!(plan["reloads"][0]["untried"], "old_is_unused", "{plan}");
    fs::remove_dir_all(folder).expect("it is ours");
    ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    events_until(page, &mut watcher, events, |event| event["kind"] == "package_removed");

    // A newer version that brings over what the one before has kept, which stays readable.
    let keeps = |version: &str, schema: u32| {
        let mode = if schema == 1 { "tame" } else { "asks-before-ready" };
        let migrated = json!({"asks": [{"op": "state.migrated", "params": { "schema": schema }}]});
        let package = Package::hostile("keeps", mode).with("version", json!(version));
        let package =
            package.environment("HOSTILE_VERSION", version).environment("HOSTILE_ASKS", &migrated.to_string());
        let package = package.with("state", json!({ "schema_version": schema }));
        json!({"path": package.write(&daemon.path().join("elsewhere"), daemon.marker())})
    };
    ask::<admin::Installation>(page, &daemon, "an installation", "install", &keeps("1.0.0", 1));
    daemon.agent().call("keeps", "ask", &put).expect("it is kept");
    let installed = ask::<admin::Installation>(page, &daemon, "an installation", "install", &keeps("1.1.0", 2));
    assert!(installed["kept"].is_string(), "{installed}");
    let trying = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of("keeps"));
    assert_eq!(trying["probation"]["state"], installed["kept"], "{trying}");
    let next = json!({"plugin": "keeps", "path": keeps("1.2.0", 3)["path"]});
    let updated = ask::<admin::Updates>(page, &daemon, "updates", "update", &next);
    assert!(updated["updates"][0]["kept"].is_string() && updated["updates"][0]["installed"] == true, "{updated}");
    let states = ask::<admin::Backups>(page, &daemon, "backups", "backups", &of("keeps"))["states"].clone();
    let from = states[0]["name"].clone();
    let shown = json!({"plugin": "keeps", "from": from});
    assert_eq!(ask::<admin::State>(page, &daemon, "a state", "state_show", &shown)["schema"], 2, "{states}");

    // What is newer comes beside it.
    for (version, kind) in [("1.0.0", "package_added"), ("1.1.0", "package_updated"), ("2.0.0", "update_available")] {
        let package = Package::hostile("newer", "tame").with("version", json!(version));
        let package = package.environment("HOSTILE_VERSION", version);
        let whole = package.write(&daemon.path().join("elsewhere"), daemon.marker());
        fs::rename(whole, daemon.plugins().join(version)).expect("it is ours");
        ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
        events_until(page, &mut watcher, events, |event| event["kind"] == kind);
    }
    ask::<admin::Listing>(page, &daemon, "a listing", "list", &json!({}));
    let serves = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of("newer"));
    assert_eq!((&serves["version"], &serves["update"]["version"]), (&json!("1.1.0"), &json!("2.0.0")), "{serves}");
    let waits = json!({"plugin": "newer", "version": "2.0.0"});
    let waits = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &waits);
    assert_eq!(waits["held"]["by"], "major", "{waits}");
    for (folder, version) in [("bound-1", "1.0.0"), ("bound-2", "1.1.0"), ("bound-3", "2.0.0")] {
        let package = Package::hostile("bound", "tame").with("version", json!(version));
        let whole =
            package.environment("HOSTILE_VERSION", version).write(&daemon.path().join("elsewhere"), daemon.marker());
        fs::rename(whole, daemon.plugins().join(folder)).expect("it is ours");
        ask::<admin::Rescan>(page, &daemon, "a rescan", "rescan", &json!({}));
    }
    for plugin in ["newer", "pinned", "bound", "echo"] {
        let check = json!({"plugin": plugin, "check": true});
        let available = ask::<admin::AvailableUpdates>(page, &daemon, "what can be had", "update", &check);
        assert_eq!(available["available"][0]["newest"].is_string(), plugin != "echo", "{available}");
    }
    let confirmed = json!({"plugin": "newer", "to_version": "2.0.0", "major": true});
    ask::<admin::Updates>(page, &daemon, "updates", "update", &confirmed);
    // And goes.
    ask::<admin::Reloads>(page, &daemon, "reloads", "rollback", &of("newer"));
    let serves = ask::<admin::PluginStatus>(page, &daemon, "a status", "status", &of("newer"));
    assert_eq!((&serves["version"], &serves["passed_over"]["version"]), (&json!("1.1.0"), &json!("2.0.0")), "{serves}");
    ask::<admin::Listing>(page, &daemon, "a listing", "list", &json!({}));

    ask::<admin::DaemonStatus>(page, &daemon, "a daemon", "status", &json!({}));
    let report = ask::<Value>(page, &daemon, "a report", "doctor", &json!({}));
    let checks: Vec<admin::Check> = serde_json::from_value(report["checks"].clone()).expect("they are checks");
    expect_within(&report["checks"], &serde_json::to_value(checks).expect("they can be written"), "doctor");
    ask::<Value>(page, &daemon, "a version", "version", &json!({}));
    let_it_write_nothing(&daemon);
    ask::<admin::Permissions>(page, &daemon, "permissions", "revoke", &json!({"plugin": "asking"}));
    ask::<admin::PluginStatus>(page, &daemon, "a status", "disable", &json!({"plugin": "echo"}));
    assert_eq!(daemon.operate("shutdown", &json!({})), Ok(json!({})));
    events_until(page, &mut watcher, events, |event| event["kind"] == "daemon_stopping");
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    page.expect_all_seen();
}

/// The table of operations and that of their parameters are what the daemon says of itself, and what it takes.
#[test]
fn every_operation_takes_the_parameters_of_the_page() {
    let daemon = Daemon::with([Package::echo()]);
    let described = daemon.operate("describe", &json!({"plugin": "palisade"})).expect("it answers");
    let described = described["actions"].as_array().expect("a list");
    let rows = cells("operation");
    let names: Vec<_> = rows.iter().map(|row| json!(bare(row[0]))).collect();
    assert_eq!(names, described.iter().map(|action| action["name"].clone()).collect::<Vec<_>>());
    let types: BTreeMap<_, _> = cells("parameter").into_iter().map(|row| (bare(row[0]), row[1])).collect();
    let mut used = BTreeSet::new();
    for (row, action) in rows.iter().zip(described) {
        let (operation, schema) = (bare(row[0]), &action["parameters"]);
        let parameters: Vec<&str> = match row[1] {
            "none" => Vec::new(),
            list => list.split(", ").map(bare).collect(),
        };
        let required: Vec<_> = parameters.iter().filter(|name| !name.ends_with('?')).collect();
        assert_eq!(schema["required"], json!(required), "{operation}");
        let properties: serde_json::Map<_, _> = parameters
            .iter()
            .map(|name| {
                let name = name.trim_end_matches('?');
                used.insert(name);
                let kind = match types.get(name).unwrap_or_else(|| panic!("the page says what {name} is")) {
                    &"text" => "string",
                    &"bool" => "boolean",
                    &"list of text" => "array",
                    &"map" => "object",
                    kind if kind.starts_with("u64") => "integer",
                    kind => panic!("{name} is a {kind}"),
                };
                (name.to_owned(), json!({ "type": kind }))
            })
            .collect();
        assert_eq!(schema["properties"], Value::Object(properties), "{operation}");
        let streams = row[2].starts_with("an output stream");
        assert_eq!(action["output"]["kind"] == "items", streams, "{operation}");

        // The error for one that there is not names those that there are.
        let refused = daemon.operate(operation, &json!({"novelty": 1})).expect_err("there is no such parameter");
        assert_eq!(refused.code, ErrorCode::InvalidParams, "{operation}: {refused}");
        let taken: BTreeSet<_> = refused.message.split('`').skip(1).step_by(2).skip(1).collect();
        let said: BTreeSet<_> = parameters.iter().map(|name| name.trim_end_matches('?')).collect();
        assert_eq!(taken, said, "{operation}: {refused}");
    }
    assert_eq!(used, types.into_keys().collect(), "no parameter is explained that no operation has");
    daemon.stop_and_expect_no_orphans();
}

/// Each error of the page's table comes when the table says so, and no other does.
#[test]
fn every_operation_fails_as_the_page_says() {
    let exits = failing("failing", "exit-at-once", never());
    let asking = Package::new("asking", Entry::Missing).asking(&json!(["execute_code"]));
    let packages = [Package::echo(), exits, asking, Package::new("wrong", Entry::Missing).with("name", json!(1))];
    let daemon =
        Daemon::start(DaemonOptions::with(packages).configuration("[permissions]\n[plugins.failing]\ngrant = []\n"));
    let mut codes = BTreeSet::from(MADE_ELSEWHERE.map(str::to_owned));
    let mut refused = |operation: &str, parameters: Value, code: ErrorCode| {
        error(daemon.operate(operation, &parameters), code);
        codes.insert(code.name().to_owned());
    };
    for row in cells("operation") {
        let operation = bare(row[0]);
        if !row[1].contains("plugin") {
            continue;
        }
        let given = |plugin: &str, version: Option<&str>| {
            let mut parameters = json!({ "plugin": plugin });
            if operation == "limit" {
                parameters["pids"] = json!(10);
            }
            for named in ["name", "value", "path"] {
                if row[1].contains(&format!("`{named}`")) {
                    parameters[named] = json!("key");
                }
            }
            if let Some(version) = version {
                parameters["version"] = json!(version);
            }
            parameters
        };
        refused(operation, given("nobody", None), ErrorCode::PluginNotFound);
        refused(operation, given("wrong", None), ErrorCode::ConfigurationInvalid);
        if row[1].contains("version") {
            refused(operation, given("echo", Some("^7")), ErrorCode::VersionNotFound);
            refused(operation, given("echo", Some("new")), ErrorCode::InvalidParams);
        }
    }
    refused("list", json!({"plugin": "echo"}), ErrorCode::InvalidParams);
    refused("info", json!({}), ErrorCode::InvalidParams);
    refused("limit", json!({"plugin": "echo", "open_files": 100}), ErrorCode::InvalidParams);
    refused("limit", json!({"plugin": "echo"}), ErrorCode::InvalidParams);
    // What can be said is what a manifest can ask for.
    let bounds =
        MANIFEST_PAGE.lines().filter_map(|line| line.strip_prefix("| `limits.")?.split_once("` | whole number "));
    let mut bounded = 0;
    for (name, bounds) in bounds.filter(|(name, _)| !matches!(*name, "concurrency" | "queue")) {
        let bounds = bounds.split_once(" |").expect("a cell ends").0;
        let (least, most) = bounds.trim_start_matches("from ").split_once(" to ").expect("it has both ends");
        let number = |text: &str| text.parse::<u64>().expect("it is a number");
        for beyond in [number(least) - 1, number(most) + 1] {
            let refused = daemon.operate("limit", &json!({"plugin": "echo", name: beyond})).expect_err("it is beyond");
            assert_eq!(refused.message, format!("limits.{name} is {beyond}; it has to be {bounds}"));
        }
        bounded += 1;
    }
    assert_eq!(bounded, 7, "the limits are found on the page of the manifest");
    refused("secret_remove", json!({"plugin": "echo", "name": "key"}), ErrorCode::ResourceNotFound);
    refused("secret_set", json!({"plugin": "echo", "name": "key", "value": "x"}), ErrorCode::InvalidParams);
    for limit in [0, 1_001] {
        refused("audit", json!({ "limit": limit }), ErrorCode::InvalidParams);
    }
    refused("dance", json!({}), ErrorCode::ActionNotFound);
    for plugin in ["echo", "palisade"] {
        refused("describe", json!({"plugin": plugin, "action": "dance"}), ErrorCode::ActionNotFound);
    }
    refused("start", json!({"plugin": "asking"}), ErrorCode::ConsentRequired);
    refused("start", json!({"plugin": "failing"}), ErrorCode::InitializationFailed);
    refused("pause", json!({"plugin": "failing"}), ErrorCode::Unavailable);
    let late = daemon.agent().call_within("palisade", "events", &json!({}), Duration::from_millis(20));
    error(late, ErrorCode::Timeout);
    codes.insert(ErrorCode::Timeout.name().to_owned());
    let said: BTreeSet<_> = cells("error of an operation").iter().map(|row| bare(row[0]).to_owned()).collect();
    assert_eq!(codes, said);
    daemon.stop_and_expect_no_orphans();
}

/// The client's types have the fields of the page, and no others.
#[test]
fn the_types_of_the_client_are_the_pages() {
    let page = Page::read();
    for (name, table, prefix) in [
        ("Listing", "a listing", ""),
        ("PluginSummary", "a listing", "plugins[]."),
        ("Rejected", "a listing", "rejected[]."),
        ("DaemonStatus", "a daemon", ""),
        ("PluginStatus", "a status", ""),
        ("GenerationStatus", "a status", "generations[]."),
        ("Dossier", "a status", "last_failure."),
        ("Deprecation", "a status", "deprecated."),
        ("CallCounters", "a status", "calls."),
        ("PluginInfo", "an info", ""),
        ("Refusal", "an info", "denied[]."),
        ("LogLine", "a line", ""),
        ("Event", "an event", ""),
        ("Check", "a report", "checks[]."),
        ("Installation", "an installation", ""),
        ("Removal", "a removal", ""),
        ("Updates", "updates", ""),
        ("Update", "updates", "updates[]."),
        ("NotUpdated", "updates", "failed[]."),
        ("AvailableUpdates", "what can be had", ""),
        ("Available", "what can be had", "available[]."),
        ("Held", "a status", "held."),
        ("Offer", "a status", "update."),
        ("Configuration", "a configuration", ""),
        ("ConfigurationViolation", "a configuration", "unfit[]."),
        ("PastConfiguration", "a configuration", "history[]."),
        ("ConfigurationChange", "a change of configuration", ""),
        ("State", "a state", ""),
        ("StatePair", "a state", "pairs[]."),
        ("StateChange", "a change of state", ""),
        ("Secrets", "secrets", ""),
        ("SecretStatus", "secrets", "secrets[]."),
        ("SecretChange", "a change of a secret", ""),
        ("Permissions", "permissions", ""),
        ("Permission", "permissions", "permissions[]."),
        ("Definition", "permissions", "definitions[]."),
        ("Found", "what was found", ""),
        ("Hit", "what was found", "plugins[]."),
        ("Overview", "an overview", ""),
        ("Providers", "an overview", "capabilities[]."),
        ("Abilities", "an overview", "plugin."),
        ("Ability", "an overview", "plugin.actions[]."),
        ("Need", "an info", "dependencies[]."),
        ("Origin", "an info", "installed."),
        ("Usage", "a usage", ""),
        ("VersionUsage", "a usage", "plugins[]."),
        ("Latency", "a usage", "plugins[].latency."),
        ("Trail", "a trail", ""),
        ("TrailEntry", "a trail", "entries[]."),
        ("NotEnforced", "a status", "not_enforced[]."),
    ] {
        let paths = page.tables[table].keys().filter_map(|path| path.strip_prefix(prefix));
        let mut said: BTreeSet<_> = paths.filter(|path| !path.contains('.')).collect();
        if matches!(name, "LogLine" | "Event") {
            // What stands in place of one; and an event's details, whatever they are, are kept together.
            said.insert("missed");
        }
        if said.remove("connection") {
            said.insert("more");
        }
        let body = CLIENT.split_once(&format!("pub struct {name} {{")).expect("there is such a type").1;
        let body = body.split_once("\n}").expect("it ends").0;
        let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "));
        assert_eq!(fields.map(|(field, _)| field).collect::<BTreeSet<_>>(), said, "{name}");
    }
}

/// The page has every word of the audit trail.
#[test]
fn the_words_of_the_trail_are_the_pages() {
    let page: BTreeSet<_> = cells("word of a trail").iter().map(|row| bare(row[0])).collect();
    assert_eq!(page, WORDS.into_iter().collect());
}

/// The page has every kind of event that there is.
#[test]
fn the_kinds_of_events_are_the_pages() {
    let body = EVENTS.split_once("pub enum EventKind {").expect("there is such a type").1;
    let names = body.split_once("\n}").expect("it ends").0.lines().filter_map(|line| line.trim().strip_suffix(','));
    let snake = |name: &str| {
        let parts = name.split_inclusive(|_: char| true);
        let mut snake = String::new();
        for part in parts {
            if part.chars().all(char::is_uppercase) && !snake.is_empty() {
                snake.push('_');
            }
            snake += &part.to_lowercase();
        }
        snake
    };
    let code: BTreeSet<_> = names.map(snake).collect();
    let page: BTreeSet<_> = cells("kind of an event").iter().map(|row| bare(row[0]).to_owned()).collect();
    assert_eq!(page, code);
}
