//! What is remembered of every connection: that it was let through or why not, and how it ended.
//!
//! Of each connection that said anything there is exactly one decision, `Allowed` or `Refused`; of each that was allowed exactly one `Ended`, also when the
//! whole proxy is dropped. Written behind: whoever records never waits; what finds no place is counted, and the count
//! travels with the next record that finds one.
//!
//! Nothing of what was sent is in a record: no path, no header, no byte of a body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::refusal::Refusal;
use crate::model::permission::host::Host;

/// Where records go. Must return at once.
pub trait Audit: Send + Sync + 'static {
    /// Takes note of it, or of having had no place for it.
    fn record(&self, record: Record);
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub at: SystemTime,
    /// Which connection of this plugin's process, from 1.
    pub connection: u64,
    /// What was asked for, if that much was understood.
    pub target: Option<Target>,
    /// What happened.
    pub event: Event,
}

/// What a connection was to lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: Host,
    pub port: u16,
    pub asked_by: AskedBy,
}

/// How it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedBy {
    Connect,
    Http,
}

/// What passes through a connection that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// TLS, its server name checked.
    Tls,
    /// Anything.
    Tcp,
    /// One HTTP request and its response.
    Http,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Everything was checked; bytes pass.
    Allowed { address: SocketAddr, passage: Passage },
    /// It leads nowhere.
    Refused(Refusal),
    /// One that was allowed is over.
    Ended { bytes_up: u64, bytes_down: u64, duration: Duration, end: End },
}

/// How a connection ended that had been allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Both sides had said everything.
    #[error("complete")]
    Complete,
    /// The client broke it off.
    #[error("the plugin broke it off: {detail}")]
    Client { detail: String },
    /// The server broke it off.
    #[error("the server broke it off: {detail}")]
    Server { detail: String },
    /// What the client sent as a body is none.
    #[error("what the plugin sent as a body is none: {detail}")]
    RequestBody { detail: String },
    /// What the server sent is no response.
    #[error("what the server sent is no response: {detail}")]
    Response { detail: String },
    /// No byte came back in time.
    #[error("no byte came back in time")]
    FirstByte,
    /// Nothing passed for too long.
    #[error("nothing passed for too long")]
    Idle,
    /// It lasted too long.
    #[error("it lasted too long")]
    Time,
    /// It carried too much.
    #[error("it carried too much")]
    Bytes,
    /// The proxy was taken down.
    #[error("the process or the daemon ended")]
    Stopped,
}

/// A bounded queue of records.
///
/// # Panics
/// If `records_max` is 0, which no queue can be.
#[must_use]
pub fn queue(records_max: usize) -> (Writer, Reader) {
    let (sender, receiver) = mpsc::channel(records_max);
    let lost = Arc::default();
    (Writer { sender, lost: Arc::clone(&lost) }, Reader { receiver, lost })
}

/// The end that never waits. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer {
    sender: mpsc::Sender<Entry>,
    lost: Arc<AtomicU64>,
}

impl Audit for Writer {
    fn record(&self, record: Record) {
        let lost_before = self.lost.swap(0, Ordering::Relaxed);
        if self.sender.try_send(Entry { lost_before, record }).is_err() {
            self.lost.fetch_add(lost_before.saturating_add(1), Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// How many found no place since the last that did.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A record in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How many before it found no place.
    pub lost_before: u64,
    pub record: Record,
}

/// The end that writes them down.
#[derive(Debug)]
pub struct Reader {
    receiver: mpsc::Receiver<Entry>,
    lost: Arc<AtomicU64>,
}

impl Reader {
    /// The next one; None once every writer is gone. Dropping this loses nothing.
    pub async fn next(&mut self) -> Option<Entry> {
        self.receiver.recv().await
    }

    /// How many found no place since the last that did: what is still to be told once there is no next one.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_no_place_is_counted() {
        let (writer, mut reader) = queue(2);
        let record = |connection| Record {
            at: SystemTime::UNIX_EPOCH,
            connection,
            target: None,
            event: Event::Refused(Refusal::Connections { connections_max: 1 }),
        };
        for connection in 1..=5 {
            writer.record(record(connection));
        }
        assert_eq!((writer.lost(), reader.lost()), (3, 3));
        assert_eq!(reader.next().await, Some(Entry { lost_before: 0, record: record(1) }));
        writer.record(record(6));
        drop(writer);
        assert_eq!(reader.next().await, Some(Entry { lost_before: 0, record: record(2) }));
        assert_eq!(reader.next().await, Some(Entry { lost_before: 3, record: record(6) }));
        assert_eq!(reader.next().await, None);
    }
}
