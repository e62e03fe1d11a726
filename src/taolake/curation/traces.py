"""Traces of a model's calls as tracing systems export them: MLflow, Langfuse, OpenTelemetry's GenAI conventions.

A trace of MLflow or Langfuse is one call, what its root was asked and what it answered, with the assessments and
scores people gave it. Of OpenTelemetry each span that called a model is a call. Not here: what a judge or a rule said,
which is no person's word and is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from taolake.curation import bodies
from taolake.curation.assessments import answer_of, prompt_of
from taolake.curation.calls import (
    Call,
    Found,
    Reaction,
    Turn,
    about,
    decoded,
    elapsed_ms,
    feeling,
    first,
    listed,
    name,
    number,
    when,
    whole,
)

Row = Mapping[str, Any]
_EDIT = "expected_response"


def mlflow(row: Row) -> list[Found]:
    """A trace: `Trace.to_dict()`, or a row of `mlflow.search_traces`."""
    info = row.get("info") or row
    data = decoded(row.get("data")) or row
    spans = [decoded(span) for span in listed(data.get("spans"))]
    root: Row = next((s for s in spans if not (s.get("parent_span_id") or s.get("parent_id"))), {})
    inside = root.get("attributes") or {}
    meta, tags = decoded(info.get("trace_metadata")) or {}, decoded(info.get("tags")) or {}
    asked = decoded(first({**row, **inside}, "mlflow.spanInputs", "request") or meta.get("mlflow.traceInputs"))
    said = decoded(first({**row, **inside}, "mlflow.spanOutputs", "response") or meta.get("mlflow.traceOutputs"))
    turns = _turns(asked)
    if isinstance(turns, str):
        return [turns]
    request_id = str(first(info, "client_request_id", "trace_id", "request_id"))
    state = str(info.get("state", "OK")).rpartition(".")[2]
    usage = decoded(meta.get("mlflow.trace.tokenUsage")) or {}
    start, whole_ms = (
        when(first(info, "request_time", "timestamp_ms")),
        first(info, "execution_duration_ms", "execution_duration", "execution_time_ms"),
    )
    answered = bodies.answered(said)
    call = Call(
        request_id=request_id,
        shape="mlflow",
        messages=turns,
        answer=answered.text or answer_of(said),
        finish_reason=answered.finish_reason,
        logged_at=start,
        endpoint=name(first(tags, "mlflow.traceName", "endpoint")),
        model=name(first(meta, "mlflow.modelId", "model") or answered.model),
        status_code=200 if state in ("OK", "STATE_UNSPECIFIED") else 500,
        latency_ms=_milliseconds(whole_ms),
        prompt_tokens=whole(usage.get("input_tokens")) or answered.prompt_tokens,
        tokens=whole(usage.get("output_tokens")) or answered.tokens,
        reactions=tuple(_assessed(info.get("assessments") or row.get("assessments"), request_id)),
        **about(tags, meta),
    )
    return [call]


def langfuse(row: Row) -> list[Found]:
    """A trace with its observations and scores, one generation, or one score."""
    if "observations" in row:
        return [_langfuse_trace(row)]
    trace_id = str(first(row, "traceId", "trace_id"))
    if str(row.get("type", "")).upper() == "GENERATION":
        return [_generation(row, row, trace_id)]
    if "value" in row or "stringValue" in row:
        scores = list(_scored([row], trace_id))
        return list(scores) or [f"a score given by {row.get('source')}, not by a person, or of no known scale"]
    return [f"an observation of type {str(row.get('type'))[:40]}, wanted GENERATION"]


def otel(row: Row) -> list[Found]:
    """OTLP's envelope, or one span. Spans that called no model belong to the same trace and are not counted."""
    if not ("resourceSpans" in row or "resource_spans" in row):
        return [_span(row, {})]
    found: list[Found] = []
    for resource in listed(first(row, "resourceSpans", "resource_spans")):
        shared = _attributes((resource.get("resource") or {}).get("attributes"))
        for scope in listed(first(resource, "scopeSpans", "scope_spans")):
            spans = [(span, _attributes(span.get("attributes"))) for span in listed(scope.get("spans"))]
            called = (span for span, said in spans if any(key.startswith("gen_ai.") for key in said))
            found += [_span(span, shared) for span in called]
    return found


def _turns(asked: Any) -> tuple[Turn, ...] | str:
    prompt = prompt_of(asked)
    if prompt is None:
        return "no prompt in its inputs: wanted text, or turns under `messages`"
    return bodies.turns_of(prompt) if isinstance(prompt, list) else bodies.conversation({"prompt": prompt})


