//! Who decides about what a plugin asks for, and how: the configuration, a rule of its policy, an operator, or nobody yet.
//!
//! For each thing that is asked for, the first of these that has a word on it decides:
//! 1. `plugins.ID.grant`, where the configuration has it: what it does not grant is denied;
//! 2. a rule, or the policy itself, that denies;
//! 3. what an operator said, as long as the plugin is signed by whom it was then, or comes from where it came from then;
//! 4. a rule, or the policy itself, that allows.
//!
//! What is left waits for an operator, and the plugin with it. A denial is an answer: the plugin runs without.
//!
//! Invariants: nothing is granted that was not asked for; an answer holds for what is part of it and for nothing more, so whatever grew
//! is asked for again. A rule that denies a part of what is asked for denies all of it, as no part can be taken out.
//! Elsewhere: answers are kept by `store::database`; what follows from a decision is `packages`' business.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::grants::{Asked, Grants};
use super::item::Item;
use crate::model::ids::PluginId;
use crate::model::manifest::PermissionRequest;
use crate::model::trust::KeyName;

/// What becomes of what is asked for, if no operator has said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is granted.
    Allow,
    /// An operator is asked.
    #[default]
    Ask,
    /// It is not granted, and nobody is asked.
    Deny,
}

/// What the configuration says about permissions of plugins of which it says nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What holds where no rule fits.
    pub answer: Answer,
    /// The first that fits decides.
    pub rules: Vec<Rule>,
    /// Whether an operator is asked about actions that are new or defined otherwise; if not said, about those of what was installed.
    pub definitions: Option<Definitions>,
}

/// What becomes of an action that is new in a version, or defined otherwise than in the one that was agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Definitions {
    /// It is taken as it is.
    Allow,
    /// An operator is asked.
    Ask,
}

/// One rule. What it does not name, it does not ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A permission without a scope means whatever scope there is; none means every permission.
    pub about: Vec<Item>,
    /// The folder that the package lies in, or that it was installed from.
    pub source: Option<PathBuf>,
    /// Who signed it.
    pub key: Option<KeyName>,
    /// What follows.
    pub answer: Answer,
}

impl Rule {
    fn is_for(&self, package: Origin<'_>) -> bool {
        self.source.as_ref().is_none_or(|source| package.source.starts_with(source))
            && self.key.as_ref().is_none_or(|key| package.signer == Some(key))
    }

    fn fits(&self, item: &Item) -> bool {
        self.about.is_empty()
            || self.about.iter().any(|about| match self.answer {
                Answer::Allow => about.covers(item),
                Answer::Ask | Answer::Deny => about.touches(item),
            })
    }
}

/// Where a package comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The folder that it lies in, or that it was installed from.
    pub source: &'a Path,
    /// Whose signature it has, if that is a good one of a key that is trusted.
    pub signer: Option<&'a KeyName>,
}

impl Origin<'_> {
    /// The folder in which it was, beside other packages.
    #[must_use]
    pub fn place(&self) -> &Path {
        self.source.parent().unwrap_or(self.source)
    }
}

/// What an operator said of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub item: Item,
    pub word: Word,
    /// Whose signature the version had of which it was said,
    pub key: Option<KeyName>,
    /// and where that lay, or was installed from: the folder that it was in.
    pub place: PathBuf,
    pub at_unix_ms: u64,
    /// `uid:0`, or whoever else it was.
    pub who: String,
    /// The version of which it was said, and the digest of its snapshot.
    pub version: String,
    pub digest: String,
}

/// The answers that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Granted,
    Denied,
    /// Less was granted than was asked for; what it was is said for itself.
    Narrowed,
}

impl Word {
    /// All of them, as they are written.
    pub const NAMES: [(&str, Self); 3] =
        [("granted", Self::Granted), ("denied", Self::Denied), ("narrowed", Self::Narrowed)];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, word)| *word == self).map_or("", |(name, _)| name)
    }

    /// The one that is written so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(there, _)| *there == name).map(|(_, word)| *word)
    }
}

/// What becomes of one thing that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Granted,
    Denied,
    /// An operator has to say.
    Asked,
}

/// One thing that is asked for, and what was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub item: Item,
    /// Why the plugin wants it, by its manifest.
    pub reason: Option<String>,
    pub decision: Decision,
    /// Who decided: an operator, as `uid:0`, or the place in the configuration.
    pub by: Option<String>,
    pub at_unix_ms: Option<u64>,
}

/// What a plugin may do, and what is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub grants: Grants,
    pub items: Vec<Decided>,
    /// What is odd about the configuration, a sentence each.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// What an operator has to say something about.
    pub fn asked(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|decided| decided.decision == Decision::Asked).map(|decided| &decided.item)
    }
}

