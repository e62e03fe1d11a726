"""Quotations: what counts as one, where it must stand, and what share of them decides."""

import pickle

import pytest

from taolake.config import CitationScorer
from taolake.scoring import build, version
from taolake.scoring.citation import MAX_QUOTATIONS
from taolake.types import Message, Scorer

DOCUMENT = "The lease ends on 31 March 2025. Either party may\nterminate with ninety days' notice — in writing."
MESSAGES: list[Message] = [
    {"role": "system", "content": DOCUMENT},
    {"role": "user", "content": "When does the contract with Ørsted end?"},
]


def scorer(**options: object) -> Scorer:
    return build(CitationScorer.model_validate({"kind": "citation", "name": "cites", **options}))


@pytest.mark.parametrize(
    ("answer", "value", "missing"),
    [
        ('It says "the lease ends on 31 march 2025".', 1.0, None),
        ('"Either party may terminate with ninety days notice"', 1.0, None),
        ('"EITHER   PARTY; may (terminate)"', 1.0, None),
        (
            '"The lease ends on 31 March 2025" and "a penalty of two rents is due"',
            0.5,
            ["a penalty of two rents is due"],
        ),
        ('"The lease ends on 31 May 2025"', 0.0, ["The lease ends on 31 May 2025"]),
        ('"ends on March 31 2025"', 0.0, ["ends on March 31 2025"]),
        ('"the contract with Ørsted"', 1.0, None),
        ('"in writing when does"', 0.0, ["in writing when does"]),
        ('"lease end"', 0.0, ["lease end"]),
        ("It ends in March.", 0.0, None),
        ('"short"', 0.0, None),
        ('"--------"', 0.0, None),
        ("", 0.0, None),
    ],
)
def test_share_of_quotations_found(answer: str, value: float, missing: list[str] | None) -> None:
    score = scorer()(MESSAGES, answer)
    assert (score.value, score.status, score.detail.get("missing")) == (value, "ok", missing)
    assert ("error" in score.detail) is (value == 0.0 and missing is None)


@pytest.mark.parametrize(("threshold", "value"), [(0.85, 1.0), (0.86, 0.0), (1.0, 0.0)])
def test_threshold_is_a_share_of_the_words_in_one_run(threshold: float, value: float) -> None:
    quotation = '"the lease ends on 31 March 2026"'  # six of its seven words
    assert scorer(threshold=threshold)(MESSAGES, quotation).value == value


@pytest.mark.parametrize(
    ("document", "value"), [("system", 0.0), ("user", 1.0), ("all", 1.0)]
)  # fmt: skip
def test_document_is_where_the_quotation_must_stand(document: str, value: float) -> None:
    assert scorer(document=document)(MESSAGES, '"the contract with Ørsted"').value == value


def test_own_pattern_and_no_document() -> None:
    assert scorer(pattern=r"«(.+?)»")(MESSAGES, "«ninety days»").value == 1.0
    score = scorer(document="system")([{"role": "user", "content": "Hello?"}], '"the lease ends"')
    assert (score.value, score.status) == (None, "abstain")


def test_bounds() -> None:
    assert scorer()(MESSAGES, '"the lease ends" ' * (MAX_QUOTATIONS + 1)).status == "abstain"
    assert scorer()(MESSAGES, "x" * 60_000).status == "abstain"
    long = scorer()(MESSAGES, '"' + "word " * 100 + '"')
    assert [len(text) for text in long.detail["missing"]] == [80]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("pattern", "reason"), [("(", "wanted a regex"), ("", "0 characters"), ('"x+"', "a group")])
def test_malformed_pattern_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scorer(pattern=pattern)


def test_pickles_and_has_a_version() -> None:
    rule = scorer()
    assert pickle.loads(pickle.dumps(rule))(MESSAGES, '"ninety days"') == rule(MESSAGES, '"ninety days"')
    assert version(rule.spec) != version(rule.spec.model_copy(update={"threshold": 0.5}))  # type: ignore[attr-defined]
