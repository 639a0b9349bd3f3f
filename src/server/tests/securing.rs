//! TLS on real sockets: accepted clients, and reloads while connections are open.

use rcgen::{
    CertificateParams,
    ExtendedKeyUsagePurpose::{ClientAuth as ClientUse, CodeSigning, ServerAuth},
    date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    authority::{Authority, Folder, Identity},
    *,
};
use crate::{base::clock, server::tls::ClientAuth};

const H2: &[&[u8]] = &[b"h2"];

async fn start_tls(tls: crate::server::tls::Settings, change: impl FnOnce(&mut Settings)) -> Running {
    start(|settings| {
        settings.transport = Transport::Tls(tls);
        change(settings);
    })
    .await
}

async fn secured(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Makes one call over a new connection. Returns `None` if the server refuses the connection.
async fn one_call(address: SocketAddr, config: Arc<ClientConfig>) -> Option<tonic::Code> {
    let stream = secured(address, config).await.ok()?;
    let mut client = Client::over(stream).await;
    client.send = client.send.clone().ready().await.ok()?;
    let answer = client.send(ISSUE, &[]).await;
    received(answer).await.ok()?.code()
}

fn presented(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn http2_is_served_over_tls_12_and_13_and_http1_clients_get_an_explanation() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let running = start_tls(folder.settings(ClientAuth::Off), |_| {}).await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client(None, H2, version);
        assert_eq!(one_call(running.address, client).await, Some(tonic::Code::Ok), "{version:?}");
    }
    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let client = authority.client(None, protocols, &TLS13);
        let mut stream = secured(running.address, client).await.expect("a TLS connection");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("the connection is open");
        let mut response = String::new();
        timeout(SOON, stream.read_to_string(&mut response))
            .await
            .expect("the connection is closed")
            .expect("a response");
        assert!(response.starts_with("HTTP/1.1 505 ") && response.contains("gRPC over HTTP/2"), "{response}");
    }
    let unknown = authority.client(None, &[b"spdy/3"], &TLS13);
    assert!(secured(running.address, unknown).await.is_err(), "no protocol in common");
    let mut plaintext = TcpStream::connect(running.address).await.unwrap();
    plaintext.write_all(b"POST /ott.v1.OttService/IssueOtt HTTP/1.1\r\n\r\n").await.unwrap();
    let mut response = String::new();
    timeout(SOON, plaintext.read_to_string(&mut response))
        .await
        .expect("the connection is closed")
        .expect("a response");
    assert!(response.starts_with("HTTP/1.1 400 ") && response.contains("expects TLS"), "{response}");
    let client = authority.client(None, H2, &TLS13);
    assert_eq!(one_call(running.address, client).await, Some(tonic::Code::Ok));
}

#[tokio::test]
async fn client_certificates_are_checked_as_configured() {
    let authority = Authority::new();
    let other = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let (ours, others) = (authority.issue("client"), other.issue("client"));
    let expectations: [(ClientAuth, [bool; 3]); 3] = [
        (ClientAuth::Off, [true, true, true]),
        (ClientAuth::Optional { ca_file: ca_file.clone() }, [true, true, false]),
        (ClientAuth::Require { ca_file }, [false, true, false]),
    ];
    for (client_auth, is_accepted) in expectations {
        let running = start_tls(folder.settings(client_auth.clone()), |_| {}).await;
        let identities: [Option<&Identity>; 3] = [None, Some(&ours), Some(&others)];
        for (identity, is_accepted) in identities.into_iter().zip(is_accepted) {
            for version in [&TLS12, &TLS13] {
                let client = authority.client(identity, H2, version);
                let code = one_call(running.address, client).await;
                assert_eq!(code, is_accepted.then_some(tonic::Code::Ok), "{client_auth:?}");
            }
        }
    }
}

/// A change to a certificate's parameters.
type Change = fn(&mut CertificateParams);

