//! Files with certificates, keys and authorities: `check-config`, start and reload of the real
//! binary accept and refuse the same ones, and changed authorities are reloaded.

use std::{collections::BTreeMap, process::Output, sync::Mutex};

use crate::support::{
    admin::Admin,
    authority::{Authority, Identity, write},
    calling::{issue, metric, until},
    gateway::{Gateway, Setup},
    upstream::{Tls, Upstream},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ott_gateway::proto::ott::v1::{IssueOttRequest, ott_service_client::OttServiceClient};
use serde_json::Value;
use tonic::Request;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/pki/", $name)).to_vec()
    };
}

/// The files of the gateway with their configuration keys.
const FILES: &[(&str, &str)] = &[
    ("server.tls.certificate_file", "tls.crt"),
    ("server.tls.private_key_file", "tls.key"),
    ("server.tls.client_ca_file", "ca.crt"),
    ("api_clients.test.ca_file", "platform.crt"),
    ("callers.jwt.jwks_ca_file", "jwks.crt"),
];

/// A gateway that uses all of these files.
fn setup(authority: &Authority, identity: &Identity) -> Setup {
    let setup = Setup::for_platform("127.0.0.1:1".parse().unwrap()).replacing(
        "[admin]",
        "[server.tls]
        certificate_file = \"FOLDER/tls.crt\"
        private_key_file = \"FOLDER/tls.key\"
        client_ca_file = \"FOLDER/ca.crt\"
        [callers.jwt]
        issuer = \"https://issuer.example\"
        audience = \"gateway\"
        jwks_url = \"https://127.0.0.1:1/jwks\"
        jwks_ca_file = \"FOLDER/jwks.crt\"
        [admin]",
    );
    let setup = setup.replacing(
        "client_id = \"test-client\"",
        "client_id = \"test-client\"\nca_file = \"FOLDER/platform.crt\"",
    );
    identity.write(setup.folder());
    for name in ["ca.crt", "platform.crt", "jwks.crt"] {
        write(setup.folder(), name, &authority.certificate());
    }
    setup.write_config();
    setup
}

/// Ways to corrupt any PEM file.
fn corrupted(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let end = text.find("-----END").unwrap();
    let label = text.lines().next().unwrap().trim_matches('-').trim_start_matches("BEGIN ").to_owned();
    let broken = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    vec![
        ("empty", Vec::new()),
        ("UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("indented", bytes(&format!("  {}", text.replace('\n', "\n  ")))),
        ("escaped line breaks", bytes(&text.replace('\n', "\\n"))),
        ("cut", bytes(&text[..end - 10])),
        ("missing END", bytes(&format!("{}{text}", &text[..end]))),
        ("missing BEGIN", bytes(text.split_once('\n').unwrap().1)),
        ("dashes", bytes(&text.replace("-----", "\u{2014}\u{2014}"))),
        ("base64 of it", bytes(&STANDARD.encode(text))),
        ("JSON", bytes("{\"certificate\": \"\"}")),
        ("text", bytes("not a file of this kind\n")),
        ("PKCS #12", fixture!("archive.p12")),
        ("PKCS #7", fixture!("bundle.p7b.pem")),
        ("a request", fixture!("request.pem")),
        ("a public key", fixture!("public_key.pem")),
        ("a revocation list", fixture!("revocation_list.pem")),
        ("only OpenSSL's TRUSTED CERTIFICATE", fixture!("trusted.pem")),
        ("a block that does not match its label", bytes(&broken)),
        ("unknown label", bytes(&text.replace("BEGIN ", "BEGIN OUR ").replace("END ", "END OUR "))),
    ]
}

/// A fault and the affected files: index in [`FILES`] and contents.
type Case = (String, Vec<(usize, Vec<u8>)>);

/// Every case.
fn cases(authority: &Authority, identity: &Identity) -> Vec<Case> {
    let other = authority.issue(&["localhost"]);
    let mut cases = Vec::new();
    // Certificate and key are checked as a pair, so they are corrupted in different gateways.
    for (fault, file) in corrupted(&identity.certificate) {
        cases.push((fault.to_owned(), vec![(0, file)]));
    }
    for (fault, file) in corrupted(&identity.private_key) {
        cases.push((format!("{fault} (key)"), vec![(1, file)]));
    }
    for (fault, file) in corrupted(&authority.certificate()) {
        cases.push((format!("{fault} (authorities)"), (2..5).map(|place| (place, file.clone())).collect()));
    }
    let certificates = identity.certificate.clone() + &authority.certificate();
    let reversed = authority.certificate() + &identity.certificate;
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mut case =
        |fault: &str, place: usize, file: Vec<u8>| cases.push((fault.to_owned(), vec![(place, file)]));
    case("a key in the certificate's file", 0, identity.private_key.clone().into());
    case("an invalid certificate after the leaf", 0, (certificates.clone() + broken).into());
    case("version 1", 0, fixture!("version1.pem"));
    case("a certificate in the key's file", 1, identity.certificate.clone().into());
    case("another key", 1, other.private_key.clone().into());
    case("two keys", 1, (other.private_key + &identity.private_key).into());
    case("wrong order", 0, reversed.into());
    case("encrypted", 1, fixture!("encrypted_key.pem"));
    case("encrypted SEC 1", 1, fixture!("encrypted_sec1_key.pem"));
    case("OpenSSH", 1, fixture!("openssh_key.pem"));
    case("DER", 1, fixture!("key.der"));
    case("DSA", 1, fixture!("dsa_key.pem"));
    case("Ed448", 1, fixture!("ed448_key.pem"));
    case("secp256k1", 1, fixture!("secp256k1_key.pem"));
    case("short RSA key", 1, fixture!("short_rsa_key.pem"));
    let bundle: Vec<u8> = (certificates + broken).into();
    cases.push((
        "an invalid block in a bundle".to_owned(),
        (2..5).map(|place| (place, bundle.clone())).collect(),
    ));
    cases
}

/// Texts about files in the output of a failed command, by key.
fn sentences(output: &Output) -> BTreeMap<String, String> {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let finding = |line: &str| {
        let (_, rest) = line.split_once("config.toml:")?;
        let (_, finding) = rest.split_once(": ")?;
        let (key, sentence) = finding.split_once(": ")?;
        Some((key.to_owned(), sentence.to_owned()))
    };
    text.lines().filter(|line| !line.contains("warning")).filter_map(finding).collect()
}

/// Waits for a log line with a field that contains this text.
fn logged(gateway: &Gateway, sentence: &str) {
    gateway.stderr().wait_for(sentence, |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let fields = line.get("fields").unwrap_or(&line).as_object()?;
        fields.values().any(|value| value.as_str().is_some_and(|text| text.contains(sentence))).then_some(())
    });
}

