"""Lineage: from a registered version to the rows that trained it, and from a prompt or a person to the versions.

What a version is says MLflow, by the tags `register` wrote; what it saw says `selections`; who asked says `asked`. The
set logic is `taolake.lineage`. Nothing is written here.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids, lake, lineage
from taolake.config import Project
from taolake.lake import Lake
from taolake.lineage import Selection, Version
from taolake.stages import registry
from taolake.stages.round import Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def versions(project: Project) -> list[Version]:
    """Every registered version of the project's model, oldest first."""
    import mlflow

    registry.connect(project)
    client, name = mlflow.MlflowClient(), project.register_.name
    # Asked one by one: Unity Catalog lists versions without their tags.
    found = [client.get_model_version(name, each.version) for each in client.search_model_versions(f"name='{name}'")]
    made = [lineage.version_of(name, int(each.version), each.tags) for each in found]
    return sorted(made, key=lambda version: version.number)


def of_version(round_: Round, number: int) -> dict[str, Any]:
    """What trained a version: prompts, candidates, requests, sources, table versions; JSON.

    Raises:
        ValueError: there is no such version, or its tags do not say what it was trained on.
    """
    every = versions(round_.project)
    version = next((each for each in every if each.number == number), None)
    if version is None:
        known = ", ".join(str(each.number) for each in every) or "none"
        raise ValueError(f"{round_.project.register_.name} has no version {number}; it has {known}")
    if version.selection is None:
        raise ValueError(f"{version.label} has no tags taolake.round and taolake.selection: taolake did not make it")
    return _trained_on(round_, version) | {
        "started_from": [each.label for each in lineage.ancestors(version, every)],
        "tables_at_registration": dict(version.tables),
        "scorers": dict(version.scorers),
    }


def _trained_on(round_: Round, version: Version) -> dict[str, Any]:
    from pyspark.sql import functions as f

    assert version.selection is not None
    number, selection = version.selection
    mine = (f.col("round") == number) & (f.col("selection") == selection)
    rows = round_.lake.read(lake.SELECTIONS).where(mine).select("kind", "prompt_id", "candidate_id").collect()
    prompts = sorted({row["prompt_id"] for row in rows})
    asked = _asked(round_, prompts).collect()
    return {
        "version": version.label,
        "round": number,
        "selection": selection,
        "rows": {kind: sum(row["kind"] == kind for row in rows) for kind in sorted({row["kind"] for row in rows})},
        "prompts": prompts,
        "candidates": sorted({row["candidate_id"] for row in rows if row["candidate_id"]}),
        "requests": sorted({row["request_id"] for row in asked}),
        "sources": sorted({row["source"] for row in asked}),
        "tables": reads(round_.lake, number, selection),
        "other_tasks": [other.project for other in round_.project.train.others],
    }


def of_prompts(round_: Round, prompts: Collection[str]) -> list[Version]:
    """Versions that learned from any of these prompts."""
    every = versions(round_.project)
    return lineage.learned(every, selections(round_.lake, prompts), tastes(round_.project, prompts, ()))


def of_user(round_: Round, name: str) -> tuple[set[str], list[Version]]:
    """The prompts somebody asked, alone or with others, and the versions that learned from them or from their choices.

    Args:
        round_: where the tables are.
        name: as the log has it; the tables know its hash.
    """
    from pyspark.sql import functions as f

    person = ids.user_id(name)
    asked = round_.lake.read(lake.ASKED).where(f.col("user_id") == person).select("prompt_id").distinct()
    prompts = {row["prompt_id"] for row in asked.collect()}
    taught = tastes(round_.project, prompts, (name, person))
    return prompts, lineage.learned(versions(round_.project), selections(round_.lake, prompts), taught)


def selections(lake_: Lake, prompts: Collection[str]) -> set[Selection]:
    """Selections that hold a row of any of these prompts."""
    rows = among(lake_, lake_.read(lake.SELECTIONS), "prompt_id", prompts)
    return {(row["round"], row["selection"]) for row in rows.select("round", "selection").distinct().collect()}


def tastes(project: Project, prompts: Collection[str], annotators: Collection[str]) -> set[tuple[str, str]]:
    """Reward models (scorer, version) whose training file has a choice on these prompts, or by these people.

    Read from the files they were trained from: the table holds choices, not which model saw them.
    """
    import pyarrow.parquet as pq

    found = set()
    for spec in (spec for spec in project.scorers if spec.kind == "reward_model"):
        for file in Path(project.work).glob(f"{spec.name}-*/pairs.parquet"):
            table = pq.read_table(file, columns=["prompt_id", "annotator"])
            seen = {name: set(table.column(name).to_pylist()) for name in table.column_names}
            if seen["prompt_id"] & set(prompts) or seen["annotator"] & set(annotators):
                found.add((spec.name, file.parent.name.removeprefix(f"{spec.name}-")))
    return found


def reads(lake_: Lake, number: int, selection: str) -> dict[str, int]:
    """Table versions that a selection was made from; empty where the round has been selected anew since."""
    from pyspark.sql import functions as f

    name = f.get_json_object("detail", "$.selection")
    mine = (f.col("round") == number) & (f.col("stage") == "select") & (name == selection)
    row = lake_.read(lake.ROUNDS).where(mine).select("reads").first()
    return dict(row["reads"]) if row is not None else {}


def among(lake_: Lake, rows: "DataFrame", column: str, values: Collection[str]) -> "DataFrame":
    """The rows whose column is one of the values, however many those are."""
    from pyspark.sql import functions as f

    wanted = lake_.spark.createDataFrame([(value,) for value in sorted(values)], f"{column} STRING")
    return rows.join(f.broadcast(wanted), column, "left_semi")


def _asked(round_: Round, prompts: Collection[str]) -> "DataFrame":
    return among(round_.lake, round_.lake.read(lake.ASKED), "prompt_id", prompts)
