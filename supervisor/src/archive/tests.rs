//! What becomes of archives, good and bad.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tar::{EntryType, Header};

use super::*;
use crate::trust::tree;

const MIB: u64 = 1 << 20;

/// An entry as it stands in an archive, with whatever name.
fn entry(name: &str, kind: EntryType, mode: u32, content: &[u8]) -> Vec<u8> {
    sized(name.as_bytes(), kind, mode, content.len() as u64, content)
}

fn sized(name: &[u8], kind: EntryType, mode: u32, size: u64, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(7);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(name, EntryType::Regular, 0o644, content.as_bytes())
}

fn folder(name: &str) -> Vec<u8> {
    entry(name, EntryType::Directory, 0o755, b"")
}

fn manifest() -> Vec<u8> {
    file("plugin.json", "{}")
}

/// Those entries, and the end.
fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// A description of the newer kind.
fn described(kind: EntryType, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = 3 + key.len() + value.len();
        let digits = |length: usize| length.to_string().len();
        let length = (1..9).map(|more| rest + more).find(|length| rest + digits(*length) == *length).unwrap();
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    entry("described", kind, 0o644, &content)
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A frame of Zstandard: `bytes` as they are, then so many zeros, each 128 KiB of them in four bytes.
fn zeros(bytes: &[u8], mut count: u64, window: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    let mut block = |kind: u64, size: u64, content: &[u8], last: bool| {
        frame.extend_from_slice(&((size << 3) | (kind << 1) | u64::from(last)).to_le_bytes()[..3]);
        frame.extend_from_slice(content);
    };
    block(0, bytes.len() as u64, bytes, count == 0);
    while 0 < count {
        let some = count.min(128 << 10);
        count -= some;
        block(1, some, &[0], count == 0);
    }
    frame
}

/// A window of 8 MiB, the largest that is allowed, and the next.
const WINDOW: u8 = 13 << 3;
const LARGER_WINDOW: u8 = (13 << 3) + 1;

/// Unpacks it, and says what there is: paths beneath the package's folder.
fn unpacked(bytes: &[u8]) -> Result<Vec<String>, ArchiveError> {
    let mut archive = tempfile::tempfile().unwrap();
    archive.write_all(bytes).unwrap();
    archive.rewind().unwrap();
    // In memory where that is possible: to make folders by the ten thousand takes a disk a minute.
    let memory = Path::new("/dev/shm");
    let outer = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let into = outer.path().join("into");
    fs::create_dir(&into).unwrap();
    let outcome = unpack(archive, &into, &|| true);
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "something was written elsewhere");
    let outcome = outcome.map(|package| {
        assert!(package.starts_with(&into));
        let mut found = Vec::new();
        list(&package, &package, &mut found);
        found.sort();
        found
    });
    for name in [outer.path().join("out"), PathBuf::from("/palisade-out")] {
        assert!(!name.exists(), "{}", name.display());
    }
    outcome
}

fn list(top: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.strip_prefix(top).unwrap().display().to_string());
        let what = fs::symlink_metadata(&path).unwrap().file_type();
        assert!(what.is_dir() || what.is_file());
        if what.is_dir() {
            list(top, &path, found);
        }
    }
}

/// What is said of it, which begins with the archive's name.
fn refused(bytes: &[u8]) -> String {
    format!("it {}", unpacked(bytes).expect_err("it is not unpacked"))
}