/// Runs one case through all three. Returns the number of files, on which they agree.
fn agree(authority: &Authority, identity: &Identity, fault: &str, files: &[(usize, Vec<u8>)]) -> usize {
    let setup = setup(authority, identity);
    let put = |folder: &std::path::Path, name: &str, contents: &[u8]| {
        std::fs::write(folder.join(".new"), contents).unwrap();
        std::fs::rename(folder.join(".new"), folder.join(name)).unwrap();
    };
    for (place, contents) in files {
        put(setup.folder(), FILES[*place].1, contents);
    }
    let checked = sentences(&setup.run(&["check-config"]));
    let started = sentences(&setup.run(&["serve"]));
    assert_eq!(checked, started, "{fault}");
    // Problems of a pair are reported for the key, regardless of the invalid file.
    let keys: Vec<&str> = checked.keys().map(String::as_str).collect();
    assert_eq!(keys.len(), files.len(), "{fault}: {checked:?}");

    identity.write(setup.folder());
    for name in ["ca.crt", "platform.crt", "jwks.crt"] {
        write(setup.folder(), name, &authority.certificate());
    }
    let gateway = setup.start();
    for (place, contents) in files {
        put(gateway.folder(), FILES[*place].1, contents);
    }
    for sentence in checked.values() {
        logged(&gateway, sentence);
    }
    assert!(
        Admin(gateway.admin())
            .scrape()
            .find("ott_gateway_reload_failing")
            .is_some_and(|failing| failing >= 1.0)
    );
    files.len()
}

