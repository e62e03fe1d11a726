"""GeoQuery as a project: questions that people asked about United States geography, and a tiny model that writes SQL.

The inputs of `conf/geoquery.yml`: a base pre-trained on a labelled share of the train questions and on those of a
grammar, the other train questions as a log without labels, and the test questions as holdout. The data is read from the
folder that `TAOLAKE_GEOQUERY` names; what is made of it goes where the project file says, and nowhere else.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taolake import demo, ids
from taolake.config import Project, SqlScorer
from taolake.demo import geoquery_data as data
from taolake.demo import geoquery_grammar, model
from taolake.demo.geoquery_data import Question
from taolake.scoring.sql import QueryError, run_query
from taolake.types import Message

# Of the labelled questions with their names swapped, and of a grammar's: with the first alone the base answers 0.43 of
# the log, with both 0.69 (docs/log.md, 2026-11-23).
LABELLED_SIZE = 10_000
GRAMMAR_SIZE = 30_000
_SHAPED_BY = ("geoquery.py", "geoquery_data.py", "geoquery_grammar.py", "geoquery_grammar.toml", "model.py")


def prepare(project: Project) -> None:
    """Write log, holdout, labels and database, and pre-train the base once; what exists is not made again.

    Raises:
        ValueError: the data is not there; the message names the collection that holds it.
    """
    folder = data.data_folder()
    sources = [folder / data.QUESTIONS_FILE, data.database_in(folder)]
    key = ids.content_hash(model.model_key(project.seed, _SHAPED_BY), [ids.file_hash(file) for file in sources])[:16]
    made = Path(project.ingest.sources[0].path).parent
    stamp = made / f".{key}"
    if not stamp.exists():
        write_inputs(made, database_of(project), folder, project.seed)
        stamp.touch()
    cached = Path(project.work).parents[1] / "cache" / f"geoquery-{key}"
    if not cached.exists():
        questions = data.read_questions(sources[0])
        asked = {question.text for question in questions}
        pairs = data.corpus(questions, sources[1], project.seed, LABELLED_SIZE)
        pairs += geoquery_grammar.corpus(data.names_by_kind(sources[1]), asked, project.seed, GRAMMAR_SIZE)
        model.fit(cached, pairs, project.seed, data.PIECES)
    demo.put_copy(cached, Path(project.model.path))


def database_of(project: Project) -> Path:
    """Where the project's scorers look for the database."""
    return next(Path(s.database) for s in project.scorers if isinstance(s, SqlScorer))


def write_inputs(made: Path, database: Path, folder: Path, seed: int) -> None:
    """Write logs.jsonl and test.jsonl without labels, gold.jsonl of the holdout alone, the database, and the counts.

    Gold leaves out the test questions whose query fails or finds nothing; they are asked all the same.
    """
    questions = data.read_questions(folder / data.QUESTIONS_FILE)
    labelled, logged = data.labelled_share(questions, seed)
    test = [question for question in questions if question.split == "test"]
    for parent in (made, database.parent):
        parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data.database_in(folder), database)
    states = {question: data.gold_state(question, database) for question in test}
    gold = [question for question in test if states[question] == "ok"]
    _write(made / "logs.jsonl", _requests(logged, seed))
    _write(made / "test.jsonl", _requests(test, seed))
    _write(made / "gold.jsonl", [{"messages": q.messages, "answer": q.sql} for q in gold])
    counts = {"labelled": len(labelled), "logged": len(logged), "test": len(test), "gold": Counter(states.values())}
    (made / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


def finds_something(messages: Sequence[Message], answer: str, database: str) -> float | None:
    """The scorer `finds`: 1 if the query returns a value, 0 if it is wrong or finds nothing, None if it is too slow."""
    try:
        rows = run_query(database, answer, dialect="sqlite", timeout_s=2.0, max_rows=1000)
    except QueryError as error:
        return None if error.status == "timeout" else 0.0
    return float(any(value is not None for row in rows for value in row))


def _requests(asked: Sequence[Question], seed: int) -> list[dict[str, Any]]:
    """Log records in random order: who asked is not known, and no answer is in them."""
    shuffled = random.Random(f"order {seed}").sample(asked, len(asked))
    return [{"request_id": f"geo-{i:04}", "messages": question.messages} for i, question in enumerate(shuffled)]


def _write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
