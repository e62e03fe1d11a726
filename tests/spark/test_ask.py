"""Asking people about a fake round: what is asked, what never is, and that answers come home once."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from taolake import lake, stages
from taolake.report.ask import export
from taolake.stages import ask
from taolake.stages.round import Round
from tests.asking import answer, page_items
from tests.projects import copied, fake_project, open_round, write_log

ANSWERS = ["select 1", "select 2", "select 3", "select 1;", "dunno", " "]
QUESTIONS = [f"How many {what} are there?" for what in ("cats", "dogs", "cows", "pigs", "owls", "bees", "ants", "elks")]


@pytest.fixture(scope="module")
def scored(fake_round: Round, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A round without review prompts: its training prompts are asked about."""
    return copied(fake_round, tmp_path_factory.mktemp("ask"))


def test_questions_are_open_training_prompts_with_answers_that_differ(scored: Round) -> None:
    asked = ask.questions(scored, 50, 3)
    splits = {r["prompt_id"]: r["split"] for r in scored.lake.read(lake.PROMPTS).collect()}
    texts = {r["candidate_id"]: r["text"] for r in scored.lake.read(lake.CANDIDATES).collect()}
    assert 3 <= len(asked) <= sum(split == "train" for split in splits.values())
    assert {splits[item["prompt_id"]] for item in asked} == {"train"}
    assert not [i for i in asked if i["messages"][-1]["content"] == "question 7"]  # its candidates are errors
    for item in asked:
        shown = [a["text"] for a in item["answers"]]
        assert [texts[a["candidate_id"]] for a in item["answers"]] == shown
        meant = [text.rstrip(";") for text in shown]  # the scorer keys a query by its digit
        assert 2 <= len(shown) <= 3 and len(set(meant)) == len(meant) and all(text.strip() for text in shown)
    assert ask.questions(scored, 50, 3) == asked
    orders = [[a["candidate_id"] for a in item["answers"]] for item in ask.questions(scored, 50, 3, "someone")]
    mine = [[a["candidate_id"] for a in item["answers"]] for item in asked]
    assert [sorted(o) for o in orders] == [sorted(o) for o in mine] and orders != mine


def test_rewards_and_scores_of_candidates_are_seen(scored: Round) -> None:
    pool, before = ask._pool(scored, "nobody")
    rewards = {r["candidate_id"]: r["reward"] for r in scored.lake.read(lake.REWARDS).collect()}
    options = [o for group in pool for o in group.options]
    assert before == [] and options
    assert {o.candidate_id: o.reward for o in options} == {o.candidate_id: rewards.get(o.candidate_id) for o in options}
    assert any(o.reward is not None for o in options)
    queries = [o for o in options if o.text.startswith("select")]
    assert queries and all(set(o.scores) == {"query", "agrees", "judge"} and o.meaning for o in queries)
    assert all(o.meaning is None for o in options if o.text == "dunno")


