//! Streams of peers without a credential: health calls that are not sent completely, or whose
//! responses are not accepted.

use super::{frames::*, *};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const PAUSES: &str = "ott_gateway_connections_paused_total";

fn health_call(stream: u32, path: &str) -> Vec<u8> {
    [headers(stream, &with_path(path)), frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// A peer with a flow-control window of zero.
async fn without_window(running: &Running) -> Peer {
    let mut peer = Peer::connect(running).await;
    peer.write(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    peer
}

fn few_streams(settings: &mut Settings) {
    settings.limits.unidentified_streams = 2;
    settings.limits.shared_unidentified_streams = 0;
}

fn short_times(settings: &mut Settings) {
    settings.limits.unidentified_timeout = Some(Duration::from_secs(3));
    settings.limits.delivery_timeout = Duration::from_secs(1);
    // Must not be reached: the server does not wait for a stalled peer.
    settings.limits.goaway_timeout = NEVER;
    settings.limits.connection_grace = NEVER;
}

#[tokio::test]
async fn number_of_streams_of_a_peer_without_a_credential_is_limited() {
    let running = start(few_streams).await;
    let mut stalled = without_window(&running).await;
    let calls = (1..200).step_by(2).map(|stream| health_call(stream, CHECK)).collect::<Vec<_>>().concat();
    stalled.write(&calls).await;
    running.counts(PAUSES, 1).await;
    let responses = [stalled.expect(HEADERS).await.stream, stalled.expect(HEADERS).await.stream];
    assert_eq!(responses, [1, 3]);
    // If the third stream were accepted, it would be answered before these later connections.
    running.still_serves().await;
    running.still_serves().await;
    assert_eq!(stalled.arrived(HEADERS), 0);
    assert_eq!(running.metrics.render().matches(&format!("{PAUSES} 1\n")).count(), 1);
}

#[tokio::test]
async fn burst_of_an_unidentified_peer_is_delayed_and_then_answered() {
    let running = start(few_streams).await;
    let mut prober = Peer::connect(&running).await;
    let calls = (1..200).step_by(2).map(|stream| health_call(stream, CHECK)).collect::<Vec<_>>().concat();
    prober.write(&calls).await;
    for _ in 0..100 {
        assert_eq!(prober.expect(DATA).await.payload, [0, 0, 0, 0, 2, 8, 1]);
    }
    running.still_serves().await;
}

#[tokio::test]
async fn burst_of_an_identified_caller_is_not_delayed_by_bodies_that_come_after_all_headers() {
    let mut running = start(few_streams).await;
    let mut caller = Peer::connect(&running).await;
    let streams = || (1..200).step_by(2);
    let heads = streams().flat_map(|stream| half_open(stream, "hold")).collect::<Vec<_>>();
    let bodies = streams().flat_map(|stream| frame(DATA, END_STREAM, stream, &[0; 5])).collect::<Vec<_>>();
    caller.write(&[heads, bodies].concat()).await;
    for _ in 0..100 {
        running.next().await;
    }
    running.release.add_permits(100);
    for _ in 0..100 {
        caller.expect(HEADERS).await;
    }
    running.counts(PAUSES, 1).await;
}

#[tokio::test]
async fn half_open_health_calls_free_their_places_after_their_time_limit() {
    let running = start(few_streams).await;
    let mut half_open = Peer::connect(&running).await;
    let heads = [1, 3, 5].map(|stream| headers(stream, &with_path(CHECK))).concat();
    half_open.write(&[heads, frame(DATA, END_STREAM, 5, &[0; 5])].concat()).await;
    running.counts(PAUSES, 1).await;
    assert_eq!(half_open.expect(DATA).await.stream, 5, "answered after the first two");
    running.still_serves().await;
}

#[tokio::test]
async fn connection_that_accepts_no_response_is_closed_and_a_watching_one_is_not() {
    let running = start(short_times).await;
    let mut watching = Peer::connect(&running).await;
    watching.write(&health_call(1, WATCH)).await;
    watching.expect(DATA).await;
    let mut stalled = without_window(&running).await;
    stalled.write(&health_call(1, CHECK)).await;
    assert_eq!(stalled.expect(GOAWAY).await.error(), NO_ERROR);
    assert!(stalled.closed(SOON).await);
    running.counts(r#"ott_gateway_connections_ended_total{reason="unidentified"}"#, 1).await;
    watching.write(&frame(PING, 0, 0, &[7; 8])).await;
    assert_eq!(watching.expect(PING).await.payload, [7; 8]);
    running.still_serves().await;
}

#[tokio::test]
async fn peer_of_the_health_port_that_accepts_no_response_is_closed() {
    let running = start(|settings| {
        short_times(settings);
        settings.limits.unidentified_timeout = None;
        settings.limits.idle_timeout = Duration::from_secs(1);
    })
    .await;
    let mut stalled = without_window(&running).await;
    stalled.write(&health_call(1, CHECK)).await;
    stalled.expect(GOAWAY).await;
    assert!(stalled.closed(SOON).await);
    running.counts(r#"ott_gateway_connections_ended_total{reason="idle"}"#, 1).await;
}

#[tokio::test]
async fn server_does_not_wait_for_calls_of_unidentified_peers_after_the_goaway() {
    let running = start(|settings| {
        settings.limits.unidentified_timeout = Some(Duration::from_secs(2));
        settings.limits.idle_timeout = Duration::from_secs(3);
        settings.limits.goaway_timeout = Duration::from_millis(100);
        settings.limits.connection_grace = NEVER;
    })
    .await;
    let mut watching = Peer::connect(&running).await;
    watching.write(&health_call(1, WATCH)).await;
    watching.expect(DATA).await;
    watching.expect(GOAWAY).await;
    assert!(watching.closed(SOON).await);
    running.still_serves().await;
}

#[tokio::test]
async fn kernel_send_buffer_is_limited() {
    let listener = super::super::listener::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.set_nonblocking(false).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let size = socket2::SockRef::from(&accepted).send_buffer_size().unwrap();
    // The kernel doubles the configured size. Without a configured size, the buffer starts smaller
    // and grows.
    assert_eq!(size, 256 * 1024);
}
