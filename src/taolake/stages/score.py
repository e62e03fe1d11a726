"""Score: every scorer's word on every candidate, each a row with value, meaning, status and detail.

Verifiers are pure functions run on Spark; agreement looks at a prompt's whole group. Scorers with a model behind them
have files of their own: `reward_model`, `embed`, `judge`; Spark SQL runs on the driver's session, by `spark_sql`. Not
here: how scores are weighed (`reward`). Labels that decide are not read here or by anything this module calls; labels
given away for training are a scorer of their own, which refuses those of held-out prompts (`labelled`).
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from taolake import ids, lake, scoring
from taolake.config import (
    AgreementScorer,
    CheckScorer,
    CitationScorer,
    FunctionScorer,
    JudgeScorer,
    LabelScorer,
    MlflowJudgeScorer,
    PythonTestsScorer,
    RelevanceScorer,
    RewardModelScorer,
    ScorerSpec,
    SqlScorer,
)
from taolake.scoring import judge as judging
from taolake.scoring.agreement import agreement, entropy
from taolake.scoring.right import comparer
from taolake.stages import embed, groups, judge, labelled, reward_model, scored, spark_sql
from taolake.stages.fanout import Row
from taolake.stages.round import Outcome, Round
from taolake.types import Policy, Score

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PureSpec = SqlScorer | CheckScorer | CitationScorer | PythonTestsScorer | FunctionScorer
_BUFFER_ROWS = 512  # candidates handed to a verifier together: queries go to its child process in batches


def score(round_: Round) -> Outcome:
    """Score the base policy's candidates."""
    return fill(round_, round_.base)


def fill(round_: Round, policy: Policy) -> Outcome:
    """Score a policy's candidates with every scorer; rows that exist are not computed again."""
    rows, detail = 0, dict[str, Any]()
    current = versions(round_)
    for spec in round_.project.scorers:
        new, facts = _fill(round_, policy, spec, current)
        detail |= {f"{spec.name}_{key}": value for key, value in facts.items()}
        detail[f"{spec.name}_version"] = current[spec.name]
        rows += new
    return Outcome(rows, 0, detail)


def one(round_: Round, policy: Policy, name: str) -> int:
    """Score a policy's candidates with one scorer; returns the rows that were missing."""
    spec = next(s for s in round_.project.scorers if s.name == name)
    return _fill(round_, policy, spec, versions(round_))[0]


def versions(round_: Round) -> dict[str, str]:
    """Each scorer's version: everything that can change its scores, but for the group a score is given in."""
    found: dict[str, str] = {}
    for spec in round_.project.scorers:
        match spec:
            case AgreementScorer() if spec.over is not None:
                found[spec.name] = ids.content_hash("agreement", found[spec.over])[:12]
            case AgreementScorer() | RelevanceScorer():
                found[spec.name] = embed.version(spec)
            case JudgeScorer() | MlflowJudgeScorer():
                found[spec.name] = judging.version(spec, round_.project.task)
            case RewardModelScorer():
                found[spec.name] = reward_model.version(round_, spec)
            case _:
                found[spec.name] = scoring.version(spec)
    return found


def said(round_: Round, name: str) -> "DataFrame":
    """Rows of `scores` with a value that one scorer of single answers gave in its current version."""
    from pyspark.sql import functions as f

    mine = (f.col("scorer") == name) & (f.col("scorer_version") == versions(round_)[name])
    return round_.lake.read(lake.SCORES).where(mine & f.col("value").isNotNull())


