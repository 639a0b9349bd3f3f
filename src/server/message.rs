//! Reads the complete body of a unary call before its handler runs.
//!
//! A call that has not arrived completely has cost its caller only the headers, so it must not
//! occupy a place among the calls in flight.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tonic::codegen::StdError;

use super::request_body::RequestBody;
use crate::{
    domain::call::BrokenBody,
    status::{Failure, Reason},
};

/// Length of the prefix of a gRPC message: one flag byte and four bytes of length.
pub(super) const PREFIX: usize = 5;

/// A body that is still arriving. Reading can be interrupted and resumed.
#[derive(Debug)]
pub(super) struct ArrivingMessage<B> {
    body: RequestBody<B>,
    /// Maximum number of bytes of the message, without its prefix.
    limit: usize,
    received: BytesMut,
    is_begun: bool,
}

/// Reason that a body cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnusableBody {
    /// It broke off, for this reason, which the call also records.
    Broken(BrokenBody),
    /// The message is longer than allowed, or too much follows it.
    TooLarge,
    /// It is not exactly one message: it is empty, incomplete, or continues after the first
    /// message.
    NotOneMessage,
}

impl<B> ArrivingMessage<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    pub(super) fn new(body: RequestBody<B>, limit: usize) -> Self {
        Self { body, limit, received: BytesMut::new(), is_begun: false }
    }

    /// Returns whether reading has begun.
    pub(super) const fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Returns the complete body, message and prefix. Fails as soon as the prefix contains a length
    /// above the limit.
    ///
    /// The body of a unary call must be exactly one message. Further messages must not be ignored:
    /// a proxy that inspects the last one would see a different user than the one served.
    pub(super) async fn complete(&mut self) -> Result<Bytes, UnusableBody> {
        let body = self.read().await?;
        let announced = announced(&body).map(|length| length.saturating_add(PREFIX));
        if announced == Some(body.len()) { Ok(body) } else { Err(UnusableBody::NotOneMessage) }
    }

    async fn read(&mut self) -> Result<Bytes, UnusableBody> {
        self.is_begun = true;
        loop {
            if http_body::Body::is_end_stream(&self.body) {
                return Ok(self.received.split().freeze());
            }
            let Some(frame) = self.body.frame().await.transpose().map_err(UnusableBody::Broken)? else {
                return Ok(self.received.split().freeze());
            };
            // gRPC defines no request trailers.
            let Ok(data) = frame.into_data() else { continue };
            if self.received.is_empty() && http_body::Body::is_end_stream(&self.body) {
                return if self.is_too_large(&data) { Err(UnusableBody::TooLarge) } else { Ok(data) };
            }
            // Copied, because a frame keeps the whole buffer that it was read into.
            self.received.extend_from_slice(&data);
            if self.is_too_large(&self.received) {
                return Err(UnusableBody::TooLarge);
            }
        }
    }

    fn is_too_large(&self, received: &[u8]) -> bool {
        received.len() > PREFIX + self.limit || announced(received).is_some_and(|length| length > self.limit)
    }
}

/// Returns the length of the message according to its prefix, in bytes.
fn announced(received: &[u8]) -> Option<usize> {
    let length = received.get(1..PREFIX)?.try_into().ok()?;
    Some(usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX))
}

impl From<UnusableBody> for Failure {
    fn from(unusable: UnusableBody) -> Self {
        match unusable {
            UnusableBody::Broken(why) => Self::malformed_body(why),
            UnusableBody::TooLarge => Self::new(Reason::RequestTooLarge),
            UnusableBody::NotOneMessage => Self::not_one_message(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        convert::Infallible,
        pin::Pin,
        sync::{Arc, Mutex},
        task::{Context, Poll},
        time::Duration,
    };

    use futures_util::FutureExt as _;
    use http_body::{Body, Frame};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::clock,
        domain::call::{Call, Deadline},
    };

    const LIMIT: usize = 64;

    /// A body whose frames arrive one after the other. Like hyper's, it reports the end of the
    /// stream.
    #[derive(Clone, Default)]
    struct Frames(Arc<Mutex<(VecDeque<Bytes>, bool)>>);

    impl Frames {
        fn arrive(&self, data: &[u8], is_last: bool) {
            let mut frames = self.0.lock().unwrap();
            frames.0.push_back(Bytes::copy_from_slice(data));
            frames.1 = is_last;
        }

        fn read(&self) -> ArrivingMessage<Self> {
            let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
            ArrivingMessage::new(RequestBody::new(self.clone(), call), LIMIT)
        }
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let mut frames = self.0.lock().unwrap();
            match (frames.0.pop_front(), frames.1) {
                (Some(data), _) => Poll::Ready(Some(Ok(Frame::data(data)))),
                (None, true) => Poll::Ready(None),
                (None, false) => Poll::Pending,
            }
        }

        fn is_end_stream(&self) -> bool {
            let frames = self.0.lock().unwrap();
            frames.1 && frames.0.is_empty()
        }
    }

    fn message(length: u32, content: &[u8]) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), content].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn body_in_one_frame_is_not_copied() {
        let frames = Frames::default();
        frames.arrive(&message(3, b"abc"), true);
        let sent = frames.0.lock().unwrap().0[0].as_ptr();
        let read = frames.read().complete().await.expect("complete");
        assert_eq!((read.as_ptr(), &read[PREFIX..]), (sent, &b"abc"[..]));
    }

    #[tokio::test(start_paused = true)]
    async fn message_with_an_excessive_length_prefix_is_refused_before_it_arrives() {
        for length in [LIMIT + 1, u32::MAX as usize] {
            let frames = Frames::default();
            frames.arrive(&message(u32::try_from(length).unwrap(), b""), false);
            let read = frames.read().complete().now_or_never();
            assert_eq!(read, Some(Err(UnusableBody::TooLarge)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_is_not_one_message_is_refused() {
        for body in [
            &[][..],
            &[0; 4],
            &message(2, b"a"),
            &message(0, b"a"),
            &[message(1, b"a"), message(1, b"b")].concat(),
        ] {
            let frames = Frames::default();
            frames.arrive(body, true);
            assert_eq!(
                frames.read().complete().now_or_never(),
                Some(Err(UnusableBody::NotOneMessage)),
                "{body:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn body_beyond_its_message_is_limited() {
        let frames = Frames::default();
        frames.arrive(&message(1, b"a"), false);
        frames.arrive(&[0; LIMIT], false);
        assert_eq!(frames.read().complete().now_or_never(), Some(Err(UnusableBody::TooLarge)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// For any division into frames and any interruptions of reading.
        #[test]
        fn body_is_read_as_it_was_sent(
            content in proptest::collection::vec(any::<u8>(), 0..LIMIT + 8),
            cuts in proptest::collection::vec(0..LIMIT + 13, 0..6),
            ends_alone in any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().start_paused(true).enable_time().build().unwrap();
            let _entered = runtime.enter();
            let sent = message(u32::try_from(content.len()).unwrap(), &content);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(sent.len())).collect();
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let frames = Frames::default();
            let mut reading = frames.read();
            let mut result = None;
            for (at, pair) in cuts.windows(2).enumerate() {
                frames.arrive(&sent[pair[0]..pair[1]], at + 2 == cuts.len() && !ends_alone);
                result = result.or_else(|| reading.complete().now_or_never());
            }
            if ends_alone {
                frames.arrive(&[], true);
                result = result.or_else(|| reading.complete().now_or_never());
            }
            let expected = if content.len() > LIMIT { Err(UnusableBody::TooLarge) } else { Ok(Bytes::from(sent)) };
            prop_assert_eq!(result, Some(expected));
        }
    }
}
