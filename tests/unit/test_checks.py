"""Rules over text, and the scorer factory: values, answer keys, and what is refused before a round starts."""

import math
import pickle
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from taolake.config import CheckScorer, FunctionScorer, ScorerSpec
from taolake.scoring import build, version
from taolake.scoring.checks import MAX_ANSWER_CHARS, last_number
from taolake.types import Score, Scorer


def scorer(kind: str, **options: object) -> Scorer:
    return build(CheckScorer.model_validate({"kind": kind, "name": "rule", **options}))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", None),
        ("no number", None),
        ("42", 42.0),
        ("The answer is 42.", 42.0),
        ("first 1 then 2", 2.0),
        ("-7", -7.0),
        ("\u22127", -7.0),
        ("3-4", 4.0),
        ("2024-01", 1.0),
        ("$1,234,567.50", 1234567.5),
        ("-$5", -5.0),
        ("1\u202f234", 1234.0),
        ("1,2345", 2345.0),
        ("45%", 0.45),
        ("45 %", 0.45),
        (".5", 0.5),
        ("6.02e23", 6.02e23),
        ("5 kg of CO2", 5.0),
        ("Größe: 12 µm", 12.0),
        ("٣", 3.0),
        ("9" * 400, None),
        ("nan inf", None),
    ],
)
def test_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == (None if number is None else pytest.approx(number, rel=1e-12))


@pytest.mark.parametrize(
    ("target", "tolerance", "answer", "value", "key"),
    [
        (42, 1e-6, "it is 42.0", 1.0, "42"),
        (42, 1e-6, "it is 43", 0.0, "43"),
        (100, 0.01, "100.9", 1.0, "100.9"),
        (100, 0.01, "101.1", 0.0, "101.1"),
        (-100, 0.01, "-100.9", 1.0, "-100.9"),
        (0, 0.5, "0", 1.0, "0"),
        (0, 0.5, "0.1", 0.0, "0.1"),
        (0.45, 1e-6, "45%", 1.0, "0.45"),
        (None, 1e-6, "1,000", 1.0, "1000"),
        (None, 1e-6, "-0", 1.0, "0"),
        (None, 1e-6, "none", 0.0, None),
        (None, 1e-6, "", 0.0, None),
    ],
)
def test_numeric(target: float | None, tolerance: float, answer: str, value: float, key: str | None) -> None:
    score = scorer("numeric", target=target, tolerance=tolerance)([], answer)
    assert (score.value, score.answer_key, score.status) == (value, key, "ok")


@pytest.mark.parametrize(
    ("pattern", "answer", "value", "key"),
    [
        ("yes", " yes\n", 1.0, "yes"),
        ("yes", "Yes", 0.0, "Yes"),
        ("two  words", "two\nwords", 1.0, "two words"),
        ("é", "e\u0301", 1.0, "é"),
        ("yes", "", 0.0, None),
        ("", "anything", 1.0, "anything"),
        ("", "  ", 0.0, None),
    ],
)
def test_exact(pattern: str, answer: str, value: float, key: str | None) -> None:
    score = scorer("exact", pattern=pattern)([], answer)
    assert (score.value, score.answer_key) == (value, key)


@pytest.mark.parametrize(
    ("pattern", "answer", "value", "key"),
    [
        (r"\d+", "a 12 b", 1.0, "12"),
        (r"is (\w+)", "it is blue", 1.0, "blue"),
        (r"^x", "ax", 0.0, None),
        (r".", "", 0.0, None),
        (r"ß", "Straße", 1.0, "ß"),
    ],
)
def test_regex(pattern: str, answer: str, value: float, key: str | None) -> None:
    score = scorer("regex", pattern=pattern)([], answer)
    assert (score.value, score.answer_key) == (value, key)


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}


@pytest.mark.parametrize(
    ("answer", "value", "key"),
    [
        ('{"n": 2, "s": "é"}', 1.0, '{"n":2,"s":"é"}'),
        ('{"s": "\\u00e9", "n": 2.0}', 1.0, '{"n":2,"s":"é"}'),
        ('{"n": "2"}', 0.0, None),
        ("{}", 0.0, None),
        ("{", 0.0, None),
        ("", 0.0, None),
        ('```json\n{"n": 2}\n```', 0.0, None),
        ('{"n": NaN}', 0.0, None),
        ('{"n": 1e999}', 0.0, None),
        ("[" * 20_000, 0.0, None),
    ],
)
def test_json_schema(answer: str, value: float, key: str | None) -> None:
    score = scorer("json_schema", schema=SCHEMA)([], answer)
    assert (score.value, score.answer_key, score.status) == (value, key, "ok")
    assert bool(score.detail.get("error")) is (value == 0)


