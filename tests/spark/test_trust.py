"""Trust, calibration and the curve's guard on local tables: who is measured, what refuses, what depends on what."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from taolake import ids, lake, stages
from taolake.config import RewardModelScorer
from taolake.report import trust as page
from taolake.stages import choices, gate, generate, groups, ingest, reward, score, trust
from taolake.stages.round import Round
from taolake.trust import TrustError
from tests.projects import fake_project, open_round, write_log

REVIEWED = 30
WORTH = {"select 2": 2, "select 1": 1, "dunno": 0}
SCORERS = [
    {"kind": "regex", "name": "query", "pattern": r"select (\d)"},
    {"kind": "agreement", "name": "agrees", "over": "query"},
    {"kind": "regex", "name": "right", "pattern": "select 2"},
    {"kind": "regex", "name": "wrong", "pattern": "dunno"},
    {"kind": "regex", "name": "judge", "pattern": "2$"},
]
GOOD = {"weights": {"query": 0.5, "right": 0.5}, "min_scored": 2}
BAD = {"weights": {"wrong": 1.0}, "min_scored": 2}

Made = Callable[..., Round]


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with answers to prompts of all three splits, and people's choices on most of the review prompts."""
    folder = tmp_path_factory.mktemp("trust")
    write_log(folder / "log.jsonl", [f"question {i}" for i in range(12)])
    write_log(folder / "review.jsonl", [f"shown {i}" for i in range(REVIEWED + 4)])
    round_ = project_round(spark, folder)
    ingest.ingest(round_)
    generate.generate(round_)
    choose(round_, REVIEWED)
    score.score(round_)
    return folder


def project_round(spark: SparkSession, folder: Path, **changes: Any) -> Round:
    sources = [{"format": "jsonl", "path": str(folder / "log.jsonl")}]
    sources += [{"format": "jsonl", "path": str(folder / "review.jsonl"), "split": "review"}]
    fixed: dict[str, Any] = {
        "ingest": {"holdout": 0.3, "sources": sources},
        "generate": {"n": 6, "review_n": 6, "chunk_rows": 500, "strategies": [{"name": "plain", "share": 1}]},
        "scorers": SCORERS,
        "reward": GOOD,
        "evaluate": {"samples": 4, "judge": "judge", "resamples": 200},
    }
    return open_round(spark, fake_project(folder, **(fixed | changes)))


@pytest.fixture
def made(spark: SparkSession, folder: Path) -> Made:
    """A round on that lake with some sections replaced, up to its rewards."""

    def make(**changes: Any) -> Round:
        round_ = project_round(spark, folder, **changes)
        reward.reward(round_)
        return round_

    return make


def choose(round_: Round, prompts: int, annotator: str = "ann") -> None:
    """Someone takes the best answer of the first prompts, by a rule all agree on; one mistake in ten."""
    rows = round_.lake.read(lake.CANDIDATES).join(
        round_.lake.read(lake.PROMPTS).where(f.col("split") == "review").select("prompt_id"), "prompt_id"
    )
    shown: dict[str, dict[str, str]] = {}
    for row in rows.orderBy("prompt_id", "candidate_id").collect():
        shown.setdefault(row["prompt_id"], {}).setdefault(row["text"], row["candidate_id"])
    said = []
    for number, (prompt, answers) in enumerate(sorted(shown.items())[:prompts]):
        best = (max if number % 10 else min)(answers, key=lambda text: WORTH[text])
        said += [
            {
                "prompt_id": prompt, "chosen": answers[best], "rejected": answers[other], "annotator": annotator,
                "choice": f"{annotator}{number}", "kind": "best_of", "task": "count",
            }
            for other in answers
            if other != best
        ]  # fmt: skip
    blank = dict.fromkeys(lake.PREFERENCES.schema().names)
    frame = round_.lake.spark.createDataFrame([blank | row for row in said], lake.PREFERENCES.schema())
    round_.lake.insert_new(lake.PREFERENCES, frame)


def splits_of(round_: Round, rows: Any) -> dict[str, int]:
    prompts = round_.lake.read(lake.PROMPTS).select("prompt_id", "split")
    found = rows.select("prompt_id").distinct().join(prompts, "prompt_id").groupBy("split").count().collect()
    return {r["split"]: r["count"] for r in found}


def test_review_prompts_are_scored_where_people_chose(made: Made) -> None:
    round_ = made()
    scored = splits_of(round_, groups.sampled(round_, round_.base))
    assert scored["review"] == len({p.prompt for p in choices.made(round_)}) <= REVIEWED
    assert splits_of(round_, round_.lake.read(lake.SCORES)) == scored
    assert splits_of(round_, reward.current(round_, round_.base)) == scored


