//! What an ELF file says of itself that matters before it is executed.
//!
//! It is read as whoever loads it does: by its program headers, addresses translated through the segments that are loaded. Of its sections only
//! where they end is looked at, as that shows whether the file is whole: what is half written begins like what is not.
//! Invariants: so much is read and no more, whatever the file claims; every offset is checked before it is used; nothing panics.
//! Elsewhere: where the libraries are that it needs is `libraries`' affair.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::dynamic::{
    DF_TEXTREL, DT_FLAGS, DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, DT_TEXTREL, Dynamic,
};
use goblin::elf::header::{ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PF_W, PF_X, PT_DYNAMIC, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_NULL, ProgramHeader};
use goblin::elf::section_header::{SHT_NOBITS, SHT_NULL, SectionHeader};
use goblin::elf::{Elf, Header};

/// No program has more of them; those of linkers have a dozen.
const SEGMENTS_MAX: usize = 128;

/// The sections of so many are looked at one by one; those of linkers are some dozens.
const SECTIONS_MAX: usize = 1024;

/// The dynamic section of the largest programs has some hundred entries of 16 bytes.
const DYNAMIC_BYTES_MAX: u64 = 64 << 10;

/// No name or list of folders is longer.
const TEXT_BYTES_MAX: u64 = 4096;

/// No file needs more libraries directly.
pub const NEEDED_MAX: usize = 512;

/// The bytes of an ELF header of 64 bits, of one of its program headers, and of one of its section headers.
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const SECTION_BYTES: usize = 64;

/// The machine of this build, as ELF names it.
pub const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else {
    0
};

/// What an ELF file is read from.
pub trait Source {
    /// Reads from there; less than asked for only at the end.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// How many bytes there are.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;
}

impl Source for File {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset.saturating_add(done as u64))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Source for [u8] {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The loader that the kernel is to start.
    pub interpreter: Option<String>,
    /// The libraries that it needs.
    pub needed: Vec<String>,
    /// Where it looks for them, and for those that they need in turn.
    pub rpath: Option<String>,
    /// Where it looks for them; goes before the former.
    pub runpath: Option<String>,
    /// Whether its code is written to when it is loaded.
    pub text_relocations: bool,
    /// What makes its stack executable, if it is.
    pub executable_stack: Option<&'static str>,
    /// Whether it has memory that can be written and executed.
    pub writable_code: bool,
}

impl Image {
    /// Reads a program or a library of this machine.
    ///
    /// # Errors
    /// The end of a sentence that began with the file's name.
    pub fn read(file: &(impl Source + ?Sized)) -> Result<Self, String> {
        let segments = segments(file)?;
        let mut image =
            Self { executable_stack: Some("does not say that its stack is not to be executed"), ..Self::default() };
        let mut dynamic = None;
        for segment in &segments {
            match segment.p_type {
                PT_INTERP if image.interpreter.is_none() => {
                    // The kernel takes it from the file, not from memory.
                    image.interpreter = Some(text(file, segment.p_offset, segment.p_filesz, "its loader")?);
                }
                PT_INTERP => return Err("names two loaders".to_owned()),
                PT_GNU_STACK if segment.p_flags & PF_X == 0 => image.executable_stack = None,
                PT_GNU_STACK => image.executable_stack = Some("wants its stack to be executable"),
                PT_LOAD => image.writable_code |= segment.p_flags & (PF_W | PF_X) == PF_W | PF_X,
                PT_DYNAMIC if dynamic.is_none() => dynamic = Some(segment),
                PT_DYNAMIC => return Err("has two dynamic sections".to_owned()),
                _ => {}
            }
        }
        if let Some(dynamic) = dynamic {
            image.read_dynamic(file, &segments, dynamic)?;
        }
        Ok(image)
    }

