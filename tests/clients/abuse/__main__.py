"""Attacks the gateway without a credential, or with an ordinary one, and fails if other callers are
affected.

Usage: python tests/clients/abuse BINARY [--only NAME]... [--all] [--markdown] [--list]

Each attack runs against a new process of the real binary. A well-behaved caller calls it before and
during the attack; the attacker is a separate process. `verdict.py` defines the requirements. Nothing
leaves the machine. If the addresses 198.51.100.1 to .5 exist, attackers use them, because the
gateway's limits per address do not apply to loopback addresses; `run` adds them in a network
namespace.
"""

import argparse
import contextlib
import gc
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import catalogue
import verdict
from caller import Caller
from gateway import ATTACKER_TOKEN, Gateway, Platform, make_certificates

STRANGERS = [f"198.51.100.{number}" for number in range(1, 6)]
WARM_UP_S, BEFORE_S, DURING_S = 0.2, 1.0, 2.5
# Maximum time until a metric shows the attack: a timeout of the gateway may have to pass first.
METRIC_S = 8
# Maximum number of rounds; an attack is repeated if only latencies exceed their bounds.
ROUNDS = 3
HANDLED = catalogue.Metric("grpc_server_handled_total")
ATTACKER = pathlib.Path(__file__).with_name("attacker.py")


def is_usable(address):
    """Returns whether connections can use this source address."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


class Attacker:
    """The attacking process."""

    def __init__(self, attack, gateway, addresses):
        target = {"ports": gateway.ports, "token": ATTACKER_TOKEN, "addresses": addresses[: attack.addresses]}
        command = [sys.executable, ATTACKER, attack.name, json.dumps(target)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit(f"the attacker failed: {attack.name}")

    def stop(self):
        """Stops the attack and returns its report."""
        output, _ = self._process.communicate("")
        return json.loads(output)


def growth(gateway, metric, before):
    """Returns the growth of the metric, after at most `METRIC_S`; `None` if it cannot be read."""
    deadline, now = time.monotonic() + METRIC_S, None
    while True:
        with contextlib.suppress(OSError):
            now = gateway.value(metric)
        # A family with labels has no series before its first event.
        if now is not None and now > (before or 0):
            return now - (before or 0)
        if time.monotonic() > deadline:
            return None if now is None else 0
        time.sleep(0.1)


def run(attack, binary, folder, platform, addresses):
    """Runs one round of an attack, with its own gateway."""
    gateway = Gateway(binary, folder, attack.deployment, platform)
    caller = Caller(gateway, platform.gateway_port)
    try:
        caller.sample(WARM_UP_S)
        metric_at_rest, rest_began = gateway.value(attack.metric), time.monotonic()
        before = caller.sample(BEFORE_S)
        metric_before = gateway.value(attack.metric)
        rate_before = ((metric_before or 0) - (metric_at_rest or 0)) / (time.monotonic() - rest_began)
        cpu, written, started = gateway.cpu_seconds(), gateway.written_bytes(), time.monotonic()
        attacker = Attacker(attack, gateway, addresses)
        during = caller.sample(DURING_S)
        seconds = time.monotonic() - started
        cpu_share = (gateway.cpu_seconds() - cpu) / seconds
        written_kib_s = (gateway.written_bytes() - written) / seconds / 1024
        grown = growth(gateway, attack.metric, metric_before)
        report = attacker.stop()
        recovered = caller.sample(WARM_UP_S).errors
        peak = gateway.peak_mib()
        # Each handled call already has a record, so calls that are still completing do not matter.
        handled = gateway.value(HANDLED)
    finally:
        caller.close()
        code = gateway.stop()
    honest, recorded = gateway.recorded_calls()
    return verdict.Round(
        attack=attack,
        before=before,
        during=during,
        recovered=recovered,
        metric_rate_before=rate_before,
        seconds=seconds,
        metric_growth=grown,
        peak_mib=peak,
        cpu_share=cpu_share,
        written_kib_s=written_kib_s,
        missing_records={"the caller": caller.succeeded - honest, "all": handled - recorded},
        exit_code=code,
        attacker=report,
    )


def judge(attack, *arguments):
    """Repeats an attack while only its latencies exceed the bounds."""
    for number in range(ROUNDS):
        round_ = run(attack, *arguments)
        if round_.wrong() or not round_.slow():
            break
    return round_


def describe(round_):
    """Returns a one-line summary for the CI log."""
    attacker = round_.attacker
    sent = attacker["events"] / attacker["seconds"]
    before, during = (seconds * 1000 for seconds in round_.latency(0.99))
    connect_before, connect_during = (seconds * 1000 for seconds in round_.connect_latency(0.99))
    return (
        f"{sent:,.0f} {round_.attack.unit}/s, {attacker['connections']:,} connections, "
        f"{sum(attacker['ended'].values()):,} closed by the gateway, GOAWAY {attacker['goaways']}; "
        f"caller: {len(round_.during.kept)} + {len(round_.during.new)} calls, "
        f"{len(round_.during.errors)} errors, p99 {before:.1f} -> {during:.1f} ms, "
        f"new connection {connect_before:.1f} -> {connect_during:.1f} ms; "
        f"gateway: {round_.cpu_share:.2f} cores, {round_.peak_mib:.0f} MiB, "
        f"{round_.written_kib_s:,.0f} KiB/s written; {round_.attack.metric} +{round_.metric_growth or 0:,.0f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("binary", nargs="?", default="target/release/ott-gateway")
    parser.add_argument("--only", action="append", default=[], help="run only attacks whose name contains this")
    parser.add_argument("--markdown", action="store_true", help="print the table for the documentation")
    parser.add_argument("--all", action="store_true", help="include pending attacks")
    parser.add_argument("--list", action="store_true", help="list the attacks")
    options = parser.parse_args()
    chosen = [
        attack
        for attack in catalogue.all_attacks()
        if (not options.only or any(part in attack.name for part in options.only))
        and (options.all or not attack.pending)
    ]
    addresses = STRANGERS if all(map(is_usable, STRANGERS)) else ["127.0.0.2"]
    if addresses != STRANGERS:
        print("skipping attacks on limits per address: attackers have only a loopback address", flush=True)
        chosen = [attack for attack in chosen if not attack.is_of_one_peer]
    if options.list or not chosen:
        for attack in chosen:
            print(f"{attack.name}: {attack.volume}; stopped by: {attack.stopped_by}")
        return 0 if chosen else 2

    binary = pathlib.Path(options.binary).resolve()
    gc.disable()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_certificates(folder)
        platform = Platform(binary, folder)
        try:
            for attack in chosen:
                round_ = judge(attack, binary, folder, platform, addresses)
                rounds.append(round_)
                result = "FAILED" if round_.problems() else "ok"
                print(f"{result:7} {attack.name}: {describe(round_)}", flush=True)
                for problem in round_.problems():
                    print(f"        {problem}", flush=True)
                gc.collect()
        finally:
            platform.stop()
    if options.markdown:
        print(f"\n{verdict.markdown(rounds)}")
    failed = sum(bool(round_.problems()) for round_ in rounds)
    print(f"\n{len(rounds) - failed} attacks passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
