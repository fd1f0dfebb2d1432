//! `docs/protocol.md` is the contract; these tests compare what it says with what the code does: its tables, its examples in
//! hexadecimal, and its plugin in Python.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking, as the test itself does")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use palisade_protocol::{self as protocol, End, ErrorCode, FEATURES, Frame, Kind, McpForm};
use serde_json::Value;
use support::{decode, golden, only_frame, unhex};

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// What stands under a heading, up to the next of the same or a higher level.
fn section(heading: &str) -> &'static str {
    let (level, _) = heading.split_once(' ').unwrap();
    let start = PAGE.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("the page has no `{heading}`"));
    let rest = &PAGE[start + heading.len() + 2..];
    // The page has one heading of the first level; in an example, a comment looks like one.
    let ends = (2..=level.len()).filter_map(|hashes| rest.find(&format!("\n{} ", "#".repeat(hashes))));
    &rest[..ends.min().unwrap_or(rest.len())]
}

/// The rows of the first table of a text whose heading row begins with `first`, as cells without their backticks.
fn table(text: &str, first: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with(&format!("| {first} |"))).skip(2);
    let rows = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned()).collect());
    let rows = rows.collect::<Vec<Vec<_>>>();
    assert!(!rows.is_empty(), "there is no table that begins with {first}");
    rows
}

#[test]
fn the_table_of_kinds_is_the_codes() {
    let arrow =
        |kind: Kind, other: End| match (kind.travels(End::Supervisor, other), kind.travels(other, End::Supervisor)) {
            (true, true) => "↔",
            (true, false) => "→",
            (false, true) => "←",
            (false, false) => "–",
        };
    let rows = table(section("## Kinds"), "number");
    assert_eq!(rows.len(), Kind::ALL.len());
    for (row, kind) in rows.iter().zip(Kind::ALL) {
        assert_eq!(row[0], format!("0x{:02x}", *kind as u8));
        assert_eq!(row[1], kind.name());
        assert_eq!(row[2], arrow(*kind, End::Plugin), "{}", kind.name());
        assert_eq!(row[3], arrow(*kind, End::Agent), "{}", kind.name());
        assert_eq!(row[4] != "–", kind.has_payload(), "{}", kind.name());
        assert_eq!(row[5] == "yes", kind.needs_credit(), "{}", kind.name());
        assert!(!kind.travels(End::Plugin, End::Agent) && !kind.travels(End::Agent, End::Plugin));
    }
}

#[test]
fn the_table_of_errors_is_the_codes() {
    let name = |value: Value| value.as_str().unwrap().to_owned();
    let expected = ErrorCode::ALL.iter().map(|code| {
        vec![
            code.name().to_owned(),
            name(serde_json::to_value(code.class()).unwrap()),
            name(serde_json::to_value(code.fault()).unwrap()),
            if code.retryable() { "yes" } else { "no" }.to_owned(),
            code.http_status().to_string(),
            code.exit_status().to_string(),
            match code.mcp_form() {
                McpForm::Rpc(number) => number.to_string(),
                McpForm::ToolResult => "isError".to_owned(),
            },
            code.meaning().to_owned(),
        ]
    });
    assert_eq!(table(section("## Errors"), "code"), expected.collect::<Vec<_>>());
}

#[test]
fn the_table_of_limits_is_the_codes() {
    let limits = protocol::Limits::default();
    let expected: BTreeMap<&str, u64> = [
        ("FRAME_BYTES_MAX", u64::from(protocol::FRAME_BYTES_MAX)),
        ("FRAME_BYTES_MIN", u64::from(protocol::FRAME_BYTES_MIN)),
        ("BODY_BYTES_MAX", protocol::BODY_BYTES_MAX as u64),
        ("BODY_DEPTH_MAX", protocol::BODY_DEPTH_MAX as u64),
        ("BODY_KEYS_MAX", protocol::BODY_KEYS_MAX as u64),
        ("BODY_VALUES_MAX", protocol::BODY_VALUES_MAX as u64),
        ("SCHEMA_VALUES_MAX", protocol::SCHEMA_VALUES_MAX as u64),
        ("STRING_BYTES_MAX", protocol::STRING_BYTES_MAX as u64),
        ("PAYLOAD_BYTES_MAX", protocol::PAYLOAD_BYTES_MAX),
        ("PAYLOAD_DEPTH_MAX", protocol::PAYLOAD_DEPTH_MAX as u64),
        ("VALUES_MAX", protocol::VALUES_MAX as u64),
        ("CREDIT_BYTES", u64::from(protocol::CREDIT_BYTES)),
        ("CREDIT_OUTSTANDING_MAX", protocol::CREDIT_OUTSTANDING_MAX),
        ("PIECE_BYTES", protocol::PIECE_BYTES as u64),
        ("CALLS_MAX", u64::from(protocol::CALLS_MAX)),
        ("HOST_CALLS_MAX", protocol::HOST_CALLS_MAX as u64),
    ]
    .into();
    let rows = table(section("## Limits"), "name");
    let said = rows.iter().map(|row| (row[0].as_str(), row[1].replace(',', "").parse().unwrap()));
    assert_eq!(said.collect::<BTreeMap<_, u64>>(), expected);
    assert_eq!(u64::from(limits.frame_bytes_max), expected["FRAME_BYTES_MAX"]);
    assert_eq!(limits.payload_bytes_max, expected["PAYLOAD_BYTES_MAX"]);
    assert_eq!(u64::from(limits.credit_bytes), expected["CREDIT_BYTES"]);
    assert_eq!(u64::from(limits.calls_max), expected["CALLS_MAX"]);
}

