"""Counts the instructions of a call and compares them with the committed figures.

`check` fails if a call takes over 5 % more instructions than committed; `update` writes the
current counts to the file.
"""

import argparse
import tempfile

from benches.instructions import figures, measure


def main():
    """Measures, then compares or updates."""
    parser = argparse.ArgumentParser(prog="benches/instructions/run", description=__doc__)
    parser.add_argument("action", choices=["check", "update"])
    parser.add_argument("--gateway", default="target/release/ott-gateway")
    parser.add_argument("--upstream", default="target/debug/bench-upstream")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure.measure(options.gateway, options.upstream, folder)
    if options.action == "update":
        figures.update(measured)
    lines, failed = figures.compare(measured)
    print("\n".join(lines))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
