"""Sections of the project file: the task, its logs, the candidates wanted."""

import re
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from taolake.config.base import Name, Section, Share
from taolake.ids import content_hash


class Task(Section):
    """What the model is for, in words a reviewer or a judge can use."""

    name: Name = Field(description="Short name of the task; part of every prompt's identity.")
    description: str = Field("", description="One paragraph of business context, shown to judges and in the card.")


class RightAnswers(Section):
    """A file of prompts with right answers, and how another answer is held against one."""

    path: str = Field(description="JSONL of `messages` and `answer`.")
    compare: Literal["sql", "exact", "numeric"] = Field("exact", description="How an answer is held against the label.")
    database: str | None = Field(None, description="For `sql`: where both queries run.")
    dialect: Literal["sqlite", "duckdb"] = Field("sqlite", description="For `sql`: what the database is.")
    rows: Literal["multiset", "spider", "bird"] = Field(
        "multiset",
        description="For `sql`: when two results are the same. `multiset`: duplicates count, order only under ORDER "
        "BY, numbers to six digits after the point; `spider`: any order of the columns too; `bird`: as sets of rows.",
    )

    @model_validator(mode="after")
    def _sql_has_database(self) -> Self:
        if self.compare == "sql" and not self.database:
            raise ValueError("compare is sql, so database must name the file to run both queries on")
        return self


class Source(Section):
    """Where prompts come from."""

    format: Literal["inference_log", "jsonl", "parquet", "csv", "delta"] = Field(
        description="`inference_log`: JSONL or a table in the endpoint's payload shape; the others: one prompt a row."
    )
    path: str = Field(
        description="File, folder or table name; `inference_log` is the lake's own table, see `taolake collect`. "
        "Relative paths start at the folder taolake runs in."
    )
    messages: str = Field("messages", description="Column that holds the conversation, or a plain question as text.")
    split: Literal["auto", "train", "holdout", "review"] = Field(
        "auto",
        description="`auto` splits by the prompt's own hash; `review` prompts are shown to people, not trained on.",
    )


class Log(Section):
    """One log of production to collect from; its shape is told by its rows."""

    path: str = Field(description="File, folder or Delta table; or `mlflow:<experiment>`. See docs/logs.md.")
    format: Literal["jsonl", "delta"] = Field(
        "jsonl", description="`jsonl`: JSON lines; `delta`: folder or table name."
    )


class Collect(Section):
    """How logs of production become `inference_log` and `feedback`."""

    sources: tuple[Log, ...] = Field(
        (), description="Logs beside what `taolake serve` and the endpoint log by themselves."
    )
    names: str | None = Field(
        None, description="Installed spaCy model that finds persons' names; null: patterns alone."
    )
    retention_days: int | None = Field(None, ge=1, description="End of retention, where a log names none.")
    max_chars: int = Field(200_000, ge=1, description="Longer conversations are quarantined.")


class Classifier(Section):
    """Tags for questions that no rule fits, learned anew in every run; unsure ones get none."""

    labelled: str | None = Field(
        None, description="JSON lines of `text` and `tag`, `other` being no tag; null: what exactly one rule fits."
    )
    confidence: float = Field(0.8, gt=0.5, lt=1, description="A tag that is less sure is not given.")
    min_examples: int = Field(20, ge=2, description="A tag with fewer is not learned.")
    max_examples: int = Field(20_000, ge=10, description="Most questions that it learns from.")


class Topics(Section):
    """Groups of questions that mean alike, by their embeddings: what selection spreads over."""

    encoder: str = Field(description="Folder or hub id of a sentence encoder.")
    count: int = Field(50, ge=2, description="How many.")
    largest: float = Field(1.0, gt=0, le=1, description="Largest share of `limit` from one topic.")