@pytest.mark.parametrize("kind", ["exact", "numeric", "json_schema", "regex"])
def test_overlong_answer_is_not_judged(kind: str) -> None:
    score = scorer(kind, pattern="1")([], "1" * (MAX_ANSWER_CHARS + 1))
    assert (score.value, score.status) == (None, "abstain")


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("regex", {"pattern": ""}, "0 characters"),
        ("regex", {"pattern": "x" * 501}, "501 characters"),
        ("regex", {"pattern": "("}, "wanted a regex"),
        ("json_schema", {"schema": {"type": "objekt"}}, "not a JSON Schema"),
    ],
)
def test_malformed_rule_is_refused(kind: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scorer(kind, **options)


def half(messages: object, answer: str, *, bonus: float = 0.0) -> object:
    """A user's function: what it returns depends on the answer."""
    if answer == "crash":
        raise RuntimeError("boom")
    return {"none": None, "nan": math.nan, "big": 7, "true": True, "score": Score(0.25, answer_key="k")}.get(
        answer, 0.5 + bonus
    )


def function_spec(**options: object) -> FunctionScorer:
    return FunctionScorer.model_validate(
        {"kind": "function", "name": "mine", "target": f"{__name__}:half", "options": options}
    )


@pytest.mark.parametrize(
    ("answer", "value", "status"),
    [
        ("x", 0.5, "ok"),
        ("true", 1.0, "ok"),
        ("none", None, "abstain"),
        ("nan", None, "abstain"),
        ("big", None, "error"),
        ("crash", None, "error"),
        ("score", 0.25, "ok"),
    ],
)
def test_function_scorer(answer: str, value: float | None, status: str) -> None:
    score = build(function_spec())([], answer)
    assert (score.value, score.status) == (value, status)


def test_function_scorer_passes_options_and_says_what_broke() -> None:
    assert build(function_spec(bonus=0.25))([], "x").value == 0.75
    assert build(function_spec())([], "crash").detail == {"error": "RuntimeError: boom"}
    assert "wanted a value from 0 to 1" in str(build(function_spec())([], "big").detail["error"])


@pytest.mark.parametrize("target", ["no_such_module_here:f", "math:no_such_name", "math:pi"])
def test_function_that_does_not_import_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="wanted"):
        build(FunctionScorer.model_validate({"kind": "function", "name": "f", "target": target}))


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "agreement", "over": "runs"},
        {"kind": "relevance", "encoder": "folder"},
        {"kind": "judge", "rubric": "good", "judges": [{"kind": "endpoint", "url": "http://x/v1", "model": "m"}]},
        {"kind": "mlflow_judge", "instructions": "{{ outputs }}", "model": "openai:/m"},
        {"kind": "reward_model"},
        {"kind": "sql", "dialect": "spark", "database": "shop"},
    ],
)
def test_group_and_engine_scorers_are_not_built_here(options: dict[str, object]) -> None:
    spec: ScorerSpec = TypeAdapter(ScorerSpec).validate_python({"name": "other", **options})
    with pytest.raises(ValueError, match="score stage"):
        build(spec)
    assert len(version(spec)) == 12


@pytest.mark.parametrize("spec", [{"kind": "json_schema", "schema": SCHEMA}, {"kind": "numeric"}])
def test_checks_survive_pickling(spec: dict[str, object]) -> None:
    rule = scorer(**spec)  # type: ignore[arg-type]
    assert rule([], '{"n": 1}').value == 1.0
    assert pickle.loads(pickle.dumps(rule))([], '{"n": 1}') == rule([], '{"n": 1}')


def test_version_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "taolake_probe_module.py"
    source.write_text("def f(messages, answer):\n    return 1\n", encoding="utf-8")
    spec = FunctionScorer.model_validate({"kind": "function", "name": "f", "target": "taolake_probe_module:f"})
    first = version(spec)
    assert first == version(spec)
    source.write_text("def f(messages, answer):\n    return 0\n", encoding="utf-8")
    assert version(spec) != first
    assert version(function_spec()) != version(function_spec(bonus=1))


