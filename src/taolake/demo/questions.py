"""Questions with their SQL: the production log, the review set and the pre-training corpus of the tiny model.

It is not where the gold answers live for the pipeline: `assets` decides which of them leave this module.
The corpus is systematically imperfect. Its writer knows SQL, but follows a house convention only now and then, so the
model trained on it prefers the generic query and still has the right one within reach of sampling.
"""

import json
import random
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import islice, product

from taolake.demo import database
from taolake.demo.families import FAMILIES, Family

Messages = list[dict[str, str]]

LOGGED_COUNT = 640
REVIEW_COUNT = 240
STEP_BY_STEP_SUFFIX = "\nThink step by step."
JSON_SUFFIX = "\nAnswer as JSON."
SQL_MARKER = "SQL: "

QUARTERS = tuple(f"Q{quarter} {year}" for year in database.YEARS for quarter in range(1, 5))
SLOTS: Mapping[str, tuple[str, ...]] = {
    "region": database.REGIONS,
    "segment": database.SEGMENTS,
    "status": ("paused", "closed"),
    "category": tuple(database.CATEGORIES.values()),
    "brand": database.BRANDS,
    "product": database.PRODUCTS,
    "rep": database.REPS,
    "limit": ("10", "20", "40", "60"),
    "plan": database.PLANS,
    "topic": database.TOPICS,
    "priority": database.PRIORITIES,
    "year": database.YEARS,
    "quarter": QUARTERS,
}

_GROUPS = tuple([family for family in FAMILIES if len(family.conventions) == needed] for needed in range(3))
# Share of the questions that need no, one and two conventions.
_SHARES = (0.44, 0.46, 0.10)
_OPENERS = ("Please tell me: ", "For the board: ", "Quick one: ")
_OPENER_RATE = 0.25
# How often the writer of the corpus follows a convention; the wording of a question moves it by up to a third.
_FOLLOW_RATES = {"void": 0.27, "cents": 0.28, "active": 0.24, "fiscal": 0.28, "stock": 0.25}
_FORM_SHARES = (0.76, 0.14, 0.10)
_STEP_BY_STEP_RATE = 0.5
_SHARED_CARE_RATE = 0.7
# How often the writer has a wrong value in the query: sampled answers fail for this reason as well, greedy ones do not.
_SLIP_RATE = 0.10
_NOTES = {
    "void": "drop void invoices",
    "cents": "cents to dollars",
    "active": "grace is active",
    "fiscal": "q1 starts in february",
    "stock": "keep the reserve",
}


@dataclass(frozen=True)
class Question:
    """A question, the query that obeys the conventions, and the one that a stranger to the house writes."""

    text: str
    sql: str
    generic_sql: str
    family: str
    conventions: tuple[str, ...]


def logged_questions(seed: int) -> list[Question]:
    """Draws the questions of the production log; no two share a query."""
    return list(_draw_distinct(seed)[0])


def review_questions(seed: int) -> list[Question]:
    """Draws the questions shown to the reviewer; none shares a query with another or with a logged one."""
    return list(_draw_distinct(seed)[1])


def pretraining_pairs(seed: int, n: int, care: float = 1.0) -> list[tuple[Messages, str]]:
    """Draws `n` prompts with completions; no text of the log or of the review set is among them.

    Args:
        seed: of all draws.
        n: how many.
        care: how many times as often as the example's writer this one follows a convention without thinking step by
            step; with 0.1 the model made from it is rarely right where a convention is needed, unless told to think.
    """
    kept_out = {question.text for questions in _draw_distinct(seed) for question in questions}
    rng = random.Random(f"pretraining {seed}")
    pairs: list[tuple[Messages, str]] = []
    while len(pairs) < n:
        (group,) = rng.choices(_GROUPS, _SHARES)
        family = rng.choice(group)
        values = _draw_values(family, rng)
        text, wording = _draw_text(family, values, rng)
        if text not in kept_out:
            suffix, completion = _write_completion(family, values, wording, rng, care)
            pairs.append(([{"role": "user", "content": text + suffix}], completion))
    return pairs


def render_sql(family: Family, values: Mapping[str, str], followed: Set[str]) -> str:
    """Writes the query of a family for these slot values, following the given conventions and no others."""
    shown = {
        "void": " and state <> 'void'" if "void" in followed else "",
        "cents": " / 100.0" if "cents" in followed else "",
        "active": "in ('active', 'grace')" if "active" in followed else "= 'active'",
        "stock": "stock - reserve" if "stock" in followed else "stock",
    }
    if "quarter" in values:
        first, last = quarter_bounds(values["quarter"], fiscal="fiscal" in followed)
        shown["fiscal"] = f"between '{first}' and '{last}'"
    return family.sql.format(**shown, **values)


def quarter_bounds(quarter: str, fiscal: bool) -> tuple[str, str]:
    """Returns the first and last day of a quarter such as "Q4 2024", of the fiscal or of the calendar year."""
    number, year = int(quarter[1]), int(quarter[3:])
    if not fiscal:
        last_day = ("03-31", "06-30", "09-30", "12-31")[number - 1]
        return f"{year}-{3 * number - 2:02}-01", f"{year}-{last_day}"
    last_day = (f"{year}-04-30", f"{year}-07-31", f"{year}-10-31", f"{year + 1}-01-31")[number - 1]
    return f"{year}-{3 * number - 1:02}-01", last_day


