//! A peer that writes raw HTTP/2 frames, valid or not.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{ISSUE, Running, SOON};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const STREAM_CLOSED: u32 = 5;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;
/// The payload of `RST_STREAM` with which clients cancel calls.
pub(super) const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub(super) struct Peer(TcpStream);

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The error code of `RST_STREAM` or GOAWAY.
    pub(super) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The bytes of one frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A complete call.
pub(super) fn call(stream: u32, what: &str) -> Vec<u8> {
    [half_open(stream, what), frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// The headers of a call, without its message.
pub(super) fn half_open(stream: u32, what: &str) -> Vec<u8> {
    headers(stream, &request_fields(what))
}

pub(super) fn request_fields(what: &str) -> Vec<(&str, &str)> {
    [with_path(ISSUE), vec![("x-do", what)]].concat()
}

pub(super) fn with_path(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "gateway"),
        (":path", path),
        ("content-type", "application/grpc"),
    ]
}

/// The HEADERS frame with these fields, valid or not.
pub(super) fn headers(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0); // A literal field without indexing (RFC 7541, section 6.2.2).
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

impl Peer {
    /// Opens a connection and sends nothing.
    pub(super) async fn silent(running: &Running) -> Self {
        Self(TcpStream::connect(running.address).await.unwrap())
    }

    /// Opens a connection and sends preface and settings.
    pub(super) async fn connect(running: &Running) -> Self {
        let mut peer = Self::silent(running).await;
        peer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        peer.write(&frame(SETTINGS, 0, 0, &[])).await;
        peer
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Returns everything that arrives until the connection is closed, as text.
    pub(super) async fn rest(&mut self, limit: Duration) -> String {
        let mut text = String::new();
        timeout(limit, self.0.read_to_string(&mut text)).await.expect("it is closed").expect("text");
        text
    }

    /// Returns the next frame of that kind, skipping others.
    pub(super) async fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame =
                timeout(SOON, self.read()).await.expect("the frame arrives").expect("the connection is open");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Returns the number of unread frames of that kind. All unread frames must be complete.
    pub(super) fn arrived(&self, kind: u8) -> usize {
        let mut bytes = vec![0; 64 * 1024];
        let length = match self.0.try_read(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        };
        let (mut rest, mut found) = (&bytes[..length], 0);
        while let [_, high, low, of, ..] = rest {
            found += usize::from(*of == kind);
            rest = &rest[9 + (usize::from(*high) << 8 | usize::from(*low))..];
        }
        found
    }

    async fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        self.0.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Ok(Frame { kind: head[3], stream, payload })
    }

    /// Waits until the other side has closed the connection, discarding what it sends before.
    pub(super) async fn closed(&mut self, within: Duration) -> bool {
        let mut rest = [0; 4096];
        let end = async { while self.0.read(&mut rest).await.is_ok_and(|length| length > 0) {} };
        timeout(within, end).await.is_ok()
    }
}
