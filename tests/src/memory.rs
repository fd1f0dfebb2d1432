//! Whether a process has something in its memory that should not be there any more.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Every byte of what is looked for is held with these bits turned, so that whoever looks does not find it in itself.
const MASK: u8 = 0x5a;

/// So much is looked at at once.
const PIECE_BYTES: usize = 1 << 20;

/// What is looked for, as it is held.
#[derive(Debug, Clone)]
pub struct Needle(Vec<u8>);

impl Needle {
    /// Made of a constant, which lies in memory that cannot be written to.
    #[must_use]
    pub fn new(text: &'static str) -> Self {
        Self(text.bytes().map(|byte| byte ^ MASK).collect())
    }

    /// How often it stands in what a process may write to; none where that cannot be looked at, with the reason.
    ///
    /// # Errors
    /// Why its memory cannot be read.
    pub fn in_process(&self, pid: u32) -> Result<usize, String> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|error| error.to_string())?;
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(|error| error.to_string())?;
        let mut found = 0;
        let mut piece = vec![0; PIECE_BYTES];
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (range, rights) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if !rights.starts_with("rw") {
                continue;
            }
            let ends = range
                .split_once('-')
                .and_then(|(from, to)| Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?)));
            let Some((mut at, end)) = ends else { continue };
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                // What is not there, of a stack for instance, is passed over.
                let Ok(read @ 1..) = memory.read_at(&mut piece[..wanted], at) else { break };
                found += self.count(&piece[..read]);
                // One that lies across the border is found in the next piece.
                let next = if at + (read as u64) < end { read.saturating_sub(self.0.len() - 1).max(1) } else { read };
                at += next as u64;
            }
        }
        // Nothing of it is to be found by the next look at this process.
        piece.fill(0);
        std::hint::black_box(&piece);
        Ok(found)
    }

    fn count(&self, bytes: &[u8]) -> usize {
        let is_it = |window: &[u8]| window.iter().zip(&self.0).all(|(byte, held)| byte ^ MASK == *held);
        bytes.windows(self.0.len()).filter(|window| is_it(window)).count()
    }
}
