//! The pages about plugin.json and the configuration say what the daemon does: every field, bound, default and flag. The plugin of the
//! README is whole: its three files agree with each other, with the SDK's own example, and with this workspace.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::collections::{BTreeMap, BTreeSet};

use palisaded::api::service;
use palisaded::config::{Config, Overrides};
use palisaded::model::guarantee::CONTROLS;
use palisaded::model::manifest::Manifest;
use palisaded::model::permission::traffic::Allowance;
use serde_json::{Value, json};

const MANIFEST_PAGE: &str = include_str!("../../docs/manifest.md");
const CONFIGURATION_PAGE: &str = include_str!("../../docs/configuration.md");
const MANIFEST_SCHEMA: &str = include_str!("../../config/plugin.schema.json");
const MANIFEST_CODE: [&str; 4] = [
    include_str!("../src/model/manifest.rs"),
    include_str!("../src/model/manifest/about.rs"),
    include_str!("../src/model/manifest/actions.rs"),
    include_str!("../src/model/manifest/needs.rs"),
];
const CONFIGURATION_CODE: &str = include_str!("../src/config.rs");
const EGRESS_CODE: &str = include_str!("../src/config/egress.rs");
const CHECKS_CODE: &str = include_str!("../src/config/checks.rs");
const RELOAD_CODE: &str = include_str!("../src/config/reload.rs");
const PERMISSIONS_CODE: &str = include_str!("../src/config/permissions.rs");
const TRUST_CODE: &str = include_str!("../src/config/trust.rs");
const RUNTIME_CODE: &str = include_str!("../src/model/runtime.rs");
const TRAFFIC_CODE: &str = include_str!("../src/model/permission/traffic.rs");
const NETWORK_PAGE: &str = include_str!("../../docs/network.md");

/// The cells of the table beneath a heading row that begins so.
fn rows(page: &'static str, heading: &str) -> Vec<Vec<&'static str>> {
    let table = page.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<_>> = rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
    assert!(!rows.is_empty(), "there is a table that begins with {heading}");
    rows
}

fn unquoted(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or_else(|| panic!("{cell:?} has a name in backticks"))
}

fn minimal() -> Value {
    json!({"id": "some", "name": "Some", "version": "1.0.0", "entry_point": "some"})
}

/// What has to stand beside a field of an object for that to be right.
fn beside(object: &str) -> Value {
    match object {
        "actions[]" => json!({"name": "some_name"}),
        "dependencies.plugins[]" => json!({"id": "other", "version": "1"}),
        "permissions_required[]" => json!({"permission": "file_read"}),
        "secrets[]" => json!({"name": "some_name"}),
        "checksum" => json!({"algorithm": "sha256", "value": "0".repeat(64)}),
        "signature" => {
            json!({"method": "ed25519", "key_id": "a", "value": "AAAA", "signed_at": "2026-01-31T12:00:00Z"})
        }
        "actions[].streaming.input" | "actions[].streaming.output" => json!({"kind": "items"}),
        _ => json!({}),
    }
}

/// The minimal manifest, with that field, and without it where there is no value.
fn with(path: &str, value: Option<Value>) -> Value {
    let mut manifest = minimal();
    let (objects, field) = path.rsplit_once('.').map_or((None, path), |(objects, field)| (Some(objects), field));
    let mut place = &mut manifest;
    let mut walked = String::new();
    for part in objects.into_iter().flat_map(|objects| objects.split('.')) {
        walked = if walked.is_empty() { part.to_owned() } else { format!("{walked}.{part}") };
        let object = beside(&walked);
        place = match part.strip_suffix("[]") {
            Some(list) => {
                place[list] = json!([object]);
                &mut place[list][0]
            }
            None => {
                place[part] = object;
                &mut place[part]
            }
        };
    }
    let field = if field == "NAME" { "some_name" } else { field };
    match value {
        Some(value) => place[field] = value,
        None => drop(place.as_object_mut().unwrap().remove(field)),
    }
    // These are checked against others as well.
    if path.starts_with("restart.backoff_") {
        let other = if path.ends_with("_max_ms") { ("backoff_initial_ms", 1) } else { ("backoff_max_ms", 3_600_000) };
        manifest["restart"][other.0] = json!(other.1);
    }
    match path {
        "protocol.min" => manifest["protocol"]["max"] = json!(65535),
        "actions[].permissions" => manifest["permissions_required"] = json!([{"permission": "file_read"}]),
        _ => {}
    }
    manifest
}

/// Whether it is accepted, and without a warning.
fn takes(manifest: &Value) -> bool {
    match Manifest::parse(manifest.to_string().as_bytes()) {
        Ok((_, warnings)) => {
            assert_eq!(warnings, [], "{manifest}");
            true
        }
        Err(_) => false,
    }
}

/// The published schema, on the engine that the daemon has for patterns as well.
fn published() -> (Value, jsonschema::Validator) {
    let schema: Value = serde_json::from_str(MANIFEST_SCHEMA).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(jsonschema::meta::is_valid(&schema));
    let options = jsonschema::options().offline().with_pattern_options(jsonschema::PatternOptions::regex());
    let validator = options.build(&schema).unwrap();
    (schema, validator)
}

/// Everything that the published schema has a place for, by the paths of the page, with its own schema.
fn places(schema: &Value) -> BTreeMap<String, &Value> {
    fn walk<'s>(schema: &'s Value, path: &str, places: &mut BTreeMap<String, &'s Value>) {
        let beneath = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let named = schema["properties"].as_object().into_iter().flatten();
        let unnamed = schema.get("additionalProperties").filter(|any| any.get("type").is_some());
        for (name, part) in named.map(|(name, part)| (name.as_str(), part)).chain(unnamed.map(|any| ("NAME", any))) {
            // What may not stand there has no place.
            if part != &json!(false) {
                places.insert(beneath(name), part);
                walk(part, &beneath(name), places);
            }
        }
        if let Some(items) = schema.get("items") {
            walk(items, &format!("{path}[]"), places);
        }
        for part in schema["anyOf"].as_array().into_iter().flatten() {
            walk(part, path, places);
        }
    }
    let mut places = BTreeMap::new();
    walk(schema, "", &mut places);
    places.remove("$schema");
    places
}

