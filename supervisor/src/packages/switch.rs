//! How a version is enabled and disabled.

use palisade_protocol::ErrorBody;

use super::prepare::Prepared;
use super::remove::dependants;
use super::{Packages, Said, lock, run, the_one};
use crate::events::EventKind;
use crate::model::generation::StopWhy;
use crate::plugin::handle::{Handle, Operation};
use crate::registry::{self, Found, Registry};
use crate::store::Snapshot;

impl Packages {
    /// Has a version take calls, or take none. One that is disabled is stopped; other versions are as they were. With it come the plugins
    /// that depended on it and are without it now, as `id version` each.
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
    ) -> Result<Said, ErrorBody> {
        let one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = the_one(&registry, plugin, version)?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        if handle.is_enabled() == enabled && !lock(&self.unwritten).contains(&(id.clone(), version.clone())) {
            return Ok(self.said(handle));
        }
        let what = if enabled { "enable" } else { "disable" };
        // Nothing is noted before everything is there for it.
        let prepared = if enabled { self.read_again(&handle).await? } else { None };
        let entry = self.entry(what, who, &id, &version, String::new());
        let database = self.database.clone();
        let noted = run(move || database.switch(enabled, &entry)).await?;
        let not_noted = match noted {
            // What somebody wants to take no calls takes none, whatever there is no room for.
            Err(error) if !enabled => Some(error),
            noted => {
                noted.map_err(|error| super::unwritten(&error))?;
                lock(&self.unwritten).remove(&(id.clone(), version.clone()));
                if enabled {
                    // Who says so of this one wants it to serve.
                    self.accept_unwritten(&id, &version);
                }
                None
            }
        };
        if !enabled {
            if not_noted.is_some() {
                lock(&self.unwritten).insert((id.clone(), version.clone()));
            }
            // One that waits for consent was nothing to depend on before either.
            let broken = match handle.is_in_use() {
                true => dependants(&registry, &id, &version, Handle::is_in_use),
                false => Vec::new(),
            };
            handle.set_enabled(false);
            self.live.has_changed();
            self.tell(EventKind::PackageDisabled, &id, &version, None);
            // Its calls may take their time; nobody else waits for them.
            drop(one_change);
            handle.operate(Operation::Stop { force: false, why: StopWhy::Operator }).await?;
            let said = match not_noted {
                Some(error) => Self::said_and_not_kept(handle, &error),
                None => self.said(handle),
            };
            return Ok(Said { broken, ..said });
        }
        let (anew, ending) = match prepared {
            Some(prepared) => {
                let task = lock(&self.tasks).remove(&(id.clone(), version.clone()));
                (self.make(prepared), Some(task))
            }
            None => (handle.clone(), None),
        };
        // What it may have was said of the version; that it is to have no process ended with its being disabled.
        anew.blueprint().take_over_limits(handle.blueprint());
        anew.set_enabled(true);
        let mut changed = Registry::clone(&registry);
        changed.put(anew.clone());
        self.weigh(&changed, &id);
        self.live.replace(changed);
        self.write_acceptance().await;
        self.tell(EventKind::PackageEnabled, &id, &version, None);
        let leaving = ending.map(|task| {
            let leaving = self.leave(handle.clone(), task, Some(&anew));
            self.tell_state(handle.state(), &anew);
            leaving
        });
        drop(one_change);
        if let Some(leaving) = leaving {
            leaving.ended().await;
        }
        self.set_off(&anew).await;
        Ok(self.said(anew))
    }

    /// What the plugin is made from by a daemon that starts, with nothing held against it; if it is still that package.
    async fn read_again(&self, handle: &Handle) -> Result<Option<Prepared>, ErrorBody> {
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
        let Some(read) = read.filter(|read| read.manifest == blueprint.manifest) else { return Ok(None) };
        let found = Found { path: blueprint.source.clone(), passed_over: blueprint.passed_over(), ..read };
        Ok(Some(self.prepare_one((found, snapshot), None).await?))
    }
}
