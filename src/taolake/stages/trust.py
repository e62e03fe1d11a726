"""Trust: does the reward deserve to train a model? Held against people's choices that no training saw.

The reward and every scorer are measured with `taolake.trust`; the numbers go into the stage's row of `rounds`, and a
reward beyond a limit of the project file ends the round here. Calibration is measured crosswise: each half of the
prompts is read with the map fitted on the other. Nothing is trained or written but that row.
"""

import json
from typing import Any

from taolake import lake, scoring
from taolake.config import FunctionScorer, RewardModelScorer, ScorerSpec
from taolake.selection.calibrate import Calibration
from taolake.stages import choices, groups, reward, score
from taolake.stages.round import Outcome, Round
from taolake.trust import TrustError
from taolake.trust.biases import Swapped
from taolake.trust.findings import Finding, findings, report
from taolake.trust.sample import Draws, Pair
from taolake.types import Score

Said = dict[str, tuple[float | None, dict[str, Any]]]  # candidate to value and detail, its prompt among it

_AGAIN = 400  # candidates scored a second time, at most


def trust(round_: Round) -> Outcome:
    """Measure the reward and every scorer.

    Raises:
        TrustError: the reward is beyond a limit of `trust`, or choices are required and missing; it carries the detail.
    """
    spec = round_.project.trust
    made = choices.made(round_)
    pairs = choices.kept_out(made, choices.reward_models(round_))
    acts = len({(p.prompt, p.choice, p.annotator) for p in pairs})
    detail: dict[str, Any] = {"choices": acts, "pairs": len(pairs), "prompts": len({p.prompt for p in pairs})}
    if acts < spec.min_choices:
        detail |= {"measured": False, "trusted": not spec.required, "says": _too_few(round_, acts)}
        if spec.required:
            raise TrustError(detail["says"], detail)
        return Outcome(0, 0, detail)
    measured = _reward(round_, pairs, acts)
    against = findings(measured, spec)
    detail |= _headline(measured, against)
    detail["reward"] = measured | {"findings": _rows(against)}
    said = _said(round_)
    scored = [each for each in round_.project.scorers if each.name in said]
    detail["scorers"] = [_scorer(round_, each, made, said[each.name]) for each in scored]
    refused = [f.says for f in against if f.refuses]
    parts = [each for each in detail["scorers"] if each["trains"]]
    refused += [f"{each['name']}: {f['says']}" for each in parts for f in each["findings"] if f["refuses"]]
    if measured["choices"] < spec.min_choices:  # a reward that keeps silent has shown nothing, whatever it got right
        silent = _too_few(round_, acts, measured["choices"])
        detail |= {"measured": False, "says": silent}
        refused += [silent] if spec.required else []
    detail |= {"trusted": not refused, "says": "; ".join(refused) or detail["says"]}
    if refused:
        raise TrustError(f"the reward is not to be trusted: {'; '.join(refused)}", detail)
    return Outcome(0, 0, detail)


def _reward(round_: Round, pairs: list[Pair], acts: int) -> dict[str, Any]:
    """The combined reward, on the pairs that neither it nor a part of it trained on."""
    rule = round_.project.reward
    kind = rule.calibrate if acts >= rule.min_choices else "none"
    return report(pairs, reward.plain_values(round_), _draws(round_), kind)


def _scorer(round_: Round, spec: ScorerSpec, made: list[Pair], said: Said) -> dict[str, Any]:
    """One scorer by itself, with its own part of the choices."""
    models = [spec] if isinstance(spec, RewardModelScorer) else []
    pairs = choices.kept_out(made, models)
    values = {name: value for name, (value, _) in said.items()}
    # A reward model's values are logits: a Bradley-Terry model claims the logistic function of their difference.
    claims = Calibration("platt", 0, (1.0,)) if models else None
    rule, again = round_.project.reward, _again(round_, spec, pairs)
    measured = report(pairs, values, _draws(round_), rule.calibrate, claims, _swapped(said), again)
    # A verifier alone is no taste: that it ties most pairs is its nature. Limits are the reward's, but for steadiness.
    against = [] if spec.name in rule.require else findings(measured, round_.project.trust)
    against = [f._replace(refuses=f.refuses and f.measure in ("flips", "noise")) for f in against]
    trains = spec.name in rule.reads and spec.name != rule.conflict_with
    return {"name": spec.name, "kind": spec.kind, "trains": trains, **measured, "findings": _rows(against)}


