"""Questions for people as a CSV sheet, and what they said on the sheet or on the page, read back.

Records that come out have the kinds `best_of` (prompt_id, messages, answers, chosen: a candidate id or None, verdict:
best, none or equal, annotator, seconds, order: candidate ids as shown), `edit` (prompt_id, messages, candidate_id,
original, edited, annotator) and `refused` (row, reason). Not here: the page (`taolake.report.ask`), other files of
choices (`taolake.curation.choices`, whose shape `importable` makes).
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from taolake.types import Message

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_VERDICTS = {"0": "none", "none": "none", "=": "equal", "equal": "equal"}
_FIELDS = {
    "best_of": {"prompt_id", "messages", "answers", "chosen", "annotator", "order"},
    "edit": {"prompt_id", "messages", "candidate_id", "original", "edited", "annotator"},
}
_CELL = 10_000_000  # characters; the csv module's own limit is below a long conversation


class Answer(TypedDict):
    """An answer as shown."""

    candidate_id: str
    text: str


class Item(TypedDict):
    """One question: a conversation that ends with a user turn, and its answers in the order they are shown."""

    prompt_id: str
    messages: Sequence[Message]
    answers: Sequence[Answer]


def sheet(items: Sequence[Item], annotator: str = "anonymous") -> str:
    """Write the questions as CSV: fill in `best` with the number of an answer, 0 for none, `equal` for all.

    Cells a spreadsheet would take for a formula begin with an apostrophe. What is read back is the last column, plain
    ASCII that no spreadsheet touches; the readable columns are for reading.
    """
    widest = max((len(item["answers"]) for item in items), default=0)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    numbered = [f"answer_{i + 1}" for i in range(widest)]
    writer.writerow(["prompt_id", "question", *numbered, "best", "edited", "annotator", "data"])
    for item in items:
        texts = [answer["text"] for answer in item["answers"]]
        shown = [item["messages"][-1]["content"], *texts, *([""] * (widest - len(texts))), "", "", annotator]
        writer.writerow([item["prompt_id"], *map(_safe, shown), json.dumps(item)])
    return out.getvalue()


def read_sheet(text: str) -> list[dict[str, Any]]:
    """Read a filled-in CSV, whatever a spreadsheet made of its commas; questions without a `best` are left out.

    A row that cannot be read becomes a record of kind `refused`, with `row` and `reason`.

    Raises:
        ValueError: a column is missing.
    """
    csv.field_size_limit(_CELL)
    text = text.lstrip("\ufeff")
    mark = text.lstrip('"').removeprefix("prompt_id").lstrip('"')[:1]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark if mark in (";", "\t") else ",")
    missing = {"prompt_id", "best", "data"} - set(rows.fieldnames or [])
    if missing:
        raise ValueError(f"got columns {rows.fieldnames}, wanted also {sorted(missing)}; use the exported file itself")
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=2):
        said = _plain(row["best"] or "").strip().lower()
        if said:
            try:
                found += _said(said, row)
            except ValueError as error:  # raised below, with a reason fit to be read
                found.append({"kind": "refused", "row": number, "reason": str(error)})
    return found


def read_lines(text: str) -> list[dict[str, Any]]:
    """Read the file the page gives, one JSON record a line; what is none becomes a record of kind `refused`."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        reason = wrong(record)
        found.append(record if reason is None else {"kind": "refused", "row": number, "reason": reason})
    return found


def importable(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records in the shape `taolake.curation.choices` reads; where nothing was chosen there is nothing to import."""
    found: list[dict[str, Any]] = []
    for record in records:
        shared = {name: record[name] for name in ("kind", "messages", "annotator")}
        if record["kind"] == "edit":
            original = {"candidate_id": record["candidate_id"], "text": record["original"]}
            found.append({**shared, "original": original, "edited": record["edited"]})
        elif record["chosen"] is not None:
            ids = [answer["candidate_id"] for answer in record["answers"]]
            found.append({**shared, "answers": record["answers"], "chosen": ids.index(record["chosen"])})
    return found


def _said(said: str, row: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Records of one row of a CSV."""
    try:
        item: Item = json.loads(row["data"] or "")
        ids = [answer["candidate_id"] for answer in item["answers"]]
    except (ValueError, KeyError, TypeError):
        raise ValueError("column 'data' was changed or cut off; export it again, or use the page") from None
    place = said.removesuffix(".0")  # a spreadsheet may turn 2 into 2.0
    verdict = _VERDICTS.get(place, "best")
    if verdict == "best" and not (place.isascii() and place.isdigit() and 1 <= int(place) <= len(ids)):
        raise ValueError(f"got best {said[:20]!r}, wanted 1 to {len(ids)}, 0 for none, or equal")
    chosen = item["answers"][int(place) - 1] if verdict == "best" else None
    annotator = _plain(row.get("annotator") or "").strip() or "anonymous"
    shared = {"prompt_id": item["prompt_id"], "messages": item["messages"], "annotator": annotator}
    about = {"chosen": chosen and chosen["candidate_id"], "verdict": verdict, "seconds": None, "order": ids}
    records = [{"kind": "best_of", **shared, "answers": item["answers"], **about}]
    edited = _plain(row.get("edited") or "")
    if chosen and edited.strip() and edited != chosen["text"]:
        both = {"candidate_id": chosen["candidate_id"], "original": chosen["text"], "edited": edited}
        records.append({"kind": "edit", **shared, **both})
    return records


def wrong(record: Any) -> str | None:
    """Why this is no record of the page or the sheet; None: it is one."""
    if not isinstance(record, dict) or record.get("kind") not in _FIELDS:
        return "not a record of kind best_of or edit; use the downloaded file itself"
    missing = sorted(_FIELDS[record["kind"]] - record.keys())
    if missing:
        return f"a record of kind {record['kind']} without {missing}; use the downloaded file itself"
    if record["kind"] == "best_of" and record["chosen"] is not None:
        shown = [a.get("candidate_id") for a in _listed(record["answers"]) if isinstance(a, dict)]
        if record["chosen"] not in shown or record["chosen"] not in _listed(record["order"]):
            return "chosen is none of the answers"
    return None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _safe(cell: str) -> str:
    return "'" + cell if cell.startswith(_FORMULA) else cell


def _plain(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULA) else cell
