"""One row of any log becomes calls of a model, reactions to them, or the reason why not.

The shape is told by the row's own fields: `ai_gateway`, `legacy` and `model_service` are Databricks' payload tables,
`mlflow` a trace with its assessments, `langfuse` and `otel` their exports, `openai` JSONL of requests, `reaction` our
own table. One row may hold several calls: an export's envelope, or a batch of a pyfunc model. Not here: bodies
(`taolake.curation.bodies`), traces (`taolake.curation.traces`), Spark.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taolake import ids
from taolake.curation import bodies, traces
from taolake.curation.calls import Call, Found, Reaction, about, decoded, first, listed, name, number, when, whole

_REACTIONS = ("thumb", "edit", "regenerate", "rating")
_TOO_LARGE = ("MAX_REQUEST_SIZE_EXCEEDED", "MAX_RESPONSE_SIZE_EXCEEDED")


def read(line: bytes, max_chars: int = 200_000) -> list[Found]:
    """Read one row of a log, as UTF-8 JSON; never an empty list, and no exception for anything a log may hold.

    Args:
        line: the row.
        max_chars: longest conversation accepted, over all turns.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return [f"not UTF-8: byte {error.start} is 0x{line[error.start]:02x}"]
    except json.JSONDecodeError as error:
        return ["empty line" if not line.strip() else f"not JSON: {error.msg} at character {error.pos}"]
    except RecursionError:
        return ["not JSON that can be read: nested too deep"]
    if not isinstance(row, dict):
        return [f"got a JSON {type(row).__name__}, wanted an object"]
    try:
        found = _read(row)
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError) as error:
        # A field of another type than its log's own format says. The row is refused; what was in it is not repeated.
        return [f"not in the form of a {shape_of(row)} row: {type(error).__name__}"]
    return [_checked(each, max_chars) for each in found] or [f"a {shape_of(row)} row without any call of a model"]


def shape_of(row: Mapping[str, Any]) -> str:
    """Which kind of log a row comes from, by its fields; `unknown` if none fits."""
    fields = {str(key).lower() for key in row}
    if "databricks_request_id" in fields:
        return "legacy" if fields & {"timestamp_ms", "execution_time_ms", "request_metadata"} else "ai_gateway"
    if "request_id" in fields and fields & {"invocation_id", "event_time", "destination_name", "schema_version"}:
        return "model_service"
    if {"request_id", "source", "kind"} <= fields:
        return "reaction"
    if {"info", "data"} <= fields or ({"trace_id"} < fields and fields & {"trace_metadata", "assessments"}):
        return "mlflow"
    if fields & {"resourcespans", "resource_spans"} or (fields & {"spanid", "span_id"} and "attributes" in fields):
        return "otel"
    if "observations" in fields or (fields & {"traceid", "trace_id"} and fields & {"type", "value", "datatype"}):
        return "langfuse"
    return "openai" if fields & {"messages", "prompt", "request", "body", "input", "inputs", "question"} else "unknown"


def _read(row: dict[str, Any]) -> list[Found]:
    match shape_of(row):
        case "ai_gateway" | "legacy" | "model_service" as shape:
            return _payload(row, shape)
        case "reaction":
            return [_reaction(row)]
        case "mlflow":
            return traces.mlflow(row)
        case "otel":
            return traces.otel(row)
        case "langfuse":
            return traces.langfuse(row)
        case "openai":
            return _line(row)
    return [f"no known shape of log: got fields {', '.join(sorted(map(str, row))[:8]) or 'none'}"]


def _payload(row: Mapping[str, Any], shape: str) -> list[Found]:
    """A row of one of Databricks' three payload tables."""
    codes = [code for code in listed(row.get("logging_error_codes")) if code in _TOO_LARGE]
    if row.get("request") in (None, ""):
        return [f"the request was not logged: {', '.join(map(str, codes)) or 'no body, no error code'}"]
    meta = decoded(row.get("request_metadata")) or {}
    tags = [decoded(row.get(place)) for place in ("request_tags", "request_metadata", "usage_context")]
    request = decoded(row["request"])
    inside = request if isinstance(request, Mapping) else {}
    said = about(row, *tags, inside.get("metadata"), inside.get("extra_params"), {"user": inside.get("user")})
    model = first(row, "served_entity_name", "served_entity_id", "destination_name", "destination_id")
    legacy = [part for part in (first(meta, "model_name"), first(meta, "model_version")) if part is not None]
    call = Call(
        request_id=str(first(row, "databricks_request_id", "request_id")),
        shape=shape,
        messages=(),
        logged_at=when(first(row, "request_time", "event_time", "timestamp_ms", "request_date", "date")),
        endpoint=name(first(row, "endpoint_name", "model_service_name") or meta.get("endpoint_name")),
        model=name(model or "/".join(map(str, legacy))),
        status_code=whole(row.get("status_code")) or 200,
        latency_ms=whole(first(row, "execution_duration_ms", "execution_time_ms", "latency_ms")),
        first_token_ms=whole(row.get("time_to_first_byte_ms")),
        **said,
    )
    return _bodies(call, request, row.get("response"))


