use proptest::prelude::*;

use super::*;

fn policy(allow: &[&str], deny: &[&str], addresses: &[(&str, &str)]) -> Policy {
    Policy::new(allow.iter().copied(), deny.iter().copied(), addresses.iter().copied()).unwrap()
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn entries_have_one_form() {
    for (text, form) in [
        ("example.com", "example.com"),
        ("Example.COM.", "example.com"),
        ("example.com:443", "example.com:443"),
        ("example.com.:443", "example.com:443"),
        ("*.Example.com:8443", "*.example.com:8443"),
        ("*.example.com.", "*.example.com"),
        ("db.example.com:5432/tcp", "db.example.com:5432/tcp"),
        ("*.example.com:5432/tcp", "*.example.com:5432/tcp"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:8080", "192.0.2.7:8080"),
        ("[2001:DB8::7]:443", "[2001:db8::7]:443"),
        ("[::ffff:192.0.2.7]:443", "192.0.2.7:443"),
    ] {
        assert_eq!(Scope::parse(text).map(|scope| scope.to_string()).as_deref(), Ok(form), "{text}");
    }
    for (text, form) in [
        ("example.com", "example.com"),
        ("*.example.com:80", "*.example.com:80"),
        ("198.51.100.0/24", "198.51.100.0/24"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::7]", "[2001:db8::7]"),
    ] {
        assert_eq!(Denial::parse(text).map(|denial| denial.to_string()).as_deref(), Ok(form), "{text}");
    }
}

#[test]
fn what_is_no_grant_is_said() {
    for (text, message) in [
        ("", "the host is empty"),
        ("*", "`*` alone would grant every host; name them, or what they lie beneath, as in *.example.com"),
        ("*:443", "`*` alone would grant every host; name them, or what they lie beneath, as in *.example.com"),
        ("*.", "`*` alone would grant every host; name them, or what they lie beneath, as in *.example.com"),
        ("*example.com", "a `*` stands alone as the first part, as in *.example.com"),
        ("*.*.example.com", "a `*` stands alone as the first part, as in *.example.com"),
        ("a.*.example.com", "a `*` stands alone as the first part, as in *.example.com"),
        ("*.192.0.2.7", "there is nothing beneath an address; `*` goes with names"),
        ("https://example.com", "an URL is not a host; write HOST or HOST:PORT"),
        ("example.com/tcp", "`/tcp` needs a port, as in example.com:5432/tcp"),
        ("example.com:53/udp", "only `/tcp` may follow the port"),
        ("example.com/path", "only `/tcp` may follow the port"),
        ("10.0.0.0/8", "a network cannot be granted, only hosts; it may be listed for one of them in allow_addresses"),
        ("example.com:", "the port is missing after `:`"),
        ("example.com:0", "the port is not between 1 and 65535"),
        ("example.com:65536", "the port is not between 1 and 65535"),
        ("example.com:https", "the port is not a decimal number without sign and leading zeros"),
        ("2130706433", "the host ends in a number, but is no address of four decimal numbers without leading zeros"),
        ("0x7f.1", "the host ends in a number, but is no address of four decimal numbers without leading zeros"),
        (
            "bücher.example",
            "the host contains 'ü', which is not ASCII; write an international name in its ASCII form, that is with xn--",
        ),
        ("[fe80::1%eth0]:80", "the host contains `%`; neither zones nor encoded characters are accepted"),
        ("::1", "an address of version 6 stands in brackets"),
        ("exa mple.com", "the host contains ' '; allowed are letters, digits, `-`, `_` and `.`"),
        ("example..com", "the host has nothing before, after or between its dots"),
    ] {
        assert_eq!(Scope::parse(text).unwrap_err().to_string(), message, "{text:?}");
    }
    for (text, message) in [
        ("example.com:443/tcp", "a denial denies every kind of connection and has no `/tcp`"),
        ("10.0.0.1/8", "the network has bits set behind its prefix; 10.0.0.0/8 is what it contains"),
        ("10.0.0.0/33", "a network is ADDRESS/BITS, as in 198.51.100.0/24"),
        ("example.com/24", "a network is ADDRESS/BITS, as in 198.51.100.0/24"),
        ("10.0.0.0/8:80", "a network has no port here; all its ports are denied"),
        ("*", "`*` alone would grant every host; name them, or what they lie beneath, as in *.example.com"),
    ] {
        assert_eq!(Denial::parse(text).unwrap_err().to_string(), message, "{text:?}");
    }
    let long = format!("{}:443", "a.".repeat(150));
    assert_eq!(Scope::parse(&long), Err(ScopeError::TooLong { bytes: 304 }));
}

#[test]
fn a_policy_names_the_entry_that_is_wrong() {
    let error = Policy::new(["example.com"], ["a b"], []).unwrap_err().to_string();
    assert_eq!(error, "in deny, `a b`: the host contains ' '; allowed are letters, digits, `-`, `_` and `.`");
    let error = Policy::new([], [], [("db.example", "10.0.0.1/8")]).unwrap_err().to_string();
    let expected = "in allow_addresses, `db.example = 10.0.0.1/8`: \
        the network has bits set behind its prefix; 10.0.0.0/8 is what it contains";
    assert_eq!(error, expected);
    let error = Policy::new(vec!["a.example"; ENTRIES_MAX + 1], [], []).unwrap_err();
    assert_eq!(error, PolicyError::TooMany { list: "network_access", entries: ENTRIES_MAX + 1 });
}

#[test]
fn nothing_is_granted_unless_it_is() {
    assert!(Policy::default().grants_nothing());
    let denied = Policy::default().host(&host("example.com"), 443).unwrap_err();
    assert_eq!(denied.to_string(), "example.com:443 is not among the hosts that network_access grants");

    let policy = policy(&["example.com", "*.cdn.example:8443", "db.example:5432/tcp", "192.0.2.7:443"], &[], &[]);
    for (name, port, expected) in [
        ("example.com", 443, Some(Tunnel::Tls)),
        ("example.com", 80, Some(Tunnel::Tls)),
        ("EXAMPLE.com", 80, Some(Tunnel::Tls)),
        ("example.com", 8443, None),
        ("www.example.com", 443, None),
        ("example.com.evil.example", 443, None),
        ("a.cdn.example", 8443, Some(Tunnel::Tls)),
        ("a.b.cdn.example", 8443, Some(Tunnel::Tls)),
        ("cdn.example", 8443, None),
        ("evilcdn.example", 8443, None),
        ("a.cdn.example", 443, None),
        ("db.example", 5432, Some(Tunnel::Tcp)),
        ("db.example", 443, None),
        ("192.0.2.7", 443, Some(Tunnel::Tls)),
        ("[::ffff:192.0.2.7]", 443, Some(Tunnel::Tls)),
        ("192.0.2.8", 443, None),
        ("[2001:db8::1]", 443, None),
    ] {
        assert_eq!(policy.host(&host(name), port).ok(), expected, "{name}:{port}");
    }
}

#[test]
fn a_denial_goes_before_every_grant() {
    let policy = policy(
        &["*.example.com", "example.com", "192.0.2.7"],
        &["secret.example.com", "*.inner.example.com", "mail.example.com:80", "192.0.2.7"],
        &[],
    );
    let denied = policy.host(&host("Secret.Example.com"), 443).unwrap_err();
    assert_eq!(denied.to_string(), "secret.example.com:443 is denied by the entry secret.example.com");
    for (name, port, allowed) in [
        ("a.inner.example.com", 443, false),
        ("inner.example.com", 443, true),
        ("mail.example.com", 80, false),
        ("mail.example.com", 443, true),
        ("192.0.2.7", 443, false),
        ("[::ffff:192.0.2.7]", 443, false),
        ("other.example.com", 443, true),
    ] {
        assert_eq!(policy.host(&host(name), port).is_ok(), allowed, "{name}:{port}");
    }
}

#[test]
fn of_two_grants_the_wider_counts() {
    for allow in [["a.example:443", "*.example:443/tcp"], ["*.example:443/tcp", "a.example:443"]] {
        assert_eq!(policy(&allow, &[], &[]).host(&host("a.example"), 443), Ok(Tunnel::Tcp));
    }
}

#[test]
fn an_address_that_is_not_public_is_refused_unless_it_is_listed_for_the_host() {
    let policy = policy(
        &["*.example"],
        &["8.8.4.4", "9.9.9.0/24"],
        &[
            ("db.example", "10.1.2.3"),
            ("*.lan.example", "192.168.0.0/16"),
            ("cloud.example", "169.254.0.0/16"),
            ("meta.example", "169.254.169.254"),
        ],
    );
    for (name, address, allowed) in [
        ("a.example", "8.8.8.8", true),
        ("a.example", "2606:4700:4700::1111", true),
        ("a.example", "127.0.0.1", false),
        ("a.example", "::ffff:127.0.0.1", false),
        ("a.example", "10.1.2.3", false),
        ("a.example", "::1", false),
        ("a.example", "8.8.4.4", false),
        ("a.example", "::ffff:8.8.4.4", false),
        ("a.example", "64:ff9b::808:404", false),
        ("a.example", "64:ff9b::808:808", true),
        ("a.example", "2002:808:404::1", false),
        ("a.example", "9.9.9.9", false),
        ("db.example", "10.1.2.3", true),
        ("db.example", "::ffff:10.1.2.3", true),
        ("db.example", "10.1.2.4", false),
        ("x.lan.example", "192.168.7.7", true),
        ("lan.example", "192.168.7.7", false),
        ("cloud.example", "169.254.1.1", true),
        ("cloud.example", "169.254.169.254", false),
        ("meta.example", "169.254.169.254", true),
        ("meta.example", "169.254.169.253", false),
    ] {
        assert_eq!(policy.address(&host(name), 443, ip(address)).is_ok(), allowed, "{name} at {address}");
    }
    let denied = policy.address(&host("a.example"), 443, ip("169.254.169.254")).unwrap_err();
    let sentence = "a.example is at 169.254.169.254, a cloud metadata address, \
        which the operator has not listed in allow_addresses for it";
    assert_eq!(denied.to_string(), sentence);
    let denied = policy.address(&host("a.example"), 443, ip("9.9.9.9")).unwrap_err();
    assert_eq!(denied.to_string(), "a.example is at 9.9.9.9, which is denied by the entry 9.9.9.0/24");
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-c]{1,2}", 1..4).prop_map(|labels| labels.join("."))
}

fn entry() -> impl Strategy<Value = String> {
    (any::<bool>(), name(), proptest::option::of(80..83_u16)).prop_map(|(beneath, name, port)| {
        format!("{}{name}{}", if beneath { "*." } else { "" }, port.map_or(String::new(), |port| format!(":{port}")))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Nothing panics, and an entry that is accepted is read again from its own form as the same.
    #[test]
    fn entries_survive_their_form(text in "(\\*\\.)?[\\[\\]a-zA-Z0-9.:%*é/]{0,20}(:[0-9]{0,6})?(/tcp)?") {
        if let Ok(scope) = Scope::parse(&text) {
            prop_assert_eq!(Scope::parse(&scope.to_string()), Ok(scope));
        }
        if let Ok(denial) = Denial::parse(&text) {
            prop_assert_eq!(Denial::parse(&denial.to_string()), Ok(denial));
        }
        let _ = parse_network(&text);
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = (Scope::parse(&text), Denial::parse(&text), parse_network(&text));
    }

    /// More denials never allow more, more grants never allow less, and what both have is denied.
    #[test]
    fn denials_only_take_away(
        allow in proptest::collection::vec(entry(), 0..4),
        deny in proptest::collection::vec(entry(), 0..3),
        more in entry(),
        name in name(),
        port in 79..84_u16,
    ) {
        let host = host(&name);
        let decide = |allow: &[String], deny: &[String]| {
            let (allow, deny) = (allow.iter().map(String::as_str), deny.iter().map(String::as_str));
            Policy::new(allow, deny, []).unwrap().host(&host, port)
        };
        let before = decide(&allow, &deny);
        let granted = decide(&[&allow[..], std::slice::from_ref(&more)].concat(), &deny);
        let denied = decide(&allow, &[&deny[..], std::slice::from_ref(&more)].concat());
        prop_assert!(before.is_err() || granted.is_ok());
        prop_assert!(before.is_ok() || denied.is_err());
        if decide(std::slice::from_ref(&more), &[]).is_ok() {
            prop_assert!(denied.is_err());
        }
    }

    /// A grant for one name says nothing about an address, whatever the case of its letters.
    #[test]
    fn case_changes_nothing(name in name(), port in 79..84_u16, allow in entry()) {
        let lower = policy(&[&allow], &[], &[]).host(&host(&name), port);
        let upper = policy(&[&allow.to_uppercase()], &[], &[]).host(&host(&name.to_uppercase()), port);
        prop_assert_eq!(lower, upper);
    }
}

#[test]
fn what_is_asked_for_narrows_what_is_granted() {
    let both = |granted: &str, asked: &str| {
        let scope = Scope::parse(granted).unwrap().narrowed_to(&Scope::parse(asked).unwrap());
        scope.map(|scope| scope.to_string())
    };
    for (granted, asked, expected) in [
        ("a.example", "a.example", Some("a.example")),
        ("a.example", "b.example", None),
        ("*.example", "a.example", Some("a.example")),
        ("a.example", "*.example", Some("a.example")),
        ("*.example", "*.a.example", Some("*.a.example")),
        ("*.a.example", "*.b.example", None),
        // A wildcard does not mean the name itself.
        ("example", "*.example", None),
        ("a.example:443", "a.example", Some("a.example:443")),
        ("a.example", "a.example:80", Some("a.example:80")),
        ("a.example", "a.example:8443", None),
        ("a.example:8443", "a.example", None),
        ("a.example:1", "a.example:2", None),
        ("a.example:5432/tcp", "a.example:5432", Some("a.example:5432")),
        ("a.example:5432", "a.example:5432/tcp", Some("a.example:5432")),
        ("a.example:5432/tcp", "a.example:5432/tcp", Some("a.example:5432/tcp")),
        ("192.0.2.7", "*.example", None),
    ] {
        assert_eq!(both(granted, asked).as_deref(), expected, "{granted} asked for as {asked}");
    }
}
