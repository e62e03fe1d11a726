"""The reward model in a round: trained from `preferences`, asked through vLLM's pooling runner, registered in MLflow.

Encoder backbones go the same way as decoders: vLLM's pooling runner serves BERT on a CPU too. Choices on prompts of the
holdout are left out, so that nothing which evaluates has trained. Not here: how it is trained
(`taolake.training.reward`), nor how its scores are weighed (`reward`).
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taolake import ids, lake
from taolake.config import RewardModelScorer, VllmEngine
from taolake.stages import scored
from taolake.stages.fanout import Row
from taolake.stages.round import Round
from taolake.training.job import TrainJob, TrainResult
from taolake.training.reward_input import Reading, context_of, tokenizer_of
from taolake.types import Policy, Score

_BUFFER_ROWS = 2048  # candidates looked at together for equal answers
_PART = "reward-eval"  # salt of the split by prompt; calibration and trust use the same one


def version(round_: Round, spec: RewardModelScorer) -> str:
    """Everything that can change its scores: the spec, the choices, the base, and what it is told of the task."""
    said = round_.lake.read(lake.PREFERENCES)
    known = round_.lake.content_id(said, *lake.PREFERENCES.key, "choice", "strength")
    shape = spec.model_dump(mode="json", exclude={"name", "reviewer"})
    return ids.content_hash(shape, known, _context(round_, spec), round_.base.id, round_.project.seed)[:12]


def train_reward_model(round_: Round, spec: RewardModelScorer) -> TrainResult:
    """Train the reward model of this version, or return the one there is."""
    from taolake.training.launch import launch

    folder = Path(round_.project.work) / f"{spec.name}-{version(round_, spec)}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "pairs.parquet"
    if not (folder / "result.json").exists():
        _write_pairs(round_, spec, rows)
    model = round_.project.model
    job = TrainJob(
        "reward",
        spec.base or round_.base_folder,
        str(rows),
        str(folder),
        spec.model_dump(mode="json") | {"context_text": _context(round_, spec)},
        round_.project.seed,
        model.max_model_len,
        model.dtype,
    )
    with round_.training_bar(f"train {spec.name}") as on_line:
        return launch(job, on_line)


def is_held_out(prompt: str, spec: RewardModelScorer) -> bool:
    """Whether a prompt's choices measure the model instead of teaching it; decided by the prompt's own id."""
    return ids.unit_interval(_PART, prompt) < spec.eval_share


def _context(round_: Round, spec: RewardModelScorer, task: str | None = None) -> str:
    """Task and rubric in words, where the model is shown them; other tasks are known by name alone."""
    if not spec.context:
        return ""
    ours = round_.project.task
    return context_of(task or ours.name, ours.description if task in (None, ours.name) else "", spec.rubric)


def _write_pairs(round_: Round, spec: RewardModelScorer, path: Path) -> None:
    """Choices as the trainer reads them, a row a pair; whole prompts go to the held-out part."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyspark.sql import functions as f

    gated = round_.lake.read(lake.PROMPTS).where(f.col("split") == "holdout").select("prompt_id")
    said = round_.lake.read(lake.PREFERENCES).join(gated, "prompt_id", "left_anti")
    found = said.orderBy("prompt_id", "annotator", "choice", "chosen", "rejected").collect()
    if not found:
        raise ValueError(
            f"scorer {spec.name!r} is a reward model and table 'preferences' holds no choice outside the holdout: "
            "import people's choices, or name a `reviewer` in the project file"
        )
    rows = [
        {
            "prompt_id": r["prompt_id"],
            "messages": r["messages"],
            "chosen": r["chosen_text"],
            "rejected": r["rejected_text"],
            "part": "eval" if is_held_out(r["prompt_id"], spec) else "train",
            "choice": r["choice"],
            "strength": r["strength"],
            "context": _context(round_, spec, r["task"]),
            "kind": r["kind"],
            "annotator": r["annotator"],
        }
        for r in found
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def fill(round_: Round, policy: Policy, spec: RewardModelScorer, current: str, folder: str) -> int:
    """Score every candidate without a row of this version; equal answers to a prompt are scored once.

    Args:
        round_: where the candidates are.
        policy: whose candidates.
        spec: the scorer.
        current: its version.
        folder: the trained model's.

    Returns:
        Rows that were missing.
    """
    project = round_.project
    engine_spec = project.engine if isinstance(project.engine, VllmEngine) else VllmEngine()
    reading = Reading.of(folder)
    limit = min(project.model.max_model_len, reading.max_length or project.model.max_model_len)
    limits = project.model.model_copy(update={"max_model_len": limit, "revision": None})
    name = spec.name

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        from taolake import engines
        from taolake.engines.vllm import RewardModel

        key = f"score {engine_spec!r} {folder} {current}"
        model: RewardModel = engines.cached(key, lambda: RewardModel(engine_spec, limits, folder))
        tokenizer = tokenizer_of(folder)
        while some := list(itertools.islice(rows, _BUFFER_ROWS)):
            for candidate, given in _prefer(some, model, tokenizer, reading, limit):
                yield scored.row(candidate, name, current, given)

    with round_.engine_workers():
        return scored.append(
            round_, scored.todo(round_, policy, name, current), run, name, current, engine_spec.devices
        )


def _prefer(
    candidates: list[Row], model: Any, tokenizer: Any, reading: Reading, limit: int
) -> Iterator[tuple[Row, Score]]:
    """Score candidates with a reward model; equal answers to a prompt are sent once."""
    equal: dict[tuple[str, str], list[Row]] = {}
    for candidate in candidates:
        if candidate["status"] == "ok" and candidate["text"] is not None:
            equal.setdefault((candidate["prompt_id"], candidate["text"]), []).append(candidate)
        else:
            yield candidate, Score(None, "abstain", detail={"error": "no answer"})
    inputs, named = [], {}
    for same in equal.values():
        tokens = reading.ids(tokenizer, same[0]["messages"], same[0]["text"])
        if len(tokens) <= limit:
            inputs.append((same[0]["candidate_id"], tokens))
            named[same[0]["candidate_id"]] = same
            continue
        reason = {"error": f"{len(tokens)} tokens exceed max_model_len {limit}"}
        for candidate in same:
            yield candidate, Score(None, "abstain", detail=reason)
    for name, value in model.score(inputs):
        for candidate in named[name]:
            yield candidate, Score(value)
