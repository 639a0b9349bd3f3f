//! Connections that hold a place without using it, on real sockets.

use super::{frames::*, *};
use crate::base::memory::{Consumer, Reservation, ResponseMemory};

/// Connects a client and makes an identified call.
async fn identified(running: &Running) -> Client {
    let mut client = running.client().await;
    let answer = client.call(ISSUE, &[]).await;
    assert_eq!(answer.code(), Some(tonic::Code::Ok), "{answer:?}");
    client
}

/// Waits until the client has received a GOAWAY and its connection has ended without an error.
async fn gets_goaway(client: Client) {
    let Client { send, connection } = client;
    timeout(SOON, connection).await.expect("the connection ends").unwrap().unwrap();
    // A client without a handle would have closed the connection itself.
    drop(send);
}

/// Finishes a held call whose response holds part of the memory, while another caller holds the
/// rest. The call, which the test keeps, stands in for an unread response. Returns the rest of the
/// memory, and a task in which a third caller waits for memory.
async fn is_not_read(
    running: &Running,
    call: &Call,
    response: h2::client::ResponseFuture,
) -> (Vec<Arc<Reservation>>, JoinHandle<Arc<Reservation>>) {
    let memory = ResponseMemory::new(0, 1);
    let [one, other, waiter] = [1, 2, 3].map(|member| Consumer { group: member, member });
    call.keep_memory(memory.try_reserve(one).expect("free"));
    let rest = std::iter::from_fn(|| memory.try_reserve(other)).collect();
    running.release.add_permits(1);
    received(response).await.expect("a response");
    (rest, tokio::spawn(async move { memory.reserve(waiter).await }))
}

