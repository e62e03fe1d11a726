"""Charts as SVG text: pure functions from numbers to a string, for inlining into a page. No matplotlib, no script.

Drawn on a grid 360 units wide, so that text stays readable on a phone without scaling down. Colours are CSS classes
(`base`, `best`, `tuned`) that the page defines for light and dark; series also differ in shape or place, and every
chart says its numbers in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
_LEFT, _RIGHT = 36, 348


@dataclass(frozen=True)
class Bar:
    """One bar: a share from 0 to 1 with its interval; `style` is the CSS class."""

    label: str
    mean: float
    low: float
    high: float
    style: str


@dataclass(frozen=True)
class Series:
    """Values of one policy, as long as the chart's other axis."""

    label: str
    values: Sequence[float]
    style: str


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high` with its ticks; values outside are drawn at its ends."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]


@dataclass(frozen=True)
class Line:
    """Points (x, y, low, high) joined in order, with whiskers for the intervals; one point is a mark alone."""

    label: str
    points: Sequence[tuple[float, float, float, float]]
    style: str


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars of shares from 0 to 100 %, with whiskers for the intervals."""
    step, left, right = 58, 4, 356
    bottom = step * len(rows) + 6
    parts = [_gridline(_at(x / 4, left, right), 4, bottom) for x in range(5)]
    for number, row in enumerate(rows):
        top, middle = number * step + 22, number * step + 34.5
        said = f"{_percent(row.mean)} [{100 * row.low:.1f} to {100 * row.high:.1f}]"
        ends = [_at(value, left, right) for value in (row.mean, row.low, row.high)]
        whisker = "".join([f"M{ends[1]:g} {middle:g}H{ends[2]:g}", *(f"M{x:g} {middle - 6:g}v12" for x in ends[1:])])
        parts += [
            _text(left, top - 6, row.label, "label"),
            _text(right, top - 6, said, "value", "end"),
            f'<rect class="fill {row.style}" x="{left}" y="{top}" width="{ends[0] - left:g}" height="25" rx="3"/>',
            *(f'<path class="{style}" d="{whisker}"/>' for style in ("halo", "whisker")),
        ]
    anchors = ("start", "middle", "middle", "middle", "end")
    parts += [
        _text(_at(x / 4, left, right), bottom + 15, f"{25 * x} %", "tick", anchor) for x, anchor in enumerate(anchors)
    ]
    told = "; ".join(f"{r.label} {_percent(r.mean)}, interval {_percent(r.low)} to {_percent(r.high)}" for r in rows)
    return _svg(title, told, bottom + 20, parts)


def curve(title: str, ks: Sequence[int], series: Sequence[Series]) -> str:
    """Shares over k, with k spaced evenly (as powers of two are on a log axis) and each line labelled at its end."""
    top, bottom, right = 12, 212, 262
    xs = [_LEFT + 10 + (right - _LEFT - 20) * i / max(len(ks) - 1, 1) for i in range(len(ks))]
    parts = []
    for quarter in range(5):
        y = bottom - (bottom - top) * quarter / 4
        parts += [_rule(_LEFT, right, y), _text(_LEFT - 6, y + 4, f"{25 * quarter}", "tick", "end")]
    parts += [_text(x, bottom + 17, f"{k}", "tick", "middle") for x, k in zip(xs, ks, strict=True)]
    parts.append(_text((_LEFT + right) / 2, bottom + 36, "attempts (k); right answers in %", "tick", "middle"))
    for line in series:
        ys = [bottom - (bottom - top) * value for value in line.values]
        points = list(zip(xs, ys, strict=True))
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts += [f'<path class="line {line.style}" d="M{path}"/>', *(_mark(line.style, x, y) for x, y in points)]
    ends = _apart([bottom - (bottom - top) * line.values[-1] + 4 for line in series], 15)
    for line, y in zip(series, ends, strict=True):
        parts.append(_text(right + 6, y, f"{line.label} {_percent(line.values[-1])}", f"label end {line.style}"))
    told = "; ".join(
        f"{line.label}: " + ", ".join(f"{_percent(v)} at {k}" for k, v in zip(ks, line.values, strict=True))
        for line in series
    )
    return _svg(title, told, bottom + 42, parts)


def histogram(title: str, unit: str, edges: Sequence[float], series: Sequence[Series]) -> str:
    """Counts in bins, as shares of each series' own total, side by side in every bin."""
    top, bottom = 12, 172
    totals = [sum(line.values) for line in series]
    shares = [[v / total if total else 0.0 for v in line.values] for line, total in zip(series, totals, strict=True)]
    bins, peak = len(edges) - 1, _ceiling(max((v for values in shares for v in values), default=0.0))
    wide = (_RIGHT - _LEFT) / bins
    thin = wide * 0.84 / max(len(series), 1)
    parts = []
    for half in range(3):
        y = bottom - (bottom - top) * half / 2
        parts += [_rule(_LEFT, _RIGHT, y), _text(_LEFT - 6, y + 4, f"{50 * half * peak:g}", "tick", "end")]
    for number, (line, values) in enumerate(zip(series, shares, strict=True)):
        for place, value in enumerate(values):
            x, tall = _LEFT + wide * (place + 0.08) + thin * number, (bottom - top) * value / peak
            if tall:
                parts.append(
                    f'<rect class="fill {line.style}" x="{x:.1f}" y="{bottom - tall:.1f}" '
                    f'width="{thin:.1f}" height="{tall:.1f}"/>'
                )
    every = -(-bins // 5)
    for place in range(0, bins + 1, every):
        anchor = "end" if place == bins else "middle"
        parts.append(_text(_LEFT + wide * place, bottom + 17, f"{edges[place]:g}", "tick", anchor))
    parts.append(_text((_LEFT + _RIGHT) / 2, bottom + 36, f"{unit}; candidates in %", "tick", "middle"))
    told = "; ".join(
        f"{line.label}, {total:g} candidates: "
        + ", ".join(f"{_percent(v)} from {e:g}" for e, v in zip(edges, values, strict=False) if v)
        for line, values, total in zip(series, shares, totals, strict=True)
    )
    return _svg(title, told, bottom + 42, parts)


def plane(title: str, x: Axis, y: Axis, lines: Sequence[Line], diagonal: bool = False) -> str:
    """Lines over a numeric axis, each labelled at its end; `diagonal` draws where y equals x."""
    top, bottom, right = 12, 212, 262
    parts = []
    for tick in y.ticks:
        height = _on(tick, y, bottom, top)
        parts += [_rule(_LEFT, right, height), _text(_LEFT - 6, height + 4, f"{tick:g}", "tick", "end")]
    parts += [_text(_on(tick, x, _LEFT, right), bottom + 17, f"{tick:g}", "tick", "middle") for tick in x.ticks]
    parts.append(_text((_LEFT + right) / 2, bottom + 36, f"{x.label}; {y.label}", "tick", "middle"))
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        ends = [(_on(v, x, _LEFT, right), _on(v, y, bottom, top)) for v in (low, high)]
        parts.append(f'<path class="grid" d="M{ends[0][0]:g} {ends[0][1]:g}L{ends[1][0]:g} {ends[1][1]:g}"/>')
    for line in lines:
        at = [[_on(p[0], x, _LEFT, right), *(_on(v, y, bottom, top) for v in p[1:])] for p in line.points]
        parts += [f'<path class="whisker" d="M{px:.1f} {low:.1f}V{high:.1f}"/>' for px, _, low, high in at]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py, *_ in at)
        parts += [f'<path class="line {line.style}" d="M{path}"/>', *(_mark(line.style, p[0], p[1]) for p in at)]
    ends_y = _apart([_on(line.points[-1][1], y, bottom, top) + 4 for line in lines], 15)
    for line, height in zip(lines, ends_y, strict=True):
        parts.append(_text(right + 6, height, line.label, f"label end {line.style}"))
    told = "; ".join(f"{n.label}: " + ", ".join(f"{p[1]:.3g} at {p[0]:.3g}" for p in n.points) for n in lines)
    return _svg(title, told, bottom + 42, parts)


def _svg(title: str, told: str, height: float, parts: Sequence[str]) -> str:
    """Wrap shapes; the title names the chart for everyone, the description says its numbers to who cannot see it."""
    name, text = escape(title), escape(told)
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}: {text}">'
    return "".join([head, f"<title>{name}</title><desc>{text}</desc>", *parts, "</svg>"])


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rule(left: float, right: float, y: float) -> str:
    return f'<path class="grid" d="M{left:g} {y:g}H{right:g}"/>'


def _gridline(x: float, top: float, bottom: float) -> str:
    return f'<path class="grid" d="M{x:g} {top:g}V{bottom:g}"/>'


def _mark(style: str, x: float, y: float) -> str:
    """Squares before, circles after: shape tells them apart where colour does not."""
    if style == "base":
        return f'<rect class="dot {style}" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
    return f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _at(share: float, left: float, right: float) -> float:
    return round(left + (right - left) * min(max(share, 0.0), 1.0), 2)


def _on(value: float, axis: Axis, start: float, end: float) -> float:
    """Place of a value between an axis' two ends."""
    return round(start + (end - start) * min(max((value - axis.low) / (axis.high - axis.low), 0.0), 1.0), 2)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _ceiling(share: float) -> float:
    """A round upper end of the axis, at least 10 %."""
    return next((limit / 100 for limit in (10, 20, 30, 40, 50, 60, 80) if share <= limit / 100), 1.0)


def _apart(ys: Sequence[float], gap: float) -> list[float]:
    """Move labels so that none covers another; the order from top to bottom stays."""
    found, low = list(ys), float("-inf")
    for place in sorted(range(len(ys)), key=lambda i: ys[i]):
        low = found[place] = max(found[place], low + gap)
    return found
