//! Which part may know which: the arrows of ARCHITECTURE.md as data, held against every path that the code names.
//!
//! A part is named by its module; a longer name goes before a shorter one, so that `sandbox::probe` is a part of its own beside
//! `sandbox`. Each part may use only parts that stand above it, and of those only the ones it lists; so there are no cycles,
//! and what is not listed is an absence that this test proves. Tests may use what they like and are not read.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The daemon's parts, from what decides to what performs, and what each may use.
const PARTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &[]),
    ("telemetry", &[]),
    ("blocking", &[]),
    ("key_file", &[]),
    ("vault", &["key_file"]),
    // Before there is anything of the daemon.
    ("scope", &[]),
    ("config", &["model", "vault"]),
    ("events", &["model"]),
    ("trust", &["key_file", "model"]),
    ("archive", &["trust"]),
    ("store", &["model", "trust", "vault"]),
    ("state", &["blocking", "model", "store", "vault"]),
    ("secrets", &["blocking", "model", "store", "vault"]),
    ("sandbox", &["model"]),
    ("egress", &["blocking", "model"]),
    ("process", &["blocking", "model", "sandbox"]),
    // What a host can do is found out by starting a child, so this part of the sandbox stands above `process`.
    ("sandbox::probe", &["model", "process", "sandbox"]),
    (
        "plugin",
        &["blocking", "egress", "events", "model", "process", "sandbox", "secrets", "state", "store", "trust", "wire"],
    ),
    ("registry", &["model", "plugin", "store"]),
    (
        "packages",
        &[
            "archive", "blocking", "config", "egress", "events", "model", "plugin", "registry", "secrets", "state",
            "store", "trust",
        ],
    ),
    ("router", &["model", "plugin", "registry"]),
    ("doctor", &["config", "model", "registry", "sandbox::probe"]),
    // Not `process`, `store` or `sandbox`; of the probe only what it found out, for `doctor`.
    (
        "api",
        &[
            "config",
            "doctor",
            "events",
            "model",
            "packages",
            "plugin",
            "registry",
            "router",
            "sandbox::probe",
            "secrets",
            "wire",
        ],
    ),
    (
        "daemon",
        &[
            "api",
            "blocking",
            "config",
            "doctor",
            "egress",
            "events",
            "key_file",
            "model",
            "packages",
            "plugin",
            "process",
            "registry",
            "router",
            "sandbox",
            "sandbox::probe",
            "state",
            "store",
            "telemetry",
            "trust",
            "vault",
            "wire",
        ],
    ),
    ("main", &["config", "daemon", "scope", "telemetry"]),
];

/// What `model` never names: it decides, and whoever performs hands it the time.
const NOT_IN_MODEL: &[&str] = &[
    "tokio",
    "nix",
    "rustix",
    "libc",
    "procfs",
    "tracing",
    "fastrand",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
];

/// What the daemon names nowhere but in `blocking`: the runtime's own threads, which it panics without where the system gives none, and
/// such as nobody counts.
const THREADS: &[&str] =
    &["spawn_blocking", "block_in_place", "lookup_host", "tokio::fs", "thread::spawn", "thread::Builder"];

/// The crates that are shipped, by folder, and which crates of this workspace each may use: itself or its tests.
const CRATES: &[(&str, &[&str])] = &[
    ("plugin-sdk/protocol", &[]),
    ("plugin-sdk", &["palisade-protocol"]),
    ("plugin-sdk/client", &["palisade-protocol"]),
    ("plugins/echo", &["palisade-protocol", "palisade-sdk"]),
    ("plugins/calculator", &["palisade-protocol", "palisade-sdk"]),
    ("plugins/counter", &["palisade-sdk"]),
    ("plugins/ticker", &["palisade-sdk"]),
    ("supervisor/launcher", &[]),
    ("supervisor", &["palisade-launcher", "palisade-protocol"]),
    // What is checked without a daemon is checked by the daemon's own code, so that both say the same.
    ("supervisor/cli", &["palisade-client", "palisade-protocol", "palisaded"]),
];

/// Where unsafe code may stand in what is shipped.
const UNSAFE: &[&str] = &["supervisor/launcher/src/", "plugin-sdk/src/descriptors.rs"];

#[test]
fn the_arrows_point_one_way() {
    for (number, (part, uses)) in PARTS.iter().enumerate() {
        let above: Vec<_> = PARTS[..number].iter().map(|(above, _)| above).collect();
        for used in *uses {
            assert!(above.contains(&used), "{part} may not use {used}, which does not stand above it");
        }
    }
}

