//! Runs a filter without a kernel: what would it answer to this call?
//!
//! It knows exactly the instructions that `emit` uses, and treats everything else as a fault, so that a program which passes here
//! has none that a kernel might understand differently.

use super::policy::Action;

/// What the kernel shows a filter of a call: `struct seccomp_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// The number, with the mark of x32 where it was made that way.
    pub number: u32,
    /// The `AUDIT_ARCH_*` of the way in which it was made.
    pub arch: u32,
    /// Where the call was made from.
    pub instruction_pointer: u64,
    /// The arguments, as whole registers.
    pub arguments: [u64; 6],
}

impl Data {
    /// A call of x86_64.
    pub fn new(number: u32, arguments: [u64; 6]) -> Self {
        Self { number, arch: super::numbers::ARCH_X86_64, instruction_pointer: 0, arguments }
    }

    /// The 32 bits at an offset of `struct seccomp_data`; none if there are none.
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |value: u64, upper: bool| if upper { (value >> 32) as u32 } else { value as u32 };
        if !offset.is_multiple_of(4) {
            return None;
        }
        match offset {
            0 => Some(self.number),
            4 => Some(self.arch),
            8 | 12 => Some(half(self.instruction_pointer, offset == 12)),
            _ => {
                let argument = self.arguments.get((offset as usize - 16) / 8)?;
                Some(half(*argument, offset % 8 == 4))
            }
        }
    }
}

/// Where the arguments begin in `struct seccomp_data`; before them are number, architecture and instruction pointer.
pub(super) const ARGUMENTS: u32 = 16;

/// The instructions, as `linux/bpf_common.h` numbers them.
pub(super) mod code {
    /// Load the word at `k`.
    pub(in super::super) const LOAD: u16 = 0x20;
    /// Lay the mask `k` over what was loaded.
    pub(in super::super) const AND: u16 = 0x54;
    /// Jump by `k`.
    pub(in super::super) const JUMP: u16 = 0x05;
    /// Is it `k`?
    pub(in super::super) const EQUAL: u16 = 0x15;
    /// Is it `k` or more?
    pub(in super::super) const AT_LEAST: u16 = 0x35;
    /// Has it a bit of `k`?
    pub(in super::super) const ANY_BIT: u16 = 0x45;
    /// Answer `k`.
    pub(in super::super) const RETURN: u16 = 0x06;
}

/// What is wrong with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its length is no multiple of that of an instruction.
    #[error("the program ends within an instruction")]
    Torn,
    /// It runs past its end.
    #[error("instruction {0} does not exist")]
    PastTheEnd(usize),
    /// An instruction that is not emitted here.
    #[error("instruction {0} is unknown")]
    Unknown(usize),
    /// A load of what is not there.
    #[error("instruction {0} loads what is not there")]
    NoSuchWord(usize),
    /// An answer that is not given here.
    #[error("instruction {0} answers what is no action")]
    NoSuchAction(usize),
}

/// What the program answers to the call. It ends, as every jump goes forward.
pub fn run(program: &[u8], data: &Data) -> Result<Action, Fault> {
    let (instructions, []) = program.as_chunks::<8>() else { return Err(Fault::Torn) };
    let mut loaded = 0_u32;
    let mut at = 0_usize;
    loop {
        let [c0, c1, yes, no, k0, k1, k2, k3] = *instructions.get(at).ok_or(Fault::PastTheEnd(at))?;
        let k = u32::from_le_bytes([k0, k1, k2, k3]);
        let branch = |condition| usize::from(if condition { yes } else { no });
        let skip = match u16::from_le_bytes([c0, c1]) {
            code::LOAD => {
                loaded = data.word(k).ok_or(Fault::NoSuchWord(at))?;
                0
            }
            code::AND => {
                loaded &= k;
                0
            }
            code::JUMP => k as usize,
            code::EQUAL => branch(loaded == k),
            code::AT_LEAST => branch(loaded >= k),
            code::ANY_BIT => branch(loaded & k != 0),
            code::RETURN => return Action::from_kernel(k).ok_or(Fault::NoSuchAction(at)),
            _ => return Err(Fault::Unknown(at)),
        };
        at += 1 + skip;
    }
}
