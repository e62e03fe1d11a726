"""Generate to select on the fake engine: ledgers, groups, laws; everything but the model is real."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from taolake import ids, lake, stages
from taolake.config import Cost
from taolake.stages import cap, score
from taolake.stages.round import Round
from tests.projects import changed, copied, fake_project, open_round, write_log

QUESTIONS = [f"question {i}" for i in range(24)]
UP_TO_SELECT = ("ingest", "generate", "label", "score", "reward", "trust", "select")


@pytest.fixture(scope="module")
def with_gold(fake_round: Round, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """The same round with right labels for its evaluation, run anew in this session."""
    folder = tmp_path_factory.mktemp("gold")
    lines = [{"messages": [{"role": "user", "content": q}], "answer": "select 1"} for q in QUESTIONS]
    (folder / "gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    gold = {"path": str(folder / "gold.jsonl"), "compare": "exact"}
    evaluate = {"samples": 4, "judge": "judge", "gold": gold}
    project = changed(fake_round.project, evaluate=evaluate, lake=str(folder / "lake"))
    round_ = open_round(fake_round.lake.spark, project)
    for name in UP_TO_SELECT:
        stages.run(round_, name)
    return round_


def test_every_cell_is_there_once(fake_round: Round) -> None:
    prompts = {r["prompt_id"]: r["split"] for r in fake_round.lake.read(lake.PROMPTS).collect()}
    rows = (
        fake_round.lake.read(lake.CANDIDATES)
        .select("prompt_id", "stream", "sample", "candidate_id", "strategy")
        .collect()
    )
    wanted = {(p, "A", i) for p, split in prompts.items() for i in range(6 if split == "train" else 4)}
    wanted |= {(p, "G", 0) for p, split in prompts.items() if split == "holdout"}
    assert {(r["prompt_id"], r["stream"], r["sample"]) for r in rows} == wanted
    assert len(rows) == len(wanted)
    for row in rows:
        assert row["candidate_id"] == ids.candidate_id(
            row["prompt_id"], fake_round.base.id, row["strategy"], row["sample"]
        )


def test_nothing_stays_cached(with_gold: Round) -> None:
    """A frame kept after its stage would fill the memory of a long session, one stage after the other."""
    assert with_gold.lake.spark._jsparkSession.sharedState().cacheManager().isEmpty()


def test_a_poison_prompt_is_error_rows_and_nothing_else(fake_round: Round) -> None:
    rows = fake_round.lake.read(lake.CANDIDATES).where(f.col("status") != "ok").collect()
    poisoned = ids.prompt_id("count", [{"role": "user", "content": "question 7"}])
    assert {r["prompt_id"] for r in rows} == {poisoned}
    assert all(r["text"] is None and "poison" in r["error"] for r in rows)
    scores = fake_round.lake.read(lake.SCORES).where((f.col("prompt_id") == poisoned) & (f.col("scorer") == "query"))
    assert {(r["value"], r["status"]) for r in scores.collect()} == {(None, "error")}


def test_scores_are_one_row_a_candidate_scorer_and_version(fake_round: Round) -> None:
    scores = fake_round.lake.read(lake.SCORES)
    assert scores.count() == scores.select("candidate_id", "scorer", "scorer_version").distinct().count()
    counts = {r["scorer"]: r["count"] for r in scores.groupBy("scorer").count().collect()}
    candidates = fake_round.lake.read(lake.CANDIDATES)
    sampled = candidates.where(f.col("stream") != "G").count()
    assert counts == {"query": candidates.count(), "judge": candidates.count(), "agrees": sampled}


def test_equal_answers_to_a_prompt_are_looked_at_once(fake_round: Round, tmp_path: Path) -> None:
    """By any verifier; each candidate still has a row of its own."""
    said = {"kind": "function", "name": "said", "target": "tests.spark.test_stages:tell"}
    said |= {"options": {"path": str(tmp_path / "asked")}}
    round_ = copied(fake_round, tmp_path, scorers=[*fake_round.project.scorers, said])
    score.score(round_)
    rows = round_.lake.read(lake.SCORES).where("scorer = 'said' AND value IS NOT NULL").count()
    mine = round_.lake.read(lake.CANDIDATES).where("text IS NOT NULL")
    different = mine.select("prompt_id", "text").distinct().count()
    assert different < rows == mine.count()
    assert len((tmp_path / "asked").read_text().splitlines()) == different


def tell(messages: object, answer: str, path: str) -> float:
    """A verifier that says it was asked."""
    with Path(path).open("a") as file:
        file.write(answer + "\n")
    return 1.0


def test_agreement_is_the_share_of_the_own_group(fake_round: Round) -> None:
    scores = fake_round.lake.read(lake.SCORES).where(f.col("scorer") == "agrees").collect()
    groups: dict[str, list[tuple[str | None, float | None]]] = {}
    for row in scores:
        groups.setdefault(row["prompt_id"], []).append((row["answer_key"], row["value"]))
    assert groups
    for members in groups.values():
        keys = [key for key, _ in members if key is not None]
        for key, value in members:
            assert value == (None if key is None else pytest.approx(keys.count(key) / len(keys)))


def test_the_trainer_sees_train_prompts_alone(fake_round: Round) -> None:
    splits = {r["prompt_id"]: r["split"] for r in fake_round.lake.read(lake.PROMPTS).collect()}
    rows = fake_round.lake.read(lake.SELECTIONS).collect()
    assert {splits[r["prompt_id"]] for r in rows} == {"train"}
    assert {r["kind"] for r in rows} == {"imitate", "regress"}
    imitated = [r for r in rows if r["kind"] == "imitate"]
    assert all(r["text"].startswith("select") for r in imitated)
    # Advantages of one prompt are its rewards less one number.
    by_prompt: dict[str, set[float]] = {}
    for r in (r for r in rows if r["kind"] == "regress"):
        by_prompt.setdefault(r["prompt_id"], set()).add(round(r["reward"] - r["advantage"], 9))
    assert by_prompt
    assert all(len(values) == 1 for values in by_prompt.values())


def test_a_second_run_does_nothing(fake_round: Round) -> None:
    before = {t.name: fake_round.lake.version(t) for t in lake.TABLES}
    assert [stages.run(fake_round, name)[1] for name in ("ingest", "generate", "score", "reward", "select")] == [
        False
    ] * 5
    assert {t.name: fake_round.lake.version(t) for t in lake.TABLES} == before


def test_a_stage_before_its_turn_says_what_to_run(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", QUESTIONS)
    round_ = open_round(spark, fake_project(tmp_path))
    with pytest.raises(
        RuntimeError, match="stage 'ingest' of round 1 is never started; run `taolake stage ingest` first"
    ):
        stages.run(round_, "generate")


@pytest.mark.slow  # through all stages what test_ledger asks of one
def test_more_samples_compute_only_what_is_new(spark: SparkSession, tmp_path: Path) -> None:
    """N from 6 to 8, and other engines on other numbers of tasks: old rows stay, seeds belong to rows."""
    write_log(tmp_path / "log.jsonl", QUESTIONS)
    small = open_round(spark, fake_project(tmp_path))
    for name in ("ingest", "generate"):
        stages.run(small, name)
    before = {r["candidate_id"]: r["chunk_id"] for r in small.lake.read(lake.CANDIDATES).collect()}
    three = {"kind": "fake", "answers": ["select 1", "select 2", "dunno"], "devices": 3}
    grown = {"n": 8, "review_n": 0, "strategies": [{"name": "plain", "share": 1}]}
    large = open_round(spark, fake_project(tmp_path, generate=grown, engine=three))
    outcome, _ = stages.run(large, "generate")
    after = {r["candidate_id"]: r["chunk_id"] for r in large.lake.read(lake.CANDIDATES).collect()}
    train = large.lake.read(lake.PROMPTS).where(f.col("split") == "train").count()
    assert outcome.rows == len(after) - len(before) == 2 * train
    assert before.items() <= after.items()
    fresh = open_round(spark, fake_project(tmp_path, generate=grown, lake=str(tmp_path / "other")))
    for name in ("ingest", "generate"):
        stages.run(fresh, name)
    texts = [{r["candidate_id"]: r["text"] for r in x.lake.read(lake.CANDIDATES).collect()} for x in (large, fresh)]
    assert texts[0] == texts[1]


def test_gold_changes_nothing_that_is_trained_on(fake_round: Round, with_gold: Round) -> None:
    """Law 4, held by running: with right labels and with none at all the training set has one hash."""
    rows = [each.lake.read(lake.SELECTIONS) for each in (fake_round, with_gold)]
    assert rows[0].count() > 0
    hashes = [fake_round.lake.content_id(each, *[c for c in each.columns if c != "messages"]) for each in rows]
    assert hashes[0] == hashes[1]


@pytest.mark.slow  # two runs of generate in small chunks, for a path that tests/unit/test_cost.py counts by hand
def test_a_round_stops_at_its_price_and_goes_on_when_that_is_raised(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour passes between two looks at the clock, and an hour costs a dollar."""
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(cap, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    write_log(tmp_path / "log.jsonl", QUESTIONS[:12])
    generate = {"n": 6, "review_n": 0, "chunk_rows": 8, "strategies": [{"name": "plain", "share": 1}]}
    poor = fake_project(tmp_path, generate=generate, cost={"dollars_per_hour": 1.0, "max_dollars": 3.5})
    stages.run(open_round(spark, poor), "ingest")
    with pytest.raises(RuntimeError, match=r"has cost 4\.0\d of 3\.50 dollars; raise cost\.max_dollars"):
        stages.run(open_round(spark, poor), "generate")
    rich = open_round(spark, poor.model_copy(update={"cost": Cost(dollars_per_hour=1.0)}))
    assert rich.records()["generate"].state == "failed"
    early = {row["candidate_id"]: row["text"] for row in rich.lake.read(lake.CANDIDATES).collect()}
    outcome, ran = stages.run(rich, "generate")
    rows = rich.lake.read(lake.CANDIDATES).collect()
    assert ran and 0 < len(early) < len(rows)
    assert len(rows) == len({row["candidate_id"] for row in rows}) == outcome.detail["candidates"]
    assert {row["candidate_id"]: row["text"] for row in rows if row["candidate_id"] in early} == early
    assert rich.done("ingest").state == "done"