def _said(round_: Round) -> dict[str, Said]:
    """Every scorer's current word on the base's answers to prompts that people chose on."""
    from pyspark.sql import functions as f

    versions = round_.lake.spark.createDataFrame(list(score.versions(round_).items()), "scorer STRING, prefix STRING")
    reviewed = round_.lake.read(lake.PREFERENCES).select("prompt_id").distinct()
    group = groups.sampled(round_, round_.base).join(reviewed, "prompt_id", "left_semi")
    rows = round_.lake.read(lake.SCORES).join(group.select("candidate_id", "group"), "candidate_id")
    rows = rows.join(f.broadcast(versions), "scorer")
    # Given to the candidate alone, or in its group as it is now.
    right = f.col("scorer_version").isin(f.col("prefix"), f.concat_ws("@", "prefix", "group"))
    found: dict[str, Said] = {}
    for row in rows.where(right).select("scorer", "candidate_id", "prompt_id", "value", "detail").collect():
        detail = {**json.loads(row["detail"] or "{}"), "prompt": row["prompt_id"]}
        found.setdefault(row["scorer"], {})[row["candidate_id"]] = (row["value"], detail)
    return found


def _swapped(said: Said) -> list[Swapped]:
    """A pairwise judge's flips; each comparison was noted on both of its answers, so everything is halved."""
    return [
        Swapped(detail["prompt"], detail["pairs"] / 2, detail["flips"] / 2, _half(detail.get("first")))
        for _, detail in said.values()
        if isinstance(detail.get("flips"), int | float) and isinstance(detail.get("pairs"), int | float)
    ]


def _half(value: object) -> float | None:
    return value / 2 if isinstance(value, int | float) else None


def _again(round_: Round, spec: ScorerSpec, pairs: list[Pair]) -> Any:
    """A second run of a user's function, where the project limits noise; a judge's answers are cached, and paid."""
    if round_.project.trust.max_noise is None or not isinstance(spec, FunctionScorer):
        return None
    from pyspark.sql import functions as f

    texts = {name: text for p in pairs for name, text in ((p.chosen, p.chosen_text), (p.rejected, p.rejected_text))}
    some = dict(sorted(texts.items())[:_AGAIN])
    prompts = {name: p.prompt for p in pairs for name in (p.chosen, p.rejected)}
    rows = round_.lake.read(lake.PROMPTS).where(f.col("prompt_id").isin(sorted({prompts[name] for name in some})))
    asked = {
        r["prompt_id"]: [m.asDict() for m in r["messages"]] for r in rows.select("prompt_id", "messages").collect()
    }
    judge = scoring.build(spec)
    given: dict[str, Score] = {name: judge(asked[prompts[name]], text) for name, text in some.items()}
    return lambda name: given[name].value if name in given else None


def _headline(measured: dict[str, Any], against: list[Finding]) -> dict[str, Any]:
    """What a table of stages shows of the report."""
    found: dict[str, Any] = {"measured": True, "findings": len(against)}
    if "accuracy" in measured:
        error = measured[f"ece_{measured['used']}"]
        found |= {"accuracy": measured["accuracy"]["mean"], "kappa": measured["kappa"]["mean"]}
        found |= {"ece": error["mean"]} if error else {}
    return found | {"says": "; ".join(f.says for f in against) or "nothing speaks against the reward"}


def _rows(against: list[Finding]) -> list[dict[str, Any]]:
    return [f._asdict() for f in against]


def _too_few(round_: Round, acts: int, told: int | None = None) -> str:
    """What is missing: choices, or the reward's word on them."""
    wanted = round_.project.trust.min_choices
    models = choices.reward_models(round_)
    kept = f", on prompts that {', '.join(m.name for m in models)} keeps out of its training" if models else ""
    if told is not None:
        return (
            f"the reward cannot be measured: of {acts} choices of people{kept} it has an opinion on {told}, and "
            f"trust.min_choices is {wanted}; see `taolake tables rewards` for why it abstains"
        )
    return (
        f"the reward cannot be measured: {acts} choices of people{kept}, and trust.min_choices is {wanted}; collect "
        f"{wanted - acts} more there (`taolake label`), or import some"
    )


def _draws(round_: Round) -> Draws:
    return Draws(round_.project.evaluate.resamples, round_.project.seed)