#[test]
fn nothing_is_used_against_the_arrows() {
    let mut wrong = String::new();
    for (file, module) in daemon_files() {
        let part = part_of(&module).unwrap_or_else(|| panic!("{} belongs to no part; add it to PARTS", file.display()));
        let (_, allowed) = PARTS.iter().find(|(name, _)| *name == part).unwrap();
        for (line, path) in paths_of(&code_of(&file)) {
            let Some(used) = within_crate(&path, &module) else { continue };
            // The root of the crate is the map; a path that names no part names something of this file.
            let Some(used) = part_of(&used) else { continue };
            if used != part && !allowed.contains(&used) {
                let path = path.join("::");
                writeln!(wrong, "{}:{line}: {part} may not use {used} ({path})", file.display()).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "arrows in the wrong direction:\n{wrong}");
}

#[test]
fn the_model_neither_acts_nor_asks_for_the_time() {
    let mut wrong = String::new();
    for (file, module) in daemon_files() {
        if part_of(&module) != Some("model") {
            continue;
        }
        for (line, path) in paths_of(&code_of(&file)) {
            let path = path.join("::");
            let names = |banned: &str| {
                path == banned || path.starts_with(&format!("{banned}::")) || path.ends_with(&format!("::{banned}"))
            };
            if let Some(banned) = NOT_IN_MODEL.iter().find(|banned| names(banned)) {
                writeln!(wrong, "{}:{line}: {banned} ({path})", file.display()).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "model decides and performs nothing, but names:\n{wrong}");
}

#[test]
fn what_blocks_has_its_thread_from_one_place() {
    let mut wrong = String::new();
    for (file, module) in daemon_files().into_iter().filter(|(_, module)| *module != ["blocking"]) {
        for (line, path) in paths_of(&code_of(&file)) {
            let path = format!("::{}::", path.join("::"));
            if let Some(banned) = THREADS.iter().find(|banned| path.contains(&format!("::{banned}::"))) {
                writeln!(wrong, "{}:{line}: {banned} in {}", file.display(), module.join("::")).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "what blocks is done by `blocking`, and not with:\n{wrong}");
}

#[test]
fn unsafe_code_stands_in_two_places() {
    let mut wrong = String::new();
    for (folder, _) in CRATES {
        for file in rust_files(&root().join(folder).join("src")) {
            let place = file.strip_prefix(root()).unwrap().display().to_string();
            if UNSAFE.iter().any(|allowed| place.starts_with(allowed)) {
                continue;
            }
            for (number, line) in code_of(&file).lines().enumerate() {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                if words.any(|word| word == "unsafe") {
                    writeln!(wrong, "{place}:{}", number + 1).unwrap();
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "unsafe code stands in the launcher and in the SDK's descriptors, but also here:\n{wrong}"
    );
}

#[test]
fn crates_depend_on_each_other_as_listed() {
    for (folder, allowed) in CRATES {
        let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let mut tables: Vec<&toml::Table> = Vec::new();
        for name in ["dependencies", "dev-dependencies", "build-dependencies"] {
            tables.extend(manifest.get(name).and_then(toml::Value::as_table));
        }
        // `[target.'cfg(…)'.dependencies]` would be a way around this.
        assert!(!manifest.contains_key("target"), "{folder}/Cargo.toml has dependencies of one target; read them here");
        let names = tables.into_iter().flat_map(|table| table.keys());
        let own: BTreeSet<&str> = names.map(String::as_str).filter(|name| name.starts_with("palisade")).collect();
        for name in own {
            assert!(allowed.contains(&name), "{folder} may not depend on {name}");
        }
    }
    // A crate that is neither listed nor `tests` would be read by none of these.
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let workspace: toml::Table = text.parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().map(|member| member.as_str().unwrap()).collect();
    let listed: BTreeSet<&str> = CRATES.iter().map(|(folder, _)| *folder).chain(["tests"]).collect();
    assert_eq!(members, listed);
}

/// The reader finds what it is to find; otherwise everything above would hold for nothing.
#[test]
fn paths_are_found_where_they_hide() {
    let code = without_tests(&without_comments(
        "use crate::{process::{self, spawn}, store}; // crate::not::this\n\
         /* nor crate::this */ fn f() { super::super::api::unix::serve(\"crate::nor::this\"); }\n\
         let life: &'a str = std::time::Instant::now(); let quote = '\"'; crate::wire::x();\n\
         #[cfg(test)]\nmod tests {\n    use crate::daemon::Daemon;\n}\n",
    ));
    let found: BTreeMap<String, usize> =
        paths_of(&code).into_iter().map(|(line, path)| (path.join("::"), line)).collect();
    let expected = [
        ("crate::process::self", 1),
        ("crate::process::spawn", 1),
        ("crate::store", 1),
        ("super::super::api::unix::serve", 2),
        ("std::time::Instant::now", 3),
        ("crate::wire::x", 3),
    ];
    assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)).into());

    let module = ["plugin", "link"].map(str::to_owned);
    let path = ["super", "super", "api", "unix"].map(str::to_owned);
    assert_eq!(within_crate(&path, &module), Some(["api", "unix"].map(str::to_owned).to_vec()));
    let path = ["super", "call"].map(str::to_owned);
    assert_eq!(within_crate(&path, &module), Some(["plugin", "call"].map(str::to_owned).to_vec()));
    assert_eq!(part_of(&["sandbox", "probe", "Host"].map(str::to_owned)), Some("sandbox::probe"));
    assert_eq!(part_of(&["sandbox", "cgroup"].map(str::to_owned)), Some("sandbox"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading code. Not a parser of Rust: it finds paths, which is all that is asked.

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The daemon's files and the module that each of them is.
fn daemon_files() -> Vec<(PathBuf, Vec<String>)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&source).into_iter().filter_map(|file| {
        let within = file.strip_prefix(&source).unwrap().with_extension("");
        let mut module: Vec<String> = within.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if module.last().unwrap() == "mod" {
            module.pop();
        }
        // The map of the crate declares every part.
        (module != ["lib"]).then_some((file, module))
    });
    let files: Vec<_> = files.collect();
    assert!(files.len() > 20, "the daemon has more files than these {}", files.len());
    files
}

/// Those beneath a folder that are no tests.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                found.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn part_of(module: &[String]) -> Option<&'static str> {
    let named = |part: &str| {
        part.split("::").zip(module.iter().map(Some).chain([None])).all(|(a, b)| Some(a) == b.map(String::as_str))
    };
    PARTS.iter().map(|(part, _)| *part).filter(|part| named(part)).max_by_key(|part| part.len())
}

/// Where in the daemon's crate a path leads that stands in `module`; None if it leads elsewhere.
fn within_crate(path: &[String], module: &[String]) -> Option<Vec<String>> {
    match path.first()?.as_str() {
        "crate" | "palisaded" => Some(path[1..].to_vec()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            let base = &module[..module.len().checked_sub(up)?];
            Some(base.iter().chain(&path[up..]).cloned().collect())
        }
        _ => None,
    }
}

fn code_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    without_tests(&without_comments(&text))
}

/// The text with comments and the contents of strings blanked out; lines stay where they are.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let blank =
        |code: &mut String, skipped: &str| code.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = 2 + hashes;
            rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
        } else if first == '"' {
            closing_quote(rest)
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            blank(&mut code, &rest[..skipped]);
            rest = &rest[skipped..];
        }
    }
    code
}

/// How many `#` the raw string has that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// The length of the string that begins here.
fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character that begins here; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut rest = text.char_indices().skip(1);
    match rest.next() {
        Some((_, '\\')) => {
            rest.next();
            rest.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => rest.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The code without its modules of tests; lines stay where they are.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        // To the end of what the attribute stands before: a `;` or a block.
        let open = rest.find(['{', ';']).unwrap_or(rest.len());
        let end = if rest[open..].starts_with('{') { open + block(&rest[open..]) } else { (open + 1).min(rest.len()) };
        kept.extend(rest[..end].chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

/// The length of the block that begins here.
fn block(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// Every path of two names or more, and the line where it stands. `a::{b, c::d}` is two paths.
fn paths_of(code: &str) -> Vec<(usize, Vec<String>)> {
    let code: Vec<char> = code.chars().collect();
    let ends = code.iter().enumerate().filter(|(_, c)| **c == '\n').map(|(at, _)| at).collect();
    let mut reader = Reader { code, ends, at: 0 };
    let mut found = Vec::new();
    while reader.at < reader.code.len() {
        if reader.name_begins() {
            reader.path(&[], &mut found);
        } else {
            reader.at += 1;
        }
    }
    found.retain(|(_, path)| path.len() > 1);
    found
}

struct Reader {
    code: Vec<char>,
    /// Where lines end.
    ends: Vec<usize>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.code.get(self.at).copied()
    }

    fn name_begins(&self) -> bool {
        self.peek().is_some_and(|c| c.is_alphabetic() || c == '_')
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
            self.at += 1;
        }
        word
    }

    fn follows(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(offset, c)| self.code.get(self.at + offset) == Some(&c))
    }

    /// A path that begins here, `before` standing before it.
    fn path(&mut self, before: &[String], found: &mut Vec<(usize, Vec<String>)>) {
        let line = 1 + self.ends.partition_point(|end| *end < self.at);
        let mut path = before.to_vec();
        path.push(self.word());
        while self.follows("::") {
            self.at += 2;
            if self.name_begins() {
                path.push(self.word());
            } else if self.follows("{") {
                self.group(&path, found);
                return;
            } else {
                break;
            }
        }
        found.push((line, path));
    }

    /// The braces of a `use`.
    fn group(&mut self, before: &[String], found: &mut Vec<(usize, Vec<String>)>) {
        self.at += 1;
        loop {
            self.spaces();
            match self.peek() {
                Some('}') => {
                    self.at += 1;
                    return;
                }
                Some(_) if self.name_begins() => self.path(before, found),
                Some(_) => self.at += 1,
                None => return,
            }
        }
    }
}
