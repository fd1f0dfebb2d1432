//! Which addresses are of the public internet, and what the others are.
//!
//! An address of version 6 that carries one of version 4 in it (mapped, NAT64, 6to4) is what it carries: whoever connects to it arrives there.
//! What is not known to be public is refused by class, so that a range which is handed out tomorrow is refused until it is listed here.
//!
//! Elsewhere: that an operator may list an address nevertheless is `network`'s business.

// Of `core`, which has addresses and nothing that opens a socket.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

/// Why an address is not simply a place on the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Where clouds hand out credentials and configuration to whoever asks from the machine.
    Metadata,
    /// This machine.
    Loopback,
    /// No address at all, which some systems take for this machine.
    Unspecified,
    /// Networks of somebody's own: RFC 1918, and fc00::/7.
    Private,
    /// Reachable on this link alone.
    LinkLocal,
    /// Shared between a carrier and its customers (RFC 6598).
    CarrierGrade,
    /// Many at once.
    Multicast,
    /// For examples in texts.
    Documentation,
    /// For measuring devices (RFC 2544).
    Benchmarking,
    /// Kept for protocols, tunnels and the future.
    Reserved,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "a cloud metadata address",
            Self::Loopback => "a loopback address",
            Self::Unspecified => "the unspecified address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::CarrierGrade => "a carrier-grade NAT address",
            Self::Multicast => "a multicast address",
            Self::Documentation => "a documentation address",
            Self::Benchmarking => "a benchmarking address",
            Self::Reserved => "a reserved address",
        })
    }
}

/// Where clouds keep what only the machine's owner is to know. Each is asked over plain HTTP and trusts whoever can reach it.
const METADATA: &[IpAddr] = &[
    // Most of them, by agreement.
    v4(169, 254, 169, 254),
    // Amazon: name server, time, credentials of containers and of pods.
    v4(169, 254, 169, 253),
    v4(169, 254, 169, 123),
    v4(169, 254, 170, 2),
    v4(169, 254, 170, 23),
    // Alibaba, Oracle, and Azure's, which lies in a public range.
    v4(100, 100, 100, 200),
    v4(192, 0, 0, 192),
    v4(168, 63, 129, 16),
    // Amazon's and Google's of version 6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// What an address is, if it is not simply a public one.
#[must_use]
pub fn class(address: IpAddr) -> Option<Class> {
    if METADATA.contains(&address) {
        return Some(Class::Metadata);
    }
    match address {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => class_v6(address),
    }
}

/// Where a packet to this address arrives, if it is one of version 6 that carries one of version 4.
#[must_use]
pub fn arrives_at(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => carried(six).map_or(address, IpAddr::V4),
    }
}

fn class_v4(address: Ipv4Addr) -> Option<Class> {
    Some(match address.octets() {
        [0, 0, 0, 0] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [169, 254, ..] => Class::LinkLocal,
        [100, 64..=127, ..] => Class::CarrierGrade,
        [224..=239, ..] => Class::Multicast,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Class::Documentation,
        [198, 18..=19, ..] => Class::Benchmarking,
        // This network; protocol assignments; the relays of 6to4; and what was never handed out, broadcast with it.
        [0, ..] | [192, 0, 0, _] | [192, 88, 99, _] | [240..=255, ..] => Class::Reserved,
        _ => return None,
    })
}

fn class_v6(address: Ipv6Addr) -> Option<Class> {
    if address.is_unspecified() {
        return Some(Class::Unspecified);
    }
    if address.is_loopback() {
        return Some(Class::Loopback);
    }
    if let Some(carried) = carried(address) {
        return class(IpAddr::V4(carried));
    }
    Some(match address.segments() {
        [0xfc00..=0xfdff, ..] => Class::Private,
        // fec0::/10 was for sites, and is still routed by some.
        [0xfe80..=0xfeff, ..] => Class::LinkLocal,
        [0xff00..=0xffff, ..] => Class::Multicast,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Class::Documentation,
        [0x2001, 2, 0, ..] => Class::Benchmarking,
        // Protocol assignments, Teredo among them, which carries an address of its own.
        [0x2001, 0..=0x1ff, ..] => Class::Reserved,
        [0x2000..=0x3fff, ..] => return None,
        // Only 2000::/3 has been handed out.
        _ => Class::Reserved,
    })
}

