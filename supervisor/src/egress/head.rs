//! The heads of HTTP messages: a request as the proxy takes it and as the server gets it, and a response likewise.
//!
//! `httparse` reads them; it is told nothing that anybody could read in two ways: line ends are CR LF, there are no other control characters, no
//! folded lines, and no header twice that says where the message goes or where it ends. What is passed on is written anew, so a server sees the
//! canonical host, one way of framing, and no header that was meant for the proxy.
//!
//! Invariants: a pure reading of bytes; what is refused is refused with its status and a sentence.
//! Elsewhere: waiting for a head, and its bound in bytes and time, is `connection`'s; whether the host is granted is the policy's.

use std::fmt::Write as _;

use httparse::Header;

use super::body::Framing;
use crate::model::permission::host::{AuthorityError, Host, parse_authority};

/// Longest name of a method; the longest registered one has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// By which the proxy names itself in `Via` and `Proxy-Status`.
pub const PROXY_NAME: &str = "palisade";

/// Headers that are meant for the next hop alone, or for the proxy, or that the proxy writes itself.
const NOT_PASSED_ON: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why bytes are no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("a line of the head does not end with CR LF")]
    LineEnd,
    #[error("the head contains the control character {byte:#04x}")]
    Control { byte: u8 },
    #[error("the head has a folded line, that is one that begins with a space")]
    Folded,
    #[error("the head has more than {headers_max} headers")]
    TooMany { headers_max: usize },
    #[error("the head has more than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("the head is of another version than HTTP/1.0 and HTTP/1.1")]
    Version,
    #[error("the head is malformed: {0}")]
    Malformed(httparse::Error),
    #[error("the header {name} stands there twice")]
    Twice { name: &'static str },
    #[error("the Content-Length is not one decimal number")]
    Length,
    #[error("there are both Content-Length and Transfer-Encoding, so the end of the body could be read in two ways")]
    LengthAndEncoding,
    #[error("the Transfer-Encoding is another than `chunked`, or one where HTTP/1.0 has none")]
    Encoding,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("the method {method} is not passed on")]
    Method { method: String },
    #[error("the target is not an absolute http:// URL, which a request to a proxy has")]
    NotAbsolute,
    #[error("the target is not http://; for TLS the proxy is asked to CONNECT")]
    Scheme,
    #[error("the target has user information before its host")]
    UserInformation,
    #[error("the target has a fragment, or characters that have to be encoded")]
    TargetCharacters,
    #[error("the target is wrong: {0}")]
    Target(AuthorityError),
    #[error("the target of CONNECT is HOST:PORT, and has no port here")]
    NoPort,
    #[error("there is no Host header")]
    NoHost,
    #[error("the Host header is wrong: {0}")]
    Host(AuthorityError),
    #[error("the Host header names another host or port than the target does")]
    OtherHost,
    #[error("a CONNECT request has no body")]
    ConnectBody,
    #[error("the body is malformed: {detail}")]
    Body { detail: String },
    #[error("the head is not whole: the connection ended within it")]
    Ended,
    #[error("the head did not arrive in time")]
    TimedOut,
    #[error("the body of {bytes} bytes is larger than the {bytes_max} that one connection may carry")]
    BodyTooLarge { bytes: u64, bytes_max: u64 },
}

impl RequestError {
    /// The status with which it is answered.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Head(HeadError::TooMany { .. } | HeadError::TooLarge { .. }) => 431,
            Self::Head(HeadError::Version) => 505,
            Self::Method { .. } => 405,
            Self::BodyTooLarge { .. } => 413,
            Self::TimedOut => 408,
            Self::Head(_)
            | Self::NotAbsolute
            | Self::Scheme
            | Self::UserInformation
            | Self::TargetCharacters
            | Self::Target(_)
            | Self::NoPort
            | Self::NoHost
            | Self::Host(_)
            | Self::OtherHost
            | Self::ConnectBody
            | Self::Body { .. }
            | Self::Ended => 400,
        }
    }
}

/// Finds the end of a head in what has arrived so far, and what cannot be part of one.
#[derive(Debug, Default)]
pub struct Ending {
    seen: usize,
}

