//! The text of `/metrics`, rendered once for all waiting requests.
//!
//! Rendering is the only expensive operation of the admin port. Regardless of the number of
//! requests, it happens at most once per [`MIN_INTERVAL`], and each request still gets values from
//! after its arrival.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Mutex, time::sleep_until};

use crate::{
    base::clock::{self, Instant},
    observe::telemetry::metrics::Metrics,
};

/// Minimum interval between renderings. Scrapes are seconds apart.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// The page with all metrics.
#[derive(Debug)]
pub(super) struct MetricsPage {
    metrics: Metrics,
    /// Number of renderings that have begun.
    begun: AtomicU64,
    latest: Mutex<Rendering>,
}

#[derive(Debug, Default)]
struct Rendering {
    /// Position among all renderings, from 1.
    number: u64,
    begun: Option<Instant>,
    text: Bytes,
}

impl MetricsPage {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, begun: AtomicU64::new(0), latest: Mutex::default() }
    }

    /// Returns a rendering that began after this was called.
    pub(super) async fn current(&self) -> Bytes {
        let begun_before = self.begun.load(Ordering::Acquire);
        // Held while waiting for the interval, so that all requests that arrive in the meantime
        // share the rendering.
        let mut latest = self.latest.lock().await;
        if latest.number <= begun_before {
            if let Some(begun) = latest.begun {
                sleep_until(begun + MIN_INTERVAL).await;
            }
            latest.begun = Some(clock::now());
            latest.number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            latest.text = Bytes::from(self.metrics.render());
        }
        latest.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    const PANICS: &str = "\nott_gateway_panics_total ";

    fn panics(text: &Bytes) -> u64 {
        let text = std::str::from_utf8(text).unwrap();
        let (_, rest) = text.split_once(PANICS).unwrap();
        rest.lines().next().unwrap().parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_share_a_rendering_and_renderings_have_a_minimum_interval() {
        let page = MetricsPage::new(Metrics::new());
        let started = clock::now();
        for round in 1..=10 {
            join_all((0..60).map(|_| page.current())).await;
            // The very first request is answered at once, and the other 59 share the second
            // rendering.
            assert_eq!(page.begun.load(Ordering::Relaxed), round + 1);
            assert!(started.elapsed() >= MIN_INTERVAL * u32::try_from(round).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_never_gets_values_from_before_its_arrival() {
        let metrics = Metrics::new();
        let page = MetricsPage::new(metrics.clone());
        for round in 0..5 {
            assert_eq!(panics(&page.current().await), 2 * round);
            metrics.panic();
            let mut early = Box::pin(page.current());
            assert!(early.as_mut().now_or_never().is_none(), "the request waits for the interval");
            metrics.panic();
            let (early, late) = tokio::join!(early, page.current());
            assert_eq!((panics(&early), panics(&late)), (2 * round + 2, 2 * round + 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_request_does_not_delay_the_others() {
        let page = MetricsPage::new(Metrics::new());
        page.current().await;
        let mut cancelled = Box::pin(page.current());
        assert!(cancelled.as_mut().now_or_never().is_none());
        let (text, ()) = tokio::join!(page.current(), async { drop(cancelled) });
        assert_eq!(panics(&text), 0);
    }
}
