//! A scripted stand-in for the platform.
//!
//! It implements HTTP/1.1 itself, over TCP or TLS, so that it can fail at any point of a response,
//! and it records every byte of the requests. By default it behaves like the platform: it issues
//! tokens, accepts each once, and starts sessions. It shares no code with the client under test.
//!
//! Used by unit tests and integration tests: `#[cfg(test)] #[path = "…"] mod upstream;`.

use std::{
    collections::{HashMap, VecDeque},
    fmt::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

pub(crate) const TOKEN: &str = "/api/2/idp/token";
pub(crate) const OTT: &str = "/api/2/idp/ott";
pub(crate) const LOGIN: &str = "/api/2/idp/ott/login";
pub(crate) const LOGOUT: &str = "/api/2/idp/logout";

/// Reaction to one request, after all of it has been read.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// The response of a healthy platform.
    Healthy,
    /// This response.
    Answer(Answer),
    /// Resets the connection before any response byte.
    Reset,
    /// Closes the connection before any response byte.
    Close,
    /// Sends this response, then closes the connection without announcing it.
    AnswerAndClose(Answer),
    /// Sends only the first bytes of the body, then resets the connection.
    CutAfter(usize, Answer),
    /// Sends only the first bytes of the body, then closes the connection.
    ShortAfter(usize, Answer),
    /// Sends the head, then one byte of the body per interval.
    Drip(Duration, Answer),
    /// Sends nothing and keeps the connection open.
    Stall,
    /// Sends a body of `bytes` bytes, with or without `content-length`.
    Huge { status: u16, bytes: usize, announced: bool },
    /// Sends exactly these bytes as head and body.
    Raw(Vec<u8>),
    /// Sends more headers than any client accepts.
    HeaderFlood,
    /// Takes a permit from the semaphore, then behaves like this.
    Held(Arc<Semaphore>, Box<Behaviour>),
}

/// A response. `content-length` is added if it is missing.
#[derive(Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// A response with an empty body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A response with the content type of JSON.
    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Self::empty(status).header("content-type", "application/json").body(body.into())
    }

    /// A page like that of a firewall or proxy.
    pub(crate) fn html(status: u16) -> Self {
        Self::empty(status)
            .header("content-type", "text/html; charset=utf-8")
            .body("<html><body>blocked</body></html>")
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            let _ = write!(head, "content-length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        write!(f, "{} {:?} {body}", self.status, self.headers)
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// Number of the connection, from 1.
    pub(crate) connection: usize,
    /// All bytes of the request.
    pub(crate) raw: Vec<u8>,
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    /// The value of a header. Panics if there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(header, _)| header == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} was sent twice");
        value
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }
}

/// What the server does with new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnAccept {
    /// Serves it.
    Serve,
    /// Resets it at once, before any TLS handshake.
    Reset,
    /// Serves it after this time, including TLS.
    ServeAfter(Duration),
}

