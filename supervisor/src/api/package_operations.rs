//! The operations that change which packages there are and what is known of them.

use std::sync::Arc;

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Deserialize;
use serde_json::Value;

use super::service::{Service, Which, parameters, value};
use crate::packages::{Leaving, Packages};

/// Their names.
pub(super) const NAMES: &[&str] = &["install", "uninstall", "enable", "disable"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallParams {
    path: String,
    #[serde(default)]
    force: bool,
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

impl Service {
    /// Performs one of them. What was begun comes to its end, also when whoever asked for it does not wait any more.
    pub(super) async fn package_operation(&self, who: &str, action: &str, params: &[u8]) -> Result<Value, ErrorBody> {
        let who = who.to_owned();
        match action {
            "install" => {
                let InstallParams { path, force } = parameters(params)?;
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.install(&path, force, &who).await }).await?)
            }
            "uninstall" => {
                let UninstallParams { plugin, version, force, purge } = parameters(params)?;
                let packages = self.changeable()?;
                let leaving = if purge { Leaving::Purged } else { Leaving::Kept };
                let work = async move { packages.uninstall(&plugin, version.as_deref(), force, leaving, &who).await };
                value(&to_its_end(work).await?)
            }
            _ => {
                let Which { plugin, version } = parameters(params)?;
                let (packages, enable) = (self.changeable()?, action == "enable");
                let work = async move { packages.enable(&plugin, version.as_deref(), enable, &who).await };
                let handle = to_its_end(work).await?;
                value(&handle.status().await)
            }
        }
    }

    /// The packages, while they can be changed.
    fn changeable(&self) -> Result<Arc<Packages>, ErrorBody> {
        self.refuse_while_stopping()?;
        let none = || ErrorBody::new(ErrorCode::Unavailable, "packages cannot be changed here");
        self.packages.clone().ok_or_else(none)
    }
}

/// Does what must not be left half done.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ErrorBody>> + Send + 'static,
) -> Result<T, ErrorBody> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| ErrorBody::new(ErrorCode::Internal, format!("it did not come to its end: {error}")))?
}
