//! `network_access`: which hosts and ports a plugin may reach, and at which addresses.
//!
//! A grant is a text: `example.com` (ports 443 and 80), `example.com:8443`, `*.example.com` (everything beneath, not the name itself),
//! an address (`192.0.2.7:443`, `[2001:db8::7]:443`) that only then may be named as one, and `db.example.com:5432/tcp` for a
//! connection that need not be TLS. A denial is the same without `/tcp`, or a network (`198.51.100.0/24`); without a port it denies
//! every port, and it goes before every grant.
//!
//! Invariants: what is not granted is denied. A name is matched first, then every address that it has: one that is not public is
//! refused whatever the name, unless the operator listed it for that host; one of a cloud's metadata service only if it was
//! listed by itself. Whoever connects uses an address that `Policy::address` has let through, and asks nobody for the name again.
//!
//! Elsewhere: what a name resolves to is found out in `egress`.

use core::net::IpAddr;
use std::fmt;

use ipnet::IpNet;

use super::address::{Class, arrives_at, class};
use super::host::{Host, HostError, Name, PortError, parse_port, split_port};

/// More entries than any honest plugin needs in one list; a list is walked for each connection.
pub const ENTRIES_MAX: usize = 256;

/// The ports of a grant that names none: HTTPS and HTTP.
pub const PORTS_DEFAULT: [u16; 2] = [443, 80];

/// Longest text of one entry: a name, a wildcard, a port, `/tcp`.
const ENTRY_BYTES_MAX: usize = 280;

/// Why a text is no grant or denial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("the entry has {bytes} bytes; at most {ENTRY_BYTES_MAX} are possible")]
    TooLong { bytes: usize },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("`*` alone would grant every host; name them, or what they lie beneath, as in *.example.com")]
    Everything,
    #[error("a `*` stands alone as the first part, as in *.example.com")]
    Wildcard,
    #[error("there is nothing beneath an address; `*` goes with names")]
    WildcardAddress,
    #[error("an URL is not a host; write HOST or HOST:PORT")]
    Url,
    #[error("`/tcp` needs a port, as in example.com:5432/tcp")]
    TcpWithoutPort,
    #[error("only `/tcp` may follow the port")]
    Flag,
    #[error("a denial denies every kind of connection and has no `/tcp`")]
    TcpDenied,
    #[error("a network is ADDRESS/BITS, as in 198.51.100.0/24")]
    Network,
    #[error("the network has bits set behind its prefix; {meant} is what it contains")]
    HostBits { meant: IpNet },
    #[error("a network has no port here; all its ports are denied")]
    NetworkPort,
    #[error("a network cannot be granted, only hosts; it may be listed for one of them in allow_addresses")]
    NetworkGranted,
}

/// Which hosts an entry means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exact(Host),
    /// Every name beneath this one.
    Beneath(Name),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, ScopeError> {
        let Some(rest) = text.strip_prefix('*') else {
            if text.contains('*') {
                return Err(ScopeError::Wildcard);
            }
            // Whoever writes a policy may write a name in full, with its dot; it is the same name.
            let text = text.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(text);
            return Ok(Self::Exact(Host::parse(text)?));
        };
        if rest.is_empty() || rest == "." {
            return Err(ScopeError::Everything);
        }
        let rest = rest.strip_prefix('.').filter(|rest| !rest.contains('*')).ok_or(ScopeError::Wildcard)?;
        let rest = rest.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(rest);
        match Host::parse(rest)? {
            Host::Name(name) => Ok(Self::Beneath(name)),
            Host::Address(_) => Err(ScopeError::WildcardAddress),
        }
    }

    /// Whether every host that this means is one that the other means.
    fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(host), other) => other.matches(host),
            (Self::Beneath(name), Self::Beneath(above)) => name == above || name.is_beneath(above),
            (Self::Beneath(_), Self::Exact(_)) => false,
        }
    }

    fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exact(granted), host) => granted == host,
            (Self::Beneath(above), Host::Name(name)) => name.is_beneath(above),
            (Self::Beneath(_), Host::Address(_)) => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Beneath(name) => write!(f, "*.{name}"),
        }
    }
}

/// What may pass through a connection that CONNECT opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// TLS, whose server name is the host.
    Tls,
    /// Anything.
    Tcp,
}

/// One thing that a plugin is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pattern: Pattern,
    /// None for the default ones.
    port: Option<u16>,
    tunnel: Tunnel,
}

