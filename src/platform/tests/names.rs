//! A platform whose name takes long to look up.

use std::time::Duration;

use super::fixture::*;
use crate::credential::Credential;

/// A client that knows the server by a name whose lookup takes that long.
fn client_by_name(upstream: &Upstream, limits: Limits, lookup: Duration) -> PlatformClient {
    let address = upstream.address();
    let settings = settings(&format!("http://localhost:{}", address.port()), limits);
    let resolver = Resolver::answering_after(lookup, address.ip());
    let mut http = HttpSettings::new(settings.data_center.base_url().clone(), shared_tls(), resolver);
    http.connect_timeout = PATIENCE;
    client_over(settings, http, Credential::for_test())
}

#[tokio::test]
async fn a_lookup_that_takes_longer_than_an_attempt_uses_none_up() {
    let upstream = Upstream::http().await;
    let attempt_timeout = Duration::from_secs(4);
    let limits = Limits { attempt_timeout, login_timeout: attempt_timeout, ..quick() };
    let client = client_by_name(&upstream, limits, Duration::from_millis(4500));
    // More calls than there are retries in a second.
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
async fn a_call_that_waits_for_a_lookup_in_vain_was_not_sent_and_the_next_one_succeeds() {
    let upstream = Upstream::http().await;
    let client = client_by_name(&upstream, quick(), Duration::from_millis(5500));
    let (minting, spending) = (call_with(Duration::from_secs(3)), call_with(Duration::from_secs(3)));
    let (issued, logged_in) = tokio::join!(issue(&client, &minting), log_in(&client, "OTT-1", &spending));
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
