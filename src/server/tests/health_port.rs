//! The health port: the health service or nothing.

use super::{frames::*, *};

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A health port on one worker.
async fn start_health() -> Running {
    let health = HealthService::new(Health::new());
    let server = bind(settings()).unwrap().serve_health(Metrics::new(), health).await.unwrap();
    let (_, entered) = mpsc::unbounded_channel();
    Running {
        address: server.local_addr(),
        server,
        entered,
        release: Arc::new(Semaphore::new(0)),
        draining: CancellationToken::new(),
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
async fn health_request_without_its_message_is_answered_and_the_connection_lives() {
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
