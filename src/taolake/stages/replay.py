"""Replay: a round's selection is made again from the table versions it was made from, and must be the same bit by bit.

Nothing is written and nothing is trained. Where it cannot be the same, the reasons are said: the project file is
another one now, versions were vacuumed, or somebody was forgotten since.
"""

from dataclasses import dataclass
from typing import Any

from taolake import lake
from taolake.lake import purge
from taolake.stages import best_of, select
from taolake.stages.round import Round


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        same: whether the recomputed rows are those that were recorded.
        recorded: hash of the selection when it was made.
        now: hash of what was recomputed; None: it could not be.
        reads: table versions it was made from.
        why: what stands in the way, or may explain a difference.
    """

    same: bool
    recorded: str
    now: str | None
    reads: dict[str, int]
    why: tuple[str, ...]


def replay(round_: Round) -> Replay:
    """Make the selection of a finished round again from its recorded table versions.

    Raises:
        RuntimeError: the round was never selected.
    """
    from pyspark.errors import PySparkException

    record = round_.done("select", current=False)
    row = _row(round_)
    reads, why = dict(row["reads"]), [*_config(round_, row), *_forgotten(round_, dict(row["reads"]))]
    selection = record.detail["selection"]
    # Rounds from before the hash was recorded are held against the rows themselves.
    recorded = record.detail.get("content") or select.content_of(round_, select.written(round_, selection))
    gone = _gone(round_, reads)
    if gone:
        return Replay(False, recorded, None, reads, (*why, *gone))
    then = Round(round_.lake.as_of(reads), round_.project, round_.number)
    try:
        now = select.content_of(then, _again(then, selection))
    except PySparkException as error:  # a vacuum from outside took files that the log still names
        return Replay(False, recorded, None, reads, (*why, f"the versions cannot be read: {str(error)[:300]}"))
    if now != recorded and not why:
        why.append("the table versions are there and the project file is the same: code or libraries have changed")
    return Replay(now == recorded, recorded, now, reads, tuple(why))


def _again(then: Round, selection: str) -> Any:
    """The rows of the selection, by the same functions, under the name it had."""
    measured = best_of.measure(then)
    k = measured["k"] if measured else then.project.select.best_of
    return select.made_of(then, select.groups_of(then), selection, k)[0]


def _row(round_: Round) -> Any:
    from pyspark.sql import functions as f

    mine = (f.col("round") == round_.number) & (f.col("stage") == "select")
    return round_.lake.read(lake.ROUNDS).where(mine).select("reads", "config_hash").collect()[0]


def _config(round_: Round, row: Any) -> list[str]:
    """Whether the project file is the one of then."""
    now = round_.project.config_hash
    if row["config_hash"] == now:
        return []
    return [
        f"the project file has changed: its hash is {now[:12]}, and was {row['config_hash'][:12]} when the round was "
        "selected; replay with the file of then"
    ]


def _forgotten(round_: Round, reads: dict[str, int]) -> list[str]:
    """Erasures since that took rows out of this round, or the versions it read."""
    why = []
    for row in round_.lake.read(lake.ERASURES).orderBy("at").collect():
        lost = sorted(name for name, version in reads.items() if version < row["floors"].get(name, 0))
        if round_.number not in row["rounds"] and not lost:
            continue
        reason = f"somebody was forgotten on {row['at']:%Y-%m-%d} (erasure {row['erasure'][:12]})"
        if round_.number in row["rounds"]:
            reason += "; rows of this round's selection were theirs and are deleted"
        if lost:
            reason += f"; older versions of {', '.join(lost)} are gone for good"
        why.append(reason)
    return why


def _gone(round_: Round, reads: dict[str, int]) -> list[str]:
    """Table versions that can no longer be rebuilt."""
    floors = {table.name: purge.floor(round_.lake, table) for table in lake.TABLES if table.name in reads}
    return [
        f"version {version} of table {name!r} cannot be read any more, the oldest is {floors[name]}"
        for name, version in sorted(reads.items())
        if version < floors.get(name, 0)
    ]
