use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{advance, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::base::files::{MAX_BYTES, READ_TIMEOUT};

/// The observable actions of a follower.
#[derive(Debug, Default)]
struct Record {
    loaded: AtomicUsize,
    taken_over: AtomicUsize,
    refused: AtomicUsize,
    recovered: AtomicUsize,
    reasons: Mutex<Vec<String>>,
    /// A value that is refused when it is to be applied.
    unusable: Mutex<Option<u32>>,
    /// Reads hang while this is `Some`, until its sender is dropped.
    hangs: Mutex<Option<watch::Receiver<()>>>,
    hanging: AtomicUsize,
}

impl Outcomes for Record {
    fn loaded(&self) {
        self.loaded.fetch_add(1, Ordering::SeqCst);
    }

    fn reloaded(&self, ok: bool) {
        if ok { &self.taken_over } else { &self.refused }.fetch_add(1, Ordering::SeqCst);
    }

    fn recovered(&self) {
        self.recovered.fetch_add(1, Ordering::SeqCst);
    }
}

/// A file with a number; text after a `#` is ignored.
struct Number {
    path: PathBuf,
    record: Arc<Record>,
    in_use: watch::Sender<Option<u32>>,
}

fn parse(bytes: &[u8]) -> Result<u32, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    text.split('#').next().unwrap_or_default().trim().parse().map_err(|_| format!("not a number: {text}"))
}

impl FollowedFile for Number {
    type Value = u32;
    type Error = String;

    fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    fn parser(&self) -> Parser<u32, String> {
        let (path, record) = (self.path.clone(), Arc::clone(&self.record));
        Arc::new(move |reader| {
            // Hangs as if the read of the file did.
            let contents = reader.read(&path, MAX_BYTES).map_err(|error| error.to_string())?;
            let hangs = record.hangs.lock().unwrap().clone();
            if let Some(mut hangs) = hangs {
                record.hanging.fetch_add(1, Ordering::SeqCst);
                let _ended = block_on(hangs.changed());
            }
            parse(&contents.bytes)
        })
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &*self.record
    }

    fn apply(&mut self, new: &u32, _: Option<&u32>) -> Result<(), String> {
        if *self.record.unusable.lock().unwrap() == Some(*new) {
            return Err("not now".to_owned());
        }
        self.in_use.send_replace(Some(*new));
        Ok(())
    }

    fn refused(&mut self, error: &PollError<String>, _: Option<&u32>) {
        self.record.reasons.lock().unwrap().push(error.to_string());
    }
}

/// Blocks the thread until the future is ready.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

struct Followed {
    folder: TempDir,
    record: Arc<Record>,
    in_use: watch::Receiver<Option<u32>>,
    trigger: Trigger,
    _task: AbortOnDropHandle<()>,
}

impl Followed {
    fn start(text: &str, in_use: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), text).unwrap();
        let (record, (send, receive)) = (Arc::<Record>::default(), watch::channel(in_use));
        let file = Number { path: folder.path().join("file"), record: Arc::clone(&record), in_use: send };
        let mut follower = Follower::new(file, in_use, WallClock::following_monotonic());
        let trigger = follower.trigger();
        let task = AbortOnDropHandle::new(tokio::spawn(async move { match follower.run().await {} }));
        Self { folder, record, in_use: receive, trigger, _task: task }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    /// Replaces the file atomically, so that a poll on another thread sees either the old or the
    /// new contents.
    fn put(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    fn in_use(&self) -> Option<u32> {
        *self.in_use.borrow()
    }

    /// Numbers of versions applied, versions refused, and recoveries.
    fn counts(&self) -> [usize; 3] {
        let Record { taken_over, refused, recovered, .. } = &*self.record;
        [taken_over, refused, recovered].map(|count| count.load(Ordering::SeqCst))
    }

    fn reasons(&self) -> Vec<String> {
        self.record.reasons.lock().unwrap().clone()
    }
}

