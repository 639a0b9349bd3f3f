//! Slow name lookups of the platform.

use std::time::Duration;

use super::fixture::*;
use crate::{credential::Credential, platform::LogoutOutcome};

/// Creates a client that addresses the server by a name whose lookup takes `lookup`.
fn client_by_name(upstream: &Upstream, limits: Limits, lookup: Duration) -> ApiClient {
    client_with(Resolver::answering_after(lookup, upstream.address().ip()), upstream, limits)
}

fn client_with(resolver: Resolver, upstream: &Upstream, limits: Limits) -> ApiClient {
    let address = upstream.address();
    let settings = settings(&format!("http://localhost:{}", address.port()), limits);
    let mut http = HttpSettings::new(settings.data_center.base_url().clone(), shared_tls(), resolver);
    http.connect_timeout = PATIENCE;
    client_over(settings, http, Credential::for_test())
}

#[tokio::test]
async fn slow_lookup_uses_up_no_attempt() {
    let upstream = Upstream::http().await;
    let attempt_timeout = Duration::from_secs(4);
    let limits = Limits { attempt_timeout, login_timeout: attempt_timeout, ..quick() };
    let client = client_by_name(&upstream, limits, Duration::from_millis(4500));
    // More calls than retries in a second.
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let call = call();
                issue(&client, &call).await.map(|_| call.attempts())
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), 1);
    }
    logs_in(&client, &upstream).await;
}

#[tokio::test]
async fn call_that_times_out_during_a_lookup_was_not_sent_and_the_next_succeeds() {
    let upstream = Upstream::http().await;
    let client = client_by_name(&upstream, quick(), Duration::from_millis(5500));
    let (issuing, spending) = (call_with(Duration::from_secs(3)), call_with(Duration::from_secs(3)));
    let (issued, logged_in) = tokio::join!(issue(&client, &issuing), log_in(&client, "OTT-1", &spending));
    for error in [issued.unwrap_err(), logged_in.unwrap_err()] {
        let text = error.kind.to_string();
        assert!(
            text.starts_with("cannot reach the platform: name lookup of localhost: no answer for "),
            "{text}"
        );
        assert_eq!(error.certainty, Certainty::NotSent);
    }
    assert_eq!(upstream.connections(), 0);
    issues(&client).await;
    logs_in(&client, &upstream).await;
}

#[tokio::test]
async fn attempt_that_waits_for_addresses_counts_once() {
    let upstream = Upstream::http().await;
    let resolver = Resolver::answering_after(Duration::from_millis(300), upstream.address().ip());
    let client = client_with(resolver.clone(), &upstream, quick());
    logs_in(&client, &upstream).await;
    for round in 1..4 {
        // Over HTTP/1.1 every login opens a new connection.
        resolver.forget_addresses();
        let call = call();
        log_in(&client, &upstream.token(), &call).await.unwrap();
        assert_eq!((call.attempts(), call.certainty()), (1, Certainty::Done));
        assert_eq!(upstream.count(LOGIN), 1 + round);
    }
}

#[tokio::test]
async fn logout_without_known_addresses_waits_for_the_lookup() {
    let upstream = Upstream::http().await;
    let resolver = Resolver::answering_after(Duration::from_millis(300), upstream.address().ip());
    let client = client_with(resolver.clone(), &upstream, quick());
    let session = log_in(&client, &upstream.token(), &call()).await.unwrap().session;
    resolver.forget_addresses();
    assert_eq!(client.log_out(&session, &call()).await, LogoutOutcome::LoggedOut);
}
