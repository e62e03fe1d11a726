"""Score: every scorer's word on every candidate, each a row with value, meaning, status and detail.

Verifiers are pure functions run on Spark; agreement looks at a prompt's whole group; the reward model is trained here
from `preferences` when its version does not exist yet, and scored through vLLM's pooling runner. Not here: how scores
are weighed (`reward`). Gold labels are not read here or by anything this module calls.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids, lake, scoring
from taolake.config import AgreementScorer, CheckScorer, FunctionScorer, RewardModelScorer, SqlScorer, VllmEngine
from taolake.scoring.agreement import agreement
from taolake.stages import groups
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round
from taolake.training.job import TrainJob
from taolake.types import Policy, Score

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PureSpec = SqlScorer | CheckScorer | FunctionScorer
_BUFFER_ROWS = 2048  # candidates looked at together for equal answers


def score(round_: Round) -> Outcome:
    """Score the base policy's candidates."""
    return fill(round_, round_.base)


def fill(round_: Round, policy: Policy) -> Outcome:
    """Score a policy's candidates with every scorer; rows that exist are not computed again."""
    rows, detail = 0, dict[str, Any]()
    current = versions(round_)
    for spec in round_.project.scorers:
        name = spec.name
        match spec:
            case AgreementScorer():
                new = _agreement(round_, policy, spec, current)
            case RewardModelScorer():
                trained = train_reward_model(round_, spec)
                known = trained.metrics
                detail |= {f"{name}_{key}": known[key] for key in ("pairs", "eval_pairs", "eval_accuracy")}
                new = _reward_model(round_, policy, spec, current[name], trained.folder)
            case _:
                new = _pure(round_, policy, spec, current[name])
        detail[f"{name}_version"] = current[name]
        rows += new
    return Outcome(rows, 0, detail)


def versions(round_: Round) -> dict[str, str]:
    """Each scorer's version: everything that can change its scores, but for the group a score is given in."""
    found: dict[str, str] = {}
    for spec in round_.project.scorers:
        match spec:
            case AgreementScorer():
                found[spec.name] = ids.content_hash("agreement", found[spec.over])[:12]
            case RewardModelScorer():
                prefs = round_.lake.content_id(round_.lake.read(lake.PREFERENCES), *lake.PREFERENCES.key)
                shape = spec.model_dump(mode="json", exclude={"name", "reviewer"})
                found[spec.name] = ids.content_hash(shape, prefs, round_.base.id, round_.project.seed)[:12]
            case _:
                found[spec.name] = scoring.version(spec)
    return found


def _pure(round_: Round, policy: Policy, spec: PureSpec, version: str) -> int:
    """Run a verifier over the candidates it has not seen."""
    todo = _todo(round_, policy, spec.name, version)

    def run(candidates: Iterator[Row]) -> Iterator[Row]:
        judge = scoring.build(spec)
        return (_row(c, spec.name, version, _verify(judge, c)) for c in candidates)

    return _append(round_, todo, run, spec.name, version, round_.lake.spark.sparkContext.defaultParallelism)


def _verify(judge: Callable[..., Score], candidate: Row) -> Score:
    """An answer that could not be taken out is wrong; an answer that was never given cannot be judged."""
    if candidate["status"] != "ok":
        return Score(None, "error", detail={"error": f"no candidate: {candidate['error']}"})
    if candidate["text"] is None:
        return Score(0.0, detail={"error": "no answer could be taken out of what the model wrote"})
    return judge(candidate["messages"], candidate["text"])


def _agreement(round_: Round, policy: Policy, spec: AgreementScorer, current: dict[str, str]) -> int:
    """Share of the group that means the same, by another scorer's answer keys."""
    from pyspark.sql import functions as f

    prefix = current[spec.name]
    meant = round_.lake.read(lake.SCORES).where(
        (f.col("scorer") == spec.over) & (f.col("scorer_version") == current[spec.over])
    )
    rows = groups.sampled(round_, policy).join(meant.select("candidate_id", "answer_key"), "candidate_id", "left")
    rows = rows.withColumn("scorer_version", f.concat(f.lit(prefix + "@"), "group"))
    members = f.collect_list(f.struct("candidate_id", "answer_key")).alias("members")
    grouped = rows.groupBy("prompt_id", "policy", "scorer_version").agg(members)
    done = round_.lake.read(lake.SCORES).where(f.col("scorer") == spec.name)
    todo = grouped.join(
        done.select("prompt_id", "policy", "scorer_version").distinct(),
        ["prompt_id", "policy", "scorer_version"],
        "left_anti",
    )

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        for group in rows:
            members = sorted(group["members"], key=lambda m: m["candidate_id"])
            shares = agreement([m["answer_key"] for m in members])
            for member, share in zip(members, shares, strict=True):
                given = Score(share, "abstain" if share is None else "ok", member["answer_key"])
                yield _row(group | member, spec.name, group["scorer_version"], given)

    return _append(
        round_,
        todo,
        run,
        spec.name,
        prefix,
        round_.lake.spark.sparkContext.defaultParallelism,
        "prompt_id",
        "scorer_version",
    )


