"""What a text looks like, cheaply enough for every request: refusal, language, length class.

Signs for curves and alerts, not verdicts on one answer: a refusal is known by its usual words, a language by its script
and its commonest words. Text in other words or tongues is `other`.
"""

import re
import unicodedata
from collections import Counter

# How models decline, in the languages below; near the beginning, where a refusal stands.
REFUSAL = (
    r"(?i)^\W*(i'?m |i am )?(sorry|unable)\b|\bi (can'?t|cannot|can not|won'?t|am unable|am not able|'m not able)"
    r"|\bas an ai\b|\b(es )?tut mir leid\b|\bich kann (das |dir |ihnen |dabei )?(leider |nicht)|\bje ne peux pas\b"
    r"|\bno puedo\b|\bnon posso\b|\bn[ãa]o posso\b|\bik kan (dat |je )?niet\b"
)
_REFUSAL_REACH = 160  # characters
_WORDS = {
    name: frozenset(text.split())
    for name, text in {
        "en": "the of and to is in that for how what are with",
        "de": "der die das und ist nicht ein eine wie was für mit",
        "fr": "le la les des est et une que pour dans comment quel",
        "es": "el los las es que una para con por cómo cuál del",
        "it": "il di che è per una con sono come quale gli della",
        "pt": "o os as que não uma para com por como qual dos",
        "nl": "de het een van en is niet dat voor met hoe wat",
    }.items()
}
_SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "CYRILLIC": "cyrillic", "ARABIC": "arabic",
    "HEBREW": "he", "GREEK": "el", "THAI": "th", "DEVANAGARI": "devanagari",
}  # fmt: skip
_LOOKED_AT = 400  # characters of a text are enough to know its script


def refuses(answer: str, pattern: str = REFUSAL) -> bool:
    """Whether an answer begins as refusals do."""
    return re.search(pattern, answer[:_REFUSAL_REACH].replace("’", "'")) is not None


def language(text: str) -> str:
    """The likeliest language by script and common words; `other` where none is found."""
    letters = [c for c in text[:_LOOKED_AT] if c.isalpha()]
    scripts = Counter(unicodedata.name(c, "?").partition(" ")[0].partition("-")[0] for c in letters)
    if any(scripts[s] for s in ("HIRAGANA", "KATAKANA")):  # Japanese is mostly written in Chinese characters
        return "ja"
    if scripts and (main := scripts.most_common(1)[0][0]) in _SCRIPTS:
        return _SCRIPTS[main]
    words = Counter(re.findall(r"\w+", text.casefold()))
    found = {name: sum(words[word] for word in known) for name, known in _WORDS.items()}
    best = max(sorted(found), key=lambda name: found[name])
    return best if found[best] else "other"


def size(text: str) -> str:
    """The class of a text's length: powers of two of its characters, so that a class is as wide as it is long."""
    return f"{1 << max(len(text) - 1, 0).bit_length()}"


def words(text: str) -> str:
    """A text without case and space, for counting equal ones."""
    return " ".join(text.casefold().split())
