//! What two ends agree on in `Hello` and `Welcome`: one protocol version, and a set of named features.
//!
//! The protocol has a version of its own, independent of any crate's. Both ends name a range, the supervisor picks the
//! highest common one. Within a version, features may be added: one that either end does not name is not used.

use serde::{Deserialize, Serialize};

/// The versions this crate speaks.
pub const PROTOCOL: VersionRange = VersionRange { min: 1, max: 1 };

/// Every feature this crate knows, in the order in which they are offered.
pub const FEATURES: [Feature; 4] = [Feature::Streams, Feature::Continue, Feature::Configure, Feature::SelfTest];

/// An inclusive range of protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest version understood.
    pub min: u16,
    /// The newest version understood.
    pub max: u16,
}

/// A named feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// `streams`: `StreamOpen` and what follows it, in both directions.
    Streams,
    /// `continue`: payloads above the frame limit, in pieces marked `MORE`.
    Continue,
    /// `configure`: a plugin can be configured anew while it runs.
    Configure,
    /// `self_test`: a plugin tests itself when it is asked to.
    SelfTest,
}

impl Feature {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Continue => "continue",
            Self::Configure => "configure",
            Self::SelfTest => "self_test",
        }
    }
}

/// The highest version in both ranges, if there is one.
#[must_use]
pub fn common_version(ours: VersionRange, theirs: VersionRange) -> Option<u16> {
    let highest = ours.max.min(theirs.max);
    (theirs.min <= theirs.max && ours.min <= highest && theirs.min <= highest).then_some(highest)
}

/// The features of ours that the other end names as well.
#[must_use]
pub fn common_features(theirs: &[String]) -> Vec<String> {
    FEATURES
        .iter()
        .map(|feature| feature.name())
        .filter(|name| theirs.iter().any(|t| t == name))
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_wins() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(common_version(range(1, 3), range(2, 5)), Some(3));
        assert_eq!(common_version(range(1, 1), range(1, 9)), Some(1));
        assert_eq!(common_version(range(2, 3), range(4, 5)), None);
        assert_eq!(common_version(range(4, 5), range(2, 3)), None);
        assert_eq!(common_version(range(1, 3), range(3, 2)), None, "a range that ends before it begins holds nothing");
    }

    #[test]
    fn only_features_that_both_name_are_used() {
        let theirs = ["teleport".to_owned(), "streams".to_owned()];
        assert_eq!(common_features(&theirs), ["streams"]);
    }
}
