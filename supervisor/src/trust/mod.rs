//! Whether a package is what it says it is, and whether somebody says so who is trusted.
//!
//! A manifest's `checksum` pins everything else in the package ([`tree`]), its `signature` pins the manifest ([`canonical`], [`signature`]), and the
//! configuration says which keys ([`keys`]) count for which plugins. The daemon asks [`Rules::check`] about the copy that will run, and the command
//! line about a folder: both get the same answers.
//!
//! Invariants: what is required and not there is refused; every refusal has a code of its own. Nothing is believed of a signature, its
//! time least of all, before it is verified.
//! Whether its program can run at all, and is built as it should be, is [`Rules::inspect`]'s answer ([`program`], [`elf`], [`libraries`]).
//! Elsewhere: what is required is `model::trust`, what follows from what is found `model::check`.

pub mod canonical;
pub mod elf;
pub mod keys;
pub mod libraries;
pub mod program;
pub mod seal;
pub mod signature;
pub mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use palisade_protocol::ErrorCode;

use self::canonical::CanonicalError;
use self::keys::NamedKey;
use self::libraries::System;
use self::program::Program;
use self::signature::VerifyingKey;
use crate::model::check::{Checks, Code, Finding, Verdict};
use crate::model::ids::PluginId;
use crate::model::manifest::Manifest;
use crate::model::trust::{KeyName, Material, Method, Policy, Settings, Signature, Untimely};

/// Why a package is not used. One variant for each thing that somebody can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It says no digest.
    #[error("plugin.json has no `checksum`, and {policy} is required of this source; `palisade sign` adds it")]
    NoChecksum {
        /// What is required.
        policy: Policy,
    },
    /// It is not what its manifest says.
    #[error(
        "the files are not those that plugin.json pins: its checksum is {pinned}, theirs is {found}; one was changed, added or taken away since"
    )]
    Modified {
        /// What the manifest says.
        pinned: String,
        /// What the package has.
        found: String,
    },
    /// Nobody has signed it.
    #[error("plugin.json has no `signature`, and one is required of this source; `palisade sign` adds it")]
    NoSignature,
    /// The configuration has no such key.
    #[error("it is signed by the key \"{key}\", which palisade.toml does not have; of `trust.keys` there: {known}")]
    UnknownKey {
        /// Which.
        key: KeyName,
        /// Those that it has.
        known: String,
    },
    /// The key is not trusted any more.
    #[error("it is signed by the key \"{key}\", which was revoked{}", .reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    RevokedKey {
        /// Which.
        key: KeyName,
        /// Why.
        reason: Option<String>,
    },
    /// The key cannot be had.
    #[error("it is signed by the key \"{key}\", which cannot be used: {why}")]
    UnusableKey {
        /// Which.
        key: KeyName,
        /// Why.
        why: String,
    },
    /// The key is another kind of key.
    #[error("its signature says {said}, and the key \"{key}\" is one for {method}")]
    Method {
        /// Which key.
        key: KeyName,
        /// What the signature says.
        said: Method,
        /// What the key is for.
        method: Method,
    },
    /// The key is for other plugins.
    #[error("it is signed by the key \"{key}\", which may not sign for `{id}`; it may for: {ids}")]
    NotAllowed {
        /// Which key.
        key: KeyName,
        /// The plugin.
        id: PluginId,
        /// What it may sign for.
        ids: String,
    },
    /// The manifest, or what is said with the signature, is not what was signed.
    #[error(
        "its signature is not one of the key \"{key}\" for this plugin.json: that was changed after it was signed, or another key of that name has signed it"
    )]
    Wrong {
        /// Which key.
        key: KeyName,
    },
    /// Signed too long ago.
    #[error("it was signed at {signed_at}, longer ago than the {days} days of `trust.max_age_days`; sign it again")]
    TooOld {
        /// When.
        signed_at: String,
        /// As much is allowed.
        days: u64,
    },
    /// Signed in the future.
    #[error(
        "it was signed at {signed_at}, which is in the future by more than `trust.clock_skew_seconds`; one of the two clocks is wrong"
    )]
    InTheFuture {
        /// When.
        signed_at: String,
    },
    /// It cannot have been signed.
    #[error(transparent)]
    NotCanonical(#[from] CanonicalError),
}

