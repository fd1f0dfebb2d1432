//! What a plugin needs of others: plugins, libraries, the host, permissions, topics.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::read::{Place, Table, Text};
use crate::model::ids::{PluginId, SecretName};
use crate::model::permission::grants::{self, Asked};
use crate::model::specifier::Specifier;

const DEPENDENCIES_MAX: usize = 256;

/// A program has a few dozen of them.
const LIBRARIES_MAX: usize = 64;

/// Of one permission there may be several, each with its reason.
const REQUESTS_MAX: usize = 64;

/// As many as the permission takes that takes most.
const SCOPE_MAX: usize = 64;

/// As many as can be granted.
const SECRETS_MAX: usize = 32;

const TOPICS_MAX: usize = 64;

const TOPIC_BYTES_MAX: usize = 128;

/// A reason is read before something is granted, and by somebody in a hurry.
const REASON_BYTES_MAX: usize = 512;

/// What it needs of others.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    pub(super) plugins: BTreeMap<PluginId, Dependency>,
    pub(super) libraries: Vec<String>,
    pub(super) host: Option<Specifier>,
}

/// Another plugin that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub version: Specifier,
    /// It does without where there is none.
    pub optional: bool,
    pub reason: Option<String>,
}

/// One permission that a manifest asks for, as it is shown to whoever decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionRequest {
    pub permission: &'static str,
    /// None means: whatever is granted.
    pub scope: Option<Vec<String>>,
    pub reason: Option<String>,
}

/// A secret that it is given, if it is granted and set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRequest {
    pub name: SecretName,
    /// Why, for whoever decides.
    pub reason: Option<String>,
    /// It does without where it is not set.
    pub optional: bool,
}

/// What it hears and tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// Topics, of which a part may be `*`.
    pub subscribes: Vec<String>,
    pub emits: Vec<String>,
}

pub(super) fn dependencies(root: &mut Table<'_, '_>) -> Dependencies {
    let mut found = Dependencies::default();
    let Some(mut table) = root.table("dependencies") else { return found };
    let plugins = &mut found.plugins;
    table.each("plugins", "a list of objects, each with an id and a version", DEPENDENCIES_MAX, |place| {
        let Some(mut table) = place.table() else { return };
        let id = table.parsed("id", "a plugin id, such as file-search", PluginId::parse);
        let version = table.parsed("version", "a version specifier, such as ^1.2", Specifier::parse);
        let optional = table.boolean("optional").unwrap_or(false);
        let reason = table.text_if_any("reason", Text::line(REASON_BYTES_MAX));
        if let (Some(id), Some(version)) = (id, version)
            && plugins.insert(id, Dependency { version, optional, reason }).is_some()
        {
            table.wrong("id", "one that does not stand in the list before");
        }
        table.warn_about_the_rest();
    });
    found.libraries = table
        .set("libraries", LIBRARIES_MAX, |place| place.parsed("the name of a library, such as libz.so.1", library));
    found.host = table.parsed_if_any("host", "a version specifier, such as >=0.1", Specifier::parse);
    // A plugin that stands here would otherwise be passed over with a warning, and be missed later.
    for key in table.unasked() {
        if table.value(&key).is_some_and(Value::is_string) {
            table.wrong(&key, "absent: plugins are listed in `dependencies.plugins`, each with its id and version");
        }
    }
    table.warn_about_the_rest();
    found
}

fn library(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-');
    if (1..=255).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['.', '-']) {
        return Ok(text.to_owned());
    }
    Err("it has to be the name of a library's file without a folder, such as libz.so.1, of at most 255 bytes"
        .to_owned())
}

