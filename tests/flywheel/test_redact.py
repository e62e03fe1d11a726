"""Personal data: what is found and what is not, and that a placeholder means the same throughout a conversation."""

import sys

import pytest

from taolake.curation.redact import Redactor


@pytest.fixture(scope="module")
def clean() -> Redactor:
    return Redactor()


FOUND = [
    ("write to jo.doe+x@mail.example.co.uk.", "write to <EMAIL_1>."),
    ("jo@host.internal", "<EMAIL_1>"),
    ("call (415) 555-0132 today", "call <PHONE_1> today"),
    ("ring +49 30 901820 or +44 20 7946 0958", "ring <PHONE_1> or <PHONE_2>"),
    ("at 10:15: 415-555-0132", "at 10:15: <PHONE_1>"),
    ("card 4111 1111 1111 1111 expired", "card <CARD_1> expired"),
    ("pay DE89 3704 0044 0532 0130 00 now", "pay <IBAN_1> now"),
    ("from 192.168.17.4 and 2001:db8::1", "from <IP_1> and <IP_2>"),
    ("my SSN is 536-22-1875", "my SSN is <SSN_1>"),
]


@pytest.mark.parametrize(("text", "wanted"), FOUND)
def test_is_replaced(clean: Redactor, text: str, wanted: str) -> None:
    assert clean.redact([text]) == [wanted]


LEFT = [
    "order 4155550132 was late",
    "on 2026-11-22 at 10:15:30",
    "card 4111 1111 1111 1112 is no card",
    "it costs 3584.11 dollars",
    "12345678 pieces at 3.14 each",
    "a@b means nothing",
    "select avg(price) from t where id between 1000000 and 2000000",
]


@pytest.mark.parametrize("text", LEFT)
def test_is_left(clean: Redactor, text: str) -> None:
    assert clean.redact([text]) == [text]


def test_one_value_has_one_placeholder_in_all_texts_and_another_has_another(clean: Redactor) -> None:
    said = clean.redact(
        ["I am jo@example.org", None, "Jo@example.org? Or al@example.org?", "415-555-0132", "(415) 555-0132"]
    )
    assert said == ["I am <EMAIL_1>", None, "<EMAIL_1>? Or <EMAIL_2>?", "<PHONE_1>", "<PHONE_1>"]


def test_text_that_was_redacted_stays(clean: Redactor) -> None:
    once = clean.redact([text for text, _ in FOUND])
    assert clean.redact(once) == once


def test_loading_brings_no_training_library_along() -> None:
    """In another interpreter: here they may be loaded already."""
    import subprocess

    script = "import sys; from taolake.curation.redact import Redactor; Redactor(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "presidio_analyzer" in loaded
    assert not {"torch", "transformers"} & set(loaded)


def test_a_model_that_is_not_installed_is_named() -> None:
    with pytest.raises(ValueError, match="'no_such_model' is no installed spaCy model"):
        Redactor("no_such_model")
