use palisade_protocol::StreamKind;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn minimal() -> Value {
    json!({ "id": "echo", "name": "Echo", "version": "1.2.3", "entry_point": "bin/echo" })
}

/// The smallest manifest, with more fields.
fn with(more: Value) -> Vec<u8> {
    let mut manifest = minimal();
    for (key, value) in more.as_object().unwrap() {
        manifest[key] = value.clone();
    }
    serde_json::to_vec(&manifest).unwrap()
}

fn parse(more: Value) -> Manifest {
    let (manifest, warnings) = Manifest::parse(&with(more)).unwrap();
    assert_eq!(warnings, []);
    manifest
}

fn message(more: Value) -> String {
    Manifest::parse(&with(more)).unwrap_err().to_string()
}

#[test]
fn the_smallest_manifest_has_every_default() {
    let manifest = parse(json!({}));
    assert_eq!(manifest.instance().to_string(), "echo@1.2.3");
    assert_eq!((manifest.name.as_str(), manifest.entry_point.as_str()), ("Echo", "bin/echo"));
    assert_eq!(manifest.limits, Limits::default());
    assert_eq!((manifest.limits.concurrency, manifest.limits.queue), (16, 64));
    assert_eq!(manifest.activation, Activation::Lazy { idle_stop: None });
    assert_eq!(manifest.restart, RestartPolicy::default());
    assert_eq!(manifest.on_pause, OnPause::Wait);
    assert_eq!(manifest.on_overdue, OnOverdue { missed_graces: 3, window: Duration::from_secs(60) });
    assert_eq!(manifest.watchdog, watchdog::Settings::default());
    assert_eq!(manifest.cancel_grace, Duration::from_secs(2));
    assert_eq!(manifest.action("anything"), ActionSettings::default());
    assert_eq!(manifest.timing(), Timing::default());
}

