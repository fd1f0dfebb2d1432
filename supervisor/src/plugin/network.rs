//! A plugin's way out: serves the listener of one process with the proxy, and tells what was decided there.
//!
//! Records are written behind: the proxy never waits for whoever hears them, and of those that find no place the number is told.
//!
//! Invariant: nothing of it outlives the process, and every record is told before the end of the process is.
//! Elsewhere: the proxy is `egress`; making the listener is the launcher's business; what is granted is decided before.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::egress::audit::{self, Passage, Reader, Record};
use crate::egress::{Kind, Limits, Resolver, serve};
use crate::events::{Bus, Connection, Event, EventKind, unix_ms};
use crate::model::ids::{Generation, PluginId};
use crate::model::permission::grants::Grants;
use crate::model::permission::network::Policy;
use crate::model::status::clip;

/// Records that may wait to be told. The daemon's one thread tells them as soon as it has nothing more urgent; this is more than
/// comes in a burst.
const RECORDS_MAX: usize = 1024;

/// A reason quotes what a plugin or a server sent; what is longer is cut.
const REASON_BYTES_MAX: usize = 512;

/// For telling what the end of a process leaves. None of it waits for anybody; this is against a mistake of ours.
const LAST_RECORDS: Duration = Duration::from_secs(1);

/// What one plugin's processes are served with.
#[derive(Debug, Clone)]
pub struct Network {
    policy: Arc<Policy>,
    resolver: Resolver,
    limits: Limits,
    bus: Bus,
}

/// Whose way out it is.
#[derive(Debug, Clone)]
pub struct Who {
    pub plugin: PluginId,
    pub version: String,
    pub generation: Generation,
}

/// A way out that is served.
#[derive(Debug)]
pub struct Serving {
    proxy: JoinHandle<()>,
    teller: JoinHandle<()>,
}

/// What a plugin's environment says of its way out, where there is one.
#[must_use]
pub fn variables(port: Option<u16>) -> Vec<(&'static str, String)> {
    let Some(port) = port else { return Vec::new() };
    let proxy = format!("http://127.0.0.1:{port}");
    // Programs disagree about the case; of `http_proxy` some know the small one alone. What is on its own loopback needs no way out.
    let proxies = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"].map(|name| (name, proxy.clone()));
    let own = ["NO_PROXY", "no_proxy"].map(|name| (name, "localhost,127.0.0.1,::1".to_owned()));
    proxies.into_iter().chain(own).collect()
}

impl Network {
    /// What follows from these grants, where this holds for all plugins.
    #[must_use]
    pub fn new(grants: &Grants, everywhere: &Policy, resolver: Resolver, limits: Limits, bus: Bus) -> Self {
        let policy = Arc::new(everywhere.granting(grants.network_access.clone()));
        Self { policy, resolver, limits, bus }
    }

    /// Serves a process until [`Serving::end`].
    #[must_use]
    pub fn serve(&self, listener: TcpListener, who: Who) -> Serving {
        let (writer, records) = audit::queue(RECORDS_MAX);
        let serving = serve(listener, self.policy.clone(), writer, self.resolver.clone(), self.limits.clone());
        let id = who.plugin.clone();
        let proxy = tokio::spawn(async move {
            let Err(error) = serving.await;
            tracing::warn!(plugin = %id, %error, "its way out is closed: nothing more can be accepted");
        });
        let teller = tokio::spawn(tell(records, self.bus.clone(), who));
        Serving { proxy, teller }
    }
}

impl Serving {
    /// Ends it: the listener is closed, every connection broken off, and all of it told.
    ///
    /// Dropping this leaves the rest to be told by itself.
    pub async fn end(mut self) {
        self.proxy.abort();
        // That it was aborted is no news. With it go all who could record anything, so the teller comes to an end.
        let _ = (&mut self.proxy).await;
        if tokio::time::timeout(LAST_RECORDS, &mut self.teller).await.is_err() {
            self.teller.abort();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.proxy.abort();
    }
}

/// Tells of every record until nobody can record any more.
async fn tell(mut records: Reader, bus: Bus, who: Who) {
    let event = |kind| {
        let mut event = Event::new(kind);
        event.plugin = Some(who.plugin.clone());
        event.version = Some(who.version.clone());
        event.generation = Some(who.generation);
        event
    };
    let unrecorded = |count: u64| {
        tracing::warn!(plugin = %who.plugin, generation = %who.generation, count, "connections unrecorded");
        let reason = format!("{count} records of its connections found no place");
        bus.publish(Event { reason: Some(reason), ..event(EventKind::ConnectionsUnrecorded) });
    };
    while let Some(entry) = records.next().await {
        if entry.lost_before > 0 {
            unrecorded(entry.lost_before);
        }
        let at = unix_ms(entry.record.at);
        let Told { kind, connection, reason } = told(entry.record);
        // Nothing but what the event has, as a line.
        tracing::info!(
            plugin = %who.plugin,
            generation = %who.generation,
            connection = connection.number,
            host = connection.host.as_deref(),
            port = connection.port,
            decision = connection.decision,
            address = connection.address.as_deref(),
            bytes_up = connection.bytes_up,
            bytes_down = connection.bytes_down,
            reason = reason.as_deref(),
            "{}", log_word(kind),
        );
        bus.publish(Event { time_unix_ms: at, connection: Some(connection), reason, ..event(kind) });
    }
    let lost = records.lost();
    if lost > 0 {
        unrecorded(lost);
    }
}

fn log_word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::ConnectionAllowed => "connection allowed",
        EventKind::ConnectionEnded => "connection ended",
        _ => "connection refused",
    }
}

/// A record in the words of events.
struct Told {
    kind: EventKind,
    connection: Connection,
    reason: Option<String>,
}

fn told(record: Record) -> Told {
    let mut connection = Connection { number: record.connection, ..Connection::default() };
    if let Some(target) = &record.target {
        connection.host = Some(target.host.to_string());
        connection.port = Some(target.port);
    }
    match record.event {
        audit::Event::Allowed { address, passage } => {
            connection.decision = Some("allowed");
            connection.address = Some(address.to_string());
            connection.passage = Some(match passage {
                Passage::Tls => "tls",
                Passage::Tcp => "tcp",
                Passage::Http => "http",
            });
            Told { kind: EventKind::ConnectionAllowed, connection, reason: None }
        }
        audit::Event::Refused(refusal) => {
            connection.decision = Some(match refusal.kind() {
                Kind::Denied => "denied",
                Kind::Malformed => "malformed",
                Kind::Limited => "limited",
                Kind::Failed => "failed",
            });
            Told {
                kind: EventKind::ConnectionRefused,
                connection,
                reason: Some(clip(&refusal.to_string(), REASON_BYTES_MAX)),
            }
        }
        audit::Event::Ended { bytes_up, bytes_down, duration, end } => {
            connection.bytes_up = Some(bytes_up);
            connection.bytes_down = Some(bytes_down);
            connection.duration_ms = Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
            Told {
                kind: EventKind::ConnectionEnded,
                connection,
                reason: Some(clip(&end.to_string(), REASON_BYTES_MAX)),
            }
        }
    }
}
