//! Writing to stdout: buffered, and an error when it cannot be done. Whether anybody reads it can be watched as well.

use std::io::{BufWriter, Stdout, Write};
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::net::unix::pipe;

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

/// Who reads stdout, if it is a pipe; of files and terminals nothing is known.
#[derive(Debug)]
pub(crate) struct Reader(Option<pipe::Sender>);

impl Reader {
    pub(crate) fn of_stdout() -> Self {
        let own = std::io::stdout().as_fd().try_clone_to_owned();
        // It is only watched. Making it one that does not block would make it so for all that share it. A file cannot be watched,
        // and need not be.
        Self(own.and_then(pipe::Sender::from_owned_fd_unchecked).ok())
    }

    /// Waits until nobody can read what would be written; otherwise that is only noticed by writing.
    pub(crate) async fn gone(&self) {
        if let Some(watched) = &self.0
            && watched.ready(Interest::ERROR).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}
