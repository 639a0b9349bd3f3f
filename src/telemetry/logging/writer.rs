//! Hands lines to a thread, or drops them.
//!
//! Only the thread waits for whoever reads standard error.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// The most lines that wait for the thread (some 4 MiB).
const QUEUE: usize = 8192;

/// A writer that takes whole lines and never waits. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LogWriter {
    inbox: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Starts the thread that writes to `output`. It ends with the last clone.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (inbox, messages) = sync_channel(QUEUE);
        thread::Builder::new().name("log".to_owned()).spawn(move || run(&messages, output))?;
        Ok(Self { inbox, dropped: Arc::default() })
    }

    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines so far are written, at most that long.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, flushed) = sync_channel(1);
        if self.inbox.try_send(Message::Flush(done)).is_ok() {
            // Past the limit the lines are lost with the process, as they would be anyway.
            let _ = flushed.recv_timeout(limit);
        }
    }
}

fn run(messages: &Receiver<Message>, mut output: impl Write) {
    while let Ok(message) = messages.recv() {
        match message {
            // Nowhere is left to complain about a log that cannot be written.
            Message::Line(line) => drop(output.write_all(&line)),
            Message::Flush(done) => drop(done.try_send(())),
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
