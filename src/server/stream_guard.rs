//! Limits on open, reset and rejected streams of one connection.
//!
//! A reset stream no longer counts towards the limit of open streams, so a client could open any
//! number of streams on a connection (rapid reset, CVE-2023-44487). The HTTP/2 library limits the
//! number of streams that are reset while they wait to be accepted. That limit alone would close
//! connections of honest clients whose calls all reach their deadline at the same moment. Therefore
//! two other limits apply first:
//!
//! - Few resets are read per pass of the worker over its ready tasks. The streams before them are
//!   accepted before more is read, so that the library's limit is never reached and memory stays
//!   bounded.
//! - Resets and errors each have an allowance over time. When one is used up, the connection ends
//!   with GOAWAY.
//!
//! Until a client is identified, [`openings`] limits the streams that it keeps open.
//!
//! The limits work on the bytes of the connection, because the library does not report the streams
//! that it rejects.

mod allowance;
mod openings;
mod streams;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) use self::openings::StreamBudget;
use self::{openings::Openings, streams::Streams};
use super::{
    frame_scanner::{Frame, FrameScanner, kind},
    limits::Limits,
    preface,
    turn_clock::TurnClock,
};
use crate::{
    caller::Peer,
    observe::telemetry::metrics::{Http2Error, Metrics},
};

/// One poll of a connection: its start, and the number of resets read since. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Pass {
    resets: Arc<AtomicUsize>,
    clock: TurnClock,
}

/// A connection with limits on its streams.
#[derive(Debug)]
pub(super) struct Guarded<Io> {
    io: Io,
    pass: Pass,
    max_resets_per_pass: usize,
    /// Bytes that were read but belong to a later pass.
    held: Vec<u8>,
    /// A frame that opens a stream which has no place yet.
    opening: Option<Opening>,
    incoming: FrameScanner,
    outgoing: FrameScanner,
    streams: Streams,
    /// Whether GOAWAY has been sent.
    is_ended: bool,
}

/// The start of a frame that opens a stream, with its last byte held back.
#[derive(Debug)]
struct Opening {
    frame: Frame,
    last_byte: u8,
}

impl Pass {
    /// Drives the connection. Each poll is a pass.
    pub(super) async fn drive<F: Future>(&self, mut connection: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            self.resets.store(0, Ordering::Relaxed);
            self.clock.turn_begins();
            connection.as_mut().poll(cx)
        })
        .await
    }

    /// Returns whether streams were reset in this pass. A stream that is accepted in it may be one
    /// of them.
    pub(super) fn has_resets(&self) -> bool {
        self.resets.load(Ordering::Relaxed) > 0
    }

    /// Returns the clock that is read at the start of each pass.
    pub(super) const fn clock(&self) -> &TurnClock {
        &self.clock
    }
}

impl<Io> Guarded<Io> {
    /// Limits the streams of a connection. Its preface must not have been read from `io` yet.
    pub(super) fn new(
        io: Io,
        pass: Pass,
        limits: &Limits,
        peer: &Peer,
        budget: StreamBudget,
        metrics: Metrics,
    ) -> Self {
        let max_open = limits.max_local_error_resets.saturating_add(limits.max_streams as usize);
        let open = Openings::new(max_open, budget, peer.recognition().clone(), peer.address());
        Self {
            io,
            pass,
            max_resets_per_pass: limits.max_pending_resets,
            held: Vec::new(),
            opening: None,
            incoming: FrameScanner::after(preface::LENGTH),
            outgoing: FrameScanner::default(),
            streams: Streams::new(limits, open, peer.address(), metrics),
            is_ended: false,
        }
    }

