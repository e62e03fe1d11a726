"""What can be checked of an answer about a document without knowing the right one: its figures, quotations, refusals.

Three scorers of kind `function` for `conf/filings.yml`. They read the document in the system turn and the question, and
say what is wrong for certain: a figure that is neither in the document nor worked out from it, a quotation that is not
there, is missing or is of another line, an answer where nothing is stated, a refusal where something is. That an answer
says of its line what was asked for they do not say; people's choices do.
"""

import re
from collections.abc import Iterator, Sequence

from taolake.config import CitationScorer
from taolake.demo.filings_data import REFUSAL
from taolake.scoring.citation import Citation, words
from taolake.types import Message, Score

_NUMBER = re.compile(r"-?\d+")
_SUM = re.compile(r"(-?\d+) ([-+]) (-?\d+) = (-?\d+)")
_QUOTATION = re.compile(r'"([^"]+)"')
_QUOTED = CitationScorer(kind="citation", name="quoted", document="system", pattern=_QUOTATION.pattern, threshold=1.0)
# Words of a question that say how it is asked, and not about what.
_ASKING = {
    "what", "was", "is", "the", "of", "in", "how", "much", "does", "did", "do", "for", "and", "together",
    "total", "change", "from", "to", "when", "are", "on", "which", "terms", "at", "report",
    "first", "last", "year",
}  # fmt: skip


def numbers(messages: Sequence[Message], answer: str) -> Score:
    """1 where every figure stands in the document or is the result of a calculation with those that do.

    The answer key is what the answer says beside its quotation: a calculation's result, else its words.
    """
    said = _QUOTATION.sub("", answer).strip()
    stated = set(_NUMBER.findall(_document(messages)))
    worked_out = _SUM.fullmatch(said)
    if worked_out:
        first, sign, last, result = worked_out.groups()
        right = int(first) + int(last) if sign == "+" else int(first) - int(last)
        return Score(float({first, last} <= stated and int(result) == right), answer_key=str(int(result)))
    return Score(float(set(_NUMBER.findall(said)) <= stated), answer_key=" ".join(words(said)))


def quotations(messages: Sequence[Message], answer: str) -> float:
    """1 where the answer refuses, or quotes the document word by word and each quotation names what is asked about."""
    if answer.strip() == REFUSAL:
        return 1.0
    title = _document(messages).partition("\n")[0]
    subject = set(_asked_about(messages[-1]["content"])) - set(words(title))
    to_the_point = all(subject & set(words(quoted)) for quoted in _QUOTATION.findall(answer))
    return float(to_the_point and Citation(_QUOTED)(messages, answer).value == 1.0)


def refusals(messages: Sequence[Message], answer: str) -> float:
    """1 where the answer refuses, if the document lacks a word of what is asked, and does not refuse if it has all."""
    document = set(words(_document(messages)))
    missing = any(word not in document for word in _asked_about(messages[-1]["content"]))
    return float((answer.strip() == REFUSAL) == missing)


def _document(messages: Sequence[Message]) -> str:
    return "\n".join(turn["content"] for turn in messages if turn["role"] == "system")


def _asked_about(question: str) -> Iterator[str]:
    return (word for word in words(question) if word not in _ASKING)