    fn read_dynamic(
        &mut self,
        file: &(impl Source + ?Sized),
        segments: &[ProgramHeader],
        dynamic: &ProgramHeader,
    ) -> Result<(), String> {
        let bytes = dynamic.p_filesz;
        if DYNAMIC_BYTES_MAX < bytes {
            return Err(format!("has a dynamic section of {bytes} bytes; at most {DYNAMIC_BYTES_MAX} are possible"));
        }
        // The loader finds it by its address.
        let at = offset_of(segments, dynamic.p_vaddr, bytes).ok_or("has a dynamic section that is not loaded")?;
        let section = exactly(file, at, bytes, "its dynamic section")?;
        let whole = ProgramHeader { p_type: PT_DYNAMIC, p_offset: 0, p_filesz: bytes, ..ProgramHeader::new() };
        let parsed = Dynamic::parse(&section, &[whole], CONTEXT)
            .map_err(|error| format!("has a dynamic section that cannot be read: {error}"))?;
        let entries = parsed.map(|dynamic| dynamic.dyns).unwrap_or_default();
        let value = |tag| entries.iter().find(|entry| entry.d_tag == tag).map(|entry| entry.d_val);
        self.text_relocations =
            value(DT_TEXTREL).is_some() || value(DT_FLAGS).is_some_and(|flags| flags & DF_TEXTREL != 0);
        let table = value(DT_STRTAB).zip(value(DT_STRSZ));
        let name = |at: u64| {
            let (address, size) = table.ok_or("names libraries and has no table of names")?;
            let left = size.checked_sub(at).ok_or("has a name outside of its table of names")?;
            let address = address.checked_add(at).ok_or("has a table of names that is not loaded")?;
            let offset = offset_of(segments, address, 1).ok_or("has a table of names that is not loaded")?;
            text(file, offset, left, "one of its names")
        };
        for entry in &entries {
            match entry.d_tag {
                DT_NEEDED if self.needed.len() == NEEDED_MAX => {
                    return Err(format!("needs more than {NEEDED_MAX} libraries"));
                }
                DT_NEEDED => self.needed.push(name(entry.d_val)?),
                DT_RPATH => self.rpath = Some(name(entry.d_val)?),
                DT_RUNPATH => self.runpath = Some(name(entry.d_val)?),
                _ => {}
            }
        }
        Ok(())
    }
}

const CONTEXT: Ctx = Ctx { container: Container::Big, le: Endian::Little };

/// The program headers of a file for this machine.
fn segments(file: &(impl Source + ?Sized)) -> Result<Vec<ProgramHeader>, String> {
    let head = exactly(file, 0, HEADER_BYTES as u64, "its header")?;
    let header = Elf::parse_header(&head).map_err(|error| format!("is no ELF file: {error}"))?;
    if (head[4], head[5], header.e_machine) != (2, 1, MACHINE) {
        return Err("was built for another machine".to_owned());
    }
    if !matches!(header.e_type, ET_EXEC | ET_DYN) {
        return Err(format!("is no program and no library (ELF type {})", header.e_type));
    }
    let count = usize::from(header.e_phnum);
    if count == 0 || SEGMENTS_MAX < count || usize::from(header.e_phentsize) != SEGMENT_BYTES {
        return Err(format!(
            "has {count} segments of {} bytes; from 1 to {SEGMENTS_MAX} of {SEGMENT_BYTES} are possible",
            header.e_phentsize
        ));
    }
    let table = exactly(file, header.e_phoff, (count * SEGMENT_BYTES) as u64, "its segments")?;
    let segments = ProgramHeader::parse(&table, 0, count, CONTEXT)
        .map_err(|error| format!("has segments that cannot be read: {error}"))?;
    whole(file, &header, &segments)?;
    // What lies twice at one address would be the one to whoever loads it, and perhaps the other to us.
    let mut end = 0;
    for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD) {
        if segment.p_vaddr < end || segment.p_memsz < segment.p_filesz {
            return Err("has segments that lie over each other".to_owned());
        }
        end = segment.p_vaddr.checked_add(segment.p_memsz).ok_or("has a segment beyond all addresses")?;
    }
    Ok(segments)
}

