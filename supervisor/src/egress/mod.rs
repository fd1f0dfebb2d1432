//! The only way out for a plugin: a proxy, for HTTP and for tunnels, on a listener inside the plugin's own network namespace.
//!
//! The launcher makes the namespace, which leads nowhere, and the listener in it; what is accepted there is served here, in the daemon,
//! whose sockets to servers are the host's. Which hosts and addresses are allowed is `model::permission::network`.
//!
//! * `connection`: one connection from its first byte to its record. `passage`: its bytes, once it is allowed.
//! * `head`, `body`, `client_hello`: readers of what the plugin and the server send; pure.
//! * `resolver`: names to addresses. `refusal`: why not, and the answer. `audit`: what is remembered. `limits`: how much.
//!
//! Invariants: what is not granted is refused; the address that was checked is the one that is connected to; nothing that a plugin or a server
//! sends grows beyond a bound of `limits`, in bytes or in time; no record waits.
//! Elsewhere: making the listener and setting `HTTP_PROXY` is the launcher's and the blueprint's business; keeping records the audit's.

pub mod audit;
pub mod body;
pub mod client_hello;
mod connection;
pub mod head;
mod limits;
mod passage;
mod refusal;
mod resolver;

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::audit::Audit;
pub use self::limits::Limits;
pub use self::refusal::{Kind, Refusal};
pub use self::resolver::{LOOKUPS_MAX, LOOKUPS_OF_ONE_MAX, LookupError, Resolver};
use crate::model::permission::network::Policy;

/// Serves the listener of one plugin's process, for as long as it is awaited.
///
/// Dropping it is how it is ended: the listener closes, every connection is broken off, and what was allowed is recorded as ended. Nothing of it
/// runs on, except that a name which the system is being asked for keeps its place until the system answers.
///
/// # Errors
/// If the listener is none, or nothing can be accepted on it any more. A connection that fails is no error here.
pub async fn serve<A: Audit>(
    listener: TcpListener,
    policy: Arc<Policy>,
    audit: A,
    resolver: Resolver,
    limits: Limits,
) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let places_told = Arc::new(Semaphore::new(limits::TOLD_OF_LIMIT_MAX));
    let mut pace = limits::Pace::new(&limits, Instant::now());
    let shared = Arc::new(connection::Shared { policy, audit, resolver, limits });
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let client = match accepted {
            Ok((client, _)) => client,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) if is_scarcity(&error) => {
                tracing::warn!(%error, "a plugin's connection cannot be accepted for now");
                sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        number += 1;
        let pause = pace.accepted(Instant::now());
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                connection::serve(client, number, shared).await;
                drop(place);
            });
        } else {
            let answer = connection::one_too_many(&shared, number);
            if let Ok(place) = Arc::clone(&places_told).try_acquire_owned() {
                let mut client = client;
                connections.spawn(async move {
                    connection::say_and_close(&mut client, &answer).await;
                    drop(place);
                });
            }
        }
        // Those that come meanwhile wait in the listener's queue, in the kernel, which is bounded too.
        if let Some(until) = pause {
            sleep_until(until).await;
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// Whether it is the process or the machine that has no more: descriptors, buffers, memory.
fn is_scarcity(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
