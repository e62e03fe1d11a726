"""How many requests the canary's sequential test takes, and how often it is wrong: the table of docs/production.md.

Simulated: every request is of another user, dealt by chance, and answered rightly with a chance that depends on its
version; the test looks after every request. The simulator calls the product's own functions and nothing else of it. Not
measured: real people, whose words come late and of whom few say any.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from _form import run

from taolake.watch.sequential import Word, against_equal, against_margin, crossed, pairs

ALPHA, RUNS, MOST = 0.05, 200, 8000


@dataclass(frozen=True)
class Case:
    """Two versions: how often each is right, and the share of the new one; `margin` of a promotion, or None."""

    live: float
    new: float
    share: float
    margin: float | None = None

    @property
    def name(self) -> str:
        """In percent: a dot would be read as a level of the figures."""
        within = "" if self.margin is None else f", margin {self.margin:.0%}"
        return f"{self.live:.0%} to {self.new:.0%}, share {self.share:.0%}{within}"


CASES = (
    Case(0.9, 0.3, 0.5),
    Case(0.9, 0.3, 0.1),
    Case(0.8, 0.5, 0.5),
    Case(0.8, 0.7, 0.5),
    Case(0.8, 0.8, 0.5, 0.1),
    Case(0.8, 0.8, 0.1, 0.1),
    Case(0.8, 0.8, 0.1, 0.05),
)
EQUAL = (Case(0.5, 0.5, 0.5), Case(0.9, 0.9, 0.1))
AT_MARGIN = Case(0.8, 0.7, 0.5, 0.1)


def measure(quick: bool) -> dict[str, Any]:
    """Requests until each case is decided, and wrong decisions where there is nothing to find."""
    runs = RUNS // 10 if quick else RUNS
    found = {case.name: told([ended(case, MOST, seed) for seed in range(runs)]) for case in CASES}
    wrong = {
        case.name: sum(ended(case, 2000, seed) is not None for seed in range(runs)) for case in (*EQUAL, AT_MARGIN)
    }
    return {"runs": runs, "requests": found, "wrong": wrong, "wrong_most_share": max(wrong.values()) / runs}


def told(ends: list[int | None]) -> dict[str, float | None]:
    """Median and 95th percentile of the requests; None where so many runs were not decided."""
    at = np.array([np.inf if end is None else end for end in ends])
    spread = {name: float(np.quantile(at, q, method="higher")) for name, q in (("median", 0.5), ("p95", 0.95))}
    said = {name: value if np.isfinite(value) else None for name, value in spread.items()}
    return said | {"decided": float(np.isfinite(at).mean())}


def ended(case: Case, most: int, seed: int) -> int | None:
    """The request after which the test had decided."""
    rng = np.random.default_rng(seed)
    new = rng.random(most) < case.share
    right = rng.random(most) < np.where(new, case.new, case.live)
    found = pairs(Word(float(i), bool(new[i]), float(right[i])) for i in range(most))
    at = crossed(against_equal(found) if case.margin is None else against_margin(found, case.margin), ALPHA)
    return None if at is None else int(at) + 1


if __name__ == "__main__":
    run("canary", measure, {"wrong_most_share": ("<=", ALPHA)}, list(range(RUNS)))
