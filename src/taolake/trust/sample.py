"""People's pairs lined up with a scorer's values, and the resampling all intervals share.

One prompt is one unit: its pairs are resampled together, since they share its answers. Axes: `_P` prompts, `_N` pairs,
`_R` resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from taolake.verdict import Interval

Array = NDArray[np.float64]

_CELLS = 20_000_000  # resampled weights held at once
_DIGITS = 12  # the noise of a sum is no opinion: 0.3 - 0.1 and 0.2 must tie


@dataclass(frozen=True)
class Pair:
    """One answer a person preferred to another of the same prompt.

    `choice` names the act of choosing: the rows of a best-of-N choice share it. `chosen` and `rejected` are candidate
    ids; the policies are only needed to look for self-preference.
    """

    prompt: str
    chosen: str
    rejected: str
    choice: str
    annotator: str = ""
    task: str = ""
    chosen_text: str = ""
    rejected_text: str = ""
    chosen_policy: str = ""
    rejected_policy: str = ""


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn."""

    resamples: int = 1000
    seed: int = 0


class Sample:
    """The pairs on which a scorer gave both answers a value, with those values.

    Args:
        pairs: what people said.
        values: candidate id to value; None and absent mean there is none.
        draws: how intervals are drawn.
    """

    def __init__(self, pairs: Sequence[Pair], values: Mapping[str, float | None], draws: Draws) -> None:
        self.asked = len(pairs)
        # Sorted, so that tables in any order give the same numbers to the last bit.
        told = [p for p in pairs if values.get(p.chosen) is not None and values.get(p.rejected) is not None]
        self.pairs = sorted(told, key=lambda p: (p.prompt, p.choice, p.chosen, p.rejected, p.annotator))
        self.values = values
        self.draws = draws
        names = sorted({p.prompt for p in self.pairs})
        place = {name: i for i, name in enumerate(names)}
        self.prompts = len(names)
        self.prompt_N = np.array([place[p.prompt] for p in self.pairs], dtype=np.int64)
        differences = [float(values[p.chosen] or 0.0) - float(values[p.rejected] or 0.0) for p in self.pairs]
        self.difference_N: Array = np.array([round(d, _DIGITS) + 0.0 for d in differences], dtype=np.float64)
        # A person's verdict is +1 in every row, as rows begin with the chosen answer.
        self.verdict_N: Array = np.sign(self.difference_N)

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def choices(self) -> int:
        """Acts of choosing among the pairs."""
        return len({(p.prompt, p.choice, p.annotator) for p in self.pairs})

    @cached_property
    def first_N(self) -> Array:
        """+1 where the chosen answer has the smaller id, else -1: an orientation no outcome can steer."""
        return np.array([1.0 if p.chosen < p.rejected else -1.0 for p in self.pairs])

    @cached_property
    def weights_RP(self) -> Array:
        """How often each prompt is drawn in each resample."""
        resamples = max(200, min(self.draws.resamples, _CELLS // max(self.prompts, 1)))
        rng = np.random.default_rng(self.draws.seed)
        return rng.multinomial(self.prompts, np.full(self.prompts, 1 / self.prompts), resamples).astype(np.float64)

    def sums_P(self, values_N: Array) -> Array:
        """Add pairs up by prompt."""
        return np.asarray(np.bincount(self.prompt_N, weights=values_N, minlength=self.prompts), dtype=np.float64)

    def mean(self, values_N: Array, weights_N: Array | None = None) -> Interval:
        """Mean over pairs, with its interval over prompts."""
        weights = np.ones(len(self)) if weights_N is None else weights_N
        return self.statistic([values_N * weights, weights], lambda sums: _ratio(sums[0], sums[1]))

    def statistic(self, columns: Sequence[Array], function: Callable[[Sequence[Array]], Array]) -> Interval:
        """A function of column sums over pairs, with its percentile interval over resampled prompts.

        Args:
            columns: values per pair.
            function: from each column's sums (one a resample) to the statistic (one a resample).
        """
        sums = [self.sums_P(column) for column in columns]
        mean = float(function([np.array([s.sum()]) for s in sums])[0])
        drawn = function([self.weights_RP @ s for s in sums])
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Interval(mean, float(low), float(high))


def _ratio(above: Array, below: Array) -> Array:
    """Quotients; 0 where nothing was drawn."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)
