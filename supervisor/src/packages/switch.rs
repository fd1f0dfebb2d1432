//! How a version is enabled and disabled.

use palisade_protocol::{ErrorBody, ErrorCode};

use super::{Packages, lock, run, the_one};
use crate::events::EventKind;
use crate::model::generation::StopWhy;
use crate::plugin::handle::{Handle, Operation};
use crate::registry::{self, Found, Registry};
use crate::store::Snapshot;

impl Packages {
    /// Has a version take calls, or take none. One that is disabled is stopped; other versions are as they were.
    ///
    /// Not cancel safe: it may be disabled, and not stopped yet.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`, `invalid_params` where several fit; `resource_exhausted` where it cannot be noted.
    pub async fn enable(
        &self,
        plugin: &str,
        version: Option<&str>,
        enabled: bool,
        who: &str,
    ) -> Result<Handle, ErrorBody> {
        let one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = the_one(&registry, plugin, version)?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        if handle.is_enabled() == enabled {
            return Ok(handle);
        }
        let what = if enabled { "enable" } else { "disable" };
        let entry = self.entry(what, who, &id, &version, String::new());
        let database = self.database.clone();
        let noted = run(move || database.switch(enabled, &entry)).await?;
        noted.map_err(|error| ErrorBody::new(ErrorCode::ResourceExhausted, error.to_string()))?;
        if !enabled {
            handle.set_enabled(false);
            self.live.has_changed();
            self.tell(EventKind::PackageDisabled, &id, &version, None);
            // Its calls may take their time; nobody else waits for them.
            drop(one_change);
            handle.operate(Operation::Stop { force: false, why: StopWhy::Operator }).await?;
            return Ok(handle);
        }
        // It begins as a daemon that starts would have it begin, with nothing held against it.
        let (blueprint, snapshot) = (handle.blueprint(), handle.blueprint().snapshot());
        // Where there is no copy yet, it is what would be copied.
        let folder = |snapshot: &Snapshot| match snapshot.is_presumed {
            true => blueprint.source.clone(),
            false => snapshot.path.clone(),
        };
        let read = match snapshot.as_ref().ok().map(folder) {
            Some(folder) => run(move || registry::read(&folder)).await?.ok(),
            None => None,
        };
        let read = read.filter(|read| read.manifest == blueprint.manifest);
        let (anew, ending) = match read {
            Some(found) => {
                let task = lock(&self.tasks).remove(&(id.clone(), version.clone()));
                (
                    self.make(
                        Found { path: blueprint.source.clone(), passed_over: blueprint.passed_over(), ..found },
                        snapshot,
                    ),
                    Some(task),
                )
            }
            None => (handle.clone(), None),
        };
        anew.set_enabled(true);
        let mut changed = Registry::clone(&registry);
        changed.put(anew.clone());
        self.live.replace(changed);
        self.tell(EventKind::PackageEnabled, &id, &version, None);
        let leaving = ending.map(|task| self.leave(handle.clone(), task, Some(&anew)));
        drop(one_change);
        if let Some(leaving) = leaving {
            leaving.ended().await;
        }
        self.set_off(&anew).await;
        Ok(anew)
    }
}
