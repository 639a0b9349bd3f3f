//! The HTTP/2 connection preface.
//!
//! hyper has no time limit for a peer that sends nothing, and cannot shut that connection down
//! gracefully. The preface is therefore read here, and hyper gets a connection on which it has
//! already arrived. The caller limits the time. An HTTP/1.1 client gets a response with the reason.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::http1_refusal::{self, Unserved};

/// First bytes of an HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of the preface, in bytes.
pub(super) const LENGTH: usize = PREFACE.len();

/// A connection whose preface was read here, and is replayed to the reader.
#[derive(Debug)]
pub(super) struct Prefaced<Io> {
    io: Io,
    given: usize,
}

/// Waits for the preface. Fails at the first byte that differs from it.
pub(super) async fn expect<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io) -> io::Result<Prefaced<Io>> {
    let mut read = [0; PREFACE.len()];
    let mut length = 0;
    while length < PREFACE.len() {
        let more = io.read(&mut read[length..]).await?;
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length += more;
        if read[..length] != PREFACE[..length] {
            if http1_refusal::looks_like(&read[..length]) {
                http1_refusal::refuse(&mut io, Unserved::NotHttp2).await;
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
        }
    }
    Ok(Prefaced { io, given: 0 })
}

impl<Io: AsyncRead + Unpin> AsyncRead for Prefaced<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < PREFACE.len() {
            let rest = &PREFACE[self.given..];
            let now = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..now]);
            self.given += now;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Prefaced<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
