//! Fair shares of a worker's thread for TLS handshakes.
//!
//! A handshake costs about as much CPU time as ten calls, in two or three steps. If a burst of
//! clients connects, all their steps would run before any call that arrives meanwhile. Therefore
//! one step runs per pass of the worker over its ready tasks, and further handshakes queue in order
//! of arrival.
//!
//! A turn is held only during a step, never while a handshake waits for its peer.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
};

use crate::base::clock;

/// A step that took less time did no cryptography and is not counted, so that peers that send a
/// byte at a time do not use up the turns of others.
const MIN_COUNTED_STEP: Duration = Duration::from_micros(50);

/// The turns of one worker. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Drives `work` to completion, with a turn for each poll.
    ///
    /// Must be called on the worker's runtime.
    pub(super) async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            // The semaphore is never closed.
            let turn = Arc::clone(&self.0).acquire_owned().await.ok();
            let began = clock::now();
            let step = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            if began.elapsed() >= MIN_COUNTED_STEP {
                end_after_this_pass(turn);
            } else {
                drop(turn);
            }
            match step {
                Poll::Ready(output) => return output,
                Poll::Pending => woken().await,
            }
        }
    }
}

/// Returns a turn once every task that is ready now has run.
fn end_after_this_pass(turn: Option<OwnedSemaphorePermit>) {
    tokio::spawn(async move {
        yield_now().await;
        drop(turn);
    });
}

/// Resolves when the task is polled again. The work that was just polled has registered the
/// waker.
async fn woken() {
    let mut is_woken = false;
    poll_fn(|_| if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        sync::{mpsc, oneshot},
        task::{JoinSet, unconstrained},
        time::timeout,
    };

    use super::*;

    /// One step of a handshake, which uses CPU time without waiting.
    fn compute() {
        let began = clock::now();
        while began.elapsed() < 2 * MIN_COUNTED_STEP {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn ready_tasks_run_between_two_steps_of_a_burst_of_handshakes() {
        const BURST: usize = 100;
        let turns = Turns::new();
        let steps = Arc::new(AtomicUsize::new(0));
        let mut handshakes = JoinSet::new();
        for _ in 0..BURST {
            let (turns, steps) = (turns.clone(), Arc::clone(&steps));
            handshakes.spawn(async move {
                turns
                    .run(async {
                        compute();
                        steps.fetch_add(1, Ordering::Relaxed);
                    })
                    .await;
            });
        }
        // A task that is always ready, as a busy connection is.
        let mut max_between = 0;
        let mut before = 0;
        while before < BURST {
            yield_now().await;
            let now = steps.load(Ordering::Relaxed);
            max_between = max_between.max(now - before);
            before = now;
        }
        assert_eq!(max_between, 1, "handshakes per pass");
        handshakes.join_all().await;
    }

    #[tokio::test]
    async fn handshakes_that_wait_for_their_peers_hold_no_turn() {
        let turns = Turns::new();
        let (entered, mut is_entered) = mpsc::unbounded_channel();
        let mut stalled = JoinSet::new();
        let mut peers = Vec::new();
        for _ in 0..10 {
            let (peer, answer) = oneshot::channel::<()>();
            peers.push(peer);
            let (turns, entered) = (turns.clone(), entered.clone());
            let handshake = async move {
                compute();
                entered.send(()).expect("the test waits for it");
                answer.await
            };
            stalled.spawn(async move { turns.run(handshake).await });
        }
        let all_entered = async {
            for _ in 0..10 {
                is_entered.recv().await.expect("a handshake");
            }
        };
        timeout(Duration::from_secs(10), all_entered).await.expect("no handshake waits for another");
        assert!(stalled.try_join_next().is_none(), "the handshakes still wait for their peers");
        drop(peers);
        for ended in stalled.join_all().await {
            ended.expect_err("the peer disconnected");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_send_a_byte_at_a_time_use_up_no_turns() {
        let turns = Turns::new();
        let mut polls = 0;
        for _ in 0..1000 {
            // The paused clock makes each step cheap. A counted step would make the next one wait
            // for another poll.
            let mut step = pin!(unconstrained(turns.run(async {})));
            poll_fn(|cx| {
                polls += 1;
                step.as_mut().poll(cx)
            })
            .await;
        }
        assert_eq!(polls, 1000);
    }
}
