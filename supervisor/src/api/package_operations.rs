//! The operations that change which packages there are and what is known of them.

use std::path::PathBuf;
use std::sync::Arc;

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Deserialize;
use serde_json::Value;

use super::service::{NoParams, Service, StopParams, Which, parameters, value};
use crate::packages::{Packages, Trusting};

/// Their names.
pub(super) const NAMES: &[&str] = &["install", "uninstall", "enable", "disable", "rescan"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallParams {
    path: PathBuf,
    #[serde(default)]
    force: bool,
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
                let StopParams { plugin, version, force } = parameters(params)?;
                let packages = self.changeable()?;
                let work = async move { packages.uninstall(&plugin, version.as_deref(), force, &who).await };
                value(&to_its_end(work).await?)
            }
            "rescan" => {
                parameters::<NoParams>(params)?;
                let packages = self.changeable()?;
                value(&to_its_end(async move { packages.rescan(Trusting::Nothing).await }).await?)
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
