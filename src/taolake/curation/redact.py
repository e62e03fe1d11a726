"""Personal data in text is replaced by placeholders that mean the same thing throughout one conversation.

Microsoft Presidio's recognisers find it. Without a model they go by patterns and checksums: addresses of e-mail and of
machines, phones, cards, bank accounts. With the name of an installed spaCy model, names of persons too. Here is what is
asked of them and what becomes of what they find; not here: where the texts come from (`taolake.stages.collect`).
What no recogniser knows stays: this lowers the risk, it does not end it.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from taolake.imports import without

_SURE = 0.4  # Presidio's own score of a phone number that could be dialled
_PERSON = "PERSON"
_WEIGHTY = ("torch", "transformers", "tensorflow", "mxnet")
_WORDS = {"EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "CREDIT_CARD": "CARD", "IBAN_CODE": "IBAN"}
_WORDS |= {"IP_ADDRESS": "IP", "US_SSN": "SSN", _PERSON: "PERSON"}
# Most texts hold nothing of a kind, and a pattern this plain says so at once: asking every recogniser about every text
# took nine times as long.
_MAY_HOLD = {
    "EMAIL_ADDRESS": re.compile("@"),
    "PHONE_NUMBER": re.compile(r"(?:\d[^\w\n]{0,3}){6,}\d"),
    "CREDIT_CARD": re.compile(r"(?:\d[ -]?){11,}\d"),
    "IBAN_CODE": re.compile(r"[A-Za-z]{2}\d{2}"),
    "IP_ADDRESS": re.compile(r"\d\.\d|[0-9A-Fa-f]:[0-9A-Fa-f:]"),
    "US_SSN": re.compile(r"\d{3}[- .]?\d{2}[- .]?\d{4}"),
}
# Numbers that are no phone's, whatever could be dialled: moments, short numbers, the names of orders and invoices.
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}:\d{2}")
_CALLED = re.compile(r"\b(?:order|invoice|ticket|sku|version|build)[.:#\s]*$", re.IGNORECASE)
_PHONE_DIGITS = 7
# Presidio's own without CA, whose numbers are shaped like US ones.
_REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "BR")


class Span(NamedTuple):
    """Where personal data stands in a text."""

    start: int
    end: int
    kind: str


class Redactor:
    """Replaces personal data; made once a process, since the recognisers take seconds to load.

    Args:
        model: an installed spaCy model that finds names; None: by patterns alone.
    """

    def __init__(self, model: str | None = None) -> None:
        self._recognisers = _recognisers()
        self._names = _names(model) if model else None

    def find(self, text: str) -> list[Span]:
        """Personal data in a text, in order and without overlap; of overlapping finds the surer, then the longer."""
        found: list[tuple[float, Span]] = []
        for kind, recogniser in self._recognisers:
            if _MAY_HOLD[kind].search(text):
                for each in recogniser.analyze(text, [kind], None):
                    span = Span(each.start, each.end, kind)
                    if each.score >= _SURE and not (kind == "PHONE_NUMBER" and _is_no_phone(text, span)):
                        found.append((each.score, span))
        if self._names is not None:
            found += [(_SURE, span) for span in self._names(text)]
        taken: list[Span] = []
        for _, span in sorted(found, key=lambda f: (-f[0], f[1].start - f[1].end, f[1].start)):
            if all(span.end <= other.start or span.start >= other.end for other in taken):
                taken.append(span)
        return sorted(taken)

    def redact(self, texts: Sequence[str | None]) -> list[str | None]:
        """The texts of one conversation without personal data; equal values get equal placeholders in all of them."""
        known: dict[tuple[str, str], str] = {}
        return [None if text is None else self._one(text, known) for text in texts]

    def _one(self, text: str, known: dict[tuple[str, str], str]) -> str:
        parts, at = [], 0
        for span in self.find(text):
            word = _WORDS[span.kind]
            value = word, _same(span.kind, text[span.start : span.end])
            if value not in known:
                known[value] = f"<{word}_{1 + sum(w == word for w, _ in known)}>"
            parts += [text[at : span.start], known[value]]
            at = span.end
        return "".join((*parts, text[at:]))


@cache
def redactor(model: str | None = None) -> Redactor:
    """The redactor of this process."""
    return Redactor(model)


def _same(kind: str, value: str) -> str:
    """What two spellings of one value have in common."""
    if kind in ("PHONE_NUMBER", "CREDIT_CARD", "US_SSN"):
        return re.sub(r"\D", "", value)
    return re.sub(r"\s", "", value).casefold() if kind == "IBAN_CODE" else value.casefold()


def _is_no_phone(text: str, span: Span) -> bool:
    value, before = text[span.start : span.end], text[max(0, span.start - 12) : span.start]
    few = sum(map(str.isdigit, value)) < _PHONE_DIGITS
    return few or bool(_MOMENT.search(value) or _CALLED.search(before))


def _recognisers() -> list[tuple[str, Any]]:
    """Presidio's recognisers that need no model, by what they find."""
    _load()
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UsSsnRecognizer,
    )

    return [
        ("EMAIL_ADDRESS", _email()),
        ("IBAN_CODE", IbanRecognizer()),
        ("CREDIT_CARD", CreditCardRecognizer()),
        ("IP_ADDRESS", IpRecognizer()),
        ("US_SSN", UsSsnRecognizer()),
        ("PHONE_NUMBER", PhoneRecognizer(supported_regions=_REGIONS)),
    ]


def _load() -> None:
    """Import Presidio without the training libraries.

    It imports spaCy, and that whatever tensor library it finds: 38 s and 890 MiB with torch, 5 s and 110 MiB without
    (2 cores), in every worker. Nothing that is used here needs one. Where torch is loaded already it is used.
    """
    with without(*_WEIGHTY):
        import presidio_analyzer.predefined_recognizers  # noqa: F401


def _email() -> Any:
    """Presidio's recogniser of e-mail, which would fetch a list of domains from the network to check what it found.

    Nothing here goes out: a domain under no known suffix (`user@host.internal`) is an address too.
    """
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    class Offline(EmailRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return True

    return Offline()


def require(model: str | None) -> None:
    """Say at once, and not in a worker, that a model is missing.

    Raises:
        ValueError: the model is not installed.
    """
    if model is not None and importlib.util.find_spec(model) is None:
        raise ValueError(f"collect.names {model!r} is no installed spaCy model; install it, or leave `names` out")


def _names(model: str) -> Callable[[str], Iterable[Span]]:
    """Finder of persons' names."""
    import spacy

    require(model)
    pipeline = spacy.load(model, exclude=["parser", "lemmatizer", "attribute_ruler", "tagger"])

    def find(text: str) -> Iterable[Span]:
        found = [e for e in pipeline(text).ents if e.label_ in ("PERSON", "PER")]
        # A small model takes numbers and placeholders for names; nobody's name has a digit in it.
        return [Span(e.start_char, e.end_char, _PERSON) for e in found if not any(map(str.isdigit, e.text))]

    return find
