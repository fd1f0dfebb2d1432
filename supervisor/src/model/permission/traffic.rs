//! How much of everything one plugin's way out may take, and what an operator can set of it.
//!
//! Elsewhere: what is fixed stands in `egress::limits`; holding connections to it is `egress`.

use std::time::Duration;

use serde::Deserialize;

/// The bounds of one plugin's connections. The defaults are for tools that fetch and post; each may be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Each costs the daemon two descriptors and two buffers; a browser opens six to a host.
    pub connections_max: usize,
    /// Connections a second in the long run. Each costs the daemon's one thread a fraction of a millisecond, which every other plugin waits for.
    pub connections_per_second: u32,
    /// And so many at once before that counts. Whoever is faster waits, and is not refused.
    pub connections_burst: u32,
    /// Bytes of one head, of a request or a response. Cookies and tokens fit; most servers take 8 to 16 KiB.
    pub head_bytes_max: usize,
    /// Headers in one head.
    pub headers_max: usize,
    /// For the head of a request, from the connection on: it is local, and a slow one holds a place.
    pub head_timeout: Duration,
    /// For the TLS client hello, from the moment the tunnel stands.
    pub hello_timeout: Duration,
    /// For one name. The system's resolver gives up later than anybody waits.
    pub lookup_timeout: Duration,
    /// For reaching a server, all its addresses together.
    pub connect_timeout: Duration,
    /// For the first byte of an answer, since something was last sent. Longer than a slow model or report takes.
    pub first_byte_timeout: Duration,
    /// Without a byte in either direction, after the first.
    pub idle_timeout: Duration,
    /// Bytes of one connection, both directions together.
    pub bytes_max: u64,
    /// One connection in all, however busy. Long enough for large downloads, short enough that none is for ever.
    pub time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            connections_per_second: 200,
            connections_burst: 400,
            head_bytes_max: 16 << 10,
            headers_max: 100,
            head_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(10),
            lookup_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(120),
            bytes_max: 4 << 30,
            time_max: Duration::from_secs(3600),
        }
    }
}

/// What the configuration can set of [`Limits`]; what it leaves out keeps its default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    pub connections: Option<u32>,
    pub connections_per_second: Option<u32>,
    pub connections_burst: Option<u32>,
    pub head_bytes: Option<u32>,
    pub headers: Option<u32>,
    pub head_seconds: Option<f64>,
    pub hello_seconds: Option<f64>,
    pub lookup_seconds: Option<f64>,
    pub connect_seconds: Option<f64>,
    pub first_byte_seconds: Option<f64>,
    pub idle_seconds: Option<f64>,
    pub connection_seconds: Option<f64>,
    pub connection_mib: Option<u32>,
}

/// Bounds of what can be set: a place for each connection and each byte of a head is memory of the daemon's.
const CONNECTIONS: (u32, u32) = (1, 1024);
const PACE: (u32, u32) = (1, 100_000);
const HEAD_BYTES: (u32, u32) = (1024, 256 << 10);
const HEADERS: (u32, u32) = (1, 1000);
const MEBIBYTES: (u32, u32) = (1, u32::MAX);
const SECONDS: (f64, f64) = (0.01, 604_800.0);

impl Allowance {
    /// The limits that follow.
    ///
    /// # Errors
    /// A sentence that begins with the key that is out of bounds.
    pub fn decide(&self) -> Result<Limits, String> {
        let whole = |key: &str, value: Option<u32>, (least, most): (u32, u32)| match value {
            Some(value) if value < least || most < value => {
                Err(format!("{key} is {value}; it can be from {least} to {most}"))
            }
            value => Ok(value),
        };
        let seconds = |key: &str, value: Option<f64>, default: Duration| match value {
            None => Ok(default),
            // What is no number is in no range either.
            Some(value) if (SECONDS.0..=SECONDS.1).contains(&value) => Ok(Duration::from_secs_f64(value)),
            Some(value) => Err(format!("{key} is {value}; it can be from {} to {}", SECONDS.0, SECONDS.1)),
        };
        let default = Limits::default();
        let size = |value: Option<u32>, default: usize| value.map_or(default, |value| value as usize);
        let connections = whole("connections", self.connections, CONNECTIONS)?;
        let per_second = whole("connections_per_second", self.connections_per_second, PACE)?;
        let burst = whole("connections_burst", self.connections_burst, PACE)?;
        let head_bytes = whole("head_bytes", self.head_bytes, HEAD_BYTES)?;
        let headers = whole("headers", self.headers, HEADERS)?;
        let mebibytes = whole("connection_mib", self.connection_mib, MEBIBYTES)?;
        Ok(Limits {
            connections_max: size(connections, default.connections_max),
            connections_per_second: per_second.unwrap_or(default.connections_per_second),
            connections_burst: burst.unwrap_or(default.connections_burst),
            head_bytes_max: size(head_bytes, default.head_bytes_max),
            headers_max: size(headers, default.headers_max),
            head_timeout: seconds("head_seconds", self.head_seconds, default.head_timeout)?,
            hello_timeout: seconds("hello_seconds", self.hello_seconds, default.hello_timeout)?,
            lookup_timeout: seconds("lookup_seconds", self.lookup_seconds, default.lookup_timeout)?,
            connect_timeout: seconds("connect_seconds", self.connect_seconds, default.connect_timeout)?,
            first_byte_timeout: seconds("first_byte_seconds", self.first_byte_seconds, default.first_byte_timeout)?,
            idle_timeout: seconds("idle_seconds", self.idle_seconds, default.idle_timeout)?,
            bytes_max: mebibytes.map_or(default.bytes_max, |mebibytes| u64::from(mebibytes) << 20),
            time_max: seconds("connection_seconds", self.connection_seconds, default.time_max)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_keeps_its_default_and_what_is_has_bounds() {
        assert_eq!(Allowance::default().decide(), Ok(Limits::default()));
        let set = Allowance {
            connections: Some(2),
            idle_seconds: Some(0.5),
            connection_mib: Some(3),
            ..Allowance::default()
        };
        let expected = Limits {
            connections_max: 2,
            idle_timeout: Duration::from_millis(500),
            bytes_max: 3 << 20,
            ..Limits::default()
        };
        assert_eq!(set.decide(), Ok(expected));
        for (wrong, sentence) in [
            (Allowance { connections: Some(0), ..Allowance::default() }, "connections is 0; it can be from 1 to 1024"),
            (
                Allowance { head_bytes: Some(1), ..Allowance::default() },
                "head_bytes is 1; it can be from 1024 to 262144",
            ),
            (
                Allowance { idle_seconds: Some(f64::NAN), ..Allowance::default() },
                "idle_seconds is NaN; it can be from 0.01 to 604800",
            ),
            (
                Allowance { head_seconds: Some(-1.0), ..Allowance::default() },
                "head_seconds is -1; it can be from 0.01 to 604800",
            ),
        ] {
            assert_eq!(wrong.decide(), Err(sentence.to_owned()));
        }
    }
}
