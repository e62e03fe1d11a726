"""Across rounds, on rows written by hand: when the next one is due, what is seen again, cut, refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from taolake import ids, lake
from taolake.lake import Table
from taolake.stages import across, trigger
from taolake.stages.round import Round
from taolake.trust import TrustError
from tests.flywheel.traffic import request, write
from tests.projects import fake_project, open_round

LIMITS = {"min_new": 4, "min_different": 0.5, "max_self_made": 0.75, "replay": 0.5, "min_diversity": 0.6}


def frame(spark: SparkSession, table: Table, rows: list[dict[str, Any]]) -> DataFrame:
    empty = dict.fromkeys(table.schema().names)
    return spark.createDataFrame([empty | row for row in rows], table.schema())


def stage(number: int, name: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "round": number, "stage": name, "state": "done", "detail": json.dumps(detail, sort_keys=True), "reads": {},
        "started_at": datetime.now(UTC),
    }  # fmt: skip


def asked(round_: Round, numbers: range, words: str) -> list[dict[str, Any]]:
    """Requests for `words` with a number in it."""
    said = [[{"role": "user", "content": f"{words} {n}?"}] for n in numbers]
    return [
        request(1000 * len(words) + n, "tuned-1", "select 1", messages=m) for n, m in zip(numbers, said, strict=True)
    ]


def test_a_round_is_due_when_enough_that_is_new_and_different_came_in(spark: SparkSession, tmp_path: Path) -> None:
    round_ = open_round(spark, fake_project(tmp_path, flywheel=LIMITS))
    old = [{"role": "user", "content": "Orders of customer 1?"}]
    known = {"prompt_id": ids.prompt_id("count", [{"role": "user", "content": old[0]["content"]}]), "task": "count"}
    round_.lake.insert_new(lake.PROMPTS, frame(spark, lake.PROMPTS, [known | {"messages": old, "split": "train"}]))
    write(round_.lake, spark, asked(round_, range(1, 5), "Orders of customer"))
    found = trigger.trigger(round_).detail
    assert {key: found[key] for key in ("new", "different", "due", "next_round")} == {
        "new": 3, "different": 0, "due": False, "next_round": 1,
    }  # fmt: skip
    forbidden = asked(round_, range(20, 29), "A new kind of question that nobody may learn")
    write(
        round_.lake,
        spark,
        [*asked(round_, range(5, 8), "Stores in town"), *(r | {"consent": False} for r in forbidden)],
    )
    found = trigger.trigger(round_).detail
    assert (found["new"], found["different"], found["due"]) == (6, 3, True)
    assert found["says"] == "6 new prompts of 4 wanted, 3 unlike earlier ones"
    refused, kept = {"promoted": False}, {"promoted": True}
    for rows, number, open_ in (
        ([stage(1, "ingest", {})], 1, True),
        ([stage(1, "gate", kept)], 1, True),
        ([stage(1, "register", {})], 2, False),
        ([stage(2, "gate", refused)], 3, False),
    ):
        round_.lake.merge(lake.ROUNDS, frame(spark, lake.ROUNDS, rows))
        found = trigger.trigger(round_).detail
        assert (found["next_round"], found["unfinished"], found["due"]) == (number, open_, True)


@pytest.fixture(scope="module")
def second(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """Round 2 of a project; round 1 imitated ten answers of another policy, all different, and was promoted."""
    round_ = open_round(spark, fake_project(tmp_path_factory.mktemp("across"), flywheel=LIMITS), 2)
    won = [
        {"candidate_id": f"c{i}", "prompt_id": f"p{i}", "policy": "first", "strategy": "s", "sample": 0}
        for i in range(10)
    ]
    round_.lake.append_once(lake.CANDIDATES, frame(spark, lake.CANDIDATES, won), "by hand")
    seen = [row(1, i, f"answer {i}") | {"candidate_id": f"c{i}"} for i in range(10)]
    round_.lake.append_once(lake.SELECTIONS, frame(spark, lake.SELECTIONS, seen), "by hand")
    made = {"policy": "tuned", "model": "m", "revision": None, "adapter": None}
    books = [
        stage(1, "train", made),
        stage(1, "gate", {"promoted": True}),
        stage(1, "select", {"diversity": 1.0, "selection": "1"}),
    ]
    round_.lake.merge(lake.ROUNDS, frame(spark, lake.ROUNDS, books))
    return round_


def row(number: int, i: int, text: str) -> dict[str, Any]:
    shared = {"round": number, "row_id": f"r{number}-{i:03}", "selection": str(number), "kind": "imitate"}
    return shared | {"prompt_id": f"p{i}", "text": text, "weight": 1.0}


def mine(second: Round, count: int, text: str = "mine {}") -> DataFrame:
    rows = [row(2, i, text.format(i)) | {"candidate_id": f"m{i}"} for i in range(count)]
    return frame(second.lake.spark, lake.SELECTIONS, [*rows, row(2, 99, "") | {"kind": "regress"}])


def half_of(second: Round, count: int) -> DataFrame:
    """Every text twice: ten of forty rows hold eight or nine different ones."""
    rows = [row(2, i, f"mine {i // 2}") for i in range(count)]
    return frame(second.lake.spark, lake.SELECTIONS, rows)


def test_winners_of_earlier_rounds_are_seen_again(second: Round) -> None:
    rows, facts = across.balance(second, "new", mine(second, 8), 0)
    assert facts == {"replayed": 4, "self_made": 0}
    again = [r for r in rows.collect() if (r["candidate_id"] or "").startswith("c")]
    assert len(again) == 4
    assert all((r["round"], r["selection"], r["kind"]) == (2, "new", "imitate") for r in again)
    assert len({r["row_id"] for r in rows.collect()}) == rows.count() == 13
    repeated, _ = across.balance(second, "new", mine(second, 8), 0)
    assert sorted(repeated.collect()) == sorted(rows.collect())


def test_self_made_answers_are_cut_back_to_their_cap(second: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is what round 1 made: ten anchors allow thirty self-made answers at a cap of three quarters."""
    assert not across.starts_from_own(second)
    monkeypatch.setattr(across, "tuned_here", lambda round_: {1: {"policy": second.base.id}})
    assert across.starts_from_own(second)
    rows, facts = across.balance(second, "new", mine(second, 50), 0)
    assert facts == {"replayed": 10, "self_made": 30, "cut": 20}
    kinds = [(r["kind"], (r["candidate_id"] or "-")[0]) for r in rows.collect()]
    assert {each: kinds.count(each) for each in set(kinds)} == {
        ("imitate", "m"): 30, ("imitate", "c"): 10, ("regress", "-"): 1,
    }  # fmt: skip


