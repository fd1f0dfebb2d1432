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
        "actions": {
            "echo": { "description": "says it again", "timeout_seconds": 0.5, "idempotent": true, "concurrency": 2 },
            "watch": { "endless": true },
        },
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
        "on_overdue": { "missed_graces": 1, "window_seconds": 10 },
        "watchdog": { "interval_seconds": 1, "timeout_seconds": 2 },
        "cancel_grace_seconds": 0.1,
        "dependencies": { "file-search": "^1.2" },
    }));
    let s = Duration::from_secs_f64;
    assert_eq!(manifest.description.as_deref(), Some("Two\nlines"));
    assert_eq!(manifest.runtime.as_deref(), Some("python3"));
    let echo = ActionSettings {
        description: Some("says it again".into()),
        timeout: Some(s(0.5)),
        idempotent: true,
        concurrency: Some(2),
        endless: false,
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
    assert_eq!(manifest.dependencies.get("file-search").map(ToString::to_string).as_deref(), Some("^1.2"));
    assert_eq!(manifest.timing().start_extended_max, s(200.0));
    assert_eq!(parse(json!({ "restart": "never" })).restart.mode, RestartMode::Never);
    assert_eq!(parse(json!({ "activation": "eager" })).activation, Activation::Eager);
    assert_eq!(parse(json!({ "limits": null, "restart": null })).limits, Limits::default());
}

#[test]
fn permissions_are_asked_for_and_a_mistake_is_named() {
    let manifest = parse(json!({ "permissions": ["execute_code", { "file_read": ["/srv/data"] }] }));
    assert!(manifest.permissions.execute_code);
    for (permissions, expected) in [
        (json!(["everything"]), "`permissions` is an array: there is no permission \"everything\""),
        (json!([{ "file_read": ["srv"] }]), "`permissions` is an array: \"srv\" is no absolute path"),
        (json!("execute_code"), "`permissions` is \"execute_code\"; it has to be a list of permissions"),
    ] {
        let error = Manifest::parse(&with(json!({ "permissions": permissions }))).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn unknown_keys_are_warnings_with_their_path() {
    let (_, warnings) = Manifest::parse(&with(json!({
        "permission": [],
        "limits": { "memory_mb": 1 },
        "actions": { "a.b": { "retries": 1 } },
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
            "actions.\"a.b\".retries",
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
            json!({ "actions": { "e": { "timeout_seconds": 1e300 } } }),
            "`actions.e.timeout_seconds` is 1e+300; it has to be a number of seconds from 0.001 to 604800",
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
            json!({ "dependencies": { "a": "^1!2" } }),
            "`dependencies.a` is \"^1!2\": in the version specifier: `1!2` has an epoch, which SemVer does not have; leave \
             out what stands before the exclamation mark and raise the major number instead",
        ),
        (
            json!({ "actions": { "a b": {} } }),
            "`actions.\"a b\"` is a key: action name contains ' ' at byte 1; allowed are letters A-Z and a-z, digits, `_`, \
             `.` and `-`",
        ),
    ] {
        assert_eq!(message(more), expected);
    }
}

#[test]
fn every_error_is_reported_up_to_a_bound() {
    let Err(ManifestError::Fields { errors }) = Manifest::parse(b"{\"limits\":{\"queue\":-1}}") else { panic!() };
    assert_eq!(errors.len(), 5);
    let many: serde_json::Map<String, Value> = (0..100).map(|n| (format!("a{n}"), json!(1))).collect();
    let Err(ManifestError::Fields { errors }) = Manifest::parse(&with(json!({ "actions": many }))) else { panic!() };
    assert_eq!((errors.len(), errors.last()), (PROBLEMS_MAX + 1, Some(&FieldError::More)));
}

#[test]
fn entry_points_stay_inside_the_package() {
    for path in ["tool", "bin/tool", "a/b/c.sh", "..hidden", "a b"] {
        assert!(EntryPoint::parse(path).is_some(), "{path}");
    }
    for path in ["", "/bin/sh", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "a\0b", "a\nb"] {
        assert!(EntryPoint::parse(path).is_none(), "{path}");
    }
    assert!(EntryPoint::parse(&"x".repeat(256)).is_none());
    assert!(EntryPoint::parse(&"xxxxxxx/".repeat(600)).is_none());
}

#[test]
fn what_is_no_manifest_at_all_is_told_so() {
    let error = Manifest::parse(b"{\"id\": \"echo\",\n  oops}").unwrap_err();
    assert_eq!(error.to_string(), "the manifest is not JSON: line 2, column 3: key must be a string");
    assert_eq!(Manifest::parse(b"[]").unwrap_err().to_string(), "the manifest is an array; it has to be a JSON object");
    let bytes = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert_eq!(Manifest::parse(&bytes), Err(ManifestError::TooLarge { bytes: MANIFEST_BYTES_MAX + 1 }));
    let deep = vec![b'['; 100_000];
    assert!(matches!(Manifest::parse(&deep), Err(ManifestError::Syntax { .. })));
    assert!(matches!(Manifest::parse(b"\xff"), Err(ManifestError::Syntax { .. })));
}

/// Of two values under one key neither is dropped silently.
#[test]
fn a_key_that_stands_twice_is_refused() {
    for (text, key, place) in [
        ("{\"id\": \"dup\", \"name\": \"Dup\",\n \"id\": \"dup2\"}", "id", "line 2, column 5"),
        ("{\"id\": \"dup\",\n \"limits\": {\"queue\": 1, \"queue\": 1}}", "queue", "line 2, column 31"),
        ("{\"id\": \"dup\",\n \"later\": [{\"x\": 1, \"x\": 2}]}", "x", "line 2, column 23"),
    ] {
        let error = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
        let expected = format!("the manifest, {place}: the key \"{key}\" stands there twice; leave one of them out");
        assert_eq!(error, expected, "{text}");
    }
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
            "restart", "environment", "on_pause", "on_overdue", "watchdog", "cancel_grace_seconds", "dependencies",
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