/// What the page says of a field is what the daemon does and what the published schema says, in both directions: the example and the
/// bounds are taken by both, and what is of another kind, too long, too many or out of bounds is refused by both.
#[test]
fn the_page_the_schema_and_the_daemon_agree_about_every_field_of_plugin_json() {
    let (schema, validator) = published();
    let places = places(&schema);
    assert!(takes(&minimal()) && validator.is_valid(&minimal()));
    let rows = rows(MANIFEST_PAGE, "| Field |");
    let paths: BTreeSet<String> = rows.iter().map(|row| unquoted(row[0]).to_owned()).collect();
    assert_eq!(paths.len(), rows.len(), "each has one row");
    assert_eq!(paths, places.keys().cloned().collect());
    for row in &rows {
        let [field, value, default, example] = row[..] else { panic!("{row:?}") };
        let path = unquoted(field);
        let example: Value =
            serde_json::from_str(example.strip_prefix('`').unwrap().strip_suffix('`').unwrap()).unwrap();
        let check = |given: Value, fits: bool| {
            let manifest = with(path, Some(given.clone()));
            let given = given.to_string();
            let given = &given[..given.floor_char_boundary(200)];
            assert_eq!(takes(&manifest), fits, "{path}: for the daemon {given} fits: {fits}; the page says {value}");
            assert_eq!(validator.is_valid(&manifest), fits, "{path}: for the schema {given} fits: {fits}");
        };
        check(example.clone(), true);
        let wrong = if value == "any value" {
            vec![]
        } else {
            let mut wrong = vec![json!(7), json!("something else"), json!(true), json!([7]), json!({"some": 7})];
            let kinds: &[fn(&Value) -> bool] = match value {
                "JSON Schema" => &[Value::is_boolean, Value::is_object],
                value if value.ends_with("an object") => &[Value::is_object],
                _ => &[],
            };
            let same = |value: &Value| std::mem::discriminant(value) == std::mem::discriminant(&example);
            // Other words than the choices are wrong as well.
            let choice = value.starts_with('`') && example.is_string();
            wrong.retain(|value| {
                (choice && value.is_string()) || !(same(value) || kinds.iter().any(|kind| kind(value)))
            });
            wrong
        };
        for value in wrong {
            check(value, false);
        }
        let bound = value.split_once("at most ").map(|(kind, bound)| {
            let (number, unit) = bound.split_once(' ').unwrap();
            (kind.trim_end_matches([',', ' ']), number.parse::<usize>().unwrap(), unit)
        });
        if let Some((kind, bounds)) = value.split_once(" from ") {
            let (least, most) = bounds.split_once(" to ").unwrap();
            let whole = kind == "whole number";
            assert!(whole || matches!(kind, "seconds" | "number"), "{kind}");
            let number = |text: &str| -> Value {
                text.parse::<u64>().map(Value::from).unwrap_or_else(|_| json!(text.parse::<f64>().unwrap()))
            };
            check(number(least), true);
            check(number(most), true);
            let (least, most): (f64, f64) = (least.parse().unwrap(), most.parse().unwrap());
            if whole {
                check(json!(most as u64 + 1), false);
                check(json!(most / 2.0 + 0.25), false);
                check(json!(least as i64 - 1), false);
            } else {
                check(json!(most * 1.001), false);
                check(json!(if least == 0.0 { -0.001 } else { least / 2.0 }), false);
            }
        } else if let Some((kind, bytes, "bytes")) = bound {
            let of = |bytes: usize| match kind {
                "one line" | "text" | "plugin id" | "action name" | "name of a secret" => "x".repeat(bytes),
                "path in the package" => "xxxxxxx/".repeat(bytes.div_ceil(8))[..bytes - 1].to_owned() + "x",
                "SemVer version" => format!("1.0.0-{}", "x".repeat(bytes - 6)),
                "version specifier" => format!(">={}1", " ".repeat(bytes - 3)),
                "web address" => format!("https://example.com/{}", "x".repeat(bytes - 20)),
                "SPDX expression" => format!("MIT{} ", " OR MIT".repeat(bytes / 7 - 1)) + &" ".repeat(bytes % 7 + 3),
                other => panic!("{path}: the test does not know {other:?}"),
            };
            assert_eq!(of(bytes).len(), bytes, "{path}");
            check(json!(of(bytes)), true);
            check(json!(of(bytes + 1)), false);
            if kind != "text" {
                check(json!("a\nb"), false);
            }
            if path != "environment.NAME" {
                check(json!(""), false);
            }
        } else if let Some(("list of", entries, what)) = bound {
            let one = |n: usize| match what {
                "objects" if path == "actions" => json!({"name": format!("n{n}")}),
                "objects" if path == "dependencies.plugins" => json!({"id": format!("n{n}"), "version": "1"}),
                "objects" if path == "secrets" => json!({"name": format!("n{n}")}),
                "objects" if path == "permissions_required" => json!({"permission": "file_read"}),
                "objects" => json!({}),
                "tags" | "arguments" | "libraries" | "topics" => json!(format!("n{n}")),
                "scopes" => json!(format!("/srv/{n}")),
                "capabilities" | "permissions" | "controls" => {
                    let names = places[path]["items"]["enum"].as_array().unwrap();
                    names[n % names.len()].clone()
                }
                other => panic!("{path}: the test does not know {other:?}"),
            };
            let list = |entries: usize| Value::Array((0..entries).map(one).collect());
            check(list(entries + 1), false);
            // Of these there are fewer names, or less of them fits altogether.
            if !matches!(what, "controls" | "permissions" | "scopes") {
                check(list(entries), true);
            }
            check(json!([[]]), false);
            if !matches!(what, "objects") {
                check(json!(["nothing\u{0}of the sort"]), false);
            }
            if !matches!(what, "objects" | "arguments") {
                check(json!([example[0], example[0]]), false);
            }
        } else if value.contains('`') {
            for choice in value.split('`').skip(1).step_by(2) {
                check(choice.parse::<bool>().map_or(json!(choice), Value::from), true);
            }
            if value.ends_with("an object") {
                check(json!({}), true);
            }
        } else {
            let bad = match value {
                "object" | "JSON Schema" | "any value" => None,
                "64 hexadecimal digits" => Some("0F"),
                "name of a key" => Some("a b"),
                "bytes in base64" => Some("BwcH!"),
                "time in UTC" => Some("2026-01-31T12:00:00+01:00"),
                other => panic!("{path}: the test does not know how to check {other:?}"),
            };
            if let Some(bad) = bad {
                check(json!(bad), false);
            }
        }
        let absent = with(path, None);
        assert_eq!(takes(&absent), default != "required", "{path} is required: {default}");
        assert_eq!(validator.is_valid(&absent), default != "required", "{path} is required in the schema: {default}");
        let given = (!matches!(default, "required" | "none")).then(|| {
            let text = default.trim_matches('`');
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        });
        assert_eq!(places[path].get("default"), given.as_ref(), "{path} in the schema");
        if let Some(given) = given {
            let parse = |manifest: &Value| Manifest::parse(manifest.to_string().as_bytes()).unwrap().0;
            assert_eq!(parse(&with(path, Some(given))), parse(&absent), "{path} is {default} unless given");
        }
    }
}

