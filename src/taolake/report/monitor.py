"""Production as one HTML page, from the same queries as the dashboard on Databricks.

Those stand in `dashboards/production.lvdash.json` too, and a test keeps the two equal. Nothing is measured here:
`taolake monitor` fills the tables. The page sends nothing and runs no script.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from taolake.report import page
from taolake.report.plots import Axis, Line, plane
from taolake.stages.round import Round

_COLUMNS = "SELECT window_start, model, metric, value, low, high, n FROM monitors\n"
_LAST = "ORDER BY window_start, model, metric\n"
QUERIES = {
    "quality": (
        f"{_COLUMNS}WHERE metric LIKE 'score_%' OR metric IN ('feedback', 'feedback_rate', 'agreement')\n{_LAST}"
    ),
    "form": f"{_COLUMNS}WHERE metric IN ('refusals', 'truncated', 'repetition', 'answer_tokens')\n{_LAST}",
    "drift": f"{_COLUMNS}WHERE metric LIKE 'psi_%' OR metric = 'prompt_distance'\n{_LAST}",
    "service": (
        f"{_COLUMNS}WHERE metric IN ('requests', 'errors', 'latency_p50_ms', 'latency_p95_ms', 'dollars')\n{_LAST}"
    ),
    "alerts": (
        "SELECT window_start, model, metric, value, n, alert FROM monitors\n"
        "WHERE alert <> '' ORDER BY window_start DESC, model, metric\n"
    ),
    "releases": (
        "SELECT decided_at, model, version, live, verdict, reason, requests, acted FROM releases\n"
        "ORDER BY decided_at DESC\n"
    ),
}
TITLES = {
    "quality": ("Quality", "What scorers and people say of a sample of the answers. Whiskers are 95 % intervals."),
    "form": ("Form", "How answers look: refusals, cut-off answers, words said again, length."),
    "drift": (
        "Drift",
        "Population stability against the reference window: below 0.1 the same, above 0.25 another population. "
        "Whiskers show what chance alone would do.",
    ),
    "service": ("Service", "Requests, errors, speed and money."),
}
_STYLES = ("tuned", "base", "best")  # of the newest versions, the newest first
_SHOWN = 60  # newest windows
_ALERTS = 50  # newest ones


def write(round_: Round, folder: Path) -> Path:
    """Write `monitor.html` from the tables; returns its path.

    Raises:
        RuntimeError: nothing was measured yet.
    """
    found = {name: [row.asDict() for row in round_.lake.query(text).collect()] for name, text in QUERIES.items()}
    if not found["service"]:
        raise RuntimeError("nothing was measured of production yet; run `taolake monitor` once requests are logged")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "monitor.html"
    target.write_text(render(found, round_.project.name), encoding="utf-8", newline="\n")
    return target


def render(found: Mapping[str, Sequence[Mapping[str, Any]]], project: str) -> str:
    """Render the rows of `QUERIES` as a document."""
    windows = sorted({row["window_start"] for row in found["service"]})[-_SHOWN:]
    models = _models(found["service"])
    parts = [
        {"name": name, "title": title, "says": says, "charts": _charts(found[name], windows, models)}
        for name, (title, says) in TITLES.items()
    ]
    return (
        page.template("monitor_page.html.j2").render(
            project=project,
            headline=headline(found, windows[-1]),
            parts=parts,
            models=list(zip(models, _STYLES, strict=False)),
            more=max(0, len({row["model"] for row in found["service"]}) - len(_STYLES)),
            now=_now(found, windows[-1]),
            alerts=found["alerts"][:_ALERTS],
            releases=found["releases"][:_ALERTS],
        )
        + "\n"
    )


def headline(found: Mapping[str, Sequence[Mapping[str, Any]]], last: datetime) -> str:
    """The newest window in one sentence."""
    rows = [row for row in found["service"] if row["window_start"] == last and row["metric"] == "requests"]
    requests, alerts = sum(row["value"] for row in rows), [a for a in found["alerts"] if a["window_start"] == last]
    many = f"{len(rows)} version{'s' if len(rows) > 1 else ''}"
    said = f"{page.whole(requests)} requests to {many} in the newest window"
    if not alerts:
        return f"{said}, and no alert."
    return f"{said}, and {len(alerts)} alert{'s' if len(alerts) > 1 else ''}."


def _models(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Versions by when they were last asked, and of these by when they came: the newest first."""
    seen: dict[str, tuple[datetime, datetime]] = {}
    for row in rows:
        first, last = seen.get(row["model"], (row["window_start"], row["window_start"]))
        seen[row["model"]] = (min(first, row["window_start"]), max(last, row["window_start"]))
    order = sorted(seen, key=lambda model: (seen[model][1], seen[model][0], model), reverse=True)
    return order[: len(_STYLES)]


def _charts(
    rows: Sequence[Mapping[str, Any]], windows: Sequence[datetime], models: Sequence[str]
) -> list[dict[str, Any]]:
    """One chart a metric, a line for each of the newest versions."""
    shown = [row for row in rows if row["value"] is not None and row["window_start"] in set(windows)]
    made = []
    for metric in sorted({row["metric"] for row in shown}):
        mine = [row for row in shown if row["metric"] == metric]
        lines = [
            Line(model, points, style)
            for model, style in zip(models, _STYLES, strict=False)
            if (points := [_point(row, windows[0]) for row in mine if row["model"] == model])
        ]
        if lines:
            made.append({"metric": metric, "chart": Markup(_chart(metric, lines, windows))})
    return made


def _point(row: Mapping[str, Any], first: datetime) -> tuple[float, float, float, float]:
    day = (row["window_start"] - first).total_seconds() / 86400
    low, high = (row["value"] if row[end] is None else row[end] for end in ("low", "high"))
    return day, row["value"], low, high


def _chart(metric: str, lines: Sequence[Line], windows: Sequence[datetime]) -> str:
    values = [value for line in lines for point in line.points for value in point[1:]]
    days = max((windows[-1] - windows[0]).total_seconds() / 86400, 1.0)
    x = Axis(f"days since {windows[0]:%Y-%m-%d}", 0, days, _ticks(0, days))
    low, high = min(0.0, *values), max(0.0, *values)
    ticks = _ticks(low, high if high > low else low + 1)
    return plane(metric.replace("_", " "), x, Axis(metric.replace("_", " "), ticks[0], ticks[-1], ticks), lines)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from at most `low` to at least `high`."""
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _now(found: Mapping[str, Sequence[Mapping[str, Any]]], last: datetime) -> list[dict[str, Any]]:
    """The newest window as a table: a row a version and metric."""
    return [dict(row) for name in TITLES for row in found[name] if row["window_start"] == last]
