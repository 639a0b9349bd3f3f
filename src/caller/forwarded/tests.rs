use proptest::prelude::*;

use super::*;

fn told(text: &str) -> Result<String, ForwardedFault> {
    from_xfcc(&HeaderValue::from_bytes(text.as_bytes()).unwrap())
}

#[test]
fn the_last_element_names_the_caller() {
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
        // As Envoy 1.40 writes the subject of a certificate that tries to break out.
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
        assert_eq!(told(text).as_deref(), Ok(name), "{text}");
    }
}

#[test]
fn what_is_malformed_or_names_several_names_nobody() {
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
        assert_eq!(told(text), Err(ForwardedFault::Malformed), "{text:?}");
    }
    for (text, fault) in [
        ("Hash=ab", NameFault::Nameless),
        ("URI=spiffe://td/forged,Hash=ab", NameFault::Nameless),
        ("URI=spiffe://td/a;URI=spiffe://td/b", NameFault::SeveralUris),
        ("URI=spiffe://td/a;uri=spiffe://td/a", NameFault::SeveralUris),
        (r#"URI=spiffe://td/forged,Hash=ab;Subject="CN=a\\";URI="#, NameFault::Nameless),
        ("DNS=a;DNS=b", NameFault::SeveralDnsNames),
        ("URI=spiffe://td", NameFault::MalformedSpiffeId),
        ("URI=\"spiffe://td/a\\,b\"", NameFault::MalformedSpiffeId),
        ("DNS=*.example", NameFault::MalformedDnsName),
    ] {
        assert_eq!(told(text), Err(ForwardedFault::Name(fault)), "{text}");
    }
    assert_eq!(
        from_xfcc(&HeaderValue::from_bytes(b"URI=\xff").unwrap()),
        Err(ForwardedFault::Malformed),
        "not UTF-8"
    );
}

#[test]
fn linkerds_header_is_a_name_alone() {
    let told = |text: &str| from_l5d_client_id(&HeaderValue::from_str(text).unwrap());
    let name = "portal.default.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!(told(name), Ok(format!("dns:{name}")));
    assert_eq!(told("spiffe://td/a"), Ok("spiffe://td/a".to_owned()));
    assert_eq!(told("a, b"), Err(ForwardedFault::Name(NameFault::MalformedDnsName)));
    assert_eq!(told(""), Err(ForwardedFault::Name(NameFault::MalformedDnsName)));
    assert_eq!(told("SPIFFE://td/a"), Err(ForwardedFault::Name(NameFault::MalformedSpiffeId)));
}

/// Writes a header as a proxy does, every value in quotes.
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
    fn whatever_is_in_quotes_comes_out_as_it_went_in(
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
    fn nothing_before_the_last_element_or_in_quotes_changes_who_it_is(
        before in prop::collection::vec(prop::collection::vec(("[A-Za-z]{1,8}", "\\PC{0,24}"), 1..4), 0..3),
        subject in "\\PC{0,40}",
    ) {
        let mut elements = before;
        elements.push(vec![("Subject".to_owned(), subject)]);
        prop_assert_eq!(told(&(written(&elements) + ";URI=spiffe://td/a")).unwrap(), "spiffe://td/a");
    }
}

#[test]
fn loopback_means_this_machine_and_no_other() {
    let is_loopback = |address: &str| {
        let peer = Peer::plaintext(std::net::SocketAddr::new(address.parse().unwrap(), 4321));
        ForwardedFrom::Loopback.is(&peer)
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
