"""A simulated human reviewer, who knows the house conventions and prefers answers that obey them.

It is not a verifier of the pipeline: it stands in for people who would mark a few hundred answers, mistakes included.
"""

import json
import random
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from taolake.demo.questions import SQL_MARKER, Question

MISTAKE_RATE = 0.05
PAIRS_PER_PROMPT = 4
TIME_LIMIT_S = 2.0

Rows = list[tuple[str, ...]]


def questions_by_text(questions: Iterable[Question]) -> dict[str, Question]:
    """Returns the questions under their text, which is what a log or a prompt table still has of them."""
    return {question.text: question for question in questions}


def review(question: Question, answers: Sequence[str], database: Path, rng: random.Random) -> list[tuple[int, int]]:
    """Returns (chosen, rejected) positions among the answers; none where all are right or all are wrong."""
    right, wrong = judge(question, answers, database)
    pairs = [(chosen, rejected) for chosen in right for rejected in wrong]
    picked = rng.sample(pairs, min(PAIRS_PER_PROMPT, len(pairs)))
    return [(rejected, chosen) if rng.random() < MISTAKE_RATE else (chosen, rejected) for chosen, rejected in picked]


def choose(
    question: Question, answers: Sequence[str], database: Path, rng: random.Random
) -> list[tuple[int, list[int]]]:
    """Returns the best answer and all others that were shown, once each; none where all are right or all are wrong."""
    right, wrong = judge(question, answers, database)
    if not right or not wrong:
        return []
    best = rng.choice(wrong if rng.random() < MISTAKE_RATE else right)
    return [(best, sorted(position for position in (*right, *wrong) if position != best))]


def judge(question: Question, answers: Sequence[str], database: Path) -> tuple[list[int], list[int]]:
    """Returns the positions of right and of wrong answers; equal texts count once, at their first position."""
    gold = run_sql(database, question.sql)
    first_seen = {answer: position for position, answer in reversed(list(enumerate(answers)))}
    right: list[int] = []
    wrong: list[int] = []
    for answer, position in sorted(first_seen.items(), key=lambda item: item[1]):
        (right if run_sql(database, extract_sql(answer)) == gold else wrong).append(position)
    return right, wrong


def extract_sql(answer: str) -> str:
    """Returns the query in an answer of any of the three prompt forms."""
    text = answer.strip()
    if text.startswith("{"):
        try:
            return str(json.loads(text)["sql"])
        except (ValueError, KeyError):
            return text
    return text.rpartition(SQL_MARKER)[2]


def run_sql(database: Path, sql: str) -> Rows | None:
    """Runs a query read-only; returns its rows as a sorted multiset, or None where it fails or takes too long."""
    deadline = time.monotonic() + TIME_LIMIT_S
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        try:
            rows = connection.execute(sql).fetchall()
        # A model may write anything; a query that cannot run is an answer too, a wrong one.
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return None
    return sorted(tuple(_comparable(value) for value in row) for row in rows)


def _comparable(value: object) -> str:
    """Writes a value such that sums in another order are equal and values of several types can be sorted."""
    return f"{value:.4f}" if isinstance(value, (int, float)) else repr(value)