/// A certificate authority, and an acceptor with a certificate from it.
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    /// The authority's certificate in a file, in PEM.
    pub(crate) ca_file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Tls {
    /// A certificate for `name`, valid or long expired, and an acceptor for `protocols`.
    pub(crate) fn new(name: &str, expired: bool, protocols: &[&str]) -> Self {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let ca_certificate = ca.self_signed(&ca_key).expect("an authority");
        let mut leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        if expired {
            leaf.not_before = rcgen::date_time_ymd(2000, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let certificate = leaf.signed_by(&key, &issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("a certificate that matches its key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, ca_certificate.pem()).expect("a file");
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca_file, _folder: folder }
    }
}

/// The server. Dropping it closes the listener and all connections.
pub(crate) struct Upstream {
    address: SocketAddr,
    /// Second handle of the listening socket.
    listening: socket2::Socket,
    shared: Arc<ServerState>,
    tls: Option<Arc<Tls>>,
    serving: AbortHandle,
}

#[derive(Default)]
struct ServerState {
    connections: AtomicUsize,
    script: Mutex<Script>,
    recorded: Mutex<Vec<Recorded>>,
    arrived: tokio::sync::Notify,
}

#[derive(Default)]
struct Script {
    on_accept: VecDeque<OnAccept>,
    next: HashMap<String, VecDeque<Behaviour>>,
    always: HashMap<String, Behaviour>,
    issued: usize,
    /// Unspent tokens, each with the login of its user.
    unspent: HashMap<String, String>,
}

impl Upstream {
    /// A server without TLS.
    pub(crate) async fn http() -> Self {
        Self::start(None, "127.0.0.1:0").await
    }

    /// A server without TLS at an address that is not in use.
    pub(crate) async fn http_at(address: SocketAddr) -> Self {
        Self::start(None, &address.to_string()).await
    }

    /// A server with TLS.
    pub(crate) async fn https(tls: Tls) -> Self {
        Self::start(Some(tls), "127.0.0.1:0").await
    }

    async fn start(tls: Option<Tls>, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let listening = socket2::SockRef::from(&listener).try_clone().expect("a second handle");
        let shared = Arc::new(ServerState::default());
        let tls = tls.map(Arc::new);
        let serving = tokio::spawn(accept(listener, Arc::clone(&shared), tls.clone())).abort_handle();
        Self { address, listening, shared, tls, serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data center URL.
    pub(crate) fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://127.0.0.1:{}", self.address.port()),
        }
    }

    /// The authority of its certificate.
    pub(crate) fn ca_file(&self) -> Option<PathBuf> {
        self.tls.as_ref().map(|tls| tls.ca_file.clone())
    }

    /// Queues the behaviour for the next request to `path`.
    pub(crate) fn next(&self, path: &str, behaviour: impl Into<Behaviour>) -> &Self {
        self.script().next.entry(path.to_owned()).or_default().push_back(behaviour.into());
        self
    }

    /// Clears the queue for `path`.
    pub(crate) fn forget_next(&self, path: &str) {
        self.script().next.remove(path);
    }

    /// Sets the behaviour for all requests to `path` without a queued one.
    pub(crate) fn always(&self, path: &str, behaviour: impl Into<Behaviour>) -> &Self {
        self.script().always.insert(path.to_owned(), behaviour.into());
        self
    }

    /// Queues what happens to the next connection.
    pub(crate) fn on_accept(&self, what: OnAccept) -> &Self {
        self.script().on_accept.push_back(what);
        self
    }

    /// All requests, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.recorded.lock().expect("no panic").clone()
    }

    /// All requests to `path`.
    pub(crate) fn requests_to(&self, path: &str) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| request.path == path).collect()
    }

    /// Number of requests to `path`.
    pub(crate) fn count(&self, path: &str) -> usize {
        let recorded = self.shared.recorded.lock().expect("no panic");
        recorded.iter().filter(|request| request.path == path).count()
    }

    /// Number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until `path` has received this number of requests.
    pub(crate) async fn wait_for(&self, path: &str, times: usize) {
        loop {
            let arrived = self.shared.arrived.notified();
            if self.count(path) >= times {
                return;
            }
            // Only a failing test waits this long.
            tokio::time::timeout(Duration::from_mins(2), arrived).await.expect("a request arrives");
        }
    }

    /// Creates a valid token without a request.
    pub(crate) fn token(&self) -> String {
        issue(&mut self.script(), None)
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.shared.script.lock().expect("no panic")
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Closing is not enough: the runtime drops the accepting task later, and a process that
        // another test is starting may briefly have a copy of the socket.
        self.listening.shutdown(std::net::Shutdown::Both).expect("a listening socket");
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<ServerState>, tls: Option<Arc<Tls>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Responses are sent in several writes, which must not wait for acknowledgements.
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let what = shared.script.lock().expect("no panic").on_accept.pop_front();
        if what == Some(OnAccept::Reset) {
            reset(&stream);
            continue;
        }
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        connections.spawn(async move {
            if let Some(OnAccept::ServeAfter(time)) = what {
                tokio::time::sleep(time).await;
            }
            let socket = socket2::SockRef::from(&stream).try_clone().expect("a second handle");
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.acceptor.accept(stream).await {
                        let _ = serve(stream, socket, connection, &shared).await;
                    }
                }
                None => {
                    let _ = serve(stream, socket, connection, &shared).await;
                }
            }
        });
    }
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

