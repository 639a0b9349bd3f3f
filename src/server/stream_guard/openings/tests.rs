//! Tests of stream places, without a connection.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::task::{ArcWake, waker};
use proptest::prelude::*;

use super::*;

const ADDRESS: &str = "192.0.2.1:40000";

/// Counts how often a task is woken.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl ArcWake for Wakes {
    fn wake_by_ref(wakes: &Arc<Self>) {
        wakes.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn budget(unidentified_streams: usize, shared_unidentified_streams: usize) -> StreamBudget {
    let limits = Limits { unidentified_streams, shared_unidentified_streams, ..Limits::default() };
    StreamBudget::new(&limits, Metrics::new())
}

fn openings(budget: &StreamBudget) -> Openings {
    Openings::new(1000, budget.clone(), Recognition::default(), ADDRESS.parse().unwrap())
}

/// Opens a stream if there is a place, and returns whether there was.
fn open(openings: &mut Openings, id: u32, wakes: &Arc<Wakes>) -> bool {
    let is_open = openings.poll_place(&mut Context::from_waker(&waker(Arc::clone(wakes)))).is_ready();
    if is_open {
        openings.opened(id);
    }
    is_open
}

fn pauses(budget: &StreamBudget) -> bool {
    budget.0.metrics.render().contains("ott_gateway_connections_paused_total 1\n")
}

#[test]
fn connection_uses_its_own_places_before_the_shared_ones() {
    let budget = budget(2, 3);
    let (mut one, mut other) = (openings(&budget), openings(&budget));
    let (wakes, other_wakes) = (Arc::default(), Arc::default());
    for id in [1, 3, 5, 7, 9] {
        assert!(open(&mut one, id, &wakes), "{id}");
    }
    // The other connection still has its own places.
    assert!(open(&mut other, 1, &other_wakes) && open(&mut other, 3, &other_wakes));
    assert!(!pauses(&budget));
    assert!(!open(&mut other, 5, &other_wakes));
    assert!(!open(&mut other, 5, &other_wakes), "polled again without a reason");
    assert!(pauses(&budget), "counted once");

    one.ended(3);
    assert_eq!(other_wakes.0.load(Ordering::Relaxed), 1);
    assert!(open(&mut other, 5, &other_wakes));
    assert!(!open(&mut one, 11, &wakes));
    drop(other);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the end of a connection returns its places");
    assert!(open(&mut one, 11, &wakes));
}

#[test]
fn identified_connection_never_waits_and_returns_its_shared_places() {
    let budget = budget(1, 1);
    let (mut one, mut other) = (openings(&budget), openings(&budget));
    let (wakes, other_wakes) = (Arc::default(), Arc::default());
    assert!(open(&mut one, 1, &wakes) && open(&mut one, 3, &wakes) && !open(&mut one, 5, &wakes));
    one.recognition.set();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert!(one.has_place());
    for id in (5..205).step_by(2) {
        assert!(open(&mut one, id, &wakes), "{id}");
    }
    assert!(open(&mut other, 1, &other_wakes) && open(&mut other, 3, &other_wakes));
}

#[test]
fn number_of_tracked_streams_is_limited() {
    let mut openings = openings(&budget(1, 1));
    openings.recognition.set();
    for id in 0..5000 {
        assert!(open(&mut openings, id, &Arc::default()));
    }
    assert_eq!(openings.open.len(), 1000);
}

proptest! {
    #[test]
    fn shared_places_are_never_exceeded_and_all_are_returned(
        per_connection in 0..3_usize,
        shared in 0..5_usize,
        steps in proptest::collection::vec((0..3_usize, 0..8_u32, 0..4_u8), 0..200),
    ) {
        let budget = budget(per_connection, shared);
        let mut connections = [(); 3].map(|()| openings(&budget));
        let mut next = 1;
        for (at, id, step) in steps {
            let connection = &mut connections[at];
            match step {
                0 | 1 => {
                    open(connection, next, &Arc::default());
                    next += 1;
                }
                2 => {
                    // Usually one of the oldest.
                    let first = connection.open.first().map_or(0, |stream| stream.id);
                    connection.ended(first + id / 4);
                }
                _ => *connection = openings(&budget),
            }
            let beyond: usize =
                connections.iter().map(|of| of.open.len().saturating_sub(per_connection)).sum();
            let taken: usize = connections
                .iter()
                .map(|of| of.shared.as_ref().map_or(0, OwnedSemaphorePermit::num_permits))
                .sum();
            prop_assert_eq!(taken, beyond);
            prop_assert!(beyond <= shared);
        }
        drop(connections);
        prop_assert_eq!(budget.0.streams.available_permits(), shared);
    }
}
