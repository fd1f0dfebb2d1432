//! The agent socket: the frames of the plugin protocol, from agents.
//!
//! One task per connection reads frames and writes answers; what a plugin answers is put into the connection's outbox by the
//! task of its generation. Who connects is established by the kernel before a frame is read. An agent that is slow, floods, sends
//! garbage or vanishes costs itself alone: its calls are bounded in number, its data by credit, what it does not read by a limit
//! beyond which it is cut off.
//!
//! Elsewhere: what the operations do is `service`; the rules of a call's frames towards the plugin are `plugin::link`.

mod answers;
mod connection;
mod items;
mod listener;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use palisade_protocol::{ErrorBody, ErrorCode, Flags, Kind, Refuse};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::connection::Agent;
pub use self::listener::{ListenError, Listener, listen};
use super::service::Service;
use crate::wire::Outbox;

/// Most agents at once.
const AGENTS_MAX: usize = 1024;

/// How long an agent has for its first frame.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Serves agents until it is told to leave; then each connection writes what it can at once, and ends.
///
/// When it is dropped before, the connections end without a word.
pub async fn serve(listener: &Listener, service: Arc<Service>, mut leaving: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // An error means that nobody is left who could say so.
            _ = leaving.changed() => break,
            accepted = listener.listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "the task of an agent's connection panicked");
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let room = connections.len() < AGENTS_MAX;
                connections.spawn(receive(stream, service.clone(), room, leaving.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely; trying again at once would only spin.
                tracing::error!(%error, "cannot accept an agent");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// One connection, from its first moment to its last.
async fn receive(mut stream: UnixStream, service: Arc<Service>, room: bool, leaving: watch::Receiver<bool>) {
    let allowed = match stream.peer_cred() {
        Ok(peer) => {
            let uid = peer.uid();
            let own = rustix::process::geteuid().as_raw();
            // The socket's mode lets nobody in but the group, if there is one.
            let in_group = service.config.socket_group.is_some();
            if uid == 0 || uid == own || in_group || service.config.allowed_uids.contains(&uid) {
                Ok(uid)
            } else {
                let message = format!("user {uid} may not use this socket");
                let error = ErrorBody::new(ErrorCode::PermissionDenied, message);
                Err(error.with_hint("the daemon's own user, root, and `allowed_uids` of palisade.toml may"))
            }
        }
        Err(error) => {
            Err(ErrorBody::new(ErrorCode::PermissionDenied, format!("who you are cannot be established: {error}")))
        }
    };
    let allowed = if room {
        allowed
    } else {
        let message = format!("{AGENTS_MAX} agents are connected already");
        Err(ErrorBody::new(ErrorCode::Overloaded, message).with_retry_after_ms(1_000))
    };
    match allowed {
        Ok(uid) => Agent::new(stream, service, uid).run(leaving).await,
        Err(error) => {
            tracing::info!(%error, "an agent was refused");
            let mut outbox = Outbox::default();
            outbox.message(Kind::Refuse, Flags::NONE, 0, &Refuse { error }, &[]);
            let _ = tokio::time::timeout(HELLO_WITHIN, poll_fn(|cx| outbox.poll_flush(cx, &mut stream))).await;
        }
    }
}

#[cfg(test)]
mod tests;