def test_answers_come_home_once_and_are_not_asked_again(scored: Round, tmp_path: Path) -> None:
    assert export(scored, 3, 4, tmp_path / "deep" / "ask.html", "ann") == 3
    items = page_items(tmp_path / "deep" / "ask.html")
    edit = {"kind": "edit", "candidate_id": items[0]["answers"][0]["candidate_id"], "annotator": "ann"}
    edit |= {"original": items[0]["answers"][0]["text"], "edited": "select 99"}
    edit |= {"prompt_id": items[0]["prompt_id"], "messages": items[0]["messages"]}
    lines = [answer(items[0], 0, "ann"), edit, answer(items[1], 1, "ann"), answer(items[2], None, "ann")]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n", encoding="utf-8")
    done = ask.import_answers(scored, file)
    pairs = sum(len(item["answers"]) - 1 for item in items[:2])
    assert done.rows == pairs + 1
    wanted = {"answers": 5, "unreadable": 1, "chose_nothing": 1, "chosen_at": {1: 1, 2: 1}, "refused": 0}
    assert {name: done.detail[name] for name in wanted} == wanted
    said = scored.lake.read(lake.PREFERENCES).where(f.col("annotator") == "ann").collect()
    assert {(r["prompt_id"], r["kind"]) for r in said} == {
        (items[0]["prompt_id"], "best_of"), (items[0]["prompt_id"], "edit"), (items[1]["prompt_id"], "best_of"),
    }  # fmt: skip
    assert {r["chosen"] for r in said if r["kind"] == "best_of"} == {lines[0]["chosen"], lines[2]["chosen"]}
    refused = scored.lake.read(lake.QUARANTINE).where(f.col("source_id") == "answers.jsonl:5").collect()
    assert [r["reason"] for r in refused] == ["not a record of kind best_of or edit; use the downloaded file itself"]
    assert ask.import_answers(scored, file).rows == 0
    assert ask.answered(scored, "ann") == {item["prompt_id"] for item in items}
    assert ask.answered(scored, "bob") == set()
    try:
        later = {item["prompt_id"] for item in ask.questions(scored, 50, 4, "ann")}
    except ValueError as error:
        later, reason = set(), str(error)
        assert reason.startswith("nothing is left to ask 'ann': ")
    assert not later & {item["prompt_id"] for item in items}
    assert {item["prompt_id"] for item in ask.questions(scored, 50, 4, "bob")} == later | ask.answered(scored, "ann")


def test_a_sheet_goes_out_and_comes_home(scored: Round, tmp_path: Path) -> None:
    file = tmp_path / "ask.csv"
    count = export(scored, 2, 4, file, "sheet")
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))
    assert count == len(rows) == 2 and {row["annotator"] for row in rows} == {"sheet"}
    rows[0]["best"], rows[1]["best"] = "1", "equal"
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    done = ask.import_answers(scored, file)
    assert done.rows == len(json.loads(rows[0]["data"])["answers"]) - 1 and done.detail["chose_nothing"] == 1
    assert ask.answered(scored, "sheet") == {row["prompt_id"] for row in rows}


def test_choices_of_others_go_their_own_way(scored: Round, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"kind": "pair", "prompt": "q?", "chosen": "a", "rejected": "b", "annotator": "eve"}))
    done = ask.import_answers(scored, file)
    assert done.rows == 1 and done.detail["kept"] == 1 and "chosen_at" not in done.detail


@pytest.mark.slow
def test_review_prompts_are_asked_first_and_held_out_ones_never(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", QUESTIONS[:4])
    write_log(tmp_path / "review.jsonl", QUESTIONS[4:7])
    sources = [{"format": "jsonl", "path": str(tmp_path / "log.jsonl")}]
    sources += [{"format": "jsonl", "path": str(tmp_path / "review.jsonl"), "split": "review"}]
    engine = {"kind": "fake", "answers": ANSWERS}
    generate = {"n": 6, "review_n": 6, "chunk_rows": 64, "strategies": [{"name": "plain", "share": 1}]}
    changes: dict[str, Any] = {"engine": engine, "generate": generate, "ingest": {"holdout": 0.3, "sources": sources}}
    round_ = open_round(spark, fake_project(tmp_path, **changes))
    for name in ("ingest", "generate"):
        stages.run(round_, name)
    asked = {item["messages"][-1]["content"] for item in ask.questions(round_, 50, 4)}
    assert asked and asked <= set(QUESTIONS[4:7])


@pytest.mark.parametrize(
    ("count", "answers", "name", "reason"),
    [
        (0, 4, "ask.html", "got 0 groups of 4 answers, wanted 1 group or more, and 2 to 9 answers"),
        (5, 1, "ask.html", "got 5 groups of 1 answers"),
        (5, 10, "ask.csv", "got 5 groups of 10 answers"),
        (5, 4, "ask.pdf", r"got file 'ask.pdf', wanted a name that ends in .html \(a page\) or .csv \(a sheet\)"),
    ],
)
def test_what_cannot_be_asked(scored: Round, tmp_path: Path, count: int, answers: int, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        export(scored, count, answers, tmp_path / name)
    assert not (tmp_path / name).exists()