#[test]
fn the_same_package_in_every_form_is_unpacked() {
    let flat = archive(&[
        folder("./"),
        manifest(),
        entry("./bin/run", EntryType::Regular, 0o755, b"#!/bin/sh\n"),
        folder("bin/"),
        folder("empty"),
    ]);
    let within = archive(&[
        described(EntryType::XGlobalHeader, &[("comment", b"a commit")]),
        folder("top-1.0/"),
        file("top-1.0/plugin.json", "{}"),
        described(
            EntryType::XHeader,
            &[("mtime", b"1.5"), ("path", b"top-1.0/bin/run"), ("SCHILY.xattr.user.a", b"\n\0")],
        ),
        entry("top-1.0/short", EntryType::Regular, 0o755, b"#!/bin/sh\n"),
        entry("././@LongLink", EntryType::GNULongName, 0o644, b"top-1.0/empty/\0"),
        folder("top-1.0/e"),
    ]);
    let halves = flat.split_at(flat.len() / 2);
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstandard(&flat)].concat();
    for bytes in [
        flat.clone(),
        within.clone(),
        [flat.clone(), vec![0; 9216]].concat(),
        gzip(&flat),
        [gzip(halves.0), gzip(halves.1)].concat(),
        zstandard(&flat),
        [zstandard(halves.0), zstandard(halves.1)].concat(),
        skippable,
        zeros(&flat, 0, WINDOW),
        gzip(&within),
    ] {
        assert_eq!(unpacked(&bytes).unwrap(), ["bin", "bin/run", "empty", "plugin.json"]);
    }
    // Several folders are a package's own, where its manifest lies beside them.
    let several = archive(&[manifest(), file("a/x", ""), file("b/x", "")]);
    assert_eq!(unpacked(&several).unwrap(), ["a", "a/x", "b", "b/x", "plugin.json"]);
}

