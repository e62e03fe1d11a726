"""GeoQuery as a project. What needs the data skips without it; parsing and errors are tested on a made-up entry."""

import json
import os
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from taolake.config import load
from taolake.demo import geoquery, geoquery_data, geoquery_grammar
from taolake.demo.geoquery_data import FOLDER_VARIABLE, Question, substitute, tidy
from taolake.scoring.sql import run_query

ROOT = Path(__file__).parents[2]
SEED = 7
FOLDER = os.environ.get(FOLDER_VARIABLE)
needs_data = pytest.mark.skipif(
    not FOLDER, reason=f"{FOLDER_VARIABLE} is not set; the data is in the collection jkkummerfeld/text2sql-data"
)
ENTRY = {
    "query-split": "train",
    "sentences": [
        {
            "question-split": "train",
            "text": "how long is the river_name0 in state_name0",
            "variables": {"river_name0": "red", "state_name0": "texas"},
        },
        {"question-split": "test", "text": "name a river", "variables": {}},
    ],
    "sql": ['SELECT  LENGTH FROM RIVER\nWHERE RIVER_NAME = "river_name0" AND TRAVERSE = "state_name0" ;', "SELECT 2 ;"],
}


@pytest.fixture
def rivers(tmp_path: Path) -> Path:
    """A database with the tables the corpus draws names from, two rivers and a state without any."""
    path = tmp_path / "geography.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE state (state_name, capital);"
            "INSERT INTO state VALUES ('texas', 'austin'), ('ohio', 'columbus');"
            "CREATE TABLE city (city_name); CREATE TABLE mountain (mountain_name);"
            "CREATE TABLE highlow (highest_point, lowest_point);"
            "CREATE TABLE river (river_name, length, traverse);"
            "INSERT INTO river VALUES ('red', 1638, 'texas'), ('wabash', 764, 'ohio');"
        )
    return path


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    file = tmp_path / "geography.json"
    file.write_text(json.dumps([ENTRY]))
    return geoquery_data.read_questions(file)


@pytest.fixture(scope="module")
def every() -> list[Question]:
    return geoquery_data.read_questions(geoquery_data.data_folder() / geoquery_data.QUESTIONS_FILE)


def test_names_are_filled_into_question_and_first_query(questions: list[Question]) -> None:
    first, second = questions
    assert first.text == "how long is the red in texas"
    assert first.sql == 'SELECT LENGTH FROM RIVER WHERE RIVER_NAME = "red" AND TRAVERSE = "texas"'
    assert first.messages == [{"role": "user", "content": "how long is the red in texas"}]
    assert (first.split, second.split, second.text) == ("train", "test", "name a river")


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("in state_name0", "in ohio"),
        ("state_name0 and state_name1", "ohio and iowa"),
        ("state_name01 CITYalias0.STATE_NAME", "state_name01 CITYalias0.STATE_NAME"),
    ],
)
def test_only_whole_variables_are_filled_in(template: str, filled: str) -> None:
    assert substitute(template, {"state_name0": "ohio", "state_name1": "iowa"}) == filled


@pytest.mark.parametrize("sql", ["SELECT 1", " SELECT  1 ;", "SELECT\n1;", "SELECT 1 ; "])
def test_a_query_is_tidied(sql: str) -> None:
    assert tidy(sql) == "SELECT 1"


