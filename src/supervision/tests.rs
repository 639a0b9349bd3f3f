//! Restarts of duties, on paused clocks.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{sync::mpsc, time::Instant};

use super::*;
use crate::{base::clock, observe::telemetry::metrics::Metrics};

struct Fixture {
    metrics: Metrics,
    supervisor: Supervisor,
    stop: CancellationToken,
}

impl Fixture {
    fn new() -> Self {
        let (metrics, stop) = (Metrics::new(), CancellationToken::new());
        let supervisor = Supervisor::new(metrics.duties().clone(), stop.clone());
        Self { metrics, supervisor, stop }
    }

    fn down(&self) -> Vec<String> {
        self.metrics.duties().down().iter().map(ToString::to_string).collect()
    }

    fn sample(&self, name: &str, duty: &str) -> Option<String> {
        let text = self.metrics.render();
        let prefix = format!("{name}{{duty=\"{duty}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
    }
}

/// Starts a duty that fails `failures` times, in the given way, and then keeps running. The
/// receiver gets the number and the time of each start.
fn failing(
    fixture: &Fixture,
    failures: u32,
    fail: impl Fn() -> Exit + Clone + Send + 'static,
) -> mpsc::UnboundedReceiver<(u32, Instant)> {
    let (starts, started) = mpsc::unbounded_channel();
    fixture.supervisor.start(Duty::AccessToken, Some("eu2"), 0, move |runs: &mut u32| {
        let (starts, fail) = (starts.clone(), fail.clone());
        Box::pin(async move {
            *runs += 1;
            let _ = starts.send((*runs, clock::now()));
            if *runs > failures {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            fail()
        })
    });
    started
}

#[tokio::test(start_paused = true)]
async fn duty_is_restarted_with_its_state_after_any_kind_of_end() {
    let ways: [fn() -> Exit; 3] =
        [|| panic!("a defect"), || Exit::Returned, || Exit::Failed("a cause".to_owned())];
    for fail in ways {
        let fixture = Fixture::new();
        let mut started = failing(&fixture, 4, fail);
        let mut times = Vec::new();
        for expected in 1..=5 {
            let (run, at) = started.recv().await.expect("the duty is restarted");
            assert_eq!(run, expected, "the state is kept");
            times.push(at);
        }
        let pauses: Vec<u128> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800]);
        assert_eq!(fixture.sample("ott_gateway_duty_restarts_total", "access_token").as_deref(), Some("4"));
        assert_eq!(fixture.down(), [""; 0], "the duty runs again within ten seconds");
        assert_eq!(fixture.sample("ott_gateway_duty_up", "access_token").as_deref(), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn failing_duty_is_down_after_ten_seconds_until_it_has_run_for_five() {
    let fixture = Fixture::new();
    // Failures at 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3 and 16.3 s.
    let mut started = failing(&fixture, 9, || panic!("a defect"));
    let (_, first) = started.recv().await.expect("a start");
    tokio::time::sleep_until(first + Duration::from_millis(9_900)).await;
    assert_eq!(fixture.down(), [""; 0]);
    tokio::time::sleep_until(first + Duration::from_millis(10_100)).await;
    assert_eq!(fixture.down(), ["duty access_token of \"eu2\" has been failing for 10 s"]);
    assert_eq!(fixture.sample("ott_gateway_duty_up", "access_token").as_deref(), Some("0"));
    // The tenth run starts at 21.3 s and keeps running.
    tokio::time::sleep_until(first + Duration::from_millis(26_200)).await;
    assert_eq!(fixture.down(), ["duty access_token of \"eu2\" has been failing for 26 s"]);
    tokio::time::sleep_until(first + Duration::from_millis(26_400)).await;
    assert_eq!(fixture.down(), [""; 0]);
    assert_eq!(fixture.sample("ott_gateway_duty_up", "access_token").as_deref(), Some("1"));
    assert_eq!(fixture.sample("ott_gateway_duty_restarts_total", "access_token").as_deref(), Some("9"));
}

#[tokio::test(start_paused = true)]
async fn infrequent_failures_do_not_increase_the_delay() {
    let fixture = Fixture::new();
    let runs = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&runs);
    fixture.supervisor.start(Duty::AccessRules, None, (), move |()| {
        seen.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { sleep(Duration::from_secs(6)).await })
    });
    // 6.1 s per run, so the delay does not grow.
    sleep(Duration::from_millis(61_050)).await;
    assert_eq!(runs.load(Ordering::SeqCst), 11);
    assert_eq!(fixture.down(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn finished_duty_is_not_restarted_and_not_down() {
    let fixture = Fixture::new();
    fixture.supervisor.start(Duty::DrainHealth, None, (), |()| Box::pin(async { Exit::Finished }));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(fixture.down(), [""; 0]);
    assert_eq!(fixture.sample("ott_gateway_duty_up", "drain_health"), None, "the series is removed");
    assert_eq!(fixture.sample("ott_gateway_duty_restarts_total", "drain_health").as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn cancellation_stops_running_duties_and_those_between_two_runs() {
    let fixture = Fixture::new();
    let mut running = failing(&fixture, 0, || Exit::Returned);
    let mut resting = failing(&fixture, u32::MAX, || panic!("a defect"));
    running.recv().await.expect("a start");
    for _ in 0..10 {
        resting.recv().await.expect("a start");
    }
    fixture.stop.cancel();
    fixture.supervisor.stopped().await;
    assert_eq!(running.recv().await, None);
    assert_eq!(resting.recv().await, None);
    assert_eq!(fixture.sample("ott_gateway_duty_up", "access_token"), None);
}
