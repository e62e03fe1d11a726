"""What people said about answers becomes choices: rows of `preferences`, or a reason why not.

One record is one JSON object. All kinds share `kind`, `prompt` (a question, a list of turns, or that list as JSON; also
under the name `messages`), `annotator` (default `people`) and `task` (default: the project's). An answer is a text, or
an object with `text` and `candidate_id`. Beside these:

- `best_of`: `answers`, and `chosen`, the number of the best one, from 0.
- `ranking`: `answers`, and `ranks`, one number for each, 1 the best; equal ranks are ties.
- `pair`: `chosen` and `rejected`; `strength` from 0 to 1 if known.
- `rating`: `answer` and `rating`, on a scale from `low` to `high` (default 1 to 5). One answer a record.
- `thumb`: `answer`, and `thumb`, `up` or `down`. One answer a record.
- `edit`: `original` and `edited`; the edited text is the better one.

Ratings and thumbs are compared within one prompt, annotator and `aspect` (what was rated, if that is said), never
between people. Lists may be JSON text and numbers may be text, as a CSV file has them. Not here: files, Spark, traces
(`taolake.curation.assessments`), reading the fields (`taolake.curation.judged`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from taolake import ids
from taolake.curation.judged import KINDS, Answer, judged
from taolake.curation.parse import parse

_GROUPED = ("rating", "thumb")  # one answer a record: what it is compared with stands in others

Row = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A record that could be read.

    Attributes:
        unit: records of one unit are compared with each other; most are alone in theirs.
        answers: what was shown, each once, by ascending id.
        levels: how good each answer is, in the same order; equal is equal.
        span: difference of levels that is a choice at full strength.
    """

    unit: str
    kind: str
    prompt_id: str
    task: str
    annotator: str
    messages: str
    answers: tuple[Answer, ...]
    levels: tuple[float, ...]
    span: float


@dataclass
class Choices:
    """What a unit gives: rows of `preferences`, and what was refused or folded, by the record's position."""

    rows: list[Row] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    folded: list[int] = field(default_factory=list)


def read(line: bytes, source: str, task: str, system: str | None = None, max_chars: int = 16_000) -> Record | str:
    """Read one record.

    Args:
        line: UTF-8 JSON, an object as in the module's docstring.
        source: where it stood; names its unit, unless it belongs to a group.
        task: task of records that name none.
        system: system turn for conversations without one, as `ingest.system`.
        max_chars: longest conversation, and longest answer.

    Returns:
        The record, or the reason for refusing it.
    """
    column = "messages" if _has_messages(line) else "prompt"
    logged = parse(line, column, system, max_chars)
    if isinstance(logged, str):
        return logged
    row = json.loads(line)
    kind = row.get("kind")
    if kind not in KINDS:
        return f"got kind {str(kind)[:40]!r}, wanted one of {', '.join(KINDS)}"
    task = str(row.get("task") or task)
    prompt = ids.prompt_id(task, logged.messages)
    try:
        answers, levels, span = judged(kind, row, prompt, max_chars)
    except ValueError as error:  # raised by the readers below, with a reason fit to be read
        return str(error)
    annotator = str(row.get("annotator") or "people")
    group = ids.content_hash("unit", kind, prompt, annotator, str(row.get("aspect") or ""))
    return Record(
        group if kind in _GROUPED else source,
        kind,
        prompt,
        task,
        annotator,
        json.dumps(list(logged.messages), ensure_ascii=False),
        answers,
        levels,
        span,
    )


def to_json(record: Record) -> str:
    """Write a record for its way through an executor."""
    return json.dumps(asdict(record), ensure_ascii=False)


def from_json(text: str) -> Record:
    """Read what `to_json` wrote."""
    stored = json.loads(text)
    answers = tuple(Answer(**answer) for answer in stored.pop("answers"))
    return Record(**stored | {"answers": answers, "levels": tuple(stored["levels"])})


def choose(records: Sequence[Record]) -> Choices:
    """Turn the records of one unit into rows of `preferences`.

    Plackett-Luce: an answer is chosen from itself and all that are worse; ties are not chosen from each other. Rows of
    one such choice share `choice`. `strength` is the distance of the two levels over that of the whole scale.
    """
    out, shown, first = Choices(), dict[str, Answer](), records[0]
    level: dict[str, float] = {}
    by: dict[str, list[int]] = {}
    for position, record in enumerate(records):
        for answer, given in zip(record.answers, record.levels, strict=True):
            by.setdefault(answer.id, []).append(position)
            if level.setdefault(answer.id, given) != given:
                level[answer.id] = float("nan")
            shown[answer.id] = answer
    for answer_id, positions in by.items():
        if level[answer_id] != level[answer_id]:
            reason = "the same annotator gave this answer different verdicts"
            out.refused |= dict.fromkeys(positions, reason)
            del shown[answer_id]
        else:
            out.folded += positions[1:]
    span = max(r.span for r in records)
    for best in sorted(shown):
        worse = [other for other in sorted(shown) if level[other] < level[best]]
        out.rows += _rows(first, shown[best], [(shown[w], (level[best] - level[w]) / span) for w in worse])
    used = {row["chosen"] for row in out.rows} | {row["rejected"] for row in out.rows}
    for answer_id in shown.keys() - used:
        out.refused |= dict.fromkeys(by[answer_id], _lone(first.kind, len(shown)))
    out.folded = [position for position in out.folded if position not in out.refused]
    return out


def _rows(first: Record, best: Answer, worse: Sequence[tuple[Answer, float]]) -> list[Row]:
    """Rows of one choice: the best answer against each that was worse."""
    others = [answer.text for answer, _ in worse]
    choice = ids.content_hash("choice", first.kind, first.prompt_id, first.annotator, best.text, others)
    return [
        {
            "prompt_id": first.prompt_id,
            "chosen": best.id,
            "rejected": answer.id,
            "annotator": first.annotator,
            "choice": choice,
            "kind": first.kind,
            "strength": round(min(1.0, strength), 6),
            "task": first.task,
            "messages": first.messages,
            "chosen_text": best.text,
            "rejected_text": answer.text,
        }
        for answer, strength in worse
    ]


def disagreement(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Share of pairs on which two annotators differ, among pairs that two or more judged; None: there is none.

    A pair judged by k people gives one verdict per couple of people. Someone who says both is at odds with themselves
    and counts as half.
    """
    said: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        low, high = sorted((row["chosen"], row["rejected"]))
        votes = said.setdefault((row["prompt_id"], low, high), {})
        votes.setdefault(row["annotator"], []).append(float(row["chosen"] == low))
    differ: list[float] = []
    for votes in said.values():
        sides = [sum(v) / len(v) for v in votes.values()]
        differ += [abs(a - b) for i, a in enumerate(sides) for b in sides[i + 1 :]]
    return sum(differ) / len(differ) if differ else None


def _lone(kind: str, answers: int) -> str:
    if kind not in _GROUPED:
        return "no answer is better than another: nothing was chosen"
    what = {"thumb": "thumb", "rating": "rating"}[kind]
    if answers > 1:
        return f"every answer of this prompt got the same {what}: nothing was chosen"
    return f"a lone {what}: this annotator judged no other answer of the prompt"


def _has_messages(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # `parse` reads it again and says what is wrong
        return True
    return not isinstance(row, dict) or row.get("prompt") is None