impl Refusal {
    /// Which error of the taxonomy it is.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoChecksum { .. } => ErrorCode::ChecksumMissing,
            Self::Modified { .. } => ErrorCode::IntegrityFailed,
            Self::NoSignature => ErrorCode::SignatureMissing,
            Self::UnknownKey { .. } => ErrorCode::KeyUnknown,
            Self::RevokedKey { .. } => ErrorCode::KeyRevoked,
            Self::UnusableKey { .. } => ErrorCode::KeyUnusable,
            Self::Method { .. } => ErrorCode::SignatureMethodMismatch,
            Self::NotAllowed { .. } => ErrorCode::KeyNotAllowed,
            Self::Wrong { .. } | Self::NotCanonical(_) => ErrorCode::SignatureInvalid,
            Self::TooOld { .. } => ErrorCode::SignatureExpired,
            Self::InTheFuture { .. } => ErrorCode::SignatureNotYetValid,
        }
    }
}

/// A package that is to be used.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// What its manifest says.
    pub manifest: &'a Manifest,
    /// The bytes that say it.
    pub bytes: &'a [u8],
    /// The checksum that it has.
    pub checksum: &'a str,
}

/// What was found of a package that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What was required.
    pub policy: Policy,
    /// Who signed it, where that was required.
    pub signature: Option<Signature>,
    /// What does not hold and was not required.
    pub warning: Option<String>,
}

/// What was found of a program.
#[derive(Debug)]
pub struct Inspected {
    /// Why it is not used, if it is not.
    pub refused: Option<String>,
    /// What is odd, and no reason.
    pub warnings: Vec<String>,
    /// All of it.
    pub findings: Vec<Finding>,
}

/// What is required, with the keys that were read for it.
#[derive(Debug, Default)]
pub struct Rules {
    settings: Settings,
    /// The same with the places that the sources lead to.
    resolved: Settings,
    keys: BTreeMap<KeyName, Result<VerifyingKey, String>>,
    checks: Checks,
    system: System,
}

impl Rules {
    /// Reads the keys. One that cannot be had verifies nothing, and the others do. Blocks.
    #[must_use]
    pub fn open(settings: Settings, checks: Checks) -> Self {
        let trusted = settings.keys.iter().filter(|(_, key)| key.revoked.is_none());
        let keys = trusted.map(|(name, key)| (name.clone(), read(&key.material))).collect();
        let mut resolved = settings.clone();
        resolved.sources = settings.sources.iter().map(|(path, policy)| (real(path), *policy)).collect();
        Self { settings, resolved, keys, checks, system: System::of_this_host() }
    }

    /// The keys that cannot be had, and why.
    pub fn unusable(&self) -> impl Iterator<Item = (&KeyName, &str)> {
        self.keys.iter().filter_map(|(name, key)| Some((name, key.as_ref().err()?.as_str())))
    }

    /// What [`Rules::inspect`] depends on beside the package, as text that is another where that is. Blocks.
    #[must_use]
    pub fn inspection(&self) -> String {
        format!("{:?}\n{}", self.checks, self.system.fingerprint())
    }

    /// Looks at the program of the package in that folder, where it is one that the kernel executes, and for the libraries that its
    /// manifest names. Blocks.
    ///
    /// # Errors
    /// The daemon is short of descriptors or memory, and cannot say.
    pub fn inspect(&self, package: &Path, manifest: &Manifest, program: Option<&Program>) -> io::Result<Inspected> {
        let entry = manifest.entry_point.as_str();
        let mut findings = libraries::declared(&manifest.libraries, &self.system, &self.checks)?;
        match program {
            Some(Program::Elf) => {
                findings.extend(libraries::inspect(package, entry, &self.system, &self.checks)?);
            }
            // It brings its interpreter itself.
            Some(Program::Script { interpreter, .. }) => {
                let detail = format!(
                    "is a script for {interpreter}, and plugin.json names no `runtime` that palisade.toml lists"
                );
                findings.push(Finding::new(Code::UnlistedInterpreter, entry, detail));
            }
            None => {}
        }
        Ok(self.judge(findings))
    }

    fn judge(&self, findings: Vec<Finding>) -> Inspected {
        let told = |verdict| self.checks.judged(&findings, verdict).map(ToString::to_string).collect::<Vec<_>>();
        let (refused, warnings) = (told(Verdict::Refuse), told(Verdict::Warn));
        Inspected { refused: (!refused.is_empty()).then(|| refused.join("; ")), warnings, findings }
    }

