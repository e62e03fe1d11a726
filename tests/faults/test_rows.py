"""Whatever one row does, it ends as one explained row, and all others are intact."""

from pathlib import Path

from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log
from tests.unit.test_odd_scores import SCORES, odd

HEALTHY = [f"question {i}" for i in range(12)]
BIG = "x" * 10_000_000

# Prompt, status of its row, reason given. All of them are in one run on one engine, beside healthy ones.
PROMPTS: list[tuple[str, str, str]] = [
    (BIG, "invalid", "10000000 characters exceed the context of 1000"),
    ("y" * 1001, "invalid", "1001 characters exceed the context of 1000"),
    ("a\x00b", "ok", ""),
    ("RAISE", "error", "RuntimeError: the device is lost"),
    ("STALL", "error", "no engine step ended in 1 s"),
    ("KILL", "error", "the process ended without a word"),
    ("HANG", "timeout", "no answer in 0.5 s"),
]
ENGINE = {
    "kind": "fake",
    "answers": ["select 1"],
    "width": 4,
    "context": 1000,
    "faults": {"RAISE": "raise", "STALL": "stall", "KILL": "kill", "HANG": "hang"},
    "stall_s": 1.0,
    "request_timeout_s": 0.5,
    "delay_s": 0.02,
}


def test_every_prompt_ends_as_one_explained_row(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", [*HEALTHY[:6], *(p for p, _, _ in PROMPTS), *HEALTHY[6:], "", "  "])
    project = fake_project(
        tmp_path,
        engine=ENGINE,
        ingest={
            "holdout": 0.05,
            "max_prompt_chars": 20_000_000,  # by default the longest would not come as far as an engine
            "sources": [{"format": "jsonl", "path": str(tmp_path / "log.jsonl")}],
        },
        generate={"n": 1, "review_n": 0, "chunk_rows": 12, "strategies": [{"name": "plain", "share": 1}]},
    )
    round_ = open_round(spark, project)
    stages.run(round_, "ingest")
    until_it_ends(round_)
    asked = round_.lake.read(lake.PROMPTS).selectExpr("prompt_id", "messages[0].content AS content")
    rows = round_.lake.read(lake.CANDIDATES).join(asked, "prompt_id").collect()
    healthy = {(r["content"], r["status"], r["text"]) for r in rows if r["content"] in HEALTHY}
    assert healthy == {(question, "ok", "select 1") for question in HEALTHY}
    for prompt, status, reason in PROMPTS:
        mine = [r for r in rows if r["content"] == prompt]
        assert {r["status"] for r in mine} == {status}, prompt[:20]
        assert all(reason in r["error"] for r in mine)
        assert all((r["text"] is None) == (status != "ok") for r in mine)
    refused = [r["reason"] for r in round_.lake.read(lake.QUARANTINE).collect()]
    assert len(refused) == 2 and all("empty" in reason for reason in refused)


def until_it_ends(round_: Round, runs: int = 8) -> None:
    """Several prompts that kill may use up a task's retries; the journal carries what is known over to the next run."""
    for last in range(runs):
        try:
            stages.run(round_, "generate")
            return
        except Exception:
            if last == runs - 1:
                raise


def test_every_score_ends_as_one_explained_row(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", HEALTHY)
    mine = {"kind": "function", "name": "mine", "target": f"{odd.__module__}:odd"}
    judge = {"kind": "regex", "name": "judge", "pattern": "select 2"}
    engine = {"kind": "fake", "answers": ["fine", *(name for name, _, _ in SCORES)]}
    project = fake_project(tmp_path, engine=engine, scorers=[mine, judge], reward={"weights": {"mine": 1.0}})
    round_ = open_round(spark, project)
    for stage in ("ingest", "generate", "label", "score"):
        stages.run(round_, stage)
    texts = round_.lake.read(lake.CANDIDATES).select("candidate_id", "text")
    rows = round_.lake.read(lake.SCORES).where("scorer = 'mine'").join(texts, "candidate_id").collect()
    assert len(rows) == texts.count()
    for answer, status, reason in SCORES:
        bad = [r for r in rows if r["text"] == answer]
        assert bad, "no candidate has this answer"
        assert {(r["value"], r["status"]) for r in bad} == {(None, status)}, answer
        assert all(reason in r["detail"] for r in bad)
    assert {(r["value"], r["status"]) for r in rows if r["text"] == "fine"} == {(1.0, "ok")}
