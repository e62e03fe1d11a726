"""What a table has in Unity Catalog beside its rows, as SQL: comments, key, clustering, tags, masks.

Text only: nothing here has a session. Every statement is safe to repeat, so a round begins with all of them. Grants are
given on the schema, in the bundle; lineage is drawn by the platform from what the stages read and write.
"""

import re
from collections.abc import Iterable, Iterator

from taolake.config import Unity
from taolake.lake import Table, quoted


def statements(tables: Iterable[Table], schema: str, spec: Unity) -> list[str]:
    """All statements for the tables of a `catalog.schema`."""
    tables = list(tables)
    made = [table.create(f"{schema}.{table.name}", keyed=True) for table in tables]
    made += [statement for table in tables for statement in tags(table, schema, spec.tags)]
    if spec.unmasked:
        kinds = {_types(table)[column] for table in tables for column in table.personal}
        made += [mask(kind, schema, spec.unmasked) for kind in sorted(kinds)]
        made += [statement for table in tables for statement in masked(table, schema)]
    return made


def tags(table: Table, schema: str, more: dict[str, str]) -> Iterator[str]:
    """Tags of the table, and of the columns that may hold personal data."""
    pairs = ", ".join(f"{quoted(key)} = {quoted(value)}" for key, value in {"taolake": table.writer, **more}.items())
    yield f"ALTER TABLE {schema}.{table.name} SET TAGS ({pairs})"
    for column in table.personal:
        yield f"ALTER TABLE {schema}.{table.name} ALTER COLUMN {column} SET TAGS ('personal_data' = 'possible')"


def mask(kind: str, schema: str, group: str) -> str:
    """The function that shows a value of a type to a group alone."""
    return (
        f"CREATE OR REPLACE FUNCTION {schema}.{mask_name(kind)}(value {kind}) RETURNS {kind}\n"
        f"RETURN IF(is_account_group_member({quoted(group)}), value, NULL)"
    )


def masked(table: Table, schema: str) -> Iterator[str]:
    """Put the masks on the columns that may hold personal data."""
    for column in table.personal:
        function = f"{schema}.{mask_name(_types(table)[column])}"
        yield f"ALTER TABLE {schema}.{table.name} ALTER COLUMN {column} SET MASK {function}"


def mask_name(kind: str) -> str:
    """One function a type."""
    return "unmasked_" + "_".join(re.findall(r"\w+", kind)).lower()


def _types(table: Table) -> dict[str, str]:
    return {name: kind for name, kind, _ in table.fields()}
