//! Finds the frames in a stream of HTTP/2 bytes, without decoding their payload.
//!
//! The HTTP/2 library reports neither the streams that it rejects nor the resets that it receives.
//! The frame headers (RFC 9113, section 4.1) show both, for a few instructions per frame.

/// Length of a frame header.
const HEADER: usize = 9;
/// Number of payload bytes that are kept, enough for an error code.
const PREFIX: usize = 4;

/// Types of frames (RFC 9113, section 6).
pub(super) mod kind {
    pub(in crate::server) const DATA: u8 = 0;
    pub(in crate::server) const HEADERS: u8 = 1;
    pub(in crate::server) const RST_STREAM: u8 = 3;
    pub(in crate::server) const SETTINGS: u8 = 4;
    pub(in crate::server) const PING: u8 = 6;
    pub(in crate::server) const GOAWAY: u8 = 7;
}

/// The flag `END_STREAM` of DATA and HEADERS.
const END_STREAM: u8 = 1;
/// The flag `ACK` of SETTINGS and PING.
const ACK: u8 = 1;

/// The header and the first payload bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    /// Length of the payload.
    pub(super) length: u32,
    flags: u8,
    /// The first bytes of the payload, followed by zeros if it is shorter.
    prefix: [u8; PREFIX],
}

/// Scans one direction of a connection, whose bytes may be divided arbitrarily.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    /// Header and first payload bytes of the current frame.
    start: [u8; HEADER + PREFIX],
    filled: usize,
    /// Number of bytes to skip before the next frame.
    skip: usize,
}

impl FrameScanner {
    /// Creates a scanner that skips `skip` bytes before the first frame.
    pub(super) fn after(skip: usize) -> Self {
        Self { skip, ..Self::default() }
    }

    /// Returns whether the last byte was the end of a frame.
    pub(super) const fn is_between_frames(&self) -> bool {
        self.filled == 0 && self.skip == 0
    }

    /// Consumes `bytes` up to the point where the start of the next frame is complete.
    ///
    /// Returns the number of bytes consumed and the frame. Without a frame, all bytes were
    /// consumed.
    pub(super) fn next(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let mut taken = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - taken);
            self.skip -= skipped;
            taken += skipped;
            let wanted = self.wanted() - self.filled;
            let more = wanted.min(bytes.len() - taken);
            self.start[self.filled..self.filled + more].copy_from_slice(&bytes[taken..taken + more]);
            self.filled += more;
            taken += more;
            if more < wanted {
                return (taken, None);
            }
            // Once the header is complete, a payload prefix may be needed too.
            if self.filled == self.wanted() {
                return (taken, Some(self.complete()));
            }
        }
    }

    /// Number of bytes to collect of the current frame.
    fn wanted(&self) -> usize {
        if self.filled < HEADER { HEADER } else { HEADER + self.length().min(PREFIX) }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.start;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    fn complete(&mut self) -> Frame {
        let length = self.length();
        let [a, b, c, kind, flags, s1, s2, s3, s4, prefix @ ..] = self.start;
        self.skip = length - length.min(PREFIX);
        self.start = Default::default();
        self.filled = 0;
        Frame {
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]),
            length: u32::from_be_bytes([0, a, b, c]),
            prefix,
        }
    }
}

impl Frame {
    /// Returns whether the frame ends its side of the stream.
    pub(super) const fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }

    /// Returns whether the frame requires an acknowledgement.
    pub(super) const fn requires_ack(&self) -> bool {
        matches!(self.kind, kind::SETTINGS | kind::PING) && self.flags & ACK == 0
    }

    /// Returns whether a header block consists only of a `:status` other than 200.
    ///
    /// `:status` is the first field. 200 has its own index (RFC 7541, appendix A); any other status
    /// takes one byte if it was sent before, and at most five.
    pub(super) fn is_bare_error_status(&self) -> bool {
        const STATUS_200: u8 = 0x88;
        let changes_table_size = self.prefix[0] & 0xe0 == 0x20;
        (1..=5).contains(&self.length) && self.prefix[0] != STATUS_200 && !changes_table_size
    }

    /// Returns the error code of a `RST_STREAM` frame.
    pub(super) fn error_code(&self) -> h2::Reason {
        u32::from_be_bytes(self.prefix).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(frame: &Frame, payload: &[u8]) -> Vec<u8> {
        let length = frame.length.to_be_bytes();
        [&length[1..], &[frame.kind, frame.flags], &frame.stream.to_be_bytes(), payload].concat()
    }

    fn any_frame() -> impl Strategy<Value = (Frame, Vec<u8>)> {
        let payload = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..8),
            proptest::collection::vec(any::<u8>(), 0..400)
        ];
        (any::<u8>(), any::<u8>(), 0..1_u32 << 31, payload).prop_map(|(kind, flags, stream, payload)| {
            let mut prefix = [0; PREFIX];
            let kept = payload.len().min(PREFIX);
            prefix[..kept].copy_from_slice(&payload[..kept]);
            let length = u32::try_from(payload.len()).unwrap();
            (Frame { kind, stream, length, flags, prefix }, payload)
        })
    }

    proptest! {
        #[test]
        fn every_frame_is_found_at_any_division_of_the_bytes(
            frames in proptest::collection::vec(any_frame(), 0..12),
            cuts in proptest::collection::vec(1..40_usize, 1..40),
        ) {
            let preface = b"preface".to_vec();
            let all: Vec<u8> =
                frames.iter().fold(preface, |all, (frame, payload)| [all, bytes(frame, payload)].concat());
            let mut scanner = FrameScanner::after(7);
            let mut found = Vec::new();
            let mut rest = &all[..];
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (mut chunk, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                rest = after;
                while !chunk.is_empty() {
                    let (taken, frame) = scanner.next(chunk);
                    prop_assert!(taken > 0 && (frame.is_some() || taken == chunk.len()));
                    chunk = &chunk[taken..];
                    found.extend(frame);
                }
            }
            let expected: Vec<Frame> = frames.iter().map(|(frame, _)| *frame).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(scanner.is_between_frames());
        }
    }
}
