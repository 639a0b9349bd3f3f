//! Passes lines to a writer thread, or drops them.
//!
//! Only the thread waits for the reader of standard error. Every lost line is counted, whether it
//! did not fit into the queue or could not be written.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_getfl, fstat, major, minor},
};
use tracing_subscriber::fmt::MakeWriter;

use crate::observe::telemetry::threads::{Heartbeat, Threads};

/// Maximum number of queued lines (about 4 MiB).
const QUEUE: usize = 8192;

/// Writer of whole lines that never waits. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LogWriter {
    inbox: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    Watch(Heartbeat),
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Starts the thread that writes to `output`. It ends with the last clone.
    pub(super) fn start(output: impl AsFd + Send + 'static) -> io::Result<Self> {
        let (inbox, messages) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut sink = Sink { output, is_line_open: false };
        let count = Arc::clone(&dropped);
        thread::Builder::new().name("log".to_owned()).spawn(move || run(&messages, &mut sink, &count))?;
        Ok(Self { inbox, dropped })
    }

    /// Returns the number of lines dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Registers the thread. It needs no heartbeat, because it may wait for the reader of the log
    /// indefinitely, but its death is detected.
    pub(super) fn watch(&self, threads: &Threads) {
        let heartbeat = threads.register("log");
        heartbeat.pulse().wait();
        let sent = self.inbox.try_send(Message::Watch(heartbeat));
        // If the thread is gone, dropping the heartbeat has marked it as dead.
        if let Err(TrySendError::Full(Message::Watch(heartbeat))) = sent {
            heartbeat.retire();
        }
    }

    /// Waits until all lines so far are written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, flushed) = sync_channel(1);
        if self.inbox.try_send(Message::Flush(done)).is_ok() {
            // After the limit, the lines are lost with the process.
            let _ = flushed.recv_timeout(limit);
        }
    }
}

fn run<O: AsFd>(messages: &Receiver<Message>, sink: &mut Sink<O>, dropped: &AtomicU64) {
    let is_discarded = is_closed(&sink.output);
    let mut heartbeat = None;
    while let Ok(message) = messages.recv() {
        match message {
            Message::Line(line) => {
                if is_discarded || sink.write_line(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Watch(own) => heartbeat = Some(own),
            Message::Flush(done) => drop(done.try_send(())),
        }
    }
    // Reached without a panic: the thread ends normally.
    if let Some(heartbeat) = heartbeat {
        heartbeat.retire();
    }
}

/// Returns whether the descriptor was closed when the process started. The standard library
/// then opens `/dev/null` for reading and writing in its place; a redirection by a shell or a
/// supervisor opens it for writing only.
fn is_closed(output: impl AsFd) -> bool {
    let is_null = fstat(&output).is_ok_and(|file| (major(file.st_rdev), minor(file.st_rdev)) == (1, 3));
    is_null && fcntl_getfl(&output).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR)
}

/// Output of lines. Bypasses [`io::Stderr`], which reports success if the descriptor is closed.
struct Sink<O> {
    output: O,
    /// Whether the last line was written partially.
    is_line_open: bool,
}

impl<O: AsFd> Sink<O> {
    /// Writes a whole line with its newline. Waits for the reader.
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_line_open {
            // The rest of that line is lost. This line must not continue it.
            self.write_all(b"\n")?;
            self.is_line_open = false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.output, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    self.is_line_open = !bytes.is_empty();
                }
                Err(rustix::io::Errno::INTR) => {}
                // Another process that shares the descriptor has made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => self.wait()?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the output is writable.
    fn wait(&self) -> io::Result<()> {
        let mut descriptors = [PollFd::new(&self.output, PollFlags::OUT)];
        match poll(&mut descriptors, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.inbox.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
