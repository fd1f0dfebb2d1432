//! What a manifest asks for, what the operator decided, and what a plugin may therefore do beyond the default, which is nothing.
//!
//! Both sides write a list of permissions, each a name (`"execute_code"`) or a name with what it extends to
//! (`{"file_read": ["/srv/data"]}`). A manifest may ask for a permission without saying for what, which means whatever the operator
//! names; an operator always says. A plugin has what was granted as far as it was asked for.
//!
//! A permission is offered only where something enforces it; any other is a mistake that is named.

use std::fmt;

use serde_json::Value;

use super::network::Scope;
use super::path::{HostPath, PATHS_MAX};
use super::system::SystemFile;
use crate::model::ids::SecretName;

/// The permissions there are.
pub const NAMES: [&str; 6] = ["execute_code", "file_read", "file_write", "network_access", "secret", "system_access"];

/// Those that a manifest asks for in `permissions_required`; it names its secrets in a list of their own.
pub const REQUIRED: [&str; 5] = ["execute_code", "file_read", "file_write", "network_access", "system_access"];

/// That of being given a secret.
pub const SECRET: &str = "secret";

/// More hosts than any honest plugin names; each is looked at for every connection.
const HOSTS_MAX: usize = 64;

/// What one plugin may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// It may execute programs, whenever it wants.
    pub execute_code: bool,
    /// What of the host's files it may read.
    pub file_read: Vec<HostPath>,
    /// What of the host's files it may read and write.
    pub file_write: Vec<HostPath>,
    /// Which hosts it may reach.
    pub network_access: Vec<Scope>,
    /// Which secrets it is given.
    pub secret: Vec<SecretName>,
    /// What it may learn about the host.
    pub system_access: Vec<SystemFile>,
}

/// What a manifest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub execute_code: bool,
    pub file_read: Extent<HostPath>,
    pub file_write: Extent<HostPath>,
    pub network_access: Extent<Scope>,
    pub secret: Extent<SecretName>,
    pub system_access: Extent<SystemFile>,
}

/// How far a permission is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent<T> {
    /// Whatever is granted.
    Any,
    /// These, which may be none.
    These(Vec<T>),
}

