"""One YAML file describes a tuning project; this module is its schema. No Spark, no torch.

Every field says what it means, its range is in its type, and a misspelt key is refused with the nearest right one.
`docs/config.md` is generated from here (`taolake check --reference`), and a test keeps the two equal.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from taolake.ids import content_hash

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Share = Annotated[float, Field(ge=0, le=1)]
ImportPath = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]


class Section(BaseModel):
    """Frozen, and strict about keys: a typo must not silently become a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Task(Section):
    """What the model is for, in words a reviewer or a judge can use."""

    name: Name = Field(description="Short name of the task; part of every prompt's identity.")
    description: str = Field("", description="One paragraph of business context, shown to judges and in the card.")


class Source(Section):
    """Where prompts come from."""

    format: Literal["inference_log", "jsonl", "parquet", "csv", "delta"] = Field(
        description="`inference_log`: JSONL or a table in the endpoint's payload shape; the others: one prompt a row."
    )
    path: str = Field(description="File, folder or table name. Relative paths start at the folder taolake runs in.")
    messages: str = Field("messages", description="Column that holds the conversation, or a plain question as text.")
    split: Literal["auto", "train", "holdout", "review"] = Field(
        "auto",
        description="`auto` splits by the prompt's own hash; `review` prompts are shown to people, not trained on.",
    )


class Ingest(Section):
    """How logged prompts become rows."""

    sources: tuple[Source, ...] = Field(min_length=1, description="Logs to read, in order.")
    holdout: Share = Field(0.2, description="Share of `auto` prompts held out for evaluation.")
    system: str | None = Field(None, description="System turn for logged prompts that have none.")
    max_prompt_chars: int = Field(16_000, ge=1, description="Longer prompts are quarantined.")


class Model(Section):
    """The base model."""

    path: str = Field(description="Folder or hub id of the base model.")
    revision: str | None = Field(None, description="Hub revision; pin it, or the policy's identity is the name alone.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "auto", description="Weights' type for generation."
    )
    max_model_len: int = Field(4096, ge=16, description="Prompt plus answer, in tokens.")
    max_tokens: int = Field(512, ge=1, description="Answer length limit, in tokens.")


class VllmEngine(Section):
    """vLLM inside the Spark Python worker: one engine per device."""

    kind: Literal["vllm"] = "vllm"
    devices: int = Field(1, ge=1, description="Engines running at once: GPUs in the cluster, or 1 on a CPU.")
    max_num_seqs: int = Field(256, ge=1, description="Sequences the scheduler runs together.")
    window: float = Field(1.25, ge=1, description="Requests in flight, as a multiple of `max_num_seqs`.")
    memory_gb: float = Field(1.0, gt=0, description="KV cache in GiB.")
    enforce_eager: bool = Field(True, description="Skip compilation: faster start, slower steps on GPUs.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments for `vllm.LLM`.")


class EndpointEngine(Section):
    """Any OpenAI-compatible chat endpoint: Databricks Model Serving, a provider, `vllm serve`."""

    kind: Literal["endpoint"]
    url: str = Field(description="Base URL up to and including /v1.")
    model: str = Field(description="Model name the endpoint expects.")
    key_env: str = Field("TAOLAKE_ENDPOINT_KEY", description="Environment variable that holds the key; never the key.")
    concurrency: int = Field(16, ge=1, description="Requests in flight per Spark task.")
    retries: int = Field(4, ge=0, description="Retries of a 429, a 5xx or a broken connection, with backoff.")
    timeout_s: float = Field(120, gt=0, description="Seconds one request may take.")
    devices: int = Field(1, ge=1, description="Spark tasks that talk to the endpoint at once.")


class FakeEngine(Section):
    """Deterministic answers without a model: for tests of everything around the engine."""

    kind: Literal["fake"]
    answers: tuple[str, ...] = Field(
        ("yes", "no"), min_length=1, description="Answers to draw from, by the row's seed."
    )
    poison: str = Field("", description="A prompt that contains this text comes back as an error row.")
    delay_s: float = Field(0.0, ge=0, description="Seconds each step takes, for tests that kill a run.")
    width: int = Field(8, ge=1, description="Requests in flight.")
    devices: int = Field(1, ge=1, description="Spark tasks at once.")


