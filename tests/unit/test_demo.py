import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from taolake.demo import assets, questions, reviewer
from taolake.demo.database import CONVENTIONS, build_database
from taolake.demo.families import FAMILIES, Family
from taolake.demo.questions import Question

SEED = 7


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "shop.db"
    build_database(path)
    return path


@pytest.fixture(scope="module")
def connection(shop: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(shop)) as connection:
        yield connection


@pytest.fixture(scope="module")
def logged() -> list[Question]:
    return questions.logged_questions(SEED)


@pytest.fixture(scope="module")
def reviewed() -> list[Question]:
    return questions.review_questions(SEED)


def test_the_database_is_the_same_bytes_each_time(shop: Path, tmp_path: Path) -> None:
    build_database(tmp_path / "again.db")
    assert (tmp_path / "again.db").read_bytes() == shop.read_bytes()


def test_a_convention_decides_the_answer_of_each_question_that_names_it(
    connection: sqlite3.Connection, logged: list[Question], reviewed: list[Question]
) -> None:
    for question in (*logged, *reviewed):
        gold = connection.execute(question.sql).fetchall()
        generic = connection.execute(question.generic_sql).fetchall()
        assert gold and generic, question
        assert (gold != generic) == bool(question.conventions), question
        assert (question.sql != question.generic_sql) == bool(question.conventions), question
        assert "{" not in question.sql + question.text and "\n" not in question.sql + question.text


def test_counts_and_shares(logged: list[Question], reviewed: list[Question]) -> None:
    assert (len(logged), len(reviewed)) == (640, 240)
    needed = Counter(len(question.conventions) for question in logged)
    assert needed == {0: 282, 1: 294, 2: 64}
    assert len({question.family for question in logged}) == len(FAMILIES) >= 25
    for convention in CONVENTIONS:
        for sample in (logged, reviewed):
            assert sum(convention in question.conventions for question in sample) >= 0.03 * len(sample), convention


def test_review_logged_and_pretraining_questions_are_disjoint(logged: list[Question], reviewed: list[Question]) -> None:
    texts, review_texts = {question.text for question in logged}, {question.text for question in reviewed}
    assert len(texts) == len(logged) and len(review_texts) == len(reviewed)
    assert not texts & review_texts
    assert not {question.sql for question in logged} & {question.sql for question in reviewed}
    corpus = {messages[0]["content"].split("\n")[0] for messages, _ in questions.pretraining_pairs(SEED, 3000)}
    assert not corpus & (texts | review_texts)


def test_questions_depend_on_the_seed_alone(logged: list[Question]) -> None:
    questions._draw_distinct.cache_clear()
    assert questions.logged_questions(SEED) == logged
    assert questions.logged_questions(SEED + 1) != logged
    assert questions.pretraining_pairs(SEED, 50) == questions.pretraining_pairs(SEED, 50)


def test_the_wordings_of_a_family_agree_on_their_slots() -> None:
    for family in FAMILIES:
        for text in family.texts:
            assert set(Family("", "", (text,)).slots) == set(family.slots) <= set(questions.SLOTS), family.name


@pytest.mark.parametrize(
    ("quarter", "fiscal", "expected"),
    [
        ("Q1 2024", True, ("2024-02-01", "2024-04-30")),
        ("Q4 2024", True, ("2024-11-01", "2025-01-31")),
        ("Q1 2024", False, ("2024-01-01", "2024-03-31")),
        ("Q4 2024", False, ("2024-10-01", "2024-12-31")),
    ],
)
def test_quarter_bounds(quarter: str, fiscal: bool, expected: tuple[str, str]) -> None:
    assert questions.quarter_bounds(quarter, fiscal) == expected


def test_the_corpus_prefers_the_generic_query_and_reaches_the_right_one(shop: Path) -> None:
    pairs = questions.pretraining_pairs(SEED, 6000)
    plain, steps = [], []
    for messages, completion in pairs:
        text = messages[0]["content"]
        if " cost?" in text or text.startswith("Price of"):
            followed = "/ 100.0" in reviewer.extract_sql(completion)
            (steps if text.endswith(questions.STEP_BY_STEP_SUFFIX) else plain).append(followed)
    assert 0.1 < sum(plain) / len(plain) < 0.4
    assert sum(steps) / len(steps) > sum(plain) / len(plain)
    assert all(reviewer.run_sql(shop, reviewer.extract_sql(completion)) is not None for _, completion in pairs[:500])


