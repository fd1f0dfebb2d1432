//! What plugins say: stdout, stderr and `Log` frames, as bounded, escaped, rate-limited lines.
//!
//! One `Hub` holds the last lines of every plugin and passes them on to followers. A line is cut at a limit, control
//! characters are escaped, and what is not UTF-8 is replaced: a log can be shown on a terminal. Beyond so many lines a plugin's lines are
//! counted and dropped, and the count is said. Beyond so many bytes its pipes are not read, and it waits when they are full.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use palisade_protocol::Level;
use serde::Serialize;
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant as Clock;

use super::pressure::{Met, SAID_AGAIN_AFTER};
use crate::events::unix_ms;
use crate::model::budget::Budget;
use crate::model::ids::{Generation, PluginId};
use crate::model::limits::Kind;
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
    /// The call it belongs to, by the id that it has towards the plugin.
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

/// How long the end of a dead process's output is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// And how much of it is read: a plugin can have made each of its pipes that large.
const LAST_BYTES_MAX: usize = 2 << 20;

/// Reads stdout and stderr until both have ended, and returns the last lines of stderr.
///
/// So many bytes a second are read. Beyond them nothing is, until there is budget again: the plugin's pipe is full by then, and
/// whoever of it writes there waits. `met` hears of it. Once `gone` says that the process is, what its pipes still hold is
/// read at once, within bounds.
///
/// Cancel safe in the sense that matters: what was said by then is in the hub; the tail is lost.
pub async fn capture(
    voice: Voice,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    bytes_per_second: impl Fn() -> u64,
    met: impl Fn(Met),
    mut gone: oneshot::Receiver<()>,
) -> StderrTail {
    let mut ear = Ear {
        voice,
        out: Stream { pipe: Some(stdout), lines: Lines::default() },
        err: Stream { pipe: Some(stderr), lines: Lines::default() },
        tail: StderrTail::default(),
    };
    let mut budget = Budget::full(bytes_per_second(), Clock::now().into_std());
    let mut said = None;
    loop {
        let ready = tokio::select! {
            ready = ear.ready() => ready,
            _ = &mut gone => break,
        };
        let Some(source) = ready else { return ear.tail };
        let now = Clock::now().into_std();
        if let Some(wait) = budget.wait(bytes_per_second(), now) {
            if said.is_none_or(|said| SAID_AGAIN_AFTER <= now - said) {
                said = Some(now);
                let met_now = Met::new(
                    Kind::Logs,
                    format_args!(
                        "it writes more than its limit of {} KiB a second; the rest waits, and so does what writes it",
                        bytes_per_second() >> 10
                    ),
                );
                ear.voice.say(Source::Supervisor, Level::Warn, &met_now.sentence, None, None);
                met(met_now);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => continue,
                _ = &mut gone => break,
            }
        }
        let read = ear.read(source);
        budget.spend(read.bytes, read.lines);
        // A flood must not cost the others their latency.
        tokio::task::yield_now().await;
    }
    let all = async {
        let mut left = LAST_BYTES_MAX;
        while left > 0
            && let Some(source) = ear.ready().await
        {
            left = left.saturating_sub(ear.read(source).bytes);
            tokio::task::yield_now().await;
        }
    };
    // At the end of it somebody else has the other end.
    let _ = tokio::time::timeout(LAST_WORDS, all).await;
    ear.tail
}

/// Both streams of a process, and who hears them.
struct Ear {
    voice: Voice,
    out: Stream,
    err: Stream,
    tail: StderrTail,
}

impl Ear {
    /// Which stream there is something to read from, also its end; `None` if both have ended. Cancel safe.
    async fn ready(&self) -> Option<Source> {
        tokio::select! {
            () = self.out.ready(), if self.out.pipe.is_some() => Some(Source::Stdout),
            () = self.err.ready(), if self.err.pipe.is_some() => Some(Source::Stderr),
            else => None,
        }
    }

    /// Reads what there is, once.
    fn read(&mut self, source: Source) -> Read {
        let Self { voice, out, err, tail } = self;
        match source {
            Source::Stderr => err.read(&mut |line| {
                tail.push(line);
                voice.say(Source::Stderr, Level::Warn, line, None, None);
            }),
            _ => out.read(&mut |line| voice.say(Source::Stdout, Level::Info, line, None, None)),
        }
    }
}

/// How much was read at once.
struct Read {
    bytes: usize,
    lines: usize,
}

/// One stream, until it ends.
struct Stream {
    pipe: Option<pipe::Receiver>,
    lines: Lines,
}

