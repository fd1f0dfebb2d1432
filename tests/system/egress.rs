//! The way out that a plugin is granted: the hosts that the operator named, through the daemon's proxy, and nowhere else. From inside a
//! plugin, with real clients and with attempts to get past the proxy, as root and as an ordinary user.
//!
//! Every server is the test's own, on loopback; names lead there by `egress.hosts`, and loopback is listed for them. Where an attempt is
//! refused, the same attempt is seen to succeed with the one fence taken away that refuses it.
//! Elsewhere: the proxy's rules one by one, and its bounds, are the daemon's test `egress`; that there is no other way out is `isolation`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::mpsc;

use palisade_protocol::Kind;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::Package;
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

use crate::support::{expect_echo, expect_text, hostile};

type Outcomes = BTreeMap<String, String>;

fn outcomes(value: &Value) -> Outcomes {
    let map = value.as_object().expect("a row answers with a map");
    map.iter().map(|(what, met)| (what.clone(), met.as_str().unwrap_or_default().to_owned())).collect()
}

fn inside(daemon: &Daemon, row: &str, parameters: &Value) -> Outcomes {
    let answer = daemon.agent().call("hostile", row, parameters);
    outcomes(&answer.unwrap_or_else(|error| panic!("{row}: {error}; log:\n{}", daemon.log())))
}

/// What the same row meets in a process of this test's own, which takes that for its proxy.
fn outside(row: &str, parameters: &Value, proxy: &str) -> Outcomes {
    let mut program = command(built("palisade-hostile"));
    let output = program.arg(row).arg(parameters.to_string()).env("HTTP_PROXY", proxy).output().expect("it runs");
    assert!(output.status.success(), "{row}: {output:?}");
    outcomes(&serde_json::from_slice(&output.stdout).expect("it prints JSON"))
}

/// The hostile plugin, which asks for everything that is granted here.
fn asking() -> Package {
    hostile("tame").with("permissions", json!(["execute_code", "network_access"]))
}

/// A daemon whose plugin is granted these hosts; every name beneath `test` is this machine.
fn granting(hosts: &[String], egress: &str) -> Daemon {
    let configuration = format!(
        "[egress]\n{egress}\n[egress.hosts]\n\"a.test\" = [\"127.0.0.1\"]\n\"b.test\" = [\"127.0.0.1\"]\n\
         [plugins.hostile]\ngrant = [\"execute_code\", {{ network_access = {hosts:?} }}]\n"
    );
    Daemon::start(DaemonOptions::with([Package::echo(), asking()]).configuration(&configuration))
}

/// Loopback may be meant by these names.
const LISTED: &str = "allow_addresses = { \"*.test\" = [\"127.0.0.1\"] }";

/// Follows what is decided about the hostile plugin's connections.
fn follow(agent: &mut Agent) -> u64 {
    let follow = agent.begin("palisade", "events", &json!({"plugin": "hostile", "follow": true}));
    assert_eq!(agent.next_of(follow).kind, Some(Kind::StreamOpen));
    follow
}

/// The next event of that kind.
fn next(agent: &mut Agent, follow: u64, kind: &str) -> Value {
    loop {
        let event = agent.next_of(follow).value();
        if event["kind"] == kind {
            return event;
        }
    }
}

/// A server that gives every connection this answer, once it has said something, and tells what that was.
struct Plain {
    port: u16,
    heard: mpsc::Receiver<Vec<u8>>,
}

impl Plain {
    fn answering(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (tell, heard) = mpsc::channel();
        // It ends with the test's process, or when nobody wants to hear any more.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut connection) = connection else { return };
                let mut bytes = vec![0; 64 << 10];
                let Ok(length) = connection.read(&mut bytes) else { continue };
                bytes.truncate(length);
                let _ = connection.write_all(answer);
                if tell.send(bytes).is_err() {
                    return;
                }
            }
        });
        Self { port, heard }
    }

    fn saw_nobody(&self) -> bool {
        self.heard.try_recv().is_err()
    }
}

