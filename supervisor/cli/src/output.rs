//! Writing to stdout: buffered, and an error when it cannot be done.

use std::io::{BufWriter, Stdout, Write};

use crate::failure::Failure;

/// So much is gathered before it is written; a stream that pauses is written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Stdout.
#[derive(Debug)]
pub(crate) struct Output(BufWriter<Stdout>);

impl Output {
    pub(crate) fn new() -> Self {
        Self(BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout()))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(|error| Failure::output(&error))
    }

    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text.as_bytes())?;
        self.write(b"\n")
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(|error| Failure::output(&error))
    }
}

/// Writes one text and nothing more.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::new();
    output.write(text.as_bytes())?;
    output.flush()
}