#[test]
fn every_field_is_read() {
    let manifest = parse(json!({
        "$schema": "plugin.schema.json",
        "description": "Two\nlines",
        "runtime": "python3",
        "author": "Ada <ada@example.com>",
        "license": "MIT OR Apache-2.0",
        "homepage": "https://example.com:8443/echo?a=1#b",
        "icon": "resources/icon.svg",
        "tags": ["text", "echo-2"],
        "kind": "data_source",
        "capabilities": ["data_processing", "custom"],
        "args": ["--fast", "", "two\nlines"],
        "protocol": { "min": 1, "max": 2 },
        "permissions_required": [
            { "permission": "execute_code" },
            { "permission": "file_read", "scope": ["/srv/data"], "reason": "It reads the index." },
        ],
        "configuration_schema": { "type": "object", "properties": { "depth": { "type": "integer" } } },
        "state": { "schema_version": 3 },
        "events": { "subscribes": ["index.*", "clock"], "emits": ["echo.said"] },
        "default_enabled": false,
        "require": ["landlock", "memory"],
        "checksum": { "algorithm": "sha256", "value": "0f".repeat(32) },
        "signature": { "method": "ed25519", "key_id": "a", "value": "BwcH", "signed_at": "2026-01-31T12:00:00Z" },
        "actions": [
            {
                "name": "echo", "description": "says it again", "timeout_seconds": 0.5, "idempotent": true,
                "concurrency": 2, "progress": true, "permissions": ["file_read"],
                "parameters": { "type": "object", "properties": { "text": { "type": "string" } } },
                "returns": { "type": "string" },
                "streaming": { "output": { "kind": "items", "item": { "type": "integer" } }, "input": { "kind": "bytes" } },
                "examples": [{ "description": "Once", "parameters": { "text": "a" }, "returns": "a" }, {}],
            },
            { "name": "watch", "endless": true },
        ],
        "limits": {
            "concurrency": 4, "queue": 0, "call_timeout_seconds": 60, "start_timeout_seconds": 200,
            "drain_timeout_seconds": 7, "stop_grace_seconds": 1.5, "memory_mib": 256, "cpu_percent": 150, "pids": 32,
            "open_files": 64, "file_size_mib": 10, "disk_mib": 100, "log_kib_per_second": 32,
        },
        "activation": { "mode": "lazy", "idle_stop_seconds": 300 },
        "restart": {
            "policy": "always", "backoff_initial_ms": 10, "backoff_max_ms": 1000, "intensity": 2, "window_seconds": 5,
            "jitter": 0,
        },
        "environment": { "MODE": "fast", "EMPTY": "" },
        "on_pause": "refuse",
        "exclusive": true,
        "on_overdue": { "missed_graces": 1, "window_seconds": 10 },
        "watchdog": { "interval_seconds": 1, "timeout_seconds": 2 },
        "cancel_grace_seconds": 0.1,
        "dependencies": {
            "plugins": [
                { "id": "file-search", "version": "^1.2" },
                { "id": "clock", "version": "*", "optional": true, "reason": "It knows the time." },
            ],
            "libraries": ["libz.so.1"],
            "host": ">=0.1",
        },
    }));
    let s = Duration::from_secs_f64;
    assert_eq!(manifest.description.as_deref(), Some("Two\nlines"));
    assert_eq!(manifest.runtime.as_deref(), Some("python3"));
    let about = About {
        author: Some("Ada <ada@example.com>".into()),
        license: Some("MIT OR Apache-2.0".into()),
        homepage: Some("https://example.com:8443/echo?a=1#b".into()),
        icon: PackagePath::parse("resources/icon.svg"),
        tags: vec!["text".into(), "echo-2".into()],
        kind: Kind::DataSource,
        capabilities: vec![Capability::DataProcessing, Capability::Custom],
    };
    assert_eq!(manifest.about, about);
    assert_eq!(manifest.args, ["--fast", "", "two\nlines"]);
    assert_eq!(manifest.protocol, VersionRange { min: 1, max: 2 });
    assert!(manifest.permissions.execute_code);
    let requests = [
        PermissionRequest { permission: "execute_code", scope: None, reason: None },
        PermissionRequest {
            permission: "file_read",
            scope: Some(vec!["/srv/data".into()]),
            reason: Some("It reads the index.".into()),
        },
    ];
    assert_eq!(manifest.permission_requests, requests);
    let kept = |value: Value| Some(Json::new(&value));
    let schema = json!({ "type": "object", "properties": { "depth": { "type": "integer" } } });
    assert_eq!(manifest.configuration_schema.as_ref().map(Json::value), Some(schema));
    assert_eq!((manifest.state_schema, manifest.default_enabled, manifest.exclusive), (Some(3), false, true));
    let events = Events { subscribes: vec!["index.*".into(), "clock".into()], emits: vec!["echo.said".into()] };
    assert_eq!(manifest.events, events);
    assert_eq!(manifest.require.iter().map(|control| control.as_str()).collect::<Vec<_>>(), ["landlock", "memory"]);
    let echo = ActionSettings {
        description: Some("says it again".into()),
        parameters: kept(json!({ "type": "object", "properties": { "text": { "type": "string" } } })),
        returns: kept(json!({ "type": "string" })),
        streaming: Streaming {
            input: Some(Stream { kind: StreamKind::Bytes, item: None }),
            output: Some(Stream { kind: StreamKind::Items, item: kept(json!({ "type": "integer" })) }),
        },
        progress: true,
        timeout: Some(s(0.5)),
        idempotent: true,
        concurrency: Some(2),
        endless: false,
        permissions: vec!["file_read"],
        examples: vec![
            Example {
                description: Some("Once".into()),
                parameters: kept(json!({ "text": "a" })),
                returns: kept(json!("a")),
            },
            Example { description: None, parameters: None, returns: None },
        ],
    };
    assert_eq!(manifest.action("echo"), echo);
    assert!(manifest.action("watch").endless);
    let resources = Resources {
        memory_mib: Some(256),
        cpu_percent: Some(150),
        pids: Some(32),
        open_files: Some(64),
        file_size_mib: Some(10),
        disk_mib: Some(100),
        log_kib_per_second: Some(32),
    };
    let limits = Limits {
        concurrency: 4,
        queue: 0,
        call_timeout: s(60.0),
        start_timeout: s(200.0),
        drain_timeout: s(7.0),
        stop_grace: s(1.5),
        resources,
    };
    assert_eq!(manifest.limits, limits);
    assert_eq!(manifest.activation, Activation::Lazy { idle_stop: Some(s(300.0)) });
    let restart = RestartPolicy {
        mode: RestartMode::Always,
        backoff_initial: s(0.01),
        backoff_max: s(1.0),
        intensity: 2,
        window: s(5.0),
        jitter: 0.0,
    };
    assert_eq!(manifest.restart, restart);
    assert_eq!(manifest.environment.get("MODE").map(String::as_str), Some("fast"));
    assert_eq!(manifest.environment.get("EMPTY").map(String::as_str), Some(""));
    assert_eq!(manifest.on_pause, OnPause::Refuse);
    assert_eq!(manifest.on_overdue, OnOverdue { missed_graces: 1, window: s(10.0) });
    assert_eq!(manifest.watchdog, watchdog::Settings { interval: s(1.0), timeout: s(2.0) });
    assert_eq!(manifest.cancel_grace, s(0.1));
    let needed: Vec<_> = manifest
        .dependencies
        .iter()
        .map(|(id, needed)| (id.as_str(), needed.version.to_string(), needed.optional, needed.reason.as_deref()))
        .collect();
    let expected =
        [("clock", "*".to_owned(), true, Some("It knows the time.")), ("file-search", "^1.2".to_owned(), false, None)];
    assert_eq!(needed, expected);
    assert_eq!(manifest.libraries, ["libz.so.1"]);
    assert_eq!(manifest.host.as_ref().map(ToString::to_string).as_deref(), Some(">=0.1"));
    assert_eq!(manifest.timing().start_extended_max, s(200.0));
    assert_eq!(parse(json!({ "restart": "never" })).restart.mode, RestartMode::Never);
    assert_eq!(parse(json!({ "activation": "eager" })).activation, Activation::Eager);
    assert_eq!(parse(json!({ "limits": null, "restart": null })).limits, Limits::default());
}

