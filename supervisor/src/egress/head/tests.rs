use proptest::prelude::*;

use super::*;

const BYTES_MAX: usize = 4096;
const HEADERS_MAX: usize = 20;

fn read(bytes: &[u8]) -> Result<Request, RequestError> {
    let end = Ending::default().find(bytes, BYTES_MAX)?.ok_or(RequestError::Ended)?;
    Request::read(&bytes[..end], HEADERS_MAX)
}

fn forwarded(bytes: &str) -> (String, Framing) {
    match read(bytes.as_bytes()).unwrap().kind {
        RequestKind::Http(forward) => (String::from_utf8(forward.head).unwrap(), forward.framing),
        RequestKind::Connect => panic!("{bytes}"),
    }
}

#[test]
fn a_tunnel_is_asked_for() {
    for (head, target) in [
        ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", "example.com:443"),
        ("CONNECT Example.com:8443 HTTP/1.1\r\nhost: example.COM\r\nUser-Agent: x\r\n\r\n", "example.com:8443"),
        ("CONNECT example.com:443 HTTP/1.0\r\n\r\n", "example.com:443"),
        ("CONNECT [2001:db8::7]:443 HTTP/1.1\r\nHost: [2001:db8::7]:443\r\n\r\n", "[2001:db8::7]:443"),
    ] {
        let request = read(head.as_bytes()).unwrap();
        assert_eq!(format!("{}:{}", request.host, request.port), target);
        assert_eq!(request.kind, RequestKind::Connect);
    }
}

#[test]
fn a_request_is_written_anew() {
    let (head, framing) = forwarded(
        "POST HTTP://Example.com:8080/a?b=c HTTP/1.1\r\nhost: example.com:8080\r\nAccept: */*\r\nContent-Length: 007\r\n\
         Connection: X-Private, close\r\nX-Private: 1\r\nKeep-Alive: 1\r\nProxy-Authorization: Basic x\r\n\
         Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Name:  a\tb \r\n\r\n",
    );
    let expected = "POST /a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\nX-Name: a\tb\r\nContent-Length: 7\r\n\
        Via: 1.1 palisade\r\nConnection: close\r\n\r\n";
    assert_eq!((head.as_str(), framing), (expected, Framing::Length(7)));
    for (head, first) in [
        ("GET http://example.com HTTP/1.1\r\nHost: example.com\r\n\r\n", "GET / HTTP/1.1\r\nHost: example.com"),
        ("GET http://example.com:80/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "GET / HTTP/1.1\r\nHost: example.com"),
        ("GET http://example.com?a HTTP/1.0\r\n\r\n", "GET /?a HTTP/1.0\r\nHost: example.com"),
        ("OPTIONS http://example.com HTTP/1.1\r\nHost: example.com\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: example.com"),
        ("GET http://[::1]:81/ HTTP/1.1\r\nHost: [::1]:81\r\n\r\n", "GET / HTTP/1.1\r\nHost: [::1]:81"),
    ] {
        let (written, framing) = forwarded(head);
        assert_eq!(written.split("\r\nVia").next(), Some(first));
        assert_eq!(framing, Framing::Empty);
    }
    let chunked = "PUT http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: Chunked\r\n\r\n";
    let (head, framing) = forwarded(chunked);
    assert_eq!(framing, Framing::Chunked);
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head}");
}

