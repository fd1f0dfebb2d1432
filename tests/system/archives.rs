//! Packages that come in one file: what is in it runs, or nothing of it is left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::Daemon;
use palisade_tests::package::Package;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::support::{error, expect_echo, expect_text};

fn install(daemon: &Daemon, from: &str) -> Result<Value, ErrorBody> {
    daemon.operate("install", &json!({ "path": from }))
}

fn guest() -> Package {
    Package::hostile("guest", "tame")
}

/// The package in one file, made as `palisade pack` makes it, and the digest that it is to have.
fn packed(daemon: &Daemon, package: &Package, name: &str) -> (PathBuf, String) {
    let elsewhere = daemon.path().join("else where");
    let folder = package.write(&elsewhere, daemon.marker());
    let archive = elsewhere.join(name);
    let packed = palisaded::archive::pack(&folder, "some", &mut File::create(&archive).expect("the folder is ours"));
    fs::remove_dir_all(&folder).expect("it is ours");
    (archive, packed.expect("it can be packed").digest)
}

/// One entry, as it stands in an archive.
fn entry(name: &str, kind: EntryType, mode: u32, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A plain archive of a manifest that is good, and these.
fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let manifest = json!({"id": "guest", "name": "Guest", "version": "0.1.0", "entry_point": "main"}).to_string();
    let manifest = entry("plugin.json", EntryType::Regular, 0o644, manifest.len() as u64, manifest.as_bytes());
    [manifest, entries.concat(), vec![0; 1024]].concat()
}

/// Bytes as they are and then zeros, compressed by Zstandard: 128 KiB of zeros are four bytes.
fn zeros(bytes: &[u8], count: u64) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3];
    let mut block = |kind: u64, size: u64, content: &[u8], last: bool| {
        frame.extend_from_slice(&((size << 3) | (kind << 1) | u64::from(last)).to_le_bytes()[..3]);
        frame.extend_from_slice(content);
    };
    block(0, bytes.len() as u64, bytes, false);
    let blocks = count.div_ceil(128 << 10);
    (1..=blocks).for_each(|number| block(1, 128 << 10, &[0], number == blocks));
    frame
}