def train_reward_model(round_: Round, spec: RewardModelScorer) -> Any:
    """Train the reward model of this version, or return the one there is."""
    from taolake.training.launch import launch

    version = versions(round_)[spec.name]
    folder = Path(round_.project.work) / f"{spec.name}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "pairs.parquet"
    if not (folder / "result.json").exists():
        _write_pairs(round_, spec, rows)
    model = round_.project.model
    base = spec.base or round_.base_folder
    job = TrainJob(
        "reward",
        base,
        str(rows),
        str(folder),
        spec.model_dump(mode="json"),
        round_.project.seed,
        model.max_model_len,
        model.dtype,
    )
    with round_.training_bar(f"train {spec.name}") as on_line:
        return launch(job, on_line)


def _write_pairs(round_: Round, spec: RewardModelScorer, path: Path) -> None:
    """Preference pairs as the trainer reads them; whole prompts go to the held-out part."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyspark.sql import functions as f

    said = round_.lake.read(lake.PREFERENCES)
    texts = round_.lake.read(lake.CANDIDATES).where(f.col("text").isNotNull()).select("candidate_id", "text")
    prompts = round_.lake.read(lake.PROMPTS).select("prompt_id", f.to_json("messages").alias("messages"))
    pairs = said.join(texts.toDF("chosen", "chosen_text"), "chosen").join(
        texts.toDF("rejected", "rejected_text"), "rejected"
    )
    found = pairs.join(prompts, "prompt_id").orderBy("prompt_id", "chosen", "rejected", "annotator").collect()
    if not found:
        raise ValueError(
            f"scorer {spec.name!r} is a reward model and table 'preferences' holds no pair with both answers: "
            "import people's choices, or name a `reviewer` in the project file"
        )
    rows = [
        {
            "messages": r["messages"],
            "chosen": r["chosen_text"],
            "rejected": r["rejected_text"],
            "part": "eval" if ids.unit_interval("reward-eval", r["prompt_id"]) < spec.eval_share else "train",
        }
        for r in found
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _reward_model(round_: Round, policy: Policy, spec: RewardModelScorer, version: str, folder: str) -> int:
    """Send every candidate through the pooling runner; equal answers to a prompt are scored once."""
    project = round_.project
    engine_spec = project.engine if isinstance(project.engine, VllmEngine) else VllmEngine()
    todo = _todo(round_, policy, spec.name, version)

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        from transformers import AutoTokenizer

        from taolake import engines
        from taolake.engines.vllm import RewardModel

        key = f"score {engine_spec!r} {folder} {version}"
        model: RewardModel = engines.cached(key, lambda: RewardModel(engine_spec, project.model, folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        while some := list(itertools.islice(rows, _BUFFER_ROWS)):
            for candidate, given in _prefer(some, model, tokenizer, project.model.max_model_len):
                yield _row(candidate, spec.name, version, given)

    with round_.engine_workers():
        return _append(round_, todo, run, spec.name, version, engine_spec.devices)


def _prefer(candidates: list[Row], model: Any, tokenizer: Any, limit: int) -> Iterator[tuple[Row, Score]]:
    """Score candidates with a reward model; equal answers to a prompt are sent once."""
    from taolake.training.reward import render_for_reward

    equal: dict[tuple[str, str], list[Row]] = {}
    for candidate in candidates:
        if candidate["status"] == "ok" and candidate["text"] is not None:
            equal.setdefault((candidate["prompt_id"], candidate["text"]), []).append(candidate)
        else:
            yield candidate, Score(None, "abstain", detail={"error": "no answer"})
    inputs, named = [], {}
    for same in equal.values():
        tokens = render_for_reward(tokenizer, same[0]["messages"], same[0]["text"])
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


def _todo(round_: Round, policy: Policy, scorer: str, version: str) -> "DataFrame":
    """Candidates without a row of this scorer and version."""
    from pyspark.sql import functions as f

    done = round_.lake.read(lake.SCORES).where((f.col("scorer") == scorer) & (f.col("scorer_version") == version))
    columns = ("candidate_id", "prompt_id", "policy", "messages", "text", "status", "error")
    return (
        groups.candidates(round_, policy)
        .select(*columns)
        .join(done.select("candidate_id"), "candidate_id", "left_anti")
    )


def _append(
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
        missing = todo.count()
        if missing:
            chunk = ids.content_hash(
                "score", scorer, version, round_.lake.content_id(todo, *(key or ("candidate_id",)))
            )
            spread = todo.repartition(tasks, "prompt_id").sortWithinPartitions("prompt_id")
            with round_.progress(f"score {scorer}", missing) as bar:
                round_.lake.append_once(lake.SCORES, map_rows(spread, lake.SCORES.columns, run), chunk)
                bar.to(missing)
    finally:
        todo.unpersist()
    return missing


def _row(candidate: Row, scorer: str, version: str, given: Score) -> Row:
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