impl<T> Default for Extent<T> {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

/// A list of permissions that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantError(String);

impl GrantError {
    pub(super) fn new(sentence: String) -> Self {
        Self(sentence)
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GrantError {}

impl Grants {
    /// Reads what an operator grants.
    ///
    /// # Errors
    /// [`GrantError`] for the first entry that is none.
    pub fn parse(entries: &[Value]) -> Result<Self, GrantError> {
        let mut grants = Self::default();
        for entry in entries {
            let (name, extent) = split(entry)?;
            match (name, extent) {
                ("execute_code", None) => grants.execute_code = true,
                ("file_read", Some(paths)) => add(&mut grants.file_read, paths, path)?,
                ("file_write", Some(paths)) => add(&mut grants.file_write, paths, path)?,
                ("network_access", Some(hosts)) => add_hosts(&mut grants.network_access, hosts)?,
                (SECRET, Some(names)) => add(&mut grants.secret, names, secret_name)?,
                ("system_access", Some(files)) => add(&mut grants.system_access, files, system_file)?,
                (name, extent) => return Err(misfit(name, extent.is_some())),
            }
        }
        Ok(grants)
    }

    /// What of it holds for a plugin that asks for this, and a sentence for each grant that was not asked for.
    #[must_use]
    pub fn within(&self, asked: &Asked) -> (Self, Vec<String>) {
        let mut unasked = Vec::new();
        let mut note = |what: String| {
            unasked.push(format!("palisade.toml grants {what}, which plugin.json does not ask for; it has no effect"));
        };
        if self.execute_code && !asked.execute_code {
            note("execute_code".to_owned());
        }
        let mut keep = |name: &str, granted: &[HostPath], asked: &Extent<HostPath>| {
            let (kept, rest) = asked.split(granted, |path, asked| path.is_within(asked));
            rest.iter().for_each(|path| note(format!("{name} of {path}")));
            kept
        };
        let file_read = keep("file_read", &self.file_read, &asked.file_read);
        let file_write = keep("file_write", &self.file_write, &asked.file_write);
        let mut network_access = Vec::new();
        for granted in &self.network_access {
            let narrowed: Vec<Scope> = match &asked.network_access {
                Extent::Any => vec![granted.clone()],
                Extent::These(these) => these.iter().filter_map(|asked| granted.narrowed_to(asked)).collect(),
            };
            if narrowed.is_empty() {
                note(format!("network_access to {granted}"));
            }
            network_access
                .extend(narrowed.into_iter().filter(|scope| !network_access.contains(scope)).collect::<Vec<_>>());
        }
        let (secret, rest) = asked.secret.split(&self.secret, |name, asked| name == asked);
        rest.iter().for_each(|name| note(format!("the secret {name}")));
        let (system_access, rest) = asked.system_access.split(&self.system_access, |file, asked| file == asked);
        rest.iter().for_each(|file| note(format!("system_access to {}", file.name())));
        let execute_code = self.execute_code && asked.execute_code;
        (Self { execute_code, file_read, file_write, network_access, secret, system_access }, unasked)
    }

    /// Each as a text: its name, and behind a colon what it extends to.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.execute_code.then(|| "execute_code".to_owned()).into_iter().collect();
        names.extend(self.file_read.iter().map(|path| format!("file_read:{path}")));
        names.extend(self.file_write.iter().map(|path| format!("file_write:{path}")));
        names.extend(self.network_access.iter().map(|scope| format!("network_access:{scope}")));
        names.extend(self.secret.iter().map(|name| format!("{SECRET}:{name}")));
        names.extend(self.system_access.iter().map(|file| format!("system_access:{}", file.name())));
        names
    }
}

impl Asked {
    /// Reads what a manifest asks for.
    ///
    /// # Errors
    /// [`GrantError`] for the first entry that is none.
    pub fn parse(entries: &[Value]) -> Result<Self, GrantError> {
        let mut asked = Self::default();
        for entry in entries {
            let (name, extent) = split(entry)?;
            match (name, extent) {
                ("execute_code", None) => asked.execute_code = true,
                ("file_read", extent) => asked.file_read.widen(extent, path)?,
                ("file_write", extent) => asked.file_write.widen(extent, path)?,
                ("network_access", None) => asked.network_access = Extent::Any,
                ("network_access", Some(hosts)) => {
                    if let Extent::These(these) = &mut asked.network_access {
                        add_hosts(these, hosts)?;
                    }
                }
                (SECRET, Some(names)) => asked.secret.widen(Some(names), secret_name)?,
                ("system_access", extent) => asked.system_access.widen(extent, system_file)?,
                (name, extent) => return Err(misfit(name, extent.is_some())),
            }
        }
        Ok(asked)
    }
}

impl<T: Clone + PartialEq> Extent<T> {
    fn widen(
        &mut self,
        extent: Option<&[Value]>,
        read: impl Fn(&str) -> Result<T, GrantError>,
    ) -> Result<(), GrantError> {
        match (extent, self) {
            (None, this) => *this = Self::Any,
            (Some(_), Self::Any) => {}
            (Some(values), Self::These(these)) => add(these, values, read)?,
        }
        Ok(())
    }