#[test]
fn permissions_are_asked_for_and_each_mistake_is_named() {
    let error = message(json!({ "permissions_required": [
        { "permission": "everything" },
        { "permission": "file_read", "scope": ["srv", "/srv", 7], "reason": "" },
        { "permission": "execute_code", "scope": ["/bin"] },
        { "permission": "file_write", "scope": [] },
        "execute_code",
        { "scope": ["/srv"] },
    ] }));
    let one = "one of \"execute_code\", \"file_read\", \"file_write\", \"network_access\", \"system_access\"";
    for expected in [
        &format!("`permissions_required[0].permission` is \"everything\"; it has to be {one}"),
        "`permissions_required[1].scope[0]` is \"srv\": \"srv\" is no absolute path",
        "`permissions_required[1].scope[2]` is 7; it has to be one line of text",
        "`permissions_required[1].reason` is \"\"; it has to be a text of at most 512 bytes",
        "`permissions_required[2].scope` is an array; it has to be absent: execute_code has no scope",
        "`permissions_required[3].scope` is an array; it has to be a list of texts with at least one in it",
        "`permissions_required[4]` is \"execute_code\"; it has to be an object",
        &format!("`permissions_required[5].permission` is missing; it has to be {one}"),
    ] {
        assert!(error.contains(expected), "{expected}\n{error}");
    }
    assert_eq!(error.matches("; it has to be").count() + error.matches("\": ").count(), 8, "{error}");
    assert_eq!(
        message(json!({ "permissions": ["execute_code"] })),
        "`permissions` is an array; it has to be absent: permissions are listed in `permissions_required`, each an object"
    );
    let many = |n: usize| json!({ "permission": "file_read", "scope": [format!("/srv/{n}")] });
    let error = message(json!({ "permissions_required": (0..33).map(many).collect::<Vec<_>>() }));
    assert!(error.starts_with("`permissions_required` is a list: there are 33 entries"), "{error}");
}