#[test]
fn the_table_of_features_and_the_version_are_the_codes() {
    let section = section("## Versions and features");
    let names = table(section, "feature").into_iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(names, FEATURES.map(|feature| feature.name()));
    assert_eq!(protocol::PROTOCOL, protocol::VersionRange { min: 1, max: 1 });
    assert!(section.contains(r#"send `{"min": 1, "max": 1}`"#));
}

/// Fields that hold whatever JSON can say; what is inside is not the protocol's.
const FREE: [&str; 6] = ["configuration", "parameters", "result", "item", "details", "fields"];

fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if FREE.contains(&name.as_str()) || name == "error" {
                    found.insert(inside(name));
                } else {
                    paths(value, &inside(name), found);
                }
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| paths(item, &format!("{path}[]"), found));
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// The paths without those that others are inside of.
fn leaves(paths: BTreeSet<String>) -> BTreeSet<String> {
    let outer =
        |path: &String| paths.iter().any(|other| [".", "[]"].iter().any(|o| other.starts_with(&format!("{path}{o}"))));
    paths.iter().filter(|path| !outer(path)).cloned().collect()
}

/// The fields that golden frames of a kind have, as paths; together they have every field that there is.
fn fields(kind: Kind) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for golden in golden().iter().filter(|golden| golden.kind == Some(kind)) {
        paths(golden.body.as_ref().unwrap(), "", &mut found);
    }
    // An empty body has no path.
    found.remove("");
    leaves(found)
}

#[test]
fn the_fields_of_every_kind_are_the_codes() {
    for kind in Kind::ALL {
        let text = section(&format!("### 0x{:02x} {}", *kind as u8, kind.name()));
        let fields = fields(*kind);
        if fields.is_empty() {
            assert!(text.contains("No fields."), "{} has no fields", kind.name());
            continue;
        }
        let said = if matches!(kind, Kind::Err | Kind::HostErr) {
            assert!(text.contains("The body is an [error](#errors)."));
            table(section("## Errors"), "field")
        } else {
            table(text, "field")
        };
        let said = leaves(said.into_iter().map(|row| row[0].clone()).collect());
        assert_eq!(said, fields, "{}", kind.name());
    }
}

/// Leaving out a field is an error exactly where the page says `required`.
#[test]
fn the_fields_that_are_required_are_the_codes() {
    for kind in Kind::ALL.iter().filter(|kind| !fields(**kind).is_empty()) {
        let heading = match kind {
            Kind::Err | Kind::HostErr => "## Errors".to_owned(),
            _ => format!("### 0x{:02x} {}", *kind as u8, kind.name()),
        };
        let rows = table(section(&heading), "field");
        for row in rows.iter().filter(|row| !row[0].contains(['.', '['])) {
            let fullest = golden()
                .into_iter()
                .filter(|golden| golden.kind == Some(*kind))
                .max_by_key(|golden| golden.body.as_ref().and_then(Value::as_object).map_or(0, serde_json::Map::len));
            let mut body = fullest.and_then(|golden| golden.body).unwrap();
            body.as_object_mut().unwrap().remove(&row[0]);
            let body = rmp_serde::to_vec(&body).unwrap();
            let bytes = support::raw_frame(*kind as u8, 0, 2, &body);
            let refused = decode(&only_frame(&bytes)).is_err();
            // A field of an agent's calls is required by the supervisor, not by the decoder.
            assert_eq!(refused, row[2] == "required", "{}.{}", kind.name(), row[0]);
        }
    }
}

