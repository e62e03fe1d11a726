"""An MLflow GenAI judge as an engine: the conversation is the judge's inputs, the last turn its outputs.

The answer to a request is the feedback as JSON: value, rationale, dollars where MLflow knows the price. Retries and
time limits are MLflow's own (ten more tries of a 429 or a 5xx with growing pauses, and
`MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS`), and so is where the key comes from. Source: `mlflow.genai.judges.make_judge` of
MLflow 3.17.
"""

import concurrent.futures as futures
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Literal

from taolake.config import MlflowJudgeScorer
from taolake.engines.endpoint import UNREADABLE
from taolake.types import Completion, Request

# How MLflow begins when a reply came and is none; "Failed to invoke judge model" would be an HTTP status instead.
_PAID = ("Failed to parse response", "Failed to invoke the judge model", "Empty choices")
_SECRET = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


class MlflowJudge:
    """A pool of threads that call the judge, behind `submit` and `poll`."""

    def __init__(self, spec: MlflowJudgeScorer) -> None:
        from mlflow.genai.judges import make_judge

        wanted: Any = Literal[tuple(spec.values)] if spec.values else float
        self._judge = make_judge(
            name=spec.name, instructions=spec.instructions, model=spec.model, feedback_value_type=wanted
        )
        self._width = spec.concurrency
        self._pool = futures.ThreadPoolExecutor(spec.concurrency)
        self._running: set[futures.Future[Completion]] = set()

    @property
    def inflight(self) -> int:
        """Requests not yet returned."""
        return len(self._running)

    @property
    def width(self) -> int:
        """One request per thread."""
        return self._width

    def submit(self, request: Request) -> None:
        """Hand a request to the pool; its last turn is the answer to judge."""
        self._running.add(self._pool.submit(self._ask, request))

    def poll(self) -> Sequence[Completion]:
        """Wait for the next word, at most a second."""
        done, self._running = futures.wait(self._running, timeout=1.0, return_when=futures.FIRST_COMPLETED)
        return [future.result() for future in done]

    def close(self) -> None:
        """Give the threads back."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: Request) -> Completion:
        """The one boundary for what MLflow and its providers raise: a bad reply is a row, never a dead worker."""
        from mlflow.exceptions import MlflowException

        started = time.monotonic()
        *conversation, answer = request.messages
        try:
            feedback = self._judge(inputs={"messages": conversation}, outputs=answer["content"])
        except MlflowException as error:
            reason = UNREADABLE if str(error).startswith(_PAID) else ""
            return Completion(request.key, "error", finish_reason=reason, error=_hide(str(error)[:300]))
        except Exception as error:  # a reply that is JSON and not what was asked for ends as a KeyError or a TypeError
            why = _hide(f"not a verdict ({type(error).__name__}: {error})"[:300])
            return Completion(request.key, "error", finish_reason=UNREADABLE, error=why)
        known = feedback.metadata or {}
        price = known.get("mlflow.assessment.judgeCost")
        said = {"value": feedback.value, "rationale": feedback.rationale, "dollars": price}
        return Completion(
            key=request.key,
            status="ok",
            text=_hide(json.dumps(said, default=str)),
            finish_reason="stop",
            prompt_tokens=int(known.get("mlflow.assessment.judgeInputTokens") or 0),
            completion_tokens=int(known.get("mlflow.assessment.judgeOutputTokens") or 0),
            seconds=time.monotonic() - started,
        )


def _hide(text: str) -> str:
    """Cut secrets of the environment out of a text: MLflow reads them itself, and servers quote what they refuse."""
    for name, value in os.environ.items():
        if name.endswith(_SECRET) and len(value) >= 8:
            text = text.replace(value, "[secret]")
    return text