impl Scope {
    /// `HOST`, `HOST:PORT` or `HOST:PORT/tcp`, where HOST may begin with `*.`.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        check_entry(text)?;
        let (text, tunnel) = match text.split_once('/') {
            None => (text, Tunnel::Tls),
            Some((text, "tcp")) => (text, Tunnel::Tcp),
            Some(_) if text.parse::<IpNet>().is_ok() => return Err(ScopeError::NetworkGranted),
            Some(_) => return Err(ScopeError::Flag),
        };
        let (host, port) = split_port(text);
        let pattern = Pattern::parse(host)?;
        let port = port.map(parse_port).transpose()?;
        if tunnel == Tunnel::Tcp && port.is_none() {
            return Err(ScopeError::TcpWithoutPort);
        }
        Ok(Self { pattern, port, tunnel })
    }

    /// What is in both: of two patterns the narrower, of two kinds of connection the narrower. None if nothing is.
    #[must_use]
    pub fn narrowed_to(&self, asked: &Self) -> Option<Self> {
        let pattern = if self.pattern.is_within(&asked.pattern) {
            &self.pattern
        } else if asked.pattern.is_within(&self.pattern) {
            &asked.pattern
        } else {
            return None;
        };
        let port = match (self.port, asked.port) {
            (None, None) => None,
            (Some(port), None) | (None, Some(port)) if PORTS_DEFAULT.contains(&port) => Some(port),
            (Some(one), Some(other)) if one == other => Some(one),
            (Some(_), _) | (None, Some(_)) => return None,
        };
        let tunnel = if asked.tunnel == Tunnel::Tcp { self.tunnel } else { Tunnel::Tls };
        Some(Self { pattern: pattern.clone(), port, tunnel })
    }

    fn matches(&self, host: &Host, port: u16) -> bool {
        let port_matches = match self.port {
            Some(granted) => granted == port,
            None => PORTS_DEFAULT.contains(&port),
        };
        port_matches && self.pattern.matches(host)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.tunnel {
            Tunnel::Tls => Ok(()),
            Tunnel::Tcp => f.write_str("/tcp"),
        }
    }
}

/// One thing that is denied whatever is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// These hosts, at one port or at all of them. An address is also denied to the names that resolve to it.
    Host { pattern: Pattern, port: Option<u16> },
    /// Every address in it, by itself or as what a name resolves to.
    Network(IpNet),
}

impl Denial {
    /// `HOST`, `HOST:PORT` or `ADDRESS/BITS`, where HOST may begin with `*.`.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        check_entry(text)?;
        if let Some((host, rest)) = text.split_once('/') {
            if rest == "tcp" {
                return Err(ScopeError::TcpDenied);
            }
            if rest.contains(':') || host.contains(']') {
                return Err(ScopeError::NetworkPort);
            }
            return parse_network(text).map(Self::Network);
        }
        let (host, port) = split_port(text);
        let pattern = Pattern::parse(host)?;
        Ok(Self::Host { pattern, port: port.map(parse_port).transpose()? })
    }

    fn denies(&self, host: &Host, at: u16) -> bool {
        match (self, host) {
            (Self::Host { pattern, port }, host) => port.is_none_or(|port| port == at) && pattern.matches(host),
            (Self::Network(network), Host::Address(address)) => network.contains(address),
            (Self::Network(_), Host::Name(_)) => false,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { pattern, port: None } => pattern.fmt(f),
            Self::Host { pattern, port: Some(port) } => write!(f, "{}:{port}", pattern),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// An address or a network, for `allow_addresses`.
///
/// # Errors
/// [`ScopeError`].
pub fn parse_network(text: &str) -> Result<IpNet, ScopeError> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) if text.contains('%') => return Err(HostError::Percent.into()),
        Err(_) => text.parse::<IpNet>().map_err(|_| ScopeError::Network)?,
    };
    let meant = network.trunc();
    if meant != network {
        return Err(ScopeError::HostBits { meant });
    }
    Ok(network)
}

fn check_entry(text: &str) -> Result<(), ScopeError> {
    if ENTRY_BYTES_MAX < text.len() {
        return Err(ScopeError::TooLong { bytes: text.len() });
    }
    if text.contains("://") {
        return Err(ScopeError::Url);
    }
    Ok(())
}