    /// What is required of a package in that folder.
    #[must_use]
    pub fn policy_of(&self, folder: &Path) -> Policy {
        if self.settings.sources.is_empty() {
            return self.settings.policy_of(folder);
        }
        // A source may be named by a link. What is found in one belongs to it, wherever a link in it leads.
        let resolved = match (folder.parent(), folder.file_name()) {
            (Some(parent), Some(name)) => real(parent).join(name),
            _ => folder.to_owned(),
        };
        self.settings.policy_of(folder).max(self.resolved.policy_of(&resolved))
    }

    /// Whether a package may be used.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, candidate: Candidate<'_>, policy: Policy, now: SystemTime) -> Result<Held, Refusal> {
        let pinned = match (&candidate.manifest.checksum, policy) {
            (None, Policy::None) => Ok(()),
            (None, Policy::Checksum | Policy::Signature) => Err(Refusal::NoChecksum { policy }),
            (Some(pinned), _) if pinned.as_str() == candidate.checksum => Ok(()),
            (Some(pinned), _) => {
                Err(Refusal::Modified { pinned: pinned.as_str().to_owned(), found: candidate.checksum.to_owned() })
            }
        };
        let held = |signature| Held { policy, signature, warning: None };
        match (policy, pinned) {
            (Policy::None, Err(odd)) => Ok(Held { warning: Some(odd.to_string()), ..held(None) }),
            (_, Err(refusal)) => Err(refusal),
            (Policy::None | Policy::Checksum, Ok(())) => Ok(held(None)),
            (Policy::Signature, Ok(())) => {
                let signature = candidate.manifest.signature.as_ref().ok_or(Refusal::NoSignature)?;
                self.verify(candidate, signature, now)?;
                Ok(held(Some(signature.clone())))
            }
        }
    }

    /// Whose signature a package has, if that is one that would be required of it: good, of a key that is trusted, and not too old.
    #[must_use]
    pub fn signer(&self, candidate: Candidate<'_>, now: SystemTime) -> Option<KeyName> {
        self.check(candidate, Policy::Signature, now).ok()?.signature.map(|signature| signature.key_id)
    }

    fn verify(&self, candidate: Candidate<'_>, signature: &Signature, now: SystemTime) -> Result<(), Refusal> {
        let Settings { age_max, skew, keys, .. } = &self.settings;
        let key = signature.key_id.clone();
        let Some(trusted) = keys.get(&key) else {
            let known: Vec<_> = keys.keys().map(|name| format!("\"{name}\"")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Refusal::UnknownKey { key, known });
        };
        if let Some(reason) = &trusted.revoked {
            return Err(Refusal::RevokedKey { key, reason: Some(reason.clone()).filter(|reason| !reason.is_empty()) });
        }
        let method = trusted.material.method();
        if signature.method != method {
            return Err(Refusal::Method { key, said: signature.method, method });
        }
        let id = &candidate.manifest.id;
        if !trusted.ids.allow(id) {
            return Err(Refusal::NotAllowed { key, id: id.clone(), ids: trusted.ids.to_string() });
        }
        match self.keys.get(&key) {
            Some(Ok(verifying)) if verifying.verify(candidate.bytes, signature)? => {}
            Some(Ok(_)) => return Err(Refusal::Wrong { key }),
            Some(Err(why)) => return Err(Refusal::UnusableKey { key, why: why.clone() }),
            None => return Err(Refusal::UnusableKey { key, why: "it was not read".to_owned() }),
        }
        let signed_at = signature.signed_at.as_str().to_owned();
        signature.signed_at.check(now, *age_max, *skew).map_err(|untimely| match untimely {
            Untimely::TooOld => {
                Refusal::TooOld { signed_at, days: age_max.unwrap_or_default().as_secs().div_ceil(24 * 3600) }
            }
            Untimely::InTheFuture => Refusal::InTheFuture { signed_at },
        })
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn read(material: &Material) -> Result<VerifyingKey, String> {
    match material {
        Material::Public(bytes) => VerifyingKey::public(bytes),
        Material::File(path) => {
            let found = NamedKey::read(path).map_err(|error| error.to_string())?;
            if found.key.method() != Method::HmacSha256 {
                return Err(format!("{} holds a private key, which belongs to whoever signs alone", path.display()));
            }
            Ok(found.key.verifying())
        }
    }
}

#[cfg(test)]
mod tests;
