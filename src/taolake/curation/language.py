"""Which language a text is in, by its script and its commonest words; enough to leave a language out of a round.

It knows the languages below and says nothing of short texts, of others, and of code. Not here: a model of languages.
"""

import re
from collections import Counter

_SCRIPTS = (
    ("ja", "\u3040-\u30ff"), ("ko", "\uac00-\ud7af"), ("zh", "\u4e00-\u9fff"), ("ru", "\u0400-\u04ff"),
    ("ar", "\u0600-\u06ff"), ("he", "\u0590-\u05ff"), ("el", "\u0370-\u03ff"), ("hi", "\u0900-\u097f"),
    ("th", "\u0e00-\u0e7f"),
)  # fmt: skip
_COMMON = {
    "en": "the of and to in is that it for you with on as are this be have from what how which not can i my we please",
    "de": "der die das und ist nicht ich ein eine zu den mit sich auf für es wie was wir sie dem von im bitte kann",
    "fr": "le la les et des est une un du que dans pour qui pas sur je vous avec nous ce il comment quel au plus",
    "es": "el los las que es una por con para del se no como mi su lo cómo qué cuál está hay pero y en de",
    "it": "il che di è un una per non con del sono della come mi si lo gli quale questo nel anche le ho",
    "pt": "o os as que é um uma para com não do da em no na como eu você qual por se mais são meu",
    "nl": "de het een en van is dat niet ik op te zijn voor met hoe wat wij deze je maar ook aan naar kan",
}
_OF_WORD = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_WORD = re.compile(r"[^\W\d_]+")
_ENOUGH = 3  # common words, before a language is named


def language(text: str) -> str | None:
    """ISO code of the language; None: too short to tell, or none of those known here."""
    letters = sum(map(str.isalpha, text))
    for code, block in _SCRIPTS:
        if letters and len(re.findall(f"[{block}]", text)) > letters / 3:
            return code
    words = Counter(_WORD.findall(text.casefold()))
    hits = {code: sum(n for word, n in words.items() if word in common) for code, common in _OF_WORD.items()}
    best, second = sorted(hits, key=lambda code: -hits[code])[:2]
    return best if hits[best] >= _ENOUGH and hits[best] > hits[second] else None
