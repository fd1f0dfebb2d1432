//! The names of things: plugins, their versions, their generations and their actions.
//!
//! A name that exists has been checked: whoever holds a `PluginId` may make a path, a cgroup name or a log field of it.
//! Cloning one costs a counter, as every call and every log line carries some.
//!
//! Elsewhere: which plugin a name means, and whether it exists, is the registry's business.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use semver::Version;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Long enough for any honest name, short enough for a file, a cgroup, a column, and with an action for one name of a tool.
pub const PLUGIN_ID_BYTES_MAX: usize = 40;

/// The same.
pub const ACTION_NAME_BYTES_MAX: usize = 40;

/// Long enough for what others call theirs, short enough for a line.
pub const SECRET_NAME_BYTES_MAX: usize = 64;

/// Calls to this id are administrative operations of the daemon itself, so no plugin may have it.
pub const RESERVED_ID: &str = "palisade";

/// Why a text names nothing. Each says what is wrong with it, never only that something is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLong { what: &'static str, bytes: usize, bytes_max: usize },
    #[error("{what} begins with {found:?}; it has to begin with {allowed}")]
    Beginning { what: &'static str, found: char, allowed: &'static str },
    #[error("{what} contains {found:?} at byte {at}; allowed are {allowed}")]
    Character { what: &'static str, found: char, at: usize, allowed: &'static str },
    #[error("`{RESERVED_ID}` is the daemon's own id and cannot be a plugin's")]
    Reserved,
    #[error("{text:?} is not of the form ID@VERSION")]
    NoVersion { text: String },
    #[error(transparent)]
    Version(#[from] super::version::VersionError),
}

/// The name of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginId(Arc<str>);

