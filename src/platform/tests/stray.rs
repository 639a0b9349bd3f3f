//! Stray responses over HTTP/1.1: an extra response shifts all later ones on its connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::fixture::*;
use crate::{credential::Credential, domain::ott::IssuedToken};

/// A platform without HTTP/2, whose responses contain the user of the request.
#[derive(Clone)]
struct Http1Platform {
    port: u16,
    connections: Arc<AtomicUsize>,
    /// Whether the next request gets a stray response before its own.
    stray: Arc<AtomicBool>,
    /// Status and content type of the next response.
    next: Arc<std::sync::Mutex<Option<(u16, &'static str)>>>,
}

impl Http1Platform {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let platform = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            stray: Arc::default(),
            next: Arc::default(),
        };
        let serving = platform.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        platform
    }

    async fn serve(self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut line, mut path, mut length) = (String::new(), String::new(), 0);
            while stream.read_line(&mut line).await? > 0 && line != "\r\n" {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                } else if path.is_empty() {
                    path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                }
                line.clear();
            }
            if path.is_empty() {
                return Ok(());
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let own = match path.as_str() {
                LOGIN => format!(r#"{{"id":"42","login":{}}}"#, body["ott"]),
                _ => format!(r#"{{"ott":{}}}"#, body["login"]),
            };
            if self.stray.swap(false, Ordering::SeqCst) {
                let stray = if path == LOGIN {
                    r#"{"id":"42","login":"OTT-STRAY"}"#
                } else {
                    r#"{"ott":"OTT-STRAY"}"#
                };
                write(&mut stream, 200, "application/json", stray).await?;
                // The proper response arrives during the next request, not on an idle connection.
                sleep(Duration::from_millis(20)).await;
            }
            let (status, kind) = self.next.lock().unwrap().take().unwrap_or((200, "application/json"));
            sleep(Duration::from_millis(20)).await;
            write(&mut stream, status, kind, &own).await?;
        }
    }

    fn client(&self) -> ApiClient {
        let url = format!("http://127.0.0.1:{}", self.port);
        client_of(&url, None, Limits { max_attempts: 1, ..quick() }, Credential::for_test())
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn write(
    stream: &mut BufReader<TcpStream>,
    status: u16,
    kind: &str,
    body: &str,
) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await
}

async fn token_of(client: &ApiClient, login: &str) -> String {
    let issued = client.issue_ott(&issue_permit(subject(login)), &call(), &CallSpan::default()).await;
    let IssuedToken { ott, .. } = issued.expect("a token");
    ott.expose().to_owned()
}

async fn user_of(client: &ApiClient, token: &str) -> String {
    let logged_in = log_in(client, token, &call()).await.expect("an account");
    logged_in.account.text("login").expect("a login")
}

/// Advances the clock of the connections without waiting.
async fn advance(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn stray_response_affects_no_call_after_two_seconds() {
    let platform = Http1Platform::start().await;
    let client = platform.client();
    assert_eq!(token_of(&client, "user-0").await, "user-0");
    assert_eq!(token_of(&client, "user-1").await, "user-1");
    assert_eq!(platform.connections(), 1, "connections are kept for a moment");
    platform.stray.store(true, Ordering::SeqCst);
    assert_eq!(token_of(&client, "user-2").await, "OTT-STRAY");
    assert_eq!(token_of(&client, "user-3").await, "user-2", "all later ones are shifted");
    advance(Duration::from_secs(2)).await;
    for user in 4..20 {
        let user = format!("user-{user}");
        assert_eq!(token_of(&client, &user).await, user);
    }
}

#[tokio::test]
async fn stray_response_affects_only_one_login() {
    let platform = Http1Platform::start().await;
    let client = platform.client();
    for login in 1..4 {
        let token = format!("OTT-{login}");
        assert_eq!(user_of(&client, &token).await, token);
        assert_eq!(platform.connections(), login, "each has a new connection");
    }
    platform.stray.store(true, Ordering::SeqCst);
    assert_eq!(user_of(&client, "OTT-4").await, "OTT-STRAY");
    for login in 5..20 {
        let token = format!("OTT-{login}");
        assert_eq!(user_of(&client, &token).await, token);
    }
}

/// The protocol of the platform is unknown before the first response.
#[tokio::test]
async fn first_logins_do_not_share_connections() {
    let platform = Http1Platform::start().await;
    let client = platform.client();
    let tokens: Vec<String> = (0..20).map(|login| format!("OTT-{login}")).collect();
    let users = futures_util::future::join_all(tokens.iter().map(|token| user_of(&client, token))).await;
    assert_eq!(users, tokens);
    assert_eq!(platform.connections(), 20);
}

#[tokio::test]
async fn connection_is_not_reused_after_a_response_that_is_not_from_the_platform() {
    let platform = Http1Platform::start().await;
    let client = platform.client();
    token_of(&client, "user").await;
    for (opened, next) in [
        (500, "application/json"),
        (503, "text/html"),
        (429, "application/json"),
        (200, "text/html"),
        (404, "text/html"),
    ]
    .into_iter()
    .enumerate()
    {
        *platform.next.lock().unwrap() = Some(next);
        assert!(issue(&client, &call()).await.is_err(), "{next:?}");
        assert_eq!(platform.connections(), opened + 1);
        assert_eq!(token_of(&client, "user").await, "user");
        assert_eq!(platform.connections(), opened + 2, "{next:?}");
    }
}

#[tokio::test]
async fn retiring_connections_applies_to_every_worker() {
    let platform = Http1Platform::start().await;
    let first = platform.client();
    let settings = first.state.settings.clone();
    let http = http_settings(&settings, shared_tls());
    let second = ApiClient::new(Arc::clone(first.state()), http).expect("an HTTP client");
    for client in [&first, &second, &first, &second] {
        token_of(client, "user").await;
    }
    assert_eq!(platform.connections(), 2);
    first.retire_connections();
    for (client, connections) in [(&first, 3), (&second, 4)] {
        assert_eq!(token_of(client, "user").await, "user");
        assert_eq!(platform.connections(), connections);
    }
}
