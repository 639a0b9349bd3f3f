//! Detects servers that respond to HTTP/2 with a different protocol.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// First bytes of an HTTP/1.x response.
const HTTP1: &[u8] = b"HTTP/";
/// Types of the first TLS record of a server: alert or handshake (RFC 8446, section 5.1).
const TLS_RECORDS: [u8; 2] = [21, 22];
/// Major version of TLS records.
const TLS_MAJOR_VERSION: u8 = 3;

/// A connection that must start with HTTP/2. Other protocols are reported by name: the HTTP/2
/// library would only report a frame of invalid size.
#[derive(Debug)]
pub(super) struct ExpectHttp2<S> {
    stream: S,
    /// The first bytes that were received, until the protocol is known.
    first: Option<Vec<u8>>,
}

impl<S> ExpectHttp2<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, first: Some(Vec::new()) }
    }

    /// Checks received bytes.
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(first) = &mut self.first else { return Ok(()) };
        first.extend(bytes.iter().take(HTTP1.len().saturating_sub(first.len())));
        // The first frame of HTTP/2 is SETTINGS, whose length has a first byte of 0.
        match &first[..] {
            [] => return Ok(()),
            [record, version, ..] if TLS_RECORDS.contains(record) && *version == TLS_MAJOR_VERSION => {
                return Err(answered("TLS; use https in the URL of the collector"));
            }
            [record] if TLS_RECORDS.contains(record) => return Ok(()),
            first if first == HTTP1 => {
                return Err(answered("HTTP/1.1; OTLP over gRPC needs HTTP/2, usually on port 4317"));
            }
            first if HTTP1.starts_with(first) => return Ok(()),
            _ => {}
        }
        self.first = None;
        Ok(())
    }
}

fn answered(protocol: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server responded with {protocol}"))
}

impl<S: AsyncRead + Unpin> AsyncRead for ExpectHttp2<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.first.is_some() && matches!(result, Poll::Ready(Ok(()))) {
            self.received(buffer.filled().get(before..).unwrap_or_default())?;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ExpectHttp2<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the error of a connection that receives these parts.
    fn error_of(mut parts: std::slice::Chunks<'_, u8>) -> Option<String> {
        let mut stream = ExpectHttp2::new(());
        parts.find_map(|part| stream.received(part).err()).map(|error| error.to_string())
    }

    #[test]
    fn other_protocols_are_recognized_in_parts_of_any_size() {
        for (sent, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], Some("HTTP/1.1")),
            (b"\x15\x03\x01\x00\x02\x02\x46", Some("TLS")),
            (b"\x16\x03\x03\x00\x7a", Some("TLS")),
            (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00HTTP/1.1", None),
            (b"HTTPS", None),
            (b"\x15\x02", None),
            (b"", None),
        ] {
            for size in 1..=sent.len().max(1) {
                let error = error_of(sent.chunks(size));
                assert_eq!(error.is_some(), expected.is_some(), "{sent:?} by {size}: {error:?}");
                assert!(error.unwrap_or_default().contains(expected.unwrap_or_default()));
            }
        }
    }

    proptest! {
        /// SETTINGS of any size that the library accepts.
        #[test]
        fn http2_is_never_refused(mut sent: Vec<u8>, size in 1_usize..9) {
            sent.insert(0, 0);
            prop_assert_eq!(error_of(sent.chunks(size)), None);
        }
    }
}
