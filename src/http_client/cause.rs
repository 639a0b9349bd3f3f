//! Causes of failed exchanges, for operators.
//!
//! Causes are texts of the network stack (DNS, TCP, TLS, HTTP framing). They contain no part of the
//! request or the response. They are logged, and never returned to a caller.

use std::{error::Error, io};

use crate::base::pki::{self, Peer};

/// Text of the HTTP library for a connection that was not opened in time.
const TIMED_OUT: &str = "operation timed out";
/// Cause of a connection that was not opened in time.
pub(super) const NO_CONNECTION: &str = "no connection in time";

/// Iterates over an error and everything that caused it, outermost first.
///
/// `io::Error` reports the source of the error that it wraps, not that error; this
/// iterator visits both.
#[derive(Clone, Debug)]
pub struct Causes<'a>(Option<&'a (dyn Error + 'static)>);

impl<'a> Causes<'a> {
    /// Starts at `error`.
    #[must_use]
    pub const fn from_error(error: &'a (dyn Error + 'static)) -> Self {
        Self(Some(error))
    }
}

impl<'a> Iterator for Causes<'a> {
    type Item = &'a (dyn Error + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let error = self.0.take()?;
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        self.0 = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
        Some(error)
    }
}

/// Returns the innermost cause of an error as text, for example "connection refused". TLS failures
/// are explained. Outer errors contain the URL and the step, which the log has in other fields.
#[must_use]
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    match Causes::from_error(error).find_map(|cause| cause.downcast_ref()) {
        Some(error) => pki::explain(error, Peer::Server),
        None => innermost(error),
    }
}

/// Returns the innermost cause. Replaces the texts of the TLS libraries for a closed connection,
/// which are abbreviations or contain a link to their documentation.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let text = Causes::from_error(error).last().map_or_else(String::new, ToString::to_string);
    let is_closed = Causes::from_error(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    });
    match text {
        text if is_closed && text.contains("handshake") => {
            "the server closed the connection during the TLS handshake".to_owned()
        }
        text if is_closed && text.contains("close_notify") => "the server closed the connection".to_owned(),
        text if is_connect(error) && (text == TIMED_OUT || has_elapsed(error)) => NO_CONNECTION.to_owned(),
        text if is_another_protocol(error) => {
            format!(
                "the server responded with a different protocol than the expected version of HTTP; check the scheme \
                 and the port of the URL ({text})"
            )
        }
        text => text,
    }
}

/// Returns whether one of our own time limits ended it: that of the connection, or of one address.
fn has_elapsed(error: &(dyn Error + 'static)) -> bool {
    Causes::from_error(error).any(<dyn Error>::is::<tokio::time::error::Elapsed>)
}

/// Returns whether no connection was opened.
fn is_connect(error: &(dyn Error + 'static)) -> bool {
    Causes::from_error(error).any(|cause| cause.downcast_ref().is_some_and(reqwest::Error::is_connect))
}

/// Returns whether the response has a different protocol, such as TLS in response to HTTP, or
/// HTTP/1.1 in response to HTTP/2.
fn is_another_protocol(error: &(dyn Error + 'static)) -> bool {
    Causes::from_error(error).any(|cause| {
        // The library has no other API for this reason.
        let no_version = |error: &hyper::Error| {
            error.is_parse() && error.to_string().starts_with("invalid HTTP version parsed")
        };
        // Read as a frame header, the first bytes of HTTP/1.1 are a length above the limit.
        let invalid_size =
            |error: &h2::Error| error.is_library() && error.reason() == Some(h2::Reason::FRAME_SIZE_ERROR);
        cause.downcast_ref().is_some_and(no_version) || cause.downcast_ref().is_some_and(invalid_size)
    })
}

/// Returns the root cause of a failed exchange with a server. `certificate_requested`: whether the
/// server has recently requested a client certificate. Servers that require one often close the
/// connection without a reason.
#[must_use]
pub fn exchange_cause(error: &(dyn Error + 'static), certificate_requested: bool) -> String {
    let cause = root_cause(error);
    if certificate_requested && is_refusal_without_certificate(error) {
        format!("{cause}; the server requested a client certificate, which the gateway does not have")
    } else {
        cause
    }
}

/// Returns whether the server closed the connection in a way that is typical for refusing a client
/// without a certificate.
fn is_refusal_without_certificate(error: &(dyn Error + 'static)) -> bool {
    Causes::from_error(error).any(|cause| {
        let closed = |kind| {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        };
        cause.downcast_ref::<io::Error>().is_some_and(|error| closed(error.kind()))
            || cause
                .downcast_ref::<hyper::Error>()
                .is_some_and(|error| error.is_incomplete_message() || error.is_closed())
            || matches!(cause.downcast_ref(), Some(rustls::Error::AlertReceived(_)))
            || cause.downcast_ref::<h2::Error>().is_some_and(|error| error.is_go_away() || error.is_io())
    })
}

/// Returns whether the server's certificate was refused: expired, for another name, or
/// from an authority that is not trusted.
#[must_use]
pub fn is_invalid_certificate(error: &(dyn Error + 'static)) -> bool {
    Causes::from_error(error).any(|cause| {
        matches!(cause.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_)))
    })
}

/// Returns whether the server refused the HTTP/2 stream, and therefore did not process the request
/// (RFC 9113, 8.7).
#[must_use]
pub fn is_refused_stream(error: &(dyn Error + 'static)) -> bool {
    remote_http2_errors(error)
        .any(|error| error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Returns whether the server declared that it did not process the request (RFC 9113, 8.7): it
/// refused the stream, or the stream is beyond the last one in its GOAWAY.
#[must_use]
pub fn is_not_processed(error: &(dyn Error + 'static)) -> bool {
    is_refused_stream(error)
        || remote_http2_errors(error)
            .any(|error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// Returns whether an HTTP/1.1 response head exceeds the parser's limits.
#[must_use]
pub fn is_too_large_head(error: &(dyn Error + 'static)) -> bool {
    let mut causes = Causes::from_error(error).filter_map(<dyn Error>::downcast_ref::<hyper::Error>);
    causes.any(hyper::Error::is_parse_too_large)
}

fn remote_http2_errors<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a h2::Error> {
    Causes::from_error(error)
        .filter_map(<dyn Error>::downcast_ref::<h2::Error>)
        .filter(|error| error.is_remote())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_cause_unwraps_io_errors() {
        let inner = io::Error::other(rustls::Error::General("handshake".to_owned()));
        let outer = io::Error::other(inner);
        assert_eq!(root_cause(&outer), "TLS failed (General)");
        let refused = io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(root_cause(&refused), "connection refused");
        let eof = |text: &str| io::Error::other(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        assert_eq!(
            root_cause(&eof("tls handshake eof")),
            "the server closed the connection during the TLS handshake"
        );
        assert_eq!(
            root_cause(&eof("peer closed connection without sending TLS close_notify: https://a")),
            "the server closed the connection"
        );
        assert!(!is_invalid_certificate(&outer));
        let refused = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert!(is_invalid_certificate(&io::Error::other(refused)));
    }
}
