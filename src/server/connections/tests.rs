//! Places and their limits, by address and without sockets, and the time limits of a connection on
//! a paused clock.

use std::{collections::VecDeque, pin::Pin, task::Context};

use http_body::Body as _;
use proptest::{collection::vec, prelude::*};
use tonic::body::Body;

use super::{entry::OpenResponse, *};
use crate::{
    caller::{self, ForwardedFrom, ForwardedHeader, ForwardedSettings},
    observe::telemetry::logging::captured::CapturedLog,
    server::tests::authority::Authority,
};

const SECOND: Duration = Duration::from_secs(1);

fn limits(max_connections: usize, max_connections_per_peer: usize) -> Limits {
    let max_connections_per_peer = Some(max_connections_per_peer);
    Limits { max_connections, max_connections_per_peer, ..Limits::default() }
}

fn connections(limits: &Limits) -> Connections {
    Connections::new(limits, Identification::none(), Metrics::new())
}

fn trusting(limits: &Limits, from: ForwardedFrom) -> Connections {
    let forwarded = ForwardedSettings { header: ForwardedHeader::Xfcc, from: vec![from] };
    let settings = caller::Settings { forwarded: Some(forwarded), ..caller::Settings::default() };
    let (identification, _) = Identification::new(settings, caller::no_url, Metrics::new()).unwrap();
    Connections::new(limits, identification, Metrics::new())
}

/// Returns the place of a new connection from the address of `peer`.
async fn of_peer(connections: &Connections, peer: u8) -> Place {
    connections.admit(SocketAddr::from(([192, 0, 2, peer], 40_000))).await.expect("a place")
}

async fn identified(connections: &Connections, peer: u8) -> Place {
    let place = of_peer(connections, peer).await;
    place.entry().recognition().set();
    place
}

async fn is_refused(connections: &Connections, peer: u8) -> bool {
    connections.admit(SocketAddr::from(([192, 0, 2, peer], 40_000))).await.is_none()
}

fn is_evicted(place: &Place) -> bool {
    place.entry().evicted().is_cancelled()
}

fn refused(connections: &Connections) -> [bool; 2] {
    let text = connections.0.metrics.render();
    ConnectionRefusal::ALL.map(|reason| {
        let once = format!("connections_refused_total{{reason=\"{}\"}} 1\n", reason.as_str());
        text.contains(&once)
    })
}

fn ended(connections: &Connections, end: ConnectionEnd) -> bool {
    let once = format!("connections_ended_total{{reason=\"{}\"}} 1\n", end.as_str());
    connections.0.metrics.render().contains(&once)
}

#[tokio::test]
async fn first_connection_without_an_identified_call_makes_room() {
    let connections = connections(&limits(3, 3));
    let known = identified(&connections, 1).await;
    let (first, second) = (of_peer(&connections, 2).await, of_peer(&connections, 3).await);
    // A call of an unidentified caller changes nothing.
    drop(first.entry().call(clock::now()));

    let newcomer = of_peer(&connections, 4).await;
    assert_eq!([&known, &first, &second, &newcomer].map(is_evicted), [false, true, false, false]);
    let another = of_peer(&connections, 5).await;
    assert_eq!([&known, &second, &newcomer, &another].map(is_evicted), [false, true, false, false]);

    assert_eq!(connections.open(), 5, "two of them are being closed");
    second.give_back(ConnectionEnd::Peer);
    assert_eq!(connections.open(), 4);
    assert!(ended(&connections, ConnectionEnd::Evicted) && !ended(&connections, ConnectionEnd::Peer));
}

#[tokio::test]
async fn identified_connections_never_make_room() {
    let connections = connections(&limits(2, 2));
    let first = identified(&connections, 1).await;
    let second = identified(&connections, 2).await;
    assert!(is_refused(&connections, 3).await);
    assert_eq!(refused(&connections), [true, false]);
    assert_eq!([&first, &second].map(is_evicted), [false; 2]);
    first.give_back(ConnectionEnd::Peer);
    assert!(ended(&connections, ConnectionEnd::Peer));
    of_peer(&connections, 3).await;
}