def test_without_an_anchor_a_tuned_base_is_refused(second: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round 1's winners came from a model tuned here as well."""
    made = {0: {"policy": "first"}, 1: {"policy": second.base.id}}
    monkeypatch.setattr(across, "tuned_here", lambda round_: made)
    with pytest.raises(TrustError, match="starts from a model tuned here and has no anchor"):
        across.balance(second, "new", mine(second, 5), 0)
    _, facts = across.balance(second, "new", mine(second, 5), 1)
    assert facts == {"replayed": 0, "self_made": 3, "cut": 2}, "a label is an anchor"


def test_a_base_from_the_work_folder_was_tuned_here(second: Round) -> None:
    for folder, own in (("round-1/merged-0123", True), ("model", False)):
        model = second.project.model.model_copy(update={"path": f"{second.project.work}/{folder}"})
        project = second.project.model_copy(update={"model": model})
        assert across.starts_from_own(Round(second.lake, project, 2)) is own


def test_answers_that_become_alike_end_the_round(second: Round) -> None:
    assert across.diverse(second, mine(second, 10)) == 1.0
    with pytest.raises(TrustError, match=r"1 of 20 imitated .* a share of 0\.100 among 10 of them .* had 1\.000"):
        across.diverse(second, mine(second, 20, "always this"))
    assert across.diverse(second, half_of(second, 40)) == 0.5, "a larger round repeats itself more, and is as diverse"
    assert across.diverse(second, mine(second, 0)) is None


def test_the_best_so_far_is_the_newest_promoted(second: Round) -> None:
    best = across.best_so_far(second)
    assert best is not None and (best[0], best[1].id) == (1, "tuned")
    assert across.best_so_far(Round(second.lake, second.project, 1)) is None


def test_a_version_that_lost_to_the_best_trips_the_guard(second: Round) -> None:
    best = {f"p{i}": 1.0 for i in range(50)}
    same, worse = (
        across.guard(second, best, dict(best)),
        across.guard(second, best, best | {f"p{i}": 0.0 for i in range(5)}),
    )
    assert (same.value, same.ok) == (0.0, True)
    assert (worse.name, worse.ok, worse.limit) == ("loss_to_best_so_far", False, 0.02)
    assert worse.value > 0.1