@pytest.mark.parametrize(
    ("unit", "target", "answer", "value", "number"),
    [
        ("km", 5, "It is 5 km.", 1.0, 5.0),
        ("km", 5, "It is 5,000 m away", 1.0, 5.0),
        ("km", 5, "5000 metres", 1.0, 5.0),
        ("km", 5, "3.10686 miles", 0.0, 3.10686 * 1.609344),
        ("km", 5, "5", 1.0, 5.0),
        ("km", 5, "5 km, as of 2024", 1.0, 5.0),
        ("km", 5, "5 kg", 0.0, None),
        ("km", 5, "none", 0.0, None),
        ("m", 2, "200cm", 1.0, 2.0),
        ("ft", 10, "120 in", 1.0, 10.0),
        ("ft", 10, "10 feet", 1.0, 10.0),
        ("mm", 25.4, "1 inch", 1.0, 25.4),
        ("lb", 1, "453.59237 g", 1.0, 1.0),
        ("kg", 2, "2 Kg", 1.0, 2.0),
        ("min", 90, "1.5 hours", 1.0, 90.0),
        ("h", 48, "2 days", 1.0, 48.0),
        ("GB", 1.5, "1500 MB", 1.0, 1.5),
        ("MiB", 1, "1024 KiB", 1.0, 1.0),
        ("MB", 1, "8 Mb", 1.0, 1.0),
        ("%", 45, "45 %", 1.0, 45.0),
        ("%", 45, "45 percent", 1.0, 45.0),
        ("%", 45, "45", 1.0, 45.0),
        ("%", 0.5, "50 bps", 1.0, 0.5),
        ("USD", 1_500_000, "$1.5M", 1.0, 1_500_000.0),
        ("USD", 1_500_000, "1.5 million dollars", 1.0, 1_500_000.0),
        ("USD", 1_500_000, "USD 1,500k", 1.0, 1_500_000.0),
        ("$", 2e9, "2 bn USD", 1.0, 2e9),
        ("$", 5e9, "$5B", 1.0, 5e9),
        ("EUR", 12, "-€12", 0.0, -12.0),
        ("EUR", 12, "12 €", 1.0, 12.0),
        ("EUR", 12, "$12", 0.0, None),
        ("EUR", 12, "€12 (about $13)", 1.0, 12.0),
        ("B", 5, "5 B", 1.0, 5.0),
        ("s", 3, "3 apples", 1.0, 3.0),
    ],
)
def test_numeric_with_a_unit(unit: str, target: float, answer: str, value: float, number: float | None) -> None:
    score = scorer("numeric", unit=unit, target=target)([], answer)
    assert (score.value, score.status) == (value, "ok")
    assert score.detail.get("number") == (None if number is None else pytest.approx(number, rel=1e-9))
    assert ("error" in score.detail) is (number is None)


def test_number_of_another_kind_says_so() -> None:
    assert scorer("numeric", unit="km", target=5)([], "5 kg").detail == {"error": "the number is a mass, wanted km"}


@pytest.mark.parametrize("unit", ["celsius", "smoot", "°C"])
def test_unknown_unit_is_refused(unit: str) -> None:
    with pytest.raises(ValueError, match=unit):
        scorer("numeric", unit=unit)


@pytest.mark.parametrize(
    ("pattern", "answer", "threshold", "value", "similarity"),
    [
        ("New York City", "new  york city", 0.9, 1.0, 1.0),
        ("New York City", "New York", 0.9, 0.0, 0.7619),
        ("New York City", "New York", 0.76, 1.0, 0.7619),
        ("colour", "color", 0.9, 1.0, 0.9091),
        ("abc", "xyz", 0.9, 0.0, 0.0),
        ("abc", "", 0.9, 0.0, 0.0),
        ("abc", "", 0.0, 1.0, 0.0),
        ("word " * 1000, "word " * 999 + "other", 0.9, 1.0, 0.999),
    ],
)
def test_fuzzy(pattern: str, answer: str, threshold: float, value: float, similarity: float) -> None:
    score = scorer("fuzzy", pattern=pattern, threshold=threshold)([], answer)
    assert (score.value, score.detail) == (value, {"similarity": similarity})


def test_fuzzy_without_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted `pattern`"):
        scorer("fuzzy", pattern="  ")