# Asked for by each of the three above: to draw is to run 2,000 queries.
@cache
def _draw_distinct(seed: int) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Draws the logged and the reviewed questions, with distinct queries and the same shares of conventions."""
    rng = random.Random(f"questions {seed}")
    logged: list[Question] = []
    reviewed: list[Question] = []
    with closing(sqlite3.connect(":memory:")) as connection:
        database.fill_database(connection)
        for group, share in zip(_GROUPS, _SHARES, strict=True):
            log_quota, quota = round(share * LOGGED_COUNT), round(share * (LOGGED_COUNT + REVIEW_COUNT))
            drawn = list(islice(_shuffled(group, rng, connection), quota))
            if len(drawn) < quota:
                raise ValueError(f"got {len(drawn)} distinct questions, expected {quota}; add families or slot values")
            # Small families run out before large ones: mixed anew, both parts have the same families.
            rng.shuffle(drawn)
            logged += drawn[:log_quota]
            reviewed += drawn[log_quota:]
    rng.shuffle(logged)
    rng.shuffle(reviewed)
    return tuple(logged), tuple(reviewed)


def _shuffled(group: Iterable[Family], rng: random.Random, connection: sqlite3.Connection) -> Iterator[Question]:
    """Yields every query of the group once, families at equal rates, each query in one of its wordings."""
    pools = []
    for family in group:
        choices = [SLOTS[slot] for slot in family.slots]
        combinations = [dict(zip(family.slots, values, strict=True)) for values in product(*choices)]
        rng.shuffle(combinations)
        pools.append((family, combinations))
    while pools:
        family, combinations = rng.choice(pools)
        if not combinations:
            pools.remove((family, combinations))
            continue
        values = combinations.pop()
        if _decided_by_conventions(family, values, connection):
            text, _ = _draw_text(family, values, rng)
            gold, generic = render_sql(family, values, set(family.conventions)), render_sql(family, values, set())
            yield Question(text, gold, generic, family.name, family.conventions)


def _decided_by_conventions(family: Family, values: Mapping[str, str], connection: sqlite3.Connection) -> bool:
    """Tells whether the answer has rows and leaving out any convention, or all of them, changes it."""
    needed = set(family.conventions)
    gold = connection.execute(render_sql(family, values, needed)).fetchall()
    if not gold or gold[0][0] is None:
        return False
    faulty = [needed - {name} for name in needed] + [set()] * bool(needed)
    answers = (connection.execute(render_sql(family, values, followed)).fetchall() for followed in faulty)
    return all(answer and answer != gold for answer in answers)


def _write_completion(
    family: Family, values: Mapping[str, str], wording: int, rng: random.Random, care: float
) -> tuple[str, str]:
    """Draws the form of a prompt and what the writer of the corpus answers; returns (suffix, completion)."""
    form = rng.choices(("plain", "steps", "json"), _FORM_SHARES)[0]
    followed = _draw_followed(family, wording, rng, None if form == "steps" else care)
    if rng.random() < _SLIP_RATE:
        slot = rng.choice(family.slots)
        values = {**values, slot: rng.choice(SLOTS[slot])}
    sql = render_sql(family, values, set(followed))
    if form == "steps":
        notes = [_NOTES[name] for name in followed] or ["no special rule"]
        return STEP_BY_STEP_SUFFIX, f"{', '.join(notes)}. {SQL_MARKER}{sql}"
    if form == "json":
        return JSON_SUFFIX, json.dumps({"sql": sql})
    return "", sql


def _draw_followed(family: Family, wording: int, rng: random.Random, care: float | None) -> list[str]:
    """Draws the conventions that the writer follows this time; no care is asked for where it thinks step by step."""
    # A wording suggests a convention more or less: a fixed factor from 2/3 to 4/3 for each wording of a family.
    factor = 2 / 3 + (zlib.crc32(f"{family.name} {wording}".encode()) % 100) / 150
    # A careful writer is careful about everything: mostly one draw decides on all conventions of a question.
    shared = rng.random() if rng.random() < _SHARED_CARE_RATE else None
    followed = []
    for name in family.conventions:
        rate = _STEP_BY_STEP_RATE if care is None else _FOLLOW_RATES[name] * factor * care
        if (rng.random() if shared is None else shared) < rate:
            followed.append(name)
    return followed


def _draw_values(family: Family, rng: random.Random) -> dict[str, str]:
    """Draws a value for each slot of a family."""
    return {slot: rng.choice(SLOTS[slot]) for slot in family.slots}


def _draw_text(family: Family, values: Mapping[str, str], rng: random.Random) -> tuple[str, int]:
    """Draws a wording; returns the question and the number of the wording."""
    wording = rng.randrange(len(family.texts))
    text = family.texts[wording].format(**values)
    if rng.random() < _OPENER_RATE:
        text = rng.choice(_OPENERS) + text[0].lower() + text[1:]
    return text, wording
