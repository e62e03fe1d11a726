"""Sections of the project file: measuring, promoting, registering, serving, paying."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from taolake.config.base import Name, Section, Share


class Gold(Section):
    """Labels of holdout prompts. Read by `evaluate` alone (law 4)."""

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
    experiment: str | None = Field(
        None, description="MLflow experiment; None: the project's name, or on Databricks the notebook's own."
    )


SecretReference = Annotated[str, StringConstraints(pattern=r"^\{\{secrets/[\w.@-]+/[\w.@-]+\}\}$")]


class Unity(Section):
    """What tables have in Unity Catalog beside their rows. A local lake has none of it."""

    tags: dict[str, str] = Field(default_factory=dict, description="Tags of every table, beside `taolake`.")
    unmasked: str | None = Field(
        None,
        description="Account group that reads what people wrote; others read null. The identity of the jobs must be "
        "in it. None: no masks.",
    )


class Serve(Section):
    """The serving endpoint on Databricks, made and changed by `taolake deploy` and `taolake canary` alone."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^[\w-]{0,63}$")] = Field(
        "", description="Its name; empty: nothing is served."
    )
    kind: Literal["provisioned", "custom"] = Field(
        "provisioned",
        description="`provisioned`: throughput by Databricks, of models it knows; `custom`: vLLM in a container.",
    )
    chunks: int = Field(1, ge=1, description="For `provisioned`: throughput at most, in the model's own steps.")
    workload_type: Literal["GPU_SMALL", "GPU_MEDIUM", "GPU_LARGE", "MULTIGPU_MEDIUM", "GPU_XLARGE", "GPU_XLARGE_8"] = (
        Field("GPU_MEDIUM", description="For `custom`: the machine.")
    )
    workload_size: Literal["Small", "Medium", "Large"] = Field(
        "Small", description="For `custom`: requests at once, 4, 8 to 16 or 16 to 64."
    )
    scale_to_zero: bool = Field(True, description="Give the machine back when nobody asks.")
    secrets: dict[str, SecretReference] = Field(
        default_factory=dict, description="For `custom`: environment variables, by reference `{{secrets/scope/key}}`."
    )
    canary: int = Field(10, ge=0, le=50, description="Percent of requests a new version gets before it is promoted.")
    promote: Literal["probes", "signals"] = Field(
        "probes",
        description="`probes`: when it answers its probes; `signals`: when `taolake canary` says so.",
    )
    probes: tuple[str, ...] = Field(
        ("Are you there?",), min_length=1, description="Questions that a new version must answer before it is promoted."
    )
    requests_per_minute: int | None = Field(None, ge=1, description="Limit for each user; None: no limit.")
    inference_table: bool = Field(True, description="Log requests and answers into a table of the project's schema.")
    timeout_minutes: int = Field(120, ge=1, description="Longest wait for the endpoint; the next run goes on waiting.")


class Cost(Section):
    """Prices for the card; zero where a machine is already paid for."""

    dollars_per_hour: float = Field(0.0, ge=0, description="Price of the machine or cluster a stage runs on.")
    max_dollars: float | None = Field(
        None, gt=0, description="A round that has cost this much stops, and goes on when it is raised; None: no limit."
    )
    dbu_per_gpu_hour: float = Field(0.0, ge=0, description="DBUs an hour of a Databricks node with one GPU.")
