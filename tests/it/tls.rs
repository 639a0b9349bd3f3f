//! TLS on the listener of the real binary: client authentication, and rotation of its files under
//! load.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use ott_gateway::proto::ott::v1::ott_service_client::OttServiceClient;
use rustls::{
    ClientConfig,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    admin::Admin,
    authority::{Authority, Identity, secured, write},
    calling::{issued, load, metric, until},
    gateway::{Gateway, PATIENCE, Setup},
    upstream::{self, Upstream},
};

/// A gateway with its TLS files in the folder `tls`.
fn setup(platform: &Upstream, pair: &Identity, client_auth: &str) -> Setup {
    let setup = Setup::for_platform(platform.address());
    fs::create_dir(setup.folder().join("tls")).unwrap();
    pair.write(&setup.folder().join("tls"));
    with_tls(setup, client_auth)
}

fn with_tls(setup: Setup, client_auth: &str) -> Setup {
    let client_ca = if client_auth == "off" { "" } else { "client_ca_file = \"FOLDER/tls/ca.crt\"" };
    setup
        .replacing(
            "[admin]",
            &format!(
                "[server.tls]
                certificate_file = \"FOLDER/tls/tls.crt\"
                private_key_file = \"FOLDER/tls/tls.key\"
                {client_ca}
                client_auth = \"{client_auth}\"
                [admin]"
            ),
        )
        .replacing(r#"callers = ["anonymous"]"#, r#"callers = ["anonymous", "*"]"#)
}

/// Whether the gateway accepts a client, which means that it responds in HTTP/2.
async fn is_accepted(address: SocketAddr, config: Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = secured(address, config).await else { return false };
    // The preface and empty SETTINGS. An accepted client receives SETTINGS.
    if stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.is_err() {
        return false;
    }
    let mut head = [0; 9];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await;
    read.expect("a response or the end of the connection").is_ok() && head[3] == 4
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_and_1_3_are_supported_and_alpn_h2_is_required() {
    let platform = Upstream::http().await;
    let authority = Authority::new("server");
    let gateway = setup(&platform, &authority.issue(&["localhost"]), "off").start();
    for version in [&TLS12, &TLS13] {
        assert!(
            is_accepted(gateway.address(), authority.client(None, &["h2"], version)).await,
            "{version:?}"
        );
        for protocols in [&["http/1.1"][..], &[]] {
            let client = authority.client(None, protocols, version);
            assert!(!is_accepted(gateway.address(), client).await, "{version:?} {protocols:?}");
        }
    }
    let stranger = Authority::new("stranger");
    let client = stranger.client(None, &["h2"], &TLS13);
    assert!(secured(gateway.address(), client).await.is_err(), "the client does not trust the gateway");
    assert_eq!(platform.count(upstream::OTT), 0);

    let channel = authority.channel(gateway.address(), None).await.unwrap();
    assert_eq!(issued(&channel, &[]).await, "OK");
    let admin = gateway.admin();
    let refused = metric(admin, r#"ott_gateway_tls_handshakes_total{result="no_alpn"}"#).await;
    assert!(refused >= 2.0, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_handshakes_are_counted_and_logged_with_their_reason() {
    let platform = Upstream::http().await;
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let names = &["spiffe://mesh/ns/a/sa/b"];
    let ours = authority.issue(names);
    let setup = setup(&platform, &authority.issue(&["localhost"]), "require");
    write(&setup.folder().join("tls"), "ca.crt", &authority.certificate());
    let gateway = setup.start();
    let (address, admin) = (gateway.address(), Admin(gateway.admin()));
    let failures = |reason: &str| format!("ott_gateway_tls_handshake_failures_total{{reason=\"{reason}\"}}");
    let shown = async |reason: &str, cause: &str| {
        admin.wait_for(&failures(reason), 1.0).await;
        let field = format!("\"tls.failure\":\"{reason}\"");
        let find = |text: &str| text.lines().find(|line| line.contains(&field)).map(str::to_owned);
        let line = gateway.stderr().wait_for(&field, find);
        assert!(
            line.contains("\"level\":\"INFO\"") && line.contains("\"peer.address\":\"127.0.0.1:"),
            "{line}"
        );
        assert!(line.contains(cause), "{reason}: {line}");
    };

    let with_certificates = [
        ("no_certificate", "the client sent no certificate, and client_auth requires one", None),
        ("unknown_ca", "client_ca_file must contain that authority", Some(other.issue(names))),
        (
            "certificate_expired",
            "the client's certificate expired at 2001-01-01T00:00:00Z; renew it",
            Some(authority.issue_valid(names, (2000, 2001))),
        ),
        (
            "certificate_not_yet_valid",
            "the client's certificate is not valid before 3000-01-01T00:00:00Z",
            Some(authority.issue_valid(names, (3000, 3001))),
        ),
    ];
    for (reason, cause, identity) in with_certificates {
        let client = authority.client(identity.as_ref(), &["h2"], &TLS13);
        assert!(!is_accepted(address, client).await, "{reason}");
        shown(reason, cause).await;
    }
    assert!(!is_accepted(address, authority.client(Some(&ours), &["http/1.1"], &TLS13)).await);
    shown("no_alpn", "did not choose HTTP/2").await;
    assert!(!is_accepted(address, other.client(Some(&ours), &["h2"], &TLS13)).await);
    shown("rejected_by_client", "the client does not trust the authority of the gateway's certificate").await;
    drop(TcpStream::connect(address).await.unwrap());
    shown("disconnected", "connection failed").await;

    let plaintext = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    };
    plaintext().await;
    shown("not_tls", "the client does not speak TLS on this port; it must connect with TLS").await;
    for _ in 1..100 {
        plaintext().await;
    }
    admin.wait_for(&failures("not_tls"), 100.0).await;
    let lines = gateway.stderr().text().matches("TLS handshake failed").count();
    assert!(lines < 100, "the lines about one peer are limited: {lines}");

    let channel = authority.channel(address, Some(&ours)).await.unwrap();
    assert_eq!(issued(&channel, &[]).await, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_checked_as_configured() {
    let platform = Upstream::http().await;
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let (ours, theirs) =
        (authority.issue(&["spiffe://mesh/ns/a/sa/b"]), other.issue(&["spiffe://mesh/ns/a/sa/b"]));
    let expectations =
        [("off", [true, true, true]), ("optional", [true, true, false]), ("require", [false, true, false])];
    for (client_auth, accepts) in expectations {
        let setup = setup(&platform, &authority.issue(&["localhost"]), client_auth);
        write(&setup.folder().join("tls"), "ca.crt", &authority.certificate());
        let gateway = setup.start();
        for (identity, accepts) in [None, Some(&ours), Some(&theirs)].into_iter().zip(accepts) {
            for version in [&TLS12, &TLS13] {
                let client = authority.client(identity, &["h2"], version);
                assert_eq!(
                    is_accepted(gateway.address(), client).await,
                    accepts,
                    "{client_auth} {version:?}"
                );
            }
        }
        let channel = authority.channel(gateway.address(), Some(&ours)).await.unwrap();
        assert_eq!(issued(&channel, &[]).await, "OK");
        let caller = &gateway.audit()[0]["caller"];
        let expected = if client_auth == "off" { "anonymous" } else { "spiffe://mesh/ns/a/sa/b" };
        assert_eq!(caller, expected, "{client_auth}");
    }
}

/// Calls on one old connection and on a new connection per call during `change`; every call must
/// succeed. Returns the result of `change`.
async fn under_load<T>(
    gateway: &Gateway,
    trusted: &[&Authority],
    identity: Option<&Identity>,
    change: impl Future<Output = T>,
) -> T {
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let channel = trusted[0].channel(gateway.address(), identity).await.unwrap();
    tasks.spawn(load(OttServiceClient::new(channel), stop.clone()));
    let mut bundle = String::new();
    for authority in trusted {
        bundle.push_str(&authority.certificate());
    }
    let (address, identity, stop_new) = (gateway.address(), identity.cloned(), stop.clone());
    tasks.spawn(async move {
        let mut calls = 0;
        while !stop_new.is_cancelled() {
            let mut tls = tonic::transport::ClientTlsConfig::new()
                .ca_certificate(tonic::transport::Certificate::from_pem(&bundle))
                .domain_name("localhost");
            if let Some(identity) = &identity {
                let shown =
                    tonic::transport::Identity::from_pem(&identity.certificate, &identity.private_key);
                tls = tls.identity(shown);
            }
            let endpoint = format!("https://localhost:{}", address.port());
            let endpoint = tonic::transport::Endpoint::from_shared(endpoint).unwrap();
            let channel = endpoint.tls_config(tls).unwrap().connect().await.expect("a new connection");
            assert_eq!(issued(&channel, &[]).await, "OK", "a new connection during the change");
            calls += 1;
        }
        calls
    });
    let result = change.await;
    stop.cancel();
    while let Some(calls) = tasks.join_next().await {
        let calls = calls.expect("no call is lost");
        assert!(calls > 10, "only {calls} calls");
    }
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_pair_is_used_within_10_seconds_without_losing_a_call_and_an_invalid_one_never() {
    let platform = Upstream::http().await;
    let authority = Authority::new("server");
    let (first, second) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let gateway = setup(&platform, &first, "off").start();
    let (address, admin, folder) = (gateway.address(), gateway.admin(), gateway.folder().join("tls"));
    let refused = r#"ott_gateway_reloads_total{result="failed",what="certificate"}"#;
    let taken = r#"ott_gateway_reloads_total{result="ok",what="certificate"}"#;
    under_load(&gateway, &[&authority], None, async {
        // The new certificate with the old key.
        write(&folder, "tls.crt", &second.certificate);
        until("the wrong pair is refused", async || metric(admin, refused).await >= 1.0).await;
        gateway.stderr().wait_for("the refused pair", |line| {
            line.contains("new TLS files refused, keeping the current ones").then_some(())
        });
        assert_eq!(authority.shown(address, None).await, first.der());
        // A partial file, written in place.
        fs::write(folder.join("tls.key"), &second.private_key[..second.private_key.len() / 2]).unwrap();
        until("a partial key is refused", async || metric(admin, refused).await >= 2.0).await;
        assert_eq!(authority.shown(address, None).await, first.der());
        second.write(&folder);
        let shows = async || authority.shown(address, None).await == second.der();
        until("the new pair is in use", shows).await;
    })
    .await;
    assert!((metric(admin, taken).await - 1.0).abs() < 0.5, "once");
    assert!((metric(admin, refused).await - 2.0).abs() < 0.5, "each reported once");
    let log = gateway.stderr().text();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificate_causes_a_warning_at_start_and_is_refused_at_reload() {
    let platform = Upstream::http().await;
    let authority = Authority::new("server");
    let (expired, good) =
        (authority.issue_valid(&["localhost"], (2000, 2020)), authority.issue(&["localhost"]));
    let gateway = setup(&platform, &expired, "off").start();
    let (address, admin, folder) = (gateway.address(), gateway.admin(), gateway.folder().join("tls"));
    gateway.stderr().wait_for("the warning at start", |line| {
        (line.contains("configuration warning") && line.contains("expired at 2020-01-01T00:00:00Z"))
            .then_some(())
    });
    let ends = r#"ott_gateway_certificate_not_after_timestamp_seconds{certificate="server"}"#;
    // The listener may serve before its certificate is first checked.
    until("its expiry is reported", async || metric(admin, ends).await.to_string() == "1577836800").await;
    assert!(secured(address, authority.client(None, &["h2"], &TLS13)).await.is_err(), "clients refuse it");

    good.write(&folder);
    let shows = async || {
        let client = authority.client(None, &["h2"], &TLS13);
        secured(address, client).await.is_ok()
    };
    until("the new certificate is in use", shows).await;
    assert!(metric(admin, ends).await > 60_000_000_000.0);
    expired.write(&folder);
    let failing = r#"ott_gateway_reload_failing{what="certificate"}"#;
    until("the expired one is refused", async || metric(admin, failing).await >= 1.0).await;
    gateway.stderr().wait_for("why", |line| {
        (line.contains("new TLS files refused")
            && line.contains("certificate 1 of the file expired at 2020-01-01T00:00:00Z"))
        .then_some(())
    });
    assert_eq!(authority.shown(address, None).await, good.der());
    let channel = authority.channel(address, None).await.unwrap();
    assert_eq!(issued(&channel, &[]).await, "OK");
}

/// Writes a version of a secret like Kubernetes, and swaps it in: `NAME` links to `..data/NAME`,
/// and `..data` to the version's folder.
fn mount(folder: &Path, version: &str, files: &[(&str, &str)]) {
    let versioned = folder.join(format!("..{version}"));
    fs::create_dir(&versioned).unwrap();
    for (name, content) in files {
        write(&versioned, name, content);
        if !folder.join(name).exists() {
            let _ = symlink(Path::new("..data").join(name), folder.join(name));
        }
    }
    let _ = fs::remove_file(folder.join("..data_tmp"));
    symlink(format!("..{version}"), folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn symlink_swap_rotates_all_files_without_losing_a_call() {
    let platform = Upstream::http().await;
    let (old_ca, new_ca) = (Authority::new("old"), Authority::new("new"));
    let (old, new) = (old_ca.issue(&["localhost"]), new_ca.issue(&["localhost"]));
    let (old_client, new_client) = (old_ca.issue(&["spiffe://mesh/a"]), new_ca.issue(&["spiffe://mesh/a"]));
    let setup = Setup::for_platform(platform.address());
    let folder = setup.folder().join("tls");
    fs::create_dir(&folder).unwrap();
    let both = old_ca.certificate() + &new_ca.certificate();
    let files = |pair: &Identity, ca: &str| {
        [
            ("tls.crt", pair.certificate.clone()),
            ("tls.key", pair.private_key.clone()),
            ("ca.crt", ca.to_owned()),
        ]
    };
    let swap = |version: &str, pair: &Identity, ca: &str| {
        let files = files(pair, ca);
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, content)| (*name, content.as_str())).collect();
        mount(&folder, version, &files);
    };
    swap("1", &old, &old_ca.certificate());
    let gateway = with_tls(setup, "require").start();
    let address = gateway.address();
    let new_is_accepted = async || {
        is_accepted(address, old_ca.client(Some(&new_client), &["h2"], &TLS13)).await
            || is_accepted(address, new_ca.client(Some(&new_client), &["h2"], &TLS13)).await
    };
    assert!(!new_is_accepted().await);
    under_load(&gateway, &[&old_ca, &new_ca], Some(&old_client), async {
        // To rotate an authority, operators first configure both, with the new pair.
        swap("2", &new, &both);
        until("the new client CA is trusted", new_is_accepted).await;
        assert_eq!(new_ca.shown(address, Some(&old_client)).await, new.der());
    })
    .await;
    under_load(&gateway, &[&new_ca], Some(&new_client), async {
        swap("3", &new, &new_ca.certificate());
        let old_is_refused =
            async || !is_accepted(address, new_ca.client(Some(&old_client), &["h2"], &TLS13)).await;
        until("the old client CA is no longer trusted", old_is_refused).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_certificates_are_accepted() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address());
    let folder = setup.folder().join("tls");
    fs::create_dir(&folder).unwrap();
    let script = r#"
        set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=openssl ca" -keyout ca.key -out ca.crt
        issue() {
            openssl req -newkey "$2" $3 -nodes -subj "/CN=ignored" -keyout "$1.key" -out "$1.csr"
            printf 'subjectAltName=%s\nextendedKeyUsage=%s\n' "$4" "$5" > "$1.ext"
            openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile "$1.ext" -out "$1.crt"
        }
        issue tls rsa:2048 "" DNS:localhost serverAuth
        issue client ec "-pkeyopt ec_paramgen_curve:P-256" "URI:spiffe://mesh/ns/web/sa/portal,DNS:portal.web" clientAuth
    "#;
    let made = Command::new("sh").args(["-c", script]).current_dir(&folder).stderr(Stdio::piped()).output();
    let made = made.expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let gateway = with_tls(setup, "require").start();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(read("ca.crt")))
        .identity(tonic::transport::Identity::from_pem(read("client.crt"), read("client.key")));
    let endpoint = format!("https://localhost:{}", gateway.address().port());
    let endpoint = tonic::transport::Endpoint::from_shared(endpoint).unwrap().tls_config(tls).unwrap();
    assert_eq!(issued(&endpoint.connect().await.unwrap(), &[]).await, "OK");
    let record = &gateway.audit()[0];
    assert_eq!(record["caller"], "spiffe://mesh/ns/web/sa/portal");
    assert_eq!(record["caller_proof"], "certificate");
}

#[tokio::test]
async fn plaintext_for_other_machines_requires_explicit_configuration() {
    let platform = Upstream::http().await;
    let open = || {
        Setup::for_platform(platform.address()).replacing(
            "listen = \"127.0.0.1:0\"\n            drain",
            "listen = \"0.0.0.0:0\"\n            drain",
        )
    };
    let refused = open().refused();
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("server.listen") && text.contains("plaintext = true"), "{text}");
    let gateway = open().replacing("[admin]", "plaintext = true\n[admin]").start();
    assert!(!gateway.address().ip().is_loopback());
}

#[tokio::test]
async fn unusable_tls_files_are_refused_at_start() {
    let platform = Upstream::http().await;
    let authority = Authority::new("server");
    let (one, other) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let mixed = Identity { certificate: one.certificate.clone(), private_key: other.private_key };
    let half = Identity { private_key: one.private_key[..60].to_owned(), ..one };
    for pair in [mixed, half] {
        let refused = setup(&platform, &pair, "off").refused();
        assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused:?}");
        assert!(!String::from_utf8_lossy(&refused.stderr).contains("PRIVATE KEY"));
    }
}