def _milliseconds(value: Any) -> int | None:
    """`execution_duration` is a number of milliseconds, or text of seconds such as `1.5s`."""
    if isinstance(value, str) and value.endswith("s"):
        seconds = number(value[:-1])
        return None if seconds is None else round(seconds * 1000)
    return whole(value)


def _assessed(assessments: Any, request_id: str) -> Iterator[Reaction]:
    """What people said of an MLflow trace; a rating without a scale is one of 1 to 5."""
    for each in map(decoded, listed(assessments)):
        origin = each.get("source") or {}
        if origin.get("source_type") != "HUMAN" or each.get("valid") is False:
            continue
        label = str(first(each, "assessment_name", "name"))
        user, at = name(origin.get("source_id")), when(first(each, "create_time", "create_time_ms"))
        meta = each.get("metadata") or {}
        source = f"mlflow:{label}:{user or 'unknown'}"
        if "expectation" in each:
            wanted = each["expectation"]
            text = answer_of(decoded(first(wanted, "value") or (wanted.get("serialized_value") or {}).get("value")))
            if label == _EDIT and text:
                yield Reaction(request_id, source, "edit", None, text, user, at)
            continue
        value = (each.get("feedback") or {}).get("value")
        low, high = number(meta.get("low")), number(meta.get("high"))
        felt = feeling(value, 1 if low is None else low, 5 if high is None else high)
        if felt is not None:
            kind = "rating" if number(value) is not None else "thumb"
            yield Reaction(request_id, source, kind, felt, name(each.get("rationale")), user, at)


def _langfuse_trace(row: Row) -> Found:
    """A trace as one call: its own input and output, or those of its last generation."""
    trace_id = str(row["id"])
    generations = [o for o in map(decoded, listed(row["observations"])) if _is_generation(o)]
    last: Row = max(generations, key=lambda o: str(first(o, "startTime", "start_time") or ""), default={})
    own = {"input": row.get("input") or last.get("input"), "output": row.get("output") or last.get("output")}
    return _generation({**last, **own}, row, trace_id)


def _is_generation(observation: Any) -> bool:
    return isinstance(observation, Mapping) and str(observation.get("type", "")).upper() == "GENERATION"


def _generation(row: Row, trace: Row, request_id: str) -> Found:
    """One generation, with what its trace says of user and session."""
    turns = _turns(decoded(row.get("input")))
    if isinstance(turns, str):
        return turns
    said = bodies.answered(decoded(row.get("output")))
    usage = row.get("usageDetails") or row.get("usage") or {}
    start, end = when(first(row, "startTime", "start_time")), when(first(row, "endTime", "end_time"))
    begun = when(first(row, "completionStartTime", "completion_start_time"))
    return Call(
        request_id=request_id,
        shape="langfuse",
        messages=turns,
        answer=said.text,
        finish_reason=said.finish_reason,
        logged_at=start or when(first(trace, "timestamp", "createdAt")),
        endpoint=name(trace.get("name")),
        model=name(first(row, "model", "providedModelName")),
        status_code=500 if row.get("level") == "ERROR" else 200,
        prompt_tokens=whole(first(usage, "input", "promptTokens", "prompt_tokens")),
        tokens=whole(first(usage, "output", "completionTokens", "completion_tokens")),
        latency_ms=elapsed_ms(start, end),
        first_token_ms=elapsed_ms(start, begun),
        reactions=tuple(_scored(trace.get("scores"), request_id)),
        **about(trace, trace.get("metadata"), row.get("metadata")),
    )


def _scored(scores: Any, request_id: str) -> Iterator[Reaction]:
    """What people said of a Langfuse trace. A number is a share of 1 or, with a range beside it, a place in that."""
    for each in map(decoded, listed(scores)):
        if str(each.get("source", "API")).upper() == "EVAL":
            continue
        label, user = str(each.get("name")), name(first(each, "authorUserId", "author_user_id", "userId"))
        config = each.get("config") or {}
        low, high = number(config.get("minValue")), number(config.get("maxValue"))
        is_word = str(each.get("dataType", "")).upper() in ("BOOLEAN", "CATEGORICAL")
        value = first(each, "stringValue") if is_word and each.get("stringValue") else each.get("value")
        felt = feeling(value, 0 if low is None else low, 1 if high is None else high)
        source, at = f"langfuse:{label}:{user or 'unknown'}", when(first(each, "timestamp", "createdAt"))
        comment = name(each.get("comment"))
        if label == _EDIT and isinstance(each.get("stringValue"), str):
            yield Reaction(request_id, source, "edit", None, each["stringValue"], user, at)
        elif felt is not None:
            yield Reaction(request_id, source, "thumb" if is_word else "rating", felt, comment, user, at)


