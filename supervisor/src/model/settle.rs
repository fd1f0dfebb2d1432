//! When something that changes is looked at: once it has been quiet for a while and nobody writes into it, and in any case a good while after
//! its first change.
//!
//! Changes of the same thing are one. Where too many things change at once, or it is not known which, everything is one thing that changes.
//! Nobody waits here: time comes in, and when to ask again goes out.
//!
//! Invariants: every change is followed by a look at what has changed, or at everything; nothing is looked at before it was quiet, unless
//! its time is up.
//! Elsewhere: what changes, and who writes, is found out by `packages::watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What is never waited for longer, whoever writes.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// How long it has to be quiet unless the operator says otherwise.
pub const QUIET: Duration = Duration::from_secs(1);

/// The least and the most that an operator can say.
pub const QUIET_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), SETTLED_WITHIN);

/// Whoever still writes is not asked about again sooner.
const WRITTEN_AGAIN: Duration = Duration::from_millis(250);

/// What changes and was not looked at since.
#[derive(Debug)]
pub struct Settling<K> {
    things: BTreeMap<K, Change>,
    everything: Option<Change>,
    things_max: usize,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look<K> {
    /// These; there may be none.
    At(BTreeSet<K>),
    /// Whatever there is.
    AtEverything,
}

/// From the first change of something to the look at it.
#[derive(Debug, Clone, Copy)]
struct Change {
    since: Instant,
    last: Instant,
    /// How long it has to be quiet.
    quiet: Duration,
    /// When it was last seen that somebody writes into it.
    written: Option<Instant>,
}

impl Change {
    fn new(quiet: Duration, now: Instant) -> Self {
        Self { since: now, last: now, quiet, written: None }
    }

    fn again(&mut self, quiet: Duration, now: Instant) {
        // Time that seems to go backwards makes nothing quieter than it was.
        self.last = self.last.max(now);
        self.quiet = self.quiet.max(quiet);
    }

    fn up(&self) -> Instant {
        self.since + SETTLED_WITHIN
    }

    fn due(&self) -> Instant {
        let quiet = self.last + self.quiet;
        let closed = self.written.map_or(quiet, |written| written + self.quiet.max(WRITTEN_AGAIN));
        quiet.max(closed).min(self.up())
    }

    /// Whether it waits on, as somebody writes.
    fn waits(&mut self, is_written: bool, now: Instant) -> bool {
        if is_written && now < self.up() {
            self.written = Some(now);
        }
        now < self.due()
    }
}

impl<K: Ord + Clone> Settling<K> {
    /// Nothing changes; of more than `things_max` at once everything is made.
    #[must_use]
    pub fn new(things_max: usize) -> Self {
        Self { things: BTreeMap::new(), everything: None, things_max }
    }

    /// It has changed, and has to be quiet for so long.
    pub fn changed(&mut self, thing: K, quiet: Duration, now: Instant) {
        if let Some(everything) = &mut self.everything {
            return everything.again(quiet, now);
        }
        if let Some(change) = self.things.get_mut(&thing) {
            return change.again(quiet, now);
        }
        if self.things.len() == self.things_max {
            return self.everything_changed(quiet, now);
        }
        self.things.insert(thing, Change::new(quiet, now));
    }

    /// Anything may have changed.
    pub fn everything_changed(&mut self, quiet: Duration, now: Instant) {
        let mut all = self.everything.unwrap_or_else(|| Change::new(quiet, now));
        all.again(quiet, now);
        for change in std::mem::take(&mut self.things).into_values() {
            all.since = all.since.min(change.since);
            all.again(change.quiet, change.last);
            all.written = all.written.max(change.written);
        }
        self.everything = Some(all);
    }

    /// When something may be due, if anything changes.
    #[must_use]
    pub fn wakes(&self) -> Option<Instant> {
        self.things.values().chain(&self.everything).map(Change::due).min()
    }

    /// What is quiet, or cannot wait any longer: it is to be found out whether anybody writes into it.
    #[must_use]
    pub fn due(&self, now: Instant) -> Look<K> {
        if let Some(everything) = &self.everything {
            return if everything.due() <= now { Look::AtEverything } else { Look::At(BTreeSet::new()) };
        }
        Look::At(self.things.iter().filter(|(_, change)| change.due() <= now).map(|(thing, _)| thing.clone()).collect())
    }

