"""What one production request looks like: facts of its prompt and answer, and what scorers say of the answer.

Runs on executors, row by row; nothing is counted here (`measure`). Scorers are those that need one answer alone, and no
engine; their words are kept, so an answer is read once by each version of a scorer.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from taolake import ids, lake, scoring
from taolake.config import ScorerSpec
from taolake.scoring.function import sound
from taolake.stages import scored
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round
from taolake.trust.brakes import repetition
from taolake.watch import texts

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_OK = 200  # HTTP status of an answer that came
_BUFFER_ROWS = 512
_PASSED = (
    "request_id STRING, window BIGINT, model STRING, at DOUBLE, user_id STRING, latency_ms BIGINT, "
    "first_token_ms BIGINT, prompt_tokens INT, tokens INT"
)
_FACTS = (
    f"{_PASSED}, answered INT, truncated INT, refused INT, repetition DOUBLE, prompt_key STRING, answer_key STRING, "
    "task STRING, length STRING, language STRING, answers STRING"
)


def requests(round_: Round) -> "DataFrame":
    """This project's log with `window`, the second in which a row's window begins; rows without a time are left out."""
    from pyspark.sql import functions as f

    length = 3600 * round_.project.monitor.window_hours
    rows = round_.lake.read(lake.INFERENCE_LOG).where(f.col("logged_at").isNotNull())
    rows = rows.where(f.coalesce(f.col("task"), f.lit(round_.project.task.name)) == round_.project.task.name)
    at = f.unix_timestamp("logged_at")
    return rows.withColumn("window", (at - at % length).cast("bigint")).withColumn("model", _model())


def facts(round_: Round, rows: "DataFrame") -> "DataFrame":
    """One row a request, without its texts."""
    from pyspark.sql import functions as f

    pattern = round_.project.monitor.refusal or texts.REFUSAL
    passed = [part.split()[0] for part in _PASSED.split(", ")]
    wanted = rows.withColumn("at", f.col("logged_at").cast("double"))
    columns = [*passed, "status_code", "finish_reason", "task", "messages", "answer"]
    return map_rows(wanted.select(*columns), _FACTS, lambda given: (_fact(row, passed, pattern) for row in given))


def _fact(row: Row, passed: list[str], pattern: str) -> Row:
    asked, answer = row["messages"] or [], row["answer"]
    question = next((m["content"] for m in reversed(asked) if m["role"] == "user"), "")
    came = (row["status_code"] or _OK) == _OK and answer is not None
    return {
        **{name: row[name] for name in passed},
        "answered": int(came),
        "truncated": int(row["finish_reason"] == "length"),
        "refused": int(came and texts.refuses(answer, pattern)),
        "repetition": repetition(answer) if came else None,
        "prompt_key": ids.content_hash([[m["role"], m["content"]] for m in asked]),
        "answer_key": ids.content_hash(texts.words(answer)) if came else None,
        "task": row["task"] or "unknown",
        "length": texts.size(question),
        "language": texts.language(question),
        "answers": texts.size(answer) if came else "none",
    }


def versions(round_: Round) -> dict[str, str]:
    """Versions of the scorers that read answers in production."""
    return {spec.name: scoring.version(spec) for spec in round_.project.watchers}


def score(round_: Round, rows: "DataFrame") -> int:
    """Have each scorer read the sampled answers among `rows` that it has not read; returns how many words that made."""
    from pyspark.sql import functions as f

    spec, scorers = round_.project.monitor, round_.project.watchers
    came = rows.where((f.coalesce("status_code", f.lit(_OK)) == _OK) & f.col("answer").isNotNull())
    sampled = came.where(_drawn() < spec.sample).select("request_id", "messages", "answer")
    made = 0
    for each in scorers:
        version = scoring.version(each)
        known = round_.lake.read(lake.ANSWER_SCORES)
        known = known.where((f.col("scorer") == each.name) & (f.col("scorer_version") == version))
        todo = sampled.join(known.select("request_id"), "request_id", "left_anti").persist()
        try:
            named, missing = round_.lake.counted(todo, "request_id")
            if missing:
                chunk = ids.content_hash("watch", each.name, version, named)
                words = map_rows(todo, lake.ANSWER_SCORES.columns, _reader(each, version))
                round_.lake.append_once(lake.ANSWER_SCORES, words, chunk)
        finally:
            todo.unpersist()
        made += missing
    return made


def _reader(spec: ScorerSpec, version: str) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """Answers in, rows of `answer_scores` out."""

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        scorer = scoring.build(spec)
        while some := list(itertools.islice(rows, _BUFFER_ROWS)):
            given = scored.every(scoring.scores(scorer, ((r["messages"], r["answer"]) for r in some)), len(some))
            for row, word in zip(some, map(sound, given), strict=True):
                said = {"value": word.value, "status": word.status, "answer_key": word.answer_key}
                yield {"request_id": row["request_id"], "scorer": spec.name, "scorer_version": version, **said}

    return run


def _model() -> "Column":
    from pyspark.sql import functions as f

    return f.coalesce(f.col("model"), f.lit("unknown"))


def _drawn() -> "Column":
    """A number in [0, 1) that belongs to the request: the sample does not move as a window fills."""
    from pyspark.sql import functions as f

    return f.pmod(f.xxhash64(f.lit("watch"), "request_id"), f.lit(1_000_000)) / 1_000_000
