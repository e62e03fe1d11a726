"""What there is of one person: their requests, their prompts, what came of those, and what they wrote.

Found by hash of the name downstream (`ids.user_id`) and by the name itself in what `serve` wrote. `RULES` says for
every table which rows are theirs. Not here: deleting anything (`forget`).
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Self

from taolake import ids, lake
from taolake.curation.needles import Needles
from taolake.lake import Lake, Table
from taolake.stages.fanout import Row, map_rows
from taolake.stages.learned import among

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Which columns make a row theirs, and by what. What was made of prompts comes first, who asked last: a run that is
# killed in between can still find what is left.
RULES: tuple[tuple[Table, tuple[tuple[str, str], ...]], ...] = (
    *(
        (table, (("prompt_id", "gone"),))
        for table in (lake.SCORES, lake.REWARDS, lake.JUDGEMENTS, lake.EVALUATIONS, lake.SELECTIONS)
    ),
    (lake.PREFERENCES, (("prompt_id", "gone"), ("annotator", "people"))),
    (lake.CANDIDATES, (("prompt_id", "gone"),)),
    (lake.ANSWER_SCORES, (("request_id", "requests"),)),
    (lake.FEEDBACK, (("request_id", "requests"), ("user_id", "people"))),
    (lake.REACTIONS, (("request_id", "requests"), ("requester", "people"))),
    (lake.PROMPTS, (("prompt_id", "gone"),)),
    (lake.INFERENCE_LOG, (("request_id", "requests"), ("user_id", "people"))),
    (lake.PAYLOADS, (("databricks_request_id", "requests"), ("requester", "people"))),
    (lake.ASKED, (("prompt_id", "gone"), ("request_id", "requests"), ("user_id", "people"))),
)
# The others: two are searched for what people wrote, and four have no row that is one person's.
SEARCHED = (lake.QUARANTINE, lake.ROUNDS)
NOBODYS = (lake.EPOCHS, lake.MONITORS, lake.RELEASES, lake.ERASURES)
_LEAST_ID = 6  # characters of a request id worth looking for in files


@dataclass(frozen=True)
class Trace:
    """What is theirs.

    Attributes:
        people: the name and its hash.
        requests: ids of their requests.
        gone: prompts that nobody else asked.
        shared: prompts that others asked too.
        candidates: answers to the former.
        texts: what they wrote, and what is in no row of anybody else.
    """

    people: frozenset[str]
    requests: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    candidates: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()

    def needles(self) -> Needles:
        """What a file that knows of them would hold."""
        named = {request for request in self.requests if len(request) >= _LEAST_ID}
        return Needles(self.people | named | self.gone | self.candidates, self.texts)

    def merged(self, other: Self) -> Self:
        """Both together; a prompt that is gone in either is gone."""
        both = {f.name: getattr(self, f.name) | getattr(other, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{**both, "shared": both["shared"] - both["gone"]})

    def to_json(self) -> dict[str, list[str]]:
        """For the plan file of a run that may be killed."""
        return {f.name: sorted(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, stored: dict[str, list[str]]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**{name: frozenset(values) for name, values in stored.items()})


def find(lake_: Lake, name: str) -> Trace:
    """Everything that is theirs in the tables."""
    person = ids.user_id(name)
    people = frozenset((name, person))
    requests = (
        _values(lake_, lake.ASKED, "request_id", "user_id", people)
        | _values(lake_, lake.INFERENCE_LOG, "request_id", "user_id", people)
        | _values(lake_, lake.PAYLOADS, "databricks_request_id", "requester", people)
    )
    touched = (
        _values(lake_, lake.ASKED, "prompt_id", "user_id", people)
        | _values(lake_, lake.ASKED, "prompt_id", "request_id", requests)
        | _values(lake_, lake.PROMPTS, "prompt_id", "request_id", requests)
    )
    shared = _asked_by_others(lake_, touched, requests, person)
    gone = touched - shared
    candidates = _values(lake_, lake.CANDIDATES, "candidate_id", "prompt_id", gone)
    trace = Trace(people, frozenset(requests), frozenset(gone), frozenset(shared), frozenset(candidates))
    return dataclasses.replace(trace, texts=_own_texts(lake_, trace))


def rows_of(lake_: Lake, table: Table, rules: Iterable[tuple[str, str]], trace: Trace) -> "DataFrame | None":
    """The rows of a table that are theirs, each once; None where no rule has anything to look for."""
    known = [(column, getattr(trace, values)) for column, values in rules if getattr(trace, values)]
    rows = lake_.read(table)
    if table is lake.JUDGEMENTS and "prompt_id" not in rows.columns:  # a table of an older release
        return None
    parts = [among(lake_, rows, column, values).select(*rows.columns) for column, values in known]
    return reduce(lambda a, b: a.unionByName(b), parts).dropDuplicates(list(table.key)) if parts else None


def counts(lake_: Lake, trace: Trace) -> dict[str, int]:
    """Rows that are theirs, by table; tables without any are left out."""
    return _counted({table.name: rows_of(lake_, table, rules, trace) for table, rules in there(lake_)})


def rules_met(lake_: Lake, trace: Trace) -> list[tuple[Table, tuple[str, str]]]:
    """The rules that find rows, in their order."""
    every = [(table, rule) for table, rules in there(lake_) for rule in rules]
    hit = _counted({f"{t.name}.{rule[0]}": rows_of(lake_, t, [rule], trace) for t, rule in every})
    return [(table, rule) for table, rule in every if f"{table.name}.{rule[0]}" in hit]


def there(lake_: Lake) -> list[tuple[Table, tuple[tuple[str, str], ...]]]:
    """The rules of tables that were ever made."""
    return [(table, rules) for table, rules in RULES if lake_.exists(table)]


def _counted(frames: dict[str, "DataFrame | None"]) -> dict[str, int]:
    """Rows of each frame, in one job: a job a table is what looking through small tables costs."""
    from pyspark.sql import functions as f

    parts = [rows.select(f.lit(name).alias("name")) for name, rows in frames.items() if rows is not None]
    if not parts:
        return {}
    found = {r["name"]: r["count"] for r in reduce(_union, parts).groupBy("name").count().collect()}
    return {name: found[name] for name in frames if name in found}


def _values(lake_: Lake, table: Table, wanted: str, column: str, values: Iterable[str]) -> set[str]:
    """A column of the rows whose other column is one of the values; a table that was never made has none."""
    known = set(values)
    if not known or not lake_.exists(table):
        return set()
    rows = among(lake_, lake_.read(table).select(*{wanted, column}), column, known)
    return {row[wanted] for row in rows.select(wanted).distinct().collect() if row[wanted]}


def _asked_by_others(lake_: Lake, prompts: set[str], requests: set[str], person: str) -> set[str]:
    """Those of the prompts that somebody else asked too, or a request of nobody known."""
    if not prompts or not lake_.exists(lake.ASKED):
        return set()
    rows = among(lake_, lake_.read(lake.ASKED), "prompt_id", prompts).select("prompt_id", "request_id", "user_id")
    return {r["prompt_id"] for r in rows.collect() if r["request_id"] not in requests and r["user_id"] != person}


def _own_texts(lake_: Lake, trace: Trace) -> frozenset[str]:
    """What stands in the personal columns of their rows and of nobody else's."""
    mine, others = list["DataFrame"](), list["DataFrame"]()
    for table, rules in there(lake_):
        if not table.personal:
            continue
        theirs = rows_of(lake_, table, rules, trace)
        every = lake_.read(table)
        others.append(_texts(table, every if theirs is None else every.join(theirs, list(table.key), "left_anti")))
        if theirs is not None and table.name in _SAID:
            mine.append(_texts(table, theirs))
    if not mine:
        return frozenset()
    said = {text for row in reduce(_union, mine).collect() for text in spoken(json.loads(row["text"]))}
    needles = Needles((), said)
    if not needles:
        return frozenset()

    def common(rows: Iterator[Row]) -> Iterator[Row]:
        return ({"text": text} for row in rows for text in needles.found(row["text"].encode()))

    known = map_rows(reduce(_union, others), "text STRING", common).distinct().collect()
    return needles.without(row["text"] for row in known).texts


_SAID = {table.name for table in (lake.PROMPTS, lake.INFERENCE_LOG, lake.PAYLOADS, lake.FEEDBACK, lake.REACTIONS)}


def _texts(table: Table, rows: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as f

    columns = [column for column in table.personal if column not in ("token_ids", "requester")]
    return rows.select(f.to_json(f.struct(*columns)).alias("text"))


def _union(a: "DataFrame", b: "DataFrame") -> "DataFrame":
    return a.unionByName(b)


def spoken(value: Any) -> Iterator[str]:
    """Every text of a JSON value that somebody wrote: turns, answers, comments; also in bodies kept as JSON text."""
    match value:
        case dict():
            for key, each in value.items():
                if key in ("content", "text", "answer", "prompt", "input", "comment") and isinstance(each, str):
                    yield each.strip()
                elif key in ("request", "response") and isinstance(each, str):
                    yield from spoken(_loaded(each))
                else:
                    yield from spoken(each)
        case list():
            for each in value:
                yield from spoken(each)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a body cut off by the gateway's limit: it is searched for as it stands
        return {"text": text}
