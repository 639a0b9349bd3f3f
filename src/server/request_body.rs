//! The body of a request, which records why it broke off.
//!
//! A body breaks off because of the caller or its network, never because of the gateway. The gRPC
//! library reports some HTTP/2 error codes as internal errors, so the reason is recorded here,
//! where the error is still typed.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::codegen::StdError;

use crate::domain::call::{BrokenBody, Call};

/// A request body that records in its call why it broke off.
///
/// Its error is always a [`BrokenBody`] without a source: the gRPC library treats some HTTP/2
/// errors as the end of the message, and would start a handler with half a message.
#[derive(Debug)]
pub(super) struct RequestBody<B> {
    inner: B,
    call: Call,
}

impl<B> RequestBody<B> {
    pub(super) const fn new(inner: B, call: Call) -> Self {
        Self { inner, call }
    }

    fn broken(&self, why: BrokenBody) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        self.call.set_broken_body(why);
        Poll::Ready(Some(Err(why)))
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => self.broken(reason(&*error.into())),
            // hyper reports a stream that was reset with NO_ERROR as the end of the body, but not
            // as the end of the stream.
            None if !self.inner.is_end_stream() => self.broken(BrokenBody::Cancelled),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns why a body broke off. h2 itself resets a stream only if the peer violates the protocol
/// on it; any other error means that the peer cancelled or the connection was lost.
fn reason(error: &(dyn Error + 'static)) -> BrokenBody {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return if error.is_reset() && error.is_library() {
                BrokenBody::Malformed
            } else {
                BrokenBody::Cancelled
            };
        }
        next = error.source();
    }
    BrokenBody::Cancelled
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;
    use crate::{base::clock, domain::call::Deadline};

    fn call() -> Call {
        Call::new(clock::now(), Deadline::after(Duration::from_secs(1)))
    }

    async fn read<B>(body: B) -> (Option<BrokenBody>, Result<Bytes, BrokenBody>)
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<StdError>,
    {
        let call = call();
        let read = RequestBody::new(body, call.clone()).collect().await;
        (call.broken_body(), read.map(http_body_util::Collected::to_bytes))
    }

    #[tokio::test(start_paused = true)]
    async fn complete_body_is_not_broken() {
        let body = Full::<Bytes>::from("message");
        assert_eq!(read(body).await, (None, Ok(Bytes::from_static(b"message"))));
        assert_eq!(read(http_body_util::Empty::<Bytes>::new()).await, (None, Ok(Bytes::new())));
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_ends_before_its_stream_was_cancelled() {
        // As hyper reports a stream that was reset with NO_ERROR.
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"mess")))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        assert_eq!(read(body).await, (Some(BrokenBody::Cancelled), Err(BrokenBody::Cancelled)));
    }

    #[tokio::test(start_paused = true)]
    async fn any_error_means_that_the_caller_cancelled() {
        let frames = [Err::<Frame<Bytes>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        assert_eq!(read(body).await, (Some(BrokenBody::Cancelled), Err(BrokenBody::Cancelled)));
    }
}
