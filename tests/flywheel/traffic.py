"""Production as tests have it: requests, answers and reactions written straight into the log's tables."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from taolake import ids, lake
from taolake.lake import Lake

START = datetime(2026, 3, 2, tzinfo=UTC)


def request(number: int, model: str, answer: str | None, **more: Any) -> dict[str, Any]:
    """A row of `inference_log`: one minute after the one before, of 20 users in turn."""
    row = dict.fromkeys(lake.INFERENCE_LOG.schema().names) | {
        "request_id": f"{model}-{number}",
        "logged_at": START + timedelta(minutes=number),
        "shape": "test",
        "model": model,
        "status_code": 200,
        "task": "count",
        "user_id": ids.user_id(f"user {number % 20}"),
        "messages": [{"role": "user", "content": f"How many of kind {number % 7}?"}],
        "answer": answer,
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "tokens": 4,
        "latency_ms": 100 + number % 10,
    }
    return row | more


def thumb(request_id: str, value: float, at: datetime = START, **more: Any) -> dict[str, Any]:
    """A row of `feedback`."""
    row = {"request_id": request_id, "source": "thumb:ann", "kind": "thumb", "value": value, "text": None}
    return row | {"user_id": ids.user_id("ann"), "at": at} | more


def write(
    here: Lake, spark: SparkSession, rows: list[dict[str, Any]], said: list[dict[str, Any]] | None = None
) -> None:
    """Put requests, and reactions to them, into the log."""
    here.insert_new(lake.INFERENCE_LOG, spark.createDataFrame(rows, lake.INFERENCE_LOG.schema()))
    if said:
        here.insert_new(lake.FEEDBACK, spark.createDataFrame(said, lake.FEEDBACK.schema()))


def split(
    requests: int, share: float, answers: Mapping[str, Callable[[np.random.Generator], str]], seed: int, first: int = 0
) -> list[dict[str, Any]]:
    """Traffic of two versions, each request of a user of its own and dealt by chance; the second one gets `share`."""
    rng = np.random.default_rng(seed)
    live, canary = answers
    rows = []
    for number in range(first, first + requests):
        model, part = (canary, share) if rng.random() < share else (live, 1 - share)
        who = ids.user_id(f"person {seed} {number}")
        rows.append(request(number, model, answers[model](rng), user_id=who, share=part))
    return rows
