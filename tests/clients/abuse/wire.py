"""HTTP/2 frames as bytes, including malformed ones.

hyperframe serializes frames, hpack encodes headers. `h2` is not used here: its stream state machine
refuses to send what an attacker sends.
"""

import asyncio
import collections
import struct

import hpack
from hyperframe import frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ISSUE, UNKNOWN = "/ott.v1.OttService/IssueOtt", "/ott.v1.OttService/Nothing"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
HEADER_BYTES = 9
# Frame types and flags (RFC 9113, section 6).
DATA, HEADERS, PRIORITY, RST_STREAM, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
# Ids of settings (RFC 9113, section 6.5.2).
INITIAL_WINDOW_SIZE = 0x4
# Streams that the gateway allows on one connection.
MAX_STREAMS = 100


def header_block(path, token=None, more=()):
    """Encodes the headers of a gRPC request without using the dynamic table.

    The block can be reused for every request on every connection, so that a flood costs its sender
    almost nothing.
    """
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]
    if token:
        fields.append(("authorization", f"Bearer {token}"))
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


def headers(stream, block, *flags):
    """Returns a HEADERS frame; `flags` are added to END_HEADERS."""
    return frame.HeadersFrame(stream, block, flags=["END_HEADERS", *flags]).serialize()


def data(stream, payload=b"", *flags):
    """Returns a DATA frame."""
    return frame.DataFrame(stream, payload, flags=list(flags)).serialize()


def reset(stream):
    """Returns a RST_STREAM frame (CANCEL)."""
    return frame.RstStreamFrame(stream, error_code=8).serialize()


def settings(values=None):
    """Returns a SETTINGS frame; `values` maps ids to values (RFC 9113, section 6.5.2)."""
    return frame.SettingsFrame(0, settings=values or {}).serialize()


def raw(kind, stream, payload, flags=0):
    """Returns a frame of any type with any payload, valid or not."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(payload=b"", announced=None):
    """Returns a gRPC message with its 5-byte prefix, which may contain another length."""
    return b"\0" + struct.pack(">I", len(payload) if announced is None else announced) + payload


def issue_message(login):
    """Returns an encoded `IssueOttRequest { login }` with the gRPC prefix."""
    return message(b"\x0a" + bytes([len(login)]) + login.encode())


class Connection:
    """HTTP/2 connection that follows no rules, but answers pings.

    With `reads=False` it never reads from the socket, and detects only by an error of `send` that the
    gateway has closed the connection.
    """

    def __init__(self, reader, writer, reads):
        self._writer = writer
        self._reader = reader
        self._next = 1
        self._open = set()
        self._answered = asyncio.Event()
        self.goaways = collections.Counter()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._read()) if reads else None

    def open_stream(self):
        """Returns the id of the next stream."""
        stream = self._next
        self._next += 2
        self._open.add(stream)
        return stream

    async def room(self, streams=1):
        """Waits until this many more streams can be opened, and returns how many can."""
        while (free := MAX_STREAMS - len(self._open)) < streams:
            self._answered.clear()
            if self._ended.is_set():
                raise ConnectionResetError
            await self._answered.wait()
        return free

    async def send(self, *frames):
        """Sends frames. Raises `ConnectionError` if the gateway has closed the connection."""
        if self._ended.is_set():
            raise ConnectionResetError
        self._writer.write(b"".join(frames))
        await self._writer.drain()

    async def ended(self):
        """Waits until the gateway closes the connection. Never returns with `reads=False`."""
        await self._ended.wait()

    def close(self):
        """Closes the connection without waiting for the gateway."""
        if self._task:
            self._task.cancel()
        self._writer.transport.abort()

    async def _read(self):
        try:
            while True:
                head = await self._reader.readexactly(HEADER_BYTES)
                length = int.from_bytes(head[:3], "big")
                payload = await self._reader.readexactly(length)
                stream = int.from_bytes(head[5:], "big")
                kind, flags = head[3], head[4]
                if kind == RST_STREAM or kind in (DATA, HEADERS) and flags & END_STREAM:
                    self._open.discard(stream)
                    self._answered.set()
                elif kind == PING and not flags & ACK:
                    self._writer.write(raw(PING, 0, payload, ACK))
                elif kind == GOAWAY:
                    self.goaways[int.from_bytes(payload[4:8], "big")] += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._ended.set()
            self._answered.set()
            self._writer.close()
