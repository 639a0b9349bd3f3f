//! Work on files that ends in time, for those who wait for it.
//!
//! A system call that hangs, on a network mount for instance, cannot be interrupted. It keeps
//! its thread, and nothing else: each piece of work has a new thread. The runtime's pool of
//! blocking threads is not used, because it is shared with other work and because it panics when
//! a thread cannot be started.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::clock::{self, Instant};

/// Maximum duration of one read, parsing included.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of reads of one file that may hang before further ones are started only every
/// [`PENDING_INTERVAL`]. Until then, a file that replaces one that hangs is read at once.
const FREE_PENDING_READS: usize = 16;

/// Minimum time between two reads of a file of which many hang.
const PENDING_INTERVAL: Duration = Duration::from_mins(1);

/// Maximum number of reads of one file that have not returned. Threads that hang use memory; with
/// this many of them, the file is read again once one of them returns.
pub const MAX_PENDING_READS: usize = 64;

/// Why work on a file has no result.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Not finished in time, which is [`READ_TIMEOUT`] for a read.
    #[error("it could not be read in time (5 seconds); check the file system that it is on")]
    TimedOut,
    /// As many earlier reads as are allowed have not returned.
    #[error("too many earlier reads have not returned; check the file system that it is on")]
    TooManyPending,
    /// The operating system did not start a thread.
    #[error("cannot start a thread to read it: {0}")]
    NoThread(#[source] io::Error),
    /// The thread panicked.
    #[error("reading it failed unexpectedly; the log has the panic")]
    Panicked,
}

/// Reads in progress by the name of their file.
static PENDING: Mutex<BTreeMap<Arc<str>, Pending>> = Mutex::new(BTreeMap::new());

struct Pending {
    /// When each of them was started. Any number of parts may read one file at the same time;
    /// only reads that have not returned within [`READ_TIMEOUT`] count as hanging.
    starts: Vec<Instant>,
    last_start: Instant,
}

/// A place among the reads of one file. Given back by its thread, even after a panic.
struct Place {
    name: Arc<str>,
    started: Instant,
}

impl Place {
    fn take(name: &str) -> Result<Self, Unanswered> {
        let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = name.into();
        let now = clock::now();
        let file = pending
            .entry(Arc::clone(&name))
            .or_insert_with(|| Pending { starts: Vec::new(), last_start: now });
        let hanging =
            file.starts.iter().filter(|&&start| now.saturating_duration_since(start) >= READ_TIMEOUT);
        let interval = match hanging.count() {
            0..FREE_PENDING_READS => Duration::ZERO,
            FREE_PENDING_READS..MAX_PENDING_READS => PENDING_INTERVAL,
            _ => Duration::MAX,
        };
        if now.saturating_duration_since(file.last_start) < interval {
            return Err(Unanswered::TooManyPending);
        }
        file.starts.push(now);
        file.last_start = now;
        Ok(Self { name, started: now })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = pending.get_mut(&self.name) {
            if let Some(index) = file.starts.iter().position(|start| *start == self.started) {
                file.starts.swap_remove(index);
            }
            if file.starts.is_empty() {
                pending.remove(&self.name);
            }
        }
    }
}

/// Does work on a file on a thread of its own, and waits for it. Blocks for at most
/// [`READ_TIMEOUT`]. `name` is the path, or a name for several files that are read together.
///
/// # Errors
///
/// There is no result in time.
pub fn wait<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    let (send, receive) = mpsc::sync_channel(1);
    start(name, work, move |result| drop(send.send(result)))?;
    receive.recv_timeout(READ_TIMEOUT).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => Unanswered::TimedOut,
        mpsc::RecvTimeoutError::Disconnected => Unanswered::Panicked,
    })
}

/// Like [`wait`], with another limit and without blocking the thread of the caller.
///
/// # Errors
///
/// There is no result in time.
pub async fn run<T: Send + 'static>(
    name: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    // A paused clock would pass the timeout at once, because the runtime is idle meanwhile.
    #[cfg(test)]
    let _held = clock::HeldClock::new();
    let (send, receive) = oneshot::channel();
    start(name, work, move |result| drop(send.send(result)))?;
    match tokio::time::timeout(limit, receive).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_closed)) => Err(Unanswered::Panicked),
        Err(_elapsed) => Err(Unanswered::TimedOut),
    }
}

fn start<T>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
    send: impl FnOnce(T) + Send + 'static,
) -> Result<(), Unanswered> {
    let place = Place::take(name)?;
    let work = move || {
        let result = work();
        // Before the result is received, so that the next read has the place.
        drop(place);
        send(result);
    };
    thread::Builder::new().name("file-read".to_owned()).spawn(work).map(drop).map_err(Unanswered::NoThread)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Work that hangs until the sender is dropped.
    fn hanging() -> (Sender<()>, impl FnOnce() + Send + 'static) {
        let (end, ended): (_, Receiver<()>) = channel();
        (end, move || {
            let _ended = ended.recv();
        })
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_reads_time_out_and_are_limited_per_file() {
        let mut ends = Vec::new();
        for number in 0..MAX_PENDING_READS {
            if number >= FREE_PENDING_READS {
                assert!(matches!(run("limited", READ_TIMEOUT, || ()).await, Err(Unanswered::TooManyPending)));
                tokio::time::advance(PENDING_INTERVAL).await;
            }
            let (end, work) = hanging();
            ends.push(end);
            let read = tokio::spawn(run("limited", READ_TIMEOUT, work));
            tokio::task::yield_now().await;
            tokio::time::advance(READ_TIMEOUT * 99 / 100).await;
            assert!(!read.is_finished());
            tokio::time::advance(READ_TIMEOUT / 50).await;
            assert!(matches!(read.await.expect("no panic"), Err(Unanswered::TimedOut)));
        }
        tokio::time::advance(PENDING_INTERVAL * 60).await;
        assert!(matches!(run("limited", READ_TIMEOUT, || ()).await, Err(Unanswered::TooManyPending)));
        assert!(run("another", READ_TIMEOUT, || ()).await.is_ok(), "other files are not affected");
        drop(ends);
        while run("limited", READ_TIMEOUT, || ()).await.is_err() {}
    }

    /// Many API clients may have one file of authorities, or one secret.
    #[tokio::test(start_paused = true)]
    async fn any_number_of_reads_that_do_not_hang_may_be_in_progress() {
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
    async fn panic_is_an_error_and_gives_its_place_back() {
        for _ in 0..=FREE_PENDING_READS {
            let result = run("panics", READ_TIMEOUT, || panic!("a test")).await;
            assert!(matches!(result, Err::<(), _>(Unanswered::Panicked)));
        }
        assert!(matches!(wait("panics", || panic!("a test")), Err::<(), _>(Unanswered::Panicked)));
        assert_eq!(wait("panics", || 7).expect("a result"), 7);
    }

    #[test]
    fn blocking_wait_ends_although_the_read_hangs() {
        let (_end, work) = hanging();
        let began = clock::now();
        assert!(matches!(wait("blocking", work), Err(Unanswered::TimedOut)));
        assert!(began.elapsed() >= READ_TIMEOUT);
    }
}