/// An HTTPS server for `a.test`, and what it takes to trust it.
struct Secure {
    port: u16,
    authority: String,
    process: Child,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const SECURE: &str = r#"
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello from " + self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("certificate.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

impl Secure {
    /// None, and the test says so, where a program is missing.
    fn start(test: &str) -> Option<Self> {
        for (program, flag) in
            [("/usr/bin/python3", "--version"), ("/usr/bin/curl", "--version"), ("openssl", "version")]
        {
            let run = command(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !run.is_ok_and(|status| status.success()) {
                println!("SKIPPED {test}: there is no {program} here");
                return None;
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let openssl = |arguments: &str| {
            let mut openssl = command("openssl");
            openssl
                .current_dir(folder.path())
                .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '));
            let made = openssl.args(arguments.split(' ')).output().expect("openssl runs");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        };
        openssl("-keyout ca-key.pem -out ca.pem -subj /CN=test-authority");
        openssl(
            "-keyout key.pem -out certificate.pem -subj /CN=a.test -CA ca.pem -CAkey ca-key.pem \
             -addext subjectAltName=DNS:a.test -addext basicConstraints=critical,CA:FALSE",
        );
        let authority = std::fs::read_to_string(folder.path().join("ca.pem")).expect("it was made");
        let mut python = command("/usr/bin/python3");
        python.current_dir(folder.path()).args(["-c", SECURE]).stdout(Stdio::piped());
        let mut process = python.spawn().expect("python runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says its port");
        Some(Self { port: line.trim().parse().expect("a port"), authority, process })
    }
}

#[test]
fn curl_reaches_what_is_granted_and_nothing_else() {
    let Some(secure) = Secure::start("curl_reaches_what_is_granted_and_nothing_else") else { return };
    let plain = Plain::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
    let daemon = granting(&[format!("a.test:{}", secure.port), format!("a.test:{}", plain.port)], LISTED);
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    let curl = |url: String| {
        // Its data is the working directory; nothing but what the environment says tells it of the proxy.
        let script = "cat >ca.pem <<END\n$1\nEND\nexec curl --silent --show-error --max-time 20 --cacert ca.pem \"$2\"";
        inside(&daemon, "run", &json!(["/bin/sh", "-c", script, "sh", secure.authority, url]))
    };
    let got = curl(format!("https://a.test:{}/x", secure.port));
    assert_eq!((got["stdout"].as_str(), got["status"].as_str()), ("hello from /x", "0"), "{got:?}");
    let allowed = next(&mut agent, events, "connection_allowed");
    let connection = json!({
        "number": 1, "host": "a.test", "port": secure.port, "decision": "allowed",
        "address": format!("127.0.0.1:{}", secure.port), "passage": "tls"
    });
    assert_eq!((&allowed["plugin"], &allowed["connection"]), (&json!("hostile"), &connection));
    let ended = next(&mut agent, events, "connection_ended");
    assert_eq!((&ended["connection"]["number"], &ended["connection"]["host"]), (&json!(1), &json!("a.test")));
    for direction in ["bytes_up", "bytes_down"] {
        assert!(ended["connection"][direction].as_u64() > Some(200), "{ended}");
    }
    let got = curl(format!("http://a.test:{}/y", plain.port));
    assert_eq!((got["stdout"].as_str(), got["status"].as_str()), ("plain", "0"), "{got:?}");

    let sentence = |port: u16| format!("b.test:{port} is not among the hosts that network_access grants");
    let got = curl(format!("https://b.test:{}/", secure.port));
    assert_eq!((got["stdout"].as_str(), got["status"].as_str()), ("", "56"), "{got:?}");
    expect_text(&got["stderr"], "CONNECT tunnel failed, response 403");
    let refused = next(&mut agent, events, "connection_refused");
    let connection = json!({"number": 3, "host": "b.test", "port": secure.port, "decision": "denied"});
    assert_eq!((&refused["connection"], &refused["reason"]), (&connection, &json!(sentence(secure.port))));
    let got = curl(format!("http://b.test:{}/", plain.port));
    assert_eq!((got["stdout"].trim(), got["status"].as_str()), (sentence(plain.port).as_str(), "0"), "{got:?}");
    // Past the proxy there is no name and no network.
    let got = inside(
        &daemon,
        "run",
        &json!([
            "/usr/bin/curl",
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            format!("http://a.test:{}/", plain.port)
        ]),
    );
    assert_eq!(got["status"], "6", "{got:?}");
    expect_text(&got["stderr"], "Could not resolve host: a.test");
    expect_text(&daemon.log(), "connection allowed");
    expect_text(&daemon.log(), &sentence(secure.port));
    daemon.stop_and_expect_no_orphans();
}
