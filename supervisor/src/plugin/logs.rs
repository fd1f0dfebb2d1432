//! What plugins say: stdout, stderr and `Log` frames, as bounded, escaped, rate-limited lines.
//!
//! One `Hub` holds the last lines of every plugin and passes them on to followers. A line is cut at a limit, control
//! characters are escaped, and what is not UTF-8 is replaced: a log can be shown on a terminal. Beyond its budget a plugin's lines are
//! counted and dropped, and the count is said; its pipe is emptied nevertheless, so that it never waits for us.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use palisade_protocol::Level;
use serde::Serialize;
use tokio::net::unix::pipe;
use tokio::sync::broadcast;

use crate::events::unix_ms;
use crate::model::ids::{Generation, PluginId};
use crate::model::status::{StderrTail, clip};

/// Longest line that is kept, in bytes after escaping; the rest of it is dropped.
pub const LINE_BYTES_MAX: usize = 4 << 10;

/// How many lines of each plugin are kept for `palisade logs`.
const KEPT_LINES_MAX: usize = 200;

/// And of how many bytes in all.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// How many lines a follower may be behind before it misses some.
const BEHIND_MAX: usize = 256;

/// A plugin may say so many lines at once…
const BURST: f64 = 400.0;

/// …and so many a second in the long run.
const LINES_PER_SECOND: f64 = 100.0;

/// Which way a line came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The plugin's standard output.
    Stdout,
    /// The plugin's standard error.
    Stderr,
    /// A `Log` frame.
    Log,
    /// The supervisor, about the plugin.
    Supervisor,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// When it was read, in milliseconds since the epoch.
    pub time_unix_ms: u64,
    /// Whose it is.
    pub plugin: PluginId,
    /// Which process said it.
    pub generation: Generation,
    /// Which way it came.
    pub stream: Source,
    /// How much it matters; lines of stdout are `info`, of stderr `warn`.
    pub level: Level,
    /// The text.
    pub message: String,
    /// More, from a `Log` frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<serde_json::Value>,
    /// The id of the call that it belongs to, as the plugin knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
}

impl Line {
    /// How much of what is kept of a plugin this is.
    fn bytes(&self) -> usize {
        self.message.len() + self.fields.as_ref().map_or(0, |fields| fields.to_string().len())
    }
}

#[derive(Debug)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    tokens: f64,
    refilled: Instant,
    dropped: u64,
}

/// The logs of all plugins. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    kept: Arc<Mutex<HashMap<PluginId, Kept>>>,
    live: broadcast::Sender<Arc<Line>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { kept: Arc::default(), live: broadcast::Sender::new(BEHIND_MAX) }
    }
}

impl Hub {
    fn kept(&self) -> MutexGuard<'_, HashMap<PluginId, Kept>> {
        self.kept.lock().expect("nothing panics while it holds the logs")
    }

    /// Takes a line within the plugin's budget. Returns how many were dropped before it, when that is to be said now.
    pub fn push(&self, line: Line, now: Instant) -> Option<u64> {
        let mut all = self.kept();
        let kept = all.entry(line.plugin.clone()).or_insert_with(|| Kept {
            lines: VecDeque::new(),
            bytes: 0,
            tokens: BURST,
            refilled: now,
            dropped: 0,
        });
        let passed = now.saturating_duration_since(kept.refilled);
        kept.tokens = (kept.tokens + passed.as_secs_f64() * LINES_PER_SECOND).min(BURST);
        kept.refilled = now;
        // What the supervisor says is little and always worth keeping.
        if kept.tokens < 1.0 && line.stream != Source::Supervisor {
            kept.dropped += 1;
            return None;
        }
        kept.tokens = (kept.tokens - 1.0).max(0.0);
        let dropped = std::mem::take(&mut kept.dropped);
        let line = Arc::new(line);
        kept.bytes += line.bytes();
        kept.lines.push_back(line.clone());
        while kept.lines.len() > KEPT_LINES_MAX || kept.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.bytes();
        }
        drop(all);
        let _ = self.live.send(line);
        (dropped > 0).then_some(dropped)
    }

    /// The last `most` lines, of one plugin or of all, oldest first.
    #[must_use]
    pub fn last(&self, plugin: Option<&PluginId>, most: usize) -> Vec<Arc<Line>> {
        let all = self.kept();
        let mut lines: Vec<_> = all
            .iter()
            .filter(|(id, _)| plugin.is_none_or(|plugin| plugin == *id))
            .flat_map(|(_, kept)| kept.lines.iter().cloned())
            .collect();
        lines.sort_by_key(|line| line.time_unix_ms);
        lines.split_off(lines.len().saturating_sub(most))
    }

    /// All lines from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Arc<Line>> {
        self.live.subscribe()
    }
}

/// Says what one generation says.
#[derive(Debug, Clone)]
pub struct Voice {
    /// Where it goes.
    pub hub: Hub,
    /// Who speaks.
    pub plugin: PluginId,
    /// Which process.
    pub generation: Generation,
}

