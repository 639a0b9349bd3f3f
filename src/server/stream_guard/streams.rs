//! Tracks the streams of a connection from its frames.

use std::{collections::HashSet, net::SocketAddr};

use super::{
    super::{
        frame_scanner::{Frame, kind},
        limits::Limits,
    },
    allowance::Allowance,
    openings::Openings,
};
use crate::observe::telemetry::metrics::{Http2Error, Metrics};

/// Maximum number of reset streams that are remembered. Their last frames arrive within one round
/// trip, in which a client opens far fewer streams.
const MAX_BLAMELESS: u32 = 4096;

/// State of the streams of one connection.
#[derive(Debug)]
pub(super) struct Streams {
    resets: Allowance,
    errors: Allowance,
    /// The highest stream that the client has opened.
    pub(super) last: u32,
    pub(super) open: Openings,
    /// Streams that our side reset through no fault of the client, and for which more frames may
    /// arrive; at most [`MAX_BLAMELESS`].
    blameless: HashSet<u32>,
    /// The limit that was exceeded, if the connection is to end.
    pub(super) excess: Option<Http2Error>,
    address: SocketAddr,
    metrics: Metrics,
}

impl Streams {
    pub(super) fn new(limits: &Limits, open: Openings, address: SocketAddr, metrics: Metrics) -> Self {
        Self {
            resets: Allowance::new(limits.reset_burst, limits.resets_per_second),
            errors: Allowance::new(limits.stream_error_burst, limits.stream_errors_per_second),
            last: 0,
            open,
            blameless: HashSet::new(),
            excess: None,
            address,
            metrics,
        }
    }

    /// Returns whether an incoming frame opens a stream. Other HEADERS are trailers, or an error
    /// that ends the connection.
    pub(super) const fn opens(&self, frame: &Frame) -> bool {
        frame.kind == kind::HEADERS && frame.stream > self.last
    }

    /// Processes a frame of the client.
    pub(super) fn received(&mut self, frame: &Frame) {
        match frame.kind {
            _ if self.opens(frame) => {
                self.last = frame.stream;
                self.open.opened(frame.stream);
            }
            kind::RST_STREAM => {
                self.metrics.http2_stream_reset();
                self.open.ended(frame.stream);
                if !self.resets.take() {
                    self.exceeded(Http2Error::TooManyResets);
                }
            }
            _ if frame.requires_ack() => self.metrics.http2_control_frame(),
            _ => {}
        }
    }

    /// Processes a frame of our side.
    pub(super) fn sent(&mut self, frame: &Frame) {
        match frame.kind {
            kind::RST_STREAM => {
                self.open.ended(frame.stream);
                self.rejected(frame);
            }
            kind::HEADERS if frame.ends_stream() => {
                // Service responses have more fields. Only the library's response to headers above
                // the limit has none but `:status`.
                if !self.open.ended(frame.stream) && frame.is_bare_error_status() {
                    self.report(frame.stream, Http2Error::HeadersTooLarge);
                }
                self.resets.give_back();
            }
            kind::HEADERS => self.open.responds(frame.stream),
            _ if frame.ends_stream() => {
                self.open.ended(frame.stream);
                self.resets.give_back();
            }
            _ => {}
        }
    }

    /// Records that our side reset a stream.
    fn rejected(&mut self, frame: &Frame) {
        let excess = match frame.error_code() {
            // The response was complete before the request, or the call was dropped. The rest of
            // the request may follow. The library ignores it only for the most recent of these
            // streams, and resets the others again.
            h2::Reason::NO_ERROR | h2::Reason::CANCEL => return self.forgive(frame.stream),
            // A client may open many streams before it receives the limit, and may have sent their
            // bodies, for which the library resets the streams again.
            h2::Reason::REFUSED_STREAM => {
                self.forgive(frame.stream);
                (!self.resets.take()).then_some(Http2Error::TooManyResets)
            }
            h2::Reason::STREAM_CLOSED if self.blameless.remove(&frame.stream) => return,
            _ => (!self.errors.take()).then_some(Http2Error::TooManyErrors),
        };
        self.report(frame.stream, Http2Error::from_code(frame.error_code()));
        if let Some(excess) = excess {
            self.exceeded(excess);
        }
    }

    /// Remembers a stream, so that another reset of it does not count as an error of the client.
    fn forgive(&mut self, stream: u32) {
        if self.blameless.len() >= MAX_BLAMELESS as usize {
            // Clients use only odd stream ids, so at most half of the maximum remains.
            self.blameless.retain(|other| other.saturating_add(MAX_BLAMELESS) > stream);
        }
        self.blameless.insert(stream);
    }

    fn report(&self, stream: u32, error: Http2Error) {
        self.metrics.http2_stream_rejected(error);
        tracing::info!(
            peer.address = %self.address,
            http2.stream = stream,
            http2.error = error.as_str(),
            "HTTP/2 stream rejected"
        );
    }

    fn exceeded(&mut self, reason: Http2Error) {
        if self.excess.is_none() {
            self.excess = Some(reason);
            self.metrics.http2_connection_rejected(reason);
            tracing::info!(
                peer.address = %self.address,
                http2.error = reason.as_str(),
                "HTTP/2 connection rejected"
            );
        }
    }
}