/// Serves one connection. `socket` is a second handle for socket options.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    socket: socket2::Socket,
    connection: usize,
    shared: &ServerState,
) -> std::io::Result<()> {
    let mut buffered = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffered, connection).await? {
        let mut behaviour = {
            let mut script = shared.script.lock().expect("no panic");
            script
                .next
                .get_mut(&request.path)
                .and_then(VecDeque::pop_front)
                .or_else(|| script.always.get(&request.path).cloned())
                .unwrap_or(Behaviour::Healthy)
        };
        shared.recorded.lock().expect("no panic").push(request.clone());
        shared.arrived.notify_waiters();
        while let Behaviour::Held(permits, then) = behaviour {
            permits.acquire().await.expect("an open semaphore").forget();
            behaviour = *then;
        }
        let healthy = healthy_answer(&request, &mut shared.script.lock().expect("no panic"));
        match behaviour {
            Behaviour::Healthy => send(&mut stream, &healthy).await?,
            Behaviour::Answer(answer) => send(&mut stream, &answer).await?,
            Behaviour::AnswerAndClose(answer) => {
                send(&mut stream, &answer).await?;
                return stream.shutdown().await;
            }
            Behaviour::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Behaviour::Reset => {
                return socket.set_linger(Some(Duration::ZERO));
            }
            Behaviour::Close => return Ok(()),
            Behaviour::CutAfter(bytes, answer) => {
                stream.write_all(&answer.head()).await?;
                stream.write_all(&answer.body[..bytes]).await?;
                stream.flush().await?;
                // A reset would discard data that has not arrived yet.
                tokio::time::sleep(Duration::from_millis(50)).await;
                return socket.set_linger(Some(Duration::ZERO));
            }
            Behaviour::ShortAfter(bytes, answer) => {
                stream.write_all(&answer.head()).await?;
                stream.write_all(&answer.body[..bytes]).await?;
                stream.flush().await?;
                return stream.shutdown().await;
            }
            Behaviour::Drip(interval, answer) => {
                stream.write_all(&answer.head()).await?;
                for byte in &answer.body {
                    stream.write_all(&[*byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(interval).await;
                }
            }
            Behaviour::Stall => std::future::pending().await,
            Behaviour::Huge { status, bytes, announced } => {
                let length = if announced {
                    format!("content-length: {bytes}\r\n")
                } else {
                    "connection: close\r\n".into()
                };
                let head =
                    format!("HTTP/1.1 {status} Huge\r\ncontent-type: application/json\r\n{length}\r\n");
                stream.write_all(head.as_bytes()).await?;
                for _ in 0..bytes.div_ceil(1024) {
                    stream.write_all(&[b' '; 1024]).await?;
                }
                stream.flush().await?;
                return Ok(());
            }
            Behaviour::HeaderFlood => {
                stream.write_all(b"HTTP/1.1 200 Flood\r\n").await?;
                for n in 0..2000 {
                    stream.write_all(format!("x-{n}: {}\r\n", "x".repeat(512)).as_bytes()).await?;
                }
                stream.write_all(b"\r\n").await?;
                stream.flush().await?;
            }
            Behaviour::Held(..) => unreachable!("Held was resolved above"),
        }
    }
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, answer: &Answer) -> std::io::Result<()> {
    stream.write_all(&answer.head()).await?;
    stream.write_all(&answer.body).await?;
    stream.flush().await
}

/// Reads one whole request. `None` if the connection closed before.
async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffered: &mut Vec<u8>,
    connection: usize,
) -> std::io::Result<Option<Recorded>> {
    let head_end = loop {
        if let Some(at) = buffered.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffered).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffered[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut request_line = lines.next().unwrap_or_default().split(' ');
    let method = request_line.next().unwrap_or_default().to_owned();
    let path = request_line.next().unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse::<usize>().expect("a length"));
    while buffered.len() < head_end + length {
        if stream.read_buf(buffered).await? == 0 {
            return Ok(None);
        }
    }
    let raw: Vec<u8> = buffered.drain(..head_end + length).collect();
    let body = raw[head_end..].to_vec();
    Ok(Some(Recorded { connection, raw, method, path, headers, body }))
}

fn issue(script: &mut Script, login: Option<String>) -> String {
    script.issued += 1;
    let token = format!("OTT-{}", script.issued);
    let login = login.unwrap_or_else(|| format!("user-of-{token}"));
    script.unspent.insert(token.clone(), login);
    token
}

/// The response of a healthy platform. It spends the token even if a different response or none is
/// sent, as can happen in practice.
fn healthy_answer(request: &Recorded, script: &mut Script) -> Answer {
    match request.path.as_str() {
        TOKEN => Answer::json(200, r#"{"access_token":"ACCESS","expires_in":7200,"token_type":"bearer"}"#),
        OTT => {
            let request: serde_json::Value = serde_json::from_str(request.text()).unwrap_or_default();
            let token = issue(script, request["login"].as_str().map(str::to_owned));
            Answer::json(200, format!(r#"{{"ott":"{token}"}}"#))
        }
        LOGIN => {
            let token = request.text().trim_start_matches(r#"{"ott":""#).trim_end_matches(r#""}"#);
            let Some(login) = script.unspent.remove(token) else {
                return Answer::json(401, r#"{"error":{"code":401,"message":"the token is not valid"}}"#);
            };
            let login = serde_json::Value::from(login);
            Answer::json(200, format!(r#"{{"id":"42","login":{login},"enabled":true}}"#))
                .header("set-cookie", format!("sid=SESSION-OF-{token}; Path=/; HttpOnly"))
        }
        LOGOUT => Answer::empty(204),
        _ => Answer::empty(404),
    }
}
