"""Does the trust report find planted biases on a realistic set of people's choices, and does a fair scorer pass?

Groups of candidates with a hidden quality; people choose the best of four, with mistakes. Scorers: fair but noisy; fair
but paying for length; for a word; a judge that favours what it is shown first; blind; constant. What is not measured:
biases that people share, and any that no choice of theirs contradicts.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _form import run

from taolake.config import Trust
from taolake.trust.biases import Swapped
from taolake.trust.findings import findings, report
from taolake.trust.sample import Draws, Pair

SEEDS = tuple(range(1, 21))
CHOICES = 200
SHOWN = 4
PEOPLE_NOISE = 0.5  # deviations of quality
FAIR_NOISE = 0.8
JUDGE_NOISE = 0.3  # of each asking
WORDS = 400
WORD = "certainly"

Group = list[dict[str, Any]]
Scored = dict[str, float]


def measure(quick: bool) -> dict[str, Any]:
    """Every scorer on every seed; how often what was planted is found, and how often a fair one is left alone."""
    began = time.perf_counter()
    scorers: dict[str, tuple[Callable[..., Scored], set[str]]] = {
        "fair": (fair, set()),
        "longer": (longer, {"length"}),
        "keyword": (keyword, {"keyword"}),
        "first": (fair, {"position"}),
        "random": (blind, {"accuracy"}),
        "constant": (constant, {"opinion"}),
    }
    figures: dict[str, Any] = {"choices": CHOICES}
    for name, (scorer, wanted) in scorers.items():
        found, refused, accuracies = 0, 0, []
        for seed in SEEDS[:1] if quick else SEEDS:
            rng = np.random.default_rng([seed, 11])
            groups, pairs = people(rng)
            swapped = verdicts(groups, rng, 1.0 if name == "first" else 0.0)
            measured = report(pairs, scorer(groups, rng), Draws(1000, seed), swapped=swapped)
            made = findings(measured, Trust())
            right = {f.measure for f in made} & wanted if wanted else not made
            found, refused = found + bool(right), refused + any(f.refuses for f in made)
            accuracies.append(measured["accuracy"]["mean"])
        share = found / (1 if quick else len(SEEDS))
        figures[name] = {
            "found" if wanted else "passed": share, "refused": refused, "accuracy": statistics.mean(accuracies),
        }  # fmt: skip
    return figures | {"seconds": time.perf_counter() - began}


def people(rng: np.random.Generator) -> tuple[list[Group], list[Pair]]:
    """Prompts with four answers each, and the one a person took: quality counts, length a little, nothing else."""
    groups, pairs = [], []
    shares = 1 / np.arange(3, WORDS + 3)
    for number in range(CHOICES):
        group = []
        for place in range(SHOWN):
            quality = float(rng.normal())
            length = int(np.clip(math.exp(3.4 + 0.15 * quality + 0.5 * rng.normal()), 4, 200))
            words = [f"w{i}" for i in rng.choice(WORDS, size=length, p=shares / shares.sum())]
            has = bool(rng.random() < 0.3)
            text = " ".join([WORD, *words] if has else words)
            group.append({"id": f"{number:03d}-{place}", "quality": quality, "text": text, "has": has})
        seen = [a["quality"] + PEOPLE_NOISE * float(rng.normal()) for a in group]
        best = int(np.argmax(seen))
        groups.append(group)
        top, prompt = group[best], f"{number:03d}"
        pairs += [
            Pair(prompt, top["id"], a["id"], prompt, "someone", "task", top["text"], a["text"])
            for i, a in enumerate(group)
            if i != best
        ]
    return groups, pairs


def fair(groups: list[Group], rng: np.random.Generator) -> Scored:
    """Knows quality, with noise."""
    return {a["id"]: a["quality"] + FAIR_NOISE * float(rng.normal()) for g in groups for a in g}


def longer(groups: list[Group], rng: np.random.Generator) -> Scored:
    """Knows quality as well, and takes a deviation of length for a deviation of quality."""
    return {
        i: s + math.log(len(text)) / 0.5 for (i, s), text in zip(fair(groups, rng).items(), texts(groups), strict=True)
    }


def keyword(groups: list[Group], rng: np.random.Generator) -> Scored:
    """Knows quality as well, and pays for one word."""
    has = [a["has"] for g in groups for a in g]
    return {i: s + 2.0 * paid for (i, s), paid in zip(fair(groups, rng).items(), has, strict=True)}


def blind(groups: list[Group], rng: np.random.Generator) -> Scored:
    """Knows nothing."""
    return {a["id"]: float(rng.random()) for g in groups for a in g}


def constant(groups: list[Group], rng: np.random.Generator) -> Scored:
    """Says the same of everything."""
    return {a["id"]: 0.5 for g in groups for a in g}


def texts(groups: list[Group]) -> list[str]:
    return [a["text"] for g in groups for a in g]


def verdicts(groups: list[Group], rng: np.random.Generator, pull: float) -> list[Swapped]:
    """A pairwise judge on two answers in both orders; the first place is worth `pull` deviations of quality to it."""
    found = []
    for g in groups:
        lead = g[0]["quality"] - g[1]["quality"]
        straight, turned = (lead + side * pull + JUDGE_NOISE * float(rng.normal()) > 0 for side in (1, -1))
        first = float(straight) - float(turned)  # shown first it won, shown second it lost: the place decided
        found.append(Swapped(g[0]["id"][:3], 1, abs(first), first))
    return found


if __name__ == "__main__":
    targets = {"fair.passed": (">=", 0.95), "seconds": ("<", 120.0)}
    targets |= {f"{name}.found": (">=", 0.95) for name in ("longer", "keyword", "first", "random", "constant")}
    run("trust", measure, targets, list(SEEDS))
