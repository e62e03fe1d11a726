"""Tags for questions that no rule fits: a classifier, learned anew in every run, that says nothing where it is unsure.

Words and pairs of words by TF-IDF, and one logistic regression a tag against all the others: a question that is like
none of them is refused by each. Nothing is kept between runs, so no file has to be trusted. Not here: rules
(`taolake.curation.worth`), Spark (`taolake.stages.curate`).
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taolake import ids
from taolake.config import Classifier

OTHER = "other"  # what a file calls questions of no tag
# Scripts without spaces give single characters, of which pairs are made like words.
_ALONE = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = rf"[{_ALONE}]|[^\W_{_ALONE}]+"
_FEATURES = 50_000
_HELD_OUT = 0.2  # of what is known, to say how often the classifier is right


@dataclass(frozen=True)
class Example:
    """A question whose tag is known."""

    text: str
    tag: str


@dataclass(frozen=True)
class Ruled:
    """What rules say of a question.

    Attributes:
        tag: the first rule that fits.
        rest: for one rule alone, the question without what that rule looks for; None where it is not sure.
    """

    tag: str | None
    rest: str | None


def ruled(question: str, rules: Mapping[str, str]) -> Ruled:
    """Tag a question by rules. A classifier must learn from the rest: no question that it is asked has the words."""
    fits = [name for name, pattern in rules.items() if re.search(pattern, question, re.IGNORECASE)]
    rest = re.sub(rules[fits[0]], " ", question, flags=re.IGNORECASE) if len(fits) == 1 else None
    return Ruled(fits[0] if fits else None, rest)


class Tagger:
    """A fitted classifier; it travels to executors as it is."""

    def __init__(self, examples: Sequence[Example], confidence: float) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self._confidence = confidence
        self._words = TfidfVectorizer(
            token_pattern=_TOKEN, ngram_range=(1, 2), sublinear_tf=True, max_features=_FEATURES
        )
        given = sorted(examples, key=lambda e: (e.text, e.tag))  # the order they come in changes nothing
        rows = self._words.fit_transform([e.text for e in given])
        self.names = sorted({e.tag for e in given} - {OTHER})
        self._models: list[Any] = [
            LogisticRegression(C=10.0, class_weight="balanced", solver="liblinear", random_state=0).fit(
                rows, [e.tag == name for e in given]
            )
            for name in self.names
        ]

    def tags(self, questions: Sequence[str]) -> list[str | None]:
        """The tag of each question; None where no tag, or more than one, is sure enough."""
        if not questions:
            return []
        rows = self._words.transform(questions)
        sure = [model.predict_proba(rows)[:, 1].round(6) >= self._confidence for model in self._models]
        told = [[name for name, fits in zip(self.names, row, strict=True) if fits] for row in zip(*sure, strict=True)]
        return [names[0] if len(names) == 1 else None for names in told]


def learn(examples: Sequence[Example], spec: Classifier) -> tuple[Tagger | None, dict[str, Any]]:
    """A classifier, and how well it does on a fifth of the examples that it did not see; None where too few are known.

    A tag with fewer than `spec.min_examples` is learned as one of the others.
    """
    counts = Counter(e.tag for e in examples)
    names = {tag for tag, count in counts.items() if tag != OTHER and count >= spec.min_examples}
    facts: dict[str, Any] = {"examples": len(examples), "tags": sorted(names)}
    known = [e if e.tag in names else Example(e.text, OTHER) for e in examples]
    if not names or len({e.tag for e in known}) < 2:
        return None, facts
    apart = [ids.unit_interval("tagger", e.text) < _HELD_OUT for e in known]
    rest = [e for e, held in zip(known, apart, strict=True) if not held]
    held = [e for e, held in zip(known, apart, strict=True) if held]
    if held and {e.tag for e in rest} >= names and len({e.tag for e in rest}) > 1:
        told = Tagger(rest, spec.confidence).tags([e.text for e in held])
        said = [(tag, e.tag) for tag, e in zip(told, held, strict=True) if tag is not None]
        facts |= {"held_out": len(held), "answered": len(said), "right": sum(a == b for a, b in said)}
    return Tagger(known, spec.confidence), facts


def read(path: str) -> list[Example]:
    """Examples of a file of JSON lines, `text` and `tag`.

    Raises:
        ValueError: a line has not both of them.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append(Example(str(row["text"]), str(row["tag"])))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}:{number} is no JSON object with `text` and `tag`; mend the line") from None
    return found
