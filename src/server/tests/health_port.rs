//! The health port, which serves only the health service, and the limits on `Watch` on both ports.

use super::{frames::*, *};
use crate::{
    base::clock,
    caller::{self, ForwardedFrom, ForwardedHeader, ForwardedSettings},
    observe::telemetry::metrics::HealthPort,
    server::port::Port,
};

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A health port on one worker.
async fn start_health() -> Running {
    let metrics = Metrics::new();
    let server = bind(settings()).unwrap().serve_health(metrics.clone(), health()).await.unwrap();
    let (_, entered) = mpsc::unbounded_channel();
    Running {
        address: server.local_addr(),
        server,
        entered,
        release: Arc::new(Semaphore::new(0)),
        draining: CancellationToken::new(),
        metrics,
    }
}

#[tokio::test]
async fn health_port_answers_everything_but_health_with_a_bare_unimplemented() {
    let running = start_health().await;
    let mut client = running.client().await;
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    for path in [ISSUE, LOGIN, reflection, "/grpc.health.v1.Health/Other", "/grpc.health.v1.Health", "/"] {
        let answer = client.call(path, &[]).await;
        assert_eq!(answer.code(), Some(tonic::Code::Unimplemented), "{path}");
        let names: Vec<&str> = answer.headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status", "content-type"], "{path}");
    }
    let json = client.call(CHECK, &[("content-type", "application/json")]).await;
    assert_eq!(json.http, StatusCode::UNSUPPORTED_MEDIA_TYPE, "not a success to a prober");
    assert_eq!(client.call(CHECK, &[]).await.http, StatusCode::OK);
}

#[tokio::test]
async fn health_request_without_its_message_is_answered_and_keeps_its_connection() {
    let running = start_health().await;
    let mut client = running.client().await;
    client.send = client.send.clone().ready().await.unwrap();
    let request = Request::post(format!("http://gateway{CHECK}")).header("content-type", "application/grpc");
    let (answer, _open) = client.send.send_request(request.body(()).unwrap(), false).unwrap();
    assert_eq!(received(answer).await.unwrap().code(), Some(tonic::Code::DeadlineExceeded));
    assert_eq!(client.call(CHECK, &[]).await.http, StatusCode::OK);
}

#[tokio::test]
async fn health_port_drains_without_waiting_for_calls() {
    let running = start_health().await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    let drained = running.server.drain().await;
    assert_eq!((drained.cut_off, drained.closed), (0, 1));
    assert!(peer.closed(SOON).await);
}

#[tokio::test]
async fn watches_of_one_connection_do_not_affect_other_connections() {
    for running in [start(|_| {}).await, start_health().await] {
        let mut greedy = running.client().await;
        let mut open = Vec::new();
        for _ in 0..4 {
            let (head, mut updates) = greedy.send(WATCH, &[]).await.await.unwrap().into_parts();
            assert_eq!(head.status, StatusCode::OK);
            assert!(timeout(SOON, updates.data()).await.unwrap().unwrap().is_ok(), "the watch is open");
            open.push(updates);
        }
        for _ in 0..100 {
            let refused = greedy.call(WATCH, &[]).await;
            assert_eq!(refused.code(), Some(tonic::Code::Unimplemented), "{refused:?}");
        }
        let mut honest = running.client().await;
        let (_, mut updates) = honest.send(WATCH, &[]).await.await.unwrap().into_parts();
        assert!(timeout(SOON, updates.data()).await.unwrap().unwrap().is_ok(), "the watch is open");
        assert_eq!(greedy.call(CHECK, &[]).await.http, StatusCode::OK);

        drop(open);
        let until = clock::now() + SOON;
        while greedy.call(WATCH, &[]).await.code().is_some() {
            assert!(clock::now() < until, "the places become free again");
        }
    }
}

