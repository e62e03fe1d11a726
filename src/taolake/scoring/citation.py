"""The `citation` scorer: are the answer's quotations in the document that the conversation holds?

Words are compared, whatever their case, spacing and punctuation. It says that a quotation is there, not that it
supports what the answer makes of it.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from taolake.config import CitationScorer
from taolake.scoring.checks import MAX_ANSWER_CHARS, require_pattern
from taolake.types import Message, Score

MAX_QUOTATIONS = 500
_EXCERPT_CHARS = 80
_MAX_NAMED = 10
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Citation:
    """The `citation` scorer: the share of the answer's quotations that the document holds; 0 where it quotes nothing.

    Raises:
        ValueError: the pattern is malformed, or has no group for what is quoted.
    """

    spec: CitationScorer

    def __post_init__(self) -> None:
        require_pattern(self.spec.name, self.spec.pattern)
        if not re.compile(self.spec.pattern).groups:
            got = f"got pattern {self.spec.pattern!r}"
            raise ValueError(f"scorer {self.spec.name!r}: {got}, wanted a group around the words that are quoted")

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Look for every quotation of the answer."""
        spec = self.spec
        if len(answer) > MAX_ANSWER_CHARS:
            error = f"got an answer of {len(answer)} characters, wanted at most {MAX_ANSWER_CHARS}"
            return Score(None, "abstain", detail={"error": error})
        turns = [words(turn["content"]) for turn in messages if spec.document in ("all", turn["role"])]
        turns = [turn for turn in turns if turn]  # one by one: a quotation does not reach over two turns
        if not turns:
            return Score(None, "abstain", detail={"error": f"no turn of {spec.document!r} holds a document"})
        quoted = [found[1] for found in re.finditer(spec.pattern, answer) if found[1] and words(found[1])]
        if not quoted:
            return Score(0.0, detail={"error": "the answer quotes nothing"})
        if len(quoted) > MAX_QUOTATIONS:
            error = f"got {len(quoted)} quotations, wanted at most {MAX_QUOTATIONS}"
            return Score(None, "abstain", detail={"error": error})
        missing = [text for text in quoted if not any(holds(turn, words(text), spec.threshold) for turn in turns)]
        detail: dict[str, object] = {"quotations": len(quoted), "found": len(quoted) - len(missing)}
        if missing:
            detail["missing"] = [text[:_EXCERPT_CHARS] for text in missing[:_MAX_NAMED]]
        return Score(1 - len(missing) / len(quoted), detail=detail)


def words(text: str) -> list[str]:
    """A text's words in lower case, without punctuation and in one Unicode form."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def holds(document: Sequence[str], quotation: Sequence[str], threshold: float) -> bool:
    """Whether a run of the quotation's words, at least `threshold` of them all, stands in the document as it is."""
    if f" {' '.join(quotation)} " in f" {' '.join(document)} ":
        return True
    matcher = SequenceMatcher(None, document, quotation, autojunk=False)
    longest = matcher.find_longest_match()
    return longest.size >= max(1.0, threshold * len(quotation))
