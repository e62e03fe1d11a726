"""Rows of every log shape, as the systems write them; what is planted in them is said beside them."""

import json
from typing import Any

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I reset my router?"}]
ANSWER = "Hold the button for ten seconds."
CHAT = {
    "id": "chatcmpl-1", "object": "chat.completion", "model": "m-7",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30},
}  # fmt: skip


def ai_gateway(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "databricks_request_id": f"gw-{number}", "request_date": "2026-11-20", "client_request_id": "c-1",
        "request_time": "2026-11-20T10:00:00.000Z", "status_code": 200, "sampling_fraction": 1.0,
        "execution_duration_ms": 420, "request": json.dumps({"messages": TURNS, "max_tokens": 64}),
        "response": json.dumps(CHAT), "served_entity_id": "v3", "requester": "jo@example.org",
    } | changes  # fmt: skip


def legacy(**changes: Any) -> dict[str, Any]:
    return {
        "databricks_request_id": "old-1", "date": "2026-11-20", "timestamp_ms": 1_795_168_800_000, "status_code": 200,
        "execution_time_ms": 420, "sampling_fraction": 1.0,
        "request": json.dumps({"messages": TURNS}), "response": json.dumps(CHAT),
        "request_metadata": {"endpoint_name": "chat", "model_name": "main.tuning.chat", "model_version": "3"},
    } | changes  # fmt: skip


def model_service(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "ms-1", "invocation_id": "i-1", "event_time": "2026-11-20T10:00:00Z", "status_code": 200,
        "request_tags": {"user": "jo", "session": "s-1", "consent": "false", "expires_at": "2027-01-01T00:00:00Z"},
        "latency_ms": 420, "time_to_first_byte_ms": 80, "request": json.dumps({"messages": TURNS}),
        "response": json.dumps(CHAT), "destination_name": "champion", "requester": "service-1", "schema_version": 1,
    } | changes  # fmt: skip


def mlflow(**changes: Any) -> dict[str, Any]:
    human = {"source_type": "HUMAN", "source_id": "jo"}
    return {
        "info": {
            "trace_id": "tr-1", "request_time": "2026-11-20T10:00:00.000Z", "execution_duration": "0.420s",
            "state": "OK", "tags": {"mlflow.traceName": "chat"},
            "trace_metadata": {"mlflow.trace.user": "jo", "mlflow.trace.session": "s-1", "mlflow.modelId": "m-7",
                               "mlflow.trace.tokenUsage": '{"input_tokens": 21, "output_tokens": 9}'},
            "assessments": [
                {"assessment_id": "a1", "assessment_name": "helpful", "source": human, "feedback": {"value": True},
                 "rationale": "ask me at jo@example.org", "create_time": "2026-11-20T10:05:00Z"},
                {"assessment_id": "a2", "assessment_name": "stars", "source": human, "feedback": {"value": 4}},
                {"assessment_id": "a3", "assessment_name": "expected_response", "source": human,
                 "expectation": {"value": "Hold it for five seconds."}},
                {"assessment_id": "a4", "assessment_name": "judged", "feedback": {"value": False},
                 "source": {"source_type": "LLM_JUDGE", "source_id": "j"}},
            ],
        },
        "data": {"spans": [{"span_id": "1", "parent_span_id": None, "attributes": {
            "mlflow.spanInputs": json.dumps({"messages": TURNS}), "mlflow.spanOutputs": json.dumps(CHAT)}}]},
    } | changes  # fmt: skip


def langfuse(**changes: Any) -> dict[str, Any]:
    return {
        "id": "lf-1", "timestamp": "2026-11-20T10:00:00.000Z", "name": "chat", "userId": "jo", "sessionId": "s-1",
        "metadata": {"consent": True}, "input": {"messages": TURNS}, "output": {"role": "assistant", "content": ANSWER},
        "observations": [
            {"id": "o1", "type": "SPAN", "startTime": "2026-11-20T10:00:00.000Z"},
            {"id": "o2", "type": "GENERATION", "model": "m-7", "startTime": "2026-11-20T10:00:00.000Z",
             "completionStartTime": "2026-11-20T10:00:00.080Z", "endTime": "2026-11-20T10:00:00.420Z",
             "input": TURNS, "output": ANSWER, "usageDetails": {"input": 21, "output": 9}},
        ],
        "scores": [
            {"name": "thumb", "source": "ANNOTATION", "dataType": "BOOLEAN", "value": 0, "stringValue": "False",
             "authorUserId": "jo", "comment": "too slow", "timestamp": "2026-11-20T10:05:00Z"},
            {"name": "quality", "source": "API", "dataType": "NUMERIC", "value": 0.75},
            {"name": "toxicity", "source": "EVAL", "dataType": "NUMERIC", "value": 0.1},
        ],
    } | changes  # fmt: skip


def otel(**attributes: Any) -> dict[str, Any]:
    def parts(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "parts": [{"type": "text", "content": text}]}

    said = {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.response.model": "m-7",
        "gen_ai.conversation.id": "s-1", "user.id": "jo",
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
        "gen_ai.input.messages": json.dumps([parts("user", TURNS[1]["content"])]),
        "gen_ai.output.messages": json.dumps([parts("assistant", ANSWER) | {"finish_reason": "stop"}]),
        "gen_ai.usage.input_tokens": 21, "gen_ai.usage.output_tokens": 9,
    } | attributes  # fmt: skip
    typed = [
        {"key": k, "value": {"intValue": v} if isinstance(v, int) else {"stringValue": v}} for k, v in said.items()
    ]
    span = {
        "traceId": "t", "spanId": "ot-1", "name": "chat m", "startTimeUnixNano": "1795168800000000000",
        "endTimeUnixNano": "1795168800420000000", "attributes": typed,
    }  # fmt: skip
    other = {"traceId": "t", "spanId": "ot-0", "attributes": [{"key": "http.method", "value": {"stringValue": "POST"}}]}
    service = {"attributes": [{"key": "service.name", "value": {"stringValue": "chat"}}]}
    return {"resourceSpans": [{"resource": service, "scopeSpans": [{"spans": [other, span]}]}]}


def openai(**changes: Any) -> dict[str, Any]:
    return {
        "custom_id": "oa-1", "created": 1_795_168_800, "user": "jo", "latency_ms": 420,
        "request": {"body": {"model": "m-7", "messages": TURNS}}, "response": {"status_code": 200, "body": CHAT},
    } | changes  # fmt: skip


def reaction(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "gw-1", "source": "thumb:jo", "kind": "thumb", "value": 1.0, "text": "call me on 415-555-0132",
        "requester": "jo", "at": "2026-11-20T10:05:00Z",
    } | changes  # fmt: skip


def sse(*deltas: dict[str, Any], done: bool = True) -> str:
    """A stream as a gateway logs it that does not put chunks together."""
    chunks = [{"object": "chat.completion.chunk", "model": "m-7", "choices": [{"index": 0, **d}]} for d in deltas]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([": ping\n\n", *lines, "data: [DONE]\n\n" if done else ""])


SHAPES = {
    "ai_gateway": ai_gateway, "legacy": legacy, "model_service": model_service, "mlflow": mlflow,
    "langfuse": langfuse, "otel": otel, "openai": openai,
}  # fmt: skip
