"""When candidates of one prompt mean the same: canonical results, shares of the vote, entropy of the answers.

Works on answer keys that other scorers gave, never on text, and on one prompt at a time. Not a reward by itself:
agreement rewards its own errors (SRT, arXiv 2505.21444), so weigh it beside an outside signal.
Formulas: docs/design.md, section 6.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any


def agreement(answer_keys: Sequence[str | None]) -> list[float | None]:
    """Share of the group's keyed candidates with the same key; None where there is no key."""
    counts = Counter(key for key in answer_keys if key is not None)
    return [None if key is None else counts[key] / counts.total() for key in answer_keys]


def entropy(answer_keys: Sequence[str | None]) -> float:
    """Entropy in nats of the keyed answers: 0 when all agree (or none has a key), log n when none do."""
    counts = Counter(key for key in answer_keys if key is not None)
    return sum(n / counts.total() * math.log(counts.total() / n) for n in counts.values())


def canonical(rows: Sequence[Sequence[Any]], ordered: bool) -> str:
    """Write a query's result so that equal meanings are equal text: one line a row, sorted unless `ordered`.

    Duplicates stay; column names do not count, their order does; 2 and 2.0 are equal, 2 and '2' are not.
    """
    lines = ["[" + ",".join(map(_cell, row)) + "]" for row in rows]
    return "\n".join(lines if ordered else sorted(lines))


def number_text(value: float | Decimal) -> str:
    """Write a number so that 2 and 2.0 are equal.

    Fractions keep six digits after the point (six significant ones below 1, twelve at most): that forgives the order
    of a sum but not a wrong cent.
    """
    if not math.isfinite(value):
        return str(float(value))
    if value != int(value):
        whole = len(str(abs(int(value)))) if abs(float(value)) >= 1 else 0
        value = float(f"{value:.{min(12, whole + 6)}g}")
    return str(int(value)) if value == int(value) else repr(float(value))


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(int(value))  # True is 1: SQLite has no other truth
    if isinstance(value, float | Decimal):
        return number_text(value)
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_cell, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False)