/// What there is of packages: what is listed, what is written down, what the store has.
fn everything(daemon: &Daemon) -> (Value, Vec<Vec<String>>) {
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    let plugins = list["plugins"].as_array().expect("a list").iter();
    let plugins: Vec<_> = plugins.map(|plugin| json!([plugin["id"], plugin["version"], plugin["enabled"]])).collect();
    let names = |folder: &str| {
        let entries = fs::read_dir(daemon.path().join("state").join(folder)).expect("it is there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("it is there").file_name().display().to_string()).collect();
        names.sort();
        names
    };
    let folders = ["installed", "store/staging", "store/snapshots", "store/files"].map(names);
    (json!([plugins, list["rejected"]]), folders.to_vec())
}

#[test]
fn a_package_in_one_file_is_installed_and_called() {
    let daemon = Daemon::with([Package::echo()]);
    let (archive, digest) = packed(&daemon, &guest(), "guest.tar.zst");
    let installed = install(&daemon, archive.to_str().expect("it is text")).expect("it is installed");
    assert_eq!((&installed["digest"], &installed["was_there"]), (&json!(digest), &json!(false)));
    expect_echo(&daemon, "guest");
    // What is in it counts and not where it came from, nor what it is called.
    let other = archive.with_file_name("other");
    fs::rename(&archive, &other).expect("it is ours");
    let url = format!("file://{}", other.display()).replace(' ', "%20");
    assert_eq!(install(&daemon, &url).expect("it is there")["was_there"], true);
    let link = archive.with_file_name("link");
    std::os::unix::fs::symlink(&other, &link).expect("the folder is ours");
    assert_eq!(install(&daemon, link.to_str().expect("it is text")).expect("it is there")["was_there"], true);
    let (_, folders) = everything(&daemon);
    assert_eq!(folders[..2], [vec!["guest@0.1.0.json".to_owned()], vec![]]);
    let record =
        fs::read_to_string(daemon.path().join("state/installed/guest@0.1.0.json")).expect("it is written down");
    expect_text(&record, "else where/guest.tar.zst");

    fs::remove_file(&other).expect("it is ours");
    let daemon = Daemon::start(palisade_tests::daemon::DaemonOptions::with([]).folder(daemon.kill_nine()));
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// Each is named, and it is as if nobody had tried.
#[test]
fn a_bad_archive_changes_nothing() {
    let daemon = Daemon::with([Package::echo()]);
    let (good, _) = packed(&daemon, &guest(), "good.tar.zst");
    install(&daemon, good.to_str().expect("it is text")).expect("it is installed");
    expect_echo(&daemon, "guest");
    let before = everything(&daemon);
    let refused = |from: &str, code: ErrorCode, words: &str| {
        let refused = error(install(&daemon, from), code);
        expect_text(&refused.message, words);
        assert_eq!(everything(&daemon), before, "{words}");
    };
    let path = daemon.path().join("bad");
    let text = path.to_str().expect("it is text").to_owned();
    let empty = |name: &str, kind, mode| archive(&[entry(name, kind, mode, 0, b"")]);
    let whole = fs::read(&good).expect("it is ours");
    let many: Vec<_> =
        (0..20_100).map(|number| entry(&format!("{number}"), EntryType::Regular, 0o644, 0, b"")).collect();
    let billion = entry("zeros", EntryType::Regular, 0o644, 1_000_000_000, b"");
    for (bytes, words) in [
        (empty("../out", EntryType::Regular, 0o644), r#"bad has an entry "../out" that leads out of the package"#),
        (empty("/palisade-out", EntryType::Regular, 0o644), r#""/palisade-out" that has an absolute name"#),
        (empty("link", EntryType::Symlink, 0o777), r#""link" that is a symbolic link"#),
        (empty("link", EntryType::Link, 0o777), r#""link" that is a hard link"#),
        (empty("device", EntryType::Block, 0o644), r#""device" that is a device"#),
        (empty("pipe", EntryType::Fifo, 0o644), r#""pipe" that is a pipe"#),
        (empty("main", EntryType::Regular, 0o4755), r#""main" that has a setuid or setgid bit"#),
        (empty("plugin.json", EntryType::Regular, 0o644), r#""plugin.json" that is there twice"#),
        (
            empty("plugin.json/x", EntryType::Regular, 0o644),
            "is a file in one place of the archive and a folder in another",
        ),
        (zeros(&billion, 1_000_000_512), "bad holds more than 512 MiB of files"),
        (zeros(&archive(&[]), 1_000_000_000), "bad goes on after its end with something else"),
        (archive(&many), "bad holds more than 20001 files and folders"),
        (whole[..whole.len() / 2].to_vec(), "bad ends early"),
        (b"#!/bin/sh\n".to_vec(), "bad is no tar archive, plain or compressed by gzip or Zstandard"),
        (Vec::new(), "bad has nothing in it"),
    ] {
        fs::write(&path, bytes).expect("the folder is ours");
        refused(&text, ErrorCode::ConfigurationInvalid, words);
    }
    // What is wrong with the package in it is said as of a folder.
    let (wrong, _) = packed(&daemon, &guest().with("version", json!("one")), "wrong.tar.zst");
    refused(
        wrong.to_str().expect("it is text"),
        ErrorCode::ConfigurationInvalid,
        "else where/wrong.tar.zst/plugin.json: ",
    );
    // What is there, and is neither.
    fs::remove_file(&path).expect("it is ours");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RWXU, 0).expect("the folder is ours");
    refused(&text, ErrorCode::InvalidParams, "bad is neither a folder nor an archive");
    refused("/dev/zero", ErrorCode::InvalidParams, "/dev/zero is neither a folder nor an archive");
    refused("/nowhere.tar.zst", ErrorCode::InvalidParams, "/nowhere.tar.zst cannot be read: No such file");
    refused("https://127.0.0.1/a.tar.zst", ErrorCode::InvalidParams, "is a URL of the scheme https");
    refused("file://elsewhere/a.tar.zst", ErrorCode::InvalidParams, r#"names the host "elsewhere""#);
    for out in [
        daemon.path().join("state/store/out"),
        daemon.path().join("state/store/staging/out"),
        PathBuf::from("/palisade-out"),
    ] {
        assert!(!Path::new(&out).exists(), "{}", out.display());
    }
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// Half an archive that a killed daemon had unpacked is gone when the next one has come up.
#[test]
fn what_a_killed_daemon_was_unpacking_is_cleared_away() {
    let daemon = Daemon::with([Package::echo()]);
    let folder = daemon.kill_nine();
    let left = folder.path().join("state/store/staging/0/some/deep");
    fs::create_dir_all(&left).expect("it is ours");
    fs::write(left.join("file"), "half").expect("it is ours");
    let daemon = Daemon::start(palisade_tests::daemon::DaemonOptions::with([]).folder(folder));
    assert_eq!(fs::read_dir(daemon.path().join("state/store/staging")).expect("it is there").count(), 0);
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}
