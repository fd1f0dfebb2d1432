//! Files that are made by hand, byte for byte, so that each can have one thing wrong.

use proptest::prelude::*;

use super::*;

/// What a file is to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    pub(crate) interpreter: Option<&'static str>,
    pub(crate) needed: Vec<&'static str>,
    pub(crate) rpath: Option<&'static str>,
    pub(crate) runpath: Option<&'static str>,
    /// Entries of the dynamic section beside those.
    pub(crate) tags: Vec<(u64, u64)>,
    /// The flags of the stack, if it has any.
    pub(crate) stack: Option<u32>,
    /// The flags of what is loaded.
    pub(crate) load: u32,
}

const READ: u32 = 4;

impl Made {
    /// A program as linkers make them.
    pub(crate) fn new(needed: &[&'static str]) -> Self {
        Self { needed: needed.to_vec(), stack: Some(READ | PF_W), load: READ | PF_X, ..Self::default() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let is_dynamic =
            !self.needed.is_empty() || self.rpath.is_some() || self.runpath.is_some() || !self.tags.is_empty();
        let count =
            1 + usize::from(self.interpreter.is_some()) + usize::from(is_dynamic) + usize::from(self.stack.is_some());
        let start = HEADER_BYTES + count * SEGMENT_BYTES;
        let mut names = vec![0];
        let mut named = |name: &str| {
            let at = names.len() as u64;
            names.extend(name.bytes().chain([0]));
            at
        };
        let mut entries: Vec<(u64, u64)> = self.needed.iter().map(|name| (DT_NEEDED, named(name))).collect();
        entries.extend(self.rpath.map(|list| (DT_RPATH, named(list))));
        entries.extend(self.runpath.map(|list| (DT_RUNPATH, named(list))));
        entries.extend(&self.tags);
        entries.extend([(DT_STRTAB, start as u64), (DT_STRSZ, names.len() as u64), (0, 0)]);
        let interpreter = start + names.len();
        let mut body = names;
        body.extend(self.interpreter.unwrap_or_default().bytes().chain([0]));
        let dynamic = start + body.len();
        for (tag, value) in &entries {
            body.extend(tag.to_le_bytes());
            body.extend(value.to_le_bytes());
        }
        let total = (start + body.len()) as u64;
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [ET_DYN, MACHINE] {
            bytes.extend(half.to_le_bytes());
        }
        bytes.extend(1_u32.to_le_bytes());
        for address in [0, HEADER_BYTES as u64, 0_u64] {
            bytes.extend(address.to_le_bytes());
        }
        bytes.extend(0_u32.to_le_bytes());
        for half in [HEADER_BYTES, SEGMENT_BYTES, count, 0, 0, 0] {
            bytes.extend((half as u16).to_le_bytes());
        }
        let mut segment = |kind: u32, flags: u32, at: u64, size: u64| {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            for value in [at, at, at, size, size, 1] {
                bytes.extend(value.to_le_bytes());
            }
        };
        segment(PT_LOAD, self.load, 0, total);
        if let Some(name) = self.interpreter {
            segment(PT_INTERP, READ, interpreter as u64, name.len() as u64 + 1);
        }
        if is_dynamic {
            segment(PT_DYNAMIC, READ, dynamic as u64, 16 * entries.len() as u64);
        }
        if let Some(flags) = self.stack {
            segment(PT_GNU_STACK, flags, 0, 0);
        }
        bytes.extend(body);
        bytes
    }
}

fn read(made: &Made) -> Image {
    Image::read(made.bytes().as_slice()).unwrap()
}

#[test]
fn what_a_file_says_is_read() {
    let made = Made {
        interpreter: Some("/lib64/ld.so"),
        rpath: Some("/a"),
        runpath: Some("$ORIGIN/b:/c"),
        ..Made::new(&["libone.so", "libtwo.so.2"])
    };
    let image = read(&made);
    let wanted = Image {
        interpreter: Some("/lib64/ld.so".into()),
        needed: vec!["libone.so".into(), "libtwo.so.2".into()],
        rpath: Some("/a".into()),
        runpath: Some("$ORIGIN/b:/c".into()),
        ..Image::default()
    };
    assert_eq!(image, wanted);
    // The program that runs this test.
    let own = Image::read(&File::open("/proc/self/exe").unwrap()).unwrap();
    assert!(own.needed.iter().any(|name| name.starts_with("libc.")), "{own:?}");
    assert_eq!((own.text_relocations, own.executable_stack, own.writable_code), (false, None, false));
}

#[test]
fn how_a_file_was_built_is_seen() {
    let plain = || Made::new(&["a"]);
    let stack = |stack| read(&Made { stack, ..plain() }).executable_stack;
    assert_eq!(stack(Some(READ | PF_W)), None);
    assert_eq!(stack(Some(READ | PF_W | PF_X)), Some("wants its stack to be executable"));
    assert_eq!(stack(None), Some("does not say that its stack is not to be executed"));
    let relocations = |tags: &[(u64, u64)]| read(&Made { tags: tags.to_vec(), ..plain() }).text_relocations;
    assert!(relocations(&[(DT_TEXTREL, 0)]) && relocations(&[(DT_FLAGS, 8 | DF_TEXTREL)]));
    assert!(!relocations(&[]) && !relocations(&[(DT_FLAGS, 8)]));
    // What comes after the end is not there.
    assert!(!read(&Made { tags: vec![(0, 0), (DT_TEXTREL, 0)], ..Made::new(&[]) }).text_relocations);
    assert!(read(&Made { load: READ | PF_W | PF_X, ..plain() }).writable_code);
    assert!(!read(&Made { load: READ | PF_W, ..plain() }).writable_code);
}

#[test]
fn what_cannot_be_so_is_refused() {
    let whole = Made { interpreter: Some("/l"), ..Made::new(&["a"]) }.bytes();
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        Image::read(bytes.as_slice()).unwrap_err()
    };
    let segment = |number: usize, field: usize| HEADER_BYTES + number * SEGMENT_BYTES + field;
    let strings = HEADER_BYTES + 4 * SEGMENT_BYTES;
    let dynamic = strings + 1 + 2 + 3;
    let long = (1_u64 << 62).to_le_bytes();
    for (at, with, why) in [
        (0, &b"\x7fELG"[..], "is no ELF file"),
        (4, &[1], "another machine"),
        (18, &[3, 0], "another machine"),
        (16, &[1, 0], "is no program and no library (ELF type 1)"),
        (54, &[57, 0], "segments of 57 bytes"),
        (56, &[0, 0], "has 0 segments"),
        (56, &[200, 0], "has 200 segments"),
        (32, &long, "is too short for its segments"),
        (segment(1, 0), &PT_LOAD.to_le_bytes(), "segments that lie over each other"),
        (segment(0, 40), &[0; 8], "segments that lie over each other"),
        (segment(0, 16), &[255; 8], "a segment beyond all addresses"),
        (segment(1, 0), &PT_DYNAMIC.to_le_bytes(), "has two dynamic sections"),
        (segment(2, 0), &PT_INTERP.to_le_bytes(), "names two loaders"),
        (segment(1, 8), &long, "is not whole: its headers say 4611686018427387907 bytes, and it has 358;"),
        (segment(1, 32), &[2, 0, 0, 0, 0, 0, 0, 0], "has no end of its loader"),
        (segment(2, 16), &long, "a dynamic section that is not loaded"),
        (segment(2, 32), &long, "is not whole"),
        (dynamic + 8, &long, "a name outside of its table of names"),
        (dynamic + 24, &long, "a table of names that is not loaded"),
        (dynamic + 16, &[6], "names libraries and has no table of names"),
        (strings + 1, &[255], "something else than text as one of its names"),
        (dynamic + 40, &[2, 0, 0, 0, 0, 0, 0, 0], "has no end of one of its names"),
    ] {
        let error = changed(at, with);
        assert!(error.contains(why), "{at}: {error}, and not {why}");
    }
    assert!(Image::read(whole.as_slice()).is_ok());
    let mut large = whole.clone();
    large[segment(2, 32)..segment(2, 40)].copy_from_slice(&(DYNAMIC_BYTES_MAX + 1).to_le_bytes());
    large.resize(2 * DYNAMIC_BYTES_MAX as usize, 0);
    let told = format!("has a dynamic section of {} bytes; at most", DYNAMIC_BYTES_MAX + 1);
    assert!(Image::read(large.as_slice()).unwrap_err().contains(&told));
    let many = Made { tags: vec![(DT_NEEDED, 1); NEEDED_MAX], ..Made::new(&["a"]) };
    assert_eq!(Image::read(many.bytes().as_slice()), Err(format!("needs more than {NEEDED_MAX} libraries")));
}

/// A program with so many sections of that kind: one after the other after what is loaded, and then their table.
fn with_sections(kind: u32, count: usize, table: Table) -> Vec<u8> {
    const BYTES: u64 = 16;
    let mut bytes = Made::new(&["a"]).bytes();
    let from = bytes.len() as u64;
    bytes.resize(bytes.len() + count * BYTES as usize, 7);
    let (at, said) = match table {
        Table::Last => (bytes.len(), count + 1),
        Table::First => (bytes.len(), 0),
    };
    bytes[40..48].copy_from_slice(&(at as u64).to_le_bytes());
    bytes[58..60].copy_from_slice(&(SECTION_BYTES as u16).to_le_bytes());
    bytes[60..62].copy_from_slice(&(said as u16).to_le_bytes());
    let mut section = |kind: u32, offset: u64, size: u64| {
        let mut header = [0; SECTION_BYTES];
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&offset.to_le_bytes());
        header[32..40].copy_from_slice(&size.to_le_bytes());
        bytes.extend(header);
    };
    section(0, 0, if said == 0 { count as u64 + 1 } else { 0 });
    for number in 0..count as u64 {
        section(kind, from + number * BYTES, BYTES);
    }
    bytes
}

