"""The stages of a round, in order, and how one is run.

A stage reads tables and writes exactly one. `STAGES` says which; `run` keeps the books: a stage whose fingerprint (its
part of the project file, and everything upstream) is already done does nothing, one that was killed goes on where it
stopped.
"""

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taolake import __version__, lake
from taolake.config import Project
from taolake.ids import content_hash, file_hash
from taolake.lake import Table
from taolake.stages.cap import Cap
from taolake.stages.round import Meter, Outcome, Record, Round


@dataclass(frozen=True)
class Stage:
    """A stage: `config` are the fields of the project file that change its rows, `files` the inputs outside it."""

    name: str
    summary: str
    reads: tuple[Table, ...]
    writes: Table
    config: tuple[str, ...]
    files: Callable[[Project], list[str]] = lambda project: []

    def call(self, round_: Round) -> Outcome:
        """Run the function of the same name in the module of the same name."""
        function: Callable[[Round], Outcome] = getattr(
            importlib.import_module(f"taolake.stages.{self.name}"), self.name
        )
        return function(round_)


def _ingested(project: Project) -> list[str]:
    """Files that `ingest` reads."""
    found, spec = [source.path for source in project.ingest.sources], project.ingest.curate
    if spec is not None and spec.classifier is not None and spec.classifier.labelled is not None:
        found.append(spec.classifier.labelled)
    return found if spec is None or spec.topics is None else [*found, spec.topics.encoder]


def _scored_with(project: Project) -> list[str]:
    """Files that scorers read or are written in; where one cannot be found, the stage will say so."""
    from taolake import scoring

    found: list[str] = []
    for spec in project.scorers:
        with contextlib.suppress(ValueError):
            found += map(str, scoring.files(spec))
    return found


STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "logged prompts become rows; what is refused goes to quarantine",
        (lake.PROMPTS, lake.REWARDS, lake.INFERENCE_LOG, lake.FEEDBACK),
        lake.PROMPTS,
        ("task", "ingest", "seed"),
        _ingested,
    ),
    Stage(
        "generate",
        "N candidates per prompt, by several strategies",
        (lake.PROMPTS, lake.CANDIDATES),
        lake.CANDIDATES,
        ("model", "generate", "evaluate.samples", "seed"),
    ),
    Stage(
        "label",
        "people choose among candidates, or react to answers in production",
        (lake.PROMPTS, lake.CANDIDATES, lake.INFERENCE_LOG, lake.FEEDBACK),
        lake.PREFERENCES,
        ("scorers", "feedback"),
    ),
    Stage(
        "score",
        "verifiers, agreement and the reward model judge every candidate",
        (lake.PROMPTS, lake.CANDIDATES, lake.PREFERENCES, lake.JUDGEMENTS, lake.SCORES),
        lake.SCORES,
        ("scorers",),
        _scored_with,
    ),
    Stage(
        "reward",
        "scores become one number per candidate, or an abstention",
        (lake.CANDIDATES, lake.PREFERENCES, lake.SCORES),
        lake.REWARDS,
        ("reward",),
    ),
    Stage(
        "trust",
        "does the reward deserve to train? held against people's choices",
        (lake.PROMPTS, lake.CANDIDATES, lake.PREFERENCES, lake.SCORES, lake.REWARDS),
        lake.ROUNDS,
        ("trust",),
    ),
    Stage(
        "select",
        "rewards become exactly the rows the trainer sees",
        (lake.PROMPTS, lake.CANDIDATES, lake.PREFERENCES, lake.SCORES, lake.REWARDS),
        lake.SELECTIONS,
        (
            "select",
            "train.algorithm",
            "train.oapl.beta_v",
            "train.bond.beta",
            "train.brakes.share",
            "flywheel.max_self_made",
            "flywheel.replay",
            "flywheel.min_diversity",
        ),
        lambda p: [p.select.labels.path] if p.select.labels else [],
    ),
    Stage(
        "train",
        "the winners go into the weights",
        (lake.SELECTIONS,),
        lake.ROUNDS,
        ("train.used", "model"),
        lambda p: [other.project for other in p.train.others],
    ),
    Stage(
        "evaluate",
        "base and tuned answer the holdout; labels, where some exist, are read here alone",
        (lake.PROMPTS, lake.CANDIDATES, lake.SCORES, lake.REWARDS),
        lake.EVALUATIONS,
        ("evaluate",),
        lambda p: [p.evaluate.gold.path] if p.evaluate.gold else [],
    ),
    Stage("gate", "better, and nothing got worse?", (lake.EVALUATIONS,), lake.ROUNDS, ("gate", "flywheel.max_loss")),
    Stage(
        "register", "the model and its lineage go into MLflow", (lake.ROUNDS,), lake.ROUNDS, ("register_", "serve.kind")
    ),
)