#[test]
fn secrets_are_named_and_each_mistake_is_told_with_its_place() {
    let manifest = parse(json!({ "secrets": [
        { "name": "api-key", "reason": "It asks the service." }, { "name": "TOKEN.2", "optional": true },
    ] }));
    let named: Vec<_> = manifest.secrets.iter().map(|one| (one.name.as_str(), one.optional)).collect();
    assert_eq!(named, [("api-key", false), ("TOKEN.2", true)]);
    let requests: Vec<_> = manifest.permission_requests.iter().map(|one| (one.permission, one.scope.clone())).collect();
    assert_eq!(requests, ["api-key", "TOKEN.2"].map(|name| ("secret", Some(vec![name.to_owned()]))));
    assert_eq!(manifest.permission_requests[0].reason.as_deref(), Some("It asks the service."));
    let error = message(json!({ "secrets": [
        { "name": "a b" },
        { "name": "one", "reason": "", "optional": "no" },
        { "name": "one" },
        { "name": "two", "value": "hunter2", "default": "hunter3" },
        { "reason": "It has no name." },
        "three",
    ], "permissions_required": [{ "permission": "secret" }] }));
    for expected in [
        "`secrets[0].name` is \"a b\": name of a secret contains ' ' at byte 1",
        "`secrets[1].reason` is \"\"; it has to be a text of at most 512 bytes",
        "`secrets[1].optional` is \"no\"; it has to be true or false",
        "`secrets[2].name` is \"one\"; it has to be one that does not stand in the list before",
        "`secrets[3].value` is given: a secret is set with `palisade secret set PLUGIN NAME`",
        "`secrets[3].default` is given: a secret is set with `palisade secret set PLUGIN NAME`",
        "`secrets[4].name` is missing; it has to be the name of a secret",
        "`secrets[5]` is \"three\"; it has to be an object",
        "`permissions_required[0].permission` is \"secret\"; it has to be one of \"execute_code\"",
    ] {
        assert!(error.contains(expected), "{expected}\n{error}");
    }
    assert!(!error.contains("hunter"), "{error}");
}

#[test]
fn unknown_keys_are_warnings_with_their_path() {
    let (_, warnings) = Manifest::parse(&with(json!({
        "permission": [],
        "limits": { "memory_mb": 1 },
        "actions": [{ "name": "a.b", "retries": 1 }],
        "restart": { "delay": 1 },
        "a key": 1,
        "activation": { "mode": "eager", "idle_stop_seconds": 1 },
    })))
    .unwrap();
    let mut paths: Vec<String> = warnings.iter().map(|warning| warning.path.clone()).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "\"a key\"",
            "actions[0].retries",
            "activation.idle_stop_seconds",
            "limits.memory_mb",
            "permission",
            "restart.delay"
        ]
    );
}

