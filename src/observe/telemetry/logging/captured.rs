//! Captures the log of a unit test.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{Dispatch, level_filters::LevelFilter, subscriber::DefaultGuard};

/// Captures everything that the current thread logs until this is dropped.
pub(crate) struct CapturedLog {
    bytes: Bytes,
    _subscriber: DefaultGuard,
    _second: Dispatch,
}

impl CapturedLog {
    /// Starts capturing lines in text format, without colors, from TRACE up.
    pub(crate) fn start() -> Self {
        let bytes = Bytes::default();
        let writer = bytes.clone();
        let second = second_dispatcher();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(LevelFilter::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        Self { bytes, _subscriber: tracing::subscriber::set_default(subscriber), _second: second }
    }

    /// Returns everything captured so far.
    pub(crate) fn text(&self) -> String {
        let bytes = self.bytes.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Returns a dispatcher to keep alive while a test captures its log.
///
/// While there is only one dispatcher, `tracing` asks only the dispatcher of the current thread
/// whether a callsite is enabled. A callsite that is first reached on a thread without a dispatcher
/// is then disabled for all threads.
pub(crate) fn second_dispatcher() -> Dispatch {
    Dispatch::new(tracing_subscriber::registry())
}

#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl io::Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
