//! Plugins that are in the registry no more, and have not ended yet: their last calls may take as long as they were given.
//!
//! Nobody waits for that while he keeps others from changing anything. Whoever has taken a plugin out of the registry, or put another in its
//! place, has it [leave](Packages::leave), lets go of `Packages::changing`, and waits then, if at all.
//!
//! Invariant: a plugin is in the registry, or here, or has ended; so a daemon that stops meanwhile finds every process.

use std::sync::Arc;

use tokio::sync::{MutexGuard, watch};
use tokio::task::JoinHandle;

use super::{Packages, end, lock};
use crate::model::ids::PluginId;
use crate::plugin::handle::{Command, Handle};

/// The end of a plugin that leaves. It comes whether anybody waits for it or not.
#[derive(Debug, Clone)]
pub(super) struct Departure {
    handle: Handle,
    ended: watch::Receiver<()>,
}

impl Departure {
    /// Waits until no process of it is left. Cancel safe.
    pub(super) async fn ended(mut self) {
        // Nothing is ever sent: its other end goes when the plugin has ended.
        while self.ended.changed().await.is_ok() {}
    }

    fn is_over(&self) -> bool {
        self.ended.has_changed().is_err()
    }
}

impl Packages {
    /// Has a plugin end that no new call reaches any more: those under way end as at a stop, and those that no process was given go to
    /// its `successor`, if it has one. Does not wait; to be told together with the change of the registry, with nothing awaited between
    /// the two.
    pub(super) fn leave(&self, handle: Handle, task: Option<JoinHandle<()>>, successor: Option<&Handle>) -> Departure {
        let (ending, ended) = watch::channel(());
        let departure = Departure { handle: handle.clone(), ended };
        let departures = self.departures.clone();
        {
            let mut departures = lock(&departures);
            // One whose end panicked did not take itself out.
            departures.retain(|other| !other.is_over());
            departures.push(departure.clone());
        }
        if let Some(successor) = successor {
            handle.succeeded_by(successor);
        }
        tokio::spawn(async move {
            handle.tell(Command::HandOver).await;
            end(&handle, task).await;
            drop(ending);
            lock(&departures).retain(|other| !other.is_over());
        });
        departure
    }

    /// Counts a plugin that is being tried among those that leave, until what is returned is dropped.
    pub(super) fn expect(&self, handle: &Handle) -> watch::Sender<()> {
        let (ending, ended) = watch::channel(());
        lock(&self.departures).push(Departure { handle: handle.clone(), ended });
        ending
    }

    /// It serves, and leaves no more.
    pub(super) fn no_departure(&self, handle: &Handle) {
        lock(&self.departures).retain(|departure| !departure.handle.is(handle));
    }

    /// Whether a version of that id is leaving.
    pub(super) fn is_leaving(&self, id: &PluginId) -> bool {
        self.leaving(id).is_some()
    }

    fn leaving(&self, id: &PluginId) -> Option<Departure> {
        lock(&self.departures).iter().find(|one| one.handle.id() == id && !one.is_over()).cloned()
    }

    /// Lets nobody else change anything, at a moment when no version of that id is leaving. Cancel safe.
    pub(super) async fn alone_with(&self, id: &PluginId) -> MutexGuard<'_, ()> {
        loop {
            let one_change = self.changing.lock().await;
            let Some(departure) = self.leaving(id) else { return one_change };
            drop(one_change);
            departure.ended().await;
        }
    }

    /// The plugins that are leaving, for whoever wants them to end otherwise.
    #[must_use]
    pub fn departing(&self) -> Vec<Handle> {
        lock(&self.departures).iter().map(|departure| departure.handle.clone()).collect()
    }

    /// Waits until all have ended that are leaving. Cancel safe.
    pub async fn all_departed(&self) {
        loop {
            let next = lock(&self.departures).iter().find(|departure| !departure.is_over()).cloned();
            match next {
                Some(departure) => departure.ended().await,
                None => return,
            }
        }
    }
}

/// The list of them.
pub(super) type Departures = Arc<std::sync::Mutex<Vec<Departure>>>;