fn limits_of_health_port(settings: &mut Settings) {
    settings.limits.unidentified_timeout = None;
    settings.limits.max_connections = 8;
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out() {
    let running = start(|settings| settings.limits.max_connections = 8).await;
    let mut known = identified(&running).await;
    let mut idle = Vec::new();
    for number in 0..100 {
        // Some do not even send a preface.
        let peer = if number % 3 == 0 { Peer::silent(&running).await } else { Peer::connect(&running).await };
        idle.push(peer);
        if number % 20 == 0 {
            running.still_serves().await;
        }
    }
    let mut newcomer = identified(&running).await;
    for client in [&mut known, &mut newcomer] {
        assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    }
    for evicted in &mut idle[..90] {
        assert!(evicted.closed(SOON).await);
    }
    assert!(running.server.drain.connections.open() <= 8);
}

#[tokio::test]
async fn evicted_connection_is_sent_a_goaway_and_closed() {
    let running = start(|settings| settings.limits.max_connections = 1).await;
    let mut idle = Peer::connect(&running).await;
    idle.expect(SETTINGS).await;
    running.still_serves().await;
    assert_eq!(idle.expect(GOAWAY).await.error(), NO_ERROR);
    assert!(idle.closed(SOON).await);
}

#[tokio::test]
async fn connection_with_only_an_open_watch_makes_room() {
    let running = start(|settings| settings.limits.max_connections = 2).await;
    let mut known = identified(&running).await;
    let mut watching = running.client().await;
    let watch = watching.send("/grpc.health.v1.Health/Watch", &[]).await;
    received(watch).await.unwrap();
    running.still_serves().await;
    assert_eq!(known.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    timeout(SOON, watching.connection).await.expect("the connection ends").unwrap().ok();
}

#[tokio::test]
async fn connection_without_an_identified_call_gets_a_goaway_in_time() {
    let running = start(|settings| settings.limits.unidentified_timeout = Some(Duration::from_secs(3))).await;
    let mut known = identified(&running).await;
    let (mut idle, mut pinging, mut unidentified) =
        (Peer::connect(&running).await, Peer::connect(&running).await, running.client().await);
    let busy = async {
        loop {
            pinging.write(&frame(PING, 0, 0, &[0; 8])).await;
            // Refused, because two credentials do not identify a caller.
            unidentified.call(ISSUE, &[("authorization", "a"), ("authorization", "b")]).await;
        }
    };
    let goaway = tokio::select! {
        goaway = idle.expect(GOAWAY) => goaway,
        () = busy => unreachable!("it never ends"),
    };
    assert_eq!(goaway.error(), NO_ERROR);
    assert_eq!(pinging.expect(GOAWAY).await.error(), NO_ERROR);
    gets_goaway(unidentified).await;
    assert_eq!(known.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok), "its connection stays open");
    running.still_serves().await;
}

#[tokio::test]
async fn idle_connection_gets_a_goaway_and_one_with_a_call_in_progress_does_not() {
    let mut running = start(|settings| settings.limits.idle_timeout = Duration::from_secs(3)).await;
    let mut busy = identified(&running).await;
    let held = busy.send(ISSUE, &[("x-do", "hold")]).await;
    running.next().await;
    let idle = identified(&running).await;
    gets_goaway(idle).await;
    assert_eq!(busy.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    running.release.add_permits(1);
    assert_eq!(received(held).await.unwrap().code(), Some(tonic::Code::Ok));
    gets_goaway(busy).await;
    running.still_serves().await;
}

#[tokio::test]
async fn idle_peer_that_ignores_its_goaway_is_closed() {
    let running = start(|settings| {
        settings.limits.unidentified_timeout = Some(Duration::from_secs(2));
        settings.limits.goaway_timeout = Duration::from_millis(100);
        settings.limits.connection_grace = NEVER;
    })
    .await;
    let mut stubborn = Peer::connect(&running).await;
    stubborn.expect(GOAWAY).await;
    assert!(stubborn.closed(SOON).await);
    running.still_serves().await;
}

/// A proxy sends calls of many callers over one connection.
#[tokio::test]
async fn connection_with_an_unread_response_is_closed_after_its_other_calls() {
    let mut running = start(|settings| {
        settings.max_deadline = NEVER;
        settings.limits.unread_grace = NEVER;
    })
    .await;
    let mut client = running.client().await;
    let first = client.send(ISSUE, &[("x-do", "hold")]).await;
    let call = running.next().await;
    let second = client.send(ISSUE, &[("x-do", "hold")]).await;
    running.next().await;

    let (others, waiting) = is_not_read(&running, &call, first).await;
    running.counts(r#"ott_gateway_connections{state="draining"}"#, 1).await;

    running.release.add_permits(1);
    assert_eq!(received(second).await.expect("a response").code(), Some(tonic::Code::Ok));
    drop((call, others));
    drop(waiting.await.expect("no panic"));
    running.still_serves().await;
}

/// Otherwise others would wait for the whole grace period of the connection.
#[tokio::test]
async fn draining_connection_with_an_unread_response_is_closed_for_callers_that_wait_for_memory() {
    let mut running = start(|settings| {
        settings.max_deadline = NEVER;
        settings.limits.connection_age = Duration::from_secs(5);
        settings.limits.connection_grace = NEVER;
    })
    .await;
    let mut client = running.client().await;
    let first = client.send(ISSUE, &[("x-do", "hold")]).await;
    let call = running.next().await;
    let second = client.send(ISSUE, &[("x-do", "hold")]).await;
    running.next().await;
    running.counts(r#"ott_gateway_connections{state="draining"}"#, 1).await;

    let (others, waiting) = is_not_read(&running, &call, first).await;
    let Client { send, connection } = client;
    // The result of the connection itself depends on what the peer has read.
    assert!(received(second).await.is_err(), "its connection has ended");
    drop((send, connection, call, others));
    drop(waiting.await.expect("no panic"));
    running.release.add_permits(1);
    running.still_serves().await;
}

#[tokio::test]
async fn connection_is_refused_while_all_places_belong_to_identified_callers() {
    let running = start(|settings| settings.limits.max_connections = 2).await;
    let mut first = identified(&running).await;
    let second = identified(&running).await;
    let mut third = Peer::silent(&running).await;
    assert!(third.closed(SOON).await);
    assert_eq!(first.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    drop(second);
    let one_is_left = async {
        while running.server.drain.connections.open() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, one_is_left).await.expect("its place becomes free");
    running.still_serves().await;
}

#[tokio::test]
async fn full_health_port_answers_a_new_connection() {
    let running = start(limits_of_health_port).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut peer = Peer::connect(&running).await;
        peer.expect(SETTINGS).await;
        idle.push(peer);
    }
    let mut probes = Vec::new();
    for evicted in &mut idle {
        let mut probe = running.client().await;
        assert_eq!(probe.call("/grpc.health.v1.Health/Check", &[]).await.http, StatusCode::OK);
        assert_eq!(evicted.expect(GOAWAY).await.error(), NO_ERROR);
        assert!(evicted.closed(SOON).await);
        probes.push(probe);
    }
}
