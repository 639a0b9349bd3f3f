"""Tables of the measurements, in Markdown, and the pages that contain them."""

import re
import statistics

from benches.compare.scenarios import BARE, ENVOY, GATEWAY, PGO, PLATFORM, SCENARIOS

ORDER = (ENVOY, BARE, GATEWAY, PGO)


def median(rows, field):
    """The median of a field."""
    return statistics.median(getattr(row, field) for row in rows)


def ratio(rows, others, field):
    """The median over all rounds of the ratio within one round: other load on the machine
    affects both sides of it."""
    other = {row.round: getattr(row, field) for row in others}
    return statistics.median(getattr(row, field) / other[row.round] for row in rows)


def table(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def by_subject(samples, scenario, shape):
    """Samples of one load by subject, in the order of the tables."""
    mine = [row for row in samples if row.scenario == scenario and row.shape == shape]
    grouped = {name: [row for row in mine if row.subject == name] for name in ORDER}
    return {name: rows for name, rows in grouped.items() if rows}


def added(rows, alone):
    """Latency that a subject adds to the median of direct platform requests, by round."""
    own = {row.round: row.p50_us for row in alone}
    return {row.round: row.p50_us - own[row.round] for row in rows if row.round in own}


def added_latency(rows, others, alone):
    """The added latency, and its ratio to that of another subject. Empty if it was not measured."""
    mine, base = added(rows, alone), added(others, alone)
    if not mine:
        return ""
    ratios = [mine[number] / base[number] for number in mine if base.get(number, 0) > 0]
    return f"{statistics.median(mine.values()):.0f} µs" + (f" ({statistics.median(ratios):.2f})" if ratios else "")


def comparison(samples, failures):
    """One row for each load and subject, and the loads at which a subject failed."""
    rows = []
    for scenario in SCENARIOS:
        for shape in map(str, scenario.shapes):
            grouped = by_subject(samples, scenario.name, shape)
            base = next(iter(grouped.values()), [])
            alone = [row for row in samples if (row.scenario, row.shape, row.subject) == (scenario.name, shape, PLATFORM)]
            for number, (name, mine) in enumerate(grouped.items()):
                rows.append([
                    f"{scenario.title}, {shape}" if number == 0 else "",
                    name,
                    f"{median(mine, 'cpu_us'):.0f} µs",
                    f"{ratio(mine, base, 'cpu_us'):.2f}",
                    f"{median(mine, 'rate'):,.0f}",
                    f"{ratio(mine, base, 'rate'):.2f}",
                    f"{median(mine, 'p50_us') / 1000:.2f} ms",
                    added_latency(mine, base, alone),
                    f"{median(mine, 'p99_us') / 1000:.2f} ms",
                ])  # fmt: skip
    text = table(["load", "", "CPU per call", "ratio", "calls/s", "ratio", "p50", "added p50", "p99"], rows)
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    for failure in failures:
        cause = failure.cause.splitlines()[0]
        text += f"\n{titles[failure.scenario]}, {failure.shape}: {failure.subject} failed ({cause}).\n"
    return text


def capacity(samples):
    """Calls per second of one core, from the processor time of a call at 8×8."""
    names = [name for name in ORDER if any(row.subject == name for row in samples)]
    rows = []
    for scenario in SCENARIOS:
        grouped = by_subject(samples, scenario.name, "8×8")
        if grouped:
            cells = [f"{1e6 / median(grouped[name], 'cpu_us'):,.0f}" if name in grouped else "" for name in names]
            rows.append([scenario.title, *cells])
    return table(["calls/s of one core", *names], rows)


def footprint(footprints):
    """Memory after each scenario, the time to the first response, and wake-ups when idle."""
    names = [name for name in ORDER if any(row.subject == name for row in footprints)]
    cells = {(row.scenario, row.subject): row for row in footprints}
    rows = []
    for scenario in [one for one in SCENARIOS if any(row.scenario == one.name for row in footprints)]:
        mine = [cells.get((scenario.name, name)) for name in names]
        rows.append([scenario.title, *(f"{row.rss_mib:.0f} MiB" if row else "" for row in mine)])
    started = [median([row for row in footprints if row.subject == name], "start_ms") for name in names]
    rows.append(["start to the first answer", *(f"{ms:.0f} ms" for ms in started)])
    idle = [[row.wake_ups for row in footprints if row.subject == name and row.wake_ups is not None] for name in names]
    if any(idle):
        rows.append(["wake-ups per second, idle", *(f"{statistics.median(values):.1f}" if values else "" for values in idle)])
    return table(["resident memory after", *names], rows)


def growth(points):
    """One row for each value of each series."""
    rows = []
    for series in dict.fromkeys(point.series for point in points):
        mine = [point for point in points if point.series == series]
        first = [point for point in mine if point.value == mine[0].value]
        for value in dict.fromkeys(point.value for point in mine):
            same = [point for point in mine if point.value == value]
            rows.append([
                series if value == mine[0].value else "",
                value,
                f"{median(same, 'cpu_us'):.0f} µs",
                f"{ratio(same, first, 'cpu_us'):.2f}",
                f"{median(same, 'rate'):,.0f}",
            ])  # fmt: skip
    return table(["", "", "CPU per call", "ratio", "calls/s"], rows)


def replace_part(page, part, text):
    """Replaces the text between the markers of a part in a page."""
    content = page.read_text()
    pattern = rf"(<!-- begin {part} -->\n).*?(<!-- end {part} -->)"
    changed, count = re.subn(pattern, lambda match: match[1] + "\n" + text + "\n" + match[2], content, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page} has no part {part}")
    page.write_text(changed)


def conditions(machine, length):
    """The conditions under which the figures were measured."""
    load = f"load average {machine['load_before']} before and {machine['load_after']} after"
    busy = "The machine was busy with other work: trust the ratios more than the figures.\n"
    return (
        f"Measured on {machine['date']} at commit {machine['commit']}: {machine['cores']} cores of {machine['cpu']}, "
        f"Linux {machine['kernel']}, Envoy {machine['envoy']}; {length.rounds} rounds of {length.seconds:g} s; {load}.\n"
        + (busy if machine["load_before"] >= 1 else "")
    )