/// What only the daemon finds stands on the page, and does not make the schema refuse what the daemon takes.
#[test]
fn the_schema_knows_the_names_that_the_daemon_knows() {
    let (schema, validator) = published();
    assert_eq!(schema["properties"]["require"]["items"]["enum"], json!(CONTROLS));
    for (manifest, why) in [
        (with("id", Some(json!("palisade"))), "the daemon's own id"),
        (with("args", Some(json!(["--palisade-manifest"]))), "an argument that asks the program about itself"),
        (with("environment.LD_PRELOAD", Some(json!("x"))), "a variable that directs the loader"),
        (with("environment.PALISADE_X", Some(json!("x"))), "a variable of the daemon's"),
        (with("dependencies.index", Some(json!("^2.1"))), "a plugin beside the list of plugins"),
        (with("permissions", Some(json!(["execute_code"]))), "permissions in a form that is none"),
        (with("icon", Some(json!("a/../b"))), "a path that leads out"),
        (with("secrets[].value", Some(json!("hunter2"))), "a secret in a package"),
        (with("secrets[].default", Some(json!("hunter2"))), "a secret in a package"),
    ] {
        assert!(!takes(&manifest), "{why}");
        assert!(!validator.is_valid(&manifest), "{why}");
    }
    for shipped in [
        include_str!("../../plugins/echo/plugin.json"),
        include_str!("../../plugins/calculator/plugin.json"),
        include_str!("../../plugins/counter/plugin.json"),
        include_str!("../../plugins/counter/first/plugin.json"),
        include_str!("../../plugins/ticker/plugin.json"),
    ] {
        assert!(validator.is_valid(&serde_json::from_str(shipped).unwrap()));
    }
}