impl Stream {
    async fn ready(&self) {
        match &self.pipe {
            // An error shows when it is read.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Reads what there is, and hands out whole lines.
    fn read(&mut self, say: &mut impl FnMut(&str)) -> Read {
        let mut lines = 0;
        let mut say = |line: &str| {
            lines += 1;
            say(line);
        };
        // On the stack only while there is something to read.
        let mut bytes = [0; 4096];
        let read = self.pipe.as_ref().map_or(Ok(0), |pipe| pipe.try_read(&mut bytes));
        let bytes = match read {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Ok(0) | Err(_) => {
                self.lines.end(&mut say);
                self.pipe = None;
                0
            }
            Ok(count) => {
                self.lines.take(&bytes[..count], &mut say);
                count
            }
        };
        Read { bytes, lines }
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
    fn end(&mut self, say: &mut impl FnMut(&str)) {
        if !self.partial.is_empty() {
            say(&String::from_utf8_lossy(&std::mem::take(&mut self.partial)));
        }
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

    const RATE: u64 = 64 << 10;

    struct Heard {
        task: tokio::task::JoinHandle<StderrTail>,
        hub: Hub,
        met: Arc<Mutex<Vec<Met>>>,
        stdout: pipe::Sender,
        stderr: pipe::Sender,
        gone: oneshot::Sender<()>,
    }

    fn heard() -> Heard {
        let (hub, met) = (Hub::default(), Arc::<Mutex<Vec<Met>>>::default());
        let voice = Voice { hub: hub.clone(), plugin: PluginId::parse("echo").unwrap(), generation: Generation(1) };
        let (stdout, from_stdout) = pipe::pipe().unwrap();
        let (stderr, from_stderr) = pipe::pipe().unwrap();
        let (gone, when_gone) = oneshot::channel();
        let hears = met.clone();
        let hear = move |met| hears.lock().unwrap().push(met);
        let task = tokio::spawn(capture(voice, from_stdout, from_stderr, || RATE, hear, when_gone));
        Heard { task, hub, met, stdout, stderr, gone }
    }

    fn block() -> Vec<u8> {
        [&[b'f'; 1023][..], b"\n"].concat().repeat(4)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_so_fast_and_no_faster_and_that_is_said() {
        use tokio::io::AsyncWriteExt;
        let mut heard = heard();
        let began = Clock::now();
        for _ in 0..512 {
            heard.stderr.write_all(&block()).await.unwrap();
        }
        heard.stderr.write_all(b"the end\n").await.unwrap();
        drop((heard.stdout, heard.stderr));
        let tail = heard.task.await.unwrap();
        // 2 MiB, of which a few seconds' worth is read at once.
        let took = began.elapsed().as_secs();
        assert!((27..=30).contains(&took), "{took} s");
        assert_eq!(tail.lines().last().unwrap(), "the end");
        let met = heard.met.lock().unwrap();
        assert_eq!(met.len(), 3, "once in ten seconds: {met:?}");
        assert_eq!(met[0].limit, Kind::Logs);
        assert!(met[0].sentence.starts_with("logs: it writes more than its limit of 64 KiB a second"), "{met:?}");
        let said = |line: &Arc<Line>| line.stream == Source::Supervisor && line.message == met[0].sentence;
        assert!(heard.hub.last(None, 1000).iter().any(said));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_within_the_budget_is_read_at_once() {
        use tokio::io::AsyncWriteExt;
        let mut heard = heard();
        let began = Clock::now();
        for second in 1..=60 {
            for _ in 0..15 {
                heard.stdout.write_all(&block()).await.unwrap();
            }
            tokio::time::sleep_until(began + Duration::from_secs(second)).await;
        }
        heard.stdout.write_all(b"x").await.unwrap();
        drop((heard.stdout, heard.stderr));
        heard.task.await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(60));
        assert!(heard.met.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_dead_process_left_is_read_at_once_whatever_is_left_of_the_budget() {
        use tokio::io::AsyncWriteExt;
        let mut heard = heard();
        // Until no more is read, and the pipe is full.
        let mut written = 0;
        while tokio::time::timeout(Duration::from_millis(1), heard.stderr.write_all(&block())).await.is_ok() {
            written += 1;
            assert!(written < 10_000, "it is read without end");
        }
        let room = tokio::time::timeout(Duration::from_secs(60), heard.stderr.write_all(b"\na last word\n"));
        assert!(room.await.is_ok(), "it is read again later");
        let dead = Clock::now();
        drop((heard.stdout, heard.stderr, heard.gone));
        let tail = heard.task.await.unwrap();
        assert_eq!(dead.elapsed(), Duration::ZERO);
        assert_eq!(tail.lines().last().unwrap(), "a last word");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_who_keeps_the_pipe_is_not_waited_for_and_the_tail_is_not_lost() {
        use tokio::io::AsyncWriteExt;
        let mut heard = heard();
        heard.stderr.write_all(b"a last word\n").await.unwrap();
        let dead = Clock::now();
        drop(heard.gone);
        let tail = heard.task.await.unwrap();
        assert_eq!(dead.elapsed().as_secs(), LAST_WORDS.as_secs());
        assert_eq!(tail.lines(), ["a last word"]);
        drop(heard.stderr);
    }
}
