//! Work on files with a time limit for the waiting caller.
//!
//! A hanging system call, for instance on a network mount, cannot be interrupted. It occupies only
//! its own thread, because each piece of work gets a new one. The runtime's blocking pool is not
//! used, because it is shared with other work and panics when a thread cannot be started.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    no_result::NoResult,
    progress::{Progress, Reached},
};
use crate::base::clock::{self, Instant};

/// Maximum duration of one read, including parsing.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of reads of one file that may hang at the same place before further reads stop before it.
/// Up to this number, a file that responds again is read at once, even if earlier reads of it never
/// return.
const FREE_READS: usize = 16;

/// Minimum interval between reads that may hang at a place at which [`FREE_READS`] others already
/// hang.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);

/// Maximum number of hanging reads of one file that stop at known places. Each of them has found
/// another place that hangs.
const MAX_CAREFUL_READS: usize = 16;

/// Maximum number of reads of one file that have not returned. Hanging threads use memory; at this
/// number, the file is read again only once one of them returns.
pub const MAX_PENDING_READS: usize = 64;

/// Maximum number of reads of one file that may hang at the same places as others.
const MAX_FREE_READS: usize = MAX_PENDING_READS - MAX_CAREFUL_READS;

/// Reads in progress, by the name of their file.
static PENDING: Mutex<BTreeMap<Arc<str>, Pending>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Pending {
    /// Any number of callers may read one file at the same time. Only reads that have not returned
    /// within [`READ_TIMEOUT`] count as hanging.
    reads: Vec<ReadInProgress>,
    /// Time of the last start of a read that may hang anywhere.
    last_free_start: Option<Instant>,
}

/// A read in progress.
struct ReadInProgress {
    started: Instant,
    is_careful: bool,
    reached: Reached,
}

/// A place among the reads of one file. Returned by its thread, even after a panic.
struct Slot {
    name: Arc<str>,
    reached: Reached,
}

impl Slot {
    fn take(name: &str) -> Result<(Self, Progress), NoResult> {
        let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = name.into();
        let now = clock::now();
        let file = pending.entry(Arc::clone(&name)).or_default();
        let progress = file.admit(now)?;
        let reached = progress.reached();
        file.reads.push(ReadInProgress {
            started: now,
            is_careful: progress.is_careful(),
            reached: Arc::clone(&reached),
        });
        Ok((Self { name, reached }, progress))
    }
}

impl Pending {
    fn admit(&mut self, now: Instant) -> Result<Progress, NoResult> {
        let hanging: Vec<&ReadInProgress> = self
            .reads
            .iter()
            .filter(|read| now.saturating_duration_since(read.started) >= READ_TIMEOUT)
            .collect();
        let careful = hanging.iter().filter(|read| read.is_careful).count();
        let is_due =
            self.last_free_start.is_none_or(|last| now.saturating_duration_since(last) >= RETRY_INTERVAL);
        let may_hang = match hanging.len() - careful {
            0..FREE_READS => true,
            FREE_READS..MAX_FREE_READS => is_due,
            _ => false,
        };
        if may_hang {
            self.last_free_start = Some(now);
            return Ok(Progress::free());
        }
        if careful >= MAX_CAREFUL_READS {
            return Err(NoResult::TooManyPending);
        }
        let place =
            |read: &&ReadInProgress| read.reached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Progress::careful(hanging.iter().filter_map(place).collect()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = pending.get_mut(&self.name) {
            file.reads.retain(|read| !Arc::ptr_eq(&read.reached, &self.reached));
            if file.reads.is_empty() {
                pending.remove(&self.name);
            }
        }
    }
}

/// Runs work on a file on its own thread, and waits for it. Blocks for at most [`READ_TIMEOUT`].
/// `name` is the path, or a name for several files that are read together.
///
/// # Errors
///
/// The work has no result in time.
pub(super) fn wait<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(Progress) -> T + Send + 'static,
) -> Result<T, NoResult> {
    let (send, receive) = mpsc::sync_channel(1);
    start(name, work, move |result| drop(send.send(result)))?;
    receive.recv_timeout(READ_TIMEOUT).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => NoResult::TimedOut,
        mpsc::RecvTimeoutError::Disconnected => NoResult::Panicked,
    })
}