#[test]
fn errors_name_the_place_the_value_and_what_is_allowed() {
    for (more, expected) in [
        (json!({ "id": null }), "`id` is missing; it has to be a plugin id, such as file-search"),
        (
            json!({ "id": "../x" }),
            "`id` is \"../x\": plugin id begins with '.'; it has to begin with a lower-case letter a-z",
        ),
        (json!({ "id": 7 }), "`id` is 7; it has to be a plugin id, such as file-search"),
        (
            json!({ "name": "" }),
            "`name` is \"\"; it has to be one line of text of at most 128 bytes, not empty, without control characters",
        ),
        (
            json!({ "version": "1.0.post1" }),
            "`version` is \"1.0.post1\": `1.0.post1` is a post-release, which SemVer does not have; raise the patch number \
             instead",
        ),
        (
            json!({ "entry_point": "../bin/sh" }),
            "`entry_point` is \"../bin/sh\": it has to be a relative path beneath the package's folder, such as bin/tool, \
             without `.` and `..`",
        ),
        (json!({ "limits": 3 }), "`limits` is 3; it has to be an object"),
        (
            json!({ "limits": { "concurrency": 0 } }),
            "`limits.concurrency` is 0; it has to be a whole number from 1 to 1024",
        ),
        (
            json!({ "limits": { "concurrency": "16" } }),
            "`limits.concurrency` is \"16\"; it has to be a whole number from 1 to 1024",
        ),
        (
            json!({ "limits": { "stop_grace_seconds": -1 } }),
            "`limits.stop_grace_seconds` is -1; it has to be a number of seconds from 0.001 to 600",
        ),
        (
            json!({ "actions": [{ "name": "e", "timeout_seconds": 1e300 }] }),
            "`actions[0].timeout_seconds` is 1e+300; it has to be a number of seconds from 0.001 to 604800",
        ),
        (
            json!({ "restart": "sometimes" }),
            "`restart` is \"sometimes\"; it has to be one of \"always\", \"on-failure\", \"never\"",
        ),
        (
            json!({ "restart": { "backoff_max_ms": 100 } }),
            "`restart.backoff_max_ms` is 100; it has to be such that backoff_initial_ms is not above backoff_max_ms (200 \
             and 30000 unless given)",
        ),
        (json!({ "restart": { "jitter": 1.5 } }), "`restart.jitter` is 1.5; it has to be a number from 0 to 1"),
        (json!({ "activation": ["lazy"] }), "`activation` is an array; it has to be one of \"lazy\", \"eager\""),
        (
            json!({ "environment": { "LD_PRELOAD": "x" } }),
            "`environment.LD_PRELOAD` is a key: variables that direct the loader are not allowed",
        ),
        (
            json!({ "environment": { "A": "nul\0" } }),
            "`environment.A` is \"nul\\u{0}\"; it has to be a text of at most 32768 bytes, without control characters",
        ),
        (
            json!({ "dependencies": { "plugins": [{ "id": "a", "version": "^1!2" }] } }),
            "`dependencies.plugins[0].version` is \"^1!2\": in the version specifier: `1!2` has an epoch, which SemVer does not \
             have; leave out what stands before the exclamation mark and raise the major number instead",
        ),
        (
            json!({ "dependencies": { "index": "^2.1" } }),
            "`dependencies.index` is \"^2.1\"; it has to be absent: plugins are listed in `dependencies.plugins`, each with its \
             id and version",
        ),
        (
            json!({ "dependencies": { "plugins": [{ "id": "a", "version": "1" }, { "id": "a", "version": "2" }] } }),
            "`dependencies.plugins[1].id` is \"a\"; it has to be one that does not stand in the list before",
        ),
        (
            json!({ "dependencies": { "libraries": ["/usr/lib/libz.so"] } }),
            "`dependencies.libraries[0]` is \"/usr/lib/libz.so\": it has to be the name of a library's file without a folder, such \
             as libz.so.1, of at most 255 bytes",
        ),
        (
            json!({ "actions": [{ "name": "a b" }] }),
            "`actions[0].name` is \"a b\": action name contains ' ' at byte 1; allowed are letters A-Z and a-z, digits, `_`, \
             `.` and `-`",
        ),
        (
            json!({ "actions": [{ "name": "a" }, { "name": "a" }] }),
            "`actions[1].name` is \"a\"; it has to be a name that no action before it has",
        ),
        (
            json!({ "actions": { "a": {} } }),
            "`actions` is an object; it has to be a list of objects, each with the name of an action",
        ),
        (
            json!({ "actions": [{ "name": "a", "permissions": ["file_read"] }] }),
            "`actions[0].permissions[0]` is \"file_read\": the plugin does not ask for it in `permissions_required`",
        ),
        (
            json!({ "actions": [{ "name": "a", "parameters": { "type": "string" }, "examples": [{ "parameters": 7 }] }] }),
            "`actions[0].examples[0].parameters` is an example: it does not fit its schema: 7 is not of type \"string\"",
        ),
        (
            json!({ "actions": [{ "name": "a", "parameters": [] }] }),
            "`actions[0].parameters` is an array; it has to be a JSON Schema",
        ),
        (
            json!({ "actions": [{ "name": "a", "returns": { "$ref": "https://example.com/s.json" } }] }),
            "`actions[0].returns` is a schema: it refers to \"https://example.com/s.json\", which lies outside of it; nothing is \
             fetched, so write that into its `$defs`",
        ),
        (
            json!({ "actions": [{ "name": "a", "streaming": { "input": { "kind": "bytes", "item": {} }, "output": {} } }] }),
            "`actions[0].streaming.input.item` is an object; it has to be absent: a stream of bytes has no items; \
             `actions[0].streaming.output.kind` is missing; it has to be one of \"items\", \"bytes\"",
        ),
        (
            json!({ "configuration_schema": { "properties": { "a": { "type": "text" } } } }),
            "`configuration_schema` is a schema: /properties/a/type: \"text\" is not valid under any of the schemas listed in the \
             'anyOf' keyword",
        ),
        (
            json!({ "license": "MIT OR Nonsense" }),
            "`license` is \"MIT OR Nonsense\": it is no SPDX expression (unknown term, at byte 7); allowed are identifiers of \
             https://spdx.org/licenses, joined by AND, OR and WITH, such as MIT OR Apache-2.0",
        ),
        (
            json!({ "homepage": "javascript:alert(1)" }),
            "`homepage` is \"javascript:alert(1)\": it begins neither with https:// nor with http://; it has to be a web address, \
             such as https://example.com/tool",
        ),
        (
            json!({ "icon": "/etc/icon.png" }),
            "`icon` is \"/etc/icon.png\": it has to be a relative path beneath the package's folder, such as bin/tool, without \
             `.` and `..`",
        ),
        (
            json!({ "tags": ["pdf", "PDF", "pdf"] }),
            "`tags[1]` is \"PDF\": a tag has lower-case letters a-z, digits, `-` and `_`, begins with a letter or a digit, and has \
             at most 40 bytes; `tags[2]` is \"pdf\": it stands in the list before",
        ),
        (
            json!({ "kind": "toy" }),
            "`kind` is \"toy\"; it has to be one of \"tool\", \"llm_provider\", \"data_source\", \"ui_extension\", \"workflow\"",
        ),
        (
            json!({ "args": ["-v", "--palisade-describe"] }),
            "`args[1]` is \"--palisade-describe\": arguments that begin with --palisade- ask a program about itself, and are no \
             plugin's own",
        ),
        (json!({ "args": vec!["x"; 65] }), "`args` is a list with 65 entries; it has to be one with at most 64"),
        (json!({ "protocol": { "min": 3, "max": 2 } }), "`protocol.max` is 2; it has to be not below `min`"),
        (
            json!({ "state": { "schema_version": 0 } }),
            "`state.schema_version` is 0; it has to be a whole number from 1 to 4294967295",
        ),
        (
            json!({ "events": { "emits": ["index.*"] } }),
            "`events.emits[0]` is \"index.*\": a topic has words of lower-case letters, digits, `-` and `_`, each beginning with a \
             letter, joined by dots; at most 128 bytes",
        ),
        (json!({ "default_enabled": "yes" }), "`default_enabled` is \"yes\"; it has to be true or false"),
        (json!({ "require": [7] }), "`require[0]` is 7; it has to be the name of a control"),
        (json!({ "checksum": "sha256:0" }), "`checksum` is \"sha256:0\"; it has to be an object"),
    ] {
        assert_eq!(message(more), expected);
    }
}