def test_the_corpus_replaces_names_in_question_and_query_alike(questions: list[Question], rivers: Path) -> None:
    pairs = geoquery_data.corpus(questions, rivers, SEED, 200)
    assert pairs == geoquery_data.corpus(questions, rivers, SEED, 200)
    assert pairs != geoquery_data.corpus(questions, rivers, SEED + 1, 200)
    seen = Counter()
    for (message,), sql in pairs:
        words = message["content"].split()
        seen[words[4], words[6]] += 1
        assert sql == f'SELECT LENGTH FROM RIVER WHERE RIVER_NAME = "{words[4]}" AND TRAVERSE = "{words[6]}"'
    assert set(seen) == {(river, state) for river in ("red", "wabash") for state in ("texas", "ohio")}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("SELECT length FROM river", 1.0),
        ("SELECT length FROM river WHERE traverse = 'utah'", 0.0),
        ("SELECT max(length) FROM river WHERE traverse = 'utah'", 0.0),
        ("SELECT depth FROM river", 0.0),
        ("DELETE FROM river", 0.0),
        ("", 0.0),
    ],
)
def test_an_answer_that_finds_nothing_is_worth_nothing(rivers: Path, answer: str, value: float) -> None:
    assert geoquery.finds_something([], answer, str(rivers)) == value


NAMES = {
    "state_name": ["texas", "utah", "ohio"], "capital": ["austin", "columbus"], "city_name": ["dallas", "provo"],
    "river_name": ["red"], "mountain_name": ["kings peak"],
}  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """The tables of the collection with three states in a row: ohio, texas, utah; texas is the largest."""
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE state (state_name, population, area, country_name, capital, density);"
            "INSERT INTO state VALUES ('texas', 30, 9, 'usa', 'austin', 3.3), ('ohio', 12, 2.0, 'usa', 'columbus', 6),"
            " ('utah', 3, 5.0, 'usa', 'salt lake', 0.6);"
            "CREATE TABLE border_info (state_name, border);"
            "INSERT INTO border_info VALUES ('ohio', 'texas'), ('texas', 'ohio'), ('texas', 'utah'), ('utah', 'texas');"
            "CREATE TABLE city (city_name, population, country_name, state_name);"
            "INSERT INTO city VALUES ('dallas', 1, 'usa', 'texas'), ('provo', 1, 'usa', 'utah');"
            "CREATE TABLE river (river_name, length, country_name, traverse);"
            "INSERT INTO river VALUES ('red', 1638, 'usa', 'utah'), ('wabash', 764, 'usa', 'ohio');"
            "CREATE TABLE mountain (mountain_name, mountain_altitude, country_name, state_name);"
            "CREATE TABLE highlow (state_name, highest_elevation, lowest_point, highest_point, lowest_elevation);"
            "INSERT INTO highlow VALUES ('ohio', 400, 'river', 'hill', 100), ('utah', 4000, 'wash', 'kings peak', 600);"
        )
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("what states border the states next to ohio", {"ohio", "utah"}),
        ("what states border the state that contains provo", {"texas"}),
        ("what is the largest state that borders texas", {"utah"}),
        ("which state has the most people", {"texas"}),
        ("what is the capital of the state with the highest point", {"salt lake"}),
        ("tell me the capital of the states traversed by the longest river", {"salt lake"}),
        ("how many states border texas", {2}),
        ("what is the population of the smallest state", {12}),
        ("what state borders the most states", {"texas"}),
    ],
)
def test_a_question_of_the_grammar_has_the_query_that_answers_it(text: str, found: set[object], places: Path) -> None:
    rng = random.Random(SEED)
    drawn = (geoquery_grammar.drawn(rng, NAMES) for _ in range(200_000))
    sql = next(sql for asked, sql in drawn if asked == text)
    assert {value for (value,) in run_query(str(places), sql, dialect="sqlite", timeout_s=2, max_rows=10)} == found


def test_every_query_of_the_grammar_runs_and_nothing_kept_out_is_drawn(places: Path) -> None:
    every = geoquery_grammar.corpus(NAMES, (), SEED, 1000)
    assert every == geoquery_grammar.corpus(NAMES, (), SEED, 1000) != geoquery_grammar.corpus(NAMES, (), SEED + 1, 1000)
    asked = {message["content"] for (message,), _ in every}
    assert not any(mark in text for text in asked for mark in "{}@")
    for _, sql in every:
        run_query(str(places), sql, dialect="sqlite", timeout_s=2, max_rows=100)
    kept_out = set(sorted(asked)[::2])
    others = {message["content"] for (message,), _ in geoquery_grammar.corpus(NAMES, kept_out, SEED, 1000)}
    assert not others & kept_out and others & asked


