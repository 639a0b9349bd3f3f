//! The outcome of single calls.

use super::*;
use crate::{base::clock, domain::call::Certainty};

#[tokio::test]
async fn call_past_its_deadline_gets_deadline_exceeded_and_keeps_its_connection() {
    let mut running = start(|settings| settings.max_deadline = NEVER).await;
    let mut client = running.client().await;
    let sent = clock::now();
    let answer = client.call(ISSUE, &[("x-do", "hold"), ("grpc-timeout", "2S")]).await;
    let took = sent.elapsed();
    assert_eq!(answer.reason(), "DEADLINE_EXCEEDED");
    assert!(took >= Duration::from_millis(1980), "not before the margin: {took:?}");
    let call = running.next().await;
    assert!(call.is_abandoned(), "the handler's own task can see it");
    assert!(!call.claim_record(), "the record is written");
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
}

#[tokio::test]
async fn call_without_a_deadline_gets_the_maximum() {
    let running = start(|settings| settings.max_deadline = Duration::from_millis(100)).await;
    let mut client = running.client().await;
    for headers in [&[("x-do", "hold")][..], &[("x-do", "hold"), ("grpc-timeout", "1H")]] {
        assert_eq!(client.call(ISSUE, headers).await.reason(), "DEADLINE_EXCEEDED");
    }
}

#[tokio::test]
async fn malformed_timeout_is_refused_before_the_handler() {
    let mut running = start(|_| {}).await;
    let mut client = running.client().await;
    for bad in ["", "1", "-1S", "123456789S", "1.5S", "soon"] {
        let answer = client.call(ISSUE, &[("grpc-timeout", bad)]).await;
        assert_eq!(answer.reason(), "INVALID_REQUEST", "{bad:?}");
    }
    assert!(running.entered.try_recv().is_err(), "no handler was called");
    assert_eq!(client.call(ISSUE, &[("grpc-timeout", "1S")]).await.code(), Some(tonic::Code::Ok));
}

#[tokio::test]
async fn only_grpc_is_served() {
    let running = start(|_| {}).await;
    let mut client = running.client().await;
    let others = [
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/grpc-web-text", false),
        ("application/connect+proto", false),
        ("application/proto", false),
        ("application/json", false),
        ("application/grpc+json", true),
        ("text/plain", false),
        ("", false),
    ];
    for (other, is_grpc) in others {
        let headers = [("content-type", other), ("x-request-id", "call-1")];
        let response = client.send(ISSUE, &headers).await;
        let (head, mut body) =
            timeout(SOON, response).await.expect("in time").expect("a response").into_parts();
        let answer = Answer { http: head.status, headers: head.headers };
        assert_eq!(answer.headers["x-request-id"], "call-1");
        assert_eq!(answer.http, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{other:?}");
        assert_eq!(answer.reason(), "INVALID_REQUEST");
        let status = Status::from_header_map(&answer.headers).expect("a status");
        assert_eq!(
            status.message(),
            "content-type: must be application/grpc or application/grpc+proto. Send gRPC over HTTP/2; gRPC-Web, \
             Connect and JSON are not served."
        );
        let mut text = Vec::new();
        while let Some(data) = body.data().await {
            text.extend_from_slice(&data.expect("data"));
        }
        if is_grpc {
            assert_eq!(
                (&answer.headers["content-type"], text.len()),
                (&"application/grpc".parse().unwrap(), 0)
            );
        } else {
            assert!(String::from_utf8_lossy(&text).contains("gRPC over HTTP/2 only"), "{other:?}");
            assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
        }
    }
    let get = Request::get(format!("http://gateway{ISSUE}")).header("content-type", "application/grpc");
    let (answer, _) = client.send.send_request(get.body(()).unwrap(), true).unwrap();
    let answer = received(answer).await.unwrap();
    assert_eq!(answer.http, StatusCode::METHOD_NOT_ALLOWED);
    let status = Status::from_header_map(&answer.headers).expect("a status");
    assert!(status.message().starts_with(":method: must be POST."), "{status:?}");
    for good in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
        assert_eq!(client.call(ISSUE, &[("content-type", good)]).await.code(), Some(tonic::Code::Ok));
    }
}

