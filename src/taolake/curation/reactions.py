"""What people did with answers in production becomes choices: rows of `preferences`. Plain functions over one prompt.

- `edit`: the edited text before the original, at full strength.
- `regenerate`: the answer that came next before the one that was not taken, at low strength: the reason is unknown.
- `thumb`: an answer with approval before one without, of the same prompt. One person's own thumbs on both count full,
  those of different people less.

Where traffic was split, an answer of a rarely served version gets fewer reactions for no fault of its own. Reactions
are therefore weighed by the inverse of the chance with which the version was served, clipped (inverse propensity
scoring; Horvitz and Thompson 1952, clipping: Ionides 2008). Not here: reading tables (`taolake.stages.reactions`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taolake import ids
from taolake.curation import choices
from taolake.curation.judged import Answer
from taolake.curation.parse import parse

Row = dict[str, Any]
_OPPOSITES = 4  # answers one thumb is compared with, at most: a popular prompt would else square its thumbs


@dataclass(frozen=True)
class Rule:
    """How much reactions count: strengths of the weaker kinds, and the largest weight of a rarely served version."""

    between_people: float
    regenerated: float
    clip: float


@dataclass(frozen=True)
class Reaction:
    """One reaction to one answer.

    Attributes:
        key: names it.
        user: who reacted.
        kind: thumb, edit or regenerate.
        answer: what the reaction is about.
        value: of a thumb, -1 to 1.
        text: of an edit, the better answer; of a regeneration, the answer that came next.
        share: chance with which the version was served; None: not split.
    """

    key: str
    user: str
    kind: str
    answer: str
    value: float | None
    text: str | None
    share: float | None


@dataclass
class Learned:
    """What the reactions to one prompt give, and which of them gave nothing yet, with the reason."""

    rows: list[Row] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)


def weight(share: float | None, clip: float) -> float:
    """Inverse of the chance with which the version was served, at most `clip`; 1 where nothing was split."""
    return 1.0 if share is None else min(1 / max(share, 1e-9), clip)


def learn(
    messages: Sequence[Mapping[str, str]],
    task: str,
    reactions: Sequence[Reaction],
    rule: Rule,
    heaviest: float,
    system: str | None = None,
    max_chars: int = 16_000,
) -> Learned:
    """Turn the reactions to one prompt into choices.

    Args:
        messages: conversation up to the question.
        task: task of the prompt.
        reactions: all of them, in any order.
        rule: how much they count.
        heaviest: largest weight among all prompts' reactions; strengths are parts of it.
        system: system turn for conversations without one, as `ingest.system`.
        max_chars: longest conversation, as `ingest.max_prompt_chars`.
    """
    logged = parse(json.dumps({"messages": list(messages)}).encode(), "messages", system, max_chars)
    if isinstance(logged, str):
        return Learned([], {reaction.key: logged for reaction in reactions})
    prompt = ids.prompt_id(task, logged.messages)
    about = (prompt, task, json.dumps(list(logged.messages), ensure_ascii=False))
    learned = Learned()
    ordered = sorted(reactions, key=lambda reaction: reaction.key)
    thumbs = [r for r in ordered if r.kind == "thumb" and r.value]
    approval = _approval(thumbs, rule)
    for reaction in ordered:
        part = weight(reaction.share, rule.clip) / heaviest
        match reaction.kind:
            case "edit" | "regenerate" if not reaction.text or not reaction.text.strip():
                learned.unused[reaction.key] = "there is no other answer yet"
            case "edit" | "regenerate" if reaction.text == reaction.answer:
                learned.unused[reaction.key] = "both answers are the same text"
            case "edit":
                learned.rows += _row(about, reaction, "edit", str(reaction.text), reaction.answer, part)
            case "regenerate":
                strength = rule.regenerated * part
                learned.rows += _row(about, reaction, "pair", str(reaction.text), reaction.answer, strength)
            case "thumb" if reaction.value:
                made = _thumb(about, reaction, thumbs, approval, rule, part)
                learned.rows += made
                if not made:
                    learned.unused[reaction.key] = "a lone thumb: no other answer of the prompt got the opposite"
            case _:
                learned.unused[reaction.key] = f"a {reaction.kind} says nothing about two answers"
    return learned


def _approval(thumbs: Sequence[Reaction], rule: Rule) -> dict[str, float]:
    """Weighted mean thumb of every answer, -1 to 1."""
    sums: dict[str, tuple[float, float]] = {}
    for thumb in thumbs:
        w, (said, of) = weight(thumb.share, rule.clip), sums.get(thumb.answer, (0.0, 0.0))
        sums[thumb.answer] = said + w * (thumb.value or 0.0), of + w
    return {answer: said / of for answer, (said, of) in sums.items()}


def _thumb(
    about: tuple[str, str, str],
    thumb: Reaction,
    thumbs: Sequence[Reaction],
    approval: Mapping[str, float],
    rule: Rule,
    part: float,
) -> list[Row]:
    """Choices in which one thumb agrees with what people think of both answers."""
    mine = approval[thumb.answer]
    sign = 1.0 if (thumb.value or 0.0) > 0 else -1.0
    if mine * sign <= 0:  # people think the opposite
        return []
    others = sorted((a for a, value in approval.items() if value * sign < 0), key=lambda a: (sign * approval[a], a))
    rows = []
    for other in others[:_OPPOSITES]:
        own = any(t.user == thumb.user and t.answer == other and (t.value or 0.0) * sign < 0 for t in thumbs)
        strength = abs(mine - approval[other]) / 2 * (1.0 if own else rule.between_people) * part
        better, worse = (thumb.answer, other) if sign > 0 else (other, thumb.answer)
        rows += _row(about, thumb, "thumb", better, worse, strength)
    return rows


def _row(
    about: tuple[str, str, str], reaction: Reaction, kind: str, better: str, worse: str, strength: float
) -> list[Row]:
    prompt, task, messages = about
    both = tuple(Answer(ids.content_hash("answer", prompt, text), text) for text in (better, worse))
    record = choices.Record("", kind, prompt, task, reaction.user, messages, both, (1.0, 0.0), 1 / min(1.0, strength))
    return choices.choose([record]).rows