/// What is asked for, each thing by itself and once, with the first reason that is given for it.
#[must_use]
pub fn items(requests: &[PermissionRequest]) -> Vec<(Item, Option<String>)> {
    let mut items: Vec<(Item, Option<String>)> = Vec::new();
    for PermissionRequest { permission, scope, reason } in requests {
        let scopes = scope.as_ref().map_or(vec![None], |scopes| scopes.iter().map(|one| Some(one.as_str())).collect());
        // The manifest was read, so there is none that is wrong.
        for item in scopes.into_iter().filter_map(|scope| Item::new(permission, scope).ok()) {
            match items.iter_mut().find(|(there, _)| *there == item) {
                Some((_, there)) => *there = there.take().or_else(|| reason.clone()),
                None => items.push((item, reason.clone())),
            }
        }
    }
    items
}

/// How an action is other than what was agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// There was none of that name.
    New,
    /// What agents are told of it is something else.
    Changed,
}

impl Change {
    /// What is said of such an action.
    #[must_use]
    pub fn of(self, action: &str) -> String {
        match self {
            Self::New => format!("the action {action}, which is new"),
            Self::Changed => format!("the action {action}, which is defined otherwise now"),
        }
    }
}

/// Names of actions, each with the digest of how it is defined.
pub type Agreed = BTreeSet<(String, String)>;

/// How an action that is defined in one of these ways, which come to the same, is other than what was agreed to. Of a plugin of which
/// nothing is known nothing is: that is its first.
#[must_use]
pub fn change(agreed: &Agreed, action: &str, digests: &[String]) -> Option<Change> {
    let from = (action.to_owned(), String::new());
    let mut known = agreed.range(from..).take_while(|(there, _)| there == action).peekable();
    if agreed.is_empty() {
        None
    } else if known.peek().is_none() {
        Some(Change::New)
    } else if known.any(|(_, there)| digests.contains(there)) {
        None
    } else {
        Some(Change::Changed)
    }
}

/// All that was decided about one version, for whoever starts it or shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consent {
    pub verdict: Verdict,
    /// The actions that an operator has to agree to.
    pub changed: Vec<(String, Change)>,
    /// Nobody has agreed to its actions, or that was forgotten.
    pub is_unknown: bool,
    /// Every action that there is an interest in, with the digest of its definition.
    pub definitions: Vec<(String, String)>,
    /// Whether an operator is asked about actions that are new or defined otherwise.
    pub asks_about_definitions: bool,
    /// Whether it was installed, and does not lie in a plugin directory.
    pub is_installed: bool,
    /// Whose good signature it has.
    pub signer: Option<KeyName>,
    /// The folder that it lies in, or that it was installed from.
    pub source: PathBuf,
}

impl Consent {
    /// What an operator has to say something about, each a text. While there is anything, it is not started.
    #[must_use]
    pub fn awaited(&self) -> Vec<String> {
        let unknown =
            self.is_unknown.then(|| "its actions, as it is not known that anybody has agreed to them".to_owned());
        let changed = self.changed.iter().filter(|_| !self.is_unknown).map(|(action, change)| change.of(action));
        self.verdict.asked().map(ToString::to_string).chain(unknown).chain(changed).collect()
    }

    /// Whether there is anything.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.verdict.asked().next().is_some() || self.is_unknown || !self.changed.is_empty()
    }
}

/// A plugin about which is decided.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    pub id: &'a PluginId,
    /// What its manifest asks for, as it is shown and as it is compared.
    pub requests: &'a [PermissionRequest],
    pub asked: &'a Asked,
    pub origin: Origin<'a>,
    /// `plugins.ID.grant`, where the configuration has it.
    pub configured: Option<&'a Grants>,
    pub policy: &'a Policy,
    /// What operators said of this id.
    pub said: &'a [Said],
}

/// What decides, if it is neither an operator nor the plugin's own table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    pub answer: Answer,
    /// The place in the configuration.
    pub by: String,
}

impl Policy {
    /// What it says of a thing that such a package asks for.
    #[must_use]
    pub fn ruling(&self, item: &Item, origin: Origin<'_>) -> Ruling {
        let found = self.rules.iter().enumerate().find(|(_, rule)| rule.is_for(origin) && rule.fits(item));
        match found {
            Some((index, Rule { answer, key: Some(key), .. })) => {
                Ruling { answer: *answer, by: format!("permissions.rules[{index}], for the key {key}") }
            }
            Some((index, rule)) => Ruling { answer: rule.answer, by: format!("permissions.rules[{index}]") },
            None => Ruling { answer: self.answer, by: "permissions.policy".to_owned() },
        }
    }

    /// What its rules grant of something that is asked for without a scope.
    fn offered<'a>(&'a self, open: &'a Item, origin: Origin<'a>) -> impl Iterator<Item = (Item, Ruling)> + 'a {
        let allowing = self.rules.iter().filter(move |rule| rule.answer == Answer::Allow && rule.is_for(origin));
        let scopes = allowing.flat_map(|rule| &rule.about).filter(|about| !about.is_open() && open.covers(about));
        let ruled = scopes.map(move |about| (about.clone(), self.ruling(about, origin)));
        // An earlier rule may have denied it.
        ruled.filter(|(_, ruling)| ruling.answer == Answer::Allow)
    }
}

