"""Sections of the project file: watching production, judging a new version there, starting the next round."""

from typing import Literal, Self

from pydantic import Field, model_validator

from taolake.config.base import Name, Section, Share


class Rule(Section):
    """An alert: fires when a metric's whole interval is beyond a limit."""

    metric: str = Field(description="Metric of docs/production.md; `*` stands for any characters.")
    above: float | None = Field(None, description="Fires above this.")
    below: float | None = Field(None, description="Fires below this.")
    falls: float | None = Field(None, gt=0, description="Fires when it fell by more than this since the window before.")
    min_rows: int = Field(30, ge=1, description="Rows below which it is silent.")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.above is None and self.below is None and self.falls is None:
            raise ValueError(f"monitor.rules for {self.metric!r} has no limit, wanted one of above, below, falls")
        return self


class Monitor(Section):
    """What is measured of production, per window and model version."""

    window_hours: int = Field(24, ge=1, le=720, description="Length of a window; windows begin at midnight UTC.")
    reference: str | None = Field(
        None, pattern=r"^\d{4}-\d\d-\d\d$", description="Day whose window drift is measured from; None: the first one."
    )
    sample: Share = Field(1.0, description="Share of the answers that scorers read.")
    scorers: tuple[Name, ...] | None = Field(
        None, description="Scorers that read answers; each must judge one answer alone. None: all that can."
    )
    encoder: str | None = Field(None, description="Sentence encoder for the distance of prompts; None: not measured.")
    encoded: int = Field(500, ge=10, description="Prompts per window that it reads.")
    refusal: str | None = Field(None, description="Pattern of a refusal's beginning; None: the usual words.")
    dollars_per_million: tuple[float, float] = Field(
        (0.0, 0.0), description="Price of a million tokens asked, and of a million answered."
    )
    rules: tuple[Rule, ...] = Field(
        (
            Rule(metric="errors", above=0.05),
            Rule(metric="refusals", above=0.1),
            Rule(metric="score_*", falls=0.05),
            Rule(metric="feedback", falls=0.2),
            Rule(metric="psi_*", above=0.25),
        ),
        description="Alert rules.",
    )


class Canary(Section):
    """When a new version that gets a part of the requests is promoted or rolled back."""

    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance, over all looks together, of each wrong decision.")
    margin: float = Field(0.05, gt=0, lt=1, description="A version is promoted once it is shown not to be worse by it.")
    signals: tuple[str, ...] = Field(
        ("answered", "feedback", "scorers"),
        min_length=1,
        description="`answered`, `feedback`, `refusals`, names of scorers, or `scorers` for all that monitor reads by.",
    )
    unit: Literal["user", "request"] = Field(
        "user", description="Whose first word counts: users ask again and again, and their answers are alike."
    )


class Flywheel(Section):
    """When the next round starts, and what keeps rounds from feeding on themselves."""

    base: Name | None = Field(
        None,
        description="Alias, such as `live`, of the registered version that rounds after the first start from; None: "
        "every round starts from `model.path`.",
    )
    min_new: int = Field(1000, ge=1, description="Prompts of no earlier round that start one.")
    min_different: Share = Field(0.3, description="Share of them that no earlier prompt resembles.")
    max_self_made: Share = Field(
        0.8, description="Share of the imitated answers that may come from models tuned here; anchors fill the rest."
    )
    replay: Share = Field(0.1, description="Winners of earlier rounds that are seen again, as a share of the new rows.")
    min_diversity: Share = Field(
        0.6, description="The share of different answers among the imitated may fall to this part of the first round's."
    )
    max_loss: Share = Field(
        0.02,
        description="How far the lower end of the gain over the best version so far may be below zero: a version "
        "that is not shown to be as good is refused.",
    )
