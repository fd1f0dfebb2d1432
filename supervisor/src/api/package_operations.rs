//! The operations that change which packages there are and what is known of them.

use std::sync::Arc;

use palisade_protocol::{ErrorBody, ErrorCode, ValueLimits};
use serde::Deserialize;
use serde_json::{Value, json};

use super::service::{NoParams, Service, StatusParams, Which, parameters, value, versions_have_a_plugin};
use crate::model::search::Said;
use crate::packages::configure::Change;
use crate::packages::consent::{self, Grant, Revocation};
use crate::packages::{Leave, Leaving, Packages, Trusting, search};
use crate::secrets::Secret;

/// Their names.
pub(super) const NAMES: &[&str] = &[
    "install",
    "uninstall",
    "enable",
    "disable",
    "permissions",
    "pending",
    "grant",
    "revoke",
    "stats",
    "search",
    "capabilities",
    "deprecate",
    "rescan",
    "update",
    "config",
    "configure",
    "secret_list",
    "secret_set",
    "secret_remove",
    "state_show",
    "state_import",
    "state_reset",
    "reload",
    "backups",
    "rollback",
    "audit",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallParams {
    path: String,
    #[serde(default)]
    major: bool,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantParams {
    plugin: String,
    version: Option<String>,
    permissions: Option<Vec<String>>,
    #[serde(default)]
    definitions: bool,
    digest: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigureParams {
    plugin: String,
    version: Option<String>,
    #[serde(default)]
    set: serde_json::Map<String, Value>,
    #[serde(default)]
    unset: Vec<String>,
    #[serde(default)]
    undo: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateShowParams {
    plugin: String,
    version: Option<String>,
    key: Option<String>,
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateImportParams {
    plugin: String,
    version: Option<String>,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretParams {
    plugin: String,
    version: Option<String>,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetSecretParams {
    plugin: String,
    version: Option<String>,
    name: String,
    value: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeprecateParams {
    plugin: String,
    version: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    undo: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeParams {
    plugin: String,
    version: Option<String>,
    permissions: Option<Vec<String>>,
    #[serde(default)]
    stop: bool,
    #[serde(default)]
    forget: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchParams {
    text: Option<String>,
    tag: Option<String>,
    capability: Option<String>,
    kind: Option<String>,
    permission: Option<String>,
    state: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UninstallParams {
    plugin: String,
    version: Option<String>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    purge: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    plugin: Option<String>,
    version: Option<String>,
    to_version: Option<String>,
    path: Option<String>,
    #[serde(default)]
    check: bool,
    #[serde(default)]
    major: bool,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadParams {
    plugin: Option<String>,
    version: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackParams {
    plugin: String,
    version: Option<String>,
    to: Option<u64>,
    #[serde(default)]
    with_state: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditParams {
    plugin: Option<String>,
    version: Option<String>,
    since_unix_ms: Option<u64>,
    before: Option<u64>,
    limit: Option<u64>,
}

impl Service {
    /// Performs one of them. What was begun comes to its end, also when whoever asked for it does not wait any more.
    pub(super) async fn package_operation(&self, who: &str, action: &str, params: &[u8]) -> Result<Value, ErrorBody> {
        let who = who.to_owned();
        match action {
            "install" => {
                let InstallParams { path, major, force } = parameters(params)?;
                let packages = self.changeable()?;
                let mut installed =
                    value(&to_its_end(async move { packages.install(&path, force, major, &who).await }).await?)?;
                self.say_what_it_awaits(&mut installed)?;
                Ok(installed)
            }
            "uninstall" => {
                let UninstallParams { plugin, version, force, purge } = parameters(params)?;
                let packages = self.changeable()?;
                let leaving = if purge { Leaving::Purged } else { Leaving::Kept };
                let work = async move { packages.uninstall(&plugin, version.as_deref(), force, leaving, &who).await };
                value(&to_its_end(work).await?)
            }
            "permissions" => {
                let StatusParams { plugin, version } = parameters(params)?;
                let shown = self.packages()?.permissions(plugin.as_deref(), version.as_deref(), false)?;
                Ok(json!({ "plugins": value(&shown)? }))
            }
            "pending" => {
                parameters::<NoParams>(params)?;
                let shown = self.packages()?.permissions(None, None, true)?;
                Ok(json!({ "plugins": value(&shown)? }))
            }
            "grant" => {
                let GrantParams { plugin, version, permissions, definitions, digest } = parameters(params)?;
                let grant = Grant { plugin, version, permissions, definitions, digest };
                let packages = self.changeable()?;
                let said = to_its_end(async move { packages.grant(&grant, &who).await }).await?;
                kept(value(&consent::permissions(&said.handle))?, said.not_kept)
            }
            "revoke" => {
                let RevokeParams { plugin, version, permissions, stop, forget } = parameters(params)?;
                let revocation = Revocation { plugin, version, permissions, stop, forget };
                let packages = self.changeable()?;
                let said = to_its_end(async move { packages.revoke(&revocation, &who).await }).await?;
                kept(value(&consent::permissions(&said.handle))?, said.not_kept)
            }
            "search" => {
                let SearchParams { text, tag, capability, kind, permission, state } = parameters(params)?;
                let said = Said {
                    text: text.as_deref(),
                    tag: tag.as_deref(),
                    capability: capability.as_deref(),
                    kind: kind.as_deref(),
                    permission: permission.as_deref(),
                    state: state.as_deref(),
                };
                value(&search::search(&*self.registry()?, said)?)
            }
            "capabilities" => {
                let StatusParams { plugin, version } = parameters(params)?;
                let registry = self.registry()?;
                value(&match plugin {
                    Some(plugin) => search::abilities(registry.find_any(&plugin, version.as_deref())?),
                    None => search::providers(&registry),
                })
            }
            "deprecate" => {
                let DeprecateParams { plugin, version, reason, undo } = parameters(params)?;
                let packages = self.changeable()?;
                let work = async move { packages.deprecate(&plugin, version.as_deref(), reason, undo, &who).await };
                let said = to_its_end(work).await?;
                kept(value(&said.handle.status().await)?, said.not_kept)
            }
            "stats" => {
                let StatusParams { plugin, version } = parameters(params)?;
                value(&self.packages()?.usage(plugin.as_deref(), version.as_deref()).await?)
            }
            "update" => {
                let UpdateParams { plugin, version, to_version: to, path, check, major, force } = parameters(params)?;
                if check {
                    if version.is_some() || to.is_some() || path.is_some() || major || force {
                        let message =
                            "what is only looked at has no `version`, `to_version`, `path`, `major` and `force`";
                        return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
                    }
                    return Ok(json!({ "available": value(&self.packages()?.available(plugin.as_deref()).await?)? }));
                }
                let packages = self.changeable()?;
                let leave = Leave { major, force };
                let work = async move {
                    packages.updates(plugin, (version.as_deref(), to.as_deref()), path, leave, &who).await
                };
                let mut updated = value(&to_its_end(work).await?)?;
                for one in updated["updates"].as_array_mut().into_iter().flatten() {
                    self.say_what_it_awaits(one)?;
                }
                Ok(updated)
            }
            "config" => {
                let Which { plugin, version } = parameters(params)?;
                value(&self.packages()?.configuration(&plugin, version.as_deref()).await?)
            }
            "configure" => {
                let ConfigureParams { plugin, version, set, unset, undo } = parameters(params)?;
                let change = Change { plugin, version, set, unset, undo };
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.configure(change, &who).await }).await?)
            }
            "secret_list" => {
                let plugin = self.as_a_whole(parameters(params)?)?;
                value(&self.packages()?.secrets(&plugin).await?)
            }
            "secret_set" => {
                let SetSecretParams { plugin, version, name, value: secret } = secret_parameters(params)?;
                let plugin = self.as_a_whole(Which { plugin, version })?;
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.set_secret(&plugin, &name, secret, &who).await }).await?)
            }
            "secret_remove" => {
                let SecretParams { plugin, version, name } = parameters(params)?;
                let plugin = self.as_a_whole(Which { plugin, version })?;
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.remove_secret(&plugin, &name, &who).await }).await?)
            }
            "state_show" => {
                let StateShowParams { plugin, version, key, prefix, after, from } = parameters(params)?;
                let plugin = self.as_a_whole(Which { plugin, version })?;
                value(&self.packages()?.kept(&plugin, key, prefix, after, from).await?)
            }
            "state_import" => {
                let StateImportParams { plugin, version, path } = parameters(params)?;
                let plugin = self.as_a_whole(Which { plugin, version })?;
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.import(&plugin, &path, &who).await }).await?)
            }
            "state_reset" => {
                let plugin = self.as_a_whole(parameters(params)?)?;
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.forget_kept(&plugin, &who).await }).await?)
            }
            "rescan" => {
                parameters::<NoParams>(params)?;
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.rescan(Trusting::Nothing).await }).await?)
            }
            "reload" => {
                let ReloadParams { plugin, version, dry_run } = parameters(params)?;
                versions_have_a_plugin(plugin.as_deref(), version.as_deref())?;
                let packages = self.changeable()?;
                let work =
                    async move { packages.reloads((plugin.as_deref(), version.as_deref()), dry_run, &who).await };
                value(&to_its_end(work).await?)
            }
            "backups" => {
                let Which { plugin, version } = parameters(params)?;
                let backups = self.packages()?.backups(&plugin, version.as_deref()).await?;
                let states = self.packages()?.kept_states(&plugin, version.as_deref(), &backups).await?;
                Ok(json!({ "backups": value(&backups)?, "states": value(&states)? }))
            }
            "rollback" => {
                let RollbackParams { plugin, version, to, with_state } = parameters(params)?;
                let packages = self.changeable()?;
                let work = async move { packages.rollback((&plugin, version.as_deref()), to, with_state, &who).await };
                value(&to_its_end(work).await?)
            }
            "audit" => {
                let AuditParams { plugin, version, since_unix_ms, before, limit } = parameters(params)?;
                versions_have_a_plugin(plugin.as_deref(), version.as_deref())?;
                let plugin = plugin.map(|plugin| self.as_a_whole(Which { plugin, version })).transpose();
                let plugin = plugin.map_err(|error| match error.code {
                    ErrorCode::PluginNotFound => {
                        error.with_hint("without a version, what was done with plugins that are gone is shown as well")
                    }
                    _ => error,
                })?;
                value(&self.packages()?.trail(plugin, since_unix_ms, before, limit).await?)
            }
            _ => {
                let Which { plugin, version } = parameters(params)?;
                let (packages, enable) = (self.changeable()?, action == "enable");
                let work = async move { packages.enable(&plugin, version.as_deref(), enable, &who).await };
                let said = to_its_end(work).await?;
                let mut status = value(&said.handle.status().await)?;
                if !said.broken.is_empty() {
                    status["broken"] = json!(said.broken);
                }
                kept(status, said.not_kept)
            }
        }
    }

    /// Says of an installed version whether it takes calls before its operator has said something, and about what that would be.
    fn say_what_it_awaits(&self, installed: &mut Value) -> Result<(), ErrorBody> {
        let text = |key: &str| installed[key].as_str().unwrap_or_default();
        let (registry, only) = (self.registry()?, format!("={}", text("version")));
        // Somebody may have removed it meanwhile.
        let asks = match registry.find_any(text("id"), Some(&only)) {
            Ok(handle) if handle.awaits_consent() => Some(value(&consent::permissions(handle))?),
            _ => None,
        };
        installed["awaits_consent"] = json!(asks.is_some());
        if let Some(asks) = asks {
            installed["asks"] = asks;
        }
        Ok(())
    }

    /// The packages, while they can be changed.
    fn changeable(&self) -> Result<Arc<Packages>, ErrorBody> {
        self.refuse_while_stopping()?;
        self.packages()
    }

    pub(super) fn packages(&self) -> Result<Arc<Packages>, ErrorBody> {
        let none = || ErrorBody::new(ErrorCode::Unavailable, "packages cannot be changed here");
        self.packages.clone().ok_or_else(none)
    }
}