def test_a_good_reward_passes_with_its_numbers(made: Made, tmp_path: Path) -> None:
    round_ = made()
    detail = trust.trust(round_).detail
    assert detail["trusted"] and detail["measured"] and 20 <= detail["choices"] <= REVIEWED
    assert 0.8 < detail["reward"]["accuracy"]["mean"] == detail["accuracy"] < 1
    assert json.loads(json.dumps(detail, allow_nan=False)) == detail
    named = {each["name"]: each for each in detail["scorers"]}
    assert sorted(named) == ["agrees", "judge", "query", "right", "wrong"]
    assert named["wrong"]["accuracy"]["high"] < 0.5 < named["right"]["accuracy"]["low"]
    assert (named["right"]["trains"], named["wrong"]["trains"]) == (True, False)
    assert not any(f["refuses"] for f in named["wrong"]["findings"]), "it is no part of the reward"
    with pytest.raises(RuntimeError, match="taolake stage trust"):
        page.write(round_, tmp_path)


@pytest.mark.slow
def test_the_same_tables_give_the_same_detail(made: Made) -> None:
    assert trust.trust(made()).detail == trust.trust(made()).detail


def test_a_reward_people_disagree_with_ends_the_round(made: Made) -> None:
    with pytest.raises(TrustError, match=r"pairwise accuracy is 0\.\d+ .* limit 0\.5\): its picks") as caught:
        trust.trust(made(reward=BAD))
    assert caught.value.detail["trusted"] is False and caught.value.detail["reward"]["findings"][0]["refuses"]


@pytest.mark.parametrize("required", [False, True])
def test_choices_that_a_reward_keeps_silent_on_do_not_count(made: Made, required: bool) -> None:
    """It likes `select 2` alone: of prompts without one it has no opinion, and people chose there too."""
    picky = {"weights": {"right": 1.0}, "min_scored": 2}
    found = trust.trust(made(reward=picky)).detail
    told = found["reward"]["choices"]
    assert found["measured"] and 20 <= told < found["choices"]
    round_ = made(reward=picky, trust={"required": required, "min_choices": found["choices"]})
    if required:
        with pytest.raises(TrustError, match=rf"has an opinion on {told}, and trust\.min_choices is"):
            trust.trust(round_)
        return
    detail = trust.trust(round_).detail
    assert (detail["measured"], detail["trusted"]) == (False, True)
    assert f"has an opinion on {told}, and" in detail["says"]


@pytest.mark.parametrize("required", [False, True])
def test_too_few_choices(made: Made, required: bool) -> None:
    round_ = made(trust={"required": required, "min_choices": 99})
    if required:
        with pytest.raises(TrustError, match=r"trust.min_choices is 99; collect \d+ more"):
            trust.trust(round_)
    else:
        assert trust.trust(round_).detail["measured"] is False


def test_prompts_a_reward_model_trained_on_are_left_out(made: Made) -> None:
    round_ = made()
    model = RewardModelScorer.model_validate({"kind": "reward_model", "name": "liked", "eval_share": 0.4})
    every = choices.made(round_)
    kept = choices.kept_out(every, [model])
    wanted = {p.prompt for p in every if ids.unit_interval("reward-eval", p.prompt) < 0.4}
    assert {p.prompt for p in kept} == wanted and 0 < len(wanted) < len({p.prompt for p in every})
    assert {p.chosen_text for p in every} <= WORTH.keys() and {p.chosen_policy for p in every} == {round_.base.id}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibrated_rewards_are_chances(made: Made, kind: str) -> None:
    round_ = made(reward=GOOD | {"calibrate": kind, "min_choices": 10, "require": ["query"]})
    rows = reward.current(round_, round_.base)
    found = {(r["text"], r["reward"] == 0) for r in rows.where(f.col("reward").isNotNull()).collect()}
    assert {text for text, zero in found if zero} == {"dunno"} and ("dunno", False) not in found
    values = [r["reward"] for r in rows.where("text = 'select 2' AND reward IS NOT NULL").collect()]
    assert values and min(values) >= 0.5 and max(values) < 1
    assert reward.version(round_) != reward.plain_version(round_)
    assert trust.trust(round_).detail["reward"]["used"] == "after"


@pytest.mark.slow
def test_too_few_choices_leave_the_weighted_mean(made: Made) -> None:
    round_ = made(reward=GOOD | {"calibrate": "platt", "min_choices": 200})
    assert reward.version(round_) == reward.plain_version(round_)
    assert reward.reward(round_).detail["calibration"] == "identity"


