//! Which versions somebody is content with, and which of those on offer they get.
//!
//! The forms are Cargo's (`^1.2`, `~1.2`, `1.*`, `>=1.2, <2`, `*`, and a bare `1.2` for `^1.2`), and three spellings that
//! Python's tools have: `==1.2.3` is exactly that version, missing numbers being zero (`==1.2` is 1.2.0; all of them is
//! `1.2.*` or `==1.2.*`); `!=` leaves out what `==` would take; `~=1.2.3` is `>=1.2.3, <1.3.0` and `~=1.2` is `>=1.2.0, <2.0.0`.
//! Commas mean "and".
//!
//! Pre-releases count only when asked for, that is when the specifier itself names one of the same number, or when
//! nothing else fits.
//!
//! Elsewhere: which versions are enabled is the registry's business.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use semver::{BuildMetadata, Comparator, Op, Prerelease, Version, VersionReq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::version::{self, VersionError};

/// As many as the semver crate takes in one requirement.
pub const CLAUSES_MAX: usize = 32;

/// Far more than a sensible specifier has.
pub const SPECIFIER_BYTES_MAX: usize = 1024;

/// Why a text specifies nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecifierError {
    #[error("a version specifier is missing; `*` stands for any version")]
    Empty,
    #[error("the version specifier has {bytes} bytes; at most {SPECIFIER_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    #[error("the version specifier has {clauses} clauses; at most {CLAUSES_MAX} are allowed")]
    TooMany { clauses: usize },
    #[error("in the version specifier: {0}")]
    Version(#[from] VersionError),
    #[error("in the version specifier, `{clause}` {why}")]
    Clause { clause: String, why: String },
}

/// A set of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specifier {
    text: String,
    required: VersionReq,
    excluded: Vec<Comparator>,
}

impl Specifier {
    /// Any version.
    pub fn any() -> Self {
        Self { text: "*".into(), required: VersionReq::STAR, excluded: Vec::new() }
    }

    /// That version alone.
    pub fn exactly(version: &Version) -> Self {
        let comparator = Comparator {
            op: Op::Exact,
            major: version.major,
            minor: Some(version.minor),
            patch: Some(version.patch),
            pre: version.pre.clone(),
        };
        Self {
            text: format!("={version}"),
            required: VersionReq { comparators: vec![comparator] },
            excluded: Vec::new(),
        }
    }

    pub fn parse(text: &str) -> Result<Self, SpecifierError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SpecifierError::Empty);
        }
        if SPECIFIER_BYTES_MAX < text.len() {
            return Err(SpecifierError::TooLong { bytes: text.len() });
        }
        let clauses = text.split(',').count();
        if CLAUSES_MAX / 2 < clauses {
            // Half, because `~=` becomes two comparators.
            return Err(SpecifierError::TooMany { clauses });
        }
        let mut required = Vec::new();
        let mut excluded = Vec::new();
        for clause in text.split(',') {
            read_clause(clause.trim(), &mut required, &mut excluded)?;
        }
        Ok(Self { text: text.to_owned(), required: VersionReq { comparators: required }, excluded })
    }

    /// Whether `version` belongs to it: releases by their range, pre-releases only where asked for by name.
    pub fn matches(&self, version: &Version) -> bool {
        self.required.matches(version) && !self.excludes(version)
    }

    /// Whether `version` lies in the range, pre-release or not. A bound `<2.0.0` is meant to keep 2.0.0 out, and so keeps
    /// the pre-releases of 2.0.0 out as well.
    pub fn admits(&self, version: &Version) -> bool {
        let in_range = self.required.comparators.iter().all(|comparator| Range::of(comparator).contains(version));
        (in_range || self.required.matches(version)) && !self.excludes(version)
    }

    /// The one that is taken: the highest that matches, or else the highest pre-release in range.
    pub fn highest<'v>(&self, versions: impl IntoIterator<Item = &'v Version> + Clone) -> Option<&'v Version> {
        self.highest_but(versions, |_| false)
    }

    /// The same, where some are taken only if no other of their kind will do. A release that is taken last still goes before a
    /// pre-release that nobody asked for.
    pub fn highest_but<'v>(
        &self,
        versions: impl IntoIterator<Item = &'v Version> + Clone,
        is_last: impl Fn(&Version) -> bool,
    ) -> Option<&'v Version> {
        let best = |fits: &dyn Fn(&Version) -> bool| versions.clone().into_iter().filter(|version| fits(version)).max();
        best(&|version| self.matches(version) && !is_last(version))
            .or_else(|| best(&|version| self.matches(version)))
            .or_else(|| best(&|version| self.admits(version) && !is_last(version)))
            .or_else(|| best(&|version| self.admits(version)))
    }

    fn excludes(&self, version: &Version) -> bool {
        self.excluded.iter().any(|comparator| Range::of(comparator).contains(version))
    }
}

