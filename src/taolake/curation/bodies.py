"""Bodies of requests and answers: chat, completion, responses and pyfunc, whole or in the chunks of a stream.

A conversation keeps what was said as text. A call of a tool is text too, the call's JSON; a picture or a file stays as
a reference without its bytes. Not here: the log around a body (`taolake.curation.logs`), what a prompt may hold
(`taolake.curation.parse`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taolake.curation.calls import Turn, decoded, listed, whole

_ROLES = {"developer": "system", "function": "tool", "human": "user", "ai": "assistant", "model": "assistant"}
_KNOWN = ("system", "user", "assistant", "tool")
_QUESTIONS = ("messages", "prompt", "question", "query", "input", "inputs", "text")
_ANSWERS = ("content", "text", "answer", "response", "output", "result", "generated_text", "prediction")


@dataclass(frozen=True)
class Answered:
    """What a response body held; all of it may be missing."""

    text: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None


def asked(body: Any) -> list[tuple[Turn, ...]] | str:
    """Conversations of a request body: one, or one for each record of a pyfunc batch; or why there is none."""
    body = decoded(body)
    if isinstance(body, list):
        body = {"messages": body}
    if isinstance(body, str) and body.strip():
        body = {"prompt": body}
    if not isinstance(body, Mapping):
        return "the request is empty" if not body else f"the request is a JSON {type(body).__name__}, wanted an object"
    found = [conversation(record) for record in _records(body)]
    wrong = next((each for each in found if isinstance(each, str)), None)
    if wrong is not None or not found:
        return wrong or "the request holds no record"
    return [each for each in found if not isinstance(each, str)]


def conversation(record: Any) -> tuple[Turn, ...] | str:
    """Turns of one request: messages, a prompt, or the input of a record; or why there are none."""
    if isinstance(record, str):
        record = {"prompt": record}
    if not isinstance(record, Mapping):
        return f"got a record of type {type(record).__name__}, wanted text or an object"
    value = next((record[n] for n in _QUESTIONS if record.get(n)), None)
    if value is None:
        plain = [v for v in record.values() if isinstance(v, str) and v.strip()]
        value = plain[0] if len(plain) == 1 else None
    if value is None:
        return f"no conversation in the request: got fields {', '.join(sorted(map(str, record))[:8]) or 'none'}"
    value = decoded(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    if isinstance(value, Mapping):
        return conversation(value)
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if isinstance(record.get("instructions"), str) and isinstance(turns, list):
        turns = [{"role": "system", "content": record["instructions"]}, *turns]
    return turns_of(turns)


def turns_of(turns: Any) -> tuple[Turn, ...] | str:
    """Turns in canonical roles with their text, or why they cannot be read."""
    if not isinstance(turns, list) or not turns:
        return "the conversation is no list of turns" if turns else "the conversation is empty"
    if all(isinstance(turn, str) for turn in turns):  # a completion request may hold several prompts; the first stands
        turns = [{"role": "user", "content": turns[0]}]
    messages: list[Turn] = []
    for place, turn in enumerate(turns):
        role = turn.get("role", "tool" if "call_id" in turn else None) if isinstance(turn, Mapping) else None
        role = _ROLES.get(str(role), role)
        if role not in _KNOWN:
            return f"turn {place} has role {str(role)[:40]!r}, wanted one of {', '.join(_KNOWN)}"
        said = text_of(turn)
        if said:
            messages.append({"role": str(role), "content": said})
    return tuple(messages) or "every turn is empty"


def text_of(turn: Mapping[str, Any]) -> str | None:
    """Text of a turn: what was said, then references to what is no text, then the tools called."""
    parts = [said for part in _parts(turn) if (said := _part(part))]
    calls = [*listed(turn.get("tool_calls")), *([turn["function_call"]] if turn.get("function_call") else [])]
    calls += [p for p in _parts(turn) if isinstance(p, Mapping) and p.get("type") in ("tool_use", "tool_call")]
    if calls:
        parts.append(json.dumps({"tool_calls": [_called(c) for c in calls]}, ensure_ascii=False))
    return "\n".join(parts).strip() or None


def answered(body: Any, place: int = 0) -> Answered:
    """What a response body says; chunks of a stream, however they were logged, are put together first.

    Args:
        body: JSON text or value, server-sent events, or JSON lines.
        place: which record of a pyfunc batch is meant.
    """
    body = _whole(body)
    if isinstance(body, str):
        return Answered(body.strip() or None)
    if isinstance(body, list):
        return answered(body[place], 0) if place < len(body) else Answered()
    if not isinstance(body, Mapping):
        return Answered()
    if "predictions" in body:
        found = decoded(body["predictions"])
        return answered(found[place] if isinstance(found, list) and place < len(found) else found, 0)
    usage = body["usage"] if isinstance(body.get("usage"), Mapping) else {}
    counts = [usage.get(new, usage.get(old)) for old, new in _USAGE]
    text, reason = _said(body)
    model = body.get("model")
    return Answered(text, reason, model if isinstance(model, str) else None, whole(counts[0]), whole(counts[1]))


_USAGE = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))


def _said(body: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The answer and why it ended."""
    choices = listed(body.get("choices"))
    if choices and isinstance(choices[0], Mapping):
        choice = choices[0]
        reason = choice.get("finish_reason")
        turn = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
        text = text_of(turn) if isinstance(turn, Mapping) else None
        return text, reason if isinstance(reason, str) else None
    turns = body.get("messages", body.get("output") if isinstance(body.get("output"), list) else None)
    if isinstance(turns, list):
        texts = [text_of(t) for t in turns if isinstance(t, Mapping) and t.get("type", "message") == "message"]
        return next((text for text in reversed(texts) if text), None), None
    if body.get("tool_calls"):
        return text_of(body), None
    value = next((body[n] for n in _ANSWERS if body.get(n)), None)
    if isinstance(value, Mapping):
        return _said(value)
    return text_of({"content": value}), None


