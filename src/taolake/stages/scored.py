"""What a scorer has still to do, and writing down what it said: the parts all scorers of the score stage share.

Not here: any scorer (`score`, `embed`), nor which versions there are (`score.versions`).
"""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.scoring.function import sound
from taolake.stages import groups
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round
from taolake.types import Policy, Score

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_COLUMNS = ("candidate_id", "prompt_id", "policy", "messages", "text", "status", "error")


def todo(round_: Round, policy: Policy, scorer: str, version: str) -> "DataFrame":
    """Candidates without a row of this scorer and version."""
    from pyspark.sql import functions as f

    done = round_.lake.read(lake.SCORES).where((f.col("scorer") == scorer) & (f.col("scorer_version") == version))
    rows = groups.candidates(round_, policy).select(*_COLUMNS)
    return rows.join(done.select("candidate_id"), "candidate_id", "left_anti")


def groups_todo(round_: Round, scorer: str, prefix: str, rows: "DataFrame", *columns: str) -> "DataFrame":
    """One row a group that has no rows of this scorer and version yet: its `members`, each with these columns.

    Args:
        round_: where the scores are.
        scorer: name of the scorer.
        prefix: its version; the group's id is added to it.
        rows: candidates as `groups.sampled` gives them, perhaps with more columns.
        columns: what is wanted of each member.
    """
    from pyspark.sql import functions as f

    key = ["prompt_id", "policy", "scorer_version"]
    members = f.collect_list(f.struct(*columns)).alias("members")
    named = rows.withColumn("scorer_version", f.concat(f.lit(prefix + "@"), "group"))
    done = round_.lake.read(lake.SCORES).where(f.col("scorer") == scorer).select(*key).distinct()
    return named.groupBy(*key).agg(members).join(done, key, "left_anti")


def append(
    round_: Round,
    todo: "DataFrame",
    run: Callable[[Iterator[Row]], Iterator[Row]],
    scorer: str,
    version: str,
    tasks: int,
    *key: str,
) -> int:
    """Score what is missing on `tasks` tasks and commit it once; returns the rows that were missing."""
    todo = todo.persist()
    try:
        named, missing = round_.lake.counted(todo, *(key or ("candidate_id",)))
        if missing:
            chunk = ids.content_hash("score", scorer, version, named)
            spread = todo.repartition(tasks, "prompt_id").sortWithinPartitions("prompt_id")
            with round_.progress(f"score {scorer}", missing) as bar:
                round_.lake.append_once(lake.SCORES, map_rows(spread, lake.SCORES.columns, run), chunk)
                bar.to(missing)
    finally:
        todo.unpersist()
    return missing


def every(given: Iterator[Score], wanted: int) -> Iterator[Score]:
    """As many scores as there are answers: a scorer that gave too few left the rest without one."""
    count = 0
    for score in itertools.islice(given, wanted):
        count += 1
        yield score
    for _ in range(wanted - count):
        yield Score(None, "error", detail={"error": f"got {count} scores for {wanted} answers"})


def row(candidate: Row, scorer: str, version: str, given: Score) -> Row:
    """A row of `scores`; a value that is no finite number becomes none, with the reason."""
    given = sound(given)
    return {
        "candidate_id": candidate["candidate_id"],
        "prompt_id": candidate["prompt_id"],
        "policy": candidate["policy"],
        "scorer": scorer,
        "scorer_version": version,
        "value": given.value,
        "status": given.status,
        "answer_key": given.answer_key,
        "detail": json.dumps(dict(given.detail), sort_keys=True, default=str),
    }