/// Both with optional and with required certificates: an invalid certificate is refused, and never
/// makes its client anonymous.
#[tokio::test]
async fn client_certificates_that_are_not_valid_now_or_not_meant_for_clients_are_refused() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let cases: [(&str, bool, Change); 7] = [
        ("as issued", true, |_| {}),
        ("expired", false, |params| params.not_after = date_time_ymd(2001, 1, 1)),
        ("not valid yet", false, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(4000, 1, 1), date_time_ymd(4001, 1, 1));
        }),
        ("for servers", false, |params| params.extended_key_usages = vec![ServerAuth]),
        ("for something else", false, |params| params.extended_key_usages = vec![CodeSigning]),
        ("for clients", true, |params| params.extended_key_usages = vec![ClientUse]),
        ("for both", true, |params| params.extended_key_usages = vec![ServerAuth, ClientUse]),
    ];
    for client_auth in
        [ClientAuth::Optional { ca_file: ca_file.clone() }, ClientAuth::Require { ca_file: ca_file.clone() }]
    {
        let running = start_tls(folder.settings(client_auth.clone()), |_| {}).await;
        for (case, is_accepted, change) in cases {
            let identity = authority.issue_with("client", change);
            for version in [&TLS12, &TLS13] {
                let client = authority.client(Some(&identity), H2, version);
                let code = one_call(running.address, client).await;
                assert_eq!(
                    code,
                    is_accepted.then_some(tonic::Code::Ok),
                    "{case} {client_auth:?} {version:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn sessions_are_never_resumed_so_every_connection_verifies_its_certificate() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let ca_file = folder.write_file("ca.crt", &authority.certificate());
    let identity = authority.issue("client");
    let running = start_tls(folder.settings(ClientAuth::Require { ca_file }), |_| {}).await;
    for version in [&TLS12, &TLS13] {
        let mut client = Arc::unwrap_or_clone(authority.client(Some(&identity), H2, version));
        client.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        for _ in 0..3 {
            let stream = secured(running.address, Arc::clone(&client)).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "{version:?}");
            // Session tickets would arrive together with the response.
            let answer = Client::over(stream).await.call(ISSUE, &[]).await;
            assert_eq!(answer.code(), Some(tonic::Code::Ok), "{version:?}");
        }
    }
}

#[tokio::test]
async fn new_certificate_is_used_for_new_connections_and_open_ones_continue() {
    let authority = Authority::new();
    let (first, second) = (authority.issue("localhost"), authority.issue("localhost"));
    let folder = Folder::new(&first);
    let running = start_tls(folder.settings(ClientAuth::Off), |_| {}).await;
    let client = || authority.client(None, H2, &TLS13);
    let stream = secured(running.address, client()).await.unwrap();
    assert_eq!(presented(&stream), first.der());
    let mut old = Client::over(stream).await;

    // A pair that does not match is ignored, and calls continue.
    folder.write_file("tls.crt", &second.certificate);
    let ignored_until = clock::now() + Duration::from_millis(200);
    while clock::now() < ignored_until {
        assert_eq!(presented(&secured(running.address, client()).await.unwrap()), first.der());
        assert_eq!(old.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    }
    folder.write(&second);
    let changes = async {
        while presented(&secured(running.address, client()).await.unwrap()) != second.der() {
            assert_eq!(old.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
        }
    };
    timeout(SOON, changes).await.expect("the new pair is in use");
    assert_eq!(old.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok), "the old connection still works");
    assert_eq!(one_call(running.address, client()).await, Some(tonic::Code::Ok));
}

#[tokio::test]
async fn connection_ends_when_its_authority_is_withdrawn_and_others_continue() {
    let (server, withdrawn, kept) = (Authority::new(), Authority::new(), Authority::new());
    let folder = Folder::new(&server.issue("localhost"));
    let both = format!("{}{}", withdrawn.certificate(), kept.certificate());
    let ca_file = folder.write_file("ca.crt", &both);
    let running = start_tls(folder.settings(ClientAuth::Require { ca_file }), |_| {}).await;
    let identities = [&withdrawn, &kept].map(|authority| authority.issue("client"));
    let mut clients = Vec::new();
    for identity in &identities {
        let config = server.client(Some(identity), H2, &TLS13);
        let mut client = Client::over(secured(running.address, config).await.unwrap()).await;
        assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
        clients.push(client);
    }
    // Adding an authority does not affect open connections.
    folder.write_file("ca.crt", &format!("{both}{}", Authority::new().certificate()));
    running.counts(r#"ott_gateway_reloads_total{result="ok",what="client_ca"}"#, 1).await;
    for client in &mut clients {
        assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    }
    // Withdrawn even though the server certificate cannot be reloaded at the moment.
    folder.write_file("tls.key", &server.issue("localhost").private_key);
    folder.write_file("ca.crt", &kept.certificate());
    running.counts(r#"ott_gateway_connections_ended_total{reason="untrusted"}"#, 1).await;
    let mut kept_client = clients.pop().unwrap();
    let withdrawn_client = clients.pop().unwrap();
    // With or without an error, because the client may see the end of TCP before the end of TLS.
    let _closed =
        timeout(SOON, withdrawn_client.connection).await.expect("the connection is closed").unwrap();
    assert_eq!(kept_client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    let config = server.client(Some(&identities[0]), H2, &TLS13);
    assert_eq!(one_call(running.address, config).await, None, "no new connection is accepted");
    let config = server.client(Some(&identities[1]), H2, &TLS13);
    assert_eq!(one_call(running.address, config).await, Some(tonic::Code::Ok));
}

/// Opens a connection whose handshake stops once the server has answered the `ClientHello`.
async fn stopped_after_client_hello(address: SocketAddr, config: Arc<ClientConfig>) -> TcpStream {
    let mut session = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    assert_eq!(timeout(SOON, stream.read(&mut [0; 1])).await.expect("a ServerHello").unwrap(), 1);
    stream
}

#[tokio::test]
async fn stalled_handshakes_do_not_delay_others() {
    const STALLED: usize = 20;
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let running = start_tls(folder.settings(ClientAuth::Off), |settings| {
        // No stalled handshake ends while the others connect.
        settings.limits.handshake_timeout = Duration::from_hours(1);
    })
    .await;
    let client = || authority.client(None, H2, &TLS13);
    let mut old = Client::over(secured(running.address, client()).await.unwrap()).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(TcpStream::connect(running.address).await.unwrap());
        stalled.push(stopped_after_client_hello(running.address, client()).await);
        let call = timeout(SOON, one_call(running.address, client()));
        assert_eq!(call.await.expect("handshakes do not wait for each other"), Some(tonic::Code::Ok));
        assert_eq!(old.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok), "calls continue");
    }
    let still_open = running.server.drain().await.closed;
    assert_eq!(still_open, stalled.len(), "the stalled connections were still open");
}

#[tokio::test]
async fn stalled_handshake_is_closed_at_the_timeout() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let running = start_tls(folder.settings(ClientAuth::Off), |settings| {
        settings.limits.handshake_timeout = Duration::from_secs(3);
    })
    .await;
    let client = || authority.client(None, H2, &TLS13);
    let silent = TcpStream::connect(running.address).await.unwrap();
    let stopped = stopped_after_client_hello(running.address, client()).await;
    for mut stalled in [silent, stopped] {
        let mut rest = Vec::new();
        let end = timeout(SOON, stalled.read_to_end(&mut rest)).await;
        drop(end.expect("the connection is closed"));
    }
    assert_eq!(one_call(running.address, client()).await, Some(tonic::Code::Ok));
}

#[tokio::test]
async fn drain_closes_tls_peers_without_a_handshake_or_a_preface() {
    let authority = Authority::new();
    let folder = Folder::new(&authority.issue("localhost"));
    let running = start_tls(folder.settings(ClientAuth::Off), |_| {}).await;
    let _handshaking = TcpStream::connect(running.address).await.unwrap();
    let _silent = secured(running.address, authority.client(None, H2, &TLS13)).await.unwrap();
    let drained = timeout(SOON, running.server.drain()).await.expect("the peers do not delay it");
    assert_eq!((drained.cut_off, drained.closed), (0, 2));
}
