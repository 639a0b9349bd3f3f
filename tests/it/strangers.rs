//! Effect of unidentified callers on identified ones.

use std::{fmt::Write as _, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Barrier, Semaphore},
    task::JoinSet,
};

use crate::support::{
    calling::{issued, metric, until},
    gateway::Setup,
    issuer::{Issuer, forged},
    upstream::Upstream,
};

const BEARER: &str = "Bearer 5Bd0mXk2aWQ1rTz7uYc9pL3sVn6eHf8g";
const CONNECTIONS: usize = 45;
const STREAMS: usize = 100;
/// Number of calls of the honest caller during a flood.
const CALLS: usize = 136;

/// URL of a server that accepts connections and never responds.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jwts_of_unknown_keys_with_a_silent_issuer_do_not_affect_an_identified_caller() {
    let platform = Upstream::http().await;
    let url = silent().await;
    let token = BEARER.strip_prefix("Bearer ").unwrap();
    let hash = digest(&SHA256, token.as_bytes());
    let hash = hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let gateway = Setup::for_platform(platform.address())
        // The flood keeps a slow machine busy for longer than the default deadline.
        .replacing("[server]", "[server]\nmax_deadline = \"60s\"")
        .replacing(r#"callers = ["anonymous"]"#, r#"callers = ["token:shop"]"#)
        .replacing(
            "[audit]",
            &format!(
                "[callers.jwt]\nissuer = \"https://issuer.example\"\naudience = \"ott-gateway\"\n\
                 jwks_url = \"{url}\"\n[callers.tokens]\nshop = \"sha256:{hash}\"\n[audit]"
            ),
        )
        .start();
    let honest = gateway.channel().await;
    assert_eq!(issued(&honest, &[("authorization", BEARER)]).await, "OK");

    // The first fetch takes 5 s and fails.
    let strangers = Arc::new(Barrier::new(CONNECTIONS + 1));
    let mut flood = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let (channel, strangers) = (gateway.channel().await, Arc::clone(&strangers));
        flood.spawn(async move {
            strangers.wait().await;
            let calls = (0..STREAMS).map(|stream| {
                let made_up = json!({ "alg": "ES256", "kid": format!("made-up-{connection}-{stream}") });
                let bearer = forged(&made_up, &[0; 64]);
                let channel = channel.clone();
                async move { issued(&channel, &[("authorization", &bearer)]).await }
            });
            join_all(calls).await
        });
    }
    strangers.wait().await;
    for call in 0..CALLS {
        assert_eq!(issued(&honest, &[("authorization", BEARER)]).await, "OK", "call {call}");
    }
    while let Some(answers) = flood.join_next().await {
        for answer in answers.unwrap() {
            assert_eq!(answer, "Unavailable CALLER_UNAUTHENTICATED", "the caller is not blamed");
        }
    }
    let admin = gateway.admin();
    let mut results = Vec::new();
    for result in ["fetched", "failed", "timed_out", "issuer_failing", "total_limit", "peer_limit"] {
        results.push(metric(admin, &format!("ott_gateway_jwt_key_waits_total{{result=\"{result}\"}}")).await);
    }
    assert!((results.iter().sum::<f64>() - 4500.0).abs() < 0.5, "every call is counted: {results:?}");
    assert!(results[0] < 0.5 && results[5] > 0.5, "few calls per address wait: {results:?}");
    assert!(metric(admin, "ott_gateway_calls_shed_total{limit=\"in_flight\"}").await < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_key_is_used_at_once_while_a_fetch_hangs() {
    let platform = Upstream::http().await;
    let issuer = Issuer::new("k1");
    let keys = issuer.jwks();
    // Responds only to the first request.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let hanging = Arc::new(Semaphore::new(0));
    let hangs = Arc::clone(&hanging);
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut first, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        assert!(first.read(&mut head).await.unwrap() > 0);
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{keys}",
            keys.len()
        );
        first.write_all(answer.as_bytes()).await.unwrap();
        let mut connections = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.push(stream);
            hangs.add_permits(1);
        }
    });
    let gateway = Setup::for_platform(platform.address())
        .replacing(r#"callers = ["anonymous"]"#, r#"callers = ["jwt:*"]"#)
        .replacing(
            "[audit]",
            &format!(
                "[callers.jwt]\nissuer = \"https://issuer.example\"\naudience = \"ott-gateway\"\n\
                 jwks_url = \"{url}\"\n[audit]"
            ),
        )
        .start();
    let channel = gateway.channel().await;
    let known = issuer.bearer(json!({}));
    let is_known = async || issued(&channel, &[("authorization", &known)]).await == "OK";
    until("the keys are fetched", is_known).await;
    // After 10 s, an unknown key causes a fetch, which hangs.
    let made_up = forged(&json!({ "alg": "ES256", "kid": "made-up" }), &[0; 64]);
    let hangs_now = async || {
        issued(&channel, &[("authorization", &made_up)]).await;
        hanging.available_permits() > 0
    };
    until("a fetch hangs", hangs_now).await;
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (channel, made_up) = (channel.clone(), made_up.clone());
            tokio::spawn(async move { issued(&channel, &[("authorization", &made_up)]).await })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(issued(&channel, &[("authorization", &known)]).await, "OK");
    }
    for call in waiting {
        assert_eq!(call.await.unwrap(), "Unavailable CALLER_UNAUTHENTICATED");
    }
}