EngineSpec = Annotated[VllmEngine | EndpointEngine | FakeEngine, Field(discriminator="kind")]


class Extract(Section):
    """How the answer, in the shape the plain prompt would get, is taken out of what a strategy wrote."""

    kind: Literal["whole", "after", "json", "regex"] = Field(
        "whole",
        description="`after`: the text after the last `marker`; `json`: one field; `regex`: group 1 of `pattern`.",
    )
    marker: str = Field("", description="For `after`.")
    field: str = Field("answer", description="For `json`.")
    pattern: str = Field("", description="For `regex`.")

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.kind == "after" and not self.marker:
            raise ValueError("extract kind `after` needs a `marker`, the text that comes before the answer")
        if self.kind == "regex":
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"extract pattern {self.pattern!r} is not a regular expression: {error}") from None
            if not groups:
                raise ValueError(f"extract pattern {self.pattern!r} has no group; put the answer into (...)")
        return self


class Example(Section):
    """One worked example of a few-shot strategy."""

    question: str = Field(description="What a user asks.")
    answer: str = Field(description="The answer to imitate.")


class Strategy(Section):
    """A named pair of prompt variant and sampling parameters."""

    name: Name = Field(description="Part of every candidate's identity, together with a hash of what follows.")
    share: Share = Field(description="Share of the N candidates of a training prompt.")
    template: str = Field("{question}", description="Rewrites the last user turn; `{question}` stands for its text.")
    system: str | None = Field(None, description="System turn put before the conversation, replacing an earlier one.")
    examples: tuple[Example, ...] = Field((), description="Few-shot turns put before the conversation.")
    extract: Extract = Field(default_factory=lambda: Extract(), description="How to take the answer out.")
    temperature: float = Field(1.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus cut; 1 cuts nothing.")
    top_k: int = Field(0, ge=0, description="0 cuts nothing.")
    min_p: float = Field(0.0, ge=0, lt=1, description="0 cuts nothing.")

    @model_validator(mode="after")
    def _template_has_question(self) -> Self:
        if self.name == "greedy":
            raise ValueError("the strategy name 'greedy' is taken: it is the answer the deployed model gives")
        if "{question}" not in self.template:
            raise ValueError(f"got template {self.template!r}, wanted one that contains {{question}}")
        return self

    @property
    def on_policy(self) -> bool:
        """Whether its samples come from the bare prompt's own distribution (stream A, design.md section 2)."""
        bare = self.template == "{question}" and self.system is None and not self.examples
        return bare and (self.temperature, self.top_p, self.top_k, self.min_p) == (1.0, 1.0, 0, 0.0)

    @property
    def id(self) -> str:
        """Name and content hash: changed parameters are another strategy and never mix with old rows."""
        shape = self.model_dump(mode="json", exclude={"name", "share"})
        return f"{self.name}-{content_hash(shape)[:8]}"


class Generate(Section):
    """Best-of-N generation."""

    n: int = Field(16, ge=1, description="Candidates per training prompt, shared among the strategies.")
    review_n: int = Field(8, ge=0, description="On-policy candidates per `review` prompt, shown to people.")
    strategies: tuple[Strategy, ...] = Field(min_length=1, description="At least one must be on-policy (stream A).")
    chunk_rows: int = Field(4096, ge=1, description="Candidates per commit: what a killed run may have to repeat.")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = sum(s.share for s in self.strategies)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"strategy shares add up to {total:g}, wanted 1")
        if not any(s.on_policy for s in self.strategies):
            raise ValueError(
                "no strategy is on-policy: one must use the bare prompt at temperature 1 with top_p 1, top_k 0, min_p 0"
            )
        names = [s.name for s in self.strategies]
        if len(set(names)) != len(names):
            raise ValueError(f"strategy names repeat: {sorted(names)}")
        return self

    @property
    def plain(self) -> Strategy:
        """The stream-A strategy: evaluation, the reward model's data and probability ratios come from it."""
        return next(s for s in self.strategies if s.on_policy)

    def counts(self) -> dict[str, int]:
        """Divide N by the shares, largest remainder first; the counts add up to N exactly."""
        exact = {s.name: self.n * s.share for s in self.strategies}
        counts = {name: int(value) for name, value in exact.items()}
        rest = self.n - sum(counts.values())
        for name in sorted(exact, key=lambda k: counts[k] - exact[k])[:rest]:
            counts[name] += 1
        return counts