/// Opens two `Watch` streams on each of eight connections from one address, and returns the number
/// of open ones.
async fn opened_from_one_address(running: &Running, identification: Identification) -> usize {
    let health_calls = running.metrics.health_calls(HealthPort::Main);
    let port = Port { health: health(), health_calls, calls: Some(running.call_stack(identification)) };
    let mut open = Vec::new();
    for number in 0..8 {
        let address = SocketAddr::from(([192, 0, 2, 1], 1000 + number));
        let connection = port.connection(caller::Peer::plaintext(address));
        for _ in 0..2 {
            let request = Request::post(WATCH).header("content-type", "application/grpc");
            let message = axum::body::Body::from(Bytes::from_static(&[0; 5]));
            let response = port.answer(request.body(message).unwrap(), &connection, clock::now()).await;
            if response.headers().get("grpc-status").is_none() {
                open.push(response);
            }
        }
    }
    open.len()
}

#[tokio::test]
async fn watches_are_limited_per_address_except_for_proxies() {
    let running = start(|_| {}).await;
    assert_eq!(opened_from_one_address(&running, Identification::none()).await, 8);
    let forwarded = ForwardedSettings {
        header: ForwardedHeader::Xfcc,
        from: vec![ForwardedFrom::Address([192, 0, 2, 1].into())],
    };
    let settings = caller::Settings { forwarded: Some(forwarded), ..caller::Settings::default() };
    let (identification, _) = Identification::new(settings, caller::no_url, Metrics::new()).unwrap();
    assert_eq!(opened_from_one_address(&running, identification).await, 16);
}

/// The counters of health calls that are not zero.
fn counted(running: &Running) -> Vec<String> {
    let text = running.metrics.render();
    let mut counted = Vec::new();
    for family in ["ott_gateway_health_checks_total", "ott_gateway_health_refused_total"] {
        let lines = text.lines().filter(|line| line.starts_with(family) && !line.ends_with(" 0"));
        counted.extend(lines.map(|line| line.trim_start_matches("ott_gateway_health_").to_owned()));
    }
    counted
}

#[tokio::test]
async fn health_requests_are_counted_by_port_and_outcome() {
    for (port, running) in [("main", start(|_| {}).await), ("health", start_health().await)] {
        let mut client = running.client().await;
        for _ in 0..2 {
            assert_eq!(client.call(CHECK, &[]).await.http, StatusCode::OK);
        }
        let (_, mut updates) = client.send(WATCH, &[]).await.await.unwrap().into_parts();
        assert!(timeout(SOON, updates.data()).await.unwrap().unwrap().is_ok(), "the watch is open");
        client.call("/grpc.health.v1.Health/Other", &[]).await;
        client.call(CHECK, &[("content-type", "application/json")]).await;
        // Without a message: one request that ends, one that stays open, one that is cancelled.
        let open = async |client: &mut Client, ended: bool| {
            client.send = client.send.clone().ready().await.unwrap();
            let request = Request::post(format!("http://gateway{CHECK}"));
            let request = request.header("content-type", "application/grpc").body(()).unwrap();
            client.send.send_request(request, ended).unwrap()
        };
        let (answer, _) = open(&mut client, true).await;
        assert_eq!(received(answer).await.unwrap().code(), Some(tonic::Code::Internal));
        let (answer, _open) = open(&mut client, false).await;
        assert_eq!(received(answer).await.unwrap().code(), Some(tonic::Code::DeadlineExceeded));
        let (answer, mut stream) = open(&mut client, false).await;
        assert_eq!(client.call(CHECK, &[]).await.http, StatusCode::OK, "the previous request has arrived");
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        let until = clock::now() + SOON;
        let expected = [
            format!("checks_total{{port=\"{port}\"}} 4"),
            format!("refused_total{{port=\"{port}\",reason=\"no_message\"}} 3"),
            format!("refused_total{{port=\"{port}\",reason=\"not_grpc\"}} 1"),
            format!("refused_total{{port=\"{port}\",reason=\"unimplemented\"}} 1"),
        ];
        while counted(&running) != expected {
            assert!(clock::now() < until, "{:?}", counted(&running));
            tokio::task::yield_now().await;
        }
    }
}
