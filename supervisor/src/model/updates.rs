//! Which of the versions of a plugin may take calls, and which newer ones wait for a word.
//!
//! A version that was accepted takes calls, and so does an older one that appears beside it. A newer one is an update. It is taken by itself
//! where the policy is `auto` and SemVer has it that nobody breaks; else it is held until an operator takes it. Before the first of an id was
//! accepted nothing stands beside, and all that is there is accepted.
//!
//! Invariants: what the pin excludes is never taken, whoever asks; a new major version, or of 0.x a new minor one, only if that was confirmed.
//! Elsewhere: what was accepted is remembered by `store::database`; updates are tried and taken by `packages`.

use std::collections::BTreeSet;
use std::fmt;

use semver::Version;
use serde::{Deserialize, Serialize};

use super::specifier::Specifier;

/// What becomes of a newer version that appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It is tried and taken, unless it may break whoever uses the plugin.
    #[default]
    Auto,
    /// It is told, and waits.
    Notify,
    /// It waits.
    Manual,
}

/// How far a newer version is from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The last number has grown, or it is the release after a pre-release.
    Patch,
    /// The middle one has.
    Minor,
    /// Whoever uses the plugin may break: the first number has grown, or of 0.x the second, or of 0.0.x the third.
    Major,
}

impl Kind {
    /// That of the step from one version to another.
    #[must_use]
    pub fn of(before: &Version, after: &Version) -> Self {
        if !is_compatible(before, after) {
            Self::Major
        } else if before.minor == after.minor {
            Self::Patch
        } else {
            Self::Minor
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Minor => "minor",
            Self::Major => "major",
        }
    }
}

/// By what a version is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The configuration names versions, and this is none of them.
    Pin,
    /// It may break whoever uses the plugin.
    Major,
    /// Updates wait.
    Policy,
    /// It was tried, and failed.
    Failed,
    /// It could not be tried, for want of something.
    Untried,
    /// It is being tried.
    Trial,
}

impl By {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Major => "major",
            Self::Policy => "policy",
            Self::Failed => "failed",
            Self::Untried => "untried",
            Self::Trial => "trial",
        }
    }
}

/// That a version takes no calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub by: By,
    /// A sentence.
    pub reason: String,
}

/// A newer version that is there and waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub version: Version,
    pub kind: Kind,
}

/// A version that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present<'a> {
    pub version: &'a Version,
    /// Whether its operator lets it take calls.
    pub enabled: bool,
}

/// What was said about the updates of a plugin.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The versions that may serve, whether they are there or not.
    pub accepted: &'a BTreeSet<Version>,
    /// The versions that are wanted at all.
    pub pin: Option<&'a Specifier>,
    pub policy: Policy,
}

/// What becomes of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It takes calls.
    Serves,
    /// It is tried, and takes calls if it is good.
    Take,
    Held(By),
}

