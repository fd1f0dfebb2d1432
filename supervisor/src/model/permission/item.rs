//! One thing that a plugin asks for and that is decided by itself: a permission, and one of the scopes that it extends to.
//!
//! Written `execute_code`, `file_read:/srv/data`, `network_access:api.example.com:443`, `secret:api-key`, `system_access:meminfo`: the permission, and
//! behind the first colon the scope. Without a scope, where the permission can have one, whatever is granted is asked for.

use std::fmt;

use serde_json::{Value, json};

use super::grants::{GrantError, NAMES, SECRET};
use super::network::Scope;
use super::path::HostPath;
use super::system::SystemFile;
use crate::model::ids::SecretName;

/// A permission, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    permission: &'static str,
    reach: Option<Reach>,
}

/// How far one permission extends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    Path(HostPath),
    Host(Scope),
    Secret(SecretName),
    File(SystemFile),
}

impl Item {
    /// The permission of that name, with this scope or with none.
    ///
    /// # Errors
    /// [`GrantError`]
    pub fn new(permission: &str, scope: Option<&str>) -> Result<Self, GrantError> {
        let known = NAMES.into_iter().find(|name| *name == permission);
        let unknown =
            || GrantError::new(format!("there is no permission {permission:?}; there are {}", NAMES.join(", ")));
        let permission = known.ok_or_else(unknown)?;
        let reach = match (permission, scope) {
            (_, None) => None,
            ("execute_code", Some(_)) => {
                return Err(GrantError::new("\"execute_code\" extends to nothing; write the name alone".to_owned()));
            }
            ("network_access", Some(text)) => {
                let scope = Scope::parse(text);
                Some(Reach::Host(
                    scope.map_err(|error| GrantError::new(format!("in network_access, `{text}`: {error}")))?,
                ))
            }
            (SECRET, Some(text)) => {
                Some(Reach::Secret(SecretName::parse(text).map_err(|error| GrantError::new(error.to_string()))?))
            }
            ("system_access", Some(text)) => Some(Reach::File(SystemFile::named(text).ok_or_else(|| {
                let names = SystemFile::ALL.map(SystemFile::name).join(", ");
                GrantError::new(format!("\"system_access\" extends to no {text:?}; there are {names}"))
            })?)),
            (_, Some(text)) => {
                Some(Reach::Path(HostPath::parse(text).map_err(|error| GrantError::new(error.to_string()))?))
            }
        };
        Ok(Self { permission, reach })
    }

    /// Reads it as it is written.
    ///
    /// # Errors
    /// [`GrantError`]
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        match text.split_once(':') {
            Some((permission, scope)) => Self::new(permission, Some(scope)),
            None => Self::new(text, None),
        }
    }

    /// The permission.
    #[must_use]
    pub fn permission(&self) -> &'static str {
        self.permission
    }

    /// The scope, as it is written.
    #[must_use]
    pub fn scope(&self) -> Option<String> {
        self.reach.as_ref().map(|reach| match reach {
            Reach::Path(path) => path.to_string(),
            Reach::Host(scope) => scope.to_string(),
            Reach::Secret(name) => name.to_string(),
            Reach::File(file) => file.name().to_owned(),
        })
    }

    /// Whether it asks for whatever is granted, so that a grant has to say for what.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.reach.is_none() && self.permission != "execute_code"
    }

    /// Whether all of the other is part of this.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.permission == other.permission
            && match (&self.reach, &other.reach) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(Reach::Path(folder)), Some(Reach::Path(path))) => path.is_within(folder),
                (Some(Reach::Host(scope)), Some(Reach::Host(asked))) => {
                    scope.narrowed_to(asked).as_ref() == Some(asked)
                }
                (Some(Reach::Secret(name)), Some(Reach::Secret(asked))) => name == asked,
                (Some(Reach::File(file)), Some(Reach::File(asked))) => file == asked,
                (Some(_), Some(_)) => false,
            }
    }

    /// Whether anything is part of both, as a rule that denies this sees it: what may be written may be read. What asks for whatever is
    /// granted touches nothing that has a scope.
    #[must_use]
    pub fn touches(&self, other: &Self) -> bool {
        if (self.permission, other.permission) == ("file_read", "file_write") {
            return Self { permission: "file_write", reach: self.reach.clone() }.touches(other);
        }
        if other.is_open() {
            return self.permission == other.permission && self.reach.is_none();
        }
        self.covers(other)
            || other.covers(self)
            || match (&self.reach, &other.reach) {
                (Some(Reach::Host(one)), Some(Reach::Host(another))) => one.narrowed_to(another).is_some(),
                _ => false,
            }
    }

    /// As an operator writes it into the configuration.
    #[must_use]
    pub fn value(&self) -> Value {
        match self.scope() {
            None => json!(self.permission),
            Some(scope) => json!({ self.permission: [scope] }),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope() {
            None => f.pad(self.permission),
            Some(scope) => f.pad(&format!("{}:{scope}", self.permission)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str) -> Item {
        Item::parse(text).unwrap()
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in [
            "execute_code",
            "file_read",
            "file_read:/srv/da:ta",
            "file_write:/srv",
            "network_access:*.example.com:443",
            "network_access:[2001:db8::7]:443",
            "network_access:db.example.com:5432/tcp",
            "secret:api-key",
            "system_access:meminfo",
        ] {
            assert_eq!(item(text).to_string(), text);
        }
        for (text, expected) in [
            ("everything", "there is no permission \"everything\"; there are execute_code, file_read"),
            ("execute_code:/bin/sh", "\"execute_code\" extends to nothing"),
            ("file_read:", "\"\" is no absolute path"),
            ("file_read:/proc", "/proc cannot be permitted"),
            ("network_access:*", "in network_access, `*`: `*` alone"),
            ("secret:", "name of a secret is empty"),
            ("secret:a/b", "name of a secret contains '/' at byte 1"),
            ("system_access:kcore", "\"system_access\" extends to no \"kcore\"; there are cpu,"),
        ] {
            let error = Item::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_part_of_what() {
        for (whole, part, covers, touches) in [
            ("execute_code", "execute_code", true, true),
            ("file_read:/srv", "file_read:/srv/data", true, true),
            ("file_read:/srv/data", "file_read:/srv", false, true),
            ("file_read:/srv", "file_read:/srve", false, false),
            ("file_read:/srv", "file_write:/srv", false, true),
            ("file_read:/srv/private", "file_write:/srv", false, true),
            ("file_read", "file_write", false, true),
            ("file_write:/srv", "file_read:/srv", false, false),
            ("file_read", "file_read:/srv", true, true),
            ("file_read", "file_read", true, true),
            ("file_read:/srv", "file_read", false, false),
            ("network_access:*.example.com", "network_access:api.example.com:443", true, true),
            ("network_access:api.example.com:443", "network_access:api.example.com", false, true),
            ("network_access:api.example.com:8443", "network_access:api.example.com", false, false),
            ("network_access:db.example:5432", "network_access:db.example:5432/tcp", false, true),
            ("system_access:stat", "system_access:stat", true, true),
            ("system_access:stat", "system_access:cpu", false, false),
            ("secret:a", "secret:a", true, true),
            ("secret:a", "secret:ab", false, false),
            ("secret", "secret:a", true, true),
        ] {
            assert_eq!(item(whole).covers(&item(part)), covers, "{whole} covers {part}");
            assert_eq!(item(whole).touches(&item(part)), touches, "{whole} touches {part}");
        }
    }
}
