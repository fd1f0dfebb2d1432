//! The pages about plugin.json and the configuration say what the daemon does: every field, bound, default and flag. The plugin of the
//! README is whole: its three files agree with each other, with the SDK's own example, and with this workspace.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::collections::BTreeSet;

use palisaded::config::{Config, Overrides};
use palisaded::model::manifest::Manifest;
use palisaded::model::permission::traffic::Allowance;
use serde_json::{Value, json};

const MANIFEST_PAGE: &str = include_str!("../../docs/manifest.md");
const CONFIGURATION_PAGE: &str = include_str!("../../docs/configuration.md");
const MANIFEST_CODE: &str = include_str!("../src/model/manifest.rs");
const CONFIGURATION_CODE: &str = include_str!("../src/config.rs");
const EGRESS_CODE: &str = include_str!("../src/config/egress.rs");
const CHECKS_CODE: &str = include_str!("../src/config/checks.rs");
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

/// The minimal manifest, with that field.
fn with(path: &str, value: Value) -> Value {
    let mut manifest = minimal();
    // Neither of the two is there in part.
    if path.starts_with("checksum.") {
        manifest["checksum"] = json!({"algorithm": "sha256", "value": "0".repeat(64)});
    }
    if path.starts_with("signature.") {
        let at = "2026-01-31T12:00:00Z";
        manifest["signature"] = json!({"method": "ed25519", "key_id": "a", "value": "AAAA", "signed_at": at});
    }
    let mut place = &mut manifest;
    for part in path.split('.') {
        let part = match part {
            "NAME" => "some_name",
            "ID" => "other",
            part => part,
        };
        place = &mut place[part];
    }
    *place = value;
    // These two are checked against each other as well.
    if path.starts_with("restart.backoff_") {
        let other = if path.ends_with("_max_ms") { ("backoff_initial_ms", 1) } else { ("backoff_max_ms", 3_600_000) };
        manifest["restart"][other.0] = json!(other.1);
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

#[test]
fn the_bounds_of_plugin_json_are_the_ones_on_the_page() {
    assert!(takes(&minimal()));
    for row in rows(MANIFEST_PAGE, "| Field |") {
        let [field, value, default] = row[..] else { panic!("{row:?}") };
        let path = unquoted(field);
        let check = |given: Value, fits: bool| {
            assert_eq!(takes(&with(path, given.clone())), fits, "{path}: {given} fits: {fits}; the page says {value}");
        };
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
        } else if let Some(bytes) = value.split_once("at most ").map(|(_, bound)| bound.strip_suffix(" bytes").unwrap())
        {
            let bytes: usize = bytes.parse().unwrap();
            check(json!("x".repeat(bytes)), true);
            check(json!("x".repeat(bytes + 1)), false);
            check(json!("a\nb"), !value.starts_with("one line"));
        } else if value.contains('`') {
            for choice in value.split('`').skip(1).step_by(2) {
                check(choice.parse::<bool>().map_or(json!(choice), Value::from), true);
            }
            if value.ends_with("an object") {
                check(json!({}), true);
            }
            check(json!("something else"), false);
        } else if value == "list of controls" {
            check(json!(["landlock", "memory"]), true);
            check(json!(["magic"]), false);
            check(json!("landlock"), false);
        } else if value == "list of permissions" {
            check(json!(["execute_code", {"file_read": ["/srv/data"]}, "system_access"]), true);
            check(json!(["everything"]), false);
            check(json!("execute_code"), false);
        } else {
            let digest = "0f".repeat(32);
            let (good, bad) = match value {
                "plugin id" => ("file-search", "File_Search"),
                "SemVer version" => ("2.0.0-rc.1", "2.0"),
                "path in the package" => ("bin/tool", "../tool"),
                "version specifier" => (">=1.2, <2", "newest"),
                "64 hexadecimal digits" => (digest.as_str(), "0F"),
                "name of a key" => ("release-2026", "a b"),
                "bytes in base64" => ("BwcH", "BwcH!"),
                "time in UTC" => ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+01:00"),
                other => panic!("{path}: the test does not know how to check {other:?}"),
            };
            check(json!(good), true);
            check(json!(bad), false);
        }
        if default == "required" {
            let mut without = minimal();
            without.as_object_mut().unwrap().remove(path).unwrap();
            assert!(!takes(&without), "{path} is required");
        } else if default != "none" {
            let text = default.trim_matches('`');
            let explicit = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
            let mut plain = minimal();
            if let Some((actions, _)) = path.split_once(".NAME.") {
                plain[actions]["some_name"] = json!({});
            }
            let mut given = plain.clone();
            let mut place = &mut given;
            for part in path.split('.') {
                place = &mut place[if part == "NAME" { "some_name" } else { part }];
            }
            *place = explicit;
            let parse = |manifest: &Value| Manifest::parse(manifest.to_string().as_bytes()).unwrap().0;
            assert_eq!(parse(&given), parse(&plain), "{path} is {default} unless given");
        }
    }
}

#[test]
fn every_field_of_plugin_json_is_on_the_page() {
    let page: BTreeSet<&str> =
        rows(MANIFEST_PAGE, "| Field |").iter().flat_map(|row| unquoted(row[0]).split('.')).collect();
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
        ".list(",
    ] {
        for (at, _) in MANIFEST_CODE.match_indices(reader) {
            let after = MANIFEST_CODE[at + reader.len()..].trim_start();
            let Some(name) = after.strip_prefix('"').and_then(|rest| rest.split_once('"')).map(|(name, _)| name) else {
                continue;
            };
            assert!(page.contains(name), "`{name}` is read and not on the page");
            found += 1;
        }
    }
    assert!(found >= 30, "the fields are found in the code: {found}");
}

#[test]
fn the_examples_of_plugin_json_are_valid() {
    let blocks: Vec<&str> =
        MANIFEST_PAGE.split("```json\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
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
    assert!(code.remove("trust") && code.remove("checks"));
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
    assert_eq!(filled.lines().filter(|line| !line.is_empty()).count(), 24);
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
