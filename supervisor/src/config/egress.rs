//! The table `[egress]`: what holds for every plugin that is granted a way out.
//!
//! Elsewhere: which hosts a plugin is granted stands in `plugins.ID.grant`; what the entries mean is `model::permission::network`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::model::permission::host::Name;
use crate::model::permission::network::{ENTRIES_MAX, Policy};
use crate::model::permission::traffic::{Allowance, Limits};

/// The table as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    #[serde(default)]
    hosts: BTreeMap<String, Vec<IpAddr>>,
    #[serde(default)]
    allow_addresses: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    limits: Allowance,
}

/// The table, understood.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    /// Names that are not resolved but lead there; an empty list leads nowhere.
    pub hosts: BTreeMap<Name, Vec<IpAddr>>,
    /// What is denied whatever is granted, and which addresses that are not public may be meant. It grants nothing.
    pub policy: Policy,
    /// How much each plugin's way out may take.
    pub limits: Limits,
}

impl Table {
    /// Reads the entries.
    ///
    /// # Errors
    /// A sentence that names the first that is wrong.
    pub(super) fn understand(&self) -> Result<Egress, String> {
        if ENTRIES_MAX < self.hosts.len() {
            return Err(format!("egress.hosts has {} names; at most {ENTRIES_MAX} are allowed", self.hosts.len()));
        }
        let hosts = self
            .hosts
            .iter()
            .map(|(name, addresses)| match Name::parse(name) {
                Ok(parsed) => Ok((parsed, addresses.clone())),
                Err(error) => Err(format!("in egress.hosts, `{name}`: {error}")),
            })
            .collect::<Result<_, String>>()?;
        let listed = self
            .allow_addresses
            .iter()
            .flat_map(|(host, networks)| networks.iter().map(move |network| (host.as_str(), network.as_str())));
        let policy = Policy::new([], self.deny.iter().map(String::as_str), listed)
            .map_err(|error| format!("[egress]: {error}"))?;
        let limits = self.limits.decide().map_err(|why| format!("egress.limits.{why}"))?;
        Ok(Egress { hosts, policy, limits })
    }
}
