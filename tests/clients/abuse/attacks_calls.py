"""Attacks with calls: refused, half-open, or oversized, on every port."""

import asyncio

import wire
from catalogue import Metric, attack


@attack(
    "refused calls",
    stopped_by="limit on refused calls per address; records and log lines beyond it are aggregated",
    metric=Metric("ott_gateway_refused_calls_summarized_total"),
    rate=4_000,
    unit="calls",
)
async def refused_calls(stage):
    """Calls with a wrong bearer token, each of which has an audit record."""
    await _flood(stage, wire.header_block(wire.ISSUE, token="guessed"))


@attack(
    "calls of unknown methods",
    stopped_by="limit on refused calls per address; records and log lines beyond it are aggregated",
    metric=Metric("ott_gateway_refused_calls_summarized_total"),
    rate=4_000,
    unit="calls",
)
async def unknown_methods(stage):
    """Calls without a credential of a method that does not exist."""
    await _flood(stage, wire.header_block(wire.UNKNOWN))


@attack(
    "calls over quota",
    stopped_by="quota of the caller; refused calls per address are aggregated",
    metric=Metric("ott_gateway_quota_exceeded_total", {"caller": "token:attacker"}),
    rate=4_000,
    unit="calls",
)
async def calls_over_quota(stage):
    """An identified caller that calls 80 times as often as its quota allows."""
    block = wire.header_block(wire.ISSUE, stage.target.token)
    await _flood(stage, block, message=wire.issue_message("johncustomer@mysite.com"))


@attack(
    "refused calls, health port",
    stopped_by="separate stack that serves only health",
    metric=Metric("ott_gateway_health_refused_total"),
    rate=4_000,
    unit="calls",
    deployment="mtls",
)
async def refused_calls_on_the_health_port(stage):
    """Calls of the main service on the plaintext health port of a listener with mTLS."""
    await _flood(stage, wire.header_block(wire.ISSUE), port="health")


@attack(
    "health checks, health port",
    stopped_by="separate stack without records or log lines",
    metric=Metric("ott_gateway_health_checks_total"),
    rate=4_000,
    unit="calls",
    deployment="mtls",
)
async def health_checks_on_the_health_port(stage):
    """Valid health checks, far more than any probe makes."""
    await _flood(stage, wire.header_block(wire.CHECK), port="health")


@attack(
    "requests, admin port",
    stopped_by="separate thread, limit on connections of the admin port",
    metric=Metric("ott_gateway_admin_requests_total", {"path": "other"}),
    rate=500,
    unit="requests",
    deployment="mtls",
)
async def admin_requests(stage):
    """Requests for an unknown page, each on its own connection."""

    async def one():
        while True:
            await stage.turn()
            reader, writer = await stage.tcp("admin")
            try:
                writer.write(b"GET /nothing HTTP/1.1\r\nhost: gateway\r\n\r\n")
                await reader.read()
            finally:
                writer.transport.abort()

    stage.ready()
    await asyncio.gather(*(stage.repeat(one) for _ in range(32)))


@attack(
    "Health/Watch",
    stopped_by="limits on Watch streams per connection and per address",
    metric=Metric("ott_gateway_health_watches_refused_total"),
    rate=2_000,
    unit="streams",
)
async def watches(stage):
    """More Watch streams, which never end, than the gateway accepts, without a credential. Refused
    streams are retried."""
    block, end = wire.header_block(wire.WATCH), wire.message()

    async def one(connection):
        while True:
            streams = [connection.open_stream() for _ in range(await connection.room())]
            await connection.send(
                *(wire.headers(stream, block) + wire.data(stream, end, "END_STREAM") for stream in streams)
            )
            await stage.turn(len(streams))
            if stage.events >= 20 * wire.MAX_STREAMS:
                stage.ready()

    await stage.on_each(20, one)


@attack(
    "half-open calls",
    stopped_by="limit on calls without a body, half of it per caller; body timeout",
    metric=Metric("ott_gateway_calls_shed_total", {"limit": "caller_awaited_bodies"}),
    rate=4_100,
    unit="calls",
    max_ratio=2,
)
async def half_open_calls(stage):
    """An identified caller keeps 100 calls open on each of 41 connections without sending a message.
    Without a separate limit they would use all slots of calls in flight."""
    block = wire.header_block(wire.ISSUE, stage.target.token)

    async def one(connection):
        while True:
            streams = [connection.open_stream() for _ in range(await connection.room())]
            await connection.send(*(wire.headers(stream, block) for stream in streams))
            await stage.turn(len(streams))
            if stage.events >= 41 * wire.MAX_STREAMS:
                stage.ready()

    await stage.on_each(41, one)


@attack(
    "message of 4 GiB",
    stopped_by="limit on the size of a message, checked before reading it",
    metric=Metric("ott_gateway_errors_total", {"method": "IssueOtt"}),
    rate=300,
    unit="calls",
)
async def huge_message(stage):
    """An identified caller announces 4 GiB in the 5-byte gRPC prefix, so that a server might
    allocate it."""
    block = wire.header_block(wire.ISSUE, stage.target.token)
    prefix = wire.message(announced=2**32 - 1)

    async def one(connection):
        while True:
            await stage.turn()
            stream = connection.open_stream()
            await connection.send(wire.headers(stream, block), wire.data(stream, prefix))

    stage.ready()
    await stage.on_each(4, one)


async def _flood(stage, block, port="main", message=wire.message()):
    """Sends complete requests, up to the limit of concurrent streams."""

    async def one(connection):
        while True:
            await stage.turn(20)
            await connection.room(20)
            streams = [connection.open_stream() for _ in range(20)]
            await connection.send(
                *(wire.headers(stream, block) + wire.data(stream, message, "END_STREAM") for stream in streams)
            )

    stage.ready()
    await stage.on_each(8, one, port=port)