def _line(row: Mapping[str, Any]) -> list[Found]:
    """A line of OpenAI-style JSONL: a request, beside it perhaps the response, or a conversation with its answer."""
    inner = next((row[n] for n in ("request", "body") if row.get(n)), None)
    request = decoded(inner) if inner is not None else row
    if isinstance(request, Mapping) and isinstance(request.get("body"), Mapping):
        request = request["body"]
    response = decoded(first(row, "response", "completion", "output", "answer"))
    status = whole(row.get("status_code"))
    if isinstance(response, Mapping) and "body" in response:
        status, response = whole(response.get("status_code")) or status, response["body"]
    inside = request if isinstance(request, Mapping) else {}
    known = first(row, "request_id", "client_request_id", "custom_id", "id")
    call = Call(
        request_id=str(known) if known is not None else ids.content_hash("line", row),
        shape="openai",
        messages=(),
        logged_at=when(first(row, "logged_at", "request_time", "timestamp", "created_at", "created", "time")),
        endpoint=name(first(row, "endpoint", "url")),
        model=name(first(row, "model") or inside.get("model")),
        status_code=status or 200,
        latency_ms=whole(first(row, "latency_ms", "duration_ms")),
        first_token_ms=whole(first(row, "first_token_ms", "ttft_ms")),
        **about(row, row.get("metadata"), inside.get("metadata"), {"user": inside.get("user")}),
    )
    return _bodies(call, request, response)


def _bodies(call: Call, request: Any, response: Any) -> list[Found]:
    """The call with what its two bodies say; a pyfunc batch is one call for each record."""
    asked = bodies.asked(request)
    if isinstance(asked, str):
        return [f"{asked} (status {call.status_code})" if call.status_code >= 400 else asked]
    found: list[Found] = []
    for place, messages in enumerate(asked):
        said = bodies.answered(response, place) if call.status_code < 400 else bodies.Answered()
        one = replace(
            call,
            messages=messages,
            answer=said.text,
            finish_reason=said.finish_reason,
            model=call.model or said.model,
            prompt_tokens=said.prompt_tokens,
            tokens=said.tokens,
        )
        found.append(one if len(asked) == 1 else one.with_id(f"{call.request_id}#{place}"))
    return found


def _reaction(row: Mapping[str, Any]) -> Reaction | str:
    """A row of our own `reactions`, or of a table in that shape."""
    kind, value, text = str(row["kind"]), number(row.get("value")), row.get("text")
    if kind not in _REACTIONS:
        return f"got a reaction of kind {kind[:40]!r}, wanted one of {', '.join(_REACTIONS)}"
    if not name(row.get("request_id")):
        return "a reaction without request_id"
    if kind == "edit" and not isinstance(text, str):
        return "an edit without its text"
    if kind in ("thumb", "rating") and (value is None or not -1 <= value <= 1):
        return f"a {kind} whose value is not from -1 to 1"
    user = name(first(row, "requester", "user"))
    said = text if isinstance(text, str) else None
    return Reaction(str(row["request_id"]), str(row["source"]), kind, value, said, user, when(row.get("at")))


def _checked(found: Found, max_chars: int) -> Found:
    """A call whose conversation is what a row can hold: it ends with a question, and is not too long."""
    if not isinstance(found, Call):
        return found
    messages, answer = found.messages, found.answer
    if messages and messages[-1]["role"] == "assistant":  # a conversation that was logged with its answer in it
        answer = answer if answer is not None else messages[-1]["content"]
        messages = messages[:-1]
    if not any(message["role"] == "user" for message in messages):
        return "no user turn to answer"
    size = sum(len(message["content"]) for message in messages) + len(answer or "")
    if size > max_chars:
        return f"too long: {size} characters, limit {max_chars}"
    return replace(found, messages=messages, answer=answer)