impl PluginId {
    /// Accepts `[a-z][a-z0-9_-]*` of at most 40 bytes, except the reserved id.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "plugin id";
        const ALLOWED: &str = "lower-case letters a-z, digits, `_` and `-`";
        let first = check_length(WHAT, text, PLUGIN_ID_BYTES_MAX)?;
        if !first.is_ascii_lowercase() {
            return Err(NameError::Beginning { what: WHAT, found: first, allowed: "a lower-case letter a-z" });
        }
        for (at, found) in text.char_indices() {
            if !matches!(found, 'a'..='z' | '0'..='9' | '_' | '-') {
                return Err(NameError::Character { what: WHAT, found, at, allowed: ALLOWED });
            }
        }
        if text == RESERVED_ID {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an action of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionName(Arc<str>);

impl ActionName {
    /// Accepts `[A-Za-z][A-Za-z0-9_.-]*` of at most 40 bytes.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_word("action name", text, ACTION_NAME_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a secret, as a plugin asks for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(Arc<str>);

impl SecretName {
    /// Accepts `[A-Za-z][A-Za-z0-9_.-]*` of at most 64 bytes.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_word("name of a secret", text, SECRET_NAME_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the names fulfil that plugins use among their own.
fn check_word(what: &'static str, text: &str, bytes_max: usize) -> Result<(), NameError> {
    const ALLOWED: &str = "letters A-Z and a-z, digits, `_`, `.` and `-`";
    let first = check_length(what, text, bytes_max)?;
    if !first.is_ascii_alphabetic() {
        return Err(NameError::Beginning { what, found: first, allowed: "a letter A-Z or a-z" });
    }
    for (at, found) in text.char_indices() {
        if !found.is_ascii_alphanumeric() && !matches!(found, '_' | '.' | '-') {
            return Err(NameError::Character { what, found, at, allowed: ALLOWED });
        }
    }
    Ok(())
}

/// What every name has to fulfil before its characters are looked at.
fn check_length(what: &'static str, text: &str, bytes_max: usize) -> Result<char, NameError> {
    if bytes_max < text.len() {
        return Err(NameError::TooLong { what, bytes: text.len(), bytes_max });
    }
    text.chars().next().ok_or(NameError::Empty { what })
}

macro_rules! text_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        /// Maps keyed by the name can be asked with a plain `&str`, without checking or copying it first.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_name!(PluginId);
text_name!(ActionName);
text_name!(SecretName);

/// The number of one process of a plugin. Never used twice, so that late news of an old one cannot touch its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The first number that is given out. Zero is never a generation.
    pub const FIRST: Self = Self(1);

    /// The number after this one. A start every nanosecond would take five centuries to run out of them.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One version of one plugin: what a machine of `plugin` is about. Written `id@version`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    pub id: PluginId,
    /// The crate keeps short pre-release and build parts inline, so cloning a version allocates nothing either.
    pub version: Version,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.version)
    }
}

impl FromStr for Instance {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((id, version)) = text.split_once('@') else {
            return Err(NameError::NoVersion { text: text.chars().take(PLUGIN_ID_BYTES_MAX).collect() });
        };
        Ok(Self { id: PluginId::parse(id)?, version: super::version::parse(version)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_ids_of_the_right_form_are_taken() {
        for text in
            ["a", "echo", "a1", "file-search", "x-1-2", "a_b", "a-", "a--b", "a".repeat(40).as_str(), "palisade-extra"]
        {
            assert_eq!(PluginId::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn every_wrong_plugin_id_is_told_what_is_wrong() {
        let long = "a".repeat(300);
        for (text, message) in [
            ("", "plugin id is empty"),
            (long.as_str(), "plugin id has 300 bytes; at most 40 are allowed"),
            ("../x", "plugin id begins with '.'; it has to begin with a lower-case letter a-z"),
            ("1st", "plugin id begins with '1'; it has to begin with a lower-case letter a-z"),
            ("-a", "plugin id begins with '-'; it has to begin with a lower-case letter a-z"),
            ("ünder", "plugin id begins with 'ü'; it has to begin with a lower-case letter a-z"),
            ("palisade", "`palisade` is the daemon's own id and cannot be a plugin's"),
        ] {
            assert_eq!(PluginId::parse(text).unwrap_err().to_string(), message, "{text:?}");
        }
        for (text, found, at) in [
            ("a\0b", '\0', 1),
            ("cgroup.procs", '.', 6),
            ("a/b", '/', 1),
            ("aB", 'B', 1),
            ("a-é", 'é', 2),
            ("a-.b", '.', 2),
            ("a b", ' ', 1),
            ("a\n", '\n', 1),
        ] {
            let NameError::Character { found: said, at: place, .. } = PluginId::parse(text).unwrap_err() else {
                panic!("{text:?}");
            };
            assert_eq!((said, place), (found, at), "{text:?}");
        }
    }

    #[test]
    fn action_names_are_checked() {
        for text in ["evaluate", "Files.read_all", "a-b", "x".repeat(40).as_str()] {
            assert_eq!(ActionName::parse(text).unwrap().as_str(), text);
        }
        for text in ["", ".a", "1a", "_a", "a b", "a/b", "é", "a\0", "x".repeat(41).as_str()] {
            assert!(ActionName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_travel_through_json_and_are_checked_on_the_way_in() {
        let instance: Instance = "echo@1.2.3-rc.1".parse().unwrap();
        let json = serde_json::to_string(&instance).unwrap();
        assert_eq!(json, r#"{"id":"echo","version":"1.2.3-rc.1"}"#);
        assert_eq!(serde_json::from_str::<Instance>(&json).unwrap(), instance);
        assert_eq!(instance.to_string(), "echo@1.2.3-rc.1");
        assert!(serde_json::from_str::<PluginId>(r#""../x""#).unwrap_err().to_string().contains("begins with '.'"));
        assert_eq!("echo".parse::<Instance>(), Err(NameError::NoVersion { text: "echo".into() }));
        assert_eq!(serde_json::to_string(&Generation(7)).unwrap(), "7");
    }

    #[test]
    fn a_map_by_id_answers_to_plain_text() {
        let map = std::collections::HashMap::from([(PluginId::parse("echo").unwrap(), 1)]);
        assert_eq!(map.get("echo"), Some(&1));
        assert!(!map.contains_key("other"));
    }
}