#[tokio::test]
async fn closed_connection_is_logged_with_the_event_of_its_reason() {
    let connections = connections(&limits(3, 3));
    for (end, event) in [
        (ConnectionEnd::Age, "connection closed by a time limit"),
        (ConnectionEnd::Untrusted, "connection closed, client authority withdrawn"),
        (ConnectionEnd::Unread, "connection closed to make room"),
    ] {
        let log = CapturedLog::start();
        of_peer(&connections, 1).await.give_back(end);
        let text = log.text();
        assert!(text.contains(event) && text.contains(end.as_str()), "{text}");
    }
}

#[tokio::test]
async fn peer_at_its_limit_makes_room_itself() {
    let connections = connections(&limits(10, 2));
    let other = of_peer(&connections, 1).await;
    let first = of_peer(&connections, 2).await;
    let second = identified(&connections, 2).await;
    let third = of_peer(&connections, 2).await;
    assert_eq!([&other, &first, &second, &third].map(is_evicted), [false, true, false, false]);
    drop(first);
    assert!(ended(&connections, ConnectionEnd::PeerLimit) && !ended(&connections, ConnectionEnd::Evicted));
    third.entry().recognition().set();
    assert!(is_refused(&connections, 2).await);
    assert_eq!(refused(&connections), [false, true]);
    of_peer(&connections, 3).await;
    drop(second);
    of_peer(&connections, 2).await;
}

#[tokio::test]
async fn one_peer_takes_only_its_share_of_the_places() {
    let connections = connections(&limits(8, 2));
    let mut strangers = VecDeque::new();
    let honest: Vec<_> = [1, 2, 3, 4, 5, 6].map(|peer| of_peer(&connections, peer)).into();
    let mut waiting = Vec::new();
    for honest in honest {
        waiting.push(honest.await);
    }
    for _ in 0..1000 {
        strangers.push_back(of_peer(&connections, 200).await);
        if strangers.len() > 2 {
            strangers.pop_front();
        }
    }
    assert!(!waiting.iter().any(is_evicted));
    assert_eq!(strangers.iter().filter(|place| !is_evicted(place)).count(), 2);
}

#[tokio::test]
async fn addresses_of_one_ipv6_network_share_a_limit() {
    let connections = connections(&limits(10, 1));
    let first = connections.admit("[2001:db8::1]:1".parse().unwrap()).await.unwrap();
    let second = connections.admit("[2001:db8::ffff:2]:1".parse().unwrap()).await.unwrap();
    let elsewhere = connections.admit("[2001:db8:0:1::1]:1".parse().unwrap()).await.unwrap();
    assert_eq!([&first, &second, &elsewhere].map(is_evicted), [true, false, false]);
}

#[tokio::test]
async fn loopback_and_trusted_proxies_have_no_limit_of_their_own() {
    let limits = limits(10, 1);
    let proxy = [192, 0, 2, 9].into();
    let connections = trusting(&limits, ForwardedFrom::Address(proxy));
    let mut exempt = Vec::new();
    for address in ["127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "192.0.2.9:1"] {
        for _ in 0..2 {
            exempt.push(connections.admit(address.parse().unwrap()).await.unwrap());
        }
    }
    assert!(!exempt.iter().any(is_evicted));
    // They still count towards the total.
    drop(of_peer(&connections, 1).await);
    assert!(is_evicted(&exempt[0]));
}

