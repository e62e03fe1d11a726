"""Sections of the project file: what judges an answer, and how scores become a reward."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from taolake.config.base import ImportPath, Name, Section, Share
from taolake.config.engines import EndpointEngine
from taolake.config.inputs import Extract, RightAnswers


class SqlScorer(Section):
    """Runs the answer as a query, read-only and limited; 1 if it runs. The result is the answer's meaning."""

    kind: Literal["sql"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    database: str = Field(description="SQLite or DuckDB file, opened read-only; for `spark`: a schema.")
    dialect: Literal["sqlite", "duckdb", "spark"] = Field("sqlite", description="Engine that runs the query.")
    timeout_s: float = Field(2.0, gt=0, description="Seconds one query may take.")
    memory_mb: int = Field(512, ge=64, description="Memory of the process that runs the queries; more ends the query.")
    max_rows: int = Field(1000, ge=1, description="More rows than this is an error.")


class CheckScorer(Section):
    """A rule over the text: 1 if it holds."""

    kind: Literal["regex", "json_schema", "exact", "numeric", "fuzzy"] = Field(
        description="Which rule; each reads its own fields."
    )
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    pattern: str = Field("", description="For `regex`: must match somewhere. For `exact`, `fuzzy`: the text wanted.")
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema", description="For `json_schema`.")
    target: float | None = Field(
        None, description="For `numeric`: the number wanted; None asks only that one is there."
    )
    tolerance: float = Field(1e-6, ge=0, description="For `numeric`: relative tolerance.")
    unit: str = Field("", description="For `numeric`: unit of `target`; answers in units of its kind are converted.")
    threshold: Share = Field(0.9, description="For `fuzzy`: similarity that counts as the same, 0 to 1.")


class CitationScorer(Section):
    """Are the answer's quotations in the document? The share of them that is; 0 where none is given."""

    kind: Literal["citation"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    document: Literal["system", "user", "all"] = Field("all", description="Turns of the conversation that hold it.")
    pattern: str = Field(r'"([^"]{8,})"', description="Regular expression of a quotation; group 1 is what it quotes.")
    threshold: Share = Field(0.95, description="Share of a quotation's words that must be found in a row.")


class PythonTestsScorer(Section):
    """Runs the answer's Python code against unit tests, in a limited process without network; 1 if all pass."""

    kind: Literal["python_tests"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    tests: ImportPath = Field(description="Function `f(messages) -> str` that gives the test code of a prompt.")
    extract: Extract = Field(
        default_factory=lambda: Extract(kind="regex", pattern=r"```(?:python)?\s*\n([\s\S]*?)```"),
        description="How the code is taken out of the answer; an answer without it is run whole.",
    )
    timeout_s: float = Field(5.0, gt=0, description="Seconds one answer may take.")
    memory_mb: int = Field(512, ge=64, description="Memory one answer may use.")


class FunctionScorer(Section):
    """A Python function of yours: `f(messages, answer) -> float | None | taolake.types.Score`."""

    kind: Literal["function"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    target: ImportPath = Field(description="Import path, `package.module:function`.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments passed on every call.")


class LabelScorer(RightAnswers):
    """Labels that may train, as a measure: 1 where the answer is right; prompts without a label abstain."""

    kind: Literal["label"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")


class AgreementScorer(Section):
    """Share of a prompt's own candidates that mean the same: by another scorer's answer key, or by their embedding."""

    kind: Literal["agreement"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    over: Name | None = Field(None, description="Scorer whose `answer_key` says what an answer means.")
    encoder: str | None = Field(None, description="Without `over`: folder or hub id of a sentence encoder (free text).")
    similarity: Share = Field(0.85, description="With `encoder`: cosine above which two answers mean the same.")

    @model_validator(mode="after")
    def _has_one_meaning(self) -> Self:
        if (self.over is None) == (self.encoder is None):
            raise ValueError("agreement needs either `over` (a scorer with answer keys) or `encoder` (free text)")
        return self


class RelevanceScorer(Section):
    """Cosine between the answer and what it should be about, by a sentence encoder, mapped to 0..1."""

    kind: Literal["relevance"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    encoder: str = Field(description="Folder or hub id of a sentence encoder.")
    against: Literal["question", "documents", "both"] = Field(
        "question", description="`question`: the last user turn; `documents`: the system turns; `both`: their mean."
    )


class JudgeScorer(Section):
    """Language models that judge by a rubric, behind OpenAI-compatible endpoints. Every answer is cached by content."""

    kind: Literal["judge"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    judges: tuple[EndpointEngine, ...] = Field(min_length=1, description="Models to ask; their disagreement is kept.")
    mode: Literal["pointwise", "pairwise", "listwise"] = Field(
        "pointwise",
        description="`pointwise`: one answer and the rubric; `pairwise`: two answers, in both orders; `listwise`: "
        "the prompt's whole group at once.",
    )
    rubric: str = Field(description="What makes an answer good, in words; shown beside the task's description.")
    low: int = Field(1, description="Lowest grade of the scale.")
    high: int = Field(5, description="Highest grade of the scale; grades are mapped to 0..1.")
    opponents: int = Field(2, ge=1, description="For `pairwise`: answers each answer is held against.")
    list_size: int = Field(8, ge=2, description="For `listwise`: answers shown at once.")
    max_tokens: int = Field(256, ge=1, description="Length limit of the judge's own answer.")
    structured: bool = Field(True, description="Ask for JSON by schema; a server that refuses is asked without.")
    dollars_per_million: tuple[float, float] = Field((0.0, 0.0), description="Price of a million tokens, in and out.")
    max_dollars: float | None = Field(None, ge=0, description="Money a round may spend on this scorer; then it stops.")
    max_tokens_total: int | None = Field(None, ge=0, description="Tokens a round may spend on it; then it stops.")

    @model_validator(mode="after")
    def _scale_rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"got a scale from {self.low} to {self.high}, wanted low < high")
        return self

    @model_validator(mode="after")
    def _money_has_a_price(self) -> Self:
        if self.max_dollars is not None and self.dollars_per_million == (0.0, 0.0):
            raise ValueError("max_dollars limits nothing at a price of 0; set dollars_per_million, or max_tokens_total")
        return self


class MlflowJudgeScorer(Section):
    """An MLflow GenAI judge (`mlflow.genai.judges.make_judge`), called once per candidate and cached by content."""

    kind: Literal["mlflow_judge"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    instructions: str = Field(description="The judge's instructions, with {{ inputs }} and {{ outputs }}.")
    model: str = Field(description="Model URI, such as `openai:/gpt-4.1-mini` or `databricks:/endpoint`.")
    values: dict[str, Share] = Field(
        default_factory=lambda: {"yes": 1.0, "no": 0.0}, description="What each of the judge's words is worth."
    )
    concurrency: int = Field(8, ge=1, description="Calls at once.")


class RewardModelScorer(Section):
    """A reward model trained in the round from people's choices (TRL), scored through vLLM's pooling runner."""

    kind: Literal["reward_model"]
    name: Name = Field(description="What the reward, the tables and the card call this scorer.")
    reviewer: ImportPath | None = Field(
        None,
        description="Function `f(project, question, answers)` that stands in for people: a list of (chosen, rejected) "
        "or of (chosen, [all others shown]). None: the `preferences` table holds what people said.",
    )
    base: str | None = Field(None, description="Backbone; None takes the project's base model.")
    loss: Literal["pairs", "listwise"] = Field(
        "pairs",
        description="`pairs`: Bradley-Terry on (chosen, rejected); `listwise`: softmax over the whole choice, the "
        "chosen one against all that were shown.",
    )
    context: bool = Field(
        False,
        description="Show it the task's description and the rubric; needed where several tasks share it.",
    )
    rubric: str = Field("", description="What makes an answer good, in words; read with `context`.")
    length_control: bool = Field(
        False, description="Fit the pull of length beside the score while training and leave it out afterwards."
    )
    margin: float = Field(0.0, ge=0, description="Score difference asked of a choice at full strength.")
    centre: float = Field(0.01, ge=0, description="Weight of the term that centres scores on 0.")
    patience: int = Field(0, ge=0, description="Stop after so many epochs without better held-out accuracy; 0: never.")
    epochs: float = Field(3, gt=0, description="Passes over the preference pairs.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")
    batch_size: int = Field(
        16, ge=1, description="Pairs per optimiser step; `listwise` takes as many choices as make about as many."
    )
    lora_rank: int = Field(0, ge=0, description="0 trains all weights.")
    eval_share: Share = Field(0.15, description="Share of the reviewed prompts kept to measure pairwise accuracy.")


ScorerSpec = Annotated[
    SqlScorer
    | CheckScorer
    | CitationScorer
    | PythonTestsScorer
    | FunctionScorer
    | LabelScorer
    | AgreementScorer
    | RelevanceScorer
    | JudgeScorer
    | MlflowJudgeScorer
    | RewardModelScorer,
    Field(discriminator="kind"),
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
    min_chance: float = Field(
        0.65,
        ge=0.5,
        lt=1,
        description="Where the reward is calibrated: chance that a person prefers the best over the worst below this: "
        "the prompt abstains.",
    )
    conflict_with: Name | None = Field(
        None,
        description="Scorer with no other say: where it prefers the worst to the best, or orders the prompt's answers "
        "rather the other way round (Kendall's tau below 0), the prompt abstains.",
    )
    calibrate: Literal["none", "platt", "isotonic"] = Field(
        "none",
        description="Turn rewards into the chance that a person prefers the answer over another of its prompt, fitted "
        "on people's choices; `none` keeps the weighted mean.",
    )
    calibrated_by: Name = Field(
        "people",
        description="Whose choices those are: `people`, or a scorer that is no part of the reward, such as `label`: of "
        "two answers it prefers the right one.",
    )
    min_choices: int = Field(
        50, ge=10, description="Choices that calibration needs, of a scorer: prompts; with fewer it is `none`."
    )

    @property
    def reads(self) -> set[str]:
        """Scorers whose word it asks for."""
        return {*self.weights, *self.require, *filter(None, (self.pool_over, self.conflict_with))}


class Trust(Section):
    """How far the reward must agree with people, on choices kept apart, before it may train. None: reported alone."""

    required: bool = Field(False, description="Refuse to train where there are no choices to measure against.")
    min_choices: int = Field(
        20, ge=2, description="With fewer choices that the reward has an opinion on, it counts as not measured."
    )
    above_chance: bool = Field(
        True, description="Refuse a reward that cannot be told from a coin: the lower end must be above one half."
    )
    min_accuracy: Share | None = Field(0.55, description="The upper end of pairwise accuracy's interval must reach it.")
    max_ece: Share | None = Field(None, description="Expected calibration error after calibration.")
    min_kappa: float | None = Field(None, ge=-1, le=1, description="Cohen's kappa between reward and people, on pairs.")
    max_flip: Share | None = Field(0.3, description="Share of a pairwise judge's verdicts that flip when answers swap.")
    max_length_slope: float | None = Field(
        None,
        ge=0,
        description="Deviations of length by which the answers it prefers exceed those people prefer, at least; with "
        "None, more than 0.1 is a warning.",
    )
    max_noise: Share | None = Field(None, description="Share of verdicts that change when the scorer is asked again.")