/// A proxy that inspects the last message would see a different user than the one served.
#[tokio::test]
async fn call_without_exactly_one_message_is_refused() {
    let mut running = start(|_| {}).await;
    let mut client = running.client().await;
    for body in [&[][..], &[0; 3], &[0; 10], &[0; 6], &[0, 0, 0, 0, 2, 8]] {
        let (answer, mut sending) = client.half_open(&[]).await;
        sending.send_data(Bytes::copy_from_slice(body), true).unwrap();
        assert_eq!(received(answer).await.unwrap().reason(), "INVALID_REQUEST", "{body:?}");
    }
    assert!(running.entered.try_recv().is_err(), "no handler was called");
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
}

#[tokio::test]
async fn undocumented_responses_are_replaced_with_documented_ones() {
    let running = start(|_| {}).await;
    let mut client = running.client().await;
    for unknown in ["/ott.v1.OttService/Other", "/ott.v2.OttService/IssueOtt", "/"] {
        assert_eq!(client.call(unknown, &[]).await.reason(), "METHOD_UNKNOWN", "{unknown}");
    }
    let bare =
        [("undecodable", "INVALID_REQUEST"), ("too-large", "REQUEST_TOO_LARGE"), ("bare", "INTERNAL_ERROR")];
    for (what, reason) in bare {
        assert_eq!(client.call(ISSUE, &[("x-do", what)]).await.reason(), reason);
    }
    let health = client.call("/grpc.health.v1.Health/Other", &[]).await;
    assert_eq!(health.code(), Some(tonic::Code::Unimplemented), "health keeps its own errors");
}

#[tokio::test]
async fn panic_is_answered_and_the_connection_stays_open() {
    let running = start(|_| {}).await;
    let mut client = running.client().await;
    let held = client.send(ISSUE, &[("x-do", "hold")]).await;
    let answer = client.call(ISSUE, &[("x-do", "panic")]).await;
    assert_eq!(answer.reason(), "INTERNAL_ERROR");
    running.release.add_permits(1);
    assert_eq!(received(held).await.unwrap().code(), Some(tonic::Code::Ok), "the other call goes on");
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    assert_eq!(running.server.in_flight(), 0);
}

#[tokio::test]
async fn calls_are_shed_exactly_at_the_limit_and_health_is_not() {
    let mut running = start(|settings| settings.max_in_flight = 3).await;
    let mut client = running.client().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(client.send(ISSUE, &[("x-do", "hold")]).await);
        running.next().await;
    }
    for _ in 0..2 {
        assert_eq!(client.call(ISSUE, &[]).await.reason(), "OVERLOADED");
    }
    let health = client.call("/grpc.health.v1.Health/Check", &[]).await;
    assert_eq!(health.http, StatusCode::OK);
    assert!(!health.headers.contains_key("grpc-status"), "the response has a message: {health:?}");

    running.release.add_permits(1);
    let held = held.into_iter().map(|held| Box::pin(received(held)));
    let (first, _, rest) = futures_util::future::select_all(held).await;
    assert_eq!(first.unwrap().code(), Some(tonic::Code::Ok));
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok), "there is room for one again");
    running.release.add_permits(2);
    for held in rest {
        assert_eq!(held.await.unwrap().code(), Some(tonic::Code::Ok));
    }
}

#[tokio::test]
async fn call_of_a_disconnected_caller_is_abandoned_and_recorded_and_counts_until_its_work_ends() {
    let mut running = start(|settings| settings.max_in_flight = 1).await;
    let mut client = running.client().await;
    let held = client.send(ISSUE, &[("x-do", "detach")]).await;
    let call = running.next().await;
    drop(held);
    timeout(SOON, async {
        call.abandoned().await;
        call.idle().await;
    })
    .await
    .expect("the call is abandoned");
    assert!(!call.claim_record(), "the record is already claimed");
    assert_eq!(client.call(ISSUE, &[]).await.reason(), "OVERLOADED", "its work goes on");
    running.release.add_permits(1);
    timeout(SOON, running.calls().in_flight.idle()).await.expect("the work of the call has ended");
    assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
}

