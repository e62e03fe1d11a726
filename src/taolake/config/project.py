"""The whole project file, and reading one: a misspelt key is refused with the nearest right one."""

import difflib
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from taolake.config.base import ImportPath, Name, Section, sections_in
from taolake.config.engines import EngineSpec, Model
from taolake.config.flywheel import Canary, Flywheel, Monitor
from taolake.config.inputs import Collect, Generate, Ingest, Task
from taolake.config.outcome import Cost, Evaluate, Feedback, Gate, Gateway, Register, Serve, Unity
from taolake.config.scorers import (
    AgreementScorer,
    JudgeScorer,
    LabelScorer,
    MlflowJudgeScorer,
    RelevanceScorer,
    Reward,
    RewardModelScorer,
    ScorerSpec,
    SqlScorer,
    Trust,
)
from taolake.config.training import Select, Train
from taolake.ids import content_hash


class Project(Section):
    """A tuning project: everything a round needs to know."""

    name: Name = Field(description="Name of the project; experiments and runs carry it.")
    seed: int = Field(7, ge=0, description="Every draw derives from it and the row's own id.")
    lake: str = Field(description="Folder for local tables, or `catalog.schema`.")
    work: str = Field(description="Folder for checkpoints, adapters and reports; a volume on Databricks.")
    task: Task = Field(description="What the model is for.")
    collect: Collect = Field(default_factory=lambda: Collect(), description="Logs of production, before a round.")
    ingest: Ingest = Field(description="Where prompts come from.")
    model: Model = Field(description="The model to improve.")
    engine: EngineSpec = Field(description="What answers prompts, by `kind`.")
    generate: Generate = Field(description="How many answers, and by which strategies.")
    scorers: tuple[ScorerSpec, ...] = Field(min_length=1, description="What judges an answer, each by `kind`.")
    reward: Reward = Field(description="How scores become one number.")
    feedback: Feedback = Field(default_factory=lambda: Feedback(), description="What reactions in production teach.")
    trust: Trust = Field(default_factory=lambda: Trust(), description="How far the reward must agree with people.")
    select: Select = Field(default_factory=lambda: Select(), description="What the trainer sees.")
    train: Train = Field(default_factory=lambda: Train(), description="How it goes into the weights.")
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate(), description="How base and tuned are compared.")
    gate: Gate = Field(default_factory=lambda: Gate(), description="What counts as better.")
    register_: Register = Field(alias="register", description="Where the result goes.")
    unity: Unity = Field(default_factory=lambda: Unity(), description="What tables have in Unity Catalog.")
    serve: Serve = Field(default_factory=lambda: Serve(), description="Where it answers, on Databricks.")
    gateway: Gateway = Field(default_factory=lambda: Gateway(), description="How it is served here.")
    monitor: Monitor = Field(default_factory=lambda: Monitor(), description="What is measured of production.")
    canary: Canary = Field(default_factory=lambda: Canary(), description="When a new version is promoted.")
    flywheel: Flywheel = Field(default_factory=lambda: Flywheel(), description="When the next round starts.")
    cost: Cost = Field(default_factory=lambda: Cost(), description="Prices for the card.")
    prepare: ImportPath | None = Field(
        None, description="Function `f(project)` that makes the inputs before a round, as the embedded example does."
    )

    @property
    def functions(self) -> dict[str, str]:
        """Import paths that the project names, by field."""
        fields = ("target", "tests", "reviewer")
        named = {
            f"scorers.{spec.name}.{field}": getattr(spec, field, None) for spec in self.scorers for field in fields
        }
        return {field: target for field, target in {"prepare": self.prepare, **named}.items() if target}

    @model_validator(mode="after")
    def _names_resolve(self) -> Self:
        names = [s.name for s in self.scorers]
        if len(set(names)) != len(names):
            raise ValueError(f"scorer names repeat: {sorted(names)}")
        wanted = {
            "reward.weights": list(self.reward.weights),
            "reward.require": list(self.reward.require),
            "reward.pool_over": [self.reward.pool_over] if self.reward.pool_over else [],
            "reward.conflict_with": [self.reward.conflict_with] if self.reward.conflict_with else [],
            "evaluate.judge": [self.evaluate.judge] if self.evaluate.judge else [],
            "agreement.over": [s.over for s in self.scorers if isinstance(s, AgreementScorer) and s.over],
        }
        for place, used in wanted.items():
            for name in used:
                if name not in names:
                    raise ValueError(f"{place} names scorer {name!r}, wanted one of {names}")
        for spec in self.scorers:
            if isinstance(spec, AgreementScorer) and spec.over and names.index(spec.over) >= names.index(spec.name):
                raise ValueError(f"scorer {spec.name!r} looks at {spec.over!r}, which must be listed before it")
        rule = self.reward
        if rule.conflict_with is not None and rule.conflict_with in {*rule.weights, *rule.require, rule.pool_over}:
            raise ValueError(
                f"reward.conflict_with {rule.conflict_with!r} is part of the reward, with which it cannot be in "
                "conflict; take a scorer that has no say in it"
            )
        if self.evaluate.gold is None and self.evaluate.judge is None:
            raise ValueError(
                "evaluate needs `gold` (labels for the holdout) or `judge` (a scorer the reward does not use)"
            )
        if self.evaluate.judge is not None and self.evaluate.judge in self._trains():
            raise ValueError(
                f"evaluate.judge {self.evaluate.judge!r} is part of the reward; the gate needs another (law 5)"
            )
        self._judge_stands_apart()
        self._watchers_read_answers_alone()
        if self.train.online:
            self._can_train_online()
        self._brakes_stand_apart()
        self._ids_come_with_answers()
        self._measure_stands_apart()
        self._labels_measure()
        self._budget_reads_answers_alone()
        self._labels_are_imitated()
        return self

    def _ids_come_with_answers(self) -> None:
        """Regression is on the ids that were sampled, which an endpoint does not tell."""
        name = self.train.algorithm
        if self.engine.kind == "endpoint" and name in ("tao", "bond"):
            raise ValueError(
                f"train.algorithm {name!r} learns from the token ids of answers, which an endpoint does not give: set "
                "it to 'rft', 'dpo' or 'kto', or engine.kind to 'vllm'"
            )

    def _labels_are_imitated(self) -> None:
        """Labels reach the trainer as answers to imitate, which two algorithms do."""
        labels, name = self.select.labels, self.train.algorithm
        wanted = ("rft",) if labels and labels.alone else ("tao", "rft")
        if labels and name not in wanted:
            raise ValueError(
                f"select.labels{'.alone' if labels.alone else ''} is for train.algorithm {' or '.join(wanted)}, got "
                f"{name!r}: it does not imitate"
            )

    def _budget_reads_answers_alone(self) -> None:
        """Between waves a group is not complete, and nothing is trained: the scorer is a verifier or a function."""
        name = self.generate.budget.scorer if self.generate.budget else None
        spec = next((s for s in self.scorers if s.name == name), None)
        if name is not None and spec is None:
            raise ValueError(
                f"generate.budget.scorer names scorer {name!r}, wanted one of {[s.name for s in self.scorers]}"
            )
        if spec is not None and (_needs_the_stage(spec) or _only_compares(spec)):
            raise ValueError(
                f"generate.budget.scorer {name!r} of kind {spec.kind!r} cannot read one answer while others are asked: "
                "take a verifier or a function"
            )

    def _watchers_read_answers_alone(self) -> None:
        """In production an answer has no group and no engine beside it."""
        signals = {s for s in self.canary.signals if s not in ("answered", "feedback", "refusals", "scorers")}
        watching = [s.name for s in self.watchers]
        for place, names in (("monitor.scorers", set(self.monitor.scorers or ())), ("canary.signals", signals)):
            for name in sorted(names - set(watching)):
                able = [s.name for s in self.scorers if not (_needs_the_stage(s) or _only_compares(s))]
                raise ValueError(
                    f"{place} names {name!r}, wanted a scorer that reads one answer alone, without an engine, and that "
                    f"monitor.scorers does not leave out: one of {able}"
                )

    @property
    def watchers(self) -> list[ScorerSpec]:
        """Scorers that read answers in production."""
        wanted = self.monitor.scorers
        able = [s for s in self.scorers if not (_needs_the_stage(s) or _only_compares(s))]
        return [s for s in able if wanted is None or s.name in wanted]

    def _measure_stands_apart(self) -> None:
        """What sets k, or calibrates, is people, or a scorer that judges an answer alone, outside the reward."""
        measures = {"select.measured_by": self.select.measured_by, "reward.calibrated_by": self.reward.calibrated_by}
        for place, name in measures.items():
            if name in (None, "people"):
                continue
            spec = next((s for s in self.scorers if s.name == name), None)
            if spec is None:
                names = [s.name for s in self.scorers]
                raise ValueError(f"{place} names scorer {name!r}, wanted `people` or one of {names}")
            if name in self._trains() or _only_compares(spec):
                raise ValueError(
                    f"{place} {name!r} is part of the reward, or compares answers only: take another (law 5)"
                )

    def _labels_measure(self) -> None:
        """Most prompts have no label, and those that are held out have none of these."""
        uses = {"the reward": self._trains(), "evaluate.judge": {self.evaluate.judge}}
        for spec in self.scorers:
            for place, names in uses.items():
                if isinstance(spec, LabelScorer) and spec.name in names:
                    raise ValueError(
                        f"scorer {spec.name!r} of kind 'label' says nothing of a prompt without a label, so it cannot "
                        f"be {place}: name it in select.measured_by or reward.calibrated_by; labels train by "
                        "select.labels, and those of the holdout are evaluate.gold"
                    )

    def _brakes_stand_apart(self) -> None:
        """The scorer that picks checkpoints trained nothing, judges an answer alone, and runs in the trainer."""
        if self.train.brakes is None:
            return
        if self.rewards_in_the_trainer and self.train.brakes.samples < self.reward.min_scored:
            raise ValueError(
                f"train.brakes.samples {self.train.brakes.samples} is below reward.min_scored "
                f"{self.reward.min_scored}: every prompt looked at would abstain; raise the one or lower the other"
            )
        name = self.train.brakes.scorer
        if name is None:
            return
        spec = next((s for s in self.scorers if s.name == name), None)
        if spec is None:
            raise ValueError(
                f"train.brakes.scorer names scorer {name!r}, wanted one of {[s.name for s in self.scorers]}"
            )
        if name in self._trains():
            raise ValueError(f"train.brakes.scorer {name!r} is part of the reward; brakes need another (law 5)")
        if _needs_the_stage(spec) or _only_compares(spec):
            raise ValueError(
                f"train.brakes.scorer {name!r} of kind {spec.kind!r} cannot judge one answer inside the trainer: "
                "take a verifier or a function"
            )

    def _can_train_online(self) -> None:
        """What `grpo` and `rloo` ask for beyond the rest: they score inside the trainer, one batch at a time."""
        name = self.train.algorithm
        if self.train.others:
            raise ValueError(
                f"{name} scores inside the trainer, where train.others have no scorers: tune the tasks apart, or set "
                "train.algorithm to 'tao'"
            )
        group = (self.train.rloo if name == "rloo" else self.train.grpo).num_generations
        if group < self.reward.min_scored:
            raise ValueError(
                f"train.{name}.num_generations {group} is below reward.min_scored "
                f"{self.reward.min_scored}: every prompt would abstain; raise the one or lower the other"
            )
        if self.reward.calibrate != "none":
            raise ValueError(
                f"reward.calibrate {self.reward.calibrate!r} is fitted on stored rewards, which {name} does not use: "
                "set it to 'none', or train.algorithm to 'tao'"
            )
        for spec in self.scorers:
            if spec.name in self._trains() and _needs_the_stage(spec):
                raise ValueError(
                    f"{name} scores inside the trainer, where scorer {spec.name!r} of kind {spec.kind!r} cannot run: "
                    "take it out of the reward, or set train.algorithm to 'tao'"
                )

    def _judge_stands_apart(self) -> None:
        """The gate's scorer can judge an answer alone, and shares neither weights nor data with one that trains."""
        spec = next((s for s in self.scorers if s.name == self.evaluate.judge), None)
        if spec is not None and _only_compares(spec):
            raise ValueError(
                f"evaluate.judge {spec.name!r} of kind {spec.kind!r} says how answers of one group compare, wanted a "
                "scorer that says of each answer, greedy ones too, whether it is right: a check, or a pointwise judge"
            )
        of_scorer = {s.name: _made_of(s) for s in self.scorers}
        judge = of_scorer.get(self.evaluate.judge or "", {})
        for name in sorted(n for n in self._trains() if n):
            for part, what in judge.items():
                if part in of_scorer[name]:
                    raise ValueError(
                        f"evaluate.judge {self.evaluate.judge!r} shares {what} with {name!r}, which is part of the "
                        "reward: their mistakes would be the same; let the gate use another model, or labels (law 5)"
                    )

    def _trains(self) -> set[str | None]:
        """Scorers that reach the reward, directly or through the agreement on their answers."""
        direct = self.reward.reads
        return direct | {s.over for s in self.scorers if isinstance(s, AgreementScorer) and s.name in direct}

    @property
    def rewards_in_the_trainer(self) -> bool:
        """Whether everything the reward is made of can be computed while it trains."""
        return not any(spec.name in self._trains() and _needs_the_stage(spec) for spec in self.scorers)

    @property
    def config_hash(self) -> str:
        """Hash of everything written in the file."""
        return content_hash(self.model_dump(mode="json", by_alias=True))


