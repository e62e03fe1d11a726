"""The whole trust report of one scorer, and which of its numbers speak against training with it.

A finding says the number, its limit, and what to collect or change. It refuses where the project sets that limit
(`trust` in the project file), and is a warning otherwise. Limits of warnings are constants here: large enough that a
fair scorer on two hundred choices stays clear of them (`benchmarks/trust.py`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from taolake.config import Trust
from taolake.selection.calibrate import Calibration
from taolake.trust import biases, measures
from taolake.trust.biases import Swapped
from taolake.trust.sample import Draws, Pair, Sample

LENGTH_LIMIT = 0.1  # deviations of log length, for the nearer end of the interval
KEYWORD_LIMIT = 0.1  # share of pairs, likewise
KEYWORD_P = 0.01  # after correction
SELF_LIMIT = 0.1
TIE_LIMIT = 0.5
FLIP_LIMIT = 0.3
FIRST_LIMIT = 0.2  # share of verdicts for the first place both times, minus the second's

Report = dict[str, Any]


class Finding(NamedTuple):
    """A number on the wrong side of its limit; `refuses` where the project file says so."""

    measure: str
    value: float
    limit: float
    refuses: bool
    says: str


def report(
    pairs: Sequence[Pair],
    values: Mapping[str, float | None],
    draws: Draws,
    kind: str = "none",
    claims: Calibration | None = None,
    swapped: Sequence[Swapped] = (),
    again: Callable[[str], float | None] | None = None,
) -> Report:
    """Measure one scorer on people's pairs.

    Args:
        pairs: what people said, none of it seen in training.
        values: candidate id to the scorer's value.
        draws: how intervals are drawn.
        kind: `reward.calibrate`; `none` shows what `platt` would do.
        claims: how a difference reads as a chance before calibration; None: (1 + difference) / 2.
        swapped: a pairwise judge's verdicts in both orders.
        again: a second run of the scorer.

    Returns:
        JSON: measure to number with interval; `agreement` and everything below it is absent where nothing was scored.
    """
    sample = Sample(pairs, values, draws)
    found: Report = {
        "pairs": len(sample),
        "choices": sample.choices,
        "prompts": sample.prompts,
        "unscored_pairs": sample.asked - len(sample),
        "flips": biases.flips(swapped, draws),
    }
    return found | (_agreement(sample, kind, claims or Calibration(), again) if len(sample) else {})


def findings(found: Report, spec: Trust) -> list[Finding]:
    """What speaks against a scorer, the refusals first."""
    every = [*_agreeing(found, spec), *_leaning(found, spec), *_steady(found, spec)]
    return sorted(every, key=lambda f: not f.refuses)


def _agreement(
    sample: Sample, kind: str, claims: Calibration, again: Callable[[str], float | None] | None
) -> dict[str, Any]:
    after = measures.cross_fitted(sample, kind)
    return {
        "accuracy": measures.named(measures.accuracy(sample)),
        "top_one": measures.top_one(sample),
        "kappa": measures.named(measures.kappa(sample)),
        "annotator_kappa": measures.annotator_kappa(sample),
        "auc": measures.named(measures.auc(sample)),
        "ties": measures.ties(sample),
        "ece_before": measures.calibration_error(sample, measures.claimed(sample.difference_N, claims)),
        "ece_after": None if after is None else measures.calibration_error(sample, after),
        "calibrated_by": "isotonic" if kind == "isotonic" else "platt",
        "used": "before" if kind == "none" else "after",
        "length": biases.length_slope(sample),
        "keyword": biases.keyword_slope(sample),
        "self_preference": biases.self_preference(sample),
        "noise": biases.noise(sample, again) if again else None,
        "by_task": measures.accuracy_by_task(sample),
        "by_margin": measures.accuracy_by_margin(sample),
    }


def _agreeing(found: Report, spec: Trust) -> list[Finding]:
    """Too little agreement with people, or none that can be told from chance."""
    made: list[Finding] = []
    asked = found["pairs"] + found["unscored_pairs"]
    silent = (found["unscored_pairs"] + found.get("ties", 0.0) * found["pairs"]) / asked if asked else 0.0
    if silent > TIE_LIMIT:
        made.append(Finding("opinion", silent, TIE_LIMIT, not found["pairs"], (
            f"it has no opinion on {_share(silent)} of {asked} pairs that people ordered (limit {_share(TIE_LIMIT)}): "
            "it gives both answers the same value or none; weigh in a scorer that tells answers apart"
        )))  # fmt: skip
    if not found["pairs"]:
        return made
    accuracy, n = found["accuracy"], found["choices"]
    said = f"pairwise accuracy is {_interval(accuracy)} on {n} choices"
    if spec.above_chance and accuracy["low"] <= 0.5:
        made.append(Finding("accuracy", accuracy["low"], 0.5, True, (
            f"{said}, which cannot be told from a coin's (lower end {accuracy['low']:.3f}, limit 0.5): {_more(found)}"
        )))  # fmt: skip
    elif spec.min_accuracy is not None and accuracy["high"] < spec.min_accuracy:
        made.append(Finding("accuracy", accuracy["high"], spec.min_accuracy, True, (
            f"{said}; its upper end must reach {spec.min_accuracy:g}: train the reward model on more choices of this "
            "task, or weigh in a scorer that people agree with"
        )))  # fmt: skip
    kappa = found["kappa"]
    if spec.min_kappa is not None and kappa["high"] < spec.min_kappa:
        between = found["annotator_kappa"]
        people = f"; people reach {between['mean']:.2f} among themselves" if between else ""
        made.append(Finding("kappa", kappa["high"], spec.min_kappa, True, (
            f"Cohen's kappa with people is {_interval(kappa)}; its upper end must reach {spec.min_kappa:g}{people}: "
            "collect choices that two people agree on, or sharpen the rubric"
        )))  # fmt: skip
    error = found[f"ece_{found['used']}"]
    if spec.max_ece is not None and error is not None and error["debiased"] > spec.max_ece:
        cure = "set reward.calibrate: platt" if found["used"] == "before" else "collect more choices to calibrate on"
        made.append(Finding("ece", error["debiased"], spec.max_ece, True, (
            f"the expected calibration error {found['used']} calibration is {error['debiased']:.3f} (chance taken out; "
            f"{error['mean']:.3f} as measured), limit {spec.max_ece:g}: {cure}"
        )))  # fmt: skip
    return made


def _leaning(found: Report, spec: Trust) -> list[Finding]:
    """Paying for what people do not pay for."""
    made: list[Finding] = []
    length, word, own = (found.get(name) for name in ("length", "keyword", "self_preference"))
    # An excess against the scorer's own taste is only less taste than people have: no bias.
    if length and length["mean"] * length["scorer"] > 0:
        limit = LENGTH_LIMIT if spec.max_length_slope is None else spec.max_length_slope
        near = max(length["low"], -length["high"], 0.0)
        if near > limit:
            long = "longer" if length["mean"] > 0 else "shorter"
            made.append(Finding("length", near, limit, spec.max_length_slope is not None, (
                f"it prefers answers {abs(length['mean']):.2f} deviations of length {long} than people do (at least "
                f"{near:.2f}, limit {limit:g}): set length_control on the reward model, or add choices where the "
                f"{'shorter' if length['mean'] > 0 else 'longer'} answer is the better one"
            )))  # fmt: skip
    if word and word["p"] < KEYWORD_P and word["low"] > KEYWORD_LIMIT:
        made.append(Finding("keyword", word["low"], KEYWORD_LIMIT, False, (
            f"it pays for {word['word'][:40]!r}: it prefers the answer that has it {_share(word['scorer'])} of the "
            f"time, {100 * word['mean']:.0f} points more often than people (at least {100 * word['low']:.0f}, limit "
            f"{100 * KEYWORD_LIMIT:.0f}): collect choices where the answer with it is the worse one, or lower the "
            "scorer's weight"
        )))  # fmt: skip
    if own and own["low"] > SELF_LIMIT:
        made.append(Finding("self_preference", own["low"], SELF_LIMIT, False, (
            f"it prefers answers of policy {own['policy'][:12]} {100 * own['mean']:.0f} points more often than people "
            f"(at least {100 * own['low']:.0f}, limit {100 * SELF_LIMIT:.0f}): judge with a model of another family"
        )))  # fmt: skip
    return made


def _steady(found: Report, spec: Trust) -> list[Finding]:
    """Saying one thing now and another then."""
    made: list[Finding] = []
    flips, noise = found["flips"], found.get("noise")
    limit = FLIP_LIMIT if spec.max_flip is None else spec.max_flip
    if flips and flips["low"] > limit:
        made.append(Finding("flips", flips["low"], limit, spec.max_flip is not None, (
            f"{_share(flips['mean'])} of its verdicts flip when the answers swap places (at least "
            f"{_share(flips['low'])}, limit {_share(limit)}): take another judge, or ask it pointwise"
        )))  # fmt: skip
    if flips and flips["first"] is not None and abs(flips["first"]) > FIRST_LIMIT:
        made.append(Finding("position", abs(flips["first"]), FIRST_LIMIT, False, (
            f"it favours the {'first' if flips['first'] > 0 else 'second'} place in {_share(abs(flips['first']))} of "
            f"pairs (limit {_share(FIRST_LIMIT)}): always ask in both orders, or take another judge"
        )))  # fmt: skip
    if noise and spec.max_noise is not None and noise["low"] > spec.max_noise:
        made.append(Finding("noise", noise["low"], spec.max_noise, True, (
            f"{_share(noise['mean'])} of its verdicts change when it is asked again (at least {_share(noise['low'])}, "
            f"limit {_share(spec.max_noise)}): lower its temperature, or average several judges"
        )))  # fmt: skip
    return made


def _more(found: Report) -> str:
    """How many choices would tell this accuracy from a coin's, where any number would."""
    lead, n = found["accuracy"]["mean"] - 0.5, found["choices"]
    if lead < 0.03:
        return "its picks are as good as blind ones; train it on choices of this task or take other scorers"
    # The interval's half-width shrinks with the root of the number of choices.
    need = math.ceil(n * ((found["accuracy"]["mean"] - found["accuracy"]["low"]) / lead) ** 2 * 1.1)
    return f"collect about {max(need - n, 1)} more choices, or a reward that agrees more"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(stat: Mapping[str, float]) -> str:
    return f"{stat['mean']:.3f} [{stat['low']:.3f}, {stat['high']:.3f}]"
