"""A line of the spool becomes a row of its table. Plain functions; a stream's chunks are put together here.

The gateway itself only keeps the bytes of a stream: reading them costs more than passing them on, and the drain has
time.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]
PAYLOAD, REACTION = "payload", "reaction"


def payload(line: Mapping[str, Any]) -> Row:
    """A row of `payloads`."""
    time = datetime.fromtimestamp(line["time_us"] / 1e6, UTC)
    response = line["response"]
    if response is not None and line["streamed"]:
        response = json.dumps(joined(response), ensure_ascii=False)
    return {
        "databricks_request_id": line["id"],
        "request_date": time.date(),
        "client_request_id": line["client_id"],
        "request_time": time,
        "status_code": line["status"],
        "sampling_fraction": line["sampled"],
        "execution_duration_ms": line["took_ms"],
        "request": line["request"],
        "response": response,
        "logging_error_codes": line["errors"],
        "served_entity_id": line["entity"],
        "requester": line["requester"],
        "share": line["share"],
        "session": line["session"],
        "time_to_first_byte_ms": line["first_ms"],
    }


def reaction(line: Mapping[str, Any]) -> Row:
    """A row of `reactions`."""
    at = datetime.fromtimestamp(line["time_us"] / 1e6, UTC)
    same = {name: line[name] for name in ("request_id", "source", "kind", "value", "text", "requester")}
    return {**same, "at": at}


def joined(stream: str) -> Row:
    """Put the chunks of a streamed answer together, as the answer would have been without streaming.

    Chunks that cannot be read are left out. Tool calls are joined by their index, as the chunks count them.
    """
    answer: Row = {}
    choices: dict[int, Row] = {}
    for chunk in _chunks(stream):
        answer |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        for part in chunk.get("choices") or []:
            if isinstance(part, dict):
                _add(choices.setdefault(int(part.get("index") or 0), {"index": int(part.get("index") or 0)}), part)
    answer["object"] = str(answer.get("object", "chat.completion")).removesuffix(".chunk")
    return answer | {"choices": [choices[index] for index in sorted(choices)]}


def _chunks(stream: str) -> Iterable[Row]:
    for event in stream.split("\n"):
        if event.startswith("data:"):
            try:
                chunk = json.loads(event[5:])
            except ValueError:  # [DONE], or the torn end of a stream that broke
                continue
            if isinstance(chunk, dict):
                yield chunk


def _add(choice: Row, part: Row) -> None:
    if part.get("finish_reason"):
        choice["finish_reason"] = part["finish_reason"]
    if isinstance(part.get("text"), str):
        choice["text"] = choice.get("text", "") + part["text"]
    delta = part.get("delta")
    if not isinstance(delta, dict):
        return
    message = choice.setdefault("message", {"role": "assistant", "content": None})
    for key, value in delta.items():
        if key == "tool_calls":
            _add_calls(message.setdefault("tool_calls", []), value or [])
        elif isinstance(value, str):
            message[key] = value if key == "role" else (message.get(key) or "") + value


def _add_calls(calls: list[Row], parts: list[Any]) -> None:
    for part in parts:
        index = int(part.get("index") or 0)
        while len(calls) <= index:
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        call, given = calls[index], part.get("function") or {}
        if part.get("id"):
            call["id"] = part["id"]
        for key in ("name", "arguments"):
            call["function"][key] += given.get(key) or ""
