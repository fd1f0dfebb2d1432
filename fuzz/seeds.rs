//! Writes the first inputs of every target into `corpus/TARGET/`, from the golden frames and the manifests of the shipped plugins, so
//! that fuzzing begins at what is valid.

#[path = "../plugin-sdk/protocol/tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::Read;
use std::path::Path;

use palisade_protocol::{HEADER_BYTES, check_body};

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in [
        "frames",
        "message",
        "body",
        "value",
        "error_body",
        "payload",
        "manifest",
        "client_hello",
        "http",
        "elf",
        "archive",
    ] {
        fs::create_dir_all(corpus.join(target))?;
    }
    for plugin in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins"))? {
        let plugin = plugin?;
        if let Ok(manifest) = fs::read(plugin.path().join("plugin.json")) {
            fs::write(corpus.join("manifest").join(plugin.file_name()), manifest)?;
        }
    }
    fs::write(corpus.join("manifest").join("every-field"), EVERY_FIELD)?;
    fs::write(corpus.join("client_hello").join("one"), CLIENT_HELLO)?;
    // Its header and segments; all of it would be cut off where it is no program any more.
    let own = fs::read(std::env::current_exe()?)?;
    fs::write(corpus.join("elf").join("own"), &own[..own.len().min(4096)])?;
    let tar = archive()?;
    let gzip = flate2::read::GzEncoder::new(tar.as_slice(), flate2::Compression::fast());
    let zstandard = ruzstd::encoding::compress_to_vec(tar.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    fs::write(corpus.join("archive").join("tar"), &tar)?;
    fs::write(corpus.join("archive").join("gzip"), gzip.bytes().collect::<Result<Vec<_>, _>>()?)?;
    fs::write(corpus.join("archive").join("zstandard"), zstandard)?;
    for (name, text) in HTTP {
        fs::write(corpus.join("http").join(name), text)?;
    }
    let golden = support::golden();
    let mut all = Vec::new();
    for golden in &golden {
        let write = |target: &str, bytes: &[u8]| fs::write(corpus.join(target).join(&golden.name), bytes);
        let content = &golden.bytes[HEADER_BYTES..];
        let body = check_body(content).map_or(content, |length| &content[..length]);
        // The first byte of this target's input says in what pieces the rest arrives.
        write("frames", &[&[7][..], &golden.bytes].concat())?;
        write("message", &golden.bytes)?;
        write("body", content)?;
        write("value", body)?;
        if golden.name.contains("err") {
            write("error_body", body)?;
        }
        if !golden.payload.is_empty() {
            write("payload", &golden.payload)?;
        }
        all.extend(&golden.bytes);
    }
    fs::write(corpus.join("frames").join("all"), [&[13][..], &all].concat())?;
    fs::write(corpus.join("message").join("all"), &all)
}

/// A package as an archive, with a name that does not fit into its entry.
fn archive() -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [("some/plugin.json", "{}"), (&format!("some/{}/run", "long".repeat(40)), "#!/bin/sh\n")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, content.as_bytes())?;
    }
    archive.into_inner()
}

/// A manifest that uses the fields which the shipped plugins do without.
const EVERY_FIELD: &str = r#"{
    "id": "every-field", "name": "Every field", "version": "1.2.3-rc.1+build", "description": "d", "entry_point": "bin/x",
    "actions": [{"name": "a", "description": "d", "timeout_seconds": 5, "idempotent": true, "concurrency": 2, "endless": false,
        "parameters": {"type": "object", "properties": {"p": {"type": "string", "pattern": "^a+$"}}}, "returns": {"type": "string"},
        "streaming": {"input": {"kind": "items", "item": true}, "output": {"kind": "bytes"}}, "progress": true,
        "permissions": ["file_read"], "examples": [{"description": "e", "parameters": {"p": "a"}, "returns": "b"}]}],
    "author": "a", "license": "MIT OR Apache-2.0", "homepage": "https://example.com/a", "icon": "icon.svg", "tags": ["t"],
    "kind": "tool", "capabilities": ["custom"], "args": ["-v"], "protocol": {"min": 1, "max": 1},
    "permissions_required": [{"permission": "file_read", "scope": ["/srv"], "reason": "r"}],
    "configuration_schema": {"type": "object"}, "state": {"schema_version": 1},
    "events": {"subscribes": ["a.*"], "emits": ["a.b"]}, "default_enabled": true, "require": ["memory"],
    "limits": {"concurrency": 16, "queue": 64, "call_timeout_seconds": 30, "start_timeout_seconds": 10,
        "drain_timeout_seconds": 30, "stop_grace_seconds": 5, "memory_mib": 512, "pids": 64},
    "activation": {"mode": "lazy", "idle_stop_seconds": 60},
    "restart": {"policy": "on-failure", "backoff_initial_ms": 200, "backoff_max_ms": 30000, "intensity": 5,
        "window_seconds": 60, "jitter": 0.2},
    "environment": {"A": "b"}, "on_pause": "wait", "on_overdue": {"missed_graces": 3, "window_seconds": 60},
    "watchdog": {"interval_seconds": 15, "timeout_seconds": 15}, "cancel_grace_seconds": 2,
    "dependencies": {"plugins": [{"id": "other", "version": "^1.2, <2", "optional": true}], "libraries": ["libz.so.1"], "host": "*"}, "unknown": {"key": [1, null]}
}"#;

/// In pieces of seven: a client hello that names `a.example`.
const CLIENT_HELLO: &[u8] =
    b"\x07\x16\x03\x01\x00\x45\x01\x00\x00\x41\x03\x03................................\x00\x00\x02\x13\x01\x01\x00\
    \x00\x16\x00\x00\x00\x0e\x00\x0c\x00\x00\x09a.example\x00\x0a\x00\x00";

/// Heads and a body, after the byte that says what they are.
const HTTP: &[(&str, &str)] = &[
    ("get", "\0GET http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\nConnection: x\r\nX: y\r\n\r\n"),
    ("post", "\0POST http://a.example:81/ HTTP/1.1\r\nHost: a.example:81\r\nContent-Length: 3\r\n\r\n"),
    ("chunked", "\0PUT http://[::1]/ HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("connect", "\0CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"),
    ("response", "\x09HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 1\r\n\r\n"),
    ("interim", "\x09HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"),
    ("body", "\x0e3\r\nabc\r\n0\r\n\r\n"),
    ("extras", "\x0f3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"),
];