const IN_USE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn version_is_taken_over_after_two_polls_that_see_it() {
    let followed = Followed::start("1", Some(1));
    sleep(POLL_INTERVAL / 2).await;
    followed.put("2");
    sleep(POLL_INTERVAL).await;
    assert_eq!(followed.in_use(), Some(1), "one poll is not enough");
    followed.put("23");
    sleep(POLL_INTERVAL).await;
    assert_eq!(followed.in_use(), Some(1), "the polls have seen different versions");
    sleep(POLL_INTERVAL).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(23), [1, 0, 0]));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(followed.counts(), [1, 0, 0], "each version is applied once");
    assert_eq!(followed.record.loaded.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn different_bytes_with_the_same_value_are_not_a_change() {
    let followed = Followed::start("1", Some(1));
    for second in 0..30 {
        followed.put(&format!("1 # written at {second}"));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(followed.counts(), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn file_that_changes_at_every_poll_is_taken_over_once_its_value_stays_the_same() {
    let followed = Followed::start("1", Some(1));
    sleep(IN_USE).await;
    for second in 0..10 {
        followed.put(&format!("2 # written at {second}"));
        sleep(Duration::from_secs(1)).await;
        if second < 6 {
            assert_eq!(followed.in_use(), Some(1), "after {second} s");
        }
    }
    assert_eq!((followed.in_use(), followed.counts()), (Some(2), [1, 0, 0]));
    // The file has already been changing before its value changes.
    for second in 0..10 {
        followed.put(&format!("3 # written at {second}"));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(followed.in_use(), Some(3));
}

/// Regardless of the frequency of changes and of their start between two polls.
#[tokio::test(start_paused = true)]
async fn file_that_begins_to_change_constantly_is_in_use_in_time() {
    for every in [500, 1000, 2500, 2900, 3000, 3100, 3500, 4000, 4500] {
        for after_poll in [1, 1000, 1999, 2001, 2999] {
            let followed = Followed::start("1", Some(1));
            sleep(POLL_INTERVAL * 2 + Duration::from_millis(after_poll)).await;
            let mut in_use = followed.in_use.clone();
            let change = async {
                for number in 0.. {
                    followed.put(&format!("2 # written at {number}"));
                    sleep(Duration::from_millis(every)).await;
                }
            };
            let within = Duration::from_millis(8500);
            let is_in_use = timeout(within, in_use.wait_for(|value| *value == Some(2)));
            let is_in_use = tokio::select! { result = is_in_use => result.is_ok(), () = change => false };
            assert!(is_in_use, "every {every} ms, first {after_poll} ms after a poll");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn constantly_changing_value_is_refused_and_reported_once() {
    let followed = Followed::start("1", Some(1));
    for value in 2..60 {
        followed.put(&value.to_string());
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((followed.in_use(), followed.counts()), (Some(1), [0, 1, 0]));
    assert!(followed.reasons()[0].contains("different contents at every poll"), "{:?}", followed.reasons());
    sleep(IN_USE).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(59), [1, 1, 0]));
}

#[tokio::test(start_paused = true)]
async fn unusable_version_is_reported_once_per_reason_and_recovers() {
    let followed = Followed::start("1", Some(1));
    followed.put("x");
    sleep(Duration::from_mins(1)).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(1), [0, 1, 0]));
    for _ in 0..5 {
        fs::remove_file(followed.path()).unwrap();
        sleep(IN_USE).await;
        followed.put("x");
        sleep(IN_USE).await;
    }
    assert_eq!((followed.in_use(), followed.counts()), (Some(1), [0, 2, 0]), "{:?}", followed.reasons());
    followed.put("1");
    sleep(IN_USE).await;
    assert_eq!(followed.counts(), [0, 2, 1]);
    followed.put("x");
    sleep(IN_USE).await;
    followed.put("2");
    sleep(IN_USE).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(2), [1, 3, 1]));
}

#[tokio::test(start_paused = true)]
async fn file_that_is_missing_for_one_poll_is_not_reported() {
    let followed = Followed::start("1", Some(1));
    sleep(POLL_INTERVAL / 2).await;
    fs::remove_file(followed.path()).unwrap();
    sleep(POLL_INTERVAL).await;
    followed.put("2");
    sleep(IN_USE).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(2), [1, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn value_that_cannot_be_used_yet_is_tried_at_every_poll() {
    let followed = Followed::start("1", Some(1));
    *followed.record.unusable.lock().unwrap() = Some(2);
    followed.put("2");
    sleep(Duration::from_mins(1)).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(1), [0, 1, 0]));
    *followed.record.unusable.lock().unwrap() = None;
    sleep(POLL_INTERVAL).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(2), [1, 1, 0]), "the file has not changed");
}

#[tokio::test(start_paused = true)]
async fn requested_reload_is_fast_and_never_applies_a_half_written_file() {
    let followed = Followed::start("1", Some(1));
    sleep(POLL_INTERVAL / 2).await;
    followed.put("2");
    followed.trigger.fire();
    sleep(REQUESTED_INTERVAL / 2).await;
    followed.put("23");
    // Further requests do not shorten the time.
    followed.trigger.fire();
    sleep(Duration::from_millis(1)).await;
    followed.trigger.fire();
    sleep(REQUESTED_INTERVAL / 2).await;
    assert_eq!(followed.in_use(), Some(1));
    sleep(REQUESTED_INTERVAL).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(23), [1, 0, 0]));
    sleep(POLL_INTERVAL * 2).await;
    followed.trigger.fire();
    sleep(REQUESTED_INTERVAL).await;
    assert_eq!(followed.counts(), [2, 0, 0], "an unchanged file is also applied");
    followed.put("x");
    for refused in 1..4 {
        followed.trigger.fire();
        sleep(REQUESTED_INTERVAL * 2).await;
        assert_eq!(followed.counts(), [2, refused, 0], "each request is reported");
    }
}

