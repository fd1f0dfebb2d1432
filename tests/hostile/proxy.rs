//! What it tries on the way out that it was granted, and with programs of others. Each row answers with what it tried and what that met.
//!
//! The proxy is the one that `HTTP_PROXY` names, as for any program. Elsewhere: attempts that need no way out are `inside`.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::inside::Outcomes;

pub(crate) const ROWS: &[&str] =
    &["proxy-ask", "proxy-tunnel", "proxy-crowd", "dns-exfil", "dns-witness", "run", "rust-get", "variables"];

/// No answer takes longer, except one that does not come.
const BOUND: Duration = Duration::from_secs(20);

/// Makes the attempts of a row. `None`: there is no such row.
pub(crate) fn attempt(row: &str, parameters: &Value) -> Option<Outcomes> {
    let given = || parameters.as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut outcomes = Outcomes::new();
    match row {
        // Each text is sent as it is; what comes back is kept up to the end of its first line.
        "proxy-ask" => {
            for request in given() {
                let answer = ask(request.as_bytes()).map(|answer| first_line(&answer));
                outcomes.insert(request.to_owned(), answer.unwrap_or_else(|error| error.to_string()));
            }
        }
        // Through a tunnel to the host bytes are sent, given in hexadecimal digits.
        "proxy-tunnel" => {
            let text = |key: &str| parameters[key].as_str().unwrap_or_default();
            let answer = tunnel(text("to"), &unhex(text("bytes")));
            outcomes.insert("met".into(), answer.unwrap_or_else(|error| error.to_string()));
        }
        // Two tunnels at once.
        "proxy-crowd" => {
            let to = parameters.as_str().unwrap_or_default();
            let (first, second) = (enter(to), enter(to));
            for (which, entered) in [("first", &first), ("second", &second)] {
                let met = entered.as_ref().map_or_else(|error| error.to_string(), |(_, answer)| answer.clone());
                outcomes.insert(which.to_owned(), met);
            }
        }
        // Labels that would say something, given to the system's resolver and, as a question, to a resolver by its address.
        "dns-exfil" => {
            let resolver = parameters["resolver"].as_str().unwrap_or_default();
            for name in parameters["names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let found = (name, 443).to_socket_addrs().map(|found| format!("{} addresses", found.count()));
                outcomes.insert(format!("getaddrinfo {name}"), found.unwrap_or_else(|_| "no address".into()));
                let sent = question(resolver, name).map_or_else(|error| error.to_string(), |()| "sent".into());
                outcomes.insert(format!("question {name}"), sent);
            }
        }
        "dns-witness" => {
            let names = parameters["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Err(error) = witness(&names.collect::<Vec<_>>(), &mut outcomes) {
                outcomes.insert("error".into(), error.to_string());
            }
        }
        "run" => {
            let argv: Vec<_> = given().collect();
            run(&argv, &mut outcomes);
        }
        "rust-get" => {
            let text = |key: &str| parameters[key].as_str().unwrap_or_default();
            outcomes.insert("met".into(), rust_get(text("url"), text("authority")));
        }
        "variables" => {
            let named = |name: &str| name.to_lowercase().ends_with("_proxy");
            outcomes.extend(std::env::vars().filter(|(name, _)| named(name)));
        }
        _ => return None,
    }
    Some(outcomes)
}

fn proxy() -> io::Result<TcpStream> {
    let url = std::env::var("HTTP_PROXY").map_err(io::Error::other)?;
    let address = url.strip_prefix("http://").ok_or_else(|| io::Error::other(url.clone()))?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(BOUND))?;
    Ok(stream)
}

/// What the proxy answers to these bytes, to its end; a reset is one as well.
fn ask(bytes: &[u8]) -> io::Result<String> {
    let mut stream = proxy()?;
    stream.write_all(bytes)?;
    Ok(rest(&mut stream))
}

fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// A connection on which a tunnel was asked for, and the first line of the answer.
fn enter(to: &str) -> io::Result<(TcpStream, String)> {
    let mut stream = proxy()?;
    stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let line = first_line(&String::from_utf8_lossy(&head));
    Ok((stream, line))
}

/// The proxy's answer to a CONNECT, and what comes back of the bytes after it, as hexadecimal digits.
fn tunnel(to: &str, bytes: &[u8]) -> io::Result<String> {
    let (mut stream, line) = enter(to)?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer: String = answer.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{line}, then {answer:?}"))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or_default()).collect()
}

/// Asks a resolver for the addresses of a name, and does not wait for an answer.
fn question(resolver: &str, name: &str) -> io::Result<()> {
    let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    UdpSocket::bind("0.0.0.0:0")?.send_to(&message, resolver).map(drop)
}

/// Is the resolver of the network that this is in, and asks the system for names: which of them reached it.
fn witness(names: &[&str], outcomes: &mut Outcomes) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:53")?;
    socket.set_read_timeout(Some(BOUND))?;
    for name in names {
        let name = (*name).to_owned();
        // It is not waited for: nobody answers it.
        std::thread::spawn(move || (name.as_str(), 443).to_socket_addrs().is_ok());
    }
    let mut bytes = [0; 512];
    while outcomes.len() < names.len() {
        let length = socket.recv(&mut bytes)?;
        let asked = bytes[..length].to_ascii_lowercase();
        for name in names {
            let label = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
            if asked.windows(label.len()).any(|part| part == label.as_bytes()) {
                outcomes.insert((*name).to_owned(), "asked".into());
            }
        }
    }
    Ok(())
}

/// Executes a program with what it needs of its own environment.
#[expect(clippy::disallowed_methods, reason = "the ban is the daemon's; a plugin may start what it is allowed to")]
fn run(argv: &[&str], outcomes: &mut Outcomes) {
    let Some((program, arguments)) = argv.split_first() else { return };
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            outcomes.insert("status".into(), output.status.code().map_or("signal".into(), |code| code.to_string()));
            outcomes.insert("stdout".into(), text(&output.stdout));
            outcomes.insert("stderr".into(), text(&output.stderr));
        }
        Err(error) => drop(outcomes.insert("error".into(), error.to_string())),
    }
}

/// What a client library makes of it that knows nothing of us: TLS by rustls, the proxy by the environment.
fn rust_get(url: &str, authority: &str) -> String {
    use ureq::tls::{Certificate, RootCerts, TlsConfig};
    let Ok(authority) = Certificate::from_pem(authority.as_bytes()) else { return "no authority".to_owned() };
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&[authority]))
        .build();
    let agent = ureq::Agent::config_builder().tls_config(tls).timeout_global(Some(BOUND)).build().new_agent();
    let body = agent.get(url).call().and_then(|mut response| response.body_mut().read_to_string());
    body.unwrap_or_else(|error| format!("error: {error}"))
}
