//! The deadline of a call, and the failure when it passes.
//!
//! Time counts from the arrival of the call, including any wait in a queue.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    task::coop::unconstrained,
    time::{Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    base::clock::Instant,
    domain::call::{Call, Deadline},
    status::{Failure, Reason},
};

/// Header with the caller's timeout.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Subtracted from the caller's deadline, so that our response arrives in time.
const MARGIN: Duration = Duration::from_millis(20);

/// Retry delay of a call that was refused or cut off by a drain. Another replica serves the retry.
pub(super) const RETRY_AFTER_DRAIN: Duration = Duration::from_secs(1);

/// The `grpc-timeout` header violates the gRPC specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MalformedTimeout;

/// Returns the deadline of a call that arrived at `arrived`: the caller's timeout, at most
/// `max`, less the margin.
pub(super) fn of(headers: &HeaderMap, arrived: Instant, max: Duration) -> Result<Deadline, MalformedTimeout> {
    let mut values = headers.get_all(TIMEOUT).iter();
    let timeout = match (values.next(), values.next()) {
        (None, _) => max,
        (Some(value), None) => parse(value).ok_or(MalformedTimeout)?.min(max),
        (Some(_), Some(_)) => return Err(MalformedTimeout),
    };
    Ok(Deadline::at(arrived + timeout.saturating_sub(MARGIN)))
}

/// Parses `1*8DIGIT` and a unit, as gRPC over HTTP/2 defines it.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Runs `work` until the deadline, or until a drain cuts the call off.
///
/// In either case, the failure is recorded in the call before the work is dropped, because cleanup
/// after the work (its record, a session) depends on the response to the caller.
pub(super) async fn within<T>(
    call: &Call,
    cut_off: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    let timer = pin!(sleep_until(call.deadline().instant()));
    let drained = pin!(cut_off.cancelled());
    let mut ends = Ends { timer, cut_off, drained, watched_for: None };
    let end = if call.deadline().remaining().is_zero() {
        // The timer would still allow one poll of the work.
        Err(End::Deadline)
    } else {
        poll_fn(|cx| {
            if let Some(end) = ends.reached() {
                return Poll::Ready(Err(end));
            }
            match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Ok(done)),
                Poll::Pending => ends.watch(cx).map(Err),
            }
        })
        .await
    };
    let failure = match end {
        Ok(done) => return done,
        Err(End::Deadline) => Failure::new(Reason::DeadlineExceeded),
        Err(End::Drain) => cut_off_by_drain(call),
    };
    failure.settle(call);
    call.abandon();
    Err(failure)
}

/// Event that ends a call before its work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Deadline,
    Drain,
}

/// The events that can end a call before its work is done.
///
/// The timer and the wait for the drain are registered when the work first waits, and again only if
/// the call moves to another task. Each registration takes a lock, and a call is polled several
/// times.
struct Ends<'a, D> {
    timer: Pin<&'a mut Sleep>,
    cut_off: &'a CancellationToken,
    drained: Pin<&'a mut D>,
    /// The waker that both have registered.
    watched_for: Option<Waker>,
}

impl<D: Future<Output = ()>> Ends<'_, D> {
    /// Returns the event that has occurred, the deadline first.
    fn reached(&self) -> Option<End> {
        if self.timer.is_elapsed() {
            Some(End::Deadline)
        } else {
            self.cut_off.is_cancelled().then_some(End::Drain)
        }
    }

    /// Registers the task to be woken by either event.
    fn watch(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.watched_for.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let register = poll_fn(|cx| {
            if self.timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Deadline);
            }
            self.drained.as_mut().poll(cx).map(|()| End::Drain)
        });
        // Unconstrained, because work that has used up its task's budget would prevent the timer
        // from being registered.
        let end = Pin::new(&mut unconstrained(register)).poll(cx);
        self.watched_for = Some(cx.waker().clone());
        end
    }
}

