//! Cheap waits for rare events in a task that is polled often.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{Stream as _, stream::FuturesUnordered};

/// A future that is polled only when its own waker was called.
///
/// The task of a connection is polled several times for each call. The events that end the
/// connection (a drain, an eviction, a time limit) occur once, but each poll of a cancellation
/// token takes a lock, and each poll of a timer compares times.
pub(super) struct OnWake<F>(FuturesUnordered<F>);

impl<F: Future> OnWake<F> {
    pub(super) fn new(future: F) -> Self {
        Self([future].into_iter().collect())
    }
}

impl<F: Future> Future for OnWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match ready!(Pin::new(&mut self.0).poll_next(cx)) {
            Some(output) => Poll::Ready(output),
            // The output was returned by an earlier poll.
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, pin::pin};

    use futures_util::task::noop_waker;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn future_is_polled_only_when_it_was_woken() {
        let (event, polls) = (CancellationToken::new(), Cell::new(0));
        let mut cancelled = pin!(event.cancelled());
        let counted = poll_fn(|cx| {
            polls.set(polls.get() + 1);
            cancelled.as_mut().poll(cx)
        });
        let mut on_wake = pin!(OnWake::new(counted));
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..10 {
            assert!(on_wake.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(polls.get(), 1);
        event.cancel();
        assert!(on_wake.as_mut().poll(&mut cx).is_ready());
        assert_eq!(polls.get(), 2);
        assert!(on_wake.as_mut().poll(&mut cx).is_pending(), "the output was returned before");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_task_is_woken() {
        let event = CancellationToken::new();
        let waiting = tokio::spawn({
            let event = event.clone();
            async move { OnWake::new(Box::pin(event.cancelled())).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        event.cancel();
        waiting.await.expect("it does not panic");
    }
}