fn read_clause(
    clause: &str,
    required: &mut Vec<Comparator>,
    excluded: &mut Vec<Comparator>,
) -> Result<(), SpecifierError> {
    let wrong = |why: String| SpecifierError::Clause { clause: clause.escape_debug().to_string(), why };
    if clause.is_empty() {
        return Err(wrong("is empty; there is a comma too many".into()));
    }
    if matches!(clause, "*" | "x" | "X") {
        return Ok(());
    }
    if clause.starts_with("===") {
        return Err(wrong("compares texts, which SemVer does not have; write `==`".into()));
    }
    let spelled = |prefix| clause.strip_prefix(prefix).map(str::trim_start);
    if let Some(rest) = spelled("==") {
        required.push(exact(clause, rest)?);
    } else if let Some(rest) = spelled("!=") {
        excluded.push(exact(clause, rest)?);
    } else if let Some(rest) = spelled("~=") {
        let lower = comparator(clause, rest, Op::GreaterEq)?;
        let Some(minor) = lower.minor.filter(|_| !rest.contains('*')) else {
            return Err(wrong("needs at least two numbers after `~=`, as in ~=1.2, and no `*`".into()));
        };
        // The last number given may grow; the ones before it stay.
        let (major, minor) = match lower.patch {
            Some(_) => (Some(lower.major), minor.checked_add(1)),
            None => (lower.major.checked_add(1), Some(0)),
        };
        let (Some(major), Some(minor)) = (major, minor) else {
            return Err(wrong("has a number that is too large".into()));
        };
        required.push(lower);
        required.push(Comparator { op: Op::Less, major, minor: Some(minor), patch: Some(0), pre: Prerelease::EMPTY });
    } else {
        let numbers = clause.trim_start_matches(['=', '<', '>', '^', '~', ' ']);
        refuse_foreign(numbers)?;
        required.push(Comparator::parse(clause).map_err(|error| wrong(format!("is not understood: {error}")))?);
    }
    Ok(())
}

/// What `==` and `!=` take: one version, missing numbers being zero, or all that a `*` stands for.
fn exact(clause: &str, text: &str) -> Result<Comparator, SpecifierError> {
    if text.contains('*') {
        return comparator(clause, text, Op::Wildcard);
    }
    let mut read = comparator(clause, text, Op::Exact)?;
    read.minor = read.minor.or(Some(0));
    read.patch = read.patch.or(Some(0));
    Ok(read)
}

/// Reads the numbers of a clause and gives them the operator they are meant to have.
fn comparator(clause: &str, text: &str, op: Op) -> Result<Comparator, SpecifierError> {
    refuse_foreign(text)?;
    let wrong = |why: String| SpecifierError::Clause { clause: clause.escape_debug().to_string(), why };
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(wrong("lacks a version number after its operator".into()));
    }
    let read = Comparator::parse(text).map_err(|error| wrong(format!("is not understood: {error}")))?;
    Ok(Comparator { op, ..read })
}

fn refuse_foreign(text: &str) -> Result<(), SpecifierError> {
    version::check_length(text)?;
    if text.contains('+') {
        return Err(VersionError::Build { text: text.escape_debug().to_string() }.into());
    }
    version::foreign_form(text).map_or(Ok(()), |error| Err(error.into()))
}

