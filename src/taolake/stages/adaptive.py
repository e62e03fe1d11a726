"""Adaptive N: training prompts are asked in waves, each prompt as often as its answers so far make worth while.

A wave asks, a scorer reads what came back, `taolake.selection.budget` says who is asked next, and `selection.shares` by
which strategy; the budget counts what is in the table. A wave is written down before it is asked, so that a killed run
asks the rest of the same one. The committed rows are the ledger's; not here: answering (`answer`), and the worth of an
answer.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.config import Budget, Generate
from taolake.selection import budget as worth
from taolake.selection import shares
from taolake.selection.budget import Seen
from taolake.selection.shares import Won
from taolake.stages import score
from taolake.stages.ledger import masks
from taolake.stages.round import Round
from taolake.training.job import write_atomic
from taolake.types import Policy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Ask = Callable[["DataFrame"], Any]  # fill these cells: prompt_id, strategy, word, owed
Wave = dict[str, dict[str, int]]  # answers by prompt and strategy


def run(round_: Round, policy: Policy, spec: Budget, ask: Ask) -> dict[str, Any]:
    """Ask in waves until the budget is spent, or nobody is worth another answer; says what became of the prompts."""
    path, generate = _path(round_, policy), round_.project.generate
    waves: list[Wave] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if waves:
        ask(_cells(round_, waves))
    while True:
        seen, told = _seen(round_, policy, spec, waves)
        share = share_now(generate, spec, told)
        left = limit(spec) - sum(s.cost for s in seen.values())
        given = worth.wave(seen, spec, left, most(round_, spec))
        if not given:
            break
        had = _totals(waves)
        plain = generate.plain.name
        waves.append({p: dict(shares.turns(had[p], n, share, plain, spec.probe)) for p, n in given.items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(waves))
        ask(_cells(round_, waves))
    won = {name: each._asdict() for name, each in sorted(told.items())}
    return report(seen, spec, len(waves)) | {"shares": {n: round(s, 4) for n, s in share.items()}, "won": won}


def share_now(generate: Generate, spec: Budget, told: Mapping[str, Won]) -> dict[str, float]:
    """What part of further answers each strategy gets."""
    set_ = {strategy.name: strategy.share for strategy in generate.strategies}
    return shares.shares(set_, told, plain_names(generate)) if spec.shares == "won" else set_


def plain_names(generate: Generate) -> list[str]:
    """The strategies of stream A, in the project's order: sums over them must not depend on a set's."""
    return [strategy.name for strategy in generate.strategies if strategy.on_policy]


def limit(spec: Budget) -> float:
    """The budget in its own unit: tokens, or dollars."""
    return float(spec.tokens if spec.tokens is not None else spec.dollars or 0.0)


def most(round_: Round, spec: Budget) -> float:
    """What one answer can cost at most."""
    model = round_.project.model
    if spec.tokens is not None:
        return float(model.max_tokens)
    into, out = spec.dollars_per_million
    return (into * model.max_model_len + out * model.max_tokens) / 1e6


def report(seen: dict[str, Seen], spec: Budget, waves: int) -> dict[str, Any]:
    """For the books: what was spent, and why prompts were not asked again."""
    why = Counter(worth.settled(s, spec) or ("asked" if s.asked else "unasked") for s in seen.values())
    return {
        "waves": waves,
        "spent": round(sum(s.cost for s in seen.values()), 6),
        "limit": limit(spec),
        "asked": sum(s.asked for s in seen.values()),
        "settled": dict(sorted(why.items())),
    }


def _path(round_: Round, policy: Policy) -> Path:
    from taolake.stages import fingerprints

    name = f"{policy.id[:16]}-{fingerprints(round_.project)['generate'][:12]}"
    return Path(round_.project.work).resolve() / "waves" / f"{name}.json"


def _seen(round_: Round, policy: Policy, spec: Budget, waves: list[Wave]) -> tuple[dict[str, Seen], dict[str, Won]]:
    """What every training prompt has shown, with a scorer's word on it, and what each strategy has won."""
    from pyspark.sql import functions as f

    if waves:
        score.one(round_, policy, spec.scorer)
    generate = round_.project.generate
    into, out = (0.0, 1.0) if spec.tokens is not None else [price / 1e6 for price in spec.dollars_per_million]
    said = score.said(round_, spec.scorer).select("candidate_id", "value")
    names = {strategy.id: strategy.name for strategy in generate.strategies}
    rows = round_.lake.read(lake.CANDIDATES).where((f.col("policy") == policy.id) & f.col("strategy").isin([*names]))
    cost = f.coalesce("prompt_tokens", f.lit(0)) * into + f.coalesce("tokens", f.lit(0)) * out
    told = rows.join(said, "candidate_id", "left").select("prompt_id", "strategy", "value", cost.alias("cost"))
    ours = (f.col("task") == round_.project.task.name) & (f.col("split") == "train")
    prompts = round_.lake.read(lake.PROMPTS).where(ours).select("prompt_id")
    per_strategy = told.groupBy("prompt_id", "strategy").agg(
        f.sort_array(f.collect_list("value")).alias("values"),
        f.count(f.lit(1)).alias("asked"),
        f.sum("cost").alias("cost"),
    )
    seen: dict[str, Seen] = {}
    values: dict[str, dict[str, list[float]]] = {}
    for r in prompts.join(per_strategy, "prompt_id", "left").orderBy("prompt_id", "strategy").collect():
        had = seen.get(r["prompt_id"], Seen((), 0, 0.0))
        mine = r["values"] or []
        seen[r["prompt_id"]] = Seen((*had.values, *mine), had.asked + (r["asked"] or 0), had.cost + (r["cost"] or 0.0))
        if mine:
            values.setdefault(r["prompt_id"], {})[names[r["strategy"]]] = mine
    return seen, shares.won(values.values(), plain_names(generate))


def _totals(waves: list[Wave]) -> defaultdict[str, Counter[str]]:
    """Answers that each prompt was asked for, by strategy."""
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for given in waves:
        for prompt, by in given.items():
            totals[prompt].update(by)
    return totals


def _cells(round_: Round, waves: list[Wave]) -> "DataFrame":
    """The cells of all waves as masks; the ledger leaves out what is committed."""
    rows = [
        (prompt, strategy.id, word, mask)
        for prompt, by in sorted(_totals(waves).items())
        for strategy in round_.project.generate.strategies
        for word, mask in enumerate(masks(by[strategy.name]))
    ]
    return round_.lake.spark.createDataFrame(rows, "prompt_id STRING, strategy STRING, word INT, owed BIGINT")
