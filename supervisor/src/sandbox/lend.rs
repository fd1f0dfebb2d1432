//! User ids of the host that are lent to running generations: each is one plugin process tree's alone for as long as it
//! runs, and nothing on the disk ever belongs to one.
//!
//! Invariants: an id is lent once at a time; it comes back when whoever holds it is dropped, which is after its tree is gone.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

/// Ids that may be lent.
#[derive(Clone, Debug)]
pub struct Lender {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    range: RangeInclusive<u32>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lent: BTreeSet<u32>,
    /// Where the search for a free one begins: not at one that was given back a moment ago.
    next: u32,
}

/// An id that somebody has. Dropping it gives it back.
#[derive(Debug)]
pub struct Lent {
    uid: u32,
    inner: Arc<Inner>,
}

impl Lender {
    /// Lends from this range, the host's root never being in it.
    #[must_use]
    pub fn new(range: RangeInclusive<u32>) -> Self {
        let range = (*range.start()).max(1)..=*range.end();
        let next = *range.start();
        Self { inner: Arc::new(Inner { range, state: Mutex::new(State { lent: BTreeSet::new(), next }) }) }
    }

    /// An id that nobody has. `None`: all are lent.
    #[must_use]
    pub fn lend(&self) -> Option<Lent> {
        let range = &self.inner.range;
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let from = state.next;
        let uid = (from..=*range.end()).chain(*range.start()..from).find(|uid| !state.lent.contains(uid))?;
        state.lent.insert(uid);
        state.next = if uid == *range.end() { *range.start() } else { uid + 1 };
        Some(Lent { uid, inner: Arc::clone(&self.inner) })
    }
}

impl Lent {
    /// The number; that of its group is the same.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).lent.remove(&self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_lent_once_at_a_time() {
        let lender = Lender::new(7..=9);
        let held: Vec<_> = (0..3).map(|_| lender.lend().unwrap()).collect();
        assert_eq!(held.iter().map(Lent::uid).collect::<Vec<_>>(), [7, 8, 9]);
        assert!(lender.lend().is_none());
        drop(held.into_iter().nth(1));
        assert_eq!(lender.lend().unwrap().uid(), 7);
    }

    #[test]
    fn one_that_was_given_back_is_not_the_next() {
        let lender = Lender::new(7..=9);
        let uids: Vec<_> = (0..4).map(|_| lender.lend().unwrap().uid()).collect();
        assert_eq!(uids, [7, 8, 9, 7]);
    }

    #[test]
    fn the_hosts_root_is_never_lent() {
        assert_eq!(Lender::new(0..=2).lend().unwrap().uid(), 1);
    }
}