    /// What of `granted` is covered, and what is not.
    fn split(&self, granted: &[T], covers: impl Fn(&T, &T) -> bool) -> (Vec<T>, Vec<T>) {
        granted.iter().cloned().partition(|one| match self {
            Self::Any => true,
            Self::These(these) => these.iter().any(|asked| covers(one, asked)),
        })
    }
}

/// The name of an entry, and what it extends to.
fn split(entry: &Value) -> Result<(&str, Option<&[Value]>), GrantError> {
    match entry {
        Value::String(name) => Ok((name, None)),
        Value::Object(fields) if fields.len() == 1 => match fields.iter().next() {
            Some((name, Value::Array(values))) if !values.is_empty() => Ok((name, Some(values))),
            Some((name, _)) => Err(GrantError(format!("{name:?} extends to a list of texts with at least one in it"))),
            None => Err(GrantError("a permission has a name".to_owned())),
        },
        _ => Err(GrantError(
            "a permission is a name, as \"execute_code\", or one name with a list, as file_read with [\"/srv/data\"]"
                .to_owned(),
        )),
    }
}

/// What is wrong with an entry that is none of those there are.
fn misfit(name: &str, extends: bool) -> GrantError {
    GrantError(match (name, extends) {
        ("execute_code", _) => "\"execute_code\" extends to nothing; write the name alone".to_owned(),
        ("file_read" | "file_write", _) => {
            format!("{name:?} is granted with the paths that it extends to, as {{ {name} = [\"/srv/data\"] }}")
        }
        ("network_access", _) => {
            "\"network_access\" is granted with the hosts that it extends to, as { network_access = [\"example.com\"] }"
                .to_owned()
        }
        (SECRET, _) => {
            "\"secret\" is granted with the names that it extends to, as { secret = [\"api-key\"] }".to_owned()
        }
        ("system_access", _) => format!(
            "\"system_access\" is granted with the names that it extends to, as {{ system_access = [\"meminfo\"] }}; there are {}",
            listed(&SystemFile::ALL.map(SystemFile::name))
        ),
        (other, _) => format!("there is no permission {other:?}; there are {}", listed(&NAMES)),
    })
}

fn listed(names: &[&str]) -> String {
    names.join(", ")
}

/// Adds what was not there yet.
fn add<T: PartialEq>(
    these: &mut Vec<T>,
    values: &[Value],
    read: impl Fn(&str) -> Result<T, GrantError>,
) -> Result<(), GrantError> {
    for value in values {
        let text = value.as_str().ok_or_else(|| GrantError(format!("{value} is no text")))?;
        let one = read(text)?;
        if !these.contains(&one) {
            these.push(one);
        }
    }
    if PATHS_MAX < these.len() {
        return Err(GrantError(format!(
            "there are {} entries of one permission; at most {PATHS_MAX} are possible",
            these.len()
        )));
    }
    Ok(())
}

/// Adds what was not there yet.
fn add_hosts(these: &mut Vec<Scope>, values: &[Value]) -> Result<(), GrantError> {
    for value in values {
        let text = value.as_str().ok_or_else(|| GrantError(format!("{value} is no text")))?;
        let scope = Scope::parse(text).map_err(|error| GrantError(format!("in network_access, `{text}`: {error}")))?;
        if !these.contains(&scope) {
            these.push(scope);
        }
    }
    if HOSTS_MAX < these.len() {
        return Err(GrantError(format!(
            "network_access has {} entries; at most {HOSTS_MAX} are possible",
            these.len()
        )));
    }
    Ok(())
}

fn path(text: &str) -> Result<HostPath, GrantError> {
    HostPath::parse(text).map_err(|error| GrantError(error.to_string()))
}

fn secret_name(text: &str) -> Result<SecretName, GrantError> {
    SecretName::parse(text).map_err(|error| GrantError(error.to_string()))
}

fn system_file(text: &str) -> Result<SystemFile, GrantError> {
    SystemFile::named(text).ok_or_else(|| {
        let names = listed(&SystemFile::ALL.map(SystemFile::name));
        GrantError(format!("\"system_access\" extends to no {text:?}; there are {names}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entries(value: Value) -> Vec<Value> {
        let Value::Array(entries) = value else { unreachable!("tests write arrays") };
        entries
    }

    fn granted(value: Value) -> Result<Grants, String> {
        Grants::parse(&entries(value)).map_err(|error| error.to_string())
    }

    fn asked(value: Value) -> Asked {
        Asked::parse(&entries(value)).unwrap()
    }

    #[test]
    fn what_is_offered_is_granted_and_nothing_else() {
        assert_eq!(granted(json!([])), Ok(Grants::default()));
        let all = granted(json!([
            "execute_code",
            {"file_read": ["/srv/a", "/srv/b"]},
            {"file_read": ["/srv/a"]},
            {"file_write": ["/srv/out"]},
            {"system_access": ["meminfo"]},
            {"secret": ["api-key"]},
        ]));
        assert_eq!(
            all.unwrap().names(),
            [
                "execute_code",
                "file_read:/srv/a",
                "file_read:/srv/b",
                "file_write:/srv/out",
                "secret:api-key",
                "system_access:meminfo"
            ]
        );
        for (value, expected) in [
            (
                json!(["rule_the_world"]),
                "there is no permission \"rule_the_world\"; there are execute_code, file_read, file_write, network_access, secret, system_access",
            ),
            (json!([{"rule": ["x"]}]), "there is no permission \"rule\""),
            (json!([{"execute_code": ["/bin/sh"]}]), "extends to nothing"),
            (json!(["file_read"]), "is granted with the paths"),
            (json!(["system_access"]), "there are cpu, cpuinfo, loadavg, meminfo, stat, uptime, version"),
            (json!([{"system_access": ["kcore"]}]), "extends to no \"kcore\""),
            (json!(["secret"]), "is granted with the names"),
            (json!([{"secret": ["a b"]}]), "name of a secret contains ' ' at byte 1"),
            (json!([{"file_read": ["srv"]}]), "is no absolute path"),
            (json!([{"file_read": []}]), "at least one"),
            (json!([{"file_read": "/srv"}]), "a list of texts"),
            (json!([{"file_read": [7]}]), "7 is no text"),
            (json!([{"file_read": ["/a"], "file_write": ["/a"]}]), "a permission is a name"),
            (json!([7]), "a permission is a name"),
        ] {
            let error = granted(value).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let many: Vec<_> = (0..33).map(|number| format!("/srv/{number}")).collect();
        assert!(granted(json!([{ "file_read": many }])).unwrap_err().contains("at most 32"));
    }

    #[test]
    fn a_plugin_has_what_is_granted_as_far_as_it_was_asked_for() {
        let decided = granted(json!([
            "execute_code",
            {"file_read": ["/srv/data/sub", "/home/data"]},
            {"file_write": ["/srv/data"]},
            {"system_access": ["meminfo", "stat"]},
            {"secret": ["one", "two"]},
        ]))
        .unwrap();
        let everything =
            json!(["execute_code", "file_read", "file_write", "system_access", {"secret": ["one", "two", "three"]}]);
        let (all, unasked) = decided.within(&asked(everything));
        assert_eq!((&all, unasked.len()), (&decided, 0));
        let (narrow, unasked) = decided.within(&asked(json!([
            {"file_read": ["/srv/data"]}, {"file_write": ["/srv/data/sub"]}, {"system_access": ["stat"]}, {"secret": ["two"]},
        ])));
        assert_eq!(narrow.names(), ["file_read:/srv/data/sub", "secret:two", "system_access:stat"]);
        let of =
            |what: &str| format!("palisade.toml grants {what}, which plugin.json does not ask for; it has no effect");
        assert_eq!(
            unasked,
            [
                of("execute_code"),
                of("file_read of /home/data"),
                of("file_write of /srv/data"),
                of("the secret one"),
                of("system_access to meminfo")
            ]
        );
        assert_eq!(decided.within(&Asked::default()).0, Grants::default());
        assert_eq!(Grants::default().within(&asked(json!(["execute_code", "file_read"]))).0, Grants::default());
    }

    #[test]
    fn hosts_are_granted_as_far_as_they_are_asked_for() {
        let asked = |value| Asked::parse(&entries(value)).unwrap();
        let decided =
            granted(json!([{"network_access": ["*.example", "db.test:5432/tcp"]}, {"network_access": ["*.example"]}]));
        let decided = decided.unwrap();
        assert_eq!(decided.names(), ["network_access:*.example", "network_access:db.test:5432/tcp"]);
        assert_eq!(decided.within(&asked(json!(["network_access"]))), (decided.clone(), vec![]));
        let (narrow, unasked) =
            decided.within(&asked(json!([{"network_access": ["a.example", "b.example:443", "other.test"]}])));
        assert_eq!(narrow.names(), ["network_access:a.example", "network_access:b.example:443"]);
        let sentence = "palisade.toml grants network_access to db.test:5432/tcp, which plugin.json does not ask for; \
                        it has no effect";
        assert_eq!(unasked, [sentence]);
        let error = granted(json!([{"network_access": ["a.example", "https://b.example"]}])).unwrap_err();
        assert!(error.starts_with("in network_access, `https://b.example`: "), "{error}");
        let error = granted(json!(["network_access"])).unwrap_err();
        assert!(error.contains("is granted with the hosts that it extends to"), "{error}");
        let many: Vec<_> = (0..=HOSTS_MAX).map(|n| format!("h{n}.test")).collect();
        let error = granted(json!([{"network_access": many}])).unwrap_err();
        assert_eq!(error, "network_access has 65 entries; at most 64 are possible");
    }
}
