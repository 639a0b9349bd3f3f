//! Renewal of connections, with jitter so that replicas do not reconnect at the same time.

use super::*;
use crate::{
    base::{backoff::assert_spread, clock::HeldClock},
    http_client::{Resolver, tls_config},
    observe::telemetry::logging::captured::CapturedLog,
};

/// Returns settings for a port that nothing listens on.
fn unreachable() -> HttpSettings {
    HttpSettings::new("http://127.0.0.1:9".parse().unwrap(), tls_config(None).unwrap(), Resolver::for_test())
}

#[tokio::test(start_paused = true)]
async fn renewals_are_spread_over_eight_to_twelve_minutes() {
    let settings = unreachable();
    let waits: Vec<Duration> = (0..100).map(|_| next_renewal(&settings) - clock::now()).collect();
    assert_spread(&waits, Duration::from_mins(8), Duration::from_mins(12));
}

#[tokio::test(start_paused = true)]
async fn failed_renewals_are_repeated_after_24_to_36_seconds() {
    let reuse = Reuse { max_idle: Duration::from_secs(30), over_http1: true };
    let connections = Connections::new(unreachable(), reuse, Generation::default()).unwrap();
    let _clock = HeldClock::new();
    let log = CapturedLog::start();
    let mut waits = Vec::new();
    for _ in 0..100 {
        connections.renew().await;
        waits.push(connections.state().renew_at - clock::now());
    }
    assert_spread(&waits, Duration::from_secs(24), Duration::from_secs(36));
    let text = log.text();
    let warnings = text.lines().filter(|line| line.contains("WARN") && line.contains("cannot renew"));
    assert_eq!(warnings.filter(|line| line.contains("refused")).count(), 100);
}

#[tokio::test(start_paused = true)]
async fn renewal_that_panics_does_not_prevent_the_next_one() {
    let reuse = Reuse { max_idle: Duration::from_secs(30), over_http1: true };
    let connections = Connections::new(unreachable(), reuse, Generation::default()).unwrap();
    {
        let mut state = connections.state();
        state.is_renewing = true;
        state.renew_at = clock::now();
    }
    let renewal = Renewal(Arc::clone(&connections));
    let task = tokio::spawn(async move {
        let _renewal = renewal;
        panic!("injected");
    });
    assert!(task.await.unwrap_err().is_panic());
    let wait = connections.state().renew_at - clock::now();
    assert!(!connections.is_renewing());
    assert!((Duration::from_secs(24)..=Duration::from_secs(36)).contains(&wait), "{wait:?}");

    tokio::time::advance(wait).await;
    drop(connections.lease(clock::now()));
    assert!(connections.is_renewing(), "the next lease renews");
}

#[tokio::test]
async fn connections_verified_by_replaced_authorities_take_no_more_requests() {
    let authority = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        crate::base::pki::Authorities::parse(certificate.pem().as_bytes()).unwrap()
    };
    let settings = unreachable();
    let tls = Arc::clone(&settings.tls);
    for over_http1 in [true, false] {
        let reuse = Reuse { max_idle: Duration::from_secs(30), over_http1 };
        for protocol in [HttpProtocol::Http1, HttpProtocol::Http2] {
            let connections = Connections::new(settings.clone(), reuse, Generation::default()).unwrap();
            connections.lease(clock::now()).client().answered(protocol);
            let before = connections.lease(clock::now());
            assert!(before.is_on(connections.lease(clock::now()).client()), "reused");
            assert!(connections.is_usable(&before, clock::now()));
            assert!(tls.replace(&authority()));
            assert!(!connections.is_usable(&before, clock::now()), "{protocol:?}");
            let after = connections.lease(clock::now());
            assert!(
                !after.is_on(before.client()) && connections.is_usable(&after, clock::now()),
                "{protocol:?}"
            );
        }
    }
}
