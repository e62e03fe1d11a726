"""Adaptive N against N for everybody, at equal tokens: is what gets selected better, and is the budget kept?

Both arms draw from the same pool of answers, without replacement and in the same order by prompt, so that they differ
in whom they ask and in nothing else. Three pools are made: prompts that are alike, prompts that differ, and graded
values; the fourth is the base of the embedded example with its reward. What is not measured: what a selection is
worth after training.
"""

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from _form import Figure, run

from taolake import stages
from taolake.config import Budget, Project
from taolake.lake import Lake
from taolake.selection.budget import Seen, wave
from taolake.session import local_session
from taolake.stages import groups, reward
from taolake.stages.round import Round
from taolake.verdict import paired_gain

ROOT = Path(__file__).parents[1]
SEEDS = [7, 8, 9]
EVEN = 8  # answers to every prompt of the even arm; its cost is the budget of the other
DEPTH = 32  # answers a prompt can get
PROMPTS = 500
TARGETS = {
    "alike.gain.low": (">", -0.01), "mixed.gain.low": (">", 0.0), "graded.gain.low": (">", -0.01),
    "demo.gain.low": (">", -0.01), "overspent": ("==", 0),
}  # fmt: skip

Answer = tuple[float, int]  # value and tokens
Pool = list[list[Answer]]


def measure(quick: bool) -> dict[str, Figure]:
    """Replay both arms on every pool and seed."""
    pools: dict[str, Callable[[int], Pool]] = {"alike": alike, "mixed": mixed, "graded": graded}
    if not quick:
        pools["demo"] = demo
    found = {name: compare([make(seed) for seed in (SEEDS[:1] if quick else SEEDS)]) for name, make in pools.items()}
    return {**found, "overspent": sum(figures["overspent"] for figures in found.values())}


def compare(pools: Sequence[Pool]) -> dict[str, Figure]:
    """Both arms on the pools of all seeds; intervals are paired by prompt."""
    before, after, over = list[float](), list[float](), 0
    for pool in pools:
        budget = sum(tokens for answers in pool for _, tokens in answers[:EVEN])
        asked = ask(pool, budget)
        over += sum(tokens for i, answers in enumerate(pool) for _, tokens in answers[: asked[i]]) > budget
        before += [best(answers[:EVEN]) for answers in pool]
        after += [best(answers[: asked[i]]) for i, answers in enumerate(pool)]
    return {
        "even": sum(before) / len(before),
        "adaptive": sum(after) / len(after),
        "gain": paired_gain(before, after, 2000, 0)._asdict(),
        "prompts": len(before),
        "overspent": over,
    }


def ask(pool: Pool, budget: int) -> dict[int, int]:
    """Answers each prompt gets when the product's own rule hands out the budget in waves."""
    spec = Budget(tokens=budget, scorer="pool", n_max=DEPTH)
    most = max(tokens for answers in pool for _, tokens in answers)
    asked = {str(i): 0 for i in range(len(pool))}

    def seen(name: str) -> Seen:
        told = pool[int(name)][: asked[name]]
        return Seen(tuple(value for value, _ in told), len(told), float(sum(tokens for _, tokens in told)))

    while True:
        now = {name: seen(name) for name in asked}
        given = wave(now, spec, budget - sum(s.cost for s in now.values()), most)
        if not given:
            return {int(name): count for name, count in asked.items()}
        for name, count in given.items():
            asked[name] += count


def best(answers: Sequence[Answer]) -> float:
    """What a selection by this value picks; a prompt without answers has nothing."""
    return max((value for value, _ in answers), default=0.0)


def alike(seed: int) -> Pool:
    """Right or wrong, every prompt as hard as any other."""
    return drawn(seed, lambda rng: 0.25)


def mixed(seed: int) -> Pool:
    """Right or wrong; most prompts are easy or hard."""
    return drawn(seed, lambda rng: rng.betavariate(0.4, 0.4))


def graded(seed: int) -> Pool:
    """Values between 0 and 1; prompts differ in how far their answers spread."""
    rng = random.Random(f"graded {seed}")
    spreads = [rng.choice([0.02, 0.05, 0.2]) for _ in range(PROMPTS)]
    return [[(min(max(rng.gauss(0.5, s), 0.001), 0.999), rng.randint(10, 60)) for _ in range(DEPTH)] for s in spreads]


def drawn(seed: int, chance: Callable[[random.Random], float]) -> Pool:
    """A pool of right and wrong answers; hard prompts get longer ones."""
    rng, pool = random.Random(f"pool {seed}"), []
    for _ in range(PROMPTS):
        p = chance(rng)
        pool.append([(float(rng.random() < p), rng.randint(10, 30) + round(30 * (1 - p))) for _ in range(DEPTH)])
    return pool


def demo(seed: int) -> Pool:
    """The embedded example's base, with the reward of a whole group of 32 answers; made by the real stages."""
    folder = ROOT / "build/bench/adaptive" / f"seed-{seed}"
    raw: dict[str, Any] = yaml.safe_load((ROOT / "conf/demo.yml").read_text().replace("build/demo", str(folder)))
    plain = {"n": DEPTH, "review_n": 12, "strategies": [{"name": "plain", "share": 1}]}
    project = Project.model_validate(raw | {"seed": seed, "generate": plain})
    stages.prepare(project)
    spark = local_session(log=folder / "spark.log")
    try:
        round_ = Round(Lake(spark, project.lake), project)
        for name in ("ingest", "generate", "label", "score", "reward"):
            stages.run(round_, name)
        return pool_of(round_)
    finally:
        spark.stop()


def pool_of(round_: Round) -> Pool:
    """Rewards and tokens of stream-A answers to training prompts, in the order they were drawn."""
    rewards = reward.current(round_, round_.base).where("reward IS NOT NULL").select("candidate_id", "reward")
    rows = groups.sampled(round_, round_.base).where("split = 'train' AND stream = 'A'").join(rewards, "candidate_id")
    found: dict[str, list[tuple[int, float, int]]] = {}
    for row in rows.select("prompt_id", "sample", "reward", "tokens").collect():
        found.setdefault(row["prompt_id"], []).append((row["sample"], row["reward"], row["tokens"]))
    return [[(value, tokens) for _, value, tokens in sorted(answers)] for _, answers in sorted(found.items())]


if __name__ == "__main__":
    quick = "--quick" in sys.argv  # which leaves the example out, and the models it takes
    run("adaptive", measure, {k: v for k, v in TARGETS.items() if not (quick and k.startswith("demo"))}, SEEDS)
