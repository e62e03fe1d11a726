"""Tokens per second through the generate stage into a committed table, over vLLM called directly, in the same run.

Three workloads: answers of one length, answers of very different lengths, and short answers after a long system turn
that all prompts share. Every arm answers the same requests (token ids, seeds, order, engine settings from one project)
with a warm engine and an empty prefix cache, in a process of its own that stays and waits without working. A pilot
picks the better of the two direct arms, in the process and in vLLM's own processes; then it and the product take turns
in ABBA order. Tokens are counted in a fresh read of the committed table, and any check of `_validity` that fails voids
the run. `low` and `high` are the smallest and largest ratio of a pair: with three pairs there is no better interval.
Planning and the commit take seconds whatever a turn's length, so turns are minutes, as rounds are; `seconds` says how
many. What is not shown: GPUs, several executors, the time to load a model (`cold_seconds` alone).
"""

import contextlib
import statistics
import sys
import time
from typing import Any

from _arms import Arm
from _form import run
from _validity import checks
from _work import FOLDER, SAMPLES, SEED, WORKLOADS, project, requests

PAIRS = 3
DIRECT = ("direct", "workers")
PHASES = ("before", "engine", "after")


def measure(quick: bool) -> dict[str, Any]:
    """All workloads, with every arm's process kept from the first to the last."""
    with contextlib.ExitStack() as kept:
        arms = {name: kept.enter_context(Arm(name)) for name in (*DIRECT, "spark")}
        figures: dict[str, Any] = {"cold_seconds": {name: arm.cold for name, arm in arms.items()}}
        for name in WORKLOADS:
            figures[name] = one(arms, name, 1 if quick else PAIRS, 6 if quick else 1)
    held = [value for name in WORKLOADS for value in figures[name]["valid"].values()]
    return {**figures, "valid": float(min(held))}


def one(arms: dict[str, Arm], workload: str, pairs: int, divisor: int) -> dict[str, Any]:
    """One workload: a pilot of the direct arms, the pairs, the control."""
    prompts = WORKLOADS[workload].prompts // divisor
    pilot = {name: turn(arms, name, workload, prompts // 4)["rate"] for name in DIRECT}
    best = max(DIRECT, key=lambda name: pilot[name])
    taken: dict[str, list[dict[str, Any]]] = {best: [], "spark": []}
    for pair in range(pairs):
        for name in (best, "spark") if pair % 2 == 0 else ("spark", best):
            taken[name].append(turn(arms, name, workload, prompts))
    naive = turn(arms, "spark", workload, prompts // 2, naive=True)
    ratios = [mine["rate"] / other["rate"] for mine, other in zip(taken["spark"], taken[best], strict=True)]
    rates = {name: statistics.median(each["rate"] for each in found) for name, found in taken.items()}
    last = taken["spark"][-1]
    return {
        "tokens_per_second": rates | {"naive": naive["rate"]},
        "pilot_tokens_per_second": pilot,
        "best_direct": best,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "naive_ratio": naive["rate"] / rates[best],
        "requests": prompts * SAMPLES,
        "tokens": last["tokens"],
        "cached_share": {name: found[-1]["cached"] for name, found in taken.items()},
        "seconds": {name: statistics.median(each["phases"][name] for each in taken["spark"]) for name in PHASES},
        "valid": validity(taken["spark"], taken[best], project(WORKLOADS[workload], prompts)),
        "pairs": pairs,
    }


def turn(arms: dict[str, Arm], name: str, workload: str, prompts: int, naive: bool = False) -> dict[str, Any]:
    """One arm's turn, and how much of a core the others used meanwhile."""
    others = [arm for other, arm in arms.items() if other != name]
    before, since = sum(arm.cpu_seconds() for arm in others), time.monotonic()
    found = arms[name].run(workload, prompts, naive)
    worked = (sum(arm.cpu_seconds() for arm in others) - before) / (time.monotonic() - since)
    rows = found["rows"].values()
    tokens = sum(len(row["token_ids"]) for row in rows)
    said = f"{workload:7} {'naive' if naive else name:8} {tokens} tokens in {found['seconds']:.1f} s"
    print(f"{said}; others used {worked:.1%} of a core", file=sys.stderr)
    cached = sum(row["cached_tokens"] for row in rows) / sum(row["prompt_tokens"] for row in rows)
    return found | {"tokens": tokens, "rate": tokens / found["seconds"], "cached": cached, "worked": worked}


def validity(mine: list[dict[str, Any]], direct: list[dict[str, Any]], asked: Any) -> dict[str, float]:
    """Every check of every pair; the worst of each."""
    wanted = requests(asked)
    each = [checks(m["rows"], d["rows"], wanted, FOLDER / "model") for m, d in zip(mine, direct, strict=True)]
    together = {name: min(found[name] for found in each) for name in each[0]}
    together["same_settings"] = float(all(m["settings"] == d["settings"] for m, d in zip(mine, direct, strict=True)))
    together["others_idle"] = float(all(found["worked"] < 0.05 for found in (*mine, *direct)))
    return together


if __name__ == "__main__":
    targets = {f"{name}.ratio": (">=", 0.95) for name in WORKLOADS}
    run("through_spark", measure, {**targets, "heavy.naive_ratio": ("<", 0.90), "valid": ("==", 1.0)}, [SEED])
