//! The table `[reload]`, and `[plugins.ID.reload]` of one plugin: what follows once another package has taken the place of one.
//!
//! Elsewhere: what is done with it is `packages::reload`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// How many packages that served before are kept of a plugin, unless the operator says otherwise.
const BACKUPS: u32 = 5;

/// One at least: what a plugin had kept in an older form is kept with the package before, to which a failure leads back.
const BACKUPS_BOUNDS: RangeInclusive<i64> = 1..=100;

/// For how long a failure leads back to the package before, unless the operator says otherwise.
const PROBATION: Duration = Duration::from_secs(30);

/// In seconds: a day at the most, as the package before is kept for as long.
const PROBATION_BOUNDS: RangeInclusive<i64> = 1..=86_400;

/// The table. What it does not say, the one for all plugins says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// So many packages that served before are kept.
    #[serde(default, deserialize_with = "backups")]
    backups: Option<u32>,
    /// A failure within so long leads back.
    #[serde(default, deserialize_with = "probation")]
    probation_seconds: Option<Duration>,
}

impl Reload {
    /// What holds where something is said of one plugin.
    #[must_use]
    pub fn or(self, all: Self) -> Self {
        Self {
            backups: self.backups.or(all.backups),
            probation_seconds: self.probation_seconds.or(all.probation_seconds),
        }
    }

    /// How many packages that served before are kept.
    #[must_use]
    pub fn backups(self) -> u32 {
        self.backups.unwrap_or(BACKUPS)
    }

    /// For how long a failure leads back.
    #[must_use]
    pub fn probation(self) -> Duration {
        self.probation_seconds.unwrap_or(PROBATION)
    }
}

fn backups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = within("backups", BACKUPS_BOUNDS, i64::deserialize(deserializer)?)?;
    u32::try_from(number).map(Some).map_err(D::Error::custom)
}

fn probation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = within("probation_seconds", PROBATION_BOUNDS, i64::deserialize(deserializer)?)?;
    u64::try_from(seconds).map(Duration::from_secs).map(Some).map_err(D::Error::custom)
}

fn within<T: PartialOrd + Display, E: Error>(name: &str, bounds: RangeInclusive<T>, found: T) -> Result<T, E> {
    if bounds.contains(&found) {
        return Ok(found);
    }
    Err(E::custom(format!("{name} is {found}; it can be from {} to {}", bounds.start(), bounds.end())))
}