#[test]
fn every_field_of_plugin_json_is_on_the_page() {
    let page: BTreeSet<&str> = rows(MANIFEST_PAGE, "| Field |")
        .iter()
        .flat_map(|row| unquoted(row[0]).split('.'))
        .map(|part| part.trim_end_matches("[]"))
        .collect();
    let mut found = 0;
    for reader in [
        ".text(",
        ".text_if_any(",
        ".parsed(",
        ".number(",
        ".seconds(",
        ".choice(",
        ".boolean(",
        ".share(",
        ".table(",
        ".each(",
        ".set(",
        ".parsed_if_any(",
        ".choice_required(",
    ] {
        for (code, at) in
            MANIFEST_CODE.iter().flat_map(|code| code.match_indices(reader).map(move |(at, _)| (code, at)))
        {
            let after = code[at + reader.len()..].trim_start();
            let Some(name) = after.strip_prefix('"').and_then(|rest| rest.split_once('"')).map(|(name, _)| name) else {
                continue;
            };
            // In a list it is what is allowed that stands first.
            if name.contains(' ') {
                continue;
            }
            assert!(page.contains(name), "`{name}` is read and not on the page");
            found += 1;
        }
    }
    assert!(found >= 75, "the fields are found in the code: {found}");
}

#[test]
fn the_examples_of_plugin_json_are_valid() {
    let blocks: Vec<&str> =
        MANIFEST_PAGE.split("```json\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert_eq!(blocks.len(), 2);
    let (_, validator) = published();
    for block in blocks {
        assert!(validator.is_valid(&serde_json::from_str(block).unwrap()));
        let (_, warnings) = Manifest::parse(block.as_bytes()).unwrap();
        assert_eq!(warnings, []);
    }
}

#[test]
fn every_key_of_the_configuration_is_on_the_page() {
    let fields_in = |code: &'static str, name: &str| -> Vec<&str> {
        let body = code.split_once(&format!("struct {name} {{")).unwrap().1.split_once("\n}").unwrap().0;
        let lines = body.lines().map(str::trim).filter(|line| !line.starts_with(['#', '/']));
        lines.filter_map(|line| line.split_once(": ")).map(|(name, _)| name.trim_start_matches("pub ")).collect()
    };
    let fields = |name: &str| fields_in(CONFIGURATION_CODE, name);
    let mut code: BTreeSet<String> = fields("ConfigFile").into_iter().map(str::to_owned).collect();
    assert!(code.remove("plugins") && code.remove("defaults") && code.remove("egress") && code.remove("runtimes"));
    assert!(code.remove("trust") && code.remove("checks") && code.remove("permissions") && code.remove("state"));
    assert!(code.remove("updates"));
    code.extend(fields("UpdatesTable").into_iter().map(|field| format!("updates.{field}")));
    assert!(code.remove("reload"));
    code.extend(fields("StateTable").into_iter().map(|field| format!("state.{field}")));
    code.extend(fields_in(RELOAD_CODE, "Reload").into_iter().map(|field| format!("reload.{field}")));
    code.extend(fields_in(PERMISSIONS_CODE, "Table").into_iter().map(|field| format!("permissions.{field}")));
    code.extend(
        fields_in(CHECKS_CODE, "Table").into_iter().map(|field| format!("checks.{}", field.trim_start_matches("r#"))),
    );
    code.extend(fields_in(RUNTIME_CODE, "Runtime").into_iter().map(|field| format!("runtimes.NAME.{field}")));
    code.extend(fields_in(EGRESS_CODE, "Table").into_iter().map(|field| format!("egress.{field}")));
    let trust = fields_in(TRUST_CODE, "Table").into_iter().filter(|field| !matches!(*field, "keys" | "sources"));
    code.extend(trust.map(|field| format!("trust.{field}")));
    code.extend(fields_in(TRUST_CODE, "Source").into_iter().map(|field| format!("trust.sources.PATH.{field}")));
    code.extend(fields_in(TRUST_CODE, "Key").into_iter().map(|field| format!("trust.keys.NAME.{field}")));
    code.extend(fields("Defaults").into_iter().map(|field| format!("defaults.{field}")));
    code.extend(fields("PluginConfig").into_iter().map(|field| format!("plugins.ID.{field}")));
    let rows = rows(CONFIGURATION_PAGE, "| Key |");
    let page: BTreeSet<String> = rows.iter().map(|row| unquoted(row[0]).to_owned()).collect();
    assert_eq!(page, code);
    assert_eq!(page.len(), rows.len(), "each has one row");
}

