//! Real handshakes: which servers are trusted, and why others are not.

use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::http_client::{HttpSettings, Resolver, UnpooledClient};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn trusting(authorities: &[&Issuer]) -> Authorities {
    let bundle: String = authorities.iter().map(|authority| authority.pem()).collect();
    Authorities::parse(bundle.as_bytes()).unwrap()
}

/// Issues a certificate for `localhost` with changed parameters, and returns it with its key.
fn issued(
    by: &Issuer,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, by).unwrap().der().clone();
    (certificate, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// Configures a server with this certificate.
fn serving(
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
    clients: Option<&Issuer>,
) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    builder.with_single_cert(vec![certificate], key).unwrap()
}

/// Serves TLS and answers each request with 200.
async fn start(config: ServerConfig) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 1024];
                while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(response).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The server supports only one group, which is not our first guess.
#[tokio::test]
async fn group_of_a_server_is_remembered_for_later_handshakes() {
    let authority = authority();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::SECP384R1];
    let (certificate, key) = issued(&authority, |_| {});
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let address = start(config).await;
    let tls = ClientTls::new(Some(&trusting(&[&authority]))).unwrap();
    assert_eq!(handshake(&tls, address).await, Some(HandshakeKind::FullWithHelloRetryRequest));
    for _ in 0..2 {
        assert_eq!(handshake(&tls, address).await, Some(HandshakeKind::Full));
    }
}

/// Returns the kind of a handshake, or `None` if it fails.
async fn handshake(tls: &ClientTls, address: SocketAddr) -> Option<HandshakeKind> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(tls.config()));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()?;
    // Tickets arrive after the handshake.
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
    stream.get_ref().1.handshake_kind()
}

/// Returns the cause of a failed request, for the operator.
async fn cause(tls: &Arc<ClientTls>, address: SocketAddr) -> String {
    cause_at(tls, &format!("https://localhost:{}/", address.port())).await
}

async fn cause_at(tls: &Arc<ClientTls>, url: &str) -> String {
    let url: Url = url.parse().unwrap();
    let client =
        UnpooledClient::new(HttpSettings::new(url.clone(), Arc::clone(tls), Resolver::for_test())).unwrap();
    let error = client.send(client.client().get(url)).await.expect_err("it fails");
    client.cause_of(&error).await
}

#[tokio::test]
async fn replaced_authorities_apply_to_the_next_connection_and_no_session_is_resumed() {
    let (old, new) = (authority(), authority());
    let of_old = start(serving(issued(&old, |_| {}), None)).await;
    let of_new = start(serving(issued(&new, |_| {}), None)).await;
    let tls = ClientTls::new(Some(&trusting(&[&old]))).unwrap();
    for _ in 0..3 {
        // A resumed session would not check the certificate.
        assert_eq!(handshake(&tls, of_old).await, Some(HandshakeKind::Full));
    }
    assert_eq!(handshake(&tls, of_new).await, None);

    assert!(tls.replace(&trusting(&[&old, &new])));
    assert!(!tls.replace(&trusting(&[&new, &old])), "the same ones");
    assert_eq!(tls.generation(), 1);
    assert_eq!(handshake(&tls, of_new).await, Some(HandshakeKind::Full));
    assert!(tls.replace(&trusting(&[&new])));
    assert_eq!(handshake(&tls, of_old).await, None, "withdrawn");
    assert_eq!(handshake(&tls, of_new).await, Some(HandshakeKind::Full));
    assert_eq!(tls.generation(), 2);
}

#[tokio::test]
async fn without_authorities_no_server_is_trusted() {
    let authority = authority();
    let address = start(serving(issued(&authority, |_| {}), None)).await;
    let tls = ClientTls::new(None).unwrap();
    assert_eq!(handshake(&tls, address).await, None);
    assert!(tls.replace(&trusting(&[&authority])));
    assert_eq!(handshake(&tls, address).await, Some(HandshakeKind::Full));
}