/// Why there is no policy: which entry of which list is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("{list} has {entries} entries; at most {ENTRIES_MAX} are allowed")]
    TooMany { list: &'static str, entries: usize },
    #[error("in {list}, `{entry}`: {source}")]
    Entry { list: &'static str, entry: String, source: ScopeError },
}

/// Why a connection is not made. The sentence goes to the plugin and into the audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("{host}:{port} is not among the hosts that network_access grants")]
    NotGranted { host: Host, port: u16 },
    #[error("{host}:{port} is denied by the entry {denial}")]
    DenyListed { host: Host, port: u16, denial: Box<Denial> },
    #[error("{host} is at {address}, {class}, which the operator has not listed in allow_addresses for it")]
    Address { host: Host, address: IpAddr, class: Class },
    #[error("{host} is at {address}, which is denied by the entry {denial}")]
    AddressDenied { host: Host, address: IpAddr, denial: Box<Denial> },
}

/// What one plugin may reach. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allow: Vec<Scope>,
    deny: Vec<Denial>,
    allow_addresses: Vec<(Pattern, IpNet)>,
}

impl Policy {
    /// A policy of what is granted, what is denied nevertheless, and, by host, which addresses that are not public may be meant.
    ///
    /// # Errors
    /// [`PolicyError`], for the first entry that is wrong.
    pub fn new<'a>(
        allow: impl IntoIterator<Item = &'a str>,
        deny: impl IntoIterator<Item = &'a str>,
        allow_addresses: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, PolicyError> {
        Ok(Self {
            allow: entries("network_access", allow, |text| (text.to_owned(), Scope::parse(text)))?,
            deny: entries("deny", deny, |text| (text.to_owned(), Denial::parse(text)))?,
            allow_addresses: entries("allow_addresses", allow_addresses, |(host, network)| {
                let parsed = Pattern::parse(host).and_then(|pattern| Ok((pattern, parse_network(network)?)));
                (format!("{host} = {network}"), parsed)
            })?,
        })
    }

    /// The same denials and listed addresses for whom these are granted.
    #[must_use]
    pub fn granting(&self, allow: Vec<Scope>) -> Self {
        Self { allow, ..self.clone() }
    }

    /// Whether anything is granted. Where nothing is, a plugin needs no way out.
    #[must_use]
    pub fn grants_nothing(&self) -> bool {
        self.allow.is_empty()
    }

    /// Whether the host may be connected to at this port, and what may pass then. The addresses are another question.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn host(&self, host: &Host, port: u16) -> Result<Tunnel, Denied> {
        if let Some(denial) = self.deny.iter().find(|denial| denial.denies(host, port)) {
            return Err(Denied::DenyListed { host: host.clone(), port, denial: Box::new(denial.clone()) });
        }
        let mut granted = self.allow.iter().filter(|scope| scope.matches(host, port)).map(|scope| scope.tunnel);
        let first = granted.next().ok_or_else(|| Denied::NotGranted { host: host.clone(), port })?;
        // Of two grants for the same, the wider one counts, in whichever order they stand.
        Ok(if granted.any(|tunnel| tunnel == Tunnel::Tcp) { Tunnel::Tcp } else { first })
    }

    /// Whether this address, which is the host's, may be connected to.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn address(&self, host: &Host, port: u16, address: IpAddr) -> Result<(), Denied> {
        // A mapped address is connected to as what it carries; so it is judged as that.
        let plain = address.to_canonical();
        // Denied is also the way to a denied address through a gateway.
        let meant = [plain, arrives_at(plain)].map(Host::Address);
        if let Some(denial) = self.deny.iter().find(|denial| meant.iter().any(|meant| denial.denies(meant, port))) {
            return Err(Denied::AddressDenied { host: host.clone(), address, denial: Box::new(denial.clone()) });
        }
        let Some(class) = class(plain) else { return Ok(()) };
        let listed = self.allow_addresses.iter().any(|(pattern, network)| {
            // A metadata service in the middle of a listed network was hardly meant.
            let meant = class != Class::Metadata || network.prefix_len() == network.max_prefix_len();
            meant && network.contains(&plain) && pattern.matches(host)
        });
        if listed { Ok(()) } else { Err(Denied::Address { host: host.clone(), address, class }) }
    }
}

/// Reads a list, which is bounded.
fn entries<Text, Entry>(
    list: &'static str,
    texts: impl IntoIterator<Item = Text>,
    parse: impl Fn(Text) -> (String, Result<Entry, ScopeError>),
) -> Result<Vec<Entry>, PolicyError> {
    let mut read = Vec::new();
    for text in texts {
        let (entry, parsed) = parse(text);
        read.push(parsed.map_err(|source| PolicyError::Entry { list, entry, source })?);
        if ENTRIES_MAX < read.len() {
            return Err(PolicyError::TooMany { list, entries: read.len() });
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