/// Like [`wait`], without blocking the caller's thread.
///
/// # Errors
///
/// The work has no result in time.
pub(super) async fn read<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(Progress) -> T + Send + 'static,
) -> Result<T, NoResult> {
    run_within(name, READ_TIMEOUT, work).await
}

/// Runs work that reads files on its own thread, and waits for it up to `limit`.
///
/// # Errors
///
/// The work has no result in time.
pub async fn run<T: Send + 'static>(
    name: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    run_within(name, limit, move |progress| progress.untracked().map(|()| work())).await?
}

async fn run_within<T: Send + 'static>(
    name: &str,
    limit: Duration,
    work: impl FnOnce(Progress) -> T + Send + 'static,
) -> Result<T, NoResult> {
    // A paused clock would advance to the timeout at once, because the runtime is idle while the
    // thread works.
    #[cfg(test)]
    let _held = clock::HeldClock::new();
    let (send, receive) = oneshot::channel();
    start(name, work, move |result| drop(send.send(result)))?;
    match tokio::time::timeout(limit, receive).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_closed)) => Err(NoResult::Panicked),
        Err(_elapsed) => Err(NoResult::TimedOut),
    }
}

fn start<T>(
    name: &str,
    work: impl FnOnce(Progress) -> T + Send + 'static,
    send: impl FnOnce(T) + Send + 'static,
) -> Result<(), NoResult> {
    let (slot, progress) = Slot::take(name)?;
    let work = move || {
        let result = work(progress);
        // Dropped before the result is received, so that the place is free for the next read.
        drop(slot);
        send(result);
    };
    thread::Builder::new().name("file-read".to_owned()).spawn(work).map(drop).map_err(NoResult::NoThread)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        sync::mpsc::{Receiver, Sender, channel},
        time::UNIX_EPOCH,
    };

    use tokio::task::JoinHandle;

    use super::*;

    /// Work that hangs until the sender is dropped.
    fn hanging() -> (Sender<()>, impl FnOnce() + Send + 'static) {
        let (end, ended): (_, Receiver<()>) = channel();
        (end, move || {
            let _ended = ended.recv();
        })
    }

    /// Begins a read of `path` that hangs until the sender is dropped.
    async fn begin(path: &Path) -> (Sender<()>, JoinHandle<Result<(), NoResult>>) {
        let (end, work) = hanging();
        let (begin, started) = channel();
        let file = path.to_owned();
        let read = move |progress: Progress| {
            let approached = progress.approach(&file);
            begin.send(()).expect("the test waits");
            approached.map(|()| work())
        };
        let name = path.display().to_string();
        let read = tokio::spawn(async move { super::read(&name, read).await? });
        while started.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        (end, read)
    }

    /// A read of `path` that times out and hangs until the sender is dropped.
    async fn hangs(path: &Path) -> Sender<()> {
        let (end, read) = begin(path).await;
        tokio::time::advance(READ_TIMEOUT * 99 / 100).await;
        assert!(!read.is_finished());
        tokio::time::advance(READ_TIMEOUT / 50).await;
        assert!(matches!(read.await.expect("no panic"), Err(NoResult::TimedOut)));
        end
    }

    /// A read of `path` that does not hang.
    async fn reads(path: &Path) -> Result<(), NoResult> {
        let file = path.to_owned();
        read(&path.display().to_string(), move |progress: Progress| progress.approach(&file)).await?
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_reads_are_limited_and_a_replaced_file_is_read_at_once() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        fs::write(&path, "").expect("a file");
        let (mut ends, mut replaced) = (Vec::new(), 0);
        let mut replace = || {
            replaced += 1;
            let new = folder.path().join("new");
            fs::write(&new, replaced.to_string()).expect("a file");
            let file = fs::File::options().append(true).open(&new).expect("it can be opened");
            // The inode of the replaced file may be reused within a tick of the clock.
            file.set_modified(UNIX_EPOCH + Duration::from_secs(replaced)).expect("it can be touched");
            fs::rename(new, &path).expect("renamed");
        };
        for number in 0..MAX_FREE_READS {
            if number >= FREE_READS {
                assert!(matches!(reads(&path).await, Err(NoResult::TooManyPending)), "the same file");
                tokio::time::advance(RETRY_INTERVAL).await;
            }
            ends.push(hangs(&path).await);
        }
        tokio::time::advance(RETRY_INTERVAL * 60).await;
        for _ in 0..MAX_CAREFUL_READS {
            assert!(matches!(reads(&path).await, Err(NoResult::TooManyPending)), "the same file");
            replace();
            reads(&path).await.expect("another file");
            ends.push(hangs(&path).await);
        }
        assert_eq!(ends.len(), MAX_PENDING_READS);
        replace();
        assert!(matches!(reads(&path).await, Err(NoResult::TooManyPending)));
        assert!(reads(folder.path()).await.is_ok(), "other files are not affected");
        drop(ends);
        while reads(&path).await.is_err() {}
    }

    /// Many API clients may share one file of authorities, and read it at the same time.
    #[tokio::test(start_paused = true)]
    async fn place_at_which_many_concurrent_reads_hang_is_avoided_at_once() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        fs::write(&path, "").expect("a file");
        let mut hanging = Vec::new();
        for _ in 0..FREE_READS {
            hanging.push(begin(&path).await);
        }
        tokio::time::advance(READ_TIMEOUT).await;
        for _ in 0..=MAX_CAREFUL_READS {
            assert!(matches!(reads(&path).await, Err(NoResult::TooManyPending)), "the same file");
        }
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "other").expect("a file");
        reads(&path).await.expect("another file");
        for (end, read) in hanging {
            drop(end);
            // The read either timed out or returned.
            let _ = read.await.expect("no panic");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn untracked_work_is_not_repeated_while_it_hangs() {
        let mut ends = Vec::new();
        for _ in 0..FREE_READS {
            let (end, work) = hanging();
            ends.push(end);
            let work = tokio::spawn(run("untracked", READ_TIMEOUT, work));
            tokio::task::yield_now().await;
            tokio::time::advance(READ_TIMEOUT).await;
            assert!(matches!(work.await.expect("no panic"), Err(NoResult::TimedOut)));
        }
        assert!(matches!(run("untracked", READ_TIMEOUT, || ()).await, Err(NoResult::TooManyPending)));
        tokio::time::advance(RETRY_INTERVAL).await;
        assert!(run("untracked", READ_TIMEOUT, || ()).await.is_ok());
    }

    /// Many API clients may share one file of authorities, or one secret.
    #[tokio::test(start_paused = true)]
    async fn number_of_reads_that_do_not_hang_is_not_limited() {
        let mut reads = Vec::new();
        for _ in 0..3 * MAX_PENDING_READS {
            let (end, work) = hanging();
            reads.push((end, tokio::spawn(run("shared", READ_TIMEOUT, work))));
        }
        tokio::task::yield_now().await;
        for (end, read) in reads {
            drop(end);
            assert!(read.await.expect("no panic").is_ok());
        }
    }

    #[tokio::test]
    async fn panic_is_an_error_and_frees_its_place() {
        for _ in 0..=FREE_READS {
            let result = run("panics", READ_TIMEOUT, || panic!("a test")).await;
            assert!(matches!(result, Err::<(), _>(NoResult::Panicked)));
        }
        assert!(matches!(wait("panics", |_| panic!("a test")), Err::<(), _>(NoResult::Panicked)));
        assert_eq!(wait("panics", |_| 7).expect("a result"), 7);
    }

    #[test]
    fn blocking_wait_ends_even_if_the_read_hangs() {
        let (_end, work) = hanging();
        let began = clock::now();
        assert!(matches!(wait("blocking", |_| work()), Err(NoResult::TimedOut)));
        assert!(began.elapsed() >= READ_TIMEOUT);
    }
}
