"""Sections of the project file: measuring, promoting, registering, paying."""

from typing import Literal, Self

from pydantic import Field, model_validator

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


class Cost(Section):
    """Prices for the card; zero where a machine is already paid for."""

    dollars_per_hour: float = Field(0.0, ge=0, description="Price of the machine or cluster a stage runs on.")