def _records(body: Mapping[str, Any]) -> Sequence[Any]:
    """Records of a pyfunc body; any other body is one record."""
    if "dataframe_records" in body:
        return listed(body["dataframe_records"])
    if "dataframe_split" in body:
        split = decoded(body["dataframe_split"])
        columns = listed(split.get("columns")) if isinstance(split, Mapping) else []
        rows = listed(split.get("data")) if isinstance(split, Mapping) else []
        return [dict(zip(columns, row, strict=False)) for row in rows if isinstance(row, list)]
    inputs = decoded(body.get("inputs"))
    if isinstance(inputs, Mapping) and inputs.keys() != {"messages"} and _all_lists(inputs):
        return [dict(zip(inputs, row, strict=False)) for row in zip(*inputs.values(), strict=False)]
    if isinstance(inputs, list) and not all(isinstance(each, Mapping) and "role" in each for each in inputs):
        return inputs
    return [body]


def _all_lists(inputs: Mapping[str, Any]) -> bool:
    return bool(inputs) and all(isinstance(value, list) for value in inputs.values())


def _parts(turn: Mapping[str, Any]) -> Sequence[Any]:
    content = turn.get("content", turn.get("parts", turn.get("output")))
    return content if isinstance(content, list) else [content]


def _part(part: Any) -> str | None:
    """Text of a part; what is no text as a reference: its kind, and its address or the hash of its bytes."""
    if isinstance(part, str):
        return part.strip()
    if not isinstance(part, Mapping):
        return None
    kind = str(part.get("type", "text"))
    text: str | None = next(
        (part[n] for n in ("text", "content", "refusal", "response") if isinstance(part.get(n), str)), None
    )
    if text is not None:
        return text.strip()
    if kind in ("tool_use", "tool_call", "text"):
        return None
    return f"[{kind} {_reference(part)}]"


def _reference(part: Mapping[str, Any]) -> str:
    address = next((v for v in _strings(part) if v.startswith(("http://", "https://", "s3://", "dbfs:/"))), None)
    if address is not None:
        return address.partition("?")[0]  # what follows is often a key
    longest = max(_strings(part), key=len, default="")
    return f"sha256:{hashlib.sha256(longest.encode()).hexdigest()[:16]}"


def _strings(value: Any) -> list[str]:
    """Texts in a part, but for its kind."""
    if isinstance(value, Mapping):
        return [text for key, each in value.items() if key != "type" for text in _strings(each)]
    return [value] if isinstance(value, str) else []


def _called(call: Any) -> dict[str, Any]:
    made = call.get("function", call) if isinstance(call, Mapping) else {}
    return {"name": made.get("name"), "arguments": decoded(made.get("arguments", made.get("input")))}


def _whole(body: Any) -> Any:
    """A body as one value: the chunks of a stream become the answer they add up to."""
    if isinstance(body, str) and (chunks := _chunks(body)) is not None:
        return _joined(chunks)
    body = decoded(body)
    if isinstance(body, list) and body and all(_is_chunk(each) for each in body):
        return _joined(body)
    return body


def _chunks(text: str) -> list[Any] | None:
    """Chunks of server-sent events or JSON lines; None: it is neither. A chunk cut off at the end is left out."""
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith((":", "event:"))
    ]
    events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    if not events and len(lines) > 1 and all(line.startswith("{") for line in lines):
        events = lines
    read = [decoded(event) for event in events if event != "[DONE]"]
    return [each for each in read if isinstance(each, Mapping)] if events else None


def _is_chunk(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        str(value.get("object", "")).endswith(".chunk")
        or any(isinstance(c, Mapping) and "delta" in c for c in listed(value.get("choices")))
    )


def _joined(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The response that a stream's chunks add up to; of several choices the first."""
    text, reason, usage, model = "", None, None, None
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks:
        usage, model = chunk.get("usage") or usage, chunk.get("model") or model
        for choice in listed(chunk.get("choices")):
            if not isinstance(choice, Mapping) or choice.get("index", 0) != 0:
                continue
            reason = choice.get("finish_reason") or reason
            delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            text += delta.get("content") or "" if isinstance(delta.get("content"), str | None) else ""
            for piece in listed(delta.get("tool_calls")):
                made = calls.setdefault(piece.get("index", len(calls)), {"name": "", "arguments": ""})
                for field, more in (piece.get("function") or {}).items():
                    made[field] = made.get(field, "") + (more or "")
        if chunk.get("type") == "response.output_text.delta":
            text += str(chunk.get("delta") or "")
    turn = {"role": "assistant", "content": text, "tool_calls": [{"function": c} for _, c in sorted(calls.items())]}
    return {"choices": [{"index": 0, "message": turn, "finish_reason": reason}], "usage": usage, "model": model}