/// Its schemas run on an engine that does not backtrack, and what cannot is refused.
#[test]
fn patterns_of_schemas_neither_explode_nor_backtrack() {
    let text = "a".repeat(4000) + "!";
    let error = message(json!({
        "configuration_schema": { "type": "string", "pattern": "^(?=a)a+$" },
        "actions": [{
            "name": "a",
            "parameters": { "type": "string", "pattern": "^(a+)+$" },
            "examples": [{ "parameters": text }],
        }],
    }));
    assert!(
        error.contains("`actions[0].examples[0].parameters` is an example: it does not fit its schema: "),
        "{error}"
    );
    assert!(error.contains("`configuration_schema` is a schema: /pattern: "), "{error}");
}

#[test]
fn a_schema_that_has_no_end_is_kept_and_told() {
    let tree = json!({ "properties": { "child": { "$ref": "#" } } });
    let (manifest, warnings) =
        Manifest::parse(&with(json!({ "actions": [{ "name": "a", "returns": tree }] }))).unwrap();
    assert_eq!(manifest.action("a").returns.as_ref().map(Json::value), Some(tree));
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["actions[0].returns: refers to itself, or too often; nothing is checked against it"]);
}

#[test]
fn every_error_is_reported_up_to_a_bound() {
    let Err(ManifestError::Fields { errors }) = Manifest::parse(b"{\"limits\":{\"queue\":-1}}") else { panic!() };
    assert_eq!(errors.len(), 5);
    let many: Vec<Value> = (0..100).map(Value::from).collect();
    let Err(ManifestError::Fields { errors }) = Manifest::parse(&with(json!({ "actions": many }))) else { panic!() };
    assert_eq!((errors.len(), errors.last()), (PROBLEMS_MAX + 1, Some(&FieldError::More)));
}

