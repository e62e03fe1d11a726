"""One logged line becomes one canonical conversation, or a reason why not.

Canonical: roles system/user/assistant, one system turn at most and first, text only, no surrounding white space, and
the last turn is a user's: the answer that was given then is not part of the question. Not here: Spark, files,
duplicates.
"""

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Any

from taolake import ids
from taolake.types import Message

_HASHED = re.compile("[0-9a-f]{32}")  # what ids.user_id makes
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Logged:
    """What a line held: a conversation, the id of the request it came with, the hash of who asked, and when."""

    messages: tuple[Message, ...]
    request_id: str
    user_id: str | None = None
    at: str | None = None


def parse(line: bytes, column: str, system: str | None = None, max_chars: int = 16_000) -> Logged | str:
    """Read one JSON object.

    Args:
        line: UTF-8 JSON: an object with the conversation in `column`, or an endpoint's payload row with `request`.
        column: where the conversation is: a list of turns, the same as JSON text, or a plain question.
        system: system turn for conversations without one.
        max_chars: longest conversation accepted, over all turns.

    Returns:
        The conversation, or the reason for refusing the line.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} is 0x{line[error.start]:02x}"
    except json.JSONDecodeError as error:
        return "empty line" if not line.strip() else f"not JSON: {error.msg} at character {error.pos}"
    except RecursionError:
        return "not JSON that can be read: nested too deep"
    if not isinstance(row, dict):
        return f"got a JSON {type(row).__name__}, wanted an object"
    turns = _turns(row, column)
    if isinstance(turns, str):
        return turns
    messages = _canonical(turns, system)
    if isinstance(messages, str):
        return messages
    size = sum(len(m["content"]) for m in messages)
    if size > max_chars:
        return f"too long: {size} characters, limit {max_chars}"
    at = row.get("logged_at")
    return Logged(messages, _request_id(row), _user_id(row), at if isinstance(at, str) else None)


def _request_id(row: dict[str, Any]) -> str:
    for name in ("databricks_request_id", "request_id", "client_request_id", "id"):
        if row.get(name):
            return str(row[name])
    return ""


def _user_id(row: dict[str, Any]) -> str | None:
    """Hash of who asked: as it stands where a row has it already, of the name where it has that; None: neither."""
    known = row.get("user_id")
    if isinstance(known, str) and _HASHED.fullmatch(known):
        return known
    name = next((row[key] for key in ("user_id", "requester", "user") if row.get(key)), None)
    return None if name is None else ids.user_id(str(name))


def _turns(row: dict[str, Any], column: str) -> list[Any] | str:
    """Find the list of turns in a row, or say why there is none."""
    value = row.get(column)
    if value is None and "request" in row:
        request = row["request"]
        if isinstance(request, str):
            try:
                request = json.loads(request)
            except json.JSONDecodeError as error:
                return f"request is not JSON: {error.msg} at character {error.pos}"
        if not isinstance(request, dict):
            return f"request is a JSON {type(request).__name__}, wanted an object"
        value = request.get("messages", request.get("prompt", request.get("input")))
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError):  # a question may begin with a bracket
            value = json.loads(value)
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, list):
        return value
    return f"no conversation in column {column!r} nor in a request"


def _canonical(turns: list[Any], system: str | None) -> tuple[Message, ...] | str:
    """Bring turns into canonical form, or say what is wrong with them."""
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            role = turn.get("role") if isinstance(turn, dict) else turn
            return f"turn {number} has role {str(role)[:40]!r}, wanted one of {', '.join(ROLES)}"
        text = _text(turn.get("content"))
        if text is None:
            return f"turn {number} has content of type {type(turn.get('content')).__name__}, wanted text"
        if not text:
            return f"turn {number} is empty"
        if turn["role"] == "system" and number:
            return f"turn {number} is a system turn, wanted it first"
        messages.append({"role": turn["role"], "content": text})
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        return "no user turn to answer"
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return tuple(messages)


def _text(content: Any) -> str | None:
    """Text of a turn: a string, or the text parts of a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if texts else None
    return content.strip() if isinstance(content, str) else None
