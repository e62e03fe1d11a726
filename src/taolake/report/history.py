"""The history of a project's rounds as one HTML page: what each round changed, and why it was or was not promoted.

Made from `rounds` and `releases` alone. The page sends nothing and runs no script.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from taolake import lake
from taolake.report import page
from taolake.report.plots import Axis, Line, plane
from taolake.stages import STAGES
from taolake.stages.round import Round

Told = dict[str, Any]


def write(round_: Round, folder: Path) -> Path:
    """Write `history.html` from the tables; returns its path.

    Raises:
        RuntimeError: no round has been run.
    """
    rows = [row.asDict() for row in round_.lake.read(lake.ROUNDS).collect()]
    if not rows:
        raise RuntimeError("no round has been run yet; `taolake run` runs the first one")
    released = [row.asDict() for row in round_.lake.read(lake.RELEASES).orderBy("decided_at").collect()]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "history.html"
    target.write_text(render(rounds(rows, released), round_.project.name), encoding="utf-8", newline="\n")
    return target


def rounds(rows: Sequence[Mapping[str, Any]], released: Sequence[Mapping[str, Any]]) -> list[Told]:
    """Rows of `rounds` and `releases` as one entry a round, the first round first."""
    made: list[Told] = []
    for number in sorted({row["round"] for row in rows}):
        mine = {row["stage"]: row for row in rows if row["round"] == number}
        made.append(_round(number, mine, released, made[-1] if made else None))
    return made


def _round(
    number: int, mine: Mapping[str, Mapping[str, Any]], released: Sequence[Mapping[str, Any]], before: Told | None
) -> Told:
    done = {stage: json.loads(row["detail"] or "{}") for stage, row in mine.items() if row["state"] == "done"}
    gate, ingest, select = done.get("gate"), done.get("ingest", {}), done.get("select", {})
    version = done.get("register", {}).get("version")
    told: Told = {
        "number": number,
        "started": min(row["started_at"] for row in mine.values()),
        "prompts": ingest.get("kept"),
        "rows": sum(select.get("rows", {}).values()) or None,
        "kinds": ", ".join(f"{count} {kind}" for kind, count in sorted(select.get("rows", {}).items())),
        "gain": gate and gate["gain"],
        "promoted": bool(gate and gate["promoted"]),
        "guards": [guard for guard in (gate or {}).get("guards", []) if not guard["ok"]],
        "reason": gate["reason"] if gate else _stopped(mine),
        "version": version,
        "config": next((row["config_hash"] for row in mine.values()), ""),
        "hours": sum(row["seconds"] or 0.0 for row in mine.values()) / 3600,
        "tokens": sum(row["tokens"] or 0 for row in mine.values()),
        "released": [row for row in released if version is not None and row["version"] == version],
    }
    return told | {"changes": _changes(told, before, select)}


def _stopped(mine: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a round has no verdict."""
    failed = [(s.name, mine[s.name]) for s in STAGES if s.name in mine and mine[s.name]["state"] == "failed"]
    if failed:
        name, row = failed[0]
        return f"stopped at {name}: {json.loads(row['detail'] or '{}').get('error', 'no reason given')}"
    last = [stage.name for stage in STAGES if stage.name in mine]
    return f"not finished: it came to {last[-1]}" if last else "not begun"


def _changes(told: Told, before: Told | None, select: Mapping[str, Any]) -> list[str]:
    """What is different from the round before."""
    said = []
    if before is None:
        said.append("the first round")
    else:
        if told["prompts"] is not None and before["prompts"] is not None:
            said.append(f"{told['prompts'] - before['prompts']:+d} prompts")
        said.append("the same project file" if told["config"] == before["config"] else "another project file")
    if select.get("replayed"):
        said.append(f"{select['replayed']} winners of earlier rounds seen again")
    if select.get("cut"):
        said.append(f"{select['cut']} self-made answers left out")
    if select.get("diversity") is not None:
        said.append(f"{page.percent(select['diversity'], 0)} of the imitated answers are different ones")
    return said


def headline(told: Sequence[Told]) -> str:
    """The history in one sentence."""
    promoted = [each for each in told if each["promoted"]]
    many = f"{len(told)} round{'s' if len(told) > 1 else ''}"
    if not promoted:
        return f"{many}, none promoted."
    last = promoted[-1]
    return (
        f"{many}, {len(promoted)} promoted; the newest of these is round {last['number']}, with {_gain(last)} points."
    )


def _gain(told: Told) -> str:
    return page.points(told["gain"]["mean"])


def render(told: Sequence[Told], project: str) -> str:
    """Render the rounds as a document."""
    parts = {"project": project, "headline": headline(told), "rounds": list(reversed(told)), "chart": _chart(told)}
    return page.template("history_page.html.j2").render(**parts) + "\n"


def _chart(told: Sequence[Told]) -> Markup | None:
    """Gain over the base by round, with intervals."""
    shown = [each for each in told if each["gain"]]
    if not shown:
        return None
    points = [(float(e["number"]), *(100 * e["gain"][name] for name in ("mean", "low", "high"))) for e in shown]
    ends = [value for point in points for value in point[1:]]
    least, most = min([*ends, 0.0]), max([*ends, 1.0])
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if s * 5 >= most - least)
    low, high = int(least // step) * step, -int(-most // step) * step
    numbers = [each["number"] for each in shown]
    x = Axis("round", numbers[0] - 0.5, numbers[-1] + 0.5, numbers[:: -(-len(numbers) // 8)])
    y = Axis("gain over the base, points", low, high, range(low, high + 1, step))
    return Markup(plane("Gain over the base by round", x, y, [Line("gain", points, "tuned")]))
