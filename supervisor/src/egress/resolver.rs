//! Which addresses a host has: from the override table, or else from the system.
//!
//! The plugin resolves nothing itself. A name of the table is answered from it alone, so a table is enough for tests and for hosts that are
//! elsewhere inside than outside. The system is asked through `getaddrinfo`, with all that the operator configured there (`/etc/hosts`, search domains).
//!
//! Invariants: at most `LOOKUPS_MAX` questions are with the system at once, and `LOOKUPS_OF_ONE_MAX` of one plugin's, also those that
//! nobody waits for any more, since a thread that asks cannot be told to stop; whoever finds all places taken waits for one within the
//! same time. So a plugin whose names no server answers holds up itself.
//! Elsewhere: whether an address may be used is the policy's decision, taken anew for each connection.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::blocking;
use crate::model::permission::host::{Host, Name};

/// Questions to the system at once, each on a thread of its own.
pub const LOOKUPS_MAX: usize = 32;

/// So many of them are one plugin's.
pub const LOOKUPS_OF_ONE_MAX: usize = 2;

static PLACES: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// Most addresses that are looked at of one answer.
const ADDRESSES_MAX: usize = 64;

/// Why there are no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("{host} could not be resolved within {}", humane(*.within))]
    TimedOut { host: Host, within: Duration },
    #[error("{host} cannot be resolved: {detail}")]
    Failed { host: Host, detail: String },
    #[error("{host} has no address")]
    None { host: Host },
}

fn humane(time: Duration) -> String {
    if time.subsec_nanos() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

/// Finds addresses for one plugin. Clones share what it may ask at once.
#[derive(Debug, Clone)]
pub struct Resolver {
    overrides: Arc<BTreeMap<Name, Vec<IpAddr>>>,
    /// This plugin's part of the places.
    lookups: Arc<Semaphore>,
}

impl Resolver {
    /// With a table that goes before the system. A name with an empty list has no address.
    #[must_use]
    pub fn new(overrides: Arc<BTreeMap<Name, Vec<IpAddr>>>) -> Self {
        Self { overrides, lookups: Arc::new(Semaphore::new(LOOKUPS_OF_ONE_MAX)) }
    }

    /// The addresses of a host, at least one.
    ///
    /// Dropping this gives up the answer; a question that is with the system keeps its place until it is answered.
    ///
    /// # Errors
    /// [`LookupError`].
    pub async fn resolve(&self, host: &Host, within: Duration) -> Result<Vec<IpAddr>, LookupError> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let addresses = match self.overrides.get(name) {
            Some(addresses) => addresses.clone(),
            None => timeout(within, self.ask(name))
                .await
                .map_err(|_| LookupError::TimedOut { host: host.clone(), within })?
                .map_err(|error| LookupError::Failed { host: host.clone(), detail: error.to_string() })?,
        };
        if addresses.is_empty() { Err(LookupError::None { host: host.clone() }) } else { Ok(addresses) }
    }

    async fn ask(&self, name: &Name) -> io::Result<Vec<IpAddr>> {
        let place = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let name = name.clone();
        // A task of its own, which ends when the thread does: the place is taken until then, whoever still waits.
        let asking = tokio::spawn(async move {
            let found = blocking::run_in(&PLACES, move || (name.as_str(), 0).to_socket_addrs()).await;
            drop(place);
            let mut addresses: Vec<IpAddr> = Vec::new();
            for found in found??.take(ADDRESSES_MAX) {
                if !addresses.contains(&found.ip()) {
                    addresses.push(found.ip());
                }
            }
            io::Result::Ok(addresses)
        });
        asking.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_table_goes_before_the_system_and_addresses_are_themselves() {
        let name = |text| Name::parse(text).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let table = BTreeMap::from([(name("localhost"), vec![ip("192.0.2.7")]), (name("none.example"), vec![])]);
        let resolver = Resolver::new(Arc::new(table));
        let resolve = async |text| resolver.resolve(&Host::parse(text).unwrap(), WITHIN).await;
        assert_eq!(resolve("LOCALHOST").await, Ok(vec![ip("192.0.2.7")]));
        assert_eq!(resolve("[::1]").await, Ok(vec![ip("::1")]));
        assert_eq!(resolve("none.example").await.unwrap_err().to_string(), "none.example has no address");
        let system = Resolver::new(Arc::default()).resolve(&Host::parse("localhost").unwrap(), WITHIN).await.unwrap();
        assert!(system.iter().all(IpAddr::is_loopback), "{system:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_waits_for_its_place_no_longer_than_its_time() {
        let resolver = Resolver::new(Arc::default());
        let taken = Arc::clone(&resolver.lookups).acquire_many_owned(2).await.unwrap();
        let host = Host::parse("localhost").unwrap();
        let error = resolver.clone().resolve(&host, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "localhost could not be resolved within 5 s");
        drop(taken);
        assert_eq!(resolver.lookups.available_permits(), LOOKUPS_OF_ONE_MAX);
    }

    #[tokio::test]
    async fn questions_that_nobody_answers_hold_up_only_the_plugin_that_asks_them() {
        let slow = Resolver::new(Arc::default());
        let _asking = Arc::clone(&slow.lookups).acquire_many_owned(2).await.unwrap();
        let _asked = PLACES.acquire_many(2).await.unwrap();
        let host = Host::parse("localhost").unwrap();
        assert!(Resolver::new(Arc::default()).resolve(&host, WITHIN).await.is_ok());
    }
}
