"""Calls with h2load, and checks of their responses.

h2load checks only the HTTP status, which is 200 even for a failed gRPC call. So each load is
compared with the number of requests at the upstream and with the size of the messages.
"""

import concurrent.futures
import dataclasses
import json
import math
import pathlib
import re
import struct
import subprocess
import tempfile
import time

from benches.harness.upstream import ACCESS_TOKEN, LOGIN, TOKEN

PATHS = {"issue": "IssueOtt", "login": "LoginWithOtt"}
# Numbers of the fields of the requests.
SUBJECT_OR_OTT, API_CLIENT = 1, {"issue": 5, "login": 2}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Number of connections, and of calls in flight on each."""

    connections: int
    streams: int

    def __str__(self):
        return f"{self.connections}×{self.streams}"


@dataclasses.dataclass(frozen=True)
class Load:
    """What h2load measured: calls per second, and the time of each call in ascending order."""

    rate: float
    times_us: list[int]

    def quantile_us(self, share):
        """The time that `share` of the calls did not exceed."""
        return self.times_us[max(0, math.ceil(share * len(self.times_us)) - 1)]


class CallsFailed(Exception):
    """Calls that must succeed have failed."""


def field(number, text):
    """A field of a protobuf message with a text of less than 16,384 bytes."""
    length = bytes([len(text)]) if len(text) < 128 else bytes([len(text) & 127 | 128, len(text) >> 7])
    return bytes([number << 3 | 2]) + length + text.encode()


def message(text, method="issue", api_client=None):
    """A gRPC message whose first field is `text`."""
    payload = field(SUBJECT_OR_OTT, text)
    payload += field(API_CLIENT[method], api_client) if api_client else b""
    return b"\0" + struct.pack(">I", len(payload)) + payload


class Caller:
    """Makes calls of one kind: `issue` for a `login`, or `login` with an `ott`; with a bearer
    `token`, or without; with an `api_client`, or the default one."""

    def __init__(self, folder, url, method="issue", login=LOGIN, ott=TOKEN, token=None, api_client=None):
        self._folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
        self.body = self._folder / "message"
        self.body.write_bytes(message(login if method == "issue" else ott, method, api_client))
        self._method, self._url = method, url
        self._headers = ["content-type: application/grpc", "te: trailers", "grpc-timeout: 10S"]
        if token:
            self._headers.append(f"authorization: Bearer {token}")

    def command(self, shape, calls, log):
        """The command line of h2load."""
        headers = [part for header in self._headers for part in ("-H", header)]
        return ["h2load", "-t", "1", "-c", str(shape.connections), "-m", str(shape.streams), "-n", str(calls),
                "-d", str(self.body), "--log-file", str(log), *headers,
                f"{self._url}/ott.v1.OttService/{PATHS[self._method]}"]  # fmt: skip

    def load(self, shape, calls):
        """Makes this number of calls. Fails unless each response has a message."""
        result, message_bytes = self.attempt(shape, calls)
        if message_bytes < calls * len(message(TOKEN)):
            raise CallsFailed(f"{message_bytes} bytes of messages in the answers to {calls} calls")
        return result

    def refused(self, shape, calls):
        """Makes this number of calls. Fails if a response has a message."""
        result, message_bytes = self.attempt(shape, calls)
        if message_bytes:
            raise SystemExit(f"{self._url}: calls that must be refused have succeeded")
        return result

    def attempt(self, shape, calls):
        """Makes this number of calls. Returns the measurement and the size of all messages."""
        log = self._folder / "h2load.log"
        log.unlink(missing_ok=True)
        command = self.command(shape, calls, log)
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
        if not done or [int(number) for number in done.groups()] != [calls, 0, 0, 0]:
            raise CallsFailed(f"h2load reports failures\n{text}")
        times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
        load = Load(float(re.search(r"([\d.]+) req/s", text)[1]), times)
        return load, int(re.search(r"\((\d+)\) data", text)[1])

    def is_answered(self):
        """Makes one call. Returns whether its response has a message."""
        log = self._folder / "h2load.log"
        output = subprocess.run(self.command(Shape(1, 1), 1, log), capture_output=True, text=True).stdout
        data = re.search(r"\((\d+)\) data", output)
        return bool(data) and int(data[1]) >= len(message(TOKEN))


class PlatformCaller(Caller):
    """Sends the request of `issue` directly to the platform, with its access token."""

    def __init__(self, folder, upstream, login=LOGIN):
        super().__init__(folder, upstream.url)
        self.body.write_text(json.dumps({"login": login}))
        self._protocol = [] if upstream.authority else ["--h1"]
        self._headers = [f"authorization: Bearer {ACCESS_TOKEN}", "content-type: application/json"]

    def command(self, shape, calls, log):
        """The command line of h2load."""
        *command, _ = super().command(shape, calls, log)
        return [*command, *self._protocol, f"{self._url}/api/2/idp/ott"]


class Callers:
    """Several concurrent callers, each with the same shape."""

    def __init__(self, callers):
        self._callers = callers

    def load(self, shape, calls):
        """Makes this number of calls in total, or fewer if it cannot be divided."""
        with concurrent.futures.ThreadPoolExecutor(len(self._callers)) as pool:
            share = calls // len(self._callers)
            loads = list(pool.map(lambda caller: caller.load(shape, share), self._callers))
        times = sorted(time for load in loads for time in load.times_us)
        return Load(sum(load.rate for load in loads), times)


def seconds_to_first_answer(process, caller):
    """Time from the start of a process to its first successful call, including the connection."""
    process.wait_until(caller.is_answered, "no call is answered")
    return time.monotonic() - process.started


def verify_issue(client, url, authority=None, token_file=None):
    """Makes one `IssueOtt` call with `ott-gateway issue`. Fails unless it returns the token."""
    command = [client, "issue", "--endpoint", url, "--login", LOGIN]
    command += ["--ca-file", authority] if authority else []
    command += ["--bearer-token-file", token_file] if token_file else []
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode or json.loads(done.stdout).get("ott") != TOKEN:
        raise SystemExit(f"{url}: not the expected response: {done.stdout}{done.stderr}")
