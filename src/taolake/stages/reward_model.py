"""The reward model in a round: trained from `preferences`, asked through vLLM's pooling runner, registered in MLflow.

Encoder backbones go the same way as decoders: vLLM's pooling runner serves BERT on a CPU too. Choices on prompts of the
holdout are left out, so that nothing which evaluates has trained. Not here: how it is trained
(`taolake.training.reward`), nor how its scores are weighed (`reward`).
"""

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from taolake import databricks, ids, lake
from taolake.config import RewardModelScorer, VllmEngine
from taolake.stages import scored
from taolake.stages.fanout import Row
from taolake.stages.round import Round
from taolake.training.job import TrainJob, TrainResult
from taolake.training.reward_input import Reading, context_of, tokenizer_of
from taolake.types import Policy, Score

_BUFFER_ROWS = 2048  # candidates put in order together; the engine does not see where one such lot ends
_AHEAD = 256  # inputs made while the engine works on others
_PART = "reward-eval"  # salt of the split by prompt; calibration and trust use the same one

Question = tuple[str, list[int] | Score]  # candidate that stands for all equal ones; what to ask, or why it cannot be


def version(round_: Round, spec: RewardModelScorer) -> str:
    """Everything that can change its scores: the spec, the choices, base and limits, what it is told of the task."""
    said = round_.lake.read(lake.PREFERENCES)
    known = round_.lake.content_id(said, *lake.PREFERENCES.key, "choice", "strength")
    shape = spec.model_dump(mode="json", exclude={"name", "reviewer"})
    limits = round_.project.model.model_dump(mode="json", include={"max_model_len", "dtype"})
    return ids.content_hash(shape, known, _context(round_, spec), round_.base.id, limits, round_.project.seed)[:12]


def train_reward_model(round_: Round, spec: RewardModelScorer) -> TrainResult:
    """Train the reward model of this version, or return the one there is."""
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
        return databricks.launch(job, on_line)


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
    place = str(Path(folder).resolve())  # a task of a cluster runs in a folder of its own
    reading = Reading.of(place)
    limit = min(project.model.max_model_len, reading.max_length or project.model.max_model_len)
    limits = project.model.model_copy(update={"max_model_len": limit, "revision": None})
    name = spec.name

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        from taolake import engines
        from taolake.engines import placement
        from taolake.engines.vllm import RewardModel

        key = f"score {engine_spec!r} {place} {current}"
        with placement.device(engine_spec):
            model: RewardModel = engines.cached(key, lambda: RewardModel(engine_spec, limits, place))
            tokenizer = tokenizer_of(place)
            waiting: dict[str, list[Row]] = {}
            inputs = _inputs(questions(rows), reading, tokenizer, limit, waiting)
            for first, given in model.score(_ahead(inputs)):
                for candidate in waiting.pop(first):
                    yield scored.row(candidate, name, current, _shared(given, first, candidate))

    with round_.engine_workers():
        return scored.append(
            round_, scored.todo(round_, policy, name, current), run, name, current, engine_spec.devices
        )


def questions(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Put candidates in the order that costs a scoring engine least; rows that are one question come as one list.

    The rows of a prompt must be adjacent; they stay so, since they share its tokens, and equal answers among them are
    one question. Prompts come some thousand rows at a time, those with the longest answer first: the engine then ends
    on short ones.
    """
    prompts = (list(same) for _, same in itertools.groupby(rows, key=lambda row: row["prompt_id"]))
    while some := _some(prompts):
        some.sort(key=lambda prompt: max(map(_length, prompt)), reverse=True)
        for prompt in some:
            equal: dict[str | None, list[Row]] = {}
            for row in prompt:
                equal.setdefault(row["text"] if row["status"] == "ok" else None, []).append(row)
            yield from sorted(equal.values(), key=lambda same: _length(same[0]), reverse=True)


def _some(prompts: Iterator[list[Row]]) -> list[list[Row]]:
    """The next prompts, whole, until there are rows enough to be worth ordering."""
    some: list[list[Row]] = []
    count = 0
    for prompt in prompts:
        some.append(prompt)
        count += len(prompt)
        if count >= _BUFFER_ROWS:
            break
    return some


def _length(row: Row) -> int:
    """Characters of the answer: near enough to its tokens to order by, and known without the tokenizer."""
    return len(row["text"] or "")


def _inputs(
    asked: Iterable[list[Row]], reading: Reading, tokenizer: Any, limit: int, waiting: dict[str, list[Row]]
) -> Iterator[Question]:
    """Token ids by the first candidate of each question, or the score of what cannot be read; fills `waiting`."""
    for same in asked:
        name, first = same[0]["candidate_id"], same[0]
        waiting[name] = same
        if first["status"] != "ok" or first["text"] is None:
            yield name, Score(None, "abstain", detail={"error": "no answer"})
            continue
        tokens = reading.ids(tokenizer, first["messages"], first["text"])
        if len(tokens) <= limit:
            yield name, tokens
        else:
            reason = {"error": f"{len(tokens)} tokens exceed max_model_len {limit}"}
            yield name, Score(None, "abstain", detail=reason)


def _ahead(source: Iterator[Question]) -> Iterator[Question]:
    """The same, made some hundred at a time in a thread: tokenizers and engine steps let go of the interpreter."""

    def take() -> list[Question]:
        return list(itertools.islice(source, _AHEAD))

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(take)
        while some := coming.result():
            coming = pool.submit(take)
            yield from some


def _shared(given: Score, first: str, candidate: Row) -> Score:
    """What an equal answer gets: the same value, but not the tokens again."""
    if given.status != "ok" or candidate["candidate_id"] == first:
        return given
    return replace(given, detail={"equal_to": first})