/// What is asked for, as it is decided by and as it is shown.
pub(super) fn permissions(root: &mut Table<'_, '_>) -> (Asked, Vec<PermissionRequest>) {
    const ALLOWED: &str = "a list of objects, each with a permission";
    let mut requests = Vec::new();
    let mut entries = Vec::new();
    let whole = root.each("permissions_required", ALLOWED, REQUESTS_MAX, |place| {
        let Some(mut table) = place.table() else { return };
        let permission = table.choice_required("permission", &grants::REQUIRED.map(|name| (name, name)));
        let scope = table.is_given("scope").then(|| scope(&mut table, permission));
        let reason = table.text_if_any("reason", Text::lines(REASON_BYTES_MAX));
        table.warn_about_the_rest();
        let Some(permission) = permission else { return };
        entries.push(match &scope {
            None => json!(permission),
            Some(scope) => json!({ permission: scope }),
        });
        requests.push(PermissionRequest { permission, scope, reason });
    });
    if root.is_given("permissions") {
        root.wrong("permissions", "absent: permissions are listed in `permissions_required`, each an object");
    }
    root.ignore("permissions");
    // Each entry is right; together they may still be too many.
    let asked = if whole { Asked::parse(&entries) } else { Ok(Asked::default()) };
    let asked = asked.unwrap_or_else(|why| {
        root.refused("permissions_required", "a list", &why);
        Asked::default()
    });
    (asked, requests)
}

/// The secrets that it wants.
pub(super) fn secrets(root: &mut Table<'_, '_>) -> Vec<SecretRequest> {
    let mut secrets: Vec<SecretRequest> = Vec::new();
    root.each("secrets", "a list of objects, each with a name", SECRETS_MAX, |place| {
        let Some(mut table) = place.table() else { return };
        let name = table.parsed("name", "the name of a secret, such as api-key", SecretName::parse);
        let reason = table.text_if_any("reason", Text::lines(REASON_BYTES_MAX));
        let optional = table.boolean("optional").unwrap_or(false);
        // What it is stands nowhere but with the daemon, and would be thought to have an effect here.
        for key in ["value", "default"] {
            if table.is_given(key) {
                table.refused(
                    key,
                    "given",
                    &"a secret is set with `palisade secret set PLUGIN NAME`, and never in a package",
                );
            }
            table.ignore(key);
        }
        table.warn_about_the_rest();
        let Some(name) = name else { return };
        if secrets.iter().any(|there| there.name == name) {
            return table.wrong("name", "one that does not stand in the list before");
        }
        secrets.push(SecretRequest { name, reason, optional });
    });
    secrets
}

/// How far a permission is asked for, each entry looked at by itself.
fn scope(table: &mut Table<'_, '_>, permission: Option<&'static str>) -> Vec<String> {
    const EXECUTES: &str = "execute_code";
    if permission == Some(EXECUTES) {
        table.wrong("scope", "absent: execute_code has no scope");
        return Vec::new();
    }
    if table.value("scope").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        table.wrong("scope", "a list of texts with at least one in it, or absent, which asks for whatever is granted");
    }
    table.set("scope", SCOPE_MAX, |place| {
        let text = place.text(Text::line(4096))?;
        if let Some(name) = permission
            && let Err(why) = Asked::parse(&[json!({ name: [text] })])
        {
            place.refuse(&why);
        }
        Some(text)
    })
}

pub(super) fn events(root: &mut Table<'_, '_>) -> Events {
    let Some(mut table) = root.table("events") else { return Events::default() };
    let events = Events {
        subscribes: table.set("subscribes", TOPICS_MAX, |place| topic(place, true)),
        emits: table.set("emits", TOPICS_MAX, |place| topic(place, false)),
    };
    table.warn_about_the_rest();
    events
}

fn topic(place: &mut Place<'_, '_>, pattern: bool) -> Option<String> {
    place.parsed("a topic, such as index.updated", |text| {
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
        };
        if text.len() <= TOPIC_BYTES_MAX && text.split('.').all(|part| word(part) || (pattern && part == "*")) {
            return Ok(text.to_owned());
        }
        let star = if pattern { ", a word or `*` for any one" } else { "" };
        Err(format!(
            "a topic has words of lower-case letters, digits, `-` and `_`, each beginning with a letter, joined by dots{star}; at most \
             {TOPIC_BYTES_MAX} bytes"
        ))
    })
}