impl Ending {
    /// The length of the head, once it is whole. `bytes` only grows from one call to the next.
    ///
    /// # Errors
    /// [`HeadError`], at the first byte that shows it.
    pub fn find(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, HeadError> {
        while let Some(byte) = bytes.get(self.seen).copied() {
            if self.seen == bytes_max {
                return Err(HeadError::TooLarge { bytes_max });
            }
            let before = self.seen.checked_sub(1).and_then(|before| bytes.get(before)).copied();
            if (before == Some(b'\r')) != (byte == b'\n') {
                return Err(HeadError::LineEnd);
            }
            if before == Some(b'\n') && matches!(byte, b' ' | b'\t') {
                return Err(HeadError::Folded);
            }
            if (byte.is_ascii_control() && !b"\r\n\t".contains(&byte)) || (before.is_none() && byte == b'\t') {
                return Err(HeadError::Control { byte });
            }
            self.seen += 1;
            if bytes[..self.seen].ends_with(b"\r\n\r\n") {
                return Ok(Some(self.seen));
            }
            // Some parsers skip empty lines in front; a head does not begin with one.
            if self.seen == 2 && bytes.starts_with(b"\r\n") {
                return Err(HeadError::LineEnd);
            }
        }
        Ok(None)
    }
}

/// What is asked of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub host: Host,
    pub port: u16,
    pub kind: RequestKind,
}

/// How it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKind {
    /// A tunnel.
    Connect,
    /// One request in plain text.
    Http(Forward),
}

/// A request that is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// As the server gets it.
    pub head: Vec<u8>,
    /// Its body.
    pub framing: Framing,
    /// For which requests what kinds of responses there are.
    pub asked: Asked,
}

/// What of a request matters for its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The response to HEAD has no body, whatever its head says.
    pub head_only: bool,
    /// 0 or 1: HTTP/1.0 knows neither chunks nor interim responses.
    pub minor_version: u8,
}

impl Request {
    /// Reads a head that `Ending` has found.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn read(head: &[u8], headers_max: usize) -> Result<Self, RequestError> {
        let mut headers = vec![httparse::EMPTY_HEADER; headers_max];
        let mut request = httparse::Request::new(&mut headers);
        let length = request.parse(head).map_err(|error| head_error(error, head, headers_max))?;
        let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
            return Err(HeadError::Malformed(httparse::Error::Token).into());
        };
        if length != httparse::Status::Complete(head.len()) {
            return Err(HeadError::Malformed(httparse::Error::NewLine).into());
        }
        if METHOD_BYTES_MAX < method.len() || matches!(method, "TRACE" | "TRACK") {
            let method = method.chars().take(METHOD_BYTES_MAX).collect();
            return Err(RequestError::Method { method });
        }
        let headers = &*request.headers;
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains('#') {
            return Err(RequestError::TargetCharacters);
        }
        let framing = framing(headers, minor_version)?;
        if method == "CONNECT" {
            let (host, port) = parse_authority(target).map_err(RequestError::Target)?;
            let port = port.ok_or(RequestError::NoPort)?;
            check_host(headers, minor_version, &host, port, port)?;
            if framing.is_some() {
                return Err(RequestError::ConnectBody);
            }
            return Ok(Self { host, port, kind: RequestKind::Connect });
        }
        let rest = match target.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                return Err(RequestError::Scheme);
            }
            _ => return Err(RequestError::NotAbsolute),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(RequestError::UserInformation);
        }
        let (host, port) = parse_authority(authority).map_err(RequestError::Target)?;
        let port = port.unwrap_or(80);
        check_host(headers, minor_version, &host, port, 80)?;

        let mut head = format!("{method} ").into_bytes();
        match path.as_bytes() {
            [] if method == "OPTIONS" => head.push(b'*'),
            [b'/', ..] => {}
            _ => head.push(b'/'),
        }
        head.extend(path.bytes());
        let mut lines = format!(" HTTP/1.{minor_version}\r\nHost: {host}");
        if port != 80 {
            let _ = write!(lines, ":{port}");
        }
        lines.push_str("\r\n");
        head.extend(lines.bytes());
        pass_on(headers, &mut head);
        finish(&mut head, framing, minor_version);
        let asked = Asked { head_only: method == "HEAD", minor_version };
        let framing = framing.unwrap_or(Framing::Empty);
        Ok(Self { host, port, kind: RequestKind::Http(Forward { head, framing, asked }) })
    }
}

/// A response as the client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub head: Vec<u8>,
    pub framing: Framing,
    /// Another response follows this one.
    pub interim: bool,
}

/// Why a response is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("the status is none")]
    Status,
    #[error("the server changes the protocol, which it was not asked to")]
    Upgrade,
}