    /// Of what was due when it was asked, takes what is still quiet, or cannot wait any longer, and into which nobody writes; of the rest it is
    /// known that somebody does. Everything is written into where anything is. What has come to be due since was not asked about.
    pub fn take(&mut self, asked: &Look<K>, written: &BTreeSet<K>, now: Instant) -> Look<K> {
        if let Some(everything) = &mut self.everything {
            if *asked != Look::AtEverything || everything.waits(!written.is_empty(), now) {
                return Look::At(BTreeSet::new());
            }
            self.everything = None;
            return Look::AtEverything;
        }
        let Look::At(asked) = asked else { return Look::At(BTreeSet::new()) };
        let mut taken = BTreeSet::new();
        self.things.retain(|thing, change| {
            let stays = !asked.contains(thing) || now < change.due() || change.waits(written.contains(thing), now);
            if !stays {
                taken.insert(thing.clone());
            }
            stays
        });
        Look::At(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Duration = Duration::from_secs(1);

    fn at(things: &[u8]) -> Look<u8> {
        Look::At(things.iter().copied().collect())
    }

    fn nobody() -> BTreeSet<u8> {
        BTreeSet::new()
    }

    fn take(settling: &mut Settling<u8>, written: &BTreeSet<u8>, now: Instant) -> Look<u8> {
        let asked = settling.due(now);
        settling.take(&asked, written, now)
    }

    /// While it is found out who writes others come to be due, of which that is not known.
    #[test]
    fn only_what_was_asked_about_is_taken() {
        let start = Instant::now();
        let mut settling = Settling::new(2);
        settling.changed(1, ONE, start);
        settling.changed(2, ONE * 2, start);
        let asked = settling.due(start + ONE);
        assert_eq!(settling.take(&asked, &nobody(), start + ONE * 3), at(&[1]));
        assert_eq!(settling.due(start + ONE * 3), at(&[2]));
        let asked = settling.due(start + ONE * 3);
        settling.everything_changed(ONE, start + ONE);
        assert_eq!(settling.take(&asked, &nobody(), start + ONE * 4), at(&[]));
        assert_eq!(take(&mut settling, &nobody(), start + ONE * 4), Look::AtEverything);
    }

    #[test]
    fn each_is_looked_at_when_it_is_quiet_itself() {
        let start = Instant::now();
        let mut settling = Settling::new(8);
        assert_eq!(settling.wakes(), None);
        settling.changed(1, ONE, start);
        settling.changed(2, ONE * 3, start);
        settling.changed(1, ONE, start + ONE / 2);
        assert_eq!(settling.wakes(), Some(start + ONE * 3 / 2));
        assert_eq!(take(&mut settling, &nobody(), start + ONE), at(&[]));
        assert_eq!(take(&mut settling, &nobody(), start + ONE * 3 / 2), at(&[1]));
        assert_eq!(settling.wakes(), Some(start + ONE * 3));
        assert_eq!(settling.due(start + ONE * 3), at(&[2]));
        assert_eq!(take(&mut settling, &nobody(), start + ONE * 3), at(&[2]));
        assert_eq!(settling.wakes(), None);
    }

    #[test]
    fn who_writes_is_waited_for_and_not_for_ever() {
        let start = Instant::now();
        let mut settling = Settling::new(8);
        settling.changed(1, ONE, start);
        let written = BTreeSet::from([1]);
        assert_eq!(take(&mut settling, &written, start + ONE), at(&[]));
        assert_eq!(settling.wakes(), Some(start + ONE * 2), "it is asked again");
        assert_eq!(take(&mut settling, &written, start + SETTLED_WITHIN - ONE / 2), at(&[]));
        assert_eq!(settling.wakes(), Some(start + SETTLED_WITHIN));
        assert_eq!(take(&mut settling, &written, start + SETTLED_WITHIN), at(&[1]));
        // Nor is it asked all the time where a short while is enough.
        settling.changed(1, QUIET_BOUNDS.0, start);
        assert_eq!(take(&mut settling, &written, start + ONE), at(&[]));
        assert_eq!(settling.wakes(), Some(start + ONE + WRITTEN_AGAIN));
    }

    #[test]
    fn too_many_are_everything() {
        let start = Instant::now();
        let mut settling = Settling::new(2);
        settling.changed(1, ONE, start);
        settling.changed(2, ONE * 2, start + ONE / 2);
        settling.changed(2, ONE, start + ONE / 2);
        settling.changed(3, ONE, start + ONE / 2);
        assert_eq!(settling.wakes(), Some(start + ONE / 2 + ONE * 2), "the longest holds for all");
        settling.changed(4, ONE, start + ONE);
        assert_eq!(take(&mut settling, &BTreeSet::from([9]), start + ONE * 3), at(&[]), "somebody writes somewhere");
        assert_eq!(take(&mut settling, &nobody(), start + ONE * 6), Look::AtEverything);
        assert_eq!(settling.wakes(), None);
        // What has waited for long makes everything wait no longer.
        settling.changed(1, ONE, start);
        settling.everything_changed(SETTLED_WITHIN, start + ONE * 20);
        assert_eq!(settling.wakes(), Some(start + SETTLED_WITHIN));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Changed(u8, u64),
        Everything(u64),
        /// Asked when it wanted to be, with these being written.
        Asked(BTreeSet<u8>),
        /// Asked at some time.
        Passed(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let quiet = 10..5_000_u64;
        let step = prop_oneof![
            4 => (0..6_u8, quiet.clone()).prop_map(|(thing, quiet)| Step::Changed(thing, quiet)),
            1 => quiet.prop_map(Step::Everything),
            4 => proptest::collection::btree_set(0..6_u8, 0..3).prop_map(Step::Asked),
            3 => (0..4_000_u64).prop_map(Step::Passed),
        ];
        proptest::collection::vec(step, 0..60)
    }

    /// What was said of a thing since it was looked at: its first change, its last, and how long it has to be quiet.
    type Said = BTreeMap<Option<u8>, (Instant, Instant, Duration)>;

    fn say(said: &mut Said, thing: Option<u8>, quiet: Duration, now: Instant) {
        let (_, last, longest) = said.entry(thing).or_insert((now, now, quiet));
        *last = now;
        *longest = quiet.max(*longest);
    }

    proptest! {
        /// Held against what was said: nothing is lost, nothing is too early, nothing is too late, and nothing is kept without bound.
        #[test]
        fn whatever_happens_each_change_is_looked_at_in_time(steps in steps()) {
            let mut now = Instant::now();
            let mut settling = Settling::new(4);
            let mut said = Said::new();
            for step in steps {
                let written = match step {
                    Step::Changed(thing, quiet) => {
                        let quiet = Duration::from_millis(quiet);
                        say(&mut said, Some(thing), quiet, now);
                        settling.changed(thing, quiet, now);
                        continue;
                    }
                    Step::Everything(quiet) => {
                        let quiet = Duration::from_millis(quiet);
                        say(&mut said, None, quiet, now);
                        settling.everything_changed(quiet, now);
                        continue;
                    }
                    Step::Asked(written) => {
                        now = settling.wakes().unwrap_or(now).max(now);
                        written
                    }
                    Step::Passed(milliseconds) => {
                        // Whoever asks does so when it is time.
                        let then = now + Duration::from_millis(milliseconds);
                        now = settling.wakes().unwrap_or(then).max(now).min(then);
                        BTreeSet::new()
                    }
                };
                prop_assert!(settling.things.len() <= 4);
                let ripe = settling.due(now);
                let taken = take(&mut settling, &written, now);
                let taken: Vec<Option<u8>> = match taken {
                    Look::AtEverything => {
                        prop_assert_eq!(ripe, Look::AtEverything);
                        said.keys().copied().collect()
                    }
                    Look::At(things) => {
                        if let Look::At(ripe) = ripe {
                            prop_assert!(things.is_subset(&ripe));
                        }
                        things.into_iter().map(Some).collect()
                    }
                };
                let first = said.values().map(|(since, ..)| *since).min();
                for thing in taken {
                    let (since, last, quiet) = said.remove(&thing).expect("it has changed");
                    let is_up = since + SETTLED_WITHIN <= now || first.is_some_and(|first| first + SETTLED_WITHIN <= now);
                    prop_assert!(is_up || last + quiet <= now, "it was looked at too early");
                    prop_assert!(is_up || !thing.is_some_and(|thing| written.contains(&thing)), "somebody writes");
                }
                for (since, ..) in said.values() {
                    prop_assert!(now < *since + SETTLED_WITHIN, "it was looked at too late");
                }
                prop_assert_eq!(settling.wakes().is_none(), said.is_empty(), "what was said is what is waited for");
                prop_assert!(settling.wakes().is_none_or(|wakes| now < wakes));
            }
        }
    }
}
