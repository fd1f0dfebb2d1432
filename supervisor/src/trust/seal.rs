//! Writes checksum and signature into a `plugin.json`, and leaves the rest of it as somebody wrote it.
//!
//! Invariants: the file is replaced as a whole or not at all; nothing but the two fields differs afterwards; a manifest that the daemon would not
//! read is not signed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::canonical::CanonicalError;
use super::signature::SigningKey;
use super::tree::{self, TreeError};
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};
use crate::model::trust::{KeyName, Signature, SignedAt};

/// Why a package could not be signed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The manifest cannot be read or written.
    #[error("{path} cannot be {done}: {source}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What was to be done with it.
        done: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It is none.
    #[error("{path}: {source}", path = .path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The package cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It has no canonical form.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

/// What was written.
#[derive(Debug)]
pub struct Sealed {
    /// The manifest as it is now.
    pub manifest: Manifest,
    /// Its checksum.
    pub checksum: String,
    /// Its signature.
    pub signature: Signature,
}

/// Reads the manifest of the package in that folder. Blocks.
///
/// # Errors
/// [`SealError::File`] and [`SealError::Manifest`]
pub fn read_manifest(folder: &Path) -> Result<(Vec<u8>, Manifest), SealError> {
    let path = folder.join("plugin.json");
    let failed = |source| SealError::File { path: path.clone(), done: "read", source };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed(error.into()))?.into();
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser sees that it is too long.
    file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match Manifest::parse(&bytes) {
        Ok((manifest, _)) => Ok((bytes, manifest)),
        Err(source) => Err(SealError::Manifest { path, source }),
    }
}

/// Pins the files of the package in that folder, and signs its manifest. Blocks.
///
/// # Errors
/// [`SealError`], and the package is as it was.
pub fn seal(folder: &Path, key: &SigningKey, key_id: &KeyName, now: SystemTime) -> Result<Sealed, SealError> {
    let (bytes, _) = read_manifest(folder)?;
    let path = folder.join("plugin.json");
    let checksum = tree::checksum(folder)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let source = io::Error::new(io::ErrorKind::InvalidData, error.utf8_error());
        SealError::File { path: path.clone(), done: "read", source }
    })?;
    let pinned = with_member(&text, "checksum", &json!({ "algorithm": "sha256", "value": checksum }));
    let signature = key.sign(pinned.as_bytes(), key_id, &SignedAt::of(now))?;
    let Signature { method, key_id, value, signed_at } = &signature;
    let member = json!({
        "method": method, "key_id": key_id, "value": STANDARD.encode(value), "signed_at": signed_at.as_str(),
    });
    let signed = with_member(&pinned, "signature", &member);
    // What the daemon will read.
    let parsed = Manifest::parse(signed.as_bytes());
    let (manifest, _) = parsed.map_err(|source| SealError::Manifest { path: path.clone(), source })?;
    replace(&path, signed.as_bytes()).map_err(|source| SealError::File { path, done: "written", source })?;
    Ok(Sealed { manifest, checksum, signature })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mode = fs::symlink_metadata(path)?.mode() & 0o777;
    let beside = path.with_file_name(format!(".plugin.json.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    // The new name is on the disk once the folder is; where that fails, the old file may come back, which is whole as well.
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The text of a JSON object with that member, in its place if there is one of that name, else at the end and laid out as the others.
fn with_member(text: &str, key: &str, value: &Value) -> String {
    let members = members(text);
    if let Some(there) = members.iter().find(|member| member.key == key) {
        return format!("{}{value}{}", &text[..there.value.start], &text[there.value.end..]);
    }
    let name = Value::from(key);
    match members.last() {
        Some(last) => {
            // From the brace or the comma before it to its name: a line break and some spaces, or just a space.
            let before = text[..last.start].trim_end().len();
            let layout = match &text[before..last.start] {
                "" if members.len() == 1 => " ",
                layout => layout,
            };
            let (head, tail) = text.split_at(last.value.end);
            format!("{head},{layout}{name}: {value}{tail}")
        }
        None => format!("{{ {name}: {value} }}\n"),
    }
}

/// One member of an object, where it stands in the text.
struct Member {
    key: String,
    start: usize,
    value: Range<usize>,
}

/// The members of the object that a text is, which has been found to be JSON before.
fn members(text: &str) -> Vec<Member> {
    let bytes = text.as_bytes();
    let mut members = Vec::new();
    let mut at = text.find('{').map_or(bytes.len(), |brace| brace + 1);
    loop {
        at = skip(bytes, at, |byte| byte.is_ascii_whitespace() || byte == b',');
        if bytes.get(at) != Some(&b'"') {
            return members;
        }
        let start = at;
        at = end_of(bytes, at);
        let key = serde_json::from_str(&text[start..at]).unwrap_or_default();
        at = skip(bytes, at, |byte| byte.is_ascii_whitespace() || byte == b':');
        let value = at..end_of(bytes, at);
        at = value.end;
        members.push(Member { key, start, value });
    }
}

fn skip(bytes: &[u8], from: usize, what: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|byte| !what(*byte)).map_or(bytes.len(), |count| from + count)
}

/// Where the JSON value ends that begins there.
fn end_of(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return at + 1;
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;
    use serde_json::Map;

    use super::*;

    #[test]
    fn a_field_is_laid_out_as_the_others() {
        let value = json!({"a": [1, "}"]});
        for (before, after) in [
            ("{}", "{ \"k\": {\"a\":[1,\"}\"]} }\n"),
            ("{\"x\":1}", "{\"x\":1, \"k\": {\"a\":[1,\"}\"]}}"),
            (
                "{\n  \"x\": 1,\n  \"y\": [\"{\\\"\"]\n}\n",
                "{\n  \"x\": 1,\n  \"y\": [\"{\\\"\"],\n  \"k\": {\"a\":[1,\"}\"]}\n}\n",
            ),
            ("{\n\t\"x\": 1\n}", "{\n\t\"x\": 1,\n\t\"k\": {\"a\":[1,\"}\"]}\n}"),
            ("{ \"k\" : null , \"x\": 1}", "{ \"k\" : {\"a\":[1,\"}\"]} , \"x\": 1}"),
            ("{\"\\u006b\": 12, \"x\": {\"k\": 1}}", "{\"\\u006b\": {\"a\":[1,\"}\"]}, \"x\": {\"k\": 1}}"),
        ] {
            assert_eq!(with_member(before, "k", &value), after);
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[a{}\\[\\],\": \\\\]*".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map("[kx{}\":,\\\\]{0,3}", inner, 0..4).prop_map(|map| Map::from_iter(map).into()),
            ]
        })
    }

    proptest! {
        /// Whatever the object and its layout, the result is that object with that member.
        #[test]
        fn only_that_field_differs(
            fields in btree_map("[kx{}\":,\\\\]{0,3}", values(), 0..5), value in values(), pretty in any::<bool>()
        ) {
            let mut object = Map::from_iter(fields);
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            let text = with_member(&text.unwrap(), "k", &value);
            object.insert("k".to_owned(), value);
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), Value::Object(object));
        }
    }
}
