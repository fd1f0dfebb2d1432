//! What a plugin may ask of the supervisor: who answers, how often it may be asked, and how much of it may be under way.
//!
//! `self` is answered by the generation, which is what it is about. What has to wait for a disk is a future that the generation's task
//! polls beside everything else, and whose work is done elsewhere; if the generation ends meanwhile, nobody is told what came of it.
//!
//! Elsewhere: frames and ids are `link`'s.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use palisade_protocol::{ErrorBody, ErrorCode, HOST_CALLS_MAX};
use zeroize::Zeroizing;

use crate::model::rate::{Bucket, Rate};
use crate::model::status::quoted;
use crate::secrets::{self, SecretsView};
use crate::state::{self, Operation, StateView};
use crate::wire::{Outbox, Ticket};

/// So often a plugin may ask, all of its generations together.
pub const RATE: Rate = Rate { per_second: 1_000, burst: 2_000 };

/// So much the parameters of those under way may have together, with the answers that were not read yet.
pub const BYTES_MAX: usize = 8 << 20;

/// What is answered: a result as MessagePack, or why there is none.
pub type Answer = Result<Payload, ErrorBody>;

/// A result.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload {
    /// That may be seen.
    Plain(Vec<u8>),
    /// Of which nothing is left once it was written. It is not shown.
    Secret(Hidden),
}

/// Memory that is wiped when it is dropped.
#[derive(PartialEq, Eq)]
pub struct Hidden(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// One host call, as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Under which id.
    pub id: u64,
    /// What.
    pub op: String,
    /// The parameters, undecoded.
    pub params: Vec<u8>,
    /// On behalf of which call.
    pub call: Option<u64>,
}

/// What follows from asking.
pub enum Begun {
    /// The answer is there.
    Done(Answer),
    /// It will be what this yields. Dropping it drops the answer; work that has begun goes on.
    Working(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(answer) => f.debug_tuple("Done").field(answer).finish(),
            Self::Working(_) => f.write_str("Working"),
        }
    }
}

/// Who answers the host calls of one plugin.
#[derive(Debug)]
pub struct HostCalls {
    bucket: Mutex<Bucket>,
    state: Arc<StateView>,
    secrets: Arc<SecretsView>,
}

impl HostCalls {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(state: Arc<StateView>, secrets: Arc<SecretsView>, now: Instant) -> Self {
        Self { bucket: Mutex::new(Bucket::full(RATE, now)), state, secrets }
    }

    /// What its generations may have of the plugin's secrets.
    #[must_use]
    pub fn secrets(&self) -> &SecretsView {
        &self.secrets
    }

    /// What its generations use of the plugin's state.
    #[must_use]
    pub fn state(&self) -> &Arc<StateView> {
        &self.state
    }

    /// Whether one more may be asked now.
    ///
    /// # Errors
    /// What is answered instead.
    pub fn admit(&self, now: Instant) -> Result<(), ErrorBody> {
        let taken = self.bucket.lock().expect("nothing panics while it holds the bucket").take(now);
        taken.map_err(|wait| {
            let message = format!("more than {} host calls a second", RATE.per_second);
            ErrorBody::new(ErrorCode::Overloaded, message).with_retry_after_ms(millis(wait).max(1))
        })
    }