impl Voice {
    /// One line.
    pub fn say(
        &self,
        stream: Source,
        level: Level,
        message: &str,
        fields: Option<serde_json::Value>,
        call: Option<u64>,
    ) {
        let line = Line {
            time_unix_ms: unix_ms(SystemTime::now()),
            plugin: self.plugin.clone(),
            generation: self.generation,
            stream,
            level,
            message: clip(message, LINE_BYTES_MAX),
            fields,
            call,
        };
        match level {
            Level::Error => {
                tracing::debug!(plugin = %self.plugin, generation = %self.generation, ?stream, "{}", line.message)
            }
            _ => tracing::trace!(plugin = %self.plugin, generation = %self.generation, ?stream, "{}", line.message),
        }
        if let Some(dropped) = self.hub.push(line, Instant::now()) {
            let message = format!("{dropped} lines were dropped: more than {LINES_PER_SECOND} a second");
            tracing::warn!(plugin = %self.plugin, generation = %self.generation, dropped, "log lines dropped");
            self.say(Source::Supervisor, Level::Warn, &message, None, None);
        }
    }
}

/// Reads stdout and stderr until both have ended, and returns the last lines of stderr.
///
/// Cancel safe in the sense that matters: what was said by then is in the hub; the tail is lost.
pub async fn capture(voice: Voice, stdout: pipe::Receiver, stderr: pipe::Receiver) -> StderrTail {
    let mut tail = StderrTail::default();
    let (mut out, mut err) = (Lines::default(), Lines::default());
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    // Made when there is something to read: most plugins never say anything.
    loop {
        let mut out_say = |line: &str| voice.say(Source::Stdout, Level::Info, line, None, None);
        let mut err_say = |line: &str| {
            tail.push(line);
            voice.say(Source::Stderr, Level::Warn, line, None, None);
        };
        tokio::select! {
            more = out.read(&mut stdout, &mut out_say), if stdout.is_some() => if !more { stdout = None },
            more = err.read(&mut stderr, &mut err_say), if stderr.is_some() => if !more { stderr = None },
            else => return tail,
        }
        // A flood is read as fast as this, and no faster: it must not cost the others their latency.
        tokio::task::yield_now().await;
    }
}

/// Cuts one stream into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    /// The line is longer than is kept; what follows until its end is dropped.
    overlong: bool,
}

impl Lines {
    /// Waits for more and hands out whole lines. `false` at the end. Cancel safe.
    async fn read(&mut self, pipe: &mut Option<pipe::Receiver>, say: &mut impl FnMut(&str)) -> bool {
        let Some(pipe) = pipe else { return false };
        if pipe.readable().await.is_err() {
            return self.end(say);
        }
        // On the stack only while there is something to read.
        let mut bytes = [0; 4096];
        match pipe.try_read(&mut bytes) {
            Ok(0) => self.end(say),
            Ok(count) => {
                self.take(&bytes[..count], say);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => true,
            Err(_) => self.end(say),
        }
    }

    fn end(&mut self, say: &mut impl FnMut(&str)) -> bool {
        if !self.partial.is_empty() {
            say(&String::from_utf8_lossy(&std::mem::take(&mut self.partial)));
        }
        false
    }

    fn take(&mut self, mut bytes: &[u8], say: &mut impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end]);
            let line = std::mem::take(&mut self.partial);
            say(&String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)));
            self.overlong = false;
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.partial.len().min(LINE_BYTES_MAX);
        if bytes.len() > room && !self.overlong {
            self.overlong = true;
            self.partial.extend_from_slice(&bytes[..room]);
            self.partial.extend_from_slice(" […]".as_bytes());
        } else if !self.overlong {
            self.partial.extend_from_slice(bytes);
        }
    }
}

/// How long the end of a dead process's output is waited for.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut said = Vec::new();
        for piece in pieces {
            lines.take(piece, &mut |line| said.push(line.to_owned()));
        }
        lines.end(&mut |line| said.push(line.to_owned()));
        said
    }

    #[test]
    fn lines_are_cut_at_their_ends_however_they_arrive() {
        assert_eq!(lines(&[b"one\ntw", b"o\r\n", b"\nlast"]), ["one", "two", "", "last"]);
        assert_eq!(lines(&[b"\xff\xfe\n"]), ["\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn an_overlong_line_is_cut_and_the_next_one_is_whole() {
        let long = [vec![b'x'; 3 * LINE_BYTES_MAX], b"\nnext\n".to_vec()].concat();
        let said = lines(&[&long[..100], &long[100..5_000], &long[5_000..]]);
        assert_eq!(said.len(), 2);
        assert_eq!(said[0].len(), LINE_BYTES_MAX + " […]".len());
        assert_eq!(said[1], "next");
    }

    #[test]
    fn a_flood_is_counted_and_the_count_is_said() {
        let hub = Hub::default();
        let line = || Line {
            time_unix_ms: 0,
            plugin: PluginId::parse("echo").unwrap(),
            generation: Generation(1),
            stream: Source::Stdout,
            level: Level::Info,
            message: "x".to_owned(),
            fields: None,
            call: None,
        };
        let now = Instant::now();
        assert!((0..10_000).all(|_| hub.push(line(), now).is_none()));
        assert_eq!(hub.last(None, 10_000).len(), KEPT_LINES_MAX);
        let later = now + Duration::from_millis(10);
        assert_eq!(
            hub.push(line(), later),
            Some(10_000 - BURST as u64),
            "said with the next line that there is room for"
        );
        assert_eq!(hub.push(line(), now + Duration::from_secs(1)), None);
    }
}
