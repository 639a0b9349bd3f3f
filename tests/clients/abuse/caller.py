"""The well-behaved caller, and the operator's probes. Their results decide the verdict.

The caller makes sequential `IssueOtt` calls: most on a persistent connection, some on a new one.
It uses `h2` instead of grpcio, because its own cost must be small and constant. Latency is
measured from the time when a call was due, so that a pause counts for all calls that it delayed.

In between it calls a gateway that is not attacked, to distinguish a slow machine from the effect
of the attack.
"""

import dataclasses
import math
import socket
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import wire

# A kubelet gives a probe one second unless told otherwise.
PROBE_S = 1
CALL_S = 5
# Each slot has one call on a new connection, then calls on the persistent one at this interval, with
# comparison calls halfway between them.
CALLS_OF_A_SLOT = 20
INTERVAL_S = 0.004
SLOTS_BETWEEN_PROBES = 5
LOGIN = "johncustomer@mysite.com"


@dataclasses.dataclass
class Sample:
    """Latencies of successful calls, in seconds, and the errors of the others."""

    kept: list[float] = dataclasses.field(default_factory=list)
    new: list[float] = dataclasses.field(default_factory=list)
    comparison: list[float] = dataclasses.field(default_factory=list)
    probes: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)


def quantile(latencies, share):
    """Returns the quantile of the latencies; infinite without any."""
    if not latencies:
        return math.inf
    return sorted(latencies)[min(len(latencies) - 1, math.ceil(share * len(latencies)) - 1)]


class Connection:
    """HTTP/2 client connection for one call at a time."""

    def __init__(self, port, tls, timeout):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.initiate_connection()

    def call(self, path, body, token=None, is_stream=False):
        """Makes one call. Raises `OSError` unless its status is OK and it has a message.

        Reads only the first message of a stream.
        """
        stream = self._http.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
                  ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", f"{CALL_S}S")]  # fmt: skip
        if token:
            fields.append(("authorization", f"Bearer {token}"))
        self._http.send_headers(stream, fields)
        self._http.send_data(stream, body, end_stream=True)
        self._socket.sendall(self._http.data_to_send())
        answer, status = b"", {}
        while True:
            received = self._socket.recv(65_536)
            if not received:
                raise ConnectionResetError("the gateway closed the connection")
            ended = False
            for event in self._http.receive_data(received):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        status |= dict(event.headers)
                    case h2.events.DataReceived():
                        answer += event.data
                        self._http.acknowledge_received_data(event.flow_controlled_length, stream)
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        raise ConnectionResetError(f"{type(event).__name__} {event.error_code!r}")
                    case h2.events.StreamEnded():
                        ended = True
            if pending := self._http.data_to_send():
                self._socket.sendall(pending)
            if is_stream and answer:
                return
            if ended:
                break
        if status.get("grpc-status") != "0" or not answer:
            raise OSError(f"grpc-status {status.get('grpc-status')}: {status.get('grpc-message')}")

    def close(self):
        self._socket.close()


class Kept:
    """Calls one gateway on a persistent connection."""

    def __init__(self, port, tls=None, token=None):
        self._connect = lambda: Connection(port, tls, CALL_S)
        self._token = token
        self._body = wire.issue_message(LOGIN)
        self._connection = None

    def call(self):
        """Makes a call. Reconnects after a failed one."""
        self._connection = self._connection or self._connect()
        try:
            self._connection.call(wire.ISSUE, self._body, self._token)
        except BaseException:
            self.close()
            raise

    def close(self):
        if self._connection:
            self._connection.close()
            self._connection = None


class Caller:
    """Well-behaved caller of the attacked gateway, and of another one for comparison."""

    def __init__(self, gateway, comparison_port):
        self._gateway = gateway
        self._kept = self._client()
        self._comparison = Kept(comparison_port)
        self.succeeded = 0

    def _client(self):
        return Kept(self._gateway.ports["main"], self._gateway.tls, self._gateway.token)

    def sample(self, seconds):
        """Makes calls for this time, and returns the results."""
        sample = Sample()
        end = time.monotonic() + seconds
        slot = 0
        while time.monotonic() < end:
            if slot % SLOTS_BETWEEN_PROBES == 0:
                self._probe(sample)
            slot += 1
            newcomer = self._client()
            self._timed(newcomer, time.monotonic(), sample.new, sample)
            newcomer.close()
            started = time.monotonic()
            for number in range(CALLS_OF_A_SLOT):
                for client, latencies, part in (
                    (self._kept, sample.kept, 0),
                    (self._comparison, sample.comparison, 0.5),
                ):
                    due = started + (number + part) * INTERVAL_S
                    time.sleep(max(0, due - time.monotonic()))
                    self._timed(client, due, latencies, sample)
        return sample

    def _timed(self, client, due, latencies, sample):
        try:
            client.call()
        except (OSError, h2.exceptions.H2Error) as error:
            kind = "call on a new connection" if latencies is sample.new else "call"
            kind = "comparison" if client is self._comparison else kind
            sample.errors.append(f"{kind}: {error!r}")
        else:
            latencies.append(time.monotonic() - due)
            self.succeeded += client is not self._comparison

    def _probe(self, sample):
        """Probes like a kubelet (liveness on the admin port, health on the health port) and like
        clients with client-side health checking (gRFC A17), which use `Watch`."""
        sample.probes += 1
        ports, tls = self._gateway.ports, self._gateway.tls
        probes = {
            "/livez": lambda: self._gateway.page("/livez", PROBE_S),
            "health check": lambda: self._ask(ports["health"], None, wire.CHECK),
            "Health/Watch": lambda: self._ask(ports["main"], tls, wire.WATCH, is_stream=True),
        }
        for name, ask in probes.items():
            try:
                ask()
            except (OSError, h2.exceptions.H2Error) as error:
                sample.errors.append(f"{name}: {error!r}")

    @staticmethod
    def _ask(port, tls, path, **options):
        connection = Connection(port, tls, PROBE_S)
        try:
            connection.call(path, wire.message(), **options)
        finally:
            connection.close()

    def close(self):
        self._kept.close()
        self._comparison.close()
