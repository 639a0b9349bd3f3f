//! The body of a response: one message and the status OK, or the body of another service.
//!
//! The message of a call is complete before its response begins, so it needs no stream and no
//! allocation of its own. Response headers and failures are handled elsewhere.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

/// The body of a response.
#[derive(Debug, Default)]
pub(super) struct ResponseBody(Rest);

/// The unsent part of a response.
#[derive(Debug, Default)]
enum Rest {
    /// A message with its prefix, then the status.
    Message(Bytes),
    /// The status OK, as a trailer.
    Status,
    /// The response is complete.
    #[default]
    Nothing,
    /// The body of another service.
    Other(Body),
}

impl ResponseBody {
    /// Returns the body of a call that succeeded. `message` includes its prefix.
    pub(super) const fn succeeded(message: Bytes) -> Self {
        Self(Rest::Message(message))
    }
}

impl From<Body> for ResponseBody {
    fn from(body: Body) -> Self {
        Self(Rest::Other(body))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Rest::Other(body) = &mut self.0 {
            return Pin::new(body).poll_frame(cx);
        }
        Poll::Ready(match std::mem::take(&mut self.0) {
            Rest::Message(message) => {
                self.0 = Rest::Status;
                Some(Ok(Frame::data(message)))
            }
            Rest::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Rest::Nothing | Rest::Other(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Rest::Message(_) | Rest::Status => false,
            Rest::Nothing => true,
            Rest::Other(body) => body.is_end_stream(),
        }
    }

    /// The size of a message is unknown on purpose, so that responses have no `content-length`.
    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Rest::Message(_) | Rest::Status | Rest::Nothing => SizeHint::default(),
            Rest::Other(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body::Body as _;
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn collected(body: ResponseBody) -> (Bytes, Option<HeaderMap>) {
        let collected = body.collect().now_or_never().expect("it never waits").expect("it never fails");
        let trailers = collected.trailers().cloned();
        (collected.to_bytes(), trailers)
    }

    #[test]
    fn message_is_followed_by_its_status() {
        let body = ResponseBody::succeeded(Bytes::from_static(b"\0\0\0\0\x01x"));
        assert!(!body.is_end_stream() && body.size_hint().exact().is_none());
        let (message, trailers) = collected(body);
        let trailers = trailers.expect("trailers");
        assert_eq!((&message[..], trailers.len()), (&b"\0\0\0\0\x01x"[..], 1));
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[test]
    fn stream_ends_with_the_status() {
        let mut body = ResponseBody::succeeded(Bytes::from_static(b"\0\0\0\0\0"));
        let mut ends = Vec::new();
        while let Some(frame) = body.frame().now_or_never().expect("it never waits") {
            ends.push((frame.expect("it never fails").is_trailers(), body.is_end_stream()));
        }
        assert_eq!(ends, [(false, false), (true, true)]);
        assert!(body.frame().now_or_never().expect("it never waits").is_none());
    }

    #[test]
    fn body_of_another_service_is_passed_on() {
        let other = || ResponseBody::from(Body::new(Full::new(Bytes::from_static(b"text"))));
        assert_eq!(other().size_hint().exact(), Some(4));
        assert_eq!(collected(other()), (Bytes::from_static(b"text"), None));
        for empty in [ResponseBody::from(Body::empty()), ResponseBody::default()] {
            assert!(empty.is_end_stream());
            assert_eq!(collected(empty), (Bytes::new(), None));
        }
    }
}