/// A comparator as an interval of the order of versions, pre-releases included.
struct Range {
    from: Option<(Version, Edge)>,
    to: Option<(Version, Edge)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Edge {
    Included,
    Excluded,
}

impl Range {
    fn of(comparator: &Comparator) -> Self {
        let Comparator { op, major, minor, patch, ref pre } = *comparator;
        let first = Version {
            major,
            minor: minor.unwrap_or(0),
            patch: patch.unwrap_or(0),
            pre: pre.clone(),
            build: BuildMetadata::EMPTY,
        };
        // Everything that begins with the numbers that were given.
        let after_given = match (minor, patch) {
            (Some(minor), Some(patch)) => before(major, minor, patch.checked_add(1)),
            (Some(minor), None) => before_minor(major, minor),
            (None, _) => before_major(major),
        };
        let whole = patch.is_some();
        let from = Some((first.clone(), Edge::Included));
        let (from, to) = match op {
            Op::Exact if whole => (from, Some((first, Edge::Included))),
            Op::Exact | Op::Wildcard => (from, after_given),
            Op::Greater if whole => (Some((first, Edge::Excluded)), None),
            // `>1.2` begins where the 1.2 series ends; where no number follows, nothing is above.
            Op::Greater => match after_given {
                Some((end, _)) => (Some((Version { pre: Prerelease::EMPTY, ..end }, Edge::Included)), None),
                None => (Some((Version::new(u64::MAX, u64::MAX, u64::MAX), Edge::Excluded)), None),
            },
            Op::GreaterEq => (from, None),
            Op::Less if first.pre.is_empty() => (None, Some((lowest(first), Edge::Excluded))),
            Op::Less => (None, Some((first, Edge::Excluded))),
            Op::LessEq if whole => (None, Some((first, Edge::Included))),
            Op::LessEq => (None, after_given),
            Op::Tilde => (from, minor.map_or_else(|| before_major(major), |minor| before_minor(major, minor))),
            Op::Caret => {
                let to = match (major, minor, patch) {
                    (0, Some(0), Some(patch)) => before(0, 0, patch.checked_add(1)),
                    (0, Some(minor), _) => before_minor(0, minor),
                    _ => before_major(major),
                };
                (from, to)
            }
            // The operators are those of Cargo; should the crate learn another, it selects nothing until it is thought about.
            _ => (Some((Version::new(u64::MAX, u64::MAX, u64::MAX), Edge::Excluded)), None),
        };
        Self { from, to }
    }

    fn contains(&self, version: &Version) -> bool {
        let above = self.from.as_ref().is_none_or(|(from, edge)| match version.cmp_precedence(from) {
            Ordering::Greater => true,
            Ordering::Equal => *edge == Edge::Included,
            Ordering::Less => false,
        });
        let below = self.to.as_ref().is_none_or(|(to, edge)| match version.cmp_precedence(to) {
            Ordering::Less => true,
            Ordering::Equal => *edge == Edge::Included,
            Ordering::Greater => false,
        });
        above && below
    }
}

/// The lowest pre-release of a number: `-0` precedes every other.
fn lowest(version: Version) -> Version {
    Version { pre: Prerelease::new("0").unwrap_or(Prerelease::EMPTY), ..version }
}

fn before(major: u64, minor: u64, patch: Option<u64>) -> Option<(Version, Edge)> {
    // A number that cannot be raised has nothing above it within its series: the next higher number bounds it.
    let Some(patch) = patch else { return before_minor(major, minor) };
    Some((lowest(Version::new(major, minor, patch)), Edge::Excluded))
}

fn before_minor(major: u64, minor: u64) -> Option<(Version, Edge)> {
    let Some(minor) = minor.checked_add(1) else { return before_major(major) };
    Some((lowest(Version::new(major, minor, 0)), Edge::Excluded))
}

fn before_major(major: u64) -> Option<(Version, Edge)> {
    Some((lowest(Version::new(major.checked_add(1)?, 0, 0)), Edge::Excluded))
}

impl fmt::Display for Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Specifier {
    type Err = SpecifierError;

