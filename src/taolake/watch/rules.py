"""Alert rules: which measurement of which window is outside what the project file allows."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taolake.config import Rule


class Measurement(NamedTuple):
    """One number of one window and model version; `value` None where there were too few rows to say."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int


def fired(found: Measurement, rules: Sequence[Rule], before: Mapping[str, float | None]) -> str:
    """The rules that fire, as one sentence; empty where none does.

    A limit is passed when the whole interval is beyond it, so that few rows alone raise no alarm.

    Args:
        found: what was measured.
        rules: of the project file.
        before: the same model's values in the window before, by metric.
    """
    said = [text for rule in rules if (text := _fired(found, rule, before.get(found.metric)))]
    return "; ".join(said)


def _fired(found: Measurement, rule: Rule, before: float | None) -> str:
    if found.value is None or not fnmatch.fnmatchcase(found.metric, rule.metric) or found.n < rule.min_rows:
        return ""
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    if rule.above is not None and low > rule.above:
        return f"{found.metric} {found.value:.4g} is above {rule.above:g}"
    if rule.below is not None and high < rule.below:
        return f"{found.metric} {found.value:.4g} is below {rule.below:g}"
    if rule.falls is not None and before is not None and high < before - rule.falls:
        return f"{found.metric} fell from {before:.4g} to {found.value:.4g}, by more than {rule.falls:g}"
    return ""
