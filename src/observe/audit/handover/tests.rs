use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::Receiver,
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::FutureExt;

use super::*;
use crate::{
    base::clock::HeldClock,
    observe::{
        audit::{
            AuditUnavailable, availability::Standing, inbox::Message, judge::MAX_WRITE, line::Fate,
            line::Lines, numbering::Numbering, signal::Wakes, started::RECORD_LIMIT,
        },
        telemetry::metrics::{AuditClass, Metrics},
    },
};

const MS: Duration = Duration::from_millis(1);

/// Counts how often it is woken.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Records the order of wake-ups.
struct Recorder(usize, Arc<Mutex<Vec<usize>>>);

impl Wake for Recorder {
    fn wake(self: Arc<Self>) {
        self.1.lock().expect("no panic").push(self.0);
    }
}

/// A hand-over whose task the test polls, and the messages that the thread would receive.
struct Fixture {
    handover: Arc<Handover>,
    driver: Driver,
    inbox: Receiver<Message>,
    woken: Arc<Counter>,
}

impl Fixture {
    /// Polls the task once.
    fn new() -> Self {
        let (writer, inbox) = Writer::new(1000, Numbering::for_test(), &Metrics::new());
        let (handover, driver) = Handover::new(writer);
        let mut fixture = Self { handover, driver, inbox, woken: Arc::default() };
        assert_eq!(fixture.poll(), Poll::Pending);
        fixture
    }

    fn poll(&mut self) -> Poll<()> {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.driver.poll_unpin(&mut Context::from_waker(&waker))
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }

    fn submit(&self, text: &str) {
        self.handover.writer.take_place(AuditClass::Allowed, 1).expect("a place");
        self.handover.submit(line(text)).expect("the thread runs");
    }

    fn submit_awaited(&self, text: &str) -> Acknowledgement {
        self.handover.writer.take_place(AuditClass::Allowed, 1).expect("a place");
        self.handover.submit_awaited(text.to_owned()).expect("the task runs")
    }

    /// Returns the texts of the lines of each message.
    fn messages(&self) -> Vec<Vec<String>> {
        self.arrived().map(|lines| lines.iter().map(text).collect()).collect()
    }

    fn arrived(&self) -> impl Iterator<Item = Lines> {
        self.inbox.try_iter().map(|message| match message {
            Message::Lines(lines) => lines,
            Message::Flush(_) | Message::Wake | Message::Panic => panic!("not a line"),
        })
    }

    /// Returns the lines that have arrived.
    fn lines(&self) -> Vec<Line> {
        self.arrived().flatten().collect()
    }
}

fn line(text: &str) -> Line {
    Line::unawaited(text.to_owned(), AuditClass::Allowed)
}

fn text(line: &Line) -> String {
    let mut bytes = Vec::new();
    line.append_unwritten(&mut bytes);
    String::from_utf8(bytes).expect("text").trim_end_matches("}\n").to_owned()
}

