//! What peers did below the level of a call: TLS handshakes, HTTP/2 streams and errors.
//!
//! Nobody has proven who they are at that level, so no label names a peer. The log does, with
//! limited lines.

use prometheus::{IntCounter, IntCounterVec};

use super::{Metrics, family::Families};

/// Why a TLS handshake of a caller failed, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// Not completed in time.
    Timeout,
    /// The client did not choose HTTP/2 by ALPN.
    NoAlpn,
    /// No protocol version, cipher suite or signature scheme in common.
    Incompatible,
    /// The client sent something other than TLS.
    NotTls,
    /// A client certificate is required, and none was sent.
    NoCertificate,
    /// The client certificate has expired.
    CertificateExpired,
    /// The client certificate is not valid yet.
    CertificateNotYetValid,
    /// No configured CA signed the client certificate.
    UnknownCa,
    /// The client certificate is invalid for another reason.
    BadCertificate,
    /// The client sent an alert, for example because it does not trust our certificate.
    RejectedByClient,
    /// The connection broke.
    Disconnected,
    /// The client violated the TLS protocol.
    ProtocolError,
}

impl TlsFailure {
    const ALL: [Self; 12] = [
        Self::Timeout,
        Self::NoAlpn,
        Self::Incompatible,
        Self::NotTls,
        Self::NoCertificate,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::UnknownCa,
        Self::BadCertificate,
        Self::RejectedByClient,
        Self::Disconnected,
        Self::ProtocolError,
    ];

    /// The name in metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::NoAlpn => "no_alpn",
            Self::Incompatible => "incompatible",
            Self::NotTls => "not_tls",
            Self::NoCertificate => "no_certificate",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::UnknownCa => "unknown_ca",
            Self::BadCertificate => "bad_certificate",
            Self::RejectedByClient => "rejected_by_client",
            Self::Disconnected => "disconnected",
            Self::ProtocolError => "protocol_error",
        }
    }

    /// The label of `ott_gateway_tls_handshakes_total`.
    const fn result(self) -> HandshakeResult {
        match self {
            Self::Timeout => HandshakeResult::Timeout,
            Self::NoAlpn => HandshakeResult::NoAlpn,
            _ => HandshakeResult::Failed,
        }
    }
}

/// How a TLS handshake ended, as a label.
#[derive(Clone, Copy, Debug)]
enum HandshakeResult {
    Ok,
    Failed,
    Timeout,
    NoAlpn,
}

impl HandshakeResult {
    const NAMES: [&'static str; 4] = ["ok", "failed", "timeout", "no_alpn"];
}

/// Why HTTP/2 rejected a stream or a connection, as a label: an error code of RFC 9113
/// (section 7), or one of our own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Error {
    /// Malformed headers or a frame that is not allowed.
    ProtocolError,
    /// A violation of flow control.
    FlowControlError,
    /// A frame on a stream that is closed.
    StreamClosed,
    /// A frame with an invalid size.
    FrameSizeError,
    /// More streams than allowed.
    RefusedStream,
    /// Header compression that cannot be decoded.
    CompressionError,
    /// A flood that the HTTP/2 library detected.
    EnhanceYourCalm,
    /// Request headers that exceed the limit, answered with HTTP status 431.
    HeadersTooLarge,
    /// More streams reset by the caller than allowed.
    TooManyResets,
    /// More streams reset because of the caller's errors than allowed.
    TooManyErrors,
    /// Any other code.
    Other,
}

impl Http2Error {
    const ALL: [Self; 11] = [
        Self::ProtocolError,
        Self::FlowControlError,
        Self::StreamClosed,
        Self::FrameSizeError,
        Self::RefusedStream,
        Self::CompressionError,
        Self::EnhanceYourCalm,
        Self::HeadersTooLarge,
        Self::TooManyResets,
        Self::TooManyErrors,
        Self::Other,
    ];

    /// The reason for an error code of HTTP/2.
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

