//! Packages that come in one file: what is in it runs, or nothing of it is left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use palisade_protocol::{ErrorBody, ErrorCode, Fault};
use palisade_tests::daemon::{Daemon, DaemonOptions, other_user};
use palisade_tests::package::{Entry, Package};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::support::{Disk, error, expect_echo, expect_text};

fn install(daemon: &Daemon, from: &str) -> Result<Value, ErrorBody> {
    daemon.operate("install", &json!({ "path": from, "major": true }))
}

fn guest() -> Package {
    Package::hostile("guest", "tame")
}

/// One that is quickly packed and unpacked, and only shows that it runs.
fn small() -> Package {
    Package::new("guest", Entry::Bytes(b"#!/bin/sh\nexit 3\n".to_vec())).with("restart", json!("never"))
}

fn expect_to_run(daemon: &Daemon, plugin: &str) {
    let ended = daemon.agent().call(plugin, "echo", &json!(1)).expect_err("it exits with 3, which shows that it ran");
    expect_text(&ended.message, "exited with code 3");
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
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()));
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// Each is named, and it is as if nobody had tried.
#[test]
fn a_bad_archive_changes_nothing() {
    let daemon = Daemon::with([Package::echo()]);
    let (good, _) = packed(&daemon, &small(), "good.tar.zst");
    install(&daemon, good.to_str().expect("it is text")).expect("it is installed");
    expect_to_run(&daemon, "guest");
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
    let (wrong, _) = packed(&daemon, &small().with("version", json!("one")), "wrong.tar.zst");
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
    expect_to_run(&daemon, "guest");
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
    if let Some(uid) = other_user() {
        for made in [left.join("file"), left.clone(), left.join(".."), left.join("../..")] {
            std::os::unix::fs::chown(made, Some(uid), Some(uid)).expect("root may");
        }
    }
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder));
    assert_eq!(fs::read_dir(daemon.path().join("state/store/staging")).expect("it is there").count(), 0);
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

