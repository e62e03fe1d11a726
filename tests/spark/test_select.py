"""Select on the fake engine: k from the reward's own peak, no training where it never rises, rows of each algorithm."""

from typing import Any

import pytest

from taolake import lake, stages
from taolake.stages import evaluate, generate, learned, reward, score, select
from taolake.stages.round import Round
from taolake.trust import TrustError
from tests.projects import changed, copied

SCORERS = [
    {"kind": "regex", "name": "two", "pattern": "select 2"},
    {"kind": "regex", "name": "one", "pattern": "select 1"},
    {"kind": "regex", "name": "judge", "pattern": "select 2 *$"},
]


@pytest.fixture(scope="module")
def generated(fake_round: Round, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """Where all of them run: what is upstream of a changed section is done once."""
    return copied(fake_round, tmp_path_factory.mktemp("select"))


def with_reward(generated: Round, weights: dict[str, float], **sections: Any) -> Round:
    reward = {"weights": weights, "min_spread": 0.0}
    return Round(generated.lake, changed(generated.project, scorers=SCORERS, reward=reward, **sections))


def upto_select(round_: Round) -> Round:
    for name in ("ingest", "generate", "label", "score", "reward", "trust", "select"):
        stages.run(round_, name)
    return round_


@pytest.mark.slow  # a whole round; the arithmetic is in test_peak
def test_a_reward_that_finds_right_answers_sets_k(generated: Round) -> None:
    select = {"measured_by": "judge", "best_of": 6}
    round_ = upto_select(with_reward(generated, {"two": 1.0}, select=select))
    found = round_.done("select").detail["best_of"]
    assert 2 <= found["k"] <= 6 and found["measured_by"] == "judge" and found["rise"]["low"] > 0
    means = [point["mean"] for point in found["points"]]
    assert means == sorted(means) and len(means) == 6
    wanted = round_.lake.read(lake.CANDIDATES).where("stream = 'A' and status = 'ok'")
    train = {r["prompt_id"] for r in round_.lake.read(lake.PROMPTS).where("split = 'train'").collect()}
    texts = [r["text"] for r in wanted.collect() if r["prompt_id"] in train]
    assert means[0] == pytest.approx(texts.count("select 2") / len(texts))


def test_without_choices_nothing_can_be_measured_by_people(generated: Round) -> None:
    with pytest.raises(TrustError, match="best-of-k cannot be measured: people has no word"):
        upto_select(with_reward(generated, {"two": 1.0}, select={"measured_by": "people"}))


@pytest.mark.parametrize(
    ("algorithm", "kinds"), [("dpo", {"chosen", "rejected"}), ("kto", {"good", "bad"}), ("bond", {"regress"})]
)
def test_rows_of_each_algorithm_are_in_the_table(generated: Round, algorithm: str, kinds: set[str]) -> None:
    round_ = upto_select(with_reward(generated, {"two": 1.0}, train={"algorithm": algorithm}))
    rows = round_.lake.rows(lake.SELECTIONS, selection=round_.done("select").detail["selection"])
    assert {row["kind"] for row in rows} == kinds and len({row["row_id"] for row in rows}) == len(rows)
    if algorithm == "dpo":
        sides = {kind: {r["prompt_id"] for r in rows if r["kind"] == kind} for kind in kinds}
        assert sides["chosen"] == sides["rejected"] and all(row["weight"] == 1.0 for row in rows)
        assert {row["text"] for row in rows if row["kind"] == "chosen"} == {"select 2"}


@pytest.mark.slow
def test_a_reward_that_never_rises_ends_the_round_with_what_was_measured(generated: Round) -> None:
    round_ = with_reward(generated, {"one": 1.0}, select={"measured_by": "judge"})
    with pytest.raises(TrustError, match="it never rises above one answer; mend the reward"):
        upto_select(round_)
    record = round_.records()["select"]
    assert record.state == "failed" and record.detail["best_of"]["k"] == 1
    assert record.detail["best_of"]["points"][-1]["mean"] < record.detail["best_of"]["points"][0]["mean"]


def test_the_same_project_with_other_rewards_makes_another_selection(
    generated: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `taolake label import`: the file is what it was, and a reward model has learned something else."""
    from pyspark.sql import functions as f

    round_ = upto_select(with_reward(generated, {"two": 1.0}, train={"algorithm": "rft"}))
    before = round_.done("select").detail
    assert learned.reads(round_.lake, round_.number, before["selection"])
    assert select.select(round_).detail == before  # nothing has changed: the same name, and nothing is written twice
    told, flipped = reward.current, (1 - f.col("reward")).alias("reward")

    def other(*given: Any) -> Any:
        rows = told(*given)
        return rows.select(*(flipped if name == "reward" else name for name in rows.columns))

    monkeypatch.setattr(reward, "current", other)
    after = select.select(round_).detail
    assert after["selection"] != before["selection"]
    rows = [round_.lake.rows(lake.SELECTIONS, selection=found["selection"]) for found in (before, after)]
    texts = [{row["text"] for row in some} for some in rows]
    assert texts[0] == {"select 2"} and "select 2" not in texts[1] and texts[1]


def test_new_holdout_prompts_are_measured_by_the_same_project(generated: Round) -> None:
    from pyspark.sql import functions as f

    round_ = with_reward(generated, {"two": 1.0}, train={"algorithm": "rft"})
    for name in ("ingest", "generate", "label", "score", "reward"):
        stages.run(round_, name)
    first = evaluate.compare(round_, round_.base, round_.base).detail
    assert first == evaluate.compare(round_, round_.base, round_.base).detail
    held = round_.lake.read(lake.PROMPTS).where("split = 'train'").limit(1).withColumn("split", f.lit("holdout"))
    round_.lake.merge(lake.PROMPTS, held)
    generate.fill(round_, round_.base, generate.holdout_cells(round_.project))
    score.fill(round_, round_.base)
    reward.fill(round_, round_.base)
    second = evaluate.compare(round_, round_.base, round_.base).detail
    assert second["evaluation"] != first["evaluation"] and second["prompts"] == first["prompts"] + 1
