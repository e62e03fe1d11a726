"""Needles: a value is found however a file writes it, and not where it only looks like it."""

import html
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taolake.curation.needles import FORGOTTEN, Needles, scan, scrubbed
from taolake.curation.parse import Logged, parse
from taolake.ids import user_id

TEXT = 'she said "où est\nla gare?" & left <early>'


@pytest.mark.parametrize(
    "written",
    [
        TEXT,
        json.dumps(TEXT),
        json.dumps({"a": TEXT}, ensure_ascii=False),
        json.dumps({"body": json.dumps([TEXT])}),
        json.dumps({"body": json.dumps([TEXT], ensure_ascii=False)}, ensure_ascii=False),
        f"<p>{html.escape(TEXT)}</p>",
    ],
)
def test_a_text_is_found_however_it_is_written(written: str) -> None:
    needles = Needles((), [TEXT])
    assert needles.found(f"before {written} after".encode()) == {TEXT}
    assert not needles.hit(written.replace("gare", "care"))


def test_a_word_counts_by_itself_and_a_text_anywhere() -> None:
    needles = Needles(["req-1", "ann"], ["where is my order"])
    assert needles.found(b'{"id": "req-1"}') == {"req-1"}
    assert needles.found(b"req-12 xreq-1 Joann annex ann_a") == set()
    assert needles.found(b"(ann)\n") == {"ann"}
    assert needles.found(b"xxwhere is my orderxx") == {"where is my order"}


def test_short_texts_are_nobodys() -> None:
    assert Needles((), ["yes", "no thanks"]).texts == frozenset()
    assert not Needles((), ["yes"])


def test_every_place_in_a_block_is_seen() -> None:
    """Eight readings, one for each place a value may begin at; also of two values that begin alike."""
    needles = Needles(["abcdefgh-one", "abcdefgh-two"])
    for shift in range(20):
        assert needles.found(b"." * shift + b"abcdefgh-two" + b"." * 3) == {"abcdefgh-two"}
    assert needles.found(b"") == needles.found(b"abc") == set()


def test_many_values_are_as_good_as_one() -> None:
    names = [f"person-{i:05d}@example.org" for i in range(3000)]
    blob = ("filler " * 1000 + names[1234] + " " + names[2999]).encode()
    assert Needles(names).found(blob) == {names[1234], names[2999]}


def test_parquet_is_read_by_column_whatever_its_type(tmp_path: Path) -> None:
    words = [f"planted-word-{i}" for i in range(5)]
    rows = {
        "plain": pa.array([words[0], None]),
        "turns": pa.array([[{"role": "user", "content": words[1]}], []]),
        "tags": pa.array([[("k", words[2])], None], type=pa.map_(pa.string(), pa.string())),
        "raw": pa.array([words[3].encode(), b""]),
        "kind": pa.array([words[4], "x"]).dictionary_encode(),
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"plain": ["nothing"]}), tmp_path / "b.parquet")
    assert scan([tmp_path], Needles(words)) == {tmp_path / "a.parquet": set(words)}


def test_json_loses_keys_and_texts_that_hold_a_value() -> None:
    value = {"person-1234": 1, "kept": ["about person-1234", 2, None, {"deep": "person-1234"}], "n": 0.5}
    wanted = {"kept": [FORGOTTEN, 2, None, {"deep": FORGOTTEN}], "n": 0.5}
    assert scrubbed(value, Needles(["person-1234"])) == wanted


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"requester": "ann"}, user_id("ann")),
        ({"user": "ann"}, user_id("ann")),
        ({"user_id": "ann", "user": "bob"}, user_id("ann")),
        ({"user_id": user_id("ann")}, user_id("ann")),
        ({"user": ""}, None),
        ({}, None),
    ],
)
def test_who_asked_is_a_hash_wherever_the_log_says_it(row: dict[str, str], wanted: str | None) -> None:
    logged = parse(json.dumps({"messages": "a question", **row}).encode(), "messages")
    assert isinstance(logged, Logged) and logged.user_id == wanted
