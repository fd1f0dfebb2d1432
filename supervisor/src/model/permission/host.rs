//! The host that somebody means: a name or an address, in the one form in which two of them can be compared.
//!
//! Invariants: a `Name` is lower-case ASCII, has no dot at its end and cannot be taken for an address by anybody; an address of version 4
//! is never held as a mapped one of version 6. So equality means the same host, and nothing that resolves names sees anything but these.
//!
//! What other programs accept as a host beyond that (`0x7f.1`, `2130706433`, `0177.0.0.1`, zones, Unicode, a dot at the end) is
//! refused and not translated: whoever checks and whoever connects would have to translate alike, for ever.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::sync::Arc;

/// As many bytes as a name can have in the domain name system (RFC 1035).
pub const NAME_BYTES_MAX: usize = 253;

/// And as many between two dots.
pub const LABEL_BYTES_MAX: usize = 63;

/// Why a text names no host. Each says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host has {bytes} bytes; a name has at most {NAME_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("the host has a part of {bytes} bytes between its dots; at most {LABEL_BYTES_MAX} are possible")]
    LabelTooLong { bytes: usize },
    #[error(
        "the host contains {found:?}, which is not ASCII; write an international name in its ASCII form, that is with xn--"
    )]
    NotAscii { found: char },
    #[error("the host contains {found:?}; allowed are letters, digits, `-`, `_` and `.`")]
    Character { found: char },
    #[error("the host has nothing before, after or between its dots")]
    EmptyLabel,
    #[error("the host ends with a dot; write it without")]
    TrailingDot,
    #[error("the host has a hyphen at the beginning or end of a part")]
    Hyphen,
    #[error("the host ends in a number, but is no address of four decimal numbers without leading zeros")]
    Numeric,
    #[error("the host contains `%`; neither zones nor encoded characters are accepted")]
    Percent,
    #[error("the host has a bracket, but not one `[` at its beginning and one `]` at its end")]
    Bracket,
    #[error("what stands in brackets is no address of version 6")]
    NotVersion6,
    #[error("an address of version 6 stands in brackets")]
    NoBrackets,
}

/// Why a text is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("the port is missing after `:`")]
    Empty,
    #[error("the port is not a decimal number without sign and leading zeros")]
    Number,
    #[error("the port is not between 1 and 65535")]
    Range,
}

