"""The plot of docs/performance.md: processor time per call, one bar for each subject."""

import html

from benches.compare.report import by_subject, median
from benches.compare.scenarios import BARE, ENVOY, GATEWAY, PGO, SCENARIOS

# Colours that are distinguishable for the colour-blind, on white and on black.
COLORS = {ENVOY: "#cc79a7", BARE: "#999999", GATEWAY: "#0072b2", PGO: "#009e73"}
WIDTH, LEFT, RIGHT = 820, 330, 70
BAR, GAP, TOP = 14, 14, 44


def svg(samples):
    """The plot as SVG."""
    groups = []
    for scenario in SCENARIOS:
        for shape in map(str, scenario.shapes):
            if rows := by_subject(samples, scenario.name, shape):
                title = f"{scenario.title}, {shape}".replace("`", "")
                groups.append((title, {name: median(mine, "cpu_us") for name, mine in rows.items()}))
    longest = max(value for _, bars in groups for value in bars.values())
    scale = (WIDTH - LEFT - RIGHT) / longest
    parts, top = [], TOP
    for title, bars in groups:
        middle = top + len(bars) * BAR / 2 + 4
        parts.append(text(LEFT - 8, middle, title, "end"))
        for name, value in bars.items():
            length = value * scale
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 2}" fill="{COLORS[name]}"/>')
            parts.append(text(LEFT + length + 4, top + BAR - 4, f"{value:.0f} µs", "start"))
            top += BAR
        top += GAP
    legend, x = [], LEFT
    for name in dict.fromkeys(name for _, bars in groups for name in bars):
        legend.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{COLORS[name]}"/>')
        legend.append(text(x + 17, 24, name, "start"))
        x += 115
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" '
        'font-family="sans-serif" font-size="11" role="img">\n'
        "<title>Processor time per call</title>\n"
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join([*legend, *parts]) + "\n</svg>\n"
    )


def text(x, y, content, anchor):
    """A text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222">{html.escape(content)}</text>'