#[tokio::test]
async fn well_formed_request_id_of_the_caller_is_returned() {
    let mut running = start(|_| {}).await;
    let mut client = running.client().await;
    let answer = client.call(ISSUE, &[("x-request-id", "order-7.a_B")]).await;
    assert_eq!(answer.headers["x-request-id"], "order-7.a_B");
    assert_eq!(running.next().await.request_id().as_str(), "order-7.a_B");
    let two: &[(&str, &str)] = &[("x-request-id", "a"), ("x-request-id", "b")];
    for bad in [&[("x-request-id", "a b")][..], two, &[("grpc-timeout", "bad")]] {
        let answer = client.call(ISSUE, bad).await;
        assert_eq!(answer.headers["x-request-id"].len(), 36, "generated by the gateway: {answer:?}");
    }
}

#[tokio::test]
async fn time_in_the_queue_counts_against_the_deadline() {
    let (running, arrived) = (start(|_| {}).await, clock::now());
    let stack = running.call_stack(Identification::none());
    let request = || {
        let request = Request::post(ISSUE).header("content-type", "application/grpc");
        let message = http_body_util::Full::from(&[0; 5][..]);
        request.header("grpc-timeout", "1S").body(Body::new(message)).unwrap()
    };
    let peer = caller::Peer::plaintext(running.address);
    let reason = async |arrived| {
        let response = stack.answer(request(), &peer, arrived).await;
        Answer { http: response.status(), headers: response.headers().clone() }.reason()
    };
    assert_eq!(reason(arrived - Duration::from_secs(1)).await, "DEADLINE_EXCEEDED");
    assert_eq!(reason(arrived).await, "METHOD_UNKNOWN");
}

/// A waiting call occupies the size of its future, which is that of its largest state.
#[tokio::test]
async fn future_of_a_call_is_small() {
    let running = start(|_| {}).await;
    let stack = running.call_stack(Identification::none());
    let request =
        Request::post(ISSUE).header("content-type", "application/grpc").body(Body::empty()).unwrap();
    let peer = caller::Peer::plaintext(running.address);
    let answer = stack.answer(request, &peer, clock::now());
    assert!(size_of_val(&*answer) <= 2560, "{} bytes", size_of_val(&*answer));
}

#[tokio::test]
async fn deadline_of_a_sent_call_leaves_its_outcome_unknown() {
    let mut running = start(|_| {}).await;
    let mut client = running.client().await;
    let headers = [("x-do", "hold-as-sent"), ("grpc-timeout", "100m")];
    assert_eq!(client.call(LOGIN, &headers).await.reason(), "DEADLINE_EXCEEDED");
    assert_eq!(running.next().await.certainty(), Certainty::Unknown);
}

#[test]
fn plaintext_beyond_loopback_must_be_allowed() {
    let anywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let refused = bind(Settings::new(anywhere, Transport::LoopbackPlaintext)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "0.0.0.0:0 is not a loopback address, and plaintext is not allowed on others"
    );
    bind(Settings::new(anywhere, Transport::Plaintext)).unwrap();
}

#[test]
fn error_contains_the_address_in_use() {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let first = bind(Settings::new(loopback, Transport::LoopbackPlaintext)).unwrap();
    let taken = first.local_addr();
    let refused = bind(Settings::new(taken, Transport::LoopbackPlaintext)).unwrap_err();
    assert_eq!(refused.to_string(), format!("cannot listen on {taken}"));
}

#[tokio::test]
async fn routes_that_cannot_be_created_are_a_startup_error() {
    let settings = Settings::new("127.0.0.1:0".parse().unwrap(), Transport::LoopbackPlaintext);
    let dependencies = dependencies(CancellationToken::new());
    let started = bind(settings).unwrap().serve(dependencies, || Err("no client")).await;
    assert!(matches!(started.unwrap_err(), super::super::ServeError::Routes("no client")));
}