/// Parameters with a secret in them: what is wrong with them is said without quoting any of it, and nothing is copied to find it out.
fn secret_parameters(params: &[u8]) -> Result<SetSecretParams, ErrorBody> {
    let invalid = |message: String| ErrorBody::new(ErrorCode::InvalidParams, message);
    palisade_protocol::check_payload(params, ValueLimits::PAYLOAD).map_err(|error| invalid(error.to_string()))?;
    // What serde says of it are names of fields, and what `Secret` says of its value.
    rmp_serde::from_slice(params).map_err(|error| match error {
        rmp_serde::decode::Error::Uncategorized(message) | rmp_serde::decode::Error::Syntax(message) => {
            invalid(message)
        }
        _ => invalid("they are `plugin`, `version`, `name` and `value`, each a text".to_owned()),
    })
}

/// An answer that says, where what it is about ends with the daemon, why.
fn kept(mut answer: Value, not_kept: Option<String>) -> Result<Value, ErrorBody> {
    if let Some(why) = not_kept {
        answer["not_kept"] = json!(why);
    }
    Ok(answer)
}

/// Does what must not be left half done.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ErrorBody>> + Send + 'static,
) -> Result<T, ErrorBody> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| ErrorBody::new(ErrorCode::Internal, format!("it did not come to its end: {error}")))?
}
