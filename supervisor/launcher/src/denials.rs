//! What becomes of refused system calls where they are written down: the filter asks about each, and pid 1 gives the errno that the
//! kernel would have given by itself, which it finds by running the plain filter on what was asked.
//!
//! Invariants: nothing is ever let through; of each call and errno there is one line, with how often it came and the arguments of the
//! first time; there are at most `LINES_MAX`, and what has no line of its own is counted in one for all others.
//! Elsewhere: both filters are made by the daemon (`sandbox::seccomp`), which also knows the calls' names.

use crate::{
    channel::{self, Record},
    sys::{self, Question},
};
use palisade_launcher::{Denied, REFUSALS_TOLD_WITHIN};
use rustix::event::Timespec;
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

/// So many different refusals are told apart; a program has fewer.
const LINES_MAX: usize = 64;

/// The kernel's instructions that our filters consist of.
mod code {
    pub(super) const LOAD: u16 = 0x20;
    pub(super) const AND: u16 = 0x54;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const EQUAL: u16 = 0x15;
    pub(super) const AT_LEAST: u16 = 0x35;
    pub(super) const ANY: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
}

const RETURN_ERRNO: u32 = 0x0005_0000;

/// Refusals, counted.
pub(crate) struct Denials<'a> {
    /// None once nobody is left who could ask.
    listener: Option<OwnedFd>,
    /// The filter as it is where refusals are not written down.
    plain: &'a [u64],
    lines: Vec<Line>,
    tell_at: Option<Instant>,
}

struct Line {
    denied: Denied,
    told: bool,
}

impl<'a> Denials<'a> {
    pub(crate) fn new(listener: OwnedFd, plain: &'a [u64]) -> Self {
        Self { listener: Some(listener), plain, lines: Vec::with_capacity(LINES_MAX + 1), tell_at: None }
    }

    /// Where questions come from, as long as there can be any.
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Nobody is left who could ask.
    pub(crate) fn close(&mut self) {
        self.listener = None;
    }

    /// Takes the next question, if there is one, answers it and writes it down.
    pub(crate) fn attend(&mut self) {
        if let Some(listener) = self.listener()
            && let Ok(question) = sys::next_question(listener)
        {
            self.answer(question);
        }
    }

    /// Refuses what was asked.
    pub(crate) fn answer(&mut self, question: Question) {
        let Some(listener) = self.listener() else { return };
        let errno = errno_of(self.plain, &question.data);
        // Whoever was killed meanwhile needs no answer, and was refused all the same.
        let _ = sys::refuse(listener, &question, errno);
        let Question { data, .. } = question;
        let number = data[0];
        let full = LINES_MAX <= self.lines.len();
        let known = self.lines.iter_mut().find(|line| line.denied.number == number && line.denied.errno == errno);
        match known {
            Some(line) => line.count(),
            None if full => match self.lines.iter_mut().find(|line| line.denied.number == Denied::OTHERS) {
                Some(others) => others.count(),
                None => self.lines.push(Line::new(Denied::OTHERS, 0, [0; 6])),
            },
            None => {
                let half = |at: usize| u64::from(data[4 + at]);
                let arguments = std::array::from_fn(|at| half(2 * at) | half(2 * at + 1) << 32);
                self.lines.push(Line::new(number, errno, arguments));
            }
        }
        self.tell_at.get_or_insert_with(|| Instant::now() + REFUSALS_TOLD_WITHIN);
    }

    /// How long to wait until something is to be told.
    pub(crate) fn patience(&self) -> Option<Timespec> {
        let left = self.tell_at?.saturating_duration_since(Instant::now());
        Some(Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() })
    }

    /// Tells what is new, if it has waited long enough, or is the last to be told.
    pub(crate) fn tell(&mut self, channel: BorrowedFd<'_>, last: bool) {
        if !last && self.tell_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.tell_at = None;
        for line in self.lines.iter_mut().filter(|line| !line.told) {
            channel::tell(channel, &Record::Denied(line.denied), None);
            line.told = true;
        }
    }
}

impl Line {
    fn new(number: u32, errno: u16, arguments: [u64; 6]) -> Self {
        Self { denied: Denied { number, errno, count: 1, arguments }, told: false }
    }

    fn count(&mut self) {
        self.denied.count = self.denied.count.saturating_add(1);
        self.told = false;
    }
}

/// The errno with which a filter refuses a call. What it would ask about finds nobody there any more, which is ENOSYS; and so does
/// what it would not refuse, for that is never asked.
fn errno_of(filter: &[u64], data: &[u32; sys::DATA_WORDS]) -> u16 {
    match answer_of(filter, data) {
        Some(answer) if answer & 0xffff_0000 == RETURN_ERRNO => answer as u16,
        _ => libc::ENOSYS as u16,
    }
}

/// What a filter answers. None: it has an instruction that ours do not have.
fn answer_of(filter: &[u64], data: &[u32; sys::DATA_WORDS]) -> Option<u32> {
    let (mut at, mut held) = (0_usize, 0_u32);
    // Every instruction goes forwards, so this ends.
    loop {
        let [code_low, code_high, if_so, if_not, k @ ..] = filter.get(at)?.to_ne_bytes();
        let (code, k) = (u16::from_ne_bytes([code_low, code_high]), u32::from_ne_bytes(k));
        let jump = |so: bool| usize::from(if so { if_so } else { if_not });
        at += 1;
        match code {
            code::LOAD if k % 4 == 0 => held = *data.get(k as usize / 4)?,
            code::AND => held &= k,
            code::JUMP => at = at.checked_add(k as usize)?,
            code::EQUAL => at += jump(held == k),
            code::AT_LEAST => at += jump(k <= held),
            code::ANY => at += jump(held & k != 0),
            code::RETURN => return Some(k),
            _ => return None,
        }
    }
}
