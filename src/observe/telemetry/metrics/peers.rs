//! Metrics of peers below the level of calls: TLS handshakes, HTTP/2 streams and errors.
//!
//! Peers are not authenticated at this level, so no label contains a peer. The log contains them, in a
//! limited number of lines.

use prometheus::IntCounter;

use super::{
    Metrics,
    family::{Families, Per},
};
use crate::observe::telemetry::label::labels;

labels! {
    /// Why a TLS handshake of a caller failed, as a label.
    pub enum TlsFailure {
        /// Not completed in time.
        Timeout = "timeout",
        /// The client did not choose HTTP/2 by ALPN.
        NoAlpn = "no_alpn",
        /// No protocol version, cipher suite or signature scheme in common.
        Incompatible = "incompatible",
        /// The client sent something other than TLS.
        NotTls = "not_tls",
        /// A required client certificate was not sent.
        NoCertificate = "no_certificate",
        /// The client certificate has expired.
        CertificateExpired = "certificate_expired",
        /// The client certificate is not valid yet.
        CertificateNotYetValid = "certificate_not_yet_valid",
        /// No configured CA signed the client certificate.
        UnknownCa = "unknown_ca",
        /// The client certificate is invalid for another reason.
        BadCertificate = "bad_certificate",
        /// The client sent an alert, for example because it does not trust our certificate.
        RejectedByClient = "rejected_by_client",
        /// The connection was lost.
        Disconnected = "disconnected",
        /// The client violated the TLS protocol.
        ProtocolError = "protocol_error",
    }
}

impl TlsFailure {
    /// Returns the label of `ott_gateway_tls_handshakes_total`.
    const fn result(self) -> HandshakeResult {
        match self {
            Self::Timeout => HandshakeResult::Timeout,
            Self::NoAlpn => HandshakeResult::NoAlpn,
            _ => HandshakeResult::Failed,
        }
    }
}

labels! {
    /// Result of a TLS handshake, as a label.
    enum HandshakeResult {
        /// It was completed.
        Ok = "ok",
        /// It failed.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
        /// The client did not choose HTTP/2.
        NoAlpn = "no_alpn",
    }
}

labels! {
    /// Scope of a rejection, as a label.
    enum Scope {
        /// A stream.
        Stream = "stream",
        /// A connection.
        Connection = "connection",
    }
}

labels! {
    /// Why HTTP/2 rejected a stream or a connection, as a label: an error code of RFC 9113
    /// (section 7), or one of our own limits.
    pub enum Http2Error {
        /// Malformed headers or a frame that is not allowed.
        ProtocolError = "protocol_error",
        /// A violation of flow control.
        FlowControlError = "flow_control_error",
        /// A frame on a stream that is closed.
        StreamClosed = "stream_closed",
        /// A frame with an invalid size.
        FrameSizeError = "frame_size_error",
        /// More streams than allowed.
        RefusedStream = "refused_stream",
        /// Header compression that cannot be decoded.
        CompressionError = "compression_error",
        /// A flood that the HTTP/2 library detected.
        EnhanceYourCalm = "enhance_your_calm",
        /// Request headers that exceed the limit, answered with HTTP status 431.
        HeadersTooLarge = "headers_too_large",
        /// More streams reset by the caller than allowed.
        TooManyResets = "too_many_resets",
        /// More streams reset because of the caller's errors than allowed.
        TooManyErrors = "too_many_errors",
        /// Any other code.
        Other = "other",
    }
}

impl Http2Error {
    /// Converts an HTTP/2 error code.
    #[must_use]
    pub fn from_code(code: h2::Reason) -> Self {
        match code {
            h2::Reason::PROTOCOL_ERROR => Self::ProtocolError,
            h2::Reason::FLOW_CONTROL_ERROR => Self::FlowControlError,
            h2::Reason::STREAM_CLOSED => Self::StreamClosed,
            h2::Reason::FRAME_SIZE_ERROR => Self::FrameSizeError,
            h2::Reason::REFUSED_STREAM => Self::RefusedStream,
            h2::Reason::COMPRESSION_ERROR => Self::CompressionError,
            h2::Reason::ENHANCE_YOUR_CALM => Self::EnhanceYourCalm,
            _ => Self::Other,
        }
    }
}

/// The families of this module.
#[derive(Debug)]
pub(super) struct PeerFamilies {
    handshakes: Per<HandshakeResult, IntCounter>,
    handshake_failures: Per<TlsFailure, IntCounter>,
    paused: IntCounter,
    resets: IntCounter,
    control_frames: IntCounter,
    rejected: Per<Scope, Per<Http2Error, IntCounter>>,
}

impl PeerFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let paused = families.counter(
            "ott_gateway_connections_paused_total",
            "Pauses of connections that opened many streams before an identified call.",
        );
        let resets = families.counter("ott_gateway_http2_stream_resets_total", "Streams that callers reset.");
        let control_frames = families.counter(
            "ott_gateway_http2_control_frames_total",
            "SETTINGS and PING frames of callers that require an acknowledgement.",
        );
        Self {
            handshakes: families.counter_per(
                "ott_gateway_tls_handshakes_total",
                "Finished TLS handshakes of callers, by result.",
                "result",
            ),
            handshake_failures: families.counter_per(
                "ott_gateway_tls_handshake_failures_total",
                "Failed TLS handshakes of callers, by reason.",
                "reason",
            ),
            paused,
            resets,
            control_frames,
            rejected: families.counter_per_pair(
                "ott_gateway_http2_errors_total",
                "Streams and connections that were closed because of an error of the caller, by reason.",
                ["scope", "reason"],
            ),
        }
    }
}

impl Metrics {
    /// Counts a completed TLS handshake.
    pub fn tls_handshake_completed(&self) {
        self.0.peers.handshakes.get(HandshakeResult::Ok).inc();
    }

    /// Counts a failed TLS handshake.
    pub fn tls_handshake_failed(&self, failure: TlsFailure) {
        self.0.peers.handshakes.get(failure.result()).inc();
        self.0.peers.handshake_failures.get(failure).inc();
    }

    /// Counts a pause of a connection whose caller is not identified.
    pub fn connection_paused(&self) {
        self.0.peers.paused.inc();
    }

    /// Counts a stream that a caller reset.
    pub fn http2_stream_reset(&self) {
        self.0.peers.resets.inc();
    }

    /// Counts a frame that requires an acknowledgement.
    pub fn http2_control_frame(&self) {
        self.0.peers.control_frames.inc();
    }

    /// Counts a stream that was rejected because of an error of the caller.
    pub fn http2_stream_rejected(&self, error: Http2Error) {
        self.0.peers.rejected.get(Scope::Stream).get(error).inc();
    }

    /// Counts a connection that was closed because of an error of the caller.
    pub fn http2_connection_rejected(&self, error: Http2Error) {
        self.0.peers.rejected.get(Scope::Connection).get(error).inc();
    }
}