@pytest.mark.slow
def test_the_version_follows_the_choices_and_a_second_run_writes_nothing(made: Made) -> None:
    round_ = made(reward=GOOD | {"calibrate": "platt", "min_choices": 10})
    before, rows = reward.version(round_), round_.lake.read(lake.REWARDS).count()
    assert reward.reward(round_).rows == 0 and round_.lake.read(lake.REWARDS).count() == rows
    choose(round_, 12, "bob")
    assert reward.version(round_) != before


@pytest.mark.slow
def test_a_function_that_changes_its_mind_is_refused(made: Made) -> None:
    moody = {"kind": "function", "name": "moody", "target": "tests.spark.test_trust:moody"}
    round_ = made(scorers=[*SCORERS, moody], trust={"max_noise": 0.1}, reward=GOOD)
    score.score(round_)
    found = {each["name"]: each for each in trust.trust(round_).detail["scorers"]}
    assert found["right"]["noise"] is None, "a rule is not asked twice"
    assert found["moody"]["noise"]["mean"] > 0.3
    assert [f["measure"] for f in found["moody"]["findings"] if f["refuses"]] == ["noise"]


def moody(messages: object, answer: str) -> float:
    """A coin in place of a judge."""
    return random.random()


def test_the_gate_refuses_a_gamed_reward(spark: SparkSession, tmp_path: Path) -> None:
    round_ = open_round(spark, fake_project(tmp_path, evaluate={"samples": 4, "judge": "judge", "resamples": 300}))
    prompts = [f"{i:032x}" for i in range(30)]
    greedy = {"greedy_tokens": 9.0, "greedy_truncated": 0.0, "samples": 4.0, "correct": 2.0}
    falls = {f"proxy_at_{k}": 0.4 + k / 10 for k in (1, 2, 4)} | {f"gate_at_{k}": 0.7 - k / 10 for k in (1, 2, 4)}
    metrics = {"b": greedy | {"greedy": 0.2} | falls, "t": greedy | {"greedy": 0.9}}
    rows = [("e", who, p, m, v) for who, found in metrics.items() for p in prompts for m, v in found.items()]
    round_.lake.append_once(lake.EVALUATIONS, spark.createDataFrame(rows, lake.EVALUATIONS.schema()), "by hand")
    book(round_, "evaluate", {"evaluation": "e", "base": "b", "tuned": "t"})
    detail = gate.gate(round_).detail
    assert detail["gain"]["mean"] == pytest.approx(0.7) and not detail["promoted"]
    assert "over_optimisation is 0.3, limit 0.02" in detail["reason"]
    assert "over-optimised, as it loses 0.300 from 1 to 4 attempts" in detail["curve"]


@pytest.mark.slow
def test_the_page_is_made_from_the_row_of_a_refused_round_too(made: Made, tmp_path: Path) -> None:
    round_ = made(reward=BAD)
    with pytest.raises(TrustError) as caught:
        trust.trust(round_)
    book(round_, "trust", {**caught.value.detail, "error": "TrustError"}, "failed")
    written = page.write(round_, tmp_path / "report")
    assert sorted(p.name for p in written.parent.iterdir()) == ["trust.html", "trust.json"]
    assert "and is refused" in written.read_text() and json.loads((written.parent / "trust.json").read_text())["reward"]


def book(round_: Round, stage: str, detail: dict[str, Any], state: str = "done") -> None:
    row = dict.fromkeys(lake.ROUNDS.schema().names) | {
        "round": 1, "stage": stage, "state": state, "detail": json.dumps(detail),
        "fingerprint": stages.fingerprints(round_.project).get(stage, ""),
    }  # fmt: skip
    round_.lake.merge(lake.ROUNDS, round_.lake.spark.createDataFrame([row], lake.ROUNDS.schema()))


@pytest.mark.slow
def test_prompts_on_which_a_scorer_from_outside_contradicts_are_not_rewarded(made: Made) -> None:
    held = {**GOOD, "conflict_with": "wrong"}  # it likes what the reward likes least
    round_ = made(reward=held)
    shown = {r["prompt_id"] for r in groups.sampled(round_, round_.base).where("text = 'dunno'").collect()}
    rows = reward.current(round_, round_.base).collect()
    assert {r["prompt_id"] for r in rows if r["reason"] == "conflict"} == shown != set()
    assert all((r["reward"] is None) == (r["prompt_id"] in shown or r["reason"] != "") for r in rows)
    assert reward.reward(round_).detail["abstained"]["conflict"] == len(shown)
    assert reward.version(round_) != reward.version(made())
    assert not next(s for s in trust.trust(round_).detail["scorers"] if s["name"] == "wrong")["trains"]