#[tokio::test]
async fn causes_of_tls_failures_are_explained() {
    let (ours, theirs) = (authority(), authority());
    let tls = ClientTls::new(Some(&trusting(&[&ours]))).unwrap();
    let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let names = |params: &mut CertificateParams| {
        *params = CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    };
    let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2001, 2, 3);
    let clients_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    for (what, config, expected) in [
        ("CA", serving(issued(&ours, ca), None), "is a CA certificate, for example a self-signed one"),
        (
            "name",
            serving(issued(&ours, names), None),
            "is not for the name localhost; it is for a.example, 10.0.0.1",
        ),
        ("expired", serving(issued(&ours, expired), None), "expired at 2001-02-03T00:00:00Z; renew it"),
        (
            "purpose",
            serving(issued(&ours, clients_only), None),
            "not for servers (extended key usage serverAuth)",
        ),
        ("issuer", serving(issued(&theirs, |_| {}), None), "ca_file"),
        ("client", serving(issued(&ours, |_| {}), Some(&theirs)), "client certificate"),
    ] {
        let cause = cause(&tls, start(config).await).await;
        assert!(cause.contains(expected), "{what}: {cause}");
        assert!(!cause.contains(['[', '{']) && !cause.contains("Other("), "{what}: {cause}");
    }
}

/// The server closes the connection instead of responding, or does not speak TLS.
#[tokio::test]
async fn connection_closed_after_a_certificate_request_is_explained() {
    let (ours, theirs) = (authority(), authority());
    let tls = ClientTls::new(Some(&trusting(&[&ours]))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Requests a certificate, and closes the connection after the handshake, like some proxies.
    let mut roots = RootCertStore::empty();
    roots.add(theirs.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let (certificate, key) = issued(&ours, |_| {});
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 1024]).await;
            }
        }
    });
    let text = cause(&tls, address).await;
    assert!(
        text.contains("the server requested a client certificate, which the gateway does not have"),
        "{text}"
    );

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let text = cause(&tls, address).await;
    assert!(text.contains("does not speak TLS on this port"), "{text}");
}

/// Starts a server that sends these bytes on each connection after it has received data, over TLS
/// if there is a configuration.
async fn start_answering(config: Option<ServerConfig>, answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = config.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = async {
                let mut request = [0; 1024];
                if let Some(acceptor) = &acceptor {
                    let mut stream = acceptor.accept(stream).await?;
                    let _ = stream.read(&mut request).await?;
                    stream.write_all(answer).await?;
                    while stream.read(&mut request).await? > 0 {}
                } else {
                    let _ = stream.read(&mut request).await?;
                    stream.write_all(answer).await?;
                    while stream.read(&mut request).await? > 0 {}
                }
                std::io::Result::Ok(())
            };
            let _ = answer.await;
        }
    });
    address
}

#[tokio::test]
async fn response_in_a_different_protocol_is_explained() {
    const ALERT: &[u8] = b"\x15\x03\x01\x00\x02\x02\x46";
    const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    const HTTP1: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let authority = authority();
    let tls = ClientTls::new(Some(&trusting(&[&authority]))).unwrap();
    let with_tls = || Some(serving(issued(&authority, |_| {}), None));
    let mut with_http2 = serving(issued(&authority, |_| {}), None);
    with_http2.alpn_protocols = vec![b"h2".to_vec()];
    for (what, scheme, config, answer) in [
        ("TLS to HTTP", "http", None, ALERT),
        ("HTTP/2 to HTTP/1.1", "http", None, SETTINGS),
        ("HTTP/2 to HTTP/1.1 in TLS", "https", with_tls(), SETTINGS),
        ("HTTP/1.1 to HTTP/2", "https", Some(with_http2), HTTP1),
    ] {
        let address = start_answering(config, answer).await;
        let cause = cause_at(&tls, &format!("{scheme}://localhost:{}/", address.port())).await;
        assert!(cause.contains("responded with a different protocol than"), "{what}: {cause}");
    }
}

#[test]
fn system_authorities_are_read_only_for_https_servers() {
    let mut tls = ClientTlsSet::default();
    let url = |text: &str| text.parse::<Url>().unwrap();
    let plain = tls.get(None, &url("http://127.0.0.1:8080"), None).unwrap();
    assert_eq!(plain.authorities(), None);
    assert_eq!(tls.0.len(), 0);
    let with_proxy =
        tls.get(None, &url("http://127.0.0.1:8080"), Some(&url("https://127.0.0.1:3128"))).unwrap();
    assert!(with_proxy.authorities().is_some());
    let again = tls.get(None, &url("https://eu2.example"), None).unwrap();
    assert!(Arc::ptr_eq(&with_proxy, &again), "one per source");
}
