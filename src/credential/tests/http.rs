//! The exchange over real sockets: the request, and the result of every kind of response.

use std::{io, net::SocketAddr};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::*;

const SECRET: &str = "s3cr\u{e9}t+/%&=:x";

const GRANT: &str = r#"{"access_token":"good-token","expires_in":7200,"token_type":"bearer"}"#;

/// How the server ends one connection.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// These bytes, then the end of the connection.
    Bytes(String),
    /// These bytes, then a reset.
    Reset(String),
    /// These bytes, and then nothing until the client disconnects.
    Open(String),
    /// Closed before a request was read.
    Unread,
}

impl Answer {
    pub(super) fn json(status: &str, body: &str) -> Self {
        Self::with_type(status, "application/json", body)
    }

    fn with_type(status: &str, content_type: &str, body: &str) -> Self {
        Self::Bytes(format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

/// A server that answers one connection after the other with the queued answers, and records the
/// requests.
pub(super) struct Server {
    address: SocketAddr,
    answers: mpsc::UnboundedSender<Answer>,
    received: mpsc::UnboundedReceiver<String>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (answers, mut queued) = mpsc::unbounded_channel::<Answer>();
        let (received_by, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(answer) = queued.recv().await else { return };
                if let Ok(request) = respond(stream, answer).await {
                    let _ = received_by.send(request);
                }
            }
        });
        Self { address, answers, received }
    }

    pub(super) fn exchange(&self) -> HttpExchange {
        exchange(&format!("http://{}/api/2/idp/token", self.address))
    }

    /// Returns the result of the exchange for that answer.
    pub(super) async fn result_of(
        &self,
        exchange: &HttpExchange,
        answer: Answer,
    ) -> Result<Fetched, CredentialError> {
        self.answers.send(answer).expect("the server runs");
        exchange.fetch(&secret(SECRET)).await
    }
}

