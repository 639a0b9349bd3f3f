//! No secret is logged, and repeated problems are logged once.

use super::*;
use crate::observe::telemetry::logging::captured::CapturedLog;

/// The server returns secrets in every possible place.
#[tokio::test]
async fn neither_the_secret_nor_a_token_nor_a_body_is_ever_logged() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let log = CapturedLog::start();
    let bodies = [
        ("200 OK", r#"{"access_token":"canary token","expires_in":7200}"#),
        ("200 OK", r#"{"access_token":"canary-token","expires_in":"canary"}"#),
        ("200 OK", r#"{"access_token":"canary-token","#),
        ("400 Bad Request", r#"{"error":"canary"}"#),
        ("500 Internal Server Error", "canary"),
        ("200 OK", r#"{"access_token":"canary-token","expires_in":7200}"#),
    ];
    for (status, body) in bodies {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut request = Vec::new();
            while !request.ends_with(b"grant_type=client_credentials") {
                if stream.read_buf(&mut request).await? == 0 {
                    break;
                }
            }
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        });
        let source = SecretSource::Fixed(secret("canary-secret"));
        let (credential, task) = with_exchange(
            Arc::from("eu2"),
            source,
            http::exchange(&url),
            ApiClientMetrics::default(),
            WallClock::system(),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        let answer = credential.bearer(soon()).await;
        let shown = format!("{answer:?} {credential:?}");
        assert!(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"), "{shown}");
        stop.cancel();
        task.await.expect("no panic");
        server.await.expect("no panic").expect("the server received a request");
    }
    let text = log.text();
    assert!(text.contains("cannot refresh access token") && text.contains("access token fetched"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    // The secret in Basic authentication.
    assert!(!text.contains("dGhlLWlk"), "{text}");
}

#[test]
fn clock_skew_is_warned_about_once_until_it_ends() {
    let log = CapturedLog::start();
    let exchange = http::exchange("http://127.0.0.1:1/");
    let ours = WallClock::system().now();
    for (apart, warnings) in [(29, 0), (31, 1), (32, 1), (0, 1), (31, 2)] {
        exchange.note_skew(ours + seconds(apart), ours);
        assert_eq!(log.text().matches("platform clock differs from ours").count(), warnings, "{apart}");
    }
    exchange.note_skew(ours, ours);
    exchange.note_skew(ours, ours + seconds(31));
    assert!(log.text().contains("clock.skew_s=-31"), "{}", log.text());
}

#[tokio::test]
async fn unclear_lifetime_is_warned_about_once_per_change_with_the_api_client() {
    let log = CapturedLog::start();
    let server = http::Server::start().await;
    let exchange = server.exchange();
    let unclear = ["", r#","expires_in":"canary""#, r#","expires_in":31536000"#];
    let clear = r#","expires_in":7200"#;
    for (rest, warnings) in [
        (clear, 0),
        (unclear[0], 1),
        (unclear[0], 1),
        (unclear[1], 2),
        (unclear[1], 2),
        (unclear[2], 3),
        (clear, 3),
        (clear, 3),
        (unclear[2], 4),
    ] {
        let body = format!(r#"{{"access_token":"good"{rest}}}"#);
        server.result_of(&exchange, http::Answer::json("200 OK", &body)).await.expect("a token");
        assert_eq!(log.text().matches("access token lifetime unclear").count(), warnings, "{rest}");
    }
    assert!(log.text().contains("api_client.name=eu2") && !log.text().contains("canary"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn same_failure_is_logged_once_a_minute_and_the_recovery_once() {
    let log = CapturedLog::start();
    let mut running = Running::start();
    let start = clock::now();
    let mut requests = 0;
    while clock::now() - start < seconds(600) {
        running.request().await.fail(CredentialErrorKind::Rejected);
        settle().await;
        requests += 1;
    }
    let count = |words: &str| log.text().matches(words).count();
    assert!(requests > 15);
    assert!((5..=11).contains(&count("cannot refresh access token")), "{}", log.text());
    running.request().await.grant(LIFETIME);
    settle().await;
    assert_eq!(count("access token fetched"), 1);
}

#[tokio::test(start_paused = true)]
async fn wall_clock_jump_is_logged_with_the_token_request_that_it_causes() {
    let log = CapturedLog::start();
    let mut running = Running::start_with_token(LIFETIME).await;
    for (jump_ms, jumps) in [(29_000, 0), (31_000, 1), (-31_000, 2)] {
        running.wall.shift_by_ms(jump_ms);
        if jumps == 0 {
            running.is_quiet_for(seconds(60)).await;
            running.wall.shift_by_ms(-jump_ms);
        } else {
            running.request().await.grant(LIFETIME);
            running.token_works().await;
        }
        let text = log.text();
        let lines = text.lines().filter(|line| line.contains("WARN") && line.contains("wall clock jumped"));
        assert_eq!(lines.count(), jumps, "{jump_ms}: {text}");
    }
}
