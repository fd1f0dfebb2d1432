//! The names of system calls, for each way in which a process can make one.
//!
//! The tables are data in `config/seccomp/*.numbers`; the rules name calls of x86_64 alone, the others are for messages.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A way to make system calls, each with numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// What 64-bit programs use.
    X86_64,
    /// 32-bit programs, and `int 0x80` in any.
    I386,
    /// 64-bit registers and 32-bit pointers; its numbers bear [`X32_BIT`].
    X32,
}

/// Marks a number of x32, which the kernel calls by the same architecture as x86_64.
pub const X32_BIT: u32 = 0x4000_0000;

/// `AUDIT_ARCH_X86_64`: x86_64 and x32.
pub const ARCH_X86_64: u32 = 0xc000_003e;

/// `AUDIT_ARCH_I386`.
pub const ARCH_I386: u32 = 0x4000_0003;

static X86_64: LazyLock<Table> = LazyLock::new(|| table(include_str!("../../../../config/seccomp/x86_64.numbers")));
static I386: LazyLock<Table> = LazyLock::new(|| table(include_str!("../../../../config/seccomp/i386.numbers")));
static X32: LazyLock<Table> = LazyLock::new(|| table(include_str!("../../../../config/seccomp/x32.numbers")));

type Table = BTreeMap<u32, &'static str>;

/// How a call was made that the kernel reports by architecture and number, and its number without the mark.
pub fn abi_of(arch: u32, number: u32) -> Option<(Abi, u32)> {
    match arch {
        ARCH_X86_64 if number & X32_BIT != 0 => Some((Abi::X32, number & !X32_BIT)),
        ARCH_X86_64 => Some((Abi::X86_64, number)),
        ARCH_I386 => Some((Abi::I386, number)),
        _ => None,
    }
}

/// The name of a call; none if the tables have none.
pub fn name(abi: Abi, number: u32) -> Option<&'static str> {
    calls(abi).get(&number).copied()
}

/// The number of a call of x86_64.
pub fn number(name: &str) -> Option<u32> {
    static NUMBERS: LazyLock<BTreeMap<&'static str, u32>> =
        LazyLock::new(|| X86_64.iter().map(|(&number, &name)| (name, number)).collect());
    NUMBERS.get(name).copied()
}

/// All that are known, in order.
pub fn calls(abi: Abi) -> &'static BTreeMap<u32, &'static str> {
    match abi {
        Abi::X86_64 => &X86_64,
        Abi::I386 => &I386,
        Abi::X32 => &X32,
    }
}

/// The highest number of x86_64 that the table knows; what is above it is newer.
pub fn highest_known() -> u32 {
    X86_64.last_key_value().map_or(0, |(&number, _)| number)
}

fn table(text: &'static str) -> Table {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entry = |line: &'static str| {
        let (number, name) = line.split_once(' ')?;
        Some((number.parse().ok()?, name))
    };
    lines.map(|line| entry(line).expect("a test reads these very tables")).collect()
}
