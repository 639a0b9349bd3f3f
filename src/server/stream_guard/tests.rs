//! The guard on its own, with bytes at any division.

use std::{collections::VecDeque, pin::pin};

use futures_util::task::noop_waker;
use proptest::prelude::*;

use super::*;

/// Gives out its pieces one by one.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.0.pop_front() else { return Poll::Pending };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        if !rest.is_empty() {
            self.0.push_front(rest);
        }
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buffer.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short one");
    [&[0, 0, length, kind, 0, 0, 0, 0, 1], payload].concat()
}

proptest! {
    #[test]
    fn all_bytes_arrive_in_order_and_few_resets_in_one_pass(
        frames in proptest::collection::vec((any::<bool>(), 0..60_usize), 0..60),
        pieces in proptest::collection::vec(1..200_usize, 1..20),
        room in 1..150_usize,
        max_pending_resets in 1..5_usize,
    ) {
        let mut sent = vec![0; preface::LENGTH];
        for (is_reset, length) in frames {
            let frame = if is_reset { frame(kind::RST_STREAM, &[0; 4]) } else { frame(kind::HEADERS, &vec![3; length]) };
            sent.extend(frame);
        }
        let mut rest = &sent[..];
        let mut queue = VecDeque::new();
        for size in pieces.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*size));
            queue.push_back(piece.to_vec());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let pass = Pass::default();
        let limits = Limits { max_pending_resets, ..Limits::default() };
        let address = "127.0.0.1:1".parse().expect("an address");
        let mut guarded = Guarded::new(Pieces(queue), pass.clone(), &limits, address, Metrics::new());
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut received = Vec::new();
        let mut scanner = FrameScanner::after(preface::LENGTH);
        while received.len() < sent.len() {
            let one_pass = pin!(poll_fn(|cx| {
                let mut resets = 0;
                loop {
                    let mut bytes = vec![0; room];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    if Pin::new(&mut guarded).poll_read(cx, &mut buffer)?.is_pending() {
                        return Poll::Ready(io::Result::Ok(resets));
                    }
                    let mut new = buffer.filled();
                    received.extend_from_slice(new);
                    while !new.is_empty() {
                        let (taken, frame) = scanner.next(new);
                        new = &new[taken..];
                        resets += usize::from(frame.is_some_and(|frame| frame.kind == kind::RST_STREAM));
                    }
                }
            }));
            let mut driven = pin!(pass.drive(one_pass));
            let Poll::Ready(result) = driven.as_mut().poll(&mut cx) else { unreachable!("it is ready at once") };
            let resets = result.expect("within the allowance");
            prop_assert!(resets <= max_pending_resets, "{resets}");
        }
        prop_assert_eq!(received, sent);
    }
}

#[test]
fn goaway_names_the_last_stream_and_the_reason() {
    let frame = go_away(7, Http2Error::TooManyResets);
    assert_eq!(frame[..9], [0, 0, 8 + 15, 7, 0, 0, 0, 0, 0]);
    assert_eq!(frame[9..17], [0, 0, 0, 7, 0, 0, 0, 11]);
    assert_eq!(&frame[17..], b"too_many_resets");
}