    fn from_str(text: &str) -> Result<Self, SpecifierError> {
        Self::parse(text)
    }
}

impl Serialize for Specifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Specifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v(text: &str) -> Version {
        version::parse(text).unwrap()
    }

    #[test]
    fn each_form_takes_what_it_should() {
        for (specifier, inside, outside) in [
            ("^1.2", &["1.2.0", "1.9.9"][..], &["1.1.9", "2.0.0", "2.0.0-rc.1", "1.3.0-rc.1"][..]),
            ("1.2", &["1.2.0", "1.9.9"], &["1.1.9", "2.0.0"]),
            ("~1.2", &["1.2.0", "1.2.9"], &["1.3.0"]),
            ("1.*", &["1.0.0", "1.9.9"], &["0.9.0", "2.0.0"]),
            (">=1.2, <2", &["1.2.0", "1.99.0"], &["2.0.0", "1.1.0"]),
            ("*", &["0.0.1", "9.9.9"], &["1.0.0-rc.1"]),
            ("=1.2", &["1.2.0", "1.2.7"], &["1.3.0"]),
            ("==1.2", &["1.2.0"], &["1.2.1"]),
            ("==1.2.3", &["1.2.3", "1.2.3+build"], &["1.2.4", "1.2.2"]),
            ("==1.2.*", &["1.2.0", "1.2.9"], &["1.3.0"]),
            ("!=1.2.3", &["1.2.2", "1.2.4"], &["1.2.3", "1.2.3+build"]),
            ("!=1.2.*, ^1", &["1.1.0", "1.3.0"], &["1.2.0", "1.2.9", "2.0.0"]),
            ("*, != 2", &["1.0.0", "2.0.1"], &["2.0.0"]),
            ("~=1.2.3", &["1.2.3", "1.2.99"], &["1.3.0", "1.2.2"]),
            ("~=1.2", &["1.2.0", "1.99.0"], &["2.0.0", "1.1.9"]),
            ("~= 1.2.3-rc.1", &["1.2.3-rc.2", "1.2.3", "1.2.4"], &["1.2.3-beta", "1.3.0", "1.2.4-rc.1"]),
            (">=1.0.0-rc.1, <2", &["1.0.0-rc.1", "1.5.0"], &["1.5.0-rc.1", "2.0.0-rc.1"]),
        ] {
            let parsed = Specifier::parse(specifier).unwrap();
            for version in inside {
                assert!(parsed.matches(&v(version)), "{specifier} should take {version}");
            }
            for version in outside {
                assert!(!parsed.matches(&v(version)), "{specifier} should not take {version}");
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        for (specifier, word) in [
            ("", "missing"),
            ("^1,,<2", "comma too many"),
            ("==1!2.0", "epoch"),
            ("^1.0.post1", "post-release"),
            (">=1.0.dev1", "development release"),
            ("==1.0+local", "local version"),
            ("==1.0.0+local", "build metadata or a local version"),
            ("===1.0", "write `==`"),
            ("~=1", "at least two numbers"),
            ("~=1.2.*", "no `*`"),
            ("==", "missing"),
            ("== x", "lacks a version number"),
            ("==>=1.0", "lacks a version number"),
            ("latest", "is not understood"),
            ("1.2.3.4", "is not understood"),
            ("1.0rc1", "without a hyphen"),
        ] {
            let message = Specifier::parse(specifier).unwrap_err().to_string();
            assert!(message.contains(word), "{specifier}: {message}");
        }
        assert!(matches!(Specifier::parse(&"1,".repeat(40)), Err(SpecifierError::TooMany { clauses: 41 })));
        assert!(matches!(Specifier::parse(&" ^1".repeat(1000)), Err(SpecifierError::TooLong { .. })));
    }

    #[test]
    fn the_highest_wins_and_pre_releases_only_where_asked_for_or_alone() {
        let all = ["1.0.0", "1.4.0", "1.5.0-rc.1", "2.0.0-beta.1"].map(v);
        for (specifier, winner) in [
            ("*", Some("1.4.0")),
            ("^1", Some("1.4.0")),
            (">=1.5.0-beta", Some("1.5.0-rc.1")),
            (">1.4", Some("2.0.0-beta.1")),
            ("^1.4.1", Some("1.5.0-rc.1")),
            (">=1.4.1, <2", Some("1.5.0-rc.1")),
            (">=1.4.1, <2, !=1.5.0-rc.1", None),
            ("^2", None),
            ("==2.0.0-beta.1", Some("2.0.0-beta.1")),
            ("<1.4", Some("1.0.0")),
            ("^3", None),
        ] {
            let found = Specifier::parse(specifier).unwrap().highest(&all).map(ToString::to_string);
            assert_eq!(found.as_deref(), winner, "{specifier}");
        }
    }

    /// The spellings that Python's tools have, each with exactly the versions that it takes, and the one that is chosen.
    #[test]
    fn the_spellings_of_python_take_exactly_these() {
        let all = [
            "1.1.9",
            "1.2.0-rc.1",
            "1.2.0",
            "1.2.3-rc.1",
            "1.2.3-rc.2",
            "1.2.3",
            "1.2.4-rc.1",
            "1.2.4",
            "1.3.0-rc.1",
            "1.3.0",
            "2.0.0-rc.1",
            "2.0.0",
            "2.1.0",
        ]
        .map(v);
        let releases = ["1.1.9", "1.2.0", "1.2.3", "1.2.4", "1.3.0", "2.0.0", "2.1.0"];
        let but =
            |left_out: &[&str]| releases.iter().filter(|one| !left_out.contains(one)).copied().collect::<Vec<_>>();
        for (specifier, taken, chosen) in [
            ("==1.2.3", vec!["1.2.3"], "1.2.3"),
            ("== 1.2.3", vec!["1.2.3"], "1.2.3"),
            ("==1.2", vec!["1.2.0"], "1.2.0"),
            ("==2", vec!["2.0.0"], "2.0.0"),
            ("==1.2.*", vec!["1.2.0", "1.2.3", "1.2.4"], "1.2.4"),
            ("==1.*", vec!["1.1.9", "1.2.0", "1.2.3", "1.2.4", "1.3.0"], "1.3.0"),
            ("==1.2.3-rc.1", vec!["1.2.3-rc.1"], "1.2.3-rc.1"),
            ("==3", vec![], ""),
            ("!=1.2.3", but(&["1.2.3"]), "2.1.0"),
            ("!=2.1", but(&["2.1.0"]), "2.0.0"),
            ("!=2", but(&["2.0.0"]), "2.1.0"),
            ("!=2.*", but(&["2.0.0", "2.1.0"]), "1.3.0"),
            ("!=1.2.*", but(&["1.2.0", "1.2.3", "1.2.4"]), "2.1.0"),
            ("!=1.2.3-rc.1", but(&[]), "2.1.0"),
            ("!=1.2.3, !=1.2.4, ~=1.2.1", vec![], "1.2.4-rc.1"),
            ("~=1.2.3", vec!["1.2.3", "1.2.4"], "1.2.4"),
            ("~=1.2", vec!["1.2.0", "1.2.3", "1.2.4", "1.3.0"], "1.3.0"),
            ("~= 1.2", vec!["1.2.0", "1.2.3", "1.2.4", "1.3.0"], "1.3.0"),
            ("~=1.2.3-rc.2", vec!["1.2.3-rc.2", "1.2.3", "1.2.4"], "1.2.4"),
            ("~=1.2, !=1.3.0", vec!["1.2.0", "1.2.3", "1.2.4"], "1.2.4"),
            ("~=2.0, ==2.1", vec!["2.1.0"], "2.1.0"),
            ("~=1.3.1", vec![], ""),
            // Nothing that was released: then what was meant to be, but nothing of the next.
            ("~=1.2.4, !=1.2.4", vec![], ""),
            ("==1.2.4, !=1.2.4", vec![], ""),
        ] {
            let parsed = Specifier::parse(specifier).unwrap();
            let found: Vec<_> = all.iter().filter(|version| parsed.matches(version)).map(ToString::to_string).collect();
            assert_eq!(found, taken, "{specifier}");
            let highest = parsed.highest(&all).map(ToString::to_string).unwrap_or_default();
            assert_eq!(highest, chosen, "{specifier}");
        }
    }

    /// What SemVer lacks is an error which says so, whatever stands before it.
    #[test]
    fn the_versions_of_python_are_refused_with_what_they_are() {
        for (version, what) in [
            ("1!1.2.3", "has an epoch"),
            ("1.2.3.post1", "is a post-release"),
            ("1.2.post1", "is a post-release"),
            ("1.2.3.dev4", "is a development release"),
            ("1.2.dev4", "is a development release"),
            ("1.2.3rc1", "joins its pre-release without a hyphen"),
            ("1.2.3a1", "joins its pre-release without a hyphen"),
            ("1.2.3+ubuntu.1", "names build metadata or a local version"),
            ("v1.2.3", "lacks a version number after its operator|begins with a letter"),
        ] {
            for operator in ["==", "!=", "~=", "== ", "^", ">=", "<", ""] {
                let text = format!("{operator}{version}");
                let told = Specifier::parse(&text).unwrap_err().to_string();
                assert!(what.split('|').any(|what| told.contains(what)), "{text}: {told}");
                // In a list as well.
                assert!(Specifier::parse(&format!("^1, {text}")).is_err(), "{text}");
            }
        }
        for (text, what) in [
            ("===1.2.3", "compares texts, which SemVer does not have; write `==`"),
            ("~=1", "needs at least two numbers after `~=`"),
            ("~=1.*", "needs at least two numbers after `~=`"),
            ("~=18446744073709551615.1", "has a number that is too large"),
            ("!=", "a version is missing"),
            ("==1.2.3, ", "is empty; there is a comma too many"),
        ] {
            let told = Specifier::parse(text).unwrap_err().to_string();
            assert!(told.contains(what), "{text}: {told}");
        }
    }

    #[test]
    fn those_that_are_last_are_taken_when_no_other_of_their_kind_will_do() {
        let all = ["1.0.0", "1.1.0", "1.2.0-rc.1", "2.0.0"].map(v);
        for (specifier, last, chosen) in [
            ("*", &["2.0.0"][..], "1.1.0"),
            ("^1", &["1.1.0"], "1.0.0"),
            ("^1", &["1.0.0", "1.1.0"], "1.1.0"),
            ("^1.1", &["1.1.0"], "1.1.0"),
            ("=1.1.0", &["1.1.0"], "1.1.0"),
            (">1.1.0, <2", &["1.2.0-rc.1"], "1.2.0-rc.1"),
            ("^3", &["2.0.0"], ""),
        ] {
            let specifier = Specifier::parse(specifier).unwrap();
            let is_last = |version: &Version| last.contains(&version.to_string().as_str());
            let found = specifier.highest_but(&all, is_last).map(ToString::to_string).unwrap_or_default();
            assert_eq!(found, chosen, "{specifier} without {last:?}");
        }
    }

    /// One of Cargo's comparators: an operator, and one to three numbers, the last of which may be `*`.
    fn any_comparator() -> impl Strategy<Value = String> {
        let op = prop_oneof![Just("="), Just("^"), Just("~"), Just(">"), Just(">="), Just("<"), Just("<="), Just("")];
        (op, any_version(), 0..=5_usize).prop_map(|(op, bound, form)| {
            let Version { major, minor, patch, .. } = bound;
            match form {
                0 => format!("{op}{major}"),
                1 => format!("{op}{major}.{minor}"),
                2 => format!("{major}.*"),
                3 => format!("{major}.{minor}.*"),
                4 => format!("{op} {major}.{minor}.{patch}"),
                _ => format!("{op}{bound}"),
            }
        })
    }

    fn any_version() -> impl Strategy<Value = Version> {
        let number = prop_oneof![0..4u64, Just(u64::MAX)];
        let pre = prop_oneof![3 => Just(""), 1 => Just("-0"), 1 => Just("-rc.1"), 1 => Just("-rc.2")];
        (number.clone(), number.clone(), number, pre)
            .prop_map(|(major, minor, patch, pre)| v(&format!("{major}.{minor}.{patch}{pre}")))
    }

    proptest! {
        /// Two implementations of the same ranges: the crate's, and the intervals that also know pre-releases.
        #[test]
        fn for_releases_the_intervals_agree_with_the_crate(
            op in prop_oneof![Just("="), Just("^"), Just("~"), Just(">"), Just(">="), Just("<"), Just("<="), Just("")],
            bound in any_version(),
            parts in 1..=3usize,
            version in any_version(),
        ) {
            let text = match parts {
                1 => format!("{op}{}", bound.major),
                2 => format!("{op}{}.{}", bound.major, bound.minor),
                _ => format!("{op}{bound}"),
            };
            let specifier = Specifier::parse(&text).unwrap();
            if version.pre.is_empty() {
                prop_assert_eq!(specifier.matches(&version), specifier.admits(&version), "{} {}", text, version);
            }
            // Whatever matches is admitted, so the second choice never loses the first.
            prop_assert!(!specifier.matches(&version) || specifier.admits(&version));
        }

        /// What Cargo's forms take is what the crate says, pre-releases and all; and so is what they choose, as long as anything fits.
        #[test]
        fn the_forms_of_cargo_take_and_choose_what_the_crate_says(
            clauses in prop::collection::vec(any_comparator(), 1..4),
            versions in prop::collection::vec(any_version(), 1..8),
        ) {
            let text = clauses.join(", ");
            let (ours, theirs) = (Specifier::parse(&text).unwrap(), VersionReq::parse(&text).unwrap());
            for version in &versions {
                prop_assert_eq!(ours.matches(version), theirs.matches(version), "{} {}", text, version);
            }
            let fitting = versions.iter().filter(|version| theirs.matches(version)).max();
            if fitting.is_some() {
                prop_assert_eq!(ours.highest(&versions), fitting, "{}", text);
            } else if let Some(found) = ours.highest(&versions) {
                prop_assert!(!found.pre.is_empty() && ours.admits(found), "{} {}", text, found);
            }
        }

        /// The spellings of Python's are other words for what the crate has.
        #[test]
        fn the_spellings_of_python_are_other_words_for_these(bound in any_version(), version in any_version()) {
            let Version { major, minor, patch, .. } = bound;
            let theirs = |text: String| VersionReq::parse(&text).unwrap().matches(&version);
            let ours = |text: String| Specifier::parse(&text).unwrap().matches(&version);
            prop_assert_eq!(ours(format!("=={bound}")), theirs(format!("={bound}")));
            prop_assert_eq!(ours(format!("=={major}.{minor}")), theirs(format!("={major}.{minor}.0")));
            prop_assert_eq!(ours(format!("=={major}.{minor}.*")), theirs(format!("{major}.{minor}.*")));
            prop_assert_eq!(
                ours(format!("!={bound}")), theirs("*".into()) && version.cmp_precedence(&bound).is_ne(), "{} {}", bound, version
            );
            if let (Some(next_minor), Some(next_major)) = (minor.checked_add(1), major.checked_add(1)) {
                let below = format!(", <{major}.{next_minor}.0");
                prop_assert_eq!(ours(format!("~={bound}")), theirs(format!(">={bound}{below}")), "{} {}", bound, version);
                let below = format!(", <{next_major}.0.0");
                prop_assert_eq!(ours(format!("~={major}.{minor}")), theirs(format!(">={major}.{minor}.0{below}")));
            }
            let _ = patch;
        }

        #[test]
        fn no_text_panics(text in "[-0-9.^~=<>!*x, +a-z]{0,40}", version in any_version()) {
            if let Ok(specifier) = Specifier::parse(&text) {
                let _ = specifier.highest([&version]);
                prop_assert_eq!(Specifier::parse(&specifier.to_string()).unwrap(), specifier);
            }
        }
    }
}
