"""Sections of the project file: measuring, promoting, registering, serving, paying."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from taolake.config.base import Name, Section, Share
from taolake.config.inputs import RightAnswers


class Gold(RightAnswers):
    """Labels of holdout prompts. Read by `evaluate` alone (law 4)."""


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


class Feedback(Section):
    """How reactions in production (thumbs, edits, regenerations) become choices."""

    between_people: float = Field(
        0.5, gt=0, le=1, description="Strength of two people's opposite thumbs on two answers; one person's own are 1."
    )
    regenerated: float = Field(
        0.25, gt=0, le=1, description="Strength of the next answer over the one that was not taken."
    )
    clip: float = Field(
        10.0,
        ge=1,
        description="Where traffic is split, a reaction counts by the inverse of its version's share, at most this.",
    )


class Version(Section):
    """One of the models behind `taolake serve`."""

    name: Name = Field(description="What callers name to ask it alone, e.g. champion.")
    model: str = Field(
        "",
        description="Folder or hub id; or the URL, up to /v1, of a server that runs already; empty: the registered "
        "version that has the alias `name`.",
    )
    adapter: str | None = Field(None, description="LoRA folder over `model`; versions of one `model` share its server.")
    upstream_model: str | None = Field(None, description="For a URL: the model's name there; None: `name`.")
    entity: str = Field("", description="What the log calls this version; empty: found from the registry, or `name`.")
    share: float = Field(1.0, ge=0, description="Part of the callers that get it, against the other versions' parts.")


class Gateway(Section):
    """`taolake serve`: vLLM's OpenAI server here, and the gateway before it that logs, splits and limits."""

    host: str = Field("127.0.0.1", description="Address to listen on; others than this machine's own need a key.")
    port: int = Field(8400, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    keys_env: str = Field(
        "TAOLAKE_GATEWAY_KEYS",
        description="Environment variable with the keys, one or several as `name=key` with commas between; never the "
        "keys themselves.",
    )
    versions: tuple[Version, ...] = Field(
        (Version(name="champion"),), min_length=1, description="Models that answer; callers are split by `share`."
    )
    split_salt: str = Field("", description="Change it to deal callers anew to the versions.")
    sampling_fraction: Share = Field(1.0, description="Part of the requests that is logged, by the request's own id.")
    requests_per_minute: int | None = Field(None, ge=1, description="Limit for each key; None: no limit.")
    concurrency: int = Field(512, ge=1, description="Requests in flight; one more is refused.")
    max_request_kb: int = Field(1024, ge=1, description="Largest request body, in KiB.")
    max_logged_kb: int = Field(1024, ge=1, description="Largest body that is logged, in KiB; a larger one is null.")
    header_s: float = Field(10.0, gt=0, description="Seconds a caller may take to send the headers.")
    body_s: float = Field(30.0, gt=0, description="Seconds a caller may take to send the body.")
    answer_s: float = Field(600.0, gt=0, description="Seconds an answer may take in all.")
    drain_s: float = Field(5.0, gt=0, description="Seconds between two writings of the log to its table.")
    routes_s: float = Field(
        10.0,
        gt=0,
        description="Seconds between two looks at what the registry wants served, and whether every server lives.",
    )
    options: tuple[str, ...] = Field((), description="Further arguments for `vllm serve`.")

    @model_validator(mode="after")
    def _versions_are_told_apart(self) -> Self:
        names = [version.name for version in self.versions]
        if len(set(names)) != len(names):
            raise ValueError(f"gateway.versions repeat names: {sorted(names)}")
        if sum(version.share for version in self.versions) <= 0:
            raise ValueError("gateway.versions have no share; give at least one of them a share above 0")
        for version in self.versions:
            if version.adapter and (not version.model or "://" in version.model):
                raise ValueError(f"version {version.name!r} has an adapter; its `model` must be a folder or a hub id")
        return self


class Cost(Section):
    """Prices for the card; zero where a machine is already paid for."""

    dollars_per_hour: float = Field(0.0, ge=0, description="Price of the machine or cluster a stage runs on.")
    max_dollars: float | None = Field(
        None, gt=0, description="A round that has cost this much stops, and goes on when it is raised; None: no limit."
    )
    dbu_per_gpu_hour: float = Field(0.0, ge=0, description="DBUs an hour of a Databricks node with one GPU.")