def _made_of(spec: ScorerSpec) -> dict[str, str]:
    """Weights behind a scorer that can gate: what tells them apart, and their name in a sentence."""
    match spec:
        case JudgeScorer():
            return {f"model {_model_name(j.model)}": f"the model {j.model!r}" for j in spec.judges}
        case MlflowJudgeScorer():
            return {f"model {_model_name(spec.model)}": f"the model {spec.model!r}"}
        case RelevanceScorer() | AgreementScorer() if spec.encoder:
            return {f"encoder {spec.encoder}": f"the encoder {spec.encoder!r}"}
        case _:
            return {}


def _only_compares(spec: ScorerSpec) -> bool:
    """Whether its value means something beside the other answers of the prompt alone."""
    match spec:
        case AgreementScorer() | RewardModelScorer():
            return True
        case JudgeScorer():
            return spec.mode != "pointwise"
        case _:
            return False


def _needs_the_stage(spec: ScorerSpec) -> bool:
    """Whether only the score stage can run it: on Spark's session, with an engine, or by paid calls; or by labels."""
    match spec:
        case JudgeScorer() | MlflowJudgeScorer() | RelevanceScorer() | LabelScorer():
            return True
        case AgreementScorer():
            return spec.over is None
        case SqlScorer():
            return spec.dialect == "spark"
        case _:
            return False


