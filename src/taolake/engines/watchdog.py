"""End the process when one engine step takes too long: Spark then runs the task again in another.

Only time inside a step counts. A worker that waits for its input, or for Spark to take its output, is left alone.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Sequence

from taolake.types import Completion

STALLED = 75  # exit code (EX_TEMPFAIL)


class Watchdog:
    """Watches steps from a thread of its own.

    Args:
        limit_s: seconds a step may take; None watches nothing.
        on_stall: called with the reason before the process ends, to write it down.
        leave: ends the process; not `sys.exit`, which the main thread would have to hear.
    """

    def __init__(
        self, limit_s: float | None, on_stall: Callable[[str], None], leave: Callable[[int], None] = os._exit
    ) -> None:
        self._limit, self._on_stall, self._leave = limit_s, on_stall, leave
        self._since: float | None = None  # start of the running step
        self._closed = threading.Event()
        if limit_s is not None:
            threading.Thread(target=self._watch, args=(limit_s,), daemon=True).start()

    def watch(self, step: Callable[[], Sequence[Completion]]) -> Sequence[Completion]:
        """Take one step under watch."""
        self._since = time.monotonic()
        try:
            return step()
        finally:
            self._since = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self, limit_s: float) -> None:
        while not self._closed.wait(min(1.0, limit_s / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > limit_s:
                self._on_stall(f"no engine step ended in {limit_s:g} s")
                faulthandler.dump_traceback(file=2)
                self._leave(STALLED)
                return