#[test]
fn entry_points_stay_inside_the_package() {
    for path in ["tool", "bin/tool", "a/b/c.sh", "..hidden", "a b"] {
        assert!(PackagePath::parse(path).is_some(), "{path}");
    }
    for path in ["", "/bin/sh", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "a\0b", "a\nb"] {
        assert!(PackagePath::parse(path).is_none(), "{path}");
    }
    assert!(PackagePath::parse(&"x".repeat(256)).is_none());
    assert!(PackagePath::parse(&"xxxxxxx/".repeat(600)).is_none());
}

#[test]
fn what_is_no_manifest_at_all_is_told_so() {
    let error = Manifest::parse(b"{\"id\": \"echo\",\n  oops}").unwrap_err();
    assert_eq!(error.to_string(), "the manifest is not JSON: line 2, column 3: key must be a string");
    assert_eq!(Manifest::parse(b"[]").unwrap_err().to_string(), "the manifest is an array; it has to be a JSON object");
    let bytes = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert_eq!(Manifest::parse(&bytes), Err(ManifestError::TooLarge));
    let large = vec![b' '; 50_000_000];
    assert_eq!(
        Manifest::parse(&large).unwrap_err().to_string(),
        "the manifest has more than 1 MiB, which is the most that is allowed"
    );
    for (open, close, column) in [("[", "]", 136), ("{\"a\":", "}", 640)] {
        let deep = format!("{{\"deep\": {}0{}}}", open.repeat(10_000), close.repeat(10_000));
        let error = Manifest::parse(deep.as_bytes()).unwrap_err().to_string();
        let expected = format!("the manifest is not JSON: line 1, column {column}: recursion limit exceeded");
        assert_eq!(error, expected);
    }
    assert!(matches!(Manifest::parse(b"\xff"), Err(ManifestError::Syntax { .. })));
}

