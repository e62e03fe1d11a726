"""Adaptive N against N for everybody, at equal tokens: is what gets selected better, and is the budget kept?

Both arms draw from the same pool of answers, without replacement and in the same order by prompt, so that they differ
in whom they ask and in nothing else. Three pools are made: prompts that are alike, prompts that differ, and graded
values; the fourth is the base of the embedded example with its reward. Then the same with several strategies, adaptive
both times: shares by what was won against shares as they were set, on a pool whose strategies differ, on one where they
are all the same, and on the example's. What is not measured: what a selection is worth after training.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from _form import Figure, run

from taolake import stages
from taolake.config import Budget, Project
from taolake.lake import Lake
from taolake.selection.budget import Seen, wave
from taolake.selection.shares import shares, turns, won
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
    "demo.gain.low": (">", -0.01), "unlike_strategies.gain.low": (">", 0.0), "same_strategies.gain.low": (">", -0.01),
    "demo_strategies.gain.low": (">", -0.01), "overspent": ("==", 0),
}  # fmt: skip
PLAIN = "plain"
SHARES = {PLAIN: 0.5, "plan": 0.125, "json": 0.125, "poem": 0.125, "terse": 0.125}

Answer = tuple[float, int]  # value and tokens
Pool = list[list[Answer]]
Answers = dict[str, list[Answer]]  # of one prompt, by strategy


def measure(quick: bool) -> dict[str, Figure]:
    """Replay both arms on every pool and seed."""
    pools: dict[str, Callable[[int], Pool]] = {"alike": alike, "mixed": mixed, "graded": graded}
    if not quick:
        pools["demo"] = demo
    seeds = SEEDS[:1] if quick else SEEDS
    found = {name: compare([make(seed) for seed in seeds]) for name, make in pools.items()}
    for name, different in (("unlike", True), ("same", False)):
        found[f"{name}_strategies"] = share_out([explored(seed, different) for seed in seeds], SHARES)
    if not quick:
        found["demo_strategies"] = share_out([demo_explored(seed) for seed in seeds], example_shares())
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


def share_out(pools: Sequence[Sequence[Answers]], set_: Mapping[str, float]) -> dict[str, Figure]:
    """Shares as they were set, and by what was won; intervals are paired by prompt."""
    fixed, learnt, over, parts = list[float](), list[float](), 0, list[dict[str, float]]()
    for pool in pools:
        budget = sum(tokens for answers in pool for _, tokens in answers[PLAIN][:EVEN])
        for values, learn in ((fixed, False), (learnt, True)):
            taken, share = explore(pool, set_, budget, learn)
            over += sum(tokens for answers in taken for _, tokens in answers) > budget
            values += [best(answers) for answers in taken]
        parts.append(share)
    return {
        "fixed": sum(fixed) / len(fixed),
        "won": sum(learnt) / len(learnt),
        "gain": paired_gain(fixed, learnt, 2000, 0)._asdict(),
        "shares": {name: sum(part[name] for part in parts) / len(parts) for name in set_},
        "prompts": len(fixed),
        "overspent": over,
    }


def explore(
    pool: Sequence[Answers], set_: Mapping[str, float], budget: int, learn: bool
) -> tuple[list[list[Answer]], dict[str, float]]:
    """Each prompt's answers when the product's rules hand the budget out in waves; and the shares at the end."""
    spec = Budget(tokens=budget, scorer="pool", n_max=DEPTH)
    most = max(tokens for answers in pool for each in answers.values() for _, tokens in each)
    had = [Counter[str]() for _ in pool]
    while True:
        taken = [{name: pool[i][name][:n] for name, n in by.items()} for i, by in enumerate(had)]
        told = won([{name: [v for v, _ in each] for name, each in by.items()} for by in taken], {PLAIN})
        share = shares(set_, told, {PLAIN}) if learn else dict(set_)
        flat = [[answer for name in sorted(by) for answer in by[name]] for by in taken]
        now = {
            str(i): Seen(tuple(v for v, _ in each), had[i].total(), float(sum(tokens for _, tokens in each)))
            for i, each in enumerate(flat)
        }
        given = wave(now, spec, budget - sum(s.cost for s in now.values()), most)
        if not given:
            return flat, share
        for name, count in given.items():
            had[int(name)] += turns(had[int(name)], count, share, PLAIN, spec.probe)


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


def explored(seed: int, different: bool) -> list[Answers]:
    """Right and wrong answers of several strategies; where they differ, a plan solves what the plain prompt cannot."""
    rng, pool = random.Random(f"explored {seed} {different}"), list[Answers]()
    for _ in range(PROMPTS):
        p = rng.betavariate(0.4, 0.4)
        chance = dict.fromkeys(SHARES, p)
        if different:
            chance |= {"plan": max(p, 0.3 * (rng.random() < 0.5)), "json": 0.5 * p, "poem": 0.1 * p, "terse": p}
        pool.append(
            {
                name: [(float(rng.random() < q), rng.randint(10, 30) + round(30 * (1 - p))) for _ in range(DEPTH)]
                for name, q in chance.items()
            }
        )
    return pool


def demo(seed: int) -> Pool:
    """The embedded example's base, with the reward of a whole group of 32 answers; made by the real stages."""
    plain = [{"name": PLAIN, "share": 1}]
    return [answers[PLAIN] for answers in drawn_by_stages(f"seed-{seed}", seed, {"n": DEPTH, "strategies": plain})]