def prepare(project: Project) -> None:
    """Let the project make its own inputs, where it says how; what exists is not made again.

    Raises:
        ValueError: it names functions that cannot be used; a later stage would have asked for them after hours.
    """
    from taolake.scoring.function import load_function, require

    require(project.functions)
    if project.prepare:
        load_function(project.prepare)(project)


def named(name: str) -> Stage:
    """Find a stage.

    Raises:
        ValueError: there is none of that name.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ValueError(f"got stage {name!r}, wanted one of {', '.join(s.name for s in STAGES)}")


def fingerprints(project: Project) -> dict[str, str]:
    """Hash every stage's inputs in order; each contains the one before, so a change reaches everything downstream."""
    upstream, prints = content_hash("taolake", __version__), {}
    for stage in STAGES:
        config = {path: _at(project, path) for path in stage.config}
        # Not where they lie: a round goes on on another machine.
        files = [file_hash(Path(path)) for path in stage.files(project) if Path(path).exists()]
        upstream = prints[stage.name] = content_hash(stage.name, config, files, upstream)
    return prints


def run(round_: Round, name: str) -> tuple[Outcome, bool]:
    """Run one stage; returns what it did and whether it had anything to do.

    Raises:
        RuntimeError: the stage before it is not done with this config.
        Exception: whatever the stage raises, after the failure is on record.
    """
    stage, fingerprint = named(name), fingerprints(round_.project)[name]
    records = round_.records()
    record = records.get(name)
    if record is not None and record.state == "done" and record.fingerprint == fingerprint:
        return Outcome(0, 0, record.detail), False
    before = STAGES[: STAGES.index(stage)]
    if before:
        round_.done(before[-1].name)
    round_.cap = Cap(round_.project.cost, sum(each.seconds for each in records.values()))
    round_.cap.check()
    book = _Book(round_, stage, fingerprint, record if record is not None and record.state != "done" else None)
    book.write("running", Outcome(0), None)
    with Meter() as meter:
        try:
            outcome = stage.call(round_)
        except BaseException as error:  # Ctrl-C too is written down, and goes on its way
            known = {"error": f"{type(error).__name__}: {error}"[:1000], **getattr(error, "detail", {})}
            book.write("failed", Outcome(0, 0, known), meter)
            raise
    book.write("done", outcome, meter)
    return outcome, True


def run_all(round_: Round) -> Iterator[tuple[Stage, Outcome, bool]]:
    """Run the whole round, stage by stage."""
    for stage in STAGES:
        yield stage, *run(round_, stage.name)


def reopen(round_: Round, name: str) -> list[str]:
    """Have a stage and all after it run again, since what they read has changed; returns those that were done."""
    after = [stage.name for stage in STAGES[STAGES.index(named(name)) :]]
    done = {row["stage"]: row for row in round_.lake.rows(lake.ROUNDS, round=round_.number) if row["state"] == "done"}
    for stage in after:
        if stage in done:
            round_.lake.put(lake.ROUNDS, done[stage] | {"state": "reopened"})
    return [stage for stage in after if stage in done]


class _Book:
    """Writes a stage's row into `rounds`."""

    def __init__(self, round_: Round, stage: Stage, fingerprint: str, unfinished: Record | None) -> None:
        self._round, self._stage, self._fingerprint = round_, stage, fingerprint
        # A table that is not there yet is made at version 0 by whoever needs it; making it here would take a second.
        self._reads = {t.name: round_.lake.version(t) if round_.lake.exists(t) else 0 for t in stage.reads}
        resumed = unfinished if unfinished is not None and unfinished.fingerprint == fingerprint else None
        self._spent = resumed.seconds if resumed else 0.0
        self._started = (resumed.started_at if resumed else None) or datetime.now(UTC)

    def write(self, state: str, outcome: Outcome, meter: Meter | None) -> None:
        seconds = self._spent + (meter.seconds if meter else 0.0)
        row: dict[str, Any] = {
            "round": self._round.number,
            "stage": self._stage.name,
            "state": state,
            "fingerprint": self._fingerprint,
            "config_hash": self._round.project.config_hash,
            "reads": self._reads,
            "rows": outcome.rows,
            "tokens": outcome.tokens,
            "seconds": seconds,
            "peak_rss_bytes": meter.peak_rss if meter else 0,
            "dollars": seconds / 3600 * self._round.project.cost.dollars_per_hour,
            "detail": json.dumps(outcome.detail, sort_keys=True),
            "started_at": self._started,
            "finished_at": None if state == "running" else datetime.now(UTC),
        }
        self._round.lake.put(lake.ROUNDS, row)


def _at(project: Project, path: str) -> Any:
    """A field of the project by dotted path, as JSON."""
    value: Any = project
    for part in path.split("."):
        value = None if value is None else getattr(value, part)  # what an absent section says is null
    if isinstance(value, tuple):
        return [v.model_dump(mode="json", by_alias=True) if hasattr(v, "model_dump") else v for v in value]
    return value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value
