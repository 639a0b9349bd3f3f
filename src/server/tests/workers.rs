//! Blocked workers get no connections.

use super::*;
use crate::base::clock;

/// Longer than the heartbeat interval of a worker that is not blocked.
const BLOCKED_AFTER: Duration = Duration::from_secs(8);

/// Waits until `count` threads are blocked, and returns their names.
async fn blocked(metrics: &Metrics, count: usize) -> Vec<String> {
    let until = clock::now() + SOON;
    loop {
        let names: Vec<String> =
            metrics.threads().unresponsive().into_iter().map(|thread| thread.thread.into()).collect();
        if names.len() == count {
            return names;
        }
        assert!(clock::now() < until, "blocked: {names:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether the metric of a thread shows that it is up.
fn is_up(metrics: &Metrics, thread: &str) -> bool {
    let text = metrics.render();
    let series = format!("ott_gateway_thread_up{{thread=\"{thread}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&*series)).expect("the thread has a series") == "1"
}

/// Name of the thread that serves a new connection.
async fn thread_of_new_connection(running: &Running) -> String {
    let answer = running.client().await.call(ISSUE, &[]).await;
    answer.headers["x-thread"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn blocked_worker_gets_no_connections_until_it_responds_again() {
    let metrics = Metrics::with_blocked_after(BLOCKED_AFTER);
    let mut running = start_with(metrics.clone(), |settings| {
        settings.worker_threads = NonZeroUsize::new(2);
        settings.max_deadline = NEVER;
    })
    .await;
    assert!(is_up(&metrics, "worker-0") && is_up(&metrics, "worker-1"));
    let mut client = running.client().await;
    let held = client.send(ISSUE, &[("x-do", "block")]).await;
    running.next().await;
    let [name] = &blocked(&metrics, 1).await[..] else { unreachable!() };
    assert!(!is_up(&metrics, name));
    for _ in 0..6 {
        assert_ne!(thread_of_new_connection(&running).await, *name);
    }

    running.release.add_permits(1);
    assert_eq!(received(held).await.unwrap().code(), Some(tonic::Code::Ok));
    blocked(&metrics, 0).await;
    assert!(is_up(&metrics, name));
    // Without its only connection, the worker has the fewest.
    drop(client);
    let until = clock::now() + SOON;
    while thread_of_new_connection(&running).await != *name {
        assert!(clock::now() < until, "the worker gets no connection");
    }
    running.server.drain().await;
    assert!(!metrics.render().contains("ott_gateway_thread_up{"), "stopped workers have no series");
}

#[tokio::test]
async fn connection_is_closed_while_no_worker_responds() {
    let metrics = Metrics::with_blocked_after(BLOCKED_AFTER);
    let mut running = start_with(metrics.clone(), |settings| settings.max_deadline = NEVER).await;
    let mut client = running.client().await;
    let held = client.send(ISSUE, &[("x-do", "block")]).await;
    running.next().await;
    assert_eq!(blocked(&metrics, 1).await, ["worker-0"]);
    let mut refused = frames::Peer::silent(&running).await;
    assert!(refused.closed(SOON).await);

    running.release.add_permits(1);
    assert_eq!(received(held).await.unwrap().code(), Some(tonic::Code::Ok));
    blocked(&metrics, 0).await;
    running.still_serves().await;
}
