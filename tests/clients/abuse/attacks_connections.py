"""Attacks with connections: idle, silent, or with a partial request, on every port."""

import asyncio
import contextlib
import functools
import ssl

import wire
from catalogue import Metric, attack

EVICTED = Metric("ott_gateway_connections_ended_total", {"reason": "evicted"})


@attack(
    "idle connections, full table",
    stopped_by="eviction of the longest-idle unidentified connection",
    metric=EVICTED,
    rate=600,
    unit="connections",
    held=1_100,
    addresses=5,
)
async def idle_connections(stage):
    """More connections than the gateway accepts, from several addresses. Each has sent its preface and
    SETTINGS, answers pings, and sends no request."""
    await stage.hold(_idle(stage, "main"))


@attack(
    "idle connections, one address",
    stopped_by="limit on connections per address",
    metric=Metric("ott_gateway_connections_ended_total", {"reason": "peer_limit"}),
    is_of_one_peer=True,
    rate=300,
    unit="connections",
    held=400,
)
async def idle_connections_of_one_address(stage):
    """The same from one address, which is limited to a quarter of all connections."""
    await stage.hold(_idle(stage, "main"))


@attack(
    "idle connections, health port",
    stopped_by="eviction of the longest-idle connection, idle timeout of 10 s",
    metric=EVICTED,
    rate=200,
    unit="connections",
    held=200,
    deployment="mtls",
    addresses=5,
)
async def idle_health_connections(stage):
    """The health port accepts few connections, and needs no certificate. If a kubelet cannot connect, it
    takes the gateway out of service."""
    await stage.hold(_idle(stage, "health"))


@attack(
    "partial request, admin port",
    stopped_by="eviction of the longest-idle connection, request timeout of 5 s",
    metric=EVICTED,
    rate=200,
    unit="connections",
    held=200,
    deployment="mtls",
    addresses=5,
)
async def half_an_admin_request(stage):
    """Slowloris on the admin port, which serves metrics and liveness."""
    await stage.hold(_silent_after(stage, b"GET /metrics HT", "admin"))


@attack(
    "partial preface",
    stopped_by="eviction of the longest-idle unidentified connection; preface timeout",
    metric=EVICTED,
    rate=250,
    unit="connections",
    held=1_100,
    addresses=5,
)
async def half_a_preface(stage):
    """Plaintext connections that send a part of the HTTP/2 preface, and then nothing."""
    await stage.hold(_silent_after(stage, wire.PREFACE[:10]))


@attack(
    "silent TCP",
    stopped_by="eviction of the longest-idle unidentified connection; a handshake gets a share of processor time only once it has started",
    metric=EVICTED,
    rate=250,
    unit="connections",
    held=1_100,
    deployment="mtls",
    addresses=5,
)
async def silent_tcp(stage):
    """Connections to a listener with TLS that never send a byte, 250 new ones a second."""
    await stage.hold(_silent_after(stage, b""))


@attack(
    "silent TLS",
    stopped_by="eviction of the longest-idle unidentified connection",
    metric=EVICTED,
    rate=250,
    unit="connections",
    held=1_100,
    deployment="mtls",
    addresses=5,
)
async def silent_tls(stage):
    """Connections that send a ClientHello, which costs the gateway a signature, and then
    nothing."""
    await stage.hold(_silent_after(stage, client_hello()))


@attack(
    "partial ClientHello",
    stopped_by="eviction of the longest-idle unidentified connection; a handshake gets a share of processor time only once it has started",
    metric=EVICTED,
    rate=250,
    unit="connections",
    held=1_100,
    deployment="mtls",
    addresses=5,
)
async def half_a_client_hello(stage):
    """Connections that send the first bytes of a ClientHello, and then nothing."""
    await stage.hold(_silent_after(stage, client_hello()[:50]))


@attack(
    "bytes that are not TLS",
    stopped_by="TLS handshake timeout; limit on log lines per address",
    metric=Metric("ott_gateway_tls_handshakes_total", {"result": "failed"}),
    rate=500,
    unit="connections",
    deployment="mtls",
)
async def not_tls(stage):
    """Connections that fail at their first byte. Each may produce a log line."""
    await _pour(stage, _silent_after(stage, b"GET / HTTP/1.1\r\n\r\n"))


@attack(
    "TLS handshakes without a certificate",
    stopped_by="limit on the processor time of handshakes",
    metric=Metric("ott_gateway_tls_handshakes_total", {"result": "failed"}),
    rate=150,
    unit="handshakes",
    deployment="mtls",
)
async def handshakes_without_a_certificate(stage):
    """Complete TLS handshakes without a client certificate, each with a key exchange and a signature."""
    context = _trusting_context()

    @contextlib.asynccontextmanager
    async def opening():
        reader, writer = await stage.tcp()
        try:
            await writer.start_tls(context, server_hostname="localhost")
            yield reader.read()
        finally:
            writer.transport.abort()

    await _pour(stage, opening)


@functools.cache
def client_hello():
    """Returns the first flight of a TLS client that offers HTTP/2."""
    context = _trusting_context()
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _trusting_context():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _idle(stage, port):
    @contextlib.asynccontextmanager
    async def opening():
        async with stage.http2(port) as connection:
            yield connection.ended()

    return opening


def _silent_after(stage, first, port="main"):
    """Opens a connection, sends these bytes and then nothing."""

    @contextlib.asynccontextmanager
    async def opening():
        reader, writer = await stage.tcp(port)
        try:
            writer.write(first)
            yield reader.read()
        finally:
            writer.transport.abort()

    return opening


async def _pour(stage, opening):
    """Opens connections at the rate of the attack, even if the gateway has not closed the others."""

    async def one():
        with contextlib.suppress(OSError):
            async with opening() as ended:
                await ended
        stage.ended[""] += 1

    stage.ready()
    async with asyncio.TaskGroup() as tasks:
        while True:
            await stage.turn()
            tasks.create_task(one())
