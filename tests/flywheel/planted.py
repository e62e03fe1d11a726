"""A round with planted people in it: who asked what is known, and so is what must be gone once one is forgotten."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from taolake import ids, lake, stages
from taolake.config import Project
from taolake.lake import Table
from taolake.stages import registry
from taolake.stages.round import Round
from tests.projects import fake_project, open_round

NAME, OTHER = "planted@example.org", "other@example.org"
OWN = [f"what does my very own order {i} cost?" for i in range(4)]
COMMON = [f"how many customers are there in region {i}?" for i in range(2)]
FOREIGN = [f"which shop of somebody else sold most in month {i}?" for i in range(6)]
BROKEN = f'{{"request_id": "req-broken", "requester": "{NAME}", "messages": []}}'
REQUESTS = {f"req-planted-{i}" for i in range(6)}
UP_TO_SELECT = ("ingest", "generate", "label", "score", "reward", "trust", "select")
SECRET = "the answer about my own order is wrong"


def prompt(question: str) -> str:
    return ids.prompt_id("count", [{"role": "user", "content": question}])


def project(folder: Path, log: Path) -> Project:
    scorers = [{"kind": "regex", "name": name, "pattern": "select 2"} for name in ("query", "judge")]
    return fake_project(
        folder,
        ingest={"holdout": 0.0, "sources": [{"format": "jsonl", "path": str(log)}]},
        scorers=scorers,
        reward={"weights": {"query": 1.0}, "min_spread": 0.0},
        generate={"n": 4, "review_n": 0, "chunk_rows": 64, "strategies": [{"name": "plain", "share": 1}]},
    )


def build(spark: SparkSession, folder: Path) -> Round:
    """A fake round up to select, production logs of both people, and four registered versions."""
    log = _write_log(folder / "log.jsonl")
    round_ = open_round(spark, project(folder, log))
    for name in UP_TO_SELECT:
        stages.run(round_, name)
    _plant_logs(round_)
    _plant_versions(round_)
    _plant_files(round_)
    return round_


def copied(round_: Round, folder: Path) -> Round:
    """The same tables and files under another folder, for a test that changes them."""
    home = Path(round_.project.lake).parent
    shutil.copytree(home, folder / "copy", ignore=shutil.ignore_patterns("log.jsonl"))
    return open_round(round_.lake.spark, project(folder / "copy", home / "log.jsonl"))


def plant(round_: Round, table: Table, *rows: dict[str, Any]) -> None:
    blank = dict.fromkeys(table.schema().names)
    frame = round_.lake.spark.createDataFrame([blank | row for row in rows], table.schema())
    round_.lake.append_once(table, frame, ids.content_hash(table.name, [sorted(map(str, row.items())) for row in rows]))


def _write_log(path: Path) -> Path:
    asked = [(f"req-planted-{i}", NAME, q) for i, q in enumerate([*OWN, *COMMON])]
    asked += [(f"req-other-{i}", OTHER, q) for i, q in enumerate([*COMMON, *FOREIGN])]
    rows = [{"request_id": r, "requester": who, "messages": [{"role": "user", "content": q}]} for r, who, q in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + BROKEN + "\n", encoding="utf-8")
    return path


def _plant_logs(round_: Round) -> None:
    """What `serve` and `collect` write."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    logged, raw = [], []
    for request, who, question in (("req-planted-0", NAME, OWN[0]), ("req-other-2", OTHER, FOREIGN[0])):
        body = json.dumps({"messages": [{"role": "user", "content": question}]})
        raw.append({"databricks_request_id": request, "request": body, "response": "{}", "requester": who})
        turns = [{"role": "user", "content": question}]
        logged.append({"request_id": request, "user_id": ids.user_id(who), "messages": turns, "answer": "select 1"})
    said = {"source": "thumb", "kind": "thumb", "value": -1.0, "text": SECRET, "at": now}
    plant(round_, lake.PAYLOADS, *raw)
    plant(round_, lake.INFERENCE_LOG, *logged)
    plant(round_, lake.REACTIONS, {"request_id": "req-other-2", "requester": NAME, **said})
    plant(round_, lake.FEEDBACK, {"request_id": "req-other-2", "user_id": ids.user_id(NAME), **said})


def _plant_versions(round_: Round) -> None:
    """Version 1 learned from the round, 2 started from 1 and saw others' prompts, 3 these alone, 4 has no tags."""
    import mlflow

    others = [
        {"round": number, "row_id": f"row-{number}", "selection": f"planted-{number}", "prompt_id": prompt(FOREIGN[0])}
        for number in (2, 3)
    ]
    plant(round_, lake.SELECTIONS, *others)
    registry.connect(round_.project)
    client, name = mlflow.MlflowClient(), round_.project.register_.name
    client.create_registered_model(name)
    selection = round_.done("select").detail["selection"]
    for number, base, chosen in ((1, "base", selection), (2, "whole-1", "planted-2"), (3, "base", "planted-3")):
        tags = {"round": number, "selection": chosen, "base": base, "policy": f"p-{number}", "whole": f"whole-{number}"}
        tags |= {"table.prompts": round_.lake.version(lake.PROMPTS)}
        client.create_model_version(
            name, f"file://{round_.work}", tags={f"taolake.{key}": str(value) for key, value in tags.items()}
        )
    client.create_model_version(name, f"file://{round_.work}")


def _plant_files(round_: Round) -> None:
    """What stages and reports leave behind: a training file, a journal, a log, a page, JSON."""
    import pyarrow.parquet as pq

    from taolake.stages.select import training_rows

    work = Path(round_.project.work)
    folders = (round_.work / "train", work / "journal" / "policy" / "chunk", work.parent / "report", work / "waves")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    train, journal, report, waves = folders
    selection = round_.done("select").detail["selection"]
    pq.write_table(training_rows(round_, selection), train / "selection.parquet")
    (journal / "part-0001.jsonl").write_text(json.dumps({"candidate_id": "c", "prompt_id": prompt(OWN[1])}) + "\n")
    (train / "train.log").write_text(f"a line of nobody\na line about {OWN[2]}\n")
    (report / "index.html").write_text(f"<p>{OWN[0]}</p>")
    (report / "card.json").write_text(json.dumps({"example": OWN[0], "gain": 0.25}))
    (waves / "one.json").write_text(json.dumps([{prompt(OWN[0]): 4, prompt(FOREIGN[0]): 4}]))