@pytest.mark.parametrize("where", [None, "", "nowhere"])
def test_missing_data_names_the_collection(where: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    if where is not None:
        monkeypatch.setenv(FOLDER_VARIABLE, where and str(tmp_path / where))
    with pytest.raises(ValueError, match="jkkummerfeld/text2sql-data") as raised:
        geoquery.prepare(load(ROOT / "conf/geoquery.yml"))
    assert FOLDER_VARIABLE in str(raised.value) and "\n" not in str(raised.value)


def test_the_round_has_no_labels_and_no_reviewer() -> None:
    project = load(ROOT / "conf/geoquery.yml")
    assert {scorer.kind for scorer in project.scorers} == {"sql", "function", "agreement"}
    assert [source.split for source in project.ingest.sources] == ["train", "holdout"]
    assert set(project.reward.weights) == {"agrees"}


@needs_data
def test_splits_and_shares(every: list[Question]) -> None:
    assert Counter(question.split for question in every) == {"train": 549, "dev": 49, "test": 279}
    assert len({question.text for question in every}) == 877
    labelled, logged = geoquery_data.labelled_share(every, SEED)
    assert (len(labelled), len(logged)) == (192, 357)
    assert {question.split for question in (*labelled, *logged)} == {"train"}
    assert not {question.text for question in labelled} & {question.text for question in logged}
    assert geoquery_data.labelled_share(every, SEED) == (labelled, logged)
    assert geoquery_data.labelled_share(every, SEED + 1) != (labelled, logged)


@needs_data
def test_every_variable_is_filled_in(every: list[Question]) -> None:
    for question in every:
        assert not set(dict(question.values)) & set(question.text.split()), question
        for name, value in question.values:
            assert name not in question.sql and value in question.text and value in question.sql, question


@needs_data
def test_inputs_hold_labels_of_the_holdout_alone(every: list[Question], tmp_path: Path) -> None:
    database = tmp_path / "made" / "geography.sqlite"
    geoquery.write_inputs(tmp_path / "made", database, geoquery_data.data_folder(), SEED)
    made = {name: (tmp_path / "made" / name).read_text() for name in ("logs.jsonl", "test.jsonl", "gold.jsonl")}
    for name in ("logs.jsonl", "test.jsonl"):
        assert "select" not in made[name].lower()
        assert {frozenset(json.loads(line)) for line in made[name].splitlines()} == {
            frozenset({"request_id", "messages"})
        }
    texts = {name: {json.loads(line)["messages"][0]["content"] for line in made[name].splitlines()} for name in made}
    test = {question.text for question in every if question.split == "test"}
    assert (len(texts["logs.jsonl"]), len(texts["test.jsonl"]), len(texts["gold.jsonl"])) == (357, 279, 270)
    assert texts["test.jsonl"] == test > texts["gold.jsonl"]
    assert not texts["logs.jsonl"] & test
    counts = json.loads((tmp_path / "made" / "counts.json").read_text())
    assert counts == {"labelled": 192, "logged": 357, "test": 279, "gold": {"ok": 270, "empty": 7, "fails": 2}}
    assert database.read_bytes() == geoquery_data.database_in(geoquery_data.data_folder()).read_bytes()


@needs_data
def test_the_corpus_holds_no_question_of_the_log_or_the_test_split(every: list[Question]) -> None:
    labelled, _ = geoquery_data.labelled_share(every, SEED)
    pairs = geoquery_data.corpus(every, geoquery_data.database_in(geoquery_data.data_folder()), SEED, 5000)
    texts = {message["content"] for (message,), _ in pairs}
    assert len(pairs) == 5000 and len(texts) > 1000
    assert texts & {question.text for question in every} <= {question.text for question in labelled}
