//! The server name in the first message of a TLS connection.
//!
//! The message is gathered from records, however they are cut and in whatever pieces they arrive, and then read strictly: what a server might read
//! otherwise than we do (a length that does not add up, an extension twice, two names, something behind the message in its record) is
//! refused. So there is one name, or none, or no connection.
//!
//! Only the outer name is seen: of an encrypted client hello (ECH) that is the public one. What is said once encryption has begun is not seen.
//!
//! Invariants: nothing is kept beyond `HELLO_BYTES_MAX`, the headers of `RECORDS_MAX` records and what arrived together with the end; no byte is looked at twice before the message is whole.
//! Elsewhere: waiting for the bytes, within a time, is `connection`'s.

use core::net::IpAddr;
use std::collections::BTreeSet;

use crate::model::permission::host::Host;

/// Largest message that is taken. With keys for post-quantum exchanges a hello has about 2 KiB, with tickets some more.
pub const HELLO_BYTES_MAX: usize = 16 << 10;

/// A hello arrives in one record, or in a few where a client cuts it for its own reasons. Each has a header, so this bounds what is kept.
const RECORDS_MAX: usize = 64;

const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE_HEADER_BYTES: usize = 4;

/// The most that a record of plain text holds (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;

const RECORD_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_HOST: u8 = 0;

/// Why a connection is not let through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("what was sent through the tunnel is not TLS, and the grant has no /tcp")]
    NotTls,
    #[error("the TLS client hello has {bytes} bytes; at most {HELLO_BYTES_MAX} are taken")]
    TooLarge { bytes: usize },
    #[error("the TLS client hello is cut into more than {RECORDS_MAX} records")]
    Records,
    #[error("the TLS client hello is malformed: {what}")]
    Malformed { what: &'static str },
    #[error("the TLS client hello names no server; it has to name {expected}")]
    NoName { expected: Host },
    #[error("the TLS client hello names the server {found:?}, but the tunnel is to {expected}")]
    WrongName { found: String, expected: Host },
    #[error("the TLS client hello did not arrive in time")]
    TimedOut,
    #[error("the connection ended before the TLS client hello was whole")]
    Ended,
}

/// Gathers the message.
#[derive(Debug, Default)]
pub struct Gatherer {
    /// Everything as it came, to be passed on.
    raw: Vec<u8>,
    /// How much of it has been looked at.
    seen: usize,
    /// What is still to come of the record that was begun.
    record_left: usize,
    records: usize,
    /// The message without the records around it.
    message: Vec<u8>,
}

impl Gatherer {
    /// Takes what arrived, and says what the message says once it is whole.
    ///
    /// # Errors
    /// [`HelloError`]; the connection is over then.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        self.raw.extend_from_slice(bytes);
        loop {
            if self.record_left == 0 {
                let ahead = &self.raw[self.seen..];
                // Whoever does not speak TLS is told at the first byte that shows it.
                match ahead {
                    [RECORD_HANDSHAKE, 3, ..] | [RECORD_HANDSHAKE] | [] => {}
                    _ if self.records == 0 => return Err(HelloError::NotTls),
                    _ => return Err(malformed("another kind of record in the middle of it")),
                }
                let [_, _, _, high, low, ..] = ahead else { return Ok(None) };
                self.record_left = usize::from(u16::from_be_bytes([*high, *low]));
                self.records += 1;
                self.seen += RECORD_HEADER_BYTES;
                if !(1..=RECORD_BYTES_MAX).contains(&self.record_left) {
                    return Err(malformed("a record of an impossible length"));
                }
                if RECORDS_MAX < self.records {
                    return Err(HelloError::Records);
                }
            }
            let ahead = &self.raw[self.seen..];
            if ahead.is_empty() {
                return Ok(None);
            }
            let taken = ahead.len().min(self.record_left);
            self.message.extend_from_slice(&ahead[..taken]);
            self.seen += taken;
            self.record_left -= taken;
            if let [kind, ..] = self.message[..]
                && kind != HANDSHAKE_CLIENT_HELLO
            {
                return Err(malformed("the first message is another one"));
            }
            let [_, a, b, c, body @ ..] = &self.message[..] else { continue };
            let bytes = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX);
            if HELLO_BYTES_MAX < bytes.saturating_add(HANDSHAKE_HEADER_BYTES) {
                return Err(HelloError::TooLarge { bytes });
            }
            if bytes < body.len() || (bytes == body.len() && 0 < self.record_left) {
                return Err(malformed("something follows it in its record"));
            }
            if bytes == body.len() {
                return ClientHello::read(body).map(Some);
            }
        }
    }

    /// Everything that arrived, what came behind the message with it.
    #[must_use]
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }
}