def _fill(round_: Round, policy: Policy, spec: ScorerSpec, current: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """One scorer's missing rows; how many those were, and what its kind has to tell."""
    version = current[spec.name]
    match spec:
        case AgreementScorer() if spec.over is not None:
            return _agreement(round_, policy, spec.name, version, spec.over, current[spec.over]), {}
        case AgreementScorer():
            return embed.semantic_agreement(round_, policy, spec, version), {}
        case RelevanceScorer():
            return embed.relevance(round_, policy, spec, version), {}
        case JudgeScorer() | MlflowJudgeScorer():
            return judge.fill(round_, policy, spec, version)
        case RewardModelScorer():
            trained = reward_model.train_reward_model(round_, spec)
            new = reward_model.fill(round_, policy, spec, version, trained.folder)
            return new, {key: trained.metrics[key] for key in ("pairs", "eval_pairs", "eval_accuracy")}
        case LabelScorer():
            return _by_label(round_, policy, spec, version), {}
        case SqlScorer(dialect="spark"):
            return _on_driver(round_, policy, spec, version), {}
        case _:
            return _pure(round_, policy, spec, version), {}


def _pure(round_: Round, policy: Policy, spec: PureSpec, version: str) -> int:
    """Run a verifier over the candidates it has not seen; equal answers to a prompt are looked at once."""
    todo = scored.todo(round_, policy, spec.name, version)

    def run(candidates: Iterator[Row]) -> Iterator[Row]:
        verifier = scoring.build(spec)
        while some := list(itertools.islice(candidates, _BUFFER_ROWS)):
            asked = {(c["prompt_id"], c["text"]): c["messages"] for c in some if _unanswered(c) is None}
            found = scoring.scores(verifier, ((messages, text) for (_, text), messages in asked.items()))
            given = dict(zip(asked, scored.every(found, len(asked)), strict=True))
            for candidate in some:
                word = _unanswered(candidate) or given[candidate["prompt_id"], candidate["text"]]
                yield scored.row(candidate, spec.name, version, word)

    tasks = round_.lake.spark.sparkContext.defaultParallelism
    return scored.append(round_, todo, run, spec.name, version, tasks)


def _on_driver(round_: Round, policy: Policy, spec: SqlScorer, version: str) -> int:
    """Run Spark SQL answers, each text once, one by one on this session: for thousands of answers, not for millions."""
    todo = scored.todo(round_, policy, spec.name, version)
    texts = [r["text"] for r in todo.where("status = 'ok' AND text IS NOT NULL").select("text").distinct().collect()]
    with round_.progress(f"run {spec.name}", len(texts)) as bar:
        known: dict[str, Score] = {}
        for text, given in zip(texts, spark_sql.scores(round_.lake.spark, spec, texts), strict=True):
            known[text] = given
            bar.add(1)

    def run(candidates: Iterator[Row]) -> Iterator[Row]:
        return (scored.row(c, spec.name, version, _unanswered(c) or known[c["text"]]) for c in candidates)

    return scored.append(round_, todo, run, spec.name, version, 1)


def _by_label(round_: Round, policy: Policy, spec: LabelScorer, version: str) -> int:
    """Hold answers against the labels of their prompts."""
    told = {row["prompt_id"]: row["text"] for row in labelled.given(round_, spec.path)}
    abstention = Score(None, "abstain", detail={"error": "the prompt has no label"})

    def word(candidate: Row) -> Score:
        label = told.get(candidate["prompt_id"])
        if label is None:
            return abstention
        return _unanswered(candidate) or Score(float(comparer(spec, label)(candidate["text"])))

    def run(candidates: Iterator[Row]) -> Iterator[Row]:
        return (scored.row(candidate, spec.name, version, word(candidate)) for candidate in candidates)

    tasks = round_.lake.spark.sparkContext.defaultParallelism
    return scored.append(round_, scored.todo(round_, policy, spec.name, version), run, spec.name, version, tasks)


def _unanswered(candidate: Row) -> Score | None:
    """An answer that could not be taken out is wrong; an answer that was never given cannot be judged."""
    if candidate["status"] != "ok":
        return Score(None, "error", detail={"error": f"no candidate: {candidate['error']}"})
    if candidate["text"] is None:
        return Score(0.0, detail={"error": "no answer could be taken out of what the model wrote"})
    return None


def _agreement(round_: Round, policy: Policy, name: str, version: str, over: str, meaning: str) -> int:
    """Share of the group that means the same, by the answer keys of scorer `over` in its version `meaning`."""
    from pyspark.sql import functions as f

    meant = round_.lake.read(lake.SCORES).where((f.col("scorer") == over) & (f.col("scorer_version") == meaning))
    rows = groups.sampled(round_, policy).join(meant.select("candidate_id", "answer_key"), "candidate_id", "left")
    todo = scored.groups_todo(round_, name, version, rows, "candidate_id", "answer_key")

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        for group in rows:
            members = sorted(group["members"], key=lambda m: m["candidate_id"])
            keys = [m["answer_key"] for m in members]
            facts = {"entropy": round(entropy(keys), 6)}
            for member, share in zip(members, agreement(keys), strict=True):
                given = Score(share, "abstain" if share is None else "ok", member["answer_key"], facts)
                yield scored.row(group | member, name, group["scorer_version"], given)

    tasks = round_.lake.spark.sparkContext.defaultParallelism
    return scored.append(round_, todo, run, name, version, tasks, "prompt_id", "scorer_version")
