"""Thumbs, edits and regenerations become choices; who was rarely served is not outvoted by who was served often."""

from typing import Any

import pytest

from taolake import ids
from taolake.curation.reactions import Learned, Reaction, Rule, learn, weight
from taolake.lake import PREFERENCES

RULE = Rule(between_people=0.5, regenerated=0.25, clip=10)
TURNS = [{"role": "user", "content": "how many shops"}]


def reaction(user: str, kind: str, answer: str, said: Any = None, share: float | None = None) -> Reaction:
    value = said if kind == "thumb" else None
    return Reaction(f"{user}-{kind}-{answer}", user, kind, answer, value, None if kind == "thumb" else said, share)


def told(*reactions: Reaction, heaviest: float = 1.0) -> Learned:
    return learn(TURNS, "t", reactions, RULE, heaviest)


def rows(*reactions: Reaction, heaviest: float = 1.0) -> list[tuple[str, str, str, str, float]]:
    made = told(*reactions, heaviest=heaviest).rows
    return sorted((r["annotator"], r["kind"], r["chosen_text"], r["rejected_text"], r["strength"]) for r in made)


GIVES = [
    ("an edit", [reaction("kim", "edit", "a", "b")], [("kim", "edit", "b", "a", 1.0)]),
    ("a regeneration is weak", [reaction("kim", "regenerate", "a", "b")], [("kim", "pair", "b", "a", 0.25)]),
    (
        "one person's thumbs on two answers",
        [reaction("kim", "thumb", "a", 1.0), reaction("kim", "thumb", "b", -1.0)],
        [("kim", "thumb", "a", "b", 1.0)] * 2,
    ),
    (
        "two people's thumbs on two answers",
        [reaction("kim", "thumb", "a", 1.0), reaction("lee", "thumb", "b", -1.0)],
        [("kim", "thumb", "a", "b", 0.5), ("lee", "thumb", "a", "b", 0.5)],
    ),
    (
        "an answer people disagree about is less clear",
        [*(reaction(u, "thumb", "a", 1.0) for u in "xyz"), reaction("v", "thumb", "a", -1.0),
         reaction("w", "thumb", "b", -1.0)],
        [(u, "thumb", "a", "b", 0.375) for u in "wxyz"],
    ),
    ("thumbs that agree", [reaction("kim", "thumb", "a", 1.0), reaction("lee", "thumb", "b", 1.0)], []),
    ("a lone thumb", [reaction("kim", "thumb", "a", -1.0)], []),
    ("an edit that changes nothing", [reaction("kim", "edit", "a", "a")], []),
    ("a regeneration that nothing followed", [reaction("kim", "regenerate", "a")], []),
]  # fmt: skip


@pytest.mark.parametrize(("reactions", "wanted"), [(g, w) for _, g, w in GIVES], ids=[name for name, _, _ in GIVES])
def test_what_reactions_give(reactions: list[Reaction], wanted: list[tuple[str, str, str, str, float]]) -> None:
    assert rows(*reactions) == wanted


def test_every_reaction_gives_a_row_or_a_reason() -> None:
    for _, given, _ in GIVES:
        made = told(*given)
        used = {r.key for r in given} - made.unused.keys()
        assert bool(used) == bool(made.rows)
        assert all(made.unused.values())


def test_rows_are_the_tables() -> None:
    (row,) = told(reaction("kim", "edit", "a", "b")).rows
    assert sorted(row) == sorted(name for name, _, _ in PREFERENCES.fields())
    assert row["prompt_id"] == ids.prompt_id("t", [{"role": "user", "content": "how many shops"}])


def test_a_share_is_undone_and_clipped() -> None:
    assert [weight(share, 10) for share in (None, 1.0, 0.5, 0.1, 0.001)] == [1.0, 1.0, 2.0, 10.0, 10.0]


def test_rarely_served_answers_count_as_if_served_alike() -> None:
    """Nine users saw a, one saw b, as shares of 0.9 and 0.1 have it: each version's edits weigh the same in all."""
    edits = [reaction(f"u{i}", "edit", "a", "better", 0.9) for i in range(9)]
    edits.append(reaction("v", "edit", "b", "better", 0.1))
    made = rows(*edits, heaviest=weight(0.1, RULE.clip))
    by = {worse: sum(r[4] for r in made if r[3] == worse) for worse in "ab"}
    assert by["a"] == pytest.approx(by["b"], rel=1e-4)
    assert by["b"] == 1.0


def test_approval_is_the_weighted_mean() -> None:
    """Answer a was liked by the nine who were likely to see it and disliked by the one who was not."""
    thumbs = [reaction(f"u{i}", "thumb", "a", 1.0, 0.9) for i in range(9)]
    thumbs.append(reaction("v", "thumb", "a", -1.0, 0.1))
    thumbs.append(reaction("w", "thumb", "b", -1.0, None))
    made = rows(*thumbs, heaviest=10.0)
    # 9 / 0.9 likes against 1 / 0.1 dislikes: as many of one as of the other, so nothing is known about a.
    assert made == []
    unweighted = [Reaction(**{**vars(t), "share": None}) for t in thumbs]
    assert rows(*unweighted) != []
