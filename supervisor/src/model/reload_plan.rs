//! What a reload consists of, and what of it is taken back where it fails.
//!
//! A plan is a list of steps. Whoever performs it stops at the first that fails, and then takes back what [`Plan::undo`] says, the last
//! first. Up to the switch nobody notices a failure; after it the one before is made to serve again.
//!
//! Invariant: what was begun of any plan, and then taken back, leaves what there was at the beginning. The tests hold every plan to it.
//! What is only shown beforehand comes from what is performed: both begin with [`Known`].
//! Elsewhere: performed by `packages::reload`; what is known is found out there as well.

use std::collections::BTreeMap;

use serde::Serialize;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The package is copied into the store.
    Stage,
    /// The copy is checked: it is what was looked at, and holds what is required of it.
    Verify,
    /// A process of it starts beside the one that serves, brings a copy of the state into its own form, has to become active, and ends.
    Rehearse,
    /// Calls that come wait within their deadlines, until one of the two has them.
    Hold,
    /// A copy of the state is kept, with the package that is in use still; where it is returned to one before, that one's state is used.
    Keep,
    /// A process of it starts, beside the one that serves if that was not held.
    Start,
    /// It says what it is.
    Hello,
    /// It takes its configuration, brings the state into its own form where that is another, and is ready.
    Initialize,
    /// It finds itself well, is active, and lacks nothing that others depend on.
    SelfTest,
    /// Calls go to the new one from here on, those that wait for the old one too.
    Switch,
    /// The old one ends the calls that it has, within its drain timeout.
    Drain,
    /// The old one stops.
    Stop,
    /// A failure of the new one leads back to the old one for some time.
    Probation,
}

/// What is done to take a step back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// The process that was started beside ends.
    Drop,
    /// A process of the package that is in use starts again, and has the calls that wait.
    Release,
    /// The state is what it was.
    PutBack,
    /// Calls go to the package before again, a process of which is started where none is left, and the new one ends.
    SwitchBack,
}

/// Why a plugin is only exchanged, and not tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Untried {
    /// The old one takes no calls: it is disabled, stopped or has failed, or waits for consent.
    OldIsUnused,
    /// The old one is paused: it stays, until it is resumed.
    OldIsPaused,
    /// The new one takes none before somebody has said something about it, there is what it depends on, and its configuration fits: until then
    /// the old one serves.
    NewIsUnused,
    /// There is no copy of the old one to return to.
    NothingToReturnTo,
}

/// How a package is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// While the old one serves.
    Beside,
    /// One of them says that it must not run twice: the old one stops first.
    Exclusive,
    /// The new one keeps its state in another form, so that no two may use it: a copy first, then as the other.
    Migrating,
    /// The state is to be what it was when the package served: the old one stops first.
    Restoring,
}

impl Manner {
    /// How a package is tried: where another state `is_restored` with it, by the forms of the state, and where one of the two `is_exclusive`.
    #[must_use]
    pub fn new(is_restored: bool, fit: Fit, is_exclusive: bool) -> Self {
        match (is_restored, fit, is_exclusive) {
            (true, _, _) => Self::Restoring,
            (false, Fit::Older { .. }, _) => Self::Migrating,
            (false, Fit::Same | Fit::Newer { .. }, true) => Self::Exclusive,
            (false, Fit::Same | Fit::Newer { .. }, false) => Self::Beside,
        }
    }
}

/// How the form that a state has goes with the one that a package knows. What has none counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is that, or there is none.
    Same,
    /// The package has to bring it into its own.
    Older {
        /// What it has,
        stored: u32,
        /// and is to have.
        known: u32,
    },
    /// No process of the package starts with it.
    Newer {
        /// What it has,
        stored: u32,
        /// and the package knows.
        known: u32,
    },
}

impl Fit {
    /// That of a state whose form was said to be `stored`, with a package that says `known`.
    #[must_use]
    pub fn new(stored: Option<u32>, known: Option<u32>) -> Self {
        let known = known.unwrap_or(0);
        match stored {
            Some(stored) if stored < known => Self::Older { stored, known },
            Some(stored) if known < stored => Self::Newer { stored, known },
            Some(_) | None => Self::Same,
        }
    }
}

/// What the package does that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It takes calls.
    Serves,
    /// It takes none: it is disabled, stopped or has failed, or waits for consent.
    IsUnused,
    /// It takes calls, and stands still.
    IsPaused,
}