/// Each bound of a plugin's way out: its default, and where it begins and ends.
/// Whoever is made an operator can look up what that allows.
#[test]
fn what_is_an_operators_is_on_the_page() {
    let paragraph = CONFIGURATION_PAGE.split_once("**`operators`**").expect("the page speaks of them").1;
    let (change, rest) = paragraph.split_once("All the others may call plugins and read (").expect("it says so");
    let (read, _) = rest.split_once(')').expect("the list ends");
    let names = |text: &'static str| -> BTreeSet<&str> { text.split('`').skip(1).step_by(2).collect() };
    let mut changes = names(change);
    assert!(changes.remove("socket_group") && changes.remove("allowed_uids"));
    assert_eq!(changes, service::CHANGES.iter().copied().collect());
    let reads = service::ACTIONS.iter().map(|row| row.0).filter(|name| !service::CHANGES.contains(name));
    assert_eq!(names(read), reads.collect());
}

#[test]
fn the_bounds_of_the_way_out_are_the_ones_on_the_page() {
    let limits = |text: &str| toml::from_str::<Allowance>(text).map(|allowance| allowance.decide());
    let default = Allowance::default().decide();
    for row in rows(NETWORK_PAGE, "| Bound |") {
        let [name, what, given] = row[..] else { panic!("{row:?}") };
        let name = unquoted(name);
        assert_eq!(limits(&format!("{name} = {given}")).unwrap(), default, "{name} is {given} unless given");
        let set = |value: &str| limits(&format!("{name} = {value}")).unwrap().map_err(|_| ());
        if let Some((_, bounds)) = what.split_once(" from ") {
            let (least, most) = bounds.split_once(';').map_or(bounds, |(bounds, _)| bounds).split_once(" to ").unwrap();
            let (least, most): (u32, u32) = (least.parse().unwrap(), most.parse().unwrap());
            for (value, fits) in [(least, true), (most, true), (least - 1, false), (most + 1, false)] {
                assert_eq!(set(&value.to_string()).is_ok(), fits, "{name} = {value}");
            }
        } else if name.ends_with("_seconds") {
            for (value, fits) in [("0.01", true), ("604800", true), ("0.001", false), ("604801", false)] {
                assert_eq!(set(value).is_ok(), fits, "{name} = {value}");
            }
        } else {
            assert!(what.ends_with("at least 1"), "{what}");
            assert_eq!((set("1").is_ok(), set("0").is_ok()), (true, false), "{name}");
        }
    }
    let page: BTreeSet<&str> = rows(NETWORK_PAGE, "| Bound |").iter().map(|row| unquoted(row[0])).collect();
    let body = TRAFFIC_CODE.split_once("struct Allowance {").unwrap().1.split_once("\n}").unwrap().0;
    let code = body.lines().filter_map(|line| Some(line.trim().strip_prefix("pub ")?.split_once(": ")?.0)).collect();
    assert_eq!(page, code);
}

#[test]
fn every_flag_is_on_the_page() {
    let output = help();
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| c.is_whitespace() || matches!(c, '`' | ',' | '|'));
        words.filter(|word| word.starts_with("--") && word.len() > 3).map(str::to_owned).collect()
    };
    let table: String = rows(CONFIGURATION_PAGE, "| Flag |").iter().map(|row| format!("{} ", row[0])).collect();
    // Of the help only where an option is named, not where it is explained.
    let named: String =
        output.lines().filter(|line| line.trim_start().starts_with('-')).flat_map(|line| [line, " "]).collect();
    assert_eq!(flags(&table), flags(&named), "{output}");
}

