"""Whether two query results are the same, by this package's rule or by those of two public evaluations.

Executes nothing. The rules differ on purpose, so that a number can be held against the paper that uses the same one:

- `multiset`, ours: duplicates count, order where the gold query has an outer ORDER BY, columns by position. Numbers
  are equal to six digits after the point (the order of a sum is forgiven); NULL, '' and 0 differ, and so do 2 and '2'.
- `bird`: the results as sets of rows, so that neither order nor duplicates count; columns by position; values as Python
  compares them, floats exactly (BIRD, arXiv 2305.03111, its execution accuracy).
- `spider`: duplicates count, order where the gold query has an ORDER BY, and some order of the other result's columns
  may give the gold one; empty results are the same whatever their columns; values as Python compares them (test-suite
  accuracy, arXiv 2010.02840). Differences from that evaluation: one database instead of a suite of them; DISTINCT
  stays where it is (theirs takes it out of both queries unless told to keep it); an ORDER BY in parentheses does not
  order the result (theirs looks for the words anywhere).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from taolake.scoring.agreement import canonical

Rule = Literal["multiset", "spider", "bird"]
Row = tuple[Any, ...]

_MAX_TRIES = 20_000  # columns tried; fifty yes-or-no columns could otherwise be permuted for ever


def same_rows(gold: Sequence[Row], other: Sequence[Row], rule: Rule, is_ordered: bool) -> bool:
    """Whether `other` is the result `gold` wants; `is_ordered` says that the gold query has an outer ORDER BY."""
    match rule:
        case "multiset":
            return canonical(gold, is_ordered) == canonical(other, is_ordered)
        case "bird":
            return {_hashable(row) for row in gold} == {_hashable(row) for row in other}
        case "spider":
            return _same_by_columns([_hashable(r) for r in gold], [_hashable(r) for r in other], is_ordered)


def _same_by_columns(gold: Sequence[Row], other: Sequence[Row], is_ordered: bool) -> bool:
    """Whether some order of `other`'s columns makes it `gold`: columns one by one, as long as the rows so far agree."""
    if not gold and not other:
        return True
    if len(gold) != len(other) or len(gold[0]) != len(other[0]):
        return False
    wanted, given = list(zip(*gold, strict=True)), list(zip(*other, strict=True))
    left = Counter(given)  # equal columns are interchangeable
    tries = 0

    def place(column: int, gold_so_far: tuple[int, ...], other_so_far: tuple[int, ...]) -> bool:
        nonlocal tries
        if column == len(wanted):
            return True
        for candidate in [c for c, count in left.items() if count]:
            tries += 1
            if tries > _MAX_TRIES:
                return False
            numbers = dict[Any, int]()  # a row's values so far as one number, the same in both results
            ours = _number(gold_so_far, wanted[column], numbers)
            theirs = _number(other_so_far, candidate, numbers)
            if (ours == theirs) if is_ordered else (Counter(ours) == Counter(theirs)):
                left[candidate] -= 1
                if place(column + 1, ours, theirs):
                    return True
                left[candidate] += 1
        return False

    start = (0,) * len(gold)
    return place(0, start, start)


def _number(so_far: tuple[int, ...], column: tuple[Any, ...], numbers: dict[Any, int]) -> tuple[int, ...]:
    return tuple(numbers.setdefault(pair, len(numbers)) for pair in zip(so_far, column, strict=True))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
