"""From answers to committed rows: a chunk is staged in plain files first, then committed from there, once.

While engines answer, rows go to `<work>/staging`; the commit reads them there and needs no engine, so the next chunk is
answered meanwhile. A staged chunk outlives its driver: the next run commits it without asking anything again. In strict
mode the commit is an insert-only merge by key, and only the newest driver may do it. Not here: which chunks there are
(`ledger`), and who answers (`answer`).
"""

import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from taolake import lake
from taolake.lake import Lake
from taolake.stages.ledger import Chunk
from taolake.types import Policy

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from taolake.stages.round import Round

_FILE_ROWS = 100_000  # rows to a file of the table; a chunk smaller than that is one file


class FencedError(RuntimeError):
    """A newer driver writes the same rows; this one must stop."""


@dataclass(frozen=True)
class Epoch:
    """The right to commit, held by the newest driver of a scope."""

    lake: Lake
    scope: str
    owner: str
    number: int

    @classmethod
    def claim(cls, lake_: Lake, scope: str) -> Self:
        """Begin a new epoch; the driver of the one before is refused from now on."""
        held, owner = _holder(lake_, scope), uuid.uuid4().hex
        number = (held["epoch"] if held else 0) + 1
        row = (scope, number, owner, datetime.now(UTC))
        lake_.merge(lake.EPOCHS, lake_.spark.createDataFrame([row], lake.EPOCHS.schema()))
        return cls(lake_, scope, owner, number)

    def check(self) -> None:
        """Refuse to go on when a newer driver has begun.

        A driver that begins between this check and the commit does no harm: the merge leaves known keys alone.

        Raises:
            FencedError: one has.
        """
        held = _holder(self.lake, self.scope)
        if held is None or held["owner"] != self.owner:
            now = f"epoch {held['epoch']} began at {held['claimed_at']} UTC" if held else "its row in `epochs` is gone"
            raise FencedError(
                f"epoch {self.number} of {self.scope} is over: {now}, wanted this driver to be the newest; nothing "
                "of this chunk was committed. Let the newer driver finish, or stop it and run this one again"
            )


def _holder(lake_: Lake, scope: str) -> Any:
    """Who may commit."""
    from pyspark.sql import functions as f

    return lake_.read(lake.EPOCHS).where(f.col("scope") == scope).first()


class Desk:
    """Stages and commits the chunks of one policy for one driver."""

    def __init__(self, round_: "Round", policy: Policy) -> None:
        self._lake = round_.lake
        strict = round_.project.generate.strict
        self._epoch = Epoch.claim(round_.lake, f"candidates of policy {policy.id}") if strict else None
        # In strict mode every driver has folders of its own; otherwise the next driver finds what the last one staged.
        self.salt = "" if self._epoch is None else self._epoch.owner
        name = policy.id if self._epoch is None else f"{policy.id}-{self.salt[:8]}"
        self.folder = Path(round_.project.work).resolve() / "staging" / name

    def staged(self, chunk: Chunk) -> bool:
        """Whether all answers of a chunk lie here, from this run or one that was stopped before its commit."""
        return (self._place(chunk) / "_SUCCESS").exists()

    def stage(self, chunk: Chunk, answers: "DataFrame") -> dict[str, Any]:
        """Have a chunk answered; returns what was measured on the way (`measures`).

        Raises:
            RuntimeError: there are more or fewer rows than cells.
        """
        from pyspark.sql import Observation

        seen = Observation(f"generate {chunk.id}")
        rows = answers.observe(seen, *[measure.alias(name) for name, measure in measures().items()])
        rows.write.mode("overwrite").parquet(str(self._place(chunk)))
        return self._whole(chunk, seen.get)

    def measure(self, chunk: Chunk) -> dict[str, Any]:
        """The same of a chunk that lay here already."""
        rows = self._rows(chunk).agg(*[measure.alias(name) for name, measure in measures().items()])
        return self._whole(chunk, rows.collect()[0].asDict())

    def commit(self, chunk: Chunk) -> None:
        """Commit a staged chunk.

        Raises:
            FencedError: in strict mode, when a newer driver has begun.
        """
        rows = self._rows(chunk).coalesce(-(-chunk.cells // _FILE_ROWS))
        self.put(rows, chunk.id)
        shutil.rmtree(self._place(chunk), ignore_errors=True)

    def put(self, rows: "DataFrame", chunk: str) -> None:
        """Commit candidates under a chunk's id, at most once; likewise."""
        if self._epoch is None:
            self._lake.append_once(lake.CANDIDATES, rows, chunk)
        else:
            self._epoch.check()
            self._lake.insert_new(lake.CANDIDATES, rows)

    def close(self) -> None:
        """Everything is committed: what is left was staged for plans that are no more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _whole(self, chunk: Chunk, seen: dict[str, Any]) -> dict[str, Any]:
        """Refuse a chunk with too few or too many rows: in = out, always."""
        if seen["rows"] != chunk.cells:
            shutil.rmtree(self._place(chunk), ignore_errors=True)
            raise RuntimeError(
                f"chunk {chunk.id}: got {seen['rows']} answers, wanted {chunk.cells}; nothing of it was committed, "
                "run again"
            )
        return seen

    def _place(self, chunk: Chunk) -> Path:
        return self.folder / chunk.id

    def _rows(self, chunk: Chunk) -> "DataFrame":
        return self._lake.spark.read.schema(lake.CANDIDATES.schema()).parquet(str(self._place(chunk)))


def measures() -> "dict[str, Column]":
    """What is measured on the rows of a chunk."""
    from pyspark.sql import functions as f

    def total(column: str) -> "Column":
        return f.coalesce(f.sum(column), f.lit(0))

    def having(status: str) -> "Column":
        return f.count(f.when(f.col("status") == status, True))

    return {
        "rows": f.count(f.lit(1)),
        "tokens": total("tokens"),
        "prompt_tokens": total("prompt_tokens"),
        "cached_tokens": total("cached_tokens"),
        "slowest_s": f.coalesce(f.max("seconds"), f.lit(0.0)),
        **{status: having(status) for status in ("invalid", "error", "timeout")},
    }