/// The frames of a text, each with its block.
fn frames(text: &str) -> Vec<(&str, Vec<u8>)> {
    let blocks = text.split("```hex\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    blocks
        .map(|block| {
            let bytes = block.lines().filter(|line| !line.starts_with('#')).map(unhex).collect::<Vec<_>>().concat();
            (block, bytes)
        })
        .collect()
}

fn end(name: &str) -> End {
    match name {
        "supervisor" => End::Supervisor,
        "plugin" => End::Plugin,
        "agent" => End::Agent,
        other => panic!("{other} is no end of a connection"),
    }
}

/// A body or payload in the notation of the page's comments: JSON whose keys stand without quotes.
fn shown(value: &Value) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    match value {
        Value::Object(map) => format!("{{{}}}", list(&mut map.iter().map(|(k, v)| format!("{k}: {}", shown(v))))),
        Value::Array(items) => format!("[{}]", list(&mut items.iter().map(shown))),
        other => other.to_string(),
    }
}

/// The same without regard to the order of a map's fields.
fn letters(text: &str) -> Vec<char> {
    let mut letters = text.chars().collect::<Vec<_>>();
    letters.sort_unstable();
    letters
}

#[test]
fn every_example_is_a_frame_that_says_what_its_comment_says() {
    let frames = frames(PAGE);
    assert!(frames.len() >= 25, "only {} examples were found", frames.len());
    for (block, bytes) in &frames {
        let comment = block.lines().next().unwrap();
        // `# plugin → supervisor: Hello, id 0; a note`
        let (ends, rest) = comment.strip_prefix("# ").unwrap().split_once(": ").unwrap();
        let (from, to) = ends.split_once(" → ").unwrap();
        let mut rest = rest.split(';').next().unwrap().split(", ");
        let (name, id) = (rest.next().unwrap(), rest.next().unwrap().strip_prefix("id ").unwrap());
        let frame: Frame<'_> = only_frame(bytes);
        let decoded = decode(&frame).unwrap_or_else(|error| panic!("{comment}: {error}")).unwrap();
        assert_eq!(decoded.kind.name(), name);
        assert!(decoded.kind.travels(end(from), end(to)), "{comment}");
        assert_eq!(frame.header.id, id.parse::<u64>().unwrap(), "{comment}");
        assert_eq!(frame.header.flags.has(protocol::Flags::MORE), rest.next() == Some("MORE"), "{comment}");
        let body = block.lines().find_map(|line| line.strip_prefix("# body ")).unwrap();
        let (bytes, payload) = frame.parts(decoded.kind).unwrap();
        let sent: Value = rmp_serde::from_slice(bytes).unwrap();
        assert_eq!(letters(&shown(&sent)), letters(body), "{comment}");
        match block.lines().find_map(|line| line.strip_prefix("# payload ")) {
            None => assert!(payload.is_empty(), "{comment}"),
            Some("bytes") => assert!(!payload.is_empty(), "{comment}"),
            Some(said) => {
                let sent: Value = rmp_serde::from_slice(payload).unwrap();
                assert_eq!(letters(&shown(&sent)), letters(said), "{comment}");
            }
        }
    }
}

/// The page's plugin, run against the page's session: every byte that it writes is the page's.
#[test]
#[expect(clippy::disallowed_methods, reason = "this is no daemon; the test starts an interpreter")]
fn the_plugin_in_python_holds_the_session_of_the_page() {
    let python = std::env::var("PALISADE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import msgpack"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {python} with the package msgpack is needed; PALISADE_PYTHON names another interpreter");
        return;
    }
    let code = section("## A plugin in Python").split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    // A shell puts the pipes in place: descriptor 3 in, 4 out.
    let mut child = Command::new("/bin/sh")
        .args(["-c", r#"exec "$0" -c "$1" 3<&0 4>&1 0</dev/null 1>&2"#, &python, code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let session = section("## A whole session").split_once("The supervisor closes descriptor 3").unwrap().0;
    let frames = frames(session);
    assert!(frames.len() >= 15);
    // Whatever goes wrong, the pipes close, and the child reads the end of its input and exits.
    let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for (block, bytes) in &frames {
            let comment = block.lines().next().unwrap();
            if comment.starts_with("# supervisor") {
                to.write_all(bytes).unwrap();
            } else {
                let mut answer = vec![0; bytes.len()];
                from.read_exact(&mut answer).unwrap_or_else(|error| panic!("{comment}: {error}"));
                assert_eq!(answer, *bytes, "{comment}");
            }
        }
    }));
    drop(to);
    let mut rest = Vec::new();
    from.read_to_end(&mut rest).unwrap();
    let status = child.wait().unwrap();
    if let Err(panic) = held {
        std::panic::resume_unwind(panic);
    }
    assert_eq!(rest, [] as [u8; 0], "nothing follows `Drained`");
    assert!(status.success(), "{status}");
}
