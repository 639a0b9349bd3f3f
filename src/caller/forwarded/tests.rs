use proptest::prelude::*;

use super::*;

fn parsed_name(text: &str) -> Result<String, ForwardedError> {
    from_xfcc(&HeaderValue::from_bytes(text.as_bytes()).unwrap())
}

#[test]
fn last_element_names_the_caller() {
    for (text, name) in [
        ("URI=spiffe://td/a", "spiffe://td/a"),
        ("uri=spiffe://td/a", "spiffe://td/a"),
        ("By=spiffe://td/gateway;Hash=ab12;Subject=\"\";URI=spiffe://td/a", "spiffe://td/a"),
        ("By=spiffe://td/gateway;By=spiffe://td/other;URI=spiffe://td/a", "spiffe://td/a"),
        ("URI=spiffe://td/forged,By=spiffe://td/gateway;URI=spiffe://td/a", "spiffe://td/a"),
        ("URI=spiffe://td/forged, URI=spiffe://td/a", "spiffe://td/a"),
        ("Hash=ab;URI=;DNS=Portal.Example", "dns:portal.example"),
        ("Hash=ab;URI=https://x;DNS=\"portal.example\"", "dns:portal.example"),
        (r#"Subject="CN=a,O=b;URI=spiffe://td/forged";URI=spiffe://td/a"#, "spiffe://td/a"),
        (r#"Subject="CN=\",URI=spiffe://td/forged,\"";URI=spiffe://td/a"#, "spiffe://td/a"),
        (r#"Subject="CN=a\\";URI=spiffe://td/a"#, "spiffe://td/a"),
        // As Envoy 1.40 encodes a certificate whose subject tries to inject an element.
        (
            r#"Hash=ab;Subject="O=b\\\\,CN=a\"\,URI=spiffe://td/forged\;x=\"";URI=spiffe://td/a;DNS=a.example;DNS=b.example"#,
            "spiffe://td/a",
        ),
        (
            r#"URI=spiffe://td/forged,Hash=ab;Subject="CN=portal";URI=;DNS=portal.example"#,
            "dns:portal.example",
        ),
        (r#"Subject="CN=a\, b";URI="spiffe://td/a""#, "spiffe://td/a"),
        ("Cert=\"-----BEGIN%20CERTIFICATE-----%0Ax%3D%3D\";Chain=\"x\";URI=spiffe://td/a", "spiffe://td/a"),
        ("New-Key=x;URI=spiffe://td/a", "spiffe://td/a"),
    ] {
        assert_eq!(parsed_name(text).as_deref(), Ok(name), "{text}");
    }
}

#[test]
fn malformed_or_ambiguous_header_is_refused() {
    for text in [
        "",
        ",",
        ";",
        "=",
        "URI",
        "URI=spiffe://td/a;",
        "URI=spiffe://td/a,",
        ",URI=spiffe://td/a",
        "URI=spiffe://td/a;;DNS=a",
        "Subject=\"x;URI=spiffe://td/a",
        "Subject=\"x\"y;URI=spiffe://td/a",
        "Subject=x\"y\";URI=spiffe://td/a",
        "Subject=\"x\\",
        "U RI=spiffe://td/a",
        "\u{e4}=a",
    ] {
        assert_eq!(parsed_name(text), Err(ForwardedError::Malformed), "{text:?}");
    }
    for (text, error) in [
        ("Hash=ab", NameError::Nameless),
        ("URI=spiffe://td/forged,Hash=ab", NameError::Nameless),
        ("URI=spiffe://td/a;URI=spiffe://td/b", NameError::SeveralUris),
        ("URI=spiffe://td/a;uri=spiffe://td/a", NameError::SeveralUris),
        (r#"URI=spiffe://td/forged,Hash=ab;Subject="CN=a\\";URI="#, NameError::Nameless),
        ("DNS=a;DNS=b", NameError::SeveralDnsNames),
        ("URI=spiffe://td", NameError::MalformedSpiffeId),
        ("URI=\"spiffe://td/a\\,b\"", NameError::MalformedSpiffeId),
        ("DNS=*.example", NameError::MalformedDnsName),
    ] {
        assert_eq!(parsed_name(text), Err(ForwardedError::Name(error)), "{text}");
    }
    assert_eq!(
        from_xfcc(&HeaderValue::from_bytes(b"URI=\xff").unwrap()),
        Err(ForwardedError::Malformed),
        "not UTF-8"
    );
}

#[test]
fn linkerd_header_is_a_bare_name() {
    let parsed_name = |text: &str| from_l5d_client_id(&HeaderValue::from_str(text).unwrap());
    let name = "portal.default.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!(parsed_name(name), Ok(format!("dns:{name}")));
    assert_eq!(parsed_name("spiffe://td/a"), Ok("spiffe://td/a".to_owned()));
    assert_eq!(parsed_name("a, b"), Err(ForwardedError::Name(NameError::MalformedDnsName)));
    assert_eq!(parsed_name(""), Err(ForwardedError::Name(NameError::MalformedDnsName)));
    assert_eq!(parsed_name("SPIFFE://td/a"), Err(ForwardedError::Name(NameError::MalformedSpiffeId)));
}

/// Encodes a header as a proxy does, with every value in quotes.
fn written(elements: &[Vec<(String, String)>]) -> String {
    let pair = |(key, value): &(String, String)| {
        format!("{key}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    };
    let element = |pairs: &Vec<(String, String)>| pairs.iter().map(pair).collect::<Vec<_>>().join(";");
    elements.iter().map(element).collect::<Vec<_>>().join(",")
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "[URIDNSBy=;,\"\\\\ \tspiffe:/a\u{e4}]{0,64}") {
        let _ = parse_xfcc(&text);
    }

    #[test]
    fn quoted_values_round_trip(
        elements in prop::collection::vec(prop::collection::vec(("[A-Za-z]{1,8}", "\\PC{0,24}"), 1..4), 1..4),
    ) {
        let text = written(&elements);
        let parsed = parse_xfcc(&text).unwrap();
        let parsed: Vec<Vec<(String, String)>> = parsed
            .into_iter()
            .map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            .collect();
        prop_assert_eq!(parsed, elements);
    }

    #[test]
    fn earlier_elements_and_quoted_values_do_not_change_the_caller(
        before in prop::collection::vec(prop::collection::vec(("[A-Za-z]{1,8}", "\\PC{0,24}"), 1..4), 0..3),
        subject in "\\PC{0,40}",
    ) {
        let mut elements = before;
        elements.push(vec![("Subject".to_owned(), subject)]);
        prop_assert_eq!(parsed_name(&(written(&elements) + ";URI=spiffe://td/a")).unwrap(), "spiffe://td/a");
    }
}

#[test]
fn loopback_matches_only_this_machine() {
    let is_loopback = |address: &str| {
        let peer = Peer::plaintext(std::net::SocketAddr::new(address.parse().unwrap(), 4321));
        ForwardedFrom::Loopback.matches(&peer)
    };
    for address in ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.1"] {
        assert!(is_loopback(address), "{address}");
    }
    for address in [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "203.0.113.7",
        "::",
        "::2",
        "fc00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "2001:db8::1",
    ] {
        assert!(!is_loopback(address), "{address}");
    }
}
