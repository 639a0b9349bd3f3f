//! Every limit takes effect, and the same process then continues to serve.

use std::{
    collections::BTreeMap,
    io,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

use super::{frames::*, *};
use crate::{
    base::clock,
    server::{Limits, connections::Connections, listener},
};

#[tokio::test]
async fn limits_are_announced_to_peers() {
    let running = start(|_| {}).await;
    let mut peer = Peer::connect(&running).await;
    let settings = peer.expect(SETTINGS).await.payload;
    let settings: BTreeMap<u16, u32> = settings
        .chunks_exact(6)
        .map(|entry| {
            let (name, value) = entry.split_at(2);
            (u16::from_be_bytes(name.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
        })
        .collect();
    // Identifiers of RFC 9113, section 6.5.2: streams, window of a stream, frame, headers.
    assert_eq!([3, 4, 5, 6].map(|name| settings[&name]), [100, 65_536, 16_384, 16_384]);
    let more = peer.expect(WINDOW_UPDATE).await;
    assert_eq!((more.stream, more.payload), (0, (256 * 1024 - 65_535_u32).to_be_bytes().to_vec()));
}

#[tokio::test]
async fn peer_that_sends_no_preface_is_closed_in_time() {
    let running = start(|settings| {
        settings.limits.preface_timeout = Duration::from_secs(2);
        settings.limits.unidentified_timeout = None;
        settings.limits.idle_timeout = NEVER;
    })
    .await;
    let opened = clock::now();
    let mut silent = Peer::silent(&running).await;
    let mut halting = Peer::silent(&running).await;
    halting.write(b"PRI * HTTP/2.0\r\n").await;
    assert!(silent.closed(SOON).await && halting.closed(SOON).await);
    assert!(opened.elapsed() >= Duration::from_secs(2), "{:?}", opened.elapsed());
    running.still_serves().await;
}

#[tokio::test]
async fn connection_with_another_protocol_is_closed_at_once() {
    let running = start(|settings| {
        settings.limits.preface_timeout = NEVER;
        settings.limits.unidentified_timeout = None;
        settings.limits.idle_timeout = NEVER;
    })
    .await;
    let mut http1 = Peer::silent(&running).await;
    http1.write(b"POST /ott.v1.OttService/IssueOtt HTTP/1.1\r\nContent-Length: 5\r\n\r\n").await;
    let response = http1.rest(SOON).await;
    assert!(response.starts_with("HTTP/1.1 505 ") && response.contains("gRPC over HTTP/2"), "{response}");
    for other in [&b"\x16\x03\x01"[..], b"get / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut peer = Peer::silent(&running).await;
        peer.write(other).await;
        assert!(peer.closed(SOON).await, "{other:?}");
    }
    running.still_serves().await;
}

#[tokio::test]
async fn stream_beyond_the_limit_is_refused_and_the_others_continue() {
    let mut running = start(|settings| settings.limits.max_streams = 2).await;
    let mut peer = Peer::connect(&running).await;
    peer.write(&call(1, "hold")).await;
    peer.write(&call(3, "hold")).await;
    running.next().await;
    running.next().await;
    peer.write(&call(5, "hold")).await;
    let refused = peer.expect(RST_STREAM).await;
    assert_eq!((refused.stream, refused.error()), (5, REFUSED_STREAM));
    running.release.add_permits(1);
    peer.expect(HEADERS).await;
    running.still_serves().await;
}

#[tokio::test]
async fn too_large_headers_are_refused_and_the_connection_stays_open() {
    let running = start(|_| {}).await;
    let mut client = running.client().await;
    let large = "x".repeat(8 * 1024);
    let answer = client.call(ISSUE, &[("x-a", &large), ("x-b", &large), ("x-c", &large)]).await;
    assert_eq!(answer.http, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(client.call(ISSUE, &[("x-a", &large)]).await.code(), Some(tonic::Code::Ok));
}

/// The series of streams or connections that were ended because of a peer's error.
fn errors(scope: &str, reason: &str) -> String {
    format!("ott_gateway_http2_errors_total{{reason=\"{reason}\",scope=\"{scope}\"}}")
}

/// Opens and resets `count` streams at once, starting with stream `first`.
fn opened_and_reset(first: u32, count: u32) -> Vec<u8> {
    (0..count)
        .map(|n| first + 2 * n)
        .flat_map(|stream| [call(stream, ""), frame(RST_STREAM, 0, stream, &CANCEL)].concat())
        .collect()
}

#[tokio::test]
async fn connection_survives_when_all_its_calls_time_out_at_once() {
    let mut running = start(|_| {}).await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    // Of 1,001 calls, 100 are open, one of them without a deadline.
    let streams: Vec<u32> = (0..100).map(|n| 2 * n + 1).collect();
    for stream in &streams {
        peer.write(&call(*stream, "hold")).await;
    }
    for _ in &streams {
        running.next().await;
    }
    let mut timeouts: Vec<u8> =
        streams[1..].iter().flat_map(|stream| frame(RST_STREAM, 0, *stream, &CANCEL)).collect();
    timeouts.extend(opened_and_reset(201, 901));
    peer.write(&timeouts).await;
    running.counts("ott_gateway_http2_stream_resets_total", 1000).await;
    running.release.add_permits(1);
    assert_eq!(peer.expect(HEADERS).await.stream, 1, "the other call is answered");
    // The client continues with new calls.
    peer.write(&call(2003, "")).await;
    assert_eq!(peer.expect(HEADERS).await.stream, 2003);
    running.counts(&errors("connection", "too_many_resets"), 0).await;
}

#[tokio::test]
async fn stream_that_is_reset_at_once_does_not_become_a_call() {
    let mut running = start(|_| {}).await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    peer.write(&[opened_and_reset(1, 100), call(201, "hold")].concat()).await;
    running.next().await;
    running.release.add_permits(1);
    assert_eq!(peer.expect(HEADERS).await.stream, 201);
    assert!(running.entered.try_recv().is_err(), "only the last one is a call");
    running.still_serves().await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let running = start(|settings| {
        settings.limits.reset_burst = 300;
        settings.limits.resets_per_second = 0;
    })
    .await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    peer.write(&opened_and_reset(1, 300)).await;
    peer.write(&frame(PING, 0, 0, &[0; 8])).await;
    peer.expect(PING).await;
    peer.write(&opened_and_reset(601, 100)).await;
    let goaway = peer.expect(GOAWAY).await;
    assert_eq!(goaway.error(), ENHANCE_YOUR_CALM);
    assert_eq!(goaway.payload[..4], 601_u32.to_be_bytes(), "the last stream");
    assert!(peer.closed(SOON).await);
    running.counts("ott_gateway_http2_stream_resets_total", 301).await;
    running.counts(&errors("connection", "too_many_resets"), 1).await;
    running.still_serves().await;
}

#[tokio::test]
async fn frames_that_require_an_acknowledgement_are_counted() {
    const ACK: u8 = 1;
    let running = start(|_| {}).await;
    let mut peer = Peer::connect(&running).await;
    let pings: Vec<u8> = (0..50).flat_map(|_| frame(PING, 0, 0, &[0; 8])).collect();
    peer.write(&[frame(SETTINGS, ACK, 0, &[]), pings, frame(PING, ACK, 0, &[0; 8])].concat()).await;
    running.counts("ott_gateway_http2_control_frames_total", 51).await;
    running.still_serves().await;
}

#[tokio::test]
async fn answered_calls_compensate_for_cancelled_ones() {
    let running = start(|settings| {
        settings.limits.reset_burst = 2;
        settings.limits.resets_per_second = 0;
    })
    .await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    for n in 0..10 {
        peer.write(&opened_and_reset(4 * n + 1, 1)).await;
        peer.write(&call(4 * n + 3, "")).await;
        assert_eq!(peer.expect(HEADERS).await.stream, 4 * n + 3);
    }
    peer.write(&opened_and_reset(41, 3)).await;
    assert_eq!(peer.expect(GOAWAY).await.error(), ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn peer_errors_that_make_us_reset_streams_end_the_connection() {
    const BURST: u32 = 8;
    let running = start(|settings| {
        settings.limits.stream_error_burst = BURST;
        settings.limits.stream_errors_per_second = 0;
    })
    .await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    // Overflows the stream's window, so that our side has to reset the stream.
    let stream_error =
        |stream| [call(stream, "hold"), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255])].concat();
    for n in 0..BURST {
        peer.write(&stream_error(2 * n + 1)).await;
        assert_eq!(peer.expect(RST_STREAM).await.stream, 2 * n + 1, "within the limit");
    }
    peer.write(&stream_error(2 * BURST + 1)).await;
    assert_eq!(peer.expect(GOAWAY).await.error(), ENHANCE_YOUR_CALM);
    assert!(peer.closed(SOON).await);
    running.counts(&errors("stream", "flow_control_error"), BURST + 1).await;
    running.counts(&errors("connection", "too_many_errors"), 1).await;
    running.still_serves().await;
}

#[tokio::test]
async fn streams_opened_before_the_limit_is_received_are_refused_and_the_others_continue() {
    let mut running = start(|settings| settings.limits.max_streams = 2).await;
    let mut peer = Peer::connect(&running).await;
    let calls: Vec<u8> = (0..902).flat_map(|n| call(2 * n + 1, "hold")).collect();
    peer.write(&calls).await;
    let mut refused = 0;
    while refused < 900 {
        match peer.expect(RST_STREAM).await.error() {
            REFUSED_STREAM => refused += 1,
            // For the body of a refused stream.
            STREAM_CLOSED => {}
            other => panic!("{other:?}"),
        }
    }
    running.counts(&errors("stream", "refused_stream"), 900).await;
    running.next().await;
    running.next().await;
    running.release.add_permits(2);
    for _ in 0..2 {
        assert!([1, 3].contains(&peer.expect(HEADERS).await.stream));
    }
}

#[tokio::test]
async fn bodies_that_arrive_after_their_calls_were_refused_do_not_end_the_connection() {
    const STREAMS: u32 = 100;
    let running = start(|settings| settings.refused_calls.burst = NonZeroU32::MIN).await;
    let mut peer = Peer::connect(&running).await;
    let unknown = with_path("/ott.v1.OttService/Unknown");
    for round in 0..5 {
        let streams = || (0..STREAMS).map(|n| 2 * (STREAMS * round + n) + 1);
        let calls: Vec<u8> = streams().flat_map(|stream| headers(stream, &unknown)).collect();
        peer.write(&calls).await;
        // The first refused call has its own record, and is answered after its body.
        for _ in u32::from(round == 0)..STREAMS {
            peer.expect(HEADERS).await;
        }
        let bodies: Vec<u8> = streams().flat_map(|stream| frame(DATA, END_STREAM, stream, &[0; 5])).collect();
        peer.write(&bodies).await;
        if round == 0 {
            peer.expect(HEADERS).await;
        }
    }
    running.still_serves().await;
    peer.write(&call(2 * STREAMS * 5 + 1, "")).await;
    assert_eq!(peer.expect(HEADERS).await.stream, 2 * STREAMS * 5 + 1, "the connection is still open");
    running.counts(&errors("stream", "stream_closed"), 0).await;
}

#[tokio::test]
async fn streams_that_the_http2_library_rejects_are_counted() {
    let running = start(|_| {}).await;
    let mut peer = Peer::connect(&running).await;
    peer.expect(SETTINGS).await;
    // RFC 9113, section 8.2.2 and 8.3.1.
    for (n, malformed) in [(0, vec![("connection", "close")]), (1, vec![(":method", "POST")])] {
        let stream = 2 * n + 1;
        peer.write(&headers(stream, &[request_fields(""), malformed].concat())).await;
        assert_eq!(peer.expect(RST_STREAM).await.stream, stream);
    }
    running.counts(&errors("stream", "protocol_error"), 2).await;

    // Twice, because the second response refers to the HPACK entries of the first.
    let long = "x".repeat(100);
    let large: Vec<(&str, &str)> = (0..140).map(|_| ("x-a", long.as_str())).collect();
    for stream in [5, 7] {
        peer.write(&headers(stream, &[request_fields(""), large.clone()].concat())).await;
        assert_eq!(peer.expect(HEADERS).await.stream, stream);
    }
    running.counts(&errors("stream", "headers_too_large"), 2).await;
    // Responses of services are not counted, even if each field refers to an earlier response.
    for n in 0..3 {
        peer.write(&headers(9 + 4 * n, &with_path("/grpc.health.v1.Health/Unknown"))).await;
        peer.expect(HEADERS).await;
        peer.write(&headers(11 + 4 * n, &with_path(ISSUE))).await;
        peer.expect(HEADERS).await;
    }
    running.counts(&errors("stream", "headers_too_large"), 2).await;

    // An upper-case field name cannot be decoded, which ends the connection.
    peer.write(&headers(101, &[request_fields(""), vec![("X-Name", "a")]].concat())).await;
    peer.expect(GOAWAY).await;
    running.counts(&errors("connection", "protocol_error"), 1).await;
    running.still_serves().await;
}

#[tokio::test]
async fn peer_that_answers_no_ping_is_closed() {
    let running = start(|settings| {
        settings.limits.keepalive_interval = Duration::from_millis(300);
        // Enough for the honest client below to answer.
        settings.limits.keepalive_timeout = Duration::from_secs(3);
        settings.limits.unidentified_timeout = None;
        settings.limits.idle_timeout = NEVER;
    })
    .await;
    let opened = clock::now();
    let mut dead = Peer::connect(&running).await;
    dead.expect(PING).await;
    assert!(dead.closed(SOON).await);
    assert!(opened.elapsed() >= Duration::from_millis(3300));
    running.still_serves().await;
}

#[tokio::test]
async fn old_connection_gets_a_goaway_and_its_calls_complete() {
    let mut running = start(|settings| settings.limits.connection_age = Duration::from_secs(3)).await;
    let mut client = running.client().await;
    let opened = clock::now();
    let held = client.send(ISSUE, &[("x-do", "hold")]).await;
    running.next().await;
    // The client cannot open streams once it has seen the GOAWAY.
    let gone = async {
        while let Ok(ready) = client.send.clone().ready().await {
            client.send = ready;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, gone).await.expect("a GOAWAY arrives");
    assert!(opened.elapsed() >= Duration::from_millis(2700));
    running.release.add_permits(1);
    assert_eq!(received(held).await.unwrap().code(), Some(tonic::Code::Ok), "the call in flight succeeds");
    drop(client.send);
    timeout(SOON, client.connection).await.expect("the connection ends").unwrap().unwrap();
    running.still_serves().await;
}

#[tokio::test]
async fn old_connection_that_ignores_the_goaway_is_closed_after_the_grace_period() {
    let running = start(|settings| {
        settings.limits.connection_age = Duration::from_secs(2);
        settings.limits.connection_grace = Duration::from_millis(500);
    })
    .await;
    let opened = clock::now();
    let mut stubborn = Peer::connect(&running).await;
    stubborn.write(&call(1, "hold")).await;
    assert_eq!(stubborn.expect(GOAWAY).await.error(), NO_ERROR);
    assert!(stubborn.closed(SOON).await);
    assert!(opened.elapsed() >= Duration::from_millis(2300), "{:?}", opened.elapsed());
    running.still_serves().await;
}

#[tokio::test(start_paused = true)]
async fn accepting_slows_down_during_a_shortage_of_file_descriptors_and_recovers() {
    const SHORTAGE: usize = 16;
    let started = clock::now();
    let tries = AtomicUsize::new(0);
    let (gone, mut is_gone) = mpsc::unbounded_channel();
    let accept = |_: &mut std::task::Context<'_>| match tries.fetch_add(1, Ordering::Relaxed) {
        0..SHORTAGE => Poll::Ready(Err(io::Error::from_raw_os_error(24))), // EMFILE
        SHORTAGE => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        _ => {
            let _ = gone.send(clock::now());
            Poll::Pending
        }
    };
    let connections = Connections::new(&Limits::default(), Identification::none(), Metrics::new());
    let accepting = listener::accept_all(accept, connections, |_| {});
    tokio::select! {
        biased;
        then = is_gone.recv() => {
            // 10, 20 … 640 ms, then a second each; an aborted connection causes no delay.
            let waited = then.unwrap() - started;
            assert_eq!(waited, Duration::from_millis(10 * 127 + 9 * 1000));
        }
        () = accepting => unreachable!("it never ends"),
    }
    assert_eq!(tries.load(Ordering::Relaxed), SHORTAGE + 2);
}

#[tokio::test]
async fn connections_are_spread_over_the_workers() {
    let running = start(|settings| settings.worker_threads = NonZeroUsize::new(2)).await;
    let mut clients = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..4 {
        let mut client = running.client().await;
        let answer = client.call(ISSUE, &[]).await;
        threads.push(answer.headers["x-thread"].to_str().unwrap().to_owned());
        clients.push(client);
    }
    threads.sort();
    assert_eq!(threads, ["worker-0", "worker-0", "worker-1", "worker-1"]);
}