/// What is known of a plugin and of the package that it is to have, before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// What the one does that is there,
    pub old: Old,
    /// and whether there is a copy of it, to return to.
    pub has_copy: bool,
    /// Whether the new one would take calls: nothing has to be said about it first, and it has what it needs.
    pub is_usable: bool,
    /// How it is tried.
    pub manner: Manner,
}

/// The steps of one reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In this order.
    pub steps: &'static [Step],
    /// Why it is not tried first, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untried: Option<Untried>,
}

impl Plan {
    /// What follows from what is known.
    #[must_use]
    pub fn of(Known { old, has_copy, is_usable, manner }: Known) -> Self {
        let untried = match old {
            Old::IsPaused => Some(Untried::OldIsPaused),
            Old::IsUnused => Some(Untried::OldIsUnused),
            Old::Serves if !has_copy => Some(Untried::NothingToReturnTo),
            Old::Serves if !is_usable => Some(Untried::NewIsUnused),
            Old::Serves => None,
        };
        Self::new(untried, manner)
    }

    /// The plan for a plugin that is tried first, or of which it is known why it is not.
    #[must_use]
    pub fn new(untried: Option<Untried>, manner: Manner) -> Self {
        use Step::{
            Drain, Hello, Hold, Initialize, Keep, Probation, Rehearse, SelfTest, Stage, Start, Stop, Switch, Verify,
        };
        let steps: &[Step] = match (untried, manner) {
            (None, Manner::Beside) => {
                &[Stage, Verify, Start, Hello, Initialize, SelfTest, Switch, Drain, Stop, Probation]
            }
            (None, Manner::Exclusive) => {
                &[Stage, Verify, Hold, Drain, Stop, Start, Hello, Initialize, SelfTest, Switch, Probation]
            }
            (None, Manner::Migrating) => &[
                Stage, Verify, Rehearse, Hold, Drain, Stop, Keep, Start, Hello, Initialize, SelfTest, Switch, Probation,
            ],
            (None, Manner::Restoring) => {
                &[Stage, Verify, Hold, Drain, Stop, Keep, Start, Hello, Initialize, SelfTest, Switch, Probation]
            }
            (Some(Untried::NewIsUnused | Untried::OldIsPaused), _) => &[],
            // Nobody uses the state when it is exchanged.
            (Some(Untried::OldIsUnused | Untried::NothingToReturnTo), Manner::Restoring) => {
                &[Hold, Drain, Stop, Keep, Switch]
            }
            (Some(Untried::OldIsUnused | Untried::NothingToReturnTo), _) => &[Switch, Drain, Stop],
        };
        Self { steps, untried }
    }

    /// A plan by which nothing is done.
    #[must_use]
    pub fn nothing() -> Self {
        Self { steps: &[], untried: None }
    }

    /// By which of its steps something is taken back where a later one fails, and what that is.
    #[must_use]
    pub fn undoes(&self) -> BTreeMap<Step, Undo> {
        self.steps.iter().filter_map(|step| Some((*step, step.undo()?))).collect()
    }

    /// What takes the first so many steps back, the last of which may have been done in part, unless that is the switch. In this order.
    #[must_use]
    pub fn undo(&self, begun: usize) -> Vec<Undo> {
        let mut undone: Vec<Undo> = self.steps.iter().take(begun).filter_map(|step| step.undo()).collect();
        undone.reverse();
        // Whoever returns has no candidate any more: it was what served; and nothing is held.
        if undone.contains(&Undo::SwitchBack) {
            undone.retain(|undo| matches!(undo, Undo::SwitchBack | Undo::PutBack));
        }
        undone
    }
}

/// So many calls have to have ended before it is judged by them.
const JUDGED_FROM: u64 = 20;

/// How calls ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// Well.
    pub ok: u64,
    /// In a way that speaks against the plugin: an error, a crash or a limit of the plugin's own.
    pub failed: u64,
}

impl Ends {
    /// Whether a package is so much worse than the one before that it is taken back: of at least twenty calls more than half failed,
    /// and more than twice as large a part as before.
    #[must_use]
    pub fn is_worse_than(self, before: Self) -> bool {
        let [ok, failed, ok_before, failed_before] = [self.ok, self.failed, before.ok, before.failed].map(u128::from);
        let (all, all_before) = (ok + failed, ok_before + failed_before);
        u128::from(JUDGED_FROM) <= all
            && all < 2 * failed
            // Neither product is larger than the type: a count is far from its limit.
            && failed_before.saturating_mul(2).saturating_mul(all) < failed.saturating_mul(all_before.max(1))
    }
}