class Curate(Section):
    """Which logged prompts are worth a round, and which of them stay on one side of the split."""

    similarity: float = Field(0.8, gt=0.3, le=1, description="Share of common shingles that makes two prompts alike.")
    split_by: tuple[Literal["user", "time"], ...] = Field(
        (), description="`user`: a person's prompts stay on one side; `time`: the newest clusters are held out."
    )
    holdout_after: datetime | None = Field(
        None, description="For `time`: clusters first seen from then on are held out; UTC."
    )
    languages: tuple[str, ...] = Field(
        (), description="ISO codes to keep; empty: all. Texts too short to tell are kept."
    )
    min_chars: int = Field(1, ge=0, description="Shorter questions are quarantined.")
    max_chars: int = Field(16_000, ge=1, description="Longer questions are quarantined.")
    require_consent: bool = Field(False, description="Also leave out what nobody asked about; a no is always honoured.")
    tags: dict[Name, str] = Field(
        {}, description="Name to regular expression; the first that fits the question is its tag."
    )
    classifier: Classifier | None = Field(None, description="Tags what no rule fits; null: rules alone.")
    limit: int | None = Field(None, ge=1, description="Training prompts kept; null: all.")
    topics: Topics | None = Field(
        None, description="With `limit`: diversity also by meaning; null: by near-duplicates alone."
    )
    quotas: dict[str, Share] = Field({}, description="Largest share of `limit` by tag; others have none.")
    weights: dict[Literal["difficulty", "diversity", "uncertainty"], float] = Field(
        {"diversity": 1.0}, description="What makes a prompt worth its place; see docs/logs.md."
    )

    @model_validator(mode="after")
    def _can_be_followed(self) -> Self:
        for name, pattern in self.tags.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"ingest.curate.tags.{name} {pattern!r} is no regular expression: {error}") from None
        unknown = sorted(self.quotas.keys() - self.tags.keys() - {"other"})
        from_file = self.classifier is not None and self.classifier.labelled is not None  # its tags are known later
        if unknown and not from_file:
            raise ValueError(f"ingest.curate.quotas names {unknown}, wanted tags or `other`")
        if self.classifier is not None and not from_file and not self.tags:
            raise ValueError("ingest.curate.classifier has nothing to learn from: give it `labelled`, or give `tags`")
        if self.topics is not None and self.limit is None:
            raise ValueError("ingest.curate.topics serve selection: give a `limit` too")
        if self.max_chars < self.min_chars:
            raise ValueError(f"ingest.curate.max_chars {self.max_chars} is below min_chars {self.min_chars}")
        if ("time" in self.split_by) != (self.holdout_after is not None):
            raise ValueError("ingest.curate.split_by `time` and `holdout_after` need each other; give both or none")
        return self


class Ingest(Section):
    """How logged prompts become rows."""

    sources: tuple[Source, ...] = Field(min_length=1, description="Logs to read, in order.")
    holdout: Share = Field(0.2, description="Share of `auto` prompts held out for evaluation.")
    system: str | None = Field(None, description="System turn for logged prompts that have none.")
    max_prompt_chars: int = Field(16_000, ge=1, description="Longer prompts are quarantined.")
    curate: Curate | None = Field(
        None, description="Near-duplicates, filters and selection; null: every prompt is kept."
    )


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


class Budget(Section):
    """Adaptive N: each training prompt is asked as often as another answer is worth, and never beyond a limit.

    A prompt that a few answers show to be easy, or hopeless, is not asked again; what it leaves goes to the others.
    """

    tokens: int | None = Field(None, ge=1, description="Tokens that answers to training prompts may have, in all.")
    dollars: float | None = Field(None, gt=0, description="The same in money, at `dollars_per_million`.")
    dollars_per_million: tuple[float, float] = Field((0.0, 0.0), description="Price of a million tokens, in and out.")
    scorer: Name = Field(description="Scorer that reads answers between waves; over a half is good. Not a group's.")
    probe: int = Field(4, ge=1, description="Answers a prompt gets first, of the plain strategy.")
    step: int = Field(4, ge=1, description="Answers a prompt gets in a wave after that.")
    n_max: int = Field(32, ge=1, description="Answers a prompt may get in all.")
    contrast: Share = Field(0.25, description="Worth of a first bad answer to hold others against; a good one is 1.")
    shares: Literal["won", "fixed"] = Field(
        "won",
        description="`won`: a strategy's share grows with how often its answers were winners that the plain one did "
        "not have, and the plain one's never falls; `fixed`: as `strategies` says.",
    )
    easy: int = Field(8, ge=1, description="After so many answers, all good, a prompt is not asked again.")
    hopeless: int = Field(16, ge=1, description="After so many answers, none good, a prompt is not asked again.")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.tokens is None) == (self.dollars is None):
            raise ValueError("generate.budget needs either `tokens` or `dollars`")
        if self.dollars is not None and self.dollars_per_million == (0.0, 0.0):
            raise ValueError("generate.budget.dollars limits nothing at a price of 0; set dollars_per_million")
        return self


class Generate(Section):
    """Best-of-N generation."""

    n: int = Field(16, ge=1, description="Candidates per training prompt, shared among the strategies.")
    budget: Budget | None = Field(None, description="Adaptive N under a limit, instead of `n` for every prompt.")
    review_n: int = Field(8, ge=0, description="On-policy candidates per `review` prompt, shown to people.")
    strategies: tuple[Strategy, ...] = Field(min_length=1, description="At least one must be on-policy (stream A).")
    chunk_rows: int = Field(4096, ge=1, description="Candidates per commit: what a killed run may have to repeat.")
    strict: bool = Field(
        False, description="Two drivers may run at once: rows are merged by key, and a newer driver ends the older."
    )

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
