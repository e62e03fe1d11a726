"""The proof card: what a round did to a model, as `card.json` and one HTML page, made from the tables alone.

The same tables give the same bytes: bootstraps are seeded by the project, nothing reads a clock, every collection is
sorted. The fields are described in `card.schema.json`. Nothing is generated, scored or decided here.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taolake import lake
from taolake.config import RewardModelScorer
from taolake.report import compute, evidence, measures, page, trust
from taolake.report.measures import Draws, Measured
from taolake.stages import STAGES
from taolake.stages.gate import measured as read_measured
from taolake.stages.round import Round
from taolake.trust import sample

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).with_name("card.schema.json")

Rows = Mapping[str, dict[str, Any]]


def write(round_: Round, folder: Path) -> Path:
    """Write `card.json` and `index.html` into a folder, each whole or not at all; returns the page's path."""
    made = card(round_)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "card.json", json.dumps(made, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    return _write(folder / "index.html", page.render(made))


def card(round_: Round) -> dict[str, Any]:
    """Build the card of a round.

    Raises:
        RuntimeError: the round has no evaluation yet; the message says which stage to run.
    """
    found = round_.done("evaluate", current=False).detail
    rows = _rows(round_)
    who = {"base": str(found["base"]), "tuned": str(found["tuned"])}
    numbers = {name: read_measured(round_, found["evaluation"], policy) for name, policy in who.items()}
    prompts = sorted(numbers["base"].get("greedy", {}).keys() & numbers["tuned"].get("greedy", {}).keys())
    if not prompts:
        raise RuntimeError(
            f"evaluation {found['evaluation']} of round {round_.number} measured no prompt for both policies; "
            "run `taolake stage evaluate` again"
        )
    rewards, lengths = evidence.histograms(round_, who, _detail(rows, "reward").get("version"))
    made = {
        "schema_version": SCHEMA_VERSION,
        "project": round_.project.name,
        "round": round_.number,
        "task": {"name": round_.project.task.name, "description": round_.project.task.description.strip()},
        "counts": _counts(rows),
        "quarantine_reasons": evidence.quarantine_reasons(round_),
        **_results(round_, who, numbers, prompts),
        "compute": _compute(round_),
        "verdict": _verdict(rows),
        "registered": _registered(rows),
        **_costs(rows),
        "scorers": _scorers(round_, rows),
        "trust": trust.section(_detail(rows, "trust")),
        "best_of": _detail(rows, "select").get("best_of"),
        "over_optimisation": _over_optimisation(round_, rows, numbers),
        "reward_histogram": rewards,
        "length_histogram": lengths,
        "examples": evidence.examples(round_, who, numbers),
        "lineage": _lineage(rows, found["evaluation"]),
        "not_shown": _not_shown(round_, rows, numbers, prompts),
    }
    rounded: dict[str, Any] = measures.rounded(made)
    return rounded


def _rows(round_: Round) -> dict[str, dict[str, Any]]:
    """The round's books by stage, in the order of the stages; `detail` comes decoded."""
    order = {stage.name: place for place, stage in enumerate(STAGES)}
    found = round_.lake.rows(lake.ROUNDS, round=round_.number)
    found.sort(key=lambda row: (order.get(row["stage"], len(order)), row["stage"]))
    return {row["stage"]: row | {"detail": json.loads(row["detail"] or "{}")} for row in found}


def _detail(rows: Rows, stage: str) -> dict[str, Any]:
    """Facts of a finished stage; empty when it is not, or when it finished before this evaluation did."""
    row = rows.get(stage)
    if row is None or row["state"] != "done":
        return {}
    evaluated, names = rows["evaluate"]["finished_at"], [s.name for s in STAGES]
    later = stage in names and names.index(stage) > names.index("evaluate")
    if later and evaluated and row["finished_at"] and row["finished_at"] < evaluated:
        return {}
    found: dict[str, Any] = row["detail"]
    return found


def _counts(rows: Rows) -> dict[str, int | None]:
    ingested, selected = _detail(rows, "ingest"), _detail(rows, "select")
    counts = {name: ingested.get(name) for name in ("in", "kept", "folded", "quarantined")}
    splits = {name: ingested.get(name, 0 if ingested else None) for name in ("train", "holdout", "review")}
    return counts | splits | {"trained_prompts": selected.get("kept"), "abstained": selected.get("abstained")}


def _results(round_: Round, who: dict[str, str], numbers: Mapping[str, Measured], prompts: list[str]) -> dict[str, Any]:
    """Policies, gain, bake-in: everything measured on the holdout."""
    draws = Draws(round_.project.evaluate.resamples, round_.project.seed)
    base, tuned = numbers["base"], numbers["tuned"]
    rewards = measures.reward_numbers(base, tuned, prompts, draws)
    policies = {
        name: measures.policy_numbers(who[name], numbers[name], prompts, draws) | {"reward": reward}
        for name, reward in zip(("base", "tuned"), rewards, strict=True)
    }
    gain = measures.gain_numbers(base, tuned, prompts, draws)
    baked = measures.bake_in_numbers(base, tuned, prompts, draws)
    return {
        "policies": policies,
        "gain": gain,
        "bake_in": baked,
        "bake_in_ratio": baked["greedy"] and baked["greedy"]["mean"],
        "result": measures.result_of(gain, who["base"] == who["tuned"]),
    }


def _compute(round_: Round) -> dict[str, Any] | None:
    """Quality against the tokens of this round and of those before it."""
    done: dict[int, dict[str, Any]] = {}
    for row in round_.lake.rows(lake.ROUNDS, state="done"):
        done.setdefault(row["round"], {})[row["stage"]] = json.loads(row["detail"] or "{}")
    draws = Draws(round_.project.evaluate.resamples, round_.project.seed)
    return compute.section(done, round_.number, functools.cache(functools.partial(read_measured, round_)), draws)


def _verdict(rows: Rows) -> dict[str, Any] | None:
    found = _detail(rows, "gate")
    return {name: found[name] for name in ("promoted", "reason", "guards")} if found else None


def _registered(rows: Rows) -> dict[str, Any] | None:
    found = _detail(rows, "register")
    return {name: found[name] for name in ("name", "version", "alias")} if found else None


def _costs(rows: Rows) -> dict[str, Any]:
    """The stages' books, and what they add up to."""
    names = ("stage", "state", "seconds", "tokens", "rows", "dollars", "peak_rss_bytes")
    stages: list[dict[str, Any]] = [
        {name: row[name] if row[name] is not None else 0 for name in names} | {"detail": _facts(_books(row))}
        for row in rows.values()
    ]
    return {
        "stages": stages,
        "wall_seconds": sum(float(s["seconds"]) for s in stages),
        "tokens": sum(s["tokens"] for s in stages),
        "dollars": sum(float(s["dollars"]) for s in stages),
        "peak_rss_bytes": max(s["peak_rss_bytes"] for s in stages),
    }


def _books(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage's detail for its line of the books; the trust report has a section of its own."""
    detail: Mapping[str, Any] = row["detail"]
    return {k: v for k, v in detail.items() if k != "reward"} if row["stage"] == "trust" else detail


def _facts(detail: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | bool]:
    """Finite numbers and flags of a stage's detail by dotted name; texts stay out: they hold paths and prompts."""
    found: dict[str, float | int | bool] = {}
    for key in sorted(detail):
        value = detail[key]
        if isinstance(value, bool | int | float) and math.isfinite(value):
            found[prefix + key] = value
        elif isinstance(value, dict):
            found |= _facts(value, f"{prefix}{key}.")
    return found


def _scorers(round_: Round, rows: Rows) -> list[dict[str, Any]]:
    """The scorers, what they do in the reward, and how far a trained one can be trusted."""
    said, rule = _detail(rows, "score"), round_.project.reward
    found = []
    for spec in round_.project.scorers:
        pairwise = None
        if isinstance(spec, RewardModelScorer):
            accuracy, pairs = (said.get(f"{spec.name}_eval_{what}") for what in ("accuracy", "pairs"))
            pairwise = None if accuracy is None else {"accuracy": accuracy, "pairs": pairs}
        found.append(
            {
                "name": spec.name,
                "kind": spec.kind,
                "version": said.get(f"{spec.name}_version"),
                "required": spec.name in rule.require,
                "weight": rule.weights.get(spec.name),
                "held_out_pairwise": pairwise,
            }
        )
    return found


def _over_optimisation(round_: Round, rows: Rows, numbers: Mapping[str, Measured]) -> dict[str, Any] | None:
    """The reward against the gate's scorer, with the distance the trainer measured for the tuned policy."""
    kl = _detail(rows, "train").get("metrics", {}).get("kl")
    draws = sample.Draws(round_.project.evaluate.resamples, round_.project.seed)
    return trust.over_optimisation(numbers["base"], numbers["tuned"], draws, kl)


def _lineage(rows: Rows, evaluation: str) -> dict[str, Any]:
    """Where every number comes from: hashes, and the table versions each stage read."""
    return {
        "config_hash": rows["evaluate"]["config_hash"],
        "evaluation": evaluation,
        "selection": _detail(rows, "select").get("selection"),
        "reward_version": _detail(rows, "reward").get("version"),
        "reads": {name: dict(sorted((row["reads"] or {}).items())) for name, row in rows.items()},
    }


def _not_shown(round_: Round, rows: Rows, numbers: Mapping[str, Measured], prompts: list[str]) -> list[str]:
    """What a reader could take this card to say, and it does not."""
    project, asked = round_.project, str(_detail(rows, "label").get("annotator", ""))
    told = {who: sum(p in numbers[who].get("reward", {}) for p in prompts) for who in ("base", "tuned")}
    said = [
        f"Other training runs: this is one, with seed {project.seed}; intervals are over prompts, not over runs.",
        f"Other tasks: these are {len(prompts)} held-out prompts of {project.task.name}; nothing else is measured.",
        "Paraphrases: prompts are split by their exact text, and a held-out one may resemble one that was trained on.",
    ]
    if project.evaluate.gold:
        said.append("How right the training answers were: labels are read for the holdout alone, by evaluate alone.")
    else:
        said.append(f"Labels: scorer {project.evaluate.judge} decided what is right; its mistakes are in every number.")
    if ":" in asked:
        said.append(f"People's judgement: preferences come from a simulated reviewer ({asked}).")
    if _detail(rows, "train"):
        said.append(
            "Models tuned on fewer or more answers a prompt: search says what was there to learn, not what was."
        )
    if any(count < len(prompts) for count in told.values()):
        parts = f"{told['base']} of {len(prompts)} prompts before and {told['tuned']} after"
        said.append(f"Rewards of every prompt: the reward told answers apart on {parts}, and abstained on the others.")
    if project.cost.dollars_per_hour:
        said.append("The whole cost: dollars are the machine's hours alone, without people, storage or network.")
    else:
        said.append("The cost in money: the project sets no price per machine hour, so dollars are 0.")
    return [*said, "Serving: speed and memory of the tuned model in production are not measured."]


def _write(path: Path, text: str) -> Path:
    """Replace a file in one step, so that a reader sees the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)
    return path