impl Case<'_> {
    /// Decides about all that is asked for.
    #[must_use]
    pub fn decide(&self) -> Verdict {
        if let Some(configured) = self.configured {
            return self.configured(configured);
        }
        let mut decided: Vec<Decided> = Vec::new();
        for (item, reason) in items(self.requests) {
            for one in self.about(item, reason.as_deref()) {
                if !decided.iter().any(|there| there.item == one.item) {
                    decided.push(one);
                }
            }
        }
        let granted: Vec<_> =
            decided.iter().filter(|one| one.decision == Decision::Granted).map(|one| one.item.value()).collect();
        match Grants::parse(&granted) {
            Ok(grants) => Verdict { grants: grants.within(self.asked).0, items: decided, warnings: Vec::new() },
            // Only where answers of many years come together.
            Err(error) => Verdict {
                grants: Grants::default(),
                items: decided,
                warnings: vec![format!("what was granted cannot be had together: {error}; it has none of it")],
            },
        }
    }

    /// `plugins.ID.grant` says all there is to say.
    fn configured(&self, configured: &Grants) -> Verdict {
        let by = Some(format!("plugins.{}.grant", self.id));
        let (grants, warnings) = configured.within(self.asked);
        let granted: Vec<Item> = grants.names().iter().filter_map(|name| Item::parse(name).ok()).collect();
        let asked = items(self.requests);
        let reason_of = |item: &Item| asked.iter().find(|(one, _)| one.covers(item)).and_then(|(_, why)| why.clone());
        let one = |item: Item, reason, decision| Decided { item, reason, decision, by: by.clone(), at_unix_ms: None };
        let mut decided: Vec<_> =
            granted.iter().map(|item| one(item.clone(), reason_of(item), Decision::Granted)).collect();
        for (item, reason) in &asked {
            if !granted.iter().any(|granted| granted.covers(item) || item.covers(granted)) {
                decided.push(one(item.clone(), reason.clone(), Decision::Denied));
            }
        }
        Verdict { grants, items: decided, warnings }
    }

    /// What becomes of one thing; of something without a scope, or with a wide one, there may be several answers.
    fn about(&self, item: Item, reason: Option<&str>) -> Vec<Decided> {
        let reason = reason.map(str::to_owned);
        let one = |item: Item, decision, by: Option<String>, at_unix_ms| Decided {
            item,
            reason: reason.clone(),
            decision,
            by,
            at_unix_ms,
        };
        let Ruling { answer, by } = self.policy.ruling(&item, self.origin);
        if answer == Answer::Deny {
            return vec![one(item, Decision::Denied, Some(by), None)];
        }
        let told =
            |said: &Said, item: Item, decision| one(item, decision, Some(said.who.clone()), Some(said.at_unix_ms));
        if let Some(said) = self.said_of(&item) {
            match said.word {
                Word::Granted => return vec![told(said, item, Decision::Granted)],
                Word::Denied => return vec![told(said, item, Decision::Denied)],
                Word::Narrowed => {
                    let part = |said: &&Said| said.word == Word::Granted && item.covers(&said.item) && self.holds(said);
                    let parts: Vec<_> = self.said.iter().filter(part).collect();
                    let parts = parts.into_iter().map(|said| {
                        let Ruling { answer, by } = self.policy.ruling(&said.item, self.origin);
                        match answer {
                            Answer::Deny => one(said.item.clone(), Decision::Denied, Some(by), None),
                            Answer::Allow | Answer::Ask => told(said, said.item.clone(), Decision::Granted),
                        }
                    });
                    let parts: Vec<_> = parts.collect();
                    // All of it was taken back, perhaps.
                    return if parts.is_empty() { vec![told(said, item, Decision::Denied)] } else { parts };
                }
            }
        }
        if item.is_open() {
            let offered: Vec<_> = self
                .policy
                .offered(&item, self.origin)
                .map(|(part, ruling)| one(part, Decision::Granted, Some(ruling.by), None))
                .collect();
            return if offered.is_empty() { vec![one(item, Decision::Asked, None, None)] } else { offered };
        }
        match answer {
            Answer::Allow => vec![one(item, Decision::Granted, Some(by), None)],
            Answer::Ask | Answer::Deny => vec![one(item, Decision::Asked, None, None)],
        }
    }

    /// Whether what was granted then is granted to this one.
    fn holds(&self, said: &Said) -> bool {
        match &said.key {
            Some(key) => self.origin.signer == Some(key),
            // An id by itself proves nothing: another package of that id comes from elsewhere.
            None => said.place == self.origin.place(),
        }
    }

    /// What an operator said of a thing: of just this, or of something that it is part of; of that, a denial goes before a grant.
    fn said_of(&self, item: &Item) -> Option<&Said> {
        let holds = |said: &&Said| said.word == Word::Denied || self.holds(said);
        let of = |word: Option<Word>| {
            self.said.iter().filter(holds).find(|said| match word {
                None => said.item == *item,
                Some(word) => said.word == word && !said.item.is_open() && said.item.covers(item),
            })
        };
        of(None).or_else(|| of(Some(Word::Denied))).or_else(|| of(Some(Word::Granted)))
    }
}

#[cfg(test)]
mod tests;
