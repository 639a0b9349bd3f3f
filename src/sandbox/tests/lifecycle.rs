use std::io::Write;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::sandbox::{StartError, TOKEN_MARK};

#[tokio::test]
async fn an_address_in_use_is_reported() {
    let first = sandbox().await;
    let listen = first.local_addr();
    let error = start(Settings { listen, ..settings() }).await.unwrap_err();
    assert!(matches!(error, StartError::AddressInUse { address } if address == listen));
    assert_eq!(error.to_string(), format!("{listen} is in use by another program"));
}

#[tokio::test]
async fn a_foreign_address_is_a_listen_error() {
    let listen = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = start(Settings { listen, ..settings() }).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { address, .. } if address == listen));
}

#[tokio::test]
async fn stop_completes_requests_in_flight_and_frees_the_address() {
    let sandbox = sandbox().await;
    let address = sandbox.local_addr();
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(b"POST /api/2/idp/ott/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        .await
        .unwrap();
    busy.write_all(b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n").await.unwrap();
    let mut continued = [0; 25];
    busy.read_exact(&mut continued).await.unwrap();
    let finish = async {
        busy.write_all(b"{}").await.unwrap();
        let mut read = Vec::new();
        busy.read_to_end(&mut read).await.unwrap();
        Answer::parse(&read)
    };
    let stop = tokio::time::timeout(Duration::from_mins(2), sandbox.stop());
    let (answer, stopped) = tokio::join!(finish, stop);
    stopped.unwrap();
    assert_eq!(answer.error(), (400, 400));
    start(Settings { listen: address, ..settings() }).await.unwrap();
}

#[tokio::test]
async fn an_incomplete_body_times_out() {
    let sandbox = sandbox().await;
    let mut stream = TcpStream::connect(sandbox.local_addr()).await.unwrap();
    let head = "POST /api/2/idp/ott/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                Content-Length: 10\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut continued = [0; 25];
    stream.read_exact(&mut continued).await.unwrap();
    pass(Duration::from_secs(10)).await;
    let mut read = Vec::new();
    let end = tokio::time::timeout(Duration::from_mins(2), stream.read_to_end(&mut read)).await;
    end.expect("the body times out").unwrap();
    assert_eq!(Answer::parse(&read).error(), (408, 408));
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_75_seconds() {
    let sandbox = sandbox().await;
    let mut stream = TcpStream::connect(sandbox.local_addr()).await.unwrap();
    let get = async |stream: &mut TcpStream| {
        stream.write_all(b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await?);
        }
        Ok::<_, std::io::Error>(Answer::parse(&read).status)
    };
    assert_eq!(get(&mut stream).await.unwrap(), 204);
    pass(Duration::from_secs(74)).await;
    assert_eq!(get(&mut stream).await.unwrap(), 204);
    pass(Duration::from_secs(76)).await;
    let end = tokio::time::timeout(Duration::from_mins(2), stream.read_u8()).await;
    assert!(end.expect("the connection is closed").is_err());
}

#[tokio::test]
async fn the_log_has_one_line_per_request_and_no_secret() {
    let written = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(written.clone())
        .finish();
    // With only one dispatcher, an event that a thread of another test reaches first would be disabled
    // for this thread too.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let guard = tracing::subscriber::set_default(subscriber);
    let sandbox = sandbox().await;
    let cookies = session(&sandbox, JOHN).await;
    Request::get("/api/2/users/me?ott=SANDBOX-x").header("Cookie", &cookies).send(&sandbox).await;
    Request::get("/api/2/idp/logout").header("Cookie", &cookies).send(&sandbox).await;
    Request::get("/SANDBOX-path").send(&sandbox).await;
    issue(&sandbox, &for_login("fault+503@sandbox")).await;
    drop(guard);

    let text = written.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("sandbox request completed")).collect();
    assert_eq!(lines.len(), 8, "{text}");
    assert!(lines[1].contains("http.method=POST http.route=\"/api/2/idp/ott\" http.status=200"), "{text}");
    assert!(lines[1].contains("user.login=\"johncustomer@mysite.com\""), "{text}");
    assert!(lines[5].contains("http.route=\"unknown\" http.status=404"), "{text}");
    assert!(lines[7].contains("http.status=503") && lines[7].contains("fault=503"), "{text}");
    for secret in [TOKEN_MARK, "sandbox-secret", "Basic ", "Bearer "] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// Captured log output.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