/// Why a text is no host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A name of the domain name system, in the form in which it is compared. Cloning one costs a counter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// A name, and nothing that anybody takes for an address.
    ///
    /// # Errors
    /// [`HostError`], for what is wrong with it first.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.contains('%') {
            return Err(HostError::Percent);
        }
        if text.contains(['[', ']']) {
            return Err(HostError::Bracket);
        }
        for found in text.chars() {
            match found {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => {}
                ':' if text.parse::<Ipv6Addr>().is_ok() => return Err(HostError::NoBrackets),
                _ if !found.is_ascii() => return Err(HostError::NotAscii { found }),
                _ => return Err(HostError::Character { found }),
            }
        }
        if NAME_BYTES_MAX < text.len() {
            return Err(HostError::TooLong { bytes: text.len() });
        }
        if text != "." && text.ends_with('.') && !text.ends_with("..") {
            return Err(HostError::TrailingDot);
        }
        let mut last = "";
        for label in text.split('.') {
            if label.is_empty() {
                return Err(HostError::EmptyLabel);
            }
            if LABEL_BYTES_MAX < label.len() {
                return Err(HostError::LabelTooLong { bytes: label.len() });
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(HostError::Hyphen);
            }
            last = label;
        }
        // `inet_aton` takes these for addresses: decimal, octal with a zero in front, hexadecimal with 0x.
        let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        let hexadecimal = hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(HostError::Numeric);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name lies beneath the other: one part more at least.
    #[must_use]
    pub fn is_beneath(&self, other: &Self) -> bool {
        self.0.strip_suffix(other.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host in the one form in which it is compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    Name(Name),
    Address(IpAddr),
}

impl Host {
    /// A name, four decimal numbers, or an address of version 6 in brackets.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']').ok_or(HostError::Bracket)?;
            if inner.contains('%') {
                return Err(HostError::Percent);
            }
            let address = inner.parse::<Ipv6Addr>().map_err(|_| HostError::NotVersion6)?;
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Self::Address(IpAddr::V4(address))),
            Err(_) => Name::parse(text).map(Self::Name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A port: decimal, 1 to 65535.
///
/// # Errors
/// [`PortError`].
pub fn parse_port(text: &str) -> Result<u16, PortError> {
    if text.is_empty() {
        return Err(PortError::Empty);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
        return Err(PortError::Number);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(PortError::Range),
        Ok(port) => Ok(port),
    }
}

/// Divides `HOST` or `HOST:PORT`; the colons of an address in brackets are its own.
#[must_use]
pub fn split_port(text: &str) -> (&str, Option<&str>) {
    let after_brackets = text.rfind(']').map_or(0, |at| at + 1);
    match text[after_brackets..].rfind(':') {
        // More than one colon outside of brackets is an address that lacks them, which the host's parser says.
        Some(at) if after_brackets > 0 || !text[..at].contains(':') => {
            let at = after_brackets + at;
            (&text[..at], Some(&text[at + 1..]))
        }
        _ => (text, None),
    }
}

/// `HOST` or `HOST:PORT`.
///
/// # Errors
/// [`AuthorityError`].
pub fn parse_authority(text: &str) -> Result<(Host, Option<u16>), AuthorityError> {
    let (host, port) = split_port(text);
    let host = Host::parse(host)?;
    Ok((host, port.map(parse_port).transpose()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_have_one_form() {
        for (text, form) in [
            ("example.com", "example.com"),
            ("EXAMPLE.Com", "example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.a-b.example", "_dmarc.a-b.example"),
            ("localhost", "localhost"),
            ("1.example", "1.example"),
            ("0x7f.example", "0x7f.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("[::ffff:192.0.2.1]", "192.0.2.1"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), form, "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_said() {
        let long = format!("{}.example", "a".repeat(64));
        let longer = format!("{}example", "a.".repeat(130));
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::EmptyLabel),
            ("..", HostError::EmptyLabel),
            (".example", HostError::EmptyLabel),
            ("a..example", HostError::EmptyLabel),
            ("example.com..", HostError::EmptyLabel),
            ("example.com.", HostError::TrailingDot),
            ("127.0.0.1.", HostError::TrailingDot),
            ("-a.example", HostError::Hyphen),
            ("a-.example", HostError::Hyphen),
            ("a b", HostError::Character { found: ' ' }),
            ("a\0b", HostError::Character { found: '\0' }),
            ("a\r\nb", HostError::Character { found: '\r' }),
            ("user@example", HostError::Character { found: '@' }),
            ("a/b", HostError::Character { found: '/' }),
            ("a:b", HostError::Character { found: ':' }),
            ("*.example", HostError::Character { found: '*' }),
            ("bücher.example", HostError::NotAscii { found: 'ü' }),
            ("１２７.0.0.1", HostError::NotAscii { found: '１' }),
            ("example。com", HostError::NotAscii { found: '。' }),
            ("%31.example", HostError::Percent),
            ("fe80::1%eth0", HostError::Percent),
            ("[fe80::1%eth0]", HostError::Percent),
            ("[fe80::1%25eth0]", HostError::Percent),
            ("::1", HostError::NoBrackets),
            ("[::1", HostError::Bracket),
            ("::1]", HostError::Bracket),
            ("[127.0.0.1]", HostError::NotVersion6),
            ("[v1.a]", HostError::NotVersion6),
            ("[]", HostError::NotVersion6),
            ("2130706433", HostError::Numeric),
            ("0", HostError::Numeric),
            ("127.1", HostError::Numeric),
            ("127.0.0.256", HostError::Numeric),
            ("0177.0.0.1", HostError::Numeric),
            ("127.0.0.01", HostError::Numeric),
            ("1.2.3.4.5", HostError::Numeric),
            ("0x7f000001", HostError::Numeric),
            ("0X7F.0x1", HostError::Numeric),
            ("0x", HostError::Numeric),
            ("a.0x7f", HostError::Numeric),
            ("example.1", HostError::Numeric),
            (&long, HostError::LabelTooLong { bytes: 64 }),
            (&longer, HostError::TooLong { bytes: longer.len() }),
        ] {
            assert_eq!(Host::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn ports_are_decimal_and_within_their_range() {
        assert_eq!(parse_port("1"), Ok(1));
        assert_eq!(parse_port("65535"), Ok(65535));
        for (text, error) in [
            ("", PortError::Empty),
            ("0", PortError::Range),
            ("65536", PortError::Range),
            ("99999999999999999999", PortError::Range),
            ("+443", PortError::Number),
            ("-1", PortError::Number),
            ("0443", PortError::Number),
            ("0x1bb", PortError::Number),
            ("443 ", PortError::Number),
            ("https", PortError::Number),
            ("٤", PortError::Number),
        ] {
            assert_eq!(parse_port(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn authorities_are_divided_at_the_right_colon() {
        let parsed = |text: &str| parse_authority(text).map(|(host, port)| (host.to_string(), port));
        assert_eq!(parsed("example.com"), Ok(("example.com".into(), None)));
        assert_eq!(parsed("example.com:443"), Ok(("example.com".into(), Some(443))));
        assert_eq!(parsed("[::1]:80"), Ok(("[::1]".into(), Some(80))));
        assert_eq!(parsed("[::1]"), Ok(("[::1]".into(), None)));
        assert_eq!(parsed("::1"), Err(HostError::NoBrackets.into()));
        assert_eq!(parsed("example.com:"), Err(PortError::Empty.into()));
        assert_eq!(parsed("[::1]80"), Err(HostError::Bracket.into()));
        assert_eq!(parsed("a:1:2"), Err(HostError::Character { found: ':' }.into()));
        assert_eq!(parsed(":80"), Err(HostError::Empty.into()));
        assert_eq!(parsed("a]:80:90"), Err(HostError::Bracket.into()));
    }

    #[test]
    fn beneath_means_at_least_one_part_more() {
        let name = |text| Name::parse(text).unwrap();
        assert!(name("a.example.com").is_beneath(&name("example.com")));
        assert!(name("a.b.example.com").is_beneath(&name("example.com")));
        assert!(!name("example.com").is_beneath(&name("example.com")));
        assert!(!name("evilexample.com").is_beneath(&name("example.com")));
        assert!(!name("com").is_beneath(&name("example.com")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Nothing panics, and what is accepted has the one form: reading it again changes nothing.
        #[test]
        fn reading_twice_is_reading_once(text in "(\\[)?[a-zA-Z0-9.:%_\\-é]{0,24}(\\])?(:[0-9]{0,6})?") {
            if let Ok((host, port)) = parse_authority(&text) {
                let again = match port {
                    Some(port) => format!("{host}:{port}"),
                    None => host.to_string(),
                };
                prop_assert_eq!(parse_authority(&again), Ok((host, port)));
            }
        }

        /// Any text at all.
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse_authority(&text);
        }

        /// A number in any of the forms that `inet_aton` takes is never a name.
        #[test]
        fn no_form_of_a_number_is_a_name(value in any::<u32>(), parts in 1..4_usize) {
            let last = value & (u32::MAX >> (8 * (parts - 1)));
            for last in [format!("{last}"), format!("0{last:o}"), format!("0x{last:x}"), format!("0X{last:X}")] {
                let text = "127.".repeat(parts - 1) + &last;
                prop_assert_eq!(Host::parse(&text), Err(HostError::Numeric), "{}", text);
            }
        }
    }
}