#[tokio::test]
async fn lines_of_a_turn_are_sent_as_one_message_with_one_wake_up() {
    let mut fixture = Fixture::new();
    for turn in 1..=3 {
        let first = fixture.submit_awaited("a");
        fixture.submit("b");
        let third = fixture.submit_awaited("c");
        assert_eq!(fixture.woken(), turn, "only the first line of a turn wakes the task");
        assert!(fixture.messages().is_empty(), "nothing is sent before the end of the turn");
        assert_eq!(fixture.poll(), Poll::Pending);
        assert_eq!(fixture.messages(), [["a", "b", "c"]]);
        // Dropping their lines has woken the task.
        assert_eq!(fixture.poll(), Poll::Pending);
        assert_eq!(first.now_or_never(), Some(Err(AuditUnavailable)));
        assert_eq!(third.now_or_never(), Some(Err(AuditUnavailable)));
        fixture.woken.0.store(turn, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn decided_batch_wakes_the_task_once_and_its_calls_in_order() {
    let mut fixture = Fixture::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut calls: Vec<_> = (0..5).map(|_| fixture.submit_awaited("x")).collect();
    for (number, call) in calls.iter_mut().enumerate() {
        let waker = Waker::from(Arc::new(Recorder(number, Arc::clone(&order))));
        assert!(call.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    }
    // The second one is dropped, as if its caller disconnected.
    drop(calls.remove(1));
    assert_eq!(fixture.poll(), Poll::Pending);
    let before = fixture.woken();
    let mut wakes = Wakes::default();
    let mut lines = fixture.lines();
    let rest = lines.split_off(4);
    let fates: Vec<_> = lines.into_iter().map(|line| line.finish(&mut wakes)).collect();
    assert!(matches!(fates[..], [Fate::Awaited, Fate::Repeat(_), Fate::Awaited, Fate::Awaited]));
    assert_eq!(fixture.woken(), before);
    wakes.send();
    assert_eq!(fixture.woken(), before + 1, "one wake-up for the batch");
    assert_eq!(*order.lock().expect("no panic"), [0; 0]);
    assert_eq!(fixture.poll(), Poll::Pending);
    assert_eq!(*order.lock().expect("no panic"), [0, 2, 3]);
    for line in rest {
        line.finish(&mut wakes);
    }
    wakes.send();
    assert_eq!(fixture.woken(), before + 2);
    assert_eq!(fixture.poll(), Poll::Pending);
    assert_eq!(*order.lock().expect("no panic"), [0, 2, 3, 4]);
    for call in calls {
        assert_eq!(call.now_or_never(), Some(Ok(())));
    }
}

#[tokio::test]
async fn flush_in_the_middle_of_a_turn_sends_each_line_once() {
    let mut fixture = Fixture::new();
    fixture.submit("a");
    let call = fixture.submit_awaited("b");
    fixture.handover.send();
    fixture.submit("c");
    assert_eq!(fixture.poll(), Poll::Pending);
    let mut wakes = Wakes::default();
    let messages: Vec<Lines> = fixture.arrived().collect();
    let texts: Vec<Vec<String>> = messages.iter().map(|lines| lines.iter().map(text).collect()).collect();
    assert_eq!(texts, [vec!["a", "b"], vec!["c"]]);
    for line in messages.into_iter().flatten() {
        line.finish(&mut wakes);
    }
    wakes.send();
    assert_eq!(fixture.poll(), Poll::Pending);
    assert_eq!(call.now_or_never(), Some(Ok(())));
}

#[tokio::test]
async fn ending_task_sends_its_lines_and_leaves_no_call_waiting() {
    let mut fixture = Fixture::new();
    let sent = fixture.submit_awaited("sent");
    assert_eq!(fixture.poll(), Poll::Pending);
    let mut lines = fixture.lines();
    let kept = fixture.submit_awaited("kept");
    fixture.submit("also kept");
    let Fixture { handover, driver, inbox, woken } = fixture;
    drop(driver);
    assert_eq!(sent.now_or_never(), Some(Err(AuditUnavailable)));
    assert_eq!(kept.now_or_never(), Some(Err(AuditUnavailable)));

    // From now on each line is sent directly.
    handover.submit(line("direct")).expect("the thread runs");
    let text = handover.submit_awaited("awaited".to_owned()).expect_err("nothing would wake its call");
    assert_eq!(text, "awaited");
    let (_, driver) = Handover::new(handover.writer.clone());
    let fixture = Fixture { handover, driver, inbox, woken };
    let messages: Vec<Lines> = fixture.arrived().collect();
    assert_eq!(messages.iter().map(Lines::len).collect::<Vec<_>>(), [2, 1]);
    lines.extend(messages.into_iter().flatten());
    let fates: Vec<_> = lines.into_iter().map(|line| line.finish(&mut Wakes::default())).collect();
    let as_expected =
        matches!(fates[..], [Fate::Repeat(_), Fate::Repeat(_), Fate::Unawaited, Fate::Unawaited]);
    assert!(as_expected, "calls that have given up get a late record");
}

#[tokio::test]
async fn dropped_hand_over_sends_its_lines_and_ends_its_task() {
    let Fixture { handover, driver, woken, .. } = Fixture::new();
    drop(handover);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "woken to end");
    assert_eq!(driver.now_or_never(), Some(()));

    let fixture = Fixture::new();
    fixture.submit("last");
    let Fixture { handover, driver, inbox, .. } = fixture;
    drop(handover);
    assert_eq!(driver.now_or_never(), Some(()));
    let Ok(Message::Lines(lines)) = inbox.try_recv() else { panic!("no line") };
    assert_eq!(text(&lines[0]), "last");
    assert!(inbox.recv().is_err(), "no sender keeps the thread running");
}

#[tokio::test]
async fn calls_fail_at_once_when_the_thread_has_stopped() {
    let metrics = Metrics::new();
    let (writer, inbox) = Writer::new(10, Numbering::for_test(), &metrics);
    let (handover, mut driver) = Handover::new(writer.clone());
    let mut poll = || driver.poll_unpin(&mut Context::from_waker(Waker::noop()));
    let submit = || {
        writer.take_place(AuditClass::Allowed, 1).expect("a place");
        handover.submit_awaited("{".to_owned()).expect("the task runs")
    };
    let with_the_thread = submit();
    assert_eq!(poll(), Poll::Pending);
    drop(inbox);
    assert_eq!(poll(), Poll::Pending);
    assert_eq!(with_the_thread.now_or_never(), Some(Err(AuditUnavailable)));

    assert!(!writer.availability().is_unavailable(), "the thread itself reports that");
    let later = submit();
    writer.take_place(AuditClass::Refused, 3).expect("a place");
    let refused = Line::unawaited("{".to_owned(), AuditClass::Refused).for_calls(3);
    handover.submit(refused).expect("not known yet");
    assert_eq!(poll(), Poll::Pending);
    assert_eq!(later.now_or_never(), Some(Err(AuditUnavailable)));
    assert!(writer.availability().is_unavailable());
    let shown = metrics.render();
    for (class, lost) in [("allowed", 1), ("refused", 3)] {
        let line = format!(r#"ott_gateway_audit_records_lost_total{{class="{class}"}} {lost}"#);
        assert!(shown.contains(&line), "{line}\n{shown}");
    }
    assert!(shown.contains(r#"ott_gateway_audit_records_pending{class="refused"} 0"#), "{shown}");
}

/// A running task, on a clock that only the test advances.
struct Timed {
    writer: Writer,
    handover: Arc<Handover>,
    inbox: Receiver<Message>,
    _clock: HeldClock,
}

impl Timed {
    fn new() -> Self {
        let clock = HeldClock::new();
        let (writer, inbox) = Writer::new(1000, Numbering::for_test(), &Metrics::new());
        // The first write was in time.
        writer.availability().set_available(clock::now());
        writer.availability().end();
        let (handover, driver) = Handover::new(writer.clone());
        tokio::spawn(driver);
        Self { writer, handover, inbox, _clock: clock }
    }

    fn call(&self) -> tokio::task::JoinHandle<Result<(), AuditUnavailable>> {
        tokio::spawn(self.handover.submit_awaited("{".to_owned()).expect("the task runs"))
    }

    fn standing(&self) -> Standing {
        *self.writer.availability().subscribe().borrow()
    }

    /// Advances the clock, and runs all tasks that are ready.
    async fn advance(&self, by: Duration) {
        tokio::time::advance(by).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sink_is_checked_once_a_call_has_waited_for_one_write() {
    let timed = Timed::new();
    timed.advance(Duration::ZERO).await;
    timed.writer.availability().begin(clock::now());
    let early = timed.call();
    timed.advance(MAX_WRITE.saturating_sub(MS)).await;
    assert_eq!(timed.standing(), Standing::Available);
    timed.advance(2 * MS).await;
    assert_eq!(timed.standing(), Standing::Unavailable, "detected without another call");
    assert!(!early.is_finished(), "its record may still be written");
    assert!(timed.writer.availability().take_distrust());
}

#[tokio::test(start_paused = true)]
async fn each_call_gives_up_at_its_own_limit_unless_its_line_is_written_before() {
    let timed = Timed::new();
    let first = timed.call();
    timed.advance(2000 * MS).await;
    let second = timed.call();
    timed.advance(MS).await;
    let third = timed.call();
    timed.advance(RECORD_LIMIT.saturating_sub(2002 * MS)).await;
    assert!(!first.is_finished());
    assert_eq!(timed.standing(), Standing::Available, "no write is in progress that takes too long");
    timed.advance(2 * MS).await;
    assert!(first.is_finished());
    assert_eq!(first.await.expect("no panic"), Err(AuditUnavailable));
    assert_eq!(timed.standing(), Standing::Unavailable);
    assert!(timed.writer.availability().take_distrust(), "a write must succeed in time first");

    // The others keep waiting. The line of the second one is written just in time.
    timed.advance(1990 * MS).await;
    let (mut lines, mut is_woken) = (Vec::new(), false);
    for message in timed.inbox.try_iter() {
        match message {
            Message::Lines(more) => lines.extend(more),
            Message::Wake => is_woken = true,
            Message::Flush(_) | Message::Panic => panic!("not a line"),
        }
    }
    assert!(is_woken);
    let mut wakes = Wakes::default();
    let mut lines = lines.into_iter();
    let repeat = lines.next().expect("a line").finish(&mut wakes);
    assert!(matches!(repeat, Fate::Repeat(_)), "an answer was withheld");
    let awaited = lines.next().expect("a line").finish(&mut wakes);
    assert!(matches!(awaited, Fate::Awaited));
    wakes.send();
    timed.advance(MS).await;
    assert!(second.is_finished());
    assert_eq!(second.await.expect("no panic"), Ok(()));
    assert!(!third.is_finished());
    timed.advance(12 * MS).await;
    assert!(third.is_finished());
    assert_eq!(third.await.expect("no panic"), Err(AuditUnavailable));
    assert!(matches!(lines.next().expect("a line").finish(&mut wakes), Fate::Repeat(_)));
}

#[tokio::test(start_paused = true)]
async fn all_calls_of_a_worker_share_one_timer() {
    let timed = Timed::new();
    for _ in 0..100 {
        let call = timed.call();
        timed.advance(MS).await;
        let mut wakes = Wakes::default();
        for message in timed.inbox.try_iter() {
            let Message::Lines(lines) = message else { panic!("not a line") };
            lines.into_iter().for_each(|line| drop(line.finish(&mut wakes)));
        }
        drop(wakes);
        timed.advance(MS).await;
        assert!(call.is_finished(), "the task was woken");
        assert_eq!(call.await.expect("no panic"), Ok(()));
    }
    // They do not affect the limits of a later call.
    let last = timed.call();
    timed.advance(RECORD_LIMIT.saturating_sub(MS)).await;
    assert!(!last.is_finished());
    timed.advance(2 * MS).await;
    assert!(last.is_finished());
    assert_eq!(last.await.expect("no panic"), Err(AuditUnavailable));
}

#[tokio::test]
async fn runtime_has_one_hand_over_at_a_time() {
    let (writer, _inbox) = Writer::new(10, Numbering::for_test(), &Metrics::new());
    let handovers = Handovers::default();
    let own = handovers.of_this_runtime(&writer).expect("a runtime");
    assert!(Arc::ptr_eq(&own, &handovers.of_this_runtime(&writer).expect("a runtime")));
    let other = std::thread::scope(|scope| {
        let work = || {
            let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async { handovers.of_this_runtime(&writer).expect("a runtime") })
        };
        scope.spawn(work).join().expect("no panic")
    });
    assert!(!Arc::ptr_eq(&own, &other));
    assert!(!other.turn().is_driven, "its runtime has ended");
    assert!(Arc::ptr_eq(&own, &handovers.of_this_runtime(&writer).expect("a runtime")));
    assert_eq!(handovers.all().len(), 1, "the other one is removed");
    let outside = std::thread::scope(|scope| {
        scope.spawn(|| handovers.of_this_runtime(&writer).is_none()).join().expect("no panic")
    });
    assert!(outside);
}