/// Each attempt to be read in two ways, and its exact answer.
#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let many = format!("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
    let huge = format!("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nA: {}\r\n\r\n", "b".repeat(BYTES_MAX));
    let mut wrong = String::new();
    let get = |rest: &str| format!("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{rest}\r\n\r\n");
    for (bytes, status, sentence) in [
        ("GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", 400, "names another host or port"),
        ("GET http://a.example:81/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "names another host or port"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a.example:81\r\n\r\n", 400, "names another host or port"),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n", 400, "names another host or port"),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:80\r\n\r\n", 400, "names another host or port"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", 400, "Host header is wrong"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: x@a.example\r\n\r\n", 400, "Host header is wrong"),
        ("GET http://a.example/ HTTP/1.1\r\nHost:\r\n\r\n", 400, "the host is empty"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: \u{ff41}.example\r\n\r\n", 400, "not ASCII"),
        ("GET http://a.example/ HTTP/1.1\r\n\r\n", 400, "no Host header"),
        ("CONNECT a.example:443 HTTP/1.1\r\n\r\n", 400, "no Host header"),
        (&get("Host: a.example"), 400, "header Host stands there twice"),
        (&get("Content-Length: 1\r\ncontent-length: 1"), 400, "header Content-Length stands there twice"),
        (&get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400, "Transfer-Encoding stands there twice"),
        (&get("Content-Length: 1\r\nTransfer-Encoding: chunked"), 400, "both Content-Length and Transfer-Encoding"),
        (&get("Transfer-Encoding: gzip, chunked"), 400, "another than `chunked`"),
        (&get("Transfer-Encoding: xchunked"), 400, "another than `chunked`"),
        (&get("Transfer-Encoding: identity"), 400, "another than `chunked`"),
        (&get("Transfer-Encoding : chunked"), 400, "malformed"),
        (&get("Content-Length: +1"), 400, "not one decimal number"),
        (&get("Content-Length: 1, 1"), 400, "not one decimal number"),
        (&get("Content-Length: 0x1"), 400, "not one decimal number"),
        (&get("Content-Length:"), 400, "not one decimal number"),
        (&get("Content-Length: 99999999999999999999"), 400, "not one decimal number"),
        (&get("A: b\r\n c"), 400, "folded"),
        (&get("A: b\r\n\tc"), 400, "folded"),
        (&get("A: b\nC: d"), 400, "does not end with CR LF"),
        (&get("A: b\rC: d"), 400, "does not end with CR LF"),
        (&get("A: b\0"), 400, "control character 0x00"),
        (&get("A: b\x0b"), 400, "control character 0x0b"),
        (&get("A b"), 400, "malformed"),
        (&get(": b"), 400, "malformed"),
        ("\r\nGET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "does not end with CR LF"),
        ("GET  http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "malformed"),
        ("GET http://a.example/ b HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "malformed"),
        ("GET http://a.example/%0d%0a\r\nX: HTTP/1.1\r\n\r\n", 400, "malformed"),
        ("GET http://a.example/\u{fc} HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "characters that have to be encoded"),
        ("GET http://a.example/#b HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "fragment"),
        ("GET http://u:p@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "user information"),
        ("GET http://b.example\\@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "names another host or port"),
        ("GET http://a.example%2f/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "neither zones nor encoded"),
        ("GET http:///a HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "the host is empty"),
        ("GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "for TLS the proxy is asked to CONNECT"),
        ("GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "not http://"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "not an absolute http:// URL"),
        ("GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "not an absolute http:// URL"),
        ("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "not an absolute http:// URL"),
        ("TRACE http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 405, "method TRACE is not passed on"),
        ("GET http://a.example/ HTTP/2.0\r\nHost: a.example\r\n\r\n", 505, "another version"),
        ("GET http://a.example/\r\n\r\n", 400, "malformed"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "another version"),
        ("GET http://a.example/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0 has none"),
        ("CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "has no port here"),
        ("CONNECT http://a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "target is wrong"),
        ("CONNECT a.example:0 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "between 1 and 65535"),
        ("CONNECT a.example:70000 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, "between 1 and 65535"),
        ("CONNECT a.example.:443 HTTP/1.1\r\nHost: a.example.:443\r\n\r\n", 400, "ends with a dot"),
        ("CONNECT [fe80::1%25eth0]:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "neither zones nor encoded"),
        ("CONNECT 2130706433:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ends in a number"),
        ("CONNECT 0x7f.0.0.1:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ends in a number"),
        ("CONNECT 0177.0.0.1:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "ends in a number"),
        ("CONNECT b\u{fc}cher.example:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "characters that have to be encoded"),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nContent-Length: 3\r\n\r\n", 400, "has no body"),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "no body"),
        (&many, 431, "more than 20 headers"),
        (&huge, 431, "more than 4096 bytes"),
    ] {
        let error = read(bytes.as_bytes()).unwrap_err();
        if error.status() != status || !error.to_string().contains(sentence) {
            let _ = writeln!(wrong, "{bytes:?}: {} {error}", error.status());
        }
    }
    assert!(wrong.is_empty(), "answered otherwise:\n{wrong}");
}

fn respond(bytes: &str, asked: Asked) -> Result<(String, Framing, bool), ResponseError> {
    let end = Ending::default().find(bytes.as_bytes(), BYTES_MAX)?.unwrap();
    let response = Response::read(&bytes.as_bytes()[..end], HEADERS_MAX, asked)?;
    Ok((String::from_utf8(response.head).unwrap(), response.framing, response.interim))
}

#[test]
fn a_response_is_written_anew() {
    let asked = Asked { head_only: false, minor_version: 1 };
    let head_only = Asked { head_only: true, minor_version: 1 };
    let old = Asked { head_only: false, minor_version: 0 };
    let end = "Via: 1.1 palisade\r\nConnection: close\r\n\r\n";
    let with = |text: &str| text.to_owned() + end;
    for (bytes, asked, head, framing) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\nKeep-Alive: 1\r\nA: b\r\n\r\nhello",
            asked,
            with("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n"),
            Framing::Length(5),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            asked,
            with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"),
            Framing::Chunked,
        ),
        ("HTTP/1.1 200 \r\n\r\n", asked, with("HTTP/1.1 200 \r\n"), Framing::UntilClose),
        ("HTTP/1.1 204 No Content\r\n\r\n", asked, with("HTTP/1.1 204 No Content\r\n"), Framing::Empty),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            asked,
            with("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n"),
            Framing::Empty,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            head_only,
            with("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n"),
            Framing::Empty,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            old,
            with("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n"),
            Framing::Length(9),
        ),
    ] {
        assert_eq!(respond(bytes, asked), Ok((head, framing, false)), "{bytes:?}");
    }
    let interim = respond("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", asked);
    assert_eq!(interim, Ok(("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n".to_owned(), Framing::Empty, true)));
    for (bytes, asked, error) in [
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", asked, "which it was not asked to"),
        ("HTTP/1.1 099 A\r\n\r\n", asked, "the status is none"),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", asked, "folded"),
        ("HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", asked, "CR LF"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", asked, "twice"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", asked, "both"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", old, "HTTP/1.0 has none"),
        ("220 smtp.example ESMTP\r\n\r\n", asked, "malformed"),
    ] {
        let found = respond(bytes, asked).unwrap_err().to_string();
        assert!(found.contains(error), "{bytes:?}: {found}");
    }
}

proptest! {
    /// Nothing panics; and the head that a server gets is one that we would take ourselves, of the same host, framed alike, in one way.
    #[test]
    fn what_is_passed_on_is_unambiguous(
        method in "[A-Z]{1,8}",
        authority in "[a-zA-Z0-9.\\[\\]:%@-]{1,16}",
        path in "[ -~]{0,12}",
        headers in proptest::collection::vec(
            ("(Host|Content-Length|Transfer-Encoding|Connection|[a-zA-Z ]{1,6})", "[ -~\u{e4}\r\n\0]{0,12}"), 0..5),
    ) {
        let mut text = format!("{method} http://{authority}/{path} HTTP/1.1\r\nHost: {authority}\r\n");
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        if let Ok(Request { host, port, kind: RequestKind::Http(forward) }) = read(text.as_bytes()) {
            let head = String::from_utf8_lossy(&forward.head).into_owned();
            prop_assert_eq!(Ending::default().find(head.as_bytes(), usize::MAX), Ok(Some(head.len())));
            prop_assert_eq!(head.matches("\r\nHost: ").count(), 1);
            let absolute = head.replacen(" /", &format!(" http://{host}:{port}/"), 1);
            let Request { host: again, port: at, kind: RequestKind::Http(second) } = read(absolute.as_bytes()).unwrap()
            else { panic!("{absolute}") };
            prop_assert_eq!((again, at, second.framing), (host, port, forward.framing));
        }
    }

    /// The pieces in which a head arrives change nothing, neither its end nor what is refused, and no byte beyond the bound is looked at.
    #[test]
    fn pieces_change_nothing(text in "(GET / HTTP/1.1\r\n)?[a-c:\r\n\t \0]{0,40}(\r\n\r\n)?.{0,4}", piece in 1..10_usize, bytes_max in 1..60_usize) {
        let bytes = text.as_bytes();
        let whole = Ending::default().find(bytes, bytes_max);
        let mut ending = Ending::default();
        let mut in_pieces = Ok(None);
        let lengths = (1..bytes.len()).filter(|length| length.is_multiple_of(piece)).chain([bytes.len()]);
        for length in lengths {
            in_pieces = ending.find(&bytes[..length], bytes_max);
            if in_pieces != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(in_pieces, whole.clone());
        if let Ok(Some(length)) = whole {
            prop_assert!(length <= bytes_max);
        }
        if bytes_max < bytes.len() {
            prop_assert_ne!(whole, Ok(None));
            let cut = Ending::default().find(&bytes[..bytes_max], bytes_max);
            let expected = if cut == Ok(None) { Err(HeadError::TooLarge { bytes_max }) } else { cut };
            prop_assert_eq!(Ending::default().find(bytes, bytes_max), expected);
        }
    }

    /// A tunnel goes where its target says and nowhere else: the target in two parts, each as it was written, or a refusal.
    #[test]
    fn a_tunnel_goes_where_its_target_says(
        target in "([a-z0-9.-]{1,12}|\\[[0-9a-f:]{2,8}\\]|[ -~]{0,12})(:[0-9]{0,6})?", host in "[a-z0-9.:@-]{0,12}", said in any::<bool>(),
    ) {
        let host = if said { &host } else { &target };
        let text = format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        if let Ok(request) = read(text.as_bytes()) {
            prop_assert_eq!(&request.kind, &RequestKind::Connect);
            let (name, port) = target.rsplit_once(':').expect("a port is not guessed");
            prop_assert_eq!(port.parse(), Ok(request.port));
            prop_assert_eq!(Host::parse(name), Ok(request.host));
        }
    }

    /// What a client gets of a response is one that we would take ourselves, framed alike.
    #[test]
    fn what_a_client_gets_is_unambiguous(
        line in "HTTP/1\\.[01] [0-9]{1,4}[ -~]{0,6}",
        headers in proptest::collection::vec(
            ("(Content-Length|Transfer-Encoding|Connection|[a-zA-Z ]{1,6})", "([0-9]{1,3}|chunked|close|[ -~\u{e4}\r\n\0]{0,8})"), 0..5),
        head_only in any::<bool>(), minor_version in 0..2_u8,
    ) {
        let mut text = format!("{line}\r\n");
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        let asked = Asked { head_only, minor_version };
        let Ok(Some(length)) = Ending::default().find(text.as_bytes(), BYTES_MAX) else { return Ok(()) };
        if let Ok(response) = Response::read(&text.as_bytes()[..length], HEADERS_MAX, asked) {
            prop_assert_eq!(Ending::default().find(&response.head, usize::MAX), Ok(Some(response.head.len())));
            let again = Response::read(&response.head, HEADERS_MAX + 2, asked).expect("what is sent can be read");
            prop_assert_eq!((again.framing, again.interim), (response.framing, response.interim));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = read(&bytes);
        let framed = [b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n", &bytes[..], b"\r\n\r\n"].concat();
        let _ = read(&framed);
    }
}
