"""SQL for Unity Catalog, by its text; tests/spark/test_unity.py has Spark's parser read it."""

import re

import pytest

from taolake import lake, unity
from taolake.config import Unity
from taolake.lake import Table

SMALL = Table(
    "small", ("a", "b"), "ingest", "It's small.",
    "a STRING COMMENT 'key', b INT COMMENT 'other key', words ARRAY<INT> COMMENT 'what was said'", ("words",),
)  # fmt: skip


def test_a_table_has_comments_a_key_and_clustering() -> None:
    assert SMALL.create("main.t.small", keyed=True).splitlines() == [
        "CREATE TABLE IF NOT EXISTS main.t.small (",
        "  a STRING NOT NULL COMMENT 'key',",
        "  b INT NOT NULL COMMENT 'other key',",
        "  words ARRAY<INT> COMMENT 'what was said',",
        "  CONSTRAINT small_key PRIMARY KEY (`a`, `b`)",
        ") USING DELTA",
        r"COMMENT 'It\'s small.'",
        "CLUSTER BY (`a`, `b`)",
        "TBLPROPERTIES ('delta.setTransactionRetentionDuration' = 'interval 90 days')",
    ]


def test_where_no_key_is_known_the_rest_stays() -> None:
    keyed, plain = (SMALL.create("main.t.small", keyed).splitlines() for keyed in (True, False))
    assert [line.rstrip(",") for line in plain] == [line.rstrip(",") for line in keyed if "PRIMARY KEY" not in line]


def test_tags_and_masks_of_what_people_wrote() -> None:
    spec = Unity(tags={"cost_centre": "42"}, unmasked="stewards")
    assert unity.statements([SMALL], "main.t", spec)[1:] == [
        "ALTER TABLE main.t.small SET TAGS ('taolake' = 'ingest', 'cost_centre' = '42')",
        "ALTER TABLE main.t.small ALTER COLUMN words SET TAGS ('personal_data' = 'possible')",
        "CREATE OR REPLACE FUNCTION main.t.unmasked_array_int(value ARRAY<INT>) RETURNS ARRAY<INT>\n"
        "RETURN IF(is_account_group_member('stewards'), value, NULL)",
        "ALTER TABLE main.t.small ALTER COLUMN words SET MASK main.t.unmasked_array_int",
    ]
    assert [s for s in unity.statements([SMALL], "main.t", Unity()) if "MASK" in s or "FUNCTION" in s] == []


@pytest.mark.parametrize("text", ["it's", "back\\slash", "'; DROP TABLE x; --"])
def test_a_text_stays_a_text(text: str) -> None:
    literal = lake.quoted(text)
    assert literal[0] == literal[-1] == "'"
    inner = re.sub(r"\\(.)", "", literal[1:-1])
    assert "'" not in inner


@pytest.mark.parametrize("table", lake.TABLES, ids=lambda table: table.name)
def test_every_table_says_all_columns_once(table: Table) -> None:
    fields = [name for name, _, _ in table.fields()]
    assert len(fields) == len(set(fields)) == table.columns.count(" COMMENT '")
    assert set(table.key) <= set(fields)
    assert set(table.personal) <= set(fields) - set(table.key)


def test_texts_of_people_and_models_are_named_as_such() -> None:
    wordy = {"messages", "text", "raw", "reply", "excerpt", "chosen_text", "rejected_text", "token_ids"}
    wordy |= {"answer", "request", "response", "requester"}
    found = {(t.name, name) for t in lake.TABLES for name, _, _ in t.fields() if name in wordy}
    assert found == {(t.name, name) for t in lake.TABLES for name in t.personal}
    assert len(found) == 20
