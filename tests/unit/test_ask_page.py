"""The page and the sheet as text: what is in them, what cannot break out of them, and what is read back."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from taolake.curation import choices
from taolake.curation.asked import importable, read_lines, read_sheet, sheet, wrong
from taolake.report.ask import page
from tests.asking import HOSTILE, items


class Reader(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.inside = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_carries_its_questions_and_nothing_gets_out() -> None:
    text = page(items(), "shop", HOSTILE[0], 'ann"><script>')
    data, script = read(text).scripts
    found = json.loads(data)
    assert found["items"] == items() and found["annotator"] == 'ann"><script>'
    assert len(re.findall("<script", text)) == 2 and "</script><script>doc" not in text and "<img" not in text
    assert "<" not in data and ">" not in data
    assert len(read(page(items(), "shop")).tags) == len(read(text).tags)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for t, a in read(text).tags if t == "meta" and "http-equiv" in a)
    assert policy and f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none'")


def test_nothing_is_loaded_or_sent() -> None:
    text = page(items()[:1], "shop")
    assert not [a for _, a in read(text).tags if {"src", "href", "srcset", "action"} & a.keys()]
    script = read(text).scripts[1]
    assert not [word for word in ("http", "fetch", "XMLHttp", "innerHTML", "eval", "insertAdjacent") if word in script]
    assert "<!--" not in script and "</script" not in script


def test_a_page_is_named_by_its_questions() -> None:
    names = [json.loads(read(page(some, "t", annotator=who)).scripts[0])["page"] for some, who in
             ((items(), "a"), (items(), "a"), (items()[:2], "a"), (items(), "b"))]  # fmt: skip
    assert names[0] == names[1] and len(set(names)) == 3
    assert page(items(), "t") == page(items(), "t")


def filled(text: str, **said: dict[str, str]) -> str:
    """The sheet with cells filled in, by prompt."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys())
    writer.writeheader()
    writer.writerows(row | said.get(row["prompt_id"], {}) for row in rows)
    return out.getvalue()


def test_cells_are_no_formulas() -> None:
    rows = list(csv.reader(io.StringIO(sheet([*items(), items()[0] | {"prompt_id": "p3"}], "=cmd()"), newline="")))
    assert rows[0] == [
        "prompt_id", "question", "answer_1", "answer_2", "answer_3", "answer_4", "best", "edited", "annotator", "data",
    ]  # fmt: skip
    cells = [cell for row in rows[1:] for cell in row]
    assert len(rows) == 5 and not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert rows[2][3] == "'" + HOSTILE[1] and rows[1][8] == "'=cmd()"
    assert all(cell.isascii() for cell in (row[-1] for row in rows))


@pytest.mark.parametrize("change", ["as it is", "semicolons", "tabs", "quoted", "other encoding", "apostrophe kept"])
def test_a_sheet_comes_back_whatever_the_spreadsheet_did(change: str) -> None:
    text = filled(sheet(items(), "ann"), p1={"best": "2", "edited": "'=1+1"}, p2={"best": "0.0", "annotator": "bob"})
    rows = list(csv.reader(io.StringIO(text, newline="")))
    out = io.StringIO()
    match change:
        case "semicolons" | "tabs":
            csv.writer(out, delimiter=";" if change == "semicolons" else "\t").writerows(rows)
        case "quoted":
            csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
        case "other encoding":
            lost = [[cell.encode("cp1252", "replace").decode("cp1252") for cell in row] for row in rows]
            csv.writer(out).writerows(lost)
        case _:
            csv.writer(out).writerows(rows)
    first, edit, none = read_sheet("\ufeff" + out.getvalue())
    hostile = items()[1]
    assert first == {
        "kind": "best_of", "prompt_id": "p1", "messages": hostile["messages"], "annotator": "ann", "verdict": "best",
        "answers": hostile["answers"], "chosen": "p1-1", "seconds": None, "order": ["p1-0", "p1-1", "p1-2", "p1-3"],
    }  # fmt: skip
    assert (edit["kind"], edit["candidate_id"], edit["original"], edit["edited"]) == (
        "edit",
        "p1-1",
        HOSTILE[1],
        "=1+1",
    )
    assert (none["chosen"], none["verdict"], none["annotator"]) == (None, "none", "bob")


def test_bad_rows_are_refused_and_the_others_kept() -> None:
    text = filled(sheet(items()), p0={"best": "5"}, p1={"best": "equal", "data": '{"prompt'}, p2={"best": "equal"})
    assert read_sheet(text) == [
        {"kind": "refused", "row": 2, "reason": "got best '5', wanted 1 to 4, 0 for none, or equal"},
        {
            "kind": "refused",
            "row": 3,
            "reason": "column 'data' was changed or cut off; export it again, or use the page",
        },
        read_sheet(filled(sheet(items()), p2={"best": "="}))[0],
    ]
    assert read_sheet(sheet(items())) == []  # nothing filled in is nothing said
    with pytest.raises(ValueError, match=r"wanted also \['data'\]"):
        read_sheet("prompt_id,question,best\n")


def best(**changes: Any) -> dict[str, Any]:
    one = items()[0]
    return {
        "kind": "best_of", "prompt_id": "p0", "messages": one["messages"], "answers": one["answers"], "chosen": "p0-2",
        "verdict": "best", "annotator": "ann", "seconds": 3.5, "order": [a["candidate_id"] for a in one["answers"]],
    } | changes  # fmt: skip


def test_lines_of_the_page() -> None:
    broken = ['{"kind": "best_of"', '{"kind": "rating"}', "[]", '{"kind": "edit", "prompt_id": "p"}']
    stray = json.dumps(best(chosen="p9-9"))
    found = read_lines("\n".join([json.dumps(best()), "", *broken, stray]) + "\n")
    assert found[0] == best()
    assert [(r["row"], r["reason"].partition(";")[0]) for r in found[1:]] == [
        (3, "not a record of kind best_of or edit"),
        (4, "not a record of kind best_of or edit"),
        (5, "not a record of kind best_of or edit"),
        (6, "a record of kind edit without ['annotator', 'candidate_id', 'edited', 'messages', 'original']"),
        (7, "chosen is none of the answers"),
    ]
    assert wrong(best(chosen=None)) is None and wrong(None) is not None
    assert [wrong(best(order=order)) for order in (["p0-1"], "p0-2", None)] == ["chosen is none of the answers"] * 3
    assert wrong(best(answers=7)) == "chosen is none of the answers"


def test_choices_can_be_imported() -> None:
    edit = {"kind": "edit", "prompt_id": "p0", "candidate_id": "p0-2", "original": "third of p0", "edited": "better"}
    about = {"messages": items()[0]["messages"], "annotator": "ann"}
    given = importable([best(), best(chosen=None, verdict="equal"), edit | about])
    assert len(given) == 2
    read_back = [choices.read(json.dumps(record).encode(), f"f:{i}", "shop") for i, record in enumerate(given)]
    rows = [row for r in read_back if not isinstance(r, str) for row in choices.choose([r]).rows]
    said = [(row["kind"], row["chosen_text"], row["rejected_text"], row["annotator"]) for row in rows]
    assert sorted(said) == [
        ("best_of", "third of p0", "first of p0", "ann"),
        ("best_of", "third of p0", "fourth of p0", "ann"),
        ("best_of", "third of p0", "second of p0", "ann"),
        ("edit", "better", "third of p0", "ann"),
    ]
    assert {row["chosen"] for row in rows if row["kind"] == "best_of"} == {"p0-2"}
    assert {row["rejected"] for row in rows if row["kind"] == "edit"} == {"p0-2"}