fn cut_off_by_drain(call: &Call) -> Failure {
    let failure = Failure::draining(call);
    match failure.reason() {
        Reason::Draining => failure.retry_after(RETRY_AFTER_DRAIN),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{base::clock, domain::call::Method};

    fn timeout(value: &str) -> Option<Duration> {
        parse(&HeaderValue::from_str(value).unwrap())
    }

    #[test]
    fn timeouts_are_parsed_as_grpc_defines_them() {
        assert_eq!(timeout("1H"), Some(Duration::from_hours(1)));
        assert_eq!(timeout("2M"), Some(Duration::from_mins(2)));
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout("4m"), Some(Duration::from_millis(4)));
        assert_eq!(timeout("5u"), Some(Duration::from_micros(5)));
        assert_eq!(timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_hours(99_999_999)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "123456789S", "1SS", "S1"]
        {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_is_the_smaller_timeout_less_the_margin_from_arrival() {
        let arrived = clock::now();
        let max = Duration::from_secs(10);
        let of = |pairs: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in pairs {
                headers.append("grpc-timeout", HeaderValue::from_str(value).unwrap());
            }
            of(&headers, arrived, max).map(|deadline| deadline.instant() - arrived)
        };
        assert_eq!(of(&[]), Ok(Duration::from_millis(9_980)));
        assert_eq!(of(&["1M"]), Ok(Duration::from_millis(9_980)));
        assert_eq!(of(&["100m"]), Ok(Duration::from_millis(80)));
        assert_eq!(of(&["5m"]), Ok(Duration::ZERO));
        assert_eq!(of(&["1 S"]), Err(MalformedTimeout));
        assert_eq!(of(&["1S", "2S"]), Err(MalformedTimeout), "ambiguous");
    }

    #[tokio::test(start_paused = true)]
    async fn work_past_its_deadline_is_never_started() {
        let arrived = clock::now();
        let call = Call::new(arrived, Deadline::at(arrived + Duration::from_millis(80)));
        tokio::time::advance(Duration::from_millis(80)).await;
        let work = async { unreachable!("the deadline has passed") };
        let answer: Result<(), _> = within(&call, &CancellationToken::new(), work).await;
        assert_eq!(answer.unwrap_err().reason(), Reason::DeadlineExceeded);
        assert!(call.is_abandoned());
    }

    #[tokio::test(start_paused = true)]
    async fn call_ends_at_its_deadline_and_not_before() {
        let arrived = clock::now();
        let call = Call::new(arrived, Deadline::at(arrived + Duration::from_millis(80)));
        let answer: Result<(), _> = within(&call, &CancellationToken::new(), std::future::pending()).await;
        assert_eq!(answer.unwrap_err().reason(), Reason::DeadlineExceeded);
        assert_eq!(arrived.elapsed(), Duration::from_millis(80));
    }

    fn call() -> Call {
        Call::new(clock::now(), Deadline::after(Duration::from_secs(10)))
    }

    /// Returns the reason that ends work which never completes. Only a failing test reaches the
    /// timeout.
    async fn ended(work: impl Future<Output = Result<(), Failure>>) -> Option<Reason> {
        let answer = tokio::time::timeout(Duration::from_hours(1), work).await.ok()?;
        Some(answer.expect_err("the work never ends").reason())
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_uses_up_its_budget_ends_at_its_deadline_and_by_a_drain() {
        let greedy = || async {
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::consume_budget().await;
            }
            std::future::pending().await
        };
        let cut_off = CancellationToken::new();
        assert_eq!(ended(within(&call(), &cut_off, greedy())).await, Some(Reason::DeadlineExceeded));
        let drain = async {
            tokio::task::yield_now().await;
            cut_off.cancel();
        };
        let call = call();
        let (reason, ()) = tokio::join!(ended(within(&call, &cut_off, greedy())), drain);
        assert_eq!(reason, Some(Reason::Draining));
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_moves_to_another_task_ends_at_its_deadline_and_by_a_drain() {
        for (drained, reason) in [(false, Reason::DeadlineExceeded), (true, Reason::Draining)] {
            let (cut_off, begun) = (CancellationToken::new(), clock::now());
            let moved = cut_off.clone();
            let mut answer: Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> =
                Box::pin(async move { within(&call(), &moved, std::future::pending()).await });
            assert!(answer.as_mut().now_or_never().is_none(), "polled outside of the task");
            let task = tokio::spawn(ended(answer));
            tokio::task::yield_now().await;
            if drained {
                cut_off.cancel();
            }
            assert_eq!(task.await.expect("the task does not panic"), Some(reason));
            let after = if drained { Duration::ZERO } else { Duration::from_secs(10) };
            assert_eq!(begun.elapsed(), after, "the task was woken");
        }
    }

    /// If they coincide, the deadline takes precedence over the drain, and the drain over the work.
    #[tokio::test(start_paused = true)]
    async fn deadline_takes_precedence_over_the_drain_and_the_drain_over_the_work() {
        for (late, reason) in [(true, Some(Reason::DeadlineExceeded)), (false, Some(Reason::Draining))] {
            let (cut_off, call) = (CancellationToken::new(), call());
            let (answer, answered) = tokio::sync::oneshot::channel::<()>();
            let work = async {
                answered.await.expect("it is sent");
                Ok(())
            };
            let mut answered = pin!(within(&call, &cut_off, work));
            assert!(answered.as_mut().now_or_never().is_none());
            tokio::time::advance(Duration::from_secs(if late { 10 } else { 9 })).await;
            answer.send(()).expect("it waits");
            cut_off.cancel();
            assert_eq!(answered.await.err().map(|failure| failure.reason()), reason);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reason_of_a_call_cut_off_by_a_drain_shows_whether_a_login_may_have_happened() {
        let cases = [
            (Method::IssueOtt, true, Reason::Draining),
            (Method::LoginWithOtt, false, Reason::Draining),
            (Method::LoginWithOtt, true, Reason::LoginOutcomeUnknown),
        ];
        for (method, sent, reason) in cases {
            let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
            call.set_method(method);
            let cut_off = CancellationToken::new();
            let work = async {
                if sent {
                    call.sending();
                }
                cut_off.cancel();
                std::future::pending().await
            };
            let answer: Result<(), _> = within(&call, &cut_off, work).await;
            assert_eq!(answer.unwrap_err().reason(), reason, "{method:?}, sent: {sent}");
        }
    }

    /// Cleanup of a call's work depends on how the call was answered.
    #[tokio::test(start_paused = true)]
    async fn failure_is_recorded_before_cut_off_work_is_dropped() {
        struct ReadsFailureOnDrop(Call, std::sync::mpsc::Sender<Option<Reason>>);
        impl Drop for ReadsFailureOnDrop {
            fn drop(&mut self) {
                let reason = self.0.failure().map(|(_, reason)| reason);
                self.1.send(reason.filter(|_| self.0.is_abandoned())).unwrap();
            }
        }
        for (drained, reason) in [(false, Reason::DeadlineExceeded), (true, Reason::Draining)] {
            let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
            let (sender, dropped) = std::sync::mpsc::channel();
            let leftover = ReadsFailureOnDrop(call.clone(), sender);
            let cut_off = CancellationToken::new();
            let work = async {
                let _leftover = leftover;
                if drained {
                    cut_off.cancel();
                }
                std::future::pending().await
            };
            let answer: Result<(), _> = within(&call, &cut_off, work).await;
            assert_eq!(answer.unwrap_err().reason(), reason);
            assert_eq!(dropped.try_recv(), Ok(Some(reason)));
        }
    }
}