/// Of two values under one key neither is dropped silently; all of them are told at once, beside whatever else is wrong.
#[test]
fn every_key_that_stands_twice_is_refused() {
    let text = r#"{"id": "dup", "name": "Dup", "version": "one", "entry_point": "x", "id": "dup2",
        "limits": {"queue": 1, "queue": 1}, "later": [{"x": 1, "x": 2}]}"#;
    let Err(ManifestError::Fields { errors }) = Manifest::parse(text.as_bytes()) else { panic!("it is refused") };
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    for (at, path) in ["id", "limits.queue", "later[0].x"].into_iter().enumerate() {
        assert_eq!(told[at], format!("`{path}` stands there twice; leave one of them out"));
        assert_eq!(errors[at].path(), Some(path));
    }
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[3].starts_with("`version` is \"one\""), "{told:?}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("concurrency".to_owned()),
        Just("mode".to_owned()),
        Just("policy".to_owned()),
        Just("backoff_max_ms".to_owned()),
        Just("timeout_seconds".to_owned()),
        prop::sample::select(vec![
            "name",
            "parameters",
            "$ref",
            "pattern",
            "examples",
            "streaming",
            "output",
            "item",
            "plugins",
            "id",
            "scope",
            "permission",
            "emits",
            "type",
            "properties",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ];
    leaf.prop_recursive(3, 20, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..5).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_value_in_any_field_panics(
        field in prop::sample::select(vec![
            "id", "name", "version", "description", "entry_point", "runtime", "actions", "limits", "activation",
            "restart", "environment", "on_pause", "exclusive", "on_overdue", "watchdog", "cancel_grace_seconds", "dependencies", "author",
            "license", "homepage", "icon", "tags", "kind", "capabilities", "args", "protocol", "permissions_required",
            "configuration_schema", "state", "events", "default_enabled", "require",
        ]),
        value in any_json(),
    ) {
        let mut manifest = minimal();
        manifest[field] = value;
        if let Err(error) = Manifest::parse(&serde_json::to_vec(&manifest).unwrap()) {
            let message = error.to_string();
            prop_assert!(message.contains(&format!("`{field}")), "{}", message);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(Manifest::parse(&bytes).is_err());
    }
}

/// Each pattern is within what one schema may have; together they would take many seconds to compile.
#[test]
fn the_patterns_of_all_schemas_have_a_bound_together() {
    let with_pattern = |place: &str, pattern: &str| {
        let actions: Vec<_> = (0..ACTIONS_MAX)
            .map(|n| json!({ "name": format!("a{n}"), place: { "type": "string", "pattern": pattern } }))
            .collect();
        json!({ "actions": actions })
    };
    let large = with_pattern("parameters", "(x{1000}){20}N");
    assert!(with(large.clone()).len() < 100 << 10);
    assert_eq!(
        message(large),
        "`actions[16].parameters` is a schema: with this one all schemas together have more than the 4096 patterns, or take more than the \
         16 MiB for compiled ones, that are allowed"
    );
    // Of those that are small there may be one for each action.
    assert_eq!(parse(with_pattern("returns", "^[a-z0-9_-]{1,40}$")).actions.len(), ACTIONS_MAX);
    let patterns: Vec<_> = (0..64).map(|n| json!({ "pattern": format!("^{n}$") })).collect();
    let actions: Vec<_> =
        (0..65).map(|n| json!({ "name": format!("a{n}"), "returns": { "anyOf": patterns } })).collect();
    // 64 of each are as many as may be; what follows is said once.
    let refused = message(json!({ "actions": actions, "configuration_schema": { "pattern": "^a$" } }));
    assert!(refused.contains("`actions[64].returns` is a schema: with this one"), "{refused}");
    assert_eq!(refused.matches("the 4096 patterns").count(), 1, "{refused}");
    // A schema without a pattern takes nothing.
    let mut last = with_pattern("parameters", "^[a-z0-9_-]{1,40}$");
    last["configuration_schema"] = json!({ "type": "object" });
    assert!(parse(last).configuration_schema.is_some());
}
