//! How a newer version comes to serve where it must not run beside the one before, or has the state in another form: that one ends, calls
//! wait, and the newer one starts with the state that there is.
//!
//! Invariant: until calls go to the newer version everything can be as it was: the state is held as a copy, which a daemon that follows one
//! which is killed puts back, unless the newer version was accepted.
//! Elsewhere: a package that takes the place of one of the same folder is `reload`'s; which version serves is `accepted`'s.

use std::path::PathBuf;
use std::sync::Arc;

use palisade_protocol::ErrorBody;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use super::prepare::Prepared;
use super::reload::{Candidate, Kept, Uses, keep_state, now_ms, overtaken, put_back, start};
use super::{Packages, run};
use crate::model::ids::PluginId;
use crate::model::reload_plan::Manner;
use crate::plugin::handle::Handle;
use crate::registry::Registry;
use crate::state::{State, aside_name_of};
use crate::store::Snapshot;

/// What stands still for a newer version that is being tried.
#[derive(Debug)]
pub(super) struct Alone {
    old: Handle,
    /// The version before, as it is for those who ask for it by its number once the newer one serves.
    again: Box<Prepared>,
    state: Arc<State>,
    /// The state before, where it is brought into another form.
    held: Option<PathBuf>,
    /// Nothing else exchanges the plugin meanwhile.
    _turn: OwnedMutexGuard<()>,
}

/// The version before, once a newer one serves.
pub(super) struct Stood {
    old: Handle,
    task: Option<JoinHandle<()>>,
    /// What it is from now on.
    pub(super) again: Handle,
}

impl Alone {
    /// Has everything be as it was. No process of the newer version is left.
    pub(super) async fn undo(self) {
        if let Some(held) = self.held {
            put_back(&self.state, held, None).await;
        }
        self.old.blueprint().gate.open();
    }

    /// By which name the copy of the state stays once the newer version is accepted. Whoever notes that notes the name with it: from then on no
    /// daemon puts it back.
    pub(super) fn kept_name(&self) -> Option<String> {
        self.held.as_deref().map(aside_name_of)
    }

    /// Gives the copy that name; returns it.
    pub(super) async fn keep(&mut self) -> Option<String> {
        let (of, held) = (self.state.clone(), self.held.take()?);
        let name = aside_name_of(&held);
        let kept = run(move || of.keep_aside(&held).map_err(|error| error.to_string())).await;
        if let Err(error) = kept.map_err(|error| error.message).flatten() {
            tracing::error!(plugin = %self.old.id(), %error, "what it kept before has its name once the daemon is started again");
        }
        Some(name)
    }
}

impl Packages {
    /// Ends what serves and starts the newer version in its place, while calls wait. Nothing where somebody has to consent to that first.
    ///
    /// # Errors
    /// What it fails with; then what served goes on.
    pub(super) async fn run_alone(
        &self,
        prepared: Prepared,
        snapshot: &Snapshot,
        old: &Handle,
        manner: Manner,
    ) -> Result<Option<Candidate>, Kept> {
        let turn = old.blueprint().gate.turn.clone().lock_owned().await;
        if old.successor().is_some() {
            return Err(overtaken(old));
        }
        let blueprint = old.blueprint();
        let installed_from = blueprint.consent.is_installed.then(|| blueprint.consent.source.clone());
        let again = (super::consent::found_of(old), blueprint.snapshot());
        let again = Box::new(self.prepare_one(again, installed_from).await.map_err(Kept::ForNow)?);
        self.hold(old).await?;
        let state = self.around.states.of(old.id());
        let held = match manner {
            Manner::Migrating => keep_state(&state, None).await.map(|(held, _)| held),
            _ => Ok(None),
        };
        let held = match held {
            Ok(held) => held,
            Err(error) => {
                old.blueprint().gate.open();
                return Err(Kept::ForNow(error));
            }
        };
        let mut candidate = self.beside(prepared, snapshot, old, Uses::Live).await;
        candidate.alone = Some(Alone { old: old.clone(), again, state, held, _turn: turn });
        match start(&candidate).await {
            Ok(()) => Ok(Some(candidate)),
            Err(kept) => {
                let awaits = candidate.is_awaiting_consent();
                candidate.end().await;
                if awaits { Ok(None) } else { Err(kept) }
            }
        }
    }

    /// Keeps a copy of the state as the version before can use it, which has no process, where the newer one brings it into another form with its
    /// first; returns its name.
    pub(super) async fn copy_before(&self, old: &Handle, new: &Handle) -> Result<Option<String>, ErrorBody> {
        let [before, after] = [old, new].map(|handle| handle.blueprint().manifest.state_schema);
        if before.unwrap_or(0) == after.unwrap_or(0) {
            return Ok(None);
        }
        let state = self.around.states.of(old.id());
        let copied = run(move || state.copy_aside(now_ms())).await?;
        copied.map_err(|error| crate::state::error_body(&error))
    }

    /// Has that copy not stay, as nothing was done.
    pub(super) async fn drop_copy(&self, id: &PluginId, name: String) {
        let state = self.around.states.of(id);
        let dropped =
            run(move || state.drop_aside(&state.path_of_kept(&name)).map_err(|error| error.to_string())).await;
        if let Err(error) = dropped.map_err(|error| error.message).flatten() {
            tracing::warn!(plugin = %id, %error, "a copy of its state stays");
        }
    }

    /// Where a copy is that is kept of what was before, as it goes on from what is done.
    pub(super) fn kept_in(&self, id: &PluginId, name: &str) -> String {
        let path = self.around.states.of(id).path_of_kept(name);
        format!("what it kept before is kept in {}", path.display())
    }

    /// Puts the version before into the registry as it is from now on. The caller has it be the registry that holds, and calls
    /// [`Packages::go_on_with`] then, with nothing awaited between.
    pub(super) fn stand_again(&self, next: &mut Registry, alone: Alone) -> Stood {
        let Alone { old, again, .. } = alone;
        let task = self.task_of(&old);
        let again = self.make(*again);
        again.carry_over(&old);
        next.put(again.clone());
        Stood { old, task, again }
    }

    /// Has the calls that wait go to the newer version.
    pub(super) fn go_on_with(&self, new: &Handle, stood: Stood) {
        drop(self.leave(stood.old, stood.task, Some(new)));
    }
}