    /// Processes the bytes of `buffer` from `start` on, up to the last reset that this pass may
    /// read or to a stream without a place. Holds the rest.
    fn take_incoming(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>, start: usize) {
        let mut end = start;
        while let (taken, Some(frame)) = self.incoming.next(&buffer.filled()[end..]) {
            end += taken;
            if self.streams.opens(&frame) && self.streams.open.poll_place(cx).is_pending() {
                // Holding back the last byte that was read keeps the frame incomplete.
                end -= 1;
                let last_byte = buffer.filled()[end];
                self.opening = Some(Opening { frame, last_byte });
                self.hold_from(end + 1, buffer);
                buffer.set_filled(end);
                return;
            }
            self.streams.received(&frame);
            if frame.kind != kind::RST_STREAM {
                continue;
            }
            let resets = self.pass.resets.fetch_add(1, Ordering::Relaxed) + 1;
            if resets >= self.max_resets_per_pass || self.streams.excess.is_some() {
                self.hold_from(end, buffer);
                return;
            }
        }
    }

    fn hold_from(&mut self, at: usize, buffer: &mut ReadBuf<'_>) {
        self.held.splice(..0, buffer.filled()[at..].iter().copied());
        buffer.set_filled(at);
    }
}

impl<Io: AsyncWrite + Unpin> Guarded<Io> {
    /// Returns an error if the connection has to end.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.streams.excess.map_or(Ok(()), |reason| Err(self.end(cx, reason)))
    }

    /// Processes the first `written` bytes of `buffers`, which have been written.
    fn follow_outgoing(&mut self, cx: &Context<'_>, buffers: &[io::IoSlice<'_>], mut written: usize) {
        for buffer in buffers {
            let mut bytes = &buffer[..written.min(buffer.len())];
            written -= bytes.len();
            while !bytes.is_empty() {
                let (taken, frame) = self.outgoing.next(bytes);
                bytes = &bytes[taken..];
                if let Some(frame) = frame {
                    self.streams.sent(&frame);
                }
            }
        }
        if self.streams.excess.is_some() || (self.opening.is_some() && self.streams.open.has_place()) {
            // Makes the library read, which ends the connection or its pause.
            cx.waker().wake_by_ref();
        }
    }

    /// Ends the connection: sends a GOAWAY frame if the client reads, and returns an error to the
    /// library, which then drops all streams.
    fn end(&mut self, cx: &mut Context<'_>, reason: Http2Error) -> io::Error {
        if !std::mem::replace(&mut self.is_ended, true) && self.outgoing.is_between_frames() {
            let frame = go_away(self.streams.last, reason);
            let mut rest = &frame[..];
            while let Poll::Ready(Ok(written @ 1..)) = Pin::new(&mut self.io).poll_write(cx, rest) {
                rest = &rest[written..];
            }
            // Not awaited, because the client may not read.
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
        io::Error::other(reason.as_str())
    }
}

/// Returns the frame that ends a connection (RFC 9113, section 6.8).
fn go_away(last_stream: u32, reason: Http2Error) -> Vec<u8> {
    let debug_data = reason.as_str().as_bytes();
    // The reasons are much shorter than 247 bytes.
    let length = u8::try_from(8 + debug_data.len()).unwrap_or(8);
    let mut frame = vec![0, 0, length, kind::GOAWAY, 0, 0, 0, 0, 0];
    frame.extend(last_stream.to_be_bytes());
    frame.extend(u32::from(h2::Reason::ENHANCE_YOUR_CALM).to_be_bytes());
    frame.extend(&debug_data[..usize::from(length) - 8]);
    frame
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        if this.pass.resets.load(Ordering::Relaxed) >= this.max_resets_per_pass {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(opening) = &this.opening {
            ready!(this.streams.open.poll_place(cx));
            buffer.put_slice(&[opening.last_byte]);
            this.streams.received(&opening.frame);
            this.opening = None;
            return Poll::Ready(Ok(()));
        }
        let start = buffer.filled().len();
        if this.held.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        } else {
            let now = this.held.len().min(buffer.remaining());
            buffer.put_slice(&this.held[..now]);
            this.held.drain(..now);
            if this.held.is_empty() {
                this.held = Vec::new();
            }
        }
        this.take_incoming(cx, buffer, start);
        if buffer.filled().len() == start && this.opening.is_some() {
            // The library would take a read without bytes for the end of the connection.
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Guarded<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buffer))?;
        self.follow_outgoing(cx, &[io::IoSlice::new(buffer)], written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, buffers))?;
        self.follow_outgoing(cx, buffers, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