#[tokio::test(start_paused = true)]
async fn first_value_is_used_at_once_if_its_file_is_old() {
    for (age, polls_of_4_ms) in [(5, 0), (1, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "1").unwrap();
        let wall = WallClock::following_monotonic();
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(wall.now() - Duration::from_secs(age)).unwrap();
        let (send, mut in_use) = watch::channel(None);
        let record = Arc::<Record>::default();
        let mut follower =
            Follower::new(Number { path, record: Arc::clone(&record), in_use: send }, None, wall);
        let began = clock::now();
        let _task = AbortOnDropHandle::new(tokio::spawn(async move { match follower.run().await {} }));
        in_use.wait_for(|value| *value == Some(1)).await.unwrap();
        let took = began.elapsed();
        assert!(
            took >= FIRST_INTERVAL * polls_of_4_ms && took <= FIRST_INTERVAL * polls_of_4_ms * 2,
            "{took:?}"
        );
        assert_eq!(record.loaded.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn missing_first_value_is_reported_at_once() {
    let followed = Followed::start("x", None);
    sleep(Duration::from_millis(1)).await;
    assert_eq!((followed.in_use(), followed.counts()), (None, [0, 1, 0]));
    followed.put("1");
    sleep(IN_USE).await;
    assert_eq!((followed.in_use(), followed.counts()), (Some(1), [0, 1, 0]));
}

#[tokio::test(start_paused = true)]
async fn hanging_poll_is_reported_and_polling_continues() {
    let followed = Followed::start("1", Some(1));
    sleep(POLL_INTERVAL / 2).await;
    let (end, ended) = watch::channel(());
    *followed.record.hangs.lock().unwrap() = Some(ended);
    // The clock does not advance by itself while a read is in progress.
    advance(POLL_INTERVAL).await;
    while followed.record.hanging.load(Ordering::SeqCst) == 0 {
        yield_now().await;
    }
    followed.put("2");
    *followed.record.hangs.lock().unwrap() = None;
    assert_eq!(followed.counts(), [0, 0, 0]);
    advance(READ_TIMEOUT + Duration::from_millis(1)).await;
    while followed.counts() == [0, 0, 0] {
        yield_now().await;
    }
    assert_eq!(followed.counts(), [0, 1, 0], "{:?}", followed.reasons());
    assert!(followed.reasons()[0].contains("in time (5 seconds)"), "{:?}", followed.reasons());
    // The first read still hangs.
    let changed = followed.in_use.clone().wait_for(|value| *value == Some(2)).await.map(|value| *value);
    assert_eq!(changed.unwrap(), Some(2));
    assert_eq!(followed.counts(), [1, 1, 0]);
    drop(end);
}

/// Regardless of the number of hanging reads of the file and of their duration.
#[tokio::test(start_paused = true)]
async fn replacement_of_a_hanging_file_is_in_use_in_time() {
    let followed = Followed::start("1", Some(1));
    let (end, ended) = watch::channel(());
    *followed.record.hangs.lock().unwrap() = Some(ended);
    let until_hanging = async |reads: usize| {
        while followed.record.hanging.load(Ordering::SeqCst) < reads {
            yield_now().await;
        }
    };
    for hanging in 1..=16 {
        until_hanging(hanging).await;
        advance(READ_TIMEOUT + Duration::from_millis(1)).await;
    }
    // Less than the minute after which a read may hang at the same place again.
    sleep(Duration::from_secs(40)).await;
    assert_eq!(followed.record.hanging.load(Ordering::SeqCst), 16, "reads stop before the file");
    *followed.record.hangs.lock().unwrap() = None;
    followed.put("2");
    let mut in_use = followed.in_use.clone();
    timeout(IN_USE, in_use.wait_for(|value| *value == Some(2))).await.unwrap().unwrap();
    assert_eq!(followed.counts(), [1, 2, 0], "{:?}", followed.reasons());
    drop(end);
}
