//! The guard without a connection, with arbitrary division of the bytes.

use std::{collections::VecDeque, pin::pin};

use futures_util::task::noop_waker;
use proptest::prelude::*;

use super::*;

/// A reader that returns its pieces one by one.
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

fn in_pieces(sent: &[u8], sizes: &[usize]) -> VecDeque<Vec<u8>> {
    let mut rest = sent;
    let mut queue = VecDeque::new();
    for size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*size));
        queue.push_back(piece.to_vec());
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    queue
}

proptest! {
    #[test]
    fn all_bytes_arrive_in_order_and_resets_per_pass_are_limited(
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
        let queue = in_pieces(&sent, &pieces);
        let pass = Pass::default();
        let limits = Limits { max_pending_resets, ..Limits::default() };
        let peer = Peer::plaintext("127.0.0.1:1".parse().expect("an address"));
        let budget = StreamBudget::new(&limits, Metrics::new());
        let mut guarded = Guarded::new(Pieces(queue), pass.clone(), &limits, &peer, budget, Metrics::new());
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
            let Poll::Ready(result) = driven.as_mut().poll(&mut cx) else { unreachable!("the pass is ready at once") };
            let resets = result.expect("within the allowance");
            prop_assert!(resets <= max_pending_resets, "{resets}");
        }
        prop_assert_eq!(received, sent);
    }
}

/// Reads everything that is available now.
fn read_all(guarded: &mut Guarded<Pieces>, cx: &mut Context<'_>, room: usize) -> Vec<u8> {
    let mut received = Vec::new();
    loop {
        let mut bytes = vec![0; room];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *guarded).poll_read(cx, &mut buffer) {
            Poll::Pending => return received,
            Poll::Ready(result) => result.expect("within the allowances"),
        }
        assert!(!buffer.filled().is_empty(), "the connection has not ended");
        received.extend_from_slice(buffer.filled());
    }
}

proptest! {
    #[test]
    fn streams_without_a_place_wait_and_lose_no_bytes(
        payloads in proptest::collection::vec((0..60_usize, any::<bool>()), 0..20),
        pieces in proptest::collection::vec(1..200_usize, 1..20),
        room in 1..150_usize,
        places in 0..6_usize,
    ) {
        let mut sent = vec![0; preface::LENGTH];
        let mut ends = Vec::new();
        for (stream, (length, has_data)) in (1..).step_by(2).zip(payloads) {
            let on_stream = |kind| {
                let mut frame = frame(kind, &vec![3; length]);
                frame[8] = stream;
                frame
            };
            sent.extend(on_stream(kind::HEADERS));
            ends.push(sent.len());
            if has_data {
                sent.extend(on_stream(kind::DATA));
                // Trailers open no stream.
                sent.extend(on_stream(kind::HEADERS));
            }
        }
        let limits = Limits {
            unidentified_streams: places,
            shared_unidentified_streams: 0,
            ..Limits::default()
        };
        let peer = Peer::plaintext("127.0.0.1:1".parse().expect("an address"));
        let budget = StreamBudget::new(&limits, Metrics::new());
        let queue = in_pieces(&sent, &pieces);
        let mut guarded = Guarded::new(Pieces(queue), Pass::default(), &limits, &peer, budget, Metrics::new());
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);

        let mut received = read_all(&mut guarded, &mut cx, room);
        let complete = ends.iter().filter(|end| **end <= received.len()).count();
        prop_assert_eq!(complete, places.min(ends.len()));
        // The end of a stream frees its place for the next one.
        if complete > 0 {
            let mut reset = frame(kind::RST_STREAM, &[0; 4]);
            reset[8] = 1;
            prop_assert!(Pin::new(&mut guarded).poll_write(&mut cx, &reset).is_ready());
            received.extend(read_all(&mut guarded, &mut cx, room));
            let complete = ends.iter().filter(|end| **end <= received.len()).count();
            prop_assert_eq!(complete, (places + 1).min(ends.len()));
        }
        peer.recognition().set();
        received.extend(read_all(&mut guarded, &mut cx, room));
        prop_assert_eq!(received, sent);
    }
}

#[test]
fn goaway_contains_the_last_stream_and_the_reason() {
    let frame = go_away(7, Http2Error::TooManyResets);
    assert_eq!(frame[..9], [0, 0, 8 + 15, 7, 0, 0, 0, 0, 0]);
    assert_eq!(frame[9..17], [0, 0, 0, 7, 0, 0, 0, 11]);
    assert_eq!(&frame[17..], b"too_many_resets");
}

#[tokio::test(start_paused = true)]
async fn each_pass_records_its_start() {
    let pass = Pass::default();
    let created = pass.clock().now();
    let mut connection = pin!(poll_fn(|_| Poll::<()>::Pending));
    let mut driven = pin!(pass.drive(connection.as_mut()));
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    for seconds in [7, 14] {
        tokio::time::advance(std::time::Duration::from_secs(7)).await;
        assert!(driven.as_mut().poll(&mut cx).is_pending());
        assert_eq!((pass.clock().now() - created).as_secs(), seconds);
    }
}