def _attributes(given: Any) -> dict[str, Any]:
    """Attributes by name, from OTLP's list of keys and typed values or from a mapping."""
    given = decoded(given)
    if isinstance(given, Mapping):
        return dict(given)
    return {each["key"]: _typed(each.get("value")) for each in listed(given)}


def _typed(value: Any) -> Any:
    """What an OTLP value holds."""
    if not isinstance(value, Mapping):
        return value
    if "arrayValue" in value:
        return [_typed(each) for each in listed(value["arrayValue"].get("values"))]
    if "kvlistValue" in value:
        return _attributes(value["kvlistValue"].get("values"))
    return next(iter(value.values()), None)


def _span(span: Row, shared: Row) -> Found:
    """One span that called a model, by today's attributes, by numbered ones, or by events."""
    said = {**shared, **_attributes(span.get("attributes"))}
    for event in listed(span.get("events")):
        said |= _event(str(event.get("name")), _attributes(event.get("attributes")), said)
    asked = decoded(first(said, "gen_ai.input.messages")) or _numbered(said, "gen_ai.prompt") or said.get("_asked")
    back = decoded(first(said, "gen_ai.output.messages")) or _numbered(said, "gen_ai.completion") or said.get("_said")
    if not asked:
        return "a span without the content of its messages: switch on content capture where it is traced"
    system = decoded(said.get("gen_ai.system_instructions"))
    turns = bodies.turns_of([*([{"role": "system", "content": system}] if system else []), *asked])
    if isinstance(turns, str):
        return turns
    last = back[-1] if isinstance(back, list) and back else {}
    reasons = listed(said.get("gen_ai.response.finish_reasons"))
    start = when(first(span, "startTimeUnixNano", "start_time_unix_nano", "start_time"))
    end = when(first(span, "endTimeUnixNano", "end_time_unix_nano", "end_time"))
    status = span.get("status") or {}
    failed = isinstance(status, Mapping) and status.get("code", status.get("status_code")) in (
        2,
        "STATUS_CODE_ERROR",
        "ERROR",
    )
    return Call(
        request_id=str(first(span, "spanId", "span_id")),
        shape="otel",
        messages=turns,
        answer=bodies.text_of(last) if last else None,
        finish_reason=name(reasons[0] if reasons else last.get("finish_reason")),
        logged_at=start,
        endpoint=name(said.get("service.name")),
        model=name(first(said, "gen_ai.response.model", "gen_ai.request.model")),
        status_code=whole(said.get("http.response.status_code")) or (500 if failed else 200),
        prompt_tokens=whole(first(said, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")),
        tokens=whole(first(said, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")),
        latency_ms=elapsed_ms(start, end),
        **about({"session": first(said, "gen_ai.conversation.id", "session.id")}, _personal(said)),
    )


def _personal(said: Row) -> dict[str, Any]:
    """Who asked and what they agreed to, of attributes that name it in full."""
    return {
        "user": first(said, "user.id", "enduser.id", "user.email"),
        "consent": said.get("consent"),
        "expires_at": said.get("expires_at"),
        "share": said.get("share"),
    }


def _event(label: str, event: Row, said: Row) -> dict[str, Any]:
    """Turns that stand in events of a span."""
    if label == "gen_ai.client.inference.operation.details":
        return dict(event)
    role = label.removeprefix("gen_ai.").removesuffix(".message")
    if role in ("system", "user", "assistant", "tool") and label != role:
        return {"_asked": [*said.get("_asked", []), {"role": role, **_content(event)}]}
    if label == "gen_ai.choice":
        turn = decoded(event.get("message")) or event
        return {"_said": [{"role": "assistant", **turn, "finish_reason": event.get("finish_reason")}]}
    return {}


def _content(event: Row) -> dict[str, Any]:
    return {
        key: decoded(event[key]) if key == "tool_calls" else event[key]
        for key in ("content", "tool_calls")
        if key in event
    }


def _numbered(said: Row, prefix: str) -> list[dict[str, Any]]:
    """Turns spread over attributes `prefix.0.role`, `prefix.0.content`, in order."""
    turns: dict[int, dict[str, Any]] = {}
    for key, value in said.items():
        place, _, field = key.removeprefix(f"{prefix}.").partition(".")
        if key.startswith(f"{prefix}.") and place.isdigit() and field in ("role", "content", "finish_reason"):
            turns.setdefault(int(place), {})[field] = value
    return [turns[place] for place in sorted(turns)]
