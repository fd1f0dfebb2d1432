//! The table `[permissions]`: what plugins are permitted without asking, and what they never are.
//!
//! Elsewhere: what the entries mean, and what goes before them, is `model::permission::consent`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::model::permission::consent::{Answer, Definitions, Policy, Rule};
use crate::model::permission::item::Item;
use crate::model::trust::{KeyName, Settings as Trust};

/// More rules than these are not kept by hand, and each is looked at for everything that is asked for.
const RULES_MAX: usize = 1000;

/// As many as a manifest can ask for at once.
const SCOPES_MAX: usize = 64;

/// The table as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    #[serde(default)]
    policy: Answer,
    definitions: Option<Definitions>,
    #[serde(default)]
    rules: Vec<Entry>,
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    permission: Option<String>,
    scope: Option<Vec<String>>,
    source: Option<PathBuf>,
    key: Option<String>,
    decision: Answer,
}

impl Table {
    /// Reads the entries; `base` is the folder to which paths are relative.
    ///
    /// # Errors
    /// A sentence that names the first that is wrong.
    pub(super) fn understand(&self, base: &Path, trust: &Trust) -> Result<Policy, String> {
        if RULES_MAX < self.rules.len() {
            let count = self.rules.len();
            return Err(format!("permissions.rules has {count} entries; at most {RULES_MAX} are allowed"));
        }
        let rules = self.rules.iter().enumerate().map(|(index, entry)| {
            entry.understand(base, trust).map_err(|why| format!("permissions.rules[{index}]: {why}"))
        });
        Ok(Policy { answer: self.policy, rules: rules.collect::<Result<_, _>>()?, definitions: self.definitions })
    }
}

impl Entry {
    fn understand(&self, base: &Path, trust: &Trust) -> Result<Rule, String> {
        let item = |permission: &str, scope: Option<&str>| Item::new(permission, scope).map_err(|why| why.to_string());
        let about = match (&self.permission, &self.scope) {
            (None, None) => Vec::new(),
            (None, Some(_)) => return Err("a `scope` is one of a `permission`, which is missing".to_owned()),
            (Some(permission), None) => vec![item(permission, None)?],
            (Some(_), Some(scopes)) if scopes.is_empty() || SCOPES_MAX < scopes.len() => {
                return Err(format!(
                    "`scope` is a list of 1 to {SCOPES_MAX} texts, or absent, which means every scope"
                ));
            }
            (Some(permission), Some(scopes)) => {
                scopes.iter().map(|scope| item(permission, Some(scope))).collect::<Result<_, _>>()?
            }
        };
        let key = self.key.as_deref().map(KeyName::parse).transpose().map_err(|why| format!("`key`: {why}"))?;
        if let Some(key) = key.as_ref().filter(|key| !trust.keys.contains_key(key)) {
            return Err(format!("`key`: there is no trust.keys.{key}"));
        }
        Ok(Rule { about, source: self.source.as_ref().map(|source| base.join(source)), key, answer: self.decision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(text: &str) -> Result<Policy, String> {
        let table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let key = "[keys.acme]\nmethod = \"hmac-sha256\"\nkey_file = \"k\"\nids = [\"*\"]\n";
        let trust: super::super::trust::Table = toml::from_str(key).unwrap();
        table.understand(Path::new("/etc/palisade"), &trust.understand(Path::new("/")).unwrap())
    }

    #[test]
    fn rules_are_read_in_their_order() {
        assert_eq!(understood(""), Ok(Policy::default()));
        assert_eq!(Policy::default().answer, Answer::Ask);
        let policy = understood(
            "policy = \"deny\"\ndefinitions = \"allow\"\nrules = [\n\
             { decision = \"deny\", permission = \"file_read\", scope = [\"/srv/a\", \"/srv/b\"] },\n\
             { decision = \"allow\", key = \"acme\", source = \"plugins\" },\n\
             { decision = \"ask\", permission = \"network_access\" },\n]",
        )
        .unwrap();
        assert_eq!((policy.answer, policy.definitions), (Answer::Deny, Some(Definitions::Allow)));
        let texts = |rule: &Rule| rule.about.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&policy.rules[0]), ["file_read:/srv/a", "file_read:/srv/b"]);
        assert_eq!((texts(&policy.rules[1]).len(), policy.rules[1].answer), (0, Answer::Allow));
        assert_eq!(policy.rules[1].source.as_deref(), Some(Path::new("/etc/palisade/plugins")));
        assert_eq!(policy.rules[1].key, KeyName::parse("acme").ok());
        assert_eq!((texts(&policy.rules[2]), policy.rules[2].answer), (vec!["network_access".to_owned()], Answer::Ask));
    }

    #[test]
    fn a_mistake_in_a_rule_is_named_with_its_place() {
        let of = |rule: &str| understood(&format!("rules = [{{ {rule} }}]")).unwrap_err();
        for (rule, expected) in [
            (
                "decision = \"deny\", permission = \"everything\"",
                "permissions.rules[0]: there is no permission \"everything\"",
            ),
            (
                "decision = \"deny\", scope = [\"/srv\"]",
                "permissions.rules[0]: a `scope` is one of a `permission`, which is missing",
            ),
            (
                "decision = \"deny\", permission = \"file_read\", scope = []",
                "permissions.rules[0]: `scope` is a list of 1 to 64 texts",
            ),
            ("decision = \"deny\", permission = \"file_read\", scope = [\"srv\"]", "\"srv\" is no absolute path"),
            (
                "decision = \"deny\", permission = \"execute_code\", scope = [\"x\"]",
                "\"execute_code\" extends to nothing",
            ),
            ("decision = \"allow\", key = \"nobody\"", "permissions.rules[0]: `key`: there is no trust.keys.nobody"),
            ("decision = \"allow\", key = \"no name\"", "permissions.rules[0]: `key`: it has to be the name of a key"),
            ("permission = \"file_read\"", "missing field `decision`"),
            ("decision = \"perhaps\"", "unknown variant `perhaps`"),
            ("decision = \"deny\", plugin = \"echo\"", "unknown field `plugin`"),
        ] {
            let error = of(rule);
            assert!(error.contains(expected), "{rule}: {error}");
        }
        let many = format!("rules = [{}]", "{ decision = \"deny\" },".repeat(1001));
        assert_eq!(understood(&many).unwrap_err(), "permissions.rules has 1001 entries; at most 1000 are allowed");
    }
}
