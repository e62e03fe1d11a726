"""Sections of the project file: the base model, and what answers prompts."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from taolake.config.base import Section


class Model(Section):
    """The base model."""

    path: str = Field(description="Folder or hub id of the base model.")
    revision: str | None = Field(None, description="Hub revision; pin it, or the policy's identity is the name alone.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "auto", description="Weights' type for generation."
    )
    max_model_len: int = Field(4096, ge=16, description="Prompt plus answer, in tokens.")
    max_tokens: int = Field(512, ge=1, description="Answer length limit, in tokens.")


class _Kept(Section):
    """What engines in the worker have in common: how much of it a death may cost, and when silence is death."""

    journal_s: float = Field(
        5.0, gt=0, description="Seconds between two writings of the journal: what a killed worker may have to repeat."
    )
    stall_s: float | None = Field(
        600.0, gt=0, description="Seconds one engine step may take before the worker ends itself; None: for ever."
    )
    host: bool | None = Field(
        None,
        description="Keep the engine in a process of its own that the executor's tasks share; None: where an executor "
        "has more GPUs than one engine takes.",
    )


class VllmEngine(_Kept):
    """vLLM inside the Spark Python worker: one engine per device."""

    kind: Literal["vllm"] = "vllm"
    devices: int = Field(
        1, ge=1, description="Engines running at once: GPUs in the cluster; on a CPU they share its cores."
    )
    max_num_seqs: int = Field(256, ge=1, description="Sequences the scheduler runs together.")
    window: float = Field(1.25, ge=1, description="Requests in flight, as a multiple of `max_num_seqs`.")
    memory_gb: float = Field(1.0, gt=0, description="KV cache in GiB.")
    enforce_eager: bool = Field(True, description="Skip compilation: faster start, slower steps on GPUs.")
    request_timeout_s: float | None = Field(
        None, gt=0, description="Seconds one answer may take in the engine; a slower one is a timeout row."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments for `vllm.LLM`.")

    @property
    def tensor_parallel(self) -> int:
        """Devices one engine spreads over."""
        return int(self.options.get("tensor_parallel_size", 1))


class EndpointEngine(Section):
    """Any OpenAI-compatible chat endpoint: Databricks Model Serving, a provider, `vllm serve`."""

    # Not fields: a judge's version hashes those. Every request has its own time limit, so no step can stall.
    journal_s: ClassVar[float] = 5.0
    stall_s: ClassVar[float | None] = None

    kind: Literal["endpoint"]
    url: str = Field(description="Base URL up to and including /v1.")
    model: str = Field(description="Model name the endpoint expects.")
    key_env: str = Field("TAOLAKE_ENDPOINT_KEY", description="Environment variable that holds the key; never the key.")
    concurrency: int = Field(16, ge=1, description="Requests in flight per Spark task.")
    retries: int = Field(4, ge=0, description="Retries of a 429, a 5xx or a broken connection, with backoff.")
    timeout_s: float = Field(120, gt=0, description="Seconds one request may take.")
    devices: int = Field(1, ge=1, description="Spark tasks that talk to the endpoint at once.")
    requests_per_minute: float | None = Field(
        None, gt=0, description="Requests all tasks together may send in a minute, retries included; None: no limit."
    )


class FakeEngine(_Kept):
    """Deterministic answers without a model: for tests of everything around the engine."""

    kind: Literal["fake"]
    answers: tuple[str, ...] = Field(
        ("yes", "no"), min_length=1, description="Answers to draw from, by the row's seed."
    )
    poison: str = Field("", description="A prompt that contains this text comes back as an error row.")
    faults: dict[str, Literal["raise", "hang", "stall", "kill"]] = Field(
        default_factory=dict,
        description="Text in a prompt, and what it does: the step raises, the answer never comes, the step never "
        "ends, the process dies.",
    )
    context: int | None = Field(None, ge=1, description="Characters a prompt may have; a longer one is invalid.")
    request_timeout_s: float | None = Field(
        None, gt=0, description="Seconds one answer may take in the engine; a slower one is a timeout row."
    )
    diary: str = Field("", description="File in which the engine writes a line, process and request, per answer.")
    child: bool = Field(False, description="Start a child process, as an engine over several GPUs does.")
    delay_s: float = Field(0.0, ge=0, description="Seconds each step takes, for tests that kill a run.")
    width: int = Field(8, ge=1, description="Requests in flight.")
    devices: int = Field(1, ge=1, description="Spark tasks at once.")


EngineSpec = Annotated[VllmEngine | EndpointEngine | FakeEngine, Field(discriminator="kind")]
