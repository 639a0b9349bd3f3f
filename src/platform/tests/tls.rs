//! Trust in the platform's certificate.

use std::{path::Path, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::fixture::*;
use crate::{credential::Credential, http_client::TlsConfigError};

const BOTH: &[&str] = &["h2", "http/1.1"];
const HTTP1: &[&str] = &["http/1.1"];

#[tokio::test]
async fn certificate_of_the_configured_authority_is_trusted() {
    let upstream = Upstream::https(Tls::new("localhost", false, HTTP1)).await;
    let client = client(&upstream, quick());
    issues(&client).await;
    issues(&client).await;
    assert_eq!(upstream.connections(), 1);
    logs_in(&client, &upstream).await;
    assert_eq!(upstream.connections(), 2, "logins have separate connections");
}

/// Asserts that an invalid certificate costs one connection per operation, and that nothing is
/// sent.
async fn refuses(tls: Tls, ca_file: Option<&Path>) {
    let upstream = Upstream::https(tls).await;
    let client = client_of(&upstream.url(), ca_file, quick(), Credential::for_test());
    let (issuing, spending) = (call(), call());
    let errors = [
        (issue(&client, &issuing).await.unwrap_err(), issuing),
        (log_in(&client, &upstream.token(), &spending).await.unwrap_err(), spending),
    ];
    for (error, call) in errors {
        assert!(matches!(error.kind, PlatformError::CertificateInvalid(_)), "{error:?}");
        assert_eq!((error.certainty, call.attempts()), (Certainty::NotSent, 1));
    }
    assert_eq!((upstream.connections(), upstream.requests().len()), (2, 0));
}

#[tokio::test]
async fn certificate_for_another_name_is_not_trusted() {
    let tls = Tls::new("elsewhere.example", false, BOTH);
    let ca_file = tls.ca_file.clone();
    refuses(tls, Some(&ca_file)).await;
}

#[tokio::test]
async fn expired_certificate_is_not_trusted() {
    let tls = Tls::new("localhost", true, BOTH);
    let ca_file = tls.ca_file.clone();
    refuses(tls, Some(&ca_file)).await;
}

#[tokio::test]
async fn certificate_of_an_unknown_authority_is_not_trusted() {
    let other = Tls::new("localhost", false, BOTH);
    refuses(Tls::new("localhost", false, BOTH), Some(&other.ca_file)).await;
    refuses(Tls::new("localhost", false, BOTH), None).await;
}

#[tokio::test]
async fn issuing_is_repeated_after_an_aborted_handshake() {
    let upstream = Upstream::https(Tls::new("localhost", false, HTTP1)).await;
    let client = client(&upstream, quick());
    upstream.on_accept(OnAccept::Reset).on_accept(OnAccept::Reset);
    let call = call();
    issue(&client, &call).await.unwrap();
    assert_eq!((call.attempts(), upstream.connections(), upstream.count(OTT)), (3, 3, 1));
}

#[tokio::test]
async fn repeated_handshake_failures_are_unreachable() {
    let upstream = Upstream::https(Tls::new("localhost", false, HTTP1)).await;
    let client = client(&upstream, quick());
    upstream.on_accept(OnAccept::Reset).on_accept(OnAccept::Reset).on_accept(OnAccept::Reset);
    let error = issue(&client, &call()).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Unreachable(_)), "{error:?}");
    assert_eq!((error.certainty, upstream.connections()), (Certainty::NotSent, 3));
    issues(&client).await;
}

#[tokio::test]
async fn login_is_repeated_once_after_an_aborted_handshake() {
    let upstream = Upstream::https(Tls::new("localhost", false, HTTP1)).await;
    let client = client(&upstream, quick());
    upstream.on_accept(OnAccept::Reset);
    let first = call();
    log_in(&client, &upstream.token(), &first).await.unwrap();
    assert_eq!((first.attempts(), upstream.connections(), upstream.count(LOGIN)), (2, 2, 1));
}

#[tokio::test]
async fn login_keeps_its_token_after_two_aborted_handshakes() {
    let upstream = Upstream::https(Tls::new("localhost", false, HTTP1)).await;
    let client = client(&upstream, quick());
    upstream.on_accept(OnAccept::Reset).on_accept(OnAccept::Reset);
    let token = upstream.token();
    let error = log_in(&client, &token, &call()).await.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Unreachable(_)), "{error:?}");
    assert_eq!((error.certainty, upstream.connections(), upstream.count(LOGIN)), (Certainty::NotSent, 2, 0));
    log_in(&client, &token, &call()).await.unwrap();
}

#[tokio::test]
async fn request_still_connecting_at_the_deadline_is_never_sent() {
    let upstream = Upstream::https(Tls::new("localhost", false, HTTP1)).await;
    let client = client(&upstream, quick());
    let late = OnAccept::ServeAfter(Duration::from_secs(10));
    upstream.on_accept(late).on_accept(late);
    let token = upstream.token();
    let (issuing, spending) = (call_with(Duration::from_secs(2)), call_with(Duration::from_secs(2)));
    let (issued, logged_in) = tokio::join!(issue(&client, &issuing), log_in(&client, &token, &spending));
    for (error, call) in [(issued.unwrap_err(), issuing), (logged_in.unwrap_err(), spending)] {
        assert!(matches!(error.kind, PlatformError::DeadlinePassed), "{error:?}");
        assert_eq!((error.certainty, call.certainty()), (Certainty::NotSent, Certainty::NotSent));
        assert_eq!(call.attempts(), 1);
    }
    assert!(upstream.requests().is_empty());
    log_in(&client, &token, &call()).await.unwrap();
}

#[tokio::test]
async fn plaintext_is_never_sent_to_a_server_without_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let limits = Limits { max_attempts: 1, ..quick() };
    let client = client_of(&url, None, limits, Credential::for_test());
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut beginning = [0; 2];
        stream.read_exact(&mut beginning).await.unwrap();
        // Like a server that expects HTTP.
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
        beginning
    };
    let call = call();
    let (issued, beginning) = tokio::join!(issue(&client, &call), server);
    let error = issued.unwrap_err();
    assert!(matches!(error.kind, PlatformError::Unreachable(_)), "{error:?}");
    assert_eq!(beginning, [22, 3], "a TLS handshake");
    assert!(listener.accept().now_or_never().is_none(), "no other connection");
}

#[test]
fn ca_file_must_contain_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    assert!(matches!(
        tls_config(Some(&folder.path().join("missing.pem"))),
        Err(TlsConfigError::Unreadable { .. })
    ));
    for path in [
        file("empty.pem", ""),
        file("text.pem", "no certificate"),
        file("rubbish.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        file("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n"),
    ] {
        let error = tls_config(Some(&path)).unwrap_err();
        assert!(matches!(error, TlsConfigError::NotAuthorities { .. }), "{error:?}");
    }
}
