"""Groups: a prompt's sampled candidates of one policy, the unit of agreement, reward and selection.

A group has an id, the hash of who is in it; what is computed over a group carries that id in its version, so that
extending N makes new rows and never mixes with old ones.
"""

from typing import TYPE_CHECKING

from taolake import lake
from taolake.stages.round import Round
from taolake.types import Policy

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SPLITS = ("train", "holdout")


def candidates(round_: Round, policy: Policy) -> "DataFrame":
    """A policy's candidates on prompts that are trained on or held out, with split and messages.

    Review prompts are among them where people chose: the reward is held against their choices (`trust`), and a choice
    that nobody made is not worth a paid judge. Whoever learns or evaluates picks its own split.
    """
    from pyspark.sql import functions as f

    ours = f.col("task") == round_.project.task.name
    chosen = round_.lake.read(lake.PREFERENCES).select("prompt_id", f.lit(True).alias("chosen")).distinct()
    seen = f.col("split").isin(*SPLITS) | ((f.col("split") == "review") & f.col("chosen"))
    prompts = round_.lake.read(lake.PROMPTS).where(ours).join(chosen, "prompt_id", "left").where(seen)
    prompts = prompts.select("prompt_id", "split", "messages")
    mine = round_.lake.read(lake.CANDIDATES).where(f.col("policy") == policy.id)
    return mine.join(prompts, "prompt_id")


def sampled(round_: Round, policy: Policy) -> "DataFrame":
    """As `candidates`, without the greedy answers, and with the `group` each belongs to."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    rows = candidates(round_, policy).where(f.col("stream") != "G")
    members = f.collect_list("candidate_id").over(Window.partitionBy("prompt_id"))
    return rows.withColumn("group", group_id(members))


def group_id(members: "Column") -> "Column":
    """Who is in a group, in 16 hex digits, of the list of its candidates' ids in any order."""
    from pyspark.sql import functions as f

    return f.substring(f.sha2(f.array_join(f.sort_array(members), ","), 256), 1, 16)
