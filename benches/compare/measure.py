"""Loads all subjects in turn, and compares every load with the platform's request counts."""

import contextlib
import dataclasses
import pathlib
import statistics
import tempfile
import time

from benches.compare.bare import Bare
from benches.compare.envoy_proxy import Envoy
from benches.compare.scenarios import ALONE, BARE, ENVOY, GATEWAY, PGO, PLATFORM
from benches.harness.credentials import Certificates, Issuer
from benches.harness.gateway import Gateway
from benches.harness.load import Caller, Callers, CallsFailed, PlatformCaller, seconds_to_first_answer, verify_issue
from benches.harness.upstream import TOKEN, Upstream

# Time after the last load until connections are closed and all work is done.
SETTLE_S = 5
# Calls before the first measured load, to open connections and allocate memory.
WARM_UP_CALLS = 2_000
# The platform's count that each call increments.
COUNTED = {"issue": "otts", "login": "logins"}


@dataclasses.dataclass(frozen=True)
class Binaries:
    """The measured programs. The profile-guided build is optional."""

    gateway: pathlib.Path
    pgo: pathlib.Path | None
    upstream: pathlib.Path
    bare: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Length:
    """Rounds and duration of the loads, and of the idle time afterwards, or zero
    for none."""

    rounds: int
    seconds: float
    idle_seconds: float = 0


@dataclasses.dataclass(frozen=True)
class Sample:
    """One load of one subject."""

    scenario: str
    shape: str
    subject: str
    round: int
    calls: int
    cpu_us: float
    rate: float
    p50_us: float
    p99_us: float


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Resources of one subject: memory after all loads of a scenario, time to start, and
    wake-ups per second when idle."""

    scenario: str
    subject: str
    rss_mib: float
    start_ms: float
    wake_ups: float | None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A load at which a subject failed."""

    scenario: str
    shape: str
    subject: str
    cause: str


def calls_for(rate, seconds, in_flight):
    """Number of calls that take `seconds`; at least five per call in flight."""
    return max(int(rate * seconds), 5 * in_flight)


class Deployment:
    """The platform and all subjects of one scenario."""

    def __init__(self, scenario, binaries, folder, stack):
        folder = pathlib.Path(folder)
        certificates = Certificates(folder) if scenario.tls else None
        issuer = Issuer(folder) if scenario.jwt else None
        token = issuer and issuer.token(scenario.jwt, "portal")
        self._scenario = scenario
        self._upstream = Upstream(binaries.upstream, folder, certificates, scenario.delay_ms)
        stack.callback(self._upstream.stop)
        own = lambda name: pathlib.Path(tempfile.mkdtemp(prefix=name.replace(" ", "-"), dir=folder))
        start = {
            ENVOY: lambda: Envoy(own(ENVOY), self._upstream, certificates, issuer),
            BARE: lambda: Bare(binaries.bare, own(BARE), self._upstream, certificates),
            GATEWAY: lambda: Gateway(binaries.gateway, own(GATEWAY), self._upstream, certificates, issuer),
            PGO: lambda: Gateway(binaries.pgo, own(PGO), self._upstream, certificates, issuer),
        }
        absent = scenario.without | (frozenset() if binaries.pgo else {PGO})
        self.processes, self._callers, self.start_ms = {}, {}, {}
        for name in [name for name in start if name not in absent]:
            subject = start[name]()
            stack.callback(subject.stop)
            caller = lambda number: Caller(folder, subject.url, scenario.method, ott=f"{TOKEN}{number}", token=token)
            self.start_ms[name] = seconds_to_first_answer(subject.process, caller(0)) * 1000
            self.processes[name] = subject.process
            self._callers[name] = Callers([caller(number) for number in range(scenario.callers)])
            if scenario.method == "issue":
                file = folder / "token"
                file.write_text(token or "")
                authority = certificates and certificates.authority
                verify_issue(binaries.gateway, subject.url, authority, token and file)
        self.subjects = dict(self.processes)
        if scenario.method == "issue":
            self.processes[PLATFORM] = self._upstream.process
            self._callers[PLATFORM] = Callers([PlatformCaller(folder, self._upstream)])

    def load(self, name, shape, calls):
        """Loads one subject. Returns the load and the processor time per call. Fails unless the
        platform has answered every call exactly once."""
        counted, process = COUNTED[self._scenario.method], self.processes[name]
        answered, spent = self._upstream.counts()[counted], process.cpu_seconds()
        load = self._callers[name].load(shape, calls)
        spent, answered = process.cpu_seconds() - spent, self._upstream.counts()[counted] - answered
        if answered != len(load.times_us):
            raise CallsFailed(f"{len(load.times_us)} calls were made, but the platform answered {answered}")
        return load, spent / answered * 1e6


def compare(scenario, binaries, length, progress):
    """All samples, failures and footprints of one scenario."""
    samples, failures = [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        deployment = Deployment(scenario, binaries, folder, stack)
        for shape in scenario.shapes:
            found, failed = rounds(deployment, scenario, shape, length)
            samples += found
            failures += failed
            medians = {name: [one.cpu_us for one in found if one.subject == name] for name in deployment.processes}
            figures = [f"{name} {statistics.median(values):.0f} µs" for name, values in medians.items() if values]
            progress(f"{scenario.name} {shape}: " + ", ".join(figures + [f"{one.subject} failed" for one in failed]))
        memory = {name: process.rss_mib() for name, process in deployment.subjects.items()}
        wake_ups = idle_wake_ups(deployment.subjects, length.idle_seconds)
        footprints = [
            Footprint(scenario.name, name, memory[name], deployment.start_ms[name], wake_ups.get(name))
            for name in deployment.subjects
        ]
    return samples, failures, footprints


def idle_wake_ups(subjects, seconds):
    """Wake-ups per second of each subject without calls."""
    if not seconds:
        return {}
    time.sleep(SETTLE_S)
    before = {name: process.wake_ups() for name, process in subjects.items()}
    time.sleep(seconds)
    return {name: (process.wake_ups() - before[name]) / seconds for name, process in subjects.items()}


def rounds(deployment, scenario, shape, length):
    """The samples of one load. A failed subject is not loaded again."""
    samples, failures, rates = {}, [], {}
    in_flight = scenario.callers * shape.connections * shape.streams
    names = list(deployment.processes if shape == ALONE else deployment.subjects)
    for number in range(-1, length.rounds):
        # Each round starts with a different subject. Round -1 is the warm-up.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if name in {failure.subject for failure in failures}:
                continue
            calls = max(WARM_UP_CALLS, 5 * in_flight) if number < 0 else calls_for(rates[name], length.seconds, in_flight)
            try:
                load, cpu_us = deployment.load(name, shape, calls)
            except CallsFailed as failure:
                failures.append(Failure(scenario.name, str(shape), name, str(failure)))
                samples.pop(name, None)
                continue
            rates.setdefault(name, load.rate)
            if number >= 0:
                samples.setdefault(name, []).append(Sample(
                    scenario.name, str(shape), name, number, len(load.times_us), cpu_us, load.rate,
                    load.quantile_us(0.5), load.quantile_us(0.99),
                ))  # fmt: skip
    return [sample for found in samples.values() for sample in found], failures
