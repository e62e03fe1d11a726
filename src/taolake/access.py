"""Who may do what on Databricks: the least that the jobs, the people who read and those who operate need.

`docs/databricks.md` shows this table; tests hold it against what the code and the bundle really do.
"""

from typing import NamedTuple


class Right(NamedTuple):
    """One right: `on` is what it is given on, `why` what fails without it."""

    who: str
    right: str
    on: str
    why: str


RUNNER, READERS, OPERATORS = "service principal", "readers", "operators"
RIGHTS = (
    Right(RUNNER, "USE CATALOG", "catalog", "reach anything in it"),
    Right(RUNNER, "CREATE SCHEMA", "catalog", "deploy makes the schemas, and owns them from then on"),
    Right(RUNNER, "USE SCHEMA", "schema", "reach anything in it"),
    Right(RUNNER, "CREATE VOLUME", "schema", "deploy makes the volume `files`"),
    Right(RUNNER, "READ VOLUME", "volume", "staged answers, checkpoints"),
    Right(RUNNER, "WRITE VOLUME", "volume", "the same"),
    Right(RUNNER, "CREATE TABLE", "schema", "the first round makes the tables, the endpoint its inference table"),
    Right(RUNNER, "SELECT", "schema", "stages read tables"),
    Right(RUNNER, "MODIFY", "schema", "stages write tables"),
    Right(RUNNER, "APPLY TAG", "schema", "tags of tables and columns"),
    Right(RUNNER, "CREATE FUNCTION", "schema", "masks; only where `unity.unmasked` names a group"),
    Right(RUNNER, "CREATE MODEL", "schema", "deploy makes the registered model, register those of rewards"),
    Right(RUNNER, "EXECUTE", "model", "load a version back, and serve it"),
    Right(RUNNER, "owner", "model", "new versions, and the aliases that deploy moves; who makes a model owns it"),
    Right(RUNNER, "SELECT", "prompts table", "ingest reads it"),
    Right(RUNNER, "SELECT", "system.serving", "collect: the endpoint's log names versions by ids alone"),
    Right(RUNNER, "CAN_MANAGE", "endpoint", "who makes it has it"),
    Right(RUNNER, "CAN_USE", "warehouse", "dashboard and alerts"),
    Right(RUNNER, "cluster creation", "workspace", "job clusters; or a policy that allows the node types"),
    Right(READERS, "USE CATALOG", "catalog", "given by the catalog's owner: the bundle does not own it"),
    Right(READERS, "USE SCHEMA", "schema", "by the bundle"),
    Right(READERS, "SELECT", "schema", "by the bundle: tables and dashboard"),
    Right(READERS, "EXECUTE", "model", "by the bundle: load a version"),
    Right(OPERATORS, "CAN_MANAGE_RUN", "jobs", "by the bundle: start, stop and repair runs"),
)


def table() -> str:
    """The rights, as Markdown."""
    head = "| who | right | on | what for |\n|---|---|---|---|\n"
    return head + "".join(f"| {who} | {right} | {on} | {why} |\n" for who, right, on, why in RIGHTS)
