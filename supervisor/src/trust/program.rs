//! What kind of program a file is, read from its first bytes.

use std::io::Read;

/// As much of a `#!` line as the kernel reads.
const HEAD_BYTES: usize = 256;

/// A program that this host can execute, as far as its first bytes tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// An ELF executable for this machine.
    Elf,
    /// A script, and what its first line names.
    Script {
        /// The interpreter's absolute path.
        interpreter: String,
        /// The rest of the line, one argument.
        argument: Option<String>,
    },
}

/// The machine of this build, as ELF names it.
const MACHINE: (u16, &str) = if cfg!(target_arch = "x86_64") {
    (62, "x86_64")
} else if cfg!(target_arch = "aarch64") {
    (183, "aarch64")
} else {
    (0, "this machine")
};

impl Program {
    /// Looks at the beginning of a file.
    ///
    /// # Errors
    /// The end of a sentence that began with the file's name.
    pub fn read(file: &mut impl Read) -> Result<Self, String> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        file.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(|error| format!("cannot be read: {error}"))?;
        if head.is_empty() {
            return Err("is empty".to_owned());
        }
        if let Some(line) = head.strip_prefix(b"#!") {
            return script(line);
        }
        if !head.starts_with(b"\x7fELF") || head.len() < 20 {
            return Err("is neither an ELF program nor a script that begins with #!".to_owned());
        }
        let (bits, order) = (head[4], head[5]);
        let machine = if order == 2 { [head[19], head[18]] } else { [head[18], head[19]] };
        let machine = u16::from_le_bytes(machine);
        if (bits, order, machine) == (2, 1, MACHINE.0) {
            return Ok(Self::Elf);
        }
        let name = match machine {
            3 => "32-bit x86",
            40 => "32-bit Arm",
            62 => "x86_64",
            183 => "aarch64",
            243 => "RISC-V",
            _ => "an unknown one",
        };
        Err(format!(
            "was built for another machine: for {name} (ELF machine {machine}), and this host is {}",
            MACHINE.1
        ))
    }
}

fn script(line: &[u8]) -> Result<Program, String> {
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return Err(format!("has a #! line of more than {HEAD_BYTES} bytes"));
    };
    let line = std::str::from_utf8(&line[..end]).map_err(|_| "has a #! line that is not text".to_owned())?.trim();
    let (interpreter, argument) = match line.split_once([' ', '\t']) {
        Some((interpreter, argument)) => (interpreter, Some(argument.trim().to_owned())),
        None => (line, None),
    };
    if !interpreter.starts_with('/') {
        return Err(format!("names the interpreter {interpreter:?}, which is not an absolute path"));
    }
    Ok(Program::Script { interpreter: interpreter.to_owned(), argument })
}
