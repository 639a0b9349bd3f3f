//! Certificates of the mTLS guide and of the tests: strict parsers accept them.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::{CertificateParams, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use x509_parser::{
    extensions::ParsedExtension,
    pem::Pem,
    prelude::{FromDer as _, X509Certificate, X509Extension},
};

use crate::{
    docs::blocks,
    support::{
        authority::Authority,
        calling::issued,
        gateway::Setup,
        upstream::{Tls, Upstream},
    },
};

/// Returns whether Java accepts a certificate. It enforces RFC 5280, 4.2.1.6: the subject is not
/// empty, or the alternative names are critical.
fn is_accepted_by_java(der: &[u8]) -> bool {
    let (_, certificate) = X509Certificate::from_der(der).expect("a certificate");
    let has_subject = certificate.subject().iter().next().is_some();
    let are_names = |extension: &&X509Extension<'_>| {
        matches!(extension.parsed_extension(), ParsedExtension::SubjectAlternativeName(_))
    };
    has_subject || certificate.extensions().iter().find(are_names).is_some_and(|names| names.critical)
}

/// Checks the certificates in a file, and returns their number.
fn check(name: &str, content: &[u8]) -> usize {
    let parts = Pem::iter_from_buffer(content).map_while(Result::ok);
    let certificates = parts.filter(|part| part.label == "CERTIFICATE");
    certificates.map(|part| assert!(is_accepted_by_java(&part.contents), "{name}")).count()
}

#[test]
fn certificate_that_java_rejects_is_recognized() {
    let read = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        is_accepted_by_java(certificate.der())
    };
    assert!(read(|_| {}), "rcgen sets a common name");
    assert!(read(|params| params.distinguished_name = rcgen::DistinguishedName::new()), "critical names");
    assert!(!read(|params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names.clear();
    }));
}

#[test]
fn java_accepts_the_certificates_of_the_tests() {
    let authority = Authority::new("authority");
    assert_eq!(check("authority", authority.certificate().as_bytes()), 1);
    for names in [&["localhost"][..], &["spiffe://mesh/ns/web/sa/portal"], &[]] {
        assert_eq!(check("issued", authority.issue(names).certificate.as_bytes()), 1);
    }
    let upstream = Tls::new("localhost", false, &["h2"]);
    assert_eq!(check("upstream", &fs::read(&upstream.ca_file).expect("a file")), 1);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pki");
    let mut found = 0;
    for file in files(&fixtures) {
        found += check(&file.display().to_string(), &fs::read(&file).expect("a file"));
    }
    assert!(found > 0);
}

#[test]
fn no_script_requests_a_certificate_with_an_empty_subject() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let empty = ["\"/\"", "'/'", "/ "].map(|subject| format!("-subj {subject}"));
    for folder in ["docs", "deploy", "tests/clients", "benches"] {
        for file in files(&root.join(folder)) {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            assert!(!empty.iter().any(|empty| text.contains(empty)), "{}", file.display());
        }
    }
}

/// Returns the files below a folder, except build output and dependencies.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let is_ours =
        |path: &PathBuf| !matches!(path.file_name().and_then(OsStr::to_str), Some("target" | "node_modules"));
    entries.filter(is_ours).flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs the commands of `docs/run-with-mtls.md`, including the rotation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_and_the_gateway_accept_the_certificates_of_the_mtls_guide() {
    let scripts: Vec<String> = blocks("sh").into_iter().map(|block| block.text).collect();
    let creation =
        scripts.iter().find(|text| text.contains("certificate() {")).expect("creates certificates");
    let rotation =
        scripts.iter().find(|text| text.contains("certificate new ")).expect("rotates a certificate");

    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address());
    let folder = setup.folder().join("tls");
    fs::create_dir(&folder).expect("a folder");
    let script = format!("set -e\n{creation}\ncp gateway.pem first.pem\n{rotation}");
    let made = Command::new("bash").args(["-c", &script]).current_dir(&folder).output();
    let made = made.expect("bash and openssl are installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for name in ["ca", "first", "gateway", "billing", "stranger"] {
        let file = folder.join(format!("{name}.pem"));
        assert_eq!(check(name, &fs::read(file).expect("was created")), 1, "{name}");
    }

    let tls = "[server.tls]
        certificate_file = \"FOLDER/tls/gateway.pem\"
        private_key_file = \"FOLDER/tls/gateway.key\"
        client_ca_file = \"FOLDER/tls/ca.pem\"
        [admin]";
    let gateway = setup
        .replacing("[admin]", tls)
        .replacing("\"anonymous\"", "\"spiffe://example.org/ns/billing/sa/*\"")
        .start();
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("was created");
    let call_as = async |name: &str| {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem")))
            .identity(Identity::from_pem(read(&format!("{name}.pem")), read(&format!("{name}.key"))));
        let endpoint = format!("https://localhost:{}", gateway.address().port());
        let endpoint = Endpoint::from_shared(endpoint).expect("a URL").tls_config(tls).expect("valid files");
        issued(&endpoint.connect().await.expect("a handshake"), &[]).await
    };
    assert_eq!(call_as("billing").await, "OK");
    assert_eq!(gateway.audit()[0]["caller"], "spiffe://example.org/ns/billing/sa/api");
    assert_eq!(call_as("stranger").await, "PermissionDenied CALLER_NOT_ALLOWED");
}
