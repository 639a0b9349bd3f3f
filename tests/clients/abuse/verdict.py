"""Requirements on the gateway during an attack, and the table of results."""

import dataclasses

from caller import Sample, quantile
from catalogue import Attack

MAX_PEAK_MIB = 128
# Latencies below these depend more on the scheduler of a machine with two cores than on the gateway.
# The median is hardly affected.
P50_FLOOR_S, P99_FLOOR_S = 0.003, 0.02
# Processor time of the gateway during an attack, as a share of one core. More would slow down
# the comparison as well.
MAX_CPU_SHARE = 1.0
# Audit and log, including 120 KiB/s of the well-behaved caller.
MAX_WRITTEN_KIB_S = 600
# Maximum additional latency of a new connection during the attack.
MAX_CONNECT_GROWTH_S = 0.1
# An attack below this share of its rate proves nothing about the gateway.
MIN_SHARE_OF_RATE = 0.1
# A metric shows an attack if it grows this many times faster than without it. The well-behaved caller
# also increments some: a new connection sends SETTINGS, for example.
MIN_METRIC_RATIO = 10


@dataclasses.dataclass
class Round:
    """One attack, as seen by the caller, the operator and the attacker."""

    attack: Attack
    before: Sample
    during: Sample
    recovered: list[str]
    metric_growth: float | None
    peak_mib: float
    cpu_share: float
    written_kib_s: float
    missing_records: dict[str, float]
    # Growth per second without the attack.
    metric_rate_before: float
    seconds: float
    exit_code: int | None
    attacker: dict

    def latency(self, share):
        """Returns the quantile for the persistent connection before and during the attack, in seconds."""
        return quantile(self.before.kept, share), quantile(self.during.kept, share)

    def connect_latency(self, share):
        """Returns the same for calls on a new connection, including connecting."""
        return quantile(self.before.new, share), quantile(self.during.new, share)

    def slow(self):
        """Returns problems that a busy machine can also cause. One round without them is enough: noise
        never makes a call faster."""
        found = []
        # The reference is the latency before the attack, or that of the other gateway during the attack
        # if the machine has become slower.
        for share, floor in (0.5, P50_FLOOR_S), (0.99, P99_FLOOR_S):
            before, during = self.latency(share)
            reference = max(before, quantile(self.during.comparison, share))
            if during > max(self.attack.max_ratio * reference, floor):
                found.append(f"p{share * 100:.0f} {_ms(reference)} became {_ms(during)}")
        before, during = self.connect_latency(0.99)
        reference = max(before, quantile(self.during.comparison, 0.99))
        if during > max(self.attack.max_ratio * reference, reference + MAX_CONNECT_GROWTH_S):
            found.append(f"p99 of a call on a new connection {_ms(reference)} became {_ms(during)}")
        if self.cpu_share > MAX_CPU_SHARE:
            found.append(f"{self.cpu_share:.2f} cores busy")
        share = self.attacker["events"] / self.attacker["seconds"] / self.attack.rate
        if not self.attack.held and share < MIN_SHARE_OF_RATE:
            found.append(f"the attacker reached only {share:.0%} of its rate")
        return found

    def wrong(self):
        """Returns problems that noise cannot cause."""
        found = []
        errors = self.before.errors + self.during.errors
        if errors:
            found.append(f"{len(errors)} errors, such as {', '.join(sorted(set(errors))[:3])}")
        if self.recovered:
            found.append(f"after the attack: {', '.join(self.recovered[:3])}")
        if self.peak_mib > MAX_PEAK_MIB:
            found.append(f"peak RSS {self.peak_mib:.0f} MiB")
        if not self.metric_growth:
            what = "is missing" if self.metric_growth is None else "did not grow"
            found.append(f"{self.attack.metric} {what}")
        elif self.metric_growth / self.seconds < MIN_METRIC_RATIO * self.metric_rate_before:
            found.append(f"{self.attack.metric} hardly grows faster than without an attack")
        if self.attack.ends_connections:
            survive = [name or "all" for name, ended in self.attacker["ended"].items() if not ended]
            if survive:
                found.append(f"connections are not closed: {', '.join(survive)}")
        if self.written_kib_s > MAX_WRITTEN_KIB_S:
            found.append(f"{self.written_kib_s:,.0f} KiB/s written to audit and log")
        for whose, missing in self.missing_records.items():
            if missing > 0:
                found.append(f"{missing:,.0f} calls of {whose} have no audit record")
        if self.exit_code != 0:
            found.append(f"exit code {self.exit_code}")
        return found

    def problems(self):
        """Returns all violated requirements."""
        return self.wrong() + self.slow()


def _ms(seconds):
    return f"{seconds * 1000:.1f} ms"


def markdown(rounds):
    """Returns the table for the documentation."""
    lines = [
        "| attack | volume | calls, errors | p99 before → during | meanwhile, not attacked "
        "| p99 of a new connection | peak RSS | shown by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for round_ in rounds:
        calls = len(round_.during.kept) + len(round_.during.new)
        before, during = round_.latency(0.99)
        connect_before, connect_during = round_.connect_latency(0.99)
        cells = [
            round_.attack.name,
            round_.attack.volume,
            f"{calls:,}, {len(round_.during.errors)}",
            f"{before * 1000:.1f} → {during * 1000:.1f} ms",
            _ms(quantile(round_.during.comparison, 0.99)),
            f"{connect_before * 1000:.1f} → {connect_during * 1000:.1f} ms",
            f"{round_.peak_mib:.0f} MiB",
            f"`{round_.attack.metric}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