/// What is known of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name that the client gives, as it is written there.
    pub server_name: Option<String>,
}

impl ClientHello {
    /// Whether the tunnel to `host` may carry this.
    ///
    /// # Errors
    /// [`HelloError`].
    pub fn check(&self, host: &Host) -> Result<(), HelloError> {
        match (&self.server_name, host) {
            (None, Host::Address(_)) => Ok(()),
            (None, Host::Name(_)) => Err(HelloError::NoName { expected: host.clone() }),
            (Some(found), Host::Name(name)) if found.eq_ignore_ascii_case(name.as_str()) => Ok(()),
            // Some clients name an address although they should not; it has to be the one.
            (Some(found), Host::Address(address)) if found.parse::<IpAddr>().is_ok_and(|named| named == *address) => {
                Ok(())
            }
            (Some(found), _) => Err(HelloError::WrongName { found: found.clone(), expected: host.clone() }),
        }
    }

    fn read(body: &[u8]) -> Result<Self, HelloError> {
        let mut body = Reader(body);
        body.bytes(2 + 32, "it ends within its version and random")?;
        let session = body.vector8("it ends within its session id")?;
        if 32 < session.len() {
            return Err(malformed("its session id is too long"));
        }
        let suites = body.vector16("it ends within its cipher suites")?;
        if suites.is_empty() || !suites.len().is_multiple_of(2) {
            return Err(malformed("its cipher suites are no list of pairs of bytes"));
        }
        if body.vector8("it ends within its compression methods")?.is_empty() {
            return Err(malformed("it has no compression method"));
        }
        if body.0.is_empty() {
            return Ok(Self { server_name: None });
        }
        let mut extensions = Reader(body.vector16("it ends within its extensions")?);
        body.end("something follows its extensions")?;
        let mut seen = BTreeSet::new();
        let mut server_name = None;
        while !extensions.0.is_empty() {
            let kind = extensions.number16("its extensions end within one")?;
            let content = extensions.vector16("its extensions end within one")?;
            if !seen.insert(kind) {
                return Err(malformed("it has an extension twice"));
            }
            if kind == EXTENSION_SERVER_NAME {
                server_name = Some(read_server_name(content)?);
            }
        }
        Ok(Self { server_name })
    }
}

/// The extension's content (RFC 6066, 3): a list that has one entry.
fn read_server_name(content: &[u8]) -> Result<String, HelloError> {
    const WHAT: &str = "its list of server names does not add up";
    let mut content = Reader(content);
    let mut list = Reader(content.vector16(WHAT)?);
    content.end(WHAT)?;
    if list.bytes(1, WHAT)? != [NAME_HOST] {
        return Err(malformed("its server name is of an unknown type"));
    }
    let name = list.vector16(WHAT)?;
    list.end("it has more than one server name")?;
    match std::str::from_utf8(name) {
        Ok(name) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(name.to_owned()),
        _ => Err(malformed("its server name is not of visible ASCII characters")),
    }
}

fn malformed(what: &'static str) -> HelloError {
    HelloError::Malformed { what }
}

