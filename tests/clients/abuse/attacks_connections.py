"""Attacks with connections: idle, silent, or half of a request, on every port."""

import asyncio
import contextlib
import functools
import ssl

import wire
from catalogue import Metric, attack

EVICTED = Metric("ott_gateway_connections_ended_total", {"reason": "evicted"})


@attack(
    "idle connections, full table",
    stopped_by="the longest-idle unidentified connection makes room",
    metric=EVICTED,
    rate=600,
    unit="connections",
    held=1_100,
    addresses=5,
)
async def idle_connections(stage):
    """More connections than the gateway has places for, from several addresses. Each has sent
    its preface and SETTINGS, answers pings, and asks for nothing."""
    await stage.hold(_idle(stage, "main"))


@attack(
    "idle connections, one address",
    stopped_by="connections of one address",
    metric=Metric("ott_gateway_connections_ended_total", {"reason": "peer_limit"}),
    is_of_one_peer=True,
    rate=300,
    unit="connections",
    held=400,
)
async def idle_connections_of_one_address(stage):
    """The same from one address, which may have a quarter of all connections."""
    await stage.hold(_idle(stage, "main"))


@attack(
    "idle connections, health port",
    stopped_by="the longest-idle connection makes room, idle timeout of 10 s",
    metric=EVICTED,
    rate=200,
    unit="connections",
    held=200,
    deployment="mtls",
    addresses=5,
)
async def idle_health_connections(stage):
    """The health port has few places, and needs no certificate: without them a kubelet takes
    the gateway out of service."""
    await stage.hold(_idle(stage, "health"))


@attack(
    "half of a request, admin port",
    stopped_by="the longest-idle connection makes room, 5 s for a request",
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
    "half of a preface",
    stopped_by="the longest-idle unidentified connection makes room; time for the preface",
    metric=EVICTED,
    rate=250,
    unit="connections",
    held=1_100,
    addresses=5,
)
async def half_a_preface(stage):
    """Plaintext connections that begin HTTP/2 and do not go on."""
    await stage.hold(_silent_after(stage, wire.PREFACE[:10]))


@attack(
    "silent TCP",
    stopped_by="the longest-idle unidentified connection makes room; its processor time is shared only once it has begun",
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
    stopped_by="the longest-idle unidentified connection makes room",
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
    "half of a ClientHello",
    stopped_by="the longest-idle unidentified connection makes room; its processor time is shared only once it has begun",
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
    stopped_by="time for a TLS handshake; log lines of one address",
    metric=Metric("ott_gateway_tls_handshakes_total", {"result": "failed"}),
    rate=500,
    unit="connections",
    deployment="mtls",
)
async def not_tls(stage):
    """Connections that fail at their first byte, each of which may be worth a log line."""
    await _pour(stage, _silent_after(stage, b"GET / HTTP/1.1\r\n\r\n"))


@attack(
    "TLS handshakes without a certificate",
    stopped_by="processor time of handshakes, shared out between calls",
    metric=Metric("ott_gateway_tls_handshakes_total", {"result": "failed"}),
    rate=150,
    unit="handshakes",
    deployment="mtls",
)
async def handshakes_without_a_certificate(stage):
    """Complete TLS handshakes, each with a key exchange and a signature, of a client that has
    no certificate."""
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
    """The first flight of a TLS client that offers HTTP/2."""
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
    """Opens connections at the attack's rate, whether the gateway has ended the others or not."""


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
