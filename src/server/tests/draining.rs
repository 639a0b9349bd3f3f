//! The server stops in time, regardless of what peers do.

use super::{frames::*, *};
use crate::base::clock;

#[tokio::test]
async fn idle_server_stops_at_once_and_accepts_no_connections() {
    let running = start(|settings| {
        settings.drain.stragglers = NEVER;
        settings.drain.linger = NEVER;
    })
    .await;
    running.still_serves().await;
    let drained = timeout(SOON, running.server.drain()).await.expect("the drain does not wait");
    assert_eq!((drained.cut_off, drained.closed), (0, 0));
    assert!(running.draining.is_cancelled());
    assert!(TcpStream::connect(running.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn peers_that_never_leave_are_closed() {
    let running = start(|_| {}).await;
    let mut no_preface = Peer::silent(&running).await;
    let mut half_preface = Peer::silent(&running).await;
    half_preface.write(b"PRI * ").await;
    let mut silent = Peer::connect(&running).await;
    silent.expect(SETTINGS).await;
    let mut client = running.client().await;
    let watch = client.send("/grpc.health.v1.Health/Watch", &[]).await;
    let (head, mut updates) = timeout(SOON, watch).await.unwrap().unwrap().into_parts();
    assert_eq!(head.status, StatusCode::OK);
    assert!(timeout(SOON, updates.data()).await.unwrap().unwrap().is_ok(), "the watch is open");

    let drained = timeout(SOON, running.server.drain()).await.expect("the peers do not delay it");
    assert_eq!((drained.cut_off, drained.closed), (0, 4));
    assert_eq!(silent.expect(GOAWAY).await.error(), NO_ERROR);
    for peer in [&mut no_preface, &mut half_preface, &mut silent] {
        assert!(peer.closed(SOON).await);
    }
}

#[tokio::test]
async fn lame_duck_serves_calls_and_then_sends_goaway() {
    const LAME_DUCK: Duration = Duration::from_secs(5);
    let running = start(|settings| settings.drain.lame_duck = LAME_DUCK).await;
    let goaway_sent = running.server.drain.phases.go_away.clone();
    let mut old = running.client().await;
    let (address, draining) = (running.address, running.draining.clone());
    let began = clock::now();
    let drain = tokio::spawn(running.server.drain());
    timeout(SOON, draining.cancelled()).await.expect("health changes first");
    let mut new = Client::over(TcpStream::connect(address).await.unwrap()).await;
    for client in [&mut old, &mut new] {
        assert_eq!(client.call(ISSUE, &[]).await.code(), Some(tonic::Code::Ok));
    }
    assert!(!goaway_sent.is_cancelled(), "both connections were served during the lame duck");
    for client in [old, new] {
        timeout(SOON, client.connection).await.expect("the GOAWAY ends the connection").unwrap().unwrap();
    }
    assert!(began.elapsed() >= LAME_DUCK);
    assert_eq!(drain.await.unwrap().closed, 0);
}

#[tokio::test]
async fn call_in_flight_succeeds_during_a_drain() {
    let mut running = start(|settings| settings.drain.cut_off = SOON).await;
    let mut client = running.client().await;
    let held = client.send(ISSUE, &[("x-do", "hold")]).await;
    running.next().await;
    let (draining, release) = (running.draining.clone(), Arc::clone(&running.release));
    let drain = tokio::spawn(running.server.drain());
    draining.cancelled().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!drain.is_finished(), "the drain waits for the call");
    release.add_permits(1);
    assert_eq!(received(held).await.unwrap().code(), Some(tonic::Code::Ok));
    let drained = drain.await.unwrap();
    assert_eq!((drained.cut_off, drained.closed), (0, 0));
}

#[tokio::test]
async fn calls_that_are_cut_off_get_the_reason_that_matches_their_outcome() {
    let mut running = start(|settings| settings.max_deadline = Duration::from_mins(1)).await;
    let mut client = running.client().await;
    let mut held = Vec::new();
    for (path, what, reason) in [
        (ISSUE, "hold", "DRAINING"),
        (ISSUE, "hold-as-sent", "DRAINING"),
        (LOGIN, "hold", "DRAINING"),
        (LOGIN, "hold-as-sent", "LOGIN_OUTCOME_UNKNOWN"),
    ] {
        held.push((client.send(path, &[("x-do", what)]).await, reason));
        running.next().await;
    }
    let began = clock::now();
    let drain = tokio::spawn(running.server.drain());
    for (held, reason) in held {
        assert_eq!(received(held).await.unwrap().reason(), reason);
    }
    assert!(began.elapsed() >= Duration::from_millis(500), "not before the cut-off");
    let drained = drain.await.unwrap();
    assert_eq!((drained.cut_off, drained.closed), (4, 0));
}

#[tokio::test]
async fn peer_that_ignores_the_goaway_gets_the_reason_draining() {
    let mut running = start(|settings| {
        settings.drain.stragglers = Duration::from_secs(4);
        settings.drain.cut_off = SOON;
    })
    .await;
    let mut held = running.client().await;
    let holding = held.send(ISSUE, &[("x-do", "hold")]).await;
    running.next().await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    let gate = running.calls().gate.clone();
    let (entered, release) = (&mut running.entered, Arc::clone(&running.release));
    let drain = tokio::spawn(running.server.drain());
    // The peer does not answer the ping, so the server cannot know that it has seen the GOAWAY.
    peer.expect(GOAWAY).await;
    peer.write(&call(1, "")).await;
    peer.expect(HEADERS).await;
    assert!(timeout(SOON, entered.recv()).await.unwrap().is_some(), "a straggler is served");
    let closed = async {
        while gate.check().is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, closed).await.expect("the gate closes");
    peer.write(&call(3, "")).await;
    peer.expect(HEADERS).await;
    assert!(entered.try_recv().is_err(), "it did not reach the handler");
    release.add_permits(1);
    assert_eq!(received(holding).await.unwrap().code(), Some(tonic::Code::Ok));
    assert_eq!(drain.await.unwrap().closed, 1);
}

#[tokio::test]
async fn drain_waits_for_work_whose_caller_disconnected() {
    let mut running = start(|settings| settings.drain.cut_off = SOON).await;
    let mut client = running.client().await;
    let held = client.send(ISSUE, &[("x-do", "detach")]).await;
    let call = running.next().await;
    drop(held);
    timeout(SOON, async {
        call.abandoned().await;
        call.idle().await;
    })
    .await
    .unwrap();
    drop(client);
    let release = Arc::clone(&running.release);
    let drain = tokio::spawn(running.server.drain());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!drain.is_finished(), "the drain waits for the call");
    release.add_permits(1);
    let drained = timeout(SOON, drain).await.unwrap().unwrap();
    assert_eq!((drained.cut_off, drained.closed), (0, 0));
}

#[tokio::test]
async fn drain_first_changes_health_and_later_ends_its_streams() {
    let running = start(|settings| settings.drain.lame_duck = Duration::from_secs(3)).await;
    let goaway_sent = running.server.drain.phases.go_away.clone();
    let drain = tokio::spawn(running.server.drain());
    timeout(SOON, running.draining.cancelled()).await.unwrap();
    assert!(!goaway_sent.is_cancelled());
    timeout(SOON, goaway_sent.cancelled()).await.unwrap();
    assert_eq!(drain.await.unwrap().closed, 0);
}

#[tokio::test]
async fn dropped_server_stops_at_once() {
    let running = start(|_| {}).await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    drop(running.server);
    assert!(peer.closed(SOON).await);
}
