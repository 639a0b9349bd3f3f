"""Instructions per call of the release build, counted by callgrind.

Unlike time, the count is the same on a busy machine. Calls are made one at a time, so that all
take the same path and share no system calls. Instructions for background work (heartbeats, polls
of files) depend on time instead of calls and are subtracted.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import time

from benches.harness.credentials import Issuer
from benches.harness.gateway import SEALING_CLIENT, Gateway
from benches.harness.load import Caller, Shape
from benches.harness.upstream import LOGIN, Upstream

WARM_UP_CALLS = 100
CALLS = 1_000
ONE_BY_ONE = Shape(1, 1)
# Four polling intervals of files.
IDLE_S = 12
# No rule allows this user.
FOREIGN_LOGIN = "anna@elsewhere.example"


class Counter:
    """Runs a process under callgrind, which writes and resets its counts on demand."""

    def __init__(self, folder):
        self._files = folder / "callgrind.out"
        self.command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self._files}"]
        self._dumps = 0
        self._taken = time.monotonic()

    def take(self, pid):
        """Instructions of all threads since the last call, and the seconds since then."""
        control = subprocess.run(["callgrind_control", "-d", str(pid)], capture_output=True, text=True)
        self._dumps += 1
        dump = pathlib.Path(f"{self._files}.{self._dumps}")
        if control.returncode or not dump.exists():
            raise SystemExit(f"callgrind does not write its counts: {control.stdout}{control.stderr}")
        since, self._taken = self._taken, time.monotonic()
        return int(re.search(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)[1]), self._taken - since


def measure(binary, upstream_binary, folder):
    """Instructions per call, by the name of the workload."""
    folder = pathlib.Path(folder)
    with contextlib.ExitStack() as stack:
        upstream = Upstream(upstream_binary, folder)
        stack.callback(upstream.stop)
        issuer, counter = Issuer(folder), Counter(folder)
        gateway = Gateway(binary, folder, upstream, issuer=issuer, wrapper=counter.command, seals=True)
        stack.callback(gateway.stop)
        loads = workloads(folder, gateway, issuer, binary)
        for load in loads.values():
            load(ONE_BY_ONE, WARM_UP_CALLS)
        counter.take(gateway.process.pid)
        time.sleep(IDLE_S)
        idle, seconds = counter.take(gateway.process.pid)
        return {name: count(counter, gateway, load, idle / seconds) for name, load in loads.items()}


def workloads(folder, gateway, issuer, binary):
    """Functions that make a number of calls, by the name of the figure."""
    anonymous = Caller(folder, gateway.url)
    gateway.process.wait_until(anonymous.is_answered, "no call is answered")
    return {
        "issue": anonymous.load,
        "login": Caller(folder, gateway.url, method="login").load,
        "jwt": Caller(folder, gateway.url, token=issuer.token("RS256", "portal")).load,
        "refused": Caller(folder, gateway.url, login=FOREIGN_LOGIN).refused,
        "sealed_issue": Caller(folder, gateway.url, api_client=SEALING_CLIENT).load,
        "sealed_login": lambda shape, calls: sealed_login(folder, gateway, binary, shape, calls),
    }


def sealed_login(folder, gateway, binary, shape, calls):
    """Spends one sealed token in every call, because the upstream accepts a token more than once. The
    call that requests it is counted too."""
    command = [binary, "issue", "--endpoint", gateway.url, "--login", LOGIN, "--api-client", SEALING_CLIENT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ott = json.loads(done.stdout)["ott"]
    return Caller(folder, gateway.url, method="login", ott=ott).load(shape, calls)


def count(counter, gateway, load, idle):
    """Instructions per call of one workload, less `idle` instructions per second."""
    counter.take(gateway.process.pid)
    load(ONE_BY_ONE, CALLS)
    instructions, seconds = counter.take(gateway.process.pid)
    return round((instructions - idle * seconds) / CALLS)