    /// Begins what is asked for.
    #[must_use]
    pub fn begin(&self, asked: Asked) -> Begun {
        let op = &asked.op;
        if let Some(operation) = Operation::named(op) {
            let state = self.state.clone();
            return Begun::Working(Box::pin(async move {
                let done = state.call(operation, asked.params).await;
                done.map(Payload::Plain).map_err(|error| state::error_body(&error))
            }));
        }
        if op == secrets::GET {
            let secrets = self.secrets.clone();
            return Begun::Working(Box::pin(async move {
                secrets.call(&asked.params).await.map(|payload| Payload::Secret(Hidden(payload)))
            }));
        }
        Begun::Done(Err(ErrorBody::new(
            ErrorCode::ActionNotFound,
            format!("this supervisor has no host call {}", quoted(op)),
        )))
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// The host calls of one generation that it has no answer to yet: under way, or answered and not read.
#[derive(Debug, Default)]
pub struct Pending {
    /// How long the parameters are, by id.
    under_way: HashMap<u64, usize, RandomState>,
    /// The frames of the answers, and how long they are.
    unread: Vec<(Ticket, usize)>,
    bytes: usize,
}

impl Pending {
    /// Takes one in.
    ///
    /// # Errors
    /// What is answered instead, as there are too many.
    pub fn begin(&mut self, id: u64, params: usize, outbox: &Outbox) -> Result<(), ErrorBody> {
        if self.is_full(params) {
            let bytes = &mut self.bytes;
            self.unread.retain(|(answer, length)| {
                let leaves = outbox.has_begun(*answer);
                *bytes -= if leaves { *length } else { 0 };
                !leaves
            });
        }
        if self.is_full(params) {
            let message = format!(
                "{} host calls are under way with {} bytes, and there may be {HOST_CALLS_MAX} with {BYTES_MAX}",
                self.under_way.len() + self.unread.len(),
                self.bytes
            );
            return Err(ErrorBody::new(ErrorCode::Overloaded, message));
        }
        self.bytes += params;
        self.under_way.insert(id, params);
        Ok(())
    }

    fn is_full(&self, more: usize) -> bool {
        self.under_way.len() + self.unread.len() >= HOST_CALLS_MAX || self.bytes + more > BYTES_MAX
    }

    /// Its answer, of so many bytes, waits to be read.
    pub fn answered(&mut self, id: u64, answer: Ticket, length: usize) {
        // What was refused was not taken in.
        let Some(params) = self.under_way.remove(&id) else { return };
        self.bytes = self.bytes - params + length;
        self.unread.push((answer, length));
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use palisade_protocol::{Empty, Flags, Kind};

    use super::*;
    use crate::model::ids::PluginId;
    use crate::secrets::Secrets;
    use crate::store::database::Database;

    fn calls(now: Instant) -> (tempfile::TempDir, HostCalls) {
        let folder = tempfile::tempdir().unwrap();
        let it = PluginId::parse("it").unwrap();
        let state = state::States::open(folder.path().join("state"), None, |_, _| false).of(&it);
        let database = Arc::new(Database::open(&folder.path().join("registry.sqlite3")));
        let secrets = Arc::new(Secrets::open(database, folder.path(), None));
        let secrets = Arc::new(SecretsView::new(secrets, it, Vec::new(), Vec::new()));
        (folder, HostCalls::new(Arc::new(StateView::live(state, None)), secrets, now))
    }

    fn answer(outbox: &mut Outbox, pending: &mut Pending, id: u64, payload: &[u8]) {
        let ticket = outbox.message(Kind::HostOk, Flags::NONE, id, &Empty {}, payload);
        pending.answered(id, ticket, payload.len());
    }

    fn read_all(outbox: &mut Outbox) {
        assert!(outbox.poll_flush(&mut Context::from_waker(Waker::noop()), &mut Vec::new()).is_ready());
    }

    #[test]
    fn so_many_are_under_way_until_their_answers_have_left() {
        let (mut outbox, mut pending) = (Outbox::default(), Pending::default());
        let ids = (1..).step_by(2);
        for id in ids.clone().take(HOST_CALLS_MAX) {
            pending.begin(id, 10, &outbox).unwrap();
        }
        assert_eq!(pending.begin(1001, 10, &outbox).unwrap_err().code, ErrorCode::Overloaded);
        for id in ids.take(HOST_CALLS_MAX) {
            answer(&mut outbox, &mut pending, id, &[0xc0]);
        }
        let error = pending.begin(1003, 10, &outbox).unwrap_err();
        assert_eq!((error.code, error.retryable), (ErrorCode::Overloaded, true), "answered, and not read");
        read_all(&mut outbox);
        pending.begin(1005, 10, &outbox).unwrap();
        assert_eq!(pending.bytes, 10);
    }

    #[test]
    fn parameters_and_unread_answers_have_so_many_bytes_together() {
        let (mut outbox, mut pending) = (Outbox::default(), Pending::default());
        pending.begin(1, BYTES_MAX - 100, &outbox).unwrap();
        assert!(pending.begin(3, 101, &outbox).is_err());
        pending.begin(5, 100, &outbox).unwrap();
        answer(&mut outbox, &mut pending, 1, &[0; 1000]);
        pending.begin(7, 1 << 20, &outbox).unwrap();
        assert_eq!(pending.bytes, 100 + 1000 + (1 << 20));
        read_all(&mut outbox);
        pending.begin(9, BYTES_MAX - 100 - (1 << 20), &outbox).unwrap();
        assert!(pending.begin(11, 1, &outbox).is_err());
        // One that was refused is answered as well, and changes nothing.
        answer(&mut outbox, &mut pending, 11, &[0xc0]);
        assert_eq!(pending.bytes, BYTES_MAX);
    }

    #[test]
    fn who_asks_too_often_is_told_when_to_come_back() {
        let now = Instant::now();
        let (_folder, calls) = calls(now);
        for _ in 0..RATE.burst {
            calls.admit(now).unwrap();
        }
        let error = calls.admit(now).unwrap_err();
        assert_eq!((error.code, error.retry_after_ms), (ErrorCode::Overloaded, Some(1)));
        calls.admit(now + Duration::from_millis(2)).unwrap();
    }

    #[test]
    fn what_nobody_knows_is_not_found() {
        let asked = Asked { id: 1, op: "make\ncoffee".to_owned(), params: Vec::new(), call: None };
        let (_folder, calls) = calls(Instant::now());
        let Begun::Done(Err(error)) = calls.begin(asked) else { panic!("it is known") };
        assert_eq!(error.code, ErrorCode::ActionNotFound);
        assert!(error.message.contains(r#""make\ncoffee""#), "{}", error.message);
    }
}
