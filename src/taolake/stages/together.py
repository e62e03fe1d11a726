"""Several tasks in one tuning: others' selections join the training, and others' holdouts are asked before promotion.

Another task is another project file with a round of its own, up to `select`, from the same base; its scorers, rewards,
labels and limits are its own. Here its rows are drawn into this round's by weight and temperature, and its holdout is
measured with the policy that came out. Nothing of another project is written but what its evaluation makes.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids
from taolake.config import OtherTask, load
from taolake.lake import Lake
from taolake.selection import mix
from taolake.stages.round import Round
from taolake.stages.select import training_rows

if TYPE_CHECKING:
    import pyarrow as pa


def opened(round_: Round, other: OtherTask) -> Round:
    """The other task's round, on this session.

    Raises:
        ValueError: it starts from another base, trains by another algorithm, or is this very task.
    """
    project = load(Path(other.project))
    mine = round_.project
    for what, here, there in (
        ("model", mine.model.path, project.model.path),
        ("algorithm", mine.train.algorithm, project.train.algorithm),
    ):
        if here != there:
            raise ValueError(f"{other.project} has {what} {there!r}, wanted {here!r}: tasks tuned together share it")
    if project.task.name == mine.task.name:
        raise ValueError(f"{other.project} is task {project.task.name!r} too, wanted another task")
    return Round(Lake(round_.lake.spark, project.lake), project, other.round)


def rows(round_: Round, selection: str) -> tuple["pa.Table", dict[str, int]]:
    """This round's training rows with those of the other tasks, and the prompts seen of each task."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = {round_.project.task.name: training_rows(round_, selection)}
    spec = round_.project.train
    if not spec.others:
        return tables[round_.project.task.name], {}
    weights = {}
    for other in spec.others:
        theirs = opened(round_, other)
        name = theirs.project.task.name
        table = training_rows(theirs, theirs.done("select").detail["selection"])
        # The brakes score with this project's scorers, which say nothing of another task.
        tables[name] = table.filter(pc.not_equal(table["kind"], "dev"))
        weights[name] = other.weight
    prompts = {name: sorted(set(table["prompt_id"].to_pylist())) for name, table in tables.items()}
    wanted = mix.quotas({name: len(found) for name, found in prompts.items()}, weights, spec.mixing)
    parts = []
    for name, table in tables.items():
        seen = Counter(mix.draw(prompts[name], wanted[name], ids.sample_seed(round_.project.seed, name)))
        owner = table["prompt_id"].to_pylist()
        kind = table["kind"].to_pylist()
        # A prompt that is looked at, and not learnt from, is looked at once.
        times = [min(seen[p], 1) if k == "dev" else seen[p] for p, k in zip(owner, kind, strict=True)]
        parts.append(table.take([i for i, count in enumerate(times) for _ in range(count)]))
    return pa.concat_tables(parts), wanted


def content_of(table: "pa.Table") -> str:
    """Hash of training rows in their order."""
    return ids.content_hash(table["selection"].to_pylist(), table["row_id"].to_pylist())


def evaluate_others(round_: Round) -> dict[str, dict[str, Any]]:
    """Measure every other task's holdout with the base and with this round's tuned policy; what was found, by task."""
    from taolake.stages import evaluate

    found = {}
    for other in round_.project.train.others:
        theirs = opened(round_, other)
        outcome = evaluate.compare(theirs, round_.base, round_.tuned)
        found[theirs.project.task.name] = outcome.detail | {"max_loss": other.max_loss, "project": other.project}
    return found
