//! One caller cannot take all places.

use super::*;
use crate::server::message::PREFIX;

const A: (&str, &str) = ("authorization", "Bearer a");
const B: (&str, &str) = ("authorization", "Bearer b");
const HOLD: (&str, &str) = ("x-do", "hold");
const AWAITING_BODY: &str = "ott_gateway_calls_awaiting_body";

/// The counter of calls that a limit refused.
fn shed(limit: &str) -> String {
    format!("ott_gateway_calls_shed_total{{limit=\"{limit}\"}}")
}

async fn start_for_two(change: impl FnOnce(&mut Settings), max_in_flight: Option<u32>) -> Running {
    start_changed(change, |dependencies| {
        dependencies.access = access_with(max_in_flight, two_callers());
    })
    .await
}

#[tokio::test]
async fn half_open_calls_of_one_caller_leave_places_to_others() {
    let running = start_for_two(
        |settings| {
            settings.max_awaited_bodies = 4;
            settings.body_timeout = Duration::from_mins(1);
        },
        None,
    )
    .await;
    let mut greedy = running.client().await;
    let (first, mut first_body) = greedy.half_open(&[A]).await;
    let _second = greedy.half_open(&[A]).await;
    running.metric_is(AWAITING_BODY, 2).await;
    // Also on another connection, because the share belongs to the caller.
    let mut elsewhere = running.client().await;
    for client in [&mut greedy, &mut elsewhere] {
        let (third, _body) = client.half_open(&[A]).await;
        assert_eq!(received(third).await.unwrap().reason(), "OVERLOADED");
    }
    assert_eq!(running.metric(&shed("caller_awaited_bodies")), 2);
    assert_eq!(running.server.in_flight(), 0, "no call is in flight before its body has arrived");

    let mut other = running.client().await;
    let _first_of_b = other.half_open(&[B]).await;
    running.metric_is(AWAITING_BODY, 3).await;
    for _ in 0..20 {
        let answer = other.call(ISSUE, &[B]).await;
        assert_eq!(
            (answer.code(), &answer.headers["x-caller"]),
            (Some(tonic::Code::Ok), &"token:b".parse().unwrap())
        );
    }

    first_body.send_data(Bytes::from_static(&[0; PREFIX]), true).unwrap();
    assert_eq!(received(first).await.unwrap().code(), Some(tonic::Code::Ok), "its body has arrived");
    running.metric_is(AWAITING_BODY, 2).await;
    drop(greedy.half_open(&[A]).await);
    running.metric_is(AWAITING_BODY, 2).await;
}

#[tokio::test]
async fn calls_in_flight_of_one_caller_leave_places_to_others() {
    for (configured, share) in [(None, 3), (Some(2), 2)] {
        let mut running = start_for_two(|settings| settings.max_in_flight = 4, configured).await;
        let mut client = running.client().await;
        let mut held = Vec::new();
        for _ in 0..share {
            held.push(client.send(ISSUE, &[A, HOLD]).await);
            running.next().await;
        }
        assert_eq!(client.call(ISSUE, &[A]).await.reason(), "OVERLOADED", "{configured:?}");
        assert_eq!(running.metric(&shed("caller_in_flight")), 1);
        assert_eq!(client.call(ISSUE, &[B]).await.code(), Some(tonic::Code::Ok), "another caller");
        running.release.add_permits(share);
        for held in held {
            assert_eq!(received(held).await.unwrap().code(), Some(tonic::Code::Ok));
        }
        assert_eq!(client.call(ISSUE, &[A]).await.code(), Some(tonic::Code::Ok));
    }
}

#[tokio::test]
async fn call_whose_body_does_not_arrive_in_time_fails_before_its_deadline() {
    let running = start(|settings| settings.body_timeout = Duration::from_secs(2)).await;
    let mut client = running.client().await;
    let (answer, mut body) = client.half_open(&[]).await;
    body.send_data(Bytes::from_static(&[0, 0, 0]), false).unwrap();
    let answer = received(answer).await.unwrap();
    assert_eq!(
        (answer.code(), &*answer.reason()),
        (Some(tonic::Code::DeadlineExceeded), "DEADLINE_EXCEEDED")
    );
    let status = Status::from_header_map(&answer.headers).unwrap();
    assert!(status.message().contains("did not arrive in time"), "{status:?}");
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["outcome"], "not_sent");
    assert_eq!(running.metric(r#"ott_gateway_security_events_total{kind="slow_body"}"#), 1);
    running.metric_is(AWAITING_BODY, 0).await;
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok), "the connection is still open");
}

#[tokio::test]
async fn deadline_of_a_call_applies_while_its_body_is_awaited() {
    let running = start(|settings| settings.body_timeout = Duration::from_mins(1)).await;
    let mut client = running.client().await;
    let (answer, _body) = client.half_open(&[("grpc-timeout", "100m")]).await;
    assert_eq!(received(answer).await.unwrap().reason(), "DEADLINE_EXCEEDED");
    assert_eq!(running.metric(r#"ott_gateway_security_events_total{kind="slow_body"}"#), 0);
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
}

#[tokio::test]
async fn message_with_an_excessive_length_prefix_is_refused_at_once() {
    let running = start(|settings| settings.body_timeout = Duration::from_mins(1)).await;
    let mut client = running.client().await;
    for prefix in [[0, 0, 0, 0x40, 1], [0, 255, 255, 255, 255]] {
        let (answer, mut body) = client.half_open(&[]).await;
        body.send_data(Bytes::copy_from_slice(&prefix), false).unwrap();
        assert_eq!(received(answer).await.unwrap().reason(), "REQUEST_TOO_LARGE", "{prefix:?}");
    }
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
}

#[tokio::test]
async fn call_whose_body_arrives_after_the_gate_closed_is_refused() {
    let mut running = start(|settings| {
        settings.body_timeout = Duration::from_mins(1);
        settings.drain.linger = SOON;
    })
    .await;
    let mut client = running.client().await;
    let (answer, mut body) = client.half_open(&[]).await;
    running.metric_is(AWAITING_BODY, 1).await;
    let gate = running.calls().gate.clone();
    let drain = tokio::spawn(running.server.drain());
    let closed = async {
        while gate.check().is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, closed).await.expect("the gate closes");
    body.send_data(Bytes::from_static(&[0; PREFIX]), true).unwrap();
    assert_eq!(received(answer).await.unwrap().reason(), "DRAINING");
    assert!(running.entered.try_recv().is_err(), "no handler was called");
    drop(client);
    assert_eq!(drain.await.unwrap().cut_off, 0);
}