#[test]
fn an_entry_that_no_package_has_is_named() {
    let alone = "a package holds files and folders alone";
    let long = "a/".repeat(20) + "b";
    let deep = "d/".repeat(34) + "f";
    let cases: Vec<(Vec<Vec<u8>>, String)> = vec![
        (vec![file("../out", "")], r#""../out" that leads out of the package"#.into()),
        (vec![file("a/../../out", "")], r#""a/../../out" that leads out of the package"#.into()),
        (vec![folder("..")], r#"".." that leads out of the package"#.into()),
        (vec![file("/palisade-out", "")], r#""/palisade-out" that has an absolute name"#.into()),
        (vec![entry("l", EntryType::Symlink, 0o777, b"")], format!(r#""l" that is a symbolic link; {alone}"#)),
        (vec![entry("l", EntryType::Link, 0o777, b"")], format!(r#""l" that is a hard link; {alone}"#)),
        (vec![entry("d", EntryType::Char, 0o644, b"")], format!(r#""d" that is a device; {alone}"#)),
        (vec![entry("d", EntryType::Block, 0o644, b"")], format!(r#""d" that is a device; {alone}"#)),
        (vec![entry("p", EntryType::Fifo, 0o644, b"")], format!(r#""p" that is a pipe; {alone}"#)),
        (
            vec![entry("s", EntryType::GNUSparse, 0o644, b"")],
            r#""s" that is a file with holes; write the archive without `--sparse`"#.into(),
        ),
        (vec![entry("c", EntryType::Continuous, 0o644, b"")], r#""c" that is of the unknown kind '7'"#.into()),
        (vec![entry("v", EntryType::new(b'V'), 0o644, b"")], r#""v" that is of the unknown kind 'V'"#.into()),
        (
            vec![entry("su", EntryType::Regular, 0o4755, b"")],
            r#""su" that has a setuid or setgid bit, which no program of a package may have"#.into(),
        ),
        (
            vec![entry("sg", EntryType::Regular, 0o2755, b"")],
            r#""sg" that has a setuid or setgid bit, which no program of a package may have"#.into(),
        ),
        (vec![manifest(), manifest()], r#""plugin.json" that is there twice"#.into()),
        (vec![manifest(), file("./plugin.json", "")], r#""./plugin.json" that is there twice"#.into()),
        (vec![folder("a"), folder("a/")], r#""a/" that is there twice"#.into()),
        (
            vec![file("a", ""), file("a/b", "")],
            r#""a/b" that is a file in one place of the archive and a folder in another"#.into(),
        ),
        (
            vec![file("a/b", ""), file("a", "")],
            r#""a" that is a file in one place of the archive and a folder in another"#.into(),
        ),
        (vec![file("a/", "")], r#""a/" that is named like a folder, and is a file"#.into()),
        (vec![file("", "")], r#""" that has no name"#.into()),
        (
            vec![entry("a", EntryType::Directory, 0o755, b"x")],
            r#""a" that is a folder with contents of its own"#.into(),
        ),
        (vec![file("a//b", "")], r#""a//b" that has an empty part in its name"#.into()),
        (vec![file("a/./b", "")], r#""a/./b" that has an empty part in its name"#.into()),
        (vec![file("a\nb", "")], r#""a\nb" that has control characters in its name"#.into()),
        (
            vec![sized(b"a\xff", EntryType::Regular, 0o644, 0, b"")],
            "\"a\u{fffd}\" that has a name that is not UTF-8".into(),
        ),
        (
            vec![described(EntryType::XHeader, &[("path", b"a\0b")]), file("x", "")],
            r#""a\0b" that has control characters in its name"#.into(),
        ),
        (
            vec![described(EntryType::XHeader, &[("path", b"../out")]), file("x", "")],
            r#""../out" that leads out of the package"#.into(),
        ),
        (
            vec![described(EntryType::XHeader, &[("size", b"1000000")]), file("x", "12")],
            r#""x" that has two sizes"#.into(),
        ),
        (
            vec![
                described(EntryType::XHeader, &[("path", b"one")]),
                entry("l", EntryType::GNULongName, 0o644, b"two\0"),
                file("x", ""),
            ],
            r#""one" that has two names"#.into(),
        ),
        (vec![file(&deep, "")], format!("{deep:?} that lies in more than 32 folders")),
    ];
    for (entries, expected) in cases {
        for bytes in [archive(&entries), zstandard(&archive(&entries))] {
            assert_eq!(refused(&bytes), format!("it has an entry {expected}"));
        }
    }
    assert_eq!(unpacked(&archive(&[manifest(), file(&long, "")])).unwrap().len(), 22);
    for (name, what) in [
        ("x".repeat(256), "a part of more than 255 bytes in its name"),
        ("x/".repeat(600), "a name of more than 1024 bytes"),
    ] {
        let bytes = archive(&[entry("l", EntryType::GNULongName, 0o644, name.as_bytes()), file("x", "")]);
        let said: String = name.chars().take(200).collect();
        assert_eq!(refused(&bytes), format!("it has an entry {said:?} that has {what}"));
    }
}

#[test]
fn what_is_no_whole_archive_is_refused() {
    let whole = archive(&[manifest(), file("a", &"x".repeat(5000))]);
    let (compressed, zipped) = (zstandard(&whole), gzip(&whole));
    let early = "it ends early; a part of it is missing";
    let none = "it is no tar archive, plain or compressed by gzip or Zstandard";
    for cut in [512, 1024, 1600, whole.len() - 1024, whole.len() - 512, whole.len() - 1] {
        assert_eq!(refused(&whole[..cut]), early, "{cut}");
    }
    for cut in [5, 20, compressed.len() - 5, compressed.len() - 1] {
        assert_eq!(refused(&compressed[..cut]), early, "{cut}");
    }
    for cut in [5, 20, zipped.len() - 9, zipped.len() - 1] {
        assert_eq!(refused(&zipped[..cut]), early, "{cut}");
    }
    let other = "it goes on after its end with something else";
    assert_eq!(refused(&[whole.clone(), b"more".to_vec()].concat()), other);
    assert_eq!(refused(&[whole.clone(), whole.clone()].concat()), other);
    assert_eq!(refused(&zstandard(&[whole.clone(), b"more".to_vec()].concat())), other);
    for behind in [&b"x"[..], b"\x28\xb5\x30", b"more", &[b'x'; 64], &[0; 100_000], &[0xff; 300_000]] {
        assert_eq!(refused(&[&*compressed, behind].concat()), other, "{} bytes", behind.len());
        assert_eq!(refused(&[&*zipped, behind].concat()), other, "{} bytes", behind.len());
    }
    for (compressed, half) in [(&compressed, &compressed[..3]), (&zipped, &zipped[..1]), (&zipped, &zipped[..8])] {
        assert_eq!(refused(&[compressed, half].concat()), early);
    }
    let nothing = refused(b"\x28\xb5\x2f\xfd\x08\x00\xff\xff\xff nothing of it at all");
    assert!(nothing.starts_with("it is damaged: "), "{nothing}");
    for bytes in
        [&b"hello"[..], &[b'x'; 4096], &gzip(b"hello"), &zstandard(&[b'x'; 4096]), b"\x1f\x8b\x08\x00 nothing of it"]
    {
        let said = refused(bytes);
        assert!(said == none || said == early || said.starts_with("it is damaged: "), "{said}");
    }
    for bytes in [&b""[..], &[0; 1024], &[0; 10240], &gzip(b"")] {
        assert_eq!(refused(bytes), "it has nothing in it");
    }
    let nowhere = "it has no plugin.json, neither at its top nor in the one folder that is there";
    for entries in [
        vec![folder("a/")],
        vec![file("a/plugin.json", "{}"), file("b/plugin.json", "{}")],
        vec![file("a/plugin.json", "{}"), file("README", "")],
        vec![file("a/b/plugin.json", "{}")],
        vec![folder("plugin.json")],
    ] {
        assert_eq!(refused(&archive(&entries)), nowhere);
    }
}

/// One bit is another.
#[test]
fn what_is_damaged_is_refused() {
    let whole = archive(&[manifest(), file("a", &"some text, ".repeat(500))]);
    for compressed in [gzip(&whole), zstandard(&whole)] {
        let at = compressed.len() / 2;
        let mut damaged = compressed.clone();
        damaged[at] ^= 4;
        assert!(unpacked(&damaged).is_err());
        let last = compressed.len() - 1;
        let mut damaged = compressed;
        damaged[last] ^= 4;
        assert!(refused(&damaged).starts_with("it is damaged: "));
    }
    let mut damaged = whole.clone();
    damaged[1024 + 20] ^= 4;
    assert_eq!(refused(&damaged), "it is damaged: archive header checksum mismatch");
    for records in [&b"8 path=a\n"[..], b"99 path=a\n", b"path=a\n", b"8 pathab\n", b"x"] {
        let bytes = archive(&[entry("d", EntryType::XHeader, 0o644, records), manifest()]);
        assert_eq!(refused(&bytes), "it is damaged: the description of an entry is not as it should be");
    }
    for (kind, key, words) in [
        (EntryType::XGlobalHeader, "path", "it says `path` of all its entries"),
        (EntryType::XHeader, "GNU.sparse.major", "a file with holes is in it; write the archive without `--sparse`"),
        (EntryType::XHeader, "size", "a size is no number"),
    ] {
        let bytes = archive(&[described(kind, &[(key, b"x")]), manifest()]);
        assert_eq!(refused(&bytes), format!("it is damaged: {words}"));
    }
    let twice = archive(&[described(EntryType::XHeader, &[]), described(EntryType::XHeader, &[]), manifest()]);
    assert_eq!(refused(&twice), "it is damaged: an entry is described twice");
}

/// A small archive of much is given up before there is much of it.
#[test]
fn bombs_are_given_up_in_time() {
    const BILLION: u64 = 1_000_000_000;
    let header = sized(b"zeros", EntryType::Regular, 0o644, BILLION, b"");
    let bomb = zeros(&header, BILLION.next_multiple_of(512) + 1024, WINDOW);
    assert!(bomb.len() < 64 << 10, "{}", bomb.len());
    assert_eq!(refused(&bomb), "it holds more than 512 MiB of files");
    // In many files; what was read until then is less than a package may have.
    let part = sized(b"a", EntryType::Regular, 0o644, 511 * MIB, b"");
    let more = sized(b"b", EntryType::Regular, 0o644, 2 * MIB, b"");
    let two = [zeros(&part, 511 * MIB, WINDOW), zeros(&more, BILLION, WINDOW)].concat();
    assert_eq!(refused(&two), "it holds more than 512 MiB of files");
    // After the end of an archive, and where nothing is said of them.
    assert_eq!(
        refused(&zeros(&archive(&[manifest()]), BILLION, WINDOW)),
        "it goes on after its end with something else"
    );
    assert_eq!(refused(&zeros(&[], BILLION, WINDOW)), "it has nothing in it");
    let described = sized(b"d", EntryType::XHeader, 0o644, BILLION, b"");
    assert_eq!(refused(&zeros(&described, BILLION, WINDOW)), "it holds more than 64 KiB that describe one entry");
    let named = sized(b"d", EntryType::GNULongName, 0o644, BILLION, b"");
    assert_eq!(refused(&zeros(&named, BILLION, WINDOW)), "it holds more than 64 KiB that describe one entry");
    let window = refused(&zeros(&archive(&[manifest()]), 0, LARGER_WINDOW));
    assert_eq!(
        window,
        "it is damaged: it was compressed with a window of more than 8 MiB, which would have to be held in memory"
    );
    // A file of a billion bytes that is not even compressed is not read.
    let sparse = tempfile::tempfile().unwrap();
    sparse.set_len(BILLION).unwrap();
    let into = tempfile::tempdir().unwrap();
    let error = unpack(sparse, into.path(), &|| true).unwrap_err();
    assert_eq!(error.to_string(), "holds more than 576 MiB");
}

#[test]
fn a_million_files_are_too_many() {
    // All of them are there; those beyond the bound are the same again and again, as nobody gets to them.
    let first: Vec<u8> = (0..=ENTRIES_MAX).flat_map(|number| file(&format!("{number:07}"), "")).collect();
    let thousand = zstandard(&file("again", "").repeat(1000));
    let mut bytes = zstandard(&first);
    for _ in 0..980 {
        bytes.extend_from_slice(&thousand);
    }
    bytes.extend_from_slice(&zstandard(&[0; 1024]));
    assert!((bytes.len() as u64) < 8 * MIB, "{}", bytes.len());
    assert_eq!(refused(&bytes), "it holds more than 20001 files and folders");
    // Folders that are nowhere said count as well, and so does what only describes.
    let deep: Vec<u8> = (0..1000).flat_map(|number| file(&format!("{number}/{}x", "d/".repeat(31)), "")).collect();
    assert_eq!(refused(&archive(&[deep])), "it holds more than 20001 files and folders");
    let nothing = described(EntryType::XGlobalHeader, &[("comment", b"x")]).repeat(1000);
    let nothing = zstandard(&nothing).repeat(1000);
    assert_eq!(refused(&nothing), "it holds more than 20001 files and folders");
}

/// Whoever stops does not wait for the end of an archive.
#[test]
fn unpacking_ends_when_it_is_not_wanted_any_more() {
    let content = "x".repeat(1 << 20);
    let mut archive_file = tempfile::tempfile().unwrap();
    archive_file.write_all(&archive(&[manifest(), file("a", &content)])).unwrap();
    archive_file.rewind().unwrap();
    let into = tempfile::tempdir().unwrap();
    let asked = std::cell::Cell::new(0);
    let outcome = unpack(archive_file, into.path(), &|| {
        asked.set(asked.get() + 1);
        asked.get() < 5
    });
    assert!(matches!(outcome, Err(ArchiveError::GivenUp)), "{outcome:?}");
}

/// Makes a package whose files have those modes.
fn package(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, mode) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    folder
}

fn packed(folder: &Path) -> (Packed, Vec<u8>) {
    let mut bytes = Vec::new();
    (pack(folder, "top-1.0.0", &mut bytes).unwrap(), bytes)
}

/// Neither times nor modes of a host's own, nor the order in which files came about, nor where they lie.
#[test]
fn the_same_package_is_packed_into_the_same_bytes() {
    let long = format!("{}/{}", "long".repeat(30), "name".repeat(40));
    let files =
        [("plugin.json", "{}", 0o644), ("bin/run", "#!/bin/sh\n", 0o755), ("b", "b", 0o644), (&long, "l", 0o644)];
    let one = package(&files);
    let mut others = files;
    others.reverse();
    for file in &mut others {
        file.2 = if file.2 == 0o755 { 0o700 } else { 0o600 };
    }
    let other = package(&others);
    for (folder, name) in [(&one, "target/x"), (&other, ".git/y")] {
        fs::create_dir(folder.path().join("empty")).unwrap();
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    File::open(other.path().join("b")).unwrap().set_modified(old).unwrap();
    fs::set_permissions(other.path().join("bin"), fs::Permissions::from_mode(0o700)).unwrap();
    let ((packed, bytes), again) = (packed(one.path()), packed(other.path()));
    assert_eq!((&packed, &bytes), (&again.0, &again.1));
    assert_eq!((packed.entries, packed.bytes), (7, 14));
    let mut all: Vec<_> = ["plugin.json", "bin", "bin/run", "b", "empty", &long].map(str::to_owned).to_vec();
    all.push("long".repeat(30));
    all.sort();
    assert_eq!(unpacked(&bytes).unwrap(), all);
    // And what comes out of it has the digest that was said.
    let into = tempfile::tempdir().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.rewind().unwrap();
    let folder = unpack(file, into.path(), &|| true).unwrap();
    assert_eq!(folder, into.path().join("top-1.0.0"));
    assert_eq!(tree::checksum(&folder).unwrap(), tree::checksum(one.path()).unwrap());
    assert_eq!(self::packed(&folder).0.digest, packed.digest);
}

/// Larger than what is compressed at once.
#[test]
fn a_large_file_comes_out_as_it_went_in() {
    let content: String = (0..1_500_000).map(|number: u32| format!("{number} ")).collect();
    let one = package(&[("plugin.json", "{}", 0o644), ("large", &content, 0o644)]);
    let (_, bytes) = packed(one.path());
    assert!(bytes.len() < content.len() / 2, "{} of {}", bytes.len(), content.len());
    let into = tempfile::tempdir().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.rewind().unwrap();
    let folder = unpack(file, into.path(), &|| true).unwrap();
    assert_eq!(fs::read_to_string(folder.join("large")).unwrap(), content);
}

#[test]
fn what_would_be_refused_is_not_packed() {
    let words = |folder: &Path| pack(folder, "top", &mut Vec::new()).unwrap_err().to_string();
    let privileged = package(&[("plugin.json", "{}", 0o644), ("su", "", 0o4755)]);
    assert!(words(privileged.path()).contains("/su has a setuid or setgid bit"));
    let linked = package(&[("plugin.json", "{}", 0o644)]);
    std::os::unix::fs::symlink("/etc/passwd", linked.path().join("link")).unwrap();
    assert!(words(linked.path()).contains("/link is a symbolic link"));
    let odd = package(&[("plugin.json", "{}", 0o644), ("a\nb", "", 0o644)]);
    assert!(words(odd.path()).contains("has a name that is not UTF-8 or has control characters in it"));
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let good = package(&[("plugin.json", "{}", 0o644)]);
    assert!(matches!(pack(good.path(), "top", &mut Full), Err(PackError::Write(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the bytes are, nothing lands outside, nothing but files and folders lands at all, and nothing panics.
    #[test]
    fn no_bytes_get_out(
        names in prop::collection::vec(prop_oneof!["[a./\u{e9}\n]{0,12}", "(\\.\\./|/|a/){1,3}(out|a)"], 0..6),
        kinds in prop::collection::vec(prop::sample::select(b"0015gxLK7S".to_vec()), 6),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        form in 0..3,
    ) {
        let mut entries = vec![manifest()];
        for (name, kind) in names.iter().zip(kinds) {
            let content: &[u8] = if kind == b'5' { b"" } else { name.as_bytes() };
            entries.push(entry(name, EntryType::new(kind), 0o755, content));
        }
        let mut bytes = archive(&entries);
        if form == 0 {
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
        }
        let mut bytes = match form { 0 => bytes, 1 => gzip(&bytes), _ => zstandard(&bytes) };
        for (at, value) in &flips {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Err(error) = unpacked(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
