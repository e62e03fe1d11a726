"""GeoQuery's questions, their SQL and their splits, and the pre-training corpus made from a share of them.

Not the data: that is a folder outside the repository (`data_folder`). Which of it goes where is decided in `geoquery`.
Format of the collection: Finegan-Dollak et al. (2018). Questions: Zelle and Mooney (1996).
"""

import json
import os
import random
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from taolake.demo.questions import Messages
from taolake.scoring.sql import QueryError, run_query

FOLDER_VARIABLE = "TAOLAKE_GEOQUERY"
QUESTIONS_FILE = "geography.json"
# The first is what the collection calls it, the second a name to give it if you like it short.
DATABASE_FILES = ("geography-db.added-in-2020.sqlite", "geography.sqlite")
LABELLED_COUNT = 192
# How often a name in a question is replaced by another of its kind when the corpus is drawn.
REPLACE_RATE = 0.85
# Tokens up to the size of a column with its table alias, such as `CITYalias0.CITY_NAME`: a third of the length.
PIECES = r" ?[A-Za-z_]+alias\d(?:\.[A-Za-z_]+)?| ?[A-Za-z_]+| ?\d+| ?[^\sA-Za-z0-9_]+|\s+"

_VALUES: Mapping[str, str] = {
    "state_name": "SELECT state_name FROM state",
    "city_name": "SELECT city_name FROM city",
    "capital": "SELECT capital FROM state",
    "river_name": "SELECT river_name FROM river",
    "mountain_name": "SELECT mountain_name FROM mountain",
    "highest_point": "SELECT highest_point FROM highlow",
    "lowest_point": "SELECT lowest_point FROM highlow",
}


@dataclass(frozen=True)
class Question:
    """A question as it was asked, its query, and both with variables in place of names."""

    text: str
    sql: str
    text_template: str
    sql_template: str
    values: tuple[tuple[str, str], ...]
    split: Literal["train", "dev", "test"]

    @property
    def messages(self) -> Messages:
        """The prompt: the bare question."""
        return [{"role": "user", "content": self.text}]


def data_folder() -> Path:
    """Where the data set is.

    Raises:
        ValueError: the setting is missing, or a file is; the message names the collection that holds it.
    """
    where = os.environ.get(FOLDER_VARIABLE, "")
    wanted = (
        f"wanted {FOLDER_VARIABLE} to name a folder with {' and '.join([QUESTIONS_FILE, DATABASE_FILES[0]])}: both are "
        "in folder data/ of the public collection https://github.com/jkkummerfeld/text2sql-data"
    )
    if not where:
        raise ValueError(f"the GeoQuery data is not here: the environment variable is not set, {wanted}")
    folder = Path(where)
    if not (folder / QUESTIONS_FILE).is_file() or not any((folder / name).is_file() for name in DATABASE_FILES):
        raise ValueError(f"the GeoQuery data is not in {where!r}, {wanted}")
    return folder


def database_in(folder: Path) -> Path:
    """The database file of a data folder."""
    return next(folder / name for name in DATABASE_FILES if (folder / name).is_file())


def read_questions(file: Path) -> list[Question]:
    """Reads every question with its names filled in; of several equivalent queries the first is taken."""
    return [
        Question(
            text=substitute(sentence["text"], sentence["variables"]),
            sql=substitute(tidy(entry["sql"][0]), sentence["variables"]),
            text_template=sentence["text"],
            sql_template=tidy(entry["sql"][0]),
            values=tuple(sentence["variables"].items()),
            split=sentence["question-split"],
        )
        for entry in json.loads(file.read_text(encoding="utf-8"))
        for sentence in entry["sentences"]
    ]


def tidy(sql: str) -> str:
    """Puts one space between the words of a query and takes the final semicolon away."""
    return " ".join(sql.split()).removesuffix(";").rstrip()


def substitute(template: str, values: Mapping[str, str]) -> str:
    """Fills in the variables, such as `state_name0`; a variable inside a longer word is left alone."""
    return re.sub(r"\b[a-z_]+\d+\b", lambda found: values.get(found[0], found[0]), template)


def labelled_share(questions: Sequence[Question], seed: int) -> tuple[list[Question], list[Question]]:
    """Splits the train questions into those whose SQL may be seen before the round, and the others: the log."""
    train = [question for question in questions if question.split == "train"]
    chosen = set(random.Random(f"labelled {seed}").sample(train, min(LABELLED_COUNT, len(train))))
    return [q for q in train if q in chosen], [q for q in train if q not in chosen]


def gold_state(question: Question, database: Path) -> Literal["ok", "fails", "empty"]:
    """Whether the query of the data set can be held against an answer: two do not run, some find nothing."""
    try:
        rows = run_query(str(database), question.sql, dialect="sqlite", timeout_s=10, max_rows=10_000)
    except QueryError:
        return "fails"
    return "ok" if rows else "empty"


def corpus(questions: Sequence[Question], database: Path, seed: int, n: int) -> list[tuple[Messages, str]]:
    """Draws `n` prompts with completions from the labelled share, most names replaced by others of the database.

    A drawn name can turn a labelled question into one of the log, of dev or of test; those are kept out, word for word.
    """
    labelled, _ = labelled_share(questions, seed)
    kept_out = {question.text for question in questions} - {question.text for question in labelled}
    rng = random.Random(f"corpus {seed}")
    names = names_by_kind(database)
    pairs: list[tuple[Messages, str]] = []
    while len(pairs) < n:
        # Round after round over all questions, so that each is seen about equally often.
        for question in rng.sample(labelled, len(labelled)):
            values = {name: _draw(name, value, names, rng) for name, value in question.values}
            prompt = substitute(question.text_template, values)
            if prompt not in kept_out:
                pairs.append(([{"role": "user", "content": prompt}], substitute(question.sql_template, values)))
    return pairs[:n]


def names_by_kind(database: Path) -> dict[str, list[str]]:
    """Every name in the database, by the kind of variable it can stand for."""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return {kind: sorted({row[0] for row in connection.execute(sql)}) for kind, sql in _VALUES.items()}


def _draw(variable: str, value: str, names: Mapping[str, list[str]], rng: random.Random) -> str:
    """Another name of the same kind, or now and then the one that was asked about."""
    kind = variable.rstrip("0123456789")
    return rng.choice(names[kind]) if kind in names and rng.random() < REPLACE_RATE else value
