"""Reads, writes and compares with the committed figures in `figures.toml`."""

import pathlib
import platform
import subprocess
import tomllib

FILE = pathlib.Path(__file__).with_name("figures.toml")
TOLERANCE = 0.05
HEADER = """\
# Instructions of the gateway per call, by architecture. The gate fails if a call takes 5 % more.
# Written by `benches/instructions/run update`: see benches/README.md.
"""


def committed():
    """The figures of this architecture."""
    return tomllib.loads(FILE.read_text()).get(platform.machine(), {})


def compare(measured):
    """Returns a line per workload, and whether one has no figure or exceeds its limit."""
    figures, lines, failed = committed(), [], False
    for name, count in measured.items():
        if name not in figures:
            lines.append(f"{name}: {count:,} instructions per call, and no committed figure for {platform.machine()}")
            failed = True
            continue
        figure = figures[name]
        line = f"{name}: {count:,} instructions per call, {count / figure - 1:+.1%} against {figure:,}"
        if count > figure * (1 + TOLERANCE):
            line += ": too many"
            failed = True
        elif count < figure * (1 - TOLERANCE):
            line += ": lower the figure with `benches/instructions/run update`"
        lines.append(line)
    if failed and (rustc := version()) != figures.get("rustc"):
        lines.append(f"the figures were measured with {figures.get('rustc')}, this is {rustc}")
    return lines, failed


def version():
    """The version of the compiler."""
    return subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def update(measured):
    """Replaces the figures of this architecture, and keeps the others."""
    every = tomllib.loads(FILE.read_text()) if FILE.exists() else {}
    every[platform.machine()] = {"rustc": version(), **measured}
    text = HEADER
    for machine, figures in sorted(every.items()):
        text += f"\n[{machine}]\n"
        text += "".join(f'{name} = {value!r}\n'.replace("'", '"') for name, value in figures.items())
    FILE.write_text(text)