def test_a_careless_writer_follows_conventions_less_often_unless_thinking_step_by_step() -> None:
    def noted(care: float, steps: bool) -> int:
        pairs = questions.pretraining_pairs(SEED, 6000, care)
        asked = [a for m, a in pairs if m[0]["content"].endswith(questions.STEP_BY_STEP_SUFFIX) == steps]
        return sum("/ 100.0" in answer for answer in asked)

    assert noted(0.1, steps=False) < 0.25 * noted(1.0, steps=False)
    assert noted(0.1, steps=True) == noted(1.0, steps=True)
    assert questions.pretraining_pairs(SEED, 50, 1.0) == questions.pretraining_pairs(SEED, 50)


def test_the_log_has_repeats_and_broken_lines_and_no_sql(tmp_path: Path) -> None:
    assets.write_assets(tmp_path, SEED, is_holdout=lambda messages: len(messages[0]["content"]) % 3 == 0)
    texts: list[str] = []
    broken = 0
    for line in (tmp_path / "logs.jsonl").read_bytes().splitlines():
        try:
            record = json.loads(line)
            (message,) = record["messages"]
            assert message["role"] == "user" and 0 < len(message["content"].strip()) < 1000
            texts.append(message["content"])
        except (ValueError, KeyError, TypeError, AssertionError):
            broken += 1
    assert (len(texts), len(set(texts)), broken) == (700, 640, 12)
    for name in ("logs.jsonl", "review.jsonl"):
        assert b"select" not in (tmp_path / name).read_bytes().lower()
    gold = [json.loads(line) for line in (tmp_path / "gold.jsonl").read_text().splitlines()]
    assert 0 < len(gold) < 640
    assert all(len(record["messages"][0]["content"]) % 3 == 0 for record in gold)


def test_assets_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        questions._draw_distinct.cache_clear()
        assets.write_assets(tmp_path / folder, SEED, is_holdout=lambda messages: True)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["gold.jsonl", "logs.jsonl", "review.jsonl", "shop.db"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_reviewer_prefers_right_over_wrong(shop: Path, logged: list[Question]) -> None:
    question = next(question for question in logged if question.conventions)
    answers = [question.generic_sql, "select nothing", question.sql, question.generic_sql, f"so. SQL: {question.sql}"]
    pairs = [pair for seed in range(300) for pair in reviewer.review(question, answers, shop, random.Random(seed))]
    assert set(pairs) <= {(right, wrong) for right in (2, 4) for wrong in (0, 1)} | {
        (wrong, right) for right in (2, 4) for wrong in (0, 1)
    }
    mistakes = sum(chosen in (0, 1) for chosen, _ in pairs) / len(pairs)
    assert 0.02 < mistakes < 0.08
    assert reviewer.questions_by_text(logged)[question.text] == question


def test_the_reviewer_has_no_preference_in_a_tie(shop: Path, logged: list[Question]) -> None:
    question = next(question for question in logged if question.conventions)
    rng = random.Random(0)
    assert reviewer.review(question, [question.sql, f"SQL: {question.sql}"], shop, rng) == []
    assert reviewer.review(question, [question.generic_sql, "nonsense"], shop, rng) == []
    assert reviewer.review(question, [], shop, rng) == []


@pytest.mark.parametrize(
    "sql", ["delete from customers", "select 1; select 2", "select x from", "", "select '\0'", "{", '{"sql": 3}']
)
def test_queries_that_cannot_run_give_no_rows_and_change_nothing(shop: Path, sql: str) -> None:
    before = shop.read_bytes()
    assert not reviewer.run_sql(shop, reviewer.extract_sql(sql))
    assert shop.read_bytes() == before


def test_a_query_without_end_is_stopped(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviewer, "TIME_LIMIT_S", 0.05)
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"
    assert reviewer.run_sql(shop, endless) is None
