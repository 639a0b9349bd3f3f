//! Minimal HTTP client that exposes the raw response.

use std::fmt::Write as _;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Sandbox;

/// One request, on its own connection.
#[derive(Clone)]
pub(super) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn new(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(super) fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn basic(self, id: &str, secret: &str) -> Self {
        let credentials = STANDARD.encode(format!("{id}:{secret}"));
        self.header("Authorization", &format!("Basic {credentials}"))
    }

    pub(super) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(super) fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("Content-Type", content_type)
    }

    pub(super) fn json(self, body: &str) -> Self {
        self.body("application/json", body)
    }

    pub(super) fn form(self, body: &str) -> Self {
        self.body("application/x-www-form-urlencoded", body)
    }

    /// Sends the request and reads until the connection is closed.
    pub(super) async fn send_raw(&self, address: SocketAddr) -> (Vec<u8>, std::io::Result<()>) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if self.method != "GET" {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        stream.write_all(&self.body).await.unwrap();
        let mut read = Vec::new();
        let end = stream.read_to_end(&mut read).await.map(|_| ());
        (read, end)
    }

    pub(super) async fn send(&self, sandbox: &Sandbox) -> Answer {
        let (read, end) = self.send_raw(sandbox.local_addr()).await;
        end.unwrap();
        Answer::parse(&read)
    }
}

impl Answer {
    pub(super) fn parse(read: &[u8]) -> Self {
        let end = read.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(read[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let answer = Self { status, headers, body: read[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") { answer.dechunked() } else { answer }
    }

    fn dechunked(mut self) -> Self {
        let mut rest = self.body.as_slice();
        let mut whole = Vec::new();
        loop {
            let end = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk's length");
            let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            if length == 0 {
                break;
            }
            whole.extend_from_slice(&rest[end + 2..end + 2 + length]);
            rest = &rest[end + 2 + length + 2..];
        }
        self.body = whole;
        self
    }

    /// Returns the only header with this name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} is repeated");
        values.first().copied()
    }

    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json; charset=utf-8"));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the status and the API code of a documented error body.
    pub(super) fn error(&self) -> (u16, u64) {
        let body = self.json();
        let error = &body["error"];
        assert_eq!(error["domain"], "PlatformAccountServer", "{body}");
        assert!(error["message"].is_string() && error["details"]["info"].is_string(), "{body}");
        assert!(error["details"]["addition"].is_array() && error["context"].is_object(), "{body}");
        (self.status, error["code"].as_u64().unwrap())
    }

    /// Returns the cookies that were set, as a `Cookie` header.
    pub(super) fn cookie_header(&self) -> String {
        let pairs: Vec<_> =
            self.all("set-cookie").iter().map(|cookie| cookie.split(';').next().unwrap()).collect();
        assert!(!pairs.is_empty(), "no cookie was set: {}", self.status);
        pairs.join("; ")
    }
}
