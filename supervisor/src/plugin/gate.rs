//! Where the starts of a plugin wait while another package is to take its place and both must not run at once.
//!
//! The calls that come meanwhile wait with it, within their deadlines: for the other package, or for this one if that fails.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

/// Whether starts are let through.
#[derive(Debug)]
pub struct Gate {
    now: watch::Sender<State>,
    /// Held by who exchanges the plugin: one at a time.
    pub turn: Arc<Mutex<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    /// A start waits: no process of the plugin is left.
    Reached,
}

impl Default for Gate {
    fn default() -> Self {
        Self { now: watch::Sender::new(State::Open), turn: Arc::default() }
    }
}

impl Gate {
    /// Lets no start through from now on.
    pub fn close(&self) {
        self.now.send_replace(State::Closed);
    }

    /// Lets them through again.
    pub fn open(&self) {
        self.now.send_replace(State::Open);
    }

    /// Whether starts have to wait.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.now.borrow() != State::Open
    }

    /// Waits until a start has come to it. Cancel safe.
    pub async fn reached(&self) {
        // The other end is `self`.
        let _ = self.now.subscribe().wait_for(|state| *state == State::Reached).await;
    }

    /// Waits until it is open. Cancel safe.
    pub async fn passed(&self) {
        self.now.send_if_modified(|state| {
            let is_first = *state == State::Closed;
            if is_first {
                *state = State::Reached;
            }
            is_first
        });
        let _ = self.now.subscribe().wait_for(|state| *state == State::Open).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_holds_a_plugin_knows_when_nothing_of_it_is_left_and_lets_it_go_on() {
        let gate = Arc::new(Gate::default());
        gate.passed().await;
        gate.close();
        let start = tokio::spawn({
            let gate = gate.clone();
            async move { gate.passed().await }
        });
        gate.reached().await;
        assert!(gate.is_closed() && !start.is_finished());
        gate.open();
        start.await.unwrap();
        assert!(!gate.is_closed());
    }
}
