//! What is required of a package before it is used, and what it says of its own origin.
//!
//! Invariants: a name of a key, a time and a signature that exist have been checked, so that they can be part of what is signed. A key
//! that is revoked, or not meant for a plugin's id, signs nothing.
//! Elsewhere: bytes are hashed, signed and verified in `trust`; where the keys stand is `config::trust`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::ids::PluginId;

/// Both kinds of signature are shorter.
pub const SIGNATURE_BYTES_MAX: usize = 64;

/// Unless the operator says otherwise, the clocks of two hosts may differ by so much.
pub const SKEW: Duration = Duration::from_secs(300);

/// What has to hold for a package of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Nothing.
    #[default]
    None,
    /// The manifest says the digest of the package.
    Checksum,
    /// And it is signed by a key that is trusted.
    Signature,
}

impl Policy {
    /// All of them, as they are written.
    pub const NAMES: [(&str, Self); 3] =
        [("none", Self::None), ("checksum", Self::Checksum), ("signature", Self::Signature)];
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(named(&Self::NAMES, *self))
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_of(&Self::NAMES, text)
    }
}

/// How a manifest is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// With a private key, of which the daemon knows the public one.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// With a key that whoever signs and the daemon share.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
}

impl Method {
    /// All of them, as they are written.
    pub const NAMES: [(&str, Self); 2] = [("ed25519", Self::Ed25519), ("hmac-sha256", Self::HmacSha256)];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(named(&Self::NAMES, *self))
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_of(&Self::NAMES, text)
    }
}

fn named<T: PartialEq>(names: &'static [(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, named)| *named == value).map_or("", |(name, _)| name)
}

fn one_of<T: Copy>(names: &[(&str, T)], text: &str) -> Result<T, String> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
        format!("{text:?} is none of {}", names.join(", "))
    })
}

/// What a key is called, in the configuration and in signatures.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyName(String);

impl KeyName {
    /// What such a name may be.
    pub const ALLOWED: &str =
        "the name of a key: at most 64 letters, digits, `.`, `_` and `-`, beginning with a letter or digit";

    /// Accepts what fits into one word of a signed text and into a file's name.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if plain && begins && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("it has to be {}", Self::ALLOWED))
        }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The SHA-256 of a package's tree, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum(String);

impl Checksum {
    /// What such a text may be.
    pub const ALLOWED: &str = "64 lower-case hexadecimal digits";

    /// Accepts the one form there is of a digest.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(text.to_owned())) } else { Err(format!("it has to be {}", Self::ALLOWED)) }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A time as a signature has it: RFC 3339 in UTC, kept as it is written, because that is what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedAt {
    text: String,
    time: SystemTime,
}

impl SignedAt {
    /// What such a text may be.
    pub const ALLOWED: &str = "a time in UTC such as 2026-01-31T12:00:00Z";

    /// Accepts whole seconds in UTC.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let time = humantime::parse_rfc3339(text).ok().filter(|_| text.len() == "2026-01-31T12:00:00Z".len());
        let time = time.ok_or_else(|| format!("it has to be {}", Self::ALLOWED))?;
        Ok(Self { text: text.to_owned(), time })
    }

    /// This time, without its fraction of a second.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let text = humantime::format_rfc3339_seconds(time).to_string();
        Self { text, time }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is one that a signature may have now.
    ///
    /// # Errors
    /// It lies too far in the past, or in the future.
    pub fn check(&self, now: SystemTime, age_max: Option<Duration>, skew: Duration) -> Result<(), Untimely> {
        match now.duration_since(self.time) {
            Ok(age) if age_max.is_some_and(|most| most + skew < age) => Err(Untimely::TooOld),
            Ok(_) => Ok(()),
            Err(ahead) if skew < ahead.duration() => Err(Untimely::InTheFuture),
            Err(_) => Ok(()),
        }
    }
}

/// What is wrong with the time of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untimely {
    /// Older than the configuration allows.
    TooOld,
    /// Later than now, by more than clocks may differ.
    InTheFuture,
}

/// The signature in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// How it was made.
    pub method: Method,
    /// By which key.
    pub key_id: KeyName,
    /// The signature itself.
    pub value: Vec<u8>,
    /// When, as whoever signed says.
    pub signed_at: SignedAt,
}

impl Signature {
    /// What the text of the signature itself may be.
    pub const ALLOWED: &str = "a signature of at most 64 bytes in base64";

    /// Reads the text of the signature itself.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse_value(text: &str) -> Result<Vec<u8>, String> {
        let value = STANDARD.decode(text).ok().filter(|value| (1..=SIGNATURE_BYTES_MAX).contains(&value.len()));
        value.ok_or_else(|| format!("it has to be {}", Self::ALLOWED))
    }
}

/// The ids that a key may sign for: exact ones, and beginnings that end in `*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Ids(Vec<String>);

impl Ids {
    /// Whether that id is among them.
    #[must_use]
    pub fn allow(&self, id: &PluginId) -> bool {
        self.0.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => id.as_str().starts_with(beginning),
            None => id.as_str() == allowed,
        })
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.join(", "))
    }
}

impl TryFrom<Vec<String>> for Ids {
    type Error = String;