/// Where it is said how many there are.
#[derive(Clone, Copy)]
enum Table {
    /// In the header of the file.
    Last,
    /// In the first of them.
    First,
}

/// What is half written is seen to be so wherever it ends, by what is loaded of it or by its sections; and what is whole is not.
#[test]
fn what_is_not_whole_is_refused() {
    const PROGBITS: u32 = 1;
    let loaded = Made { interpreter: Some("/l"), ..Made::new(&["a"]) }.bytes();
    let appended = [loaded.clone(), vec![1; 500]].concat();
    let last = with_sections(PROGBITS, 3, Table::Last);
    let first = with_sections(PROGBITS, 3, Table::First);
    let many = with_sections(PROGBITS, SECTIONS_MAX + 5, Table::Last);
    let own = std::fs::read("/proc/self/exe").unwrap();
    for (name, whole) in [("loaded", &loaded), ("last", &last), ("first", &first), ("many", &many), ("own", &own)] {
        assert_eq!(Image::read(whole.as_slice()).err(), None, "{name}");
        for length in [whole.len() / 2, 2 * whole.len() / 3, whole.len() - 100, whole.len() - 1] {
            let error = Image::read(&whole[..length]).unwrap_err();
            let headers = HEADER_BYTES + 4 * SEGMENT_BYTES;
            let told = format!("is not whole: its headers say {} bytes, and it has {length};", whole.len());
            assert!(length < headers || error.contains("is not whole: its headers say "), "{name}, {length}: {error}");
            // Of whatever was cut off from a table that is there, everything is told.
            assert!(length < headers || name == "first" || error.contains(&told), "{name}, {length}: {error}");
        }
    }
    for whole in [&loaded, &last, &first] {
        for length in 0..whole.len() {
            assert!(Image::read(&whole[..length]).is_err(), "{length} bytes");
        }
    }
    assert_eq!(Image::read(appended.as_slice()).err(), None, "what is appended does no harm");

    let changed = |whole: &[u8], at: usize, with: &[u8]| {
        let mut bytes = whole.to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        Image::read(bytes.as_slice()).err()
    };
    let table = last.len() - 4 * SECTION_BYTES;
    let section = |number: usize, field: usize| table + number * SECTION_BYTES + field;
    let segment = |number: usize, field: usize| HEADER_BYTES + number * SEGMENT_BYTES + field;
    let (far, no) = ([255; 8], [0; 8]);
    for (at, with, said) in [
        // Nothing is read of tables and contents that cannot be there, however far they reach.
        (40, &far[..], Some("its headers say 18446744073709551871 bytes")),
        (40, &no, None),
        (60, &[255, 255], Some("its headers say 4194")),
        (58, &[255, 255], Some("its headers say 26")),
        (58, &[0, 0], None),
        (section(1, 24), &far, Some("its headers say 18446744073709551631 bytes")),
        (section(1, 32), &far, Some("is not whole")),
        (section(3, 32), &[200, 1], Some("is not whole")),
        (segment(0, 8), &far, Some("is not whole")),
        (segment(2, 8), &far, None),
    ] {
        let error = changed(&last, at, with);
        assert_eq!(error.is_some(), said.is_some(), "{at}: {error:?}");
        assert!(error.as_ref().is_none_or(|error| error.contains(said.unwrap_or_default())), "{at}: {error:?}");
    }
    // As the first says that there are more than there can be.
    let error = changed(&first, first.len() - 4 * SECTION_BYTES + 32, &far).unwrap();
    assert!(error.contains("its headers say 1180591620717411303"), "{error}");
    assert_eq!(changed(&first, first.len() - 4 * SECTION_BYTES + 32, &no), None);
    // What takes no room in the file.
    let mut empty = with_sections(SHT_NOBITS, 3, Table::Last);
    let at = empty.len() - 4 * SECTION_BYTES;
    for number in 1..=3 {
        empty[at + number * SECTION_BYTES + 32..][..8].copy_from_slice(&far);
    }
    assert_eq!(Image::read(empty.as_slice()).err(), None);
    // Programs for others are told as such, whole or not.
    for (at, with) in [(4, 1), (5, 2), (18, 3)] {
        for bytes in [&last[..], &last[..last.len() / 2]] {
            let error = changed(bytes, at, &[with]).unwrap();
            assert!(!error.contains("whole"), "{at}: {error}");
        }
    }
}

proptest! {
    /// Whatever stands in a file, it is read or refused, and what was read is bounded.
    #[test]
    fn no_bytes_panic(
        changes in proptest::collection::vec((0..800_usize, prop_oneof![any::<u8>(), Just(0), Just(255)]), 0..12),
        length in 0..900_usize
    ) {
        let mut bytes = if changes.len() % 2 == 0 {
            Made { interpreter: Some("/l"), runpath: Some("$ORIGIN"), ..Made::new(&["a", "b"]) }.bytes()
        } else {
            with_sections(1, 3, if length % 2 == 0 { Table::Last } else { Table::First })
        };
        for (at, with) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
        }
        bytes.truncate(length);
        if let Ok(image) = Image::read(bytes.as_slice()) {
            prop_assert!(image.needed.len() <= NEEDED_MAX && image.needed.iter().all(|name| !name.contains('\0')));
        }
    }
}
