"""Projects for tests: everything real but the model, which is the fake engine."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from taolake.config import Project
from taolake.lake import Lake
from taolake.stages.round import Round


def write_log(path: Path, questions: Iterable[str], *broken: bytes) -> Path:
    """A log of questions as an OpenAI-style service writes it, with lines that are not."""
    rows = [{"request_id": f"r{i}", "messages": [{"role": "user", "content": q}]} for i, q in enumerate(questions)]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + b"".join(b + b"\n" for b in broken))
    return path


def fake_project(folder: Path, **changes: Any) -> Project:
    """A small project on the fake engine: answers are queries, judged by rules; `changes` replace whole sections."""
    sections: dict[str, Any] = {
        "name": "fake",
        "lake": str(folder / "lake"),
        "work": str(folder / "work"),
        "task": {"name": "count"},
        "ingest": {"holdout": 0.3, "sources": [{"format": "jsonl", "path": str(folder / "log.jsonl")}]},
        "model": {"path": "no-model"},
        "engine": {"kind": "fake", "answers": ["select 1", "select 2", "dunno"]},
        "generate": {"n": 6, "review_n": 0, "chunk_rows": 64, "strategies": [{"name": "plain", "share": 1}]},
        "scorers": [
            {"kind": "regex", "name": "query", "pattern": r"select (\d)"},
            {"kind": "agreement", "name": "agrees", "over": "query"},
            {"kind": "regex", "name": "judge", "pattern": "select 2"},
        ],
        "reward": {"weights": {"query": 0.5, "agrees": 0.5}},
        "evaluate": {"samples": 4, "judge": "judge"},
        "register": {"name": "fake"},
    }
    return Project.model_validate(sections | changes)


def open_round(spark: SparkSession, project: Project, number: int = 1) -> Round:
    """A round of a project on the test session."""
    return Round(Lake(spark, project.lake), project, number)


def changed(project: Project, **sections: Any) -> Project:
    """The project with whole sections replaced."""
    return Project.model_validate(project.model_dump(mode="json", by_alias=True) | sections)


def copied(round_: Round, folder: Path, **changes: Any) -> Round:
    """The round's tables under another folder, its log where it is; `changes` replace whole sections of its project."""
    place = {"lake": str(shutil.copytree(round_.project.lake, folder / "lake")), "work": str(folder / "work")}
    return open_round(round_.lake.spark, changed(round_.project, **place, **changes), round_.number)