impl Response {
    /// Reads a head that `Ending` has found.
    ///
    /// # Errors
    /// [`ResponseError`].
    pub fn read(head: &[u8], headers_max: usize, asked: Asked) -> Result<Self, ResponseError> {
        let mut headers = vec![httparse::EMPTY_HEADER; headers_max];
        let mut response = httparse::Response::new(&mut headers);
        let length = response.parse(head).map_err(|error| head_error(error, head, headers_max))?;
        let (Some(code), Some(reason), Some(minor_version)) = (response.code, response.reason, response.version) else {
            return Err(ResponseError::Status);
        };
        if length != httparse::Status::Complete(head.len()) {
            return Err(HeadError::Malformed(httparse::Error::NewLine).into());
        }
        if !(100..=599).contains(&code) {
            return Err(ResponseError::Status);
        }
        if code == 101 {
            return Err(ResponseError::Upgrade);
        }
        let interim = code < 200;
        let framed = framing(response.headers, minor_version)?;
        // A response to HEAD, and a 304, say how long a body would be.
        let framing = match framed {
            _ if interim || asked.head_only || code == 204 || code == 304 => Framing::Empty,
            Some(Framing::Chunked) if asked.minor_version == 0 => return Err(HeadError::Encoding.into()),
            Some(framing) => framing,
            None => Framing::UntilClose,
        };
        let mut head = format!("HTTP/1.1 {code} {reason}\r\n").into_bytes();
        pass_on(response.headers, &mut head);
        if interim {
            head.extend(b"\r\n");
        } else {
            finish(&mut head, framed, minor_version);
        }
        Ok(Self { head, framing, interim })
    }
}

fn head_error(error: httparse::Error, head: &[u8], headers_max: usize) -> HeadError {
    // The parser looks for a version behind the target, and finds none in a line of other words either.
    let mut words = head.split(|byte| b" \r".contains(byte)).take_while(|word| !word.starts_with(b"\n"));
    let is_other_version = words.clone().count() <= 3 && words.any(|word| word.starts_with(b"HTTP/"));
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooMany { headers_max },
        httparse::Error::Version if is_other_version => HeadError::Version,
        error => HeadError::Malformed(error),
    }
}

/// The header of this name, which must not be there twice.
fn only<'a>(headers: &[Header<'a>], name: &'static str) -> Result<Option<&'a [u8]>, HeadError> {
    let mut found = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value);
    let first = found.next();
    if found.next().is_some() { Err(HeadError::Twice { name }) } else { Ok(first) }
}

/// What the head says about the end of the body.
fn framing(headers: &[Header<'_>], minor_version: u8) -> Result<Option<Framing>, HeadError> {
    match (only(headers, "Content-Length")?, only(headers, "Transfer-Encoding")?) {
        (Some(_), Some(_)) => Err(HeadError::LengthAndEncoding),
        (None, None) => Ok(None),
        (None, Some(encoding)) if minor_version == 1 && encoding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(Framing::Chunked))
        }
        (None, Some(_)) => Err(HeadError::Encoding),
        (Some(length), None) => {
            // `parse` takes a sign, which is none of HTTP's.
            let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits
                .and_then(|digits| digits.parse().ok())
                .map(|length| Some(Framing::Length(length)))
                .ok_or(HeadError::Length)
        }
    }
}

/// The Host header has to say what the target says. Only HTTP/1.0 may have none.
fn check_host(
    headers: &[Header<'_>],
    minor_version: u8,
    host: &Host,
    port: u16,
    port_default: u16,
) -> Result<(), RequestError> {
    let Some(value) = only(headers, "Host")? else {
        return if minor_version == 0 { Ok(()) } else { Err(RequestError::NoHost) };
    };
    // What is not UTF-8 is certainly not ASCII, which the parser then says.
    let (named, named_port) = parse_authority(&String::from_utf8_lossy(value)).map_err(RequestError::Host)?;
    if named == *host && named_port.unwrap_or(port_default) == port { Ok(()) } else { Err(RequestError::OtherHost) }
}

/// Writes the headers that are for the other side.
fn pass_on(headers: &[Header<'_>], head: &mut Vec<u8>) {
    let connection = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    let named: Vec<&[u8]> =
        connection.flat_map(|header| header.value.split(|byte| *byte == b',')).map(|name| name.trim_ascii()).collect();
    for header in headers {
        let name = header.name;
        let hop = NOT_PASSED_ON.iter().any(|not| name.eq_ignore_ascii_case(not))
            || named.iter().any(|named| name.as_bytes().eq_ignore_ascii_case(named));
        if !hop {
            head.extend(name.bytes());
            head.extend(b": ");
            head.extend(header.value);
            head.extend(b"\r\n");
        }
    }
}

/// Writes what the proxy says itself.
fn finish(head: &mut Vec<u8>, framing: Option<Framing>, minor_version: u8) {
    let mut lines = String::new();
    match framing {
        Some(Framing::Length(length)) => {
            let _ = write!(lines, "Content-Length: {length}\r\n");
        }
        Some(Framing::Chunked) => lines.push_str("Transfer-Encoding: chunked\r\n"),
        Some(Framing::Empty | Framing::UntilClose) | None => {}
    }
    let _ = write!(lines, "Via: 1.{minor_version} {PROXY_NAME}\r\nConnection: close\r\n\r\n");
    head.extend(lines.bytes());
}

#[cfg(test)]
mod tests;
