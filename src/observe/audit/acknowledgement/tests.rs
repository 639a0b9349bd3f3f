use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    thread,
};

use futures_util::FutureExt;

use super::*;

/// Counts how often it is woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Returns a signal, and a counter of its wake-ups. The task registers once.
fn signal() -> (Arc<Signal>, Arc<Counter>) {
    let (signal, counter) = (Arc::<Signal>::default(), Arc::<Counter>::default());
    signal.register(&Waker::from(Arc::clone(&counter)));
    (signal, counter)
}

#[test]
fn call_or_thread_decides_whichever_is_first() {
    let (signal, woken) = signal();
    let mut wakes = Wakes::default();

    let (acknowledger, call, waiter) = acknowledgement(&signal);
    assert!(acknowledger.written(&mut wakes));
    assert!(!waiter.give_up());
    assert_eq!(call.now_or_never(), Some(Ok(())));

    let (acknowledger, call, waiter) = acknowledgement(&signal);
    drop(call);
    assert!(acknowledger.is_given_up() && waiter.is_decided());
    assert!(!acknowledger.written(&mut wakes), "its line has to be written again");

    let (acknowledger, call, waiter) = acknowledgement(&signal);
    assert!(waiter.give_up());
    assert!(!acknowledger.written(&mut wakes));
    assert_eq!(call.now_or_never(), Some(Err(AuditUnavailable)));

    let (acknowledger, call, waiter) = acknowledgement(&signal);
    acknowledger.failed(&mut wakes);
    assert!(waiter.is_decided());
    assert_eq!(call.now_or_never(), Some(Err(AuditUnavailable)));
    assert_eq!(woken.count(), 0, "no task is woken before the end of the batch");
}

#[test]
fn race_between_giving_up_and_writing_is_decided_once() {
    let signal = Arc::default();
    for _ in 0..2000 {
        let (acknowledger, call, waiter) = acknowledgement(&signal);
        let start = Barrier::new(3);
        let (written, timed_out) = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                start.wait();
                acknowledger.written(&mut Wakes::default())
            });
            let timer = scope.spawn(|| {
                start.wait();
                waiter.give_up()
            });
            start.wait();
            (thread.join().expect("no panic"), timer.join().expect("no panic"))
        });
        assert_ne!(written, timed_out, "exactly one of them decides");
        let expected = if written { Ok(()) } else { Err(AuditUnavailable) };
        assert_eq!(call.now_or_never(), Some(expected));
    }
}

#[test]
fn batch_wakes_each_task_once_even_if_the_thread_panics() {
    let (signals, woken): (Vec<_>, Vec<_>) = (0..3).map(|_| signal()).unzip();
    let counts = || woken.iter().map(|counter| counter.count()).collect::<Vec<_>>();
    let calls: Vec<_> = (0..30).map(|number| acknowledgement(&signals[number % 2])).collect();
    let mut wakes = Wakes::default();
    let mut waiting = Vec::new();
    for (acknowledger, call, waiter) in calls {
        assert!(acknowledger.written(&mut wakes));
        waiting.push((call, waiter));
    }
    assert_eq!(counts(), [0, 0, 0]);
    drop(wakes);
    assert_eq!(counts(), [1, 1, 0], "the third has no line in this batch");
    assert!(waiting.iter().all(|(_, waiter)| waiter.is_decided()));
}

#[test]
fn dropped_line_fails_and_wakes_its_call_if_it_still_waits() {
    let (signal, woken) = signal();
    let (acknowledger, call, _waiter) = acknowledgement(&signal);
    drop(acknowledger);
    assert_eq!(woken.count(), 1);
    assert_eq!(call.now_or_never(), Some(Err(AuditUnavailable)));

    let (acknowledger, call, _waiter) = acknowledgement(&Arc::default());
    drop(call);
    drop(acknowledger);
}
