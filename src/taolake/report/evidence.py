"""What the card shows beside its numbers: reasons of refusal, distributions, ten answers side by side.

Distributions are counted by Spark, and only the chosen prompts' texts come to the driver.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.report.measures import REWARD_EDGES, Measured, binned, length_edges
from taolake.stages import groups
from taolake.stages.round import Round
from taolake.types import Policy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EXAMPLES = 10
FIXED, BROKEN = 6, 2  # wanted among the examples; the rest did not change

_VARIABLE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\b0x[0-9a-fA-F]+\b|(?<!\w)(?<![A-Za-z]-)\d+\b""")


def kind_of(reason: str) -> str:
    """A refusal's reason without what varies from line to line.

    Quoted parts go too: they can hold text of the refused prompt, and a card must not publish it.
    """
    return _VARIABLE.sub("…", reason)


def quarantine_reasons(round_: Round) -> list[dict[str, Any]]:
    """How many lines were refused for what, most frequent first."""
    rows = round_.lake.read(lake.QUARANTINE).groupBy("reason").count().collect()
    counts: dict[str, int] = {}
    for row in rows:
        kind = kind_of(row["reason"] or "no reason given")
        counts[kind] = counts.get(kind, 0) + row["count"]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"reason": reason, "count": count} for reason, count in ordered]


def histograms(
    round_: Round, policies: Mapping[str, str], version: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rewards and lengths of the holdout's stream-A candidates, before and after.

    Args:
        round_: the round.
        policies: `base` and `tuned` to policy id.
        version: the reward rule's version, from the reward stage's detail; None: nothing was rewarded.

    Returns:
        The reward histogram and the length histogram.
    """
    from pyspark.sql import functions as f

    rewards: dict[str, dict[float | None, int]] = {}
    lengths: dict[str, dict[float | None, int]] = {}
    for who, policy in policies.items():
        rows = _holdout(round_, policy, version)
        bins = len(REWARD_EDGES) - 1
        # Null stays null: `least` alone would put an abstention into the last bin.
        place = f.least(f.floor(f.col("reward") * bins + 1e-9), f.lit(bins - 1)) / bins
        place = f.when(f.col("reward").isNotNull(), place)
        rewards[who], lengths[who] = {}, {}
        for row in rows.groupBy(place.alias("place"), "tokens").count().collect():
            for counts, value in ((rewards[who], row["place"]), (lengths[who], row["tokens"])):
                counts[value] = counts.get(value, 0) + row["count"]
    longest = int(max((t for counts in lengths.values() for t in counts if t is not None), default=0))
    return _histogram(REWARD_EDGES, rewards), _histogram(length_edges(longest), lengths)


def examples(round_: Round, policies: Mapping[str, str], measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Ten holdout prompts with both greedy answers; the choice depends on ids and outcomes alone."""
    greedy = {who: measured[who]["greedy"] for who in ("base", "tuned")}
    chosen = choose(greedy["base"], greedy["tuned"])
    questions = _questions(round_, chosen)
    answers = {who: _greedy_answers(round_, policy, chosen) for who, policy in policies.items()}
    return [
        {
            "prompt_id": prompt,
            "question": questions.get(prompt),
            "base_answer": answers["base"].get(prompt),
            "tuned_answer": answers["tuned"].get(prompt),
            "base_right": greedy["base"][prompt] >= 0.5,
            "tuned_right": greedy["tuned"][prompt] >= 0.5,
        }
        for prompt in chosen
    ]


def choose(base: Mapping[str, float], tuned: Mapping[str, float]) -> list[str]:
    """Prompts to show: six fixed, two broken, two unchanged; what is missing is filled up in that order.

    Prompt ids are hashes, so the first by id are a draw that nobody could steer.
    """
    prompts = sorted(base.keys() & tuned.keys())
    right = {p: (base[p] >= 0.5, tuned[p] >= 0.5) for p in prompts}
    fixed = [p for p in prompts if right[p] == (False, True)]
    broken = [p for p in prompts if right[p] == (True, False)]
    same = [p for p in prompts if right[p][0] == right[p][1]]
    chosen = fixed[:FIXED] + broken[:BROKEN] + same[: EXAMPLES - FIXED - BROKEN]
    spare = [p for p in fixed[FIXED:] + same[EXAMPLES - FIXED - BROKEN :] + broken[BROKEN:] if p not in chosen]
    chosen += spare[: EXAMPLES - len(chosen)]
    return [p for kind in (fixed, broken, same) for p in kind if p in chosen]


def _histogram(edges: Sequence[float], counts: Mapping[str, Mapping[float | None, int]]) -> dict[str, Any]:
    found: dict[str, Any] = {"edges": list(edges)}
    for who, by_value in counts.items():
        found[who] = binned(edges, [(value, n) for value, n in by_value.items() if value is not None])
        found[f"{who}_missing"] = by_value.get(None, 0)
    return found


def _holdout(round_: Round, policy: str, version: str | None) -> "DataFrame":
    """Stream-A candidates of the holdout as (tokens, reward); the reward is the one of the group as it is now."""
    from pyspark.sql import functions as f

    rows = groups.sampled(round_, Policy(policy, "")).where((f.col("split") == "holdout") & (f.col("stream") == "A"))
    rows = rows.select("candidate_id", "tokens", f.concat(f.lit(f"{version}@"), "group").alias("reward_version"))
    given = round_.lake.read(lake.REWARDS).select("candidate_id", "reward_version", "reward")
    return rows.join(given, ["candidate_id", "reward_version"], "left")


def _questions(round_: Round, prompts: Sequence[str]) -> dict[str, str]:
    """What the last user turn of each prompt asks."""
    from pyspark.sql import functions as f

    rows = round_.lake.read(lake.PROMPTS).where(f.col("prompt_id").isin(list(prompts)))
    question = f.element_at("messages", -1)["content"].alias("question")
    return {row["prompt_id"]: row["question"] for row in rows.select("prompt_id", question).collect()}


def _greedy_answers(round_: Round, policy: str, prompts: Sequence[str]) -> dict[str, str | None]:
    """The greedy answer `evaluate` measured: the first by candidate id."""
    from pyspark.sql import functions as f

    mine = (f.col("policy") == policy) & (f.col("stream") == "G") & f.col("prompt_id").isin(list(prompts))
    rows = round_.lake.read(lake.CANDIDATES).where(mine).select("prompt_id", "candidate_id", "text", "raw").collect()
    found: dict[str, str | None] = {}
    for row in sorted(rows, key=lambda r: str(r["candidate_id"])):
        found.setdefault(row["prompt_id"], row["text"] if row["text"] is not None else row["raw"])
    return found
