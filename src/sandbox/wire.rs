//! TCP connection that can be reset and has a write timeout. `faults` decides when to reset it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Maximum time of a write without progress.
const MAX_STALL: Duration = Duration::from_secs(30);

/// Handle that resets a connection at its next write.
#[derive(Clone, Debug, Default)]
pub(super) struct Cutter(Arc<AtomicBool>);

impl Cutter {
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_cut(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A TCP connection that a [`Cutter`] can reset.
pub(super) struct Wire {
    stream: TcpStream,
    cutter: Cutter,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, cutter: Cutter) -> Self {
        Self { stream, cutter, stall: None }
    }

    /// Fails once the connection is cut, and makes closing it send a reset.
    fn check(&self) -> io::Result<()> {
        if self.cutter.is_cut() {
            // Closing with a linger time of zero sends RST instead of FIN.
            self.stream.set_zero_linger()?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    /// Returns the result of a write; fails if there was no progress for [`MAX_STALL`].
    fn limit_stall<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stall = None;
            return write;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(MAX_STALL)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let write = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limit_stall(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.limit_stall(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::base::clock;

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_times_out_after_thirty_seconds() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent_peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut wire = Wire::new(listener.accept().await.unwrap().0, Cutter::default());
        let started = clock::now();
        let more_than_any_buffer = vec![0; 64 * 1024 * 1024];
        let write = tokio::time::timeout(2 * MAX_STALL, wire.write_all(&more_than_any_buffer)).await;
        assert_eq!(write.expect("the write fails by itself").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= MAX_STALL);
    }
}