/// The address of version 4 at which a packet to this one arrives.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d] = match address.segments() {
        // Mapped; NAT64.
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
        // 6to4.
        [0x2002, ..] => {
            let [_, _, a, b, c, d, ..] = address.octets();
            [a, b, c, d]
        }
        _ => return None,
    };
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_class_at_its_borders() {
        use Class::{
            Benchmarking, CarrierGrade, Documentation, LinkLocal, Loopback, Metadata, Multicast, Private, Reserved,
            Unspecified,
        };
        for (text, expected) in [
            ("0.0.0.0", Some(Unspecified)),
            ("0.0.0.1", Some(Reserved)),
            ("0.255.255.255", Some(Reserved)),
            ("1.0.0.0", None),
            ("9.255.255.255", None),
            ("10.0.0.0", Some(Private)),
            ("10.255.255.255", Some(Private)),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(CarrierGrade)),
            ("100.127.255.255", Some(CarrierGrade)),
            ("100.128.0.0", None),
            ("100.100.100.200", Some(Metadata)),
            ("126.255.255.255", None),
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("128.0.0.0", None),
            ("168.63.129.16", Some(Metadata)),
            ("168.63.129.17", None),
            ("169.253.255.255", None),
            ("169.254.0.0", Some(LinkLocal)),
            ("169.254.169.254", Some(Metadata)),
            ("169.254.170.2", Some(Metadata)),
            ("169.255.0.0", None),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Private)),
            ("172.31.255.255", Some(Private)),
            ("172.32.0.0", None),
            ("192.0.0.1", Some(Reserved)),
            ("192.0.0.192", Some(Metadata)),
            ("192.0.1.0", None),
            ("192.0.2.1", Some(Documentation)),
            ("192.88.99.1", Some(Reserved)),
            ("192.167.255.255", None),
            ("192.168.0.0", Some(Private)),
            ("192.168.255.255", Some(Private)),
            ("192.169.0.0", None),
            ("198.17.255.255", None),
            ("198.18.0.0", Some(Benchmarking)),
            ("198.19.255.255", Some(Benchmarking)),
            ("198.20.0.0", None),
            ("198.51.100.7", Some(Documentation)),
            ("203.0.113.7", Some(Documentation)),
            ("223.255.255.255", None),
            ("224.0.0.0", Some(Multicast)),
            ("239.255.255.255", Some(Multicast)),
            ("240.0.0.0", Some(Reserved)),
            ("255.255.255.255", Some(Reserved)),
            ("::", Some(Unspecified)),
            ("::1", Some(Loopback)),
            ("::2", Some(Reserved)),
            ("::127.0.0.1", Some(Reserved)),
            ("::ffff:127.0.0.1", Some(Loopback)),
            ("::ffff:10.0.0.1", Some(Private)),
            ("::ffff:169.254.169.254", Some(Metadata)),
            ("::ffff:8.8.8.8", None),
            ("::ffff:0:127.0.0.1", Some(Reserved)),
            ("64:ff9b::127.0.0.1", Some(Loopback)),
            ("64:ff9b::169.254.169.254", Some(Metadata)),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b:1::8.8.8.8", Some(Reserved)),
            ("100::1", Some(Reserved)),
            ("2000::1", None),
            ("2001::1", Some(Reserved)),
            ("2001:1ff:ffff::", Some(Reserved)),
            ("2001:200::", None),
            ("2001:2::1", Some(Benchmarking)),
            ("2001:db8::1", Some(Documentation)),
            ("2001:db9::1", None),
            ("2002:7f00:1::", Some(Loopback)),
            ("2002:a9fe:a9fe::", Some(Metadata)),
            ("2002:c0a8:101::1", Some(Private)),
            ("2002:808:808::1", None),
            ("2606:4700:4700::1111", None),
            ("3fff::1", Some(Documentation)),
            ("3fff:1000::1", None),
            ("4000::1", Some(Reserved)),
            ("5f00::1", Some(Reserved)),
            ("fbff::1", Some(Reserved)),
            ("fc00::1", Some(Private)),
            ("fd00:ec2::254", Some(Metadata)),
            ("fd20:ce::254", Some(Metadata)),
            ("fdff::1", Some(Private)),
            ("fe7f::1", Some(Reserved)),
            ("fe80::1", Some(LinkLocal)),
            ("fec0::1", Some(LinkLocal)),
            ("ff02::1", Some(Multicast)),
        ] {
            assert_eq!(class(text.parse().unwrap()), expected, "{text}");
        }
    }

    proptest! {
        /// However an address of version 4 is dressed up, it is what it is.
        #[test]
        fn a_carried_address_has_the_class_of_what_it_carries(octets in any::<[u8; 4]>(), tail in any::<[u16; 5]>()) {
            let plain = Ipv4Addr::from(octets);
            let (high, low) = (u16::from_be_bytes([octets[0], octets[1]]), u16::from_be_bytes([octets[2], octets[3]]));
            let [a, b, c, d, e] = tail;
            for dressed in [
                plain.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, a, b, c, d, e),
            ] {
                prop_assert_eq!(class(IpAddr::V6(dressed)), class(IpAddr::V4(plain)));
            }
        }

        /// What the standard library knows of is never taken for public.
        #[test]
        fn nothing_that_the_standard_library_calls_special_is_public(octets in any::<[u8; 4]>(), wide in any::<[u16; 8]>()) {
            let four = Ipv4Addr::from(octets);
            if four.is_private() || four.is_loopback() || four.is_link_local() || four.is_multicast()
                || four.is_unspecified() || four.is_broadcast() || four.is_documentation() {
                prop_assert!(class(four.into()).is_some());
            }
            let six = Ipv6Addr::from(wide);
            if six.is_loopback() || six.is_multicast() || six.is_unique_local() || six.is_unicast_link_local()
                || six.is_unspecified() {
                prop_assert!(class(six.into()).is_some());
            }
        }
    }
}
