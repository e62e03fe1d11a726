"""The values that travel between stages. No Spark, no torch: importable anywhere.

What a table holds is said in `taolake.lake`; these are the Python shapes of a row on its way through an executor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypedDict


class Message(TypedDict):
    """One turn of a conversation, in the shape every chat template takes."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Policy:
    """A model that answers: base weights, and perhaps an adapter over them.

    `id` is the content hash of both, so two folders with the same bytes are one policy.
    """

    id: str
    model: str
    revision: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are the model's own distribution: temperature 1, nothing cut off."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One answer wanted: one prompt, one strategy, one sample. `key` is unique within an engine's life."""

    key: str
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Completion:
    """What came back for a request. `status` is `ok` or says why there is no answer; `error` carries the reason."""

    key: str
    status: Literal["ok", "invalid", "error", "timeout"]
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: str = ""
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0


class Engine(Protocol):
    """Anything that answers requests: vLLM in the process, an HTTP endpoint, a fake.

    Errors of one request come back as a `Completion`; only the death of the engine itself raises.
    """

    @property
    def inflight(self) -> int:
        """Requests accepted and not yet returned by `poll`."""

    @property
    def width(self) -> int:
        """How many requests should be in flight to keep the engine full."""

    def submit(self, request: Request) -> None:
        """Accept one request; never blocks on its answer."""

    def poll(self) -> Sequence[Completion]:
        """Do one step of work and return what finished in it (possibly nothing)."""


@dataclass(frozen=True)
class Score:
    """One scorer's word on one candidate.

    `value` is None when the scorer could not tell (`status` says why): an infrastructure failure is never a zero.
    `answer_key` identifies what the answer *means* (an executed result, an extracted number), so that equal answers
    in different words can be counted together.
    """

    value: float | None
    status: Literal["ok", "abstain", "error", "timeout"] = "ok"
    answer_key: str | None = None
    detail: Mapping[str, object] = field(default_factory=dict)


class Scorer(Protocol):
    """A pure scorer: everything it needs was given when it was built; equal inputs give equal scores."""

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Score one answer to one conversation."""
