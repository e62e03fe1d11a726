"""Labelled training prompts: where some are, they are imitated beside the winners or instead of them, or measure.

These are labels that the project gives away for training. Those that the gate decides by are of other prompts and are
read by `evaluate` alone; a label on a prompt that is held out, or shown to people, is refused here (law 4).
"""

from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.curation.labels import answers
from taolake.stages.round import Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row


def rows(round_: Round, selection: str) -> "DataFrame | None":
    """An `imitate` row for every labelled training prompt and repetition; None where the project names no labels.

    Raises:
        ValueError: a label is on a prompt that does not train, or none is on one that does.
    """
    project, spec = round_.project, round_.project.select.labels
    if spec is None:
        return None
    found = given(round_, spec.path)
    blank = dict.fromkeys(lake.SELECTIONS.schema().names)
    made = [
        blank
        | {
            "round": round_.number,
            "row_id": ids.content_hash(selection, "label", row["prompt_id"], copy),
            "selection": selection,
            "kind": "imitate",
            "prompt_id": row["prompt_id"],
            "messages": row["messages"],
            "text": row["text"],
            "weight": 1.0,
        }
        for row in found
        for copy in range(project.select.rows_per_prompt)
    ]
    return round_.lake.spark.createDataFrame(made, lake.SELECTIONS.schema())


def given(round_: Round, path: str) -> "list[Row]":
    """`prompt_id`, `text` of the right answer and `messages` of every labelled prompt in the log.

    Raises:
        ValueError: a label is on a prompt that does not train, or none is on one that does.
    """
    from pyspark.sql import functions as f

    project, spark = round_.project, round_.lake.spark
    told = answers(path, project.task.name, project.ingest.system)
    labels = spark.createDataFrame(sorted(told.items()), "prompt_id STRING, text STRING")
    prompts = round_.lake.read(lake.PROMPTS).select("prompt_id", "split", f.to_json("messages").alias("messages"))
    found = labels.join(prompts, "prompt_id").orderBy("prompt_id").collect()
    wrong = sorted({row["split"] for row in found} - {"train"})
    if wrong:
        count = sum(row["split"] != "train" for row in found)
        raise ValueError(
            f"{path} labels {count} prompts of split {', '.join(wrong)}, wanted training prompts alone: what "
            "measures the model must not teach it (law 4)"
        )
    if not found:
        raise ValueError(f"{path} labels {len(told)} prompts and none is in the log, wanted one that is")
    return found
