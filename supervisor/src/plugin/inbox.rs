//! The way into a generation: calls, and word that a call's caller has sent something more.
//!
//! Bounded, and never waited for: a call that finds no room is handed back, and word that finds none is remembered, so
//! that nothing that a caller sent lies unseen. What the actor orders goes another way, as it must not wait behind calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::call::Call;

/// What comes in.
#[derive(Debug)]
pub enum Message {
    /// A call.
    Call(Arc<Call>),
    /// The caller of the call with that id has sent something more.
    Poke(u64),
}

/// The sending end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbox {
    messages: mpsc::Sender<Message>,
    missed: Arc<AtomicBool>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Outlet {
    /// What has come.
    pub messages: mpsc::Receiver<Message>,
    missed: Arc<AtomicBool>,
}

/// Both ends, with room for that many messages.
#[must_use]
pub fn inbox(room: usize) -> (Inbox, Outlet) {
    let (sender, messages) = mpsc::channel(room);
    let missed = Arc::new(AtomicBool::new(false));
    (Inbox { messages: sender, missed: missed.clone() }, Outlet { messages, missed })
}

impl Inbox {
    /// Hands a call over; it comes back if there is no room, or nobody there any more.
    pub fn call(&self, call: Arc<Call>) -> Option<Arc<Call>> {
        match self.messages.try_send(Message::Call(call)) {
            Ok(()) => None,
            Err(TrySendError::Closed(message) | TrySendError::Full(message)) => match message {
                Message::Call(call) => Some(call),
                Message::Poke(_) => None,
            },
        }
    }

    /// Says that there is something to take from that call. Says whether it need not be said again before it is taken.
    pub fn poke(&self, id: u64) -> bool {
        match self.messages.try_send(Message::Poke(id)) {
            Ok(()) => true,
            // The generation is gone, and what was sent stays with the call.
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                // Noted first and tried again then: either the receiver sees the note, or there is room by now.
                self.missed.store(true, Ordering::SeqCst);
                self.messages.try_send(Message::Poke(id)).is_ok()
            }
        }
    }

    /// Waits until there is room. Cancel safe. Once nobody is there any more it waits without end.
    pub async fn room(&self) {
        if self.messages.reserve().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Outlet {
    /// Whether word of some call found no room since this was last asked. To be asked after messages were taken out.
    pub fn has_missed(&self) -> bool {
        self.missed.swap(false, Ordering::SeqCst)
    }
}