class SqlScorer(Section):
    """Runs the answer as a query, read-only and limited; 1 if it runs. The result is the answer's meaning."""

    kind: Literal["sql"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    database: str = Field(description="SQLite or DuckDB file, opened read-only.")
    dialect: Literal["sqlite", "duckdb"] = Field("sqlite", description="Engine that runs the query.")
    timeout_s: float = Field(2.0, gt=0, description="Seconds one query may take.")
    max_rows: int = Field(1000, ge=1, description="More rows than this is an error.")


class CheckScorer(Section):
    """A rule over the text: 1 if it holds."""

    kind: Literal["regex", "json_schema", "exact", "numeric"] = Field(
        description="Which rule; each reads its own fields."
    )
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    pattern: str = Field("", description="For `regex`: must match somewhere. For `exact`: the text itself.")
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema", description="For `json_schema`.")
    target: float | None = Field(
        None, description="For `numeric`: the number wanted; None asks only that one is there."
    )
    tolerance: float = Field(1e-6, ge=0, description="For `numeric`: relative tolerance.")


class FunctionScorer(Section):
    """A Python function of yours: `f(messages, answer) -> float | None | taolake.types.Score`."""

    kind: Literal["function"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    target: ImportPath = Field(description="Import path, `package.module:function`.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments passed on every call.")


class AgreementScorer(Section):
    """Share of a prompt's own candidates that mean the same, by another scorer's answer key."""

    kind: Literal["agreement"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    over: Name = Field(description="Scorer whose `answer_key` says what an answer means.")


class RewardModelScorer(Section):
    """A reward model trained in the round from people's choices (TRL), scored through vLLM's pooling runner."""

    kind: Literal["reward_model"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    reviewer: ImportPath | None = Field(
        None,
        description="Function `f(project, question, answers) -> [(chosen, rejected), ...]` that stands in for people; "
        "None: the `preferences` table holds what people said.",
    )
    base: str | None = Field(None, description="Backbone; None takes the project's base model.")
    epochs: float = Field(3, gt=0, description="Passes over the preference pairs.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")
    batch_size: int = Field(16, ge=1, description="Pairs per optimiser step.")
    lora_rank: int = Field(0, ge=0, description="0 trains all weights.")
    eval_share: Share = Field(0.15, description="Share of the reviewed prompts kept to measure pairwise accuracy.")


ScorerSpec = Annotated[
    SqlScorer | CheckScorer | FunctionScorer | AgreementScorer | RewardModelScorer, Field(discriminator="kind")
]


class Reward(Section):
    """How scores become one number per candidate, or an abstention for the whole prompt."""

    require: tuple[Name, ...] = Field((), description="Verifiers: a candidate that fails one is worth 0.")
    weights: dict[Name, Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="Scorers to average, with their weights."
    )
    pool_over: Name | None = Field(
        None,
        description="Scorer whose answer key says which answers are equal; they share a mean, shrunk to the prompt's.",
    )
    pool_prior: float = Field(
        1.0, ge=0, description="Pseudo-counts of that shrinkage: rare answers trust the mean more."
    )
    min_spread: float = Field(0.05, ge=0, description="Best minus worst below this: the prompt abstains.")
    min_scored: int = Field(4, ge=2, description="Fewer scored candidates than this: the prompt abstains.")


class Select(Section):
    """Which rows the trainer sees."""

    best_of: int = Field(
        8, ge=2, description="k of the order-statistic weights: rows are drawn as random best-of-k would."
    )
    rows_per_prompt: int = Field(4, ge=1, description="Rejection fine-tuning rows drawn per prompt.")
    min_reward: float = Field(0.0, ge=0, le=1, description="Rows below this teach nothing by imitation.")


class Lora(Section):
    """Low-rank adapter over all linear layers but the head."""

    rank: int = Field(16, ge=1, le=512, description="Rank of the two factors.")
    alpha: int = Field(32, ge=1, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of inputs dropped while training.")


class Warmup(Section):
    """Rejection fine-tuning: weighted imitation of winners, before `tao`'s regression or alone as `rft`."""

    when: Literal["auto", "always", "never"] = Field(
        "auto", description="`auto`: when under 90 % of candidates pass the verifiers or stream B wins over 30 %."
    )
    epochs: float = Field(1, gt=0, description="Passes over the imitation rows.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")


class Oapl(Section):
    """Offline regression of the log-ratio on the optimal advantage, over all scored stream-A candidates."""

    beta: float = Field(0.1, gt=0, description="Scale of the log-ratio; small beta moves further.")
    beta_v: float = Field(1.0, gt=0, description="Temperature of the value estimate.")
    clip: float = Field(10.0, gt=0, description="Limit of |advantage / beta|.")
    epochs: float = Field(2, gt=0, description="Passes over the regression rows.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")


class Grpo(Section):
    """Online alternative: the round's scorers behind TRL's GRPOTrainer."""

    steps: int = Field(50, ge=1, description="Optimiser steps.")
    num_generations: int = Field(8, ge=2, description="Answers per prompt and step.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate.")
    beta: float = Field(0.0, ge=0, description="KL coefficient.")


class Train(Section):
    """The optimiser's side."""

    algorithm: Literal["tao", "rft", "grpo"] = Field(
        "tao", description="`tao`: warm-up, then offline regression; `rft`: the warm-up alone; `grpo`: online."
    )
    lora: Lora | None = Field(default_factory=lambda: Lora(), description="`null` trains all weights.")
    batch_size: int = Field(32, ge=1, description="Sequences per optimiser step.")
    micro_batch_size: int | None = Field(None, ge=1, description="Sequences per forward pass; None: the whole batch.")
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints; a killed run resumes at the last one.")
    warmup: Warmup = Field(default_factory=lambda: Warmup(), description="For `tao` and `rft`.")
    oapl: Oapl = Field(default_factory=lambda: Oapl(), description="For `tao`.")
    grpo: Grpo = Field(default_factory=lambda: Grpo(), description="For `grpo`.")


class Gold(Section):
    """Labels of holdout prompts. Read by `evaluate` alone (law 4)."""

    path: str = Field(description="JSONL of `messages` and `answer`.")
    compare: Literal["sql", "exact", "numeric"] = Field("exact", description="How an answer is held against the label.")
    database: str | None = Field(None, description="For `sql`: where both queries run.")

    @model_validator(mode="after")
    def _sql_has_database(self) -> Self:
        if self.compare == "sql" and not self.database:
            raise ValueError("gold.compare is sql, so gold.database must name the SQLite file to run both queries on")
        return self


class Evaluate(Section):
    """Base against tuned on the holdout."""

    samples: int = Field(
        16, ge=2, description="On-policy samples per holdout prompt and policy, beside the greedy answer."
    )
    gold: Gold | None = Field(None, description="Labels, where some exist.")
    judge: Name | None = Field(None, description="Without gold: a scorer that is not part of the reward.")
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples, over prompts.")


class Gate(Section):
    """When the tuned model may replace the champion."""

    min_gain: float = Field(0.0, description="The lower end of the gain's interval must exceed this.")
    max_length_growth: float = Field(0.5, ge=0, description="Mean answer length may grow by this share.")
    max_truncated: Share = Field(0.05, description="Share of tuned answers cut off by the length limit.")


class Register(Section):
    """Where the result goes."""

    name: str = Field(description="Registered model name; three-level on Unity Catalog.")
    tracking_uri: str | None = Field(
        None, description="MLflow tracking; None: `sqlite` beside the tables, or Databricks."
    )
    registry_uri: str | None = Field(None, description="MLflow registry; None: as tracking.")


class Cost(Section):
    """Prices for the card; zero where a machine is already paid for."""

    dollars_per_hour: float = Field(0.0, ge=0, description="Price of the machine or cluster a stage runs on.")


class Project(Section):
    """A tuning project: everything a round needs to know."""

    name: Name = Field(description="Name of the project; experiments and runs carry it.")
    seed: int = Field(7, ge=0, description="Every draw derives from it and the row's own id.")
    lake: str = Field(description="Folder for local tables, or `catalog.schema`.")
    work: str = Field(description="Folder for checkpoints, adapters and reports; a volume on Databricks.")
    task: Task = Field(description="What the model is for.")
    ingest: Ingest = Field(description="Where prompts come from.")
    model: Model = Field(description="The model to improve.")
    engine: EngineSpec = Field(description="What answers prompts, by `kind`.")
    generate: Generate = Field(description="How many answers, and by which strategies.")
    scorers: tuple[ScorerSpec, ...] = Field(min_length=1, description="What judges an answer, each by `kind`.")
    reward: Reward = Field(description="How scores become one number.")
    select: Select = Field(default_factory=lambda: Select(), description="What the trainer sees.")
    train: Train = Field(default_factory=lambda: Train(), description="How it goes into the weights.")
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate(), description="How base and tuned are compared.")
    gate: Gate = Field(default_factory=lambda: Gate(), description="What counts as better.")
    register_: Register = Field(alias="register", description="Where the result goes.")
    cost: Cost = Field(default_factory=lambda: Cost(), description="Prices for the card.")
    prepare: ImportPath | None = Field(
        None, description="Function `f(project)` that makes the inputs before a round, as the embedded example does."
    )

    @model_validator(mode="after")
    def _names_resolve(self) -> Self:
        names = [s.name for s in self.scorers]
        if len(set(names)) != len(names):
            raise ValueError(f"scorer names repeat: {sorted(names)}")
        wanted = {
            "reward.weights": list(self.reward.weights),
            "reward.require": list(self.reward.require),
            "reward.pool_over": [self.reward.pool_over] if self.reward.pool_over else [],
            "evaluate.judge": [self.evaluate.judge] if self.evaluate.judge else [],
            "agreement.over": [s.over for s in self.scorers if isinstance(s, AgreementScorer)],
        }
        for place, used in wanted.items():
            for name in used:
                if name not in names:
                    raise ValueError(f"{place} names scorer {name!r}, wanted one of {names}")
        if self.train.algorithm == "grpo" and self.train.grpo.num_generations < self.reward.min_scored:
            raise ValueError(
                f"train.grpo.num_generations {self.train.grpo.num_generations} is below reward.min_scored "
                f"{self.reward.min_scored}: every prompt would abstain; raise the one or lower the other"
            )
        for spec in self.scorers:
            if isinstance(spec, AgreementScorer) and names.index(spec.over) >= names.index(spec.name):
                raise ValueError(f"scorer {spec.name!r} looks at {spec.over!r}, which must be listed before it")
        if self.evaluate.gold is None and self.evaluate.judge is None:
            raise ValueError(
                "evaluate needs `gold` (labels for the holdout) or `judge` (a scorer the reward does not use)"
            )
        if self.evaluate.judge is not None and self.evaluate.judge in self._trains():
            raise ValueError(
                f"evaluate.judge {self.evaluate.judge!r} is part of the reward; the gate needs another (law 5)"
            )
        return self

    def _trains(self) -> set[str | None]:
        """Scorers that reach the reward, directly or through the agreement on their answers."""
        direct = {*self.reward.weights, *self.reward.require, self.reward.pool_over}
        return direct | {s.over for s in self.scorers if isinstance(s, AgreementScorer) and s.name in direct}

    @property
    def config_hash(self) -> str:
        """Hash of everything written in the file."""
        return content_hash(self.model_dump(mode="json", by_alias=True))


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


def sections_in(annotation: Any) -> list[type[Section]]:
    """The config sections inside a field's annotation, through tuples, unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_in(part)]