/// What is left to read. Every step either has its bytes or says where they ended.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], HelloError> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(|| malformed(what))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn number16(&mut self, what: &'static str) -> Result<u16, HelloError> {
        match self.bytes(2, what)? {
            [high, low] => Ok(u16::from_be_bytes([*high, *low])),
            _ => Err(malformed(what)),
        }
    }

    fn vector8(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.bytes(1, what)?.first().copied().map_or(0, usize::from);
        self.bytes(length, what)
    }

    fn vector16(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = usize::from(self.number16(what)?);
        self.bytes(length, what)
    }

    fn end(&self, what: &'static str) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed(what)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(content)].concat()
    }

    fn server_name(name: &str) -> Vec<u8> {
        extension(EXTENSION_SERVER_NAME, &vector16(&[&[NAME_HOST][..], &vector16(name.as_bytes())].concat()))
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[0], &vector16(&[0x13, 0x01]), &[1, 0]].concat();
        if !extensions.is_empty() {
            body.extend(vector16(extensions));
        }
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[HANDSHAKE_CLIENT_HELLO][..], &length[1..], &body].concat()
    }

    fn record(content: &[u8]) -> Vec<u8> {
        [&[RECORD_HANDSHAKE, 3, 1][..], &vector16(content)].concat()
    }

    fn read(raw: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        Gatherer::default().take(raw)
    }

    fn named(name: &str) -> ClientHello {
        ClientHello { server_name: Some(name.to_owned()) }
    }

    #[test]
    fn a_name_is_found_however_the_message_is_cut() {
        let message =
            message(&[extension(0x0a0a, &[]), server_name("Example.com"), extension(43, &[2, 3, 4])].concat());
        assert_eq!(read(&record(&message)), Ok(Some(named("Example.com"))));
        // Over records.
        let records: Vec<u8> = message.chunks(7).flat_map(record).collect();
        assert_eq!(read(&records), Ok(Some(named("Example.com"))));
        // Byte by byte.
        let mut gatherer = Gatherer::default();
        let (last, first) = records.split_last().unwrap();
        for byte in first {
            assert_eq!(gatherer.take(&[*byte]), Ok(None));
        }
        assert_eq!(gatherer.take(&[*last]), Ok(Some(named("Example.com"))));
        assert_eq!(gatherer.into_raw(), records);
        // What follows in other records is kept for the server.
        let more = [record(&message), vec![23, 3, 3, 0, 1, 9]].concat();
        let mut gatherer = Gatherer::default();
        assert_eq!(gatherer.take(&more), Ok(Some(named("Example.com"))));
        assert_eq!(gatherer.into_raw(), more);
    }

    #[test]
    fn without_extensions_there_is_no_name() {
        assert_eq!(read(&record(&message(&[]))), Ok(Some(ClientHello { server_name: None })));
        let others = message(&extension(43, &[2, 3, 4]));
        assert_eq!(read(&record(&others)), Ok(Some(ClientHello { server_name: None })));
    }

    #[test]
    fn the_name_has_to_be_the_host() {
        let host = |text| Host::parse(text).unwrap();
        let nameless = ClientHello { server_name: None };
        for (hello, to, expected) in [
            (named("example.com"), "example.com", Ok(())),
            (named("EXAMPLE.com"), "Example.COM", Ok(())),
            (nameless.clone(), "192.0.2.7", Ok(())),
            (named("192.0.2.7"), "192.0.2.7", Ok(())),
            (named("2001:db8::7"), "[2001:db8::7]", Ok(())),
            (nameless, "example.com", Err("the TLS client hello names no server; it has to name example.com")),
            (
                named("other.example"),
                "example.com",
                Err("the TLS client hello names the server \"other.example\", but the tunnel is to example.com"),
            ),
            (
                named("example.com."),
                "example.com",
                Err("the TLS client hello names the server \"example.com.\", but the tunnel is to example.com"),
            ),
            (
                named("www.example.com"),
                "example.com",
                Err("the TLS client hello names the server \"www.example.com\", but the tunnel is to example.com"),
            ),
            (
                named("example.com"),
                "192.0.2.7",
                Err("the TLS client hello names the server \"example.com\", but the tunnel is to 192.0.2.7"),
            ),
        ] {
            let found = hello.check(&host(to)).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{hello:?} to {to}");
        }
    }

    #[test]
    fn what_is_not_strictly_a_hello_is_refused() {
        let good = message(&server_name("a.example"));
        let what = |what| Err(HelloError::Malformed { what });
        let two_names = [&[NAME_HOST][..], &vector16(b"a"), &[NAME_HOST], &vector16(b"b")].concat();
        for (raw, expected) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), Err(HelloError::NotTls)),
            // The hello of SSL 2.
            (vec![0x80, 0x2e, 1, 3, 1], Err(HelloError::NotTls)),
            (vec![RECORD_HANDSHAKE, 2, 0], Err(HelloError::NotTls)),
            (vec![23, 3, 3, 0, 1, 0], Err(HelloError::NotTls)),
            (record(&[]), what("a record of an impossible length")),
            (vec![RECORD_HANDSHAKE, 3, 1, 0x40, 1], what("a record of an impossible length")),
            (record(&[2, 0, 0, 0]), what("the first message is another one")),
            (
                [record(&good[..9]), vec![23, 3, 3, 0, 1, 0]].concat(),
                what("another kind of record in the middle of it"),
            ),
            (record(&[&good[..], &[1]].concat()), what("something follows it in its record")),
            (record(&[1, 0xff, 0, 0]), Err(HelloError::TooLarge { bytes: 0xff_0000 })),
            (
                record(&message(&[server_name("a.example"), server_name("b.example")].concat())),
                what("it has an extension twice"),
            ),
            (record(&message(&[extension(7, &[]), extension(7, &[])].concat())), what("it has an extension twice")),
            (
                record(&message(&extension(EXTENSION_SERVER_NAME, &vector16(&two_names)))),
                what("it has more than one server name"),
            ),
            (
                record(&message(&extension(EXTENSION_SERVER_NAME, &[]))),
                what("its list of server names does not add up"),
            ),
            (
                record(&message(&extension(EXTENSION_SERVER_NAME, &vector16(&[1, 0, 1, b'a'])))),
                what("its server name is of an unknown type"),
            ),
            (record(&message(&server_name(""))), what("its server name is not of visible ASCII characters")),
            (record(&message(&server_name("a\0b"))), what("its server name is not of visible ASCII characters")),
            (record(&message(&server_name("ü"))), what("its server name is not of visible ASCII characters")),
            (record(&message(&[0, 1, 0, 9])), what("its extensions end within one")),
        ] {
            assert_eq!(read(&raw), expected, "{raw:?}");
        }
        let tiny: Vec<u8> = [0x01, 0, 0x20, 0].into_iter().chain([3; 100]).flat_map(|byte| record(&[byte])).collect();
        assert_eq!(read(&tiny), Err(HelloError::Records));
    }

    proptest! {
        /// Nothing panics, nothing grows, and the pieces in which bytes arrive change nothing.
        #[test]
        fn pieces_change_nothing(
            at in any::<proptest::sample::Index>(), with in any::<u8>(), cut in 1..20_usize, records in 1..60_usize,
        ) {
            let message = message(&[extension(21, &[0; 20]), server_name("some.example")].concat());
            let mut raw: Vec<u8> = message.chunks(records).flat_map(record).collect();
            let at = at.index(raw.len());
            raw[at] = with;
            let whole = read(&raw);
            let mut gatherer = Gatherer::default();
            let mut in_pieces = Ok(None);
            for piece in raw.chunks(cut) {
                in_pieces = gatherer.take(piece);
                if in_pieces != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(in_pieces, whole);
        }

        /// One who goes on for ever is refused before more is kept than the bounds say, however the records are cut.
        #[test]
        fn what_is_kept_is_bounded(announced in 0..0x00ff_ffff_u32, records in 1..400_usize, piece in 1..3000_usize) {
            let [_, length @ ..] = announced.to_be_bytes();
            let message = [&[1][..], &length, &[0; 20_000]].concat();
            let endless: Vec<u8> = message.chunks(records).flat_map(record).collect();
            let mut gatherer = Gatherer::default();
            let mut ended = false;
            for piece in endless.chunks(piece) {
                ended = gatherer.take(piece) != Ok(None);
                if ended {
                    break;
                }
            }
            prop_assert!(ended, "all of it was taken");
            prop_assert!(gatherer.message.len() <= HELLO_BYTES_MAX + RECORD_BYTES_MAX);
            prop_assert!(gatherer.raw.len() <= HELLO_BYTES_MAX + (RECORDS_MAX + 1) * RECORD_HEADER_BYTES + piece);
        }

        #[test]
        fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&raw);
            let _ = read(&record(&[&[1, 0, 0, u8::try_from(raw.len()).unwrap()][..], &raw].concat()));
        }

        /// Cut short anywhere, it is either waited for or refused; a name is never made of a part of it.
        #[test]
        fn half_a_hello_is_none(cut in any::<proptest::sample::Index>()) {
            let raw = record(&message(&server_name("some.example")));
            prop_assert_eq!(read(&raw[..cut.index(raw.len())]), Ok(None));
        }
    }
}
