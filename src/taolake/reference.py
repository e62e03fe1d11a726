"""Pages made from the code, so that the two cannot disagree: the project file, the tables, the README's matrix.

`taolake check --reference > docs/config.md` writes the first; `python -m taolake.reference tables > docs/tables.md`,
`python -m taolake.reference` with `matrix`, `others` or `access` what stands in other pages. Tests compare.
"""

import sys
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from taolake import access
from taolake.config import Project, Section, sections_in
from taolake.lake import TABLES, Table
from taolake.stages import STAGES, Stage

_INTRO = """# The project file

One YAML file describes a tuning project. This page is made by `taolake check --reference > docs/config.md`.
`conf/template.yml` is a file to start from; `taolake check conf/mine.yml` says what is wrong with yours.
"""

_TABLES_INTRO = """# The tables

Made by `python -m taolake.reference tables > docs/tables.md`. Locally a table is a folder below the project's `lake`,
on Databricks it is `catalog.schema.name`; both are Delta. `taolake tables NAME` shows rows.

A key column that is a version or a fingerprint means that a changed setting adds rows and never mixes with old ones.
"""

METRICS = {
    "greedy": "1 if the greedy answer is right, else 0",
    "greedy_tokens": "tokens of the greedy answer",
    "greedy_truncated": "1 if the greedy answer was cut off by the length limit",
    "samples": "stream-A answers that could be judged",
    "correct": "how many of them are right",
    "tokens": "their mean length in tokens",
    "pass_at_K": "unbiased estimate that at least one of K samples is right; K = 1, 2, 4, ... up to `evaluate.samples`",
    "best_of_n": "expected rightness of the sample the reward picks; of any sample where the reward abstains",
    "reward": "mean reward of the samples; missing where the reward abstains",
    "proxy_at_K": "expected reward of the best of K rewarded samples, picked by the reward; K = 1, 2, 4, ...",
    "gate_at_K": "expected rightness of that sample",
}


def page() -> str:
    """The page, as Markdown."""
    parts, seen = [_INTRO], set[str]()
    queue: list[tuple[str, type[Section]]] = [("Project", Project)]
    while queue:
        place, section = queue.pop(0)
        if section.__name__ in seen:
            continue
        seen.add(section.__name__)
        parts.append(_table(place, section))
        for name, info in section.model_fields.items():
            key = info.alias or name
            queue += [
                (key if place == "Project" else f"{place}.{key}", inner) for inner in sections_in(info.annotation)
            ]
    return "\n".join(parts)


def tables_page() -> str:
    """The page of all tables, as Markdown."""
    parts = [_TABLES_INTRO]
    for table in TABLES:
        key = ", ".join(f"`{column}`" for column in table.key)
        parts.append(f"## {table.name}\n\n{table.comment} Written by {table.writer}. Key: {key}.\n")
        rows = [f"| `{name}` | {kind.lower()} | {comment} |" for name, kind, comment in table.fields()]
        parts.append("| column | type | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    metrics = [f"| `{name}` | {meaning} |" for name, meaning in METRICS.items()]
    parts.append("## Metrics in `evaluations`\n\n| metric | of one prompt |\n|---|---|\n" + "\n".join(metrics) + "\n")
    return "\n".join(parts)


def matrix() -> str:
    """Which stage reads (R) and writes (W) which table, as Markdown; every stage keeps its own row of `rounds`."""
    head = "| |" + "".join(f" {stage.name} |" for stage in STAGES) + "\n|---|" + ":-:|" * len(STAGES) + "\n"
    uses = {table.name: [_use(table, stage) for stage in STAGES] for table in TABLES if _in_a_round(table)}
    return head + "".join(f"| `{name}` | {' | '.join(cells)} |\n" for name, cells in uses.items())


def others() -> str:
    """The tables that no stage of a round writes: what does, and which stages read them, as Markdown."""
    lines = []
    for table in (table for table in TABLES if not _in_a_round(table)):
        read = ", ".join(stage.name for stage in STAGES if table in stage.reads)
        lines.append(f"| `{table.name}` | {table.comment} | `taolake {table.writer}` | {read} |")
    return "| | holds | written by | read in a round by |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"


def _in_a_round(table: Table) -> bool:
    return any("W" in _use(table, stage) for stage in STAGES)


def _use(table: Table, stage: Stage) -> str:
    written = table is stage.writes or table.writer == stage.name or table.writer == "every stage"
    return "R" * (table in stage.reads) + "W" * written


def _table(place: str, section: type[Section]) -> str:
    kinds = get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()
    title = place if not kinds else f"{place}, kind {' or '.join(f'`{kind}`' for kind in kinds)}"
    head = f"## {title}\n\n{(section.__doc__ or '').strip()}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
    rows = [
        _row(info.alias or name, info)
        for name, info in section.model_fields.items()
        if name != "kind" or info.description
    ]
    return head + "\n".join(rows) + "\n"


def _row(key: str, info: FieldInfo) -> str:
    limits = ", ".join(_limit(m) for m in info.metadata if _limit(m))
    kind = _type(info.annotation) + (f", {limits}" if limits else "")
    cells = (f"`{key}`", kind, _default(info), info.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(annotation: Any) -> str:
    """A type in words."""
    if annotation is type(None):
        return "null"
    inner = sections_in(annotation)
    if inner and get_origin(annotation) is tuple:
        return "list of sections"
    if inner:
        return "section or null" if type(None) in get_args(annotation) else "section"
    arguments = [a for a in get_args(annotation) if a is not Ellipsis]
    name = getattr(get_origin(annotation), "__name__", "")
    if name == "Literal" or str(annotation).startswith("typing.Literal"):
        return " or ".join(f"`{a}`" for a in arguments)
    if name == "tuple":
        return f"list of {_type(arguments[0])}"
    if name == "dict":
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    if name == "Annotated":
        return _type(arguments[0])
    if arguments:
        return " or ".join(_type(a) for a in arguments)
    return {"str": "text", "int": "integer", "float": "number", "bool": "boolean", "datetime": "date and time"}.get(
        getattr(annotation, "__name__", ""), "anything"
    )


def _limit(rule: Any) -> str:
    """A range or pattern in words."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least", "max_length": "at most"}
    said = [f"{sign} {getattr(rule, name)}" for name, sign in signs.items() if getattr(rule, name, None) is not None]
    pattern = getattr(rule, "pattern", None)
    return ", ".join([*said, *([f"`{pattern}`"] if pattern else [])])


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={}) if info.default_factory else info.default
    if value is PydanticUndefined or isinstance(value, Section):
        return "see below"
    return f"`{value}`" if value not in ("", (), {}, None) else "none" if value is None else "empty"


if __name__ == "__main__":
    made = {"tables": tables_page, "matrix": matrix, "others": others, "access": access.table}
    sys.stdout.write(made[sys.argv[1]]())
