"""People's assessments on MLflow traces become records of choices.

A trace is one answer to one prompt, as `mlflow.entities.Trace.to_dict` writes it. Feedback that is true or false, or a
word for one of them, is a thumb; a number is a rating; the expectation `expected_response` is the answer as a person
would have had it, an edit. What a judge or a rule said is no person's choice. Not here: MLflow itself, and what follows
from a record (`taolake.curation.choices`).
"""

import json
from collections.abc import Mapping
from typing import Any

_PROMPTS = ("messages", "prompt", "question", "query", "input", "inputs")
_ANSWERS = ("content", "answer", "response", "output", "text", "result")
_EDIT = "expected_response"
_HUMAN = "HUMAN"


def records(trace: Mapping[str, Any], low: float = 1, high: float = 5) -> list[tuple[str, dict[str, Any] | str]]:
    """One entry per assessment of a trace: where it stood, and the record or the reason for refusing it.

    Args:
        trace: `Trace.to_dict()`.
        low: lowest rating of the scale, unless the assessment's metadata name another `low`.
        high: highest rating, likewise.
    """
    info = trace["info"]
    meta = info.get("trace_metadata") or {}
    roots = [span["attributes"] for span in trace["data"]["spans"] if not span.get("parent_span_id")]
    root = roots[0] if roots else {}
    asked = _decoded(root.get("mlflow.spanInputs", meta.get("mlflow.traceInputs")))
    said = _decoded(root.get("mlflow.spanOutputs", meta.get("mlflow.traceOutputs")))
    prompt, answer = prompt_of(asked), answer_of(said)
    found: list[tuple[str, dict[str, Any] | str]] = []
    for assessment in info.get("assessments") or []:
        place = f"{info['trace_id']}/{assessment['assessment_id']}"
        if prompt is None or answer is None:
            missing = "prompt in its inputs" if prompt is None else "answer in its outputs"
            found.append((place, f"no {missing}: wanted text, or turns under `messages`"))
            continue
        scale = {"low": low, "high": high} | dict(assessment.get("metadata") or {})
        judged = _judged(assessment, answer, scale)
        shared = {"prompt": prompt, "annotator": assessment["source"].get("source_id")}
        found.append((place, judged if isinstance(judged, str) else judged | shared))
    return found


def _judged(assessment: Mapping[str, Any], answer: str, scale: Mapping[str, Any]) -> dict[str, Any] | str:
    """The record's own fields, or why the assessment is none."""
    name, source = assessment["assessment_name"], assessment["source"].get("source_type")
    if source != _HUMAN:
        return f"given by {source}, not by a person"
    if assessment.get("valid") is False:
        return "overridden by a later one"
    if "expectation" in assessment:
        wanted = answer_of(_value(assessment["expectation"]))
        if name != _EDIT or wanted is None:
            return f"expectation {name!r} is no answer, wanted text under {_EDIT!r}"
        return {"kind": "edit", "original": answer, "edited": wanted}
    if "feedback" not in assessment:
        return f"{name!r} is neither feedback nor an expectation"
    if assessment["feedback"].get("error"):
        return "the feedback is an error"
    value = assessment["feedback"].get("value")
    if isinstance(value, bool | str):
        return {"kind": "thumb", "answer": answer, "thumb": value, "aspect": name}
    if isinstance(value, int | float):
        said = {"kind": "rating", "answer": answer, "rating": value, "aspect": name}
        return said | {"low": scale["low"], "high": scale["high"]}
    return f"feedback of type {type(value).__name__}, wanted true or false, a word or a number"


def prompt_of(inputs: Any) -> Any:
    """Find the conversation in a trace's inputs: turns, or a question as text; None where there is none."""
    if isinstance(inputs, str) and inputs.strip():
        return inputs
    if isinstance(inputs, list):
        return inputs
    if not isinstance(inputs, Mapping):
        return None
    for name in _PROMPTS:
        if inputs.get(name):
            return prompt_of(inputs[name])
    values = [value for value in inputs.values() if value]
    return prompt_of(values[0]) if len(values) == 1 else None


def answer_of(outputs: Any) -> str | None:
    """Find the answer in a trace's outputs: text, or what a chat endpoint or an agent gives."""
    if isinstance(outputs, str):
        return outputs if outputs.strip() else None
    if isinstance(outputs, list):
        return answer_of(outputs[-1]) if outputs else None
    if not isinstance(outputs, Mapping):
        return None
    for name in ("choices", "messages", "message", *_ANSWERS):
        if outputs.get(name):
            return answer_of(outputs[name])
    return None


def _value(expectation: Mapping[str, Any]) -> Any:
    """MLflow keeps structured expectations as text beside their format."""
    if "serialized_value" in expectation:
        return _decoded((expectation["serialized_value"] or {}).get("value"))
    return expectation.get("value")


def _decoded(value: Any) -> Any:
    """JSON text as its value, any other text as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):  # an answer is seldom JSON
        return value