    fn try_from(ids: Vec<String>) -> Result<Self, String> {
        for id in &ids {
            let wrong = match id.strip_suffix('*') {
                Some("") => None,
                // A beginning may end in the hyphen that joins it to the rest.
                Some(beginning) => PluginId::parse(beginning.strip_suffix('-').unwrap_or(beginning)).err(),
                None => PluginId::parse(id).err(),
            };
            if let Some(why) = wrong {
                return Err(format!("{id:?} is no id and no beginning of ids that ends in `*`: {why}"));
            }
        }
        Ok(Self(ids))
    }
}

/// A key that the configuration has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// What it verifies with.
    pub material: Material,
    /// What it may sign for.
    pub ids: Ids,
    /// Why it is not trusted any more, if it is not.
    pub revoked: Option<String>,
}

/// What signatures are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// An Ed25519 public key.
    Public([u8; 32]),
    /// A file with a shared key.
    File(PathBuf),
}

impl Material {
    /// How signatures by it are made.
    #[must_use]
    pub fn method(&self) -> Method {
        match self {
            Self::Public(_) => Method::Ed25519,
            Self::File(_) => Method::HmacSha256,
        }
    }
}

/// What the operator requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Of packages of a source for which nothing else is said.
    pub policy: Policy,
    /// Of packages beneath a folder.
    pub sources: BTreeMap<PathBuf, Policy>,
    /// Older signatures do not count.
    pub age_max: Option<Duration>,
    /// So far the clocks of whoever signs and of this host may differ.
    pub skew: Duration,
    /// Who may sign.
    pub keys: BTreeMap<KeyName, Trusted>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::None, sources: BTreeMap::new(), age_max: None, skew: SKEW, keys: BTreeMap::new() }
    }
}

impl Settings {
    /// What is required of a package in that folder: what is said of the innermost source that it lies in.
    #[must_use]
    pub fn policy_of(&self, package: &Path) -> Policy {
        let within = self.sources.iter().filter(|(source, _)| package.starts_with(source));
        within.max_by_key(|(source, _)| source.components().count()).map_or(self.policy, |(_, policy)| *policy)
    }

    /// The files with shared keys, which are nobody's to read.
    pub fn key_files(&self) -> impl Iterator<Item = &Path> {
        self.keys.values().filter_map(|key| match &key.material {
            Material::File(path) => Some(path.as_path()),
            Material::Public(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Result<Ids, String> {
        Ids::try_from(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_key_signs_for_the_ids_that_it_may() {
        let id = |text| PluginId::parse(text).unwrap();
        let some = ids(&["echo", "acme-*", "tool*"]).unwrap();
        for (text, allowed) in [
            ("echo", true),
            ("echo-two", false),
            ("acme-search", true),
            ("acme", false),
            ("acmesearch", false),
            ("not-acme-search", false),
            ("tool", true),
            ("toolbox", true),
        ] {
            assert_eq!(some.allow(&id(text)), allowed, "{text}");
        }
        assert!(ids(&["*"]).unwrap().allow(&id("any")) && !ids(&[]).unwrap().allow(&id("any")));
        for wrong in ["Echo", "a*b", "", "**", "palisade", "-a*"] {
            assert!(ids(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_signature_counts_within_its_age_and_what_clocks_may_differ() {
        let signed = SignedAt::parse("2026-01-31T12:00:00Z").unwrap();
        let at = |seconds: i64| {
            let second = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { signed.time - second } else { signed.time + second }
        };
        let (day, skew) = (Duration::from_secs(86_400), Duration::from_secs(60));
        for (seconds, outcome) in [
            (0, Ok(())),
            (-60, Ok(())),
            (-61, Err(Untimely::InTheFuture)),
            (86_460, Ok(())),
            (86_461, Err(Untimely::TooOld)),
        ] {
            assert_eq!(signed.check(at(seconds), Some(day), skew), outcome, "{seconds}");
        }
        assert_eq!(signed.check(at(1 << 32), None, skew), Ok(()));
    }

    #[test]
    fn a_time_has_one_form() {
        for text in ["2026-01-31T12:00:00Z", "2024-02-29T23:59:59Z"] {
            let parsed = SignedAt::parse(text).unwrap();
            assert_eq!(SignedAt::of(parsed.time), parsed);
        }
        for wrong in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00+00:00",
            "2026-01-31T12:00:00.5Z",
            "2026-02-30T12:00:00Z",
            "2026-01-31 12:00:00Z",
        ] {
            assert!(SignedAt::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_of_a_key_is_one_word() {
        for name in ["release", "r", "R-2026.1_b", &"x".repeat(64)] {
            assert!(KeyName::parse(name).is_ok(), "{name}");
        }
        for wrong in ["", ".hidden", "-x", "a b", "a\nb", "a/b", "ä", &"x".repeat(65)] {
            assert!(KeyName::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_innermost_source_decides() {
        let mut settings = Settings { policy: Policy::Checksum, ..Settings::default() };
        settings.sources.insert("/srv".into(), Policy::Signature);
        settings.sources.insert("/srv/dev".into(), Policy::None);
        for (package, policy) in [
            ("/srv/echo", Policy::Signature),
            ("/srv/dev/echo", Policy::None),
            ("/srv/dev", Policy::None),
            ("/srv/developer/echo", Policy::Signature),
            ("/home/echo", Policy::Checksum),
        ] {
            assert_eq!(settings.policy_of(Path::new(package)), policy, "{package}");
        }
    }
}