async fn respond(mut stream: TcpStream, answer: Answer) -> io::Result<String> {
    let mut request = Vec::new();
    if !matches!(answer, Answer::Unread) {
        while !request.ends_with(b"grant_type=client_credentials") {
            if stream.read_buf(&mut request).await? == 0 {
                break;
            }
        }
    }
    match answer {
        Answer::Unread => {}
        Answer::Bytes(bytes) => {
            stream.write_all(bytes.as_bytes()).await?;
            stream.shutdown().await?;
        }
        Answer::Open(bytes) => {
            stream.write_all(bytes.as_bytes()).await?;
            stream.read_to_end(&mut Vec::new()).await?;
        }
        Answer::Reset(bytes) => {
            stream.write_all(bytes.as_bytes()).await?;
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

pub(super) fn exchange(url: &str) -> HttpExchange {
    HttpExchange::new(
        Arc::from("eu2"),
        ClientId::parse("the-id").expect("a valid id"),
        Url::parse(url).expect("a valid URL"),
        UnpooledClient::for_test(),
        WallClock::system(),
        ApiClientMetrics::default(),
    )
}

fn failing() -> CredentialErrorKind {
    CredentialErrorKind::Failing
}

#[tokio::test]
async fn request_has_the_documented_form() {
    let mut server = Server::start().await;
    let fetched = server.result_of(&server.exchange(), Answer::json("200 OK", GRANT)).await.expect("a token");
    assert_eq!(fetched.header(), "Bearer good-token");
    assert_eq!(fetched.lifetime(), seconds(7200));

    let request = server.received.recv().await.expect("the server received it");
    let (head, body) = request.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /api/2/idp/token HTTP/1.1"));
    let mut headers: Vec<_> = lines.map(|line| line.split_once(": ").expect("a header")).collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
            // The raw `id:secret`, not form-encoded first.
            ("authorization", "Basic dGhlLWlkOnMzY3LDqXQrLyUmPTp4"),
            ("content-length", "29"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("host", server.address.to_string().as_str()),
            ("user-agent", concat!("ott-gateway/", env!("CARGO_PKG_VERSION"))),
        ]
    );
    assert_eq!(body, "grant_type=client_credentials");
}

/// Everything but the platform is real: the file, the task, the client.
#[tokio::test]
async fn credential_survives_an_outage_and_a_refusal_with_its_secret_from_a_file() {
    let mut server = Server::start().await;
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("it can be written");
    let settings = Settings {
        client_id: ClientId::parse("the-id").expect("a valid id"),
        secret: SecretSource::File(path),
    };
    let endpoint = TokenEndpoint {
        api_client: Arc::from("eu2"),
        url: Url::parse(&format!("http://{}/api/2/idp/token", server.address)).expect("a valid URL"),
        http: UnpooledClient::for_test(),
    };
    assert!(!format!("{settings:?} {endpoint:?}").contains(SECRET));
    let (credential, refresh) = new(settings, endpoint, ApiClientMetrics::default(), WallClock::system());
    let stop = CancellationToken::new();
    let task = tokio::spawn(refresh.run(stop.clone()));

    server.answers.send(Answer::Unread).expect("the server runs");
    server.answers.send(Answer::json("200 OK", GRANT)).expect("the server runs");
    let error = credential.bearer(soon()).await.expect_err("the connection was cut");
    assert_eq!(error.kind(), CredentialErrorKind::Failing);
    sleep(error.retry_after().expect("the rest of the pause")).await;
    let bearer = credential.bearer(soon()).await.expect("the server has recovered");
    assert_eq!(bearer.header_value(), "Bearer good-token");

    server.answers.send(Answer::json("200 OK", &GRANT.replace("good", "better"))).expect("the server runs");
    credential.accepted(&bearer);
    // A younger token is not replaced.
    sleep(tokens::YOUNG).await;
    let replay = credential.after_rejection(&bearer, "someone", soon()).await;
    let Ok(Replay::Now(replayed)) = replay else { panic!("{replay:?}") };
    assert_eq!(replayed.header_value(), "Bearer better-token");

    stop.cancel();
    task.await.expect("no panic");
    assert!(credential.current().is_some());
    let mut sent = 0;
    while let Ok(request) = server.received.try_recv() {
        sent += usize::from(request.contains("authorization: Basic dGhlLWlkOnMzY3LDqXQrLyUmPTp4\r\n"));
    }
    assert_eq!(sent, 2);
}

/// After each response, the next request on the same exchange succeeds.
#[tokio::test]
async fn every_kind_of_response_is_classified_and_does_not_affect_the_next() {
    let html = "<html>no</html>";
    let oauth = |code: &str| format!(r#"{{"error":"{code}","error_description":"no"}}"#);
    let platform = |code: &str| format!(r#"{{"error":{{"code":{code},"message":"no"}}}}"#);
    let padded = format!(r#"{{"pad":"{}",{}"#, "a".repeat(64 * 1024), &GRANT[1..]);
    let redirect = "HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let grant_in_part = &GRANT[..30];
    let cases = [
        (Answer::json("401 Unauthorized", &oauth("invalid_client")), CredentialErrorKind::Rejected),
        (Answer::json("401 Unauthorized", &platform("401")), CredentialErrorKind::Rejected),
        (Answer::with_type("401 Unauthorized", "text/html", html), CredentialErrorKind::Rejected),
        (Answer::json("400 Bad Request", &oauth("invalid_client")), CredentialErrorKind::Rejected),
        (Answer::json("400 Bad Request", &oauth("invalid_grant")), CredentialErrorKind::Rejected),
        (Answer::json("400 Bad Request", &oauth("unauthorized_client")), CredentialErrorKind::Rejected),
        (Answer::json("400 Bad Request", &platform("\"1018\"")), CredentialErrorKind::Rejected),
        (Answer::json("400 Bad Request", &platform("1001")), CredentialErrorKind::Protocol { status: 400 }),
        (
            Answer::json("400 Bad Request", &oauth("invalid_request")),
            CredentialErrorKind::Protocol { status: 400 },
        ),
        (
            Answer::with_type("400 Bad Request", "text/html", html),
            CredentialErrorKind::Protocol { status: 400 },
        ),
        (Answer::json("403 Forbidden", &platform("1002")), CredentialErrorKind::Rejected),
        (Answer::with_type("403 Forbidden", "text/html", html), CredentialErrorKind::Blocked),
        (Answer::json("403 Forbidden", html), CredentialErrorKind::Blocked),
        (Answer::json("404 Not Found", &platform("404")), CredentialErrorKind::Protocol { status: 404 }),
        (Answer::json("405 Method Not Allowed", "{}"), CredentialErrorKind::Protocol { status: 405 }),
        (Answer::json("409 Conflict", "{}"), CredentialErrorKind::Protocol { status: 409 }),
        (Answer::json("415 Unsupported Media Type", "{}"), CredentialErrorKind::Protocol { status: 415 }),
        (Answer::Bytes(redirect.to_owned()), CredentialErrorKind::Protocol { status: 307 }),
        (Answer::json("429 Too Many Requests", "{}"), failing()),
        (Answer::json("500 Internal Server Error", GRANT), failing()),
        (Answer::with_type("503 Service Unavailable", "text/html", html), failing()),
        (Answer::with_type("200 OK", "text/html", GRANT), failing()),
        (
            Answer::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{GRANT}", GRANT.len())),
            failing(),
        ),
        (Answer::json("200 OK", html), failing()),
        (Answer::json("200 OK", grant_in_part), failing()),
        (Answer::json("204 No Content", ""), failing()),
        // Too long, according to `Content-Length` and as counted.
        (Answer::json("200 OK", &padded), failing()),
        (Answer::Bytes(format!("{chunked}{:x}\r\n{padded}\r\n0\r\n\r\n", padded.len())), failing()),
        // Truncated: before anything, before the head, in the head, in the body.
        (Answer::Unread, failing()),
        (Answer::Bytes(String::new()), failing()),
        (Answer::Reset(String::new()), failing()),
        (Answer::Bytes("HTTP/1.1 200 OK\r\nContent-Ty".to_owned()), failing()),
        (
            Answer::Bytes(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{GRANT}"
            )),
            failing(),
        ),
        (Answer::Bytes(format!("{chunked}{:x}\r\n{GRANT}\r\n", GRANT.len())), failing()),
        (Answer::Reset(format!("{chunked}{:x}\r\n{GRANT}\r\n", GRANT.len())), failing()),
        (Answer::Bytes("garbage\r\n\r\n".to_owned()), failing()),
        (Answer::Bytes("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n{}".to_owned()), failing()),
    ];
    let server = Server::start().await;
    let exchange = server.exchange();
    for (answer, expected) in cases {
        let shown = format!("{answer:.200?}");
        let failure = server.result_of(&exchange, answer).await.expect_err(&shown);
        assert_eq!(failure.kind(), expected, "{shown}");
        let next = server.result_of(&exchange, Answer::json("200 OK", GRANT)).await;
        assert!(next.is_ok(), "after {shown}: {next:?}");
    }
}

/// Our own clock may be wrong.
#[tokio::test]
async fn expires_on_is_relative_to_the_date_of_the_response() {
    let server = Server::start().await;
    let body = r#"{"access_token":"good","expires_on":1562867764}"#;
    let answer = Answer::Bytes(format!(
        "HTTP/1.1 200 OK\r\nDate: Thu, 11 Jul 2019 16:56:04 GMT\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let fetched = server.result_of(&server.exchange(), answer).await.expect("a token");
    assert_eq!(fetched.lifetime(), HOUR);
}

#[tokio::test]
async fn missing_body_of_a_401_does_not_delay_the_refusal() {
    let server = Server::start().await;
    let head = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 500\r\n\r\n".to_owned();
    let exchange = server.exchange();
    let result_of = timeout(seconds(120), server.result_of(&exchange, Answer::Open(head))).await;
    let failure = result_of.expect("its head is enough").expect_err("a refusal");
    assert_eq!(failure.kind(), CredentialErrorKind::Rejected);
}

#[tokio::test]
async fn response_with_a_too_large_content_length_is_not_read() {
    let server = Server::start().await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 65537\r\n\r\n";
    let failure =
        server.result_of(&server.exchange(), Answer::Bytes(head.to_owned())).await.expect_err("too long");
    assert_eq!(failure, CredentialError::failing("the response body is larger than 65536 bytes"));
}

#[tokio::test]
async fn failure_carries_retry_after() {
    let server = Server::start().await;
    let answer = Answer::Bytes(
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n".to_owned(),
    );
    let failure = server.result_of(&server.exchange(), answer).await.expect_err("a failure");
    assert_eq!(failure.retry_after(), Some(seconds(7)));
}

#[tokio::test]
async fn redirect_to_another_host_is_not_followed() {
    let (server, mut other) = (Server::start().await, Server::start().await);
    other.answers.send(Answer::json("200 OK", GRANT)).expect("the server runs");
    let answer = Answer::Bytes(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n",
        other.address
    ));
    let failure = server.result_of(&server.exchange(), answer).await.expect_err("a failure");
    assert_eq!(failure.kind(), CredentialErrorKind::Protocol { status: 307 });
    assert!(other.received.try_recv().is_err());
}

#[tokio::test]
async fn missing_endpoint_is_unreachable() {
    // Bound but not listening, so that nothing else gets its port.
    let closed = TcpSocket::new_v4().expect("a socket");
    closed.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = closed.local_addr().expect("it is bound");
    let secret = secret(SECRET);
    let failure = exchange(&format!("http://{address}/")).fetch(&secret).await.expect_err("a failure");
    assert_eq!(failure.kind(), CredentialErrorKind::Unreachable);
    assert!(failure.cause().contains("refused"), "{}", failure.cause());
    let failure = exchange("http://host.invalid/").fetch(&secret).await.expect_err("a failure");
    assert_eq!(failure.kind(), CredentialErrorKind::Unreachable);
}

#[tokio::test]
async fn aborted_handshake_is_unreachable_and_not_a_certificate_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut start = [0; 16];
        stream.read_exact(&mut start).await
    });
    let secret = secret(SECRET);
    let failure = exchange(&format!("https://{address}/")).fetch(&secret).await.expect_err("a failure");
    assert_eq!(failure.kind(), CredentialErrorKind::Unreachable);
    server.await.expect("no panic").expect("the handshake had begun");
}

#[tokio::test]
async fn untrusted_certificate_is_invalid_and_nothing_is_sent() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it can be made");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions are known")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("the key fits");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        acceptor.accept(stream).await.map(|_| ())
    });
    let secret = secret(SECRET);
    let failure =
        exchange(&format!("https://localhost:{port}/")).fetch(&secret).await.expect_err("a failure");
    assert_eq!(failure.kind(), CredentialErrorKind::CertificateInvalid);
    assert!(server.await.expect("no panic").is_err(), "the handshake must fail");
}