    /// The name in metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProtocolError => "protocol_error",
            Self::FlowControlError => "flow_control_error",
            Self::StreamClosed => "stream_closed",
            Self::FrameSizeError => "frame_size_error",
            Self::RefusedStream => "refused_stream",
            Self::CompressionError => "compression_error",
            Self::EnhanceYourCalm => "enhance_your_calm",
            Self::HeadersTooLarge => "headers_too_large",
            Self::TooManyResets => "too_many_resets",
            Self::TooManyErrors => "too_many_errors",
            Self::Other => "other",
        }
    }
}

/// The families of this module.
#[derive(Debug)]
pub(super) struct PeerFamilies {
    handshakes: [IntCounter; HandshakeResult::NAMES.len()],
    handshake_failures: [IntCounter; TlsFailure::ALL.len()],
    paused: IntCounter,
    resets: IntCounter,
    control_frames: IntCounter,
    rejected_streams: [IntCounter; Http2Error::ALL.len()],
    rejected_connections: [IntCounter; Http2Error::ALL.len()],
}

impl PeerFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let handshakes = families.counters(
            "ott_gateway_tls_handshakes_total",
            "TLS handshakes of callers that ended.",
            &["result"],
        );
        let failures = families.counters(
            "ott_gateway_tls_handshake_failures_total",
            "TLS handshakes of callers that failed, by reason.",
            &["reason"],
        );
        let paused = families.counter(
            "ott_gateway_connections_paused_total",
            "Pauses of connections that opened many streams before an identified call.",
        );
        let resets = families.counter("ott_gateway_http2_stream_resets_total", "Streams that callers reset.");
        let control_frames = families.counter(
            "ott_gateway_http2_control_frames_total",
            "SETTINGS and PING frames of callers that demanded an acknowledgement.",
        );
        let errors = families.counters(
            "ott_gateway_http2_errors_total",
            "Streams and connections that were ended because of an error of the caller, by reason.",
            &["scope", "reason"],
        );
        Self {
            handshakes: HandshakeResult::NAMES.map(|result| handshakes.with_label_values(&[result])),
            handshake_failures: TlsFailure::ALL.map(|reason| failures.with_label_values(&[reason.as_str()])),
            paused,
            resets,
            control_frames,
            rejected_streams: by_reason(&errors, "stream"),
            rejected_connections: by_reason(&errors, "connection"),
        }
    }
}

fn by_reason(errors: &IntCounterVec, scope: &str) -> [IntCounter; Http2Error::ALL.len()] {
    Http2Error::ALL.map(|reason| errors.with_label_values(&[scope, reason.as_str()]))
}

impl Metrics {
    /// Counts a TLS handshake that was completed.
    pub fn tls_handshake_completed(&self) {
        self.0.peers.handshakes[HandshakeResult::Ok as usize].inc();
    }

    /// Counts a TLS handshake that failed.
    pub fn tls_handshake_failed(&self, failure: TlsFailure) {
        self.0.peers.handshakes[failure.result() as usize].inc();
        self.0.peers.handshake_failures[failure as usize].inc();
    }

    /// Counts a pause of a connection whose caller is not identified.
    pub fn connection_paused(&self) {
        self.0.peers.paused.inc();
    }

    /// Counts a stream that a caller reset.
    pub fn http2_stream_reset(&self) {
        self.0.peers.resets.inc();
    }

    /// Counts a frame that demanded an acknowledgement.
    pub fn http2_control_frame(&self) {
        self.0.peers.control_frames.inc();
    }

    /// Counts a stream that was rejected because of an error of the caller.
    pub fn http2_stream_rejected(&self, error: Http2Error) {
        self.0.peers.rejected_streams[error as usize].inc();
    }

    /// Counts a connection that was ended because of an error of the caller.
    pub fn http2_connection_rejected(&self, error: Http2Error) {
        self.0.peers.rejected_connections[error as usize].inc();
    }
}