/// Whether everything is there that its headers speak of. What has been stripped has no sections, and what is appended to a program does no harm.
fn whole(file: &(impl Source + ?Sized), header: &Header, segments: &[ProgramHeader]) -> Result<(), String> {
    let has = file.length().map_err(|error| format!("cannot be read: {error}"))?;
    let is_there = |end: u128| {
        let why = || format!("is not whole: its headers say {end} bytes, and it has {has}; copy or build it again");
        (end <= u128::from(has)).then_some(()).ok_or_else(why)
    };
    // Of two numbers that a file claims the sum need not be one of 64 bits.
    let end = |offset: u64, bytes: u64| u128::from(offset) + u128::from(bytes);
    // What is nothing in the file lies nowhere in it.
    let in_the_file = segments.iter().filter(|segment| segment.p_type != PT_NULL && segment.p_filesz != 0);
    let of_segments = in_the_file.map(|segment| end(segment.p_offset, segment.p_filesz)).max().unwrap_or_default();
    let table = header.e_shoff;
    if table == 0 {
        return is_there(of_segments);
    }
    let each = u64::from(header.e_shentsize);
    // Where there are too many for the header, the first section says how many there are.
    let said = u64::from(header.e_shnum);
    let of_table = end(table, each * said.max(1)).max(of_segments);
    is_there(of_table)?;
    if each != SECTION_BYTES as u64 {
        // There is nothing that could be said of it.
        return Ok(());
    }
    let count = if said == 0 { sections(file, table, 1)?.first().map_or(0, |first| first.sh_size) } else { said };
    let of_table = (u128::from(table) + u128::from(each) * u128::from(count)).max(of_table);
    is_there(of_table)?;
    let Some(count) = usize::try_from(count).ok().filter(|count| (1..=SECTIONS_MAX).contains(count)) else {
        return Ok(());
    };
    let sections = sections(file, table, count)?;
    let in_the_file = sections.iter().filter(|one| !matches!(one.sh_type, SHT_NULL | SHT_NOBITS) && one.sh_size != 0);
    is_there(in_the_file.map(|one| end(one.sh_offset, one.sh_size)).max().unwrap_or_default().max(of_table))
}

fn sections(file: &(impl Source + ?Sized), offset: u64, count: usize) -> Result<Vec<SectionHeader>, String> {
    let table = exactly(file, offset, (count * SECTION_BYTES) as u64, "its sections")?;
    SectionHeader::parse_from(&table, 0, count, CONTEXT)
        .map_err(|error| format!("has sections that cannot be read: {error}"))
}

/// Where in the file that lies which is loaded at this address.
fn offset_of(segments: &[ProgramHeader], address: u64, bytes: u64) -> Option<u64> {
    segments.iter().filter(|segment| segment.p_type == PT_LOAD).find_map(|segment| {
        let within = address.checked_sub(segment.p_vaddr)?;
        (within.checked_add(bytes)? <= segment.p_filesz).then(|| segment.p_offset.checked_add(within))?
    })
}

fn exactly(file: &(impl Source + ?Sized), offset: u64, bytes: u64, what: &str) -> Result<Vec<u8>, String> {
    // Those who ask have a bound.
    let mut buffer = vec![0; usize::try_from(bytes).map_err(|_| format!("is too short for {what}"))?];
    match file.read(&mut buffer, offset) {
        Ok(count) if count == buffer.len() => Ok(buffer),
        Ok(_) => Err(format!("is too short for {what}")),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// A text that ends with a zero byte, within so many bytes.
fn text(file: &(impl Source + ?Sized), offset: u64, bytes: u64, what: &str) -> Result<String, String> {
    let mut buffer = vec![0; usize::try_from(bytes.min(TEXT_BYTES_MAX)).unwrap_or_default()];
    let count = file.read(&mut buffer, offset).map_err(|error| format!("cannot be read: {error}"))?;
    let end = buffer[..count].iter().position(|byte| *byte == 0).ok_or_else(|| format!("has no end of {what}"))?;
    buffer.truncate(end);
    String::from_utf8(buffer).map_err(|_| format!("has something else than text as {what}"))
}

#[cfg(test)]
pub(super) mod tests;