def demo_explored(seed: int) -> list[Answers]:
    """The same with the example's own strategies, 32 answers of each and the reward of all of them together."""
    own = example()["generate"]["strategies"]
    even = [strategy | {"share": 1 / len(own)} for strategy in own]
    pool = drawn_by_stages(f"explored-{seed}", seed, {"n": DEPTH * len(own), "strategies": even})
    return [answers for answers in pool if all(answers.get(s["name"]) for s in own)]


def example() -> dict[str, Any]:
    """The embedded example's project file."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "conf/demo.yml").read_text(encoding="utf-8"))
    return raw


def example_shares() -> dict[str, float]:
    """What its strategies are set to."""
    return {strategy["name"]: strategy["share"] for strategy in example()["generate"]["strategies"]}


def drawn_by_stages(name: str, seed: int, generate: dict[str, Any]) -> list[Answers]:
    """Answers to the example's training prompts with their rewards, by the stages up to the reward."""
    folder = ROOT / "build/bench/adaptive" / name
    raw = yaml.safe_load((ROOT / "conf/demo.yml").read_text(encoding="utf-8").replace("build/demo", str(folder)))
    project = Project.model_validate(raw | {"seed": seed, "generate": {"review_n": 12, **generate}})
    stages.prepare(project)
    spark = local_session(log=folder / "spark.log")
    try:
        round_ = Round(Lake(spark, project.lake), project)
        for stage in ("ingest", "generate", "label", "score", "reward"):
            stages.run(round_, stage)
        return pool_of(round_)
    finally:
        spark.stop()


def pool_of(round_: Round) -> list[Answers]:
    """Rewards and tokens of answers to training prompts by strategy, in the order they were drawn."""
    rewards = reward.current(round_, round_.base).where("reward IS NOT NULL").select("candidate_id", "reward")
    rows = groups.sampled(round_, round_.base).where("split = 'train'").join(rewards, "candidate_id")
    found: dict[str, dict[str, list[tuple[int, float, int]]]] = {}
    for row in rows.select("prompt_id", "strategy", "sample", "reward", "tokens").collect():
        strategy = row["strategy"].rpartition("-")[0]
        by = found.setdefault(row["prompt_id"], {})
        by.setdefault(strategy, []).append((row["sample"], row["reward"], row["tokens"]))
    return [
        {name: [(value, tokens) for _, value, tokens in sorted(answers)] for name, answers in by.items()}
        for _, by in sorted(found.items())
    ]


if __name__ == "__main__":
    quick = "--quick" in sys.argv  # which leaves the example out, and the models it takes
    run("adaptive", measure, {k: v for k, v in TARGETS.items() if not (quick and k.startswith("demo"))}, SEEDS)
