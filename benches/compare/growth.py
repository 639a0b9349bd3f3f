"""How the cost of a gateway call depends on single parameters."""

import contextlib
import dataclasses
import pathlib
import tempfile

from benches.compare.measure import WARM_UP_CALLS, calls_for
from benches.harness.gateway import OTHER_INNER_RULE, RULES, Gateway
from benches.harness.load import Caller, Callers, Shape
from benches.harness.upstream import Upstream

REFERENCE = Shape(8, 8)
CONNECTIONS = (1, 8, 64, 512)
STREAMS = (1, 10, 100)
RULE_COUNTS = (1, 10, 100, 1000)
CALLERS = (1, 4, 16, 64)
MAX_IN_FLIGHT = CONNECTIONS[-1]
# Total connections of all callers, each with one call at a time.
IN_FLIGHT = 64


@dataclasses.dataclass(frozen=True)
class Point:
    """One load, with `value` for the varied parameter `series`."""

    series: str
    value: str
    round: int
    cpu_us: float
    rate: float


@dataclasses.dataclass(frozen=True)
class Variant:
    """A load of one gateway."""

    series: str
    value: str
    process: object
    callers: object
    shape: Shape

    def load(self, calls):
        """Processor time of the gateway per call in µs, and calls per second."""
        spent = self.process.cpu_seconds()
        load = self.callers.load(self.shape, calls)
        spent = self.process.cpu_seconds() - spent
        return spent / len(load.times_us) * 1e6, load.rate


def variants(binaries, folder, upstream, stack):
    """All loads. Starts the gateways."""

    def start(name, **settings):
        own = folder / name
        own.mkdir()
        gateway = Gateway(binaries.gateway, own, upstream, **settings)
        stack.callback(gateway.stop)
        gateway.process.wait_until(Caller(own, gateway.url).is_answered, "no call is answered")
        return gateway, own

    gateways = {count: start(f"rules-{count}", rules=count) for count in RULE_COUNTS}
    usual, own = gateways[RULES]
    anonymous = Caller(own, usual.url)
    for count in CONNECTIONS:
        yield Variant("connections, one call at a time on each", f"{count:,}", usual.process, anonymous, Shape(count, 1))
    for count in STREAMS:
        yield Variant("calls at a time on one connection", f"{count:,}", usual.process, anonymous, Shape(1, count))
    for count, (gateway, own) in gateways.items():
        yield Variant("rules (8×8)", f"{count:,}", gateway.process, Caller(own, gateway.url), REFERENCE)
    inner, own = start("rules-inner", rules=RULE_COUNTS[-1], other_rule=OTHER_INNER_RULE)
    value = f"{RULE_COUNTS[-1]:,} with wildcards at both ends"
    yield Variant("rules (8×8)", value, inner.process, Caller(own, inner.url), REFERENCE)
    switched_off = {"nothing": {}, "audit": {"has_audit": False}, "log": {"log_level": "off"},
                    "audit and log": {"has_audit": False, "log_level": "off"}}  # fmt: skip
    for name, settings in switched_off.items():
        gateway, own = start(f"without-{name}".replace(" ", "-"), **settings)
        yield Variant("switched off (8×8)", name, gateway.process, Caller(own, gateway.url), REFERENCE)
    tokens = {f"caller-{number}": f"token-of-caller-{number}-{number * 7919:064d}" for number in range(CALLERS[-1])}
    gateway, own = start("callers", tokens=tokens)
    callers = [Caller(own, gateway.url, token=token) for token in tokens.values()]
    for count in CALLERS:
        # The number of connections is constant, because it affects the cost as well.
        shape = Shape(IN_FLIGHT // count, 1)
        yield Variant("callers, 64 connections in all", f"{count:,}", gateway.process, Callers(callers[:count]), shape)


def grow(binaries, length, progress):
    """All points: each variant is measured once per round."""
    points = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        upstream = Upstream(binaries.upstream, folder)
        stack.callback(upstream.stop)
        every = list(variants(binaries, folder, upstream, stack))
        rates = [variant.load(calls_for(WARM_UP_CALLS, 1, MAX_IN_FLIGHT))[1] for variant in every]
        for number in range(length.rounds):
            for variant, rate in zip(every, rates):
                cpu_us, reached = variant.load(calls_for(rate, length.seconds, MAX_IN_FLIGHT))
                points.append(Point(variant.series, variant.value, number, cpu_us, reached))
            progress(f"growth: round {number + 1} of {length.rounds}")
    return points
