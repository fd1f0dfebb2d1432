//! `palisade new`: the project of a plugin in Rust, that builds, tests and answers as it is.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use palisade_protocol::ErrorCode;
use palisaded::model::ids::PluginId;

use crate::arguments::New;
use crate::failure::Failure;
use crate::output::print;
use crate::screen::harmless;

/// The files of a project. `@NAME@` is the plugin's id, `@SDK@` where the SDK is.
const FILES: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    ("README.md", include_str!("../template/README.md.in")),
    ("plugin.json", include_str!("../template/plugin.json.in")),
    ("src/main.rs", include_str!("../template/src/main.rs")),
    (".gitignore", "/target\n/*.tar.zst\n"),
];

/// As the README of Palisade has it: a clone beside the project.
const SDK: &str = "../palisade/plugin-sdk";

/// Names that are a plugin's and that cargo does not build a program by.
const NO_PROGRAMS: [&str; 40] = [
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "match",
    "mod",
    "move",
    "mut",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "test",
    "true",
];

/// `palisade new`
pub(crate) fn new(new: &New, as_json: bool) -> Result<u8, Failure> {
    let id = PluginId::parse(&new.name).map_err(|error| Failure::code(ErrorCode::InvalidParams, error.to_string()))?;
    if NO_PROGRAMS.contains(&id.as_str()) {
        let message = format!("cargo builds no program with the name {id:?}", id = id.as_str());
        return Err(Failure::code(ErrorCode::InvalidParams, message).with_hint("add a word, as in my-plugin"));
    }
    let sdk = match &new.sdk {
        None => PathBuf::from(SDK),
        Some(sdk) => match fs::canonicalize(sdk) {
            Ok(found) if found.join("Cargo.toml").is_file() => found,
            Ok(found) => return Err(Failure::usage(format!("{} has no Cargo.toml", found.display()))),
            Err(error) => return Err(Failure::usage(format!("{} cannot be read: {error}", sdk.display()))),
        },
    };
    let Some(sdk) = sdk.to_str() else {
        return Err(Failure::usage(format!("{} is not UTF-8, which Cargo.toml has to be", sdk.display())));
    };
    // A string of JSON is one of TOML as well.
    let sdk = serde_json::Value::from(sdk).to_string();
    let folder = new.path.clone().unwrap_or_else(|| PathBuf::from(id.as_str()));
    make_empty(&folder)?;
    for (name, text) in FILES {
        let text = text.replace("@NAME@", id.as_str()).replace("@TITLE@", &title(id.as_str())).replace("@SDK@", &sdk);
        let path = folder.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        made.map_err(|error| unwritable(&path, &error))?;
    }
    if as_json {
        let made =
            serde_json::json!({ "folder": folder.to_string_lossy(), "id": id.as_str(), "next": next(id.as_str()) });
        print(&format!("{made}\n"))?;
    } else {
        print(&format!("{} is there; in it, from here to an answer:\n", harmless(&folder.to_string_lossy())))?;
        for command in next(id.as_str()) {
            print(&format!("  {command}\n"))?;
        }
    }
    Ok(0)
}

/// What comes next, in the project's folder.
fn next(id: &str) -> [String; 5] {
    [
        "cargo build".to_owned(),
        "cargo test".to_owned(),
        format!("palisade pack --program target/debug/{id}"),
        format!("palisade install {id}-0.1.0.tar.zst"),
        format!("palisade call {id} greet name=Ada"),
    ]
}

/// Makes the folder, or finds it empty: nothing of anybody's is written over.
fn make_empty(folder: &Path) -> Result<(), Failure> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Failure::usage(format!("{} is not empty", folder.display()))
            .with_hint("name a folder that is not there with --path")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))
        }
        Err(error) => Err(Failure::usage(format!("{} cannot be read: {error}", folder.display()))),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{} cannot be written: {error}", path.display()))
}

/// `file-search` as people write it, and as the SDK has it.
fn title(id: &str) -> String {
    let words = id.replace(['-', '_'], " ");
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut letters = words.chars();
    letters.next().map_or_else(|| id.to_owned(), |first| first.to_uppercase().chain(letters).collect())
}