impl Step {
    /// What takes it back; nothing where it leaves nothing. A copy goes with its last holder.
    fn undo(self) -> Option<Undo> {
        match self {
            Self::Start => Some(Undo::Drop),
            Self::Hold => Some(Undo::Release),
            Self::Keep => Some(Undo::PutBack),
            Self::Switch => Some(Undo::SwitchBack),
            Self::Stage
            | Self::Verify
            | Self::Rehearse
            | Self::Hello
            | Self::Initialize
            | Self::SelfTest
            | Self::Drain
            | Self::Stop
            | Self::Probation => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reload changes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct World {
        old_serves: bool,
        /// Calls that come wait.
        is_held: bool,
        old_runs: bool,
        new_runs: bool,
        /// Whose form the state has.
        state_is_new: bool,
    }

    const BEGINNING: World =
        World { old_serves: true, is_held: false, old_runs: true, new_runs: false, state_is_new: false };

    impl World {
        fn step(&mut self, step: Step, manner: Manner) {
            let changes_state = matches!(manner, Manner::Migrating | Manner::Restoring);
            match step {
                Step::Stage | Step::Verify | Step::Rehearse | Step::Probation => {}
                Step::Keep => assert!(!self.old_runs, "nobody uses the state"),
                Step::Hello | Step::Initialize | Step::SelfTest => assert!(self.new_runs, "there is a process"),
                Step::Hold => self.is_held = true,
                Step::Start => {
                    assert!(manner == Manner::Beside || !self.old_runs, "no two run that must not");
                    self.new_runs = true;
                    self.state_is_new = changes_state;
                }
                Step::Switch => {
                    self.new_runs = true;
                    (self.old_serves, self.is_held) = (false, false);
                }
                Step::Drain => assert!(!self.old_serves || self.is_held, "nothing new comes to what is drained"),
                Step::Stop => {
                    assert!(!self.old_serves || self.is_held, "what serves is not stopped");
                    self.old_runs = false;
                }
            }
        }

        fn undo(&mut self, undo: Undo) {
            match undo {
                Undo::Drop => {
                    assert!(self.old_serves, "what serves is not dropped");
                    self.new_runs = false;
                }
                Undo::Release => {
                    assert!(!self.new_runs && !self.state_is_new, "it finds what it left");
                    (self.old_runs, self.is_held) = (true, false);
                }
                Undo::PutBack => {
                    assert!(!self.new_runs, "nobody uses it");
                    self.state_is_new = false;
                }
                Undo::SwitchBack => *self = World { state_is_new: self.state_is_new, ..BEGINNING },
            }
        }
    }

    fn untried() -> impl Strategy<Value = Option<Untried>> {
        prop_oneof![
            Just(None),
            Just(Some(Untried::OldIsUnused)),
            Just(Some(Untried::NewIsUnused)),
            Just(Some(Untried::OldIsPaused)),
            Just(Some(Untried::NothingToReturnTo)),
        ]
    }

    fn manner() -> impl Strategy<Value = Manner> {
        prop_oneof![Just(Manner::Beside), Just(Manner::Exclusive), Just(Manner::Migrating), Just(Manner::Restoring),]
    }

    proptest! {
        #[test]
        fn what_was_begun_and_taken_back_is_as_if_it_had_never_been(
            untried in untried(), manner in manner(), begun in 0..14_usize,
        ) {
            let plan = Plan::new(untried, manner);
            let mut world = BEGINNING;
            plan.steps.iter().take(begun).for_each(|step| world.step(*step, manner));
            plan.undo(begun).into_iter().for_each(|undo| world.undo(undo));
            prop_assert_eq!(world, BEGINNING);
        }

        #[test]
        fn a_plan_that_is_done_leaves_the_new_one_alone(untried in untried(), manner in manner()) {
            let mut world = BEGINNING;
            Plan::new(untried, manner).steps.iter().for_each(|step| world.step(*step, manner));
            world.state_is_new = false;
            let waits = matches!(untried, Some(Untried::NewIsUnused | Untried::OldIsPaused));
            let done = World { old_serves: false, is_held: false, old_runs: false, new_runs: true, state_is_new: false };
            prop_assert_eq!(world, if waits { BEGINNING } else { done });
        }
    }

    #[test]
    fn a_package_is_judged_by_its_calls_when_there_are_enough_and_those_before_were_better() {
        let ends = |ok, failed| Ends { ok, failed };
        let good = ends(100, 1);
        assert!(
            ends(0, 20).is_worse_than(good) && ends(9, 11).is_worse_than(good) && ends(0, 20).is_worse_than(ends(0, 0))
        );
        assert!(!ends(0, 19).is_worse_than(good), "too few");
        assert!(!ends(10, 10).is_worse_than(good), "not more than half");
        assert!(!ends(0, 20).is_worse_than(ends(1, 1)), "half of them failed before");
        assert!(
            !ends(0, u64::MAX).is_worse_than(ends(0, u64::MAX)) && ends(0, u64::MAX).is_worse_than(ends(u64::MAX, 0))
        );
    }

    /// Whatever is tried is tried before calls come to it.
    #[test]
    fn nothing_is_switched_to_before_it_was_tried() {
        for manner in [Manner::Beside, Manner::Exclusive, Manner::Migrating, Manner::Restoring] {
            let steps = Plan::new(None, manner).steps;
            let place = |wanted| steps.iter().position(|step| *step == wanted).unwrap();
            let order =
                [Step::Stage, Step::Verify, Step::Start, Step::Hello, Step::Initialize, Step::SelfTest, Step::Switch];
            assert!(order.map(place).is_sorted(), "{steps:?}");
            assert!(place(Step::Drain) < place(Step::Stop) && steps.last() == Some(&Step::Probation), "{steps:?}");
        }
    }

    #[test]
    fn what_is_done_follows_from_what_is_known() {
        let known =
            |old, has_copy, is_usable| Plan::of(Known { old, has_copy, is_usable, manner: Manner::Beside }).untried;
        for (old, has_copy, is_usable, untried) in [
            (Old::Serves, true, true, None),
            (Old::Serves, true, false, Some(Untried::NewIsUnused)),
            (Old::Serves, false, true, Some(Untried::NothingToReturnTo)),
            (Old::Serves, false, false, Some(Untried::NothingToReturnTo)),
            (Old::IsUnused, true, true, Some(Untried::OldIsUnused)),
            (Old::IsUnused, false, false, Some(Untried::OldIsUnused)),
            (Old::IsPaused, true, true, Some(Untried::OldIsPaused)),
        ] {
            assert_eq!(known(old, has_copy, is_usable), untried, "{old:?} {has_copy} {is_usable}");
        }
        for (stored, says, is_exclusive, manner) in [
            (None, None, false, Manner::Beside),
            (None, Some(2), false, Manner::Beside),
            (Some(2), Some(2), true, Manner::Exclusive),
            (Some(1), Some(2), true, Manner::Migrating),
            (Some(0), Some(1), false, Manner::Migrating),
            // It is tried, and fails.
            (Some(3), Some(2), false, Manner::Beside),
            (Some(1), None, true, Manner::Exclusive),
        ] {
            let fit = Fit::new(stored, says);
            assert_eq!(Manner::new(false, fit, is_exclusive), manner, "{stored:?} {says:?}");
            assert_eq!(Manner::new(true, fit, is_exclusive), Manner::Restoring);
        }
        assert_eq!(Fit::new(Some(3), Some(2)), Fit::Newer { stored: 3, known: 2 });
        assert_eq!(Fit::new(Some(1), None), Fit::Newer { stored: 1, known: 0 });
        assert_eq!(Fit::new(Some(1), Some(2)), Fit::Older { stored: 1, known: 2 });
    }

    #[test]
    fn what_is_taken_back_is_said_beforehand() {
        for manner in [Manner::Beside, Manner::Exclusive, Manner::Migrating, Manner::Restoring] {
            let plan = Plan::new(None, manner);
            let undoes = plan.undoes();
            for (place, step) in plan.steps.iter().enumerate() {
                // Whatever is done where it fails at the end of a step was said of that or of one before.
                let said = |undo: &Undo| plan.steps[..=place].iter().any(|step| undoes.get(step) == Some(undo));
                assert!(plan.undo(place + 1).iter().all(said), "{manner:?}, after {step:?}");
            }
        }
        assert!(Plan::nothing().undoes().is_empty());
    }
}