#[tokio::test]
async fn proxy_identified_by_its_certificate_has_no_limit_of_its_own() {
    let connections = trusting(&limits(10, 1), ForwardedFrom::Dns("mesh".to_owned()));
    let address = SocketAddr::from(([192, 0, 2, 1], 1));
    let authority = Authority::new();
    let peer = |name: &str| Peer::tls(address, &[authority.issue(name).der()]);
    let proxy = of_peer(&connections, 1).await;
    proxy.authenticated(&peer("mesh"));
    let other = of_peer(&connections, 1).await;
    other.authenticated(&peer("other"));
    let third = of_peer(&connections, 1).await;
    assert_eq!([&proxy, &other, &third].map(is_evicted), [false, true, false]);
    drop((proxy, other, third));
    assert!(connections.table().peers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn longest_idle_connection_makes_room_on_a_port_without_identification() {
    let limits = Limits { unidentified_timeout: None, ..limits(4, 4) };
    let connections = connections(&limits);
    let mut places = Vec::new();
    for peer in 1..=4 {
        places.push(of_peer(&connections, peer).await);
        tokio::time::advance(SECOND).await;
    }
    let watch = places[0].entry().call(clock::now());
    drop(places[1].entry().call(clock::now()));
    // First the third and the fourth, which have carried no call, then the second; the watch is
    // last.
    for leaves in [2, 3, 1] {
        let newcomer = of_peer(&connections, 10).await;
        drop(newcomer.entry().call(clock::now()));
        let evicted: Vec<bool> = places.iter().map(is_evicted).collect();
        assert!(evicted[leaves], "{leaves}: {evicted:?}");
        places.push(newcomer);
        tokio::time::advance(SECOND).await;
    }
    assert!(!is_evicted(&places[0]));
    let calls: Vec<_> = places[4..].iter().map(|place| place.entry().call(clock::now())).collect();
    of_peer(&connections, 11).await;
    assert!(is_evicted(&places[0]), "a watch makes room if all connections have calls in progress");
    drop((watch, calls));
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_being_closed_are_bounded() {
    // At most as many as may be open.
    for (max, max_leaving) in [(1, 1), (MAX_LEAVING + 1, MAX_LEAVING)] {
        let connections = connections(&limits(max, max));
        let mut leaving = Vec::new();
        for peer in 0..max + max_leaving {
            leaving.push(of_peer(&connections, u8::try_from(peer).unwrap()).await);
        }
        assert_eq!(connections.open(), max + max_leaving);
        let began = clock::now();
        assert!(is_refused(&connections, 200).await);
        assert_eq!(clock::now() - began, LEAVING_TIMEOUT);
        assert_eq!(refused(&connections), [true, false]);

        // A waiting connection is admitted when the next one is closed.
        let closed = async {
            tokio::time::sleep(LEAVING_TIMEOUT / 2).await;
            leaving.swap_remove(0);
        };
        let began = clock::now();
        let (newcomer, ()) = tokio::join!(of_peer(&connections, 200), closed);
        assert_eq!((clock::now() - began, is_evicted(&newcomer)), (LEAVING_TIMEOUT / 2, false));
        assert_eq!(connections.open(), max + max_leaving);
    }
}

#[tokio::test(start_paused = true)]
async fn all_ended_waits_for_all_connections() {
    let connections = connections(&limits(1, 1));
    connections.all_ended().await;
    let (leaves, stays) = (of_peer(&connections, 1).await, of_peer(&connections, 2).await);
    drop(stays);
    let dropped = async {
        tokio::time::sleep(SECOND).await;
        drop(leaves);
    };
    let began = clock::now();
    tokio::join!(connections.all_ended(), dropped);
    assert_eq!(clock::now() - began, SECOND);
}

proptest! {
    /// In each step, a peer connects, or an open connection is identified or closed.
    #[test]
    fn no_limit_is_exceeded_and_no_identified_connection_is_closed(
        steps in vec((0..3_u8, 0..4_u8, 0..8_usize), 0..200),
        max in 1..6_usize,
        max_per_peer in 1..4_usize,
    ) {
        let connections = connections(&limits(max, max_per_peer));
        let mut open: Vec<(u8, Place)> = Vec::new();
        for (what, peer, at) in steps {
            match what {
                0 => {
                    let address = SocketAddr::from(([192, 0, 2, peer], 1));
                    let known = |open: &[(u8, Place)], peer: Option<u8>| {
                        let of = open.iter().filter(|(other, _)| peer.is_none_or(|peer| peer == *other));
                        of.filter(|(_, place)| place.entry().recognition().is_set()).count()
                    };
                    let no_room = known(&open, None) >= max || known(&open, Some(peer)) >= max_per_peer;
                    match connections.attempt(address, Some(PeerKey::from(address.ip()))) {
                        Attempt::Admitted(place) => open.push((peer, place)),
                        Attempt::Refused(_) => prop_assert!(no_room),
                        Attempt::Busy => prop_assert!(false, "few are being closed"),
                    }
                }
                1 => if let Some((_, place)) = open.get(at) { place.entry().recognition().set() },
                _ => if at < open.len() { drop(open.swap_remove(at)) },
            }
            let evicted_identified =
                open.iter().any(|(_, place)| is_evicted(place) && place.entry().recognition().is_set());
            prop_assert!(!evicted_identified);
            open.retain(|(_, place)| !is_evicted(place));
            prop_assert_eq!(connections.open(), open.len());
            prop_assert!(open.len() <= max);
            for peer in 0..4 {
                prop_assert!(open.iter().filter(|(other, _)| *other == peer).count() <= max_per_peer);
            }
        }
        drop(open);
        let table = connections.table();
        prop_assert_eq!((table.all.open, table.leaving), (0, 0));
        prop_assert!(table.all.candidates.is_empty() && table.peers.is_empty());
    }
}

/// Returns the age at which a connection is over, and the reason.
async fn over(place: &Place, limits: &Limits, accepted: clock::Instant) -> (Duration, ConnectionEnd) {
    let end = place.entry().is_over(limits).await;
    (clock::now() - accepted, end)
}

fn response() -> http::Response<Body> {
    http::Response::new(Body::empty())
}

/// A response that never ends and has nothing to send.
fn watch() -> http::Response<Body> {
    let updates = futures_util::stream::pending::<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>();
    http::Response::new(Body::new(http_body_util::StreamBody::new(updates)))
}

/// Polls for the next part of a response, as hyper does when the peer has accepted the last one.
fn is_delivered(response: &mut http::Response<OpenResponse>) {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Pin::new(response.body_mut()).poll_frame(&mut cx).is_pending());
}

#[tokio::test(start_paused = true)]
async fn connection_that_accepts_no_response_is_over_in_time() {
    let main_port = Limits::default();
    let health_port = Limits { unidentified_timeout: None, idle_timeout: 8 * SECOND, ..Limits::default() };
    for (limits, stalls_after, over_after, end) in [
        (&main_port, 0, 15, ConnectionEnd::Unidentified),
        (&main_port, 9, 19, ConnectionEnd::Unidentified),
        (&main_port, 100, 110, ConnectionEnd::Unidentified),
        // The connection is checked every 8 seconds.
        (&health_port, 1, 16, ConnectionEnd::Idle),
    ] {
        let connections = connections(limits);
        let (place, accepted) = (of_peer(&connections, 1).await, clock::now());
        let calls = async {
            let mut open = place.entry().call(clock::now()).responding(watch());
            is_delivered(&mut open);
            tokio::time::sleep(stalls_after * SECOND).await;
            // One response is never accepted, and accepted ones do not compensate for it.
            let _stalled = place.entry().call(clock::now()).responding(watch());
            loop {
                let mut other = place.entry().call(clock::now()).responding(watch());
                is_delivered(&mut other);
                drop(other);
                tokio::time::sleep(SECOND / 2).await;
            }
        };
        tokio::select! {
            over = over(&place, limits, accepted) => assert_eq!(over, (over_after * SECOND, end)),
            () = calls => unreachable!("it never ends"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_responses_and_responses_of_identified_callers_do_not_end_the_connection() {
    let limits = Limits::default();
    let connections = connections(&limits);
    let (slow, known, accepted) =
        (of_peer(&connections, 1).await, identified(&connections, 2).await, clock::now());
    let _stalled = known.entry().call(clock::now()).responding(watch());
    let calls = async {
        let mut first = slow.entry().call(clock::now()).responding(watch());
        loop {
            tokio::time::sleep(9 * SECOND).await;
            is_delivered(&mut first);
            first = slow.entry().call(clock::now()).responding(watch());
        }
    };
    tokio::select! {
        over = over(&slow, &limits, accepted) => {
            assert_eq!(over, (limits.idle_timeout, ConnectionEnd::Unidentified));
        }
        () = calls => unreachable!("it never ends"),
    }
    assert_eq!(over(&known, &limits, accepted).await.1, ConnectionEnd::Age);
}

#[tokio::test(start_paused = true)]
async fn connection_without_an_identified_call_is_over_after_15_seconds() {
    let limits = Limits::default();
    let connections = connections(&limits);
    let (place, accepted) = (of_peer(&connections, 1).await, clock::now());
    let refused_calls = async {
        loop {
            drop(place.entry().call(clock::now()).responding(response()));
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    };
    // Its message never arrives.
    let half_open = place.entry().call(clock::now());
    tokio::select! {
        over = over(&place, &limits, accepted) => {
            assert_eq!(over, (15 * SECOND, ConnectionEnd::Unidentified));
        }
        () = refused_calls => unreachable!("it never ends"),
    }
    drop(half_open);
}

#[tokio::test(start_paused = true)]
async fn watch_keeps_an_unidentified_connection_open_until_the_idle_timeout_at_most() {
    let limits = Limits::default();
    let connections = connections(&limits);
    for (watched, over_after) in [(Some(20 * SECOND + SECOND / 2), 21 * SECOND), (None, 300 * SECOND)] {
        let (place, accepted) = (of_peer(&connections, 1).await, clock::now());
        let mut watch = place.entry().call(clock::now()).responding(watch());
        is_delivered(&mut watch);
        let watching = async move {
            match watched {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
            drop(watch);
        };
        let watching = tokio::spawn(watching);
        let expected = (over_after, ConnectionEnd::Unidentified);
        assert_eq!(over(&place, &limits, accepted).await, expected, "{watched:?}");
        watching.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn identified_connection_is_over_after_5_idle_minutes() {
    let limits = Limits::default();
    let connections = connections(&limits);
    let (place, accepted) = (of_peer(&connections, 1).await, clock::now());
    let calls = async {
        tokio::time::sleep(10 * SECOND).await;
        place.entry().recognition().set();
        // One call of 10 minutes, then one of a second.
        let long = place.entry().call(clock::now()).responding(response());
        tokio::time::sleep(600 * SECOND).await;
        drop(long);
        tokio::time::sleep(100 * SECOND).await;
        let short = place.entry().call(clock::now());
        tokio::time::sleep(SECOND).await;
        drop(short);
    };
    let (over, ()) = tokio::join!(over(&place, &limits, accepted), calls);
    assert_eq!(over, ((10 + 600 + 100 + 1 + 300) * SECOND, ConnectionEnd::Idle));
}

#[tokio::test(start_paused = true)]
async fn connection_of_the_health_port_is_over_after_its_idle_timeout() {
    let limits = Limits { unidentified_timeout: None, idle_timeout: 10 * SECOND, ..Limits::default() };
    let connections = connections(&limits);
    let (silent, asked, accepted) =
        (of_peer(&connections, 1).await, of_peer(&connections, 2).await, clock::now());
    let probes = async {
        for _ in 0..5 {
            tokio::time::sleep(8 * SECOND).await;
            drop(asked.entry().call(clock::now()).responding(response()));
        }
    };
    let ends = async { tokio::join!(over(&silent, &limits, accepted), over(&asked, &limits, accepted)) };
    let (ends, ()) = tokio::join!(ends, probes);
    assert_eq!(ends, ((10 * SECOND, ConnectionEnd::Idle), (50 * SECOND, ConnectionEnd::Idle)));
}

#[tokio::test(start_paused = true)]
async fn connection_in_use_is_over_at_its_maximum_age() {
    let limits = Limits::default();
    let connections = connections(&limits);
    let (place, accepted) = (identified(&connections, 1).await, clock::now());
    let _call = place.entry().call(clock::now());
    let (after, end) = over(&place, &limits, accepted).await;
    assert_eq!(end, ConnectionEnd::Age);
    let (earliest, latest) = (limits.connection_age.mul_f64(0.9), limits.connection_age.mul_f64(1.1));
    assert!(after >= earliest && after <= latest + SECOND, "{after:?}");
}
