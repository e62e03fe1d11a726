"""Keep an engine full: a bounded window of requests over `submit`/`poll`.

A `generate` call per batch drains the engine at every batch border (0.67 of its speed in a public measurement, Ray
issue 52634); pushing everything at once makes the first step wait. A window of about 1.25 times what runs together does
neither.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from taolake.types import Completion, Engine, Request

BURST = 32  # additions between two steps while others run: more, and their prefill starves the running answers


def run(
    engine: Engine, requests: Iterable[Request], step: Callable[[], Sequence[Completion]] | None = None
) -> Iterator[Completion]:
    """Yield completions as they finish, in any order, until every request has one.

    The input is pulled only as the window has room, so a long input is never held in memory.

    Args:
        engine: answers.
        requests: what to answer.
        step: called in place of `engine.poll`, by whoever watches it.
    """
    source, step = iter(requests), step or engine.poll
    pending = next(source, None)
    while pending is not None or engine.inflight:
        budget = BURST if engine.inflight else engine.width
        while pending is not None and engine.inflight < engine.width and budget:
            engine.submit(pending)
            pending = next(source, None)
            budget -= 1
        yield from step()