#[expect(clippy::disallowed_methods, reason = "a test is not the daemon")]
fn help() -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_palisaded")).arg("--help").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The commented example, with its comments and without.
#[test]
fn the_example_configuration_is_valid() {
    let example = include_str!("../../config/palisade.toml");
    // A key that is commented out is one word after the mark; everything else is prose.
    let keys = example.lines().map(|line| match line.strip_prefix("# ") {
        Some(line) if line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => {
            line
        }
        _ => "",
    });
    let filled: String = keys.flat_map(|line| [line, "\n"]).collect();
    assert_eq!(filled.lines().filter(|line| !line.is_empty()).count(), 34);
    let folder = tempfile::tempdir().unwrap();
    for text in [example, &filled] {
        let path = folder.path().join("palisade.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Overrides { config: Some(path), ..Overrides::default() }, 0).unwrap();
    }
}

/// What stands in the first block of that language after a heading.
fn block(page: &'static str, heading: &str, language: &str) -> &'static str {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).unwrap();
    let (_, block) = section.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0
}

/// Whoever copies the three files has a plugin: `tests/demo/readme` builds it from them, and calls it.
#[test]
fn the_plugin_of_the_readme_is_whole() {
    let readme = include_str!("../../README.md");
    let [package, program, manifest] =
        ["toml", "rust", "json"].map(|language| block(readme, "## Write a plugin", language));

    let documented = include_str!("../../plugin-sdk/src/lib.rs").split_once("```no_run\n").unwrap().1;
    let documented = documented.split_once("//! ```").unwrap().0;
    let lines = |text: &'static str| text.lines().map(|line| line.trim_start_matches("//!").trim()).collect::<Vec<_>>();
    assert_eq!(lines(documented), lines(program));

    let (parsed, warnings) = Manifest::parse(manifest.as_bytes()).unwrap();
    assert_eq!(warnings, []);
    let package: toml::Table = toml::from_str(package).unwrap();
    let workspace: toml::Table = toml::from_str(include_str!("../../Cargo.toml")).unwrap();
    assert_eq!(package["package"]["name"].as_str(), Some(parsed.entry_point.as_str()));
    assert_eq!(package["package"]["version"].as_str(), Some(parsed.version.to_string().as_str()));
    assert_eq!(package["package"]["edition"], workspace["workspace"]["package"]["edition"]);
    for (name, dependency) in package["dependencies"].as_table().unwrap() {
        let ours = &workspace["workspace"]["dependencies"][name];
        let version = |dependency: &toml::Value| {
            dependency.as_str().or_else(|| dependency.get("version")?.as_str()).map(str::to_owned)
        };
        match version(dependency) {
            // A range that holds the one that is built here.
            Some(wanted) => {
                let built = semver::Version::parse(&version(ours).unwrap()).unwrap();
                assert!(semver::VersionReq::parse(&wanted).unwrap().matches(&built), "{name} {wanted}: {built}");
            }
            // Not published: its place in a clone.
            None => {
                let path = dependency["path"].as_str().unwrap().strip_prefix("../palisade/").unwrap();
                assert_eq!(Some(path), ours["path"].as_str(), "{name}");
            }
        }
        assert!(program.contains(&format!("use {}::", name.replace('-', "_"))), "{name} is used");
    }
}
