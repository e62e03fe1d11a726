"""Prompt variants and the way back: dress a question for a strategy, take the plain answer out of what it wrote.

The answer kept is in the shape the bare prompt would get, because the bare prompt is what is trained
(docs/design.md, section 6). Nothing here calls a model or judges an answer.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from taolake.config import Extract, Strategy
from taolake.types import Message

_MAX_OBJECTS = 200  # `{{{{...` would otherwise be tried from every brace


def extract(text: str, spec: Extract) -> str | None:
    """Take the answer out of a strategy's text; None when the marker, the JSON field or the pattern is not there.

    Of several markers or JSON objects the last counts (a draft comes before the answer); of several matches the first.

    Raises:
        ValueError: the spec lacks its marker, or a pattern with a group.
    """
    match spec.kind:
        case "whole":
            return text
        case "after":
            _, found, rest = text.rpartition(spec.marker)
            return rest.strip() if found else None
        case "json":
            return _json_field(text, spec.field)
        case "regex":
            pattern = re.compile(spec.pattern)
            matched = pattern.search(text)
            return matched[1] if matched else None


def variant(messages: Sequence[Message], strategy: Strategy) -> list[Message]:
    """Dress a conversation for a strategy: its system turn, its examples, its template around the last user turn.

    The bare strategy returns the conversation as it is.

    Raises:
        ValueError: no turn of the conversation is the user's.
    """
    last = max((i for i, turn in enumerate(messages) if turn["role"] == "user"), default=None)
    if last is None:
        roles = [turn["role"] for turn in messages]
        raise ValueError(f"got roles {roles}, wanted a `user` turn: the template goes around its text")
    question = strategy.template.replace("{question}", messages[last]["content"])
    asked: list[Message] = [*messages[:last], {"role": "user", "content": question}, *messages[last + 1 :]]
    system: list[Message] = [turn for turn in asked if turn["role"] == "system"]
    if strategy.system is not None:
        system = [{"role": "system", "content": strategy.system}]
    elif not strategy.examples:
        return asked
    shots: list[Message] = []
    for example in strategy.examples:
        shots += [{"role": "user", "content": example.question}, {"role": "assistant", "content": example.answer}]
    return [*system, *shots, *(turn for turn in asked if turn["role"] != "system")]


def _json_field(text: str, field: str) -> str | None:
    found = [value[field] for value in _objects(text) if value.get(field) is not None]
    if not found:
        return None
    return found[-1] if isinstance(found[-1], str) else json.dumps(found[-1], ensure_ascii=False)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects of a text, fenced or bare, in order."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    for _ in range(_MAX_OBJECTS):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