#[test]
fn check_config_start_and_reload_agree_on_every_file() {
    let authority = Authority::new("ours");
    let identity = authority.issue(&["localhost"]);
    let cases = Mutex::new(cases(&authority, &identity).into_iter());
    // In parallel, because most of the time is spent waiting for two polls.
    let agreed: usize = std::thread::scope(|scope| {
        let work = || {
            let mut agreed = 0;
            loop {
                let next = cases.lock().unwrap().next();
                let Some((fault, files)) = next else { return agreed };
                agreed += agree(&authority, &identity, &fault, &files);
            }
        };
        let workers: Vec<_> = (0..12).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(agreed, 5 * 19 + 15 + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_that_clients_refuse_causes_a_warning_at_check_start_and_reload() {
    let authority = Authority::new("ours");
    let (usual, nameless) = (authority.issue(&["localhost"]), authority.issue(&[]));
    let expected = "certificate 1 of the file has no subjectAltName";
    let first = setup(&authority, &nameless);
    let checked = first.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let text = String::from_utf8(checked.stderr).unwrap();
    assert!(text.contains(expected), "{text}");
    logged(&first.start(), expected);

    let gateway = setup(&authority, &usual).start();
    assert!(!gateway.stderr().text().contains(expected));
    nameless.write(gateway.folder());
    logged(&gateway, expected);
}

/// The same text, as a warning or a refusal.
#[test]
fn expired_certificate_is_a_warning_or_a_refusal_with_the_same_text() {
    let authority = Authority::new("ours");
    let (valid, expired) =
        (authority.issue(&["localhost"]), authority.issue_valid(&["localhost"], (2000, 2020)));
    let words = "certificate 1 of the file expired at 2020-01-01T00:00:00Z: peers refuse it; renew it";
    let failing = |gateway: &Gateway| {
        Admin(gateway.admin()).scrape().find("ott_gateway_reload_failing{what=\"certificate\"}")
    };
    let first = setup(&authority, &expired);
    let checked = first.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let text = String::from_utf8(checked.stderr).unwrap();
    assert!(text.contains("warning: ") && text.contains(words), "{text}");
    let gateway = first.start();
    logged(&gateway, words);
    // No valid certificate is in use, so the new one is loaded.
    authority.issue_valid(&["localhost"], (2000, 2019)).write(gateway.folder());
    logged(&gateway, "TLS certificate reloaded for new connections");
    assert_eq!(failing(&gateway), Some(0.0));

    let gateway = setup(&authority, &valid).start();
    expired.write(gateway.folder());
    logged(&gateway, words);
    assert_eq!(failing(&gateway), Some(1.0));
}

/// A request for a token from `api_client`.
fn by(api_client: &str) -> Request<IssueOttRequest> {
    let mut request = issue("someone@example.com");
    api_client.clone_into(&mut request.get_mut().api_client);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_authorities_of_platforms_are_reloaded() {
    let protocols = &["http/1.1"];
    let (old_tls, new_tls) =
        (Tls::new("localhost", false, protocols), Tls::new("localhost", false, protocols));
    let [old_ca, new_ca] = [&old_tls, &new_tls].map(|tls| std::fs::read_to_string(&tls.ca_file).unwrap());
    let (old, new) = (Upstream::https(old_tls).await, Upstream::https(new_tls).await);
    let mut setup = Setup::for_platforms(&[("old", old.address()), ("new", new.address())]);
    for upstream in [&old, &new] {
        setup = setup.replacing(
            &format!("data_center_url = \"http://{}\"", upstream.address()),
            &format!("data_center_url = \"{}\"\nca_file = \"FOLDER/ca.crt\"", upstream.url()),
        );
    }
    write(setup.folder(), "ca.crt", &old_ca);
    let gateway = setup.start();
    let client = OttServiceClient::new(gateway.channel().await);
    let answers = async |api_client: &str| client.clone().issue_ott(by(api_client)).await.is_ok();
    let failing = "ott_gateway_reload_failing{what=\"authorities\"}";
    until("the old one is trusted", async || answers("old").await).await;
    assert!(!answers("new").await);

    write(gateway.folder(), "ca.crt", &(old_ca.clone() + &new_ca));
    until("the new one is trusted too", async || answers("new").await).await;
    assert!(answers("old").await);
    write(gateway.folder(), "ca.crt", &new_ca);
    until("the old one is withdrawn", async || !answers("old").await).await;
    assert!(answers("new").await);

    write(gateway.folder(), "ca.crt", "not a certificate");
    until("the file is refused", async || metric(gateway.admin(), failing).await > 0.5).await;
    logged(&gateway, "text without a BEGIN line");
    assert!(answers("new").await, "the last valid set stays in use");
    write(gateway.folder(), "ca.crt", &old_ca);
    until("the old one is trusted again", async || answers("old").await).await;
    assert!(metric(gateway.admin(), failing).await < 0.5);
}

#[test]
fn image_without_authorities_serves_only_a_platform_on_loopback() {
    let without = |setup: Setup| {
        let empty = setup.file("empty.pem", "").display().to_string();
        setup.environment("SSL_CERT_FILE", &empty).environment("SSL_CERT_DIR", "")
    };
    let plain = without(Setup::for_platform("127.0.0.1:1".parse().unwrap()));
    plain.write_config();
    assert_eq!(plain.run(&["check-config"]).status.code(), Some(0));
    drop(plain.start());

    let https = without(Setup::for_platform("127.0.0.1:1".parse().unwrap()))
        .replacing("http://127.0.0.1:1", "https://127.0.0.1:1");
    https.write_config();
    let error = |output: Output| {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().find(|line| line.starts_with("error: ")).expect("an error").to_owned()
    };
    let checked = error(https.run(&["check-config"]));
    assert!(checked.contains("the system has no trusted certificates; install them"), "{checked}");
    assert_eq!(error(https.run(&["serve"])), checked);
}