def _model_name(model: str) -> str:
    """A model by its name alone: one model behind two doors, `openai:/m` and an endpoint's `m`, is one model."""
    return model.partition(":/")[2].strip("/") or model


def load(path: Path) -> Project:
    """Read and check a project file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not what the schema asks for; the message has one line a problem.
    """
    with path.open(encoding="utf-8") as handle:
        raw = yaml.safe_load(handle)
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: got {type(raw).__name__}, wanted a mapping of sections; see conf/template.yml")
    try:
        return Project.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise ValueError(f"{path} is not a valid project:\n  " + "\n  ".join(lines)) from None


def _explain(problem: dict[str, Any]) -> str:
    """Turn one pydantic problem into a line: where, what was got, what was wanted."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        got = "" if problem["type"] in {"missing", "value_error"} else f" (got {problem['input']!r:.80})"
        return f"{where or 'project'}: {problem['msg'].removeprefix('Value error, ')}{got}"
    known = sorted(_keys_at(problem["loc"][:-1]))
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"{where}: unknown key, {hint}"


def _keys_at(location: tuple[int | str, ...]) -> set[str]:
    """Keys the schema knows at a place; union members are found by the tag pydantic puts into the location."""
    sections: list[type[Section]] = [Project]
    for part in location:
        deeper: list[type[Section]] = []
        for section in sections:
            for name, info in section.model_fields.items():
                if part in (name, info.alias):
                    deeper += sections_in(info.annotation)
            if isinstance(part, int) or (
                "kind" in section.model_fields and part in get_args(section.model_fields["kind"].annotation)
            ):
                deeper.append(section)
        sections = deeper or sections
    return {info.alias or name for section in sections for name, info in section.model_fields.items()}
