//! Frames and whatever is not one, over descriptors 3 and 4.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use palisade_protocol::{Flags, HEADER_BYTES, Header, Kind, encode};
use serde::Serialize;

/// A frame: kind, id, body and payload.
pub(crate) type Received = (Option<Kind>, u64, Vec<u8>);

/// Both pipes.
#[derive(Debug)]
pub(crate) struct Wire {
    input: File,
    output: Option<File>,
    /// A byte a second.
    pub(crate) read_slowly: bool,
    /// The number of this process, as the welcome said.
    pub(crate) generation: u64,
    /// What it is configured with.
    pub(crate) configuration: serde_json::Value,
    /// Frames that were read while it waited for others.
    pub(crate) later: VecDeque<Received>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let (input, output) = crate::sys::pipes();
        Self {
            input,
            output: Some(output),
            read_slowly: false,
            generation: 0,
            configuration: serde_json::Value::Null,
            later: VecDeque::new(),
        }
    }

    /// Sends bytes as they are. When the supervisor has closed its end there is nobody left to harm.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        if let Some(output) = &mut self.output
            && output.write_all(bytes).is_err()
        {
            std::process::exit(0);
        }
    }

    pub(crate) fn send<M: Serialize>(&mut self, kind: Kind, flags: Flags, id: u64, message: &M, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode(&mut bytes, kind, flags, id, message, payload);
        self.raw(&bytes);
    }

    /// Closes descriptor 4.
    pub(crate) fn close_output(&mut self) {
        self.output = None;
    }

    /// The next frame: kind, id, body and payload. `None` at the end of input.
    pub(crate) fn read(&mut self) -> Option<Received> {
        if let Some(earlier) = self.later.pop_front() {
            return Some(earlier);
        }
        self.read_next()
    }

    /// The next frame that comes.
    pub(crate) fn read_next(&mut self) -> Option<Received> {
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header)?;
        let header = Header::read(&header);
        let mut content = vec![0; header.len as usize];
        self.fill(&mut content)?;
        Some((Kind::from_number(header.kind), header.id, content))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        if !self.read_slowly {
            return self.input.read_exact(bytes).ok();
        }
        for byte in bytes {
            std::thread::sleep(Duration::from_secs(1));
            self.input.read_exact(std::slice::from_mut(byte)).ok()?;
        }
        Some(())
    }
}