impl Said<'_> {
    /// The version after which a newer one is an update: of those that were accepted the highest that can serve. Where none is there any
    /// more it is the last that was, and nothing stands beside what takes its place.
    #[must_use]
    pub fn before<'a>(&'a self, there: &'a [Present<'a>]) -> Option<&'a Version> {
        let is_accepted =
            |one: &&Present<'_>| one.enabled && self.admits(one.version) && self.accepted.contains(one.version);
        let present: Vec<_> = there.iter().filter(is_accepted).map(|one| one.version).collect();
        let any = Specifier::any();
        any.highest(present.iter().copied()).or_else(|| any.highest(self.accepted))
    }

    /// What becomes of one of those that are there, about which nobody has said anything.
    #[must_use]
    pub fn decide(&self, version: &Version, there: &[Present<'_>]) -> Decision {
        if !self.admits(version) {
            return Decision::Held(By::Pin);
        }
        if self.accepted.contains(version) {
            return Decision::Serves;
        }
        let Some(before) = self.before(there).filter(|before| *before < version) else { return Decision::Serves };
        if Kind::of(before, version) == Kind::Major {
            return Decision::Held(By::Major);
        }
        if !there.iter().any(|one| one.version == before) {
            return Decision::Serves;
        }
        match self.policy {
            Policy::Notify | Policy::Manual => Decision::Held(By::Policy),
            // One that takes no calls from the one before is nothing to be tried for.
            Policy::Auto if is_next(before, version) => Decision::Take,
            Policy::Auto => Decision::Serves,
        }
    }

    /// The same where an operator wants that version.
    ///
    /// # Errors
    /// What it is held back by all the same.
    pub fn asked(&self, version: &Version, there: &[Present<'_>], is_confirmed: bool) -> Result<(), By> {
        if !self.admits(version) {
            return Err(By::Pin);
        }
        if self.accepted.contains(version) || is_confirmed {
            return Ok(());
        }
        match self.before(there) {
            Some(before) if is_next(before, version) && Kind::of(before, version) == Kind::Major => Err(By::Major),
            _ => Ok(()),
        }
    }

    fn admits(&self, version: &Version) -> bool {
        self.pin.is_none_or(|pin| pin.admits(version))
    }
}

/// Whether calls that name no version would go to the second rather than to the first.
#[must_use]
pub fn is_next(before: &Version, version: &Version) -> bool {
    before < version && Specifier::any().highest([before, version]) == Some(version)
}

/// Whether whoever uses the one can use the other, as SemVer has it and as `^` means it.
#[must_use]
pub fn is_compatible(before: &Version, after: &Version) -> bool {
    match (before.major, before.minor) {
        (0, 0) => (after.major, after.minor, after.patch) == (0, 0, before.patch),
        (0, minor) => (after.major, after.minor) == (0, minor),
        (major, _) => after.major == major,
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Notify => "notify",
            Self::Manual => "manual",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn accepted(texts: &str) -> BTreeSet<Version> {
        texts.split_whitespace().map(version).collect()
    }

    /// What becomes of `new` beside those that were accepted.
    fn decided(there: &str, new: &str, policy: Policy, pin: Option<&str>) -> Decision {
        let accepted = accepted(there);
        let pin = pin.map(|pin| Specifier::parse(pin).unwrap());
        let new = version(new);
        let all = accepted.iter().chain([&new]).map(|version| Present { version, enabled: true }).collect::<Vec<_>>();
        Said { accepted: &accepted, pin: pin.as_ref(), policy }.decide(&new, &all)
    }

    #[test]
    fn steps_have_a_kind() {
        for (before, after, kind) in [
            ("1.2.3", "1.2.4", Kind::Patch),
            ("1.2.3", "1.3.0", Kind::Minor),
            ("1.2.3", "2.0.0", Kind::Major),
            ("0.2.3", "0.2.4", Kind::Patch),
            ("0.2.3", "0.3.0", Kind::Major),
            ("0.0.3", "0.0.4", Kind::Major),
            ("0.9.0", "1.0.0", Kind::Major),
            ("1.2.0-rc.1", "1.2.0", Kind::Patch),
            ("2.0.0-rc.1", "2.0.0", Kind::Patch),
            ("0.0.3-rc.1", "0.0.3", Kind::Patch),
        ] {
            assert_eq!(Kind::of(&version(before), &version(after)), kind, "{before} {after}");
        }
    }

    #[test]
    fn each_policy_decides_about_each_kind() {
        use Decision::{Held, Serves, Take};
        for (there, new, auto, other) in [
            ("1.2.0", "1.2.1", Take, Held(By::Policy)),
            ("1.2.0", "1.3.0", Take, Held(By::Policy)),
            ("1.2.0", "2.0.0", Held(By::Major), Held(By::Major)),
            ("0.2.0", "0.2.1", Take, Held(By::Policy)),
            ("0.2.0", "0.3.0", Held(By::Major), Held(By::Major)),
            ("1.0.0 1.2.0", "1.1.0", Serves, Serves),
            ("1.0.0 2.0.0", "2.0.1", Take, Held(By::Policy)),
            // A pre-release takes no calls that do not name it, and is confirmed all the same where it may break.
            ("1.2.0", "1.3.0-rc.1", Serves, Held(By::Policy)),
            ("1.2.0", "2.0.0-rc.1", Held(By::Major), Held(By::Major)),
            ("1.2.0-rc.1", "1.2.0", Take, Held(By::Policy)),
            ("1.9.0 2.0.0-rc.1", "2.0.0", Held(By::Major), Held(By::Major)),
            ("", "3.0.0", Serves, Serves),
        ] {
            assert_eq!(decided(there, new, Policy::Auto, None), auto, "{there} {new}");
            for policy in [Policy::Notify, Policy::Manual] {
                assert_eq!(decided(there, new, policy, None), other, "{there} {new} {policy}");
            }
        }
    }

    #[test]
    fn what_a_pin_excludes_is_held_whatever_was_accepted() {
        assert_eq!(decided("1.2.0", "1.2.1", Policy::Auto, Some("~1.2")), Decision::Take);
        assert_eq!(decided("1.2.0", "1.3.0", Policy::Auto, Some("~1.2")), Decision::Held(By::Pin));
        assert_eq!(decided("1.2.0 1.3.0", "1.2.1", Policy::Auto, Some("~1.2")), Decision::Take, "after what may serve");
        let (all, pin) = (accepted("1.2.0 1.3.0"), Specifier::parse("=1.2.0").unwrap());
        let there: Vec<_> = all.iter().map(|version| Present { version, enabled: true }).collect();
        let said = Said { accepted: &all, pin: Some(&pin), policy: Policy::Auto };
        assert_eq!(said.decide(&version("1.2.0"), &there), Decision::Serves);
        assert_eq!(said.decide(&version("1.3.0"), &there), Decision::Held(By::Pin));
        assert_eq!(said.asked(&version("1.3.0"), &there, true), Err(By::Pin), "also where it was confirmed");
    }

    #[test]
    fn what_takes_the_place_of_what_is_gone_stands_beside_nothing() {
        let all = accepted("1.2.0");
        for policy in [Policy::Auto, Policy::Notify, Policy::Manual] {
            let said = Said { accepted: &all, pin: None, policy };
            let alone = |text: &str| {
                let version = version(text);
                said.decide(&version, &[Present { version: &version, enabled: true }])
            };
            assert_eq!((alone("1.3.0"), alone("1.1.0")), (Decision::Serves, Decision::Serves));
            assert_eq!(alone("2.0.0"), Decision::Held(By::Major), "nobody has confirmed that");
        }
    }

    #[test]
    fn one_that_is_disabled_is_nothing_to_go_on_from() {
        let all = accepted("1.0.0 2.0.0");
        let (one, two, new) = (version("1.0.0"), version("2.0.0"), version("2.1.0"));
        let there = [(&one, true), (&two, false), (&new, true)].map(|(version, enabled)| Present { version, enabled });
        let said = Said { accepted: &all, pin: None, policy: Policy::Auto };
        assert_eq!(said.decide(&new, &there), Decision::Held(By::Major));
    }

    #[test]
    fn an_operator_confirms_a_major_version_alone() {
        let all = accepted("1.2.0");
        let one = version("1.2.0");
        let there = [Present { version: &one, enabled: true }];
        let said = Said { accepted: &all, pin: None, policy: Policy::Manual };
        assert_eq!(said.asked(&version("1.3.0"), &there, false), Ok(()));
        assert_eq!(said.asked(&version("2.0.0"), &there, false), Err(By::Major));
        assert_eq!(said.asked(&version("2.0.0"), &there, true), Ok(()));
        assert_eq!(said.asked(&version("2.0.0-rc.1"), &there, false), Ok(()), "it takes no calls of others");
        assert_eq!(said.asked(&version("0.9.0"), &there, false), Ok(()));
        // It was confirmed once, and is disabled now.
        let all = accepted("1.2.0 2.0.0");
        let said = Said { accepted: &all, pin: None, policy: Policy::Manual };
        assert_eq!(said.asked(&version("2.0.0"), &there, false), Ok(()));
    }

    fn any_version() -> impl Strategy<Value = Version> {
        (0..3_u64, 0..3_u64, 0..3_u64, prop::bool::weighted(0.2)).prop_map(|(major, minor, patch, is_early)| {
            version(&format!("{major}.{minor}.{patch}{}", if is_early { "-rc.1" } else { "" }))
        })
    }

    proptest! {
        /// Versions appear one after the other, and each that is taken is accepted: what calls get by default then never made a step that may
        /// break somebody, nor one that the pin excludes; and nothing that serves is held by what appears later.
        #[test]
        fn nothing_breaks_by_itself(
            first in any_version(),
            appearing in prop::collection::vec(any_version(), 0..12),
            policy in prop::sample::select(vec![Policy::Auto, Policy::Notify, Policy::Manual]),
            pin in prop::option::of(prop::sample::select(vec!["^1", "~1.1", "=1.1.1", "<2", "0.*"])),
        ) {
            let pin = pin.map(|pin| Specifier::parse(pin).unwrap());
            prop_assume!(pin.as_ref().is_none_or(|pin| pin.admits(&first)));
            let mut accepted = BTreeSet::from([first.clone()]);
            let mut there = BTreeSet::from([first]);
            for new in appearing {
                there.insert(new);
                let present: Vec<_> = there.iter().map(|version| Present { version, enabled: true }).collect();
                let said = Said { accepted: &accepted, pin: pin.as_ref(), policy };
                let before = said.before(&present).cloned().unwrap();
                let mut next = accepted.clone();
                for version in &there {
                    match said.decide(version, &present) {
                        Decision::Held(by) => {
                            prop_assert!(by == By::Pin || !accepted.contains(version));
                        }
                        decision => {
                            prop_assert!(pin.as_ref().is_none_or(|pin| pin.admits(version)));
                            prop_assert!(accepted.contains(version) || *version < before || is_compatible(&before, version));
                            prop_assert!(policy == Policy::Auto || decision == Decision::Serves);
                            prop_assert!(policy == Policy::Auto || accepted.contains(version) || *version < before);
                            next.insert(version.clone());
                        }
                    }
                }
                accepted = next;
            }
        }
    }
}
