//! Diagnosis of a refused or misdirected connection by `issue` and `healthcheck`.

use std::process::{Command, Stdio};

use crate::support::{
    authority::{Authority, Identity, write},
    gateway::{Gateway, Setup},
    upstream::Upstream,
};

/// Runs a command, and returns its exit code and standard error.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(arguments)
        .env_remove("OTT_GATEWAY_CONFIG")
        .env_remove("OTT_GATEWAY_ENDPOINT")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    (done.status.code(), String::from_utf8(done.stderr).expect("text"))
}

/// A gateway that requires certificates of `authority`, with listeners for probes and metrics.
fn requiring(platform: &Upstream, authority: &Authority) -> Gateway {
    let setup = Setup::for_platform(platform.address()).replacing(
        "[admin]",
        "health_listen = \"127.0.0.1:0\"
        [server.tls]
        certificate_file = \"FOLDER/tls.crt\"
        private_key_file = \"FOLDER/tls.key\"
        client_ca_file = \"FOLDER/ca.crt\"
        [admin]",
    );
    authority.issue(&["localhost"]).write(setup.folder());
    write(setup.folder(), "ca.crt", &authority.certificate());
    setup.start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_certificate_is_reported_by_each_command() {
    let platform = Upstream::http().await;
    let authority = Authority::new("gateway");
    let gateway = requiring(&platform, &authority);
    let port = gateway.address().port();
    let endpoint = format!("https://localhost:{port}");
    let ca = gateway.folder().join("ca.crt");
    let folder = tempfile::tempdir().expect("a folder");
    let call = |command: &[&str], identity: &Identity| {
        identity.write(folder.path());
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let path = |path: &std::path::Path| path.to_str().expect("a path").to_owned();
        let (ca, certificate, key) = (path(&ca), path(&certificate), path(&key));
        let options = [
            "--endpoint",
            &endpoint,
            "--ca-file",
            &ca,
            "--certificate-file",
            &certificate,
            "--private-key-file",
            &key,
        ];
        refused(&[command, &options].concat())
    };
    let expired = authority.issue_valid(&["dns.example"], (1975, 1976));
    let stranger = Authority::new("stranger").issue(&["dns.example"]);
    for (what, identity) in [("expired", &expired), ("of another authority", &stranger)] {
        for command in [&["issue", "--login", "a"][..], &["healthcheck", "--timeout", "10s"]] {
            let (code, error) = call(command, identity);
            assert_eq!(code, Some(1), "{what}: {error}");
            assert!(error.contains("from an authority in the gateway's client_ca_file"), "{what}: {error}");
            // The gateway may close the connection before its alert can be read.
            let is_alert_read = error.contains("the gateway refused the client certificate (");
            let is_lost = error.contains("if the gateway refused the client certificate:");
            assert!(is_alert_read != is_lost, "{what}: {error}");
            assert!(is_lost || !error.contains("outcome"), "nothing was sent: {error}");
        }
    }
    let valid = authority.issue(&["dns.example"]);
    assert_eq!(call(&["healthcheck", "--timeout", "10s"], &valid).0, Some(0));
    let without =
        ["issue", "--login", "a", "--endpoint", &endpoint, "--ca-file", ca.to_str().expect("a path")];
    let (_, error) = refused(&without);
    assert!(error.contains("set --certificate-file and --private-key-file"), "{error}");
    assert!(!error.contains("the gateway has none"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_listeners_of_a_gateway_are_recognized() {
    let platform = Upstream::http().await;
    let gateway = requiring(&platform, &Authority::new("listeners"));
    let issue = |scheme: &str, address: std::net::SocketAddr| {
        refused(&["issue", "--login", "a", "--endpoint", &format!("{scheme}://{address}")]).1
    };
    let error = issue("http", gateway.health_address());
    assert!(error.contains("`health_listen` is for probes only"), "{error}");
    for scheme in ["http", "https"] {
        let error = issue(scheme, gateway.admin());
        assert!(error.contains("speaks HTTP/1"), "{scheme}: {error}");
        assert!(error.contains("use the port of the gateway's gRPC listener"), "{scheme}: {error}");
    }
    // A certificate of a server instead of that of its authority.
    let leaf = gateway.folder().join("tls.crt");
    let other = Authority::new("other");
    let folder = tempfile::tempdir().expect("a folder");
    other.issue(&["localhost"]).write(folder.path());
    let endpoint = format!("https://localhost:{}", gateway.address().port());
    let wrong = folder.path().join("tls.crt");
    for file in [wrong.to_str().expect("a path"), leaf.to_str().expect("a path")] {
        let (code, error) = refused(&["issue", "--login", "a", "--endpoint", &endpoint, "--ca-file", file]);
        assert_eq!(code, Some(1), "{error}");
        assert!(!error.contains("; ca_file"), "the key of a configuration: {error}");
    }
    let file = wrong.to_str().expect("a path");
    let (_, error) = refused(&["issue", "--login", "a", "--endpoint", &endpoint, "--ca-file", file]);
    assert!(error.contains("set --ca-file to the certificate of that authority"), "{error}");
}

#[test]
fn a_health_check_without_a_gateway_names_the_remedy() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("its address");
    drop(holder);
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, format!("[server]\nlisten = \"{address}\"\n")).expect("a file");
    let (code, error) = refused(&["healthcheck", "--config", config.to_str().expect("a path")]);
    assert_eq!(code, Some(1));
    assert_eq!(
        error,
        format!(
            "error: cannot connect to http://{address}: connection refused; start the gateway, or set its \
             configuration file with --config\n"
        )
    );
}

/// The port accepts connections and sends nothing.
#[test]
fn a_health_check_of_a_silent_port_ends_with_its_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("its address");
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("gateway.toml");
    for tls in ["", "[server.tls]\ncertificate_file = \"x\"\nprivate_key_file = \"x\"\n"] {
        std::fs::write(&config, format!("[server]\nlisten = \"{address}\"\n{tls}")).expect("a file");
        let arguments = ["healthcheck", "--timeout", "200ms", "--config", config.to_str().expect("a path")];
        let (code, error) = refused(&arguments);
        assert_eq!(code, Some(1));
        assert!(error.starts_with("error: no response within 200ms: "), "{error}");
        assert!(!error.contains("outcome"), "{error}");
    }
}
