//! The way back to an agent: its calls under way, and the outbox into which whoever answers one puts its frames.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use foldhash::fast::RandomState;
use palisade_protocol::{CancelReason, ErrorBody, ErrorCode, Flags, Kind, StreamCredit};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::plugin::call::{Call, Caller, Counters, Ends, error_body};
use crate::wire::{LARGE_FRAME_BYTES, Lane, Outbox, OwnedFrame};

/// An agent that leaves more than that unread is cut off.
const UNREAD_BYTES_MAX: usize = 64 << 20;

/// While more than that waits, news that can be merged (progress, credit) is merged.
const MERGE_BYTES: usize = 64 << 10;

/// The part of a connection that others reach: where answers go.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) outbox: Outbox,
    pub(super) calls: HashMap<u64, Entry, RandomState>,
    /// Calls with news that was merged and waits for room.
    pub(super) merged: VecDeque<u64>,
    pub(super) waker: Option<Waker>,
    /// Why the agent has to be cut off.
    pub(super) condemned: Option<&'static str>,
    /// What was agreed: whether it reads streams, and results in pieces.
    pub(super) streams: bool,
    pub(super) continues: bool,
}

/// A call of this agent's.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) work: Work,
    /// Whether something of it waits in the bulk lane, so that what must not overtake it goes there as well.
    pub(super) in_bulk: bool,
    pub(super) progress: Option<Box<[u8]>>,
    pub(super) credit: u32,
    /// The parameters go on in `Continue` frames.
    pub(super) params_continue: bool,
    pub(super) params_bytes: u64,
    pub(super) input: Input,
    /// The agent wants nothing more of the output stream.
    pub(super) output_refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Unopened,
    Open,
    Ended,
}

#[derive(Debug)]
pub(super) enum Work {
    /// Not handed over yet.
    New,
    Plugin(Arc<Call>),
    Operation {
        task: AbortHandle,
        credit: Arc<Semaphore>,
    },
}

impl State {
    fn wake(&mut self) {
        if self.outbox.bytes() > UNREAD_BYTES_MAX {
            self.condemned = Some("it does not read its answers");
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Puts in what was merged, now that there is room.
    pub(super) fn emit_merged(&mut self) {
        while self.outbox.small_bytes() < MERGE_BYTES
            && let Some(id) = self.merged.pop_front()
        {
            let Some(entry) = self.calls.get_mut(&id) else { continue };
            if let Some(progress) = entry.progress.take() {
                self.outbox.content(Lane::Small, Kind::Progress, Flags::NONE, id, &progress);
            }
            if entry.credit > 0 {
                let credit = StreamCredit { bytes: std::mem::take(&mut entry.credit) };
                self.outbox.message(Kind::StreamCredit, Flags::NONE, id, &credit, &[]);
            }
        }
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a connection")
    }

    /// Ends a call whose answer takes a form that the agent has not agreed to. Says whether it was one.
    fn refuses(&self, id: u64, kind: Kind, flags: Flags) -> bool {
        let mut state = self.state();
        let (code, message) = match kind {
            Kind::StreamOpen | Kind::StreamData | Kind::StreamEnd | Kind::StreamAbort if !state.streams => (
                ErrorCode::StreamingNotSupported,
                "the action answers with a stream, and your Hello did not name `streams`",
            ),
            Kind::Ok | Kind::Continue if flags.has(Flags::MORE) && !state.continues => (
                ErrorCode::ResourceExhausted,
                "the result comes in several frames, and your Hello did not name `continue`",
            ),
            _ => return false,
        };
        let Some(entry) = state.calls.remove(&id) else { return true };
        let lane = if entry.in_bulk { Lane::Bulk } else { Lane::Small };
        state.outbox.content(lane, Kind::Err, Flags::NONE, id, &error_body(&ErrorBody::new(code, message)));
        state.wake();
        drop(state);
        entry.work.abandon();
        true
    }
}

impl Work {
    /// Nobody wants the answer any more.
    pub(super) fn abandon(self) {
        match self {
            Self::Plugin(call) => call.cancel(CancelReason::Caller),
            Self::Operation { task, .. } => task.abort(),
            Self::New => {}
        }
    }
}

impl Caller for Shared {
    fn frame(&self, id: u64, kind: Kind, flags: Flags, content: &[u8], ends: Ends) {
        if self.refuses(id, kind, flags) {
            return;
        }
        let mut state = self.state();
        let State { outbox, calls, merged, .. } = &mut *state;
        let Some(entry) = calls.get_mut(&id) else { return };
        let crowded = outbox.small_bytes() > MERGE_BYTES;
        match kind {
            Kind::Progress if crowded => {
                if entry.progress.is_none() && entry.credit == 0 {
                    merged.push_back(id);
                }
                entry.progress = Some(content.into());
                return;
            }
            Kind::StreamCredit if crowded => {
                let bytes = rmp_serde::from_slice::<StreamCredit>(content).map_or(0, |credit| credit.bytes);
                if entry.progress.is_none() && entry.credit == 0 {
                    merged.push_back(id);
                }
                entry.credit = entry.credit.saturating_add(bytes);
                return;
            }
            Kind::Progress | Kind::StreamCredit => {
                // A long one goes with the bulk data whatever is said here, and the end must not overtake it.
                entry.in_bulk |= content.len() >= LARGE_FRAME_BYTES;
                outbox.content(Lane::Small, kind, flags, id, content);
            }
            _ => {
                let lane = if entry.in_bulk { Lane::Bulk } else { Lane::Small };
                entry.in_bulk |= content.len() >= LARGE_FRAME_BYTES;
                outbox.content(lane, kind, flags, id, content);
            }
        }
        if ends == Ends::Yes {
            calls.remove(&id);
        }
        state.wake();
    }

    fn large(&self, id: u64, frame: OwnedFrame, ends: Ends) {
        let header = frame.header();
        if Kind::from_number(header.kind).is_some_and(|kind| self.refuses(id, kind, header.flags)) {
            return;
        }
        let mut state = self.state();
        let State { outbox, calls, .. } = &mut *state;
        let Some(entry) = calls.get_mut(&id) else { return };
        entry.in_bulk = true;
        let header = frame.header();
        let kind = Kind::from_number(header.kind).unwrap_or(Kind::Continue);
        outbox.frame(frame.readdressed(kind, header.flags, id));
        if ends == Ends::Yes {
            calls.remove(&id);
        }
        state.wake();
    }

    fn calls_counted(&self, counters: &Arc<Counters>) -> usize {
        let state = self.state();
        let counted = |entry: &&Entry| matches!(&entry.work, Work::Plugin(call) if call.is_counted_by(counters));
        state.calls.values().filter(counted).count()
    }
}
