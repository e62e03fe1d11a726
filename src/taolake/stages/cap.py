"""A round stops when it has cost what it may. What is done is kept: with a higher limit the next run goes on from it.

Time is what is counted, at the price of the project file; tokens of paid judges have a limit of their own.
"""

import time

from taolake.config import Cost


class Cap:
    """What a round may still cost, from the moment this is made.

    Args:
        cost: price and limit.
        seconds: what the round's stages took before.
    """

    def __init__(self, cost: Cost, seconds: float) -> None:
        self._cost, self._before, self._since = cost, seconds, time.monotonic()

    def check(self) -> None:
        """Called between two steps that can be resumed.

        Raises:
            RuntimeError: the limit is reached.
        """
        limit = self._cost.max_dollars
        spent = (self._before + time.monotonic() - self._since) / 3600 * self._cost.dollars_per_hour
        if limit is not None and spent >= limit:
            raise RuntimeError(
                f"the round has cost {spent:.2f} of {limit:.2f} dollars; raise cost.max_dollars and run it again: it "
                "goes on from here"
            )
