"""The files of the embedded example: database, production log, review prompts, and gold answers of the holdout.

It is not the pipeline's ingest: the log is written as a careless service would write it, with repeats and broken lines.
"""

import json
import os
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from taolake.demo.database import build_database
from taolake.demo.questions import Messages, Question, logged_questions, review_questions

DUPLICATE_COUNT = 60
_START = datetime(2026, 1, 5, 7, 30, tzinfo=UTC)


def write_assets(folder: Path, seed: int, is_holdout: Callable[[Messages], bool]) -> None:
    """Writes shop.db, logs.jsonl, review.jsonl and gold.jsonl; gold answers only where `is_holdout` says so."""
    folder.mkdir(parents=True, exist_ok=True)
    build_database(folder / "shop.db")
    logged = logged_questions(seed)
    _write(folder / "logs.jsonl", _log_lines(logged, seed))
    _write(folder / "review.jsonl", _request_lines(review_questions(seed), random.Random(f"review log {seed}"), "rev"))
    _write(folder / "gold.jsonl", _gold_lines(logged, is_holdout))


def messages_of(question: Question) -> Messages:
    """Returns the prompt of a question, as the service received it."""
    return [{"role": "user", "content": question.text}]


def _log_lines(logged: list[Question], seed: int) -> list[bytes]:
    """Returns the lines of the production log: every question, some of them twice, and lines that are broken."""
    rng = random.Random(f"log {seed}")
    lines = _request_lines([*logged, *rng.sample(logged, DUPLICATE_COUNT)], rng, "req")
    for line in _broken_lines(rng):
        lines.insert(rng.randrange(len(lines) + 1), line)
    return lines


def _request_lines(asked: Iterable[Question], rng: random.Random, prefix: str) -> list[bytes]:
    """Returns one line a request, in random order, with rising timestamps."""
    shuffled = list(asked)
    rng.shuffle(shuffled)
    now, lines = _START, []
    for question in shuffled:
        now += timedelta(seconds=rng.randrange(20, 1200))
        lines.append(_line(_request(f"{prefix}-{rng.getrandbits(48):012x}", now, messages_of(question), rng)))
    return lines


def _request(request_id: str, when: datetime, messages: object, rng: random.Random) -> dict[str, object]:
    """Returns a log record."""
    user = f"user-{rng.randrange(40):02}"
    return {"request_id": request_id, "timestamp": when.isoformat(), "messages": messages, "user": user}


def _broken_lines(rng: random.Random) -> list[bytes]:
    """Returns lines that a reader of the log has to refuse one by one, without losing the others."""
    contents: list[object] = [
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": "   "}],
        [{"role": "robot", "content": "How many customers are in north?"}],
        [{"role": "assistant", "content": "How many customers are in south?"}],
        [{"role": "user", "content": "How many customers are in the north region? " * 400}],
        [{"role": "user", "content": "Count the urgent tickets. " * 700}],
        [{"role": "user"}],
        [],
    ]
    records = [_line(_request(f"bad-{index:02}", _START, content, rng)) for index, content in enumerate(contents)]
    records.append(b'{"request_id": "bad-08", "messages": [{"role": "user", "content": "How many cus')
    records.append(b"GET /health 200")
    records.append(b'{"request_id": "bad-10", "messages": [{"role": "user", "content": "\xff\xfe caf\xe9 \x80"}]}')
    records.append(b'["not", "an", "object"]')
    return records


def _gold_lines(logged: Iterable[Question], is_holdout: Callable[[Messages], bool]) -> list[bytes]:
    """Returns one line for each logged question of the holdout, with its gold answer."""
    prompts = ((messages_of(question), question.sql) for question in logged)
    return [_line({"messages": messages, "answer": sql}) for messages, sql in prompts if is_holdout(messages)]


def _line(record: dict[str, object]) -> bytes:
    """Writes a record as one line of JSON, without the line break."""
    return json.dumps(record).encode()


def _write(path: Path, lines: Iterable[bytes]) -> None:
    """Writes lines to a file that appears complete or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(b"".join(line + b"\n" for line in lines))
    partial.replace(path)