/// Two who install the same version at the same time: it is installed once, and nothing is left of the other.
#[test]
fn one_version_is_installed_once() {
    let daemon = Daemon::with([Package::echo()]);
    let outcomes = |archives: [&Path; 2]| {
        let mut agents = archives.map(|archive| {
            let mut agent = daemon.agent();
            let id = agent.begin("palisade", "install", &json!({ "path": archive }));
            (agent, id)
        });
        agents.each_mut().map(|(agent, id)| agent.finish(*id))
    };
    let (one, _) = packed(&daemon, &small(), "one.tar.zst");
    let (same, _) = packed(&daemon, &small(), "same.tar.zst");
    let (other, _) = packed(&daemon, &small().with("description", json!("another")), "other.tar.zst");
    let was_there = outcomes([&one, &same]).map(|outcome| outcome.expect("it is installed")["was_there"].clone());
    assert!(was_there == [json!(false), json!(true)] || was_there == [json!(true), json!(false)], "{was_there:?}");
    let before = everything(&daemon);
    daemon.operate("uninstall", &json!({"plugin": "guest"})).expect("it is installed");
    let [first, second] = outcomes([&one, &other]);
    let (installed, refused) = if first.is_ok() { (first, second) } else { (second, first) };
    let refused = error(refused, ErrorCode::InvalidParams);
    expect_text(&refused.message, "guest 0.1.0 is there already, from ");
    assert_eq!(installed.expect("one of them is installed")["was_there"], false);
    let after = everything(&daemon);
    assert_eq!((&after.0, &after.1[..2]), (&before.0, &before.1[..2]));
    expect_to_run(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// Wherever an installation is when the disk is full, it says so, nothing of it is there, and it succeeds when there is room.
#[test]
fn an_installation_for_which_there_is_no_room() {
    if other_user().is_some() || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can mount a small disk");
        return;
    }
    const PAGE: u64 = 4096;
    // Each version has a program of its own, of a mebibyte.
    let large = |version: &str| {
        let script = [b"#!/bin/sh\n#".to_vec(), version.repeat((1 << 20) / version.len()).into_bytes()].concat();
        // Nobody is to try it.
        let package = Package::new("large", Entry::Bytes(script)).with("version", json!(version));
        package.with("default_enabled", json!(false))
    };
    let daemon = Daemon::start(DaemonOptions::with([small()]).small_disk(16384));
    let disk = Disk::of(&daemon);
    let staging = || fs::read_dir(disk.state.join("store/staging")).expect("it is there").count();
    let known = || {
        let list = daemon.operate("list", &json!({})).expect("there is a list");
        let records = fs::read_dir(disk.state.join("installed")).expect("it is there").count();
        (list["plugins"].as_array().map(Vec::len), list["rejected"].clone(), records, staging())
    };
    let fails = |from: &Path, free: u64, words: &str| {
        let before = known();
        disk.leave(free);
        let refused = daemon.operate("install", &json!({ "path": from })).expect_err("there is no room");
        let whose = (refused.code, refused.fault, refused.retryable);
        assert_eq!(whose, (ErrorCode::ResourceExhausted, Fault::Host, true), "{refused}");
        expect_text(&refused.message, words);
        assert_eq!(known(), before, "{words}");
    };

    // The archive is unpacked and copied; what it takes until then is twice what is in it.
    let (archive, _) = packed(&daemon, &large("1.0.0"), "large.tar.zst");
    fails(&archive, 0, "No space left on device");
    fails(&archive, 512 << 10, "large.tar.zst cannot be unpacked: ");
    fails(&archive, 1536 << 10, "in the store: No space left on device");
    disk.empty();
    daemon.operate("install", &json!({ "path": archive })).expect("there is room");
    assert_eq!(known(), (Some(2), json!([]), 1, 0));

    // A folder is copied, and then it is noted: in a file of its own, and in the database.
    let folder = large("2.0.0").write(&daemon.path().join("elsewhere"), daemon.marker());
    fails(&folder, 512 << 10, "in the store: No space left on device");
    let mut free = 0;
    let mut is_copied = false;
    let mut seen = Vec::new();
    loop {
        disk.leave(free);
        let before = known();
        match daemon.operate("install", &json!({ "path": folder, "major": true })) {
            Ok(_) => break,
            Err(refused) => {
                assert_eq!(refused.code, ErrorCode::ResourceExhausted, "{}", refused.message);
                assert_eq!(known(), before, "{}", refused.message);
                seen.push(refused.message);
            }
        }
        // Page by page where the program fits and what comes after it may not. Once it is in the store, nothing of it is copied again.
        let programs = fs::read_dir(disk.state.join("store/files"))
            .expect("it is there")
            .filter(|file| file.as_ref().is_ok_and(|file| file.metadata().is_ok_and(|found| 1 << 20 < found.len())));
        free = match programs.count() {
            2 if !is_copied => 0,
            1 if free < 250 * PAGE => free + 50 * PAGE,
            _ => free + PAGE,
        };
        is_copied |= free == 0;
        assert!(free < 4 << 20, "{seen:?}");
    }
    for words in ["/state/installed/large@2.0.0.json cannot be changed: No space left", "the registry's database "] {
        assert!(seen.iter().any(|message| message.contains(words)), "{words}: {seen:#?}");
    }
    assert_eq!(known(), (Some(3), json!([]), 2, 0));
    disk.empty();
    expect_to_run(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// What is disabled on a full disk takes no calls, also when its package changes.
#[test]
fn what_is_disabled_where_there_is_no_room_takes_no_calls() {
    if other_user().is_some() || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can mount a small disk");
        return;
    }
    let daemon = Daemon::start(DaemonOptions::with([small(), Package::echo()]).small_disk(16384));
    let disk = Disk::of(&daemon);
    disk.leave(0);
    let disabled = daemon.operate("disable", &json!({"plugin": "guest"})).expect("it takes no calls");
    expect_text(disabled["not_kept"].as_str().unwrap_or_default(), "as it could not be written down");
    let refused = || error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::Unavailable);
    expect_text(&refused().message, "disabled");
    small().with("description", json!("another one")).write(&daemon.plugins(), daemon.marker());
    daemon.operate("rescan", &json!({})).expect("it looks again");
    assert_eq!(daemon.operate("info", &json!({"plugin": "guest"})).expect("it is there")["description"], "another one");
    refused();
    disk.empty();
    daemon.operate("disable", &json!({"plugin": "guest"})).expect("there is room");
    let enabled = daemon.operate("enable", &json!({"plugin": "guest"})).expect("there is room");
    assert_eq!(enabled["not_kept"], Value::Null);
    expect_to_run(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// What was removed can be had again from its archive; what is purged is gone, unless it is another version's as well.
#[test]
fn what_is_removed_is_kept_or_purged() {
    let daemon = Daemon::with([Package::echo()]);
    let mut digests = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let package = guest().with("version", json!(version)).environment("HOSTILE_VERSION", version);
        let (archive, digest) = packed(&daemon, &package, "guest.tar.zst");
        install(&daemon, archive.to_str().expect("it is text")).expect("it is installed");
        digests.push(digest);
    }
    daemon.agent().call("guest", "data-held", &json!(1)).expect("it writes");
    let state = daemon.path().join("state");
    let is_there = |path: &str| state.join(path).exists();
    let uninstall = |version: &str, purge: bool| {
        let which = json!({"plugin": "guest", "version": version, "purge": purge});
        daemon.operate("uninstall", &which).expect("it is installed")
    };

    let removed = uninstall("=2.0.0", false);
    assert_eq!((&removed["purged"], is_there("data/guest")), (&json!(false), true));
    let archive = removed["archive"].as_str().expect("it is kept").to_owned();
    assert!(archive.ends_with("/state/archive/guest-2.0.0.tar.zst"), "{archive}");
    assert_eq!(install(&daemon, &archive).expect("it is whole")["digest"], json!(digests[1]));
    expect_echo(&daemon, "guest");

    let shared = uninstall("=2.0.0", true);
    assert_eq!((&shared["purged"], &shared["archive"]), (&json!(false), &Value::Null));
    assert!(shared["data"].as_str().is_some_and(|data| data.ends_with("/data/guest")), "{shared}");
    expect_echo(&daemon, "guest");
    assert!(is_there("data/guest") && is_there("generations/guest"));

    let purged = uninstall("=1.0.0", true);
    assert_eq!((&purged["purged"], &purged["archive"], &purged["data"]), (&json!(true), &Value::Null, &Value::Null));
    assert!(!is_there("data/guest") && !is_there("generations/guest"));
    // Nor what was kept before.
    assert!(!is_there("archive/guest-2.0.0.tar.zst"));
    // It may come back, as if it had never been there.
    let (archive, _) = packed(&daemon, &guest(), "guest.tar.zst");
    install(&daemon, archive.to_str().expect("it is text")).expect("it is installed");
    assert_eq!(daemon.agent().call("guest", "data-held", &json!(1)), Ok(json!({"/data/held": "ok"})));
    daemon.stop_and_expect_no_orphans();
}
