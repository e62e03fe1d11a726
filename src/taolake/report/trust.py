"""The trust report by itself, `trust.json` and one HTML page, and its section of the proof card.

Made from what stage `trust` wrote into its row of `rounds`, whether it let the round pass or ended it; nothing is
measured here. The section's markup is `trust.html.j2`, shared with the card.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taolake.report import measures, page
from taolake.report.measures import Measured
from taolake.stages.round import Round
from taolake.trust import curve
from taolake.trust.sample import Draws

# Present in every report of the card, null where there is none: a reader must not guess whether a key was forgotten.
_MEASURES = (
    "accuracy", "top_one", "kappa", "annotator_kappa", "auc", "ties", "ece_before", "ece_after", "calibrated_by",
    "used", "length", "keyword", "self_preference", "flips", "noise",
)  # fmt: skip


def write(round_: Round, folder: Path) -> Path:
    """Write `trust.json` and `trust.html` of a round into a folder; returns the page's path.

    Raises:
        RuntimeError: the stage has measured nothing yet; the message says what to run.
    """
    record = round_.records().get("trust")
    found = section(record.detail) if record is not None else None
    if found is None:
        raise RuntimeError(
            f"round {round_.number} has no trust report; run `taolake stage trust` first, and label choices before it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / "trust.json").write_text(text, encoding="utf-8", newline="\n")
    target = folder / "trust.html"
    project = round_.project
    target.write_text(render(found, project.name, round_.number, project.task.name), encoding="utf-8", newline="\n")
    return target


def render(found: Mapping[str, Any], project: str, number: int, task: str) -> str:
    """Render a report's section as a document of its own."""
    shown = {"project": project, "round": number, "task": task, "headline": headline(found)}
    charts = page.trust_charts(found, None)
    return page.template("trust_page.html.j2").render(trust=found, over=None, charts=charts, **shown) + "\n"


def headline(found: Mapping[str, Any]) -> str:
    """The report in one sentence."""
    reward = found["reward"]
    if not found["measured"] or not reward or not reward["accuracy"]:
        return "Whether the reward deserves trust could not be measured."
    said = f"The reward orders {page.percent(reward['accuracy']['mean'])} of answers as people do"
    if not found["trusted"]:
        return f"{said}, and is refused."
    warnings = len(reward["findings"])
    return f"{said}{f', with {warnings} warning' + ('s' if warnings > 1 else '') if warnings else ''}."


def section(detail: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card's `trust` from the stage's detail; None where the stage measured nothing and said nothing."""
    if "says" not in detail:
        return None
    flat = {name: detail[name] for name in ("choices", "pairs", "prompts", "measured", "trusted", "says")}
    reward = detail.get("reward")
    scorers = [
        {name: each[name] for name in ("name", "kind", "trains")} | _measured(each)
        for each in detail.get("scorers", [])
    ]
    found: dict[str, Any] = measures.rounded(
        {**flat, "reward": _measured(reward) if reward else None, "scorers": scorers}
    )
    return found


def over_optimisation(base: Measured, tuned: Measured, draws: Draws, kl: Any) -> dict[str, Any] | None:
    """The card's `over_optimisation` from the evaluation's measurements; None where they hold no curve."""
    found = curve.curve(base, tuned, draws, kl if isinstance(kl, int | float) else None)
    return found and {**found, "says": curve.sentence(found)}


def _measured(found: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: found[name] for name in ("choices", "pairs", "prompts", "unscored_pairs")}
    parts = {name: found.get(name, []) for name in ("by_task", "by_margin", "findings")}
    return counts | {name: found.get(name) for name in _MEASURES} | parts
