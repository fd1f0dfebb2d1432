//! Why a connection leads nowhere, and what the client is told of it.
//!
//! The answer has a status, one sentence, and a `Proxy-Status` header (RFC 9209), so that a client which reads it can tell a refusal of the proxy from
//! an answer of the server.

use std::fmt::Write as _;
use std::time::Duration;

use super::client_hello::HelloError;
use super::head::{PROXY_NAME, RequestError};
use super::resolver::LookupError;
use crate::model::permission::host::Host;
use crate::model::permission::network::Denied;

/// Why a connection leads nowhere. One variant per thing that can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The policy says no. Granting would help.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// What is sent through the tunnel is not for the host that was granted.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The request is not one.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The name has no address.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// No address answers.
    #[error("{host}:{port} cannot be reached: {detail}")]
    Unreachable { host: Host, port: u16, detail: String },
    /// No address answers in time.
    #[error("{host}:{port} could not be reached within {within:?}")]
    ConnectTimedOut { host: Host, port: u16, within: Duration },
    /// Too many at once.
    #[error("the plugin has {connections_max} connections open, and may have no more")]
    Connections { connections_max: usize },
    /// The server did not answer as a server does.
    #[error("{host}:{port} gave no proper answer: {detail}")]
    Answer { host: Host, port: u16, detail: String },
    /// The server did not begin to answer in time.
    #[error("{host}:{port} did not begin to answer within {within:?}")]
    AnswerTimedOut { host: Host, port: u16, within: Duration },
}

/// Whose doing a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The policy's.
    Denied,
    /// The client's: what it sent is not a request.
    Malformed,
    /// A limit's.
    Limited,
    /// The network's or the server's.
    Failed,
}

impl Refusal {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Denied(_) | Self::Hello(_) => Kind::Denied,
            Self::Request(error) if matches!(error.status(), 408 | 413 | 431) => Kind::Limited,
            Self::Request(_) => Kind::Malformed,
            Self::Connections { .. } => Kind::Limited,
            Self::Lookup(_)
            | Self::Unreachable { .. }
            | Self::ConnectTimedOut { .. }
            | Self::Answer { .. }
            | Self::AnswerTimedOut { .. } => Kind::Failed,
        }
    }

    /// The status of the answer. None where the tunnel stands already, so that no answer can be given.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        Some(match self {
            Self::Denied(_) => 403,
            Self::Hello(_) => return None,
            Self::Request(error) => error.status(),
            Self::Connections { .. } => 503,
            Self::Lookup(LookupError::TimedOut { .. }) | Self::ConnectTimedOut { .. } | Self::AnswerTimedOut { .. } => {
                504
            }
            Self::Lookup(_) | Self::Unreachable { .. } | Self::Answer { .. } => 502,
        })
    }

    /// The type of the error, as RFC 9209 has registered them.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Denied(Denied::Address { .. } | Denied::AddressDenied { .. }) => "destination_ip_prohibited",
            Self::Denied(Denied::NotGranted { .. } | Denied::DenyListed { .. }) | Self::Hello(_) => {
                "http_request_denied"
            }
            Self::Request(_) => "http_request_error",
            Self::Lookup(LookupError::TimedOut { .. }) => "dns_timeout",
            Self::Lookup(_) => "dns_error",
            Self::Unreachable { .. } => "destination_unavailable",
            Self::ConnectTimedOut { .. } => "connection_timeout",
            Self::Connections { .. } => "connection_limit_reached",
            Self::Answer { .. } => "http_protocol_error",
            Self::AnswerTimedOut { .. } => "http_response_timeout",
        }
    }

    /// The answer in bytes. Empty where none can be given.
    #[must_use]
    pub(super) fn answer(&self) -> Vec<u8> {
        let Some(status) = self.status() else { return Vec::new() };
        let sentence = self.to_string();
        let mut answer = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
        let _ = write!(answer, "Proxy-Status: {PROXY_NAME}; error={}; details=\"", self.error_type());
        // A string of structured fields: visible ASCII, with two characters escaped.
        for character in sentence.chars() {
            match character {
                '"' | '\\' => answer.extend(['\\', character]),
                ' '..='~' => answer.push(character),
                _ => answer.push('?'),
            }
        }
        answer.push_str("\"\r\n");
        match status {
            405 => answer.push_str("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT\r\n"),
            503 => answer.push_str("Retry-After: 1\r\n"),
            _ => {}
        }
        let _ = write!(
            answer,
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{sentence}\n",
            sentence.len() + 1,
        );
        answer.into_bytes()
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::head::HeadError;

    #[test]
    fn an_answer_is_one_whatever_the_client_sent() {
        let method = RequestError::Method { method: "A\"\\ü\r\nB".into() };
        let answer = String::from_utf8(Refusal::from(method).answer()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let expected =
            "Proxy-Status: palisade; error=http_request_error; details=\"the method A\\\"\\\\???B is not passed on\"";
        assert_eq!(head.lines().nth(1), Some(expected));
        assert!(head.lines().any(|line| line == format!("Content-Length: {}", body.len())), "{answer}");
    }

    #[test]
    fn every_refusal_has_its_status_and_kind() {
        let host = Host::parse("a.example").unwrap();
        let request = |error: RequestError| Refusal::from(error);
        for (refusal, status, kind) in [
            (Refusal::Denied(Denied::NotGranted { host: host.clone(), port: 1 }), Some(403), Kind::Denied),
            (Refusal::Hello(HelloError::NotTls), None, Kind::Denied),
            (request(RequestError::NoHost), Some(400), Kind::Malformed),
            (request(RequestError::Head(HeadError::TooMany { headers_max: 1 })), Some(431), Kind::Limited),
            (request(RequestError::BodyTooLarge { bytes: 2, bytes_max: 1 }), Some(413), Kind::Limited),
            (Refusal::Lookup(LookupError::None { host: host.clone() }), Some(502), Kind::Failed),
            (Refusal::ConnectTimedOut { host, port: 1, within: Duration::ZERO }, Some(504), Kind::Failed),
            (Refusal::Connections { connections_max: 1 }, Some(503), Kind::Limited),
        ] {
            assert_eq!((refusal.status(), refusal.kind()), (status, kind), "{refusal}");
        }
    }
}
